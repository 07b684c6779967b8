package gossip

import (
	"crypto/ed25519"
	"math/rand/v2"
	"testing"
	"time"

	"gridveil/mesh/member"
)

var begin = time.UnixMilli(1_700_000_000_000).UTC()

// town is a network with members that may publish.
type town struct {
	t       testing.TB
	rnd     *rand.ChaCha8
	ca      member.CA
	bundle  *member.Bundle
	revoked *member.Revocations
	roll    *member.Roll
	regs    *Registers
}

func newTown(t testing.TB) *town {
	t.Helper()
	w := &town{t: t, rnd: rand.NewChaCha8([32]byte{1}), revoked: &member.Revocations{}}
	ca, err := member.NewCA("uta", begin, w.rnd)
	if err != nil {
		t.Fatal(err)
	}
	root := w.key()
	draft := &member.Bundle{Network: member.NetworkID{1, 2, 3, 4, 5, 6, 7, 8, 9}, Version: 1, RootThreshold: 1,
		RootKeys: []member.RootKey{member.RootKey(root.Public().(ed25519.PublicKey))},
		Operators: []member.Operator{{Name: "uta", CA: []member.DER{ca.Certificate}, Zones: []string{"north", "south"}, DSOZones: []string{"north"},
			Roles: []member.Role{member.RoleGateway, member.RoleSSN, member.RoleUtility, member.RoleAggregator, member.RoleVerifier}}},
		Zones: []member.Zone{{Name: "north"}, {Name: "south"}, {Name: "west"}},
	}
	raw, err := draft.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if w.bundle, err = member.OpenBundle(raw, member.SignBundle(raw, nil, root), nil); err != nil {
		t.Fatal(err)
	}
	w.ca, w.roll = ca, member.NewRoll(w.bundle, w.revoked)
	w.regs = NewRegisters(w.roll)
	return w
}

func (w *town) key() ed25519.PrivateKey {
	var seed [32]byte
	w.rnd.Read(seed[:])
	return ed25519.NewKeyFromSeed(seed[:])
}

// publisher is a member with its key and certificate.
type publisher struct {
	key    ed25519.PrivateKey
	member member.Member
	chain  [][]byte
}

func (w *town) member(role member.Role, zone string) publisher {
	w.t.Helper()
	p := publisher{key: w.key()}
	var err error
	grant := member.Grant{Network: w.bundle.Network, Key: member.Key(p.key.Public().(ed25519.PublicKey)), Role: role, Zone: zone}
	if p.chain, err = w.ca.IssueMember(grant, begin, w.rnd); err != nil {
		w.t.Fatal(err)
	}
	if p.member, err = w.roll.Add(p.chain, begin); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// envelope makes a signed register that is good unless change says otherwise.
func (w *town) envelope(p publisher, k Kind, key, version uint64, change ...func(e *Envelope)) *Envelope {
	w.t.Helper()
	e := &Envelope{Kind: k, Network: w.bundle.Tag(), Key: key, Version: version, Issued: begin, Expires: begin.Add(10 * time.Minute),
		CertHash: p.member.CertHash, Body: []byte("body")}
	for _, c := range change {
		c(e)
	}
	if err := e.Sign(p.key); err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *town) offer(e *Envelope, now time.Time) Decision {
	return w.regs.Offer(e.Encode(), Source{Topic: e.Kind}, now)
}
