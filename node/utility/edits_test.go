package utility

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"gridveil/node/bill"
	"gridveil/node/identity"
	"gridveil/node/model"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/vee"
)

// TestARejectedValueIsBilledOnceAPersonAnswersForIt edits the one reading of two days
// that a check rejected.
func TestARejectedValueIsBilledOnceAPersonAnswersForIt(t *testing.T) {
	st, err := store.Open(t.TempDir(), store.MasterKey{1}, store.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	up := model.UsagePoint{7}
	u := &Utility{env: &role.Env{Store: st, ID: &identity.Identity{Key: ed25519.NewKeyFromSeed(make([]byte, 32))}},
		byPoint: map[model.UsagePoint]*Contract{up: {UsagePoint: up, State: model.ReadImport, Plan: PlanFlat}}}
	blocks := weeks(3, uneven, func(int64) bool { return false })
	start := time.UnixMilli(dayMS).UTC()
	end := start.Add(24 * time.Hour)
	bad := &blocks[1].Readings[40]
	truth := bad.Register
	put := func() {
		t.Helper()
		for _, b := range blocks {
			b.UsagePoint = up
			raw, err := b.Encode()
			if err == nil {
				err = st.Set(blockKey(&b), raw)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	put()
	whole, err := u.Bill(up, start, end)
	if err != nil || len(whole.Edited) != 0 {
		t.Fatalf("%+v, %v", whole, err)
	}
	bad.Register, bad.Flags, bad.Quality = 9*truth, uint32(vee.Rejecting), model.QualityRaw
	put()
	if _, err := u.Bill(up, start, end); !errors.Is(err, bill.ErrNotBillable) {
		t.Fatalf("a rejected value is billed: %v", err)
	}
	asked := EditAsked{Channel: model.ImportTotal, Slot: bad.Slot, Register: truth, By: "N. Ohm", Why: "display read on site"}
	for what, change := range map[string]func(*EditAsked){
		"no reading":            func(q *EditAsked) { q.Slot++ },
		"another register":      func(q *EditAsked) { q.Channel = model.ExportTotal },
		"no check rejected":     func(q *EditAsked) { q.Slot -= quarterMS },
		"cannot have been":      func(q *EditAsked) { q.Register = 9 * truth },
		"cannot have been 0":    func(q *EditAsked) { q.Register = 0 },
		"who answers":           func(q *EditAsked) { q.By = "" },
		"field out of range":    func(q *EditAsked) { q.Why = "line\nbreak" },
		"why: --by and --why":   func(q *EditAsked) { q.Why = "" },
		"so it is billed as":    func(q *EditAsked) { q.Slot = start.UnixMilli() },
		"a gap is estimated, `": func(q *EditAsked) { q.Slot = 9 * dayMS },
	} {
		q := asked
		change(&q)
		if what == "another register" {
			what = "no reading"
		}
		if _, err := u.EditReading(up, q, end); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("want %q, got %v", what, err)
		}
	}
	if e, err := u.EditReading(up, asked, end); err != nil || e.Before != 9*truth || e.After != truth {
		t.Fatalf("%+v, %v", e, err)
	}
	b, err := u.Bill(up, start, end)
	if err != nil || b.Total != whole.Total || b.Estimated != 1 || len(b.Edited) != 1 || b.Edited[0].Why != "N. Ohm: display read on site" || b.Edited[0].Before != 9*truth {
		t.Errorf("billed %+v, want a total of %d; %v", b, whole.Total, err)
	}
	if raw, err := u.Blocks(up); err != nil || raw[1].Readings[40].Register != 9*truth {
		t.Errorf("the signed reading was changed: %v", err)
	}
	// The head-end pushes what was right all along: the edit stands back.
	bad.Register, bad.Flags, bad.Quality = truth, 0, model.QualityValid
	put()
	if b, err := u.Bill(up, start, end); err != nil || b.Total != whole.Total || len(b.Edited) != 0 {
		t.Errorf("billed %+v, %v", b, err)
	}
	// Nobody else's hand edits.
	if err := st.Update(func(tx *store.Tx) error {
		e := vee.Edit{UsagePoint: up, Channel: model.ImportTotal, Slot: start.UnixMilli(), Why: "x"}
		if err := e.Sign(ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))); err != nil {
			return err
		}
		raw, err := e.Encode()
		if err != nil {
			return err
		}
		return tx.Set(editKey(up, e.Channel, e.Slot), raw)
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Bill(up, start, end); !errors.Is(err, vee.ErrInvalidEdit) {
		t.Errorf("an edit under another key: %v", err)
	}
}
