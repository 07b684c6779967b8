package party

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/committee"
	"gridveil/privacy/session"
)

// Seat is one of the openers: it gets the case files, its operator votes, and
// once a case is approved on the final ledger it gives its part of the opening,
// sealed to the driver's utility. Three seats open one session; two learn
// nothing.
type Seat struct {
	p  *Party
	mu sync.Mutex // votes and partials are made one at a time
}

func fileKey(id ledger.CaseID) []byte { return store.SpaceLedger.Key([]byte("cfile"), id[:]) }

func voteKey(id ledger.CaseID) []byte { return store.SpaceLedger.Key([]byte("cvote"), id[:]) }

func partKey(id ledger.CaseID) []byte { return store.SpaceLedger.Key([]byte("cpart"), id[:]) }

func wordKey(id ledger.CaseID, ref [32]byte) []byte {
	return store.SpaceLedger.Key([]byte("cword"), id[:], ref[:])
}

func newSeat(p *Party) *Seat {
	s := &Seat{p: p}
	p.Answer(OpFile, s.takeFile)
	p.Answer(OpPartials, s.givePartials)
	p.Answer(OpStatement, s.takeStatement)
	p.OnRound(func(context.Context) error { return s.round() })
	return s
}

// ErrNoCase means that the case is not on the final ledger here.
var ErrNoCase = errors.New("no such case on the final ledger; try again when it is final")

// takeFile keeps the file of a case that is on the ledger, once it holds
// together.
func (s *Seat) takeFile(from mesh.Member, b []byte) ([]byte, error) {
	c, err := ParseCaseFile(b)
	if err != nil {
		return nil, err
	}
	x, err := s.p.cases.Get(c.Case)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoCase
	}
	if err != nil {
		return nil, err
	}
	if s.p.Names()[x.Requester] != from.Operator {
		return nil, fmt.Errorf("%w: it comes from another operator than the one that asks", ErrCase)
	}
	record, ok := s.p.recordKey()
	if !ok {
		return nil, ask.ErrNoOperator
	}
	d := &ledger.Dispute{Case: x.ID, Evidence: x.Evidence, Refs: x.Refs}
	if err := c.Check(d, s.p.env.Net, ask.Operators{Env: s.p.env}.Issuers(), record); err != nil {
		return nil, err
	}
	return nil, s.p.env.Store.Set(fileKey(c.Case), b)
}

// recordKey is the key under which the aggregator says yes.
func (p *Party) recordKey() (key [32]byte, ok bool) {
	h, ok := p.env.Dir.One(member.RoleAggregator, "")
	if !ok {
		return key, false
	}
	pub, ok := h.Sheet.At(keys.Record, p.env.Clock.Now())
	if !ok || len(pub) != len(key) {
		return key, false
	}
	return [32]byte(pub), true
}

// File is the file of a case as this seat holds it.
func (s *Seat) File(id ledger.CaseID) (*CaseFile, error) {
	b, err := s.p.env.Store.Get(fileKey(id))
	if err != nil {
		return nil, err
	}
	return ParseCaseFile(b)
}

// Vote enters this seat's vote on a case. A yes needs the case file; it commits
// the seat to give its part once the ledger has approved the case.
func (s *Seat) Vote(id ledger.CaseID, yes bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if yes {
		if _, err := s.File(id); err != nil {
			return fmt.Errorf("the file of this case is not here, or is not sound: %w", err)
		}
		if _, err := loadShare(s.p.env); err != nil {
			return err
		}
	}
	var vote byte
	if yes {
		vote = 1
	}
	err := s.p.env.Store.Update(func(tx *store.Tx) error {
		if old, err := tx.Get(voteKey(id)); err == nil && !bytes.Equal(old, []byte{vote}) {
			return errors.New("this seat has voted otherwise before, and a vote stands")
		} else if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := tx.Set(voteKey(id), []byte{vote}); err != nil {
			return err
		}
		return s.p.PostTx(tx, ledger.Salted(ledger.Hash{}, append([]byte("vote"), id[:]...)), &ledger.Approve{Case: id, Yes: yes})
	})
	s.p.Nudge()
	return err
}

// open says what the seat's operator may still do about a case.
func (s *Seat) open(x *CaseRecord) string {
	if x.Ended != 0 || x.Asks == ledger.CaseHold || x.Requester == s.p.ID() || x.Utility == s.p.ID() {
		return ""
	}
	if v, err := s.p.env.Store.Get(voteKey(x.ID)); err == nil {
		return map[bool]string{true: "this seat said yes", false: "this seat said no"}[len(v) == 1 && v[0] == 1]
	}
	if has, err := s.p.env.Store.Get(fileKey(x.ID)); err != nil || has == nil {
		return "the case file has not come yet"
	}
	return "this seat may vote"
}

// round gives this seat's part of every case that it approved and that the
// ledger approves now.
func (s *Seat) round() error {
	list, err := s.p.cases.All()
	if err != nil {
		return err
	}
	for i := range list {
		if x := &list[i]; x.Ended == 0 && x.Votes[s.p.ID()] && s.due(x) {
			if err := s.give(x); err != nil {
				return fmt.Errorf("part of an opening: %w", err)
			}
		}
	}
	return nil
}

// due says that a case is approved, by votes that are final, and that this seat
// has not given its part.
func (s *Seat) due(x *CaseRecord) bool {
	if _, err := s.p.env.Store.Get(partKey(x.ID)); !errors.Is(err, store.ErrNotFound) {
		return false
	}
	approved := false
	s.p.Read(func(st *ledger.State) {
		c, ok := st.Case(x.ID)
		approved = ok && c.Approved
		for _, p := range c.Yes {
			approved = approved && x.Votes[p]
		}
	})
	return approved
}

// give makes the sealed partials of a case, durable before their hash leaves.
func (s *Seat) give(x *CaseRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	share, err := loadShare(s.p.env)
	if err != nil {
		return err
	}
	file, err := s.File(x.ID)
	if err != nil {
		return err
	}
	u, ok := s.p.env.Dir.One(member.RoleUtility, s.p.Names()[x.Utility])
	if !ok {
		return ask.ErrNoOperator
	}
	bill, ok := u.Sheet.At(keys.Bill, s.p.env.Clock.Now())
	if !ok {
		return ask.ErrNoOperator
	}
	var sealed []byte
	for i := range file.Sessions {
		part, err := committee.PartialOf(s.p.env.Rand, share, &file.Sessions[i].Cert)
		if err != nil {
			return err
		}
		ct, _, err := committee.SealPartial(s.p.env.Rand, s.p.env.Net, privacy.SuiteX25519, bill, x.ID, x.Refs[i], part)
		if err != nil {
			return err
		}
		sealed = ledger.AppendBundle(sealed, ct)
	}
	err = s.p.env.Store.Update(func(tx *store.Tx) error {
		if err := tx.Set(partKey(x.ID), sealed); err != nil {
			return err
		}
		return s.p.PostTx(tx, ledger.Salted(ledger.Hash{}, append([]byte("part"), x.ID[:]...)), &ledger.Partial{Case: x.ID, CT: sha256.Sum256(sealed)})
	})
	s.p.Nudge()
	return err
}

// givePartials hands the utility that must answer a case this seat's part, once
// its hash is final.
func (s *Seat) givePartials(from mesh.Member, b []byte) ([]byte, error) {
	if len(b) != 16 {
		return nil, ErrCase
	}
	x, err := s.p.cases.Get(ledger.CaseID(b))
	if err != nil {
		return nil, ErrNoCase
	}
	if from.Role != member.RoleUtility || s.p.Names()[x.Utility] != from.Operator {
		return nil, fmt.Errorf("%w: only the utility that must answer gets the parts", ErrCase)
	}
	sealed, err := s.p.env.Store.Get(partKey(x.ID))
	if err != nil || x.Parts[s.p.ID()] != ledger.Hash(sha256.Sum256(sealed)) {
		return nil, ErrNoCase
	}
	return sealed, nil
}

// takeStatement keeps the driver's word in a case, for the operator who votes.
func (s *Seat) takeStatement(_ mesh.Member, b []byte) ([]byte, error) {
	st, err := committee.ParseStatement(b)
	if err != nil {
		return nil, err
	}
	file, err := s.File(st.Case)
	if err != nil {
		return nil, ErrNoCase
	}
	i := slices.IndexFunc(file.Sessions, func(c CaseSession) bool { return c.Cert.Ref() == st.Ref })
	if i < 0 || !st.Verify(s.p.env.Net, &file.Sessions[i].Cert) {
		return nil, fmt.Errorf("statement: %w", session.ErrSignature)
	}
	return nil, KeepStatement(s.p.env.Store, st)
}

// KeepStatement stores a verified statement; the first of a session stands.
func KeepStatement(st *store.Store, x committee.Statement) error {
	return st.Update(func(tx *store.Tx) error {
		has, err := tx.Has(wordKey(x.Case, x.Ref))
		if err != nil || has {
			return err
		}
		return tx.Set(wordKey(x.Case, x.Ref), x.Bytes())
	})
}

// Statements are the drivers' words in a case.
func Statements(st *store.Store, id ledger.CaseID) (list []committee.Statement, err error) {
	err = st.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceLedger.Key([]byte("cword"), id[:]), func(_, v []byte) error {
			x, err := committee.ParseStatement(v)
			list = append(list, x)
			return err
		})
	})
	return list, err
}

func statementWords(st *store.Store, id ledger.CaseID) string {
	list, err := Statements(st, id)
	if err != nil || len(list) == 0 {
		return ""
	}
	admits := 0
	for _, x := range list {
		if x.Admits {
			admits++
		}
	}
	return fmt.Sprintf("the driver admits %d and contests %d", admits, len(list)-admits)
}
