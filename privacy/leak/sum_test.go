package leak

import (
	"math"
	"testing"
)

// add is the law of the sum of two independent energies, by counting.
func add(a, b []float64) []float64 {
	out := make([]float64, len(a)+len(b)-1)
	for i, p := range a {
		for j, q := range b {
			out[i+j] += p * q
		}
	}
	return out
}

func entropy(law []float64) (h float64) {
	for _, p := range law {
		if p > 0 {
			h -= p * math.Log2(p)
		}
	}
	return h
}

// laws of one home's energy in steps 0..12.
var laws = map[string][]float64{
	"even":  {.1, .1, .1, .1, .1, .1, .1, .1, .1, .1, 0, 0, 0},
	"rare":  {.98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, .02},
	"two":   {.5, 0, 0, 0, 0, 0, 0, .5, 0, 0, 0, 0, 0},
	"bell":  {.0002, .0029, .0161, .0537, .1208, .1934, .2258, .1934, .1208, .0537, .0161, .0029, .0002},
	"fixed": {0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
}

// TestASumTellsNoMoreThanItsBound compares with the mutual information of one home
// and the sum, H(sum) - H(sum of the others), counted over every outcome.
func TestASumTellsNoMoreThanItsBound(t *testing.T) {
	for name, law := range laws {
		others := []float64{1}
		last := math.Inf(1)
		for n := 1; n <= 30; n++ {
			all := add(others, law)
			exact := entropy(all) - entropy(others)
			bound := SumBits(n, 12)
			if exact > bound+1e-9 {
				t.Errorf("%s, %d homes: one home tells %.4f bits, the bound is %.4f", name, n, exact, bound)
			}
			if bound > last {
				t.Errorf("%d homes: a bound of %.4f, one home less has %.4f", n, bound, last)
			}
			if a := AlikeBits(n); n >= 20 && (name == "bell" || name == "even") && math.Abs(a-exact) > .02*exact {
				t.Errorf("%s, %d homes: by model %.4f bits, counted %.4f", name, n, a, exact)
			}
			others, last = all, bound
		}
	}
}

// TestHomesThatDifferShareTheBound: the mean over homes that are not alike stays
// below it, and one of them can be above.
func TestHomesThatDifferShareTheBound(t *testing.T) {
	homes := [][]float64{laws["even"], laws["rare"], laws["two"], laws["fixed"], laws["even"], laws["rare"], laws["fixed"], laws["fixed"]}
	all := []float64{1}
	for _, h := range homes {
		all = add(all, h)
	}
	mean, most := 0., 0.
	for i := range homes {
		others := []float64{1}
		for j, h := range homes {
			if j != i {
				others = add(others, h)
			}
		}
		bits := entropy(all) - entropy(others)
		mean, most = mean+bits/float64(len(homes)), max(most, bits)
	}
	if bound := SumBits(len(homes), 12); mean > bound {
		t.Errorf("a mean of %.3f bits, the bound is %.3f", mean, bound)
	}
	if most <= mean {
		t.Errorf("homes that differ tell the same, %.3f and %.3f bits", most, mean)
	}
}

func TestMoreHomesNeverTellMore(t *testing.T) {
	for n := 2; n < 400; n++ {
		if a, b := AlikeBits(n), AlikeBits(n+1); b >= a {
			t.Errorf("%d homes: %.5f bits by model, one more %.5f", n, a, b)
		}
		if a, b := SumBits(n, 16383), SumBits(n+1, 16383); b >= a {
			t.Errorf("%d homes: %.5f bits, one more %.5f", n, a, b)
		}
	}
	if !math.IsInf(AlikeBits(1), 1) || SumBits(0, 5) != 0 || SumBits(1, 7) != 3 {
		t.Errorf("single homes: %v %v %v", AlikeBits(1), SumBits(0, 5), SumBits(1, 7))
	}
}
