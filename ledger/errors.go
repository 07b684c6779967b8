package ledger

import (
	"errors"
	"fmt"
)

// Errors of the rules. Each wraps text that says which rule and object; callers
// match with errors.Is, peers exchange the Code. What the caller does is listed
// in design/ledger.md, section 5.
var (
	ErrMalformed     = errors.New("entry is malformed")
	ErrKind          = errors.New("entry kind is not allowed here")
	ErrSigners       = errors.New("signers are not exactly those the kind demands")
	ErrSignature     = errors.New("signature does not verify")
	ErrRole          = errors.New("party has not the role for this")
	ErrSeqGap        = errors.New("sequence number leaves a gap")
	ErrSeqConflict   = errors.New("sequence number was used for another entry")
	ErrExists        = errors.New("entry is already in the log")
	ErrSeqOld        = errors.New("sequence number was used long ago")
	ErrDuplicate     = errors.New("already used")
	ErrWindow        = errors.New("not allowed at this log time")
	ErrBucket        = errors.New("wrong settlement bucket")
	ErrLimit         = errors.New("limit reached")
	ErrNotBacked     = errors.New("not backed")
	ErrBatchTooSmall = errors.New("batch is too small to open")
	ErrOpening       = errors.New("sum does not open to these values")
	ErrNetting       = errors.New("payments differ from the netting of the state")
	ErrOverflow      = errors.New("amount overflows")
	ErrBusy          = errors.New("busy, send the same bytes later")
	ErrHalted        = errors.New("ledger is halted, an operator must act")
	ErrDamaged       = errors.New("store is damaged, repair it from a second copy")
	ErrFork          = errors.New("log shows two histories")
	ErrState         = errors.New("state hash differs")
)

// Code is an error on the wire: an append-only list, 0 is no error.
type Code uint16

// coded holds the sentinel of each code; the position is the code. Append only.
var coded = [...]error{
	nil, ErrMalformed, ErrKind, ErrSigners, ErrSignature, ErrRole, ErrSeqGap, ErrSeqConflict, ErrExists,
	ErrSeqOld, ErrDuplicate, ErrWindow, ErrBucket, ErrLimit, ErrNotBacked, ErrBatchTooSmall, ErrOpening,
	ErrNetting, ErrOverflow, ErrBusy, ErrHalted, ErrDamaged, ErrFork, ErrState,
}

// CodeOf gives the wire code of err: 0 for nil, the code of ErrHalted for an
// error that is none of ours.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	for i, sentinel := range coded[1:] {
		if errors.Is(err, sentinel) {
			return Code(i + 1)
		}
	}
	return CodeOf(ErrHalted)
}

// Err is the sentinel of the code, nil for 0. An unknown code is ErrHalted.
func (c Code) Err() error {
	if int(c) < len(coded) {
		return coded[c]
	}
	return ErrHalted
}

// SeqGapError says from which sequence number the author must resend.
type SeqGapError struct{ Want uint64 }

func (e *SeqGapError) Error() string { return fmt.Sprintf("%v: resend from %d", ErrSeqGap, e.Want) }

// Is makes errors.Is(err, ErrSeqGap) true.
func (e *SeqGapError) Is(target error) bool { return target == ErrSeqGap }

// SeqConflictError points at the entry that used the sequence number before.
type SeqConflictError struct{ Index uint64 }

func (e *SeqConflictError) Error() string {
	return fmt.Sprintf("%v: entry %d", ErrSeqConflict, e.Index)
}

// Is makes errors.Is(err, ErrSeqConflict) true.
func (e *SeqConflictError) Is(target error) bool { return target == ErrSeqConflict }

// ExistsError points at the same entry, already in the log: its author gets the
// receipt of that index again.
type ExistsError struct{ Index uint64 }

func (e *ExistsError) Error() string { return fmt.Sprintf("%v: entry %d", ErrExists, e.Index) }

// Is makes errors.Is(err, ErrExists) true.
func (e *ExistsError) Is(target error) bool { return target == ErrExists }

// DuplicateError says what was used twice and which entry used it first.
type DuplicateError struct {
	What  string
	Index uint64
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("%s %v by entry %d", e.What, ErrDuplicate, e.Index)
}

// Is makes errors.Is(err, ErrDuplicate) true.
func (e *DuplicateError) Is(target error) bool { return target == ErrDuplicate }

// refuse wraps a sentinel with the rule that was broken.
func refuse(sentinel error, format string, args ...any) error {
	return fmt.Errorf("%w: %s", sentinel, fmt.Sprintf(format, args...))
}
