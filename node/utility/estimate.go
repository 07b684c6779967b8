package utility

import (
	"slices"
	"time"

	"gridveil/node/model"
	"gridveil/node/vee"
)

// estimateReach is how far beyond a period its estimates look: for the register
// behind a gap, and for the weeks before it.
const estimateReach = 31 * 24 * time.Hour

// estimated is the blocks of a period, one for each channel and day and all of one
// period, with estimates for what is missing between two registers.
func estimated(blocks []model.IntervalBlock, from, to time.Time) []model.IntervalBlock {
	period := time.Duration(0)
	for _, b := range uniform(within(blocks, from, to)) {
		period = b.Period
	}
	if period == 0 {
		return nil
	}
	near := within(blocks, from.Add(-estimateReach), to.Add(estimateReach))
	// Slots that do not divide the period's own would change what it is billed by.
	days := uniform(slices.DeleteFunc(near, func(b model.IntervalBlock) bool { return period%b.Period != 0 }))
	for first := 0; first < len(days); {
		end := first + 1
		for end < len(days) && days[end].Channel == days[first].Channel {
			end++
		}
		fillGaps(days[first:end])
		first = end
	}
	return days
}

// fillGaps estimates what is missing between two registers of one channel; days are
// in order. What an estimate cannot honestly say stays missing.
func fillGaps(days []model.IntervalBlock) {
	ms := days[0].Period.Milliseconds()
	energy := map[int64]int64{}
	var last model.IntervalReading
	var known bool
	type gap struct {
		day  int // of the register before it
		hole vee.Hole
	}
	var gaps []gap
	before := 0
	for i, d := range days {
		for _, r := range d.Readings {
			sound := known && r.Epoch == last.Epoch && !rejected(r) && !rejected(last)
			switch {
			case sound && r.Slot == last.Slot+ms:
				energy[r.Slot] = r.Register - last.Register
			case sound && r.Slot > last.Slot+ms:
				gaps = append(gaps, gap{before, vee.Hole{Channel: d.Channel, From: last.Slot + ms, To: r.Slot, Period: d.Period,
					Before: last.Register, After: r.Register, Epoch: r.Epoch, State: d.State}})
			}
			last, known, before = r, true, i
		}
	}
	for _, g := range gaps {
		list, err := vee.Estimate(g.hole, func(slot int64) (int64, bool) { e, ok := energy[slot]; return e, ok }, nil)
		if err != nil {
			continue // the bill names the slot
		}
		for _, r := range list {
			days[g.day].Readings = append(days[g.day].Readings, model.IntervalReading{Slot: r.Slot, Register: r.Register, Epoch: r.Epoch, Quality: r.Quality})
		}
	}
}

// rejected says that a raw value must not be billed.
func rejected(r model.IntervalReading) bool {
	return vee.Flags(r.Flags).Rejected() && r.Quality == model.QualityRaw
}
