package battery

import (
	"math"
	"time"
)

// Cause says which rule decided a command.
type Cause string

// Causes, in order of priority.
const (
	CauseStale     Cause = "stale"     // the reading is too old or absurd
	CauseCommanded Cause = "commanded" // grid operator, aggregator or owner
	CauseLimit     Cause = "limit"     // battery, fuse or export limit
	CausePolicy    Cause = "policy"    // the mask had its way
)

// staleAfter is the age from which a reading is not acted on; in steps longer
// than this a reading is stale after two steps.
const staleAfter = 5 * time.Second

// staleHold is how long the last power is kept before it ramps to zero.
const staleHold = 10 * time.Second

// Sensible bounds of a household reading.
const (
	leastLoad Watts = -50_000
	mostLoad  Watts = 100_000
)

// exposedFloor is the miss, in watts, from which a step counts as exposed.
const exposedFloor Watts = 1

// GridLimit is the most that the operator of the grid lets the battery take from
// the grid and give to it; both are 0 or above.
type GridLimit struct{ Import, Export Watts }

// Command is one step's decision.
type Command struct {
	Battery   Watts // discharge positive
	EV        Watts // what the car is asked to draw
	Predicted Watts // meter power if nothing changes
	Exposed   Watts // meter power beyond what the mask shows without forced peaks, commands and limits
	Cause     Cause
	Grid      bool // the grid operator's limit moved the battery
}

// leveller is a policy that shows one level per block: what the meter shows
// beyond it, forced by a peak for example, is exposed.
type leveller interface{ Base() Watts }

// Governor keeps a battery safe whatever its policy asks for: no target, input
// or fault moves it outside its limits.
type Governor struct {
	Spec
	last  Watts // last decided battery power
	stale time.Duration
	shift Watts         // by which the car is moved from its plan
	held  time.Duration // since it was moved
}

// carRest is how long a car keeps a power that the mask gave it.
const carRest = 30 * time.Second

// Decide turns a policy's wish into a command within every limit. It fills the
// reachable meter range of the observation before the policy sees it.
func (g *Governor) Decide(o Obs, p Policy) Command {
	store := Store{Spec: g.Spec, E: g.inside(o.E)}
	lo, hi := store.Bounds(o.Dt)
	if !usable(o) {
		return g.blind(o, lo, hi)
	}
	g.stale = 0
	battLo, battHi := lo, hi
	car, least, most := g.car(o)
	net := o.Load + car
	freeLo, freeHi := g.gridLimits(net, battLo, battHi)
	lo, hi = g.operated(o, net, freeLo, freeHi)
	o.MinMeter, o.MaxMeter = net-hi-(car-least), net-lo+(most-car)
	target, cause := net, CausePolicy
	if y := p.Target(o); !bad(y) { // asked under a command too: it goes on learning the home
		target = y
	}
	wanted := target
	if m, ok := p.(leveller); ok {
		wanted = m.Base() + o.EV.Plan
	}
	if o.Commanded != nil {
		target, cause = net, CauseCommanded
		if !bad(*o.Commanded) {
			target = net - *o.Commanded
		}
	}
	if cause == CausePolicy {
		if moved := g.move(o, car, least, most, net-target, lo, hi); moved != car {
			car, net = moved, o.Load+moved
			freeLo, freeHi = g.gridLimits(net, battLo, battHi)
			lo, hi = g.operated(o, net, freeLo, freeHi)
		}
	}
	g.shift = car - o.EV.Plan
	if cause == CausePolicy && net != o.Load+o.drawn(car) {
		net = o.Load + o.drawn(car)
		freeLo, freeHi = g.gridLimits(net, battLo, battHi)
		lo, hi = g.operated(o, net, freeLo, freeHi)
	}
	b := net - target
	c := min(max(b, lo), hi)
	c = min(max(g.ramp(c, o), lo), hi) // hard limits win over the ramp
	if math.Abs(float64(c-b)) > 1e-6 {
		cause = CauseLimit
	}
	g.last = c
	out := Command{Battery: c, EV: car, Predicted: net - c, Cause: cause, Grid: o.Grid != nil && (b < lo && lo > freeLo || b > hi && hi < freeHi)}
	if out.Grid {
		out.Cause = CauseCommanded
	}
	if miss := out.Predicted - wanted; miss > exposedFloor || miss < -exposedFloor {
		out.Exposed = miss
	}
	return out
}

// gridLimits narrows the battery's range by export and import limits at a load of
// house and car. Where they contradict the battery's own, the battery's win.
func (g *Governor) gridLimits(net, lo, hi Watts) (Watts, Watts) {
	if !g.AllowExport {
		hi = max(lo, min(hi, max(0, net)))
	}
	if g.MaxImport > 0 {
		lo = min(hi, max(lo, net-g.MaxImport))
	}
	return lo, hi
}

// car is what the car takes and between what the mask may move it now: only inside
// the slack that ev gave, and not while it rests at a power that the mask gave it.
func (g *Governor) car(o Obs) (now, least, most Watts) {
	plan := o.EV.Plan
	free := o.EV.Plugged && o.EV.Lo <= plan && plan <= o.EV.Hi && o.EV.Lo < o.EV.Hi && !bad(o.EV.Hi) && !bad(o.EV.Lo)
	if !free || o.Commanded != nil {
		g.shift = 0
		return plan, plan, plan
	}
	g.held += o.Dt
	if g.shift != 0 && g.held < carRest {
		now = min(max(plan+g.shift, o.EV.Lo), o.EV.Hi)
		return now, now, now
	}
	return plan, o.EV.Lo, o.EV.Hi
}

// move gives the car's power: what the battery cannot do of the wanted power, in whole
// steps.
func (g *Governor) move(o Obs, car, least, most, wanted, lo, hi Watts) Watts {
	by := Watts(0)
	switch {
	case wanted > hi:
		by = -min(wanted-hi, car-least)
	case wanted < lo:
		by = min(lo-wanted, most-car)
	}
	if step := o.EV.Step; step > 0 {
		by = Watts(math.Trunc(float64(by/step))) * step
	}
	if by != 0 {
		g.held = 0
	}
	return car + by
}

// operated narrows the range by what the grid operator allows: it may not charge
// with more than Import from the grid, nor feed more than Export into it.
func (g *Governor) operated(o Obs, net, lo, hi Watts) (Watts, Watts) {
	if o.Grid == nil || bad(o.Grid.Import) || bad(o.Grid.Export) {
		return lo, hi
	}
	lo = min(hi, max(lo, min(0, net)-max(0, o.Grid.Import)))
	hi = max(lo, min(hi, max(0, net)+max(0, o.Grid.Export)))
	return lo, hi
}

// blind acts without a reading: hold for a while, then ramp to rest.
func (g *Governor) blind(o Obs, lo, hi Watts) Command {
	g.stale += max(o.Dt, 0)
	g.shift = 0
	switch step := g.RampPerSecond * Watts(o.Dt.Seconds()); {
	case bad(g.last) || g.stale > staleHold && g.RampPerSecond <= 0:
		g.last = 0
	case g.stale > staleHold:
		g.last -= min(max(g.last, -step), step)
	}
	g.last = min(max(g.last, lo), hi)
	return Command{Battery: g.last, EV: o.EV.Plan, Cause: CauseStale}
}

func (g *Governor) ramp(c Watts, o Obs) Watts {
	if g.RampPerSecond <= 0 {
		return c
	}
	step := g.RampPerSecond * Watts(o.Dt.Seconds())
	return min(max(c, o.PrevActual-step), o.PrevActual+step)
}

func (g *Governor) inside(e WattHours) WattHours {
	if math.IsNaN(float64(e)) {
		return g.Floor() // unknown charge: neither promise energy nor room beyond it
	}
	return min(max(e, 0), g.Capacity)
}

func usable(o Obs) bool {
	limit := max(staleAfter, 2*o.Dt)
	return o.Dt > 0 && o.Dt <= time.Minute && o.Stale <= limit && !bad(o.Load) && !bad(o.EV.Plan) &&
		!bad(o.drawn(0)) && !bad(o.PrevMeter) && !bad(o.PrevEV) && !bad(o.PrevActual) && o.Load >= leastLoad && o.Load <= mostLoad && !math.IsNaN(float64(o.E))
}

func bad(w Watts) bool { return math.IsNaN(float64(w)) || math.IsInf(float64(w), 0) }
