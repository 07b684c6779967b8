package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
)

// Take applies checked entries in order and makes those that the machine takes
// durable as one group; the others have Err set. It returns the index of the
// first. Entries of one call must fit MaxGroup and GroupBytes.
//
// An error of its own is ErrFull, after which nothing has happened, or
// ErrHalted: whether the group is durable is unknown and Open will tell.
func (s *Store) Take(list []*Pending) (first uint64, err error) {
	s.take.Lock()
	defer s.take.Unlock()
	if err := s.ready(list); err != nil {
		return 0, err
	}
	s.shown.Lock() // nobody may act on what is not durable
	defer s.shown.Unlock()
	first = s.edge.Size()
	taken, err := s.apply(list)
	if err != nil {
		return 0, s.halt(err)
	}
	if len(taken) == 0 {
		return first, nil
	}
	return first, s.commit(taken)
}

// TakeAll checks and applies entries, all or none, and makes them durable in as
// many groups as needed. If one is refused, or came with an error, it returns
// the position and error of the first, and the state is as before.
func (s *Store) TakeAll(list []*Pending) (bad int, err error) {
	s.take.Lock()
	defer s.take.Unlock()
	if err := s.ready(nil); err != nil {
		return -1, err
	}
	s.shown.Lock()
	defer s.shown.Unlock()
	for at := 0; at < len(list); {
		n := s.checkRun(list[at:])
		if n == 0 {
			n, list[at].recheck = 1, true // apply tells why
		}
		if _, err := s.apply(list[at : at+n]); err != nil {
			return -1, s.halt(err)
		}
		for end := at + n; at < end; at++ {
			if refused := list[at].Err; refused != nil {
				if err := s.reload(); err != nil {
					return -1, s.halt(err)
				}
				return at, refused
			}
		}
	}
	for len(list) > 0 {
		n := s.fits(list)
		if err := s.commit(list[:n]); err != nil {
			return -1, err
		}
		list = list[n:]
	}
	return -1, nil
}

// fits is how many entries make the next group.
func (s *Store) fits(list []*Pending) int {
	size := 0
	for i, p := range list {
		size += 2 + len(p.Item.Bytes())
		if i == MaxGroup || size > s.opt.groupBytes() {
			return i
		}
	}
	return len(list)
}

// ready refuses work that cannot be done.
func (s *Store) ready(list []*Pending) error {
	if err := s.Err(); err != nil {
		return err
	}
	if s.fits(list) < len(list) {
		return fmt.Errorf("ledger store: group of %d entries is above the limit of %d entries or %d bytes", len(list), MaxGroup, s.opt.groupBytes())
	}
	return s.Room()
}

// apply runs the entries through the machine. An error means that the machine
// itself is broken.
func (s *Store) apply(list []*Pending) (taken []*Pending, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range list {
		if p.Err != nil {
			continue
		}
		if p.Err = s.applyOne(p); p.Err == nil {
			taken = append(taken, p)
		} else if ledger.CodeOf(p.Err) == ledger.CodeOf(ledger.ErrHalted) {
			return nil, fmt.Errorf("apply entry: %w", p.Err)
		}
	}
	return taken, nil
}

func (s *Store) applyOne(p *Pending) error {
	if p.recheck {
		checks, err := s.machine.Checks(p.Item)
		if err == nil {
			err = ledger.VerifyOne(checks)
		}
		if err != nil {
			return err
		}
	}
	return s.machine.Apply(p.Item)
}

// commit makes applied entries durable: W1 || W2, W3, W4. Any error is final,
// because the machine is ahead of the disk.
func (s *Store) commit(list []*Pending) error {
	g := s.build(list)
	steps := [2]error{}
	var wg sync.WaitGroup // waited for below
	wg.Go(func() {
		steps[0] = s.step("W1", func() error { return s.journal.append(&g.rec) })
	})
	steps[1] = s.step("W2", func() error { return s.put(g.writes...) })
	wg.Wait()
	if err := errors.Join(steps[0], steps[1]); err != nil {
		return s.halt(err)
	}
	if err := s.step("W3", func() error { return s.writeHead(g.head) }); err != nil {
		return s.halt(err)
	}
	s.prev = g.sum
	s.mu.Lock()
	s.young = nil // Badger has them
	s.mu.Unlock()
	if err := s.step("W4", func() error { return nil }); err != nil {
		return s.halt(err)
	}
	return nil
}

// step runs one durable step unless a test fails it before or after.
func (s *Store) step(name string, do func() error) error {
	if err := s.opt.Fail(name); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := do(); err != nil {
		return err
	}
	if err := s.opt.Fail(name + " done"); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// group is what one commit writes.
type group struct {
	rec    record
	writes []*badger.Entry
	head   head
	sum    [32]byte // of the head record
}

// build turns applied entries into a group and grows the tree by them.
func (s *Store) build(list []*Pending) group {
	s.head.Lock()
	durable := s.head.durable
	s.head.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	var g group
	s.young = map[tile.Tile][]byte{}
	g.rec.first = s.edge.Size()
	for _, p := range list {
		g.rec.entries = append(g.rec.entries, p.Item.Bytes())
		s.edge.Append(p.Leaf, func(t tile.Tile, data []byte) {
			g.writes = append(g.writes, badger.NewEntry(tileKey(t), data))
			s.young[t] = data
		})
	}
	g.rec.root = s.edge.Root()
	for _, c := range cut(g.rec.first, g.rec.entries, s.opt.chunkBytes()) {
		g.writes = append(g.writes, c.entry())
	}
	g.head = head{s.edge.Size(), g.rec.root, durable.group + 1}
	record := headRecord(g.head, s.prev)
	g.sum = sha256.Sum256(record)
	g.writes = append(g.writes, badger.NewEntry([]byte{keyHead}, record))
	return g
}

// writeHead makes h the acknowledged head.
func (s *Store) writeHead(h head) error {
	s.head.Lock()
	defer s.head.Unlock()
	v := s.head.file.last
	v.head, v.seg, v.end = h, s.journal.seg, s.journal.end
	if err := s.head.file.write(v); err != nil {
		return err
	}
	s.head.durable = h
	return nil
}
