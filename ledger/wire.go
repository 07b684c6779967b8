package ledger

import (
	"encoding/binary"
	"unicode/utf8"
)

// encoder appends big-endian fields; each method is one field of a layout.
type encoder struct{ b []byte }

func (w *encoder) u8(v uint8)     { w.b = append(w.b, v) }
func (w *encoder) u16(v uint16)   { w.b = binary.BigEndian.AppendUint16(w.b, v) }
func (w *encoder) u32(v uint32)   { w.b = binary.BigEndian.AppendUint32(w.b, v) }
func (w *encoder) u64(v uint64)   { w.b = binary.BigEndian.AppendUint64(w.b, v) }
func (w *encoder) i64(v int64)    { w.u64(uint64(v)) }
func (w *encoder) raw(v []byte)   { w.b = append(w.b, v...) }
func (w *encoder) h32(v [32]byte) { w.b = append(w.b, v[:]...) }
func (w *encoder) bool(v bool) {
	if v {
		w.u8(1)
		return
	}
	w.u8(0)
}

// str8 writes a u8 length and the text; callers have checked the length.
func (w *encoder) str8(s string) {
	w.u8(uint8(len(s)))
	w.b = append(w.b, s...)
}

// decoder reads the same fields. After the first short or invalid field it
// stays bad and returns zeros, so layouts read without an if per line.
type decoder struct {
	b   []byte
	bad bool
}

func (r *decoder) take(n int) []byte {
	if r.bad || n < 0 || len(r.b) < n {
		r.bad = true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *decoder) u8() uint8 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *decoder) u16() uint16 {
	if v := r.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *decoder) u32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *decoder) u64() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (r *decoder) i64() int64 { return int64(r.u64()) }

func (r *decoder) h32() (v [32]byte) {
	copy(v[:], r.take(32))
	return v
}

// bool accepts 0 and 1 only: any other byte would be a second encoding.
func (r *decoder) bool() bool {
	v := r.u8()
	r.want(v <= 1)
	return v == 1
}

func (r *decoder) str8() string {
	s := string(r.take(int(r.u8())))
	r.want(utf8.ValidString(s))
	return s
}

// enum reads a code that counts from 1 up to last.
func (r *decoder) enum(last uint8) uint8 {
	v := r.u8()
	r.want(v >= 1 && v <= last)
	return v
}

// want marks the input bad unless ok holds.
func (r *decoder) want(ok bool) {
	if !ok {
		r.bad = true
	}
}

// done reports whether everything was read and nothing was wrong.
func (r *decoder) done() bool { return !r.bad && len(r.b) == 0 }
