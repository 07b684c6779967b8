package store

import (
	"errors"
	"fmt"
)

// Errors a caller can act on; each is wrapped with its cause.
var (
	// ErrNotFound means the key has no value.
	ErrNotFound = errors.New("store: key not found")
	// ErrTooLarge means a key, a value or a whole update exceeds its limit:
	// split it, or open the store with a larger Options.MaxValue.
	ErrTooLarge = errors.New("store: update too large")
	// ErrSpace means a key lies in no registered Space, or in the reserved one.
	ErrSpace = errors.New("store: key outside every registered space")
	// ErrReadOnly means Set or Delete was called inside View.
	ErrReadOnly = errors.New("store: write inside a view")
	// ErrFull means the disk is down to its reserve. Deletions still work: drop
	// finally acknowledged records, then try again.
	ErrFull = errors.New("store: disk reserve reached")
	// ErrDegraded means the store lost data and waits for AcceptDamage.
	ErrDegraded = errors.New("store: degraded, writes refused until the damage is accepted")
	// ErrStopped means a commit failed in a way that leaves the state unknown:
	// close the store, open it again and let the start-up check decide.
	ErrStopped = errors.New("store: stopped after a failed commit")
	// ErrClosed means the store was closed.
	ErrClosed = errors.New("store: closed")
	// ErrDamaged means one stored value does not open: it was altered on disk.
	ErrDamaged = errors.New("store: value altered on disk")
	// ErrInUse means another process, or another part of this one, has the store open.
	ErrInUse = errors.New("store: directory is in use; stop the other process first")
	// ErrWrongKey means the master key is not the one the store was made with:
	// restore the key file that belongs to it, the data are sound.
	ErrWrongKey = errors.New("store: master key does not belong to this store")
	// ErrKeyFile means the master key file is missing, malformed or readable by others.
	ErrKeyFile = errors.New("store: master key file")
)

// Damage says what kind of loss the start-up check found.
type Damage uint8

// The kinds of damage.
const (
	// LostTail: the newest acknowledged commits are gone.
	LostTail Damage = iota + 1
	// LostMiddle: the commit chain has a gap or a changed link.
	LostMiddle
	// LostHead: the head slots are missing or unreadable, so nobody can say
	// whether the newest commits survived.
	LostHead
	// AlteredValue: a committed value is missing or does not match its hash.
	AlteredValue
	// Unopenable: Badger refuses its own files.
	Unopenable
	// LostKeys: a key that values are sealed with is missing, though it was not
	// erased.
	LostKeys
)

// String names the damage as doctor and the dashboard show it.
func (d Damage) String() string {
	switch d {
	case LostTail:
		return "newest commits lost"
	case LostMiddle:
		return "commit chain broken"
	case LostHead:
		return "head slots unreadable"
	case AlteredValue:
		return "committed value altered"
	case Unopenable:
		return "database files unreadable"
	case LostKeys:
		return "data keys lost"
	}
	return "unknown damage"
}

// DamageError says what a store lost and what to do. It names commits and
// record spaces, never keys, since keys hold usage points.
type DamageError struct {
	Kind     Damage
	From, To uint64 // first and last commit concerned, 0 when unknown
	Space    Space  // concern of the altered value, 0 when not one value
	Cause    error  // what the layer below reported, may be nil
}

// Error says what happened and what it means.
func (e *DamageError) Error() string {
	s := "store: " + e.Kind.String()
	switch {
	case e.From != 0 && e.From != e.To:
		s += fmt.Sprintf(" (commits %d to %d)", e.From, e.To)
	case e.From != 0:
		s += fmt.Sprintf(" (commit %d)", e.From)
	}
	if e.Space != 0 {
		s += fmt.Sprintf(" in space %q", e.Space.Name())
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives the cause and ErrDegraded, so errors.Is finds both.
func (e *DamageError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrDegraded}
	}
	return []error{ErrDegraded, e.Cause}
}

// Next is the step that the operator should take.
func (e *DamageError) Next() string {
	if e.Kind == Unopenable || e.Kind == LostKeys {
		return "restore the data directory from a backup, or let `gridveil store accept` set the store aside and begin with an empty one"
	}
	return "restore the data directory from a backup, or go on without what was lost: `gridveil store accept` says what that means"
}
