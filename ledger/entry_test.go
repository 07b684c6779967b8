package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/privacy/note"
)

var (
	long   = flag.Bool("long", false, "run the long versions of the tests")
	update = flag.Bool("update", false, "write the golden vectors anew")
)

// h fills a hash with one byte.
func h(b byte) (v [32]byte) {
	for i := range v {
		v[i] = b
	}
	return v
}

// oneOfEach has a body of every kind, every field set.
func oneOfEach() []ledger.Body {
	var modulus [256]byte
	for i := range modulus {
		modulus[i] = byte(255 - i)
	}
	spent := note.Spent{Spend: [64]byte{1, 2, 3}}
	for i := range spent.Note {
		spent.Note[i] = byte(i)
	}
	id := ledger.CaseID{0xca, 0x5e}
	party := ledger.Party{Party: 9, Role: ledger.DSO, Approver: true, Limit: 5_000_000, Bank: h(1), Name: "Netz", Pub: h(2)}
	return []ledger.Body{
		&ledger.Genesis{Rules: 1, Origin: "example.org/log", Network: "net", Currencies: []ledger.Currency{{ISO4217: 978, Exp: 2}},
			Params: ledger.DefaultParams(), Parties: []ledger.Party{party}},
		&party,
		&ledger.Key{Add: true, Use: ledger.UseReceipt, Pub: h(3)},
		&ledger.Denoms{Cur: 1, Epoch: 202603, IssueTo: 10, RedeemTo: 20, SwapTo: 30, Keys: []ledger.DenomKey{{Minor: 4, N: modulus}}},
		&ledger.Tariff{Hash: h(4), From: 100, To: 200},
		&ledger.Tick{Ms: 1772409600000, State: h(5)},
		&ledger.Anchor{Topic: ledger.TopicMeterBatch, Ref: h(6)},
		&ledger.Seal{Next: "example.org/log/2027"},
		&ledger.Shard{Rules: 1, Origin: "example.org/log", Params: ledger.DefaultParams(), Sealed: []byte("example.org/log/2025\n17\n" + strings.Repeat("A", 43) + "=\n\nsigned"), State: h(21)},
		&ledger.CDR{Cur: 0, Bucket: 20514, Payer: 3, Grid: 2, Ref: h(7), Evidence: h(8), Commit: h(9), Tariff: 17},
		&ledger.Settle{Payer: 3, Grid: 2, To: 20515, N: 33, Pay: 7_000_000, Earn: 6_600_000, GridPay: -5, Energy: 20_000_000, Blind: h(10)},
		&ledger.Transfer{From: ledger.OpenAccount(2, 0), To: ledger.EarnedAccount(0), X: 42, Purpose: ledger.PurposeHousehold, Ref: h(11)},
		&ledger.Reverse{Target: 99, Leaf: h(12)},
		&ledger.Issue{Epoch: 202603, Claims: 40, Root: h(13), Counts: []uint32{1, 0, 3}},
		&ledger.Redeem{Payee: ledger.OpenAccount(2, 0), Bind: h(14), Notes: []note.Spent{spent}},
		&ledger.Lapse{Cur: 2, Epoch: 202512},
		&ledger.Close{Period: 4, Cur: 1, Pays: []ledger.Pay{{Payer: 3, Payee: 2, Minor: 640}}},
		&ledger.Paid{Period: 4, Cur: 1, No: 1, BankRef: h(15)},
		&ledger.Failed{Period: 4, Cur: 1, No: 2, Reason: ledger.FailReturned},
		&ledger.Dispute{Case: id, Asks: ledger.CaseLink, Reason: ledger.ReasonMeter, Utility: 3, Evidence: h(16), Refs: [][32]byte{h(17), h(18)}},
		&ledger.Approve{Case: id, Yes: true},
		&ledger.Partial{Case: id, CT: h(19)},
		&ledger.Result{Case: id, Answer: h(20)},
		&ledger.End{Case: id, Outcome: ledger.Cancel},
	}
}

// sample is a signed entry of the body, the same bytes in every run.
func sample(tb testing.TB, body ledger.Body) *ledger.Entry {
	tb.Helper()
	e, err := ledger.NewEntry(3, 7, body)
	if err != nil {
		tb.Fatalf("%s: %v", body.Kind(), err)
	}
	one, two := h(0x51), h(0x52)
	if err := ledger.Sign(e, "example.org/log", ed25519.NewKeyFromSeed(one[:]), ed25519.NewKeyFromSeed(two[:])); err != nil {
		tb.Fatal(err)
	}
	return e
}

func TestParseAndBytesAreInverse(t *testing.T) {
	for _, body := range oneOfEach() {
		e := sample(t, body)
		p, err := ledger.Parse(e.Bytes())
		if err != nil {
			t.Errorf("%s: %v", body.Kind(), err)
			continue
		}
		if !bytes.Equal(p.Bytes(), e.Bytes()) || !bytes.Equal(ledger.EncodeBody(p.Body()), ledger.EncodeBody(body)) {
			t.Errorf("%s: parsed entry has other bytes", body.Kind())
		}
		for n := range e.Bytes() {
			if _, err := ledger.Parse(e.Bytes()[:n]); !errors.Is(err, ledger.ErrMalformed) {
				t.Fatalf("%s cut to %d bytes: got %v, want %v", body.Kind(), n, err, ledger.ErrMalformed)
			}
		}
		if _, err := ledger.Parse(append(bytes.Clone(e.Bytes()), 0)); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("%s with a byte more: got %v", body.Kind(), err)
		}
	}
}

func TestCDREntryHas209Bytes(t *testing.T) {
	e, err := ledger.NewEntry(1, 1, &ledger.CDR{})
	if err != nil {
		t.Fatal(err)
	}
	one := h(1)
	if err := ledger.Sign(e, "o", ed25519.NewKeyFromSeed(one[:])); err != nil {
		t.Fatal(err)
	}
	if len(e.Bytes()) != 209 {
		t.Errorf("CDR entry has %d bytes, want 209", len(e.Bytes()))
	}
}

func TestParseRefusesASecondEncoding(t *testing.T) {
	good := sample(t, &ledger.Approve{Case: ledger.CaseID{1}, Yes: true}).Bytes()
	for _, c := range []struct {
		name string
		edit func(b []byte) []byte
		want error
	}{
		{"other magic", func(b []byte) []byte { b[0] = 'X'; return b }, ledger.ErrMalformed},
		{"unknown kind", func(b []byte) []byte { b[4] = 0x99; return b }, ledger.ErrKind},
		{"party 0", func(b []byte) []byte { copy(b[5:9], make([]byte, 4)); return b }, ledger.ErrMalformed},
		{"sequence number 0", func(b []byte) []byte { copy(b[9:17], make([]byte, 8)); return b }, ledger.ErrMalformed},
		{"boolean 2", func(b []byte) []byte { b[19+16] = 2; return b }, ledger.ErrMalformed},
		{"no signature", func(b []byte) []byte { b[19+17] = 0; return b[:19+18] }, ledger.ErrMalformed},
		{"nine signatures", func(b []byte) []byte {
			b = b[:19+18]
			b[19+17] = 9
			for i := range 9 {
				b = append(b, bytes.Repeat([]byte{byte(i + 1)}, 72)...)
			}
			return b
		}, ledger.ErrMalformed},
		{"signatures out of order", func(b []byte) []byte {
			s := bytes.Clone(b[19+18:])
			return append(append(b[:19+18], s[72:]...), s[:72]...)
		}, ledger.ErrMalformed},
		{"one signature twice", func(b []byte) []byte { return append(b[:19+18+72], b[19+18:19+18+72]...) }, ledger.ErrMalformed},
		{"body longer than the entry", func(b []byte) []byte { b[17] = 0xff; return b }, ledger.ErrMalformed},
	} {
		if _, err := ledger.Parse(c.edit(bytes.Clone(good))); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestNewEntryRefusesBodiesOutOfRange(t *testing.T) {
	for name, body := range map[string]ledger.Body{
		"transfer of nothing":           &ledger.Transfer{X: 0},
		"negative transfer":             &ledger.Transfer{X: -1},
		"redeem of no note":             &ledger.Redeem{},
		"redeem of 129 notes":           &ledger.Redeem{Notes: make([]note.Spent, ledger.MaxNotes+1)},
		"close of too many payments":    &ledger.Close{Pays: make([]ledger.Pay, ledger.MaxPays+1)},
		"tariff that ends at its start": &ledger.Tariff{From: 1, To: 1},
		"dispute over one ref twice":    &ledger.Dispute{Asks: ledger.CaseHold, Reason: 1, Refs: [][32]byte{h(1), h(1)}},
		"dispute over nine refs":        &ledger.Dispute{Asks: ledger.CaseHold, Reason: 1, Refs: make([][32]byte, 9)},
		"unknown outcome":               &ledger.End{Outcome: 4},
		"limit below zero":              &ledger.Party{Role: ledger.Utility, Limit: -1},
		"role 0":                        &ledger.Party{},
	} {
		if _, err := ledger.NewEntry(1, 1, body); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("%s: got %v, want %v", name, err, ledger.ErrMalformed)
		}
	}
}

func TestSigningAgainReplacesTheSignature(t *testing.T) {
	e := sample(t, &ledger.Lapse{Epoch: 202601})
	once := bytes.Clone(e.Bytes())
	one := h(0x51)
	if err := ledger.Sign(e, "example.org/log", ed25519.NewKeyFromSeed(one[:])); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(e.Bytes(), once) {
		t.Error("a second signature of the same key changed the entry")
	}
	for i := range 7 {
		seed := h(byte(0x60 + i))
		err := ledger.Sign(e, "example.org/log", ed25519.NewKeyFromSeed(seed[:]))
		if (i == 6) != errors.Is(err, ledger.ErrSigners) {
			t.Fatalf("signature %d: got %v", i+3, err)
		}
	}
}

// TestVectors compares every kind with its golden bytes. A changed layout takes
// a new kind or version, never an edit of these files.
func TestVectors(t *testing.T) {
	for _, body := range oneOfEach() {
		e := sample(t, body)
		text := fmt.Sprintf("kind: %s\norigin: example.org/log\nentry: %s\nleaf: %x\nexpect: parses, bytes equal\n", body.Kind(), hex.EncodeToString(e.Bytes()), e.Leaf())
		file := filepath.Join("testdata", "vectors", body.Kind().String()+".txt")
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(want) != text {
			t.Errorf("%s differs from %s", body.Kind(), file)
		}
		_, line, _ := strings.Cut(string(want), "entry: ")
		line, _, _ = strings.Cut(line, "\n")
		raw, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ledger.Parse(raw); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, body := range oneOfEach() {
		f.Add(sample(f, body).Bytes())
	}
	s := scene.New(f, 3)
	s.Story(s.Do)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ledger.Parse(b)
		if err != nil {
			if !errors.Is(err, ledger.ErrMalformed) && !errors.Is(err, ledger.ErrKind) {
				t.Fatalf("parse: %v", err)
			}
			return
		}
		if !bytes.Equal(e.Bytes(), b) {
			t.Fatal("Bytes differs from what was parsed")
		}
		again, err := ledger.NewEntry(e.Party(), e.Seq(), e.Body())
		if err != nil || !bytes.Equal(again.Bytes()[:len(again.Bytes())-1], b[:len(again.Bytes())-1]) {
			t.Fatalf("a second encoding exists: %v", err)
		}
		if checks, err := s.State.Checks(e); err == nil && ledger.VerifyOne(checks) == nil {
			t.Fatal("a fuzzed entry verifies")
		}
	})
}

func FuzzRestore(f *testing.F) {
	s := scene.New(f, 3)
	s.Story(s.Do)
	f.Add(s.State.Snapshot())
	f.Add(ledger.New(scene.Origin).Snapshot())
	f.Fuzz(func(t *testing.T, b []byte) {
		state, err := ledger.Restore(scene.Origin, b)
		if err != nil {
			if !errors.Is(err, ledger.ErrDamaged) {
				t.Fatalf("restore: %v", err)
			}
			return
		}
		if !bytes.Equal(state.Snapshot(), b) {
			t.Fatal("a second snapshot of the same state")
		}
	})
}
