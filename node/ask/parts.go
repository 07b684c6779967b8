package ask

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Long requests and answers: an operator serves every service through a [Desk],
// a home asks through [Long] (Operators.Ask does). One onion request holds 11.5 kB; a swap of many
// notes is longer, and so is its answer. A request above maxWhole goes as parts
// {Part | hash32 | index u8 | count u8 | bytes}, the last of which is answered
// in the place of the whole; an answer above maxWhole is fetched by
// {Rest | hash32 | index u8}, where the first piece says how many there are.

// Operations of this framing.
const (
	Account Op = 15 // notes, at a utility: currency u16 -> account u32, see AccountAnswer
	Part    Op = 16
	Rest    Op = 17
)

const (
	maxWhole   = 10_000 // of a body; leaves room for operation and framing in 11.5 kB
	maxParts   = 16     // 160 kB: the longest swap, 128 notes and 8 rows, has 73 kB
	partsAgain = 10 * time.Second
	maxLong    = 64 // requests whose parts or answers are remembered
	partHead   = 32 + 1 + 1
	answerHead = 1 + 1 // after a body's length class: pieces, index
)

// ErrParts means that the pieces of a long message do not fit together, or were
// forgotten: send it again from its first part.
var ErrParts = errors.New("parts of a long message do not fit")

// Long sends op with a body of any supported length through send, which carries
// one request and gives the body of its answer.
func Long(send func(req []byte) ([]byte, error), op Op, body []byte) ([]byte, error) {
	first, err := longRequest(send, op, body)
	if err != nil {
		return nil, err
	}
	if len(first) < answerHead {
		return nil, fmt.Errorf("%w: answer of %d bytes", ErrParts, len(first))
	}
	count, out := int(first[0]), first[answerHead:]
	if count < 1 || count > maxParts || first[1] != 0 {
		return nil, fmt.Errorf("%w: answer in %d pieces", ErrParts, count)
	}
	hash := sha256.Sum256(Request(op, body))
	for i := 1; i < count; i++ {
		piece, err := send(Request(Rest, append(hash[:], byte(i))))
		if err != nil {
			return nil, err
		}
		if len(piece) < answerHead || int(piece[0]) != count || int(piece[1]) != i {
			return nil, fmt.Errorf("%w: piece %d of an answer", ErrParts, i)
		}
		out = append(out[:len(out):len(out)], piece[answerHead:]...)
	}
	return out, nil
}

func longRequest(send func([]byte) ([]byte, error), op Op, body []byte) ([]byte, error) {
	whole := Request(op, body)
	if len(whole) <= maxWhole {
		return send(whole)
	}
	hash := sha256.Sum256(whole)
	count := (len(whole) + maxWhole - 1) / maxWhole
	if count > maxParts {
		return nil, fmt.Errorf("%w: request of %d bytes", ErrParts, len(whole))
	}
	for i := range count {
		piece := whole[i*maxWhole : min((i+1)*maxWhole, len(whole))]
		answer, err := send(Request(Part, append(append(hash[:len(hash):len(hash)], byte(i), byte(count)), piece...)))
		if err != nil || i == count-1 {
			return answer, err
		}
	}
	return nil, ErrParts // count is at least 2
}

// Desk is the other side of Long: an operator's handler of one service. It is
// safe for concurrent use; what it holds is lost in a restart, and the asker
// then begins again.
type Desk struct {
	// Answer decides one whole request. Errors are framed by package ask.
	Answer func(op Op, body []byte) ([]byte, error)

	mu    sync.Mutex
	order [][32]byte // oldest first
	long  map[[32]byte]*longState
}

type longState struct {
	parts  [][]byte
	answer []byte
}

// Handle answers one onion request; the result is what the onion handler
// returns. Pieces that do not fit make the asker begin again.
func (d *Desk) Handle(req []byte) []byte {
	body, err := d.handle(req)
	if errors.Is(err, ErrParts) {
		err = &NotYetError{After: partsAgain}
	}
	return Answer(body, err)
}

func (d *Desk) handle(req []byte) ([]byte, error) {
	op, body, err := ParseRequest(req)
	if err != nil {
		return nil, err
	}
	switch op {
	case Part:
		whole, err := d.join(body)
		if err != nil || whole == nil {
			return nil, err
		}
		return d.decide(whole)
	case Rest:
		if len(body) != 33 {
			return nil, ErrParts
		}
		return d.piece([32]byte(body), int(body[32]))
	}
	return d.decide(req)
}

// decide answers a whole request and keeps an answer that needs several pieces.
func (d *Desk) decide(whole []byte) ([]byte, error) {
	op, body, err := ParseRequest(whole)
	if err != nil {
		return nil, err
	}
	if op == Part || op == Rest {
		return nil, ErrParts
	}
	answer, err := d.Answer(op, body)
	if err != nil {
		return nil, err
	}
	if len(answer) <= maxWhole {
		return append([]byte{1, 0}, answer...), nil
	}
	hash := sha256.Sum256(whole)
	d.mu.Lock()
	d.state(hash).answer = answer
	d.mu.Unlock()
	return d.piece(hash, 0)
}

// join takes one part; whole is nil until the last is there.
func (d *Desk) join(body []byte) (whole []byte, err error) {
	if len(body) < partHead || len(body) > partHead+maxWhole {
		return nil, ErrParts
	}
	hash, i, n := [32]byte(body), int(body[32]), int(body[33])
	if n < 2 || n > maxParts || i >= n {
		return nil, ErrParts
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.state(hash)
	if len(s.parts) != n {
		s.parts = make([][]byte, n)
	}
	s.parts[i] = append([]byte{}, body[partHead:]...)
	if i < n-1 {
		return nil, nil
	}
	for _, p := range s.parts {
		if p == nil {
			return nil, ErrParts
		}
		whole = append(whole, p...)
	}
	if sha256.Sum256(whole) != hash {
		s.parts = nil
		return nil, ErrParts
	}
	return whole, nil
}

func (d *Desk) piece(hash [32]byte, i int) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.long[hash]
	if s == nil || s.answer == nil {
		return nil, ErrParts
	}
	n := (len(s.answer) + maxWhole - 1) / maxWhole
	if i >= n || n > maxParts {
		return nil, ErrParts
	}
	return append([]byte{byte(n), byte(i)}, s.answer[i*maxWhole:min((i+1)*maxWhole, len(s.answer))]...), nil
}

// state finds or makes the memory of one long message; the oldest is forgotten.
// The caller holds mu.
func (d *Desk) state(hash [32]byte) *longState {
	if s := d.long[hash]; s != nil {
		return s
	}
	if d.long == nil {
		d.long = map[[32]byte]*longState{}
	}
	if len(d.order) >= maxLong {
		delete(d.long, d.order[0])
		d.order = d.order[1:]
	}
	s := &longState{}
	d.long[hash] = s
	d.order = append(d.order, hash)
	return s
}
