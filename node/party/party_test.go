package party

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/mesh"
	"gridveil/privacy"
	"gridveil/privacy/committee"
	"gridveil/privacy/session"
)

const origin = "evagg.gridveil/test"

func draw(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	k, err := privacy.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wish(key ed25519.PrivateKey) Wish {
	bank := export.BankAccount{Salt: [32]byte{1}, IBAN: "DE89370400440532013000", BIC: "COBADEFFXXX"}
	return Wish{Bank: bank, Party: ledger.Party{Role: ledger.Utility, Approver: true, Limit: 5, Bank: bank.Hash(), Name: "northgrid", Pub: ledger.Hash(key.Public().(ed25519.PublicKey))}}
}

func TestWishesAreSignedAndTheirAccountIsTheRegisteredOne(t *testing.T) {
	key := draw(t)
	w := wish(key)
	b, err := w.Bytes(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseWish(origin, b); err != nil || got != w {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := ParseWish("other.log", b); !errors.Is(err, ErrWish) {
		t.Errorf("a wish for another log: %v", err)
	}
	stolen, err := w.Bytes(origin, draw(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseWish(origin, stolen); !errors.Is(err, ErrWish) {
		t.Errorf("a wish with somebody else's key: %v", err)
	}
	w.Bank.IBAN = "DE02120300000000202051"
	if b, err = w.Bytes(origin, key); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseWish(origin, b); !errors.Is(err, ErrWish) {
		t.Errorf("an exchanged account: %v", err)
	}
}

func TestAnOperatorSignsOnlyWhatItWished(t *testing.T) {
	key := draw(t)
	w := wish(key)
	ok := w.Party
	ok.Party = 3
	denied, richer, renamed := ok, ok, ok
	denied.Approver, richer.Limit, renamed.Name = false, 6, "southpower"
	params := ledger.DefaultParams()
	other := params
	other.RedeemStep = 1000
	for name, c := range map[string]struct {
		body ledger.Body
		good bool
	}{
		"its registration":             {&ok, true},
		"its registration, no seat":    {&denied, true},
		"another limit":                {&richer, false},
		"another name":                 {&renamed, false},
		"genesis with it":              {&ledger.Genesis{Rules: 1, Origin: origin, Params: params, Parties: []ledger.Party{{}, {}, ok}}, true},
		"genesis without it":           {&ledger.Genesis{Rules: 1, Origin: origin, Params: params, Parties: []ledger.Party{{}}}, false},
		"genesis of another log":       {&ledger.Genesis{Rules: 1, Origin: "x", Params: params, Parties: []ledger.Party{ok}}, false},
		"genesis with other steps":     {&ledger.Genesis{Rules: 1, Origin: origin, Params: other, Parties: []ledger.Party{ok}}, false},
		"a transfer of its own money":  {&ledger.Transfer{From: ledger.OpenAccount(3, 0), To: ledger.OpenAccount(1, 0), X: 1}, false},
		"the registration of somebody": {&ledger.Anchor{Topic: 1}, false},
	} {
		if err := agrees(c.body, w, origin); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignaturesOfOneEntryMerge(t *testing.T) {
	a, b, c := draw(t), draw(t), draw(t)
	entry := func(ref byte, keys ...ed25519.PrivateKey) *ledger.Entry {
		e, err := ledger.NewEntry(1, 7, &ledger.Anchor{Topic: 1, Ref: ledger.Hash{ref}})
		if err == nil {
			err = ledger.Sign(e, origin, keys...)
		}
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	all := entry(1, a, b, c)
	got, err := Merge(entry(1, a, b), entry(1, c, a))
	if err != nil || !bytes.Equal(got.Bytes(), all.Bytes()) {
		t.Errorf("merged entry differs from the one signed by all: %v", err)
	}
	if _, err := Merge(entry(1, a), entry(2, b)); err == nil {
		t.Error("signatures of two entries merged")
	}
	if !ed25519.Verify(a.Public().(ed25519.PublicKey), Signed(all, origin), signatureOf(all, a)) {
		t.Error("Signed is not what ledger.Sign signs")
	}
}

func signatureOf(e *ledger.Entry, k ed25519.PrivateKey) []byte {
	id := ledger.KeyIDOf(ledger.UseEntry, ledger.Hash(k.Public().(ed25519.PublicKey)))
	for _, s := range e.Sigs() {
		if s.Key == id {
			return s.Sig[:]
		}
	}
	return nil
}

func TestLongCallsArriveWholeOrNotAtAll(t *testing.T) {
	body := bytes.Repeat([]byte{5}, 3*partSize+11)
	var got []byte
	j := &Joiner{Answer: func(_ context.Context, _ mesh.Member, op byte, b []byte) ([]byte, error) {
		got = append([]byte{op}, b...)
		return []byte("yes"), nil
	}}
	pieces := pieces(append([]byte{7}, body...))
	for i, p := range pieces {
		answer, err := j.Handle(t.Context(), mesh.Member{}, p)
		if last := i == len(pieces)-1; err != nil || (string(answer) == "yes") != last {
			t.Fatalf("piece %d: %q, %v", i, answer, err)
		}
	}
	if !bytes.Equal(got, append([]byte{7}, body...)) {
		t.Error("the call arrived changed")
	}
	bad := append([]byte(nil), pieces[1]...)
	bad[len(bad)-1] ^= 1
	for i, p := range [][]byte{pieces[0], bad, pieces[2], pieces[3]} {
		if _, err := j.Handle(t.Context(), mesh.Member{}, p); (err != nil) != (i == 3) {
			t.Errorf("piece %d of an altered call: %v", i, err)
		}
	}
	for i := range 3 * maxJoining {
		p := append([]byte(nil), pieces[0]...)
		p[1] ^= byte(i + 1)
		if _, err := j.Handle(t.Context(), mesh.Member{}, p); err != nil {
			t.Fatal(err)
		}
	}
	if len(j.parts) > maxJoining {
		t.Errorf("%d calls remembered, at most %d", len(j.parts), maxJoining)
	}
}

func TestCommitteeTextIsBijectiveAndChecked(t *testing.T) {
	pub, _, err := committee.Deal(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseCommittee(EncodeCommittee(pub)); err != nil || got != pub {
		t.Errorf("got %v", err)
	}
	other, _, err := committee.Deal(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other.Seats[2] = pub.Seats[2]
	if _, err := ParseCommittee(EncodeCommittee(other)); err == nil {
		t.Error("a seat of another committee passes")
	}
	if got, err := ParseCommittee(EncodeCommittee(pub)[:64]); err != nil || got.Y != pub.Y {
		t.Errorf("Y alone: %v", err)
	}
}

func TestAnswersOfCasesAreBijective(t *testing.T) {
	a := &Answer{Case: ledger.CaseID{1}, Salt: [32]byte{2}, Findings: []Finding{Ours, Mismatch}, Contracts: [][16]byte{{3}}}
	got, err := ParseAnswer(a.Bytes())
	if err != nil || !bytes.Equal(got.Bytes(), a.Bytes()) || got.Hash() != a.Hash() {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, b := range map[string][]byte{"no finding": (&Answer{}).Bytes(), "unknown finding": (&Answer{Findings: []Finding{9}}).Bytes(),
		"too many": (&Answer{Findings: make([]Finding, ledger.MaxRefs+1)}).Bytes(), "cut": a.Bytes()[:30]} {
		if _, err := ParseAnswer(b); !errors.Is(err, ErrCase) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerdictsAreBijective(t *testing.T) {
	r := session.LineReject{Line: [32]byte{1}, Code: session.RejectBilled}
	list, err := ParseVerdict(Verdict([]session.LineReject{r, r}))
	if err != nil || len(list) != 2 || list[1] != r {
		t.Errorf("got %v, %v", list, err)
	}
	if list, err := ParseVerdict(Verdict(nil)); err != nil || list != nil {
		t.Errorf("nothing refused: %v, %v", list, err)
	}
}

func FuzzCalls(f *testing.F) {
	key := draw(f)
	if b, err := wish(key).Bytes(origin, key); err == nil {
		f.Add(b)
	}
	f.Add((&Answer{Findings: []Finding{Ours}}).Bytes())
	f.Add((&PayerFile{Sessions: make([]PayerSession, 1)}).Bytes())
	f.Add((&CaseFile{Sessions: make([]CaseSession, 1)}).Bytes())
	f.Add(Verdict([]session.LineReject{{Code: 1}}))
	if e, err := Draft(key, &ledger.Settle{Payer: 2, N: 1}); err == nil {
		f.Add(Proposal(e, []byte("box")))
	}
	f.Add(pieces(make([]byte, 2*partSize))[0])
	j := &Joiner{Answer: func(_ context.Context, _ mesh.Member, _ byte, b []byte) ([]byte, error) { return b, nil }}
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := ParseWish(origin, b); err == nil && w.Party.Name == "" {
			t.Fatal("a wish without a name")
		}
		if a, err := ParseAnswer(b); err == nil && !bytes.Equal(a.Bytes(), b) {
			t.Fatal("answer")
		}
		if p, err := ParsePayerFile(b); err == nil && !bytes.Equal(p.Bytes(), b) {
			t.Fatal("payer file")
		}
		if c, err := ParseCaseFile(b); err == nil && !bytes.Equal(c.Bytes(), b) {
			t.Fatal("case file")
		}
		if v, err := ParseVerdict(b); err == nil && !bytes.Equal(Verdict(v), b) && len(v) <= MaxRejects {
			t.Fatal("verdict")
		}
		_, _, _ = ParseProposal(b)
		_, _ = j.Handle(context.Background(), mesh.Member{}, b) // must not panic
	})
}
