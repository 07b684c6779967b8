package ledger

import "fmt"

// Successor shows that the ledger goes on in another log. Who holds no copy of
// either believes it as it believes any entry: from the checkpoints of both.
type Successor struct {
	Seal      []byte // the sealed log's last entry, it names the next origin
	SealPath  []Hash // that it is the last one under the checkpoint in Shard
	Shard     []byte // the next log's first entry
	ShardPath []Hash // that it is the first one under Head
	Head      []byte // checkpoint note of the next log
}

const successorMagic = "GVZ1"

// Encode gives "GVZ1" | seal length u16, seal | n u8 (63), n hashes | the same
// for the shard | head length u16, head.
func (x *Successor) Encode() []byte {
	var w encoder
	w.raw([]byte(successorMagic))
	for _, part := range []struct {
		entry []byte
		path  []Hash
	}{{x.Seal, x.SealPath}, {x.Shard, x.ShardPath}} {
		w.u16(uint16(len(part.entry)))
		w.raw(part.entry)
		w.u8(uint8(len(part.path)))
		for _, h := range part.path {
			w.h32(h)
		}
	}
	w.u16(uint16(len(x.Head)))
	w.raw(x.Head)
	return w.b
}

// ParseSuccessor reads what Encode gave. It returns ErrMalformed for anything
// else and never panics; Check says whether it holds.
func ParseSuccessor(b []byte) (*Successor, error) {
	r := decoder{b: b}
	r.want(string(r.take(len(successorMagic))) == successorMagic)
	part := func() (entry []byte, path []Hash) {
		entry = r.take(int(r.u16()))
		n := r.u8()
		r.want(n < 64)
		for ; n > 0 && !r.bad; n-- {
			path = append(path, r.h32())
		}
		return entry, path
	}
	x := &Successor{}
	x.Seal, x.SealPath = part()
	x.Shard, x.ShardPath = part()
	x.Head = r.take(int(r.u16()))
	if !r.done() {
		return nil, refuse(ErrMalformed, "no successor of a log")
	}
	return x, nil
}

// Sealed is the last checkpoint of the log that x says is sealed, unchecked. It
// returns ErrMalformed.
func (x *Successor) Sealed() (Checkpoint, error) {
	b, err := x.shard()
	if err != nil {
		return Checkpoint{}, err
	}
	return b.SealedBy()
}

func (x *Successor) shard() (*Shard, error) {
	e, err := Parse(x.Shard)
	if err != nil {
		return nil, err
	}
	b, ok := e.Body().(*Shard)
	if !ok {
		return nil, refuse(ErrKind, "a log goes on with a shard entry, not a %s", e.Kind())
	}
	return b, nil
}

// Check verifies x against the policy of the log that is sealed: the checkpoint
// with which the next log begins is that log's own, ends with a seal in favour of
// the next one, and the next one's first entry is under Head. It gives the next
// origin. final says that Head has the quorum, whose members have replayed both
// logs up to it; without that only the log itself vouches.
func (x *Successor) Check(p *Policy) (next string, final bool, err error) {
	b, err := x.shard()
	if err != nil {
		return "", false, err
	}
	end, _, err := p.Open(b.Sealed)
	if err != nil {
		return "", false, fmt.Errorf("end of the sealed log: %w", err)
	}
	e, err := Parse(x.Seal)
	if err != nil {
		return "", false, err
	}
	if seal, ok := e.Body().(*Seal); !ok || seal.Next != b.Origin || end.Size == 0 {
		return "", false, refuse(ErrState, "log %q is not sealed in favour of %q", end.Origin, b.Origin)
	}
	if err := CheckInclusion(end, end.Size-1, LeafHash(x.Seal), x.SealPath); err != nil {
		return "", false, fmt.Errorf("seal: %w", err)
	}
	q := p.As(b.Origin)
	head, cosigners, err := q.Open(x.Head)
	if err != nil {
		return "", false, fmt.Errorf("next log: %w", err)
	}
	if err := CheckInclusion(head, 0, LeafHash(x.Shard), x.ShardPath); err != nil {
		return "", false, fmt.Errorf("next log's first entry: %w", err)
	}
	return b.Origin, q.Final(cosigners), nil
}
