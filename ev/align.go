package ev

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
)

// Mark is the state of one register at one instant.
type Mark struct {
	At  int64 // UTC ms
	MWh int64 // register, rising
}

// Series are the registers of a home and its EVSE as sampled, each sorted by time. An empty one counts as zero
// throughout: a home without a roof or battery has none.
type Series struct {
	PV, Import, Export, BattIn, BattOut, EVIn, EVOut []Mark
}

const (
	nearMark = 10_000 // ms: a mark without a sample this near is left out, and its intervals merge
	shortest = 1_000  // ms between two marks
	// MaxIntervals bounds one session: 64 days of 300 s.
	MaxIntervals = 18_432
)

// Align cuts [from, to) into intervals at the multiples of step ms and at the given extra cuts (changes of price), and
// returns what every meter counted in each. Registers between samples are interpolated, if for all meters a sample is
// at most 10 s from the mark; other marks are left out and their intervals merge. from and to always stay; intervals
// beside one without near samples are Unsure. An interval in which the car's direction changed is cut there, so that
// no result charges and discharges at once; where even two neighbouring samples saw both, charging comes first.
//
// The sum over the result is exactly what each series counted between from and to. It returns ErrRange for an empty or
// too long span, or a register that falls. Source: doc/design.md, attribution.
func Align(s Series, from, to, step int64, cuts ...int64) ([]Registers, error) {
	if step <= 0 || to-from < 2 || (to-from)/step >= MaxIntervals || len(cuts) > MaxIntervals {
		return nil, fmt.Errorf("%w: span [%d, %d) in steps of %d ms", ErrRange, from, to, step)
	}
	all := [...][]Mark{s.PV, s.Import, s.Export, s.BattIn, s.BattOut, s.EVIn, s.EVOut}
	for _, series := range all {
		if !sort.SliceIsSorted(series, func(i, j int) bool { return series[i].At < series[j].At }) {
			return nil, fmt.Errorf("%w: samples are not sorted by time", ErrRange)
		}
		for i := 1; i < len(series); i++ {
			if series[i].MWh < series[i-1].MWh {
				return nil, fmt.Errorf("%w: a register fell at %d", ErrRange, series[i].At)
			}
		}
	}
	marks := marksOf(all[:], from, to, step, cuts)
	out := make([]Registers, 0, len(marks))
	for i := 1; i < len(marks); i++ {
		r := counted(&s, marks[i-1], marks[i])
		r.Unsure = !isNear(all[:], marks[i-1]) || !isNear(all[:], marks[i])
		out = append(out, cutReversals(&s, r)...)
	}
	return out, nil
}

// marksOf returns from, to and every mark between them that has near samples, sorted and apart.
func marksOf(all [][]Mark, from, to, step int64, cuts []int64) []int64 {
	var marks []int64
	for at := from - from%step + step; at < to; at += step {
		if isNear(all, at) {
			marks = append(marks, at)
		}
	}
	for _, at := range cuts {
		if at > from && at < to {
			marks = append(marks, at)
		}
	}
	return marksApart(marks, from, to)
}

// marksApart sorts marks and leaves out those within a second of the one before or of the end: no meter resolves that.
func marksApart(marks []int64, from, to int64) []int64 {
	slices.Sort(marks)
	out := []int64{from}
	for _, at := range marks {
		if at-out[len(out)-1] >= shortest && to-at >= shortest {
			out = append(out, at)
		}
	}
	return append(out, to)
}

// isNear reports whether every meter that has samples has one at most 10 s from the instant.
func isNear(all [][]Mark, at int64) bool {
	for _, series := range all {
		i := after(series, at)
		before := i > 0 && at-series[i-1].At <= nearMark
		behind := i < len(series) && series[i].At-at <= nearMark
		if len(series) > 0 && !before && !behind {
			return false
		}
	}
	return true
}

// after returns the index of the first sample later than at.
func after(series []Mark, at int64) int {
	return sort.Search(len(series), func(i int) bool { return series[i].At > at })
}

// register returns the state of a register at an instant: interpolated between samples, held outside them.
func register(series []Mark, at int64) int64 {
	if len(series) == 0 {
		return 0
	}
	i := after(series, at)
	switch i {
	case 0:
		return series[0].MWh
	case len(series):
		return series[i-1].MWh
	}
	a, b := series[i-1], series[i]
	return a.MWh + mulDiv(b.MWh-a.MWh, at-a.At, b.At-a.At)
}

func counted(s *Series, from, to int64) Registers {
	d := func(series []Mark) int64 { return register(series, to) - register(series, from) }
	return Registers{From: from, To: to, PV: d(s.PV), Import: d(s.Import), Export: d(s.Export), BattIn: d(s.BattIn),
		BattOut: d(s.BattOut), EVIn: d(s.EVIn), EVOut: d(s.EVOut)}
}

// cutReversals splits an interval in which the car did both, first at the car's own samples, then within one pair.
func cutReversals(s *Series, r Registers) []Registers {
	if r.EVIn == 0 || r.EVOut == 0 {
		return []Registers{r}
	}
	var marks []int64
	for _, series := range [][]Mark{s.EVIn, s.EVOut} {
		for _, m := range series {
			if m.At > r.From && m.At < r.To {
				marks = append(marks, m.At)
			}
		}
	}
	marks = marksApart(marks, r.From, r.To)
	var out []Registers
	for i := 1; i < len(marks); i++ {
		piece := counted(s, marks[i-1], marks[i])
		piece.Unsure = r.Unsure
		out = joinAlike(out, halve(piece)...)
	}
	return out
}

// halve puts charging into the first and discharging into the second half of an interval that has both. Intervals have
// at least two milliseconds, see marksApart and Align.
func halve(r Registers) []Registers {
	if r.EVIn == 0 || r.EVOut == 0 {
		return []Registers{r}
	}
	middle := r.From + (r.To-r.From)/2
	a, b := r, r
	a.To, b.From = middle, middle
	a.Unsure, b.Unsure = true, true
	a.EVOut, b.EVIn = 0, 0
	for _, p := range []struct{ a, b *int64 }{{&a.PV, &b.PV}, {&a.Import, &b.Import}, {&a.Export, &b.Export},
		{&a.BattIn, &b.BattIn}, {&a.BattOut, &b.BattOut}} {
		*p.a = *p.a / 2
		*p.b -= *p.a
	}
	return []Registers{a, b}
}

// joinAlike appends pieces and merges neighbours whose car flows in the same direction.
func joinAlike(out []Registers, pieces ...Registers) []Registers {
	for _, p := range pieces {
		last := len(out) - 1
		if last < 0 || out[last].EVIn+p.EVIn > 0 && out[last].EVOut+p.EVOut > 0 {
			out = append(out, p)
			continue
		}
		l := &out[last]
		l.To = p.To
		l.PV, l.Import, l.Export = l.PV+p.PV, l.Import+p.Import, l.Export+p.Export
		l.BattIn, l.BattOut = l.BattIn+p.BattIn, l.BattOut+p.BattOut
		l.EVIn, l.EVOut = l.EVIn+p.EVIn, l.EVOut+p.EVOut
		l.Unsure = l.Unsure || p.Unsure
	}
	return out
}

// Gap is signed energy that the EVSE's own registers do not show, in mWh.
type Gap struct {
	In, Out int64 // goes at the lowest price of the deal, see NewBill
	Unsure  bool  // the registers were scaled although they were off by more than the tolerance
}

// ScaleEV makes the car's energies add up to the signed totals: proportionally, whole mWh by largest remainder, the
// earlier interval first where remainders are equal. stepMWh is one step of the signed register.
//
// Registers and signed total may differ by 1 % and two steps. Beyond, energy that was signed but not seen is returned
// as Gap and the registers stay; energy that was seen but not signed is scaled away. Both set Unsure.
func ScaleEV(rs []Registers, signedIn, signedOut, stepMWh int64) ([]Registers, Gap, error) {
	for _, v := range []int64{signedIn, signedOut, stepMWh} {
		if v < 0 || v > maxMWh {
			return nil, Gap{}, fmt.Errorf("%w: signed energy of %d mWh", ErrRange, v)
		}
	}
	out := slices.Clone(rs)
	in, inUnsure, err := scale(out, signedIn, stepMWh, func(r *Registers) *int64 { return &r.EVIn })
	if err != nil {
		return nil, Gap{}, err
	}
	exp, outUnsure, err := scale(out, signedOut, stepMWh, func(r *Registers) *int64 { return &r.EVOut })
	return out, Gap{In: in, Out: exp, Unsure: inUnsure || outUnsure}, err
}

func scale(rs []Registers, signed, step int64, field func(*Registers) *int64) (gap int64, unsure bool, err error) {
	weights := make([]int64, len(rs))
	var seen int64
	for i := range rs {
		weights[i] = *field(&rs[i])
		if weights[i] < 0 || weights[i] > maxMWh {
			return 0, false, ErrRange
		}
		seen += weights[i]
	}
	if seen > maxMWh {
		return 0, false, ErrRange
	}
	off := signed - seen
	unsure = max(off, -off) > signed/100+2*step
	if seen == 0 || unsure && off > 0 {
		return off, unsure, nil
	}
	for i, v := range Apportion(signed, weights) {
		*field(&rs[i]) = v
	}
	return 0, unsure, nil
}

// Apportion divides total into whole parts proportional to weights, whose sum must be positive unless total is zero:
// rounded down, then one more for the largest remainders, the lower index first where they are equal. The parts add up
// to total. Weights and their sum must be below 2^62.
func Apportion(total int64, weights []int64) []int64 {
	var sum int64
	for _, w := range weights {
		sum += w
	}
	parts := make([]int64, len(weights))
	if sum == 0 || total == 0 {
		return parts
	}
	type rest struct {
		i         int
		remainder int64
	}
	rests := make([]rest, 0, len(weights))
	left := total
	for i, w := range weights {
		q, r := mulDivRem(total, w, sum)
		parts[i] = q
		left -= q
		if r > 0 {
			rests = append(rests, rest{i, r})
		}
	}
	slices.SortFunc(rests, func(a, b rest) int {
		return cmp.Or(cmp.Compare(b.remainder, a.remainder), cmp.Compare(a.i, b.i))
	})
	for _, r := range rests[:left] {
		parts[r.i]++
	}
	return parts
}
