package battery

import (
	"context"
	"errors"
	"fmt"
	"math"

	"gridveil/battery/kernel"
)

// Leak is what a mask gives away by model, in bits per day: what an observer who
// knows everything but the load and the seed learns about the load. What the model
// leaves out is counted apart, see Report.
type Leak struct {
	Masked float64 // of the running kernel, under a chain richer than the one it was solved for
	Err    float64 // standard error of Masked
	Bound  float64 // proven for the kernel's own chain
	Floor  float64 // no battery of this size does better on independent days like these
	// Doubtful means that Masked is below Floor: the model does not fit this home.
	Doubtful bool
}

// ErrNoHistory means that fewer than four days of demand are known.
var ErrNoHistory = errors.New("too little demand is known to rate a mask")

// ratedBlocks and ratedPaths make the standard error a few percent even of a mask that
// tells two bits a day.
const (
	ratedBlocks = 48_000
	ratedPaths  = 3
)

// RateLeak rates a kernel on a home's block demands, in Wh, oldest first, as
// Controller.Snapshot gives them. It takes seconds and touches no controller, so a
// node runs it at night beside the mask. It returns ErrNoHistory, a fault of the
// chain, or ctx's error.
func RateLeak(ctx context.Context, s Spec, l Learned, history []float64) (Leak, error) {
	if len(history) < minHistory {
		return Leak{}, fmt.Errorf("%w: %d blocks of five minutes, want %d", ErrNoHistory, len(history), minHistory)
	}
	demand := l.Plan.demand(history)
	ch := kernel.Regime(demand, l.Kernel.Mx, Block.Minutes())
	out := Leak{Bound: l.Kernel.U * daily}
	for seed := range uint64(ratedPaths) {
		r, err := kernel.Rate(ctx, ch, l.Kernel, l.Kernel.Ms, ratedBlocks, seed+1)
		if err != nil {
			return Leak{}, err
		}
		out.Masked += r.Bits * daily / ratedPaths
		out.Err += r.Err * daily / ratedPaths / math.Sqrt(ratedPaths)
	}
	floor, err := FloorLine(ctx, s, history)
	if err != nil {
		return Leak{}, err
	}
	out.Floor, out.Doubtful = floor, out.Masked+3*out.Err < floor
	return out, nil
}

// floorPeriods are the block lengths, in blocks of five minutes, that the floor line
// is the greatest of: 15 minutes to a day.
var floorPeriods = []int{3, 6, 12, 24, 48, 96, 144, 288}

// floorLevels bounds the work of one limit.
const floorLevels = 100

// FloorLine is the least leakage, in bits per day, of an ideal battery of this size
// on demand whose blocks are independent and spread like those of history, in Wh
// per five minutes; the greatest over blocks of 15 minutes to a day. A line to
// compare with, not a bound for dependent demand.
func FloorLine(ctx context.Context, s Spec, history []float64) (float64, error) {
	c := float64(s.Ceiling() - s.Floor())
	best := 0.
	for _, n := range floorPeriods {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		e := pool(history, n)
		if len(e) < 4 {
			continue
		}
		law, q := smoothed(e, math.Max(25, c/200))
		bits, _, _, err := kernel.Limit(law, int(c/q), 1e-4)
		if err != nil {
			return 0, err
		}
		best = max(best, bits*288/float64(n))
	}
	return best, nil
}

// pool sums each n blocks.
func pool(blocks []float64, n int) []float64 {
	out := make([]float64, 0, len(blocks)/n)
	for i := 0; i+n <= len(blocks); i += n {
		e := 0.
		for _, v := range blocks[i : i+n] {
			e += v
		}
		out = append(out, e)
	}
	return out
}

// smoothed is the law of e on whole quanta above its least, as a sum of Gaussians;
// the quantum is q or larger, so that at most floorLevels levels remain.
func smoothed(e []float64, q float64) (law []float64, quantum float64) {
	lo, hi, mean := e[0], e[0], 0.
	for _, v := range e {
		lo, hi = min(lo, v), max(hi, v)
		mean += v / float64(len(e))
	}
	sd := 0.
	for _, v := range e {
		sd += (v - mean) * (v - mean) / float64(len(e))
	}
	width := max(1.06*math.Sqrt(sd)*math.Pow(float64(len(e)), -.2), q/2)
	lo, hi = max(0, lo-2*width), hi+2*width
	q = max(q, (hi-lo)/floorLevels)
	law = make([]float64, int((hi-lo)/q)+1)
	sum := 0.
	for i := range law {
		at := lo + float64(i)*q
		for _, v := range e {
			d := (at - v) / width
			law[i] += math.Exp(-d * d / 2)
		}
		sum += law[i]
	}
	for i := range law {
		law[i] /= sum
	}
	return law, q
}

// exposure tells intervals in which the meter did not show the mask's level.
type exposure struct {
	on   bool
	past int // intervals of days that are over
	days int
}

// note gives 1 where an interval begins.
func (e *exposure) note(exposed bool) int {
	begins := exposed && !e.on
	e.on = exposed
	if begins {
		return 1
	}
	return 0
}

// over ends a day of so many intervals.
func (e *exposure) over(today int) { e.past, e.days = e.past+today, e.days+1 }

// bits is what a day's intervals told: when each of them began, among as many as a
// usual day has, and what the home took then.
func (e *exposure) bits(today, mx int) float64 {
	usual := float64(today)
	if e.days > 0 {
		usual = float64(e.past) / float64(e.days)
	}
	return float64(today) * IntervalBits(usual, mx)
}

// IntervalBits is what one exposed interval is counted as, of usual intervals a day
// and levels 0..mx.
func IntervalBits(usual float64, mx int) float64 {
	return math.Log2(1440*math.E/max(1, usual)) + math.Log2(float64(mx+1))
}
