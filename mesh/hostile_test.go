package mesh_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	manet "github.com/multiformats/go-multiaddr/net"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/lane"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// rogue is a bare libp2p host with a valid certificate of the network. before, if set, runs ahead of its hello.
func rogue(t *testing.T, n *meshtest.Network, role member.Role, to *meshtest.Node, before func(host.Host)) host.Host {
	t.Helper()
	key, chain := n.Issue(role, "z1")
	h, err := mesh.NewStranger(key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	h.Peerstore().AddAddrs(to.Member.Peer, to.Addrs, peerstore.PermanentAddrTTL)
	if before != nil {
		before(h)
	}
	s := open(t, h, to, member.ProtocolHello)
	defer s.Reset()
	theirs := make([]byte, 2)
	if _, err := io.ReadFull(s, theirs); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, binary.BigEndian.Uint16(theirs))); err != nil {
		t.Fatal(err)
	}
	hello, err := member.Hello{MinVersion: 1, MaxVersion: 1, Network: n.Bundle.Network, Now: n.Clock.Now(), Role: role,
		BundleVersion: n.Bundle.Version, Chain: chain}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(hello))), hello...)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, member.VerdictSize)
	if _, err := io.ReadFull(s, answer); err != nil {
		t.Fatal(err)
	}
	if v, err := member.ParseVerdict(answer); err != nil || v.Code != member.VerdictOK {
		t.Fatalf("the rogue's hello: %+v, %v", v, err)
	}
	return h
}

// open opens a stream with a generous deadline.
func open(t *testing.T, h host.Host, to *meshtest.Node, p protocol.ID) network.Stream {
	t.Helper()
	s, err := h.NewStream(t.Context(), to.Member.Peer, p)
	if err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(time.Minute))
	return s
}

// calling lets an honest home probe its substation over and over; the returned function ends that and wants every
// probe answered.
func calling(t *testing.T, home, ssn *meshtest.Node) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	answered := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			limit, done := context.WithTimeout(t.Context(), 20*time.Second)
			if _, err := home.Host.Call(limit, ssn.Member.Peer, mesh.Probe, []byte("hi")); err != nil {
				t.Errorf("the honest home's probe %d: %v", answered+1, err)
				cancel()
			}
			done()
			answered++
			time.Sleep(5 * time.Millisecond)
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		t.Logf("the honest home had %d answers", answered)
	})
}

// gone waits until the node has no connection to a peer.
func gone(t *testing.T, what string, ssn *meshtest.Node, h host.Host) {
	t.Helper()
	meshtest.EventuallyWithin(t, time.Minute, what+" is disconnected", func() bool {
		_, up := ssn.Host.Connected(h.ID())
		return !up && len(h.Network().ConnsToPeer(ssn.Member.Peer)) == 0
	})
}

// subscribe lets a bare host speak pubsub on a topic, and counts the messages that reach it; begin tells it
// of the node it is connected to, as an identify protocol would.
func subscribe(t *testing.T, h host.Host, to *meshtest.Node, topic string, flood bool) (got *atomic.Int32, begin func()) {
	t.Helper()
	speak, protos := pubsub.NewGossipSub, gossip.Protocols
	if flood {
		speak, protos = pubsub.NewFloodSub, []protocol.ID{pubsub.FloodSubID}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ps, err := speak(ctx, h, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithMessageIdFn(func(m *pb.Message) string { return gossip.MessageID(m.Data) }))
	if err != nil {
		t.Fatal(err)
	}
	joined, err := ps.Join(topic)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := joined.Subscribe()
	if err != nil {
		t.Fatal(err)
	}
	bus, err := h.(interface{ EventBus() event.Bus }).EventBus().Emitter(&event.EvtPeerIdentificationCompleted{})
	if err != nil {
		t.Fatal(err)
	}
	got = &atomic.Int32{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := sub.Next(ctx); err != nil {
				return
			}
			got.Add(1)
		}
	})
	t.Cleanup(func() { h.Close(); cancel(); wg.Wait(); bus.Close() })
	return got, func() {
		if err := bus.Emit(event.EvtPeerIdentificationCompleted{Peer: to.Member.Peer, Protocols: protos}); err != nil {
			t.Error(err)
		}
	}
}

func TestAFloodsubPeerGetsNothing(t *testing.T) {
	n, box := following(t, gossip.KindPrice, meshtest.Options{SSNs: 2, Others: []member.Role{member.RoleUtility}})
	ssn, topic := n.SSNs[0], gossip.KindPrice.Topic(n.Bundle.Tag())
	type peer struct {
		name  string
		role  member.Role // 0: no certificate
		flood bool
		got   *atomic.Int32
	}
	peers := []*peer{
		{"an aggregator that speaks gossipsub", member.RoleAggregator, false, nil},
		{"an aggregator that speaks floodsub", member.RoleAggregator, true, nil},
		{"a home that speaks gossipsub", member.RoleGateway, false, nil},
		{"a home that speaks floodsub", member.RoleGateway, true, nil},
		{"a stranger that speaks gossipsub", 0, false, nil},
		{"a stranger that speaks floodsub", 0, true, nil},
	}
	for _, p := range peers {
		var h host.Host
		var begin func()
		join := func(h host.Host) { p.got, begin = subscribe(t, h, ssn, topic, p.flood) }
		if p.role != 0 {
			h = rogue(t, n, p.role, ssn, join)
		} else {
			h = stranger(t, ssn.Host.AddrInfo())
			join(h)
			if _, err := h.NewStream(t.Context(), ssn.Member.Peer, member.ProtocolHello); err != nil { // it says nothing in it
				t.Fatal(err)
			}
		}
		begin()
		if p.flood {
			if s, err := h.NewStream(t.Context(), ssn.Member.Peer, pubsub.FloodSubID); err == nil {
				t.Errorf("the substation speaks floodsub with %s", p.name)
				s.Reset()
			}
		}
	}
	sent := 0
	var last time.Time
	meshtest.EventuallyWithin(t, time.Minute, "prices reach the other substation and "+peers[0].name, func() bool {
		if now := n.Clock.Now(); now.After(last.Add(20 * time.Second)) { // within the rate of prices
			last = now
			sent++
			if err := n.Others[0].Host.Publish(gossip.KindPrice, gossip.ZoneKey("z1", uint32(sent)), []byte("cheap"), now.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		return peers[0].got.Load() > 10 && box(n.SSNs[1]).len() > 10
	})
	for _, p := range peers[1:] {
		if got := p.got.Load(); got > 0 {
			t.Errorf("%s got %d of %d prices", p.name, got, sent)
		}
	}
}

func TestHalfOpenStreamsEndAtTheirLimit(t *testing.T) {
	t.Parallel() // mostly waits
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Speed: 1})
	home, ssn := n.Homes[0], n.SSNs[0]
	defer calling(t, home, ssn)()
	limit := 16 // of streams per peer of a substation
	bad := rogue(t, n, member.RoleGateway, ssn, nil)
	conn := bad.Network().ConnsToPeer(ssn.Member.Peer)[0]
	before := ssn.Host.Metrics().Blocked
	var half []network.Stream
	for range 10 * limit {
		s, err := conn.NewStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.SetReadDeadline(time.Now().Add(time.Minute))
		half = append(half, s)
	}
	meshtest.Eventually(t, "streams above the limit are refused", func() bool {
		return ssn.Host.Metrics().Blocked >= before+uint64(9*limit)
	})
	for i, s := range half { // what was refused ends at once, the rest when nothing is negotiated
		if _, err := io.Copy(io.Discard, s); err == nil || isTimeout(err) {
			t.Fatalf("half-open stream %d ended with %v, want a reset", i, err)
		}
	}
	again := open(t, bad, ssn, "/gridveil/lane/1")
	defer again.Reset()
	if _, err := again.Write(append([]byte{1}, lane.AppendFrame(nil, lane.Frame{ID: 1, Type: lane.Req, Service: uint8(mesh.Probe)})...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(again, make([]byte, lane.HeaderSize)); err != nil {
		t.Errorf("once its streams have ended, the member is not served: %v", err)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func TestHalfOpenConnectionsEnd(t *testing.T) {
	t.Parallel() // mostly waits
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Speed: 1})
	home, ssn := n.Homes[0], n.SSNs[0]
	defer calling(t, home, ssn)()
	mute := stranger(t, ssn.Host.AddrInfo()) // shows a key, but says no hello
	if _, err := mute.Network().DialPeer(t.Context(), ssn.Member.Peer); err != nil {
		t.Fatal(err)
	}
	before := ssn.Host.Metrics().Blocked
	const transient = 128 // of a substation
	var silent []manet.Conn
	for range transient + 32 {
		c, err := manet.Dial(ssn.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(time.Minute))
		silent = append(silent, c)
	}
	meshtest.Eventually(t, "connections above the limit are refused", func() bool {
		return ssn.Host.Metrics().Blocked >= before+32
	})
	for i, c := range silent { // what was refused ends at once, the rest when no key is shown
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			t.Fatalf("half-open connection %d was never closed", i)
		}
	}
	gone(t, "who says no hello", ssn, mute)
	late := n.Add(member.RoleGateway, "z1")
	meshtest.Eventually(t, "a home connects once they have ended", func() bool { _, up := late.Host.Connected(ssn.Member.Peer); return up })
}

func TestOversizedFramesCloseTheirSender(t *testing.T) {
	n, _ := withDesk(t, meshtest.Options{SSNs: 1, Homes: 1})
	home, ssn := n.Homes[0], n.SSNs[0]
	defer calling(t, home, ssn)()
	header := func(l lane.Lane, size int) []byte {
		h := lane.AppendFrame([]byte{byte(l)}, lane.Frame{ID: 1, Type: lane.Req, Service: uint8(mesh.Probe)})
		binary.BigEndian.PutUint32(h[1:], uint32(size))
		return h
	}
	long := lane.AppendFrame([]byte{byte(lane.Bulk)}, lane.Frame{ID: 1, Type: lane.Req})
	for range lane.MaxBulkMessage/lane.MaxBulkChunk + 1 {
		long = lane.AppendFrame(long, lane.Frame{ID: 1, Type: lane.Item, Body: make([]byte, lane.MaxBulkChunk)})
	}
	cases := []struct {
		name   string
		proto  protocol.ID
		bytes  []byte
		counts mesh.Drop
	}{
		{"an alarm above 8 KiB", "/gridveil/lane/1", header(lane.Alarm, lane.MaxAlarmBody+1), mesh.DropBadFrame},
		{"a request above 256 KiB", "/gridveil/lane/1", header(lane.Normal, lane.MaxNormalBody+1), mesh.DropBadFrame},
		{"a chunk above 16 KiB", "/gridveil/lane/1", header(lane.Bulk, lane.MaxBulkChunk+1), mesh.DropBadFrame},
		{"a frame of 4 GiB", "/gridveil/lane/1", header(lane.Normal, 1<<32-1), mesh.DropBadFrame},
		{"a bulk message above 1 MiB", "/gridveil/lane/1", long, mesh.DropBadFrame},
		{"a hello above 8 KiB", member.ProtocolHello, []byte{0xff, 0xff}, mesh.DropHello},
	}
	for _, c := range cases {
		bad := rogue(t, n, member.RoleGateway, ssn, nil)
		before := ssn.Host.Metrics().Drops[c.counts]
		s := open(t, bad, ssn, c.proto)
		s.Write(c.bytes) // the connection may close before the last byte
		gone(t, c.name+": the sender", ssn, bad)
		if after := ssn.Host.Metrics().Drops[c.counts]; after != before+1 {
			t.Errorf("%s: %q was counted %d times, want once", c.name, c.counts, after-before)
		}
		// It is denied: the connection ends as soon as its key is known.
		if _, err := bad.NewStream(t.Context(), ssn.Member.Peer, member.ProtocolHello); err == nil {
			t.Errorf("%s: the sender came back at once", c.name)
		}
	}
	pledge := stranger(t, ssn.Host.AddrInfo())
	s := open(t, pledge, ssn, member.ProtocolEnrol)
	if _, err := s.Write([]byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("an enrolment above 8 KiB: got %v, want a reset", err)
	}
}

// heap is what the process holds, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestSlowReadersDoNotGrowMemory(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1})
	home, ssn := n.Homes[0], n.SSNs[0]
	defer calling(t, home, ssn)()
	before := heap()
	const slow = 3
	var worst int64
	for range slow {
		bad := rogue(t, n, member.RoleGateway, ssn, nil)
		s := open(t, bad, ssn, "/gridveil/lane/1")
		if _, err := s.Write([]byte{byte(lane.Normal)}); err != nil {
			t.Fatal(err)
		}
		// 100 MB of answers are asked for and none is read.
		for i := range 400 {
			f := lane.Frame{ID: uint32(1 + 2*i), Type: lane.Req, Service: uint8(mesh.Probe), Body: make([]byte, lane.MaxNormalBody)}
			if _, err := s.Write(lane.AppendFrame(nil, f)); err != nil {
				break // it was closed for asking on
			}
			if i%50 == 49 {
				worst = max(worst, heap()-before)
			}
		}
		gone(t, "who asks on and reads nothing", ssn, bad)
	}
	t.Logf("heap grew by at most %.1f MB", float64(worst)/1e6)
	if worst > 40<<20 {
		t.Errorf("one slow reader made the heap grow by %d bytes, want at most 16 MiB of answers and as much again for what is on its way", worst)
	}
	if d := ssn.Host.Metrics().Drops[mesh.DropBadFrame]; d != slow {
		t.Errorf("%d neighbours were closed for asking on, want %d", d, slow)
	}
	meshtest.Eventually(t, "the memory is given back", func() bool { return heap()-before < 8<<20 })
}
