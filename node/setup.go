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
	return identity.WriteFile(path, config.Template(roleName, name))
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

// Join enrols the node in dir with a one-time link or, where a network.toml is
// installed, with a typed code and the seed's address.
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
	l, err := member.ParseLink(code)
	if err != nil {
		return fmt.Errorf("%w\nnext: paste the whole link that `gridveil invite` printed", err)
	}
	inv, err := mesh.FromLink(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	e, err := mesh.Enrol(ctx, inv, k, nil, time.Now())
	if err != nil {
		return err
	}
	return install(dir, e, inv)
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
	if err := identity.WriteFile(filepath.Join(dir, snapshotFile), e.Snapshot); err != nil {
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
