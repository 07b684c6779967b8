package session

import (
	"crypto/ed25519"
	"errors"
	"testing"

	"gridveil/privacy"
)

// TestBatchIsCheckedLineByLine: a utility signs only what its own drivers
// signed.
func TestBatchIsCheckedLineByLine(t *testing.T) {
	evagg, utility := vectorKey(t, "evagg"), vectorKey(t, "utility")
	id := [16]byte{6}
	rows := map[[32]byte]Row{}
	line := func(name string, form LineForm, total int64) (Line, ed25519.PrivateKey) {
		k := vectorKey(t, name)
		l := Line{BPK: pub(k), Form: form, EVAGG: id, Epoch: 2931, In: 7_300_000, Total: total, Currency: 978}
		if form == Mandate {
			l.Band = 20
			a := billAuth{EVAGG: id, Epoch: l.Epoch, Band: l.Band}
			l.Sig = privacy.Sign(k, privacy.KindBillAuth, vectorNet, a.body())
		} else {
			s := l.stub()
			l.Sig = privacy.Sign(k, privacy.KindStub, vectorNet, s.body())
		}
		rows[l.BPK] = Row{Epoch: 2931, Limit: 40}
		return l, k
	}
	biller := Biller{Net: vectorNet, EVAGG: id, Key: pub(evagg), Sign: utility, Row: func(b [32]byte) (Row, bool) { r, ok := rows[b]; return r, ok }}
	check := func(t *testing.T, lines ...Line) (Totals, []LineReject) {
		t.Helper()
		b, err := NewBillBatch(vectorNet, evagg, id, 978, [32]byte{1}, lines)
		if err != nil {
			t.Fatal(err)
		}
		_, sum, rejects, err := biller.Check(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rejects {
			back, err := ParseLineReject(r.Bytes())
			if err != nil || back.Verify(vectorNet, pub(utility)) != nil {
				t.Errorf("reject does not verify: %v", err)
			}
		}
		return sum, rejects
	}
	good, _ := line("a", Signed, 1_810_000)
	cut, _ := line("b", Mandate, 900_000)
	if sum, rejects := check(t, good, cut); len(rejects) != 0 || sum != (Totals{2, 2_710_000, 14_600_000}) {
		t.Fatalf("good batch: got %+v, %d rejects", sum, len(rejects))
	}
	for _, c := range []struct {
		name string
		bend func(l *Line)
		row  func(r *Row)
		want RejectCode
	}{
		{"a bill key of nobody", func(l *Line) { l.BPK[0] ^= 1 }, nil, RejectUnknown},
		{"a row of another week", nil, func(r *Row) { r.Epoch++ }, RejectUnknown},
		{"a row billed before", nil, func(r *Row) { r.Billed = true }, RejectBilled},
		{"an amount the driver did not sign", func(l *Line) { l.Total += 10_000 }, nil, RejectSignature},
		{"an energy the driver did not sign", func(l *Line) { l.In += 100_000 }, nil, RejectSignature},
		{"an energy finer than 100 Wh", func(l *Line) { l.In++ }, nil, RejectForeign},
		{"another currency", func(l *Line) { l.Currency = 756 }, nil, RejectForeign},
		{"another aggregator", func(l *Line) { l.EVAGG[0]++ }, nil, RejectForeign},
		{"more than the row's limit", nil, func(r *Row) { r.Limit = 1 }, RejectLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, old := good, rows[good.BPK]
			if c.bend != nil {
				c.bend(&l)
			}
			if c.row != nil {
				r := old
				c.row(&r)
				rows[good.BPK] = r
				defer func() { rows[good.BPK] = old }()
			}
			sum, rejects := check(t, l, cut)
			if len(rejects) != 1 || rejects[0].Code != c.want || rejects[0].Line != l.Hash() || sum.Lines != 1 {
				t.Errorf("got %+v, %+v, want one reject: %v", sum, rejects, c.want)
			}
		})
	}
	t.Run("a cut line above the mandate's band", func(t *testing.T) {
		l, _ := line("c", Mandate, 20_010_000)
		if _, rejects := check(t, l); len(rejects) != 1 || rejects[0].Code != RejectLimit {
			t.Errorf("got %+v", rejects)
		}
	})
	t.Run("a batch signed by somebody else", func(t *testing.T) {
		b, err := NewBillBatch(vectorNet, utility, id, 978, [32]byte{1}, []Line{good})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := biller.Check(b.Bytes()); !errors.Is(err, ErrSignature) {
			t.Errorf("got %v, want ErrSignature", err)
		}
	})
}
