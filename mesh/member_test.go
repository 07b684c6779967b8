package mesh_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/lane"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/packet"
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
	d.mu.Lock()
	defer d.mu.Unlock()
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

// An operator changes its CA: both stand in the bundle, everybody renews, the old one goes. Connections and calls live on.
func TestACARolloverDropsNobody(t *testing.T) {
	release := make(chan struct{})
	n, d := withDesk(t, meshtest.Options{SSNs: 2, Operators: 1, Homes: 2, Others: []member.Role{member.RoleUtility}, Onion: true,
		Ready: func(d *meshtest.Node) error {
			if d.Member.Role == member.RoleSSN {
				d.Host.Handle(mesh.Report, func(ctx context.Context, _ mesh.Member, req []byte) ([]byte, error) {
					select {
					case <-release:
						return req, nil
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				})
			}
			return nil
		}})
	n.AwaitDirectory()
	all := slices.Concat(n.SSNs, n.Homes)
	conns := map[[2]*meshtest.Node]network.Conn{}
	for _, a := range n.Homes {
		for _, b := range n.SSNs {
			conns[[2]*meshtest.Node{a, b}] = a.Host.Conn(b.Member.Peer)
		}
	}
	flying := make(chan error, 1)
	go func() {
		answer, err := n.Homes[0].Host.Call(t.Context(), n.SSNs[0].Member.Peer, mesh.Report, []byte("in flight"))
		if err == nil && string(answer) != "in flight" {
			err = errors.New("another answer")
		}
		flying <- err
	}()
	old := n.CAs["dso1"]
	fresh, err := member.NewCA("dso1", n.Clock.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	n.CAs["dso1"] = fresh
	d.mu.Unlock()
	publish := func(version uint64, cas ...member.DER) {
		t.Helper()
		next, err := member.ParseBundle(n.Raw)
		if err != nil {
			t.Fatal(err)
		}
		next.Version, next.Operators[0].CA = version, cas
		raw, err := next.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Others[0].Host.PublishBundle(raw, member.SignBundle(raw, nil, n.Root)); err != nil {
			t.Fatal(err)
		}
	}
	publish(2, fresh.Certificate, old.Certificate)
	meshtest.Eventually(t, "everybody has a certificate of the next CA", func() bool {
		for _, m := range all {
			if first, _ := m.Host.Bundle().FirstCA("dso1"); m.Host.Bundle().Version != 2 || m.Host.Self().CA != first {
				return false
			}
		}
		return true
	})
	publish(3, fresh.Certificate)
	meshtest.Eventually(t, "everybody has the bundle without the old one", func() bool {
		return !slices.ContainsFunc(all, func(m *meshtest.Node) bool { return m.Host.Bundle().Version != 3 })
	})
	meshtest.Eventually(t, "everybody is seen under the next CA", func() bool {
		for ends := range conns {
			first, _ := ends[1].Host.Bundle().FirstCA("dso1")
			home, up := ends[1].Host.Connected(ends[0].Member.Peer)
			ssn, back := ends[0].Host.Connected(ends[1].Member.Peer)
			if !up || !back || home.CA != first || ssn.CA != first {
				return false
			}
		}
		return true
	})
	close(release)
	if err := <-flying; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	for ends, c := range conns {
		if c.IsClosed() || ends[0].Host.Conn(ends[1].Member.Peer) != c {
			t.Error("a connection was replaced")
		}
	}
	for _, m := range all {
		if dropped := m.Host.Metrics().Drops[mesh.DropMembership]; dropped > 0 {
			t.Errorf("a %v disconnected %d members", m.Member.Role, dropped)
		}
	}
	for _, m := range []*meshtest.Node{n.SSNs[0], n.Homes[0]} { // the installed bundle names the old CA only
		m.Restart()
	}
	meshtest.Eventually(t, "they are back after a restart", func() bool {
		_, up := n.SSNs[0].Host.Connected(n.Homes[0].Member.Peer)
		_, back := n.Homes[0].Host.Connected(n.SSNs[0].Member.Peer)
		return up && back && n.Homes[0].Host.Bundle().Version == 3
	})
	if _, err := n.Homes[0].Host.Call(t.Context(), n.SSNs[0].Member.Peer, mesh.Report, []byte("again")); err != nil {
		t.Errorf("a call after the restart: %v", err)
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
	const counted protocol.ID = "/gridveil/counted/1"
	var entered atomic.Int32
	n, _ := withDesk(t, meshtest.Options{SSNs: 1, Homes: 1, Onion: true, Speed: 1, Ready: func(d *meshtest.Node) error {
		d.Host.Streams(counted, func(_ mesh.Member, s network.Stream) {
			defer s.Reset()
			entered.Add(1)
			io.Copy(io.Discard, s)
		})
		return nil
	}})
	ssn := n.SSNs[0]
	seed := ssn.Host.AddrInfo()
	h := stranger(t, seed)
	enrol, err := h.NewStream(t.Context(), seed.ID, member.ProtocolEnrol) // begun, so the connection outlives the wait for hello
	if err != nil {
		t.Fatal(err)
	}
	defer enrol.Reset()
	spoken := map[protocol.ID][]byte{ // with what a served peer would say first
		"/gridveil/lane/1":  lane.AppendFrame([]byte{1}, lane.Frame{ID: 1, Type: lane.Req, Service: uint8(mesh.Probe)}),
		"/gridveil/http/1":  append([]byte{4}, "tree"...),
		"/gridveil/onion/1": make([]byte, packet.Size),
		"/meshsub/1.3.0":    {0}, "/meshsub/1.2.0": {0}, "/meshsub/1.1.0": {0},
		counted: {0},
	}
	var wg sync.WaitGroup
	for p, first := range spoken {
		s, err := h.NewStream(t.Context(), seed.ID, p)
		if err != nil {
			t.Fatalf("%s is not spoken to members: %v", p, err)
		}
		wg.Go(func() {
			s.SetDeadline(time.Now().Add(time.Minute))
			if _, err := s.Write(first); err != nil {
				t.Errorf("%s: %v", p, err)
			}
			if got, err := io.ReadAll(s); len(got) > 0 || !errors.Is(err, network.ErrReset) {
				t.Errorf("%s gave a stranger %d bytes and ended with %v, want nothing and a reset", p, len(got), err)
			}
			if s.Conn().IsClosed() {
				t.Errorf("%s was ended only with its connection", p)
			}
		})
	}
	for _, p := range []protocol.ID{"/floodsub/1.0.0", "/meshsub/1.0.0", "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/kad/1.0.0", "/libp2p/circuit/relay/0.2.0/hop"} {
		if s, err := h.NewStream(t.Context(), seed.ID, p); err == nil {
			t.Errorf("%s is spoken", p)
			s.Reset()
		}
	}
	wg.Wait()
	if entered.Load() > 0 {
		t.Error("a stranger's stream reached its handler")
	}
	for why, count := range ssn.Onion.Stats().Dropped {
		if count > 0 {
			t.Errorf("the onion looked at a stranger's packet: %s", why)
		}
	}
	s, err := n.Homes[0].Host.Stream(t.Context(), seed.ID, counted)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	meshtest.Eventually(t, "a member's stream reaches the same handler", func() bool { return entered.Load() == 1 })
}

func TestAStrangerWhoSaysNoHelloIsDisconnected(t *testing.T) {
	t.Parallel() // mostly waits
	n, _ := withDesk(t, meshtest.Options{SSNs: 1})
	seed := n.SSNs[0].Host.AddrInfo()
	h := stranger(t, seed)
	s, err := h.NewStream(t.Context(), seed.ID, member.ProtocolHello)
	if err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(s, make([]byte, 6)); err != nil {
		t.Errorf("the responder does not speak first: %v", err)
	}
	if _, err := io.Copy(io.Discard, s); isTimeout(err) { // says nothing
		t.Error("a silent stranger stayed for a minute")
	}
	meshtest.Eventually(t, "its connection ends too", s.Conn().IsClosed)
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

func TestAnOverdueRevocationListIsWarnedAboutAndRefusesNobody(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Operators: 1, Others: []member.Role{member.RoleUtility}})
	home, ssn, ca := n.Homes[0], n.SSNs[0].Host, n.CAs["dso1"]
	publish := func(number uint64) {
		crl, err := ca.Revoke(nil, number, n.Clock.Now(), n.Clock.Now().Add(24*time.Hour), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Others[0].Host.PublishCRL(crl); err != nil {
			t.Fatal(err)
		}
	}
	publish(1)
	meshtest.Eventually(t, "the substation holds the list", func() bool { return len(ssn.Registers(gossip.KindTrust)) == 1 })
	if warns(ssn, mesh.WarnStaleRevoked) {
		t.Error("a fresh list is overdue")
	}
	n.Clock.Jump(25 * time.Hour)
	meshtest.Eventually(t, "the substation warns", func() bool { return warns(ssn, mesh.WarnStaleRevoked) })
	meshtest.Eventually(t, "the home warns", func() bool { return warns(home.Host, mesh.WarnStaleRevoked) })
	if _, up := ssn.Connected(home.Member.Peer); !up {
		t.Error("an overdue list cut a home off")
	}
	publish(2)
	meshtest.Eventually(t, "the warning ends", func() bool { return !warns(ssn, mesh.WarnStaleRevoked) && !warns(home.Host, mesh.WarnStaleRevoked) })
}

func TestANewerBundleIsKeptForTheNextStart(t *testing.T) {
	var mu sync.Mutex
	kept := map[member.Role]uint64{}
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Config: func(d *meshtest.Node, c *mesh.Config) {
		c.SaveBundle = func(raw, sig []byte) error {
			b, err := member.OpenBundle(raw, sig, nil)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				kept[d.Member.Role] = b.Version
			}
			return err
		}
	}})
	next, err := member.ParseBundle(n.Raw)
	if err != nil {
		t.Fatal(err)
	}
	next.Version, next.Policy.HomesEnrolled = 2, 33
	n.Install(next)
	if err := n.SSNs[0].Host.PublishBundle(n.Raw, n.Sig); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "both keep the newer bundle", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return kept[member.RoleSSN] == 2 && kept[member.RoleGateway] == 2
	})
	meshtest.Eventually(t, "it is in force", func() bool { return n.Homes[0].Host.Bundle().Policy.HomesEnrolled == 33 })
}
