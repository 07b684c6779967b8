package utility

import (
	"errors"
	"testing"
	"time"

	"gridveil/node/bill"
	"gridveil/node/model"
	"gridveil/node/vee"
)

const quarterMS = int64(15 * time.Minute / time.Millisecond)

// weeks are the readings of some days from the epoch on, a quarter of an hour each,
// whose register rises by what of says for a slot; missing slots are left out.
func weeks(days int, of func(slot int64) int64, missing func(slot int64) bool) (out []model.IntervalBlock) {
	register := int64(0)
	for d := range int64(days) {
		b := model.IntervalBlock{Channel: model.ImportTotal, State: model.ReadImport, Day: d * dayMS, Period: 15 * time.Minute, Revision: 1}
		for slot := d * dayMS; slot < (d+1)*dayMS; slot += quarterMS {
			register += of(slot)
			if !missing(slot) {
				b.Readings = append(b.Readings, model.IntervalReading{Slot: slot, Register: register, Report: 1})
			}
		}
		if len(b.Readings) > 0 {
			out = append(out, b)
		}
	}
	return out
}

// uneven draws more in the evening than in the morning.
func uneven(slot int64) int64 { return 1000 + slot%dayMS/quarterMS*10 }

func compute(t *testing.T, blocks []model.IntervalBlock, from, to time.Time) (bill.Bill, error) {
	t.Helper()
	cal, err := PlanFlat.calendar()
	if err != nil {
		t.Fatal(err)
	}
	return bill.Compute(bill.Contract{State: model.ReadImport, Calendar: cal, From: from.UnixMilli(), To: to.UnixMilli()}, blocks)
}

func TestAGapBetweenTwoRegistersCanBeEstimated(t *testing.T) {
	start := time.UnixMilli(29 * dayMS).UTC() // four weeks lie before it
	end := start.Add(2 * 24 * time.Hour)
	at := func(d time.Duration) int64 { return start.Add(d).UnixMilli() }
	between := func(a, b time.Duration) func(int64) bool {
		return func(slot int64) bool { return slot >= at(a) && slot < at(b) }
	}
	whole, err := compute(t, uniform(weeks(32, uneven, func(int64) bool { return false })), start, end)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		missing func(int64) bool
		slots   int
		quality model.Quality
	}{
		{"nothing is missing", func(int64) bool { return false }, 0, 0},
		{"a quarter of an hour", between(time.Hour, 75*time.Minute), 1, model.QualityLinear},
		{"an afternoon", between(12*time.Hour, 18*time.Hour), 24, model.QualityReferenceDay},
		{"over the beginning of the period", between(-3*time.Hour, 3*time.Hour), 12, model.QualityReferenceDay},
		{"over its end", between(45*time.Hour, 51*time.Hour), 12, model.QualityReferenceDay},
		{"a day and a half", between(6*time.Hour, 42*time.Hour), 144, model.QualityReferenceDay},
	} {
		t.Run(tc.name, func(t *testing.T) {
			blocks := weeks(32, uneven, tc.missing)
			if _, err := compute(t, uniform(within(blocks, start, end)), start, end); (err == nil) != (tc.slots == 0) || err != nil && !errors.Is(err, bill.ErrGap) {
				t.Errorf("without estimates: %v", err)
			}
			days := estimated(blocks, start, end)
			b, err := compute(t, days, start, end)
			if err != nil {
				t.Fatal(err)
			}
			if b.Estimated != tc.slots || b.Slots != whole.Slots {
				t.Errorf("%d of %d slots estimated, want %d of %d", b.Estimated, b.Slots, tc.slots, whole.Slots)
			}
			// The days before are like these, so estimates by weekday meet the truth.
			if tc.quality != model.QualityLinear && (b.Total != whole.Total || b.Ends[0] != whole.Ends[0]) {
				t.Errorf("billed %d, registers %+v; the whole readings give %d, %+v", b.Total, b.Ends, whole.Total, whole.Ends)
			}
			for _, d := range days {
				for _, r := range d.Readings {
					if r.Report == 0 && r.Quality != tc.quality {
						t.Errorf("slot %d has quality %d, want %d", r.Slot, r.Quality, tc.quality)
					}
				}
			}
		})
	}
}

func TestWhatCannotBeEstimatedHonestlyStillStopsABill(t *testing.T) {
	start := time.UnixMilli(dayMS).UTC()
	end := start.Add(24 * time.Hour)
	gap := func(slot int64) bool {
		return slot >= start.Add(6*time.Hour).UnixMilli() && slot < start.Add(8*time.Hour).UnixMilli()
	}
	behind := start.Add(8 * time.Hour).UnixMilli()
	for _, tc := range []struct {
		name   string
		days   int
		gap    func(int64) bool
		change func(*model.IntervalReading)
		want   error
	}{
		{"no register behind the gap", 2, func(slot int64) bool { return slot >= start.Add(6*time.Hour).UnixMilli() }, nil, bill.ErrGap},
		{"no register before it", 3, func(slot int64) bool { return slot < start.Add(6*time.Hour).UnixMilli() }, nil, bill.ErrGap},
		{"another meter behind it", 3, gap, func(r *model.IntervalReading) { r.Epoch++ }, bill.ErrGap},
		{"a register that fell", 3, gap, func(r *model.IntervalReading) { r.Register = 1 }, bill.ErrGap},
		{"a rejected value behind it", 3, gap, func(r *model.IntervalReading) { r.Flags, r.Quality = uint32(vee.Rejecting), model.QualityRaw }, bill.ErrGap},
	} {
		t.Run(tc.name, func(t *testing.T) {
			blocks := weeks(tc.days, uneven, tc.gap)
			for i := range blocks {
				for j := range blocks[i].Readings {
					if r := &blocks[i].Readings[j]; tc.change != nil && r.Slot == behind {
						tc.change(r)
					}
				}
			}
			if _, err := compute(t, estimated(blocks, start, end), start, end); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if days := estimated(nil, start, end); len(days) != 0 {
		t.Errorf("estimates out of nothing: %v", days)
	}
}
