package store

import (
	"runtime"
	"sync"

	"gridveil/ledger"
)

// Pending is an entry on its way into the log.
type Pending struct {
	Item ledger.Item
	Leaf ledger.Hash
	Err  error // set by Check or Take: the entry is refused

	recheck bool // its checks could not be listed yet
}

// Parse reads an entry for Check and Take. It returns the error of the machine.
func (s *Store) Parse(raw []byte) (*Pending, error) {
	it, err := s.machine.Parse(raw) // keeps no state: see ledger.Machine
	if err != nil {
		return nil, err
	}
	return &Pending{Item: it, Leaf: ledger.LeafHash(raw)}, nil
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
	var work [][]*Pending
	for _, b := range batches {
		parts := max(1, min(runtime.GOMAXPROCS(0), len(b)/parallelFrom))
		for i := range parts {
			work = append(work, b[i*len(b)/parts:(i+1)*len(b)/parts])
		}
	}
	if len(work) == 1 {
		s.check(work[0])
		return
	}
	var wg sync.WaitGroup // waited for below: no goroutine outlives Check
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, part := range work {
		slots <- struct{}{}
		wg.Go(func() {
			s.check(part)
			<-slots
		})
	}
	wg.Wait()
}

func (s *Store) check(list []*Pending) {
	groups := make([][]ledger.Check, len(list))
	s.mu.RLock()
	for i, p := range list {
		if p.Err != nil {
			continue
		}
		var err error
		groups[i], err = s.machine.Checks(p.Item)
		p.recheck = err != nil
	}
	s.mu.RUnlock()
	for i, err := range ledger.Verify(groups) {
		if err != nil {
			list[i].Err = err
		}
	}
}
