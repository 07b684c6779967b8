package tariff

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
)

// magic begins every encoded calendar; a changed layout gets a new one.
const magic = "GVC1"

// MaxEncoded is the longest encoding that Decode reads.
const MaxEncoded = 128 << 10

// Encode returns the one byte string of the calendar, big-endian:
//
//	"GVC1" version:u32 cur:u16 from:u64 zone:str8 notice:u16
//	4 x { n:u8 n x { from:u16 to:u16 register:u8 import:i32 export:i32 available:u32 } }
//	holidays:u16 n x day:u32          days since 1970-01-01
//	vector:u8 (0 or 1) [ from:u64 step_s:u32 n:u16 n x { import:i32 export:i32 } ]
//	overlays:u8 n x { announced:u64 from:u64 to:u64 import:i32 export:i32 }
//	blocks:u8 n x { upto:u64 import:i32 }
func (c *Calendar) Encode() []byte {
	s := c.spec
	b := append(make([]byte, 0, 256), magic...)
	b = binary.BigEndian.AppendUint32(b, s.Version)
	b = binary.BigEndian.AppendUint16(b, s.Currency)
	b = binary.BigEndian.AppendUint64(b, uint64(s.From))
	b = append(append(b, byte(len(s.Zone))), s.Zone...)
	b = binary.BigEndian.AppendUint16(b, uint16(s.NoticeMin))
	for _, bands := range s.Days {
		b = append(b, byte(len(bands)))
		for _, x := range bands {
			b = binary.BigEndian.AppendUint16(b, uint16(x.FromMin))
			b = binary.BigEndian.AppendUint16(b, uint16(x.ToMin))
			b = append(b, byte(x.Register))
			b = appendRates(b, x.Import, x.Export)
			b = binary.BigEndian.AppendUint32(b, uint32(x.AvailableW))
		}
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.Holidays)))
	for _, d := range s.Holidays {
		b = binary.BigEndian.AppendUint32(b, uint32(d.number()))
	}
	b = appendVector(b, s.Vector)
	b = append(b, byte(len(s.Overlays)))
	for _, o := range s.Overlays {
		b = binary.BigEndian.AppendUint64(b, uint64(o.Announced))
		b = binary.BigEndian.AppendUint64(b, uint64(o.From))
		b = binary.BigEndian.AppendUint64(b, uint64(o.To))
		b = appendRates(b, o.Import, o.Export)
	}
	b = append(b, byte(len(s.Blocks)))
	for _, x := range s.Blocks {
		b = binary.BigEndian.AppendUint64(b, uint64(x.UpTo))
		b = binary.BigEndian.AppendUint32(b, uint32(x.Import))
	}
	return b
}

func appendVector(b []byte, v *Vector) []byte {
	if v == nil {
		return append(b, 0)
	}
	b = binary.BigEndian.AppendUint64(append(b, 1), uint64(v.From))
	b = binary.BigEndian.AppendUint32(b, uint32(v.StepS))
	b = binary.BigEndian.AppendUint16(b, uint16(len(v.Import)))
	for i := range v.Import {
		b = appendRates(b, v.Import[i], v.Export[i])
	}
	return b
}

func appendRates(b []byte, in, out int64) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(int32(in)))
	return binary.BigEndian.AppendUint32(b, uint32(int32(out)))
}

// Hash names the calendar: SHA-256("gridveil/tariff/v1\0" || Encode()). It stands in Terms and on the ledger.
func (c *Calendar) Hash() [32]byte {
	return sha256.Sum256(append([]byte("gridveil/tariff/v1\x00"), c.Encode()...))
}

// Decode reads what Encode wrote. Bytes that are not exactly the encoding of a valid calendar give an error
// wrapping ErrInvalid.
func Decode(raw []byte) (*Calendar, error) {
	if len(raw) > MaxEncoded {
		return nil, invalid("%d bytes, more than %d", len(raw), MaxEncoded)
	}
	r := &reader{b: raw}
	if string(r.take(4)) != magic {
		return nil, invalid("the bytes do not begin with %s", magic)
	}
	s := Spec{Version: uint32(r.uint(4)), Currency: uint16(r.uint(2)), From: int64(r.uint(8))}
	s.Zone = string(r.take(int(r.uint(1))))
	s.NoticeMin = int(r.uint(2))
	for day := range s.Days {
		for range r.uint(1) {
			s.Days[day] = append(s.Days[day], Band{
				FromMin: int(r.uint(2)), ToMin: int(r.uint(2)), Register: Register(r.uint(1)),
				Import: r.rate(), Export: r.rate(), AvailableW: int64(r.uint(4))})
		}
	}
	for range r.count(2, 4) {
		s.Holidays = append(s.Holidays, dateOf(int64(r.uint(4))))
	}
	if r.uint(1) != 0 {
		s.Vector = r.vector()
	}
	for range r.count(1, 32) {
		s.Overlays = append(s.Overlays, Overlay{Announced: int64(r.uint(8)), From: int64(r.uint(8)),
			To: int64(r.uint(8)), Import: r.rate(), Export: r.rate()})
	}
	for range r.count(1, 12) {
		s.Blocks = append(s.Blocks, Block{UpTo: int64(r.uint(8)), Import: r.rate()})
	}
	if r.short || len(r.b) != 0 {
		return nil, invalid("the bytes are cut short or too long")
	}
	c, err := New(s)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(c.Encode(), raw) {
		return nil, invalid("the bytes are not in the one canonical form")
	}
	return c, nil
}

// reader takes big-endian fields off b; short is set, and zeros are returned, once the bytes run out.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.b, r.short = nil, true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint(n int) (v uint64) {
	for _, x := range r.take(n) {
		v = v<<8 | uint64(x)
	}
	return v
}

// count reads a length of n bytes and refuses one whose items of size bytes cannot all follow.
func (r *reader) count(n, size int) int {
	k := int(r.uint(n))
	if k*size > len(r.b) {
		r.b, r.short = nil, true
		return 0
	}
	return k
}

func (r *reader) rate() int64 { return int64(int32(r.uint(4))) }

func (r *reader) vector() *Vector {
	v := &Vector{From: int64(r.uint(8)), StepS: int(r.uint(4))}
	for range r.count(2, 8) {
		v.Import = append(v.Import, r.rate())
		v.Export = append(v.Export, r.rate())
	}
	return v
}
