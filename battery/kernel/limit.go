// Package kernel computes what a battery can hide and how: the optimum for
// independent demand ([Limit]) and, for correlated demand, a kernel that makes
// the meter a Markov chain of its own ([Solve]).
//
// Levels are whole energy quanta per block. Demand has levels 0..mx, the store
// 0..ms. Results are bits per block. Pure arithmetic; nothing here knows a unit,
// a clock or a home. Source: arXiv 1510.07170; doc/design.md, battery.
package kernel

import (
	"errors"
	"fmt"
	"math"
)

// ErrBadChain means that probabilities are missing, negative, not finite or do
// not sum to one.
var ErrBadChain = errors.New("demand model is not a probability law")

// maxLimitIterations ends Limit for laws whose certificate closes slowly.
const maxLimitIterations = 2_000_000

// Limit is the least leakage, in bits per sample, of independent demand with
// law p on 0..len(p)-1 and an ideal store of c quanta. bits is reached by the
// policy b(y given w) = p(y) theta(w+y) / W(w); lower is certified, and the two
// differ by at most tol.
func Limit(p []float64, c int, tol float64) (bits, lower float64, theta []float64, err error) {
	if err := checkLaw(p); err != nil {
		return 0, 0, nil, err
	}
	if c < 0 || c > 1<<16 || !(tol > 0) {
		return 0, 0, nil, fmt.Errorf("store of %d quanta with tolerance %g: want 0 to 65536 quanta and a positive tolerance", c, tol)
	}
	m := len(p) - 1
	theta = make([]float64, c+1)
	for s := range theta {
		v := math.Sin(math.Pi * float64(s+1) / float64(c+2))
		theta[s] = v * v
	}
	normalise(theta)
	w := make([]float64, m+c+1) // w[i] is W(i-m)
	logs := make([]float64, len(w))
	for range maxLimitIterations {
		shadow(p, theta, w)
		for i, v := range w {
			logs[i] = math.Log(max(v, 1e-300))
		}
		bits = (entropy(w) - entropy(theta)) / math.Ln2
		lower = certificate(p, theta, logs) / math.Ln2
		if bits-lower <= tol {
			return bits, lower, theta, nil
		}
		improve(p, theta, logs)
	}
	return bits, lower, theta, nil
}

// shadow fills w with the law of S-X.
func shadow(p, theta, w []float64) {
	clear(w)
	m := len(p) - 1
	for x, px := range p {
		for s, ts := range theta {
			w[s-x+m] += px * ts
		}
	}
}

func certificate(p, theta, logs []float64) float64 {
	m, least := len(p)-1, math.Inf(1)
	for s, ts := range theta {
		v := math.Log(max(ts, 1e-300))
		for x, px := range p {
			v -= px * logs[s-x+m]
		}
		least = min(least, v)
	}
	return least
}

func improve(p, theta, logs []float64) {
	m := len(p) - 1
	top := math.Inf(-1)
	for s := range theta {
		v := 0.
		for x, px := range p {
			v += px * logs[s-x+m]
		}
		theta[s] = v
		top = max(top, v)
	}
	for s, v := range theta {
		theta[s] = max(math.Exp(v-top), 1e-300)
	}
	normalise(theta)
}

func entropy(p []float64) float64 {
	h := 0.
	for _, v := range p {
		if v > 0 {
			h -= v * math.Log(v)
		}
	}
	return h
}

func normalise(p []float64) {
	sum := 0.
	for _, v := range p {
		sum += v
	}
	for i := range p {
		p[i] /= sum
	}
}

func checkLaw(p []float64) error {
	sum := 0.
	for i, v := range p {
		if math.IsNaN(v) || v < 0 || v > 1+1e-9 {
			return fmt.Errorf("%w: entry %d is %v", ErrBadChain, i, v)
		}
		sum += v
	}
	if len(p) == 0 || math.Abs(sum-1) > 1e-6 {
		return fmt.Errorf("%w: %d entries sum to %v, want 1", ErrBadChain, len(p), sum)
	}
	return nil
}
