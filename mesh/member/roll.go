package member

import (
	"errors"
	"time"
)

// MaxRoll is how many certificates of backbone members a node remembers: the
// directory holds 2048 registers, and a member has an old and a new certificate
// for the last third of its life.
const MaxRoll = 4096

// ErrUnknown is a certificate that this node has not seen yet: fetch it and ask again.
var ErrUnknown = errors.New("certificate is not known yet")

// ErrRollFull means that MaxRoll valid certificates are held.
var ErrRollFull = errors.New("certificate roll is full")

// Roll remembers verified certificates by hash, so that signed registers can
// name their signer in 32 bytes. Not safe for concurrent use.
type Roll struct {
	bundle  *Bundle
	revoked *Revocations
	entries map[[32]byte]rollEntry
}

type rollEntry struct {
	member Member
	chain  [][]byte
}

// NewRoll makes an empty roll that checks against b and r.
func NewRoll(b *Bundle, r *Revocations) *Roll {
	return &Roll{bundle: b, revoked: r, entries: map[[32]byte]rollEntry{}}
}

// Bundle is the bundle that the roll checks against now.
func (r *Roll) Bundle() *Bundle { return r.bundle }

// Replace switches to a newer bundle and drops what it no longer carries.
func (r *Roll) Replace(b *Bundle, now time.Time) {
	r.bundle = b
	for hash, e := range r.entries {
		if _, err := b.Verify(e.chain, now); err != nil {
			delete(r.entries, hash)
		}
	}
}

// Add verifies a chain at now and remembers it.
func (r *Roll) Add(chain [][]byte, now time.Time) (Member, error) {
	m, err := r.bundle.Verify(chain, now)
	if err != nil {
		return Member{}, err
	}
	if _, have := r.entries[m.CertHash]; !have && len(r.entries) >= MaxRoll {
		r.dropExpired(now)
		if len(r.entries) >= MaxRoll {
			return Member{}, ErrRollFull
		}
	}
	r.entries[m.CertHash] = rollEntry{m, chain}
	return m, nil
}

// Forget drops a certificate that turned out to be of no use.
func (r *Roll) Forget(hash [32]byte) { delete(r.entries, hash) }

func (r *Roll) dropExpired(now time.Time) {
	for hash, e := range r.entries {
		if now.After(e.member.NotAfter) {
			delete(r.entries, hash)
		}
	}
}

// Lookup gives the member of a certificate that is valid at now, or
// ErrUnknown, ErrExpired or ErrRevoked.
func (r *Roll) Lookup(hash [32]byte, now time.Time) (Member, error) {
	e, have := r.entries[hash]
	switch {
	case !have:
		return Member{}, ErrUnknown
	case now.After(e.member.NotAfter):
		return Member{}, ErrExpired
	case r.revoked.Revoked(e.member):
		return Member{}, ErrRevoked
	}
	return e.member, nil
}

// Chain gives the certificates behind hash, to hand to a node that asks for them.
func (r *Roll) Chain(hash [32]byte) ([][]byte, bool) {
	e, have := r.entries[hash]
	return e.chain, have
}

// Members lists all certificates that are valid at now and not revoked, in no order.
func (r *Roll) Members(now time.Time) []Member {
	var out []Member
	for hash := range r.entries {
		if m, err := r.Lookup(hash, now); err == nil {
			out = append(out, m)
		}
	}
	return out
}
