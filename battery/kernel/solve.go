package kernel

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// Opts bounds the work of Solve; zero values mean the defaults.
type Opts struct {
	Rounds    int     // alternations of policy and reference law, default 8
	Sweeps    int     // value iterations per round, default 4000
	Tolerance float64 // span of the value iteration, default 1e-6
	// Cost is what a meter level costs, by block of the day and level; its length is
	// the number of slots that the kernel distinguishes. Nil means one slot and no cost.
	Cost [][]float64
	// Lambda is how many bits a unit of cost is worth; zero ignores Cost.
	Lambda float64
}

func (o Opts) filled() Opts {
	if o.Rounds == 0 {
		o.Rounds = 8
	}
	if o.Sweeps == 0 {
		o.Sweeps = 4000
	}
	if o.Tolerance == 0 {
		o.Tolerance = 1e-6
	}
	if o.Cost == nil {
		o.Cost, o.Lambda = [][]float64{nil}, 0
	}
	return o
}

// Kernel is a solved policy: the law of the next block's meter level y given
// the last meter level, the demand and the store.
type Kernel struct {
	Mx, Ms int
	Q      [][]float64   // demand chain
	Level  []int         // demand of the chain's states; nil: they are levels
	R      [][][]float64 // reference law of the meter, one for each slot
	V      [][]float32   // value of (y', x, s), flattened, at the start of each slot
	U      float64       // bound on the leakage, bits per block
	Cost   float64       // expected by the model, per block
	Rounds int
	Closed bool // false when value iteration stopped at its limit

	price [][]float64 // Lambda*Cost in nats; nil without
	work  int         // multiply-adds that it took
}

// Slots is how many blocks of the day the kernel distinguishes, 1 or more.
func (k *Kernel) Slots() int { return len(k.R) }

// Solve finds a kernel for demand chain ch and a store of 0..ms quanta.
//
// For any reference law R of the meter, the leakage rate is at most the mean of
// log a(y|x,s,y')/R(y|y'). That, plus Lambda times the cost, is minimised over a,
// exactly, as an average-cost decision problem, and over R, a marginal, in turn;
// the sum never rises. A level that would leave the store is forbidden, not
// penalised, and y = x is always open. Where ch has Level, the kernel knows its states,
// not the levels alone. With costs by the block of the day both a
// and R are, so that the shape that a tariff gives the meter is public. It returns
// ErrBadChain, ErrBadCost, or ctx's error when cancelled.
func Solve(ctx context.Context, ch Chain, ms int, o Opts) (*Kernel, error) {
	if err := ch.Check(); err != nil {
		return nil, err
	}
	mx := ch.top()
	if mx > MaxLevel || ms < 0 || ms > MaxStore {
		return nil, fmt.Errorf("kernel of %d levels and %d quanta: at most %d and %d", mx, ms, MaxLevel, MaxStore)
	}
	o = o.filled()
	price, err := prices(o, mx)
	if err != nil {
		return nil, err
	}
	s := newSolver(ch, ms, price)
	best := math.Inf(1)
	k := &Kernel{Mx: mx, Ms: ms, Q: ch.Q, Level: ch.Level, Closed: true}
	if o.Lambda > 0 {
		k.price = price
	}
	for k.Rounds < o.Rounds {
		closed, err := s.value(ctx, o)
		if err != nil {
			return nil, err
		}
		u, paid, r, err := s.forward(ctx)
		if err != nil {
			return nil, err
		}
		if u+paid >= best-1e-9 {
			break
		}
		k.Rounds++
		k.U, k.R, k.Closed = u, r, k.Closed && closed
		if o.Lambda > 0 {
			k.Cost = paid / o.Lambda
		}
		gain := best - u - paid
		best = u + paid
		s.r = r
		if gain < 1e-5 {
			break
		}
	}
	// The last value function belongs to the reference law before this one; one
	// more pass makes the pair that runs the pair that was bounded, or better.
	if _, err := s.value(ctx, o); err != nil {
		return nil, err
	}
	k.V, k.work = s.float32s(), s.work
	return k, nil
}

// ErrBadCost means that costs are missing or not finite.
var ErrBadCost = errors.New("cost of a meter level is not a number")

// prices are the costs in nats.
func prices(o Opts, mx int) ([][]float64, error) {
	if !(o.Lambda >= 0) || math.IsInf(o.Lambda, 1) || len(o.Cost) > MaxSlots {
		return nil, fmt.Errorf("%w: lambda %g, %d slots: want lambda of 0 or more and at most %d slots", ErrBadCost, o.Lambda, len(o.Cost), MaxSlots)
	}
	out := make([][]float64, len(o.Cost))
	for slot, row := range o.Cost {
		out[slot] = make([]float64, mx+1)
		if o.Lambda == 0 {
			continue
		}
		if len(row) != mx+1 {
			return nil, fmt.Errorf("%w: slot %d has %d levels, want %d", ErrBadCost, slot, len(row), mx+1)
		}
		for y, c := range row {
			v := o.Lambda * math.Ln2 * c
			if math.IsNaN(v) || math.Abs(v) > maxPrice {
				return nil, fmt.Errorf("%w: slot %d, level %d: %g, worth %g nats, want at most %g", ErrBadCost, slot, y, c, v, float64(maxPrice))
			}
			out[slot][y] = v
		}
	}
	return out, nil
}

// MaxLevel, MaxStore and MaxSlots bound a kernel: 25 levels keep a row in two
// cache lines, and a day has 288 blocks of five minutes.
const (
	MaxLevel = 24
	MaxStore = 4096
	MaxSlots = 288
)

// maxPrice keeps values apart from each other in 64 bits, in nats a level.
const maxPrice = 1e3

type solver struct {
	nx, ns int // states, stores
	nl     int // levels
	level  []int
	q      [][]float64
	r      [][][]float64 // [slot][y'][y]
	price  [][]float64   // [slot][y], nats
	v      [][]float64   // [slot], each v[y'][x][s]
	g, e   []float64     // of one slot: g[y][x][s'], exp(-g)
	es     [][]float64   // [slot], e of each
	sums   [][]float64   // [slot], sum over y of r*e, by (y', x, s)
	p      []float64     // law of (y', x, s) at the day's start
	work   int           // multiply-adds so far
}

func newSolver(ch Chain, ms int, price [][]float64) *solver {
	nx, ns, nl := len(ch.Q), ms+1, ch.top()+1
	n := nl * nx * ns
	s := &solver{nx: nx, ns: ns, nl: nl, q: ch.Q, price: price, g: make([]float64, n), e: make([]float64, n), p: make([]float64, n)}
	for i := range s.p {
		s.p[i] = 1 / float64(n)
	}
	for x := range ch.Q {
		s.level = append(s.level, ch.level(x))
	}
	px := ch.Stationary()
	for range price {
		r := make([][]float64, nl)
		for y := range r {
			r[y] = make([]float64, nl)
			for i := range r[y] {
				r[y][i] = 1e-12
			}
		}
		for x, row := range ch.Q {
			for z, q := range row {
				r[s.level[x]][s.level[z]] += px[x] * q
			}
		}
		for y := range r {
			normalise(r[y])
		}
		s.r, s.v = append(s.r, r), append(s.v, make([]float64, n))
		s.es, s.sums = append(s.es, make([]float64, n)), append(s.sums, make([]float64, n))
	}
	return s
}

func (s *solver) at(y, x int) int { return (y*s.nx + x) * s.ns }

// value iterates to the value function of the present reference law, day by day
// backwards.
func (s *solver) value(ctx context.Context, o Opts) (closed bool, err error) {
	next := make([]float64, s.nl*s.nx*s.ns)
	for sweep := range o.Sweeps {
		if sweep%16 == 0 && ctx.Err() != nil {
			return false, ctx.Err()
		}
		lo, hi := math.Inf(1), math.Inf(-1)
		for slot := len(s.v) - 1; slot >= 0; slot-- {
			s.ahead(slot)
			for y := range s.nl {
				s.back(slot, y, next)
			}
			v := s.v[slot]
			for i, n := range next {
				d := n - v[i]
				lo, hi = min(lo, d), max(hi, d)
			}
			copy(v, next)
		}
		ref := s.v[0][s.ns/2]
		for _, v := range s.v {
			for i := range v {
				v[i] -= ref
			}
		}
		if hi-lo < o.Tolerance {
			return true, nil
		}
	}
	return false, nil
}

// ahead computes g, the value of the block after slot and the price of the level
// shown in it, and its exponentials.
func (s *solver) ahead(slot int) {
	after := s.v[(slot+1)%len(s.v)]
	s.work += s.nl * s.nx * s.nx * s.ns
	for y := range s.nl {
		for x := range s.nx {
			row := s.g[s.at(y, x) : s.at(y, x)+s.ns]
			c := s.price[slot][y]
			for i := range row {
				row[i] = c
			}
			for z, qz := range s.q[x] {
				if qz == 0 {
					continue
				}
				v := after[s.at(y, z) : s.at(y, z)+s.ns]
				for i := range row {
					row[i] += qz * v[i]
				}
			}
			e := s.e[s.at(y, x):]
			for i, g := range row {
				e[i] = math.Exp(-g)
			}
		}
	}
}

// back computes the value of every (y', x, s) for one y'. Values stay within a
// few nats of the reference state, so the exponentials neither overflow nor
// vanish; where they would, the sum is taken around its least term.
func (s *solver) back(slot, last int, out []float64) {
	s.work += s.nl * s.nx * s.ns
	for x := range s.nx {
		row := out[s.at(last, x) : s.at(last, x)+s.ns]
		clear(row)
		for y, ry := range s.r[slot][last] {
			e := s.e[s.at(y, x) : s.at(y, x)+s.ns]
			from, to, shift := s.window(x, y)
			for i := from; i < to; i++ {
				row[i] += ry * e[i+shift]
			}
		}
		for i, v := range row {
			if v > 1e-280 && v < 1e280 {
				row[i] = -math.Log(v)
			} else {
				row[i] = s.careful(slot, last, x, i)
			}
		}
	}
}

func (s *solver) careful(slot, last, x, i int) float64 {
	low := math.Inf(1)
	for y := range s.nl {
		if j := i - s.level[x] + y; j >= 0 && j < s.ns {
			low = min(low, s.g[s.at(y, x)+j])
		}
	}
	sum := 0.
	for y, ry := range s.r[slot][last] {
		if j := i - s.level[x] + y; j >= 0 && j < s.ns {
			sum += ry * math.Exp(low-s.g[s.at(y, x)+j])
		}
	}
	return low - math.Log(max(sum, 1e-300))
}

// forward finds the stationary law of (y', x, s) under the kernel, day by day from
// where the last round ended, and gives the leakage bound and the price, in bits per
// block, with the reference laws that fit it.
func (s *solver) forward(ctx context.Context) (bits, paid float64, r [][][]float64, err error) {
	for slot := range s.v {
		if err := s.prepare(slot); err != nil {
			return 0, 0, nil, err
		}
	}
	n := len(s.p)
	p, q, next, half := s.p, make([]float64, n), make([]float64, n), make([]float64, n)
	for day := range 20_000 {
		if day%16 == 0 && ctx.Err() != nil {
			return 0, 0, nil, ctx.Err()
		}
		copy(q, p)
		for slot := range s.v {
			s.flow(slot, q, half, next)
			q, next = next, q
		}
		change := 0.
		for i := range p {
			if len(s.v) == 1 {
				q[i] = (q[i] + p[i]) / 2 // lazy step: periodic chains settle too
			}
			change += math.Abs(q[i] - p[i])
		}
		p, q = q, p
		if change < 1e-6/2 {
			break
		}
	}
	s.p = append([]float64(nil), p...)
	for slot := range s.v {
		u, cost, fit := s.bound(slot, p)
		bits, paid, r = bits+u, paid+cost, append(r, fit)
		s.flow(slot, p, half, next)
		p, next = next, p
	}
	slots := float64(len(s.v))
	return bits / slots, paid / slots, r, nil
}

// prepare keeps a slot's exponentials and the sums that make them laws.
func (s *solver) prepare(slot int) error {
	s.ahead(slot)
	e, sum := s.es[slot], s.sums[slot]
	copy(e, s.e)
	clear(sum)
	for last := range s.nl {
		for x := range s.nx {
			row := sum[s.at(last, x) : s.at(last, x)+s.ns]
			for y, ry := range s.r[slot][last] {
				from, to, shift := s.window(x, y)
				ey := e[s.at(y, x) : s.at(y, x)+s.ns]
				for i := from; i < to; i++ {
					row[i] += ry * ey[i+shift]
				}
			}
			for _, v := range row {
				if !(v > 1e-290 && v < 1e290) {
					return fmt.Errorf("%w: the store is worth too much between two levels", ErrBadCost)
				}
			}
		}
	}
	return nil
}

// window is which stores can show y at demand x, and by how much that moves them.
func (s *solver) window(x, y int) (from, to, shift int) {
	x = s.level[x]
	return max(0, x-y), min(s.ns, s.ns+x-y), y - x
}

// flow moves the law p of (y', x, s) over one block of a slot.
func (s *solver) flow(slot int, p, half, next []float64) {
	clear(half)
	clear(next)
	s.work += 2 * s.nl * s.nx * s.nx * s.ns
	e, sum := s.es[slot], s.sums[slot]
	share := make([]float64, s.ns)
	for last := range s.nl {
		for x := range s.nx {
			at := s.at(last, x)
			for i := range share {
				share[i] = p[at+i] / sum[at+i]
			}
			for y, ry := range s.r[slot][last] {
				from, to, shift := s.window(x, y)
				h := half[s.at(y, x) : s.at(y, x)+s.ns]
				for i := from; i < to; i++ {
					h[i+shift] += ry * share[i]
				}
			}
		}
	}
	for i := range half {
		half[i] *= e[i]
	}
	for y := range s.nl {
		for x := range s.nx {
			from := half[s.at(y, x) : s.at(y, x)+s.ns]
			for z, qz := range s.q[x] {
				to := next[s.at(y, z) : s.at(y, z)+s.ns]
				for i, w := range from {
					to[i] += w * qz
				}
			}
		}
	}
}

// bound re-fits a slot's reference law to the joint law of (y', y) and gives the
// leakage bound under the new one and the price, in bits.
func (s *solver) bound(slot int, p []float64) (bits, paid float64, r [][]float64) {
	r = make([][]float64, s.nl)
	e, sum := s.es[slot], s.sums[slot]
	gain, cost := 0., 0. // E log a/r, E price
	for last := range s.nl {
		r[last] = make([]float64, s.nl)
		for x := range s.nx {
			at := s.at(last, x)
			for y, ry := range s.r[slot][last] {
				from, to, shift := s.window(x, y)
				ey := e[s.at(y, x) : s.at(y, x)+s.ns]
				for i := from; i < to; i++ {
					a := ry * ey[i+shift] / sum[at+i]
					if w := p[at+i] * a; w > 0 {
						r[last][y] += w
						gain += w * math.Log(a)
						cost += w * s.price[slot][y]
					}
				}
			}
		}
	}
	for last := range r {
		joint := append([]float64(nil), r[last]...)
		for y := range r[last] {
			r[last][y] += 1e-12
		}
		normalise(r[last])
		for y, w := range joint {
			gain -= w * math.Log(r[last][y])
		}
	}
	return gain / math.Ln2, cost / math.Ln2, r
}

func (s *solver) float32s() [][]float32 {
	out := make([][]float32, len(s.v))
	for slot, v := range s.v {
		out[slot] = make([]float32, len(v))
		for i, w := range v {
			out[slot][i] = float32(w)
		}
	}
	return out
}

// Row fills a, of length Mx+1, with the law of the meter level of the block in a
// slot given the last meter level, the chain's state x and the store. Levels and
// store outside their ranges are clipped, slots taken modulo Slots.
func (k *Kernel) Row(slot, last, x, i int, a []float64) {
	clip := func(v, top int) int { return min(max(v, 0), top) }
	last, x, i = clip(last, k.Mx), clip(x, len(k.Q)-1), clip(i, k.Ms)
	slots := len(k.R)
	slot = (slot%slots + slots) % slots
	after := k.V[(slot+1)%slots]
	nx, ns := len(k.Q), k.Ms+1
	level := x
	if k.Level != nil {
		level = k.Level[x]
	}
	low := math.Inf(1)
	for y := range a {
		a[y] = math.Inf(1)
		j := i - level + y
		if j < 0 || j >= ns {
			continue
		}
		g := 0.
		if k.price != nil {
			g = k.price[slot][y]
		}
		for z, qz := range k.Q[x] {
			g += qz * float64(after[(y*nx+z)*ns+j])
		}
		a[y] = g
		low = min(low, g)
	}
	for y, g := range a {
		if math.IsInf(g, 1) {
			a[y] = 0
			continue
		}
		a[y] = k.R[slot][last][y] * math.Exp(low-g)
	}
	normalise(a)
}
