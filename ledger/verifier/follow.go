package verifier

import (
	"context"
	"errors"
	"fmt"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
	"gridveil/ledger/store"
)

// stepBytes bounds what is fetched before it is applied: a new verifier replays
// years in steps, and memory holds one.
const stepBytes = 8 << 20

// errOther means that what was fetched does not give the checkpoint's root: the
// source is wrong, or the log has another history than ours.
var errOther = errors.New("entries do not give the root of the checkpoint")

// badEntry is an entry under a signed checkpoint that the rules refuse.
type badEntry struct {
	index uint64
	leaf  ledger.Hash
	err   error
}

func (e *badEntry) Error() string { return fmt.Sprintf("entry %d must be refused: %v", e.index, e.err) }
func (e *badEntry) Unwrap() error { return e.err }

// follower brings a store to a checkpoint.
type follower struct {
	store *store.Store
	from  source
}

// follow fetches, checks, applies and persists the entries up to c, which the
// log has signed as msg. It returns *badEntry, errOther, an error of the network,
// or one wrapping ErrHalted.
func (f *follower) follow(ctx context.Context, c ledger.Checkpoint, msg []byte) error {
	for {
		size, _ := f.store.Size()
		if size >= c.Size {
			return nil
		}
		entries, err := f.fetch(ctx, size, c.Size)
		if err != nil {
			return err
		}
		leaves := make([]ledger.Hash, len(entries))
		for i := range entries {
			leaves[i] = ledger.LeafHash(entries[i])
		}
		if err := f.prove(ctx, size, leaves, c); err != nil {
			return err
		}
		if to := size + uint64(len(entries)); to < c.Size {
			// What is stored now stands under this checkpoint and no cosigned one:
			// keep it to convict the log should it show another history later.
			if err := f.store.PutNote(notePending, msg); err != nil {
				return err
			}
		}
		if err := f.apply(size, entries); err != nil {
			return err
		}
	}
}

// fetch gets the entries from size on, up to the end or stepBytes.
func (f *follower) fetch(ctx context.Context, size, end uint64) (out [][]byte, err error) {
	bytes := 0
	for at := size; at < end && bytes < stepBytes; {
		block := at / tile.Width
		width := int(min(tile.Width, end-block*tile.Width))
		list, err := f.from.bundle(ctx, block, width)
		if err != nil {
			return nil, err
		}
		for _, e := range list[at%tile.Width:] {
			out, bytes = append(out, e), bytes+len(e)
		}
		at = size + uint64(len(out))
	}
	return out, nil
}

// prove shows that the log with these leaves is the tree of c, or that the tree
// of c grew out of it.
func (f *follower) prove(ctx context.Context, size uint64, leaves []ledger.Hash, c ledger.Checkpoint) error {
	root, err := f.store.RootWith(leaves)
	if err != nil {
		return err
	}
	got := ledger.Checkpoint{Origin: c.Origin, Size: size + uint64(len(leaves)), Root: root}
	if got.Size == c.Size {
		if root != c.Root {
			return errOther
		}
		return nil
	}
	proof, err := ledger.ProveConsistency(got.Size, c.Size, f.tree(ctx, c))
	if err != nil {
		return err
	}
	if ledger.CheckConsistency(got, c, proof) != nil {
		return errOther
	}
	return nil
}

// tree reads the tree of a checkpoint from the source; what it gives is proved
// against the root.
func (f *follower) tree(ctx context.Context, c ledger.Checkpoint) tileReader {
	return tile.Reader(c.Size, c.Root, func(t tile.Tile) ([]byte, error) { return f.from.tile(ctx, t) })
}

// apply runs entries that are proved to be in the log through the machine and
// persists them, all or none.
func (f *follower) apply(size uint64, entries [][]byte) error {
	list := make([]*store.Pending, len(entries))
	for i, raw := range entries {
		p, err := f.store.Parse(raw)
		if err != nil {
			p = &store.Pending{Leaf: ledger.LeafHash(raw), Err: err} // unless one before it is refused
		}
		list[i] = p
	}
	bad, err := f.store.TakeAll(list)
	if bad >= 0 {
		return &badEntry{size + uint64(bad), list[bad].Leaf, err}
	}
	if err != nil {
		return err
	}
	return f.store.Snapshot()
}
