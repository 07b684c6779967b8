package model

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// ErrInvalidBlock counts against the peer that sent the bytes.
var ErrInvalidBlock = errors.New("model: invalid interval block")

// IntervalReading is one slot of a block: the register at the slot's end and
// where it came from.
type IntervalReading struct {
	Slot     int64 // start, UTC ms
	Register int64 // mWh at the slot's end
	Epoch    uint16
	Status   StatusBits
	Quality  Quality
	Flags    uint32 // rules that fired at the head-end
	Unc      uint32 // clock uncertainty, ms
	Report   uint64 // sequence number of the signed report at Source, 0 = estimate or edit
}

// IntervalBlock is what the head-end stores, serves and pushes: one day of one
// register of one usage point. Late data and edits make a further revision;
// a revision never changes.
type IntervalBlock struct {
	UsagePoint UsagePoint
	Source     SourceID // who signed the reports
	Channel    Channel
	State      ReadingState
	Day        int64 // start of the UTC day, ms
	Period     time.Duration
	Revision   uint16
	Readings   []IntervalReading // ascending by slot, within the day
}

const (
	blockMagic = "GVB1"
	dayMS      = 86_400_000
	maxInDay   = 86400 // slots of one second
)

// Encode gives the block's bytes, or ErrInvalidBlock.
func (b IntervalBlock) Encode() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	var w cryptobyte.Builder
	w.AddBytes([]byte(blockMagic))
	w.AddBytes(b.UsagePoint[:])
	w.AddBytes(b.Source[:])
	w.AddUint16(uint16(b.Channel))
	w.AddUint8(uint8(b.State))
	w.AddUint64(uint64(b.Day))
	w.AddUint32(uint32(b.Period.Milliseconds()))
	w.AddUint16(b.Revision)
	w.AddUint32(uint32(len(b.Readings)))
	for _, r := range b.Readings {
		w.AddUint32(uint32((r.Slot - b.Day) / b.Period.Milliseconds()))
		w.AddUint64(uint64(r.Register))
		w.AddUint16(r.Epoch)
		w.AddUint16(uint16(r.Status))
		w.AddUint8(uint8(r.Quality))
		w.AddUint32(r.Flags)
		w.AddUint32(r.Unc)
		w.AddUint64(r.Report)
	}
	return w.Bytes()
}

func (b IntervalBlock) check() error {
	ms := b.Period.Milliseconds()
	switch {
	case b.Day < 0 || b.Day%dayMS != 0:
		return fmt.Errorf("%w: day", ErrInvalidBlock)
	case CheckPeriod(b.Period) != nil || b.Period%time.Millisecond != 0:
		return fmt.Errorf("%w: period", ErrInvalidBlock)
	case b.State > ReadDisabled || len(b.Readings) > maxInDay:
		return fmt.Errorf("%w: state or number of readings", ErrInvalidBlock)
	}
	last := b.Day - 1
	for _, r := range b.Readings {
		if r.Slot <= last || r.Slot >= b.Day+dayMS || (r.Slot-b.Day)%ms != 0 || r.Register < 0 {
			return fmt.Errorf("%w: reading off its slot", ErrInvalidBlock)
		}
		last = r.Slot
	}
	return nil
}

// DecodeBlock parses what Encode wrote.
func DecodeBlock(raw []byte) (IntervalBlock, error) {
	d := decoder{s: cryptobyte.String(raw)}
	if string(d.bytes(4)) != blockMagic {
		return IntervalBlock{}, fmt.Errorf("%w: not a GVB1 block", ErrInvalidBlock)
	}
	b := IntervalBlock{UsagePoint: UsagePoint(d.bytes(16)), Source: SourceID(d.bytes(16)), Channel: Channel(d.u16()),
		State: ReadingState(d.u8()), Day: int64(d.u64()), Period: d.period(), Revision: d.u16()}
	const perReading = 33
	count := int(d.u32())
	if d.bad || count > maxInDay || count*perReading != len(d.s) {
		return IntervalBlock{}, fmt.Errorf("%w: length", ErrInvalidBlock)
	}
	for range count {
		r := IntervalReading{Slot: b.Day + int64(d.u32())*b.Period.Milliseconds(), Register: int64(d.u64()), Epoch: d.u16(),
			Status: StatusBits(d.u16()), Quality: Quality(d.u8()), Flags: d.u32(), Unc: d.u32(), Report: d.u64()}
		b.Readings = append(b.Readings, r)
	}
	return b, b.check()
}
