package store

import (
	"bytes"
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
)

// snapshotMark says where the machine was last written down.
type snapshotMark struct {
	size   uint64
	bucket uint32
	taken  []uint64 // indexes in Badger, oldest first
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

// writeSnapshot writes the parts, and last part 0, which makes them count.
func (s *Store) writeSnapshot(size uint64) error {
	s.mu.RLock()
	state := s.machine.Snapshot()
	s.mu.RUnlock()
	parts := slices.Collect(slices.Chunk(state, min(maxPart, s.opt.groupBytes()*3/4)))
	if len(parts) >= 1<<16 {
		return fmt.Errorf("state of %d bytes is too large for a snapshot", len(state))
	}
	for i, p := range parts {
		if err := s.put(badger.NewEntry(snapshotKey(size, uint16(i+1)), p)); err != nil {
			return err
		}
	}
	sum := sha256.Sum256(state)
	title := append(binary.BigEndian.AppendUint16(nil, uint16(len(parts))), sum[:]...)
	if err := s.put(badger.NewEntry(snapshotKey(size, 0), title)); err != nil {
		return err
	}
	s.marks.taken = append(s.marks.taken, size)
	for len(s.marks.taken) > keptSnapshots {
		if err := s.dropSnapshot(s.marks.taken[0]); err != nil {
			return err
		}
		s.marks.taken = s.marks.taken[1:]
	}
	return nil
}

// dropSnapshot deletes the title first: parts without one do not count.
func (s *Store) dropSnapshot(index uint64) error {
	prefix := snapshotKey(index, 0)[:9]
	var keys [][]byte
	if err := s.keys(prefix, prefix, func(key []byte, _ byte) bool { keys = append(keys, key); return true }); err != nil {
		return err
	}
	for _, k := range keys {
		if err := s.put(&badger.Entry{Key: k}); err != nil {
			return err
		}
	}
	return nil
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
	for i := len(s.marks.taken) - 1; i >= 0; i-- {
		index := s.marks.taken[i]
		state, err := s.readSnapshot(index)
		if err == nil {
			err = s.machine.Restore(state)
		}
		if err == nil && s.machine.Size() == index {
			s.marks.size, s.marks.bucket = index, s.machine.Bucket()
			return nil
		}
		s.opt.Log.Warn("ledger snapshot skipped", "size", index, "err", err)
	}
	s.marks.size, s.marks.bucket = 0, 0
	return s.machine.Restore(s.blank)
}

func (s *Store) readSnapshot(index uint64) ([]byte, error) {
	title, err := s.get(snapshotKey(index, 0))
	if err != nil {
		return nil, err
	}
	if len(title) != 34 {
		return nil, fmt.Errorf("%w: title of snapshot %d", ledger.ErrDamaged, index)
	}
	var state []byte
	for part := range binary.BigEndian.Uint16(title) {
		p, err := s.get(snapshotKey(index, part+1))
		if err != nil {
			return nil, err
		}
		state = append(state, p...)
	}
	if sum := sha256.Sum256(state); !bytes.Equal(sum[:], title[2:]) {
		return nil, fmt.Errorf("%w: snapshot %d", ledger.ErrDamaged, index)
	}
	return state, nil
}

// reload sets the machine to what is durable: snapshot plus replay.
func (s *Store) reload() error {
	size, _ := s.Size()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.restore(); err != nil {
		return fmt.Errorf("%w: empty state: %w", ledger.ErrDamaged, err)
	}
	return s.Entries(s.machine.Size(), size, func(i uint64, raw []byte) error {
		it, err := s.machine.Parse(raw)
		if err == nil {
			err = s.machine.Apply(it)
		}
		if err != nil {
			return fmt.Errorf("%w: replay entry %d: %w", ledger.ErrDamaged, i, err)
		}
		return nil
	})
}
