package meshtest

import (
	"testing"
	"time"
)

// TestAPatientClockEndsWaitsInOrderAndNeverEarly waits for times in no order, with a jump in between.
func TestAPatientClockEndsWaitsInOrderAndNeverEarly(t *testing.T) {
	c := NewPatientClock(t, 1000)
	began := c.Now()
	long, short := c.After(20*time.Second), c.After(10*time.Second)
	at := <-short
	if at.Before(began.Add(10 * time.Second)) {
		t.Errorf("ten seconds ended after %v", at.Sub(began))
	}
	select {
	case early := <-long:
		if early.Before(began.Add(20 * time.Second)) {
			t.Errorf("twenty seconds ended after %v", early.Sub(began))
		}
	default:
	}
	c.Jump(time.Hour)
	later := c.After(time.Second)
	at = <-later
	if got := at.Sub(began); got < time.Hour+11*time.Second {
		t.Errorf("after a jump of an hour the clock shows %v", got)
	}
	if last := c.Now(); last.Before(at) {
		t.Errorf("the clock went back by %v", at.Sub(last))
	}
}
