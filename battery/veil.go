package battery

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"time"

	"gridveil/battery/kernel"
)

// Block is the length of a block: one meter target each.
const Block = 5 * time.Minute

// minQuanta is the least privacy store that a kernel is worth solving for.
const minQuanta = 8

// releaseFloor ends a release: smaller remainders hide nothing.
const releaseFloor Watts = 30

// ErrTooSmall means that the battery holds fewer than eight quanta beyond one
// block's demand: hold runs instead.
var ErrTooSmall = errors.New("battery too small to mask this home")

// Plan fixes the quantum and the levels that a home's blocks are counted in.
type Plan struct {
	Quantum WattHours
	Mx, Ms  int
	Blocks  int // of five minutes that one level covers; zero means one
}

func (p Plan) blocks() int { return max(1, p.Blocks) }

// period is how long a level stands.
func (p Plan) period() time.Duration { return time.Duration(p.blocks()) * Block }

// daily is how many levels a day has.
func (p Plan) daily() float64 { return float64(24 * time.Hour / p.period()) }

// demand counts block demands in Wh in the plan's periods and quanta.
func (p Plan) demand(history []float64) []float64 {
	out := pool(history, p.blocks())
	for i := range out {
		out[i] /= float64(p.Quantum)
	}
	return out
}

// PlanFor chooses the quantum for a battery and the block demands of a home, in
// Wh. Without demands yearly, in kWh, stands for the home.
func PlanFor(s Spec, demand []float64, yearly float64) (Plan, error) {
	usable := float64(s.Ceiling() - s.Floor())
	q := math.Max(25, math.Ceil(usable/200/5)*5)
	mean := yearly * 1000 / (365 * 24) * Block.Hours()
	q98 := 6 * mean // an unknown home: its peaks are about six times its mean
	if len(demand) > 0 {
		sorted := append([]float64(nil), demand...)
		sort.Float64s(sorted)
		q98 = sorted[len(sorted)*98/100]
	}
	mx := max(2, int(math.Ceil(q98/q)))
	for mx > kernel.MaxLevel {
		q += 5
		mx = max(2, int(math.Ceil(q98/q)))
	}
	p := Plan{Quantum: WattHours(q), Mx: mx, Ms: int(usable/q) - mx}
	if p.Ms < minQuanta {
		need := float64(mx+minQuanta) * q
		return p, fmt.Errorf("%w: %.0f Wh usable, %.0f Wh would do", ErrTooSmall, usable, need)
	}
	return p, nil
}

// SolvePrior makes the kernel of a home that has not been observed yet.
func SolvePrior(ctx context.Context, p Plan, yearly float64) (*kernel.Kernel, error) {
	mean := yearly * 1000 / (365 * 24) * Block.Hours() / float64(p.Quantum)
	return kernel.Solve(ctx, kernel.Prior(mean, p.Mx), p.Ms, kernel.Opts{})
}

// habits is how many days old a transition is when it counts half.
const habits = 14

// SolveFor makes the kernel of a home from its block demands, in Wh, oldest first.
func SolveFor(ctx context.Context, p Plan, demand []float64) (*kernel.Kernel, error) {
	return kernel.Solve(ctx, kernel.Fit(p.demand(demand), p.Mx, habits*p.daily()), p.Ms, kernel.Opts{})
}

// Veil runs a solved kernel: at each block's start it draws the meter level of
// the block from the past alone, and holds it.
type Veil struct {
	Spec Spec
	Plan Plan
	k    *kernel.Kernel
	rnd  *rand.Rand
	row  []float64

	block   time.Time
	covered time.Duration // of the running block, by observations
	metered WattHours     // of the running block, with the car's share apart
	car     WattHours
	startE  WattHours
	demand  float64 // of the last whole block, Wh; negative when none
	base    Watts
	release Watts
}

// NewVeil runs k with plan p on a battery; rnd is used by this policy alone.
func NewVeil(s Spec, p Plan, k *kernel.Kernel, rnd *rand.Rand) *Veil {
	return &Veil{Spec: s, Plan: p, k: k, rnd: rnd, row: make([]float64, k.Mx+1), demand: -1}
}

// Name is "veil".
func (*Veil) Name() string { return "veil" }

// Bound is the proven leakage bound in bits per day, for the chain that the
// kernel was solved for.
func (v *Veil) Bound() float64 { return v.k.U * float64(24*time.Hour/Block) }

// Base is the level that the running block shows; what the meter shows beyond it
// and the car's plan is exposed.
func (v *Veil) Base() Watts { return v.base }

// Demand is what the home took in the last whole block, in Wh with losses;
// false before one is complete.
func (v *Veil) Demand() (wh float64, ok bool) { return v.demand, v.demand >= 0 }

// Install replaces the kernel from the next block on.
func (v *Veil) Install(p Plan, k *kernel.Kernel) {
	v.Plan, v.k, v.row = p, k, make([]float64, k.Mx+1)
}

// Target is the block's level, plus the falling edge of a peak that the battery
// could not cover, plus the car's plan.
func (v *Veil) Target(o Obs) Watts {
	v.covered += o.Dt
	v.metered += WattHours(float64(o.PrevMeter) * o.Dt.Hours())
	v.car += WattHours(float64(o.PrevEV) * o.Dt.Hours())
	if at := o.Time.Truncate(Block); !at.Equal(v.block) {
		v.begin(at, o)
	}
	forced := max(0, o.MinMeter-v.base-o.EV.Plan)
	f := max(forced, v.release*Watts(math.Pow(.6, o.Dt.Minutes())))
	if f < releaseFloor {
		f = 0
	}
	if o.E > .9*v.Spec.Capacity {
		f = forced
	}
	v.release = f
	return v.base + f + o.EV.Plan
}

// begin closes the last block and draws the next.
func (v *Veil) begin(at time.Time, o Obs) {
	q := float64(v.Plan.Quantum)
	show := q // what the meter showed of the house; one level when unknown
	if at.Sub(v.block) == Block && (v.covered-Block).Abs() < o.Dt {
		show = max(0, float64(v.metered-v.car))
		v.demand = max(0, show-float64(o.E-v.startE))
	} else {
		v.demand = -1 // first block, gap, silent meter or clock jump: nothing is known
	}
	x := v.level(max(0, v.demand) / q)
	w := min(max(v.round(float64(o.E-v.Spec.Floor())/q), 0), v.k.Ms+v.k.Mx) - v.k.Mx
	s := min(max(w+x, 0), v.k.Ms)
	v.k.Row(0, v.level(show/q), x, s, v.row)
	j := v.draw()
	hour := Block.Hours()
	if j > 0 {
		v.base = Watts((float64(j) + v.rnd.Float64() - .5) * q / hour)
	} else {
		v.base = Watts(.25 * v.rnd.Float64() * q / hour)
	}
	v.block, v.startE, v.covered, v.metered, v.car = at, o.E, 0, 0, 0
}

// round is stochastic rounding: it keeps the mean and tells no remainder.
func (v *Veil) round(x float64) int { return int(math.Floor(x + v.rnd.Float64())) }

func (v *Veil) level(x float64) int { return min(max(v.round(x), 0), v.k.Mx) }

func (v *Veil) draw() int {
	u := v.rnd.Float64()
	for y, p := range v.row {
		if u -= p; u < 0 {
			return y
		}
	}
	return len(v.row) - 1
}
