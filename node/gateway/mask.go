package gateway

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	mrand "math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/battery"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/plant"
	"gridveil/node/role"
	"gridveil/node/signal"
	"gridveil/node/store"
)

// mask drives the battery: one decision per step of the house, or per reading of a
// real meter.
type mask struct {
	env  *role.Env
	spec battery.Spec
	bank *bank // nil: the battery is a model in the simulated house
	// heard gives what grid and aggregator ask at a time; nil: nobody asks.
	heard func(time.Time) signal.Signals
	// car is what the wallbox draws now, W; set with bank.
	car    func() float64
	fresh  chan struct{} // a reading came
	turned chan struct{} // the dial was
	// replan has a new wish for the car carried out at once; nil without wallbox. It
	// takes the lock of the hosting half, which is never taken under mu.
	replan func()

	mu     sync.Mutex
	ctl    *battery.Controller
	plan   carPlan
	wish   battery.Watts // by which the mask wants the car away from its plan
	wished time.Time     // when it last said so
	orders orders
	memory memory
	meter  metered // of a real meter
}

// metered is the newest reading of a real meter.
type metered struct {
	watts  battery.Watts
	at     time.Time // node's clock; zero: none yet
	prev   battery.Watts
	turned time.Time // when the mask decided last
}

// maskTick is how long a real house's mask waits for a reading before it decides
// without one; maskLeast is the shortest time between two decisions.
const (
	maskTick  = 5 * time.Second
	maskLeast = time.Second
)

func newMask(ctx context.Context, env *role.Env, spec battery.Spec, prior battery.Prior) (*mask, error) {
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("draw mask seed: %w", err)
	}
	if env.Rand != rand.Reader { // a demonstration repeats its masks with everything else
		if _, err := env.Rand.Read(seed[:]); err != nil {
			return nil, fmt.Errorf("draw mask seed: %w", err)
		}
	}
	m := &mask{env: env, spec: spec, fresh: make(chan struct{}, 1), turned: make(chan struct{}, 1)}
	kept, err := m.memory.load(env.Store)
	if err != nil {
		return nil, err
	}
	m.ctl, err = battery.NewController(ctx, battery.Config{Spec: spec, Policy: env.Config.Battery.Policy, Prior: prior, History: kept.demandUpTo(time.Time{}),
		Rand: mrand.New(mrand.NewChaCha8(seed))})
	if err != nil {
		return nil, fmt.Errorf("battery: %w", err)
	}
	m.orders = kept.orders
	m.orders.winner = parties // of a step that was not seen, nobody
	if now := env.Clock.Now(); !kept.since.Before(accountBegan(now)) {
		m.ctl.Resume(kept.state)
		m.memory.since, m.memory.mins = kept.since, kept.mins
	} else {
		m.memory.since = accountBegan(now)
	}
	return m, nil
}

// accountBegan is when the account that runs at now began: at the last nightly.
func accountBegan(now time.Time) time.Time {
	at := now.UTC().Truncate(24 * time.Hour).Add(nightly)
	if at.After(now) {
		at = at.Add(-24 * time.Hour)
	}
	return at
}

// batterySpec is the configured battery; ok is false without one.
func batterySpec(c config.Battery) (s battery.Spec, ok bool) {
	if c.CapacityWh <= 0 {
		return battery.Spec{}, false
	}
	s = battery.Reference(battery.WattHours(c.CapacityWh), battery.Watts(c.PowerW))
	s.Reserve, s.SoCMin, s.RampPerSecond = battery.WattHours(c.ReserveWh), float64(c.SoCMinPct)/100, battery.Watts(c.RampWPerS)
	if c.SoCMaxPct > 0 {
		s.SoCMax = float64(c.SoCMaxPct) / 100
	}
	if c.EfficiencyPct > 0 {
		s.EtaCharge, s.EtaDischarge = float64(c.EfficiencyPct)/100, float64(c.EfficiencyPct)/100
	}
	return s, true
}

// step decides what the battery of a simulated house does for the rest of a
// minute, from what flows now.
func (m *mask) step(f plant.Flow) battery.Watts {
	o := battery.Obs{Time: f.At, Dt: plant.Step, Load: battery.Watts(f.Load - f.PV), PrevMeter: battery.Watts(f.Last.MeterW),
		PrevEV: battery.Watts(f.Last.CarW), E: f.Stored, PrevActual: battery.Watts(f.Last.BatteryW), Stale: f.Age}
	return m.decide(o, battery.Watts(f.Car))
}

// decide takes one step: who wants what, what the battery does, what is remembered.
func (m *mask) decide(o battery.Obs, car battery.Watts) battery.Watts {
	var s signal.Signals
	if m.heard != nil {
		s = m.heard(o.Time)
	}
	price := m.price(s, o.Time)
	m.mu.Lock()
	defer m.mu.Unlock()
	o.EV = battery.EVState{Plan: car, Lo: car, Hi: car} // the wallbox keeps its plan
	o.Price = price
	if o.Dt > 0 {
		m.memory.mins += o.Dt.Minutes()
	}
	m.orders.book(o)
	m.orders.apply(&o, s)
	m.free(&o, s, car)
	c := m.ctl.Step(o)
	m.wish, m.wished = c.EV-o.EV.Plan, o.Time
	m.orders.decided(o, c)
	if o.Time.Before(m.memory.since) || o.Time.Sub(m.memory.since) > longestAccount {
		m.account(o.Time) // the clock has jumped
	}
	m.memory.note(m.ctl, &m.orders, o.Time)
	if m.bank != nil {
		m.bank.ask(c.Battery)
	}
	return c.Battery
}

// longestAccount is how old an account grows: a day, and what a night may be late.
const longestAccount = 25 * time.Hour

// account closes the account that runs and begins that of now. The caller holds mu.
func (m *mask) account(now time.Time) {
	m.ctl.Day()
	m.memory.since, m.memory.mins = accountBegan(now), 0
	m.orders.changed = true // the new account is to be written
}

// carPlan is what the hosting half says of the car: its plan and slack, or why it may
// not be moved.
type carPlan struct {
	at    time.Time
	state battery.EVState
	why   string
}

// setCar tells the mask how far it may move the car, and gives how far it wants to. A
// house without battery has no mask.
func (m *mask) setCar(p carPlan) (wish battery.Watts) {
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plan = p
	if p.why != carFree || p.at.Sub(m.wished).Abs() > moveSilent {
		return 0
	}
	return m.wish
}

// free lets the governor move the car, where hosting says how far and nobody commands.
func (m *mask) free(o *battery.Obs, s signal.Signals, car battery.Watts) {
	p := m.plan
	if p.at.IsZero() || p.why != carFree || o.Time.Sub(p.at).Abs() > moveSilent || o.Commanded != nil || len(s.Sets) > 0 {
		return
	}
	o.EV = p.state
	if m.bank == nil || m.car != nil { // the step of a simulated house before an inverter is for the next minute: the car has followed by then
		o.EV.Drawn = &car
	}
}

// price is what a kWh from the grid costs at t, in currency units.
func (m *mask) price(s signal.Signals, t time.Time) float64 {
	micro, ok := s.PriceAt(t)
	if !ok {
		micro = m.env.Config.Hosting.PGrid
	}
	return float64(micro) / 1e6
}

// keep returns when everything that the mask is to remember is on the disk, also what
// somebody else is writing. It must not be called under a lock of mask or house.
func (m *mask) keep() error {
	if err := m.env.Store.Update(m.stage); err != nil {
		return fmt.Errorf("keep the mask's state: %w", err)
	}
	return nil
}

// changed says whether something is still to be written.
func (m *mask) changed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.memory.due != nil
}

// stage puts what is still to be written into an update. Updates run one after the
// other, so an older state never replaces a newer one.
func (m *mask) stage(tx *store.Tx) error {
	m.mu.Lock()
	w := m.memory.due
	m.memory.due = nil
	m.mu.Unlock()
	return w.put(tx)
}

// today is the day's account for the local page.
func (m *mask) today() battery.Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ctl.Today()
}

// nightly is when, after midnight UTC, a mask learns: between two minutes, so that
// it is certain which one is masked last as before.
const nightly = 2*time.Hour + 30*time.Second

// serve masks a real house, learns the home's own chain every night and starts a
// new account.
func (m *mask) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.learn(ctx) })
	if m.bank != nil {
		g.Go(func() error { return m.bank.serve(ctx) })
	}
	if m.car != nil {
		g.Go(func() error { return m.drive(ctx) })
	}
	g.Go(func() error { return m.redial(ctx) })
	return g.Wait()
}

// learn brings back the kernel of the last night, and then learns every night.
func (m *mask) learn(ctx context.Context) error {
	if err := m.relearn(ctx); err != nil && ctx.Err() == nil {
		m.env.Log.Warn("masking kernel of the last night not made again; the first one stays until tonight", "err", err)
	}
	for clock.Until(ctx, m.env.Clock, clock.Next(m.env.Clock.Now(), 24*time.Hour).Add(nightly)) {
		if err := m.night(ctx); err != nil && ctx.Err() == nil {
			m.env.Log.Warn("masking kernel not renewed; the old one stays", "err", err)
		}
	}
	return nil
}

// relearn makes the kernel again that ran before the node stopped: it follows from
// the demand up to the night in which it was learned, and the dial and prices of then.
func (m *mask) relearn(ctx context.Context) error {
	kept, err := new(memory).load(m.env.Store)
	if err != nil || kept.lesson.Until.IsZero() {
		return err
	}
	_, err = m.install(ctx, kept.demandUpTo(kept.lesson.Until), battery.Dial{Stop: kept.lesson.Stop, Prices: kept.lesson.Prices})
	return err
}

// install learns a kernel and runs it from the next block on; nil while too little
// is known of the home, and for policies that learn none.
func (m *mask) install(ctx context.Context, history []float64, d battery.Dial) (*battery.Learned, error) {
	k, err := m.lesson(ctx, history, d)
	if err != nil || k == nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ctl.Install(*k)
	return k, nil
}

func (m *mask) lesson(ctx context.Context, history []float64, d battery.Dial) (*battery.Learned, error) {
	if policy := m.env.Config.Battery.Policy; policy != "veil" || d.Stop == 0 {
		return battery.Lesson(ctx, policy, m.spec, history)
	}
	return battery.LessonAt(ctx, m.spec, history, d)
}

// night closes the account, learns, and rates what was learned.
func (m *mask) night(ctx context.Context) error {
	now := m.env.Clock.Now()
	m.mu.Lock()
	m.account(now)
	m.memory.note(m.ctl, &m.orders, now)
	m.mu.Unlock()
	if err := m.keep(); err != nil {
		return err
	}
	return m.teach(ctx, now)
}

// teach learns a kernel from all that is known, at the dial's stop and the day's
// prices, and says what each stop would mean.
func (m *mask) teach(ctx context.Context, now time.Time) error {
	d, err := m.dial(now)
	if err != nil {
		return err
	}
	m.mu.Lock()
	history, until := m.ctl.Snapshot(), m.memory.known()
	m.mu.Unlock()
	k, err := m.install(ctx, history, d)
	if err != nil || k == nil || until.IsZero() {
		return err
	}
	if err := (lesson{until, d.Stop, d.Prices}).save(m.env.Store); err != nil {
		return err
	}
	return m.weigh(ctx, now, *k, history, d)
}

// frame takes the newest reading of a real meter.
func (m *mask) frame(watts battery.Watts) {
	m.mu.Lock()
	m.meter.watts, m.meter.at = watts, m.env.Clock.Now()
	m.mu.Unlock()
	select {
	case m.fresh <- struct{}{}:
	default: // one is enough
	}
}

// drive decides with every reading of a real meter, and without one when none
// comes: a silent meter must not leave the battery where it is.
func (m *mask) drive(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.fresh:
		case <-m.env.Clock.After(maskTick):
		}
		if err := m.turn(m.env.Clock.Now()); err != nil {
			return fmt.Errorf("mask: %w", err)
		}
		if !clock.Sleep(ctx, m.env.Clock, maskLeast) {
			return nil
		}
	}
}

// since is how old at now is what was measured at at: for ever if it never was, or lies
// ahead because the clock was set back. A simulated house asks a moment late.
func since(at, now time.Time) time.Duration {
	if at.IsZero() || at.Sub(now) > plant.Reaction {
		return math.MaxInt64
	}
	return now.Sub(at)
}

// turn is one decision for a real house.
func (m *mask) turn(now time.Time) error {
	m.bank.observe(now)
	h, age, _ := m.bank.house()
	car := battery.Watts(m.car())
	m.mu.Lock()
	r := &m.meter
	dt := now.Sub(r.turned)
	if r.turned.IsZero() {
		dt = 0 // nothing is known of the time before
	}
	// Time is that on the wall, Dt what passed: they differ where the clock was set.
	o := battery.Obs{Time: now.Round(0), Dt: dt, Load: r.watts + h.BattWatts - car, PrevMeter: r.prev, PrevEV: car, E: h.Stored, PrevActual: h.BattWatts, Stale: max(age, since(r.at, now))}
	r.turned, r.prev = now, r.watts
	before := m.wish
	m.mu.Unlock()
	m.decide(o, car)
	m.bank.tell(now, bankHolds)
	m.mu.Lock()
	asks := m.wish != before
	m.mu.Unlock()
	if asks && m.replan != nil {
		m.replan()
	}
	if !m.changed() {
		return nil
	}
	return m.keep()
}
