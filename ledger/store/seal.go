package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
)

// keptCheckpoints is how many published checkpoints stay: one a second would
// else outgrow the entries.
const keptCheckpoints = 256

// published is the newest checkpoint note that may be served.
type published struct {
	size  uint64
	note  []byte
	sizes []uint64 // in Badger, oldest first
}

// Seal is SealAt for everything that is durable.
func (s *Store) Seal() (size uint64, root ledger.Hash, err error) {
	size, _ = s.Size()
	root, err = s.SealAt(size)
	return size, root, err
}

// SealAt reads back what was not read back yet of the first size entries (W5),
// compares it with the tree, and records that this state may be signed (W6). It
// returns the root to sign. Two public logs died of a bit that flipped before
// their checkpoint was signed.
func (s *Store) SealAt(size uint64) (root ledger.Hash, err error) {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	if err := s.Err(); err != nil {
		return ledger.Hash{}, err
	}
	if durable, _ := s.Size(); size < s.checked.Size() || size > durable {
		return ledger.Hash{}, fmt.Errorf("%w: seal size %d of %d, sealed is %d", ledger.ErrMalformed, size, durable, s.checked.Size())
	}
	if root, err = s.RootAt(size); err != nil {
		return ledger.Hash{}, s.halt(err)
	}
	if err := s.step("W5", func() error { return s.readBack(size, root) }); err != nil {
		return ledger.Hash{}, s.halt(err)
	}
	if err := s.step("W6", func() error { return s.writeSigned(signed{size, root}) }); err != nil {
		return ledger.Hash{}, s.halt(err)
	}
	if err := s.step("W7", func() error { return nil }); err != nil {
		return ledger.Hash{}, s.halt(err)
	}
	return root, nil
}

// readBack re-hashes the stored entries up to size and compares tiles and root.
func (s *Store) readBack(size uint64, root ledger.Hash) error {
	var bad error
	err := s.Entries(s.checked.Size(), size, func(_ uint64, raw []byte) error {
		s.checked.Append(ledger.LeafHash(raw), func(t tile.Tile, data []byte) {
			stored, err := s.get(tileKey(t))
			if err == nil && !bytes.Equal(stored, data) {
				err = fmt.Errorf("%w: %s differs from its entries", ledger.ErrDamaged, t.Path())
			}
			bad = errors.Join(bad, err)
		})
		return bad
	})
	if err != nil {
		return err
	}
	if s.checked.Root() != root {
		return fmt.Errorf("%w: entries read back do not give the root of size %d", ledger.ErrDamaged, size)
	}
	return nil
}

func (s *Store) writeSigned(v signed) error {
	s.head.Lock()
	defer s.head.Unlock()
	next := s.head.file.last
	next.signed = v
	if err := s.head.file.write(next); err != nil {
		return err
	}
	s.head.signed = v
	return nil
}

// Publish stores a checkpoint note (W8); it is the one to serve from then on
// (W9) unless a larger one is.
func (s *Store) Publish(size uint64, note []byte) error {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	if err := s.Err(); err != nil {
		return err
	}
	p := s.published
	writes := []*badger.Entry{badger.NewEntry(checkpointKey(size), note)}
	if n := len(p.sizes); n == 0 || p.sizes[n-1] != size {
		p.sizes = append(p.sizes[:n:n], size)
	}
	for len(p.sizes) > keptCheckpoints {
		writes = append(writes, &badger.Entry{Key: checkpointKey(p.sizes[0])})
		p.sizes = p.sizes[1:]
	}
	if err := s.step("W8", func() error { return s.put(writes...) }); err != nil {
		return s.halt(err)
	}
	if err := s.step("W9", func() error { return nil }); err != nil {
		return s.halt(err)
	}
	if size >= p.size {
		p.size, p.note = size, note
	}
	s.published = p
	return nil
}

// Published is the newest checkpoint note that was published, nil if none.
func (s *Store) Published() (size uint64, note []byte) {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	return s.published.size, s.published.note
}

// loadPublished finds the published checkpoints up to the log's size.
func (s *Store) loadPublished(size uint64) error {
	err := s.keys([]byte{keyCheckpoint}, []byte{keyCheckpoint}, func(key []byte, _ byte) bool {
		if n := binary.BigEndian.Uint64(key[1:]); n <= size {
			s.published.sizes = append(s.published.sizes, n)
		}
		return true
	})
	if err != nil || len(s.published.sizes) == 0 {
		return err
	}
	s.published.size = s.published.sizes[len(s.published.sizes)-1]
	s.published.note, err = s.get(checkpointKey(s.published.size))
	return err
}

// PutNote keeps a small value of the store's owner beside the log; nil deletes.
func (s *Store) PutNote(name string, value []byte) error {
	if err := s.Err(); err != nil {
		return err
	}
	if err := s.put(&badger.Entry{Key: append([]byte{keyNote}, name...), Value: value}); err != nil {
		return s.halt(err)
	}
	return nil
}

// Note reads such a value, nil if there is none.
func (s *Store) Note(name string) ([]byte, error) {
	return s.get(append([]byte{keyNote}, name...))
}
