package report

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"gridveil/node/model"
)

// Body is the content of a report in columns: which channels, and per meter the
// slots it has values for.
type Body struct {
	Seed    [32]byte // salts the leaves, so that a leaf hash cannot be guessed
	Columns []Column // ascending by channel
	Meters  []Meter  // ascending by ordinal
}

// Column is one channel; values are sent divided by 10^Scale.
type Column struct {
	Channel model.Channel
	Scale   uint8 // 0..9
}

// Meter is the segment of one meter: its values in slot order. Every row has a
// value for every column.
type Meter struct {
	Ordinal uint32 // place in the roster, at least 1
	State   model.ReadingState
	Epoch   uint16
	Counter uint32 // reading number of the first row
	Rows    []Row  // ascending by slot, at most one per slot
}

// Row is one slot of one meter.
type Row struct {
	Slot   uint16  // index from the header's From
	Values []int64 // one per column
	Status model.StatusBits
	PQ     uint16
	Flags  uint32 // rules that fired on any column
}

// maxScale keeps 10^scale inside an int64 with room to multiply.
const maxScale = 9

var pow10 = [maxScale + 1]int64{1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// Presence bits of a segment's second byte; bits 0 and 1 are the reading state.
const (
	hasEpoch   = 1 << 2
	hasCounter = 1 << 3
	hasBitmap  = 1 << 4
	hasStatus  = 1 << 5
	hasPQ      = 1 << 6
	hasFlags   = 1 << 7
)

// Encode gives the body's bytes; slots is the header's number of slots. It
// returns ErrInvalidReport when b breaks an order, a range or a scale.
func (b Body) Encode(slots uint16) ([]byte, error) {
	out, _, err := b.encode(slots)
	return out, err
}

// encode also returns where each segment lies in the bytes.
func (b Body) encode(slots uint16) (out []byte, segments [][]byte, err error) {
	if len(b.Columns) == 0 || len(b.Columns) > MaxChannels || len(b.Meters) == 0 || len(b.Meters) > MaxMeters {
		return nil, nil, fmt.Errorf("%w: %d channels, %d meters", ErrInvalidReport, len(b.Columns), len(b.Meters))
	}
	out = append(out, b.Seed[:]...)
	last := model.Channel(0)
	for _, c := range b.Columns {
		if c.Channel <= last || c.Scale > maxScale {
			return nil, nil, fmt.Errorf("%w: columns out of order or scale above %d", ErrInvalidReport, maxScale)
		}
		last = c.Channel
		out = binary.BigEndian.AppendUint16(out, uint16(c.Channel))
		out = append(out, c.Scale)
	}
	ends := make([]int, 0, len(b.Meters))
	start, before := len(out), uint32(0)
	for i := range b.Meters {
		if out, err = b.appendSegment(out, &b.Meters[i], before, slots); err != nil {
			return nil, nil, err
		}
		before = b.Meters[i].Ordinal
		ends = append(ends, len(out))
	}
	if len(out) > MaxBody {
		return nil, nil, fmt.Errorf("%w: body of %d bytes, limit %d", ErrInvalidReport, len(out), MaxBody)
	}
	for _, end := range ends {
		segments = append(segments, out[start:end])
		start = end
	}
	return out, segments, nil
}

func (b Body) appendSegment(out []byte, m *Meter, before uint32, slots uint16) ([]byte, error) {
	if err := b.checkMeter(m, before, slots); err != nil {
		return nil, err
	}
	presence := m.presence(slots)
	out = binary.AppendUvarint(out, uint64(m.Ordinal-before))
	out = append(out, byte(m.State)|presence)
	if presence&hasEpoch != 0 {
		out = binary.AppendUvarint(out, uint64(m.Epoch))
	}
	if presence&hasCounter != 0 {
		out = binary.AppendUvarint(out, uint64(m.Counter))
	}
	if presence&hasBitmap != 0 {
		at := len(out)
		out = append(out, make([]byte, (int(slots)+7)/8)...)
		for _, r := range m.Rows {
			out[at+int(r.Slot/8)] |= 1 << (r.Slot % 8)
		}
	}
	for c, col := range b.Columns {
		last := int64(0)
		for i := range m.Rows {
			v := m.Rows[i].Values[c] / pow10[col.Scale]
			out = binary.AppendVarint(out, v-last)
			last = v
		}
	}
	return m.appendBits(out, presence), nil
}

func (m *Meter) appendBits(out []byte, presence byte) []byte {
	for _, column := range []struct {
		bit byte
		of  func(*Row) uint64
	}{
		{hasStatus, func(r *Row) uint64 { return uint64(r.Status) }},
		{hasPQ, func(r *Row) uint64 { return uint64(r.PQ) }},
		{hasFlags, func(r *Row) uint64 { return uint64(r.Flags) }},
	} {
		if presence&column.bit == 0 {
			continue
		}
		for i := range m.Rows {
			out = binary.AppendUvarint(out, column.of(&m.Rows[i]))
		}
	}
	return out
}

func (m *Meter) presence(slots uint16) (p byte) {
	if m.Epoch != 0 {
		p |= hasEpoch
	}
	if m.Counter != 0 {
		p |= hasCounter
	}
	if len(m.Rows) != int(slots) {
		p |= hasBitmap
	}
	for i := range m.Rows {
		r := &m.Rows[i]
		if r.Status != 0 {
			p |= hasStatus
		}
		if r.PQ != 0 {
			p |= hasPQ
		}
		if r.Flags != 0 {
			p |= hasFlags
		}
	}
	return p
}

func (b Body) checkMeter(m *Meter, before uint32, slots uint16) error {
	if m.Ordinal <= before || m.State > model.ReadDisabled {
		return fmt.Errorf("%w: meters out of order or unknown reading state", ErrInvalidReport)
	}
	next := 0
	for i := range m.Rows {
		r := &m.Rows[i]
		if int(r.Slot) < next || r.Slot >= slots || len(r.Values) != len(b.Columns) {
			return fmt.Errorf("%w: row off its slot or without every column", ErrInvalidReport)
		}
		next = int(r.Slot) + 1
		for c, v := range r.Values {
			if v < 0 || v > MaxValue || v%pow10[b.Columns[c].Scale] != 0 {
				return fmt.Errorf("%w: value outside 0..2^53 or no multiple of its scale", ErrInvalidReport)
			}
		}
	}
	return nil
}

// MaxValue is the largest value of any channel: JSON holds it exactly.
const MaxValue = 1<<53 - 1

// ScaleOf is the largest scale that divides all values, at most 9; it makes the
// shortest body.
func ScaleOf(values []int64) uint8 {
	scale := uint8(maxScale)
	for _, v := range values {
		for v%pow10[scale] != 0 {
			scale--
		}
	}
	return scale
}

// DecodeBody parses the bytes of a body for header h. It returns ErrInvalidReport
// for anything that Encode would not have produced.
func DecodeBody(h Header, raw []byte) (Body, error) {
	if len(raw) > MaxBody {
		return Body{}, fmt.Errorf("%w: body of %d bytes", ErrInvalidReport, len(raw))
	}
	d := &reader{b: raw}
	var b Body
	copy(b.Seed[:], d.take(seedSize))
	b.Columns = d.columns(h.Channels)
	// A segment takes at least two bytes: never allocate for more than can be there.
	if d.bad || int(h.Meters) > len(d.b)/2 {
		return Body{}, fmt.Errorf("%w: body too short for its header", ErrInvalidReport)
	}
	b.Meters = make([]Meter, 0, h.Meters)
	before := uint32(0)
	for range h.Meters {
		m := d.segment(b.Columns, before, h.Slots)
		if d.bad {
			return Body{}, fmt.Errorf("%w: segment %d", ErrInvalidReport, len(b.Meters)+1)
		}
		before = m.Ordinal
		b.Meters = append(b.Meters, m)
	}
	if len(d.b) != 0 {
		return Body{}, fmt.Errorf("%w: %d bytes after the last segment", ErrInvalidReport, len(d.b))
	}
	return b, nil
}

// reader takes fields off the front; after a fault bad stays set and every
// take gives zeros.
type reader struct {
	b   []byte
	bad bool
}

func (d *reader) fail() { d.bad, d.b = true, nil }

func (d *reader) take(n int) []byte {
	if d.bad || len(d.b) < n {
		d.fail()
		return make([]byte, n)
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

// uvarint reads the shortest form only, at most limit.
func (d *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit || n != uvarintLen(v) {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func uvarintLen(v uint64) int { return max(1, (bits.Len64(v)+6)/7) }

func (d *reader) varint() int64 {
	u := d.uvarint(math.MaxUint64)
	return int64(u>>1) ^ -int64(u&1)
}

// columns reads n channels, ascending.
func (d *reader) columns(n uint16) (out []Column) {
	last := model.Channel(0)
	for range n {
		col := d.take(columnSize)
		if d.bad {
			return nil
		}
		c := Column{Channel: model.Channel(binary.BigEndian.Uint16(col)), Scale: col[2]}
		if c.Channel <= last || c.Scale > maxScale {
			d.fail()
		}
		last = c.Channel
		out = append(out, c)
	}
	return out
}

func (d *reader) segment(cols []Column, before uint32, slots uint16) Meter {
	step := d.uvarint(math.MaxUint32)
	head := d.take(1)[0]
	m := Meter{Ordinal: before + uint32(step), State: model.ReadingState(head & 3)}
	if step == 0 || uint64(before)+step > math.MaxUint32 {
		d.fail()
	}
	if head&hasEpoch != 0 {
		m.Epoch = uint16(d.positive(math.MaxUint16))
	}
	if head&hasCounter != 0 {
		m.Counter = uint32(d.positive(math.MaxUint32))
	}
	d.rows(&m, head, slots)
	// Each value takes a byte: a short segment cannot make us allocate a long one.
	if d.bad || len(m.Rows)*len(cols) > len(d.b) {
		d.fail()
		return m
	}
	values := make([]int64, len(m.Rows)*len(cols))
	for i := range m.Rows {
		m.Rows[i].Values = values[i*len(cols) : (i+1)*len(cols) : (i+1)*len(cols)]
	}
	for c, col := range cols {
		d.column(m.Rows, c, col.Scale)
	}
	d.bitColumns(m.Rows, head)
	return m
}

func (d *reader) positive(limit uint64) uint64 {
	v := d.uvarint(limit)
	if v == 0 {
		d.fail() // absent is the only way to say zero
	}
	return v
}

func (d *reader) rows(m *Meter, head byte, slots uint16) {
	if head&hasBitmap == 0 {
		if !d.bad && len(d.b) >= int(slots) { // each row takes a byte at least
			m.Rows = make([]Row, slots)
			for i := range m.Rows {
				m.Rows[i].Slot = uint16(i)
			}
			return
		}
		d.fail()
		return
	}
	bitmap := d.take((int(slots) + 7) / 8)
	count := 0
	for _, x := range bitmap {
		count += bits.OnesCount8(x)
	}
	if count == int(slots) { // a full bitmap is written as none
		d.fail()
	}
	if count > 0 {
		m.Rows = make([]Row, 0, count)
	}
	for s := range len(bitmap) * 8 {
		if bitmap[s/8]&(1<<(s%8)) == 0 {
			continue
		}
		if s >= int(slots) {
			d.fail()
			return
		}
		m.Rows = append(m.Rows, Row{Slot: uint16(s)})
	}
}

func (d *reader) column(rows []Row, c int, scale uint8) {
	last, top := int64(0), int64(MaxValue)/pow10[scale]
	for i := range rows {
		delta := d.varint()
		if delta > top || delta < -top || last+delta < 0 || last+delta > top {
			d.fail()
			return
		}
		last += delta
		rows[i].Values[c] = last * pow10[scale]
	}
}

func (d *reader) bitColumns(rows []Row, head byte) {
	for _, column := range []struct {
		bit   byte
		limit uint64
		set   func(*Row, uint64)
	}{
		{hasStatus, math.MaxUint16, func(r *Row, v uint64) { r.Status = model.StatusBits(v) }},
		{hasPQ, math.MaxUint16, func(r *Row, v uint64) { r.PQ = uint16(v) }},
		{hasFlags, math.MaxUint32, func(r *Row, v uint64) { r.Flags = uint32(v) }},
	} {
		if head&column.bit == 0 {
			continue
		}
		all := uint64(0)
		for i := range rows {
			v := d.uvarint(column.limit)
			all |= v
			column.set(&rows[i], v)
		}
		if all == 0 {
			d.fail() // an all-zero column is written as absent
		}
	}
}
