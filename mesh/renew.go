package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"time"

	"gridveil/mesh/gossip"
	"gridveil/mesh/lane"
	"gridveil/mesh/member"
)

const renewTimeout = 30 * time.Second

func (h *Host) sameIdentity(m Member) bool {
	return m.Peer == h.self.Peer && m.Role == h.self.Role && m.Zone == h.self.Zone
}

// SetChain switches to a renewed certificate of the same key, role and zone, durably, and shows it on every open
// connection, which stays.
func (h *Host) SetChain(chain [][]byte) error {
	now := h.clock.Now()
	m, err := h.Bundle().Verify(chain, now)
	if err != nil {
		return fmt.Errorf("renewed certificate: %w", err)
	}
	h.mu.Lock()
	same := h.sameIdentity(m)
	h.mu.Unlock()
	if !same {
		return fmt.Errorf("renewed certificate: %w: other key, role or zone", member.ErrCertificate)
	}
	if h.c.SaveChain != nil {
		if err := h.c.SaveChain(chain); err != nil {
			return fmt.Errorf("save renewed certificate: %w", err)
		}
	}
	h.trust.Lock()
	_, err = h.roll.Add(chain, now)
	h.trust.Unlock()
	if err != nil {
		return fmt.Errorf("renewed certificate: %w", err)
	}
	h.mu.Lock()
	h.self, h.chain = m, chain
	var open []*link
	for _, l := range h.links {
		if l.admitted {
			open = append(open, l)
		}
	}
	h.mu.Unlock()
	h.calm(WarnRenewal)
	for _, l := range open {
		h.Go(func(context.Context) {
			if err := h.greet(l); err != nil {
				h.log.Debug("renewed certificate not shown", "err", err) // the peer closes when the old one ends, and we dial again
			}
		})
	}
	return nil
}

// renewIfDue asks the own registrar, or connected backbone members, for the next certificate once 2/3 of this one's
// life are over.
func (h *Host) renewIfDue(ctx context.Context) {
	self := h.Self()
	if h.clock.Now().Before(self.RenewAt()) {
		return
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, h.key)
	if err != nil {
		h.log.Error("certificate request not made", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	if h.c.Enrol != nil {
		if chain, err := h.c.Enrol.Renew(ctx, self, raw); err == nil && h.SetChain(chain) == nil {
			return
		}
	}
	for _, p := range h.backbonePeers() {
		answer, err := h.Call(ctx, p, Renew, raw)
		if err != nil {
			continue // not a registrar, or not ours
		}
		chains, err := gossip.ParseCerts(answer)
		if err == nil && len(chains) == 1 && h.SetChain(chains[0]) == nil {
			return
		}
	}
	h.warn(WarnRenewal)
}

// serveRenew answers Renew where a Registrar is configured.
func (h *Host) serveRenew(ctx context.Context, from Member, raw []byte) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(raw)
	if err != nil {
		return nil, &RemoteError{Code: lane.CodeRefused, Text: "certificate request is malformed"}
	}
	pub, ok := csr.PublicKey.(ed25519.PublicKey)
	if !ok || csr.CheckSignature() != nil || member.Key(pub) != from.Key {
		return nil, &RemoteError{Code: lane.CodeRefused, Text: "certificate request is not signed by the connection's key"}
	}
	chain, err := h.c.Enrol.Renew(ctx, from, raw)
	if err != nil {
		return nil, err
	}
	return encodeChain(chain), nil
}

// encodeChain gives n u8 {len u16, DER}*, which gossip.ParseCerts reads.
func encodeChain(chain [][]byte) []byte {
	out := []byte{byte(len(chain))}
	for _, der := range chain {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(der))), der...)
	}
	return out
}
