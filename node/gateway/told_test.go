package gateway

import (
	"slices"
	"testing"
	"time"

	"gridveil/node/model"
)

// TestCurveIsWhatReportsShow: energies are differences of registers in their own
// steps, on the grid of slots, by day.
func TestCurveIsWhatReportsShow(t *testing.T) {
	midnight := time.Date(2026, 6, 15, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration, register int64, epoch uint16) model.Reading {
		return model.Reading{Channel: model.ImportTotal, Slot: midnight.Add(d).UnixMilli(), Register: register, Epoch: epoch}
	}
	const q = 15 * time.Minute
	all := []model.Reading{at(-3*q, 7000, 1), at(-2*q, 9000, 1), at(-q, 9000, 1), at(0, 12_000, 1), at(3*q, 20_000, 1), at(4*q, 1000, 2), at(5*q, 1000, 2)}
	c := curveOf(all, midnight.UnixMilli(), q)
	if past := c.Past[len(c.Past)-3:]; !slices.Equal(past, []int64{-1, 2, 0}) || len(c.Past) != 96 {
		t.Errorf("the day before: %v, %d slots", past, len(c.Past))
	}
	if c.Slot != q || !slices.Equal(c.Day, []int64{3, -1, -1, 8, -1, 0}) {
		t.Errorf("the day: %v in slots of %v", c.Day, c.Slot)
	}
	fine := append(slices.Clone(all), at(5*q+time.Minute, 1250, 2))
	if c = curveOf(fine, midnight.UnixMilli(), q); c.Slot != time.Minute || c.Day[0] != 300 || c.Day[76] != 25 {
		t.Errorf("read once a minute, in steps of 10 mWh: %v, %v", c.Slot, c.Day)
	}
	if c = curveOf(nil, midnight.UnixMilli(), q); c.Bits(q) != 0 || c.Slot != q {
		t.Errorf("no readings: %+v", c)
	}
	if c = curveOf(all[4:5], midnight.UnixMilli(), q); c.Bits(q) != 0 {
		t.Errorf("one reading shows no energy: %+v", c)
	}
}
