package commit_test

import (
	"crypto/rand"
	"fmt"

	"gridveil/privacy/commit"
)

// The ledger adds up commitments and learns the sum only when it is opened.
func Example() {
	sessions := []commit.Values{{Pay: 7_000_000, Earn: 6_600_000, Energy: 20_000_000}, {Pay: 3_500_000, Earn: 3_300_000, Energy: 10_000_000}}
	var sum commit.Sum
	var total commit.Values
	var blind [commit.Size]byte
	for _, v := range sessions {
		r, err := commit.NewBlind(rand.Reader)
		if err != nil {
			fmt.Println(err)
			return
		}
		c, err := commit.New(v, r)
		if err != nil {
			fmt.Println(err)
			return
		}
		if sum, err = sum.Add(c); err != nil { // all the ledger sees
			fmt.Println(err)
			return
		}
		if blind, err = commit.AddBlinds(blind, r); err != nil {
			fmt.Println(err)
			return
		}
		total, _ = total.Plus(v)
	}
	fmt.Println(total.Pay, sum.Opens(total, blind))
	total.Pay++
	fmt.Println(total.Pay, sum.Opens(total, blind))
	// Output:
	// 10500000 true
	// 10500001 false
}
