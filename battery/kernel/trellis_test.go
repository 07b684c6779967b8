package kernel

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// same shows the demand itself.
type same struct{}

func (same) Slots() int { return 1 }
func (same) Row(_, _, x, _ int, a []float64) {
	clear(a)
	a[x] = 1
}

// free shows any level that the store allows, whatever the demand; the store is
// large enough for a path that never reaches its ends.
type free struct{}

func (free) Slots() int { return 1 }
func (free) Row(_, _, _, _ int, a []float64) {
	for y := range a {
		a[y] = 1 / float64(len(a))
	}
}

func mustRate(t *testing.T, ch Chain, k Law, ms, n int, seed uint64) Leakage {
	t.Helper()
	l, err := Rate(context.Background(), ch, k, ms, n, seed)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func entropyRate(ch Chain) float64 {
	h := 0.
	for x, p := range ch.Stationary() {
		h += p * entropy(ch.Q[x]) / math.Ln2
	}
	return h
}

// TestTrellisKnownRates: a meter that shows the demand leaks its entropy, one that
// is drawn without it nothing, and the mean over all meters of a short path is what
// counting every path gives.
func TestTrellisKnownRates(t *testing.T) {
	for name, ch := range map[string]Chain{
		"independent": Independent(laws["G"]), "sticky": Prior(2, 5),
	} {
		l := mustRate(t, ch, same{}, 4, 30_000, 1)
		if want := entropyRate(ch); math.Abs(l.Bits-want) > 4*l.Err+.003 || l.Err <= 0 {
			t.Errorf("%s shown as it is: %.4f bits, entropy %.4f, error %.4f", name, l.Bits, want, l.Err)
		}
		hidden := Regime(walk(4000, 3), 4, 5)
		if l := mustRate(t, hidden, same{}, 4, 6000, 1); l.Bits > entropyRate(hidden) || l.Bits < entropyRate(hidden)/2 {
			t.Errorf("levels of two regimes: %.4f bits, levels and regimes have %.4f", l.Bits, entropyRate(hidden))
		}
		if l := mustRate(t, ch, free{}, 4000, 600, 1); math.Abs(l.Bits) > 1e-6 {
			t.Errorf("%s, drawn without it: %.7f bits", name, l.Bits)
		}
	}
}

// walk is a demand with regimes, in quanta.
func walk(n int, seed uint64) []float64 {
	r := rand.New(rand.NewPCG(seed, 2))
	v, base := make([]float64, n), 1.
	for i := range v {
		if r.IntN(60) == 0 {
			base = 4 - base
		}
		v[i] = max(0, base+r.NormFloat64())
	}
	return v
}

// TestTrellisAgainstCounting compares the observer's estimate along a path with the
// probabilities of all paths of six blocks.
func TestTrellisAgainstCounting(t *testing.T) {
	ch := Chain{Q: [][]float64{{.7, .2, .1}, {.3, .5, .2}, {.25, .25, .5}}}
	const ms, blocks = 3, 6
	k, err := Solve(context.Background(), ch, ms, Opts{})
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(20) {
		tr := newTrellis(ch, k, ms, seed)
		var xs, ys []int
		told := 0.
		for range blocks {
			xs = append(xs, tr.state)
			told += tr.step(0)
			ys = append(ys, tr.last)
		}
		// p(y|x) of this path over p(y), both by counting
		given := meterGiven(k, ms, xs, ys)
		all := 0.
		demand := make([]int, blocks)
		px := ch.Stationary()
		var count func(at int, p float64)
		count = func(at int, p float64) {
			if at == blocks {
				all += p * meterGiven(k, ms, demand, ys)
				return
			}
			for z := range ch.Q {
				demand[at] = z
				if at == 0 {
					count(1, px[z])
				} else {
					count(at+1, p*ch.Q[demand[at-1]][z])
				}
			}
		}
		count(0, 1)
		if want := math.Log2(given / all); math.Abs(told-want) > 1e-5 {
			t.Errorf("path %d: the trellis says %.8f bits, counting %.8f", seed, told, want)
		}
	}
}

// meterGiven is the probability of a meter given the demand.
func meterGiven(k *Kernel, ms int, xs, ys []int) float64 {
	p, last, i := 1., 0, ms/2
	a := make([]float64, k.Mx+1)
	for b, x := range xs {
		k.Row(0, last, x, i, a)
		p *= a[ys[b]]
		if p == 0 {
			return 0
		}
		last, i = ys[b], i-x+ys[b]
	}
	return p
}

// TestBoundHolds: on random chains and stores the measured rate of a solved kernel is
// at most its bound, and for most of them not far below.
func TestBoundHolds(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	tight := 0
	const chains = 200
	for n := range chains {
		nx := 2 + r.IntN(4)
		ch := Chain{Q: make([][]float64, nx)}
		for x := range ch.Q {
			ch.Q[x] = make([]float64, nx)
			for z := range ch.Q[x] {
				ch.Q[x][z] = .02 + math.Pow(r.Float64(), 4)
			}
			ch.Q[x][x] += 2 * r.Float64()
			normalise(ch.Q[x])
		}
		ms := 1 + r.IntN(12)
		k, err := Solve(context.Background(), ch, ms, Opts{})
		if err != nil {
			t.Fatal(err)
		}
		l := mustRate(t, ch, k, ms, 6000, uint64(n))
		if l.Bits > k.U+3*l.Err+1e-9 {
			t.Errorf("chain %d, %d levels, %d quanta: %.5f bits leak, bound %.5f, error %.5f", n, nx, ms, l.Bits, k.U, l.Err)
		}
		if l.Bits > .6*k.U {
			tight++
		}
	}
	if tight < chains/2 {
		t.Errorf("%d of %d rates are above .6 of their bounds: the bound says little", tight, chains)
	}
}

// TestAKernelMayKnowRegimes: solved for states of which several have one level, a kernel
// tells less than one for levels alone and no more than its bound, and where states are
// levels it is the same.
func TestAKernelMayKnowRegimes(t *testing.T) {
	demand := walk(6000, 3)
	const mx, ms = 4, 20
	ch := Regime(demand, mx, 5)
	aware, err := Solve(context.Background(), ch, ms, Opts{})
	if err != nil {
		t.Fatal(err)
	}
	blind, err := Solve(context.Background(), Count(demand, mx, .02), ms, Opts{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := mustRate(t, ch, aware, ms, 20_000, 1), mustRate(t, ch, blind, ms, 20_000, 1)
	if a.Bits > aware.U+3*a.Err || a.Bits > b.Bits {
		t.Errorf("knowing regimes %.4f bits leak (bound %.4f), without %.4f", a.Bits, aware.U, b.Bits)
	}
	named := Count(demand, mx, .02)
	named.Level = []int{0, 1, 2, 3, 4}
	same, err := Solve(context.Background(), named, ms, Opts{})
	if err != nil || same.U != blind.U {
		t.Errorf("levels named: bound %.6f, without names %.6f (%v)", same.U, blind.U, err)
	}
}

func TestOddPathsAreRefused(t *testing.T) {
	ch := Prior(1, 3)
	for name, f := range map[string]func() error{
		"short":   func() error { _, err := Rate(context.Background(), ch, same{}, 3, 5, 1); return err },
		"store":   func() error { _, err := Rate(context.Background(), ch, same{}, -1, 5000, 1); return err },
		"chain":   func() error { _, err := Rate(context.Background(), Chain{}, same{}, 3, 5000, 1); return err },
		"a kernel of other states": func() error {
			k, err := Solve(context.Background(), Regime(walk(400, 1), 3, 5), 9, Opts{Rounds: 1})
			if err != nil {
				t.Fatal(err)
			}
			_, err = Rate(context.Background(), ch, k, 9, 5000, 1)
			return err
		},
	} {
		if f() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Rate(ctx, ch, same{}, 3, 5000, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}
