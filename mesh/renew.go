package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

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
	h.mu.Unlock()
	h.calm(WarnRenewal)
	h.showChain()
	return nil
}

// showChain exchanges hellos on every connection whose peer has not seen our newest certificate.
func (h *Host) showChain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.links {
		if !l.admitted || l.showing || l.shown == h.self.CertHash {
			continue
		}
		l.showing = h.goLocked(func(context.Context) {
			if err := h.greet(l); err != nil {
				h.log.Debug("renewed certificate not shown", "err", err) // tried again with the next housekeeping
			}
			h.mu.Lock()
			l.showing = false
			h.mu.Unlock()
		})
	}
}

const rollJitter = 10 * time.Minute // when a CA is followed by another, its members ask within this time, not at once

// roller is when to leave a CA that is no longer the operator's first.
type roller struct {
	ca [32]byte  // to go to
	at time.Time // earliest
}

// rollDue gives the CA that this node's operator issues under now, and whether it is time to go there.
func (h *Host) rollDue(self Member) (first [32]byte, due bool) {
	first, known := h.Bundle().FirstCA(self.Operator)
	if !known || first == self.CA {
		return first, false
	}
	now := h.clock.Now()
	if h.roller.ca != first {
		h.roller = roller{first, now.Add(mathrand.N(rollJitter))}
	}
	if now.Before(h.roller.at) {
		return first, false
	}
	h.roller.at = now.Add(rollJitter/2 + mathrand.N(rollJitter)) // of the next try
	return first, true
}

// renewIfDue asks the own registrar, or other backbone members, for the next certificate once 2/3 of this one's life are
// over, or once the operator issues under another CA.
func (h *Host) renewIfDue(ctx context.Context) {
	self := h.Self()
	late := !h.clock.Now().Before(self.RenewAt())
	first, roll := h.rollDue(self)
	if !late && !roll {
		return
	}
	use := func(chain [][]byte) bool {
		if m, err := h.Bundle().Verify(chain, h.clock.Now()); err != nil || !late && m.CA != first {
			return false // a registrar that has not gone to the new CA yet
		}
		return h.SetChain(chain) == nil
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, h.key)
	if err != nil {
		h.log.Error("certificate request not made", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	if h.c.Enrol != nil {
		if chain, err := h.c.Enrol.Renew(ctx, self, raw); err == nil && use(chain) {
			return
		}
	}
	for _, p := range h.registrars() {
		answer, err := h.Call(ctx, p, Renew, raw)
		if err != nil {
			continue // not a registrar, or not ours
		}
		chains, err := gossip.ParseCerts(answer)
		if err == nil && len(chains) == 1 && use(chains[0]) {
			return
		}
	}
	if late {
		h.warn(WarnRenewal)
	}
}

// registrars lists whom to ask for a certificate: connected backbone members, then the contacts of the start, which a
// leaf may not be connected to any more.
func (h *Host) registrars() []peer.ID {
	out := h.backbonePeers()
	for _, p := range h.c.Parents {
		if p.ID != h.ID() && !slices.Contains(out, p.ID) {
			out = append(out, p.ID)
		}
	}
	return out
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
