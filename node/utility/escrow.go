package utility

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/keys"
	"gridveil/node/metering"
	"gridveil/node/report"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/committee"
	"gridveil/privacy/pseudo"
)

// escrow issues one-day identities to the meters of other operators' homes, a
// week at a time. It keeps which meter was served for which week, and for a day
// the sealed answer to repeat; certificates and keys exist only in one call.
type escrow struct {
	env       *role.Env
	committee func() (committee.Public, error)

	mu sync.Mutex // one batch at a time: looking up and recording belong together
}

// escrowKept is how long a record is kept after its week: a late request must
// not get a second deck.
const escrowKept = 7 * 24 * time.Hour

// ErrNoCommittee means that nobody could open a pseudonym in a dispute, so none
// is issued.
var ErrNoCommittee = errors.New("the network has no committee of openers: nothing can be issued")

// issue answers a request for day identities (ask.MeterDeck).
func (e *escrow) issue(body []byte) ([]byte, error) {
	q, err := ask.ParseMeterBatch(body)
	if err != nil {
		return nil, err
	}
	m, err := e.env.Host.Judge(q.Chain)
	if err != nil {
		return nil, err
	}
	bundle := e.env.Host.Bundle()
	zone, known := metering.ZoneNumber(bundle, m.Zone)
	grid, run := metering.GridOperator(bundle, m.Zone)
	switch {
	case m.Role != member.RoleGateway || !known || !run:
		return nil, &ask.RefusedError{Reason: "day identities are for the gateways of zones with a grid operator"}
	case m.Operator == e.env.Host.Self().Operator:
		return nil, &ask.RefusedError{Reason: "a home's own utility is not its escrow"}
	}
	book := &escrowBook{st: e.env.Store, handle: report.SourceOf(m.Key[:]), contract: pseudo.Contract{Kind: pseudo.Meter, LK: m.Key, Arg: zone, Deck: pseudo.MeterDeck, Active: true}}
	e.mu.Lock()
	defer e.mu.Unlock()
	issued, err := e.certify(book, q.Box)
	if err := errors.Join(err, book.err); err != nil {
		return nil, err
	}
	if issued.Audience != e.env.Operator(grid) {
		return nil, &ask.RefusedError{Reason: "day identities are for the grid operator of the home's zone"}
	}
	if !issued.Repeated {
		if err := e.env.Store.Set(escrowKey(issued.Contract, issued.Epoch, issued.Audience), encodeBatch(issued.Batch)); err != nil {
			return nil, &ask.NotYetError{After: time.Minute} // nothing was given out
		}
	}
	return issued.Batch.Answer, nil
}

// certify opens the request with the key of the day or, soon after midnight, of
// the day before.
func (e *escrow) certify(book *escrowBook, box []byte) (*pseudo.Issued, error) {
	now := e.env.Clock.Now()
	openers, err := e.committee()
	if err != nil {
		return nil, err
	}
	key, err := e.env.Keys.Signer(keys.Escrow, now)
	if err != nil {
		return nil, &ask.NotYetError{After: time.Minute}
	}
	is := pseudo.Issuer{Net: e.env.Net, ID: e.env.Operator(e.env.Host.Self().Operator), Key: key, Committee: openers.Y, Book: book}
	today := keys.Issue.Period(now)
	for _, day := range []uint32{today, today - 1} {
		if is.Box, err = e.env.Keys.BoxOf(keys.Issue, day); err != nil {
			continue // erased, or never needed before
		}
		issued, err := is.Issue(e.env.Rand, privacy.KindMeterReq, box, now)
		if !errors.Is(err, privacy.ErrOpen) {
			return issued, err
		}
	}
	return nil, fmt.Errorf("the request is sealed to a key that is gone: %w", privacy.ErrOpen)
}

// escrowBook is one meter's page in the escrow's memory.
type escrowBook struct {
	st       *store.Store
	handle   [16]byte
	contract pseudo.Contract
	err      error // a damaged or closed store: nothing may be issued then
}

// Contract is the meter whose certificate was shown.
func (b *escrowBook) Contract(handle [16]byte) (pseudo.Contract, bool) {
	return b.contract, handle == b.handle
}

// Batch is what was issued before.
func (b *escrowBook) Batch(handle [16]byte, epoch uint32, audience [16]byte) (pseudo.Batch, bool) {
	raw, err := b.st.Get(escrowKey(handle, epoch, audience))
	if errors.Is(err, store.ErrNotFound) {
		return pseudo.Batch{}, false
	}
	var batch pseudo.Batch
	if err == nil {
		batch, err = decodeBatch(raw)
	}
	if err != nil {
		b.err = fmt.Errorf("escrow's record: %w", err)
	}
	return batch, true
}

// HasBillKey: meters have none.
func (b *escrowBook) HasBillKey([32]byte) bool { return false }

func escrowKey(handle [16]byte, epoch uint32, audience [16]byte) []byte {
	return store.SpacePrivacy.Key([]byte("escrow"), binary.BigEndian.AppendUint32(nil, epoch), handle[:], audience[:])
}

// encodeBatch gives request 32 | until i64 | answer.
func encodeBatch(b pseudo.Batch) []byte {
	out := binary.BigEndian.AppendUint64(b.Request[:len(b.Request):len(b.Request)], uint64(b.Until.UnixMilli()))
	return append(out, b.Answer...)
}

func decodeBatch(raw []byte) (pseudo.Batch, error) {
	if len(raw) < 40 {
		return pseudo.Batch{}, fmt.Errorf("%w: escrow record of %d bytes", store.ErrDamaged, len(raw))
	}
	return pseudo.Batch{Request: [32]byte(raw), Until: time.UnixMilli(int64(binary.BigEndian.Uint64(raw[32:]))), Answer: raw[40:]}, nil
}

// serve forgets until ctx ends.
func (e *escrow) serve(ctx context.Context) error {
	for clock.Sleep(ctx, e.env.Clock, 6*time.Hour) {
		if err := e.forget(e.env.Clock.Now()); err != nil {
			return err
		}
	}
	return nil
}

// forget drops answers that are no longer repeated, and records of weeks that
// nobody can ask for any more.
func (e *escrow) forget(now time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	prefix := store.SpacePrivacy.Key([]byte("escrow"))
	return e.env.Store.Update(func(tx *store.Tx) error {
		var gone, short [][]byte
		err := tx.Each(prefix, func(k, v []byte) error {
			b, err := decodeBatch(v)
			if err != nil {
				return err
			}
			_, to := pseudo.Window(pseudo.Meter, binary.BigEndian.Uint32(k[len(prefix):])+pseudo.MeterDeck-1)
			switch {
			case now.After(to.Add(escrowKept)):
				gone = append(gone, k)
			case now.After(b.Until) && len(b.Answer) > 0:
				short = append(short, k, v[:40])
			}
			if len(gone)+len(short) >= maxForget {
				return store.ErrStop
			}
			return nil
		})
		for _, k := range gone {
			err = errors.Join(err, tx.Delete(k))
		}
		for i := 0; i < len(short); i += 2 {
			err = errors.Join(err, tx.Set(short[i], short[i+1]))
		}
		return err
	})
}

// maxForget bounds one update; what is left waits for the next one.
const maxForget = 500
