package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger/durable"
)

// chainWalk is what reading the commit chain found.
type chainWalk struct {
	links []link // newest recheck links, ascending
	first uint64 // oldest kept commit, 0 when there is none
	last  head
	slot  [32]byte // hash of the commit that the head slot names
	found bool     // whether that commit is in the chain
}

// verifyStart compares the chain with the head slot and re-hashes the newest
// values. It sets s.last, in case of damage to a number above all seen.
func (s *Store) verifyStart(fresh bool) error {
	slot, readable, err := s.slots.read()
	if err != nil {
		return err
	}
	walk, err := s.walkChain(slot.n)
	s.last = walk.last
	if slot.n > s.last.n {
		s.last = slot
	}
	if err != nil {
		return err
	}
	switch {
	case fresh && walk.first == 0:
		return s.createHead()
	case !readable:
		return &DamageError{Kind: LostHead, From: walk.last.n}
	case slot.n > walk.last.n:
		return &DamageError{Kind: LostTail, From: walk.last.n + 1, To: slot.n}
	case slot.n > 0 && (!walk.found || walk.slot != slot.hash):
		return &DamageError{Kind: LostMiddle, From: slot.n, To: slot.n}
	}
	if err := s.checkValues(context.Background(), walk.links); err != nil {
		return err
	}
	if walk.last.n == slot.n {
		return nil
	}
	// A crash between Badger's commit and the slot: durable, never acknowledged.
	return s.writeHead(walk.last)
}

func (s *Store) createHead() error {
	for n := range uint64(2) { // both slots, so that neither is ever empty; slot 0 counts
		if _, err := s.slots.f.WriteAt(s.slots.encode(head{}), int64(n)*slotStride); err != nil {
			return fmt.Errorf("write head slot: %w", err)
		}
	}
	return errors.Join(s.slots.f.Sync(), durable.SyncDir(s.dir))
}

// walkChain reads every kept link in order and checks that each names the one
// before it.
func (s *Store) walkChain(slot uint64) (walk chainWalk, err error) {
	err = s.eachLink(func(l link) error {
		if walk.first == 0 {
			walk.first = l.n
		} else if l.n != walk.last.n+1 && !l.restart {
			return &DamageError{Kind: LostMiddle, From: walk.last.n + 1, To: l.n - 1}
		} else if l.prev != walk.last.hash && !l.restart {
			return &DamageError{Kind: LostMiddle, From: walk.last.n, To: l.n}
		}
		if walk.last = (head{n: l.n, hash: l.hash()}); l.n == slot {
			walk.slot, walk.found = walk.last.hash, true
		}
		if l.restart { // what came before was accepted as damaged
			walk.links = nil
		}
		if len(walk.links) == recheck {
			walk.links = append(walk.links[:0], walk.links[1:]...)
		}
		walk.links = append(walk.links, l)
		return nil
	})
	return walk, err
}

func (s *Store) eachLink(fn func(link) error) error {
	prefix := []byte{byte(spaceCommit)}
	return s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: false})
		defer it.Close()
		tx := &Tx{s: s}
		for it.Seek(prefix); it.ValidForPrefix(prefix); it.Next() {
			key := it.Item().KeyCopy(nil)
			l, err := s.readLink(tx, key, it.Item())
			if err != nil {
				return err
			}
			if err := fn(l); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) readLink(tx *Tx, key []byte, item *badger.Item) (link, error) {
	n, ok := GetU64(key[1:])
	raw, err := tx.openItem(key, item)
	if err != nil {
		return link{}, &DamageError{Kind: LostMiddle, From: n, To: n, Cause: err}
	}
	l, err := decodeLink(raw)
	if err != nil || !ok || l.n != n {
		return link{}, &DamageError{Kind: LostMiddle, From: n, To: n, Cause: errors.Join(errLink, err)}
	}
	return l, nil
}

// checkValues re-hashes what links wrote, as far as no later link overwrote it.
// links are the newest of the chain, ascending.
func (s *Store) checkValues(ctx context.Context, links []link) error {
	seen := map[string]bool{}
	for i := len(links) - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, e := range links[i].entries {
			if seen[string(e.key)] {
				continue
			}
			seen[string(e.key)] = true
			if err := s.checkEntry(e); err != nil {
				return &DamageError{Kind: AlteredValue, From: links[i].n, To: links[i].n, Space: spaceOf(e.key), Cause: err}
			}
		}
	}
	return nil
}

var (
	errBack    = errors.New("deleted value is back")
	errMissing = errors.New("value is missing")
	errHash    = errors.New("value does not match its hash")
)

func (s *Store) checkEntry(e linkEntry) error {
	return s.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(e.key)
		if errors.Is(err, badger.ErrKeyNotFound) {
			if e.gone {
				return nil
			}
			return errMissing
		}
		if err != nil {
			return err
		}
		if e.gone {
			return errBack
		}
		return item.Value(func(sealed []byte) error {
			if h := sha256.Sum256(sealed); !bytes.Equal(h[:], e.hash[:]) {
				return errHash
			}
			_, err := s.seal.open(e.key, sealed)
			return err
		})
	})
}

// Check re-hashes every kept commit and opens every value of the store. Run it
// weekly and from `gridveil store check`; it reads the whole database. Damage
// is returned as *DamageError and puts the store into DEGRADED.
func (s *Store) Check(ctx context.Context) error {
	err := s.checkAll(ctx)
	var damage *DamageError
	if errors.As(err, &damage) {
		s.mu.Lock()
		s.damage = damage
		s.mu.Unlock()
	}
	return err
}

func (s *Store) checkAll(ctx context.Context) error {
	// Commits wait meanwhile, so that chain and values belong together.
	s.headMu.Lock()
	defer s.headMu.Unlock()
	var links []link
	err := s.eachLink(func(l link) error {
		if l.restart {
			links = nil
		}
		links = append(links, l)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if err := s.checkValues(ctx, links); err != nil {
		return err
	}
	return s.View(func(tx *Tx) error {
		it := tx.txn.NewIterator(badger.IteratorOptions{PrefetchValues: false})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			key := it.Item().KeyCopy(nil)
			if len(key) == 0 || key[0] == '!' {
				continue // Badger's own keys
			}
			if _, err := tx.openItem(key, it.Item()); err != nil {
				return &DamageError{Kind: AlteredValue, Space: spaceOf(key), Cause: err}
			}
		}
		return nil
	})
}
