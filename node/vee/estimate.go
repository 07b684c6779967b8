package vee

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"gridveil/node/model"
)

// ErrEstimate means a gap cannot be filled honestly.
var ErrEstimate = errors.New("vee: gap cannot be estimated")

// Hole is the missing slots of one register between two known ones.
type Hole struct {
	Channel model.Channel
	From    int64 // start of the first missing slot, UTC ms
	To      int64 // start of the first slot that has a reading again
	Period  time.Duration
	Before  int64 // register at From
	After   int64 // register at the end of the slot that starts at To
	Epoch   uint16
	State   model.ReadingState
}

// History gives the energy of an earlier slot of the same register.
type History func(slot int64) (energy int64, ok bool)

// Shape gives the weight of a slot in the class profile, not negative.
type Shape func(slot int64) int64

const (
	linearUpTo  = 2 * time.Hour
	sameWeekday = 7 * 24 * time.Hour
	weeksBack   = 4
	maxHole     = 31 * 24 * time.Hour // longer is not an estimate but a new start register
)

// Estimate fills a hole: linear up to 2 h, else as the same weekday of the last
// four weeks, else by the class profile, else linear and questionable. The
// energies always add up to the register difference, to the mWh. history and
// shape may be nil.
func Estimate(h Hole, history History, shape Shape) ([]model.Reading, error) {
	ms := h.Period.Milliseconds()
	if ms <= 0 || h.From >= h.To || (h.To-h.From)%ms != 0 || h.To-h.From > maxHole.Milliseconds() {
		return nil, fmt.Errorf("%w: bounds", ErrEstimate)
	}
	total := h.After - h.Before
	if total < 0 {
		return nil, fmt.Errorf("%w: register fell across it", ErrEstimate)
	}
	weights, quality := h.weights(history, shape)
	sum := uint64(0)
	for _, w := range weights {
		sum += w
	}
	out := make([]model.Reading, 0, len(weights)-1)
	run := uint64(0)
	for i, w := range weights[:len(weights)-1] { // the last slot has its reading
		run += w
		hi, lo := bits.Mul64(uint64(total), run)
		share, _ := bits.Div64(hi, lo, sum) // run <= sum, so it fits
		slot := h.From + int64(i)*ms
		out = append(out, model.Reading{Channel: h.Channel, Slot: slot, At: slot + ms, Register: h.Before + int64(share),
			Epoch: h.Epoch, State: h.State, Quality: quality})
	}
	return out, nil
}

// weights are one per slot from From to the slot at To, both included.
func (h Hole) weights(history History, shape Shape) ([]uint64, model.Quality) {
	ms := h.Period.Milliseconds()
	n := int((h.To-h.From)/ms) + 1
	w := make([]uint64, n)
	if h.To-h.From > linearUpTo.Milliseconds() {
		if history != nil && fill(w, func(i int) (uint64, bool) { return weekdayMean(history, h.From+int64(i)*ms) }) {
			return w, model.QualityReferenceDay
		}
		if shape != nil && fill(w, func(i int) (uint64, bool) {
			v := shape(h.From + int64(i)*ms)
			return uint64(min(max(v, 0), maxWeight)), true
		}) {
			return w, model.QualityQuestionable
		}
	}
	for i := range w {
		w[i] = 1
	}
	if h.To-h.From > linearUpTo.Milliseconds() {
		return w, model.QualityQuestionable
	}
	return w, model.QualityLinear
}

// maxWeight keeps the sum of a month of quarter hours in 64 bits.
const maxWeight = 1 << 50

// fill sets all weights, or says that the source has a hole itself or no energy.
func fill(w []uint64, of func(int) (uint64, bool)) bool {
	sum := uint64(0)
	for i := range w {
		v, ok := of(i)
		if !ok {
			return false
		}
		w[i] = v
		sum += v
	}
	return sum > 0
}

// weekdayMean sums the same slot of the weeks that have it.
func weekdayMean(history History, slot int64) (sum uint64, ok bool) {
	for week := range int64(weeksBack) {
		if e, have := history(slot - (week+1)*sameWeekday.Milliseconds()); have && e >= 0 {
			sum += uint64(min(e, maxWeight))
			ok = true
		}
	}
	return sum, ok
}
