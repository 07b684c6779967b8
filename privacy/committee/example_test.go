package committee_test

import (
	"crypto/rand"
	"fmt"

	"gridveil/privacy/committee"
)

// A demo's dealer makes the key; every seat checks what it got.
func Example() {
	public, shares, err := committee.Deal(rand.Reader)
	if err != nil {
		fmt.Println(err)
		return
	}
	mine, err := committee.ParseShare(shares[2].Bytes(), &public)
	fmt.Println(mine, err, public.Check())
	// Output: share of seat 3 <nil> <nil>
}
