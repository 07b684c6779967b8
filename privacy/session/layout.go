package session

import (
	"encoding/binary"
	"fmt"

	"gridveil/privacy"
)

// enc appends big-endian fields.
type enc []byte

// head starts a message: kind u8 | version u8.
func head(k privacy.Kind, size int) enc {
	return append(make(enc, 0, size), byte(k), privacy.Version)
}

func (e *enc) u8(v byte)     { *e = append(*e, v) }
func (e *enc) u16(v uint16)  { *e = binary.BigEndian.AppendUint16(*e, v) }
func (e *enc) u32(v uint32)  { *e = binary.BigEndian.AppendUint32(*e, v) }
func (e *enc) u64(v uint64)  { *e = binary.BigEndian.AppendUint64(*e, v) }
func (e *enc) i64(v int64)   { e.u64(uint64(v)) }
func (e *enc) raw(v []byte)  { *e = append(*e, v...) }
func (e *enc) blob(v []byte) { e.u32(uint32(len(v))); e.raw(v) }

// dec reads big-endian fields; the first short read or bad value sticks, so
// that a parser states its layout as a plain list and checks once at the end.
type dec struct {
	b   []byte
	bad bool
}

// body checks the head of a message of exactly size bytes and returns the
// rest. size < 0 means that the length is decided by the fields.
func body(b []byte, kind privacy.Kind, size int) *dec {
	d := &dec{b: b}
	if size >= 0 && len(b) != size {
		d.bad = true
		return d
	}
	if d.u8() != byte(kind) || d.u8() != privacy.Version {
		d.bad = true
	}
	return d
}

func (d *dec) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *dec) u8() byte {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *dec) u16() uint16 {
	if p := d.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (d *dec) u32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *dec) u64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// energy reads mWh within [0, MaxEnergy].
func (d *dec) energy() int64 { return d.within(0, MaxEnergy) }

// money reads millionths within [-MaxAmount, MaxAmount].
func (d *dec) money() int64 { return d.within(-MaxAmount, MaxAmount) }

// debt reads millionths within [0, MaxAmount].
func (d *dec) debt() int64 { return d.within(0, MaxAmount) }

func (d *dec) within(low, high int64) int64 {
	v := int64(d.u64())
	if v < low || v > high {
		d.bad = true
		return 0
	}
	return v
}

func (d *dec) raw(dst []byte) { copy(dst, d.take(len(dst))) }

// blob reads a u32 length of at most limit and a copy of that many bytes; a
// zero length gives nil.
func (d *dec) blob(limit int) []byte {
	n := d.u32()
	if uint64(n) > uint64(limit) {
		d.bad = true
		return nil
	}
	return append([]byte(nil), d.take(int(n))...)
}

// end says whether everything was read and valid.
func (d *dec) end(what string) error {
	if d.bad || len(d.b) != 0 {
		return fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	return nil
}
