package pseudo

import (
	"fmt"
	"testing"
)

// A driver gets a deck and takes one pseudonym for one session. newWorld makes
// a utility with one contract, as its store and the ledger would.
func Example() {
	w := newWorld(&testing.B{})
	pending, err := NewBatch(seeded("example"), w.driver, evagg, Week(now))
	if err != nil {
		fmt.Println(err)
		return
	}
	issued, err := w.issuer.Issue(seeded("issue"), w.driver.reqKind(), pending.Box, now)
	if err != nil {
		fmt.Println(err)
		return
	}
	w.book.store(issued) // Batch and Rows, durably, before the answer leaves
	deck, err := pending.Finish(w.driver, issued.Batch.Answer)
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := deck.Take(now)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = deck.Bytes() // must be durable before the first message under p leaves
	fmt.Println(deck.Left(), "left;", Verify(&p.Cert, testNet, Driver, evagg, w.keys, now))
	// Output: 15 left; <nil>
}
