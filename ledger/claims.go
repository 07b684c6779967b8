package ledger

import (
	"crypto/sha256"

	"gridveil/ledger/internal/tile"
)

const claimDomain = "gridveil/claim/v1\x00"

// Salted is SHA-256(salt || data), the form of every commitment in the log:
// deleting the salt later leaves a hash that proves nothing about anybody.
func Salted(salt Hash, data []byte) Hash {
	return sha256.Sum256(append(salt[:], data...))
}

// Claims is the tree over the households served by one Issue. Its root is in
// the entry, so a household that was left out can show that it was.
type Claims struct {
	tree tile.Hashes
	n    uint64
}

// ClaimLeaf is the leaf of one claim, salted so that nobody else can find it.
func ClaimLeaf(salt Hash, claim []byte) Hash {
	h := Salted(salt, claim)
	return LeafHash(append([]byte(claimDomain), h[:]...))
}

// NewClaims builds the tree over leaves, which the caller has shuffled.
func NewClaims(leaves []Hash) (*Claims, error) {
	c := &Claims{n: uint64(len(leaves))}
	for _, l := range leaves {
		if err := c.tree.Append(l); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Root is what Issue.Root carries.
func (c *Claims) Root() (Hash, error) { return c.tree.Root(c.n) }

// Prove gives the proof of claim i, to hand to its household.
func (c *Claims) Prove(i uint64) ([]Hash, error) { return ProveInclusion(c.n, i, &c.tree) }

// CheckClaim returns nil if leaf is claim i of the Issue.
func CheckClaim(b *Issue, i uint64, leaf Hash, proof []Hash) error {
	return CheckInclusion(Checkpoint{Size: uint64(b.Claims), Root: b.Root}, i, leaf, proof)
}
