package onion_test

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/mix"
	"gridveil/mesh/onion"
	"gridveil/mesh/packet"
	"gridveil/mesh/route"
)

// relayHomes makes the first n homes of a lab relay for others.
type relayHomes struct {
	n         int
	started   int // homes
	dailyMB   int
	takenBack bool // nodes start without the choice from now on
	witness   func(d *meshtest.Node, from packet.NodeKey, r packet.Routing) bool
}

func (h *relayHomes) options() meshtest.Options {
	chosen := map[member.Key]bool{}
	return meshtest.Options{
		Config: func(d *meshtest.Node, c *mesh.Config) {
			if d.Member.Role != member.RoleGateway {
				return
			}
			if h.started < h.n {
				chosen[d.Member.Key] = true
			}
			h.started++
			if h.takenBack {
				clear(chosen)
			}
			if chosen[d.Member.Key] {
				c.Relay, c.DailyMB = true, h.dailyMB
				if c.Listen = d.Addrs; c.Listen == nil {
					c.Listen = []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}
				}
			}
		},
		OnionOf: func(d *meshtest.Node, c *onion.Config) { c.Relay = chosen[d.Member.Key] },
		Ready: func(d *meshtest.Node) error {
			if h.witness != nil {
				d.Onion.Witness(func(from packet.NodeKey, r packet.Routing, _, _ *packet.Packet) bool { return h.witness(d, from, r) })
			}
			return market(d)
		},
	}
}

// awaitRelays waits until every leaf knows so many relays.
func awaitRelays(t *testing.T, n *meshtest.Network, want func(d *meshtest.Node) int) {
	t.Helper()
	for _, d := range n.Homes {
		meshtest.EventuallyWithin(t, time.Minute, "the directory names the relays", func() bool { return d.Onion.Health().Relays == want(d) })
	}
}

func TestAHomeThatChoseToRelaysOthersPacketsAndNeverItsOwn(t *testing.T) {
	var calling atomic.Pointer[member.Key] // set while only that home sends
	var passing atomic.Int64
	h := &relayHomes{n: 1}
	h.witness = func(d *meshtest.Node, from packet.NodeKey, r packet.Routing) bool {
		if own := calling.Load(); own != nil && r.Flag == packet.FlagRelay && d.Member.Key == *own {
			passing.Add(1)
		}
		return true
	}
	n, agg := lab(t, 3, h.options())
	relay := n.Homes[0]
	awaitRelays(t, n, func(d *meshtest.Node) int {
		if d == relay {
			return 3 // itself left out
		}
		return 4
	})
	if s := relay.Onion.HomeRelay(); !s.Chosen || !s.On || s.Paused || s.Unreachable || !s.Reach.OK() {
		t.Errorf("the home shows %+v", s)
	}
	meshtest.Eventually(t, "a call of another home passes it", func() bool {
		if _, err := n.Homes[1].Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, []byte("x")); err != nil {
			t.Fatal(err)
		}
		return relay.Onion.Stats().Relayed > 0
	})
	if st := relay.Onion.Stats(); st.RelayedToday != st.Relayed {
		t.Errorf("%d of %d packets today", st.RelayedToday, st.Relayed)
	}
	for _, d := range n.Homes[1:] {
		if err := d.Onion.Switch(false); err != nil {
			t.Fatal(err)
		}
	}
	pass(t, n, 2*time.Minute) // what was under way is through
	calling.Store(&relay.Member.Key)
	for range 20 {
		if _, err := relay.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, []byte("own")); err != nil {
			t.Fatal(err)
		}
	}
	if passing.Load() != 0 {
		t.Errorf("%d packets of the home passed the home", passing.Load())
	}
	for _, d := range n.Homes {
		for _, g := range d.Onion.Guards() {
			if g == relay.Member.Peer {
				t.Error("a home is a guard")
			}
		}
	}
	if _, ok := n.Homes[1].Host.Connected(relay.Member.Peer); ok {
		t.Error("a home connects to a home that relays")
	}
}

func TestAHomeLeavesTheDirectoryWhenItIsSwitchedOffAndComesBackAfterARestart(t *testing.T) {
	h := &relayHomes{n: 1}
	n, agg := lab(t, 2, h.options())
	relay, other := n.Homes[0], n.Homes[1]
	known := func(want int) func(*meshtest.Node) int {
		return func(d *meshtest.Node) int {
			if d == relay {
				return 3
			}
			return want
		}
	}
	awaitRelays(t, n, known(4))
	if err := relay.Onion.Switch(false); err != nil {
		t.Fatal(err)
	}
	awaitRelays(t, n, known(3))
	if relay.Onion.HomeRelay().On {
		t.Error("it still shows that it relays")
	}
	before := relay.Onion.Stats().Relayed
	for range 10 {
		if _, err := other.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := relay.Onion.Stats().Relayed; got != before {
		t.Errorf("%d packets relayed while off", got-before)
	}
	relay.Restart() // stays off
	n.AwaitConnected()
	pass(t, n, 2*time.Minute)
	if got := other.Onion.Health().Relays; got != 3 {
		t.Errorf("%d relays while the home is off", got)
	}
	if err := relay.Onion.Switch(true); err != nil {
		t.Fatal(err)
	}
	awaitRelays(t, n, known(4))
	relay.Restart()
	n.AwaitConnected()
	meshtest.Eventually(t, "it relays again after a restart, with new keys", func() bool {
		if _, err := other.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, nil); err != nil {
			t.Fatal(err)
		}
		return relay.Onion.Stats().Relayed > 0
	})
	h.takenBack = true
	relay.Restart()
	awaitRelays(t, n, known(3))
}

func TestAHomeStopsRelayingBeforeAnythingElseWhenTheDaysDataRunsOut(t *testing.T) {
	h := &relayHomes{n: 1, dailyMB: 20}
	o := h.options()
	config := o.Config
	o.Config = func(d *meshtest.Node, c *mesh.Config) {
		if config(d, c); c.Relay { // a day that is used as far as relaying may, but for half a megabyte
			now := d.Net.Clock.Now()
			const mb, cap, thrifty = 1 << 20, 20, 7
			rest := 86400 - now.Unix()%86400
			used := uint64(cap*mb - thrifty*mb*rest/86400 - (cap-thrifty)*mb*40/100 - mb/2)
			record := binary.BigEndian.AppendUint64(nil, uint64(now.Unix()/86400))
			record = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(record, used), used)
			if err := d.Store.SaveState("budget", record); err != nil {
				t.Error(err)
			}
		}
	}
	n, agg := lab(t, 2, o)
	relay, other := n.Homes[0], n.Homes[1]
	meshtest.Eventually(t, "it relays", func() bool { return other.Onion.Health().Relays == 4 })
	for relay.Host.Thrift() < mesh.ThriftRelay {
		if _, err := other.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, make([]byte, 4000)); err != nil && !errors.Is(err, mesh.ErrUnacked) {
			t.Fatal(err)
		}
	}
	if got := relay.Host.Thrift(); got != mesh.ThriftRelay {
		t.Fatalf("thrift %d, want no more than relaying stopped", got)
	}
	meshtest.EventuallyWithin(t, time.Minute, "it leaves the directory", func() bool { return other.Onion.Health().Relays == 3 })
	if s := relay.Onion.HomeRelay(); s.On || !s.Paused {
		t.Errorf("the home shows %+v", s)
	}
	before := relay.Onion.Stats()
	for range 5 {
		if _, err := other.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := relay.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, nil); err != nil {
			t.Fatalf("its own messages must go on: %v", err)
		}
	}
	if got := relay.Onion.Stats().Relayed; got != before.Relayed {
		t.Errorf("%d packets relayed after the cap", got-before.Relayed)
	}
	n.Clock.Jump(24 * time.Hour)
	meshtest.EventuallyWithin(t, time.Minute, "it relays again the next day", func() bool { return other.Onion.Health().Relays == 4 && relay.Onion.HomeRelay().On })
}

func TestAHomeThatNobodyCanDialIsNotInTheDirectory(t *testing.T) {
	h := &relayHomes{n: 1}
	o := h.options()
	config := o.Config
	o.Config = func(d *meshtest.Node, c *mesh.Config) {
		config(d, c)
		if c.Relay {
			c.Announce = []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/9"), ma.StringCast("/ip4/192.0.2.9/tcp/4100")}
		}
	}
	n, _ := lab(t, 2, o)
	relay := n.Homes[0]
	meshtest.Eventually(t, "the owner is told", func() bool { return warned(relay, mesh.WarnUnreachable) && relay.Onion.HomeRelay().Unreachable })
	s := relay.Onion.HomeRelay()
	if want := []mesh.Reach{mesh.ReachNone, mesh.ReachForeign}; s.On || !slices.Equal(s.Reach.Reach, want) || s.Reach.Seen.String() != "127.0.0.1" {
		t.Errorf("the home shows %+v, want %v", s, want)
	}
	pass(t, n, 2*time.Minute)
	if got := n.Homes[1].Onion.Health().Relays; got != 3 {
		t.Errorf("%d relays, want the three substations", got)
	}
}

func TestAHomeWithoutTheChoiceIsRefusedByEverybody(t *testing.T) {
	n, _ := lab(t, 1, meshtest.Options{})
	home, parent := n.Homes[0], n.SSNs[0]
	k := route.Keys{Flags: route.FlagRecipient, Epoch: 1, Keys: []mix.PublicKey{{ID: 1}}, Addresses: []string{"/ip4/192.0.2.1/tcp/4100"}}
	body, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	now := n.Clock.Now()
	if err := home.Host.Publish(gossip.KindDirectory, gossip.KeyOnion, body, now.Add(time.Hour)); !errors.Is(err, mesh.ErrNotAllowed) {
		t.Errorf("its own host: got %v, want ErrNotAllowed", err)
	}
	k.Flags, k.Addresses = 0, nil
	withdrawn, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{"no relay": body, "stopped, and nobody knew": withdrawn} {
		e := gossip.Envelope{Kind: gossip.KindDirectory, Key: gossip.KeyOnion, Version: 1, Network: n.Bundle.Tag(), Issued: now, Expires: now.Add(time.Hour),
			CertHash: home.Member.CertHash, Body: body}
		raw, err := home.Key.Raw()
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Sign(raw); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := home.Host.Call(ctx, parent.Member.Peer, mesh.Announce, e.Encode()); !errors.Is(err, mesh.ErrRefused) {
			t.Errorf("%s, at its parent: got %v, want ErrRefused", name, err)
		}
	}
	if _, known := parent.Host.Register(gossip.KindDirectory, home.Member.Key, gossip.KeyOnion); known {
		t.Error("its register is held")
	}
}

func TestAFloodAtAHomeThatRelaysDoesNotDisturbItsReports(t *testing.T) {
	h := &relayHomes{n: 1}
	o := h.options()
	o.Speed, o.Others = 20, []member.Role{member.RoleHeadend, member.RoleVerifier}
	ready := o.Ready
	o.Ready = func(d *meshtest.Node) error {
		if d.Member.Role == member.RoleSSN {
			d.Host.Handle(mesh.Report, func(_ context.Context, _ mesh.Member, req []byte) ([]byte, error) { return req[:1], nil })
		}
		return ready(d)
	}
	n, _ := lab(t, 1, o)
	relay := n.Homes[0]
	meshtest.Eventually(t, "it relays", func() bool { return n.Others[1].Host.HomeRelay(relay.Member.Key) })
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	var sent atomic.Int64
	for _, d := range n.Others { // three neighbours at once
		flood.Go(func() {
			for ctx.Err() == nil {
				s, err := d.Host.Stream(ctx, relay.Member.Peer, onion.Protocol)
				if err != nil {
					continue
				}
				junk := make([]byte, 16*packet.Size)
				for err == nil && ctx.Err() == nil {
					_ = s.SetWriteDeadline(time.Now().Add(time.Second))
					_, err = s.Write(junk)
					sent.Add(16)
				}
				_ = s.Reset()
			}
		})
	}
	meshtest.Eventually(t, "the flood is refused at the intake", func() bool { return relay.Onion.Stats().Dropped[onion.DropRate] > 100 })
	for i := range 50 {
		if _, err := relay.Host.CallParents(t.Context(), mesh.Report, make([]byte, 1000)); err != nil {
			t.Fatalf("report %d: %v", i, err)
		}
	}
	meshtest.Eventually(t, "who floods is kept out", func() bool {
		for _, d := range n.Others {
			if _, up := relay.Host.Connected(d.Member.Peer); up {
				return false
			}
		}
		return true
	})
	stop()
	flood.Wait()
	if up, down := relay.Host.Spent(); max(up, down) > 12<<20 {
		t.Errorf("the flood has cost %d bytes of the day's data", max(up, down))
	}
	st := relay.Onion.Stats()
	t.Logf("%d packets sent, dropped %v", sent.Load(), st.Dropped)
	if st.Held > 512 {
		t.Errorf("%d packets held", st.Held)
	}
}
