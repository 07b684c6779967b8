package aggregator_test

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"

	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/node/store"
	"gridveil/privacy/session"
)

// TestRefusedLineIsBorneByTheAggregator has a utility find that it billed a
// pseudonym before: it signs the other session only, and the host of the refused
// one is paid all the same.
func TestRefusedLineIsBorneByTheAggregator(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\n")
	x := moveIn(s)
	bad, good := x.open(trip{grid: 10_000_000}), x.open(trip{grid: 20_000_000})
	key := store.SpaceBill.Key([]byte("row"), bad.me.BSK.Public().(ed25519.PublicKey))
	st := s.places["utility-b"].node.Store
	var row map[string]any
	s.must(json.Unmarshal(must(st.Get(key)), &row))
	row["Billed"] = true
	s.must(st.Set(key, must(json.Marshal(row))))
	x.end(bad, trip{grid: 10_000_000})
	x.end(good, trip{grid: 20_000_000})
	s.eventually("everything settled or borne", func() bool { return s.evagg().Counts() == settle.Counts{} && s.kinds()[ledger.KindSettle] > 0 })
	n := s.kinds()
	if n[ledger.KindCDR] != 2 || n[ledger.KindDispute] != 1 || n[ledger.KindEnd] != 1 || n[ledger.KindTransfer] != 1 {
		t.Errorf("entries: %v, want one hold, its end and one transfer", n)
	}
	x.mintKeys()
	if a, b := x.collect(bad), x.collect(good); a != 3_200_000 || b != 6_400_000 {
		t.Errorf("hosts earn %d and %d", a, b)
	}
	if b := must(s.utility("utility-b").DriverBill(x.driverKey())); len(b.Lines) != 1 || b.Lines[0].In != 20_000_000 {
		t.Errorf("the driver's bill: %+v", b)
	}
}

// TestRevokedPseudonymOpensNothing ends a driver's contract while its deck is
// full.
func TestRevokedPseudonymOpensNothing(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\n")
	x := moveIn(s)
	x.drive(trip{grid: 5_000_000})
	s.must(s.utility("utility-b").CloseDriver(x.driverKey()))
	s.eventually("the aggregator's no", func() bool {
		v, err := x.ask(trip{grid: 1})
		s.must(err)
		return v.host.Phase() == session.Refused && v.driver.Cause() == session.CauseRevoked
	})
	if _, err := s.utility("utility-b").DriverBill(x.driverKey()); err != nil {
		t.Errorf("the bill of an ended contract: %v", err)
	}
}

// TestLateOperatorJoinsAndCosigns founds the ledger without one verifier.
func TestLateOperatorJoinsAndCosigns(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\nfounders = [\"northgrid\", \"southpower\", \"watchdog\"]\n", "towngrid")
	x := moveIn(s)
	x.drive(trip{grid: 5_000_000})
	s.eventually("a settlement", func() bool { return s.kinds()[ledger.KindSettle] == 1 })
	s.run("towngrid")
	s.eventually("its registration and its signature", func() bool {
		l := s.evagg().Ledger(0)
		return s.verifier("towngrid").ID() == 5 && len(l.Cosigners) == 4 && l.Quorum == "4 of 4 cosigners"
	})
	s.evagg().Read(func(st *ledger.State) {
		if p := st.Parties(); len(p) != 5 || p[4].Name != "towngrid" || p[4].Approver {
			t.Errorf("parties: %+v; a seat is taken at the founding only", p)
		}
	})
	s.eventually("the home knows the new cosigner", func() bool { // its sheet reaches homes by gossip
		policy, err := s.operators("home").Policy()
		return err == nil && len(policy.Witnesses) == 4
	})
	v := x.drive(trip{grid: 5_000_000})
	x.mintKeys()
	if x.collect(v) != 1_600_000 {
		t.Error("a session after the change is not paid")
	}
}
