package alarm

import (
	"time"
)

// Steps of an outage: what is known is told at these times after the first
// loss, then on change every outageEvery.
var outageSteps = []time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second}

const (
	outageWithin = 2 * time.Second // losses this close on one transformer belong together
	outageEvery  = 30 * time.Second
	outageLeast  = 2 // one dark home is no outage
)

// Clusterer gathers voltage losses of the meters behind one transformer into
// outages, events of kind 9. It is pure. The first loss passes at once; the following
// ones are absorbed and told together, so a transformer of any size causes a
// handful of messages.
type Clusterer struct {
	roster uint32
	loss   cluster
	back   cluster
	dark   Bitmap
}

// cluster collects ordinals of one direction (lost, restored).
type cluster struct {
	began  int64 // time of the first, ms; 0 = none
	newest int64
	first  ID
	set    Bitmap
	step   int
	told   int // ordinals in the newest event
	last   int64
}

// NewClusterer watches a transformer whose meters are those of a roster version.
func NewClusterer(roster uint32) *Clusterer { return &Clusterer{roster: roster} }

// Take looks at an event of kind 5 of the meter with the ordinal. pass says
// that the event goes on by itself; else the cluster tells of it.
func (o *Clusterer) Take(e Event, ordinal uint32, now time.Time) (pass bool) {
	if e.Kind != VoltageAbsent || e.Key.Code != CodePowerDown || ordinal == 0 {
		return true
	}
	c := &o.loss
	if e.Flags&Restored != 0 {
		c = &o.back
		o.dark.Clear(ordinal)
	} else {
		o.dark.Set(ordinal)
	}
	ms := now.UnixMilli()
	if c.began == 0 || ms-c.newest > outageWithin.Milliseconds() && c.set.Count() < outageLeast {
		*c = cluster{began: ms, newest: ms, first: e.ID()}
		c.set.Set(ordinal)
		return true
	}
	c.newest = ms
	c.set.Set(ordinal)
	return false
}

// Tick returns the events that are due: in steps after the first loss, later
// on change. A cluster ends when nothing new came for outageEvery.
func (o *Clusterer) Tick(now time.Time) (out []Event) {
	if e, due := o.loss.tick(now, o.roster, 0); due {
		out = append(out, e)
	}
	if e, due := o.back.tick(now, o.roster, Restored); due {
		out = append(out, e)
	}
	return out
}

// Dark is the set of meters without supply as far as known.
func (o *Clusterer) Dark() Bitmap { return append(Bitmap(nil), o.dark...) }

func (c *cluster) tick(now time.Time, roster uint32, flag Flags) (Event, bool) {
	ms := now.UnixMilli()
	if c.began == 0 {
		return Event{}, false
	}
	n := c.set.Count()
	due := false
	for c.step < len(outageSteps) && ms-c.began >= outageSteps[c.step].Milliseconds() {
		c.step++
		due = true
	}
	due = due || c.step == len(outageSteps) && ms-c.last >= outageEvery.Milliseconds()
	if due && n > c.told && n >= outageLeast {
		c.told, c.last = n, ms
		e := Event{Priority: P0, Kind: Outage, Flags: flag | Merged, At: c.began, Key: Key{Profile: 2, Code: CodePowerDown},
			Cause: c.first, Count: uint32(n), Roster: roster, Ordinals: append(Bitmap(nil), c.set...), Detail: []byte("several meters on one transformer")}
		return e, true
	}
	if ms-c.newest > outageEvery.Milliseconds() && n <= max(c.told, outageLeast-1) {
		*c = cluster{}
	}
	return Event{}, false
}
