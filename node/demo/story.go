package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"gridveil/ev/evsim"
	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/clock"
	"gridveil/node/meter/sim"
)

// visit is one car at one house.
type visit struct {
	name    string        // for the feed
	kind    string        // the case it is meant to be: pv, grid, mixed, v2g-house, v2g-grid, gift, forged, replayed
	home    int           // 1-based, one with a wallbox
	driver  int           // 1-based; 0 for a gift
	at      time.Duration // since midnight, when the car arrives
	stay    time.Duration
	car     evsim.Car
	want    int64 // mWh into the car, or out of it
	faults  evsim.Faults
	offline bool          // the aggregator is away when it begins
	from    time.Duration // since midnight, when the car may begin to give; 0 for at once
	flex    time.Duration // since midnight, when the flexibility begins that the grid's operator buys in its zone; 0 for none
}

const kWh = 1_000_000 // mWh

// plan is the day of every scene. Each case of who pays whom happens once, and
// so does what a neighbourhood must withstand.
var plan = []visit{
	{name: "a baker charges while somebody showers", kind: "grid", home: showers, driver: 3, at: 20 * time.Minute, stay: 80 * time.Minute, want: 9 * kWh, car: sedan(20, 60, 11_000, 0)},
	{name: "a commuter tops up in the night", kind: "grid", home: 4, driver: 1, at: 2 * time.Hour, stay: 70 * time.Minute, want: 9 * kWh, car: sedan(20, 60, 11_000, 0)},
	{name: "a nurse charges from the roof", kind: "pv", home: 1, driver: 2, at: 9*time.Hour + 30*time.Minute, stay: 150 * time.Minute, want: 3 * kWh, car: sedan(18, 40, 1_400, 0)},
	{name: "a plumber charges fast at noon", kind: "mixed", home: 2, driver: 3, at: 11*time.Hour + 30*time.Minute, stay: 110 * time.Minute, want: 15 * kWh, car: sedan(15, 60, 11_000, 0)},
	{name: "a friend charges as a gift", kind: "gift", home: 5, at: 12*time.Hour + 10*time.Minute, stay: 40 * time.Minute, want: 2 * kWh, car: sedan(30, 50, 7_400, 0), faults: evsim.Faults{Unsigned: true}},
	{name: "a stranger charges while the aggregator is away", kind: "mixed", home: 3, driver: 4, at: 14*time.Hour + 15*time.Minute, stay: 50 * time.Minute, want: 4 * kWh, car: sedan(12, 45, 11_000, 0), offline: true},
	{name: "a wallbox alters what its meter signed", kind: "forged", home: 5, driver: 5, at: 15*time.Hour + 30*time.Minute, stay: 30 * time.Minute, want: 2 * kWh, car: sedan(20, 50, 7_400, 0), faults: evsim.Faults{Forged: true}},
	{name: "a wallbox hands in yesterday's record", kind: "replayed", home: 5, driver: 6, at: 16*time.Hour + 30*time.Minute, stay: 30 * time.Minute, want: 2 * kWh, car: sedan(20, 50, 7_400, 0), faults: evsim.Faults{Replayed: true}},
	{name: "a car feeds the house in the evening", kind: "v2g-house", home: 2, driver: 1, at: 18 * time.Hour, stay: 4 * time.Hour, from: 20*time.Hour + 30*time.Minute, want: 500_000, car: sedan(45, 60, 11_000, 7_000)},
	{name: "a car feeds the grid when the operator asks", kind: "v2g-grid", home: 4, driver: 2, at: 20*time.Hour + 15*time.Minute, stay: 195 * time.Minute, want: 7 * kWh, car: sedan(40, 60, 11_000, 8_000), flex: 22*time.Hour + 30*time.Minute},
}

func sedan(hasKWh, capacityKWh, chargeW, dischargeW int64) evsim.Car {
	return evsim.Car{CapacityMWh: capacityKWh * kWh, EnergyMWh: hasKWh * kWh, MaxChargeW: chargeW, MaxDischargeW: dischargeW, ReserveMWh: 10 * kWh, LossPermille: 60}
}

// trouble is what the neighbourhood must withstand, beside visits.
type trouble struct {
	at   time.Duration
	text string
	act  func(ctx context.Context, st *Story) error
	once bool // on the first day only: the ledger lets nobody dispute more than a small share of a month's sessions
}

// quarrelAt is when the aggregator disputes the newest session there is.
const quarrelAt = 8*time.Hour + 30*time.Minute

var troubles = []trouble{
	{at: quarrelAt, text: "the aggregator disputes the night's session", act: func(ctx context.Context, st *Story) error { return st.quarrel(ctx) }, once: true},
	{at: 12 * time.Hour, text: "the substation of oak loses power", act: func(_ context.Context, st *Story) error { return st.s.Get("ssn-oak").Stop() }},
	{at: 12*time.Hour + 20*time.Minute, text: "the substation of oak is back", act: func(ctx context.Context, st *Story) error { return st.s.Run(st.life, st.s.Get("ssn-oak")) }},
	{at: 14 * time.Hour, text: "the aggregator goes away", act: func(_ context.Context, st *Story) error { return st.s.Get("evagg").Stop() }},
	{at: 15*time.Hour + 10*time.Minute, text: "the aggregator is back", act: func(ctx context.Context, st *Story) error { return st.s.Run(st.life, st.s.Get("evagg")) }},
	{at: 17 * time.Hour, text: "a phase fails at home 6", act: func(_ context.Context, st *Story) error {
		return st.fault(6, alarm.VoltageAbsent, sim.Event{Fault: sim.VoltageLoss, Phase: 1, For: 4 * time.Minute})
	}},
	{at: 17*time.Hour + 30*time.Minute, text: "somebody tries passwords on a meter", act: func(_ context.Context, st *Story) error {
		return st.fault(3, alarm.Unauthorised, sim.Event{Fault: sim.FailedLogin, Count: 3})
	}},
}

// Story makes a day happen on a scene and remembers what it did.
type Story struct {
	s    *Scene
	Feed Feed
	life context.Context // of the nodes that the story restarts
	bank bank

	mu      sync.Mutex
	day     int
	cars    []*played // of the running day
	alarms  []alarm.Kind
	dispute *dispute // nil before one
}

// played is a visit with what came of it.
type played struct {
	visit
	session string // short id at the host, empty if it never opened
	err     error
}

func newStory(s *Scene) *Story { return &Story{s: s} }

// tell adds to the feed.
func (st *Story) tell(kind, link, format string, args ...any) {
	st.Feed.Add(Happening{At: st.s.Clock.Now(), Kind: kind, Text: fmt.Sprintf(format, args...), Link: link})
}

// midnight begins the running day.
func (st *Story) midnight() time.Time { return Start.Add(time.Duration(st.day) * 24 * time.Hour) }

// end is when the judged stretch ends: on a slot that every report covers.
func (st *Story) end() time.Time {
	return Start.Add(time.Duration(st.s.Hours) * time.Hour)
}

// Day lets the next day pass, or what Options.Hours leave of it.
func (st *Story) Day(ctx context.Context) error {
	st.life = ctx
	start := st.midnight()
	end := start.Add(24 * time.Hour)
	if last := st.end(); last.After(start) && last.Before(end) {
		end = last
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(plan)+len(troubles)+1)
	for _, v := range plan {
		if at := start.Add(v.at); at.Add(v.stay).Before(end) {
			p := &played{visit: v}
			st.mu.Lock()
			st.cars = append(st.cars, p)
			st.mu.Unlock()
			wg.Go(func() { errs <- st.play(ctx, p, start.Add(v.at)) })
		}
	}
	for _, t := range troubles {
		if at := start.Add(t.at); at.Before(end) {
			wg.Go(func() { errs <- st.suffer(ctx, t, at) })
		}
	}
	wg.Go(func() { errs <- st.bankHours(ctx, start, end) })
	clock.Until(ctx, st.s.Clock, end)
	wg.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	st.day++
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(all...)
}

func (st *Story) suffer(ctx context.Context, t trouble, at time.Time) error {
	if !clock.Until(ctx, st.s.Clock, at) {
		return nil
	}
	if t.once && st.day > 0 {
		return nil
	}
	st.tell("node", "", "%s", t.text)
	if err := t.act(ctx, st); err != nil {
		return fmt.Errorf("%s: %w", t.text, err)
	}
	return nil
}

// fault breaks the meter of a home and remembers the alarm that must follow.
func (st *Story) fault(home int, kind alarm.Kind, e sim.Event) error {
	st.mu.Lock()
	st.alarms = append(st.alarms, kind)
	st.mu.Unlock()
	m := st.s.Get(fmt.Sprintf("home-%d", home))
	if !st.s.gateway(m).Inject(e) {
		return errors.New("the home has no simulated meter")
	}
	return nil
}

// played copies the day's visits so far.
func (st *Story) visits() []*played {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Clone(st.cars)
}

// hosts are the homes with wallboxes.
func (s *Scene) hosts() (out []*Member) {
	for _, m := range s.Of(member.RoleGateway) {
		if m.Home.Wallbox != nil {
			out = append(out, m)
		}
	}
	return out
}
