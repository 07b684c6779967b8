package purse

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/node/ask"
	"gridveil/node/monthly"
	"gridveil/node/role"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// prove lets the purse ask for every proof that is planned, at once.
func (s *scene) prove() {
	s.t.Helper()
	for range 4 {
		if err := s.purse.Hurry(); err != nil {
			s.t.Fatal(err)
		}
		s.round()
	}
}

func (s *scene) backing(session string) Backing {
	s.t.Helper()
	b, ok, err := s.purse.backing(Claim{Session: session, Party: 1})
	if !ok || err != nil {
		s.t.Fatalf("no evidence is kept: %v", err)
	}
	return b
}

// warned lists the codes of what the owner is shown.
func (s *scene) warned() (codes string) {
	for _, w := range s.warn.Standing(s.clock.now) {
		codes += w.Code + " "
	}
	return codes
}

func TestCollectedNotesAreProvedOnTheLedger(t *testing.T) {
	s := newScene(t)
	s.earn("a", 1_320)
	s.earn("b", 700)
	s.round()
	s.open() // a restart between notes and proof
	if b := s.backing("a"); b.Verdict != Fetching || b.Entry != nil {
		t.Errorf("before it was asked for: %+v", b)
	}
	s.prove()
	for name, minor := range map[string]uint16{"a": 1_320, "b": 700} {
		b := s.backing(name)
		answer, err := session.ParseCollected(b.Answer)
		if b.Verdict != Proved || b.Reason != "" || b.Claim.Minor != minor || err != nil || answer.Request != b.Request {
			t.Errorf("%s: %s %s, %v", name, b.Verdict, b.Reason, err)
		}
		policy, err := s.bank.Policy()
		if err != nil {
			t.Fatal(err)
		}
		if e, err := (ask.Proven{Entry: b.Entry, Proof: b.Proof}).OpenAt(policy, answer.Issue); err != nil || e.Kind() != ledger.KindIssue {
			t.Errorf("%s: the kept entry: %v", name, err)
		}
	}
	s.bank.Read(func() {
		if n := s.bank.Seen[ask.Issue]; n != 2 {
			t.Errorf("%d questions for two entries", n)
		}
	})
	s.open()
	s.prove()
	if b := s.backing("a"); b.Verdict != Proved || s.warned() != "" {
		t.Errorf("after a restart: %s, warnings %q", b.Verdict, s.warned())
	}
}

// TestBadProofIsKeptAndNeverCostsNotes shows the purse entries that do not cover
// its claim, and such as are no proof of anything.
func TestBadProofIsKeptAndNeverCostsNotes(t *testing.T) {
	for name, c := range map[string]struct {
		back  func(s *scene, request [32]byte, minor uint16) session.Collected
		shown func(s *scene, index uint64) ([]byte, error)
		want  Verdict
	}{
		"the claim is omitted": {back: func(s *scene, request [32]byte, minor uint16) session.Collected {
			c, other := s.bank.Back(request, minor), s.bank.Back([32]byte{1}, minor)
			c.Issue = other.Issue
			return c
		}, want: Uncovered},
		"the proof is of another amount": {back: func(s *scene, request [32]byte, minor uint16) session.Collected {
			return s.bank.Back(request, minor-1)
		}, want: Uncovered},
		"the proof is of another request": {back: func(s *scene, _ [32]byte, minor uint16) session.Collected {
			return s.bank.Back([32]byte{2}, minor)
		}, want: Uncovered},
		"the salt is falsified": {back: func(s *scene, request [32]byte, minor uint16) session.Collected {
			c := s.bank.Back(request, minor)
			c.Salt[9] ^= 1
			return c
		}, want: Uncovered},
		"there is no proof": {back: func(s *scene, request [32]byte, minor uint16) session.Collected {
			c := s.bank.Back(request, minor)
			c.Proof = nil
			return c
		}, want: Uncovered},
		"another kind of entry has the number": {shown: func(s *scene, index uint64) ([]byte, error) {
			return s.bank.ProveAt(index, &ledger.Anchor{Topic: ledger.TopicTask}).Bytes(), nil
		}, want: Uncovered},
		"the entry has another number": {shown: func(s *scene, index uint64) ([]byte, error) {
			return s.bank.ProveAt(index+1, &ledger.Issue{Epoch: note.Epoch(s.clock.now), Claims: 1, Counts: []uint32{1}}).Bytes(), nil
		}, want: Fetching},
		"the entry is not final": {shown: func(s *scene, index uint64) ([]byte, error) {
			p := s.bank.ProveAt(index, &ledger.Issue{Epoch: note.Epoch(s.clock.now), Claims: 1, Counts: []uint32{1}})
			p.Proof = p.Proof[:bytes.LastIndex(p.Proof, []byte("\n— "))+1]
			return p.Bytes(), nil
		}, want: Fetching},
		"the entry is refused": {shown: func(*scene, uint64) ([]byte, error) {
			return nil, &ask.RefusedError{Reason: "no"}
		}, want: Fetching},
		"the answer is no entry": {shown: func(*scene, uint64) ([]byte, error) { return []byte("entry"), nil }, want: Fetching},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			if c.back != nil {
				s.bank.back = func(request [32]byte, minor uint16) session.Collected { return c.back(s, request, minor) }
			}
			s.bank.Broken = func(op ask.Op, body []byte) ([]byte, error, bool) {
				if op != ask.Issue || c.shown == nil {
					return nil, nil, false
				}
				index, err := ask.ParseIssueBody(body)
				if err != nil {
					return nil, err, true
				}
				b, err := c.shown(s, index)
				return b, err, true
			}
			s.earn("a", 700)
			s.round()
			s.prove()
			if got := s.purse.Standing(); got.Fresh+got.Swapped != 700 {
				t.Errorf("notes: %+v", got)
			}
			b := s.backing("a")
			if b.Verdict != c.want || b.Reason == "" || b.Answer == nil {
				t.Errorf("verdict %q, reason %q", b.Verdict, b.Reason)
			}
			if kept := b.Entry != nil; kept != (c.want == Uncovered || !strings.HasPrefix(name, "the entry is refused") && !strings.HasPrefix(name, "the answer")) {
				t.Errorf("what was shown is kept: %v", kept)
			}
			warning := "notes-not-covered "
			if c.want == Fetching {
				if warning = "notes-not-proved "; s.warned() != "" {
					t.Errorf("warned at once: %s", s.warned())
				}
				s.clock.now = s.clock.now.Add(proofLate + time.Minute)
			}
			s.warn = role.NewBoard()
			s.open() // what is known outlives a restart
			s.prove()
			if list := s.purse.Claims("a"); len(list) != 1 || list[0].Proved || list[0].Uncovered != (c.want == Uncovered) || list[0].Proof.Request == nil {
				t.Errorf("shown: %+v", list)
			}
			if s.warned() != warning {
				t.Errorf("warnings %q, want %q", s.warned(), warning)
			}
			if s.bank.Broken, s.bank.back = nil, s.bank.Back; c.want == Fetching {
				if s.prove(); s.backing("a").Verdict != Proved || s.warned() != "" {
					t.Errorf("once it is shown: %+v, warnings %q", s.backing("a").Verdict, s.warned())
				}
			}
			s.clock.now = s.clock.now.Add(backingKeep + time.Hour)
			s.open()
			if len(s.purse.Claims("a")) != 0 || len(s.purse.state.Uncovered) != 0 {
				t.Error("evidence is kept for ever")
			}
		})
	}
}

func TestProofWaitsForAnAbsentAggregatorWithoutHoldingUpNotes(t *testing.T) {
	s := newScene(t)
	for _, name := range []string{"a", "b", "c"} {
		s.earn(name, 500)
	}
	s.round()
	s.bank.Down(true)
	s.prove()
	if b := s.backing("a"); b.Verdict != Fetching {
		t.Errorf("with the aggregator away: %s", b.Verdict)
	}
	s.bank.Down(false)
	s.clock.now = s.clock.now.Add(48 * time.Hour)
	before := 0
	s.bank.Read(func() { before = s.bank.Seen[ask.Issue] })
	s.round()
	s.bank.Read(func() {
		if n := s.bank.Seen[ask.Issue] - before; n != 1 {
			t.Errorf("%d questions in one round tell that they are of one house", n)
		}
	})
	if got := s.purse.Standing(); got.Swapped != 1_500 {
		t.Errorf("notes: %+v", got)
	}
	s.prove()
	for _, name := range []string{"a", "b", "c"} {
		if b := s.backing(name); b.Verdict != Proved {
			t.Errorf("%s: %s %s", name, b.Verdict, b.Reason)
		}
	}
}

// TestNotesInAStatementAreJudgedByThePolicyAlone gives claims with their proofs to
// an outsider who has the ledger's policy, and then claims more than was proved.
func TestNotesInAStatementAreJudgedByThePolicyAlone(t *testing.T) {
	s := newScene(t)
	s.earn("a", 1_320)
	s.round()
	s.prove()
	policy, err := s.bank.Policy()
	if err != nil {
		t.Fatal(err)
	}
	judge := func(policy *ledger.Policy, change func(*monthly.Claim)) (monthly.Judgement, error) {
		claims := s.purse.Claims("a")
		change(&claims[0])
		b, err := monthly.Statement{Of: "host", Sessions: []monthly.Session{{ID: "a", Claims: claims}}}.JSON()
		if err != nil {
			t.Fatal(err)
		}
		return monthly.Judge(bytes.NewReader(b), policy)
	}
	if j, err := judge(policy, func(*monthly.Claim) {}); err != nil || j.Sessions[0].Notes != 1 || j.Sessions[0].Open != 0 {
		t.Errorf("with the policy: %+v, %v", j, err)
	}
	if j, err := judge(nil, func(*monthly.Claim) {}); err != nil || j.Sessions[0].Notes != 0 || j.Sessions[0].Open != 1 {
		t.Errorf("without a policy: %+v, %v", j, err)
	}
	for what, change := range map[string]func(*monthly.Claim){
		"amount": func(c *monthly.Claim) { c.Minor++ },
		"entry":  func(c *monthly.Claim) { c.Issue++ },
		"salt":   func(c *monthly.Claim) { c.Proof.Salt[0] ^= 1 },
		"proof":  func(c *monthly.Claim) { c.Proof = nil },
		"bytes":  func(c *monthly.Claim) { c.Proof.Entry[9] ^= 1 },
	} {
		if _, err := judge(policy, change); !errors.Is(err, monthly.ErrStatement) {
			t.Errorf("another %s: got %v", what, err)
		}
	}
}
