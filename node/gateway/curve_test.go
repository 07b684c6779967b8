package gateway

import (
	"testing"
	"time"
)

func TestCurveHoldsADayOfMinutesWhateverTheMetersPace(t *testing.T) {
	start := time.Date(2026, 6, 15, 0, 0, 0, 0, time.UTC)
	c := newCurve()
	for s := range 2 * 24 * 3600 / 10 { // a frame every ten seconds for two days
		c.add(Minute{At: start.Add(time.Duration(s) * 10 * time.Second), Load: float64(s % 6)})
	}
	all := c.since(start)
	if len(all) != curveMinutes || !all[0].At.Equal(start.Add(24*time.Hour)) {
		t.Fatalf("%d minutes from %v", len(all), all[0].At)
	}
	for _, m := range all {
		if m.Load != 2.5 || m.At.Second() != 0 {
			t.Fatalf("minute %v: mean %v, want 2.5", m.At, m.Load)
		}
	}
	if c.last.Load != 5 {
		t.Errorf("newest frame: %v W", c.last.Load)
	}
}
