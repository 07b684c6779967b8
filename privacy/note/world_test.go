package note

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"sync"
	"testing"
	"time"

	"gridveil/privacy"
)

const (
	eur    = 978
	origin = "ledger.example/test"
	earned = 978 << 2 // any account number serves here
	utbAcc = 3<<8 | 978<<2
)

var june = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

// RSA keys are slow to make: one mint serves all tests of the package.
var sharedMint = sync.OnceValues(func() (*Mint, error) { return NewMint(eur, Epoch(june)) })

func mustMint(t testing.TB) *Mint {
	t.Helper()
	m, err := sharedMint()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The test key of RFC 9500: vectors need a key that does not change.
func mustFixedKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	raw, err := os.ReadFile("testdata/testRSA2048.rfc9500.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	k, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustPublic(t testing.TB, use privacy.Use, k *rsa.PrivateKey) *PublicKey {
	t.Helper()
	p, err := publicOf(use, k)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func seed(b byte) (s [32]byte) { s[0] = b; return s }

// bank is a mint with the part of a ledger that notes need: who may collect,
// which nullifiers are spent, how much of each is outstanding.
type bank struct {
	mint     *Mint
	reg      Registry
	claims   Claims
	spent    map[[32]byte]bool
	issued   uint64
	swapped  uint64
	redeemed uint64
}

func newBank(t testing.TB) *bank {
	b := &bank{mint: mustMint(t), spent: map[[32]byte]bool{}}
	b.reg.Add(b.mint.Denoms())
	return b
}

// collect answers a claim as an aggregator does.
func (b *bank) collect(claim [32]byte, minor uint16, row *Row) (*Row, error) {
	_, fresh, err := b.claims.Accept(claim, row.Bytes())
	if err != nil {
		return nil, err
	}
	if fresh {
		b.issued += uint64(minor)
	}
	return b.mint.Sign(minor, row)
}

// spend refuses the whole payment if one nullifier was seen, as a ledger entry.
func (b *bank) spend(notes []Spent) bool {
	for i := range notes {
		if b.spent[Nullifier(&notes[i].Note)] {
			return false
		}
	}
	for i := range notes {
		b.spent[Nullifier(&notes[i].Note)] = true
	}
	return true
}

// mustCollect puts an amount into a wallet.
func mustCollect(t testing.TB, b *bank, w *Wallet, claim byte, minor uint16) {
	t.Helper()
	d := b.mint.Denoms()
	op, err := w.Collect(d, minor)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := w.Rows(op.ID, d)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := b.collect([32]byte{claim, byte(op.ID)}, minor, rows[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(op.ID, d, []*Row{answer}); err != nil {
		t.Fatal(err)
	}
}

// mustSwap swaps what the wallet offers.
func mustSwap(t testing.TB, b *bank, w *Wallet, want uint16) {
	t.Helper()
	d := b.mint.Denoms()
	op, err := w.Swap(june, d, want, earned)
	if err != nil {
		t.Fatal(err)
	}
	req, err := w.SwapRequest(op.ID, d)
	if err != nil {
		t.Fatal(err)
	}
	if req, err = ParseSwapRequest(req.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := req.Check(&b.reg, origin, earned, june); err != nil {
		t.Fatal(err)
	}
	if !b.spend(req.Notes) {
		t.Fatal("swap refused")
	}
	rows, err := b.mint.SignSwap(req)
	if err != nil {
		t.Fatal(err)
	}
	if rows, err = ParseRowsReply(RowsReply(rows)); err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(op.ID, d, rows); err != nil {
		t.Fatal(err)
	}
}
