package gateway

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"gridveil/battery"
	"gridveil/node/clock"
	"gridveil/node/role"
	"gridveil/node/sunspec"
)

const (
	// bankHolds is how long a command of a real house holds without the next.
	bankHolds = 10 * time.Second
	// bankTick is how often the watchdog looks.
	bankTick = time.Second
	// bankSilent is from when on a person is told that the inverter does not answer.
	bankSilent = 30 * time.Second
	// offTarget is how long the battery may miss its command before a person is told.
	offTarget = 30 * time.Second
)

// bank is a battery behind its own inverter. It asks and tells the inverter,
// keeps what it said, and lets it rest when nobody renews a command.
type bank struct {
	env  *role.Env
	spec battery.Spec
	line *sunspec.Line
	dev  *sunspec.Battery

	io sync.Mutex // one exchange at a time; mu may be taken under it

	mu      sync.Mutex
	seen    time.Time // when it was read last; zero: never
	read    sunspec.Reading
	store   battery.Store // what it holds, finer than its register tells
	power   battery.Watts // mean between the two newest readings, at the meter's side
	in, out float64       // mWh since the start
	booked  [2]float64    // of in and out, by Flowed
	bookAt  time.Time
	asked   battery.Watts
	told    time.Time // when it was commanded last
	until   time.Time // the command holds; zero: none stands
	missed  time.Time // since then it is off its target; zero: it is not
	due     *battery.Watts
}

// openBank makes the driver; it connects when the house first asks.
func openBank(env *role.Env, spec battery.Spec) (*bank, error) {
	line, err := sunspec.Dial(env.Config.Battery.Address)
	if err != nil {
		return nil, err
	}
	return &bank{env: env, spec: spec, line: line, dev: sunspec.NewBattery(line, uint8(env.Config.Battery.Unit)), store: battery.Store{Spec: spec}}, nil
}

// observe asks the inverter how the battery is at now. What it does not answer
// stays as it was and ages.
func (b *bank) observe(now time.Time) {
	b.io.Lock()
	defer b.io.Unlock()
	followed, err := b.dev.Follow(now)
	var r sunspec.Reading
	if err == nil {
		r, err = b.dev.Read()
	}
	if err == nil && !followed { // the first look tells whether the device has a clock of its own
		if followed, err = b.dev.Follow(now); err == nil && followed {
			r, err = b.dev.Read()
		}
	}
	if err != nil {
		b.unreadable(err, now)
		return
	}
	b.mu.Lock()
	b.took(r, now)
	warnings := b.doubts(now)
	b.mu.Unlock()
	for _, w := range warnings {
		b.env.Warn.Set(w.holds, w.Warning, now)
	}
}

// took keeps a reading. Caller holds mu.
func (b *bank) took(r sunspec.Reading, now time.Time) {
	dt := now.Sub(b.seen)
	first := b.seen.IsZero()
	switch {
	case first:
		b.power = 0
	case r.HasFlown && b.read.HasFlown:
		in, out := float64(r.Flown.In-b.read.Flown.In), float64(r.Flown.Out-b.read.Flown.Out)
		if in < 0 || out < 0 {
			in, out = 0, 0 // another device, or it was started anew
		}
		b.in, b.out = b.in+in, b.out+out
		if dt > 0 {
			b.power = battery.Watts((out - in) / 1000 / dt.Hours())
		}
	default:
		b.power = b.measured(r, now)
		if dt > 0 && dt <= time.Hour {
			mWh := float64(b.power) * dt.Hours() * 1000
			b.in, b.out = b.in+max(-mWh, 0), b.out+max(mWh, 0)
		}
	}
	charge := battery.WattHours(r.Charge) * b.spec.Capacity
	switch grain := battery.WattHours(r.Grain) * b.spec.Capacity; {
	case r.HasFlown:
		b.store.E = r.Flown.Stored
	case first || dt <= 0 || dt > time.Hour:
		b.store.E = charge
	default:
		b.store.Apply(b.power, dt)
		b.store.E = min(max(b.store.E, charge-grain), charge+grain)
	}
	b.seen, b.read = now, r
}

// measured is the power at the meter's side: what the device measures inside, with
// the inverter's losses, or what it was asked for where it measures nothing.
func (b *bank) measured(r sunspec.Reading, now time.Time) battery.Watts {
	switch {
	case !r.HasPower && now.Before(b.until):
		return b.asked
	case !r.HasPower:
		return 0
	case r.Power >= 0:
		return r.Power * battery.Watts(b.spec.EtaDischarge)
	}
	return r.Power / battery.Watts(b.spec.EtaCharge)
}

// doubt is a warning that stands or falls.
type doubt struct {
	holds bool
	role.Warning
}

// doubts are what a person should know about the battery. Caller holds mu.
func (b *bank) doubts(now time.Time) []doubt {
	rating, known := b.dev.Rating()
	small := rating.Capacity > 0 && rating.Capacity < b.spec.Capacity*95/100 || rating.MaxDischarge > 0 && min(rating.MaxCharge, rating.MaxDischarge) < min(b.spec.MaxCharge, b.spec.MaxDischarge)*95/100
	off := math.Abs(float64(b.power-b.asked)) > max(100, .1*math.Abs(float64(b.asked)))
	if !off || !now.Before(b.until) || !b.read.HasPower && !b.read.HasFlown {
		b.missed = time.Time{}
	} else if b.missed.IsZero() || b.missed.After(now) {
		b.missed = now
	}
	return []doubt{
		{false, role.Warning{Code: "battery-silent"}},
		{b.read.Local, role.Warning{Code: "battery-local", Severity: role.Problem, Title: "The battery is under local control", Text: "It answers, but takes no commands from here, so the load is not masked.", Next: "Switch the inverter to remote control (Modbus, external energy management) in its own settings."}},
		{b.read.RoofOnly, role.Warning{Code: "battery-roof-only", Severity: role.Problem, Title: "The battery may charge from the roof only", Text: "A mask has to charge when the sun does not shine; until then it shows more of the house.", Next: "Allow charging from the grid in the inverter's settings, if your contract does."}},
		{small, role.Warning{Code: "battery-small", Severity: role.Problem, Title: "The battery is smaller than gridveil.toml says", Text: fmt.Sprintf("The inverter tells %.0f Wh and %.0f W. The mask promises more than it can keep.", float64(rating.Capacity), float64(min(rating.MaxCharge, rating.MaxDischarge))),
			Next: "Set battery.capacity_wh and battery.power_w to what the inverter tells, and start the node again."}},
		{known && !rating.Reverts, role.Warning{Code: "battery-clings", Severity: role.Problem, Title: "The battery keeps its last command", Text: "Its own timer does not end one. If this node falls silent, the battery goes on until it is full or empty.",
			Next: "Stop the node in order, then it lets the battery rest. Ask the maker for firmware whose timer works."}},
		{!b.missed.IsZero() && now.Sub(b.missed) >= offTarget, role.Warning{Code: "battery-off-target", Severity: role.Problem, Title: "The battery does not do as it is told", Text: "For half a minute and more its power has differed from what the mask asked for. What the meter shows beyond the mask counts as exposed.",
			Next: "Look at the inverter's own display: a full or cold battery, a limit, or another controller may stand against it."}},
	}
}

// unreadable tells a person once the inverter has been silent for a while.
func (b *bank) unreadable(err error, now time.Time) {
	text, next := "It does not answer. The battery rests, and the meter shows the house.", "Check that the inverter is on and reachable at battery.address, that Modbus TCP is enabled, and that nothing else holds its only connection."
	switch {
	case errors.Is(err, sunspec.ErrFault):
		text, next = "The battery reports a fault and is not used.", "Look at the inverter's own display, and call whoever installed it."
	case errors.Is(err, sunspec.ErrAbsurd), errors.Is(err, sunspec.ErrMissing), errors.Is(err, sunspec.ErrMap):
		text, next = "What it answers cannot be right, so it is not used: "+err.Error()+".", "Check battery.unit, and whether the inverter's firmware is current; then restart the inverter."
	case errors.Is(err, sunspec.ErrNoMap):
		text, next = "What answers at battery.address does not speak SunSpec.", "Check battery.address and battery.unit, and enable SunSpec in the inverter's Modbus settings."
	case errors.Is(err, sunspec.ErrRoof):
		text, next = "Panels stand on the same inverter, and its control (SunSpec model 704) sets both together, so its battery cannot be used as a mask.", "Give the battery an inverter of its own, or one with storage control (model 124); until then set battery.capacity_wh to 0."
	case errors.Is(err, sunspec.ErrDraft):
		text, next = "The inverter's control is a draft of SunSpec model 704, so its battery cannot be used as a mask.", "Bring the inverter's firmware up to date; until then set battery.capacity_wh to 0."
	case errors.Is(err, sunspec.ErrNoControl):
		text, next = "The inverter has no storage control (SunSpec model 124 or 704), so its battery cannot be used as a mask.", "Enable battery control over Modbus in the inverter's settings; without it set battery.capacity_wh to 0."
	}
	b.env.Warn.Raise(role.Warning{Code: "battery-silent", Severity: role.Problem, Title: "The battery cannot be used", Text: text, Next: next, After: bankSilent}, now)
}

// Flowed is what the battery gave since the last call, for a simulated house.
func (b *bank) Flowed(now time.Time) (watts float64, stored battery.WattHours, age time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if dt := now.Sub(b.bookAt); !b.bookAt.IsZero() && dt > 0 {
		watts = (b.out - b.booked[1] - b.in + b.booked[0]) / 1000 / dt.Hours()
	}
	b.booked, b.bookAt = [2]float64{b.in, b.out}, now
	return watts, b.store.E, b.age(now)
}

// age is how old the newest reading is. Caller holds mu.
func (b *bank) age(now time.Time) time.Duration { return since(b.seen, now) }

// house is what the inverter measured, as a house sees it; ok is false before the
// first reading.
func (b *bank) house() (h House, age time.Duration, ok bool) {
	now := b.env.Clock.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	return House{At: b.seen, BattIn: int64(b.in), BattOut: int64(b.out), BattWatts: b.power, Stored: b.store.E}, b.age(now), !b.seen.IsZero()
}

// ask remembers a command until tell gives it to the inverter.
func (b *bank) ask(w battery.Watts) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.due = &w
}

// tell gives the inverter what was asked for; it holds for keep.
func (b *bank) tell(now time.Time, keep time.Duration) {
	b.io.Lock()
	defer b.io.Unlock()
	b.mu.Lock()
	w := b.due
	b.due = nil
	b.mu.Unlock()
	if w == nil {
		return
	}
	if err := b.dev.Set(*w, keep); err != nil {
		if !errors.Is(err, sunspec.ErrUnread) { // else observe has said why
			b.unreadable(err, now)
		}
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked, b.told, b.until = *w, now, now.Add(keep)
}

// serve is the watchdog: a command that nobody renews ends, and the end of the
// node ends the last.
func (b *bank) serve(ctx context.Context) error {
	defer b.line.Close()
	defer b.rest(b.env.Clock.Now().Add(bankHolds))
	for clock.Sleep(ctx, b.env.Clock, bankTick) {
		b.watch(b.env.Clock.Now())
	}
	return nil
}

// watch lets the battery rest if its command has not been renewed.
func (b *bank) watch(now time.Time) {
	b.mu.Lock()
	over := !b.until.IsZero() && (!now.Before(b.until) || now.Before(b.told)) // or the clock was set back
	b.mu.Unlock()
	if over {
		b.rest(now)
	}
}

// rest sets 0 W once; what cannot be told ends by the inverter's own timer.
func (b *bank) rest(now time.Time) {
	b.mu.Lock()
	stands := !b.until.IsZero()
	b.mu.Unlock()
	if !stands {
		return
	}
	b.ask(0)
	b.tell(now, bankHolds)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked == 0 {
		b.until = time.Time{}
	}
}

// simulated says whether the device calls itself a model.
func (b *bank) simulated() bool {
	r, ok := b.dev.Rating()
	return ok && r.Simulated
}
