package settle

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"gridveil/ledger"
	"gridveil/privacy/session"
)

// claimLeaf is what an issue entry commits to for one claim: salt, request and
// amount in minor units. The salt keeps others from trying amounts.
func claimLeaf(salt, request name, minor uint32) []byte {
	b := append([]byte("gridveil/claim/v1\x00"), salt[:]...)
	b = append(b, request[:]...)
	return binary.BigEndian.AppendUint32(b, minor)
}

// tree is an RFC 6962 tree over the claims of one issue, all hashes in memory.
type tree struct {
	n      int64
	hashes []tlog.Hash
}

// ReadHashes implements tlog.HashReader.
func (t tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("hash %d of a tree of %d leaves", x, t.n)
		}
		out[i] = t.hashes[x]
	}
	return out, nil
}

func treeOf(leaves [][]byte) tree {
	var t tree
	for _, leaf := range leaves {
		h, err := tlog.StoredHashes(t.n, leaf, t)
		if err != nil {
			panic("settle: tree in memory lacks a hash: " + err.Error())
		}
		t.hashes = append(t.hashes, h...)
		t.n++
	}
	return t
}

func (t tree) root() ledger.Hash {
	h, err := tlog.TreeHash(t.n, t)
	if err != nil {
		panic("settle: tree in memory lacks a hash: " + err.Error())
	}
	return ledger.Hash(h)
}

// prove encodes leaf number, number of leaves and the path: u32, u32, 32 B each.
func (t tree) prove(i int) []byte {
	path, err := tlog.ProveRecord(t.n, int64(i), t)
	if err != nil {
		panic("settle: tree in memory lacks a hash: " + err.Error())
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(i))
	b = binary.BigEndian.AppendUint32(b, uint32(t.n))
	for _, h := range path {
		b = append(b, h[:]...)
	}
	return b
}

// VerifyClaim checks the proof in an answer to a Collect: that the issue entry,
// found final on the ledger at c.Issue, was backed for this very request and
// amount (minor units). It returns session.ErrEvidence if not: the wallet shows
// the answer to an auditor.
func VerifyClaim(c *session.Collected, minor uint32, issue *ledger.Issue) error {
	if len(c.Proof) < 8 || len(c.Proof)%32 != 8 || len(c.Proof) > session.MaxProof {
		return fmt.Errorf("%w: proof of %d bytes", session.ErrEvidence, len(c.Proof))
	}
	at, n := int64(binary.BigEndian.Uint32(c.Proof)), int64(binary.BigEndian.Uint32(c.Proof[4:]))
	var path tlog.RecordProof
	for b := c.Proof[8:]; len(b) > 0; b = b[32:] {
		path = append(path, tlog.Hash(b))
	}
	leaf := tlog.RecordHash(claimLeaf(c.Salt, c.Request, minor))
	if n != int64(issue.Claims) || at >= n || tlog.CheckRecord(path, n, tlog.Hash(issue.Root), at, leaf) != nil {
		return fmt.Errorf("%w: the issue entry does not cover this claim", session.ErrEvidence)
	}
	return nil
}
