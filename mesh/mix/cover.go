package mix

import (
	"io"
	"time"

	"gridveil/mesh/packet"
)

// SlowSlot is the mean slot when a home's daily data cap is near: cover thins out, it never stops.
const SlowSlot = 60 * time.Second

// Slots is a leaf's Poisson schedule of sending times. It depends on the mean
// alone, never on what waits to be sent. The zero value has no slot before Start.
type Slots struct {
	next time.Time
}

// maxBehind is how many means a schedule may lag (suspended machine) before it
// starts over instead of sending the missed slots in a burst.
const maxBehind = 10

// Start draws the first slot after now. Call it again when the mean changes: an
// exponential time has no memory, so the flow stays Poisson.
func (s *Slots) Start(now time.Time, mean time.Duration, rnd io.Reader) error {
	wait, err := Exp(mean, rnd)
	s.next = now.Add(wait)
	return err
}

// Next is the time of the coming slot.
func (s *Slots) Next() time.Time { return s.next }

// Take reports whether a slot has come by now and draws the one after it. Call
// it until it says no, then wait for Next.
func (s *Slots) Take(now time.Time, mean time.Duration, rnd io.Reader) (bool, error) {
	if s.next.IsZero() || now.Before(s.next) {
		return false, nil
	}
	from := s.next
	if now.Sub(from) > maxBehind*mean {
		from = now
	}
	return true, s.Start(from, mean, rnd)
}

// Limits of the loop statistics.
const (
	loopWindow = time.Hour
	loopGrace  = 2 * time.Minute // after the computed arrival, before a loop counts as lost
	minLoops   = 20              // fewer say nothing about a loss ratio

	// LostLimit raises the warning loops-lost: a path fault, or an attack that
	// drops everybody else's packets to isolate one home.
	LostLimit = 0.3

	maxLoops = 8192 // open and judged; an hour of 1-s slots
)

// LoopID marks a loop; it is the first 16 user bytes of the loop packet.
type LoopID [16]byte

// Loops counts a leaf's loops and which came back.
type Loops struct {
	open   map[LoopID]loop
	judged []judgedLoop // ascending
}

type loop struct {
	relays []packet.NodeKey
	due    time.Time
}

type judgedLoop struct {
	at   time.Time
	lost bool
}

// Outcome is what became of a loop, for the health of the relays on its way.
type Outcome struct {
	Relays []packet.NodeKey // in the order of the route
	Lost   bool
}

// Sent notes a loop over relays that should arrive at due.
func (l *Loops) Sent(id LoopID, relays []packet.NodeKey, due time.Time) {
	if l.open == nil {
		l.open = map[LoopID]loop{}
	}
	if len(l.open)+len(l.judged) < maxLoops {
		l.open[id] = loop{relays, due}
	}
}

// Returned notes that a loop came back; known is false for one that was not
// sent here, or judged lost before.
func (l *Loops) Returned(id LoopID, now time.Time) (o Outcome, known bool) {
	held, known := l.open[id]
	if !known {
		return Outcome{}, false
	}
	delete(l.open, id)
	l.judged = append(l.judged, judgedLoop{now, false})
	return Outcome{Relays: held.relays}, true
}

// Expire judges loops that are overdue and forgets those of more than an hour ago.
func (l *Loops) Expire(now time.Time) []Outcome {
	var lost []Outcome
	for id, held := range l.open {
		if now.Sub(held.due) > loopGrace {
			delete(l.open, id)
			l.judged = append(l.judged, judgedLoop{now, true})
			lost = append(lost, Outcome{held.relays, true})
		}
	}
	old := 0
	for old < len(l.judged) && now.Sub(l.judged[old].at) > loopWindow {
		old++
	}
	l.judged = l.judged[old:]
	return lost
}

// LostRatio is the share of loops of the last hour that did not come back;
// enough is false below minLoops, when it says nothing.
func (l *Loops) LostRatio(now time.Time) (ratio float64, enough bool) {
	total, lost := 0, 0
	for _, j := range l.judged {
		if now.Sub(j.at) <= loopWindow {
			total++
			if j.lost {
				lost++
			}
		}
	}
	if total == 0 {
		return 0, false
	}
	return float64(lost) / float64(total), total >= minLoops
}
