package battery

import "time"

// State is what a controller needs to go on after a restart as if it had not
// stopped: the day's account, and the level that the running block shows. A node
// persists it as it changes. It holds neither the random seed nor the chain.
type State struct {
	Day    Report
	Block  time.Time // start of the block that Base belongs to; zero without veil
	Base   Watts
	Shown  Watts
	Cause  Cause
	Obeyed bool
	// PastSpans are the exposed intervals of days that are over, Days how many these
	// are; those of today are in Day.
	PastSpans, Days int
}

// State is what Resume takes.
func (c *Controller) State() State {
	s := State{Day: c.day, Shown: c.shown, Cause: c.cause, Obeyed: c.obeyed, PastSpans: c.exposed.past, Days: c.exposed.days}
	if c.veil != nil {
		s.Block, s.Base = c.veil.running.block, c.veil.base
	}
	return s
}

// Resume goes on with an earlier State. The level of a block that still runs is
// kept; what the block's demand was stays unknown, since part of it was not seen.
// A State of another policy is ignored but for its account, and values that no
// home can have are dropped.
func (c *Controller) Resume(s State) {
	d := s.Day
	for _, v := range []float64{d.ExposedMins, d.ExposedWh, d.CommandedMins, d.StaleMins, d.LoadWh, d.MeterWh} {
		if bad(Watts(v)) {
			d = Report{}
		}
	}
	d.Policy = c.policy.Name()
	c.day = d
	c.exposed.past, c.exposed.days = max(0, s.PastSpans), max(0, s.Days)
	if c.veil == nil || s.Block.IsZero() || bad(s.Base) || s.Base < 0 || s.Base > mostLoad {
		return
	}
	c.veil.running.block, c.veil.base = s.Block, s.Base
	c.block = c.veil.running.block
	if !bad(s.Shown) {
		c.shown, c.cause, c.obeyed = s.Shown, s.Cause, s.Obeyed
	}
}

// Demand is what the home took in the block that ended last, in Wh with losses,
// and when that block began; ok is false while none is whole.
func (c *Controller) Demand() (start time.Time, wh float64, ok bool) {
	if c.veil == nil {
		return start, 0, false
	}
	wh, now, ok := c.veil.Demand()
	return now.Add(-Block), wh, ok
}

// Base is the level that the meter shows in the running block; ok is false for
// policies without one.
func (c *Controller) Base() (level Watts, ok bool) {
	if c.veil == nil {
		return 0, false
	}
	return c.veil.base, true
}
