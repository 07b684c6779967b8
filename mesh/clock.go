package mesh

import (
	"sync"
	"time"
)

// Clock gives protocol time. Every slot, hold, retry, expiry and redial waits on it; socket deadlines use the wall
// clock. A demonstration runs it faster than the wall. Nil in a Config means the wall clock.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// MachineTime is what a busy machine may need for work that protocol times treat as instant: building, unwrapping,
// and a few hops on the network. On the wall clock every protocol margin is far above it.
const MachineTime = 2 * time.Second

const (
	lagSample = 100 * time.Millisecond // shorter samples would measure the scheduler
	lagNoise  = 1.5                    // below this a clock counts as the wall's: it was set or slewed
)

// lagMeter learns how much protocol time passes in MachineTime.
type lagMeter struct {
	mu    sync.Mutex
	wall  time.Time
	clock time.Time
	fast  float64 // highest speed seen
}

func (m *lagMeter) lag(c Clock) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, now, wall := time.Now(), c.Now(), time.Now()
	if wall.Sub(before) > lagSample/100 {
		return time.Duration(m.fast * float64(MachineTime)) // interrupted in between: the sample would lie
	}
	if d := wall.Sub(m.wall); m.wall.IsZero() {
		m.wall, m.clock = wall, now
	} else if d >= lagSample {
		if speed := float64(now.Sub(m.clock)) / float64(d); speed > lagNoise {
			m.fast = max(m.fast, speed)
		}
		m.wall, m.clock = wall, now
	}
	return time.Duration(m.fast * float64(MachineTime))
}

// Lag is the protocol time that passes while a busy machine works for MachineTime: 0 on the wall clock, minutes on an
// accelerated one. Margins that only the machine can miss are widened by it.
func (h *Host) Lag() time.Duration { return h.lag.lag(h.clock) }
