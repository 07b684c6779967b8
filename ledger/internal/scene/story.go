package scene

import (
	"gridveil/ledger"
	"gridveil/privacy/commit"
)

// Story tells a scene in which every kind of entry happens. Each step goes
// through do, which must apply it (Scene.Do does); a test may first try broken
// variants of it. The scene must be empty.
func (s *Scene) Story(do func(Step) uint64) {
	by := func(author ledger.PartyID, body ledger.Body) uint64 { return do(Step{author, body, s.As(author)}) }
	tick := func(hours uint64) { by(Evagg, s.State.NextTick(s.Now()+hours*Hour)) }
	do(s.Found())
	by(Evagg, s.State.NextTick(Start))
	s.registry(do, by)
	s.day(do, by, tick)
	s.notes(by)
	s.netting(do, by, tick)
	s.dispute(do, by, tick)
}

func (s *Scene) registry(do func(Step) uint64, by func(ledger.PartyID, ledger.Body) uint64) {
	late := &ledger.Party{Party: Late, Role: ledger.ConsumerBody, Approver: true, Name: "Late Watch", Pub: Pub(s.Keys[Late])}
	do(Step{Evagg, late, s.As(Evagg, Late, Dso, Regulator, Consumers)})
	receipt := &ledger.Key{Add: true, Use: ledger.UseReceipt, Pub: Pub(s.Receipt)}
	do(Step{Evagg, receipt, append(s.As(Evagg), Signer{ledger.UseReceipt, s.Receipt})})
	spare := s.Key()
	do(Step{Utc, &ledger.Key{Add: true, Use: ledger.UseEntry, Pub: Pub(spare)}, append(s.As(Utc), Signer{ledger.UseEntry, spare})})
	by(Utc, &ledger.Key{Use: ledger.UseEntry, Pub: Pub(spare)})
	by(Evagg, s.Denoms())
	by(Utb, &ledger.Tariff{Hash: s.Bytes32(), From: Start, To: Start + 24*Hour})
	by(Dso, &ledger.Anchor{Topic: ledger.TopicTask, Ref: s.Bytes32()})
}

func (s *Scene) day(do func(Step) uint64, by func(ledger.PartyID, ledger.Body) uint64, tick func(uint64)) {
	for kwh := int64(10); kwh <= 20; kwh += 5 {
		by(Evagg, s.CDR(Utb, 0, Session(kwh)))
	}
	direct := commit.Values{Pay: 9 * Unit, Earn: 5 * Unit, GridPay: 2 * Unit, Energy: 20 * Unit}
	by(Evagg, s.CDR(Utb, Uta, direct))
	tick(1)
	v2g := commit.Values{Pay: 1 * Unit, Earn: 4 * Unit, GridPay: -5 * Unit, Energy: -8 * Unit}
	by(Evagg, s.CDR(Utc, Uta, v2g))
	by(Evagg, s.CDR(Utc, Uta, v2g))
	tick(3) // the single direct session may be opened after max_wait
	do(s.Settle(Utb, 0))
	do(s.Settle(Utb, Uta))
	do(s.Settle(Utc, Uta))
	by(Dso, &ledger.Transfer{From: ledger.OpenAccount(Dso, 0), To: ledger.OpenAccount(Uta, 0), X: 3*Unit + 7, Purpose: ledger.PurposeFlexibility, Ref: s.Bytes32()})
	at := by(Uta, &ledger.Transfer{From: ledger.OpenAccount(Uta, 0), To: ledger.EarnedAccount(0), X: Unit, Purpose: ledger.PurposeHousehold, Ref: s.Bytes32()})
	by(Evagg, &ledger.Reverse{Target: at, Leaf: ledger.LeafHash(s.Log[at])})
}

func (s *Scene) notes(by func(ledger.PartyID, ledger.Body) uint64) {
	by(Evagg, &ledger.Issue{Epoch: Month, Claims: 3, Root: s.Bytes32(), Counts: []uint32{5, 3, 1}})
	by(Uta, s.Redeem(ledger.OpenAccount(Uta, 0), s.Note(0), s.Note(0), s.Note(1)))
	by(Evagg, s.Redeem(ledger.EarnedAccount(0), s.Note(1)))
}

func (s *Scene) netting(do func(Step) uint64, by func(ledger.PartyID, ledger.Body) uint64, tick func(uint64)) {
	pays := s.State.Net(0)
	by(Evagg, &ledger.Close{Period: 1, Pays: pays})
	by(pays[0].Payee, &ledger.Paid{Period: 1, No: 1, BankRef: s.Bytes32()})
	tick(1)
	payee := pays[1].Payee
	signers := s.As(Evagg)
	if payee != Evagg {
		signers = s.As(Evagg, payee)
	}
	do(Step{payee, &ledger.Failed{Period: 1, No: 2, Reason: ledger.FailOverdue}, signers})
}

func (s *Scene) dispute(do func(Step) uint64, by func(ledger.PartyID, ledger.Body) uint64, tick func(uint64)) {
	cdr := s.CDR(Utb, 0, Session(12))
	by(Evagg, cdr)
	s.Forget(Utb, 0)
	id := ledger.CaseID{1}
	by(Evagg, &ledger.Dispute{Case: id, Asks: ledger.CaseOpen, Reason: ledger.ReasonBilling, Utility: Utb, Evidence: s.Bytes32(), Refs: [][32]byte{cdr.Ref}})
	for _, seat := range []ledger.PartyID{Dso, Regulator, Utc} {
		by(seat, &ledger.Approve{Case: id, Yes: true})
	}
	by(Consumers, &ledger.Approve{Case: id})
	tick(2)
	for _, seat := range []ledger.PartyID{Dso, Regulator, Utc} {
		by(seat, &ledger.Partial{Case: id, CT: s.Bytes32()})
	}
	by(Utb, &ledger.Result{Case: id, Answer: s.Bytes32()})
	by(Evagg, &ledger.End{Case: id, Outcome: ledger.Release})
	by(Evagg, s.State.NextTick(Start+501*Hour))
	by(Evagg, &ledger.Lapse{Epoch: Month})
}

// Transfers adds n transfers between random operators.
func (s *Scene) Transfers(n int) {
	s.TB.Helper()
	for range n {
		from := Uta + ledger.PartyID(s.N(3))
		to := Evagg + (from-Evagg+ledger.PartyID(1+s.N(6)))%7
		s.By(from, &ledger.Transfer{From: ledger.OpenAccount(from, 0), To: ledger.OpenAccount(to, 0), X: int64(1 + s.N(Unit)),
			Purpose: ledger.PurposeFeedIn, Ref: s.Bytes32()})
	}
}
