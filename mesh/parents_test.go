package mesh_test

import (
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

func info(d *meshtest.Node) peer.AddrInfo { return peer.AddrInfo{ID: d.Member.Peer, Addrs: d.Addrs} }

func up(a, b *meshtest.Node) bool { _, ok := a.Host.Connected(b.Member.Peer); return ok }

func TestALeafThatIsGivenParentsLeavesItsContact(t *testing.T) {
	n, box := following(t, gossip.KindPrice, meshtest.Options{SSNs: 3, Others: []member.Role{member.RoleUtility},
		Config: func(d *meshtest.Node, c *mesh.Config) {
			if d.Member.Role.Leaf() {
				c.Parents = []peer.AddrInfo{info(d.Net.SSNs[2])}
			}
		}})
	home := n.Add(member.RoleGateway, "z1")
	meshtest.Eventually(t, "the home is connected to its contact", func() bool { return up(home, n.SSNs[2]) })
	settled := func() bool {
		return up(home, n.SSNs[0]) && up(home, n.SSNs[1]) && !up(home, n.SSNs[2]) && home.Host.Metrics().Dialled == 2
	}
	if err := home.Host.SetParents([]peer.AddrInfo{info(n.SSNs[0]), info(n.SSNs[1]), info(n.SSNs[0]), info(home)}); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "the home is connected to its parents alone", settled)
	price := func(body string) {
		t.Helper()
		meshtest.Eventually(t, "the home is fed the price "+body, func() bool {
			if err := n.Others[0].Host.Publish(gossip.KindPrice, gossip.ZoneKey("z1", 1), []byte(body), n.Clock.Now().Add(10*time.Hour)); err != nil {
				t.Log(err) // over its rate; the first one is on its way
			}
			return box(home).has(body)
		})
	}
	price("by the first parent")
	n.SSNs[0].Stop()
	price("by the second parent")
	n.SSNs[2].Stop() // the contact is gone for ever
	if err := n.SSNs[0].Start(); err != nil {
		t.Fatal(err)
	}
	home.Restart()
	meshtest.Eventually(t, "after a restart it dials its parents", settled)
}

func TestACallDoesNotLeaveAConnectionOpen(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 2, Config: func(d *meshtest.Node, c *mesh.Config) {
		if d.Member.Role.Leaf() {
			c.Parents = c.Parents[:1]
		}
	}})
	home := n.Add(member.RoleGateway, "z1")
	meshtest.Eventually(t, "the home is connected", func() bool { return up(home, n.SSNs[0]) })
	home.Host.Learn(info(n.SSNs[1]))
	if _, err := home.Host.Call(t.Context(), n.SSNs[1].Member.Peer, mesh.Probe, nil); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "the connection that a call began is closed", func() bool {
		return !up(home, n.SSNs[1]) && up(home, n.SSNs[0]) && home.Host.Metrics().Dialled == 1
	})
}

func TestAParentThatIsDownIsCalledLast(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 2, Config: func(d *meshtest.Node, c *mesh.Config) {
		if d.Member.Role.Leaf() {
			key, _, err := crypto.GenerateEd25519Key(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			id, err := peer.IDFromPrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			contact := peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/1")}}
			c.Parents = append([]peer.AddrInfo{contact}, c.Parents...)
		}
	}})
	home := n.Add(member.RoleGateway, "z1")
	meshtest.Eventually(t, "the home is connected", func() bool { return up(home, n.SSNs[0]) && up(home, n.SSNs[1]) })
	want := []peer.ID{n.SSNs[0].Member.Peer, n.SSNs[1].Member.Peer, home.Host.Parents()[0].ID}
	if got := home.Host.CallOrder(); !slices.Equal(got, want) {
		t.Errorf("parents are called in the order %v, want %v", got, want)
	}
}

// apart starts two substations that do not know each other, a utility behind the second one, and a home of both. Its
// first parent feeds it.
func apart(t *testing.T, join bool) (*meshtest.Network, *meshtest.Node) {
	n := meshtest.Found(t, meshtest.Options{SSNs: 2, Onion: true, Speed: 400, Config: func(d *meshtest.Node, c *mesh.Config) {
		switch {
		case d.Member.Role == member.RoleSSN && !join:
			c.Parents = nil
		case d.Member.Role == member.RoleUtility:
			c.Parents = c.Parents[1:]
		}
	}})
	for _, zone := range []string{"z1", "z2"} {
		n.SSNs = append(n.SSNs, n.Add(member.RoleSSN, zone))
	}
	n.Others = append(n.Others, n.Add(member.RoleUtility, ""))
	return n, n.Add(member.RoleGateway, "z1")
}

func TestParentsThatShowDifferentDirectoriesAreReported(t *testing.T) {
	n, home := apart(t, false)
	meshtest.Eventually(t, "the split is seen", func() bool { return warns(home.Host, mesh.WarnDirectorySplit) })
	if _, known := home.Host.Register(gossip.KindDirectory, n.Others[0].Member.Key, gossip.KeyOnion); !known {
		t.Error("the home does not have what its second parent shows")
	}
	n.SSNs[0].Host.Keep(info(n.SSNs[1]))
	meshtest.Eventually(t, "it is over once the parents agree", func() bool { return !warns(home.Host, mesh.WarnDirectorySplit) })
}

func TestParentsThatAgreeAreNotReported(t *testing.T) {
	n, home := apart(t, true)
	meshtest.Eventually(t, "the home knows everybody", func() bool { return len(home.Host.Registers(gossip.KindDirectory)) >= 6 })
	stop := n.Clock.Now().Add(25 * time.Minute) // five rounds, with new registers in between
	meshtest.Eventually(t, "five rounds pass", func() bool {
		if warns(home.Host, mesh.WarnDirectorySplit) {
			t.Fatal("parents that agree are said to differ")
		}
		return n.Clock.Now().After(stop)
	})
	n.SSNs[0].Stop() // nobody feeds for a moment, and what the second parent shows is new
	stop = n.Clock.Now().Add(15 * time.Minute)
	meshtest.Eventually(t, "three rounds pass", func() bool {
		if warns(home.Host, mesh.WarnDirectorySplit) {
			t.Fatal("one parent alone is said to differ")
		}
		return n.Clock.Now().After(stop)
	})
}
