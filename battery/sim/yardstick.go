package sim

import (
	"context"
	"fmt"
	"math"
	"sort"
	"time"

	"gridveil/battery"
	"gridveil/battery/kernel"
)

// Yardstick is a model of a home on which policies are rated by what they leak, apart
// from any peak, fault or finite recording.
type Yardstick struct {
	Name     string
	Block    time.Duration
	Quantum  battery.WattHours
	Capacity battery.WattHours
	// Chain makes the demand that policies are rated on from block demands in quanta;
	// Model makes the chain that a kernel is solved for, nil for the same.
	Chain, Model func(demand []float64, mx int, minutes float64) kernel.Chain
}

// Yardsticks are those of doc/design.md, battery.
func Yardsticks() []Yardstick {
	count := func(d []float64, mx int, _ float64) kernel.Chain { return kernel.Count(d, mx, .02) }
	spread := func(d []float64, mx int, _ float64) kernel.Chain { return kernel.Spread(d, mx, .01) }
	return []Yardstick{
		{"R15", 15 * time.Minute, 125, 5000, count, nil},
		{"R5", 5 * time.Minute, 50, 5000, count, nil},
		{"S15", 15 * time.Minute, 250, 13_500, spread, nil},
		{"Z5", 5 * time.Minute, 50, 5000, kernel.Regime, count},
	}
}

// Rates are what policies leak of one home, in bits per day.
type Rates struct {
	Hold    float64 `json:"hold"`
	LS2     float64 `json:"ls2"`
	LKM     float64 `json:"lkm"`
	Veil    float64 `json:"veil"`    // measured, of the kernel
	Bound   float64 `json:"bound"`   // U of the kernel, for the chain that it was solved for
	Entropy float64 `json:"entropy"` // of the demand: a meter without battery
}

// ratedBlocks is the length of a rated path: a standard error of about one percent.
const ratedBlocks = 12_000

// Rate rates the policies on a whole recording.
func (s Yardstick) Rate(ctx context.Context, tr Trace) (Rates, error) {
	demand := energies(tr, len(tr.Load), s.Block)
	for i := range demand {
		demand[i] /= float64(s.Quantum)
	}
	sorted := append([]float64(nil), demand...)
	sort.Float64s(sorted)
	at := .99 * float64(len(sorted)-1)
	q99 := sorted[int(at)] + (at-math.Floor(at))*(sorted[min(int(at)+1, len(sorted)-1)]-sorted[int(at)])
	mx := max(2, int(math.Ceil(q99)))
	if mx > kernel.MaxLevel {
		return Rates{}, fmt.Errorf("%s: peaks of %d quanta, at most %d: this home is too large for it", s.Name, mx, kernel.MaxLevel)
	}
	minutes := s.Block.Minutes()
	ch := s.Chain(demand, mx, minutes)
	model := ch
	if s.Model != nil {
		model = s.Model(demand, mx, minutes)
	}
	c := int(s.Capacity / s.Quantum)
	daily := 1440 / minutes
	k, err := kernel.Solve(ctx, model, c-mx, kernel.Opts{})
	if err != nil {
		return Rates{}, err
	}
	shadow, err := kernel.NewShadow(model.Stationary(), c)
	if err != nil {
		return Rates{}, err
	}
	out := Rates{Bound: k.U * daily, Entropy: entropyRate(ch) * daily}
	for _, r := range []struct {
		law kernel.Law
		ms  int
		to  *float64
	}{{kernel.Hold{Ms: c}, c, &out.Hold}, {kernel.Stepping{Ms: c}, c, &out.LS2}, {shadow, c, &out.LKM}, {k, c - mx, &out.Veil}} {
		for seed := range uint64(3) {
			l, err := kernel.Rate(ctx, ch, r.law, r.ms, ratedBlocks, seed+1)
			if err != nil {
				return Rates{}, err
			}
			*r.to += l.Bits * daily / 3
		}
	}
	return out, nil
}

func entropyRate(ch kernel.Chain) float64 {
	h := 0.
	for x, p := range ch.Stationary() {
		for _, q := range ch.Q[x] {
			if q > 0 {
				h -= p * q * math.Log2(q)
			}
		}
	}
	return h
}
