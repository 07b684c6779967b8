// Package enrol lets strangers join with a one-time code: the registrar of an
// operator's node, over its store and its CA.
package enrol

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/clock"
	"gridveil/node/store"
)

// ErrNoCA means that this node certifies nobody.
var ErrNoCA = errors.New("this node holds no CA key: invite from a node of your operator that does")

// Registrar implements mesh.Registrar. Safe for concurrent use.
type Registrar struct {
	st    *store.Store
	ca    member.CA
	net   func() *member.Bundle // in force now
	own   string                // operator
	clock clock.Clock
	rnd   io.Reader
	log   *slog.Logger
	raise func() // a code was misused: see Misuse

	mu  sync.Mutex
	reg *member.Registrar
	all map[string]Issued // certificates that have not ended, by serial
	crl List
}

// New loads the invitations of st. raise is called when a code was tried with
// another key or killed by wrong proofs.
func New(st *store.Store, ca *member.CA, b func() *member.Bundle, operator string, c clock.Clock, rnd io.Reader, log *slog.Logger, raise func()) (*Registrar, error) {
	if ca == nil {
		return nil, ErrNoCA
	}
	r := &Registrar{st: st, ca: *ca, net: b, own: operator, clock: c, rnd: rnd, log: log, raise: raise}
	var held []member.Invite
	err := st.View(func(tx *store.Tx) error {
		return tx.Each(prefix(), func(_, v []byte) error {
			inv, err := member.ParseInvite(v)
			if err == nil {
				held = append(held, inv)
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("load invitations: %w", err)
	}
	r.reg = member.NewRegistrar(held)
	return r, r.loadIssued()
}

func prefix() []byte { return store.SpaceMesh.Key([]byte("invite")) }

func key(inv member.Invite) []byte {
	return store.SpaceMesh.Key([]byte("invite"), inv.Code.ID[:])
}

func roleList(roles []member.Role) string {
	var names []string
	for _, r := range roles {
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}

// Invite opens a code for a role, in a zone where the role has one; it is
// durable when Invite returns.
func (r *Registrar) Invite(role member.Role, zone string) (member.Invite, error) {
	op, _ := r.net().Operator(r.own)
	if !has(op.Roles, role) {
		return member.Invite{}, fmt.Errorf("operator %s may not certify the role %s, only %s", r.own, role, roleList(op.Roles))
	}
	needsZone := role == member.RoleGateway || role == member.RoleSSN
	if needsZone && !has(op.Zones, zone) {
		return member.Invite{}, fmt.Errorf("role %s needs a zone of operator %s: want one of %s, got %q", role, r.own, strings.Join(op.Zones, ", "), zone)
	}
	if !needsZone && zone != "" {
		return member.Invite{}, fmt.Errorf("role %s has no zone: leave it out", role)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	inv, err := r.reg.Invite(role, zone, r.clock.Now(), r.rnd)
	if err != nil {
		return inv, fmt.Errorf("draw code: %w", err)
	}
	return inv, r.st.Set(key(inv), inv.Encode())
}

func has[T comparable](list []T, v T) bool {
	for _, e := range list {
		if e == v {
			return true
		}
	}
	return false
}

// Enrol decides about one stranger; the code is consumed durably before the
// certificate exists.
func (r *Registrar) Enrol(_ context.Context, q member.Request, ch member.Channel) (member.Answer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	d := r.reg.Decide(q, ch, now)
	if d.Save != nil {
		if err := r.st.Set(key(*d.Save), d.Save.Encode()); err != nil {
			return member.Answer{}, fmt.Errorf("keep invitation: %w", err)
		}
	}
	if d.Raise {
		if err := r.misused(d.Save == nil); err != nil { // what kills a code changes it, what tries a used one does not
			return member.Answer{}, fmt.Errorf("keep misuse: %w", err)
		}
		r.log.Warn("enrolment code misused", "used", d.Save == nil)
		r.raise()
	}
	if d.Refusal != member.RefusedNot {
		r.log.Warn("enrolment refused", "reason", d.Refusal.String())
		return member.Answer{Refusal: d.Refusal}, nil
	}
	chain, err := r.issue(d.Grant)
	if err != nil {
		return member.Answer{}, err
	}
	r.log.Info("member enrolled", "role", d.Grant.Role.String())
	return member.Answer{Chain: chain}, nil
}

// ErrRenew means that a certificate is not renewed here.
var ErrRenew = errors.New("certificate cannot be renewed here")

// Renew issues the next certificate to the key that a member has.
func (r *Registrar) Renew(_ context.Context, m mesh.Member, csr []byte) ([][]byte, error) {
	if m.Operator != r.own {
		return nil, fmt.Errorf("%w: it belongs to another operator", ErrRenew)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil || req.CheckSignature() != nil {
		return nil, fmt.Errorf("%w: the request does not verify", ErrRenew)
	}
	if pub, ok := req.PublicKey.(ed25519.PublicKey); !ok || member.Key(pub) != m.Key {
		return nil, fmt.Errorf("%w: the request is for another key", ErrRenew)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.all[m.Serial].RevokedAt.IsZero() {
		return nil, fmt.Errorf("%w: it was taken back", ErrRenew)
	}
	return r.issue(member.Grant{Network: r.net().Network, Key: m.Key, Role: m.Role, Zone: m.Zone})
}

// Forget drops codes and certificates that can no longer matter; it is called daily.
func (r *Registrar) Forget() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	ids := r.reg.Forget(now)
	return r.st.Update(func(tx *store.Tx) error {
		for serial, i := range r.all {
			if now.After(i.End.Add(endedKept)) {
				if err := tx.Delete(issuedKey(serial)); err != nil {
					return err
				}
				delete(r.all, serial)
			}
		}
		for _, id := range ids {
			if err := tx.Delete(store.SpaceMesh.Key([]byte("invite"), id[:])); err != nil {
				return err
			}
		}
		return nil
	})
}
