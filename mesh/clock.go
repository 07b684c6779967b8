package mesh

import "time"

// Clock gives protocol time. Every slot, hold, retry, expiry and redial waits on it; socket deadlines use the wall
// clock. A demonstration runs it faster than the wall. Nil in a Config means the wall clock.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
