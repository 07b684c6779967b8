package meter

import (
	"time"

	"gridveil/node/model"
)

// Windows around the end of a slot.
const (
	pushWindow = 10 * time.Second // a pushed frame this old still stands for the slot's end
	closeGrace = 2 * time.Second  // how long a frame that left the meter in time may travel
)

// cutter turns a stream of frames into one frame per slot. It is pure: frames
// and ticks carry the time.
type cutter struct {
	period int64 // ms
	then   int64 // period to use from the first common boundary on, 0 = none
	next   int64 // end of the slot being waited for, 0 before the first frame
	last   int64 // At of the newest frame
	best   *Frame
}

// cut is a closed slot.
type cut struct {
	slot   int64 // start, ms
	period int64
	frame  Frame
	late   bool
	gap    bool // nothing was read: only the cursor moves
}

// setPeriod changes the slot length at the first boundary both grids share, so
// that no slot overlaps another.
func (c *cutter) setPeriod(ms int64) {
	c.then = 0
	if ms != c.period {
		c.then = ms
	}
}

// resume continues after a restart behind the last closed slot.
func (c *cutter) resume(end int64) { c.next = end + c.period }

// feed takes the next frame; frames that are not newer are ignored.
func (c *cutter) feed(f Frame) (out []cut) {
	if f.At <= c.last {
		return nil
	}
	c.last = f.At
	if c.next == 0 {
		c.next = f.At + (c.period-f.At%c.period)%c.period
	}
	for f.At > c.next {
		out = append(out, c.close(&f))
		if c.best == nil && f.At-c.next > c.period {
			c.next += (f.At - c.next) / c.period * c.period // a long silence is one gap
		}
	}
	switch {
	case f.At == c.next:
		c.best = &f
		out = append(out, c.close(nil))
	case c.next-f.At <= pushWindow.Milliseconds():
		c.best = &f
	}
	return out
}

// close ends the slot at c.next with the best frame, with after as a late one,
// or as a gap.
func (c *cutter) close(after *Frame) cut {
	out := cut{slot: c.next - c.period, period: c.period, gap: true}
	switch {
	case c.best != nil:
		out.frame, out.gap = *c.best, false
	case after != nil && after.At-c.next <= c.lateLimit():
		out.frame, out.gap, out.late = *after, false, true
	}
	c.best = nil
	if c.then != 0 && c.next%c.then == 0 {
		c.period, c.then = c.then, 0
	}
	c.next += c.period
	return out
}

// lateLimit is how long after its end a slot may still be read.
func (c *cutter) lateLimit() int64 { return c.period / 2 }

// tick closes slots that time alone decides: one with a good frame after the
// grace, one without any after the late limit.
func (c *cutter) tick(now int64) (out []cut) {
	for c.next != 0 {
		wait := closeGrace.Milliseconds()
		if c.best == nil {
			wait += c.lateLimit()
		}
		if now < c.next+wait {
			return out
		}
		if c.best == nil && now-c.next > 2*c.period {
			c.next += (now - c.next - c.period) / c.period * c.period
		}
		out = append(out, c.close(nil))
	}
	return out
}

// wake is when tick has something to do, 0 for never.
func (c *cutter) wake() int64 {
	if c.next == 0 {
		return 0
	}
	wait := closeGrace.Milliseconds()
	if c.best == nil {
		wait += c.lateLimit()
	}
	return c.next + wait
}

// values picks the wanted channels out of a frame; ok is false when one lacks.
func pick(f Frame, want []model.Channel) (out []Value, ok bool) {
	for _, c := range want {
		n, have := f.Get(c)
		if !have {
			return nil, false
		}
		out = append(out, Value{c, n})
	}
	return out, len(out) > 0
}
