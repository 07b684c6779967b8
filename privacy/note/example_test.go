package note

import "fmt"

// A household collects 6.60 and the mint never sees the notes it signed.
func Example() {
	mint, err := sharedMint() // NewMint, once for all tests
	if err != nil {
		fmt.Println(err)
		return
	}
	wallet := NewWallet([32]byte{1}, "ledger.example")
	op, err := wallet.Collect(mint.Denoms(), 660)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = wallet.Bytes() // must be durable before the request leaves
	rows, err := wallet.Rows(op.ID, mint.Denoms())
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := mint.Sign(660, rows[0])
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := wallet.Finish(op.ID, mint.Denoms(), []*Row{answer}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(wallet.Balance(eur).Fresh, "cents in", len(wallet.notes), "notes")
	// Output: 660 cents in 4 notes
}
