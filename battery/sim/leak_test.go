package sim

import (
	"testing"
	"time"

	"gridveil/battery"
)

// TestForcedMinutesAreFoundInTheFile: a peak above the inverter's limit, an empty and
// a full store are forced, a battery within its limits is not.
func TestForcedMinutesAreFoundInTheFile(t *testing.T) {
	const n = 1440
	tr := Trace{Step: time.Minute, Load: make([]float64, n), Meter: make([]float64, n), SoC: make([]float64, n)}
	for i := range n {
		tr.Load[i], tr.Meter[i], tr.SoC[i] = 400, 300, 2000
	}
	for i := 100; i < 110; i++ {
		tr.Load[i], tr.Meter[i] = 9000, 6000
	}
	tr.SoC[200], tr.SoC[300], tr.Meter[300] = 0, 5000, 900
	f := forced(tr, battery.Reference(5000, 3000), 9)
	if f.Spans != 3 || f.Minutes != 12 || f.Wh < 1000 || f.Bits != 3*battery.IntervalBits(3, 9) {
		t.Errorf("got %+v, want 3 times, 12 minutes, 1 kWh", f)
	}
}
