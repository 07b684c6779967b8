package ledger_test

import (
	"testing"

	"gridveil/ledger"
)

func TestEveryClaimOfAnIssueIsProvable(t *testing.T) {
	var leaves [][32]byte
	for i := range byte(7) {
		leaves = append(leaves, ledger.ClaimLeaf(h(i), []byte("host key and amount")))
	}
	c, err := ledger.NewClaims(leaves)
	if err != nil {
		t.Fatal(err)
	}
	root, err := c.Root()
	if err != nil {
		t.Fatal(err)
	}
	b := &ledger.Issue{Claims: 7, Root: root}
	for i, leaf := range leaves {
		p, err := c.Prove(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := ledger.CheckClaim(b, uint64(i), leaf, p); err != nil {
			t.Errorf("claim %d: %v", i, err)
		}
		other := ledger.ClaimLeaf(h(99), []byte("host key and amount"))
		if ledger.CheckClaim(b, uint64(i), other, p) == nil {
			t.Errorf("claim %d: another salt passes", i)
		}
	}
	if _, err := c.Prove(7); err == nil {
		t.Error("proof of an eighth claim")
	}
}
