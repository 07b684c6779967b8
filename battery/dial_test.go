package battery

import (
	"context"
	"errors"
	"math"
	"testing"

	"gridveil/battery/kernel"
)

// modest is a small home, as a dialled kernel's work grows with the cube of its levels.
func modest() []float64 {
	h := evenings(5, 1)
	for i := range h {
		h[i] /= 4
	}
	return h
}

func dialled(t *testing.T, stop int, price func(quarter int) float64) *Learned {
	t.Helper()
	d := Dial{Stop: stop, Prices: make([]float64, quarters)}
	for i := range d.Prices {
		d.Prices[i] = price(i)
	}
	l, err := LessonAt(context.Background(), Reference(500, 3000), modest(), d)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dayAndNight(quarter int) float64 {
	switch {
	case quarter < 24:
		return .14
	case quarter >= 64 && quarter < 76:
		return .40
	}
	return .28
}

// free is the mask of the same blocks without prices.
func free(t *testing.T) *kernel.Kernel {
	t.Helper()
	p, err := planDial(Reference(500, 3000), modest())
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Solve(context.Background(), kernel.Fit(p.demand(modest()), p.Mx, habits*daily), p.Ms, kernel.Opts{})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestDialIsMonotone: turned towards thrift the bound rises and the model's cost
// falls; prices that are the same all day change nothing.
func TestDialIsMonotone(t *testing.T) {
	at0 := free(t)
	last, paid := at0.U, 0.
	for stop := 1; stop < Stops; stop++ {
		l := dialled(t, stop, dayAndNight)
		if l.Kernel.U < last-1e-4 || l.Kernel.Cost > paid-1e-6 {
			t.Errorf("stop %d: bound %.5f after %.5f, cost %.5f after %.5f a block", stop, l.Kernel.U, last, l.Kernel.Cost, paid)
		}
		if l.Kernel.Slots() != daily || l.Kernel.U > mostLeak*at0.U {
			t.Errorf("stop %d: %+v, %d slots, bound %.4f", stop, l.Plan, l.Kernel.Slots(), l.Kernel.U)
		}
		last, paid = l.Kernel.U, l.Kernel.Cost
	}
	flat := dialled(t, 4, func(int) float64 { return .3 })
	if math.Abs(flat.Kernel.U-at0.U) > 2e-4 || math.Abs(flat.Kernel.Cost) > 1e-9 {
		t.Errorf("one price all day: bound %.5f, without prices %.5f, cost %g", flat.Kernel.U, at0.U, flat.Kernel.Cost)
	}
}

// TestHostileTariff: no price list raises a mask's bound above 2.5 times that without
// prices; what is no price list is refused.
func TestHostileTariff(t *testing.T) {
	most := mostLeak * free(t).U
	for name, price := range map[string]func(int) float64{
		"a thousand times the usual":  func(q int) float64 { return 1000 * dayAndNight(q) },
		"one dear quarter of an hour": func(q int) float64 { return float64(b2i(q == 40)) * 1e9 },
		"every other quarter paid":    func(q int) float64 { return float64(q%2)*200 - 100 },
	} {
		if l := dialled(t, 4, price); !(l.Kernel.U <= most) {
			t.Errorf("%s: bound %.4f, allowed %.4f", name, l.Kernel.U, most)
		}
	}
	for name, d := range map[string]Dial{
		"a stop too many": {Stop: Stops, Prices: make([]float64, quarters)}, "no prices": {Stop: 1},
		"not a number": {Stop: 1, Prices: append(make([]float64, quarters-1), math.NaN())},
	} {
		if _, err := LessonAt(context.Background(), Reference(500, 3000), modest(), d); !errors.Is(err, ErrBadDial) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
