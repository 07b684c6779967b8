package mix

import (
	"container/heap"
	"errors"
	"fmt"
	"io"
	"time"

	"gridveil/mesh/packet"
)

// Most packets in a hold.
const (
	RelayHold    = 32_768 // SSN: 64 MiB
	BackboneHold = 4096
	LeafHold     = 512

	// MaxBatch packets or BatchWait, whichever comes first, are shuffled and written together.
	MaxBatch  = 16
	BatchWait = 5 * time.Millisecond
)

// ErrHoldFull means: drop the packet.
var ErrHoldFull = errors.New("hold is full")

// Held is a packet that waits to be forwarded.
type Held struct {
	Due    time.Time
	Next   packet.NodeKey
	Packet *packet.Packet
}

// Hold keeps packets until they are due, never shorter.
type Hold struct {
	queue dueQueue
	max   int
}

// NewHold makes a hold for at most limit packets.
func NewHold(limit int) *Hold { return &Hold{max: limit} }

// Add puts a packet in that was unwrapped at now, or returns ErrHoldFull or packet.ErrRouting.
func (h *Hold) Add(r packet.Routing, p *packet.Packet, now time.Time) error {
	if r.Flag != packet.FlagRelay || r.Delay < 0 || r.Delay > packet.MaxDelay {
		return packet.ErrRouting
	}
	if len(h.queue) >= h.max {
		return ErrHoldFull
	}
	heap.Push(&h.queue, Held{now.Add(r.Delay), r.Next, p})
	return nil
}

// Due takes out every packet that is due at now, shuffled, at most limit; 0
// means no limit.
func (h *Hold) Due(now time.Time, limit int, rnd io.Reader) ([]Held, error) {
	var out []Held
	for len(h.queue) > 0 && !h.queue[0].Due.After(now) && (limit <= 0 || len(out) < limit) {
		out = append(out, heap.Pop(&h.queue).(Held))
	}
	return out, Shuffle(out, rnd)
}

// Next is when the earliest packet is due; ok is false when the hold is empty.
func (h *Hold) Next() (due time.Time, ok bool) {
	if len(h.queue) == 0 {
		return time.Time{}, false
	}
	return h.queue[0].Due, true
}

// Len is the number of packets held.
func (h *Hold) Len() int { return len(h.queue) }

// Shuffle brings a batch into random order, so that order of arrival is gone.
func Shuffle[T any](batch []T, rnd io.Reader) error {
	for i := len(batch) - 1; i > 0; i-- {
		j, err := Below(i+1, rnd)
		if err != nil {
			return fmt.Errorf("shuffle batch: %w", err)
		}
		batch[i], batch[j] = batch[j], batch[i]
	}
	return nil
}

// dueQueue is a heap.Interface, earliest first.
type dueQueue []Held

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].Due.Before(q[j].Due) }
func (q dueQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *dueQueue) Push(x any)        { *q = append(*q, x.(Held)) }
func (q *dueQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = Held{} // let the packet go
	*q = old[:len(old)-1]
	return last
}
