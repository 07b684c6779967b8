package battery

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"gridveil/battery/kernel"
)

// amountParts is how many quanta a usual night of a resident car has.
const amountParts = 8

// ErrBadAmount means nights or a slack that nothing can be hidden with.
var ErrBadAmount = errors.New("amounts of this car cannot be hidden")

// Amount draws how much a resident car charges each night, so that a night's energy
// tells little of the day's driving. It is experimental: the car's own battery is the
// store, the slack what it holds beyond the way it must be able to go, and nights are
// taken for independent. Guests have no slack. One charge larger than the slack stays
// visible: 1 bit. It is not safe for concurrent use.
type Amount struct {
	Quantum WattHours // amounts are multiples of it
	Slack   WattHours
	// Bits is what a night's amount tells, the least that this slack allows for
	// independent nights; Bare what an amount tells that follows the need.
	Bits, Bare float64

	p, theta []float64
	rnd      *rand.Rand
}

// NewAmount makes the law of a car whose past nights needed what nights says, in Wh, 0
// for a night without. slack is the energy, in Wh, that the car may hold beyond its
// need. rnd is used by this law alone. It returns ErrBadAmount.
func NewAmount(nights []WattHours, slack WattHours, rnd *rand.Rand) (*Amount, error) {
	sum, top, count := WattHours(0), WattHours(0), 0
	for _, n := range nights {
		if !(n >= 0) || n > mostNight {
			return nil, fmt.Errorf("%w: a night of %g Wh, want 0 to %g", ErrBadAmount, n, float64(mostNight))
		}
		if n > 0 {
			sum, top, count = sum+n, max(top, n), count+1
		}
	}
	if count == 0 {
		return nil, fmt.Errorf("%w: none of %d nights needed anything", ErrBadAmount, len(nights))
	}
	a := &Amount{Quantum: sum / WattHours(count) / amountParts, Slack: slack, rnd: rnd}
	if !(slack >= 2*a.Quantum) || slack > mostParts*a.Quantum || top > mostParts*a.Quantum {
		return nil, fmt.Errorf("%w: slack of %g Wh and nights of up to %g, want a slack of %g Wh at least and both at most %g", ErrBadAmount,
			float64(slack), float64(top), float64(2*a.Quantum), float64(mostParts*a.Quantum))
	}
	c := int(slack/a.Quantum + closeTo)
	a.p = amountLaw(nights, a.Quantum, top)
	var err error
	if a.Bits, _, a.theta, err = kernel.Limit(a.p, c, 1e-5); err != nil {
		return nil, err
	}
	a.Bare, _, _, err = kernel.Limit(a.p, 0, 1e-5)
	return a, err
}

// mostNight bounds a night's energy.
const mostNight WattHours = 200_000

// mostParts bounds the slack and the greatest night in quanta: twenty usual ones.
const mostParts = 20 * amountParts

// closeTo is by which part of a quantum an energy may miss one.
const closeTo = 1e-9

// amountLaw is the histogram of nights in quanta, each split between its neighbours, with
// a quarter of a night for every amount up to the greatest.
func amountLaw(nights []WattHours, q, top WattHours) []float64 {
	p := make([]float64, int(math.Ceil(float64(top/q)))+1)
	rest := .25 / float64(len(p))
	for _, n := range nights {
		low := min(int(n/q), len(p)-1)
		f := float64(n/q) - float64(low)
		p[low] += 1 - f
		p[min(low+1, len(p)-1)] += f
	}
	sum := 0.
	for i := range p {
		p[i] += rest
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// Tonight is how much the car charges, in Wh, when it holds beyond its need what beyond
// says, below 0 where it needs energy: never less than the need, never more than the
// slack leaves room for. What the car holds at most and needs at least must differ by the
// slack.
func (a *Amount) Tonight(beyond WattHours) WattHours {
	w := int(math.Floor(float64(beyond/a.Quantum) + closeTo))
	room := int(math.Floor(float64((a.Slack-beyond)/a.Quantum) + closeTo))
	weigh := func(y int) float64 {
		if i := w + y; i >= 0 && i < len(a.theta) && y <= room {
			return a.p[y] * a.theta[i]
		}
		return 0
	}
	total := 0.
	for y := range a.p {
		total += weigh(y)
	}
	u := a.rnd.Float64() * total
	for y := range a.p {
		if u -= weigh(y); u < 0 {
			return WattHours(y) * a.Quantum
		}
	}
	return max(0, -WattHours(w)) * a.Quantum // more than any night yet: what it needs
}
