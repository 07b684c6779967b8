package ask

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"gridveil/ev"
	"gridveil/ledger"
	"gridveil/privacy/note"
)

// answerOf plays an onion between Long and a Desk, and counts its messages.
func answerOf(t *testing.T, d *Desk, calls *int) func([]byte) ([]byte, error) {
	return func(req []byte) ([]byte, error) {
		*calls++
		if len(req) > 11_500 {
			t.Fatalf("request of %d bytes does not fit one onion request", len(req))
		}
		b := d.Handle(req)
		if len(b) > 11_499 {
			t.Fatalf("answer of %d bytes does not fit one onion answer", len(b))
		}
		return ParseAnswer(b)
	}
}

func TestLongRequestsAndAnswersArriveWhole(t *testing.T) {
	for _, size := range []int{0, 1, maxWhole - 1, maxWhole, 3*maxWhole + 7, maxParts*maxWhole - 1} {
		body := bytes.Repeat([]byte{7}, size)
		calls := 0
		d := &Desk{Answer: func(op Op, got []byte) ([]byte, error) {
			if op != Swap || !bytes.Equal(got, body) {
				t.Errorf("size %d: the desk saw op %d with %d bytes", size, op, len(got))
			}
			return append([]byte("answer"), got...), nil
		}}
		if size > maxParts*maxWhole-10 {
			d.Answer = func(Op, []byte) ([]byte, error) { return []byte("answer"), nil }
		}
		got, err := Long(answerOf(t, d, &calls), Swap, body)
		if err != nil || !bytes.HasPrefix(got, []byte("answer")) {
			t.Errorf("size %d: %v after %d calls", size, err, calls)
		}
		if size < maxParts*maxWhole-10 && len(got) != size+6 {
			t.Errorf("size %d: answer of %d bytes", size, len(got))
		}
	}
	if _, err := Long(func([]byte) ([]byte, error) { return nil, nil }, Swap, make([]byte, maxParts*maxWhole)); !errors.Is(err, ErrParts) {
		t.Errorf("above the limit: %v", err)
	}
}

func TestForgottenPiecesAreAskedForAgain(t *testing.T) {
	d := &Desk{Answer: func(Op, []byte) ([]byte, error) { return make([]byte, 3*maxWhole), nil }}
	hash := sha256.Sum256([]byte("unknown"))
	var later *NotYetError
	if _, err := ParseAnswer(d.Handle(Request(Rest, append(hash[:], 1)))); !errors.As(err, &later) {
		t.Errorf("unknown answer: %v", err)
	}
	part := append(append(hash[:], 1, 2), []byte("second")...)
	if _, err := ParseAnswer(d.Handle(Request(Part, part))); !errors.As(err, &later) {
		t.Errorf("second part first: %v", err)
	}
	for i := range 3 * maxLong {
		h := sha256.Sum256([]byte{byte(i)})
		d.Handle(Request(Part, append(append(h[:], 0, 2), 'x')))
	}
	if len(d.long) > maxLong || len(d.order) > maxLong {
		t.Errorf("%d long messages remembered, at most %d", len(d.long), maxLong)
	}
}

func TestHouseholdBodiesAreBijective(t *testing.T) {
	k := WeekKey{Zone: 3, Week: 2900, Fees: ev.FeeSheet{Currency: Currency, PerKWhIn: 15_000}}
	k.Modulus[0] = 9
	b, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseWeekKey(b); err != nil || got != k {
		t.Errorf("week key: %+v, %v", got, err)
	}
	r := PassRequest{Week: 2900, Claim: [32]byte{1}, Zone: "elm", Slots: new(note.PassSlots)}
	if got, err := ParsePassRequest(r.Bytes()); err != nil || got.Zone != "elm" || !bytes.Equal(got.Bytes(), r.Bytes()) {
		t.Errorf("pass request: %v", err)
	}
	c := []OpenCase{{Ref: [32]byte{4}, ID: ledger.CaseID{5}, Kind: 2, Reason: 3, Opened: 6}}
	if got, err := ParseCases(CasesAnswer(c)); err != nil || len(got) != 1 || got[0] != c[0] {
		t.Errorf("cases: %+v, %v", got, err)
	}
	p := Proven{Entry: []byte("entry"), Proof: []byte("proof")}
	if got, err := ParseProven(p.Bytes()); err != nil || !bytes.Equal(got.Bytes(), p.Bytes()) {
		t.Errorf("proven: %v", err)
	}
	if a, err := ParseAccount(AccountAnswer(ledger.OpenAccount(3, 0))); err != nil || a != ledger.OpenAccount(3, 0) {
		t.Errorf("account: %v, %v", a, err)
	}
	cur, epoch, err := ParseDenomsBody(DenomsBody(Currency, 202606))
	if err != nil || cur != Currency || epoch != 202606 {
		t.Errorf("denoms: %v", err)
	}
	if index, err := ParseIssueBody(IssueBody(1 << 40)); err != nil || index != 1<<40 {
		t.Errorf("issue: %d, %v", index, err)
	}
}

func FuzzBodies(f *testing.F) {
	f.Add([]byte{0, 0})
	f.Add(CasesAnswer([]OpenCase{{}}))
	f.Add(PassRequest{Slots: new(note.PassSlots), Zone: "z"}.Bytes())
	d := &Desk{Answer: func(_ Op, b []byte) ([]byte, error) { return b, nil }}
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParseWeekKey(b); err == nil {
			if again, err := k.Bytes(); err != nil || !bytes.Equal(again, b) {
				t.Fatal("week key")
			}
		}
		if r, err := ParsePassRequest(b); err == nil && !bytes.Equal(r.Bytes(), b) {
			t.Fatal("pass request")
		}
		if c, err := ParseCases(b); err == nil && !bytes.Equal(CasesAnswer(c), b) {
			t.Fatal("cases")
		}
		if p, err := ParseProven(b); err == nil && !bytes.Equal(p.Bytes(), b) {
			t.Fatal("proven")
		}
		if index, err := ParseIssueBody(b); err == nil && !bytes.Equal(IssueBody(index), b) {
			t.Fatal("issue")
		}
		_, _ = ParseAnswer(d.Handle(b)) // must not panic
	})
}
