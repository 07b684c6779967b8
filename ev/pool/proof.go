package pool

import (
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Tree is an RFC 6962 Merkle tree over leaves that are all known: offers, controls or pay lines of one event.
type Tree struct {
	levels [][]tlog.Hash // levels[0] are the leaves; an odd last node moves up unchanged
}

// NewTree builds the tree. The leaves are hashed, not kept.
func NewTree(leaves [][]byte) *Tree {
	level := make([]tlog.Hash, len(leaves))
	for i, leaf := range leaves {
		level[i] = tlog.RecordHash(leaf)
	}
	t := &Tree{levels: [][]tlog.Hash{level}}
	for len(level) > 1 {
		next := make([]tlog.Hash, 0, (len(level)+1)/2)
		for i := 0; i+1 < len(level); i += 2 {
			next = append(next, tlog.NodeHash(level[i], level[i+1]))
		}
		if len(level)%2 == 1 {
			next = append(next, level[len(level)-1])
		}
		t.levels = append(t.levels, next)
		level = next
	}
	return t
}

// Size returns the number of leaves.
func (t *Tree) Size() int { return len(t.levels[0]) }

// Root is what the ledger anchors; zero for a tree without leaves.
func (t *Tree) Root() [32]byte {
	top := t.levels[len(t.levels)-1]
	if len(top) == 0 {
		return [32]byte{}
	}
	return top[0]
}

// Prove returns the inclusion proof of leaf i, nil if there is none.
func (t *Tree) Prove(i int) [][32]byte {
	if i < 0 || i >= t.Size() {
		return nil
	}
	proof := make([][32]byte, 0, len(t.levels))
	for _, level := range t.levels[:len(t.levels)-1] {
		if sibling := i ^ 1; sibling < len(level) {
			proof = append(proof, level[sibling])
		}
		i /= 2
	}
	return proof
}

// CheckProof reports whether leaf is the i-th of size leaves under root. The error wraps ErrMessage.
func CheckProof(root [32]byte, size, i int, leaf []byte, proof [][32]byte) error {
	p := make(tlog.RecordProof, len(proof))
	for k, h := range proof {
		p[k] = h
	}
	if err := tlog.CheckRecord(p, int64(size), root, int64(i), tlog.RecordHash(leaf)); err != nil {
		return fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return nil
}

// Interval is one metered interval of an event.
type Interval struct {
	BaselineMWh   int64 // from the anchored offer; negative: discharge
	MeteredMWh    int64 // from the signed meter records, never from a reported state of charge
	InstructedMWh int64 // >= 0, in the instruction's direction
}

// Delivered returns what counts as delivered over all intervals: baseline minus metered in the instruction's direction
// (up: less consumption), within 0 and instructed for each interval. Giving more or the opposite earns nothing, and
// takes nothing from other intervals.
func Delivered(is []Interval, up bool) (sum int64, err error) {
	for n, i := range is {
		if i.InstructedMWh < 0 || out(i.InstructedMWh) || out(i.BaselineMWh) || out(i.MeteredMWh) {
			return 0, fmt.Errorf("%w: interval %d", ErrMessage, n)
		}
		change := i.BaselineMWh - i.MeteredMWh
		if !up {
			change = -change
		}
		sum += min(max(change, 0), i.InstructedMWh)
	}
	return sum, nil
}

func out(v int64) bool { return v > maxMWh || v < -maxMWh }

// Availability returns 1000 less the median deviation from the baseline outside events, permille: how far the plan that
// was offered could be believed. Intervals without a baseline count as fully off if energy flowed. None at all is 0:
// who never showed a plan has not shown that it keeps one.
func Availability(is []Interval) int64 {
	if len(is) == 0 {
		return 0
	}
	off := make([]int64, len(is))
	for n, i := range is {
		base, gap := abs(i.BaselineMWh), abs(i.BaselineMWh-i.MeteredMWh)
		switch {
		case gap == 0:
		case base == 0 || gap >= base:
			off[n] = 1000
		default:
			off[n] = mulDiv(gap, 1000, base)
		}
	}
	slices.Sort(off)
	return 1000 - off[len(off)/2] // of two middle values the larger: in doubt less pay
}

func abs(v int64) int64 { return max(v, -v) }
