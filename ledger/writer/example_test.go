package writer_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"

	"gridveil/ledger"
	"gridveil/ledger/store"
	"gridveil/ledger/writer"
)

// A log of one operator that needs no witness: genesis goes in, a receipt comes
// out, and the entry is final with the next checkpoint.
func Example() {
	key := func(n byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(append(make([]byte, 31), n)) }
	pub := func(k ed25519.PrivateKey) ledger.Hash { return ledger.Hash(k.Public().(ed25519.PublicKey)) }
	operator, logKey, receiptKey := key(1), key(2), key(3)
	const origin = "example.org/log"
	dir, err := os.MkdirTemp("", "log")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	w, err := writer.Open(writer.Config{
		Dir:     dir,
		Store:   store.Options{MemTableBytes: 1 << 20, SegmentBytes: 1 << 20},
		Machine: ledger.NewMoney(origin),
		LogKey:  logKey, ReceiptKey: receiptKey,
		Policy: ledger.NewPolicy(ledger.LogKey(origin, pub(logKey))),
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Serve(ctx) }()

	e, err := ledger.NewEntry(1, 1, &ledger.Genesis{Rules: 1, Origin: origin, Network: "example", Params: ledger.DefaultParams(),
		Currencies: []ledger.Currency{{ISO4217: 978, Exp: 2}},
		Parties:    []ledger.Party{{Party: 1, Role: ledger.Aggregator, Name: "Operator", Pub: pub(operator)}}})
	if err == nil {
		err = ledger.Sign(e, origin, operator)
	}
	if err != nil {
		panic(err)
	}
	result := w.Submit(ctx, [][]byte{e.Bytes()})[0]
	fmt.Println("index", result.Receipt.Index, "error", result.Err, "receipt", result.Receipt.Verify(origin, pub(receiptKey)))
	if err := w.WaitFinal(ctx, 1); err != nil {
		panic(err)
	}
	c, _ := w.Final()
	fmt.Println("final", c.Size)

	cancel()
	fmt.Println(<-done, w.Close())
	// Output:
	// index 0 error <nil> receipt <nil>
	// final 1
	// <nil> <nil>
}
