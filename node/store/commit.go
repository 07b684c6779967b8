package store

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
)

// group is the updates that share one commit, one synchronisation and one link
// of the chain.
type group struct {
	writes layer
	bytes  int
	joins  bool          // still takes updates
	lead   chan struct{} // hands the leadership to one waiting caller
	done   chan struct{} // closed when err is final
	err    error
}

func newGroup() *group {
	return &group{writes: layer{}, joins: true, lead: make(chan struct{}, 1), done: make(chan struct{})}
}

// Update runs fn, then makes everything it staged durable at once: after nil
// all of it survives a crash, after an error none of it happened (ErrStopped
// excepted: then the next start decides). fn must not call Update or View of
// the same store; concurrent updates run one after the other and see each
// other's staged values, so a read-modify-write needs no lock.
func (s *Store) Update(fn func(*Tx) error) error {
	g, leader, err := s.stageUpdate(fn)
	if err != nil || g == nil {
		return err
	}
	if !leader {
		select {
		case <-g.done:
			return g.err
		case <-g.lead:
		}
	}
	s.commitNext(g)
	return g.err
}

// stageUpdate runs fn against the state as it will be after every update before
// it. It returns the group to wait for, nil when there is nothing to wait for.
func (s *Store) stageUpdate(fn func(*Tx) error) (g *group, leader bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.writable(); err != nil {
		return nil, false, err
	}
	tx := &Tx{s: s, txn: s.db.NewTransaction(false), writes: layer{}, below: s.overlay()}
	defer tx.txn.Discard()
	if err := fn(tx); err != nil {
		return nil, false, err
	}
	if tx.err != nil {
		return nil, false, tx.err
	}
	if len(tx.writes) == 0 {
		return s.newest(), false, nil // what it read must be durable before it acts on it
	}
	if err := s.hasRoom(tx.writes); err != nil {
		return nil, false, err
	}
	leader = !s.leading && len(s.pending) == 0
	s.leading = s.leading || leader
	return s.join(tx), leader, nil
}

func (s *Store) writable() error {
	switch {
	case s.closed:
		return ErrClosed
	case s.stopped != nil:
		return s.stopped
	case s.opt.Replica && s.propose == nil:
		return ErrFollows
	case s.damage != nil:
		return fmt.Errorf("%w: %w", ErrDegraded, s.damage)
	}
	return nil
}

// overlay lists the pending layers, newest first.
func (s *Store) overlay() []layer {
	out := make([]layer, 0, len(s.pending))
	for _, g := range slices.Backward(s.pending) {
		out = append(out, g.writes)
	}
	return out
}

func (s *Store) newest() *group {
	if len(s.pending) == 0 {
		return nil
	}
	return s.pending[len(s.pending)-1]
}

// join adds an update to the newest group that has room, or to a new one.
func (s *Store) join(tx *Tx) *group {
	g := s.newest()
	full := g == nil || !g.joins || g.bytes+tx.bytes > groupFactor*s.opt.MaxValue ||
		len(g.writes)+len(tx.writes) > maxGroupWrites
	if full {
		g = newGroup()
		s.pending = append(s.pending, g)
	}
	maps.Copy(g.writes, tx.writes)
	g.bytes += tx.bytes
	return g
}

// hasRoom keeps the disk reserve; deletions pass, since they make room.
func (s *Store) hasRoom(writes layer) error {
	if s.opt.MinFree < 0 {
		return nil
	}
	adds := false
	for _, w := range writes {
		adds = adds || !w.gone
	}
	if !adds {
		return nil
	}
	free, err := s.opt.Free(s.dir)
	if err != nil {
		return fmt.Errorf("store: ask for free space: %w", err)
	}
	if free < s.opt.MinFree {
		return fmt.Errorf("%w: %d MiB free, %d MiB reserved", ErrFull, free>>20, s.opt.MinFree>>20)
	}
	return nil
}

// commitNext commits the oldest group, which is own, and hands the leadership
// to a caller of the next one, so that no caller works for others for ever.
func (s *Store) commitNext(own *group) {
	s.mu.Lock()
	own.joins = false
	err := s.stopped
	s.mu.Unlock()
	if err == nil {
		commit := s.alone
		if s.opt.Replica {
			commit = s.decide
		}
		err = commit(own.writes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.stopped == nil {
		s.stopped = fmt.Errorf("%w: %w", ErrStopped, err)
	}
	own.err = s.stopped
	s.pending = s.pending[1:]
	if err == nil && !s.opt.Replica { // Apply has counted it
		s.mergeWhenDue(own.bytes)
	}
	close(own.done)
	if len(s.pending) == 0 {
		s.leading = false
		return
	}
	s.pending[0].lead <- struct{}{}
}

// commit writes one group and its link, then the head slot. The group is
// durable in Badger before the slot names it, and nobody is told before both.
func (s *Store) commit(writes layer) error {
	s.headMu.Lock()
	defer s.headMu.Unlock()
	return s.commitHeld(writes, nil)
}

// commitHeld is commit for who holds headMu. links are commit records that are
// sealed anew; they are no part of the commit.
func (s *Store) commitHeld(writes, links layer) error {
	l := link{n: s.last.n + 1, prev: s.last.hash}
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	for _, name := range slices.Sorted(maps.Keys(writes)) {
		key, w := []byte(name), writes[name]
		if w.gone {
			l.entries = append(l.entries, linkEntry{key: key, gone: true})
			if err := txn.Delete(key); err != nil {
				return fmt.Errorf("stage deletion: %w", err)
			}
			continue
		}
		sealed := s.seal.seal(key, l.n, w.value)
		l.entries = append(l.entries, linkEntry{key: key, hash: sha256.Sum256(sealed)})
		if err := txn.Set(key, sealed); err != nil {
			return fmt.Errorf("stage value: %w", err)
		}
	}
	for name, w := range links {
		if err := txn.Set([]byte(name), s.seal.seal([]byte(name), l.n, w.value)); err != nil {
			return fmt.Errorf("stage old commit record: %w", err)
		}
	}
	if err := txn.Set(linkKey(l.n), s.seal.seal(linkKey(l.n), l.n, l.encode())); err != nil {
		return fmt.Errorf("stage commit record: %w", err)
	}
	if keep := uint64(s.opt.Keep); l.n > keep {
		if err := txn.Delete(linkKey(l.n - keep)); err != nil {
			return fmt.Errorf("trim commit record: %w", err)
		}
	}
	if err := txn.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return s.moveHead(head{n: l.n, hash: l.hash()})
}

func (s *Store) moveHead(h head) error {
	if err := s.writeHead(h); err != nil {
		return err
	}
	s.last = h
	return nil
}

// writeHead puts a head with the present generation on disk.
func (s *Store) writeHead(h head) error {
	h.gen = s.seal.current()
	return s.slots.write(h)
}

// restartChain begins a new chain after accepted damage. Its number lies above
// everything seen, so no commit number is used twice. Caller holds mu.
func (s *Store) restartChain() error {
	s.headMu.Lock()
	defer s.headMu.Unlock()
	l := link{n: s.last.n + 1, prev: s.last.hash, restart: true}
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	if err := txn.Set(linkKey(l.n), s.seal.seal(linkKey(l.n), l.n, l.encode())); err != nil {
		return err
	}
	if err := txn.Commit(); err != nil {
		return err
	}
	return s.moveHead(head{n: l.n, hash: l.hash()})
}

// View runs fn on the committed state; fn may run beside updates.
func (s *Store) View(fn func(*Tx) error) error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	return fn(&Tx{s: s, txn: txn})
}

// Get reads one value of the committed state, or ErrNotFound.
func (s *Store) Get(key []byte) (value []byte, err error) {
	err = s.View(func(tx *Tx) error {
		value, err = tx.Get(key)
		return err
	})
	return value, err
}

// Set writes one value durably.
func (s *Store) Set(key, value []byte) error {
	return s.Update(func(tx *Tx) error { return tx.Set(key, value) })
}
