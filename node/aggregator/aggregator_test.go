package aggregator_test

import (
	"path/filepath"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/utility"
	"gridveil/privacy/note"
)

// TestSessionBecomesACosignedEntryAndNotes is the thinnest thread: authorised,
// settled, entered, signed by the payer, cosigned, billed, collected, swapped and
// redeemed, all between real nodes.
func TestSessionBecomesACosignedEntryAndNotes(t *testing.T) {
	s := newScene(t, "bucket = \"1h\"\n")
	x := moveIn(s)
	v := x.drive(trip{grid: 52_000_000, res: 8_000_000})
	s.eventually("a cosigned settlement", func() bool {
		l := s.evagg().Ledger(0)
		return s.kinds()[ledger.KindSettle] == 1 && l.CosignedSize == l.Size
	})
	x.mintKeys()
	earned := x.collect(v)
	if earned != 18_080_000 {
		t.Errorf("the host earns %d, want 18.08", earned)
	}
	if again := s.kinds(); again[ledger.KindCDR] != 1 || again[ledger.KindIssue] != 1 {
		t.Errorf("entries: %v", again)
	}
	reply, err := x.hand(v, v.settle)
	if err != nil || len(reply) == 0 {
		t.Errorf("a repeated record: %v", err)
	}
	s.eventually("the driver's bill", func() bool {
		b, err := s.utility("utility-b").DriverBill(x.driverKey())
		return err == nil && len(b.Lines) == 1 && b.Total == 18_080_000+900_000 && b.Lines[0].In == 60_000_000
	})
	bent := append([]byte(nil), v.settle...)
	bent[len(bent)-1] ^= 1
	service, op := route(bent)
	if _, err := s.asks("home", must(s.operators("home").Aggregator()).Key, service, op, bent); refusedWith(err) != nil {
		t.Errorf("other bytes for a settled session: %v", err)
	}
	if err := refusedWith(lastOf(s.asks("home", must(s.operators("home").Aggregator()).Key, mesh.EVRecord, ask.Settle, v.auth))); err != nil {
		t.Errorf("an AuthReq as record: %v", err)
	}
}

// TestNotesComeHome collects, swaps and redeems what a session earned, and finds
// it as a credit on the home's ordinary bill. A step that was spent before is
// refused.
func TestNotesComeHome(t *testing.T) {
	s := newScene(t, "bucket = \"1h\"\n")
	home := s.places["home"].node.Host.Self().Key
	if _, err := s.utility("utility-a").Open(utility.NewContract{Gateway: home}); err != nil {
		t.Fatal(err)
	}
	x := moveIn(s)
	v := x.drive(trip{grid: 90_000_000})
	x.mintKeys()
	if earned := x.collect(v); earned != 28_800_000 {
		t.Fatalf("the host earns %d, want 28.80", earned)
	}
	x.swap()
	handle := ask.Contract(s.places["home"].node.Env.ID.Bundle.Network, home)
	u := must(s.operators("home").Utility("northgrid"))
	b, err := s.asks("home", u.Key, mesh.Notes, ask.Account, []byte{byte(ask.Currency >> 8), byte(ask.Currency & 255)})
	s.must(err)
	account := must(ask.ParseAccount(b))
	stored := x.purse.Bytes()
	op := must(x.purse.RedeemStep(s.clock.Now(), ask.Currency, uint32(account), handle[:]))
	body := ask.RedeemBody(handle, must(x.purse.RedeemRequest(op.ID)).Bytes())
	if _, err := s.asks("home", u.Key, mesh.Notes, ask.Redeem, body); err != nil {
		t.Fatalf("redeem: %v", err)
	}
	if credit := must(s.utility("utility-a").Credits(home)); credit != 20_000_000 {
		t.Errorf("credit on the bill: %d, want 20.00", credit)
	}
	thief := must(note.OpenWallet([32]byte{3}, must(s.operators("home").Origin()), stored))
	other := must(thief.RedeemStep(s.clock.Now(), ask.Currency, uint32(account), append([]byte(nil), handle[:]...)))
	again := ask.RedeemBody(handle, must(thief.RedeemRequest(other.ID)).Bytes())
	if string(again) != string(body) {
		if err := refusedWith(lastOf(s.asks("home", u.Key, mesh.Notes, ask.Redeem, again))); err != nil {
			t.Errorf("the same notes again: %v", err)
		}
	}
	bent := append([]byte(nil), body...)
	bent[0] ^= 1
	if err := refusedWith(lastOf(s.asks("home", u.Key, mesh.Notes, ask.Redeem, bent))); err != nil {
		t.Errorf("redeem for another contract: %v", err)
	}
}

// TestExportStandsAlone verifies an export by its files, with the policy that a
// home knows.
func TestExportStandsAlone(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\nclose_every = 1\n")
	x := moveIn(s)
	x.drive(trip{grid: 30_000_000})
	s.eventually("a close", func() bool { return s.kinds()[ledger.KindClose] > 0 && s.kinds()[ledger.KindSettle] == 1 })
	s.eventually("a payment file", func() bool {
		dir := t.TempDir() + "/export"
		r, err := s.evagg().Export(dir)
		if err != nil {
			t.Logf("export: %v", err)
			return false
		}
		if _, err := export.Verify(dir, must(s.operators("home").Policy())); err != nil {
			t.Fatalf("verify: %v", err)
		}
		files, _ := filepath.Glob(dir + "/payments/*.xml")
		return r.Kinds["close"] > 0 && len(files) > 0
	})
}

func lastOf(_ []byte, err error) error { return err }
