package leak

import (
	"math"
	"math/bits"
	"slices"
	"time"
)

// Curve is what a recipient is told of one register of a meter: the energy of
// each slot, as the register's own resolution shows it.
type Curve struct {
	Slot time.Duration // length of a slot
	// Past and Day are energies in steps of the register, oldest first: what the
	// recipient had before, and the day that is rated. Negative stands for a
	// reading that is missing; it is left out.
	Past, Day []int64
}

// periods are what a curve may be summed over before it is coded, in minutes.
var periods = [...]int{1, 5, 15, 30, 60, 180, 360, 720, 1440}

// Bits is what the day's energies tell at most, summed over each period: the
// length of a code for them that a reader of the past could decode. No code is
// shorter on average than what the energies tell, whatever the home does; for one
// day it can be. What a longer period tells never comes out higher: finer sums are
// one way to code coarser ones. A period is a multiple of Slot; other ones count as
// Slot itself.
func (c Curve) Bits(period time.Duration) float64 {
	if c.Slot <= 0 || !slices.ContainsFunc(c.Day, func(v int64) bool { return v >= 0 }) {
		return 0
	}
	if period < c.Slot || period%c.Slot != 0 {
		period = c.Slot
	}
	ways := []time.Duration{period}
	for _, m := range periods {
		p := time.Duration(m) * time.Minute
		if p < period && p >= c.Slot && p%c.Slot == 0 && period%p == 0 {
			ways = append(ways, p)
		}
	}
	var lengths []float64
	for _, p := range ways {
		n := int(p / c.Slot)
		past, day := joined(c.Past, n), joined(c.Day, n)
		lengths = append(lengths, codeLength(past, day))
	}
	return mixed(lengths) + math.Log2(float64(len(periods)+1)/float64(len(lengths)))
}

// joined sums each n energies. A sum with a missing reading is what the others
// tell, and one without any is missing. The rest of the end stands alone.
func joined(e []int64, n int) []int64 {
	var out []int64
	for i := 0; i < len(e); i += n {
		sum, seen := int64(0), false
		for _, v := range e[i:min(i+n, len(e))] {
			if v >= 0 {
				sum, seen = sum+v, true
			}
		}
		if !seen {
			sum = -1
		}
		out = append(out, sum)
	}
	return out
}

// mixed is the code length of a fair mixture of codes with these lengths.
func mixed(lengths []float64) float64 {
	least := slices.Min(lengths)
	sum := 0.
	for _, l := range lengths {
		sum += math.Exp2(least - l)
	}
	return least - math.Log2(sum/float64(len(lengths)))
}

// codeLength is how many bits day takes after past: the length that a mixture of
// adaptive codes gives to both, less that of past alone.
func codeLength(past, day []int64) float64 {
	var before, after []float64
	for _, fine := range []int{0, 2, 4, 16} {
		for _, context := range contexts {
			c := coder{fine: fine, context: context, seen: map[[3]int64]float64{}, all: map[int64]float64{}}
			c.take(past)
			before = append(before, c.length)
			c.take(day)
			after = append(after, c.length)
		}
	}
	return max(0, mixed(after)-mixed(before))
}

// contexts are what the next energy may depend on: nothing, the octave of the one
// before, the octaves of the two before.
var contexts = []func(prev, before int64) int64{
	func(int64, int64) int64 { return 0 },
	func(prev, _ int64) int64 { return int64(octave(prev)) },
	func(prev, before int64) int64 { return int64(octave(prev))<<8 | int64(octave(before)) },
}

func octave(v int64) int { return bits.Len64(uint64(max(v, 0))) }

// coder is an adaptive code of energies: the octave of one and its next fine bits
// are learned by counting, with what was not seen yet at one over their number;
// the rest of its bits are written as they are.
type coder struct {
	fine         int
	context      func(prev, before int64) int64
	seen         map[[3]int64]float64 // context, symbol -> times
	all          map[int64]float64    // context -> times
	prev, before int64
	length       float64
}

// take codes energies.
func (c *coder) take(e []int64) {
	symbols := float64(int64(64) << c.fine)
	for _, v := range e {
		if v < 0 {
			continue
		}
		ctx := c.context(c.prev, c.before)
		o := octave(v)
		rest := max(0, o-1-c.fine) // bits below those that are learned
		symbol := [3]int64{ctx, int64(o), v >> rest}
		c.length += float64(rest) - math.Log2((c.seen[symbol]+1/symbols)/(c.all[ctx]+1))
		c.seen[symbol]++
		c.all[ctx]++
		c.prev, c.before = v, c.prev
	}
}
