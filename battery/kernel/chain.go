package kernel

import (
	"fmt"
	"math"
	"sort"
)

// Chain is a Markov model of a home's demand per block: Q[x][z] is the
// probability that state z follows state x. Level is the demand of each state, in
// quanta; nil means that states are levels.
type Chain struct {
	Q     [][]float64 `json:"q"`
	Level []int       `json:"level,omitempty"`
}

// top is the greatest level.
func (c Chain) top() int {
	if c.Level == nil {
		return len(c.Q) - 1
	}
	mx := 0
	for _, l := range c.Level {
		mx = max(mx, l)
	}
	return mx
}

func (c Chain) level(state int) int {
	if c.Level == nil {
		return state
	}
	return c.Level[state]
}

// Independent is the chain of independent demand with law p.
func Independent(p []float64) Chain {
	q := make([][]float64, len(p))
	for x := range q {
		q[x] = append([]float64(nil), p...)
	}
	return Chain{Q: q}
}

// Prior is the chain of a home that nobody has observed yet: sticky, with a
// geometric law of the given mean level on 0..mx.
func Prior(mean float64, mx int) Chain {
	p := make([]float64, mx+1)
	r := mean / (1 + mean)
	v := 1 - r
	for x := range p {
		p[x] = max(v, 1e-6)
		v *= r
	}
	normalise(p)
	c := Independent(p)
	for x, row := range c.Q {
		for z := range row {
			row[z] *= .3
		}
		row[x] += .7
	}
	return c
}

// Fit learns a chain of levels 0..mx from consecutive block demands, in quanta,
// oldest first. Demand is split between the neighbouring levels and each pair
// is spread a little, so that no transition is impossible. A transition halfLife
// blocks old counts half.
func Fit(demand []float64, mx int, halfLife float64) Chain {
	return fit(demand, mx, .02, halfLife, spreadInside)
}

func fit(demand []float64, mx int, extra, halfLife float64, spread func(q [][]float64, x, z int, weight float64)) Chain {
	q := make([][]float64, mx+1)
	for x := range q {
		q[x] = make([]float64, mx+1)
		for z := range q[x] {
			q[x][z] = extra
		}
	}
	for i := 1; i < len(demand); i++ {
		weight := math.Exp2(-float64(len(demand)-i) / halfLife)
		for _, from := range split(demand[i-1], mx) {
			for _, to := range split(demand[i], mx) {
				spread(q, from.level, to.level, weight*from.share*to.share)
			}
		}
	}
	for _, row := range q {
		normalise(row)
	}
	return Chain{Q: q}
}

// Count learns a chain of levels 0..mx by counting the nearest levels of consecutive
// block demands, in quanta; extra is added to each count. It is the yardstick of
// published tables, not a model to solve for.
func Count(demand []float64, mx int, extra float64) Chain {
	q := make([][]float64, mx+1)
	for x := range q {
		q[x] = make([]float64, mx+1)
		for z := range q[x] {
			q[x][z] = extra
		}
	}
	for i := 1; i < len(demand); i++ {
		q[nearest(demand[i-1], mx)][nearest(demand[i], mx)]++
	}
	for _, row := range q {
		normalise(row)
	}
	return Chain{Q: q}
}

func nearest(e float64, mx int) int { return int(min(max(math.RoundToEven(e), 0), float64(mx))) }

// Spread is [Fit] without forgetting: every pair counts alike, and extra is added
// to each count.
func Spread(demand []float64, mx int, extra float64) Chain {
	return fit(demand, mx, extra, math.Inf(1), spread)
}

// Regime is a chain that knows more than a kernel does: besides the level, whether
// the recent past took more or less than usual. It is what a leak meter rates a
// kernel under. demand is in quanta, consecutive blocks oldest first; minutes is the
// length of a block.
func Regime(demand []float64, mx int, minutes float64) Chain {
	z := regimes(demand, minutes)
	n := mx + 1
	level := make([][]float64, n) // pooled
	for x := range level {
		level[x] = make([]float64, n)
		for y := range level[x] {
			level[x][y] = .02
		}
	}
	var turn [2][2]float64
	q := make([][]float64, 2*n)
	for i := range q {
		q[i] = make([]float64, 2*n)
	}
	for i := 1; i < len(demand); i++ {
		x, y := nearest(demand[i-1], mx), nearest(demand[i], mx)
		level[x][y]++
		turn[z[i-1]][z[i]]++
		q[z[i-1]*n+x][z[i]*n+y]++
	}
	for _, row := range level {
		normalise(row)
	}
	c := Chain{Q: q}
	for a := range turn {
		sum := turn[a][0] + turn[a][1]
		for x := range n {
			c.Level = append(c.Level, x)
			for b := range turn[a] {
				share := .5
				if sum > 0 {
					share = turn[a][b] / sum
				}
				for y := range n {
					q[a*n+x][b*n+y] += 2 * level[x][y] * share
				}
			}
			normalise(q[a*n+x])
		}
	}
	return c
}

// regimes tells for each block whether the mean of the last two hours, weighted by
// age, is above its median.
func regimes(demand []float64, minutes float64) []int {
	alpha := 1 - math.Exp(-minutes/120)
	m, track := 0., make([]float64, len(demand))
	for _, e := range demand {
		m += e / float64(len(demand))
	}
	for i, e := range demand {
		m += alpha * (e - m)
		track[i] = m
	}
	sorted := append([]float64(nil), track...)
	sort.Float64s(sorted)
	out := make([]int, len(demand))
	for i, v := range track {
		if v > sorted[len(sorted)/2] {
			out[i] = 1
		}
	}
	return out
}

type part struct {
	level int
	share float64
}

func split(e float64, mx int) [2]part {
	e = min(max(e, 0), float64(mx))
	low := min(int(e), mx)
	f := e - float64(low)
	return [2]part{{low, 1 - f}, {min(low+1, mx), f}}
}

// Shares of a pair that go to the levels beside it.
var (
	spreadFrom = [3]float64{.15, .7, .15}
	spreadTo   = [3]float64{.2, .6, .2}
)

// spread gives what falls off an end to the end.
func spread(q [][]float64, x, z int, weight float64) {
	mx := len(q) - 1
	clip := func(v int) int { return min(max(v, 0), mx) }
	for dx, fx := range spreadFrom {
		for dz, fz := range spreadTo {
			q[clip(x+dx-1)][clip(z+dz-1)] += weight * fx * fz
		}
	}
}

// spreadInside leaves pairs at an end where they are, so that the mean demand stays
// what it was: a model that takes more than its home fills the store.
func spreadInside(q [][]float64, x, z int, weight float64) {
	mx := len(q) - 1
	for dx, fx := range spreadFrom {
		for dz, fz := range spreadTo {
			from, to := x+dx-1, z+dz-1
			if x == 0 || x == mx {
				from = x
			}
			if z == 0 || z == mx {
				to = z
			}
			q[from][to] += weight * fx * fz
		}
	}
}

// Check gives ErrBadChain unless every row is a law over as many levels.
func (c Chain) Check() error {
	if len(c.Q) < 2 {
		return fmt.Errorf("%w: %d levels, want at least 2", ErrBadChain, len(c.Q))
	}
	if c.Level != nil && len(c.Level) != len(c.Q) {
		return fmt.Errorf("%w: levels of %d states, want %d", ErrBadChain, len(c.Level), len(c.Q))
	}
	for x := range c.Q {
		if l := c.level(x); l < 0 || l > MaxLevel {
			return fmt.Errorf("%w: state %d is level %d, want 0 to %d", ErrBadChain, x, l, MaxLevel)
		}
	}
	for x, row := range c.Q {
		if len(row) != len(c.Q) {
			return fmt.Errorf("%w: row %d has %d entries, want %d", ErrBadChain, x, len(row), len(c.Q))
		}
		if err := checkLaw(row); err != nil {
			return fmt.Errorf("row %d: %w", x, err)
		}
	}
	return nil
}

// Stationary is the law that the chain settles in.
func (c Chain) Stationary() []float64 {
	n := len(c.Q)
	p, next := make([]float64, n), make([]float64, n)
	for x := range p {
		p[x] = 1 / float64(n)
	}
	for range 100_000 {
		clear(next)
		for x, row := range c.Q {
			for z, v := range row {
				next[z] += (p[x]*v + p[x]*b2f(x == z)) / 2 // lazy step: periodic chains settle too
			}
		}
		change := 0.
		for x := range p {
			change += math.Abs(next[x] - p[x])
		}
		p, next = next, p
		if change < 1e-12 {
			break
		}
	}
	return p
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
