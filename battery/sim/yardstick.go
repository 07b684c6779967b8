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
	Veil    float64 `json:"veil"` // measured, of the kernel
	// Aware is the same of a kernel that knows the regimes of a model that has them, 0 of
	// other models. No mask in a house runs it.
	Aware   float64 `json:"veil_aware"`
	Bound   float64 `json:"bound"`   // U of the kernel, for the chain that it was solved for
	Entropy float64 `json:"entropy"` // of the demand: a meter without battery
}

// ratedBlocks is the length of a rated path: a standard error of about one percent.
const ratedBlocks = 12_000

// YardstickNames are those of Yardsticks.
func YardstickNames() []string {
	var out []string
	for _, y := range Yardsticks() {
		out = append(out, y.Name)
	}
	return out
}

// models are the chain of a whole recording and the one that a kernel is solved for.
func (s Yardstick) models(tr Trace) (ch, model kernel.Chain, mx int, err error) {
	demand := energies(tr, len(tr.Load), s.Block)
	if len(demand) < 2 {
		return ch, model, 0, fmt.Errorf("%w: %d blocks of %v", ErrTooShort, len(demand), s.Block)
	}
	for i := range demand {
		demand[i] /= float64(s.Quantum)
	}
	sorted := append([]float64(nil), demand...)
	sort.Float64s(sorted)
	at := .99 * float64(len(sorted)-1)
	q99 := sorted[int(at)] + (at-math.Floor(at))*(sorted[min(int(at)+1, len(sorted)-1)]-sorted[int(at)])
	mx = max(2, int(math.Ceil(q99)))
	if mx > kernel.MaxLevel {
		return ch, model, 0, fmt.Errorf("%s: peaks of %d quanta, at most %d: this home is too large for it", s.Name, mx, kernel.MaxLevel)
	}
	minutes := s.Block.Minutes()
	ch = s.Chain(demand, mx, minutes)
	model = ch
	if s.Model != nil {
		model = s.Model(demand, mx, minutes)
	}
	return ch, model, mx, nil
}

// daily is how many blocks a day has.
func (s Yardstick) daily() float64 { return 1440 / s.Block.Minutes() }

// Proof is what every mask of a class tells of a home at least, by its model.
type Proof struct {
	Model string `json:"model"`
	// Ahead: masks may know a block's demand when they choose its meter level. Without it
	// they draw from the past and keep a block's greatest demand in reserve.
	Ahead   bool    `json:"ahead"`
	Minutes float64 `json:"block_minutes"`
	Quantum float64 `json:"quantum_wh"`
	Quanta  int     `json:"quanta"`           // of the battery
	Levels  int     `json:"levels"`           // of demand and meter, 0 included
	Depth   int     `json:"depth"`            // how many meter levels the proof looks back at
	Proven  float64 `json:"proven_bits_day"`  // no mask of the class tells less
	Reached float64 `json:"reached_bits_day"` // proven bound of a kernel
	Demand  float64 `json:"demand_bits_day"`  // a meter without battery
}

// Prove looks for the greatest rate that can be proven to be told of a recording by every
// mask with an ideal store of so many quanta, 0 for the yardstick's own; Check of the
// certificate gives the same, in bits per block.
func (s Yardstick) Prove(ctx context.Context, tr Trace, quanta int, ahead bool, o kernel.CertifyOpts) (Proof, *kernel.Certificate, error) {
	ch, _, mx, err := s.models(tr)
	if err != nil {
		return Proof{}, nil, err
	}
	if quanta == 0 {
		quanta = int(s.Capacity / s.Quantum)
	}
	ms := quanta
	if !ahead {
		ms -= mx
	}
	if ms < 0 {
		return Proof{}, nil, fmt.Errorf("%w: %d quanta, a block's greatest demand is %d", battery.ErrTooSmall, quanta, mx)
	}
	c, err := kernel.Certify(ctx, ch, ms, o)
	if err != nil {
		return Proof{}, nil, err
	}
	bits, err := c.Check()
	if err != nil {
		return Proof{}, nil, err
	}
	p := Proof{Model: s.Name, Ahead: ahead, Minutes: s.Block.Minutes(), Quantum: float64(s.Quantum), Quanta: quanta, Levels: mx + 1, Depth: c.Depth, Proven: bits * s.daily(), Demand: entropyRate(ch) * s.daily()}
	k, err := kernel.Solve(ctx, ch, ms, kernel.Opts{})
	if err != nil {
		return Proof{}, nil, err
	}
	p.Reached = k.U * s.daily()
	return p, c, nil
}

// Rate rates the policies on a whole recording.
func (s Yardstick) Rate(ctx context.Context, tr Trace) (Rates, error) {
	ch, model, mx, err := s.models(tr)
	if err != nil {
		return Rates{}, err
	}
	c := int(s.Capacity / s.Quantum)
	daily := s.daily()
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
	type rated struct {
		law kernel.Law
		ms  int
		to  *float64
	}
	all := []rated{{kernel.Hold{Ms: c}, c, &out.Hold}, {kernel.Stepping{Ms: c}, c, &out.LS2}, {shadow, c, &out.LKM}, {delayed, c - mx, &out.Delayed}, {k, c - mx, &out.Veil}}
	if s.Model != nil {
		aware, err := kernel.Solve(ctx, ch, c-mx, kernel.Opts{})
		if err != nil {
			return Rates{}, err
		}
		all = append(all, rated{aware, c - mx, &out.Aware})
	}
	for _, r := range all {
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
	fmt.Fprintln(b, "| model | home | demand | hold | ls2 | lkm | lkm delayed | veil | veil knows regimes | U | veil / lkm | veil / delayed |")
	fmt.Fprintln(b, "|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, y := range Yardsticks() {
		var names []string
		for n := range rates[y.Name] {
			names = append(names, n)
		}
		sort.Strings(names)
		var m Rates
		line := func(home string, r Rates) {
			aware := "-"
			if r.Aware > 0 {
				aware = fmt.Sprintf("%.2f", r.Aware)
			}
			fmt.Fprintf(b, "| %s | %s | %.0f | %.1f | %.1f | %.2f | %.2f | %.2f | %s | %.2f | %.2f | %.2f |\n", y.Name, home, r.Entropy, r.Hold, r.LS2, r.LKM, r.Delayed, r.Veil, aware, r.Bound, r.Veil/r.LKM, r.Veil/r.Delayed)
		}
		for _, n := range names {
			r := rates[y.Name][n]
			line(n, r)
			share := 1 / float64(len(names))
			m = Rates{m.Hold + share*r.Hold, m.LS2 + share*r.LS2, m.LKM + share*r.LKM, m.Delayed + share*r.Delayed, m.Veil + share*r.Veil, m.Aware + share*r.Aware, m.Bound + share*r.Bound, m.Entropy + share*r.Entropy}
		}
		if len(names) > 0 {
			line("mean", m)
		}
	}
	return b.Flush()
}
