package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"gridveil/mesh/lane"
	"gridveil/mesh/member"
	"gridveil/mesh/route"
)

// What a call can end in, besides an answer. The first group means that nothing was done: keep the record and try
// again later. A private class never falls back to an open path.
var (
	ErrOffline        = errors.New("the other node cannot be reached now")
	ErrBusy           = errors.New("the other node is busy")
	ErrSmallSet       = route.ErrSmallSet
	ErrFewRelays      = route.ErrFewRelays
	ErrStaleDirectory = route.ErrStaleDirectory

	// ErrOff means that the owner of this node has switched private messages and relaying off.
	ErrOff = errors.New("private messages and relaying of this node are switched off; what should leave waits here")

	ErrUnacked    = errors.New("sent, but not acknowledged: it may or may not have been done") // send again, same record id
	ErrTooLarge   = errors.New("message is longer than its class allows")                      // split it
	ErrNotAllowed = errors.New("this role may not use that service")                           // never retry
	ErrRefused    = errors.New("the other node refused the request")                           // never retry as it is
)

// What keeps a node out of the network. The texts say what to do.
var (
	ErrNotMember = errors.New("not admitted: the certificate is not accepted here; pair this node again with a new code")
	ErrRevoked   = errors.New("not admitted: the certificate was revoked; ask the operator")
	ErrClock     = errors.New("not admitted: the clock is more than 30 s off; check the time source")
)

// BusyError is ErrBusy with the far side's advice.
type BusyError struct {
	After time.Duration // earliest useful retry
}

func (e *BusyError) Error() string { return fmt.Sprintf("%v; try again in %v", ErrBusy, e.After) }

// Is makes errors.Is(err, ErrBusy) true.
func (e *BusyError) Is(target error) bool { return target == ErrBusy }

// RemoteError is an error that the far side's handler returned.
type RemoteError = lane.RemoteError

// callError turns a lane's error into the mesh's words.
func callError(err error) error {
	var re *lane.RemoteError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &re) && re.Code == lane.CodeBusy:
		return &BusyError{After: re.After}
	case errors.As(err, &re) && re.Code == lane.CodeRefused:
		return fmt.Errorf("%w: %s", ErrRefused, re.Text)
	case errors.Is(err, lane.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, lane.ErrUnanswered):
		return fmt.Errorf("%w: %w", ErrUnacked, err)
	case errors.Is(err, lane.ErrUnsent) && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", &BusyError{After: time.Second}, err)
	case errors.Is(err, lane.ErrUnsent):
		return fmt.Errorf("%w: %w", ErrOffline, err)
	}
	return err
}

// verdictError turns the refusal of a hello into an error that shows the next step.
func verdictError(v member.Verdict) error {
	switch v.Code {
	case member.VerdictRevoked:
		return ErrRevoked
	case member.VerdictClock:
		return ErrClock
	case member.VerdictBusy:
		return &BusyError{After: time.Duration(v.RetrySeconds) * time.Second}
	default:
		return fmt.Errorf("%w (%v)", ErrNotMember, v.Code)
	}
}

// redact keeps the class of a network error and drops its text, which names peer ids and addresses of homes.
func redact(err error) error {
	for _, class := range []error{member.ErrHello, context.DeadlineExceeded, context.Canceled, os.ErrDeadlineExceeded, io.EOF,
		io.ErrUnexpectedEOF, network.ErrReset, network.ErrResourceLimitExceeded} {
		if errors.Is(err, class) {
			return class
		}
	}
	return errConnection
}

var errConnection = errors.New("connection not made, or broken")
