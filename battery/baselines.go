package battery

import (
	"math"
	"math/rand/v2"
	"time"
)

// Policies are the names that a controller runs, the mask of this project first, then
// what it is compared with.
var Policies = []string{"veil", "hold", "nill", "ls1", "ls2", "lc", "rc", "lyapunov0", "lyapunov8", "laplace", "lkm", "lkm30", "none"}

// baseline makes what veil is compared with; nil for veil.
func baseline(c Config) Policy {
	switch c.Policy {
	case "none":
		return None{}
	case "hold":
		return &Hold{}
	case "nill":
		return NewNill(c.Spec)
	case "ls1", "ls2", "lc", "rc":
		return NewStepping(c.Policy, c.Spec, c.Rand)
	case "lyapunov0":
		return NewLyapunov(c.Policy, c.Spec, 0)
	case "lyapunov8":
		return NewLyapunov(c.Policy, c.Spec, 8)
	case "laplace":
		return NewLaplace(c.Spec, c.Rand)
	case "lkm":
		return NewLKM(c.Policy, c.Spec, LKMPeriod, c.History, c.YearlyKWh, c.Rand)
	case "lkm30":
		return NewLKM(c.Policy, c.Spec, 2*LKMPeriod, c.History, c.YearlyKWh, c.Rand)
	}
	return nil
}

// Volts is the grid's voltage of the published nill.
const Volts = 230

// Laplace adds noise to the load and steers towards a half full store (Zhao 2014).
type Laplace struct {
	capacity WattHours
	rnd      *rand.Rand
}

// NewLaplace makes the policy with its own random source.
func NewLaplace(s Spec, rnd *rand.Rand) *Laplace { return &Laplace{s.Capacity, rnd} }

// Name is "laplace".
func (*Laplace) Name() string { return "laplace" }

// Target is the load with noise of scale 800 W.
func (l *Laplace) Target(o Obs) Watts {
	u := l.rnd.Float64() - .5
	noise := -800 * math.Log(1-2*math.Abs(u))
	if u < 0 {
		noise = -noise
	}
	return o.Load + Watts(noise-1500*(float64(o.E/l.capacity)-.5)) + o.EV.Plan
}

// Nill holds one value and changes it only near an empty or a full store
// (McLaughlin 2011).
type Nill struct {
	spec    Spec
	state   byte // 0 before the first step, then 'S', 'L' or 'H'
	k       Watts
	sum     Watts // of the load in a recovery
	seconds Watts
}

// NewNill makes the policy.
func NewNill(s Spec) *Nill { return &Nill{spec: s} }

// Name is "nill".
func (*Nill) Name() string { return "nill" }

// Target is the steady value, or what recovers the store.
func (n *Nill) Target(o Obs) Watts {
	if n.state == 0 {
		n.state, n.k = 'S', o.Load
	}
	return n.house(o) + o.EV.Plan
}

func (n *Nill) house(o Obs) Watts {
	x, c := o.Load, n.spec.Capacity
	switch n.state {
	case 'L':
		n.note(o)
		if o.E <= .8*c {
			return max(x, n.spec.MaxCharge)
		}
		n.steady()
	case 'H':
		n.note(o)
		if o.E >= .5*c && x-n.k <= 5*Volts {
			if n.k-x > n.spec.MaxCharge {
				n.k = max(0, x-.5*Volts)
			}
			return n.k
		}
		n.steady()
	default:
		flow := WattHours(float64(x-n.k) * o.Dt.Hours())
		switch {
		case n.k < x-n.spec.MaxDischarge && o.E < .02*c || flow > 0 && o.E-flow/WattHours(n.spec.EtaDischarge) < n.spec.Floor():
			n.state = 'L'
			n.note(o)
			return max(x, n.spec.MaxCharge)
		case flow < 0 && o.E-flow*WattHours(n.spec.EtaCharge) > n.spec.Ceiling():
			n.state, n.k = 'H', max(0, x-.5*Volts)
			n.note(o)
		}
	}
	return n.k
}

func (n *Nill) note(o Obs) {
	secs := Watts(o.Dt.Seconds())
	n.sum, n.seconds = n.sum+o.Load*secs, n.seconds+secs
}

// steady ends a recovery: half of the new value is what the home took in it.
func (n *Nill) steady() {
	n.k = .5*n.k + .5*n.sum/n.seconds
	n.state, n.sum, n.seconds = 'S', 0, 0
}

// Stepping shows whole multiples of the battery's power (Yang and Li 2012). Its four
// kinds differ in when and how the side of the load is chosen.
type Stepping struct {
	kind    string
	spec    Spec
	rnd     *rand.Rand
	h       float64
	up      bool
	started bool
}

// NewStepping makes ls1, ls2, lc or rc for a battery, with its own random source.
func NewStepping(kind string, s Spec, rnd *rand.Rand) *Stepping {
	return &Stepping{kind: kind, spec: s, rnd: rnd}
}

// Name is the kind.
func (p *Stepping) Name() string { return p.kind }

// Target is a multiple of the battery's charging power.
func (p *Stepping) Target(o Obs) Watts {
	x, unit := float64(o.Load), float64(p.spec.MaxCharge)
	charge := float64(o.E / p.spec.Capacity)
	switch p.kind {
	case "lc":
		p.h = p.side(x / unit)
	case "rc":
		p.up = p.rnd.Float64() < 1-charge
		p.h = p.side(x / unit)
	default:
		if p.started && math.Abs(p.h*unit-x) <= unit {
			break
		}
		if p.kind == "ls1" {
			p.up = charge < .5
		} else {
			p.up = p.rnd.Uint64()&1 == 1
		}
		p.h = p.side(x / unit)
	}
	p.started = true
	flow := WattHours((x - p.h*unit) * o.Dt.Hours()) // positive leaves the store
	switch {
	case flow > 0 && o.E-flow/WattHours(p.spec.EtaDischarge) < p.spec.Floor():
		p.up = true
		p.h = p.side(x / unit)
	case flow < 0 && o.E-flow*WattHours(p.spec.EtaCharge) > p.spec.Ceiling():
		p.up = false
		p.h = p.side(x / unit)
	}
	return Watts(max(0, p.h)*unit) + o.EV.Plan
}

func (p *Stepping) side(steps float64) float64 {
	if p.up {
		return math.Ceil(steps)
	}
	return math.Floor(steps)
}

// Lyapunov follows the mean load of a day, steers towards a half full store, and with
// weight buys when it is cheap (Yang and Chen 2015).
type Lyapunov struct {
	name     string
	capacity WattHours
	weight   float64
	m        Watts
	price    float64 // mean
	prices   int
	started  bool
}

// NewLyapunov makes the policy; weight is that of a price above its mean, per unit of
// currency and kWh.
func NewLyapunov(name string, s Spec, weight float64) *Lyapunov {
	return &Lyapunov{name: name, capacity: s.Capacity, weight: weight}
}

// Name is the one it was made with.
func (l *Lyapunov) Name() string { return l.name }

// Target is the mean load, less what store and price say.
func (l *Lyapunov) Target(o Obs) Watts {
	if !l.started {
		l.started, l.m = true, o.Load
	}
	l.m += (o.Load - l.m) * Watts(o.Dt.Hours()/24)
	l.prices++
	l.price += (o.Price - l.price) / float64(min(l.prices, int(24*time.Hour/max(o.Dt, time.Second))))
	return l.m - Watts(500*(2*(float64(o.E/l.capacity)-.5)+l.weight*(o.Price-l.price))) + o.EV.Plan
}
