package kernel

import (
	"fmt"
	"math"
)

// Chain is a Markov model of a home's demand per block: Q[x][z] is the
// probability that level z follows level x.
type Chain struct{ Q [][]float64 }

// Independent is the chain of independent demand with law p.
func Independent(p []float64) Chain {
	q := make([][]float64, len(p))
	for x := range q {
		q[x] = append([]float64(nil), p...)
	}
	return Chain{q}
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

// halfLife is how many blocks old a transition is when it counts half: 14 days
// of five minutes. Habits last that long.
const halfLife = 14 * 288

// Fit learns a chain of levels 0..mx from consecutive block demands, in quanta,
// oldest first. Demand is split between the neighbouring levels and each pair
// is spread a little, so that no transition is impossible.
func Fit(demand []float64, mx int) Chain {
	q := make([][]float64, mx+1)
	for x := range q {
		q[x] = make([]float64, mx+1)
		for z := range q[x] {
			q[x][z] = .02
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
	return Chain{q}
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

func spread(q [][]float64, x, z int, weight float64) {
	mx := len(q) - 1
	clip := func(v int) int { return min(max(v, 0), mx) }
	for dx, fx := range [3]float64{.15, .7, .15} {
		for dz, fz := range [3]float64{.2, .6, .2} {
			q[clip(x+dx-1)][clip(z+dz-1)] += weight * fx * fz
		}
	}
}

// Check gives ErrBadChain unless every row is a law over as many levels.
func (c Chain) Check() error {
	if len(c.Q) < 2 {
		return fmt.Errorf("%w: %d levels, want at least 2", ErrBadChain, len(c.Q))
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
