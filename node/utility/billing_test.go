package utility

import (
	"testing"
	"time"

	"gridveil/node/model"
	"gridveil/node/vee"
)

// day makes a block of readings whose register counts 10 mWh a minute.
func day(period time.Duration, fromMinute, toMinute int64) model.IntervalBlock {
	b := model.IntervalBlock{Channel: model.ImportTotal, Period: period}
	for m := fromMinute; m < toMinute; m += int64(period / time.Minute) {
		end := m + int64(period/time.Minute)
		b.Readings = append(b.Readings, model.IntervalReading{Slot: m * 60_000, Register: end * 10, Quality: model.QualityValid})
	}
	return b
}

func TestAChangedReadPeriodLeavesNoGapInABill(t *testing.T) {
	quarters, minutes, back := day(15*time.Minute, 0, 60), day(time.Minute, 60, 100), day(15*time.Minute, 105, 180)
	minutes.Readings[3].Flags = uint32(vee.Spike)
	// 100 to 105 was read by neither: the register at 105 is missing, so one quarter is.
	out := uniform([]model.IntervalBlock{minutes, quarters, back})
	if len(out) != 1 || out[0].Period != 15*time.Minute {
		t.Fatalf("got %d blocks, period %v", len(out), out[0].Period)
	}
	want := []int64{15, 30, 45, 60, 75, 90, 120, 135, 150, 165, 180}
	if len(out[0].Readings) != len(want) {
		t.Fatalf("got %d slots, want %d", len(out[0].Readings), len(want))
	}
	for i, r := range out[0].Readings {
		if end := r.Slot/60_000 + 15; end != want[i] || r.Register != end*10 {
			t.Errorf("slot %d ends at %d with %d", i, end, r.Register)
		}
	}
	if out[0].Readings[4].Flags != uint32(vee.Spike) || out[0].Readings[5].Flags != 0 {
		t.Errorf("flags of a minute are not those of its quarter: %#x, %#x", out[0].Readings[4].Flags, out[0].Readings[5].Flags)
	}
	if _, err := out[0].Encode(); err != nil {
		t.Errorf("the merged block: %v", err)
	}
}

func TestPeriodsThatDoNotDivideEachOtherMeetInTheirMultiple(t *testing.T) {
	out := uniform([]model.IntervalBlock{day(10*time.Minute, 0, 60), day(15*time.Minute, 60, 120)})
	if len(out) != 1 || out[0].Period != 30*time.Minute || len(out[0].Readings) != 4 {
		t.Errorf("got %v with %d slots, want 30m with 4", out[0].Period, len(out[0].Readings))
	}
	if len(uniform(nil)) != 0 {
		t.Error("blocks out of nothing")
	}
}
