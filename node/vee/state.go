package vee

import (
	"encoding/binary"
	"fmt"
)

// StateSize is the encoded size of a State.
const StateSize = 48

// Encode gives the state's 48 bytes, for the store.
func (s State) Encode() [StateSize]byte {
	var b [StateSize]byte
	be := binary.BigEndian
	be.PutUint64(b[0:], uint64(s.last))
	be.PutUint64(b[8:], uint64(s.suspect))
	be.PutUint32(b[16:], s.slot)
	be.PutUint32(b[20:], s.ewma)
	be.PutUint32(b[24:], s.delta)
	be.PutUint32(b[28:], s.day)
	be.PutUint16(b[32:], s.epoch)
	be.PutUint16(b[34:], s.run)
	be.PutUint16(b[36:], s.behind)
	b[38], b[39] = s.seen, s.weeks
	copy(b[40:47], s.week[:])
	b[47] = s.mark
	return b
}

// DecodeState reads what Encode wrote.
func DecodeState(b []byte) (State, error) {
	if len(b) != StateSize {
		return State{}, fmt.Errorf("vee: state of %d bytes, want %d", len(b), StateSize)
	}
	be := binary.BigEndian
	return State{
		last: int64(be.Uint64(b)), suspect: int64(be.Uint64(b[8:])), slot: be.Uint32(b[16:]), ewma: be.Uint32(b[20:]),
		delta: be.Uint32(b[24:]), day: be.Uint32(b[28:]), epoch: be.Uint16(b[32:]), run: be.Uint16(b[34:]),
		behind: be.Uint16(b[36:]), seen: b[38], weeks: b[39], week: [7]uint8(b[40:47]), mark: b[47],
	}, nil
}

// Last is the register of the last accepted reading; ok is false before the first.
func (s State) Last() (register int64, epoch uint16, ok bool) {
	return s.last, s.epoch, s.mark&markStarted != 0
}
