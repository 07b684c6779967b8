package mix

import (
	"errors"
	"io"
	"time"

	"gridveil/mesh/packet"
)

// Limits of a relay's intake, before any packet costs an X25519.
const (
	QueuePerNeighbour = 256
	queueEarly        = QueuePerNeighbour * 8 / 10 // from here on packets are dropped at random, ever more

	// RelayQueue and LeafQueue are the most packets queued of all neighbours: 16 MiB, and 2 MiB at a home.
	RelayQueue = 8192
	LeafQueue  = 1024
)

// Intake errors. All mean: drop the packet, count the cause.
var (
	ErrRate      = errors.New("neighbour sends faster than it may")
	ErrEarlyDrop = errors.New("neighbour's queue is nearly full")
	ErrQueueFull = errors.New("queue is full")
)

// Rate is a neighbour's token bucket.
type Rate struct {
	PerSecond int
	Burst     int
}

// Rates of neighbours. A leaf in session bursts stays within its own.
var (
	LeafRate  = Rate{2, 64}
	HomeRate  = Rate{20, 256} // a home that relays, and what it takes from a backbone neighbour
	RelayRate = Rate{200, 1024}
)

// Fair takes packets in, one queue per neighbour, and gives them out round
// robin: a neighbour that floods fills its own queue only.
type Fair struct {
	neighbours map[packet.NodeKey]*intake
	turn       []packet.NodeKey // neighbours with packets, next first
	total, max int
}

type intake struct {
	queue  []*packet.Packet
	tokens time.Duration // time worth of packets, so that the arithmetic is exact
	full   time.Duration // most tokens
	at     time.Time
	gone   bool // disconnected; kept until its packets are taken and the bucket is full again
}

// fill gives the bucket what the time since the last packet brought.
func (n *intake) fill(now time.Time) {
	n.tokens, n.at = min(n.full, n.tokens+max(0, now.Sub(n.at))), now
}

// NewFair makes an intake without neighbours for at most so many packets: RelayQueue or LeafQueue.
func NewFair(most int) *Fair { return &Fair{neighbours: map[packet.NodeKey]*intake{}, max: most} }

// Offer takes a packet from a neighbour with the given rate, or says why not.
// rnd is read only while the queue is nearly full.
func (f *Fair) Offer(from packet.NodeKey, rate Rate, p *packet.Packet, now time.Time, rnd io.Reader) error {
	n := f.neighbours[from]
	cost := time.Second / time.Duration(rate.PerSecond)
	full := cost * time.Duration(rate.Burst)
	if n == nil {
		n = &intake{tokens: full, at: now}
		f.neighbours[from] = n
	}
	n.full, n.gone = full, false
	n.fill(now)
	if n.tokens < cost {
		return ErrRate
	}
	n.tokens -= cost
	if err := f.admit(n, rnd); err != nil {
		return err
	}
	if len(n.queue) == 0 {
		f.turn = append(f.turn, from)
	}
	n.queue = append(n.queue, p)
	f.total++
	return nil
}

// admit applies the limits of the queues: random early drop from 80 % on.
func (f *Fair) admit(n *intake, rnd io.Reader) error {
	if len(n.queue) >= QueuePerNeighbour || f.total >= f.max {
		return ErrQueueFull
	}
	over := len(n.queue) - queueEarly
	if over <= 0 {
		return nil
	}
	at, err := Below(QueuePerNeighbour-queueEarly, rnd)
	if err != nil {
		return err
	}
	if at < over {
		return ErrEarlyDrop
	}
	return nil
}

// Take gives the next packet, one per neighbour and round; ok is false when all queues are empty.
func (f *Fair) Take() (from packet.NodeKey, p *packet.Packet, ok bool) {
	if len(f.turn) == 0 {
		return from, nil, false
	}
	from = f.turn[0]
	f.turn = f.turn[1:]
	n := f.neighbours[from]
	p, n.queue[0] = n.queue[0], nil
	n.queue = n.queue[1:]
	f.total--
	if len(n.queue) > 0 {
		f.turn = append(f.turn, from)
	}
	return from, p, true
}

// Leave forgets neighbours that disconnected, once what they had queued is taken and their buckets are full again,
// half a minute for a leaf: reconnecting loses no packets, and buys nobody more.
func (f *Fair) Leave(from packet.NodeKey, now time.Time) {
	if n := f.neighbours[from]; n != nil {
		n.gone = true
	}
	for key, n := range f.neighbours {
		if n.gone && len(n.queue) == 0 {
			if n.fill(now); n.tokens == n.full {
				delete(f.neighbours, key)
			}
		}
	}
}

// Len is the number of packets queued.
func (f *Fair) Len() int { return f.total }
