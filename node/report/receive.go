package report

import (
	"crypto/ed25519"
	"fmt"

	"gridveil/node/model"
)

// Head is where a receiver stands in one chain: the last accepted report.
type Head struct {
	Seq  uint64
	Hash [32]byte
	End  int64 // end of the newest slot seen, UTC ms
}

// Known is what a receiver knows about a source before it looks at a report.
type Known struct {
	Key ed25519.PublicKey // nil: the source is not referenced here
	// HasRoster says whether a roster version was issued to the source; a backlog
	// keeps the version it was made under. nil accepts any (relays).
	HasRoster func(version uint32) bool
	Head      Head
}

// Verdict is what a receiver does with a header.
type Verdict struct {
	Take      bool   // new and in order: open, check, store, then Advance
	Duplicate bool   // already accepted: acknowledge again
	Gap       bool   // a restarted chain: raise kind 1 and name the gap [GapFrom, From)
	GapFrom   int64  // end of the newest slot before the restart
	Refuse    Reason // 0 unless refused
	WantSeq   uint64 // for FromSeq
	Misbehave error  // the peer proved itself wrong: count it
}

// Admit decides about a header by signature, chain and roster alone, so that a
// relay, which cannot open the body, and the head-end decide alike. It has no
// side effect; the caller persists Advance(...) together with the report.
func Admit(known Known, h Header) Verdict {
	if known.Key == nil {
		return Verdict{Refuse: Unreferenced}
	}
	if err := h.Verify(known.Key); err != nil {
		return Verdict{Refuse: BadBody, Misbehave: err}
	}
	if h.Class == ClassAnswer {
		return Verdict{Take: true} // answers stand outside the chain, the request binds them
	}
	if h.Seq <= known.Head.Seq {
		if h.Seq == known.Head.Seq && h.Hash() != known.Head.Hash {
			return Verdict{Refuse: FromSeq, WantSeq: known.Head.Seq + 1,
				Misbehave: fmt.Errorf("%w: two reports with one number", ErrInvalidReport)}
		}
		return Verdict{Duplicate: true}
	}
	if h.Seq != known.Head.Seq+1 {
		return Verdict{Refuse: FromSeq, WantSeq: known.Head.Seq + 1}
	}
	if known.HasRoster != nil && !known.HasRoster(h.Roster) {
		return Verdict{Refuse: WrongRoster}
	}
	if h.Flags&FlagRestart != 0 {
		return Verdict{Take: true, Gap: known.Head.Seq != 0, GapFrom: known.Head.End}
	}
	if h.Prev != known.Head.Hash {
		return Verdict{Refuse: FromSeq, WantSeq: known.Head.Seq + 1,
			Misbehave: fmt.Errorf("%w: chain does not continue", ErrInvalidReport)}
	}
	return Verdict{Take: true}
}

// Advance is the head after h was accepted.
func (c Head) Advance(h Header) Head {
	return Head{Seq: h.Seq, Hash: h.Hash(), End: max(c.End, h.End())}
}

// AckFor acknowledges everything up to c.
func (c Head) AckFor(class Class, source model.SourceID, level Level, now int64, key ed25519.PrivateKey) Ack {
	a := Ack{Class: class, Level: level, Source: source, Seq: c.Seq, Hash: c.Hash, At: now}
	a.Sign(key)
	return a
}

// RefusalFor answers a header that Admit (or opening it) refused.
func RefusalFor(h Header, reason Reason, wantSeq uint64, retryMS uint32, now int64, key ed25519.PrivateKey) Refusal {
	r := Refusal{Class: h.Class, Reason: reason, Source: h.Source, Seq: h.Seq, RetryMS: retryMS, At: now}
	if reason == FromSeq {
		r.Seq = wantSeq
	}
	r.Sign(key)
	return r
}

// OpenReport opens, parses and checks an admitted message: the body that
// matches the signed root, or ErrOpen / ErrInvalidReport (answer BadBody).
func OpenReport(m Message, key DayKey) (Body, error) {
	raw, err := key.OpenBody(m)
	if err != nil {
		return Body{}, err
	}
	b, err := DecodeBody(m.Header, raw)
	if err != nil {
		return Body{}, err
	}
	return b, CheckBody(m.Header, b)
}

// Reply is a receiver's answer on the wire: an Ack or a Refusal.
type Reply struct {
	Ack     *Ack
	Refusal *Refusal
}

// Encode gives the bytes of whichever is set.
func (r Reply) Encode() []byte {
	if r.Ack != nil {
		return r.Ack.Encode()
	}
	if r.Refusal != nil {
		return r.Refusal.Encode()
	}
	return nil
}

// DecodeReply tells the two apart by their size and magic.
func DecodeReply(raw []byte) (Reply, error) {
	if len(raw) == RefusalSize {
		r, err := DecodeRefusal(raw)
		return Reply{Refusal: &r}, err
	}
	a, err := DecodeAck(raw)
	return Reply{Ack: &a}, err
}
