package party

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/verifier"
	"gridveil/ledger/writer"
	"gridveil/node/keys"
	"gridveil/node/store"
)

// Own entries wait in the store, one behind the other. An entry gets its number
// only when it is first in line, because a refused entry uses up no number; its
// signed bytes are durable before they leave, and the same bytes leave until
// the log has answered.

// outState is where an own entry stands.
type outState string

const (
	outWaits    outState = "waits"
	outAccepted outState = "accepted"
	outRefused  outState = "refused"
)

// out is one own entry.
type out struct {
	ID    [32]byte
	No    uint64 // place in line
	Draft []byte // the body, as an entry numbered 1
	Use   uint8  // of a key entry: the new key signs too
	Raw   []byte // as sent, nil before
	State outState
	Index uint64
	Cause string `json:",omitempty"`
}

// Posted is how an own entry stands.
type Posted struct {
	Accepted, Refused bool
	Index             uint64 // if accepted
	Cause             string // if refused
}

func outKey(no uint64) []byte { return store.SpaceLedger.Key([]byte("out"), store.U64(no)) }

func outIDKey(id [32]byte) []byte { return store.SpaceLedger.Key([]byte("oid"), id[:]) }

// Post puts an entry of this operator in line. The same id again changes
// nothing.
func (p *Party) Post(id [32]byte, body ledger.Body) error {
	err := p.env.Store.Update(func(tx *store.Tx) error { return p.PostTx(tx, id, body) })
	nudge(p.send)
	return err
}

// PostTx is Post as part of an update; call Nudge after it.
func (p *Party) PostTx(tx *store.Tx, id [32]byte, body ledger.Body) error {
	known, err := tx.Has(outIDKey(id))
	if err != nil || known {
		return err
	}
	e, err := ledger.NewEntry(1, 1, body)
	if err != nil {
		return err
	}
	if err := ledger.Sign(e, "", p.key); err != nil { // a draft: no log has this origin
		return err
	}
	no := uint64(1)
	if last, _, err := tx.Last(store.SpaceLedger.Key([]byte("out"))); err == nil {
		if n, ok := store.GetU64(last[len(last)-8:]); ok {
			no = n + 1
		}
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	o := out{ID: id, No: no, Draft: e.Bytes(), State: outWaits}
	if err := putOut(tx, &o); err != nil {
		return err
	}
	return tx.Set(outIDKey(id), store.U64(no))
}

// Nudge sends what PostTx put in line.
func (p *Party) Nudge() { nudge(p.send) }

func putOut(tx *store.Tx, o *out) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return tx.Set(outKey(o.No), b)
}

// Posted tells how an own entry stands; ok is false if Post never saw it.
func (p *Party) Posted(id [32]byte) (s Posted, ok bool) {
	no, err := p.env.Store.Get(outIDKey(id))
	if err != nil {
		return s, false
	}
	n, _ := store.GetU64(no)
	b, err := p.env.Store.Get(outKey(n))
	var o out
	if err != nil || json.Unmarshal(b, &o) != nil {
		return s, false
	}
	return Posted{o.State == outAccepted, o.State == outRefused, o.Index, o.Cause}, true
}

// first finds the oldest entry that waits.
func (p *Party) first() (o *out, err error) {
	err = p.eachWaiting(func(x *out) error {
		o = x
		return store.ErrStop
	})
	return o, err
}

// eachWaiting calls f with own entries that the log has not decided on, oldest
// first.
func (p *Party) eachWaiting(f func(*out) error) error {
	from, err := p.env.Store.Get(doneKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	n, _ := store.GetU64(from)
	return p.env.Store.View(func(tx *store.Tx) error {
		return tx.EachFrom(store.SpaceLedger.Key([]byte("out")), outKey(n+1), func(_, v []byte) error {
			x := new(out)
			if err := json.Unmarshal(v, x); err != nil {
				return fmt.Errorf("stored entry: %w", err)
			}
			return f(x)
		})
	})
}

// doneKey holds the number in line of the last entry that was answered.
var doneKey = store.SpaceLedger.Key([]byte("done"))

// post sends what waits, one entry at a time.
func (p *Party) post(ctx context.Context) error {
	for ctx.Err() == nil {
		o, err := p.first()
		if err != nil {
			return err
		}
		if o == nil || p.ID() == 0 {
			p.pause(ctx, pullPeriod, p.send)
			continue
		}
		done, err := p.submit(ctx, o)
		if err != nil {
			return err
		}
		if !done {
			p.pause(ctx, findPeriod)
		}
	}
	return nil
}

// submit sends one entry; done means that the log has decided.
func (p *Party) submit(ctx context.Context, o *out) (done bool, err error) {
	c, ok := p.client()
	if !ok {
		return false, nil
	}
	if err := p.ready(o); err != nil {
		return false, err
	}
	if done, err := p.countersigned(ctx, o); done || err != nil {
		if errors.Is(err, errWaits) {
			return false, nil // the same bytes again
		}
		return done, err
	}
	results, err := c.Submit(ctx, [][]byte{o.Raw})
	if err != nil {
		p.env.Log.Debug("entry not sent", "err", err)
		return false, nil // the same bytes again
	}
	return p.judge(o, results[0])
}

// ready gives the entry its number and makes its bytes durable, unless it has.
func (p *Party) ready(o *out) error {
	if o.Raw != nil {
		return nil
	}
	draft, err := ledger.Parse(o.Draft)
	if err != nil {
		return fmt.Errorf("stored entry: %w", err)
	}
	id, origin := p.ID(), ""
	seq := uint64(0)
	p.Read(func(s *ledger.State) { seq, origin = s.NextSeq(id), s.Ledger() })
	if last, err := p.env.Store.Get(seqKey); err == nil {
		if n, ok := store.GetU64(last); ok {
			seq = max(seq, n+1)
		}
	}
	e, err := ledger.NewEntry(id, seq, draft.Body())
	if err != nil {
		return err
	}
	if err := ledger.Sign(e, origin, p.key); err != nil {
		return err
	}
	if k, ok := draft.Body().(*ledger.Key); ok && k.Add {
		if err := p.signKey(e, origin, k); err != nil {
			return err
		}
	}
	o.Raw = e.Bytes()
	return p.keep(o)
}

// resolve finds out, where a shard ends, whether the entry that is on its way is
// in it: the next one remembers numbers, but not what stood under them.
func (p *Party) resolve(v *verifier.Verifier) error {
	o, err := p.first()
	if err != nil || o == nil || o.Raw == nil {
		return err
	}
	e, err := ledger.Parse(o.Raw)
	if err != nil {
		return fmt.Errorf("stored entry: %w", err)
	}
	next := uint64(0)
	p.Read(func(s *ledger.State) { next = s.NextSeq(e.Party()) })
	if e.Seq() >= next {
		return nil // the same bytes go to the next shard
	}
	for i := v.Status().Size; i > 0; i-- {
		raw, err := v.Entry(i - 1)
		if err != nil {
			return err
		}
		other, err := ledger.Parse(raw)
		if err != nil {
			return err
		}
		if other.Party() != e.Party() || other.Seq() != e.Seq() {
			continue
		}
		if _, err := Merge(e, other); err == nil { // others may have signed it too
			o.State, o.Index = outAccepted, p.base()+i-1
			return p.settle(o, e.Seq())
		}
		break
	}
	o.Raw = nil // another entry has its number
	return p.env.Store.Update(func(tx *store.Tx) error {
		if err := putOut(tx, o); err != nil {
			return err
		}
		return tx.Set(seqKey, store.U64(next-1))
	})
}

func (p *Party) keep(o *out) error {
	return p.env.Store.Update(func(tx *store.Tx) error { return putOut(tx, o) })
}

// seqKey holds our last number that the log accepted, since our copy lags.
var seqKey = store.SpaceLedger.Key([]byte("seq"))

// signKey adds the signature of a key that the entry registers.
func (p *Party) signKey(e *ledger.Entry, origin string, k *ledger.Key) error {
	for _, x := range p.ownKeys() {
		if ledger.Hash(x.Public().(ed25519.PublicKey)) == k.Pub {
			return ledger.SignAs(e, origin, k.Use, x)
		}
	}
	return errors.New("a key is to be registered that this node does not hold")
}

// ownKeys are the keys of this operator that stand on the ledger beside its
// entry key: those that sign its drivers' pseudonyms, of this period and the
// next.
func (p *Party) ownKeys() (list []ed25519.PrivateKey) {
	if p.cfg.Role != ledger.Utility {
		return nil
	}
	now := p.env.Clock.Now()
	for _, at := range []time.Time{now, keys.Issuer.Starts(keys.Issuer.Period(now) + 1)} {
		if k, err := p.env.Keys.Signer(keys.Issuer, at); err == nil {
			list = append(list, k)
		}
	}
	return list
}

// judge decides what the log's answer means.
func (p *Party) judge(o *out, r writer.Result) (done bool, err error) {
	e, err := ledger.Parse(o.Raw)
	if err != nil {
		return false, fmt.Errorf("stored entry: %w", err)
	}
	var gap *ledger.SeqGapError
	var conflict *ledger.SeqConflictError
	switch {
	case r.Err == nil:
		if err := p.accepts(e, r.Receipt); err != nil {
			p.env.Log.Warn("answer of the ledger is not believed; sent again", "err", err)
			return false, nil
		}
		o.State, o.Index = outAccepted, p.base()+r.Receipt.Index
		return true, p.settle(o, e.Seq(), func(tx *store.Tx) error { return p.receipts.put(tx, r.Receipt) })
	case errors.As(r.Err, &gap), errors.As(r.Err, &conflict):
		// Our number is not the next one: a restored node, or a log that went
		// back. Nothing of ours stands under these bytes, so they get a new one.
		return false, p.renumber(o, e, r.Err)
	case errors.Is(r.Err, ledger.ErrBusy), errors.Is(r.Err, ledger.ErrHalted), errors.Is(r.Err, ledger.ErrDamaged), errors.Is(r.Err, ledger.ErrSeqOld):
		return false, nil
	}
	return true, p.refuse(o, e, r.Err)
}

// refuse ends an entry that will never be in the log; its number is free.
func (p *Party) refuse(o *out, e *ledger.Entry, cause error) error {
	o.State, o.Cause = outRefused, cause.Error()
	p.env.Log.Warn("own entry refused by the ledger", "kind", e.Kind().String(), "err", cause)
	if p.onRefused != nil {
		if err := p.onRefused(o.ID, cause); err != nil {
			return err
		}
	}
	return p.settle(o, e.Seq()-1)
}

// settle makes an answer durable, with what belongs to it; seq is our last number
// in the log.
func (p *Party) settle(o *out, seq uint64, also ...func(*store.Tx) error) error {
	return p.env.Store.Update(func(tx *store.Tx) error {
		for _, f := range also {
			if err := f(tx); err != nil {
				return err
			}
		}
		if err := putOut(tx, o); err != nil {
			return err
		}
		if err := tx.Set(doneKey, store.U64(o.No)); err != nil {
			return err
		}
		return tx.Set(seqKey, store.U64(seq))
	})
}

// renumber forgets the number of an entry that the log did not take under it.
// After a conflict the number is free again only once our copy shows who has it.
func (p *Party) renumber(o *out, e *ledger.Entry, cause error) error {
	next := uint64(0)
	id := p.ID()
	p.Read(func(s *ledger.State) { next = s.NextSeq(id) })
	var gap *ledger.SeqGapError
	if errors.As(cause, &gap) {
		next = gap.Want
	} else if next <= e.Seq() {
		return nil // our copy has not got there yet
	}
	p.env.Log.Warn("own entry is numbered anew", "cause", cause)
	o.Raw = nil
	return p.env.Store.Update(func(tx *store.Tx) error {
		if err := putOut(tx, o); err != nil {
			return err
		}
		return tx.Set(seqKey, store.U64(next-1))
	})
}
