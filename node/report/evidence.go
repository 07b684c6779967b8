package report

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// Evidence shows one customer what was reported about its meter, without any
// neighbour: header, salted leaf and Merkle path.
type Evidence struct {
	Header Header
	Index  uint32 // of the leaf among those of the report
	Path   []tlog.Hash
	Leaf   []byte // salt 16 || columns || segment
}

const (
	seedSize   = 32
	saltSize   = 16
	columnSize = 3
	maxPath    = 14 // MaxMeters leaves
)

// MaxEvidence is the most that encoded evidence may have, bytes.
const MaxEvidence = HeaderSize + 4 + 1 + maxPath*tlog.HashSize + saltSize + MaxBody

// Prove makes the evidence of the meter with the ordinal. A report of the first
// layout proves nothing: ErrInvalidReport.
func Prove(h Header, b Body, ordinal uint32) (Evidence, error) {
	if h.First {
		return Evidence{}, fmt.Errorf("%w: its root does not hold the channels", ErrInvalidReport)
	}
	leaves, err := b.leaves(h.Slots, false)
	if err != nil {
		return Evidence{}, err
	}
	t, err := buildTree(hashes(leaves))
	if err != nil {
		return Evidence{}, err
	}
	for i, m := range b.Meters {
		if m.Ordinal != ordinal {
			continue
		}
		path, err := tlog.ProveRecord(int64(len(leaves)), int64(i), t)
		return Evidence{Header: h, Index: uint32(i), Path: path, Leaf: leaves[i]}, err
	}
	return Evidence{}, fmt.Errorf("%w: meter is not in the report", ErrInvalidReport)
}

// Check verifies the path against the header's root; the caller verifies the
// header's signature.
func (e Evidence) Check() error {
	err := tlog.CheckRecord(e.Path, int64(e.Header.Meters), tlog.Hash(e.Header.Root), int64(e.Index), tlog.RecordHash(e.Leaf))
	if err != nil {
		return fmt.Errorf("%w: evidence does not lead to the signed root", ErrInvalidReport)
	}
	return nil
}

// Body is what the leaf says of its one meter: columns and rows, without seed. It
// returns ErrInvalidReport for anything that no report would hold.
func (e Evidence) Body() (Body, error) {
	d := &reader{b: e.Leaf}
	d.take(saltSize)
	var b Body
	b.Columns = d.columns(e.Header.Channels)
	if d.bad {
		return Body{}, fmt.Errorf("%w: leaf too short for its header", ErrInvalidReport)
	}
	m := d.segment(b.Columns, 0, e.Header.Slots)
	if d.bad || len(d.b) != 0 {
		return Body{}, fmt.Errorf("%w: segment of the leaf", ErrInvalidReport)
	}
	b.Meters = []Meter{m}
	return b, nil
}

// Encode gives header 192 | index u32 | n u8 | hash 32 * n | leaf.
func (e Evidence) Encode() []byte {
	b := binary.BigEndian.AppendUint32(e.Header.Encode(), e.Index)
	b = append(b, byte(len(e.Path)))
	for _, h := range e.Path {
		b = append(b, h[:]...)
	}
	return append(b, e.Leaf...)
}

// DecodeEvidence is the inverse of Encode. It checks shape, path and leaf, not the
// header's signature, and returns an error wrapping ErrInvalidReport.
func DecodeEvidence(raw []byte) (Evidence, error) {
	const fixed = HeaderSize + 4 + 1
	if len(raw) < fixed || len(raw) > MaxEvidence {
		return Evidence{}, fmt.Errorf("%w: evidence of %d bytes", ErrInvalidReport, len(raw))
	}
	h, err := DecodeHeader(raw[:HeaderSize])
	if err != nil {
		return Evidence{}, err
	}
	e := Evidence{Header: h, Index: binary.BigEndian.Uint32(raw[HeaderSize:])}
	n := int(raw[HeaderSize+4])
	if h.First || e.Index >= h.Meters || n > bits.Len32(h.Meters-1) || len(raw) < fixed+n*tlog.HashSize+saltSize {
		return Evidence{}, fmt.Errorf("%w: evidence of another shape than its header", ErrInvalidReport)
	}
	for i := range n {
		e.Path = append(e.Path, tlog.Hash(raw[fixed+i*tlog.HashSize:]))
	}
	e.Leaf = raw[fixed+n*tlog.HashSize:]
	if err := e.Check(); err != nil {
		return Evidence{}, err
	}
	_, err = e.Body()
	return e, err
}
