package party

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/privacy/session"
)

// Settlement calls on mesh.Lines, from the aggregator to a payer:
//
//	Propose  draft length u16 | the settle entry as a draft | bill batch, sealed to the payer's bill key
//	         answer 0: accepted, or 1 | refusals of lines
//	Cosign   the settle entry, signed by the aggregator      answer: with the payer's signature
const (
	OpPropose byte = 1
	OpCosign  byte = 2
	// OpDelivered: instruction hash 32 | delivered mWh i64 | instructed mWh i64;
	// answer: what the grid operator pays, i64 millionths.
	OpDelivered byte = 3
	opPart      byte = 255 // a piece of a longer call
)

const (
	partSize   = 200 << 10 // of 256 KiB that one message of the normal lane holds
	maxPieces  = 8         // a full batch of 4096 lines has 660 kB
	maxJoining = 8         // long calls under way at one receiver
	// MaxRejects is how many refusals fit one answer; the rest comes with the
	// next proposal.
	MaxRejects = 2000
)

// ErrCall means that the bytes of a call between operators are malformed.
var ErrCall = errors.New("call between operators is malformed")

// Draft puts a body into an entry that no log would take, to carry it in a call.
func Draft(key ed25519.PrivateKey, body ledger.Body) (*ledger.Entry, error) {
	e, err := ledger.NewEntry(1, 1, body)
	if err != nil {
		return nil, err
	}
	return e, ledger.Sign(e, "", key)
}

// Proposal encodes the body of Propose.
func Proposal(draft *ledger.Entry, box []byte) []byte {
	return append(ledger.AppendBundle(nil, draft.Bytes()), box...)
}

// ParseProposal is the inverse of Proposal.
func ParseProposal(b []byte) (body *ledger.Settle, box []byte, err error) {
	if len(b) < 2 || len(b) < 2+int(b[0])<<8+int(b[1]) {
		return nil, nil, ErrCall
	}
	n := 2 + int(b[0])<<8 + int(b[1])
	e, err := ledger.Parse(b[2:n])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCall, err)
	}
	body, ok := e.Body().(*ledger.Settle)
	if !ok {
		return nil, nil, fmt.Errorf("%w: a proposal of kind %v", ErrCall, e.Kind())
	}
	return body, b[n:], nil
}

// Verdict encodes the answer to Propose.
func Verdict(rejects []session.LineReject) []byte {
	if len(rejects) == 0 {
		return []byte{0}
	}
	b := []byte{1}
	for i := range rejects[:min(len(rejects), MaxRejects)] {
		b = append(b, rejects[i].Bytes()...)
	}
	return b
}

// ParseVerdict is the inverse of Verdict.
func ParseVerdict(b []byte) ([]session.LineReject, error) {
	if len(b) == 1 && b[0] == 0 {
		return nil, nil
	}
	if len(b) < 1+session.RejectSize || b[0] != 1 || (len(b)-1)%session.RejectSize != 0 {
		return nil, fmt.Errorf("%w: verdict of %d bytes", ErrCall, len(b))
	}
	var list []session.LineReject
	for b = b[1:]; len(b) > 0; b = b[session.RejectSize:] {
		r, err := session.ParseLineReject(b[:session.RejectSize])
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// Call asks another operator; a body of any length up to 1.6 MB goes in pieces.
func Call(ctx context.Context, h *mesh.Host, to peer.ID, s mesh.Service, op byte, body []byte) ([]byte, error) {
	whole := append([]byte{op}, body...)
	if len(whole) <= partSize {
		return h.Call(ctx, to, s, whole)
	}
	list := pieces(whole)
	if len(list) > maxPieces {
		return nil, fmt.Errorf("%w: %d bytes", ErrCall, len(whole))
	}
	var answer []byte
	for _, req := range list {
		var err error
		if answer, err = h.Call(ctx, to, s, req); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// pieces cuts a call: { opPart | hash 32 | index u8 | count u8 | bytes }.
func pieces(whole []byte) (list [][]byte) {
	hash := sha256.Sum256(whole)
	parts := slices.Collect(slices.Chunk(whole, partSize))
	for i, part := range parts {
		req := append([]byte{opPart}, hash[:]...)
		list = append(list, append(append(req, byte(i), byte(len(parts))), part...))
	}
	return list
}

// Answerer decides one whole call.
type Answerer func(ctx context.Context, from mesh.Member, op byte, body []byte) ([]byte, error)

// Joiner is the far side of Call: a handler that puts pieces together. What it
// holds is lost in a restart, and the caller then begins again.
type Joiner struct {
	Answer Answerer

	mu    sync.Mutex
	order [][32]byte
	parts map[[32]byte][][]byte
}

// Handle is a mesh.HandlerFunc.
func (j *Joiner) Handle(ctx context.Context, from mesh.Member, req []byte) ([]byte, error) {
	if len(req) == 0 {
		return nil, ErrCall
	}
	if req[0] == opPart {
		whole, err := j.join(req[1:])
		if err != nil || whole == nil {
			return nil, err
		}
		req = whole
	}
	if req[0] == opPart {
		return nil, ErrCall
	}
	return j.Answer(ctx, from, req[0], req[1:])
}

// join takes a piece; whole is nil until the last is there.
func (j *Joiner) join(b []byte) (whole []byte, err error) {
	if len(b) < 34 || b[33] < 2 || b[33] > maxPieces || b[32] >= b[33] || len(b) > 34+partSize {
		return nil, ErrCall
	}
	hash, i, n := [32]byte(b), int(b[32]), int(b[33])
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.parts == nil {
		j.parts = map[[32]byte][][]byte{}
	}
	if len(j.parts[hash]) != n {
		if len(j.order) >= maxJoining {
			delete(j.parts, j.order[0])
			j.order = j.order[1:]
		}
		j.parts[hash] = make([][]byte, n)
		j.order = append(j.order, hash)
	}
	j.parts[hash][i] = append([]byte{}, b[34:]...)
	if i < n-1 {
		return nil, nil
	}
	for _, p := range j.parts[hash] {
		whole = append(whole, p...)
	}
	delete(j.parts, hash)
	j.order = slices.DeleteFunc(j.order, func(x [32]byte) bool { return x == hash })
	if len(whole) == 0 || sha256.Sum256(whole) != hash {
		return nil, fmt.Errorf("%w: pieces do not fit", ErrCall)
	}
	return whole, nil
}
