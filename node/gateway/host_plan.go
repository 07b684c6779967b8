package gateway

import (
	"time"

	"gridveil/ev"
	"gridveil/ev/sched"
	"gridveil/node/signal"
	"gridveil/privacy/session"
)

const (
	slotMS      = 900_000 // one step of a plan
	planSlots   = 96      // a day: no car stays longer without a new plan
	volt        = 230
	roundW      = 100              // set points are kept this coarse, so that a changing house does not flood the wallbox
	lockSpan    = 4 * time.Hour    // energy that one lock should cover at full power
	changeAgain = 15 * time.Minute // how soon after one the next change is asked for
	lockNotes   = 12               // most notes of a lock: its message then fits class session
	reaction    = 5 * time.Minute  // how early the band stops a car, see ev.MarginFor
)

// phases of the wallbox; three unless its record says otherwise.
func (h *hosting) phases() int { return 3 }

// plan decides the power for the next minute: wiring and fuse over grid operator
// over owner over control over the cheapest plan.
func (h *hosting) plan(t *turn) {
	v := t.v
	if !v.s.State.Running() {
		return
	}
	demand := h.demand(v, t.now)
	h.followed(t, demand)
	d := ev.Resolve(demand)
	if v.s.Payer == ev.Guest && v.rec.Want.Give > 0 && h.mayDischarge(v) && v.s.Locked == 0 {
		h.lockNotes(t) // at once, not when the energy is wanted: change takes minutes to come
	}
	t.session(ev.Limit{W: h.masked(t, demand, h.coarse(d.W))})
	h.offerFlex(t)
}

// coarse rounds a set point towards 0, but not below what a car charges with.
func (h *hosting) coarse(w int64) int64 {
	least := int64(leastAmpere * volt * h.phases())
	if w >= least {
		return max(least, w/roundW*roundW)
	}
	return w / roundW * roundW
}

// firstPower is what a transaction may draw before its first reading.
func (h *hosting) firstPower(v *visit, now time.Time) int64 {
	return max(0, h.coarse(ev.Resolve(h.demand(v, now)).W))
}

// demand gathers everything that wants to decide.
func (h *hosting) demand(v *visit, now time.Time) ev.Demand {
	heard := h.heard(now)
	now = now.Truncate(time.Minute) // a plan holds for a minute and does not depend on when in it it is made
	c := h.env.Config
	maxW := int64(c.EVSE.MaxW)
	house := h.houseNow()
	ampere := int64(volt * h.phases())    // W
	wallbox := (maxW + ampere/2) / ampere // "11 kW" is 16 A: the plan keeps to the watts
	fuse := max(0, int64(c.Meter.ConnectionLimitW)-max(0, house)) / ampere
	e := v.s.Energy
	d := ev.Demand{Phases: h.phases(), AmpereLeft: min(wallbox, fuse), SlotMS: slotMS}
	d.PlanW = h.charge(v, now, maxW, -house)
	if need := v.rec.Want.Want - e.In(); v.rec.Want.Departure > 0 {
		d.HasDeparture, d.LeftMS = true, max(v.rec.Want.Departure-now.UnixMilli(), 1)
		d.NeedMWh = max(0, min(need, v.rec.Want.Floor-e.In()))
	}
	if w := v.rec.Want; h.mayDischarge(v) && w.gives(now.UnixMilli()) && w.Give > e.Out && w.Want <= e.In() {
		d.MaxDischargeW = maxW
		if !w.OnCall {
			d.PlanW = -min(max(house, 0), maxW) // what the house itself draws; more only by control
		}
		d.HasDeparture = false
	}
	heard.Fill(&d, v.openHash())
	if r := len(v.readings); r > 0 && v.readings[r-1].HasSoC {
		d.HasSoC, d.SoC, d.FloorSoC = true, v.readings[r-1].SoCPermille, socFloor
	}
	return d
}

// houseNow is what the house draws without the car by the newest sample, W.
func (h *hosting) houseNow() int64 {
	n := len(h.samples.marks)
	if n == 0 {
		return 0
	}
	return h.samples.marks[n-1].MeterW - h.samples.marks[n-1].CarW
}

// heard is what holds at now of what grid, utility and aggregator signalled. On an
// accelerated clock it counts from the full minute on, when the house takes its step.
func (h *hosting) heard(now time.Time) signal.Signals {
	if h.signals == nil {
		return signal.Signals{}
	}
	if h.stepped {
		now = now.Truncate(time.Minute)
	}
	return h.signals.At(now)
}

// replan plans the running session anew, unless a simulated house has still to take
// the step of this minute: it plans as well, and the step is of the minute before.
func (h *hosting) replan() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.env.Clock.Now()
	if v := h.current; v.s.State.Running() && !h.frameDue(now) {
		t := h.turn(v, now)
		h.plan(t)
		if err := t.commit(); err != nil {
			h.env.Log.Warn("plan not renewed; the next minute tries again", "err", err)
		}
	}
}

// frameDue says whether the step of this minute is still to come on an accelerated
// clock.
func (h *hosting) frameDue(now time.Time) bool {
	n := len(h.samples.marks)
	if n == 0 || !h.stepped {
		return false
	}
	last := h.samples.marks[n-1].At
	return now.Truncate(time.Minute).After(last) && now.Sub(last) < 2*time.Minute
}

// openHash is the session's name in controls, H(Open); zero without a guest.
func (v *visit) openHash() (id [32]byte) {
	if v.host != nil {
		id = v.host.Session()
	}
	return id
}

// socFloor is the state of charge below which no house takes energy out of a
// car, permille.
const socFloor = 100

// mayDischarge says whether wallbox, offer and payer allow a discharge.
func (h *hosting) mayDischarge(v *visit) bool {
	return h.v2x && (v.s.Payer == ev.Own || v.rec.Agreed != nil && v.rec.Agreed.Discharge)
}

// charge is the plan's power now: all that fits if nothing says when the car
// leaves, else this slot's part of the cheapest plan.
func (h *hosting) charge(v *visit, now time.Time, maxW, surplusW int64) int64 {
	w := v.rec.Want
	need := w.Want - v.s.Energy.In()
	switch {
	case w.Want > 0 && need <= 0, w.Want == 0 && w.Give > 0:
		return 0
	case w.Departure == 0 || w.Want == 0:
		return maxW
	}
	slots := h.slots(now, time.UnixMilli(w.Departure), maxW, surplusW)
	p, err := sched.Make(slots, need)
	if err != nil || p.Check(slots, need) != nil || len(p.Shares) == 0 {
		return maxW // without a proven plan the car simply charges
	}
	share := p.Shares[0].Res + p.Shares[0].Grid
	if share == 0 {
		return 0
	}
	left := max(slotMS-now.UnixMilli()%slotMS, 60_000)
	least := int64(leastAmpere * volt * h.phases()) // a rest that asks for less would never be charged
	return min(maxW, max(share*3600/left, least))
}

// slots are the steps until departure. The roof is taken to go on as now for an
// hour: no longer forecast is better without weather.
func (h *hosting) slots(now, departure time.Time, maxW, surplusW int64) []sched.Slot {
	c, heard := h.env.Config.Hosting, h.heard(now)
	var out []sched.Slot
	for at := now; at.Before(departure) && len(out) < planSlots; {
		end := time.UnixMilli((at.UnixMilli()/slotMS + 1) * slotMS)
		end = earlier(end, departure)
		ms := end.Sub(at).Milliseconds()
		s := sched.Slot{MaxMWh: maxW * ms / 3600, FeedIn: c.PExport, Grid: c.PGrid}
		if price, ok := heard.PriceAt(at); ok {
			s.Grid = price
		}
		if at.Sub(now) < time.Hour {
			s.SurplusMWh = min(s.MaxMWh, max(0, surplusW)*ms/3600)
		}
		out = append(out, s)
		at = end
	}
	return out
}

// enough ends a session that has what its driver wanted.
func (h *hosting) enough(t *turn, e ev.Energy) {
	w := t.v.rec.Want
	if w.Want == 0 && w.Give == 0 || !t.v.s.State.Running() {
		return
	}
	if e.In() >= w.Want && e.Out >= w.Give {
		t.v.note(t.now, "the driver has what was wanted")
		t.session(ev.Stop{})
	}
}

// lockNotes puts notes behind what the house may come to owe, before the car
// discharges: no lock, no sale. With the notes at hand in the wrong sizes it asks
// for change; without notes the car simply does not discharge.
func (h *hosting) lockNotes(t *turn) {
	v := t.v
	if t.edit != nil || v.rec.Lock.Op != 0 || v.host == nil || v.host.Phase() != session.Running || v.s.Offline {
		return
	}
	payee, err := h.purse.Earned()
	if err != nil {
		return
	}
	need := h.lockValue(v)
	minor, ok := h.purse.Cover(t.now, need, lockNotes)
	if !ok {
		h.askChange(t, need)
		return
	}
	id := v.host.Session()
	op, pay, err := t.purse().Spend(t.now, minor, payee, id[:])
	if err != nil {
		h.env.Log.Warn("notes cannot be locked", "err", err)
		return
	}
	value := int64(minor) * ev.MinorEUR
	err = t.protocol(fromMeter, func(p *session.Host) (session.Out, error) { return p.Lock(value, pay) })
	if err != nil {
		h.env.Log.Warn("notes cannot be locked", "err", err)
		err = t.edit.Unspent(op)
		if err != nil {
			h.env.Log.Error("notes stay reserved", "err", err)
		}
		return
	}
	v.rec.Lock = lockState{Op: op, Value: value}
	v.note(t.now, "EUR "+euros(value)+" in notes locked, so that the car can sell energy")
}

// lockValue is what the energy that the driver gives may cost, minor units.
func (h *hosting) lockValue(v *visit) uint16 {
	d, err := h.deal(v)
	if err != nil {
		return 0
	}
	most := min(v.rec.Want.Give, int64(h.env.Config.EVSE.MaxW)*lockSpan.Milliseconds()/3600)
	value := most / 1000 * max(d.Out, d.Terms.PExport) / 1000 // mWh x micro/kWh / 10^6
	margin := ev.MarginFor(d, int64(h.env.Config.EVSE.MaxW), reaction.Milliseconds())
	return uint16(min((value+margin)/ev.MinorEUR+1, 8191))
}

// askChange swaps notes into sizes that make up the lock; again after a while, since
// notes of earlier guests may have come and another swap may have been under way.
func (h *hosting) askChange(t *turn, need uint16) {
	l := &t.v.rec.Lock
	if l.Asked != 0 && t.now.UnixMilli() < l.Asked+changeAgain.Milliseconds() {
		return
	}
	if l.Asked == 0 {
		t.v.note(t.now, "the house has no notes of the right size to buy energy with; change is asked for")
	}
	l.Asked = t.now.UnixMilli()
	t.after = append(t.after, func() {
		if err := h.purse.Change(need); err != nil {
			h.env.Log.Warn("no change for a lock", "err", err)
		}
	})
}
