package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"gridveil/battery"
	"gridveil/node/clock"
	"gridveil/node/meter/sim"
	"gridveil/node/plant"
	"gridveil/node/role"
	"gridveil/node/store"
)

// Hardware is what stands in for a house in a demonstration. Nil fields come
// from the configuration; everything of it is simulated and says so.
type Hardware struct {
	Load plant.Load   // true consumption
	Roof plant.Source // PV
	Car  plant.Car    // what the wallbox draws; nil takes what the wallbox reports
	// Feeder hears the connection's registers, mWh, after each step: the meter at
	// the transformer of a demonstration. Nil: nobody listens.
	Feeder func(at time.Time, importMWh, exportMWh int64)
	// Told waits until the wallbox has told the gateway about the minute that
	// passed, within bounds of its own. Nil: nobody waits.
	Told func(ctx context.Context)
}

// House is what the inverter measures.
type House struct {
	At                  time.Time
	PV, BattIn, BattOut int64 // registers, mWh
	PVWatts, BattWatts  battery.Watts
	CarIn, CarOut       int64 // registers of the wallbox, mWh
	CarWatts            battery.Watts
	Stored              battery.WattHours
	TrueLoad            int64 // mWh, known to a simulation only; never leaves this package but to the local page
}

// house is a simulated house behind a simulated meter.
type house struct {
	env    *role.Env
	meter  *sim.Meter
	serial string
	feeder func(at time.Time, importMWh, exportMWh int64)
	told   func(ctx context.Context)
	// ordered waits until the wallbox has its orders; set before serve, nil without one.
	ordered func(ctx context.Context)
	// readPeriod is how often a reading is kept now; set before serve.
	readPeriod func() time.Duration

	mu   sync.Mutex
	home plant.Home
	now  House
	seen bool
	// watched says whether somebody keeps every minute's registers, as a session
	// at the wallbox does.
	watched func() bool
	last    plant.Registers

	dueMu sync.Mutex       // nothing else is locked under it
	due   *plant.Registers // still to be written

	mask *mask // nil without battery; set before serve
}

const houseState = "house"

// newHouse builds the plant from configuration and hw, and continues the
// registers of the last run: a meter does not forget.
func newHouse(env *role.Env, hw Hardware, carWatts func() float64) (*house, error) {
	c := env.Config
	h := &house{env: env, feeder: hw.Feeder, told: hw.Told, readPeriod: c.Meter.ReadPeriod.D, home: plant.Home{Load: hw.Load, PV: hw.Roof, Car: hw.Car}}
	seed := houseSeed(env)
	if h.home.Load == nil {
		h.home.Load = plant.NewHousehold(seed)
	}
	if h.home.PV == nil && c.PV.PeakW > 0 {
		h.home.PV = plant.Roof{PeakW: float64(c.PV.PeakW), Seed: seed}
	}
	if h.home.Car == nil {
		h.home.Car = reportedCar(carWatts)
	}
	if spec, ok := batterySpec(c.Battery); ok && c.Battery.Driver != "sunspec" {
		h.home.Battery = &battery.Store{Spec: spec, E: spec.Capacity / 2}
	}
	at, err := h.restore()
	if err != nil {
		return nil, err
	}
	zone, err := time.LoadLocation(c.Meter.Zone)
	if err != nil {
		return nil, err
	}
	h.serial = fmt.Sprintf("SIM%013d", seed%1e13)
	h.meter, err = sim.New(sim.Config{Serial: h.serial, Decimals: 6, Zone: zone, ImportMWh: at.Import, ExportMWh: at.Export, Clock: env.Clock})
	h.last = at
	return h, err
}

// houseSeed is a number that a home's own key decides, so that a simulated
// household stays the same household.
func houseSeed(env *role.Env) uint64 {
	sum := sha256.Sum256(append([]byte("gridveil/house/1"), env.ID.Member.Key[:]...))
	return binary.BigEndian.Uint64(sum[:])
}

// reportedCar lets a simulated house feel a wallbox that reports its power.
type reportedCar func() float64

func (f reportedCar) Watts(time.Time) float64 {
	if f == nil {
		return 0
	}
	return f()
}

// House gives the values of the newest step.
func (h *house) House() (House, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now, h.seen
}

// regulate has a mask drive the battery in each step; set before serve.
func (h *house) regulate(m *mask) {
	h.mask = m
	h.home.Regulate = func(x plant.Flow) float64 { return float64(m.step(x)) }
	if m.bank != nil {
		h.home.Bank = m.bank
	}
}

// masked tells the inverter what the mask decided.
func (h *house) masked(now time.Time) {
	if h.mask != nil && h.mask.bank != nil {
		h.mask.bank.tell(now, 2*plant.Step) // the next command comes in a step
	}
}

// serve steps the house at every full minute. An accelerated clock waits for it, and
// for what meter and wallbox have to say and to hear in between: first what the
// wallbox measured, then what the meter shows, then the order for the next minute.
// So a house does the same on a slow machine and on a fast one.
func (h *house) serve(ctx context.Context) error {
	pace := clock.Pace(h.env.Clock)
	defer pace.Leave()
	next := clock.Next(h.env.Clock.Now(), plant.Step)
	for {
		pace.Due(next)
		if !clock.Until(ctx, h.env.Clock, next) {
			return nil
		}
		if err := h.step(ctx, next); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("simulated house: %w", err)
		}
		next = next.Add(plant.Step)
	}
}

// step lets the minute before end pass.
func (h *house) step(ctx context.Context, end time.Time) error {
	if h.mask != nil && h.mask.bank != nil {
		h.mask.bank.observe(end)
	}
	h.mu.Lock()
	r := h.home.Advance(end.Add(-plant.Step))
	h.now = House{At: end, PV: r.PV, BattIn: r.BattIn, BattOut: r.BattOut, PVWatts: battery.Watts(r.PVW), BattWatts: battery.Watts(r.BatteryW),
		CarIn: r.CarIn, CarOut: r.CarOut, CarWatts: battery.Watts(r.CarW), Stored: battery.WattHours(r.BattLevel) / 1000, TrueLoad: r.Load}
	h.seen = true
	last := h.last
	h.last = r
	h.mu.Unlock()
	h.masked(end)
	if h.feeder != nil {
		h.feeder(end, r.Import, r.Export)
	}
	if h.told != nil {
		h.told(ctx)
	}
	reads, watched := end.Truncate(h.readPeriod()).Equal(end), h.watched()
	if reads || watched {
		h.dueMu.Lock()
		h.due = &r
		h.dueMu.Unlock()
	}
	if !reads || watched {
		// Before the values leave: no register ever shows less than it showed, and no
		// level that was shown is forgotten. A reading takes them into its own update.
		if err := h.keep(); err != nil {
			return err
		}
	}
	if err := h.meter.Step(ctx, end, sim.Sample{ImportMWh: r.Import - last.Import, ExportMWh: r.Export - last.Export}); err != nil {
		return err
	}
	if err := h.keep(); err != nil { // where the meter is silent, or nobody reads it
		return err
	}
	if h.ordered != nil {
		h.ordered(ctx)
	}
	return nil
}

// keep writes the registers and the mask's memory, if they are still to be written.
func (h *house) keep() error {
	h.dueMu.Lock()
	waits := h.due != nil
	h.dueMu.Unlock()
	if !waits && (h.mask == nil || !h.mask.changed()) {
		return nil
	}
	return h.env.Store.Update(h.stage)
}

// stage puts into an update what is still to be written: the registers import, export,
// PV, battery in and out, car in and out, load and level, and the mask's memory.
func (h *house) stage(tx *store.Tx) error {
	h.dueMu.Lock()
	r := h.due
	h.due = nil
	h.dueMu.Unlock()
	if r != nil {
		var b []byte
		for _, v := range []int64{r.Import, r.Export, r.PV, r.BattIn, r.BattOut, r.CarIn, r.CarOut, r.Load, r.BattLevel} {
			b = binary.BigEndian.AppendUint64(b, uint64(v))
		}
		if err := tx.Set(store.SpaceBattery.Key([]byte(houseState)), b); err != nil {
			return err
		}
	}
	if h.mask == nil {
		return nil
	}
	return h.mask.stage(tx)
}

func (h *house) restore() (plant.Registers, error) {
	b, err := h.env.Store.Get(store.SpaceBattery.Key([]byte(houseState)))
	if errors.Is(err, store.ErrNotFound) {
		return plant.Registers{}, nil
	}
	if err == nil && len(b) != 72 {
		err = fmt.Errorf("%w: %d bytes", store.ErrDamaged, len(b))
	}
	if err != nil {
		return plant.Registers{}, fmt.Errorf("registers of the simulated house: %w", err)
	}
	v := func(i int) int64 { return int64(binary.BigEndian.Uint64(b[8*i:])) }
	r := plant.Registers{Import: v(0), Export: v(1), PV: v(2), BattIn: v(3), BattOut: v(4), CarIn: v(5), CarOut: v(6), Load: v(7), BattLevel: v(8)}
	h.home.Restore(r)
	return r, nil
}

// Inject starts a fault of the simulated meter; false when there is none.
func (g *Gateway) Inject(e sim.Event) bool {
	if g.house == nil {
		return false
	}
	g.house.meter.Inject(e)
	return true
}

// Serial is the number on the simulated meter's plate, for the local page; empty
// without one. It never leaves the house.
func (g *Gateway) Serial() string {
	if g.house == nil {
		return ""
	}
	return g.house.serial
}

// Registers are what the simulated meter shows now, mWh, for the local page.
func (g *Gateway) Registers() (importMWh, exportMWh int64) {
	if g.house == nil {
		return 0, 0
	}
	return g.house.meter.Registers()
}
