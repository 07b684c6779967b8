package mesh_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/mix"
	"gridveil/mesh/route"
)

// relaying starts a network whose first home listens and may relay.
func relaying(t *testing.T, o meshtest.Options) (*meshtest.Network, *meshtest.Node) {
	t.Helper()
	var first *meshtest.Node
	config := o.Config
	o.Config = func(d *meshtest.Node, c *mesh.Config) {
		if d.Member.Role == member.RoleGateway && (first == nil || first == d) {
			first = d
			c.Relay = true
			if c.Listen = d.Addrs; c.Listen == nil {
				c.Listen = []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}
			}
		}
		if config != nil {
			config(d, c)
		}
	}
	n := meshtest.Start(t, o)
	return n, first
}

// homeKeys is the register of a home that relays at these addresses; with none it says that it has stopped.
func homeKeys(t *testing.T, addrs ...ma.Multiaddr) []byte {
	t.Helper()
	k := route.Keys{Epoch: 1, Keys: []mix.PublicKey{{ID: 1}}}
	for _, a := range addrs {
		k.Flags, k.Addresses = route.FlagRelay, append(k.Addresses, a.String())
	}
	body, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestTheRegisterOfAHomeThatRelaysReachesEverybody(t *testing.T) {
	n, home := relaying(t, meshtest.Options{SSNs: 3, Homes: 2, Others: []member.Role{member.RoleVerifier}})
	publish := func(body []byte) error {
		return home.Host.Publish(gossip.KindDirectory, gossip.KeyOnion, body, n.Clock.Now().Add(time.Hour))
	}
	if err := publish(homeKeys(t)); !errors.Is(err, gossip.ErrRefused) {
		t.Errorf("a home that never relayed says that it stopped: got %v, want ErrRefused", err)
	}
	if err := publish(homeKeys(t, home.Addrs...)); err != nil {
		t.Fatal(err)
	}
	for _, d := range slices.Concat(n.SSNs, n.Others, n.Homes[1:]) {
		meshtest.Eventually(t, "everybody knows the relay", func() bool { return d.Host.HomeRelay(home.Member.Key) })
	}
	late := n.Add(member.RoleVerifier, "") // pulls it, and its certificate
	meshtest.Eventually(t, "a newcomer knows it", func() bool { return late.Host.HomeRelay(home.Member.Key) })
	if err := publish(homeKeys(t)); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(slices.Concat(n.SSNs, n.Others, n.Homes), late) {
		meshtest.Eventually(t, "everybody knows that it has stopped", func() bool { return !d.Host.HomeRelay(home.Member.Key) })
	}
	for kind, key := range map[gossip.Kind]uint64{gossip.KindDirectory: gossip.KeySeal, gossip.KindPrice: gossip.KeyOnion} {
		if err := home.Host.Publish(kind, key, homeKeys(t, home.Addrs...), n.Clock.Now().Add(time.Hour)); !errors.Is(err, mesh.ErrNotAllowed) {
			t.Errorf("%v %d of a home: got %v, want ErrNotAllowed", kind, key, err)
		}
	}
}

func TestAHomeThatRelaysLetsInNobodyButRelays(t *testing.T) {
	n, home := relaying(t, meshtest.Options{SSNs: 1, Homes: 2, Wallets: 1, Others: []member.Role{member.RoleVerifier}})
	at := peer.AddrInfo{ID: home.Member.Peer, Addrs: home.Addrs}
	verifier := n.Others[0]
	verifier.Host.Keep(at)
	meshtest.Eventually(t, "a backbone member connects", func() bool { _, up := verifier.Host.Connected(at.ID); return up })
	for _, d := range []*meshtest.Node{n.Homes[1], n.Wallets[0]} {
		d.Host.Learn(at)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := d.Host.Stream(ctx, at.ID, "/gridveil/onion/1"); err == nil {
			t.Errorf("a %v is let in", d.Member.Role)
		}
		cancel()
	}
	if err := home.Host.Publish(gossip.KindDirectory, gossip.KeyOnion, homeKeys(t, home.Addrs...), n.Clock.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	// Whoever connects because the home relays does not feed it: registers come from its parents.
	if _, err := verifier.Host.Call(t.Context(), at.ID, mesh.Feed, []byte("x")); !errors.Is(err, mesh.ErrRefused) {
		t.Errorf("a stranger feeds the home: %v", err)
	}
	// A connection without a stream closes, so that its keep-alives cost the home nothing.
	verifier.Host.Release(at.ID)
	meshtest.Eventually(t, "an idle connection closes", func() bool { _, up := home.Host.Connected(verifier.Member.Peer); return !up })
}

func TestOnlyAGatewayThatListensRelays(t *testing.T) {
	n := meshtest.Found(t, meshtest.Options{SSNs: 1})
	listen := []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}
	for _, tc := range []struct {
		fact   string
		role   member.Role
		zone   string
		relay  bool
		listen []ma.Multiaddr
		ok     bool
	}{
		{"a gateway that relays and listens", member.RoleGateway, "z1", true, listen, true},
		{"a gateway that relays and does not listen", member.RoleGateway, "z1", true, nil, false},
		{"a gateway that listens and does not relay", member.RoleGateway, "z1", false, listen, false},
		{"a wallet that relays", member.RoleWallet, "", true, listen, false},
		{"a substation that chooses what it does anyway", member.RoleSSN, "z1", true, listen, false},
	} {
		key, chain := n.Issue(tc.role, tc.zone)
		h, err := mesh.New(mesh.Config{Clock: n.Clock, Bundle: n.Bundle, Sig: n.Sig, Chain: chain, Listen: tc.listen, Relay: tc.relay}, key, nil)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.fact, err)
		}
		if err == nil {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestAParentDialsBackOnlyWhereAHomeIsSeen(t *testing.T) {
	n, home := relaying(t, meshtest.Options{SSNs: 2, Homes: 1, Config: func(d *meshtest.Node, c *mesh.Config) {
		if c.Relay {
			c.Announce = []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.1/tcp/4100"), ma.StringCast("/ip4/127.0.0.1/tcp/9"),
				ma.StringCast("/dns4/localhost/tcp/9"), ma.StringCast("/ip4/127.0.0.1/udp/4100/quic-v1")}
		}
	}})
	r, err := home.Host.Reachable(t.Context())
	if want := []mesh.Reach{mesh.ReachForeign, mesh.ReachNone, mesh.ReachNone, mesh.ReachNone}; err != nil || r.OK() || !slices.Equal(r.Reach, want) || r.Seen.String() != "127.0.0.1" {
		t.Errorf("%+v, %v; want %v", r, err, want)
	}
	parent := n.SSNs[1].Member.Peer
	ask := func(addr string) error {
		_, err := home.Host.Call(t.Context(), parent, mesh.DialBack, append([]byte{1, byte(len(addr))}, addr...))
		return err
	}
	if err := ask(n.SSNs[0].Addrs[0].String()); err != nil { // another node's: the key of who answers is checked
		t.Fatal(err)
	}
	if err := ask("/ip4/127.0.0.1/tcp/9"); !errors.Is(err, mesh.ErrBusy) {
		t.Errorf("a second question at once: got %v, want ErrBusy", err)
	}
	if err := ask("no address"); !errors.Is(err, mesh.ErrRefused) {
		t.Errorf("no address: got %v, want ErrRefused", err)
	}
	if _, err := n.SSNs[0].Host.Call(t.Context(), parent, mesh.DialBack, nil); !errors.Is(err, mesh.ErrNotAllowed) {
		t.Errorf("a substation asks: got %v, want ErrNotAllowed", err)
	}
}
