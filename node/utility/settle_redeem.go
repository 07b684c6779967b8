package utility

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"gridveil/ledger"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/store"
	"gridveil/privacy/note"
)

// redeemed is a household's step of notes on its way home.
type redeemed struct {
	Contract [16]byte
	Micro    int64
	State    redeemState
	Cause    string `json:",omitempty"`
	Index    uint64 // of the entry, if credited
}

type redeemState string

const (
	redeemWaits    redeemState = "waits"    // for its entry to be final
	redeemCredited redeemState = "credited" // on the contract's bill
	redeemRefused  redeemState = "refused"
)

func redeemKey(id [32]byte) []byte { return store.SpaceNote.Key([]byte("redeem"), id[:]) }

func bindKey(bind [32]byte) []byte { return store.SpaceNote.Key([]byte("bind"), bind[:]) }

func creditKey(handle [16]byte, id [32]byte) []byte {
	return store.SpaceBill.Key([]byte("credit"), handle[:], id[:])
}

// redeem takes a step of notes for a contract. The answer comes when the
// ledger's entry is final; the same bytes get the same answer.
func (s *settlement) redeem(body []byte) ([]byte, error) {
	handle, raw, err := ask.ParseRedeemBody(body)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, err := s.redeemedAs(id); err == nil {
		switch x.State {
		case redeemCredited:
			return nil, nil
		case redeemRefused:
			return nil, &ask.RefusedError{Reason: x.Cause}
		}
		return nil, &ask.NotYetError{After: again}
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, &ask.NotYetError{After: again}
	}
	if s.party.ID() == 0 {
		return nil, &ask.NotYetError{After: again}
	}
	if !s.billsHere(handle) {
		return nil, &ask.RefusedError{Reason: "no such contract here"}
	}
	r, err := note.ParseRedeemRequest(raw)
	if err != nil {
		return nil, err
	}
	if err := s.takeNotes(id, handle, r); err != nil {
		return nil, err
	}
	s.party.Nudge()
	return nil, &ask.NotYetError{After: again}
}

// takeNotes verifies a step and puts its entry in line.
func (s *settlement) takeNotes(id [32]byte, handle [16]byte, r *note.RedeemRequest) error {
	reg, err := s.registryNow()
	if err != nil {
		return &ask.NotYetError{After: again}
	}
	if r.Currency != ask.Currency {
		return &ask.RefusedError{Reason: "no notes of this currency"}
	}
	origin := ""
	minor := int64(0)
	s.party.Read(func(st *ledger.State) { origin, minor = st.Ledger(), st.Currencies()[0].Minor() })
	payee := ledger.OpenAccount(s.party.ID(), 0)
	sum, err := r.Check(reg, origin, uint32(payee), handle[:], s.env.Clock.Now())
	if err != nil {
		return err
	}
	bind := note.Bind(r.Salt, handle[:])
	b, err := json.Marshal(redeemed{Contract: handle, Micro: int64(sum) * minor, State: redeemWaits})
	if err != nil {
		return err
	}
	return s.env.Store.Update(func(tx *store.Tx) error {
		if err := tx.Set(redeemKey(id), b); err != nil {
			return err
		}
		if err := tx.Set(bindKey(bind), id[:]); err != nil {
			return err
		}
		return s.party.PostTx(tx, id, &ledger.Redeem{Payee: payee, Bind: bind, Notes: r.Notes})
	})
}

func (s *settlement) redeemedAs(id [32]byte) (x redeemed, err error) {
	b, err := s.env.Store.Get(redeemKey(id))
	if err != nil {
		return x, err
	}
	return x, json.Unmarshal(b, &x)
}

// billsHere says whether a contract is one of our homes or drivers.
func (s *settlement) billsHere(handle [16]byte) bool {
	if _, ok := s.drivers[handle]; ok {
		return true
	}
	for _, c := range s.homes() {
		if s.handle(c.Gateway) == handle {
			return true
		}
	}
	return false
}

// credit books a final redeem on its contract, once. The caller holds mu.
func (s *settlement) credit(b *ledger.Redeem, index uint64) error {
	return s.env.Store.Update(func(tx *store.Tx) error {
		raw, err := tx.Get(bindKey(b.Bind))
		if errors.Is(err, store.ErrNotFound) {
			return nil // entered before this store began
		}
		if err != nil {
			return err
		}
		id := [32]byte(raw)
		v, err := tx.Get(redeemKey(id))
		if err != nil {
			return err
		}
		var x redeemed
		if err := json.Unmarshal(v, &x); err != nil {
			return fmt.Errorf("stored redeem: %w", err)
		}
		if x.State == redeemCredited {
			return nil
		}
		x.State, x.Index = redeemCredited, index
		out, err := json.Marshal(x)
		if err != nil {
			return err
		}
		if err := tx.Set(redeemKey(id), out); err != nil {
			return err
		}
		return tx.Set(creditKey(x.Contract, id), store.U64(uint64(x.Micro)))
	})
}

// refused ends what an own entry was for.
func (s *settlement) refused(id [32]byte, cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, err := s.redeemedAs(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	x.State, x.Cause = redeemRefused, "the ledger refuses these notes"
	if errors.Is(cause, ledger.ErrDuplicate) {
		x.Cause = "a note of this step was spent before"
	}
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return s.env.Store.Set(redeemKey(id), b)
}

func (s *settlement) creditsOf(handle [16]byte) (sum int64, err error) {
	err = s.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceBill.Key([]byte("credit"), handle[:]), func(_, v []byte) error {
			n, ok := store.GetU64(v)
			if !ok {
				return errors.New("stored credit is damaged")
			}
			sum += int64(n)
			return nil
		})
	})
	return sum, err
}

// Credits is what a home redeemed in notes so far, millionths: it is taken off
// its bill, and says nothing about where the notes came from.
func (u *Utility) Credits(home member.Key) (int64, error) {
	return u.settlement.creditsOf(u.settlement.handle(home))
}
