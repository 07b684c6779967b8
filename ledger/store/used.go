package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger"
)

// mosaic says which parts of the used-sets belong to a snapshot: of each window
// those from an entry on up to the snapshot's index. A part is added by the
// snapshot after the one at its first entry, and never changed.
type mosaic map[ledger.Window]tessera

// tessera is what a mosaic says of one window.
type tessera struct {
	start uint64 // first entry of the oldest part
	parts uint32
	sum   [32]byte // chained over the parts
}

const (
	mosaicFormat = 2 // 1 was a snapshot without one
	windowBytes  = 6 + 8 + 4 + 32
)

func partKey(w ledger.Window, first uint64, part uint16) []byte {
	b := append(append(make([]byte, 0, 17), keyUsed), w[:]...)
	b = binary.BigEndian.AppendUint64(b, first)
	return binary.BigEndian.AppendUint16(b, part)
}

// parsePart reads exactly what partKey gives.
func parsePart(key []byte) (w ledger.Window, first uint64, part uint16, ok bool) {
	if len(key) != 17 || key[0] != keyUsed {
		return w, 0, 0, false
	}
	return ledger.Window(key[1:7]), binary.BigEndian.Uint64(key[7:]), binary.BigEndian.Uint16(key[15:]), true
}

func (t tessera) add(part []byte) tessera {
	h := sha256.New()
	h.Write(t.sum[:])
	h.Write(part)
	return tessera{t.start, t.parts + 1, [32]byte(h.Sum(nil))}
}

// grow is the mosaic after a snapshot whose used-sets changed so since the one
// at the entry first, and what must be written for it.
func (m mosaic) grow(first uint64, used []ledger.Used, limit int) (next mosaic, writes []*badger.Entry) {
	next = mosaic{}
	for _, u := range used {
		t, known := m[u.Window]
		if u.Whole || !known {
			t = tessera{start: first}
		}
		part := uint16(0) // 2^16 parts of one window would be above 8 GiB
		for p := range slices.Chunk(u.Records, limit) {
			t = t.add(p)
			writes = append(writes, badger.NewEntry(partKey(u.Window, first, part), p))
			part++
		}
		next[u.Window] = t
	}
	return next, writes
}

// needs reports whether a snapshot at index with this mosaic needs a part.
func (m mosaic) needs(index uint64, w ledger.Window, first uint64) bool {
	t, ok := m[w]
	return ok && t.start <= first && first < index
}

// title is parts u16, SHA-256 over the parts and what follows, then the list.
func (m mosaic) title(parts int, core []byte) []byte {
	list := m.list()
	sum := titleSum(core, list)
	return append(append(binary.BigEndian.AppendUint16(nil, uint16(parts)), sum[:]...), list...)
}

// list is format u8, number of windows u16, and of each the window, start u64,
// parts u32, sum 32.
func (m mosaic) list() []byte {
	b := binary.BigEndian.AppendUint16([]byte{mosaicFormat}, uint16(len(m)))
	for _, w := range m.windows() {
		t := m[w]
		b = append(b, w[:]...)
		b = binary.BigEndian.AppendUint64(b, t.start)
		b = binary.BigEndian.AppendUint32(b, t.parts)
		b = append(b, t.sum[:]...)
	}
	return b
}

// parseTitle reads a title; the mosaic is nil in one of a former version.
func parseTitle(b []byte) (m mosaic, ok bool) {
	if len(b) == wholeTitle {
		return nil, true
	}
	if len(b) < wholeTitle+3 {
		return nil, false
	}
	windows := b[wholeTitle+3:]
	if len(windows)%windowBytes != 0 {
		return nil, false
	}
	m = mosaic{}
	for w := range slices.Chunk(windows, windowBytes) {
		m[ledger.Window(w)] = tessera{binary.BigEndian.Uint64(w[6:]), binary.BigEndian.Uint32(w[14:]), [32]byte(w[18:])}
	}
	return m, bytes.Equal(m.list(), b[wholeTitle:])
}

func (m mosaic) windows() []ledger.Window {
	return slices.SortedFunc(maps.Keys(m), func(a, b ledger.Window) int { return bytes.Compare(a[:], b[:]) })
}

// readParts gives the records of a snapshot's windows, those of one snapshot
// together, and proves that none is missing or another.
func (s *Store) readParts(m mosaic, index uint64, each func(ledger.Window, []byte) error) error {
	for _, w := range m.windows() {
		got := tessera{start: m[w].start}
		var records []byte
		at := got.start
		flush := func() error {
			if len(records) == 0 {
				return nil
			}
			err := each(w, records)
			records = nil
			return err
		}
		err := s.parts(w, got.start, index, func(first uint64, value []byte) error {
			if first != at {
				if err := flush(); err != nil {
					return err
				}
				at = first
			}
			got = got.add(value)
			records = append(records, value...)
			return nil
		})
		if err != nil {
			return err
		}
		if got != m[w] {
			return fmt.Errorf("%w: used-set of window %x has %d of %d parts, or others", ledger.ErrDamaged, w, got.parts, m[w].parts)
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}

// parts calls f with the stored parts of a window from an entry on up to
// another, in order.
func (s *Store) parts(w ledger.Window, from, to uint64, f func(first uint64, value []byte) error) (err error) {
	defer recoverRead(&err)
	return s.db.View(func(txn *badger.Txn) error {
		prefix := partKey(w, 0, 0)[:7]
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: 4})
		defer it.Close()
		for it.Seek(partKey(w, from, 0)); it.Valid(); it.Next() {
			_, first, _, ok := parsePart(it.Item().Key())
			if !ok {
				return fmt.Errorf("%w: a part of a used-set has a key of %d bytes", ledger.ErrDamaged, len(it.Item().Key()))
			}
			if first >= to {
				return nil
			}
			err := it.Item().Value(func(value []byte) error { return f(first, value) })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// dropParts deletes what a dropped snapshot needed and the next one, at an
// index, does not: nor will those after it.
func (s *Store) dropParts(old, next mosaic, index uint64) error {
	var drop []*badger.Entry
	for _, w := range old.windows() {
		end := index
		if t, ok := next[w]; ok {
			end = t.start
		}
		start := partKey(w, old[w].start, 0)
		err := s.keys(start[:7], start, func(key []byte, _ byte) bool {
			if _, first, _, ok := parsePart(key); !ok || first >= end {
				return false
			}
			drop = append(drop, &badger.Entry{Key: key})
			return true
		})
		if err != nil {
			return err
		}
	}
	return s.putAll(drop)
}

// sweepParts deletes the parts that no snapshot needs: of one that was not
// finished, cannot be read, or is of entries that were not kept.
func (s *Store) sweepParts() error {
	var drop []*badger.Entry
	err := s.keys([]byte{keyUsed}, []byte{keyUsed}, func(key []byte, _ byte) bool {
		w, first, _, ok := parsePart(key)
		needed := ok && slices.ContainsFunc(s.marks.taken, func(index uint64) bool { return s.marks.used[index].needs(index, w, first) })
		if !needed {
			drop = append(drop, &badger.Entry{Key: key})
		}
		return true
	})
	if err != nil {
		return err
	}
	return s.putAll(drop)
}
