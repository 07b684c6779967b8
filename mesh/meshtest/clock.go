package meshtest

import (
	"container/heap"
	"sync"
	"testing"
	"time"
)

// Clock is protocol time that runs speed times as fast as the wall clock, or more slowly if it is patient.
type Clock struct {
	speed   float64
	patient bool

	mu    sync.Mutex
	wall  time.Time
	start time.Time // protocol time at wall
	waits waits     // of a patient clock
}

// Epoch is when every test network begins.
var Epoch = time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC)

// NewClock starts a clock at Epoch.
func NewClock(speed float64) *Clock { return &Clock{start: Epoch, wall: time.Now(), speed: speed} }

// turn is the wall time of which a patient clock counts each time that it gets its turn.
const turn = 5 * time.Millisecond

// NewPatientClock starts a clock at Epoch that runs until the end of the test and waits for the machine: it goes on by at
// most five milliseconds of wall time whenever a goroutine that sleeps as long gets its turn. Where other work delays
// that goroutine, it delays the network too, and protocol time slows down with it.
func NewPatientClock(t testing.TB, speed float64) *Clock {
	c := NewClock(speed)
	c.patient = true
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(turn):
				c.advance()
			}
		}
	})
	t.Cleanup(func() { close(stop); wg.Wait() })
	return c
}

// advance counts what has passed since the last turn, and ends the waits that are due.
func (c *Clock) advance() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start, c.wall = c.now(), time.Now()
	for len(c.waits) > 0 && !c.waits[0].due.After(c.start) {
		heap.Pop(&c.waits).(wait).ch <- c.start // it has room
	}
}

// Now is the protocol time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time {
	passed := time.Since(c.wall)
	if c.patient {
		passed = min(passed, turn)
	}
	return c.start.Add(time.Duration(float64(passed) * c.speed))
}

// After sends once d of protocol time has passed.
func (c *Clock) After(d time.Duration) <-chan time.Time {
	ch := make(chan time.Time, 1)
	if c.patient {
		c.mu.Lock()
		defer c.mu.Unlock()
		heap.Push(&c.waits, wait{c.now().Add(d), ch})
		return ch
	}
	time.AfterFunc(time.Duration(float64(d)/c.speed), func() { ch <- c.Now() })
	return ch
}

// Jump sets the clock forward, or back if d is negative. Waits that have begun keep their length.
func (c *Clock) Jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = c.start.Add(d)
	for i := range c.waits {
		c.waits[i].due = c.waits[i].due.Add(d)
	}
}

// Wall gives the wall time that d of protocol time takes, at least.
func (c *Clock) Wall(d time.Duration) time.Duration { return time.Duration(float64(d) / c.speed) }

// wait is one After of a patient clock.
type wait struct {
	due time.Time
	ch  chan time.Time
}

// waits is a heap, the next one first.
type waits []wait

func (w waits) Len() int           { return len(w) }
func (w waits) Less(i, j int) bool { return w[i].due.Before(w[j].due) }
func (w waits) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }

// Push is for package heap.
func (w *waits) Push(x any) { *w = append(*w, x.(wait)) }

// Pop is for package heap.
func (w *waits) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}
