// Package member decides who belongs to a gridveil network.
//
// A network is described by its Bundle (network.toml, signed by k of n root
// keys): which operators exist, which CA certificates they issue with, and
// which roles and zones each may give out. A member is a libp2p Ed25519 key
// with an X.509 certificate of one of those operators. Two nodes that connect
// exchange a Hello each and admit one another through Gate.Accept; a home that
// has no certificate yet gets one with a typed Code through a Registrar.
//
// Start with OpenBundle (a bundle that is installed), Bundle.Replace (a newer
// one), Bundle.Verify (a certificate chain) and Gate.Accept (a hello).
// A founder uses NewCA, CA.IssueMember and SignBundle.
//
// Everything here is pure: no socket, disk or clock. now and rnd are arguments,
// and what must be persisted is returned. Names are keys: nobody may claim an
// id, so errors never print peer ids or zones of homes.
// Source: doc/design.md; RFC 5280 for certificates and revocation lists.
package member

import (
	"fmt"
	"slices"
)

// Role is what a member does in the network. The numbers are wire values.
type Role uint8

// The roles of a gridveil network. 0 is no role.
const (
	RoleGateway    Role = 1 // home: meter, battery, wallbox, guests
	RoleSSN        Role = 2 // secondary substation: relays, collects, checks
	RoleHeadend    Role = 3 // collects and validates for the utility
	RoleUtility    Role = 4 // bills contracts, verifies ledgers
	RoleAggregator Role = 5 // authorises sessions, writes the ledger
	RoleWallet     Role = 6 // driver; a leaf with a certificate of one day
	RoleVerifier   Role = 7 // replays and cosigns ledgers
)

var roleNames = [...]string{"", "gateway", "ssn", "headend", "utility", "aggregator", "wallet", "verifier"}

// String gives the role's word as used in certificates and configuration.
func (r Role) String() string {
	if !r.Valid() {
		return fmt.Sprintf("role(%d)", uint8(r))
	}
	return roleNames[r]
}

// Valid reports whether r is one of the seven roles.
func (r Role) Valid() bool { return r >= RoleGateway && r <= RoleVerifier }

// Leaf reports whether members of this role only dial out: they follow signals,
// publish nothing and never relay.
func (r Role) Leaf() bool { return r == RoleGateway || r == RoleWallet }

// Backbone reports whether members of this role listen, gossip and may relay.
func (r Role) Backbone() bool { return r.Valid() && !r.Leaf() }

// needsZone says whether a certificate of this role must name a zone.
func (r Role) needsZone() bool { return r == RoleGateway || r == RoleSSN }

// ParseRole is the inverse of Role.String.
func ParseRole(s string) (Role, error) {
	if i := slices.Index(roleNames[1:], s); i >= 0 {
		return Role(i + 1), nil
	}
	return 0, fmt.Errorf("role %q: want one of %v", s, roleNames[1:])
}

// MarshalText gives the role's word, for TOML.
func (r Role) MarshalText() ([]byte, error) {
	if !r.Valid() {
		return nil, fmt.Errorf("role %d is not one of 1 to 7", uint8(r))
	}
	return []byte(r.String()), nil
}

// UnmarshalText is the inverse of MarshalText.
func (r *Role) UnmarshalText(text []byte) error {
	parsed, err := ParseRole(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}
