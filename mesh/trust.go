package mesh

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
)

// checkTrust is the body check of kind trust: the newest bundle of this network or a list of one of its CAs, under
// the number that is signed inside.
func (h *Host) checkTrust(e Envelope) Verdict {
	ignore := func(reason gossip.Reason) Verdict { return Verdict{Action: gossip.Ignore, Reason: reason} }
	b := h.Bundle()
	if e.Key == gossip.KeyBundle {
		raw, sig, err := splitBundle(e.Body)
		if err != nil {
			return Verdict{Action: gossip.Reject, Reason: ReasonBody}
		}
		next, err := b.Replace(raw, sig)
		switch {
		case err != nil && string(raw) == string(b.Raw()) && e.Version == b.Version:
			return Verdict{}
		case err != nil:
			return ignore(ReasonBody) // perhaps signed by roots that we do not know yet
		case next.Version != e.Version:
			return Verdict{Action: gossip.Reject, Reason: ReasonBody}
		}
		return Verdict{}
	}
	ca, number, err := b.CRLSigner(e.Body)
	if err != nil {
		return ignore(ReasonBody) // perhaps of a CA in a bundle that we do not know yet
	}
	if number != e.Version || member.CRLKey(ca) != e.Key {
		return Verdict{Action: gossip.Reject, Reason: ReasonBody}
	}
	return Verdict{}
}

// applyTrust makes an accepted trust register count.
func (h *Host) applyTrust(e Envelope) {
	if e.Key == gossip.KeyBundle {
		raw, sig, err := splitBundle(e.Body)
		if err == nil {
			err = h.InstallBundle(raw, sig)
		}
		if err != nil && !errors.Is(err, member.ErrBundleOld) {
			h.log.Warn("network bundle not installed", "err", err)
		}
		return
	}
	if err := h.Revoke(e.Body); err != nil {
		h.log.Warn("revocation list not applied", "err", err)
	}
}

// Revoke applies a CA's revocation list at once: revoked members are disconnected before it returns.
func (h *Host) Revoke(crl []byte) error {
	h.trust.Lock()
	changed, err := h.revoked.Add(h.Bundle(), crl)
	h.trust.Unlock()
	if err != nil || !changed {
		return err
	}
	h.recheck(false)
	return nil
}

// checkLists warns when the revocation list that covers this node or a connected member is past its next update: its
// operator is away, and whom it took back since then cannot be known. Nobody is refused for it.
func (h *Host) checkLists() {
	members, now := append(h.Peers(), h.Self()), h.clock.Now()
	h.trust.Lock()
	stale := slices.ContainsFunc(members, func(m Member) bool { return h.revoked.Stale(m, now) })
	h.trust.Unlock()
	if stale {
		h.warn(WarnStaleRevoked)
	} else {
		h.calm(WarnStaleRevoked)
	}
}

// InstallBundle switches to a newer bundle, durably, and drops members that it no longer admits.
func (h *Host) InstallBundle(raw, sig []byte) error {
	next, err := h.Bundle().Replace(raw, sig)
	if err != nil {
		return err
	}
	if err := h.store.SaveState(stateBundle, joinBundle(raw, sig)); err != nil {
		return fmt.Errorf("save network bundle: %w", err)
	}
	if h.c.SaveBundle != nil {
		if err := h.c.SaveBundle(raw, sig); err != nil {
			return fmt.Errorf("save network bundle: %w", err)
		}
	}
	h.trust.Lock()
	h.roll.Replace(next, h.clock.Now())
	h.trust.Unlock()
	h.bundle.Store(&held{next, sig})
	h.recheck(true)
	return nil
}

// PublishBundle and PublishCRL spread trust registers; any backbone member may, as roots or a CA signed the content.
func (h *Host) PublishBundle(raw, sig []byte) error {
	b, err := member.ParseBundle(raw)
	if err != nil {
		return err
	}
	return h.publish(gossip.Draft{Kind: gossip.KindTrust, Key: gossip.KeyBundle, Version: b.Version, Body: joinBundle(raw, sig),
		Expires: h.clock.Now().Add(gossip.KindTrust.MaxLife(gossip.KeyBundle))})
}

// PublishCRL spreads a CA's revocation list.
func (h *Host) PublishCRL(crl []byte) error {
	ca, number, err := h.Bundle().CRLSigner(crl)
	if err != nil {
		return err
	}
	key := member.CRLKey(ca)
	return h.publish(gossip.Draft{Kind: gossip.KindTrust, Key: key, Version: number, Body: crl,
		Expires: h.clock.Now().Add(gossip.KindTrust.MaxLife(key))})
}

// ReasonBody is a register body that the host's own check refused.
const ReasonBody gossip.Reason = "body"

const stateBundle = "bundle"

// held is the bundle in force with its signatures.
type held struct {
	*member.Bundle
	sig []byte
}

type bundlePointer = atomic.Pointer[held]

// joinBundle and splitBundle give one body for bundle and signatures: len u16 | bundle | signatures.
func joinBundle(raw, sig []byte) []byte {
	b := append(make([]byte, 0, 2+len(raw)+len(sig)), byte(len(raw)>>8), byte(len(raw)))
	return append(append(b, raw...), sig...)
}

func splitBundle(body []byte) (raw, sig []byte, err error) {
	if len(body) < 2 {
		return nil, nil, member.ErrBundle
	}
	n := int(body[0])<<8 | int(body[1])
	if len(body) < 2+n {
		return nil, nil, member.ErrBundle
	}
	return body[2 : 2+n], body[2+n:], nil
}

// StateLoader is the part of Stores that NewestBundle reads.
type StateLoader interface {
	LoadState(name string) ([]byte, error)
}

// NewestBundle gives the bundle that counts for a node with an installed one: the newest that its host has accepted
// before, which was signed when it was accepted, else the installed one. The node's certificate may be of a CA that
// only the newest names. An error is one of the store, or a stored bundle that does not parse.
func NewestBundle(installed *member.Bundle, sig []byte, s StateLoader) (*member.Bundle, []byte, error) {
	body, err := s.LoadState(stateBundle)
	if err != nil || body == nil {
		return installed, sig, err
	}
	raw, storedSig, err := splitBundle(body)
	if err != nil {
		return nil, nil, fmt.Errorf("stored bundle: %w", err)
	}
	stored, err := member.OpenBundle(raw, storedSig, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("stored bundle: %w", err)
	}
	if stored.Network != installed.Network || stored.Version <= installed.Version {
		return installed, sig, nil
	}
	return stored, storedSig, nil
}
