package kernel

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"
)

var laws = map[string][]float64{
	"Bern(.5)": {.5, .5}, "Bern(.1)": {.9, .1}, "Unif 0..4": {.2, .2, .2, .2, .2},
	"G": {.5, .25, .125, .0625, .0625}, "K": {.8, .1, .05, .03, .02},
}

func TestLimitTable(t *testing.T) {
	sizes := []int{0, 1, 2, 3, 4, 5, 6, 8, 10, 16, 20, 32, 50, 100}
	table := map[string][]float64{
		"Bern(.5)":  {1.00000, .50000, .30576, .20752, .15045, .11422, .08974, .05966, .04254, .01981, .01350, .00582, .00254, .00067},
		"Bern(.1)":  {.46900, .21811, .12856, .08518, .06070, .04548, .03537, .02315, .01633, .00746, .00505, .00215, .00093, .00024},
		"Unif 0..4": {2.32193, 1.52193, 1.10079, .83638, .65748, .53190, .43975, .31571, .23802, .12276, .08712, .04025, .01839, .00510},
		"G":         {1.87500, 1.20549, .86420, .65341, .51054, .41069, .33790, .24066, .18028, .09177, .06475, .02960, .01342, .00369},
		"K":         {1.07048, .70033, .50500, .38095, .29539, .23612, .19318, .13625, .10126, .05071, .03553, .01603, .00720, .00196},
	}
	for name, want := range table {
		for i, c := range sizes {
			if c > 32 && testing.Short() {
				continue
			}
			bits, lower, _, err := Limit(laws[name], c, 1e-6)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(bits-want[i]) > 1e-5 || bits-lower > 1e-6 || lower > bits+1e-12 {
				t.Errorf("%s c=%d: got %.6f, certified above %.6f, want %.5f", name, c, bits, lower, want[i])
			}
		}
	}
}

func TestClosedForm(t *testing.T) {
	for c := range 20 {
		bits, _, _, err := Limit(laws["Bern(.5)"], c, 1e-8)
		if want := -math.Log2(math.Cos(math.Pi / float64(c+3))); err != nil || math.Abs(bits-want) > 1e-7 {
			t.Errorf("c=%d: got %.9f, want %.9f (%v)", c, bits, want, err)
		}
	}
}

func TestOptimalStoreLaw(t *testing.T) {
	for name, want := range map[string][]float64{"Bern(.5)": {.27639, .44721, .27639}, "G": {.26557, .37671, .35772}} {
		_, _, theta, err := Limit(laws[name], 2, 1e-9)
		if err != nil {
			t.Fatal(err)
		}
		for s := range want {
			if math.Abs(theta[s]-want[s]) > 1e-4 {
				t.Errorf("%s: theta(%d) = %.5f, want %.5f", name, s, theta[s], want[s])
			}
		}
	}
}

func TestMarkovVectors(t *testing.T) {
	sizes := []int{1, 2, 4, 8}
	for stay, want := range map[float64][]float64{
		.25: {.3170, .1700, .0723, .0251}, .75: {.5287, .3794, .2272, .1103},
		.9: {.3678, .3024, .2200, .1360}, .95: {.2414, .2106, .1688, .1202},
	} {
		for i, c := range sizes {
			ch := Chain{Q: [][]float64{{stay, 1 - stay}, {1 - stay, stay}}}
			k, err := Solve(context.Background(), ch, c, Opts{Rounds: 200, Tolerance: 1e-8})
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(k.U-want[i]) > 4e-4 {
				t.Errorf("stay %.2f, c=%d: got %.4f, want %.4f after %d rounds", stay, c, k.U, want[i], k.Rounds)
			}
		}
	}
}

func TestIndependentDemandReachesTheLimit(t *testing.T) {
	for _, c := range []int{2, 6} {
		k, err := Solve(context.Background(), Independent(laws["G"]), c, Opts{Rounds: 300, Tolerance: 1e-9})
		if err != nil {
			t.Fatal(err)
		}
		bits, _, _, err := Limit(laws["G"], c, 1e-7)
		if err != nil || k.U < bits-1e-6 || k.U > bits+5e-4 {
			t.Errorf("c=%d: kernel %.5f, limit %.5f (%v)", c, k.U, bits, err)
		}
	}
}

func TestRowsAreLawsThatNeverLeaveTheStore(t *testing.T) {
	k, err := Solve(context.Background(), Prior(2, 6), 20, Opts{})
	if err != nil {
		t.Fatal(err)
	}
	a := make([]float64, k.Mx+1)
	for last := range k.Mx + 1 {
		for x := range k.Mx + 1 {
			for s := range k.Ms + 1 {
				k.Row(0, last, x, s, a)
				sum := 0.
				for y, v := range a {
					sum += v
					if j := s - x + y; v > 0 && (j < 0 || j > k.Ms) {
						t.Fatalf("row (%d,%d,%d) gives level %d, store %d of %d", last, x, s, y, j, k.Ms)
					}
				}
				if math.Abs(sum-1) > 1e-9 {
					t.Fatalf("row (%d,%d,%d) sums to %v", last, x, s, sum)
				}
			}
		}
	}
	k.Row(-3, -5, 99, -1, a) // clipped, not panicking
}

func TestBadModelsAreRefused(t *testing.T) {
	for name, ch := range map[string]Chain{
		"empty": {}, "ragged": {Q: [][]float64{{1}, {.5, .5}}}, "negative": {Q: [][]float64{{2, -1}, {.5, .5}}},
		"not finite": {Q: [][]float64{{math.NaN(), 1}, {.5, .5}}}, "sum": {Q: [][]float64{{.5, .4}, {.5, .5}}},
		"levels of fewer states": {Q: [][]float64{{1, 0}, {.5, .5}}, Level: []int{0}}, "level below zero": {Q: [][]float64{{1, 0}, {.5, .5}}, Level: []int{0, -1}},
	} {
		if _, err := Solve(context.Background(), ch, 5, Opts{}); !errors.Is(err, ErrBadChain) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, _, _, err := Limit(nil, 3, 1e-6); !errors.Is(err, ErrBadChain) {
		t.Errorf("empty law: got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Solve(ctx, Prior(2, 6), 20, Opts{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

// macs does n multiply-adds over rows of a kernel's size: what Solve and Rate would
// take if nothing but arithmetic cost time.
func macs(n int) float64 {
	row, add := make([]float64, 191), make([]float64, 191)
	for i := range row {
		row[i], add[i] = float64(i), 1/float64(i+1)
	}
	for done := 0; done < n; done += len(row) {
		q := 1 / float64(done+1)
		for i := range row {
			row[i] += q * add[i]
		}
	}
	return row[7]
}

// yardstick is the time of n multiply-adds.
func yardstick(n int) time.Duration {
	start := time.Now()
	sink += macs(n)
	return time.Since(start)
}

var sink float64

func BenchmarkMACLoop(b *testing.B) {
	const n = 10_000_000
	for b.Loop() {
		sink += macs(n)
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/n, "ns/MAC")
}

func BenchmarkSolve(b *testing.B) {
	for name, o := range map[string]Opts{"T=5": {}, "T=15,slots=96": {Cost: make([][]float64, 96), Lambda: 4}} {
		ch, ms := Prior(2.5, 9), 190
		if o.Cost != nil {
			ms = 40
			for slot := range o.Cost {
				o.Cost[slot] = make([]float64, 10)
				for y := range o.Cost[slot] {
					o.Cost[slot][y] = .001 * float64(y*(slot/24))
				}
			}
		}
		b.Run(name, func(b *testing.B) {
			var took, ideal time.Duration
			for b.Loop() {
				start := time.Now()
				k, err := Solve(context.Background(), ch, ms, o)
				if err != nil {
					b.Fatal(err)
				}
				took += time.Since(start)
				ideal += yardstick(k.work)
			}
			b.ReportMetric(float64(took)/float64(ideal), "x-of-MACLoop")
		})
	}
}

func BenchmarkTrellis(b *testing.B) {
	ch := Regime(walk(4000, 1), 9, 5)
	k, err := Solve(context.Background(), Prior(2.5, 9), 190, Opts{Rounds: 1})
	if err != nil {
		b.Fatal(err)
	}
	const blocks = 1000
	states := len(ch.Q)
	var took, ideal time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := Rate(context.Background(), ch, k, 190, blocks, 1); err != nil {
			b.Fatal(err)
		}
		took += time.Since(start)
		ideal += yardstick(blocks * states * states * 191)
	}
	b.ReportMetric(float64(took)/float64(ideal), "x-of-MACLoop")
}

func BenchmarkLimit(b *testing.B) {
	for _, c := range []int{10, 100} {
		b.Run(fmt.Sprintf("c=%d", c), func(b *testing.B) {
			for b.Loop() {
				if _, _, _, err := Limit(laws["G"], c, 1e-5); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestUNeverRises: more rounds of policy and reference law never raise the bound, and
// one that is broken off at any of them is a law.
func TestUNeverRises(t *testing.T) {
	for _, ch := range []Chain{Prior(2, 6), Fit(walk(3000, 2), 5, 4000)} {
		last := math.Inf(1)
		for rounds := 1; rounds <= 8; rounds++ {
			k, err := Solve(context.Background(), ch, 20, Opts{Rounds: rounds})
			if err != nil {
				t.Fatal(err)
			}
			if !(k.U <= last+1e-9) || k.U <= 0 {
				t.Errorf("%d rounds: bound %.6f after %.6f", rounds, k.U, last)
			}
			last = k.U
		}
	}
}
