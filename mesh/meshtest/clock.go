package meshtest

import (
	"sync"
	"time"
)

// Clock is protocol time that runs speed times as fast as the wall clock.
type Clock struct {
	wall  time.Time
	speed float64

	mu    sync.Mutex
	start time.Time // protocol time at wall
}

// Epoch is when every test network begins.
var Epoch = time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC)

// NewClock starts a clock at Epoch.
func NewClock(speed float64) *Clock { return &Clock{start: Epoch, wall: time.Now(), speed: speed} }

// Now is the protocol time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start.Add(time.Duration(float64(time.Since(c.wall)) * c.speed))
}

// After sends once d of protocol time has passed.
func (c *Clock) After(d time.Duration) <-chan time.Time {
	ch := make(chan time.Time, 1)
	time.AfterFunc(time.Duration(float64(d)/c.speed), func() { ch <- c.Now() })
	return ch
}

// Jump sets the clock forward, or back if d is negative. Waits that have begun keep their length.
func (c *Clock) Jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = c.start.Add(d)
}

// Wall gives the wall time that d of protocol time takes.
func (c *Clock) Wall(d time.Duration) time.Duration { return time.Duration(float64(d) / c.speed) }
