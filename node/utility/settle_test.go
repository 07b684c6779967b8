package utility

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"testing"
	"time"

	"gridveil/ev/pool"
	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/node/clock"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/store/storetest"
	"gridveil/privacy"
	"gridveil/privacy/committee"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

// ledgerless is a settlement with a store and nothing around it.
func ledgerless(t *testing.T) *settlement {
	t.Helper()
	env := &role.Env{Store: storetest.Open(t), Clock: clock.Wall{}, Log: slog.New(slog.DiscardHandler), Warn: role.NewBoard()}
	return &settlement{env: env, drivers: map[[16]byte]Driver{}, signed: map[uint64][][32]byte{}}
}

// offer makes a proposal over lines with these bill keys.
func (s *settlement) offer(t *testing.T, pay int64, bpks ...byte) (*ledger.Settle, [32]byte) {
	t.Helper()
	body := &ledger.Settle{Payer: 2, N: uint32(len(bpks)), Pay: pay}
	p := proposal{State: proposed, Body: body, At: time.Now().UnixMilli()}
	h := settle.BodyHash(body)
	err := s.env.Store.Update(func(tx *store.Tx) error {
		for _, b := range bpks {
			p.Lines = append(p.Lines, session.Line{BPK: [32]byte{b}, Form: session.Signed, Total: 10_000})
			if _, err := getRow(tx, [32]byte{b}); err == nil {
				continue
			}
			if err := putRow(tx, [32]byte{b}, row{Contract: [16]byte{b}, Epoch: pseudo.Week(time.Now())}); err != nil {
				return err
			}
		}
		return putProposal(tx, h, p, true)
	})
	if err != nil {
		t.Fatal(err)
	}
	return body, h
}

func (s *settlement) sign(h [32]byte, seq uint64) error {
	err := s.env.Store.Update(func(tx *store.Tx) error { return s.pledge(tx, h, seq) })
	if err == nil {
		s.bind(seq, h)
	}
	return err
}

func entry(t *testing.T, seq uint64, body ledger.Body) *ledger.Entry {
	t.Helper()
	key, err := privacy.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ledger.NewEntry(1, seq, body)
	if err == nil {
		err = ledger.Sign(e, "test", key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestARowIsSignedForOnce keeps an aggregator from having one session paid in two
// sums, and one sum under two numbers.
func TestARowIsSignedForOnce(t *testing.T) {
	s := ledgerless(t)
	body, one := s.offer(t, 20_000, 1, 2)
	_, two := s.offer(t, 30_000, 2, 3)
	if err := s.sign(one, 7); err != nil {
		t.Fatal(err)
	}
	if err := s.sign(one, 7); err != nil {
		t.Errorf("the same entry again: %v", err)
	}
	if err := s.sign(two, 8); err == nil {
		t.Error("a row was signed for in two sums")
	}
	if err := s.sign(one, 8); !errors.Is(err, mesh.ErrBusy) {
		t.Errorf("one sum under two numbers: %v, want ErrBusy", err)
	}
	if err := s.sign([32]byte{9}, 9); err == nil {
		t.Error("a sum was signed whose lines were never shown")
	}
	if err := s.superseded(entry(t, 7, body)); err != nil {
		t.Fatal(err)
	}
	if err := s.sign(two, 8); err == nil {
		t.Error("its own entry freed the rows")
	}
	if err := s.superseded(entry(t, 7, &ledger.Anchor{Topic: 1})); err != nil {
		t.Fatal(err)
	}
	if err := s.sign(two, 8); err != nil {
		t.Errorf("after number 7 went to another entry: %v", err)
	}
	if err := s.sign(one, 9); err == nil {
		t.Error("the freed sum took a row that another has now")
	}
}

// TestASumSignedTooLateIsFreed signs under a number that passed before the
// request came, and two sums under one number of which one is entered.
func TestASumSignedTooLateIsFreed(t *testing.T) {
	s := ledgerless(t)
	bodyOne, one := s.offer(t, 20_000, 1)
	_, two := s.offer(t, 30_000, 2)
	for h, seq := range map[[32]byte]uint64{one: 7, two: 7} {
		if err := s.sign(h, seq); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.superseded(entry(t, 6, &ledger.Anchor{Topic: 1})); err != nil {
		t.Fatal(err)
	}
	if err := s.sign(two, 9); !errors.Is(err, mesh.ErrBusy) {
		t.Errorf("before number 7 is used: %v, want ErrBusy", err)
	}
	if err := s.superseded(entry(t, 7, bodyOne)); err != nil {
		t.Fatal(err)
	}
	if err := s.sign(two, 7); err != nil {
		t.Errorf("the other sum, under a number that has passed: %v", err)
	}
	if err := s.sign(two, 9); !errors.Is(err, mesh.ErrBusy) {
		t.Errorf("before the next entry shows it: %v, want ErrBusy", err)
	}
	if err := s.superseded(entry(t, 8, &ledger.Anchor{Topic: 1})); err != nil {
		t.Fatal(err)
	}
	if err := s.sign(two, 9); err != nil {
		t.Errorf("after the next entry: %v", err)
	}
}

func TestOpenProposalsSurviveARestart(t *testing.T) {
	s := ledgerless(t)
	_, one := s.offer(t, 20_000, 1)
	if err := s.sign(one, 7); err != nil {
		t.Fatal(err)
	}
	again := &settlement{env: s.env, signed: map[uint64][][32]byte{}}
	if err := again.loadProposals(); err != nil || len(again.signed[7]) != 1 || again.signed[7][0] != one {
		t.Errorf("after a restart: %v, %v", again.signed, err)
	}
}

func TestSettledLinesAreForgottenAndSignedOnesAreNot(t *testing.T) {
	s := ledgerless(t)
	_, open := s.offer(t, 10_000, 1)
	_, stale := s.offer(t, 20_000, 2)
	if err := s.sign(open, 7); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(rowsKept + time.Hour)
	if err := s.env.Store.Update(func(tx *store.Tx) error { return dropProposals(tx, later) }); err != nil {
		t.Fatal(err)
	}
	err := s.env.Store.View(func(tx *store.Tx) error {
		if p, err := getProposal(tx, open); err != nil || len(p.Lines) != 1 {
			t.Errorf("a signed sum: %d lines, %v", len(p.Lines), err)
		}
		if _, err := getProposal(tx, stale); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a sum that was never entered: %v", err)
		}
		return tx.Each(store.SpaceBill.Key([]byte("pline"), stale[:]), func([]byte, []byte) error { return errors.New("its lines stay") })
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAnswersNameNobodyWithoutCause(t *testing.T) {
	a, b := &committee.Opened{Contract: [16]byte{1}}, &committee.Opened{Contract: [16]byte{2}}
	for name, c := range map[string]struct {
		x         party.CaseRecord
		opened    []*committee.Opened
		findings  []party.Finding
		contracts int
	}{
		"a billing case":            {party.CaseRecord{Asks: ledger.CaseOpen, Reason: ledger.ReasonBilling}, []*committee.Opened{a}, []party.Finding{party.Ours}, 0},
		"a lawful order":            {party.CaseRecord{Asks: ledger.CaseOpen, Reason: ledger.ReasonLawful}, []*committee.Opened{a, b}, []party.Finding{party.Ours, party.Ours}, 2},
		"a lawful order, mismatch":  {party.CaseRecord{Asks: ledger.CaseOpen, Reason: ledger.ReasonLawful}, []*committee.Opened{a, nil}, []party.Finding{party.Ours, party.Mismatch}, 0},
		"a link of one contract":    {party.CaseRecord{Asks: ledger.CaseLink}, []*committee.Opened{a, a}, []party.Finding{party.Same}, 0},
		"a link of two contracts":   {party.CaseRecord{Asks: ledger.CaseLink, Reason: ledger.ReasonSafety}, []*committee.Opened{a, b}, []party.Finding{party.Other}, 0},
		"a link with a false label": {party.CaseRecord{Asks: ledger.CaseLink}, []*committee.Opened{a, nil}, []party.Finding{party.Mismatch}, 0},
	} {
		got := &party.Answer{}
		judge(got, &c.x, c.opened)
		if len(got.Findings) != len(c.findings) || len(got.Contracts) != c.contracts {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		for i := range c.findings {
			if got.Findings[i] != c.findings[i] {
				t.Errorf("%s: finding %d is %v, want %v", name, i, got.Findings[i], c.findings[i])
			}
		}
	}
}

func TestPayIsForWhatWasDelivered(t *testing.T) {
	i := &pool.Instruction{From: 0, To: 900_000, W: -2000, PayMicro: 400_000} // 500 Wh
	for _, c := range []struct {
		got, asked, pay int64
		ok              bool
	}{{500_000, 500_000, 400_000, true}, {250_000, 500_000, 200_000, true}, {1, 500_000, 0, true}, {0, 0, 0, true},
		{499_999, 500_000, 390_000, true}, {500_001, 500_001, 0, false}, {300_000, 200_000, 0, false}, {-1, 5, 0, false}} {
		pay, err := payFor(i, c.got, c.asked)
		if pay != c.pay || (err == nil) != c.ok {
			t.Errorf("%d of %d mWh: %d, %v; want %d", c.got, c.asked, pay, err, c.pay)
		}
	}
}
