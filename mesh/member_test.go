package mesh_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

func warns(h *mesh.Host, code string) bool {
	return slices.ContainsFunc(h.Warnings(), func(w mesh.Warning) bool { return w.Code == code })
}

func TestANodeOfAnotherNetworkIsNotAdmitted(t *testing.T) {
	ours := meshtest.Start(t, meshtest.Options{SSNs: 1})
	target := ours.SSNs[0].Host.AddrInfo()
	theirs := meshtest.Found(t, meshtest.Options{SSNs: 1, Config: func(_ *meshtest.Node, c *mesh.Config) {
		c.Parents = []peer.AddrInfo{target}
	}})
	home := theirs.Add(member.RoleGateway, "z1")
	meshtest.Eventually(t, "the refusal is a warning", func() bool {
		return warns(home.Host, mesh.WarnNotMember) || home.Host.Metrics().Drops[mesh.DropHello] > 0
	})
	if _, err := home.Host.Call(t.Context(), target.ID, mesh.Probe, nil); err == nil {
		t.Error("a stranger's probe was answered")
	}
	if n := len(ours.SSNs[0].Host.Peers()); n != 0 {
		t.Errorf("the substation has %d members connected, want none", n)
	}
}

func TestACertificateForAnotherKeyDoesNotStart(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1})
	_, chain := n.Issue(member.RoleGateway, "z1")
	other, _, _ := crypto.GenerateEd25519Key(rand.Reader)
	if _, err := mesh.New(mesh.Config{Bundle: n.Bundle, Chain: chain, Clock: n.Clock}, other, nil); !errors.Is(err, mesh.ErrNotMember) {
		t.Errorf("got %v, want ErrNotMember", err)
	}
}

func TestARevokedMemberIsGoneWithinAMinuteOfItsList(t *testing.T) {
	t.Parallel() // mostly waits
	// Slow enough that gossipsub's heartbeats of one second, which form its mesh at the start, stay below the minute.
	n := meshtest.Start(t, meshtest.Options{SSNs: 2, Homes: 3, Operators: 1, Others: []member.Role{member.RoleUtility}, Speed: 10})
	victim, ca := n.Homes[1], n.CAs["dso1"]
	crl, err := ca.Revoke([]string{victim.Member.Serial}, 1, n.Clock.Now(), n.Clock.Now().Add(24*time.Hour), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	began := n.Clock.Now()
	if err := n.Others[0].Host.PublishCRL(crl); err != nil {
		t.Fatal(err)
	}
	for _, s := range n.SSNs {
		meshtest.Eventually(t, "the substation drops the revoked home", func() bool {
			_, up := s.Host.Connected(victim.Member.Peer)
			return !up
		})
	}
	if took := n.Clock.Now().Sub(began); took > time.Minute {
		t.Errorf("revocation took %v, want at most a minute", took)
	}
	if _, err := n.Others[0].Host.Judge(victim.Host.Chain()); !errors.Is(err, mesh.ErrRevoked) {
		t.Errorf("the revoked home's certificate is judged %v, want ErrRevoked", err)
	}
	if m, err := n.Others[0].Host.Judge(n.Homes[0].Host.Chain()); err != nil || m.Key != n.Homes[0].Member.Key {
		t.Errorf("another home's certificate is judged %v", err)
	}
	meshtest.Eventually(t, "the home is told", func() bool { return warns(victim.Host, mesh.WarnRevoked) })
	if _, err := victim.Host.Call(t.Context(), n.SSNs[0].Member.Peer, mesh.Probe, nil); !errors.Is(err, mesh.ErrRevoked) && !errors.Is(err, mesh.ErrOffline) {
		t.Errorf("the revoked home's call: got %v", err)
	}
	if _, up := n.SSNs[0].Host.Connected(n.Homes[0].Member.Peer); !up {
		t.Error("another home was disconnected too")
	}
}

func TestAMemberIsDisconnectedWhenItsCertificateExpires(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Wallets: 1})
	n.Clock.Jump(member.MemberLife)
	meshtest.Eventually(t, "the wallet is disconnected", func() bool {
		_, up := n.SSNs[0].Host.Connected(n.Wallets[0].Member.Peer)
		return !up
	})
}

// desk is a registrar with a CA, as node has one.
type desk struct {
	n  *meshtest.Network
	mu sync.Mutex
	*member.Registrar
	raised int
	lose   bool // the next answer is lost: an error after the code is consumed
}

func (d *desk) Enrol(_ context.Context, q member.Request, ch member.Channel) (member.Answer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dec := d.Decide(q, ch, d.n.Clock.Now())
	if dec.Raise {
		d.raised++
	}
	if dec.Refusal != member.RefusedNot {
		return member.Answer{Refusal: dec.Refusal}, nil
	}
	if d.lose {
		d.lose = false
		return member.Answer{}, errors.New("power cut")
	}
	chain, err := d.n.CAs[d.n.Issuer(dec.Grant.Role, dec.Grant.Zone)].IssueMember(dec.Grant, d.n.Clock.Now(), rand.Reader)
	return member.Answer{Chain: chain}, err
}

func (d *desk) Renew(_ context.Context, m mesh.Member, _ []byte) ([][]byte, error) {
	g := member.Grant{Network: d.n.Bundle.Network, Key: m.Key, Role: m.Role, Zone: m.Zone}
	return d.n.CAs[m.Operator].IssueMember(g, d.n.Clock.Now(), rand.Reader)
}

// withDesk starts a network whose substations enrol strangers.
func withDesk(t *testing.T, o meshtest.Options) (*meshtest.Network, *desk) {
	t.Helper()
	d := &desk{Registrar: member.NewRegistrar(nil)}
	o.Config = func(node *meshtest.Node, c *mesh.Config) {
		d.n = node.Net
		if node.Member.Role == member.RoleSSN {
			c.Enrol = d
		}
	}
	return meshtest.Start(t, o), d
}

func TestACertificateIsRenewedOnTheOpenConnection(t *testing.T) {
	n, _ := withDesk(t, meshtest.Options{SSNs: 1, Homes: 1})
	home, ssn := n.Homes[0], n.SSNs[0]
	old := home.Host.Self()
	n.Clock.Jump(member.MemberLife * 7 / 10)
	meshtest.Eventually(t, "the substation sees the next certificate", func() bool {
		m, up := ssn.Host.Connected(home.Member.Peer)
		return up && m.NotAfter.After(old.NotAfter)
	})
	n.Clock.Jump(member.MemberLife * 4 / 10) // past the end of the first one
	meshtest.Eventually(t, "the home calls as before", func() bool {
		_, err := home.Host.Call(t.Context(), ssn.Member.Peer, mesh.Probe, nil)
		return err == nil
	})
	if d := ssn.Host.Metrics().Drops[mesh.DropMembership]; d > 0 {
		t.Errorf("the substation disconnected %d members, want none", d)
	}
	home.Restart()
	meshtest.Eventually(t, "the home is back with the certificate it was given last", func() bool {
		_, up := ssn.Host.Connected(home.Member.Peer)
		return up
	})
}

func TestANodeThatCertifiesRenewsItself(t *testing.T) {
	n, _ := withDesk(t, meshtest.Options{SSNs: 1})
	old := n.SSNs[0].Host.Self()
	n.Clock.Jump(member.MemberLife * 7 / 10)
	meshtest.Eventually(t, "it has the next certificate", func() bool { return n.SSNs[0].Host.Self().NotAfter.After(old.NotAfter) })
}

func TestALostCAIsReplacedByTheRootsAlone(t *testing.T) {
	t.Parallel() // mostly waits
	n := meshtest.Start(t, meshtest.Options{SSNs: 2, Operators: 2, Homes: 2})
	fresh, err := member.NewCA("dso1", n.Clock.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	next, err := member.ParseBundle(n.Raw)
	if err != nil {
		t.Fatal(err)
	}
	next.Version = 2
	next.Operators[0].CA = []member.DER{fresh.Certificate}
	raw, err := next.Encode()
	if err != nil {
		t.Fatal(err)
	}
	_, thief, _ := ed25519.GenerateKey(rand.Reader)
	if err := n.SSNs[0].Host.PublishBundle(raw, member.SignBundle(raw, nil, thief)); err == nil {
		t.Error("a bundle that the roots did not sign was published")
	}
	if err := n.SSNs[1].Host.PublishBundle(raw, member.SignBundle(raw, nil, n.Root)); err != nil {
		t.Fatal(err)
	}
	// dso1 issued SSN 1 and home 1; dso2's members stay connected.
	meshtest.Eventually(t, "members of the lost CA are disconnected", func() bool {
		_, ssn := n.SSNs[1].Host.Connected(n.SSNs[0].Member.Peer)
		_, home := n.SSNs[1].Host.Connected(n.Homes[0].Member.Peer)
		_, kept := n.SSNs[1].Host.Connected(n.Homes[1].Member.Peer)
		return !ssn && !home && kept
	})
	meshtest.Eventually(t, "the home has the bundle too", func() bool { return n.Homes[1].Host.Bundle().Version == 2 })
	n.SSNs[1].Restart()
	if v := n.SSNs[1].Host.Bundle().Version; v != 2 {
		t.Errorf("after a restart the bundle is version %d, want 2", v)
	}
}

func stranger(t *testing.T, to peer.AddrInfo) host.Host {
	t.Helper()
	key, _, _ := crypto.GenerateEd25519Key(rand.Reader)
	h, err := mesh.NewStranger(key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	h.Peerstore().AddAddrs(to.ID, to.Addrs, peerstore.TempAddrTTL)
	return h
}

func TestAStrangerGetsOnlyHelloAndEnrol(t *testing.T) {
	t.Parallel() // mostly waits
	n, _ := withDesk(t, meshtest.Options{SSNs: 1})
	seed := n.SSNs[0].Host.AddrInfo()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, p := range []protocol.ID{"/gridveil/lane/1", "/gridveil/http/1", "/gridveil/onion/1", "/meshsub/1.2.0", "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} {
		h := stranger(t, seed)
		wg.Go(func() {
			s, err := h.NewStream(t.Context(), seed.ID, p)
			if err != nil {
				return // not spoken at all
			}
			s.SetDeadline(time.Now().Add(10 * time.Second))
			s.Write([]byte{1})
			if _, err := io.ReadFull(s, make([]byte, 1)); err == nil {
				t.Errorf("%s answered a stranger", p)
			}
		})
	}
	h := stranger(t, seed)
	s, err := h.NewStream(t.Context(), seed.ID, member.ProtocolHello)
	if err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(s, make([]byte, 6)); err != nil {
		t.Errorf("the responder does not speak first: %v", err)
	}
	began := time.Now()
	io.Copy(io.Discard, s) // says nothing
	if took := time.Since(began); took > 2*member.HelloTimeout {
		t.Errorf("a silent stranger stayed %v", took)
	}
}

// invite opens a code and gives the invitation as a link.
func invite(t *testing.T, n *meshtest.Network, d *desk, role member.Role, zone string) mesh.Invitation {
	t.Helper()
	d.mu.Lock()
	inv, err := d.Invite(role, zone, n.Clock.Now(), rand.Reader)
	d.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	seed := n.SSNs[0]
	link := member.Link{Code: inv.Code, Network: n.Bundle.Network, Bundle: n.Bundle.Hash(), Seed: seed.Member.Key, Address: seed.Addrs[0].String()}
	parsed, err := member.ParseLink(link.String())
	if err != nil {
		t.Fatal(err)
	}
	out, err := mesh.FromLink(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func newKey(t *testing.T) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestAStrangerJoinsWithACode(t *testing.T) {
	n, d := withDesk(t, meshtest.Options{SSNs: 2, Onion: true})
	n.AwaitDirectory()
	inv, key := invite(t, n, d, member.RoleGateway, "z1"), newKey(t)
	d.lose = true
	if _, err := mesh.Enrol(t.Context(), inv, key, nil, n.Clock.Now()); !errors.Is(err, mesh.ErrBusy) {
		t.Fatalf("first answer lost: got %v, want ErrBusy", err)
	}
	got, err := mesh.Enrol(t.Context(), inv, key, nil, n.Clock.Now())
	if err != nil {
		t.Fatalf("second try with the same key: %v", err)
	}
	if got.Member.Role != member.RoleGateway || got.Member.Zone != "z1" || got.Bundle.Version != 1 {
		t.Errorf("got %+v", got.Member)
	}
	home := n.AddWith(key, got.Chain)
	if taken, err := home.Host.Prime(got.Snapshot); err != nil || taken == 0 && len(home.Host.Registers(2)) == 0 {
		t.Errorf("directory snapshot: %d registers, %v", taken, err)
	}
	meshtest.Eventually(t, "the new home is connected", func() bool { _, up := home.Host.Connected(n.SSNs[0].Member.Peer); return up })

	if _, err := mesh.Enrol(t.Context(), inv, newKey(t), nil, n.Clock.Now()); !errors.Is(err, member.ErrCode) {
		t.Errorf("stolen code: got %v, want ErrCode", err)
	}
	if d.raised == 0 {
		t.Error("the stolen code was not reported")
	}
	wrong := invite(t, n, d, member.RoleGateway, "z1")
	wrong.Seed = n.SSNs[1].Host.AddrInfo()
	if _, err := mesh.Enrol(t.Context(), wrong, newKey(t), nil, n.Clock.Now()); err != nil {
		t.Errorf("another seed of the same registrar, proof made for it: %v", err)
	}
	wrong.Pin = &[32]byte{1}
	if _, err := mesh.Enrol(t.Context(), invitePin(invite(t, n, d, member.RoleGateway, "z1")), newKey(t), nil, n.Clock.Now()); !errors.Is(err, member.ErrBundlePin) {
		t.Errorf("another bundle than the link's: got %v, want ErrBundlePin", err)
	}
}

func invitePin(inv mesh.Invitation) mesh.Invitation { inv.Pin = &[32]byte{1}; return inv }

func TestAHundredPledgesAtOnceAllJoin(t *testing.T) {
	n, d := withDesk(t, meshtest.Options{SSNs: 1, Speed: 1})
	var wg sync.WaitGroup
	for range 100 {
		inv, key := invite(t, n, d, member.RoleGateway, "z1"), newKey(t)
		wg.Go(func() {
			for {
				_, err := mesh.Enrol(t.Context(), inv, key, nil, n.Clock.Now())
				if err == nil {
					return
				}
				if !errors.Is(err, mesh.ErrOffline) && !errors.Is(err, mesh.ErrUnacked) && !errors.Is(err, mesh.ErrBusy) {
					t.Errorf("pledge: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}
