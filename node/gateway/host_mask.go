package gateway

import (
	"time"

	"gridveil/battery"
	"gridveil/ev"
	"gridveil/ev/sched"
)

// A charging car is storage for the mask: it may take less while the house asks for
// more than its battery gives, and more while the battery is full. The plan is the
// driver's; the mask moves it only inside what cannot cost the driver anything:
//
//	plan -> slack -> mask asks -> limit within the slack -> wallbox -> reading -> slack
//
// What stays of the energy is planned anew every minute, so a moved car catches up.

const (
	// moveSpare is the time before a departure that no move counts on.
	moveSpare = 10 * time.Minute
	// moveTakes is how long a wallbox may take to accept a limit.
	moveTakes = 30 * time.Second
	// moveShows is how long a car may take to follow an accepted limit: a reading that
	// comes later shows it.
	moveShows = time.Minute
	// moveSilent is from when on a wallbox that tells nothing counts as silent.
	moveSilent = 3 * time.Minute
	// moveOff is how long the mask leaves a car alone whose wallbox failed.
	moveOff = 30 * time.Minute
	// moveMiss is by how many watts a car may miss its limit and still follow it.
	moveMiss = 500
)

// Why the mask leaves a car alone.
const (
	carFree     = ""
	carNoCar    = "no car is charging"
	carKept     = "battery.leave_car is set"
	carNoWish   = "its driver named no energy and departure"
	carPool     = "its power is promised to the aggregator's pool, or commanded"
	carIdle     = "its plan is to wait now"
	carTight    = "it needs all the time that is left"
	carLimits   = "it draws something else than its plan"
	carSlow     = "the wallbox was slow or silent, so it is left alone for half an hour"
	carNoRating = "what it can take is not known yet"
)

// limitTaken is the newest limit that the wallbox accepted.
type limitTaken struct {
	watts   int64
	at      time.Time
	moved   bool // by the mask
	follows bool // the car did what the limit before said
}

// moves is what the mask did with a visit's car.
type moves struct {
	Times int     // that the car was moved away from its plan
	Mins  float64 // that it stayed there
}

// masked is the limit for the wallbox: the plan's w, moved as far as the mask asks and
// the driver's wishes leave it. It tells the mask how far it may ask.
func (h *hosting) masked(t *turn, d ev.Demand, w int64) int64 {
	if h.mask == nil {
		return w
	}
	plan := min(w, t.v.most()) // a small car does not take all that it may
	lo, hi, why := h.slack(t, d, plan)
	if why != carFree {
		h.mask.setCar(carPlan{why: why})
		return t.moved(w, w)
	}
	asked := h.mask.setCar(carPlan{at: t.now, state: battery.EVState{Plugged: true, Plan: battery.Watts(plan), Lo: battery.Watts(lo), Hi: battery.Watts(hi), Step: battery.Watts(volt * h.phases())}})
	if asked == 0 {
		return t.moved(w, w)
	}
	return t.moved(w, min(max(plan+int64(asked), lo), hi))
}

// moved notes that the car gets limit instead of its plan, and gives limit.
func (t *turn) moved(plan, limit int64) int64 {
	v := t.v
	if v.away && !v.planned.IsZero() {
		v.rec.Moves.Mins += min(max(t.now.Sub(v.planned), 0), moveSilent).Minutes()
	}
	away := limit != plan
	if away && !v.away {
		if v.rec.Moves.Times++; v.rec.Moves.Times == 1 {
			v.note(t.now, "the mask moves the car's power for moments; it is charged in time, at no higher cost")
		}
	}
	v.away, v.planned = away, t.now
	return limit
}

// slack is between what the car's power may be moved from w, what it takes by plan, W; why says in
// words what forbids it. A car is neither stopped nor started for the mask: some do
// not wake up again.
func (h *hosting) slack(t *turn, d ev.Demand, w int64) (lo, hi int64, why string) {
	v := t.v
	if why := h.pinned(v, d, t.now); why != carFree {
		return w, w, why
	}
	if h.failed(t) {
		return w, w, carSlow
	}
	least := int64(leastAmpere * volt * h.phases())
	if w < least {
		return w, w, carIdle
	}
	most := v.most()
	if most < least || v.heard.IsZero() {
		return w, w, carNoRating
	}
	if h.shown(v) && !h.follows(v) {
		return w, w, carLimits
	}
	need := max(0, v.rec.Want.Want-v.s.Energy.In())
	strict := d
	strict.NeedMWh, strict.LeftMS = need, max(1, d.LeftMS-moveSpare.Milliseconds())
	strict.AmpereLeft = min(d.AmpereLeft, most/int64(volt*h.phases()))
	r := ev.Resolve(strict)
	if r.Missed != 0 {
		return w, w, carTight
	}
	roof := -h.houseNow() // never left to the grid for the mask
	lo, hi = min(w, max(r.Lo, least, roof)), max(w, min(r.Hi, most))
	slots := h.slots(t.now.Truncate(time.Minute), time.UnixMilli(v.rec.Want.Departure).Add(-moveSpare), most, roof)
	if !noDearer(slots, need, lo, most) {
		lo = w
	}
	if !noDearer(slots, need, hi, most) {
		hi = w
	}
	if lo == hi {
		return w, w, carTight
	}
	return lo, hi, carFree
}

// leastAmpere is the current below which a car pauses, IEC 61851.
const leastAmpere = 6

// pinned says what forbids to move a car at all, whatever its state.
func (h *hosting) pinned(v *visit, d ev.Demand, now time.Time) string {
	w := v.rec.Want
	switch {
	case h.env.Config.Battery.LeaveCar:
		return carKept
	case w.Give > 0 || w.Want == 0 || w.Departure == 0 || !d.HasDeparture:
		return carNoWish
	case d.HasControl || v.promised(now):
		return carPool
	case v.s.Hold != 0 || v.s.Stopping:
		return carIdle
	}
	return carFree
}

// promised says whether slots of the session that are still to come were offered to
// the pool: moving the car would break its baseline.
func (v *visit) promised(now time.Time) bool {
	if v.rec.Flex == nil {
		return false
	}
	for _, o := range v.rec.Flex.Offers {
		if (o.State == flexSent || o.State == flexTaken) && o.ends().After(now) {
			return true
		}
	}
	return false
}

// failed says whether the wallbox is too slow or silent to serve the mask, and notes
// when that begins.
func (h *hosting) failed(t *turn) bool {
	v := t.v
	if t.now.Before(v.leftAlone) && v.leftAlone.Sub(t.now) <= moveOff {
		return true
	}
	if v.heard.IsZero() {
		return false // it has told nothing yet, so it cannot be moved either
	}
	slow := t.now.Sub(v.heard) > moveSilent+h.lag() || h.took.moved && h.shown(v) && v.s.PowerW-h.took.watts > moveMiss
	for _, o := range h.orders {
		slow = slow || o.visit == v.rec.ID && o.kind == orderPower && t.now.Sub(o.since) > moveTakes+h.lag()
	}
	if slow && v.rec.Moves.Times > 0 {
		v.leftAlone = t.now.Add(moveOff)
		v.note(t.now, "the wallbox was slow to follow or silent: the mask leaves the car alone for half an hour")
	}
	return slow
}

// shown says whether the newest reading shows what came of the newest limit.
func (h *hosting) shown(v *visit) bool {
	return h.took.watts > 0 && v.heard.After(h.took.at.Add(moveShows))
}

// follows says whether the car draws what the newest limit and its own size allow.
func (h *hosting) follows(v *visit) bool {
	off := v.s.PowerW - min(h.took.watts, v.most())
	return off <= moveMiss && off >= -moveMiss
}

// drawn is what the car draws now, W: the newest reading, or a limit that the wallbox
// accepted since, where the car did what the one before said.
func (h *hosting) drawn() int64 {
	v := h.current
	if !v.s.State.Running() {
		return 0
	}
	if h.took.follows && h.took.at.After(v.heard) {
		return min(h.took.watts, v.most())
	}
	return v.s.PowerW
}

// tookLimit notes that the wallbox accepted a limit. The caller holds mu.
func (h *hosting) tookLimit(o order) {
	h.took = limitTaken{watts: o.watts, at: h.env.Clock.Now(), moved: o.moved, follows: h.took.watts > 0 && h.follows(h.current)}
}

// most is the highest power that the car drew in this session: what it may be counted
// on to draw later, W.
func (v *visit) most() (w int64) {
	for _, r := range v.readings {
		if r.HasPower {
			w = max(w, r.PowerW)
		}
	}
	return w
}

// noDearer says whether need mWh cost no more than in the cheapest plan, and still
// fit, if the car draws w of at most most watts for the rest of the first slot. The
// cost of a slot's energy is convex: what holds for all of it holds for a part.
func noDearer(slots []sched.Slot, need, w, most int64) bool {
	if len(slots) < 2 {
		return false // nothing is left to catch up in
	}
	energy := min(need, slots[0].MaxMWh*w/most)
	best, err1 := sched.Make(slots, need)
	first, err2 := sched.Make(slots[:1], energy)
	rest, err3 := sched.Make(slots[1:], need-energy)
	if err1 != nil || err2 != nil || err3 != nil || best.Short+first.Short+rest.Short > 0 {
		return false
	}
	rounding := int64(2 * len(slots)) // a segment's cost is rounded up
	return first.Cost(slots[:1])+rest.Cost(slots[1:]) <= best.Cost(slots)+rounding
}
