package aggregator

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"

	"gridveil/ledger"
	"gridveil/privacy"
)

// TestOnlyThePayeeMayFailADuePayment asks as everybody else would.
func TestOnlyThePayeeMayFailADuePayment(t *testing.T) {
	s := ledger.New("evagg.gridveil/test")
	var keys []ed25519.PrivateKey
	for range 3 {
		k, err := privacy.NewKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	g := &ledger.Genesis{Rules: 1, Origin: s.Origin(), Network: "test", Currencies: currencies(), Params: ledger.DefaultParams()}
	for i, name := range []string{"evagg", "uta", "utb"} {
		role := ledger.Utility
		if i == 0 {
			role = ledger.Aggregator
		}
		g.Parties = append(g.Parties, ledger.Party{Party: ledger.PartyID(i + 1), Role: role, Limit: 1e12, Name: name, Pub: ledger.Hash(keys[i].Public().(ed25519.PublicKey))})
	}
	seq := map[ledger.PartyID]uint64{}
	entry := func(author ledger.PartyID, body ledger.Body) *ledger.Entry {
		seq[author]++
		e, err := ledger.NewEntry(author, seq[author], body)
		if err != nil {
			t.Fatal(err)
		}
		signers := keys[author-1 : author]
		if body.Kind() == ledger.KindGenesis {
			signers = keys
		}
		for _, k := range signers {
			if err := ledger.Sign(e, s.Origin(), k); err != nil {
				t.Fatal(err)
			}
		}
		return e
	}
	apply := func(author ledger.PartyID, body ledger.Body) {
		t.Helper()
		if _, err := s.Apply(entry(author, body)); err != nil {
			t.Fatal(err)
		}
	}
	day := g.Params.BucketMs
	apply(1, g)
	apply(1, s.NextTick(day))
	apply(3, &ledger.Transfer{From: ledger.OpenAccount(3, 0), To: ledger.OpenAccount(2, 0), X: 5_000_000, Purpose: ledger.PurposeFee})
	apply(1, s.NextTick(day*(1+g.Params.CloseEvery)))
	apply(1, &ledger.Close{Period: 1, Pays: s.Net(0)})
	failed := &ledger.Failed{Period: 1, No: 1, Reason: ledger.FailOverdue}
	ask := func(operator string, author ledger.PartyID, f *ledger.Failed) error {
		e, err := ledger.NewEntry(author, 1, f)
		if err != nil {
			t.Fatal(err)
		}
		return mayFail(s, operator, e, f)
	}
	if ask("uta", 2, failed) == nil {
		t.Error("within the grace time")
	}
	apply(1, s.NextTick(day*(2+g.Params.CloseEvery+g.Params.Grace)))
	if err := ask("uta", 2, failed); err != nil {
		t.Errorf("the payee after the grace time: %v", err)
	}
	for name, err := range map[string]error{
		"the payer":             ask("utb", 3, failed),
		"another in its name":   ask("utb", 2, failed),
		"a payment of no close": ask("uta", 2, &ledger.Failed{Period: 2, No: 1}),
		"no payment":            ask("uta", 2, &ledger.Failed{Period: 1, No: 2}),
	} {
		if err == nil {
			t.Errorf("%s was allowed", name)
		}
	}
	apply(2, &ledger.Paid{Period: 1, No: 1})
	if ask("uta", 2, failed) == nil {
		t.Error("a payment that was confirmed")
	}
}
