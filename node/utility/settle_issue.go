package utility

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// Driver is a driver's contract: the key that signs its requests, and the most
// that one session may cost. A name belongs to the utility's customer system.
type Driver struct {
	LK     member.Key `json:"key"`
	Limit  uint16     `json:"limit"` // currency units, one of pseudo.Bands
	Active bool       `json:"active"`
	From   int64      `json:"from"` // UTC ms
}

func driverKey(handle [16]byte) []byte { return store.SpaceOrder.Key([]byte("driver"), handle[:]) }

func batchKey(handle [16]byte, epoch uint32, audience [16]byte) []byte {
	return store.SpacePrivacy.Key([]byte("deck"), handle[:], binary.BigEndian.AppendUint32(nil, epoch), audience[:])
}

func rowKey(bpk [32]byte) []byte { return store.SpaceBill.Key([]byte("row"), bpk[:]) }

// row is what is kept of one pseudonym: whom to bill, and whether that was done.
// Nothing here says where or when it was used.
type row struct {
	Contract [16]byte
	Epoch    uint32
	Limit    uint16
	Billed   bool
	Pledged  [32]byte // proposal that we signed and that is not final yet
}

// OpenDriver makes a driver's contract durable; the same key again replaces its
// limit.
func (u *Utility) OpenDriver(lk member.Key, limit uint16) ([16]byte, error) {
	return u.settlement.openDriver(Driver{LK: lk, Limit: limit, Active: true})
}

// CloseDriver ends a contract: no further decks are given, and the pseudonyms at
// hand open no further session once the aggregator has the list of them.
func (u *Utility) CloseDriver(lk member.Key) error {
	s := u.settlement
	handle := s.handle(lk)
	s.mu.Lock()
	d, ok := s.drivers[handle]
	s.mu.Unlock()
	if !ok {
		return errors.New("no such contract")
	}
	d.Active = false
	if _, err := s.openDriver(d); err != nil {
		return err
	}
	if err := s.env.Store.Set(revokeKey, []byte{1}); err != nil {
		return fmt.Errorf("keep revocation: %w", err)
	}
	s.party.Look()
	return nil
}

func (s *settlement) handle(lk member.Key) [16]byte {
	return ask.Contract(s.env.ID.Bundle.Network, [32]byte(lk))
}

func (s *settlement) openDriver(d Driver) (handle [16]byte, err error) {
	if !slices.Contains(pseudo.Bands[:], d.Limit) {
		return handle, fmt.Errorf("limit %d: want one of %v", d.Limit, pseudo.Bands)
	}
	if err := privacy.CheckKey(d.LK[:]); err != nil {
		return handle, fmt.Errorf("contract key: %w", err)
	}
	handle = s.handle(d.LK)
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.From == 0 {
		d.From = s.env.Clock.Now().UnixMilli()
	}
	b, err := json.Marshal(d)
	if err != nil {
		return handle, err
	}
	if err := s.env.Store.Set(driverKey(handle), b); err != nil {
		return handle, fmt.Errorf("keep contract: %w", err)
	}
	s.drivers[handle] = d
	return handle, nil
}

func (s *settlement) loadDrivers() error {
	return s.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceOrder.Key([]byte("driver")), func(_, v []byte) error {
			var d Driver
			if err := json.Unmarshal(v, &d); err != nil {
				return fmt.Errorf("stored contract: %w", err)
			}
			s.drivers[s.handle(d.LK)] = d
			return nil
		})
	})
}

// deck answers a driver's sealed request for a week's pseudonyms.
func (s *settlement) deck(body []byte) ([]byte, error) {
	now := s.env.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	openers, err := s.openers()
	s.env.Warn.Set(err != nil, role.Warning{Code: "no-committee", Severity: role.Problem, Title: "No openers are installed",
		Text: "Pseudonyms are given only if a case can be opened by three of five seats; none are installed, so drivers get no decks.",
		Next: "Deal the committee's key and put its public part into " + party.CommitteeFile + " at every utility."}, now)
	if err != nil {
		return nil, &ask.NotYetError{After: again}
	}
	signer, err := s.env.Keys.Signer(keys.Issuer, now)
	if err != nil {
		return nil, &ask.NotYetError{After: again}
	}
	is := pseudo.Issuer{Net: s.env.Net, ID: s.env.Operator(s.env.Host.Self().Operator), Key: signer, Committee: openers.Y, Book: issuerBook{s}}
	out, err := s.issueWith(&is, body)
	switch {
	case errors.Is(err, store.ErrStopped), errors.Is(err, store.ErrFull):
		return nil, &ask.NotYetError{After: again}
	case err != nil:
		return nil, err
	}
	return out.Batch.Answer, nil
}

// issueWith tries the request key of today and of the day before, which lives an
// hour longer, and makes rows and answer durable.
func (s *settlement) issueWith(is *pseudo.Issuer, body []byte) (*pseudo.Issued, error) {
	now := s.env.Clock.Now()
	var err error
	if is.Box, err = s.env.Keys.Box(keys.Issue, now); err != nil {
		return nil, err
	}
	out, err := is.Issue(s.env.Rand, privacy.KindBatchReq, body, now)
	if errors.Is(err, privacy.ErrOpen) {
		old, gone := s.env.Keys.BoxOf(keys.Issue, keys.Issue.Period(now)-1)
		if gone != nil {
			return nil, &ask.RefusedError{Reason: "the request is sealed to a key of another day; ask with today's"}
		}
		is.Box = old
		out, err = is.Issue(s.env.Rand, privacy.KindBatchReq, body, now)
	}
	if err != nil || out.Repeated {
		return out, err
	}
	return out, s.env.Store.Update(func(tx *store.Tx) error { return s.keepBatch(tx, out) })
}

func (s *settlement) keepBatch(tx *store.Tx, out *pseudo.Issued) error {
	b, err := json.Marshal(out.Batch)
	if err != nil {
		return err
	}
	if err := tx.Set(batchKey(out.Contract, out.Epoch, out.Audience), b); err != nil {
		return err
	}
	for _, r := range out.Rows {
		if err := putRow(tx, r.BPK, row{Contract: r.Contract, Epoch: r.Epoch, Limit: s.drivers[r.Contract].Limit}); err != nil {
			return err
		}
	}
	return nil
}

func putRow(tx *store.Tx, bpk [32]byte, r row) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return tx.Set(rowKey(bpk), b)
}

func getRow(tx *store.Tx, bpk [32]byte) (r row, err error) {
	b, err := tx.Get(rowKey(bpk))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("stored row: %w", err)
	}
	return r, nil
}

// issuerBook is the issuer's stored state; settlement.mu is held.
type issuerBook struct{ s *settlement }

func (b issuerBook) Contract(handle [16]byte) (pseudo.Contract, bool) {
	if d, ok := b.s.drivers[handle]; ok {
		return pseudo.Contract{Kind: pseudo.Driver, LK: [32]byte(d.LK), Arg: d.Limit, Deck: ask.DeckSize, Active: d.Active}, true
	}
	return pseudo.Contract{}, false
}

func (b issuerBook) Batch(handle [16]byte, epoch uint32, audience [16]byte) (x pseudo.Batch, ok bool) {
	raw, err := b.s.env.Store.Get(batchKey(handle, epoch, audience))
	if errors.Is(err, store.ErrNotFound) {
		return x, false
	}
	if err != nil || json.Unmarshal(raw, &x) != nil {
		return pseudo.Batch{}, true // what cannot be read was taken: no second deck for one week
	}
	return x, true
}

func (b issuerBook) HasBillKey(bpk [32]byte) bool {
	_, err := b.s.env.Store.Get(rowKey(bpk))
	return !errors.Is(err, store.ErrNotFound)
}

// forgetBatch bounds one update, which holds 1024 writes; the rest waits a day.
const forgetBatch = 400

// forgetIssued drops sealed answers after a day, and rows and settled lines after
// rowsKept; it is called daily.
func (s *settlement) forgetIssued() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.env.Clock.Now()
	return errors.Join(s.env.Store.Update(func(tx *store.Tx) error { return dropAnswers(tx, now) }),
		s.env.Store.Update(func(tx *store.Tx) error { return dropRows(tx, now) }),
		s.env.Store.Update(func(tx *store.Tx) error { return dropProposals(tx, now) }))
}

// dropAnswers forgets sealed decks; that a batch was issued stays.
func dropAnswers(tx *store.Tx, now time.Time) error {
	n := 0
	return tx.Each(store.SpacePrivacy.Key([]byte("deck")), func(k, v []byte) error {
		var x pseudo.Batch
		if err := json.Unmarshal(v, &x); err != nil {
			return fmt.Errorf("stored batch: %w", err)
		}
		if now.Before(x.Until) || len(x.Answer) == 0 {
			return nil
		}
		if n++; n > forgetBatch {
			return store.ErrStop
		}
		x.Answer = nil
		b, err := json.Marshal(x)
		if err != nil {
			return err
		}
		return tx.Set(k, b)
	})
}

func dropRows(tx *store.Tx, now time.Time) error {
	n := 0
	return tx.Each(store.SpaceBill.Key([]byte("row")), func(k, v []byte) error {
		var r row
		if err := json.Unmarshal(v, &r); err != nil {
			return fmt.Errorf("stored row: %w", err)
		}
		if _, to := pseudo.Window(pseudo.Driver, r.Epoch); now.Before(to.Add(rowsKept)) {
			return nil
		}
		if n++; n > forgetBatch {
			return store.ErrStop
		}
		return tx.Delete(k)
	})
}

// dropProposals forgets sums that are settled, or that were never entered.
func dropProposals(tx *store.Tx, now time.Time) error {
	prefix := store.SpaceBill.Key([]byte("prop"))
	n := 0
	return tx.Each(prefix, func(k, v []byte) error {
		var p proposal
		if err := json.Unmarshal(v, &p); err != nil {
			return fmt.Errorf("stored proposal: %w", err)
		}
		if p.State == signed || now.Before(time.UnixMilli(p.At).Add(rowsKept)) {
			return nil
		}
		if n++; n > forgetBatch/10 {
			return store.ErrStop
		}
		if err := tx.Delete(k); err != nil {
			return err
		}
		return tx.Each(store.SpaceBill.Key([]byte("pline"), k[len(prefix):]), func(k, _ []byte) error { return tx.Delete(k) })
	})
}

// settleCommands are what `gridveil contract driver` asks a running utility.
func (u *Utility) settleCommands() {
	u.env.Control.Handle("driver-contract", func(_ context.Context, in json.RawMessage) (any, error) {
		var q struct {
			Key   string `json:"key"`
			Limit uint16 `json:"limit"`
			Close bool   `json:"close"`
		}
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {key, limit, close}")
		}
		b, err := hex.DecodeString(q.Key)
		if err != nil || len(b) != 32 {
			return nil, errors.New("key: want the wallet's member key, 64 hexadecimal digits")
		}
		if q.Close {
			return nil, u.CloseDriver(member.Key(b))
		}
		if q.Limit == 0 {
			q.Limit = ask.DriverLimit
		}
		handle, err := u.OpenDriver(member.Key(b), q.Limit)
		return hex.EncodeToString(handle[:]), err
	})
	u.env.Control.Handle("driver-bill", func(_ context.Context, in json.RawMessage) (any, error) {
		var key string
		if err := json.Unmarshal(in, &key); err != nil {
			return nil, errors.New("want the wallet's member key")
		}
		b, err := hex.DecodeString(key)
		if err != nil || len(b) != 32 {
			return nil, errors.New("want the wallet's member key, 64 hexadecimal digits")
		}
		return u.DriverBill(member.Key(b))
	})
}
