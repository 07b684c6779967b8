package mesh

import (
	"fmt"

	"gridveil/mesh/member"
)

// Chain is the host's own certificate chain, leaf first, for showing it to somebody who cannot know it, such as the
// recipient of an onion message. The caller must not change it.
func (h *Host) Chain() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.chain
}

// ChainOf is the certificate chain of a backbone member that this node has met, leaf first: the one that ends last.
func (h *Host) ChainOf(k member.Key) (chain [][]byte, ok bool) {
	h.trust.Lock()
	defer h.trust.Unlock()
	var newest Member
	for _, m := range h.roll.Members(h.clock.Now()) {
		if m.Key == k && m.NotAfter.After(newest.NotAfter) {
			newest = m
		}
	}
	return h.roll.Chain(newest.CertHash)
}

// Judge says whose certificate chain it is, if the chain is valid now and not revoked. It does not say that the shower
// holds the key: let it sign. Errors are those of Bundle.Verify, or wrap ErrRevoked.
func (h *Host) Judge(chain [][]byte) (Member, error) {
	m, err := h.Bundle().Verify(chain, h.clock.Now())
	if err != nil {
		return Member{}, err
	}
	h.trust.Lock()
	defer h.trust.Unlock()
	if h.revoked.Revoked(m) {
		return Member{}, fmt.Errorf("certificate: %w", ErrRevoked)
	}
	return m, nil
}
