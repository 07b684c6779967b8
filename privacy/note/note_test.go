package note

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"testing"
	"time"

	"github.com/cloudflare/circl/blindsign/blindrsa"

	"gridveil/privacy"
	"gridveil/privacy/internal/golden"
)

// brokenReader fails the test if anything reads it.
type brokenReader struct{ t *testing.T }

func (r brokenReader) Read([]byte) (int, error) {
	r.t.Error("something reads the system's randomness")
	return 0, io.ErrUnexpectedEOF
}

// TestSeededBlindKAT: blinding reads the seeded stream and nothing else, so a
// crash repeats the very same request; and the bytes never change between
// releases of gridveil, circl or Go, which would turn a repeated request into
// another one.
func TestSeededBlindKAT(t *testing.T) {
	key := mustFixedKey(t)
	pub := mustPublic(t, privacy.UseNote, key)
	system := rand.Reader
	rand.Reader = brokenReader{t}
	b, err := blind(seed(1), pub, 7)
	rand.Reader = system
	if err != nil {
		t.Fatal(err)
	}
	fill, err := filler(seed(1), pub, 7)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := blindSign(key, b.slot)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := b.finish(answer)
	if err != nil {
		t.Fatal(err)
	}
	var n Note
	id := pub.ID()
	copy(n[:], id[:])
	copy(n[8:], b.serial)
	copy(n[40:], sig[:])
	if err := Verify(&n, pub); err != nil {
		t.Error(err)
	}
	null := Nullifier(&n)
	bind := Bind([32]byte{1}, []byte("purpose"))
	s := seed(1)
	line := func(n string, v []byte) golden.Line { return golden.Line{Name: n, Value: v} }
	golden.Check(t, "note", line("seed", s[:]), line("blinded", b.slot[:]), line("filler", fill[:]), line("blind_signature", answer[:]),
		line("note", n[:]), line("nullifier", null[:]), line("bind", bind[:]), line("spend_message", SpendMessage(origin, 0x01020304, bind)))
}

func TestBlindingDependsOnSeedKeyAndCounter(t *testing.T) {
	m := mustMint(t)
	seen := map[Slot]string{}
	for name, f := range map[string]func() (blinded, error){
		"one":           func() (blinded, error) { return blind(seed(1), m.denoms.Keys[0], 1) },
		"other seed":    func() (blinded, error) { return blind(seed(2), m.denoms.Keys[0], 1) },
		"other key":     func() (blinded, error) { return blind(seed(1), m.denoms.Keys[1], 1) },
		"other counter": func() (blinded, error) { return blind(seed(1), m.denoms.Keys[0], 2) },
	} {
		b, err := f()
		if err != nil {
			t.Fatal(err)
		}
		if old, ok := seen[b.slot]; ok {
			t.Errorf("%s and %s blind to the same slot", old, name)
		}
		seen[b.slot] = name
	}
}

func TestRFC9474Vector(t *testing.T) {
	v := golden.Read(t, "rfc9474-a3")
	num := func(name string) *big.Int { return new(big.Int).SetBytes(v[name]) }
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: num("n"), E: int(num("e").Int64())}, D: num("d"), Primes: []*big.Int{num("p"), num("q")}}
	if err := verifyPSS(&key.PublicKey, v["msg"], v["sig"]); err != nil {
		t.Errorf("the RFC's signature: %v", err)
	}
	got, err := blindrsa.NewSigner(key).BlindSign(v["blinded_msg"])
	if err != nil || !bytes.Equal(got, v["blind_sig"]) {
		t.Errorf("the RFC's blind signature: %v", err)
	}
	client, err := blindrsa.NewClient(blindrsa.SHA384PSSDeterministic, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Verify(v["msg"], v["sig"]); err != nil {
		t.Errorf("circl on the RFC's signature: %v", err)
	}
	v["sig"][5] ^= 1
	if err := verifyPSS(&key.PublicKey, v["msg"], v["sig"]); !errors.Is(err, ErrSignature) {
		t.Errorf("a changed signature: %v", err)
	}
}

func TestBadNotesAreRefused(t *testing.T) {
	b := newBank(t)
	w := NewWallet(seed(9), origin)
	mustCollect(t, b, w, 9, 1)
	good, _ := w.note(&w.notes[0])
	pub := b.mint.denoms.Keys[0]
	if err := Verify(&good, pub); err != nil {
		t.Fatal(err)
	}
	n := new(big.Int).SetBytes(good[40:])
	plusN := n.Add(n, pub.rsa.N)
	for name, c := range map[string]struct {
		bend func(*Note)
		want error
	}{
		"another serial":            {func(n *Note) { n[8] ^= 1 }, ErrSignature},
		"a changed signature":       {func(n *Note) { n[295] ^= 1 }, ErrSignature},
		"no signature":              {func(n *Note) { clear(n[40:]) }, ErrSignature},
		"another key's id":          {func(n *Note) { id := b.mint.denoms.Keys[5].ID(); copy(n[:], id[:]) }, ErrKey},
		"the signature plus N":      {func(n *Note) { writeIfFits(n, plusN) }, ErrSignature},
		"a note of a higher amount": {func(n *Note) { id := b.mint.denoms.Keys[12].ID(); copy(n[:], id[:]) }, ErrKey},
	} {
		bent := good
		c.bend(&bent)
		if bent == good {
			continue // signature plus N has 2049 bits for half of all keys
		}
		if err := Verify(&bent, pub); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	client, err := blindrsa.NewVerifier(blindrsa.SHA384PSSDeterministic, &pub.rsa)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Verify(good[8:40], good[40:]); err != nil {
		t.Errorf("circl refuses what the standard library takes: %v", err)
	}
}

func writeIfFits(n *Note, v *big.Int) {
	if v.BitLen() <= keyBits {
		v.FillBytes(n[40:])
	}
}

func TestBadKeysAreRefused(t *testing.T) {
	good := mustMint(t).denoms.Keys[0].Modulus()
	even, short := good, good
	even[255] &^= 1
	short[0] = 0
	for name, mod := range map[string][]byte{"even": even[:], "2040 bits": short[:], "cut": good[:255], "longer": append([]byte{0}, good[:]...), "empty": nil} {
		if _, err := ParseKey(privacy.UseNote, mod); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	note, err := ParseKey(privacy.UseNote, good[:])
	if err != nil {
		t.Fatal(err)
	}
	pass, err := ParseKey(privacy.UsePass, good[:])
	if err != nil {
		t.Fatal(err)
	}
	if note.ID() == pass.ID() {
		t.Error("one id for two uses")
	}
}

func TestTheMintRefusesInputsOutOfRange(t *testing.T) {
	m := mustMint(t)
	n := m.denoms.Keys[0].Modulus()
	above := Slot(bytes.Repeat([]byte{0xff}, SlotSize))
	for name, slot := range map[string]Slot{"0": {}, "N": n, "2^2048 - 1": above} {
		if _, err := m.Sign(1, &Row{slot}); !errors.Is(err, ErrSlot) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := m.Sign(MaxAmount+1, &Row{}); !errors.Is(err, ErrAmount) {
		t.Errorf("8192 minor units: %v", err)
	}
}

// The mint signs the amount's slots and no other, and its filler cannot be told
// from a signature by its form.
func TestTheMintSignsExactlyTheAmount(t *testing.T) {
	m := mustMint(t)
	w := NewWallet(seed(3), origin)
	op, err := w.Collect(m.Denoms(), MaxAmount)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := w.Rows(op.ID, m.Denoms())
	if err != nil {
		t.Fatal(err)
	}
	const amount = 0b1_0000_0000_0101
	first, err := m.Sign(amount, rows[0])
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Sign(amount, rows[0])
	if err != nil || *again != *first {
		t.Errorf("the same request gets another answer: %v", err)
	}
	for i := range Slots {
		b, err := blind(w.seed, m.denoms.Keys[i], op.ID)
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.finish(first[i])
		if signed := err == nil; signed != (amount>>i&1 == 1) {
			t.Errorf("slot %d signed: %v", i, signed)
		}
		if !inRange(first[i], m.keys[i].N) {
			t.Errorf("slot %d is out of range", i)
		}
	}
	if err := w.Finish(op.ID, m.Denoms(), []*Row{first}); !errors.Is(err, ErrSignature) || len(w.notes) != 0 {
		t.Errorf("a wallet takes less than the amount: %v, %d notes", err, len(w.notes))
	}
}

func TestAStoredMintIsTheSameMint(t *testing.T) {
	m := mustMint(t)
	raw, err := m.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseMint(raw)
	if err != nil {
		t.Fatal(err)
	}
	for i := range Slots {
		if again.denoms.Keys[i].id != m.denoms.Keys[i].id {
			t.Errorf("denomination %d changed", i)
		}
	}
	if again.denoms.Epoch != m.denoms.Epoch || again.denoms.Currency != eur || again.fill != m.fill {
		t.Error("month, currency or filler changed")
	}
	for name, b := range map[string][]byte{"cut": raw[:len(raw)-1], "longer": append(bytes.Clone(raw), 0), "empty": nil, "noise": []byte("GVM1 noise that is long enough for a head of 42 bytes")} {
		if _, err := ParseMint(b); !errors.Is(err, ErrEncoding) && !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	keys := m.keys
	keys[4] = keys[3]
	if _, err := mintOf(eur, 202606, keys, m.fill); !errors.Is(err, ErrKey) {
		t.Errorf("one key for two denominations: %v", err)
	}
	if _, err := mintOf(eur, 202613, m.keys, m.fill); !errors.Is(err, ErrEncoding) {
		t.Errorf("month 13: %v", err)
	}
}

func TestWindowsFollowTheMonth(t *testing.T) {
	issue, redeem, swap := Windows(202611)
	for _, c := range []struct {
		got  time.Time
		want string
	}{{issue, "2026-12-01"}, {redeem, "2027-02-01"}, {swap, "2027-03-01"}} {
		if s := c.got.Format("2006-01-02"); s != c.want {
			t.Errorf("got %s, want %s", s, c.want)
		}
	}
	if Epoch(time.Date(2026, 12, 31, 23, 30, 0, 0, time.FixedZone("", -3600))) != 202701 {
		t.Error("the month is not that of UTC")
	}
}

func TestDelaysStayInTheirBounds(t *testing.T) {
	rnd := privacy.SeededReader("delays")
	for range 200 {
		s, err := SwapDelay(rnd)
		if err != nil || s < time.Hour || s > 48*time.Hour {
			t.Fatalf("swap delay %v, %v", s, err)
		}
		r, err := RedeemDelay(rnd)
		if err != nil || r < 3*24*time.Hour || r > 30*24*time.Hour {
			t.Fatalf("redeem delay %v, %v", r, err)
		}
	}
}

func TestAPassIsTheHostKeyOfOneSession(t *testing.T) {
	key := mustFixedKey(t)
	m, err := passMintOf(4, 2943, key)
	if err != nil {
		t.Fatal(err)
	}
	req, err := RequestPasses(seed(5), m.Public())
	if err != nil {
		t.Fatal(err)
	}
	again, err := RequestPasses(seed(5), m.Public())
	if err != nil || *again != *req {
		t.Fatalf("a repeated request differs: %v", err)
	}
	if req, err = ParsePassSlots(req.Bytes()); err != nil {
		t.Fatal(err)
	}
	answer, err := m.Sign(req)
	if err != nil {
		t.Fatal(err)
	}
	passes, err := FinishPasses(seed(5), m.Public(), answer)
	if err != nil || len(passes) != PassesPerWeek {
		t.Fatal(err)
	}
	seen := map[[32]byte]bool{}
	for _, p := range passes {
		hpk := [32]byte(p.HSK[32:])
		if seen[hpk] {
			t.Error("two passes share a host key")
		}
		seen[hpk] = true
		if err := VerifyPass(m.Public(), hpk, p.Sig); err != nil {
			t.Error(err)
		}
		if bytes.Contains(req.Bytes(), hpk[:]) || bytes.Contains(answer.Bytes(), hpk[:]) {
			t.Error("the mint sees a host key")
		}
	}
	if err := VerifyPass(m.Public(), [32]byte(passes[0].HSK[32:]), passes[1].Sig); !errors.Is(err, ErrSignature) {
		t.Errorf("another pass's signature: %v", err)
	}
	answer[3], answer[4] = answer[4], answer[3]
	if _, err := FinishPasses(seed(5), m.Public(), answer); !errors.Is(err, ErrSignature) {
		t.Errorf("answers exchanged: %v", err)
	}
	raw, err := m.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := ParsePassMint(raw)
	if err != nil || stored.Public().ID() != m.Public().ID() || stored.Zone != 4 || stored.Week != 2943 {
		t.Errorf("stored pass mint: %v", err)
	}
	if _, err := m.Sign(&PassSlots{}); !errors.Is(err, ErrSlot) {
		t.Errorf("empty slots: %v", err)
	}
}

func TestAClaimIsAnsweredForOneRequest(t *testing.T) {
	var c Claims
	id := [32]byte{1}
	claim, fresh, err := c.Accept(id, []byte("request"))
	if err != nil || !fresh {
		t.Fatalf("first: %v", err)
	}
	if _, fresh, err = c.Accept(id, []byte("request")); err != nil || fresh {
		t.Errorf("same bytes again: fresh %v, %v", fresh, err)
	}
	if _, _, err = c.Accept(id, []byte("other")); !errors.Is(err, ErrCollected) {
		t.Errorf("other bytes: %v", err)
	}
	var restarted Claims
	restarted.Restore(claim)
	if _, _, err = restarted.Accept(id, []byte("other")); !errors.Is(err, ErrCollected) {
		t.Errorf("other bytes after a restart: %v", err)
	}
	if all := restarted.All(); len(all) != 1 || all[0] != claim {
		t.Errorf("All: %v", all)
	}
	restarted.Forget(id)
	if len(restarted.All()) != 0 {
		t.Error("a forgotten claim stays")
	}
}

func TestASpendIsBoundToLedgerPayeeAndPurpose(t *testing.T) {
	b := newBank(t)
	w := NewWallet(seed(8), origin)
	mustCollect(t, b, w, 8, RedeemStep)
	mustSwap(t, b, w, 0)
	op, err := w.RedeemStep(june, eur, utbAcc, []byte("contract"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := w.RedeemRequest(op.ID)
	if err != nil {
		t.Fatal(err)
	}
	if req, err = ParseRedeemRequest(req.Bytes()); err != nil {
		t.Fatal(err)
	}
	if sum, err := req.Check(&b.reg, origin, utbAcc, []byte("contract"), june); err != nil || sum != RedeemStep {
		t.Fatalf("good: %d, %v", sum, err)
	}
	_, redeemTo, swapTo := Windows(Epoch(june))
	twice := *req
	twice.Notes = append([]Spent{req.Notes[1]}, req.Notes[1:]...)
	fewer := *req
	fewer.Notes = req.Notes[:5]
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"another ledger":     {second(req.Check(&b.reg, "other", utbAcc, []byte("contract"), june)), ErrSignature},
		"another payee":      {second(req.Check(&b.reg, origin, utbAcc+1, []byte("contract"), june)), ErrSignature},
		"another purpose":    {second(req.Check(&b.reg, origin, utbAcc, []byte("contracT"), june)), ErrSignature},
		"unknown keys":       {second(req.Check(&Registry{}, origin, utbAcc, []byte("contract"), june)), ErrKey},
		"after the window":   {second(req.Check(&b.reg, origin, utbAcc, []byte("contract"), redeemTo)), ErrLate},
		"a note twice":       {second(twice.Check(&b.reg, origin, utbAcc, []byte("contract"), june)), ErrTwice},
		"no full step":       {second(fewer.Check(&b.reg, origin, utbAcc, []byte("contract"), june)), ErrAmount},
		"swap after the end": {second(req.check(&b.reg, eur, origin, utbAcc, []byte("contract"), swapTo, true)), ErrLate},
		"another currency":   {second(req.check(&b.reg, 756, origin, utbAcc, []byte("contract"), june, false)), ErrKey},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: got %v, want %v", name, c.err, c.want)
		}
	}
}

func second(_ uint32, err error) error { return err }

func FuzzDecoders(f *testing.F) {
	m := mustMint(f)
	raw, err := m.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	w := NewWallet(seed(1), origin)
	op, err := w.Collect(m.Denoms(), 5)
	if err != nil {
		f.Fatal(err)
	}
	rows, err := w.Rows(op.ID, m.Denoms())
	if err != nil {
		f.Fatal(err)
	}
	swap := &SwapRequest{Currency: eur, Epoch: 202606, Amounts: []uint16{5}, Rows: rows, Payment: Payment{Notes: make([]Spent, 1)}}
	f.Add(raw)
	f.Add(w.Bytes())
	f.Add(swap.Bytes())
	f.Add(RowsReply(rows))
	f.Add((&RedeemRequest{eur, swap.Payment}).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := ParseSwapRequest(b); err == nil {
			if !bytes.Equal(x.Bytes(), b) {
				t.Error("a swap request has two encodings")
			}
			_ = x.Check(&Registry{}, origin, earned, june)
		}
		if x, err := ParseRedeemRequest(b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("a redeem request has two encodings")
		}
		if x, err := ParseRowsReply(b); err == nil && !bytes.Equal(RowsReply(x), b) {
			t.Error("a reply has two encodings")
		}
		if x, err := OpenWallet(seed(1), origin, b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("a wallet has two encodings")
		}
		if x, err := ParseRow(b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("a row has two encodings")
		}
		if x, err := ParsePassSlots(b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("pass slots have two encodings")
		}
		_, _ = ParseMint(b)
		_, _ = ParsePassMint(b)
		_, _ = ParseKey(privacy.UseNote, b)
	})
}

func TestVectorsOfMessages(t *testing.T) {
	key := mustPublic(t, privacy.UseNote, mustFixedKey(t))
	slot, err := filler(seed(1), key, 1)
	if err != nil {
		t.Fatal(err)
	}
	row := &Row{0: slot}
	pay := Payment{Salt: [32]byte{1}, Notes: []Spent{{Note: Note{1, 2, 3}, Spend: [64]byte{4, 5, 6}}}}
	redeem := (&RedeemRequest{eur, pay}).Bytes()
	swap := (&SwapRequest{eur, 202606, []uint16{1}, []*Row{row}, pay}).Bytes()
	if len(redeem) != 4+33+spentSize || hex.EncodeToString(redeem[:4]) != "400103d2" {
		t.Errorf("redeem request begins %x, %d bytes", redeem[:4], len(redeem))
	}
	golden.Check(t, "messages", golden.Line{Name: "redeem", Value: redeem}, golden.Line{Name: "swap", Value: swap}, golden.Line{Name: "swap_reply", Value: RowsReply([]*Row{row})})
}
