// Package ask frames what homes and wallets ask operators by onion: which
// operation of a service is meant, and whether the answer is there, not yet due
// or a refusal. The bodies themselves are the codecs of privacy and ledger.
//
//	ev.auth      Authorise  body session.AuthReq        answer session.Answer
//	             Lock       body session.Lock           answer session receipt of the lock
//	ev.record    Settle     body session.Settle         answer session.Receipt
//	             Flex       body pool.Flex              answer signal.Line, the session's control line
//	ev.collect   Collect    body session.Collect (a driver's is boxed)  answer session.Collected
//	             Issue      body index u64              answer Proven issue entry
//	             Shares     body session's sealed question  answer session.Shares, sealed
//	notes        Denoms     body currency u16 | epoch u32, 0 for today's   answer ledger.Proven denominations entry
//	             Swap       body note.SwapRequest       answer note.SwapReply
//	             Redeem     body note.RedeemRequest     answer empty, at the own utility
//	pass         PassKey    body zone name              answer zone, week and the pass key
//	             Passes     body blinded host keys      answer blind signatures
//	deck         Deck       body pseudo batch request   answer pseudo batch answer
//	             MeterDeck  body MeterBatch             answer pseudo batch answer
//	agg.share    Share      body agg.Report             answer empty
//	dispute      Cases      body empty                  answer open cases' refs
//	             Statement  body committee.Statement    answer empty
package ask

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/mesh"
)

// Op is the first byte of a request.
type Op byte

// Operations. The numbers are wire values.
const (
	Authorise Op = 1
	Lock      Op = 2
	Settle    Op = 3
	Flex      Op = 4
	Collect   Op = 5
	Denoms    Op = 6
	Swap      Op = 7
	Redeem    Op = 8
	PassKey   Op = 9
	Passes    Op = 10
	Deck      Op = 11
	MeterDeck Op = 12
	Cases     Op = 13
	Statement Op = 14
	Share     Op = 18 // 15 to 17 stand in parts.go
	Shares    Op = 19
	Issue     Op = 20
)

// Request is op | body.
func Request(op Op, body []byte) []byte { return append([]byte{byte(op)}, body...) }

// ErrRequest means that a request has no operation.
var ErrRequest = errors.New("request is empty")

// ParseRequest splits a request.
func ParseRequest(b []byte) (Op, []byte, error) {
	if len(b) == 0 {
		return 0, nil, ErrRequest
	}
	return Op(b[0]), b[1:], nil
}

// NotYetError says that the answer is not due: ask again with the same bytes.
type NotYetError struct{ After time.Duration }

func (e *NotYetError) Error() string {
	return fmt.Sprintf("not yet; ask again in %v", e.After)
}

// soon is how often to look again for what a node lacks before it can ask at all:
// nothing leaves it for that.
const soon = 5 * time.Second

// notReady are the errors of a request that did not leave: the directory does not
// name the operator, or too few relays, as in a node's first moments, or the owner
// has switched private messages off.
var notReady = []error{ErrNoOperator, mesh.ErrOffline, mesh.ErrFewRelays, mesh.ErrStaleDirectory, mesh.ErrOff}

// Again is how long to wait after err before the next try, usually usual: less
// while nothing can leave, and where the operator said itself when.
func Again(err error, usual time.Duration) time.Duration {
	var later *NotYetError
	switch {
	case slices.ContainsFunc(notReady, func(e error) bool { return errors.Is(err, e) }):
		return min(soon, usual)
	case errors.As(err, &later):
		return min(max(later.After, time.Second), usual)
	}
	return usual
}

// RefusedError is a final no, with a reason that names nobody.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "refused: " + e.Reason }

// ErrAnswer means that an answer is malformed.
var ErrAnswer = errors.New("answer is malformed")

// maxReason keeps a refusal within one packet.
const maxReason = 200

// Answer frames an answer: 0 | body, 1 | retry s u32, or 2 | reason.
func Answer(body []byte, err error) []byte {
	var later *NotYetError
	switch {
	case err == nil:
		return append([]byte{0}, body...)
	case errors.As(err, &later):
		return binary.BigEndian.AppendUint32([]byte{1}, uint32(min(later.After, 24*time.Hour)/time.Second))
	}
	var no *RefusedError
	reason := err.Error()
	if errors.As(err, &no) {
		reason = no.Reason
	}
	return append([]byte{2}, reason[:min(len(reason), maxReason)]...)
}

// ParseAnswer gives the body, a *NotYetError or a *RefusedError.
func ParseAnswer(b []byte) ([]byte, error) {
	switch {
	case len(b) >= 1 && b[0] == 0:
		return b[1:], nil
	case len(b) == 5 && b[0] == 1:
		return nil, &NotYetError{time.Duration(binary.BigEndian.Uint32(b[1:])) * time.Second}
	case len(b) >= 1 && len(b) <= 1+maxReason && b[0] == 2:
		return nil, &RefusedError{string(b[1:])}
	}
	return nil, ErrAnswer
}
