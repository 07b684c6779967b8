package verifier

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
	"gridveil/ledger/store"
)

// stepBytes bounds what is fetched before it is applied: a new verifier replays
// years in steps, and memory holds two, the second of which is verified while the
// first is stored.
const stepBytes = 1 << 20

// fetches is how many bundles are asked for at once: what lies between is mostly
// the way there and back.
const fetches = 4

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
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ahead := func(size uint64) <-chan step {
		next := make(chan step, 1)
		wg.Go(func() { next <- f.prepare(ctx, size, c.Size) })
		return next
	}
	size, _ := f.store.Size()
	if size >= c.Size {
		return nil
	}
	for next := ahead(size); next != nil; {
		x := <-next
		if x.err != nil {
			return x.err
		}
		if err := f.prove(ctx, size, x.leaves, c); err != nil {
			return err
		}
		next = nil
		if to := size + uint64(len(x.leaves)); to < c.Size {
			// What is stored now stands under this checkpoint and no cosigned one:
			// keep it to convict the log should it show another history later.
			if err := f.store.PutNote(notePending, msg); err != nil {
				return err
			}
			next = ahead(to)
		}
		if err := f.apply(size, x); err != nil {
			return err
		}
		size += uint64(len(x.leaves))
	}
	return nil
}

// step is a run of entries on its way into the store.
type step struct {
	leaves []ledger.Hash
	list   []*store.Pending
	err    error
}

// prepare fetches the entries from size on, up to the end or stepBytes, and
// verifies them as far as the state of now tells how.
func (f *follower) prepare(ctx context.Context, size, end uint64) (x step) {
	entries, err := f.fetch(ctx, size, end)
	if err != nil {
		return step{err: err}
	}
	for _, raw := range entries {
		p, err := f.store.Parse(raw)
		if err != nil {
			p = &store.Pending{Leaf: ledger.LeafHash(raw), Err: err} // unless one before it is refused
		}
		x.leaves, x.list = append(x.leaves, p.Leaf), append(x.list, p)
	}
	f.store.Holds(x.list, runtime.GOMAXPROCS(0)) // who is wrong is found when it is applied
	return x
}

// fetch gets the entries from size on, up to the end or stepBytes.
func (f *follower) fetch(ctx context.Context, size, end uint64) (out [][]byte, err error) {
	bytes := 0
	for at := size; at < end && bytes < stepBytes; at = size + uint64(len(out)) {
		first := at / tile.Width
		lists := make([][][]byte, min(fetches, (end-1)/tile.Width-first+1))
		g, ctx := errgroup.WithContext(ctx)
		for i := range lists {
			g.Go(func() (err error) {
				block := first + uint64(i)
				lists[i], err = f.from.bundle(ctx, block, int(min(tile.Width, end-block*tile.Width)))
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		lists[0] = lists[0][at%tile.Width:]
		for _, list := range lists {
			for _, e := range list {
				out, bytes = append(out, e), bytes+len(e)
			}
		}
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
func (f *follower) apply(size uint64, x step) error {
	bad, err := f.store.TakeAll(x.list)
	if bad >= 0 {
		return &badEntry{size + uint64(bad), x.leaves[bad], err}
	}
	if err != nil {
		return err
	}
	return f.store.Snapshot()
}
