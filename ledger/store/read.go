package store

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
)

// Entry reads one stored entry.
func (s *Store) Entry(index uint64) (raw []byte, err error) {
	err = s.Entries(index, index+1, func(_ uint64, b []byte) error { raw = b; return nil })
	return raw, err
}

// Tile gives the hashes of a tile of levels 0 and above, full or partial, of the
// tree that is in memory. It returns ErrMalformed for one that does not exist.
func (s *Store) Tile(t tile.Tile) ([]byte, error) {
	s.mu.RLock()
	size := s.edge.Size()
	partial := s.edge.Partial(t.L)
	full := s.young[tile.Tile{L: t.L, N: t.N, W: tile.Width}]
	s.mu.RUnlock()
	if t.L < 0 || t.L > 7 || t.W < 1 || t.W > tile.Width || t.N > 1<<54 {
		return nil, fmt.Errorf("%w: %s is not of this tree", ledger.ErrMalformed, t.Path())
	}
	n := size >> (tile.Height * t.L) // hashes at this level
	if t.N == n/tile.Width && uint64(t.W) <= n%tile.Width {
		return partial[:t.W*tlog.HashSize], nil
	}
	if t.N >= n/tile.Width {
		return nil, fmt.Errorf("%w: %s is not of this tree", ledger.ErrMalformed, t.Path())
	}
	if full != nil {
		return full[:t.W*tlog.HashSize], nil
	}
	b, err := s.get(tileKey(t))
	if err != nil {
		return nil, err
	}
	if len(b) != tile.Size {
		return nil, fmt.Errorf("%w: %s has %d bytes", ledger.ErrDamaged, t.Path(), len(b))
	}
	return b[:t.W*tlog.HashSize], nil
}

// Bundle gives an entry bundle, full or partial, in C2SP framing.
func (s *Store) Bundle(t tile.Tile) ([]byte, error) {
	if t.N > 1<<54 {
		return nil, fmt.Errorf("%w: %s is not of this tree", ledger.ErrMalformed, t.Path())
	}
	var b []byte
	first := t.N * tile.Width
	err := s.Entries(first, first+uint64(t.W), func(_ uint64, raw []byte) error {
		b = ledger.AppendBundle(b, raw)
		return nil
	})
	return b, err
}

// Hashes reads the tree of the first size entries; what it gives is proved to
// be under the root.
func (s *Store) Hashes(size uint64, root ledger.Hash) tlog.HashReader {
	return tile.Reader(size, root, s.Tile)
}

// RootAt is the root over the first n entries.
func (s *Store) RootAt(n uint64) (ledger.Hash, error) {
	s.mu.RLock()
	size, root := s.edge.Size(), ledger.Hash(s.edge.Root())
	s.mu.RUnlock()
	switch {
	case n == size:
		return root, nil
	case n == 0:
		return ledger.EmptyRoot(), nil
	case n > size:
		return ledger.Hash{}, fmt.Errorf("%w: root of %d entries in a log of %d", ledger.ErrMalformed, n, size)
	}
	h, err := tlog.TreeHash(int64(n), s.Hashes(size, root))
	if err != nil {
		return ledger.Hash{}, fmt.Errorf("%w: root of %d entries: %w", ledger.ErrDamaged, n, err)
	}
	return ledger.Hash(h), nil
}

// RootWith is the root that the log would have after these leaves.
func (s *Store) RootWith(leaves []ledger.Hash) (ledger.Hash, error) {
	size, _ := s.Size()
	e, err := s.edgeAt(size)
	if err != nil {
		return ledger.Hash{}, err
	}
	for _, leaf := range leaves {
		e.Append(leaf, func(tile.Tile, []byte) {})
	}
	return e.Root(), nil
}

// edgeAt rebuilds the right edge of the first n entries.
func (s *Store) edgeAt(n uint64) (*tile.Edge, error) {
	e := new(tile.Edge)
	if err := e.Restore(n, s.Tile); err != nil {
		return nil, fmt.Errorf("right edge of %d entries: %w", n, err)
	}
	return e, nil
}

// ProveInclusion proves an entry under a checkpoint of this log.
func (s *Store) ProveInclusion(index uint64, c ledger.Checkpoint) ([]ledger.Hash, error) {
	return ledger.ProveInclusion(c.Size, index, s.Hashes(c.Size, c.Root))
}

// ProveConsistency proves that the tree of c grew out of the first old entries.
func (s *Store) ProveConsistency(old uint64, c ledger.Checkpoint) ([]ledger.Hash, error) {
	if old == 0 || old == c.Size {
		return nil, nil // nothing to prove
	}
	return ledger.ProveConsistency(old, c.Size, s.Hashes(c.Size, c.Root))
}
