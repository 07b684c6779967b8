package sim

import (
	"bufio"
	"context"
	"fmt"
	"io"
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
	Hold float64 `json:"hold"`
	LS2  float64 `json:"ls2"`
	LKM  float64 `json:"lkm"` // of a baseline that knows a block's demand before it shows a level
	// Delayed is lkm as it runs in a house: like veil it draws from the past, and keeps a
	// block's greatest demand in reserve.
	Delayed float64 `json:"lkm_delayed"`
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
	delayed, err := kernel.NewShadow(model.Stationary(), c-mx)
	if err != nil {
		return Rates{}, err
	}
	out := Rates{Bound: k.U * daily, Entropy: entropyRate(ch) * daily}
	for _, r := range []struct {
		law kernel.Law
		ms  int
		to  *float64
	}{{kernel.Hold{Ms: c}, c, &out.Hold}, {kernel.Stepping{Ms: c}, c, &out.LS2}, {shadow, c, &out.LKM}, {delayed, c - mx, &out.Delayed}, {k, c - mx, &out.Veil}} {
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

// WriteRates writes rates by yardstick and home as a table of Markdown, in bits per
// day, with each yardstick's means over homes and what the kernel leaks of lkm's.
func WriteRates(w io.Writer, rates map[string]map[string]Rates) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, "| model | home | demand | hold | ls2 | lkm | lkm delayed | veil | U | veil / lkm | veil / delayed |")
	fmt.Fprintln(b, "|---|---|---|---|---|---|---|---|---|---|---|")
	for _, y := range Yardsticks() {
		var names []string
		for n := range rates[y.Name] {
			names = append(names, n)
		}
		sort.Strings(names)
		var m Rates
		line := func(home string, r Rates) {
			fmt.Fprintf(b, "| %s | %s | %.0f | %.1f | %.1f | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f |\n", y.Name, home, r.Entropy, r.Hold, r.LS2, r.LKM, r.Delayed, r.Veil, r.Bound, r.Veil/r.LKM, r.Veil/r.Delayed)
		}
		for _, n := range names {
			r := rates[y.Name][n]
			line(n, r)
			share := 1 / float64(len(names))
			m = Rates{m.Hold + share*r.Hold, m.LS2 + share*r.LS2, m.LKM + share*r.LKM, m.Delayed + share*r.Delayed, m.Veil + share*r.Veil, m.Bound + share*r.Bound, m.Entropy + share*r.Entropy}
		}
		if len(names) > 0 {
			line("mean", m)
		}
	}
	return b.Flush()
}
