package settle

import (
	"testing"

	"gridveil/ledger"
	"gridveil/privacy/session"
)

func TestEveryClaimOfAnIssueHasItsProof(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 33} {
		var leaves [][]byte
		for i := range n {
			leaves = append(leaves, claimLeaf(name{byte(i)}, name{9, byte(i)}, uint32(i)))
		}
		tr := treeOf(leaves)
		issue := &ledger.Issue{Claims: uint32(n), Root: tr.root()}
		for i := range n {
			c := session.Collected{Salt: name{byte(i)}, Request: name{9, byte(i)}, Proof: tr.prove(i)}
			if err := VerifyClaim(&c, uint32(i), issue); err != nil {
				t.Errorf("claim %d of %d: %v", i, n, err)
			}
			c.Salt[5]++
			if VerifyClaim(&c, uint32(i), issue) == nil {
				t.Errorf("claim %d of %d: another salt passed", i, n)
			}
		}
	}
}

func FuzzVerifyClaim(f *testing.F) {
	tr := treeOf([][]byte{claimLeaf(name{1}, name{2}, 3), claimLeaf(name{4}, name{5}, 6)})
	issue := &ledger.Issue{Claims: 2, Root: tr.root()}
	f.Add(tr.prove(0))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, proof []byte) {
		c := session.Collected{Salt: name{1}, Request: name{2}, Proof: proof}
		if VerifyClaim(&c, 3, issue) == nil && string(proof) != string(tr.prove(0)) {
			t.Errorf("a second proof passed: %x", proof)
		}
		if VerifyClaim(&c, 4, issue) == nil {
			t.Errorf("another amount passed: %x", proof)
		}
	})
}
