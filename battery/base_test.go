package battery

import (
	"context"
	"math"
	"testing"
	"time"
)

// TestABaseLoadIsNoDemandToHide: a home that takes 120 W more all day is counted in the
// same levels and has the same mask.
func TestABaseLoadIsNoDemandToHide(t *testing.T) {
	history := evenings(4, 2)
	spec := Reference(1000, 3000)
	more := append([]float64(nil), history...)
	for i := range more {
		more[i] += 10
	}
	a, err := Lesson(context.Background(), "veil", spec, history)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Lesson(context.Background(), "veil", spec, more)
	if err != nil {
		t.Fatal(err)
	}
	if a.Plan.Base < 15 || a.Plan.Base > 17 || math.Abs(float64(b.Plan.Base-a.Plan.Base)-10) > 1e-9 {
		t.Errorf("bases of %.2f and %.2f Wh", a.Plan.Base, b.Plan.Base)
	}
	if a.Plan.Mx != b.Plan.Mx || a.Plan.Ms != b.Plan.Ms || math.Abs(a.Kernel.U-b.Kernel.U) > 1e-6 {
		t.Errorf("%+v with %.6f bits, %+v with %.6f", a.Plan, a.Kernel.U, b.Plan, b.Kernel.U)
	}
}

// TestAHomeBelowItsBaseDoesNotFillTheBattery: when the house stands empty and takes a
// quarter of what it ever took, the store fills up no more often than with a mask that
// counts from zero, about 10 minutes a day.
func TestAHomeBelowItsBaseDoesNotFillTheBattery(t *testing.T) {
	spec := Reference(1000, 3000)
	l, err := Lesson(context.Background(), "veil", spec, evenings(4, 2))
	if err != nil {
		t.Fatal(err)
	}
	ctl, err := NewController(context.Background(), Config{Spec: spec, Policy: "veil", Rand: chacha(1), Learned: l})
	if err != nil {
		t.Fatal(err)
	}
	st := Store{Spec: spec, E: 500}
	prev, high := Watts(0), WattHours(0)
	for m := range 10 * 1440 {
		const load = 45
		c := ctl.Step(Obs{Time: noon.Add(time.Duration(m) * time.Minute), Dt: time.Minute, Load: load, E: st.E, PrevMeter: prev})
		st.Apply(c.Battery, time.Minute)
		prev, high = c.Predicted, max(high, st.E)
	}
	if r := ctl.Today(); r.ExposedMins > 200 {
		t.Errorf("%.0f minutes of 10 days exposed, the store came to %.0f Wh", r.ExposedMins, high)
	}
	if high < 800 {
		t.Errorf("the store came to %.0f Wh only: the test tries nothing", high)
	}
}
