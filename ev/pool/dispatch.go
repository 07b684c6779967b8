package pool

import (
	"fmt"
	"math/bits"
)

// Member is one session that can follow an instruction.
type Member struct {
	CapW   int64 // most it can give in the instruction's direction, 0..2^20
	Weight int64 // its share, see WeightOf; 1..2^20
}

const (
	maxMembers = 1 << 24
	maxWeight  = 1 << 20
	levelShift = 20
)

// WeightOf returns a member's weight from its slack in W and its fairness in permille: sessions that gave much lately
// give less now.
func WeightOf(slackW, fairness int64) int64 {
	return min(max(mulDiv(max(slackW, 0), max(fairness, 0), 1000), 1), maxWeight)
}

// Dispatch shares target W among the members. Member i gives min(cap, floor(level x weight / 2^20)) with the highest
// level whose sum does not pass the target; what is left goes 1 W each, in index order, to members below their cap. The
// parts add up to the target exactly, or everybody gives its cap and shortfall says what is missing. The result depends
// on nothing else, so everybody can recompute it. It returns ErrMessage for input out of range.
func Dispatch(target int64, members []Member) (parts []int64, shortfall int64, err error) {
	if target < 0 || len(members) > maxMembers {
		return nil, 0, fmt.Errorf("%w: target %d W for %d members", ErrMessage, target, len(members))
	}
	var capacity int64
	for i, m := range members {
		if m.CapW < 0 || m.CapW > maxWatt || m.Weight < 1 || m.Weight > maxWeight {
			return nil, 0, fmt.Errorf("%w: member %d", ErrMessage, i)
		}
		capacity += m.CapW
	}
	parts = make([]int64, len(members))
	if target >= capacity {
		for i, m := range members {
			parts[i] = m.CapW
		}
		return parts, target - capacity, nil
	}
	level := levelFor(target, members)
	left := target
	for i, m := range members {
		parts[i] = m.at(level)
		left -= parts[i]
	}
	for i := 0; left > 0; i++ {
		if parts[i] < members[i].CapW {
			parts[i]++
			left--
		}
	}
	return parts, 0, nil
}

// at is the water level's part of one member; level and weight are below 2^41 and 2^20, so the product fits.
func (m Member) at(level int64) int64 { return min(m.CapW, level*m.Weight>>levelShift) }

// levelFor bisects for the highest level whose sum does not pass target, which is below the sum of caps. Members that are
// full at a level that is low enough stay full: they are summed once and left out of later rounds.
func levelFor(target int64, members []Member) int64 {
	open := append([]Member(nil), members...)
	low, high := int64(0), int64(1)<<(levelShift+20)+1
	for high-low > 1 {
		level := low + (high-low)/2
		var sum int64
		for _, m := range open {
			sum += m.at(level)
		}
		if sum > target {
			high = level
			continue
		}
		low = level
		kept := open[:0]
		for _, m := range open {
			if m.at(level) == m.CapW {
				target -= m.CapW
			} else {
				kept = append(kept, m)
			}
		}
		open = kept
	}
	return low
}

func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(q)
}
