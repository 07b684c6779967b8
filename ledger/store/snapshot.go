package store

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger"
)

const (
	maxPart       = 256 << 10
	keptSnapshots = 2 // the newest and one in case it cannot be read
	wholeTitle    = 34
)

// snapshotMark says where the machine was last written down.
type snapshotMark struct {
	size   uint64
	bucket uint32
	taken  []uint64          // indexes in Badger, oldest first
	used   map[uint64]mosaic // of those, what they need of the used-sets; none if a former version wrote it
	unread []uint64          // indexes of those that restore could not read
}

func snapshotKey(index uint64, part uint16) []byte {
	b := binary.BigEndian.AppendUint64([]byte{keySnapshot}, index)
	return binary.BigEndian.AppendUint16(b, part)
}

// Snapshot writes the machine down if a new bucket began or snapshotEvery
// entries came since the last time, so that the next Open replays little. The
// sequencer calls it between groups.
func (s *Store) Snapshot() error {
	s.take.Lock()
	defer s.take.Unlock()
	if err := s.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	size, bucket := s.machine.Size(), s.machine.Bucket()
	s.mu.RUnlock()
	if size == s.marks.size || (bucket == s.marks.bucket && size-s.marks.size < snapshotEvery) {
		return nil
	}
	if err := s.step("snapshot", func() error { return s.writeSnapshot(size) }); err != nil {
		return s.halt(err)
	}
	s.marks.size, s.marks.bucket = size, bucket
	return nil
}

// writeSnapshot writes what is new in the used-sets, the parts of the rest, and
// last the title, which makes them count.
func (s *Store) writeSnapshot(size uint64) error {
	s.mu.Lock()
	core, used := s.machine.Save()
	s.mu.Unlock()
	m, writes := s.marks.used[s.marks.size].grow(s.marks.size, used, s.opt.partBytes())
	if err := s.step("snapshot used", func() error { return s.putAll(writes) }); err != nil {
		return err
	}
	parts := slices.Collect(slices.Chunk(core, s.opt.partBytes()))
	if len(parts) >= 1<<16 {
		return fmt.Errorf("state of %d bytes is too large for a snapshot", len(core))
	}
	writes = nil
	for i, p := range parts {
		writes = append(writes, badger.NewEntry(snapshotKey(size, uint16(i+1)), p))
	}
	if err := s.step("snapshot core", func() error { return s.putAll(writes) }); err != nil {
		return err
	}
	title := badger.NewEntry(snapshotKey(size, 0), m.title(len(parts), core))
	if err := s.step("snapshot title", func() error { return s.put(title) }); err != nil {
		return err
	}
	if s.marks.taken = append(s.marks.taken, size); s.marks.used == nil {
		s.marks.used = map[uint64]mosaic{}
	}
	s.marks.used[size] = m
	return s.step("snapshot drop", s.dropOld)
}

// dropOld drops the snapshots that are no longer kept and what only they needed.
func (s *Store) dropOld() error {
	for len(s.marks.taken) > keptSnapshots {
		old, next := s.marks.taken[0], s.marks.taken[1]
		if err := s.dropSnapshot(old); err != nil {
			return err
		}
		if err := s.dropParts(s.marks.used[old], s.marks.used[next], next); err != nil {
			return err
		}
		delete(s.marks.used, old)
		s.marks.taken = s.marks.taken[1:]
	}
	return nil
}

// dropSnapshot deletes the title first: parts without one do not count.
func (s *Store) dropSnapshot(index uint64) error {
	prefix := snapshotKey(index, 0)[:9]
	var drop []*badger.Entry
	err := s.keys(prefix, prefix, func(key []byte, _ byte) bool {
		drop = append(drop, &badger.Entry{Key: key})
		return true
	})
	if err != nil {
		return err
	}
	return s.putAll(drop)
}

// listSnapshots finds the snapshots by index, and drops those above size: they
// are of entries that were not kept.
func (s *Store) listSnapshots(size uint64) error {
	var above []uint64
	s.marks.taken = nil
	err := s.keys([]byte{keySnapshot}, []byte{keySnapshot}, func(key []byte, _ byte) bool {
		index := binary.BigEndian.Uint64(key[1:])
		if binary.BigEndian.Uint16(key[9:]) != 0 {
			return true
		}
		if index > size {
			above = append(above, index)
		} else {
			s.marks.taken = append(s.marks.taken, index)
		}
		return true
	})
	for _, index := range above {
		if err == nil {
			err = s.dropSnapshot(index)
		}
	}
	return err
}

// restore loads the newest readable snapshot up to size into the machine; if
// there is none, the machine is empty.
func (s *Store) restore() error {
	taken := s.marks.taken
	s.marks = snapshotMark{used: map[uint64]mosaic{}}
	for _, index := range slices.Backward(taken) {
		first := len(s.marks.taken) == 0
		m, err := s.readSnapshot(index, first)
		if err != nil {
			s.opt.Log.Warn("ledger snapshot skipped", "size", index, "err", err)
			s.marks.unread = append(s.marks.unread, index)
			continue
		}
		if first {
			s.marks.size, s.marks.bucket = index, s.machine.Bucket()
		}
		s.marks.taken = append([]uint64{index}, s.marks.taken...)
		if m != nil {
			s.marks.used[index] = m
		}
	}
	if len(s.marks.taken) == 0 {
		return s.machine.Restore(s.blank)
	}
	return nil
}

// tidy drops snapshots that could not be read, and parts of the used-sets that
// no other needs, before new ones take their places.
func (s *Store) tidy() error {
	for _, index := range s.marks.unread {
		if err := s.dropSnapshot(index); err != nil {
			return err
		}
	}
	s.marks.unread = nil
	return s.sweepParts()
}

// readSnapshot reads a title and, for the machine to be loaded, all that it
// names. A title without a mosaic is of a former version, whose parts hold the
// used-sets too.
func (s *Store) readSnapshot(index uint64, load bool) (mosaic, error) {
	title, err := s.get(snapshotKey(index, 0))
	if err != nil {
		return nil, err
	}
	m, ok := parseTitle(title)
	if !ok {
		return nil, fmt.Errorf("%w: title of snapshot %d", ledger.ErrDamaged, index)
	}
	if !load {
		return m, nil
	}
	var core []byte
	for part := range binary.BigEndian.Uint16(title) {
		p, err := s.get(snapshotKey(index, part+1))
		if err != nil {
			return nil, err
		}
		core = append(core, p...)
	}
	if sum := titleSum(core, title[wholeTitle:]); sum != [32]byte(title[2:wholeTitle]) {
		return nil, fmt.Errorf("%w: snapshot %d", ledger.ErrDamaged, index)
	}
	if m == nil {
		err = s.machine.Restore(core)
	} else {
		err = s.machine.Load(core, func(each func(ledger.Window, []byte) error) error { return s.readParts(m, index, each) })
	}
	if err == nil && s.machine.Size() != index {
		err = fmt.Errorf("%w: snapshot %d is of %d entries", ledger.ErrDamaged, index, s.machine.Size())
	}
	return m, err
}

// titleSum binds the parts of a snapshot and the rest of its title.
func titleSum(core, rest []byte) [32]byte {
	h := sha256.New()
	h.Write(core)
	h.Write(rest)
	return [32]byte(h.Sum(nil))
}

// reload sets the machine to what is durable: snapshot plus replay.
func (s *Store) reload() error {
	size, _ := s.Size()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.restore(); err != nil {
		return fmt.Errorf("%w: empty state: %w", ledger.ErrDamaged, err)
	}
	err := s.Entries(s.machine.Size(), size, func(i uint64, raw []byte) error {
		it, err := s.machine.Parse(raw)
		if err == nil {
			err = s.machine.Apply(it)
		}
		if err != nil {
			return fmt.Errorf("%w: replay entry %d: %w", ledger.ErrDamaged, i, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.tidy()
}
