package kernel

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Law is a masking policy with a finite memory: the law of the next meter level
// given the last one, the demand and the store. [Kernel], [Hold], [Stepping] and
// [Shadow] are laws.
type Law interface {
	// Slots is how many blocks of the day it distinguishes.
	Slots() int
	// Row fills a with probabilities of levels 0..len(a)-1; levels that would leave
	// the store have none. x is the demand's level, or the chain's state for a Kernel that
	// was solved for one with Level.
	Row(slot, last, x, i int, a []float64)
}

// Leakage is what a policy gives away of a demand, in bits per block.
type Leakage struct {
	Bits float64
	Err  float64 // its standard error, as the rate is that of a sampled path
}

// trellisBatches is how many pieces of a path the error is estimated from.
const trellisBatches = 30

// leastBlocks and mostBlocks bound a path.
const (
	leastBlocks = 10 * trellisBatches
	mostBlocks  = 10_000_000
)

// Rate is the information that the meter gives about the demand, per block, when
// law k runs on chain ch with a store of 0..ms quanta: the mean over a sampled path
// of n blocks, with an observer who knows chain, law and the store at the start.
// 12,000 blocks give a standard error of about a percent.
//
// Source: Varodayan and Khisti 2011. It returns ErrBadChain, an error for sizes out
// of range, or ctx's when cancelled.
func Rate(ctx context.Context, ch Chain, k Law, ms, n int, seed uint64) (Leakage, error) {
	if err := ch.Check(); err != nil {
		return Leakage{}, err
	}
	if ms < 0 || ms > MaxStore || n < leastBlocks || n > mostBlocks || k.Slots() < 1 || k.Slots() > MaxSlots {
		return Leakage{}, fmt.Errorf("path of %d blocks over %d quanta and %d slots: want %d to %d blocks, at most %d quanta and %d slots", n, ms, k.Slots(), leastBlocks, mostBlocks, MaxStore, MaxSlots)
	}
	if law, ok := k.(*Kernel); ok && law.Level != nil && !slices.Equal(law.Level, ch.Level) {
		return Leakage{}, fmt.Errorf("%w: a kernel that knows its chain's states, on another chain", ErrBadChain)
	}
	t := newTrellis(ch, k, ms, seed)
	var sums, counts [trellisBatches]float64
	for i := range n {
		if i%64 == 0 && ctx.Err() != nil {
			return Leakage{}, ctx.Err()
		}
		b := i * trellisBatches / n
		sums[b] += t.step(i % k.Slots())
		counts[b]++
	}
	var out Leakage
	for _, s := range sums {
		out.Bits += s / float64(n)
	}
	for b, s := range sums {
		d := s/counts[b] - out.Bits
		out.Err += d * d
	}
	out.Err = math.Sqrt(out.Err / (trellisBatches * (trellisBatches - 1)))
	return out, nil
}

// trellis is the observer's knowledge of state and store, along a sampled path.
type trellis struct {
	ch     Chain
	ny, ns int
	nx     int   // what the law tells apart: levels, or states
	seen   []int // which of them a state is
	k      Law
	tables [][]float32 // by slot and last level, [y][x][s]; nil before its first use
	rnd    *rand.Rand

	last, state, store int       // of the path
	alpha, half        []float64 // [state][s]
	row                []float64
}

func newTrellis(ch Chain, k Law, ms int, seed uint64) *trellis {
	ny := ch.top() + 1
	t := &trellis{ch: ch, ny: ny, ns: ms + 1, k: k, tables: make([][]float32, k.Slots()*ny), store: ms / 2,
		rnd: rand.New(rand.NewPCG(seed, 1)), row: make([]float64, ny)}
	t.nx, t.seen = ny, make([]int, len(ch.Q))
	for z := range t.seen {
		t.seen[z] = ch.level(z)
	}
	if law, ok := k.(*Kernel); ok && law.Level != nil {
		t.nx = len(ch.Q)
		for z := range t.seen {
			t.seen[z] = z
		}
	}
	t.alpha, t.half = make([]float64, len(ch.Q)*t.ns), make([]float64, len(ch.Q)*t.ns)
	p := ch.Stationary()
	for z, pz := range p {
		t.alpha[z*t.ns+t.store] = pz
	}
	t.state = t.draw(p)
	return t
}

func (t *trellis) draw(p []float64) int {
	u := t.rnd.Float64()
	last := 0
	for i, v := range p {
		if v > 0 {
			last = i
		}
		if u -= v; u < 0 {
			return i
		}
	}
	return last
}

// table is the law of a slot after a meter level, by level, demand and store.
func (t *trellis) table(slot, last int) []float32 {
	at := slot*t.ny + last
	if t.tables[at] == nil {
		tab := make([]float32, t.ny*t.nx*t.ns)
		for x := range t.nx {
			for i := range t.ns {
				t.k.Row(slot, last, x, i, t.row)
				for y, v := range t.row {
					tab[(y*t.nx+x)*t.ns+i] = float32(v)
				}
			}
		}
		t.tables[at] = tab
	}
	return t.tables[at]
}

// step walks one block and gives what it told the observer, in bits.
func (t *trellis) step(slot int) float64 {
	tab := t.table(slot, t.last)
	x, knows := t.ch.level(t.state), t.seen[t.state]
	for y := range t.row {
		t.row[y] = float64(tab[(y*t.nx+knows)*t.ns+t.store])
	}
	normalise(t.row)
	y := t.draw(t.row)
	sure := float64(tab[(y*t.nx+knows)*t.ns+t.store])

	seen := 0.
	clear(t.half)
	for z := range t.ch.Q {
		lev := t.ch.level(z)
		from := t.alpha[z*t.ns : (z+1)*t.ns]
		to := t.half[z*t.ns : (z+1)*t.ns]
		likely := tab[(y*t.nx+t.seen[z])*t.ns : (y*t.nx+t.seen[z]+1)*t.ns]
		shift := y - lev
		for i := max(0, -shift); i < min(t.ns, t.ns-shift); i++ {
			w := from[i] * float64(likely[i])
			to[i+shift] = w
			seen += w
		}
	}
	clear(t.alpha)
	for z, row := range t.ch.Q {
		from := t.half[z*t.ns : (z+1)*t.ns]
		for next, q := range row {
			if q /= seen; q > 0 {
				to := t.alpha[next*t.ns : (next+1)*t.ns]
				for i, w := range from {
					to[i] += w * q
				}
			}
		}
	}
	t.last, t.store = y, t.store-x+y
	t.state = t.draw(t.ch.Q[t.state])
	return math.Log2(sure / seen)
}

// Hold is the law that repeats the last meter level, or shows the nearest one that
// the store allows, the lower of two.
type Hold struct{ Ms int }

// Slots is 1.
func (Hold) Slots() int { return 1 }

// Row is certain of one level.
func (h Hold) Row(_, last, x, i int, a []float64) {
	clear(a)
	best, off := x, len(a)+1
	for y := range a {
		d := max(y-last, last-y)
		if j := i - x + y; j >= 0 && j <= h.Ms && d < off {
			best, off = y, d
		}
	}
	a[best] = 1
}

// Stepping is the law that shows nothing or the greatest level and changes only
// when the store forces it; where neither fits it shows the demand.
type Stepping struct{ Ms int }

// Slots is 1.
func (Stepping) Slots() int { return 1 }

// Row is certain of one level.
func (s Stepping) Row(_, last, x, i int, a []float64) {
	clear(a)
	fits := func(y int) bool { return i-x+y >= 0 && i-x+y <= s.Ms }
	mx := len(a) - 1
	other := 0
	if last == 0 {
		other = mx
	}
	switch {
	case (last == 0 || last == mx) && fits(last):
		a[last] = 1
	case fits(other):
		a[other] = 1
	default:
		a[x] = 1
	}
}

// Shadow is the law of the optimum for independent demand: it sees the store less
// the demand alone.
type Shadow struct{ p, theta []float64 }

// NewShadow is the optimum for independent demand of law p and a store of 0..ms.
func NewShadow(p []float64, ms int) (*Shadow, error) {
	_, _, theta, err := Limit(p, ms, 1e-5)
	if err != nil {
		return nil, err
	}
	return &Shadow{p, theta}, nil
}

// Slots is 1.
func (*Shadow) Slots() int { return 1 }

// Row draws y with probability p(y) theta(w+y) / W(w), w the store less the demand.
func (s *Shadow) Row(_, _, x, i int, a []float64) {
	for y := range a {
		a[y] = 0
		if j := i - x + y; j >= 0 && j < len(s.theta) && y < len(s.p) {
			a[y] = s.p[y] * s.theta[j]
		}
	}
	normalise(a)
}
