package ledger

import (
	"bytes"
	"crypto/sha256"
)

// maxSealed bounds the final checkpoint that a shard begins with, in bytes: some
// 100 cosignatures.
const maxSealed = 16 << 10

// Seal is the last entry of a log: it goes on under another origin. Nothing can
// be applied after it.
type Seal struct {
	Next string // origin of the log that goes on
}

// Shard is entry 0 of a log that goes on where a sealed one ended. Its state is
// what the sealed one carried over: parties, keys, sequence numbers, balances,
// mint keys, notes and sessions that were used, and everything unsettled.
type Shard struct {
	Rules  uint16 // version of the rules, 1
	Origin string // of this log
	Params Params // bucket_ms cannot change: buckets are counted on
	// Sealed is the final checkpoint of the sealed log, the note with its
	// cosignatures. Whether they make a quorum a policy tells, not these rules.
	Sealed []byte
	State  Hash // SHA-256 of what is carried over
}

// Kind implements Body.
func (*Seal) Kind() Kind { return KindSeal }

// Kind implements Body.
func (*Shard) Kind() Kind { return KindShard }

func (b *Seal) put(w *encoder) { w.str8(b.Next) }

func getSeal(r *decoder) Body {
	b := &Seal{Next: r.str8()}
	r.want(validOrigin(b.Next))
	return b
}

func (b *Shard) put(w *encoder) {
	w.u16(b.Rules)
	w.str8(b.Origin)
	for _, f := range b.Params.fields() {
		w.u64(*f)
	}
	w.u16(uint16(len(b.Sealed)))
	w.raw(b.Sealed)
	w.h32(b.State)
}

func getShard(r *decoder) Body {
	b := &Shard{Rules: r.u16(), Origin: r.str8()}
	for _, f := range b.Params.fields() {
		*f = r.u64()
	}
	n := r.u16()
	r.want(n <= maxSealed)
	b.Sealed = bytes.Clone(r.take(int(n)))
	b.State = r.h32()
	return b
}

// heir is what a state knows of the log that it goes on from.
type heir struct {
	base uint64 // entries of all sealed logs before this one
	prev Hash   // OriginHash of the sealed log
	size uint64 // its entries
	sum  Hash   // SHA-256 of what it carried over
}

// Sealed is the origin of the log that goes on, empty while this one does.
func (s *State) Sealed() string { return s.next }

// Base is how many entries the sealed logs before this one have. An index in the
// body of an entry, such as that of a tariff, counts from the first of them.
func (s *State) Base() uint64 { return s.heir.base }

// Carry is what the log that goes on begins with: the state without the ids of
// recent entries, which were of this log's receipts. It returns ErrKind unless
// the log is sealed.
func (s *State) Carry() ([]byte, error) {
	if s.next == "" {
		return nil, refuse(ErrKind, "only a sealed log is carried over")
	}
	return s.encode(false), nil
}

// Ledger is the origin of the ledger's first log. Entries and spends of notes are
// signed under it in every shard: what was signed before a border holds after it,
// and its number or nullifier keeps it from counting twice.
func (s *State) Ledger() string { return s.home }

// Succeed is the state of the log origin before its first entry, which must be a
// Shard: carried is what the log prev, sealed in favour of origin, carried over.
// It returns ErrDamaged for other bytes and never panics.
func Succeed(prev, origin string, carried []byte) (*State, error) {
	s, err := Restore(prev, carried)
	if err != nil {
		return nil, err
	}
	if s.next != origin {
		return nil, refuse(ErrDamaged, "log %q is sealed in favour of %q, not %q", prev, s.next, origin)
	}
	s.heir = heir{base: s.size, prev: s.originHash, size: s.Size(), sum: sha256.Sum256(carried)}
	s.origin, s.originHash, s.next = origin, OriginHash(origin), ""
	return s, nil
}

// SealedBy reads the checkpoint that a shard begins with, without its
// signatures. It returns ErrMalformed.
func (b *Shard) SealedBy() (Checkpoint, error) {
	text, _, ok := bytes.Cut(b.Sealed, []byte("\n\n"))
	if !ok {
		return Checkpoint{}, refuse(ErrMalformed, "the sealed log's checkpoint is no signed note")
	}
	return ParseCheckpoint(string(text) + "\n")
}

// NewShard is the first entry's body of this state's log, which must be an heir
// without entries; sealed is the final checkpoint note of the log before.
func (s *State) NewShard(params Params, sealed []byte) *Shard {
	return &Shard{Rules: maxRules, Origin: s.origin, Params: params, Sealed: sealed, State: s.heir.sum}
}

func (s *State) applySeal(b *Seal) error {
	if b.Next == s.origin || !validOrigin(b.Next) {
		return refuse(ErrMalformed, "a log is sealed in favour of another, not %q", b.Next)
	}
	s.next = b.Next
	return nil
}

// applyShard takes over what was carried and gives every balance as a posting:
// they sum to zero, and nothing moves.
func (s *State) applyShard(b *Shard) ([]Posting, error) {
	c, err := b.SealedBy()
	if err != nil {
		return nil, err
	}
	params := b.Params
	switch {
	case b.Rules != maxRules:
		return nil, refuse(ErrMalformed, "rules version %d is unknown, this program knows %d", b.Rules, maxRules)
	case b.Origin != s.origin:
		return nil, refuse(ErrMalformed, "shard is of the log %q, want %q", b.Origin, s.origin)
	case OriginHash(c.Origin) != s.heir.prev || c.Size != s.heir.size:
		return nil, refuse(ErrState, "checkpoint of %q with %d entries is not where the log before ended", c.Origin, c.Size)
	case b.State != s.heir.sum:
		return nil, refuse(ErrState, "shard carries %x, want %x", b.State[:6], s.heir.sum[:6])
	case params.BucketMs != s.params.BucketMs:
		return nil, refuse(ErrMalformed, "bucket_ms is %d and cannot become %d", s.params.BucketMs, params.BucketMs)
	}
	if err := params.valid(); err != nil {
		return nil, err
	}
	s.params = params
	return s.opening(), nil
}

// opening lists every balance that is not zero.
func (s *State) opening() (out []Posting) {
	for cur := range s.books {
		c := uint8(cur)
		list := []Account{EarnedAccount(c), NotesAccount(c), UnclaimedAccount(c)}
		for i := range s.parties {
			p := s.parties[i].Party.Party
			list = append(list, OpenAccount(p, c), DueAccount(p, c))
		}
		for _, a := range list {
			if v := s.Balance(a); v != 0 {
				out = append(out, Posting{Account: a, Amount: v})
			}
		}
	}
	return out
}

// NextClose is the number of the next close of a currency, from 1.
func (s *State) NextClose(cur uint8) uint32 {
	if int(cur) >= len(s.lastClose) {
		return 1
	}
	return s.lastClose[cur].period + 1
}

// NewHeir is Succeed as a Machine.
func NewHeir(prev, origin string, carried []byte) (*Money, error) {
	s, err := Succeed(prev, origin, carried)
	if err != nil {
		return nil, err
	}
	return &Money{State: s}, nil
}
