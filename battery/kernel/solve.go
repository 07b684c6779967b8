package kernel

import (
	"context"
	"fmt"
	"math"
)

// Opts bounds the work of Solve; zero values mean the defaults.
type Opts struct {
	Rounds    int     // alternations of policy and reference law, default 8
	Sweeps    int     // value iterations per round, default 4000
	Tolerance float64 // span of the value iteration, default 1e-6
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
	return o
}

// Kernel is a solved policy: the law of the next block's meter level y given
// the last meter level, the demand and the store.
type Kernel struct {
	Mx, Ms int
	Q, R   [][]float64 // demand chain; reference law of the meter
	V      []float32   // value of (y', x, s), flattened
	U      float64     // bound on the leakage, bits per block
	Rounds int
	Closed bool // false when value iteration stopped at its limit
}

// Solve finds a kernel for demand chain ch and a store of 0..ms quanta.
//
// For any reference law R of the meter, the leakage rate is at most the mean of
// log a(y|x,s,y')/R(y|y'). That is minimised over a, exactly, as an average-cost
// decision problem, and over R, a marginal, in turn; the bound never rises. A
// level that would leave the store is forbidden, not penalised, and y = x is
// always open. It returns ctx's error when cancelled.
func Solve(ctx context.Context, ch Chain, ms int, o Opts) (*Kernel, error) {
	if err := ch.Check(); err != nil {
		return nil, err
	}
	mx := len(ch.Q) - 1
	if mx > MaxLevel || ms < 0 || ms > MaxStore {
		return nil, fmt.Errorf("kernel of %d levels and %d quanta: at most %d and %d", mx, ms, MaxLevel, MaxStore)
	}
	o = o.filled()
	s := newSolver(ch, ms)
	best := math.Inf(1)
	k := &Kernel{Mx: mx, Ms: ms, Q: ch.Q, Closed: true}
	for k.Rounds < o.Rounds {
		closed, err := s.value(ctx, o)
		if err != nil {
			return nil, err
		}
		joint, err := s.forward(ctx)
		if err != nil {
			return nil, err
		}
		u, r := s.bound(joint)
		if u >= best-1e-9 {
			break
		}
		k.Rounds++
		k.U, k.R, k.Closed = u, r, k.Closed && closed
		k.V = s.float32s()
		gain := best - u
		best = u
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
	k.V = s.float32s()
	return k, nil
}

// MaxLevel and MaxStore bound a kernel: 25 levels keep a row in two cache lines.
const (
	MaxLevel = 24
	MaxStore = 4096
)

type solver struct {
	nx, ns int
	q, r   [][]float64
	v, g   []float64 // v[y'][x][s], g[y][x][s']
	e      []float64 // exp(-(g - low))
}

func newSolver(ch Chain, ms int) *solver {
	nx, ns := len(ch.Q), ms+1
	n := nx * nx * ns
	s := &solver{nx: nx, ns: ns, q: ch.Q, v: make([]float64, n), g: make([]float64, n), e: make([]float64, n)}
	s.r = make([][]float64, nx)
	for y := range s.r {
		s.r[y] = append([]float64(nil), ch.Q[y]...)
		for i := range s.r[y] {
			s.r[y][i] += 1e-12
		}
		normalise(s.r[y])
	}
	return s
}

func (s *solver) at(y, x int) int { return (y*s.nx + x) * s.ns }

// value iterates to the value function of the present reference law.
func (s *solver) value(ctx context.Context, o Opts) (closed bool, err error) {
	next := make([]float64, len(s.v))
	for sweep := range o.Sweeps {
		if sweep%16 == 0 && ctx.Err() != nil {
			return false, ctx.Err()
		}
		s.ahead()
		lo, hi := math.Inf(1), math.Inf(-1)
		for y := range s.nx {
			s.back(y, next)
		}
		for i, v := range next {
			d := v - s.v[i]
			lo, hi = min(lo, d), max(hi, d)
		}
		ref := next[s.ns/2]
		for i := range next {
			s.v[i] = next[i] - ref
		}
		if hi-lo < o.Tolerance {
			s.ahead()
			return true, nil
		}
	}
	s.ahead()
	return false, nil
}

// ahead computes g, the value of the next block, and its exponentials.
func (s *solver) ahead() {
	for y := range s.nx {
		for x := range s.nx {
			row := s.g[s.at(y, x) : s.at(y, x)+s.ns]
			clear(row)
			for z, qz := range s.q[x] {
				if qz == 0 {
					continue
				}
				v := s.v[s.at(y, z) : s.at(y, z)+s.ns]
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
func (s *solver) back(last int, out []float64) {
	for x := range s.nx {
		row := out[s.at(last, x) : s.at(last, x)+s.ns]
		clear(row)
		for y, ry := range s.r[last] {
			e := s.e[s.at(y, x) : s.at(y, x)+s.ns]
			from, to := max(0, x-y), min(s.ns, s.ns+x-y)
			shift := y - x
			for i := from; i < to; i++ {
				row[i] += ry * e[i+shift]
			}
		}
		for i, v := range row {
			if v > 1e-280 && v < 1e280 {
				row[i] = -math.Log(v)
			} else {
				row[i] = s.careful(last, x, i)
			}
		}
	}
}

func (s *solver) careful(last, x, i int) float64 {
	low := math.Inf(1)
	for y := range s.nx {
		if j := i - x + y; j >= 0 && j < s.ns {
			low = min(low, s.g[s.at(y, x)+j])
		}
	}
	sum := 0.
	for y, ry := range s.r[last] {
		if j := i - x + y; j >= 0 && j < s.ns {
			sum += ry * math.Exp(low-s.g[s.at(y, x)+j])
		}
	}
	return low - math.Log(max(sum, 1e-300))
}

// law fills a with the kernel's row; entries that would leave the store are 0.
func (s *solver) law(last, x, i int, a []float64) {
	low := math.Inf(1)
	for y := range a {
		if j := i - x + y; j >= 0 && j < s.ns {
			low = min(low, s.g[s.at(y, x)+j])
		}
	}
	for y := range a {
		a[y] = 0
		if j := i - x + y; j >= 0 && j < s.ns {
			a[y] = s.r[last][y] * math.Exp(low-s.g[s.at(y, x)+j])
		}
	}
	normalise(a)
}

// forward finds the stationary law of (y', x, s) under the kernel.
func (s *solver) forward(ctx context.Context) ([]float64, error) {
	n := len(s.v)
	laws := make([]float64, n*s.nx)
	for last := range s.nx {
		for x := range s.nx {
			for i := range s.ns {
				at := s.at(last, x) + i
				s.law(last, x, i, laws[at*s.nx:(at+1)*s.nx])
			}
		}
	}
	p, next := make([]float64, n), make([]float64, n)
	for i := range p {
		p[i] = 1 / float64(n)
	}
	half := make([]float64, n) // (y, x, s') before the next demand
	for step := range 20_000 {
		if step%16 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.flow(p, laws, half, next)
		change := 0.
		for i := range p {
			next[i] = (next[i] + p[i]) / 2 // lazy step: periodic chains settle too
			change += math.Abs(next[i] - p[i])
		}
		p, next = next, p
		if change < 1e-6/2 {
			break
		}
	}
	return p, nil
}

func (s *solver) flow(p, laws, half, next []float64) {
	clear(half)
	clear(next)
	for last := range s.nx {
		for x := range s.nx {
			base := s.at(last, x)
			for i := range s.ns {
				w := p[base+i]
				if w < 1e-18 {
					continue
				}
				a := laws[(base+i)*s.nx : (base+i+1)*s.nx]
				for y, ay := range a {
					if ay > 0 {
						half[s.at(y, x)+i-x+y] += w * ay
					}
				}
			}
		}
	}
	for y := range s.nx {
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

// bound re-fits the reference law to the joint law of (y', y) and gives the
// leakage bound, in bits, under the new one.
func (s *solver) bound(p []float64) (bits float64, r [][]float64) {
	r = make([][]float64, s.nx)
	gain := 0. // E log a
	a := make([]float64, s.nx)
	for last := range s.nx {
		r[last] = make([]float64, s.nx)
		for x := range s.nx {
			for i := range s.ns {
				w := p[s.at(last, x)+i]
				if w == 0 {
					continue
				}
				s.law(last, x, i, a)
				for y, ay := range a {
					if ay > 0 {
						r[last][y] += w * ay
						gain += w * ay * math.Log(ay)
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
	return gain / math.Ln2, r
}

func (s *solver) float32s() []float32 {
	out := make([]float32, len(s.v))
	for i, v := range s.v {
		out[i] = float32(v)
	}
	return out
}

// Row fills a, of length Mx+1, with the law of the next meter level given the
// last meter level, the demand level and the store. Arguments outside their
// ranges are clipped.
func (k *Kernel) Row(last, x, i int, a []float64) {
	clip := func(v, top int) int { return min(max(v, 0), top) }
	last, x, i = clip(last, k.Mx), clip(x, k.Mx), clip(i, k.Ms)
	nx, ns := k.Mx+1, k.Ms+1
	low := math.Inf(1)
	for y := range a {
		a[y] = math.Inf(1)
		j := i - x + y
		if j < 0 || j >= ns {
			continue
		}
		g := 0.
		for z, qz := range k.Q[x] {
			g += qz * float64(k.V[(y*nx+z)*ns+j])
		}
		a[y] = g
		low = min(low, g)
	}
	for y, g := range a {
		if math.IsInf(g, 1) {
			a[y] = 0
			continue
		}
		a[y] = k.R[last][y] * math.Exp(low-g)
	}
	normalise(a)
}
