package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"gridveil/ledger/durable"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/config"
	"gridveil/node/control"
	"gridveil/node/identity"
	"gridveil/node/store"
)

// Init prepares a data directory: configuration, node key and store key. What is
// already there is never overwritten.
func Init(dir, roleName, name string) error {
	if _, err := member.ParseRole(roleName); err != nil {
		return fmt.Errorf("role %q: want one of %s", roleName, strings.Join(config.Roles, ", "))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(dir, config.FileName)
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%s is already there; it is yours and is never overwritten", path)
	}
	if name == "" {
		name = roleName
	}
	if _, err := identity.Key(dir, rand.Reader); err != nil {
		return err
	}
	if _, err := store.LoadOrCreateKey(filepath.Join(dir, "store.key")); err != nil {
		return err
	}
	return durable.WriteFile(path, config.Template(roleName, name))
}

// Found gives the node in dir its certificate from a founder's network folder;
// the node then certifies others of its operator.
func Found(dir, networkDir, operator, zone string) error {
	c, err := config.Load(dir)
	if err != nil {
		return err
	}
	r, err := member.ParseRole(c.Role)
	if err != nil {
		return err
	}
	n, err := identity.OpenNetwork(networkDir, operator)
	if err != nil {
		return err
	}
	if err := takeCommittee(dir, networkDir); err != nil {
		return err
	}
	return identity.Certify(dir, n, operator, r, zone, nil, true, time.Now(), rand.Reader)
}

// joinTimeout bounds an enrolment.
const joinTimeout = 30 * time.Second

// Join enrols the node in dir with a one-time link or, where the operator has
// installed network.toml, with a typed code: at the seed, a multiaddr with /p2p/,
// or without one at the first of the installed contacts that answers.
func Join(ctx context.Context, dir, code, seed string) error {
	if _, err := os.Stat(filepath.Join(dir, identity.CertificateFile)); err == nil {
		return errors.New("this node is already a member; to start over, move its data directory away")
	}
	if _, err := config.Load(dir); err != nil {
		return err
	}
	key, err := identity.Key(dir, rand.Reader)
	if err != nil {
		return err
	}
	k, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return fmt.Errorf("node key: %w", err)
	}
	invs, installed, err := invitations(dir, code, seed)
	if err != nil {
		return err
	}
	var e mesh.Enrolment
	var used mesh.Invitation
	for _, inv := range invs {
		used = inv
		if e, err = ask(ctx, inv, k, installed); !errors.Is(err, mesh.ErrOffline) {
			break
		}
	}
	if err != nil {
		return err
	}
	return install(dir, e, used)
}

func ask(ctx context.Context, inv mesh.Invitation, k crypto.PrivKey, installed *member.Bundle) (mesh.Enrolment, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	return mesh.Enrol(ctx, inv, k, installed, time.Now())
}

// invitations reads what the owner scanned, pasted or typed: one per place to
// enrol at. A link pins the network; a code needs an installed one.
func invitations(dir, code, seed string) ([]mesh.Invitation, *member.Bundle, error) {
	if strings.Contains(code, ":") {
		l, err := member.ParseLink(code)
		if err != nil {
			return nil, nil, fmt.Errorf("%w\nnext: paste the whole link that `gridveil invite` printed", err)
		}
		inv, err := mesh.FromLink(l)
		return []mesh.Invitation{inv}, nil, err
	}
	c, err := member.ParseCode(code)
	if err != nil {
		return nil, nil, fmt.Errorf("%w\nnext: type the 26 characters as `gridveil invite` printed them, or paste its link", err)
	}
	b, err := identity.Installed(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("a typed code needs an installed %s, and there is none\nnext: scan or paste the link that `gridveil invite` printed", identity.BundleFile)
	}
	if err != nil {
		return nil, nil, err
	}
	seeds := []string{seed}
	if seed == "" {
		seeds = identity.Contacts(dir)
	}
	var out []mesh.Invitation
	for _, text := range seeds {
		at, err := peer.AddrInfoFromString(text)
		if err != nil {
			return nil, nil, fmt.Errorf("seed %q: want a multiaddr such as /dns/uta.example/tcp/4100/p2p/12D3Koo…: %w", text, err)
		}
		out = append(out, mesh.Invitation{Code: c, Network: b.Network, Seed: *at})
	}
	if len(out) == 0 {
		return nil, nil, fmt.Errorf("nobody to enrol at: %s has no line\nnext: give --seed, a multiaddr of your operator's node, or paste the link that `gridveil invite` printed", identity.ContactsFile)
	}
	return out, b, nil
}

// install writes an enrolment: snapshot and contacts first, the certificate last.
func install(dir string, e mesh.Enrolment, inv mesh.Invitation) error {
	if c, err := config.Load(dir); err == nil && c.Role != e.Member.Role.String() {
		return fmt.Errorf("the code is for a %s, this directory is a %s: ask for another code", e.Member.Role, c.Role)
	}
	var contacts []string
	for _, a := range inv.Seed.Addrs {
		contacts = append(contacts, a.String()+"/p2p/"+inv.Seed.ID.String())
	}
	if err := durable.WriteFile(filepath.Join(dir, snapshotFile), e.Snapshot); err != nil {
		return err
	}
	return identity.Install(dir, e.Bundle.Raw(), e.Sig, e.Chain, contacts)
}

// snapshotFile holds the directory that came with an enrolment until the first
// start takes it.
const snapshotFile = "directory.snapshot"

// prime hands the directory of the enrolment to the host, once.
func (n *Node) prime() error {
	path := filepath.Join(n.Config.Dir, snapshotFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("directory snapshot: %w", err)
	}
	if taken, err := n.Host.Prime(b); err != nil {
		n.Log.Warn("directory of the enrolment refused; it is fetched instead", "err", err)
	} else {
		n.Log.Info("directory of the enrolment taken", "registers", taken)
	}
	return os.Remove(path)
}

// Invitation is what `gridveil invite` prints.
type Invitation struct {
	Code    string    `json:"code"`
	Link    string    `json:"link"`
	Role    string    `json:"role"`
	Zone    string    `json:"zone,omitempty"`
	Expires time.Time `json:"expires"`
}

// Invite asks the running node in dir for a one-time code.
func Invite(ctx context.Context, dir, roleName, zone string) (Invitation, error) {
	var inv Invitation
	err := control.Call(ctx, dir, "invite", map[string]string{"role": roleName, "zone": zone}, &inv)
	return inv, err
}
