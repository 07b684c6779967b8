package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"gridveil/battery"
	"gridveil/node/signal"
)

// Who may command the battery, the first before the next; all of them before the
// mask, and the battery's own limits before everybody.
const (
	byGrid = iota
	byAggregator
	byOwner
	parties
)

var partyNames = [parties]string{"grid operator", "aggregator", "you"}

// maxOrderLines bounds the log of commands.
const maxOrderLines = 100

// lacking is from how many watts on the battery helps a car that does not do what
// the aggregator asked for.
const lacking battery.Watts = 500

// OrderLine is one command to the battery, from its begin to its end.
type OrderLine struct {
	By      string    `json:"by"`
	Watts   float64   `json:"w"` // battery power that was asked for, discharge positive
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`       // newest minute that it stood
	Over    bool      `json:"over"`     // it has ended
	Minutes float64   `json:"minutes"`  // that it stood
	Decided float64   `json:"decided"`  // minutes in which it decided
	Winner  string    `json:"winner"`   // who decided in the others; empty: nobody
	InWh    float64   `json:"in_wh"`    // energy into the battery while it decided
	OutWh   float64   `json:"out_wh"`   // energy out of it
	Cost    float64   `json:"cost_eur"` // of that energy at the household's price; less than 0 is saved
}

// Asked says in words what the command asked for.
func (l OrderLine) Asked() string {
	switch {
	case l.By == partyNames[byGrid] && l.Watts <= -1e6:
		return "limits on feeding in"
	case l.By == partyNames[byGrid]:
		return fmt.Sprintf("at most %.0f W of charging from the grid", -l.Watts)
	case l.Watts > 0:
		return fmt.Sprintf("give %.0f W", l.Watts)
	case l.Watts < 0:
		return fmt.Sprintf("take %.0f W", -l.Watts)
	}
	return "rest"
}

// ownOrder is what the owner asks for.
type ownOrder struct {
	Watts battery.Watts
	Until time.Time
}

// orders is who commands the battery, and what came of it. It is guarded by the
// mask's mutex.
type orders struct {
	Own     *ownOrder
	Log     []OrderLine  // oldest first
	Open    [parties]int // 1 + index in Log of the line that stands; 0: none
	winner  int          // that decided the running step; parties: the mask
	changed bool
}

func (o *orders) clone() orders {
	c := *o
	c.Log = slices.Clone(o.Log)
	return c
}

// apply enters what stands at the observation's time. The grid operator's limit is
// one for the battery's exchange with the grid; the aggregator's set point is the
// car's, and the battery gives what the car lacks of it.
func (o *orders) apply(x *battery.Obs, s signal.Signals) {
	now := x.Time
	var stands [parties]bool
	var watts [parties]battery.Watts
	if l := s.Limit; l != nil && (l.ImportMaxW < signal.Unlimited || l.ExportMaxW < signal.Unlimited) {
		x.Grid = &battery.GridLimit{Import: battery.Watts(l.ImportMaxW), Export: battery.Watts(l.ExportMaxW)}
		stands[byGrid], watts[byGrid] = true, -battery.Watts(min(l.ImportMaxW, 1_000_000))
	}
	if set := setPoint(s); len(s.Sets) > 0 && (x.EV.Plan-set >= lacking || set-x.EV.Plan >= lacking) {
		stands[byAggregator], watts[byAggregator] = true, x.EV.Plan-set
	}
	if o.Own != nil && (!now.Before(o.Own.Until) || o.Own.Until.Sub(now) > longestOrder) { // over, or the clock was set back
		o.Own, o.changed = nil, true
	}
	if o.Own != nil {
		stands[byOwner], watts[byOwner] = true, o.Own.Watts
	}
	for p := range parties {
		o.stand(p, stands[p], watts[p], now)
		if p > byGrid && stands[p] && x.Commanded == nil {
			w := watts[p]
			x.Commanded = &w
		}
	}
}

// setPoint is what the aggregator asks of the house's car.
func setPoint(s signal.Signals) (w battery.Watts) {
	for _, x := range s.Sets {
		w += battery.Watts(x.W)
	}
	return w
}

// stand opens or closes the line of a party.
func (o *orders) stand(p int, stands bool, w battery.Watts, now time.Time) {
	if i := o.Open[p]; i > 0 && (!stands || math.Abs(o.Log[i-1].Watts-float64(w)) >= float64(lacking)) {
		o.Log[i-1].Over, o.Open[p], o.changed = true, 0, true
	}
	if !stands || o.Open[p] > 0 {
		return
	}
	o.Log = append(o.Log, OrderLine{By: partyNames[p], Watts: float64(w), From: now, To: now})
	o.changed = true
	if extra := len(o.Log) - maxOrderLines; extra > 0 {
		o.Log = slices.Delete(o.Log, 0, extra)
		for q := range o.Open {
			o.Open[q] = max(0, o.Open[q]-extra)
		}
	}
	o.Open[p] = len(o.Log)
}

// decided notes who won the step that begins.
func (o *orders) decided(x battery.Obs, c battery.Command) {
	o.winner = parties
	switch {
	case c.Cause == battery.CauseStale:
	case c.Grid:
		o.winner = byGrid
	case x.Commanded == nil:
	case o.Open[byAggregator] > 0:
		o.winner = byAggregator
	default:
		o.winner = byOwner
	}
}

// book counts the step that is over for whoever decided it.
func (o *orders) book(x battery.Obs) {
	if x.Dt <= 0 || x.Dt > time.Hour {
		return
	}
	for p := range parties {
		i := o.Open[p]
		if i == 0 {
			continue
		}
		l := &o.Log[i-1]
		l.To = x.Time
		l.Minutes += x.Dt.Minutes()
		if p != o.winner {
			if o.winner < p {
				l.Winner = partyNames[o.winner]
			}
			continue
		}
		l.Decided += x.Dt.Minutes()
		wh := float64(x.PrevActual) * x.Dt.Hours()
		if math.IsNaN(wh) || math.IsInf(wh, 0) {
			continue
		}
		l.OutWh, l.InWh = l.OutWh+max(wh, 0), l.InWh+max(-wh, 0)
		l.Cost -= wh / 1000 * x.Price
	}
}

// longestOrder bounds the owner's command: a mask that was forgotten switched off
// comes back by itself.
const longestOrder = 24 * time.Hour

// Bounds of the owner's command.
var (
	errOrderPower = errors.New("power: want more than 0 W, up to what the battery can do; `gridveil battery stop` lets it rest")
	errOrderUntil = fmt.Errorf("until: want a time from now to %d hours ahead; the mask comes back by itself then", int(longestOrder/time.Hour))
	errNoBattery  = errors.New("this home has no battery\nnext: set battery.capacity_wh in gridveil.toml, then start the node again")
)

// Order has the battery do what its owner asks until a time: a power, discharge
// positive, or 0 to rest. The battery's own limits, the grid operator and the
// aggregator stay before it.
func (g *Gateway) Order(w battery.Watts, until time.Time) error {
	if g.mask == nil {
		return errNoBattery
	}
	return g.mask.order(w, until)
}

func (m *mask) order(w battery.Watts, until time.Time) error {
	now := m.env.Clock.Now()
	if math.IsNaN(float64(w)) || w > m.spec.MaxDischarge || w < -m.spec.MaxCharge {
		return fmt.Errorf("%w (%.0f W in, %.0f W out)", errOrderPower, float64(m.spec.MaxCharge), float64(m.spec.MaxDischarge))
	}
	if !until.After(now) || until.Sub(now) > longestOrder {
		return errOrderUntil
	}
	return m.setOwn(&ownOrder{w, until})
}

// Release ends the owner's command: the mask drives the battery again.
func (g *Gateway) Release() error {
	if g.mask == nil {
		return errNoBattery
	}
	return g.mask.setOwn(nil)
}

// setOwn keeps the owner's command before it counts.
func (m *mask) setOwn(own *ownOrder) error {
	now := m.env.Clock.Now()
	m.mu.Lock()
	m.orders.Own, m.orders.changed = own, true
	m.memory.note(m.ctl, &m.orders, now)
	m.mu.Unlock()
	return m.keep()
}

// BatteryStatus is what the home's own page and `gridveil battery status` show.
type BatteryStatus struct {
	Driver    string      `json:"driver"`
	Simulated bool        `json:"simulated"`
	Policy    string      `json:"policy"`
	Known     bool        `json:"known"`   // the inverter has answered since the start
	Power     float64     `json:"power_w"` // discharge positive
	Stored    float64     `json:"stored_wh"`
	Level     float64     `json:"level_w"` // that the meter shows in this block; 0 without one
	Until     *time.Time  `json:"until,omitempty"`
	Ordered   *float64    `json:"ordered_w,omitempty"` // by the owner
	Report    MaskReport  `json:"today"`
	Log       []OrderLine `json:"commands"` // newest first
	Dial      int         `json:"dial"`     // 0 private to 4 thrifty
	Insight   *Insight    `json:"insight,omitempty"`
	Trouble   []Trouble   `json:"trouble,omitempty"` // what keeps the mask from working now
	Car       *MaskedCar  `json:"car,omitempty"`     // nil without wallbox
}

// Trouble is something that keeps a mask from working, in words for people.
type Trouble struct {
	Title string `json:"title"`
	Text  string `json:"text"`
	Next  string `json:"next"`
}

// MaskedCar is how the mask uses the cars at the wallbox.
type MaskedCar struct {
	Times int     `json:"moved"`          // that a car was moved from its plan, of sessions of the last day
	Mins  float64 `json:"moved_min"`      // that they stayed there
	Alone string  `json:"left_alone_for"` // why the mask leaves the car alone now; empty while it may move it
}

// MaskReport is the running account, since two at night UTC.
type MaskReport struct {
	Mins          float64 `json:"min"` // that the account covers
	BoundBits     float64 `json:"bound_bits_day"`
	ExposedMins   float64 `json:"exposed_min"`
	ExposedWh     float64 `json:"exposed_wh"`
	CommandedMins float64 `json:"commanded_min"`
	StaleMins     float64 `json:"stale_min"`
	ExposedSpans  int     `json:"exposed_intervals"`
	ExposedBits   float64 `json:"exposed_bits"`
	LoadWh        float64 `json:"load_wh"`
	MeterWh       float64 `json:"meter_wh"`
	Reason        string  `json:"reason,omitempty"`
}

// BatteryStatus says how the battery is and who commanded it; ok is false without one.
func (g *Gateway) BatteryStatus() (s BatteryStatus, ok bool) {
	if g.mask == nil {
		return s, false
	}
	h, heard := g.inverter()
	in, stop, known := g.Insight()
	car := g.movedCars()
	m := g.mask
	if m.bank != nil {
		_, _, heard = m.bank.house() // a simulated house has values of its own
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.ctl.Today()
	level, _ := m.ctl.Base()
	s = BatteryStatus{Driver: m.env.Config.Battery.Driver, Simulated: m.bank == nil || m.bank.simulated(), Policy: r.Policy, Known: heard, Power: float64(h.BattWatts), Stored: float64(h.Stored), Level: float64(level),
		Report: MaskReport{m.memory.mins, r.BoundBits, r.ExposedMins, r.ExposedWh, r.CommandedMins, r.StaleMins, r.ExposedSpans, r.ExposedBits, r.LoadWh, r.MeterWh, r.Reason}, Log: slices.Clone(m.orders.Log)}
	slices.Reverse(s.Log)
	s.Dial, s.Trouble = stop, g.batteryTrouble()
	if g.hosting != nil {
		s.Car = &car
		if car.Alone = m.plan.why; m.plan.at.IsZero() && car.Alone == carFree {
			car.Alone = carNoCar
		}
	}
	if known {
		s.Insight = &in
	}
	if own := m.orders.Own; own != nil {
		w, until := float64(own.Watts), own.Until
		s.Ordered, s.Until = &w, &until
	}
	return s, true
}

// meterSilent is from when on a person is told that the mask gets no readings.
const meterSilent = 30 * time.Second

// batteryTrouble is what a person should know before they trust the mask. The mask's
// lock is held.
func (g *Gateway) batteryTrouble() (list []Trouble) {
	now := g.env.Clock.Now()
	for _, w := range g.env.Warn.Standing(now) {
		if strings.HasPrefix(w.Code, "battery-") {
			list = append(list, Trouble{w.Title, w.Text, w.Next})
		}
	}
	if m := g.mask; g.house == nil && !m.meter.turned.IsZero() && since(m.meter.at, now) > meterSilent {
		list = append(list, Trouble{"The meter is silent", "Without its readings nothing can be masked: the battery rests, and the meter shows the house.", "Look at the cable and the adapter between meter and gateway."})
	}
	return list
}

// movedCars sums what the mask did with the cars of the last day.
func (g *Gateway) movedCars() (c MaskedCar) {
	if g.hosting == nil {
		return c
	}
	h := g.hosting
	h.mu.Lock()
	defer h.mu.Unlock()
	since := h.env.Clock.Now().Add(-24 * time.Hour).UnixMilli()
	for _, v := range h.visits {
		if v.rec.Begun >= since {
			c.Times, c.Mins = c.Times+v.rec.Moves.Times, c.Mins+v.rec.Moves.Mins
		}
	}
	return c
}

// batteryCommands are what `gridveil battery` asks a running gateway:
//
//	battery-status  {}             -> BatteryStatus
//	battery-order   {"w", "until"} -> {}   the owner's command, W with discharge positive
//	battery-release {}             -> {}   the mask drives again
//	battery-dial    {"stop"}       -> {}   cost against privacy, 0 private to 4 thrifty
func (g *Gateway) batteryCommands() {
	c := g.env.Control
	if c == nil {
		return
	}
	c.Handle("battery-status", func(context.Context, json.RawMessage) (any, error) {
		s, ok := g.BatteryStatus()
		if !ok {
			return nil, errNoBattery
		}
		return s, nil
	})
	handle(c, "battery-order", func(_ context.Context, in struct {
		W     float64
		Until time.Time
	}) (any, error) {
		return struct{}{}, g.Order(battery.Watts(in.W), in.Until)
	})
	handle(c, "battery-dial", func(_ context.Context, in struct{ Stop int }) (any, error) { return struct{}{}, g.SetDial(in.Stop) })
	handle(c, "battery-release", func(context.Context, struct{}) (any, error) { return struct{}{}, g.Release() })
}
