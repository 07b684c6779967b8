package meshtest

import (
	"slices"
	"sync"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
)

// Store keeps a node's state in memory, across Restart.
type Store struct {
	mu        sync.Mutex
	registers map[gossip.ID]mesh.Envelope
	states    map[string][]byte
	fail      error
}

// NewStore makes an empty store.
func NewStore() *Store {
	return &Store{registers: map[gossip.ID]mesh.Envelope{}, states: map[string][]byte{}}
}

// Fail makes every later write return err; nil ends that.
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// LoadRegisters gives what was saved, in no order.
func (s *Store) LoadRegisters() ([]mesh.Envelope, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []mesh.Envelope
	for _, e := range s.registers {
		out = append(out, e)
	}
	return out, nil
}

// SaveRegisters replaces registers.
func (s *Store) SaveRegisters(list []mesh.Envelope) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	for _, e := range list {
		s.registers[e.ID()] = e
	}
	return nil
}

// DropRegisters forgets registers.
func (s *Store) DropRegisters(ids []gossip.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		delete(s.registers, id)
	}
	return s.fail
}

// LoadState gives a named state, nil when absent.
func (s *Store) LoadState(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.states[name]), nil
}

// SaveState replaces a named state.
func (s *Store) SaveState(name string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		s.states[name] = slices.Clone(value)
	}
	return s.fail
}
