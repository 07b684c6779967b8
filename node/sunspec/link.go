package sunspec

import (
	"encoding/binary"
	"time"

	"gridveil/battery"
)

// LinkModel is the vendor model of gridveil's simulated battery. It stands for
// the copper between a simulated battery and the simulated house around it: what
// flowed since it was made, to the mWh, and a clock that the house moves where
// the device has none of its own. Real devices do not have it.
//
//	0     flags; bit 0: the device follows the clock at 1
//	1..4  UTC, ms; written by the house
//	5..8  energy into the battery, mWh, at the meter's side
//	9..12 energy out of it
//	13,14 stored energy, mWh
const LinkModel = 64921

// LinkSize is the number of registers of LinkModel.
const LinkSize = 15

// LinkFollows is the flag of a device whose clock is moved by the house.
const LinkFollows = 1

const linkTime, linkIn, linkOut, linkStored = 1, 5, 9, 13

// EncodeLink makes the registers of LinkModel.
func EncodeLink(follows bool, now time.Time, f Flown) []uint16 {
	p := make([]uint16, LinkSize)
	if follows {
		p[0] = LinkFollows
	}
	put64(p[linkTime:], uint64(now.UnixMilli()))
	put64(p[linkIn:], uint64(f.In))
	put64(p[linkOut:], uint64(f.Out))
	stored := uint32(f.Stored.Milli())
	p[linkStored], p[linkStored+1] = uint16(stored>>16), uint16(stored)
	return p
}

// LinkTime decodes the four registers of the clock.
func LinkTime(p []uint16) (time.Time, bool) {
	if len(p) != 4 {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(get64(p))).UTC(), true
}

// LinkTimeAt is the offset of the clock in LinkModel.
const LinkTimeAt = linkTime

func put64(p []uint16, v uint64) {
	b := binary.BigEndian.AppendUint64(nil, v)
	for i := range 4 {
		p[i] = binary.BigEndian.Uint16(b[2*i:])
	}
}

func get64(p []uint16) (v uint64) {
	for _, w := range p[:4] {
		v = v<<16 | uint64(w)
	}
	return v
}

// flown decodes the counters; false for a device without the model or with
// counters that no battery reaches.
func (p points) flown() (f Flown, ok bool) {
	if len(p) < LinkSize {
		return f, false
	}
	in, out := get64(p[linkIn:]), get64(p[linkOut:])
	const most = 1 << 50
	if in > most || out > most {
		return f, false
	}
	stored := uint32(p[linkStored])<<16 | uint32(p[linkStored+1])
	return Flown{In: int64(in), Out: int64(out), Stored: battery.WattHours(stored) / 1000}, true
}

func (p points) follows() bool { return len(p) >= LinkSize && p[0]&LinkFollows != 0 }
