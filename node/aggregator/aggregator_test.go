package aggregator_test

import (
	"testing"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/node/ask"
)

// TestSessionBecomesACosignedEntryAndNotes is the thinnest thread: authorised,
// settled, entered, signed by the payer, cosigned, billed, collected, swapped and
// redeemed, all between real nodes.
func TestSessionBecomesACosignedEntryAndNotes(t *testing.T) {
	s := newScene(t, "")
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
		b, err := s.utility("utility-b").DriverBill(s.places["driver"].node.Host.Self().Key)
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

func lastOf(_ []byte, err error) error { return err }
