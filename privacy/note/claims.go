package note

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrCollected says that a claim was answered for another request: what it was
// worth has been issued, to whoever asked first.
var ErrCollected = errors.New("already collected by another request")

// Claims remembers which request each claim (a session's H(Open), a gateway's
// week) was answered for, so that a repeated request gets its answer again and
// a different one gets nothing. It is not safe for concurrent use.
type Claims struct{ byClaim map[[32]byte][32]byte }

// Claim is one answered claim, to persist.
type Claim struct {
	ID      [32]byte
	Request [32]byte // SHA-256 of the request's slots
}

// Accept records that claim id is made by these request bytes. fresh means that
// the Claim must be durable before anything is signed for it; otherwise it was
// made by the same bytes before. It returns ErrCollected if other bytes came
// first.
func (c *Claims) Accept(id [32]byte, request []byte) (claim Claim, fresh bool, err error) {
	claim = Claim{id, sha256.Sum256(request)}
	if old, ok := c.byClaim[id]; ok {
		if old != claim.Request {
			return Claim{}, false, fmt.Errorf("claim: %w", ErrCollected)
		}
		return claim, false, nil
	}
	c.Restore(claim)
	return claim, true, nil
}

// Restore puts a persisted claim back after a restart.
func (c *Claims) Restore(claim Claim) {
	if c.byClaim == nil {
		c.byClaim = map[[32]byte][32]byte{}
	}
	c.byClaim[claim.ID] = claim.Request
}

// Forget drops claims that can no longer be made, for example of keys whose
// issue window is over.
func (c *Claims) Forget(ids ...[32]byte) {
	for _, id := range ids {
		delete(c.byClaim, id)
	}
}

// All lists the claims in order of their ids.
func (c *Claims) All() []Claim {
	ids := slices.SortedFunc(maps.Keys(c.byClaim), func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) })
	out := make([]Claim, len(ids))
	for i, id := range ids {
		out[i] = Claim{id, c.byClaim[id]}
	}
	return out
}
