package pool

import (
	"encoding/binary"
	"fmt"

	"gridveil/ev"
)

// Line is what one session earned in one event.
type Line struct {
	Open         [32]byte
	DeliveredMWh int64
	Availability int64 // permille
	PaidMicro    int64 // whole minor units
}

// LineSize is the length of an encoded Line, a leaf of the anchored pay tree.
const LineSize = 32 + 3*8

// Encode returns H(Open) delivered availability paid:i64.
func (l Line) Encode() []byte {
	b := append(make([]byte, 0, LineSize), l.Open[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(l.DeliveredMWh))
	b = binary.BigEndian.AppendUint64(b, uint64(l.Availability))
	return binary.BigEndian.AppendUint64(b, uint64(l.PaidMicro))
}

// Pay shares out what the operator paid for one event. feePermille stays with the aggregator; of the rest, the whole
// minor units go to the sessions in proportion to delivered x availability, by largest remainder, the earlier line first
// where they are equal. It fills PaidMicro and returns what was paid and what the aggregator keeps: together exactly
// received. Without any delivery everything is kept.
func Pay(lines []Line, received, feePermille, minor int64) (paid, kept int64, err error) {
	if received < 0 || received > maxMWh || feePermille < 0 || feePermille > 1000 || minor <= 0 {
		return 0, 0, fmt.Errorf("%w: pay of %d", ErrMessage, received)
	}
	weights := make([]int64, len(lines))
	var sum int64
	for i, l := range lines {
		if l.DeliveredMWh < 0 || out(l.DeliveredMWh) || l.Availability < 0 || l.Availability > 1000 {
			return 0, 0, fmt.Errorf("%w: line %d", ErrMessage, i)
		}
		weights[i] = l.DeliveredMWh * l.Availability
		if sum += weights[i]; sum > 1<<61 {
			return 0, 0, fmt.Errorf("%w: delivered energy beyond range", ErrMessage)
		}
	}
	units := mulDiv(received, 1000-feePermille, 1000) / minor
	for i, n := range ev.Apportion(units, weights) {
		lines[i].PaidMicro = n * minor
		paid += lines[i].PaidMicro
	}
	return paid, received - paid, nil
}
