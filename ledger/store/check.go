package store

import (
	"runtime"
	"sync"
	"sync/atomic"

	"gridveil/ledger"
)

// Pending is an entry on its way into the log.
type Pending struct {
	Item ledger.Item
	Leaf ledger.Hash
	Err  error // set by Check or Take: the entry is refused

	checks  []ledger.Check // to verify
	recheck bool           // its checks could not be listed yet
	held    bool           // all of its checks have held
}

// Parse reads an entry for Check and Take. It returns the error of the machine.
func (s *Store) Parse(raw []byte) (*Pending, error) {
	it, err := s.machine.Parse(raw) // keeps no state: see ledger.Machine
	if err != nil {
		return nil, err
	}
	return &Pending{Item: it, Leaf: it.Leaf()}, nil
}

// parallelFrom is the batch from which a second processor pays: below it the
// start of a goroutine costs more than it saves.
const parallelFrom = 128

// Check verifies signatures and facts of entries against the newest state and
// sets Err where they do not hold. The lists are batches of different senders:
// a bad signature costs only its own batch a second look.
//
// Checks that held once hold forever: they tie keys named in the entry to its
// bytes, and Apply refuses an entry whose signers are no longer demanded. An
// entry whose checks cannot be listed yet, because an entry before it registers
// the signer, is checked by Take.
func (s *Store) Check(batches ...[]*Pending) {
	s.inParallel(batches, s.check)
}

// Holds reports whether all that Check verifies holds, and sets no Err: who sent
// what is wrong is for Check to find. It runs on so many processors; two halves of
// 1024 signatures cost a sixth more than the whole. What held is not verified again.
func (s *Store) Holds(list []*Pending, processors int) bool {
	s.mu.RLock()
	groups := make([][]ledger.Check, len(list))
	for i, p := range list {
		p.recheck = p.Err != nil || !s.list(p)
		groups[i], p.checks = p.checks, nil
	}
	s.mu.RUnlock()
	parts := max(1, min(processors, len(list)/parallelFrom))
	var wrong atomic.Bool
	var wg sync.WaitGroup // waited for below
	for i := range parts {
		wg.Go(func() {
			if !ledger.Holds(groups[i*len(groups)/parts : (i+1)*len(groups)/parts]) {
				wrong.Store(true)
			}
		})
	}
	wg.Wait()
	for _, p := range list {
		p.held = !p.recheck && !wrong.Load()
	}
	return !wrong.Load()
}

// inParallel hands out parts of the batches to all processors and waits.
func (s *Store) inParallel(batches [][]*Pending, check func([]*Pending)) {
	var work [][]*Pending
	for _, b := range batches {
		parts := max(1, min(runtime.GOMAXPROCS(0), len(b)/parallelFrom))
		for i := range parts {
			work = append(work, b[i*len(b)/parts:(i+1)*len(b)/parts])
		}
	}
	if len(work) == 1 {
		check(work[0])
		return
	}
	var wg sync.WaitGroup // waited for below
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, part := range work {
		slots <- struct{}{}
		wg.Go(func() {
			check(part)
			<-slots
		})
	}
	wg.Wait()
}

func (s *Store) check(list []*Pending) {
	s.mu.RLock()
	for _, p := range list {
		if p.Err == nil {
			p.recheck = !s.list(p)
		}
	}
	s.mu.RUnlock()
	verify(list)
}

// list asks the machine what must verify; the state must be locked.
func (s *Store) list(p *Pending) (ok bool) {
	var err error
	p.checks, err = s.machine.Checks(p.Item)
	return err == nil
}

// checkRun is Check for the longest run of entries whose checks can be listed
// now; it returns its length. The rest may depend on what the run registers.
func (s *Store) checkRun(list []*Pending) (n int) {
	s.mu.RLock()
	for n < len(list) && list[n].Err == nil && (list[n].held || s.list(list[n])) {
		list[n].recheck = false
		n++
	}
	s.mu.RUnlock()
	s.inParallel([][]*Pending{list[:n]}, verify)
	return n
}

// verify runs the listed checks in one batch.
func verify(list []*Pending) {
	groups := make([][]ledger.Check, len(list))
	for i, p := range list {
		groups[i], p.checks = p.checks, nil
	}
	for i, err := range ledger.Verify(groups) {
		if err != nil {
			list[i].Err = err
		}
	}
}
