// Package sim is a simulated home battery with its inverter: a [battery.Store]
// behind dead time and ramp that speaks SunSpec over a real Modbus TCP server.
// It calls itself a simulated battery in its own registers, so that whoever
// drives it can say so.
//
// It gives a command up when InOutWRte_RvrtTms or WSetRvrtTms has passed without the next, and
// rests then: it does not know the house around it. [Device.Inject] breaks it in
// the ways in which inverters break.
package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"sync"
	"time"

	"github.com/simonvetter/modbus"

	"gridveil/battery"
	"gridveil/node/sunspec"
)

// Config describes a device.
type Config struct {
	Listen string       // "127.0.0.1:1502"
	Spec   battery.Spec // Lag is its dead time
	Stored battery.WattHours
	Unit   uint8 // zero means 1
	// Now is the device's own clock; nil means that the simulated house around it
	// moves its time.
	Now func() time.Time
	// Models are those that it has besides 1; nil means those of Storage.
	Models []uint16
	// Said hears every new command, W; nil: nobody. It must not block.
	Said func(w battery.Watts, reverts time.Duration)
}

// Storage and Active are the models of a device that is controlled by 124, which sets
// the battery, or by 704, which sets the inverter's active power.
var (
	Storage = []uint16{124, 713, 802, sunspec.LinkModel}
	Active  = []uint16{702, 704, 713, 714, 715, sunspec.LinkModel}
)

// Fault is something that goes wrong with the device.
type Fault uint8

// The faults.
const (
	Sound      Fault = iota
	Silent           // takes connections and answers nothing
	Refusing         // answers every request with an exception
	BadScale         // its scale factors are none
	BadCharge        // says that it is charged to 650 %
	BadPower         // says that a megawatt flows
	OutOfOrder       // reports a fault
	Deaf             // takes commands and does nothing
	LocalOnly        // under local control, and says so
	Clinging         // the timer of model 704 runs out and ends nothing
	WithRoof         // says that a roof stands on the same inverter
)

// tick is the step of the physics.
const tick = time.Second

// Device is one simulated battery. Safe for concurrent use.
type Device struct {
	cfg Config

	mu      sync.Mutex
	now     time.Time
	store   battery.Store
	power   battery.Watts // at the meter's side, discharge positive
	asked   battery.Watts
	pending []order // that the dead time still holds back
	mode    uint16
	rates   [4]uint16 // OutWRte, InWRte, WinTms, RvrtTms as written
	active  active
	reverts time.Time // zero: the command stands for ever
	flown   [2]float64
	fault   Fault
	healed  chan struct{} // closed when a silent device answers again
}

type order struct {
	at time.Time
	w  battery.Watts
}

// New makes a device that rests. It returns battery.ErrInvalidSpec or an error
// that names the field that is wrong.
func New(c Config) (*Device, error) {
	if err := c.Spec.Check(); err != nil {
		return nil, err
	}
	if c.Spec.Capacity > 600_000 || c.Spec.MaxCharge > 60_000 || c.Spec.MaxDischarge > 60_000 {
		return nil, errors.New("simulated battery: at most 600 kWh and 60 kW")
	}
	if c.Unit == 0 {
		c.Unit = 1
	}
	if c.Models == nil {
		c.Models = Storage
	}
	d := &Device{cfg: c, store: battery.Store{Spec: c.Spec, E: min(max(c.Stored, 0), c.Spec.Capacity)}, healed: make(chan struct{})}
	if c.Now != nil {
		d.now = c.Now()
	}
	return d, nil
}

// Serve answers until ctx ends.
func (d *Device) Serve(ctx context.Context) error {
	s, err := modbus.NewServer(&modbus.ServerConfiguration{URL: "tcp://" + d.cfg.Listen, Timeout: 2 * time.Minute, MaxClients: 4, Logger: log.New(io.Discard, "", 0)}, handler{d, ctx})
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		return fmt.Errorf("simulated battery: %w", err)
	}
	<-ctx.Done()
	return s.Stop()
}

// Inject breaks the device, or heals it with Sound.
func (d *Device) Inject(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault == Silent {
		close(d.healed)
		d.healed = make(chan struct{})
	}
	d.fault = f
	if f == OutOfOrder {
		d.asked, d.pending, d.power = 0, nil, 0
	}
}

// State is what flows and what is stored now.
func (d *Device) State() (power battery.Watts, stored battery.WattHours) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.advance()
	return d.power, d.store.E
}

// Flown is the energy in and out since the device was made, mWh at the meter's side.
func (d *Device) Flown() (in, out int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.advance()
	return int64(d.flown[0]), int64(d.flown[1])
}

// advance brings the physics up to the device's own clock.
func (d *Device) advance() {
	if d.cfg.Now != nil {
		d.pass(d.cfg.Now())
	}
}

// longestGap is what is stepped through after a pause; before it the battery rested.
const longestGap = time.Hour

// longestBack is what a house that asks twice may be behind itself.
const longestBack = time.Minute

// pass lets the time up to t pass. Caller holds mu.
func (d *Device) pass(t time.Time) {
	if back := d.now.Sub(t); back > longestBack { // the house's clock was set
		d.now = t
		for i := range d.pending {
			d.pending[i].at = d.pending[i].at.Add(-back)
		}
		if !d.reverts.IsZero() {
			d.reverts = d.reverts.Add(-back)
		}
	}
	if d.now.IsZero() || t.Sub(d.now) > longestGap {
		d.now = t
		d.drop()
		d.power = 0
	}
	for d.now.Before(t) {
		dt := min(tick, t.Sub(d.now))
		d.step(dt)
		d.now = d.now.Add(dt)
	}
}

// step lets dt pass under what is asked now.
func (d *Device) step(dt time.Duration) {
	if !d.reverts.IsZero() && !d.now.Before(d.reverts) && d.fault != Clinging {
		d.drop()
	}
	for len(d.pending) > 0 && !d.now.Before(d.pending[0].at) {
		d.asked, d.pending = d.pending[0].w, d.pending[1:]
	}
	want := d.asked
	if d.fault == Deaf {
		want = 0
	}
	if r := d.cfg.Spec.RampPerSecond * battery.Watts(dt.Seconds()); r > 0 {
		want = min(max(want, d.power-r), d.power+r)
	}
	lo, hi := d.store.Bounds(dt)
	d.power = min(max(want, lo), hi)
	d.store.Apply(d.power, dt)
	mWh := float64(d.power) * dt.Hours() * 1000
	d.flown[0] += math.Max(-mWh, 0)
	d.flown[1] += math.Max(mWh, 0)
}

// drop gives the command up.
func (d *Device) drop() {
	d.asked, d.pending, d.mode, d.reverts = 0, nil, 0, time.Time{}
	d.active[activeOn] = 0
}

// command takes what was written to model 124.
func (d *Device) command() {
	w := battery.Watts(float64(int16(d.rates[0])) * percentUnit / 100 * float64(d.cfg.Spec.MaxCharge))
	most, least := w, -battery.Watts(float64(int16(d.rates[1]))*percentUnit/100*float64(d.cfg.Spec.MaxCharge))
	w = 0 // between the two the device does as it likes: it rests
	if d.mode&2 != 0 {
		w = min(w, most)
	}
	if d.mode&1 != 0 {
		w = max(w, least)
	}
	d.obey(w, time.Duration(d.rates[3])*time.Second)
}

// obey takes a power that holds for keep; 0: for ever.
func (d *Device) obey(w battery.Watts, keep time.Duration) {
	d.reverts = time.Time{}
	if keep > 0 {
		d.reverts = d.now.Add(keep)
	}
	if d.fault == LocalOnly || d.fault == OutOfOrder {
		return
	}
	d.pending = append(d.pending, order{d.now.Add(d.cfg.Spec.Lag), w})
	if len(d.pending) > maxPending {
		d.pending = d.pending[1:]
	}
	if d.cfg.Said != nil {
		d.cfg.Said(w, keep)
	}
}

// maxPending bounds the commands that wait for the dead time.
const maxPending = 64
