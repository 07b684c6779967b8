package utility

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/committee"
	"gridveil/privacy/pseudo"
)

// A case about our drivers' sessions: the requester shows us the certificates,
// three openers give their parts sealed to us, we combine them, answer the
// requester alone, and put the hash of the answer on the ledger. What was opened
// is kept, because a driver may ask later what was done.

func payerFileKey(id ledger.CaseID) []byte { return store.SpaceBill.Key([]byte("pfile"), id[:]) }

func caseAnswerKey(id ledger.CaseID) []byte { return store.SpaceBill.Key([]byte("canswer"), id[:]) }

func openedKey(id ledger.CaseID) []byte { return store.SpaceBill.Key([]byte("opened"), id[:]) }

// disputes registers what is answered about cases.
func (s *settlement) disputes() {
	s.party.Answer(party.OpPayer, s.takePayerFile)
	s.party.Answer(party.OpAnswer, s.giveAnswer)
	s.party.OnRound(s.answerCases)
}

// takePayerFile keeps the certificates of a case that we must answer.
func (s *settlement) takePayerFile(from mesh.Member, b []byte) ([]byte, error) {
	f, err := party.ParsePayerFile(b)
	if err != nil {
		return nil, err
	}
	x, err := s.party.Cases().Get(f.Case)
	if err != nil {
		return nil, party.ErrNoCase
	}
	names := s.party.Names()
	if x.Utility != s.party.ID() || names[x.Requester] != from.Operator || len(f.Sessions) != len(x.Refs) {
		return nil, errNotHere
	}
	self := s.env.Operator(s.env.Host.Self().Operator)
	for i := range f.Sessions {
		c := &f.Sessions[i].Cert
		if c.Ref() != x.Refs[i] || c.Issuer() != self {
			return nil, fmt.Errorf("%w: session %d is another", party.ErrCase, i)
		}
		if err := pseudo.VerifySignature(c, s.env.Net, ask.Operators{Env: s.env}.Issuers()); err != nil {
			return nil, err
		}
	}
	return nil, s.env.Store.Set(payerFileKey(f.Case), b)
}

// answerCases answers every case whose parts are on the final ledger.
func (s *settlement) answerCases(ctx context.Context) error {
	list, err := s.party.Cases().All()
	if err != nil {
		return err
	}
	need := uint64(0)
	s.party.Read(func(st *ledger.State) { need = max(st.Params().K, committee.Threshold) })
	var errs []error
	for i := range list {
		x := &list[i]
		if x.Utility != s.party.ID() || x.Ended != 0 || x.Answer != nil || x.Asks == ledger.CaseHold || uint64(len(x.Parts)) < need {
			continue
		}
		if _, err := s.env.Store.Get(caseAnswerKey(x.ID)); err == nil {
			continue // its entry is on the way
		}
		if err := s.answerCase(ctx, x); err != nil {
			errs = append(errs, fmt.Errorf("answer a case: %w", err))
		}
	}
	return errors.Join(errs...)
}

// answerCase opens the sessions of one case and enters the hash of the answer.
func (s *settlement) answerCase(ctx context.Context, x *party.CaseRecord) error {
	raw, err := s.env.Store.Get(payerFileKey(x.ID))
	if err != nil {
		return fmt.Errorf("certificates of the case: %w", err)
	}
	file, err := party.ParsePayerFile(raw)
	if err != nil {
		return err
	}
	parts, err := s.collectParts(ctx, x)
	if err != nil {
		return err
	}
	pub, err := s.openers()
	if err != nil {
		return err
	}
	answer := &party.Answer{Case: x.ID}
	if _, err := io.ReadFull(s.env.Rand, answer.Salt[:]); err != nil {
		return fmt.Errorf("draw salt: %w", err)
	}
	opened := make([]*committee.Opened, len(file.Sessions))
	for i := range file.Sessions {
		o, err := committee.Combine(s.env.Net, &pub, &file.Sessions[i].Cert, parts[i], s.contractKey)
		switch {
		case err == nil:
			opened[i] = &o
		case !errors.Is(err, committee.ErrMismatch):
			return err
		}
	}
	judge(answer, x, opened)
	return s.keepAnswer(answer, opened)
}

// judge fills an answer from what was opened.
func judge(a *party.Answer, x *party.CaseRecord, opened []*committee.Opened) {
	if x.Asks == ledger.CaseLink {
		same := true
		for _, o := range opened {
			if o == nil {
				a.Findings = []party.Finding{party.Mismatch}
				return
			}
			same = same && committee.Linked(*opened[0], *o)
		}
		a.Findings = []party.Finding{map[bool]party.Finding{true: party.Same, false: party.Other}[same]}
		return
	}
	name := x.Reason == ledger.ReasonSafety || x.Reason == ledger.ReasonLawful
	for _, o := range opened {
		if o == nil {
			a.Findings = append(a.Findings, party.Mismatch)
			continue
		}
		a.Findings = append(a.Findings, party.Ours)
	}
	if name && !slices.Contains(a.Findings, party.Mismatch) {
		for _, o := range opened {
			a.Contracts = append(a.Contracts, o.Contract)
		}
	}
}

func (s *settlement) contractKey(handle [16]byte) (lk [32]byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.drivers[handle]
	return [32]byte(d.LK), ok
}

// collectParts asks the seats for their sealed parts, compares them with the
// ledger, and opens them: a list for each session.
func (s *settlement) collectParts(ctx context.Context, x *party.CaseRecord) ([][]committee.Partial, error) {
	out := make([][]committee.Partial, len(x.Refs))
	names, seats := s.party.Names(), 0
	for id, want := range x.Parts {
		sealed, err := s.askSeat(ctx, names[id], x.ID)
		if err != nil || sha256.Sum256(sealed) != want {
			continue // three of five suffice
		}
		list, err := ledger.ParseBundle(sealed, ledger.MaxRefs)
		if err != nil || len(list) != len(x.Refs) {
			continue
		}
		part := make([]committee.Partial, len(list))
		for i, ct := range list {
			if part[i], err = s.openPart(x.ID, x.Refs[i], ct); err != nil {
				break
			}
		}
		if err != nil {
			continue
		}
		for i := range part {
			out[i] = append(out[i], part[i])
		}
		seats++
	}
	if seats < committee.Threshold {
		return nil, fmt.Errorf("%d of %d seats gave their part: %w", seats, committee.Threshold, committee.ErrTooFew)
	}
	return out, nil
}

// askSeat asks the nodes of a seat's operator for its part.
func (s *settlement) askSeat(ctx context.Context, operator string, id ledger.CaseID) ([]byte, error) {
	last := error(ask.ErrNoOperator)
	for _, r := range []member.Role{member.RoleUtility, member.RoleVerifier, member.RoleSSN} {
		for _, h := range s.env.Dir.All(r, operator) {
			call, cancel := context.WithTimeout(ctx, callTimeout)
			b, err := s.env.Host.Call(call, h.Member.Peer, mesh.Opener, append([]byte{party.OpPartials}, id[:]...))
			cancel()
			if err == nil {
				return b, nil
			}
			last = err
		}
	}
	return nil, last
}

// openPart opens a part sealed to this month's bill key or the last one's.
func (s *settlement) openPart(id ledger.CaseID, ref [32]byte, ct []byte) (committee.Partial, error) {
	now := s.env.Clock.Now()
	key, err := s.env.Keys.Box(keys.Bill, now)
	if err != nil {
		return committee.Partial{}, err
	}
	p, err := committee.OpenPartial(key, s.env.Net, id, ref, ct)
	if !errors.Is(err, privacy.ErrOpen) {
		return p, err
	}
	if key, err = s.env.Keys.BoxOf(keys.Bill, keys.Bill.Period(now)-1); err != nil {
		return p, privacy.ErrOpen
	}
	return committee.OpenPartial(key, s.env.Net, id, ref, ct)
}

// keepAnswer makes answer and what was opened durable with the entry that
// commits to it.
func (s *settlement) keepAnswer(a *party.Answer, opened []*committee.Opened) error {
	var contracts []string
	for _, o := range opened {
		if o != nil {
			contracts = append(contracts, fmt.Sprintf("%x", o.Contract))
		}
	}
	b, err := json.Marshal(contracts)
	if err != nil {
		return err
	}
	err = s.env.Store.Update(func(tx *store.Tx) error {
		if err := tx.Set(caseAnswerKey(a.Case), a.Bytes()); err != nil {
			return err
		}
		if err := tx.Set(openedKey(a.Case), b); err != nil {
			return err
		}
		return s.party.PostTx(tx, ledger.Salted(ledger.Hash{}, append([]byte("result"), a.Case[:]...)), &ledger.Result{Case: a.Case, Answer: a.Hash()})
	})
	s.party.Nudge()
	return err
}

// giveAnswer hands the requester of a case its answer, once its hash is final.
func (s *settlement) giveAnswer(from mesh.Member, b []byte) ([]byte, error) {
	if len(b) != 16 {
		return nil, party.ErrCase
	}
	x, err := s.party.Cases().Get(ledger.CaseID(b))
	if err != nil || x.Answer == nil {
		return nil, party.ErrNoCase
	}
	if s.party.Names()[x.Requester] != from.Operator {
		return nil, errNotHere
	}
	return s.env.Store.Get(caseAnswerKey(x.ID))
}

// Opened lists the contracts that a case opened, for the utility's own staff;
// empty for a case that opened nobody.
func (u *Utility) Opened(id ledger.CaseID) ([]string, error) {
	b, err := u.env.Store.Get(openedKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []string
	return list, json.Unmarshal(b, &list)
}
