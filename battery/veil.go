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

// nearlyFull is the share of the capacity from which a mask only takes what it must.
const nearlyFull = .9

// ErrTooSmall means that the battery holds fewer than eight quanta beyond one
// block's demand: hold runs instead.
var ErrTooSmall = errors.New("battery too small to mask this home")

// Plan fixes the quantum and the levels that a home's blocks are counted in.
type Plan struct {
	Quantum WattHours
	Mx, Ms  int
	// Base is what one block of this home takes at the least, in Wh: what level 0 stands
	// for and all others count from. Zero for a home that was not observed yet.
	Base WattHours
}

// daily is how many blocks of five minutes a day has.
const daily = 288

// demand counts block demands in Wh in the plan's quanta.
func (p Plan) demand(history []float64) []float64 {
	out := make([]float64, len(history))
	for i, wh := range history {
		out[i] = p.levels(wh)
	}
	return out
}

// levels counts a block's energy, in Wh, in quanta above the base.
func (p Plan) levels(wh float64) float64 { return (wh - float64(p.Base)) / float64(p.Quantum) }

// PlanFor chooses the quantum for a battery and the block demands of a home, in
// Wh. Without demands yearly, in kWh, stands for the home.
func PlanFor(s Spec, demand []float64, yearly float64) (Plan, error) {
	if len(demand) == 0 {
		// An unknown home: its peaks are about six times its mean.
		demand = []float64{6 * yearly * 1000 / (365 * 24) * Block.Hours()}
	}
	usable := float64(s.Ceiling() - s.Floor())
	return planFor(s, demand, math.Max(25, math.Ceil(usable/200/5)*5))
}

// baseShare is how many of a home's blocks take less than its base: with a quarter it is
// the load that nobody switches.
const baseShare = .25

// planFor counts in quanta of q Wh, or more where the levels would not suffice.
func planFor(s Spec, demand []float64, q float64) (Plan, error) {
	usable := float64(s.Ceiling() - s.Floor())
	sorted := append([]float64(nil), demand...)
	sort.Float64s(sorted)
	base := 0.
	if len(sorted) > 1 {
		base = sorted[int(baseShare*float64(len(sorted)))]
	}
	q98 := sorted[len(sorted)*98/100] - base
	mx := max(2, int(math.Ceil(q98/q)))
	for mx > kernel.MaxLevel {
		q += 5
		mx = max(2, int(math.Ceil(q98/q)))
	}
	p := Plan{Quantum: WattHours(q), Mx: mx, Ms: int(usable/q) - mx, Base: WattHours(base)}
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
	return kernel.Solve(ctx, kernel.Fit(p.demand(demand), p.Mx, habits*daily), p.Ms, kernel.Opts{})
}

// Veil runs a solved kernel: at each block's start it draws the meter level of
// the block from the past alone, and holds it.
type Veil struct {
	Spec Spec
	Plan Plan
	k    *kernel.Kernel
	rnd  *rand.Rand
	row  []float64

	running tally // the block whose level stands
	demand  float64
	base    Watts
	release Watts
}

// tally measures a block.
type tally struct {
	block   time.Time
	covered time.Duration // by observations
	metered WattHours     // with the car's share apart
	car     WattHours
	startE  WattHours
}

func (t *tally) add(o Obs) {
	t.covered += o.Dt
	t.metered += WattHours(float64(o.PrevMeter) * o.Dt.Hours())
	t.car += WattHours(float64(o.PrevEV) * o.Dt.Hours())
}

// turn begins the block at at, and gives what the last one showed of the house and
// took, with losses; false after a gap, a silent meter or a clock jump.
func (t *tally) turn(at time.Time, o Obs) (show, demand float64, whole bool) {
	whole = at.Sub(t.block) == Block && (t.covered-Block).Abs() < o.Dt
	show = max(0, float64(t.metered-t.car))
	demand = max(0, show-float64(o.E-t.startE))
	*t = tally{block: at, startE: o.E}
	return show, demand, whole
}

// NewVeil runs k with plan p on a battery; rnd is used by this policy alone.
func NewVeil(s Spec, p Plan, k *kernel.Kernel, rnd *rand.Rand) *Veil {
	return &Veil{Spec: s, Plan: p, k: k, rnd: rnd, row: make([]float64, k.Mx+1), demand: -1}
}

// Name is "veil".
func (*Veil) Name() string { return "veil" }

// Bound is the proven leakage bound in bits per day, for the chain that the
// kernel was solved for.
func (v *Veil) Bound() float64 { return v.k.U * daily }

// Base is the level that the running block shows; what the meter shows beyond it
// and the car's plan is exposed.
func (v *Veil) Base() Watts { return v.base }

// Demand is what the home took in the last five minutes, in Wh with losses, and when
// the ones that run began; false before they are complete.
func (v *Veil) Demand() (wh float64, now time.Time, ok bool) {
	return v.demand, v.running.block, v.demand >= 0
}

// Install replaces the kernel from the next block on.
func (v *Veil) Install(p Plan, k *kernel.Kernel) {
	v.Plan, v.k, v.row = p, k, make([]float64, k.Mx+1)
}

// Target is the block's level, plus the falling edge of a peak that the battery
// could not cover, plus the car's plan.
func (v *Veil) Target(o Obs) Watts {
	v.running.add(o)
	if at := o.Time.Truncate(Block); !at.Equal(v.running.block) {
		v.begin(at, o)
	}
	forced := max(0, o.MinMeter-v.base-o.EV.Plan)
	f := forced
	if v.release > 0 {
		f = max(forced, v.release*Watts(math.Pow(.6, o.Dt.Minutes())))
	}
	if f < releaseFloor {
		f = 0
	}
	if o.E > nearlyFull*v.Spec.Capacity {
		f = forced
	}
	v.release = f
	return v.base + f + o.EV.Plan
}

// begin closes the last block and draws the next.
func (v *Veil) begin(at time.Time, o Obs) {
	q := float64(v.Plan.Quantum)
	show, demand, whole := v.running.turn(at, o)
	v.demand = demand
	if !whole {
		v.demand = -1
		show, demand = q, 0 // nothing is known: one level
	}
	x := v.level(v.Plan.levels(demand))
	w := min(max(v.round(float64(o.E-v.Spec.Floor())/q), 0), v.k.Ms+v.k.Mx) - v.k.Mx
	s := min(max(w+x, 0), v.k.Ms)
	v.k.Row(v.slot(at), v.level(v.Plan.levels(show)), x, s, v.row)
	j := v.draw()
	v.base = Watts(v.wh(j, o.E) / Block.Hours())
}

// wh is the energy of a block that shows level j, moved by up to a quarter of a quantum
// so that the mask's levels are no comb. A store that is nearly full shows levels
// without the base, and level 0 as nothing: a home may take less than it ever did.
func (v *Veil) wh(j int, e WattHours) float64 {
	q, base := float64(v.Plan.Quantum), float64(v.Plan.Base)
	full := e > nearlyFull*v.Spec.Capacity
	if full {
		base = 0
	}
	u := v.rnd.Float64()
	switch {
	case j > 0:
		return base + (float64(j)+(u-.5)/2)*q
	case full:
		return 0
	case base == 0:
		return u / 4 * q
	}
	return max(0, base+(u-.5)/4*q)
}

// slot is which block of the UTC day begins at at.
func (v *Veil) slot(at time.Time) int {
	at = at.UTC()
	return (at.Hour()*60 + at.Minute()) / int(Block/time.Minute)
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
