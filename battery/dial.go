package battery

import (
	"context"
	"errors"
	"fmt"
	"math"

	"gridveil/battery/kernel"
)

// Dial says how much a household gives up of its mask for a lower bill.
type Dial struct {
	Stop int // 0 private to Stops-1 thrifty
	// Prices are currency per kWh, one for each quarter of an hour of the day from
	// midnight UTC; at stop 0 they are not needed.
	Prices []float64
}

// Stops is how many positions the dial has.
const Stops = 5

// lambdas are the bits that a unit of currency is worth at each stop.
var lambdas = [Stops]float64{0, 4.3, 8.5, 17, 43}

// quarters is how many prices a day has.
const quarters = 96

// dialSize bounds the work of a dialled kernel, which has a table for each block of the
// day: in states of meter, demand and store, over all blocks.
const dialSize = 1_600_000

// mostLeak is by how much, at most, a tariff may raise the bound of a mask.
const mostLeak = 2.5

// nats is what the dearest level may weigh against the cheapest in one block before a
// kernel is tried: beyond it a mask follows the price alone.
const nats = 50

// ErrBadDial means a stop or a price list that does not exist.
var ErrBadDial = errors.New("no such setting of cost against privacy")

// check lists what is wrong with d.
func (d Dial) check() error {
	if d.Stop < 0 || d.Stop >= Stops {
		return fmt.Errorf("%w: stop %d, want 0 to %d", ErrBadDial, d.Stop, Stops-1)
	}
	if d.Stop == 0 {
		return nil
	}
	if len(d.Prices) != quarters {
		return fmt.Errorf("%w: %d prices, want one for each of %d quarters of an hour", ErrBadDial, len(d.Prices), quarters)
	}
	for i, p := range d.Prices {
		if math.IsNaN(p) || math.IsInf(p, 0) {
			return fmt.Errorf("%w: price %d is %v", ErrBadDial, i, p)
		}
	}
	return nil
}

// LessonAt is Lesson for a veil whose dial stands at d: it minimises bits plus lambda
// times cost, both a day, with one reference law for each block of the day, so that
// the shape that prices give the meter is public and tells nothing. Where that would
// raise the bound above 2.5 times that of a mask without prices, lambda is halved: no
// tariff buys the mask away. It gives nil before four days of history.
func LessonAt(ctx context.Context, s Spec, history []float64, d Dial) (*Learned, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	if d.Stop == 0 || len(history) < minHistory {
		return Lesson(ctx, "veil", s, history)
	}
	plan, err := planDial(s, history)
	if err != nil {
		return nil, err
	}
	ch := kernel.Fit(plan.demand(history), plan.Mx, habits*daily)
	free, err := kernel.Solve(ctx, ch, plan.Ms, kernel.Opts{})
	if err != nil {
		return nil, err
	}
	cost, lambda := costs(plan, d.Prices), lambdas[d.Stop]
	for lambda*spreadOf(cost)*math.Ln2 > nats {
		lambda /= 2
	}
	for {
		k, err := kernel.Solve(ctx, ch, plan.Ms, kernel.Opts{Cost: cost, Lambda: lambda})
		if err != nil && !errors.Is(err, kernel.ErrBadCost) {
			return nil, err
		}
		if err == nil && k.U <= mostLeak*free.U {
			return &Learned{plan, k}, nil
		}
		lambda /= 2
	}
}

// planDial counts in hundredths of the capacity, more in homes whose peaks would need too
// large tables.
func planDial(s Spec, history []float64) (Plan, error) {
	for q := math.Max(25, float64(s.Ceiling()-s.Floor())/100); ; q += 5 {
		p, err := planFor(s, history, q)
		if err != nil || (p.Mx+1)*(p.Mx+1)*(p.Ms+1)*daily <= dialSize {
			return p, err
		}
	}
}

// costs is what a level costs in each block of the day, less that of the day's mean price,
// which a home pays whatever its mask does.
func costs(p Plan, prices []float64) [][]float64 {
	mean := 0.
	for _, v := range prices {
		mean += v / float64(len(prices))
	}
	out := make([][]float64, daily)
	for slot := range out {
		out[slot] = make([]float64, p.Mx+1)
		for y := range out[slot] {
			out[slot][y] = (prices[slot*len(prices)/daily] - mean) * float64(y) * float64(p.Quantum) / 1000
		}
	}
	return out
}

func spreadOf(cost [][]float64) float64 {
	lo, hi := 0., 0.
	for _, row := range cost {
		for _, c := range row {
			lo, hi = min(lo, c), max(hi, c)
		}
	}
	return hi - lo
}
