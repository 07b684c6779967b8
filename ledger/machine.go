package ledger

import (
	"fmt"
	"time"
)

// Item is a parsed entry as store, writer and verifier see it.
type Item interface {
	Bytes() []byte                      // as hashed and stored; read only
	Leaf() Hash                         // LeafHash of Bytes
	Author() (party uint32, seq uint64) // the idempotent id
}

// Machine is a state machine over one log. Money is the settlement ledger;
// metering's audit log is another, with its own origin. A Machine is not safe
// for concurrent use, but the checks that Checks returns may run anywhere.
type Machine interface {
	// Parse reads one entry strictly; it must not keep state.
	Parse(raw []byte) (Item, error)
	// Checks lists what must verify before the item is applied.
	Checks(Item) ([]Check, error)
	// Apply applies the item whole or not at all, without running checks.
	Apply(Item) error
	// Hash is the digest of the state, equal on every replica.
	Hash() [32]byte
	// Size is the number of items applied, the index of the next.
	Size() uint64
	// LogTime is the newest time that the log itself states, zero if none.
	LogTime() time.Time
	// Bucket changes when a snapshot is due.
	Bucket() uint32
	// Snapshot encodes the whole state canonically, Restore replaces it.
	Snapshot() []byte
	Restore(snapshot []byte) error
	// Save encodes the state in what is written down each time and what is only
	// added to; Load replaces it. See State.Save and Load.
	Save() (core []byte, used []Used)
	Load(core []byte, used func(each func(Window, []byte) error) error) error
}

// Money is the settlement ledger as a Machine. State may be replaced by
// Restore, so keep the Money, not the State.
type Money struct {
	State *State
	// First judges the first entry of a shard beyond the rules: whether the end
	// that it goes on from is the one that was replayed here. Nil asks nobody.
	First func(*Shard) error
}

// Sealed is the origin of the log that goes on from m's, empty while m's own one
// does, or if it is of a kind that is never sealed.
func Sealed(m Machine) string {
	if money, ok := m.(*Money); ok {
		return money.State.Sealed()
	}
	return ""
}

// Base is how many entries the sealed logs before m's have; see State.Base.
func Base(m Machine) uint64 {
	if money, ok := m.(*Money); ok {
		return money.State.Base()
	}
	return 0
}

// NewMoney is the empty settlement ledger of one origin.
func NewMoney(origin string) *Money { return &Money{State: New(origin)} }

// Parse implements Machine.
func (m *Money) Parse(raw []byte) (Item, error) {
	e, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Checks implements Machine.
func (m *Money) Checks(it Item) ([]Check, error) {
	e, ok := it.(*Entry)
	if !ok {
		return nil, fmt.Errorf("%w: %T is no entry of this ledger", ErrKind, it)
	}
	return m.State.Checks(e)
}

// Apply implements Machine.
func (m *Money) Apply(it Item) error {
	e, ok := it.(*Entry)
	if !ok {
		return fmt.Errorf("%w: %T is no entry of this ledger", ErrKind, it)
	}
	if b, first := e.Body().(*Shard); first && m.First != nil {
		if err := m.First(b); err != nil {
			return err
		}
	}
	_, err := m.State.Apply(e)
	return err
}

// Hash implements Machine.
func (m *Money) Hash() [32]byte { return m.State.Hash() }

// Size implements Machine.
func (m *Money) Size() uint64 { return m.State.Size() }

// LogTime implements Machine.
func (m *Money) LogTime() time.Time { return m.State.LogTime() }

// Bucket implements Machine.
func (m *Money) Bucket() uint32 { return m.State.Bucket() }

// Snapshot implements Machine.
func (m *Money) Snapshot() []byte { return m.State.Snapshot() }

// Restore implements Machine.
func (m *Money) Restore(snapshot []byte) error {
	s, err := Restore(m.State.Origin(), snapshot)
	if err != nil {
		return err
	}
	m.State = s
	return nil
}

// Save implements Machine.
func (m *Money) Save() (core []byte, used []Used) { return m.State.Save() }

// Load implements Machine.
func (m *Money) Load(core []byte, used func(each func(Window, []byte) error) error) error {
	s, err := Load(m.State.Origin(), core, used)
	if err != nil {
		return err
	}
	m.State = s
	return nil
}
