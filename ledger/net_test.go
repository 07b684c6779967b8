package ledger_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

// checkNet tests the promises of prorata-1 for one set of balances.
func checkNet(t *testing.T, open []int64, minor int64) {
	t.Helper()
	pays := ledger.Net(open, minor)
	left := slices.Clone(open)
	payers, payees := map[ledger.PartyID]bool{}, map[ledger.PartyID]bool{}
	var total, owed uint64
	for i, p := range pays {
		if p.Minor == 0 || p.Payer == p.Payee || open[p.Payer-1] >= 0 || open[p.Payee-1] < minor {
			t.Fatalf("%v: payment %+v", open, p)
		}
		if i > 0 && (p.Payer < pays[i-1].Payer || p.Payee < pays[i-1].Payee) {
			t.Fatalf("%v: payments are not in party order: %v", open, pays)
		}
		payers[p.Payer], payees[p.Payee] = true, true
		left[p.Payer-1] += int64(p.Minor) * minor
		left[p.Payee-1] -= int64(p.Minor) * minor
		total += p.Minor
	}
	if len(pays) > max(len(payers)+len(payees)-1, 0) {
		t.Fatalf("%v: %d payments for %d payers and %d payees", open, len(pays), len(payers), len(payees))
	}
	for i, v := range open {
		if v >= minor {
			owed += uint64(v / minor)
		}
		if v >= 0 && (left[i] < 0 || left[i] >= minor) {
			t.Fatalf("%v: creditor %d is left with %d", open, i+1, left[i])
		}
		if v < 0 && left[i] >= minor {
			t.Fatalf("%v: debtor %d pays %d too much", open, i+1, left[i])
		}
	}
	if total != owed {
		t.Fatalf("%v: %d units paid of %d", open, total, owed)
	}
}

// balanced makes balances whose debts cover the credits, as the ledger's do.
func balanced(r *rand.Rand, n int, most int64) []int64 {
	open := make([]int64, n)
	for i := range n / 2 * 2 {
		x := r.Int64N(most)
		open[i] += x
		open[r.IntN(n)] -= x + r.Int64N(2)*r.Int64N(most)
	}
	return open
}

func TestRandomNettingsKeepTheirPromises(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		checkNet(t, balanced(r, 2+r.IntN(12), 1+r.Int64N(1_000_000_000)), []int64{1, 10_000, 1_000_000}[r.IntN(3)])
	}
}

func TestNetExamples(t *testing.T) {
	for _, c := range []struct {
		name string
		open []int64
		want []ledger.Pay
	}{
		{"nobody owes", []int64{0, 0}, nil},
		{"less than a minor unit is not paid", []int64{9_999, -9_999}, nil},
		{"the design's example", []int64{400_000, 6_000_000, -7_000_000}, []ledger.Pay{{Payer: 3, Payee: 1, Minor: 40}, {Payer: 3, Payee: 2, Minor: 600}}},
		{"equal remainders go to the lower party", []int64{-10_000, -10_000, -10_000, 10_000}, []ledger.Pay{{Payer: 1, Payee: 4, Minor: 1}}},
		{"the larger remainder goes first", []int64{-10_000, -20_000, 20_000}, []ledger.Pay{{Payer: 1, Payee: 3, Minor: 1}, {Payer: 2, Payee: 3, Minor: 1}}},
		{"the largest debt of all", []int64{math.MinInt64 + 1, math.MaxInt64}, []ledger.Pay{{Payer: 1, Payee: 2, Minor: math.MaxInt64 / 10_000}}},
	} {
		if got := ledger.Net(c.open, 10_000); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestCloseRules(t *testing.T) {
	s := scene.New(t, 1).Begin()
	for i, x := range []int64{5, 7} {
		s.By(scene.Utb, &ledger.Transfer{From: ledger.OpenAccount(scene.Utb, 0), To: ledger.OpenAccount(scene.Uta+ledger.PartyID(2*i), 0), X: x * scene.Unit})
	}
	pays := s.State.Net(0)
	closeWith := func(edit func(c *ledger.Close)) scene.Step {
		c := &ledger.Close{Period: 1, Pays: slices.Clone(pays)}
		edit(c)
		return by(s, 1, c)
	}
	same := func(*ledger.Close) {}
	want(t, s, "too early", ledger.ErrWindow, closeWith(same))
	s.Pass(2)
	want(t, s, "another period", ledger.ErrWindow, closeWith(func(c *ledger.Close) { c.Period = 2 }))
	want(t, s, "a unit less", ledger.ErrNetting, closeWith(func(c *ledger.Close) { c.Pays[0].Minor-- }))
	want(t, s, "another order", ledger.ErrNetting, closeWith(func(c *ledger.Close) { slices.Reverse(c.Pays) }))
	want(t, s, "a payment less", ledger.ErrNetting, closeWith(func(c *ledger.Close) { c.Pays = c.Pays[1:] }))
	want(t, s, "a currency that is not there", ledger.ErrMalformed, closeWith(func(c *ledger.Close) { c.Cur = 9 }))
	s.Do(closeWith(same))
	want(t, s, "again at once", ledger.ErrWindow, closeWith(func(c *ledger.Close) { c.Period = 2; c.Pays = nil }))

	uta := pays[0].Payee
	failed := scene.Step{Author: uta, Body: &ledger.Failed{Period: 1, No: 1, Reason: ledger.FailReturned}, Signers: s.As(uta, scene.Evagg)}
	want(t, s, "failed within the grace time", ledger.ErrWindow, failed)
	want(t, s, "paid of another close", ledger.ErrMalformed, by(s, uta, &ledger.Paid{Period: 2, No: 1}))
	want(t, s, "payment 0", ledger.ErrMalformed, by(s, uta, &ledger.Paid{Period: 1, No: 0}))
	want(t, s, "payment 3 of 2", ledger.ErrMalformed, by(s, uta, &ledger.Paid{Period: 1, No: 3}))
	s.By(uta, &ledger.Paid{Period: 1, No: 1})
	want(t, s, "paid twice", ledger.ErrDuplicate, by(s, uta, &ledger.Paid{Period: 1, No: 1}))
	s.Pass(1)
	want(t, s, "failed after paid", ledger.ErrDuplicate, failed)
	dso := pays[1].Payee
	before := s.State.Total(scene.Utb, 0)
	s.Do(scene.Step{Author: dso, Body: &ledger.Failed{Period: 1, No: 2, Reason: ledger.FailOverdue}, Signers: s.As(dso, scene.Evagg)})
	if got := s.State.Total(scene.Utb, 0); got != before {
		t.Errorf("failed payment: total of the debtor went from %d to %d", before, got)
	}
	if got := s.State.Balance(ledger.OpenAccount(dso, 0)); got != 7*scene.Unit {
		t.Errorf("failed payment: the creditor's open book has %d, want it back", got)
	}
	s.Pass(1)
	s.By(1, &ledger.Close{Period: 2, Pays: s.State.Net(0)})
}

// TestAPaymentComesBackBeyondTheLimit: a party may fall below its limit when it is
// paid what it had spent already. A payment of its own that failed still comes
// back: nothing falls by that.
func TestAPaymentComesBackBeyondTheLimit(t *testing.T) {
	s := scene.New(t, 1).Begin()
	move := func(from, to ledger.PartyID, x int64) {
		s.By(from, &ledger.Transfer{From: ledger.OpenAccount(from, 0), To: ledger.OpenAccount(to, 0), X: x, Purpose: ledger.PurposeFeedIn, Ref: s.Bytes32()})
	}
	move(scene.Utb, scene.Uta, 900*scene.Unit)
	s.Pass(2)
	s.By(scene.Evagg, &ledger.Close{Period: 1, Pays: s.State.Net(0)})
	move(scene.Uta, scene.Dso, 1500*scene.Unit) // 600 below zero: the 900 are due
	s.Pass(2)
	s.By(scene.Evagg, &ledger.Close{Period: 2, Pays: s.State.Net(0)})
	s.By(scene.Uta, &ledger.Paid{Period: 1, No: 1, BankRef: s.Bytes32()})
	if got := s.State.Total(scene.Uta, 0); got != -1500*scene.Unit {
		t.Fatalf("total %d", got)
	}
	s.Pass(1)
	s.Do(scene.Step{Author: scene.Dso, Body: &ledger.Failed{Period: 2, No: 1, Reason: ledger.FailOverdue}, Signers: s.As(scene.Evagg, scene.Dso)})
	if got := s.State.Balance(ledger.OpenAccount(scene.Uta, 0)); got != -1500*scene.Unit {
		t.Errorf("open %d", got)
	}
	if err := s.Try(scene.Step{Author: scene.Uta, Body: &ledger.Transfer{From: ledger.OpenAccount(scene.Uta, 0), To: ledger.OpenAccount(scene.Dso, 0), X: 1,
		Purpose: ledger.PurposeFeedIn}, Signers: s.As(scene.Uta)}); !errors.Is(err, ledger.ErrLimit) {
		t.Errorf("more debt: %v", err)
	}
}
