package clock

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

var start = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

func TestAcceleratedDayPassesInItsShareOfWallTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewAccelerated(start, 1440)
		stop := pump(t, c)
		wall := time.Now()
		at := <-c.After(24 * time.Hour)
		if took := time.Since(wall); took < time.Minute || took > time.Minute+time.Second {
			t.Errorf("a day at 1440x took %v of wall time, want a minute", took)
		}
		if got := at.Sub(start); got < 24*time.Hour {
			t.Errorf("timer fired after %v, before its day was over", got)
		}
		stop()
	})
}

func TestHeldClockRunsSlowlyAndNeverJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewAccelerated(start, 2000)
		stop := pump(t, c)
		release := c.Hold()
		before := c.Now()
		time.Sleep(time.Second)
		if got := c.Now().Sub(before); got != HeldSpeed*time.Second {
			t.Errorf("held second lasted %v, want %v", got, HeldSpeed*time.Second)
		}
		held := c.Now()
		release()
		release() // a second call changes nothing
		if got := c.Now(); got.Before(held) || got.Sub(held) > time.Second {
			t.Errorf("release moved the clock from %v to %v", held, got)
		}
		time.Sleep(time.Second)
		if got := c.Now().Sub(held); got != 2000*time.Second {
			t.Errorf("released second lasted %v, want 2000 s", got)
		}
		stop()
	})
}

func TestTimersFireInOrderOfTimeThenOfAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewAccelerated(start, 100)
		stop := pump(t, c)
		late, early := c.After(2*time.Hour), c.After(time.Hour)
		if a, b := <-early, <-late; !a.Before(b) {
			t.Errorf("timers fired at %v and %v", a, b)
		}
		if at := <-c.After(-time.Second); at.Before(start) {
			t.Errorf("a past wait fired at %v", at)
		}
		stop()
	})
}

func TestSpeedChangeKeepsTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewAccelerated(start, 10)
		time.Sleep(time.Second)
		c.SetSpeed(1)
		time.Sleep(time.Second)
		c.SetSpeed(0) // refused: a clock that stands still would hang everybody
		if got := c.Now().Sub(start); got != 11*time.Second {
			t.Errorf("10x then 1x gave %v, want 11 s", got)
		}
	})
}

func TestClockWaitsForItsPacers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewAccelerated(start, 1000)
		stop := pump(t, c)
		slow := Pace(c)
		slow.Due(start.Add(time.Minute))
		fired := c.After(2 * time.Minute)
		time.Sleep(time.Second)
		if got := c.Now().Sub(start); got != time.Minute+Lead {
			t.Errorf("clock stands at %v, want at %v", got, time.Minute+Lead)
		}
		slow.Due(start.Add(2 * time.Minute))
		if at := <-fired; at.Sub(start) > 2*time.Minute+Lead {
			t.Errorf("timer fired at %v", at.Sub(start))
		}
		slow.Leave()
		time.Sleep(time.Second)
		if got := c.Now().Sub(start); got < 10*time.Minute {
			t.Errorf("clock still waits at %v", got)
		}
		Pace(Wall{}).Due(start) // the wall clock waits for nobody
		stop()
	})
}

func TestAnInstantIsWaitedForWhateverPassesMeanwhile(t *testing.T) {
	c := NewAccelerated(start, 1)
	due := start.Add(time.Hour)
	first := c.at(due)
	c.anchor = c.anchor.Add(59 * time.Minute) // the clock moved on before the second wait began
	second := c.at(due)
	c.anchor = c.anchor.Add(2 * time.Minute)
	c.fire()
	for _, ch := range []<-chan time.Time{first, second} {
		if at := <-ch; at.Before(due) {
			t.Errorf("fired at %v, before %v", at, due)
		}
	}
	if at := <-c.at(start); at.Before(due) {
		t.Errorf("a past instant fired at %v", at)
	}
}

func TestNextIsOnTheGrid(t *testing.T) {
	if got := Next(start.Add(61*time.Second), time.Minute); !got.Equal(start.Add(2 * time.Minute)) {
		t.Errorf("Next: got %v", got)
	}
	if got := Next(start, time.Minute); !got.Equal(start.Add(time.Minute)) {
		t.Errorf("Next at a mark: got %v, want the following mark", got)
	}
}

func TestSleepEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if Sleep(ctx, Wall{}, time.Hour) {
		t.Error("Sleep says that an hour passed")
	}
	Hold(Wall{})() // the wall clock cannot be held, and says so by doing nothing
}

func pump(t *testing.T, c *Accelerated) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	return func() { cancel(); <-done }
}
