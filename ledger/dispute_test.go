package ledger_test

import (
	"math"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

// court is a ledger with one unsettled session of Utb and a case over it.
func court(t *testing.T, asks ledger.CaseKind, reason ledger.Reason) (*scene.Scene, *ledger.Dispute) {
	t.Helper()
	s := scene.New(t, 5).Begin()
	late := &ledger.Party{Party: scene.Late, Role: ledger.ConsumerBody, Approver: true, Name: "Late", Pub: scene.Pub(s.Keys[scene.Late])}
	s.Do(scene.Step{Author: 1, Body: late, Signers: s.As(scene.Evagg, scene.Late, scene.Dso, scene.Regulator, scene.Consumers)})
	cdr := s.CDR(scene.Utb, 0, scene.Session(10))
	s.By(1, cdr)
	d := &ledger.Dispute{Case: ledger.CaseID{7}, Asks: asks, Reason: reason, Utility: scene.Utb, Refs: [][32]byte{cdr.Ref}}
	s.By(1, d)
	return s, d
}

func yes(s *scene.Scene, d *ledger.Dispute, seats ...ledger.PartyID) {
	s.TB.Helper()
	for _, p := range seats {
		s.By(p, &ledger.Approve{Case: d.Case, Yes: true})
	}
}

// TestG8 is guarantee G8: a pseudonym is linked or opened only after k approvals
// from different roles, and the attempt is on the log.
func TestG8OpeningNeedsItsApprovals(t *testing.T) {
	s, d := court(t, ledger.CaseOpen, ledger.ReasonBilling)
	partial := func(p ledger.PartyID) scene.Step { return by(s, p, &ledger.Partial{Case: d.Case, CT: h(1)}) }
	vote := func(p ledger.PartyID) scene.Step { return by(s, p, &ledger.Approve{Case: d.Case, Yes: true}) }
	want(t, s, "approval of no approver", ledger.ErrRole, vote(scene.Uta))
	want(t, s, "approval of the requester", ledger.ErrRole, vote(scene.Evagg))
	want(t, s, "approval of the answering utility", ledger.ErrRole, vote(scene.Utb))
	yes(s, d, scene.Dso, scene.Utc)
	want(t, s, "a vote twice", ledger.ErrDuplicate, vote(scene.Dso))
	s.Pass(2)
	want(t, s, "k-1 approvals", ledger.ErrWindow, partial(scene.Dso))
	yes(s, d, scene.Regulator)
	want(t, s, "result before the partials", ledger.ErrWindow, by(s, scene.Utb, &ledger.Result{Case: d.Case}))
	s.Do(partial(scene.Dso))
	want(t, s, "a partial twice", ledger.ErrDuplicate, partial(scene.Dso))
	want(t, s, "a partial of the requester", ledger.ErrRole, partial(scene.Evagg))
	s.Do(partial(scene.Utc))
	want(t, s, "result after k-1 partials", ledger.ErrWindow, by(s, scene.Utb, &ledger.Result{Case: d.Case}))
	s.Do(partial(scene.Consumers))
	want(t, s, "result by another utility", ledger.ErrRole, by(s, scene.Uta, &ledger.Result{Case: d.Case}))
	s.By(scene.Utb, &ledger.Result{Case: d.Case, Answer: h(2)})
	want(t, s, "a second result", ledger.ErrDuplicate, by(s, scene.Utb, &ledger.Result{Case: d.Case}))
	if id, ok := s.State.Disputed(d.Refs[0]); !ok || id != d.Case {
		t.Error("the wallet does not see its ref in the case")
	}
	s.By(1, &ledger.End{Case: d.Case, Outcome: ledger.Release})
	want(t, s, "a case id again", ledger.ErrDuplicate, by(s, 1, d))
	want(t, s, "a vote after the end", ledger.ErrWindow, vote(scene.Consumers))
}

func TestG8NeedsAPublicSeat(t *testing.T) {
	s, d := court(t, ledger.CaseOpen, ledger.ReasonBilling)
	spare := &ledger.Party{Party: 9, Role: ledger.DSO, Approver: true, Name: "Second DSO", Pub: scene.Pub(s.Key())}
	s.Keys[9] = s.Key()
	spare.Pub = scene.Pub(s.Keys[9])
	s.Do(scene.Step{Author: 1, Body: spare, Signers: s.As(scene.Evagg, 9, scene.Dso, scene.Regulator, scene.Consumers)})
	yes(s, d, scene.Dso, scene.Utc, 9)
	s.By(scene.Regulator, &ledger.Approve{Case: d.Case}) // a no
	s.Pass(2)
	want(t, s, "three approvals, none public", ledger.ErrWindow, by(s, scene.Dso, &ledger.Partial{Case: d.Case}))
	yes(s, d, scene.Consumers)
	s.By(scene.Dso, &ledger.Partial{Case: d.Case})
}

func TestG8NoticeAndSafety(t *testing.T) {
	s, d := court(t, ledger.CaseOpen, ledger.ReasonBilling)
	yes(s, d, scene.Dso, scene.Regulator, scene.Consumers)
	want(t, s, "within the notice", ledger.ErrWindow, by(s, scene.Dso, &ledger.Partial{Case: d.Case}))
	s, d = court(t, ledger.CaseOpen, ledger.ReasonSafety)
	yes(s, d, scene.Dso, scene.Regulator, scene.Consumers, scene.Utc)
	want(t, s, "safety with four approvals", ledger.ErrWindow, by(s, scene.Dso, &ledger.Partial{Case: d.Case}))
	yes(s, d, scene.Late)
	s.By(scene.Dso, &ledger.Partial{Case: d.Case})
	if c, ok := s.State.Case(d.Case); !ok || !c.Approved || len(c.Partials) != 1 {
		t.Errorf("Case: got %+v", c)
	}
}

func TestG8CasesExpire(t *testing.T) {
	s, d := court(t, ledger.CaseOpen, ledger.ReasonBilling)
	yes(s, d, scene.Dso, scene.Regulator, scene.Consumers)
	want(t, s, "expire too early", ledger.ErrWindow, by(s, scene.Uta, &ledger.End{Case: d.Case, Outcome: ledger.Expire}))
	s.Tick(scene.Start + 10*scene.Hour)
	want(t, s, "expire at its last moment", ledger.ErrWindow, by(s, scene.Uta, &ledger.End{Case: d.Case, Outcome: ledger.Expire}))
	s.Tick(scene.Start + 10*scene.Hour + 1)
	want(t, s, "a partial of an expired case", ledger.ErrWindow, by(s, scene.Dso, &ledger.Partial{Case: d.Case}))
	want(t, s, "an approval of an expired case", ledger.ErrWindow, by(s, scene.Utc, &ledger.Approve{Case: d.Case, Yes: true}))
	s.By(scene.Uta, &ledger.End{Case: d.Case, Outcome: ledger.Expire})
	if n, oldest, _ := s.State.Unsettled(0, scene.Utb, 0, math.MaxUint32); n != 1 || oldest != s.State.Bucket() {
		t.Errorf("after expiry: %d sessions in bucket %d, want 1 in %d", n, oldest, s.State.Bucket())
	}
	s.Pass(3)
	s.Do(s.Settle(scene.Utb, 0))
}

func TestDisputeFreezesMoney(t *testing.T) {
	s, d := court(t, ledger.CaseHold, ledger.ReasonBilling)
	st := s.Settle(scene.Utb, 0)
	s.Pass(3)
	want(t, s, "settling a held session", ledger.ErrBucket, st)
	want(t, s, "approving a hold", ledger.ErrWindow, by(s, scene.Dso, &ledger.Approve{Case: d.Case, Yes: true}))
	if _, state := s.State.Session(d.Refs[0]); state != ledger.CDRHeld {
		t.Errorf("session is %s, want held", state)
	}
	want(t, s, "release by another", ledger.ErrRole, by(s, scene.Utb, &ledger.End{Case: d.Case, Outcome: ledger.Release}))
	want(t, s, "cancel by another", ledger.ErrRole, by(s, scene.Utb, &ledger.End{Case: d.Case, Outcome: ledger.Cancel}))
	s.By(1, &ledger.End{Case: d.Case, Outcome: ledger.Cancel})
	if _, state := s.State.Session(d.Refs[0]); state != ledger.CDRGone {
		t.Errorf("session is %s, want cancelled", state)
	}
	c := s.CDR(scene.Utb, 0, scene.Session(10))
	c.Ref = d.Refs[0]
	want(t, s, "a cancelled ref again", ledger.ErrDuplicate, by(s, 1, c))
}

func TestReleaseAfterTheBucketWasSettledJoinsTheNext(t *testing.T) {
	s, d := court(t, ledger.CaseHold, ledger.ReasonBilling)
	s.Forget(scene.Utb, 0)
	held := s.State.Bucket()
	s.By(1, s.CDR(scene.Utb, 0, scene.Session(20)))
	s.By(1, s.CDR(scene.Utb, 0, scene.Session(30)))
	s.Do(s.Settle(scene.Utb, 0))
	s.By(1, &ledger.End{Case: d.Case, Outcome: ledger.Release})
	if n, oldest, _ := s.State.Unsettled(0, scene.Utb, 0, math.MaxUint32); n != 1 || oldest != held+1 {
		t.Errorf("after release: %d sessions in bucket %d, want 1 in %d", n, oldest, held+1)
	}
}

func TestDisputeRules(t *testing.T) {
	s, d := court(t, ledger.CaseHold, ledger.ReasonBilling)
	next := func(edit func(*ledger.Dispute)) *ledger.Dispute {
		n := *d
		n.Case[1]++
		edit(&n)
		return &n
	}
	want(t, s, "a ref in two open cases", ledger.ErrDuplicate, by(s, scene.Uta, next(func(*ledger.Dispute) {})))
	want(t, s, "a utility that is none", ledger.ErrRole, by(s, scene.Uta, next(func(n *ledger.Dispute) { n.Utility = scene.Dso; n.Refs = [][32]byte{h(1)} })))
	cdr := s.CDR(scene.Utb, 0, scene.Session(10))
	s.By(1, cdr)
	want(t, s, "a payer that is another", ledger.ErrRole, by(s, scene.Dso, next(func(n *ledger.Dispute) { n.Utility = scene.Uta; n.Refs = [][32]byte{cdr.Ref} })))
	open := next(func(n *ledger.Dispute) { n.Asks = ledger.CaseOpen; n.Refs = [][32]byte{h(1), h(2)} })
	want(t, s, "two openings in a small month", ledger.ErrLimit, by(s, scene.Dso, open))
	open.Refs = open.Refs[:1]
	s.By(scene.Dso, open)
	open2 := next(func(n *ledger.Dispute) { n.Case[2] = 9; n.Asks = ledger.CaseLink; n.Refs = [][32]byte{h(3)} })
	want(t, s, "a second opening in the month", ledger.ErrLimit, by(s, scene.Dso, open2))
	s.By(scene.Regulator, open2) // another requester
	s.Tick(scene.Start + 31*24*scene.Hour)
	s.By(scene.Dso, next(func(n *ledger.Dispute) { n.Case[2] = 10; n.Asks = ledger.CaseLink; n.Refs = [][32]byte{h(4)} }))
	want(t, s, "a vote on no case", ledger.ErrMalformed, by(s, scene.Utc, &ledger.Approve{Case: ledger.CaseID{99}}))
}

func TestOpenCasesEndAtTheirLimit(t *testing.T) {
	s := scene.New(t, 1).Begin()
	for i := range 4097 {
		d := &ledger.Dispute{Asks: ledger.CaseHold, Reason: 1, Utility: scene.Utb, Refs: [][32]byte{{byte(i), byte(i >> 8), 1}}}
		d.Case[0], d.Case[1] = byte(i), byte(i>>8)
		_, err := s.State.Apply(unsigned(t, s.State.NextSeq(1), d, 1, scene.Pub(s.Keys[1])))
		if (err != nil) != (i == 4096) {
			t.Fatalf("case %d: got %v", i, err)
		}
	}
}
