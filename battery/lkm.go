package battery

import (
	"context"
	"math"
	"math/rand/v2"
	"sort"
	"time"

	"gridveil/battery/kernel"
)

// Prior solves, or looks up, the kernel of an unobserved home.
type Prior func(ctx context.Context, p Plan, yearlyKWh float64) (*kernel.Kernel, error)

// LKMPeriod is the block length of the independent-demand baseline.
const LKMPeriod = 15 * time.Minute

// lkmQuantum is the energy quantum of the baseline, in Wh.
const lkmQuantum = 50

// LKM is the baseline of Li, Khisti and Mahajan: the optimum for independent
// demand, used on a home whose demand is not independent.
type LKM struct {
	name   string
	spec   Spec
	period time.Duration
	p      []float64 // demand law
	theta  []float64
	w      []float64 // law of the shadow, index + mx
	mx, ms int
	rnd    *rand.Rand

	block           time.Time
	metered, startE WattHours
	car             WattHours
	base            Watts
}

// NewLKM makes the baseline with blocks of period. demand holds observed block
// energies in Wh; without them a geometric law of the yearly energy is used.
func NewLKM(name string, s Spec, period time.Duration, demand []float64, yearlyKWh float64, rnd *rand.Rand) *LKM {
	l := &LKM{name: name, spec: s, period: period, rnd: rnd}
	l.p = lkmLaw(demand, yearlyKWh*1000/(365*24)*period.Hours())
	l.mx = len(l.p) - 1
	l.ms = max(1, int(float64(s.Ceiling()-s.Floor())/lkmQuantum)-l.mx)
	_, _, l.theta, _ = kernel.Limit(l.p, l.ms, 1e-5) // the law is made here and is one
	l.w = make([]float64, l.mx+l.ms+1)
	for x, px := range l.p {
		for i, ts := range l.theta {
			l.w[i-x+l.mx] += px * ts
		}
	}
	return l
}

// lkmLaw is the smoothed histogram of the demands, stretched by the losses.
func lkmLaw(demand []float64, mean float64) []float64 {
	if len(demand) == 0 {
		demand = make([]float64, 400)
		for i := range demand { // quantiles of the exponential law
			demand[i] = -mean * math.Log(1-(float64(i)+.5)/400)
		}
	}
	sorted := append([]float64(nil), demand...)
	sort.Float64s(sorted)
	mx := max(2, int(math.Ceil(sorted[len(sorted)*98/100]*1.04/lkmQuantum)))
	h := make([]float64, mx+1)
	for i := range h {
		h[i] = .25
	}
	for _, e := range demand {
		h[min(max(int(math.Round(e*1.04/lkmQuantum)), 0), mx)]++
	}
	p := make([]float64, mx+1)
	for i := range h {
		for d, f := range [5]float64{.1, .2, .4, .2, .1} {
			if k := i + d - 2; k >= 0 && k <= mx { // what falls off an end is shared by all
				p[k] += f * h[i]
			}
		}
	}
	sum := 0.
	for _, v := range p {
		sum += v
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// Name is the one it was made with.
func (l *LKM) Name() string { return l.name }

// Target draws a level at each block's start and holds it.
func (l *LKM) Target(o Obs) Watts {
	l.metered += WattHours(float64(o.PrevMeter) * o.Dt.Hours())
	l.car += WattHours(float64(o.PrevEV) * o.Dt.Hours())
	at := o.Time.Truncate(l.period)
	if !at.Equal(l.block) {
		l.begin(at, o)
	}
	return l.base + o.EV.Plan
}

func (l *LKM) begin(at time.Time, o Obs) {
	w := min(max(l.round(float64(o.E-l.spec.Floor())/lkmQuantum), 0), l.ms+l.mx) - l.mx
	demand := 0.
	if at.Sub(l.block) == l.period {
		demand = max(0, float64(l.metered-l.car-(o.E-l.startE)))
	}
	x := min(max(l.round(demand/lkmQuantum), 0), l.mx)
	if j := l.draw(min(max(w+x, 0), l.ms) - x); j > 0 {
		l.base = Watts((float64(j) + l.rnd.Float64() - .5) * lkmQuantum / l.period.Hours())
	} else {
		l.base = Watts(.25 * l.rnd.Float64() * lkmQuantum / l.period.Hours())
	}
	l.block, l.startE, l.metered, l.car = at, o.E, 0, 0
}

func (l *LKM) round(x float64) int { return int(math.Floor(x + l.rnd.Float64())) }

// draw gives y with probability p(y) theta(w+y) / W(w).
func (l *LKM) draw(w int) int {
	u := l.rnd.Float64() * l.w[min(max(w+l.mx, 0), len(l.w)-1)]
	for y, py := range l.p {
		if i := w + y; i >= 0 && i < len(l.theta) {
			if u -= py * l.theta[i]; u < 0 {
				return y
			}
		}
	}
	return min(max(-w, 0), l.mx)
}
