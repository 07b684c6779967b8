package plant

import (
	"sync"
	"time"
)

// feederStep is how often a feeder's meter keeps its reading: the quarter hour
// of the zone's sums.
const feederStep = 15 * time.Minute

// feederKeep is how long readings are kept.
const feederKeep = 48 * time.Hour

// Feeder is the simulated meter at a zone's transformer. It adds up what flowed
// through the connections behind it, without losses, and tells no home apart.
// It is safe for concurrent use.
type Feeder struct {
	mu   sync.Mutex
	seen map[int]map[int64]int64 // by connection: net register in mWh at each quarter hour, Unix s
	next int
}

// NewFeeder makes a feeder without connections.
func NewFeeder() *Feeder { return &Feeder{seen: map[int]map[int64]int64{}} }

// Connect adds a connection; its house calls the result after each step with its
// registers, mWh.
func (f *Feeder) Connect() func(at time.Time, importMWh, exportMWh int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.next
	f.next++
	f.seen[id] = map[int64]int64{}
	return func(at time.Time, importMWh, exportMWh int64) {
		if !at.Truncate(feederStep).Equal(at) {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		rows := f.seen[id]
		rows[at.Unix()] = importMWh - exportMWh
		delete(rows, at.Add(-feederKeep).Unix())
	}
}

// Energy is what flowed into the zone in [from, to), quarter hours, net of what
// flowed out, mWh. A connection whose house did not run counts as dark. ok is
// false when none of them ran.
func (f *Feeder) Energy(from, to time.Time) (mWh int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, rows := range f.seen {
		a, begun := rows[from.Unix()]
		b, ended := rows[to.Unix()]
		if begun && ended {
			mWh, ok = mWh+b-a, true
		}
	}
	return mWh, ok
}
