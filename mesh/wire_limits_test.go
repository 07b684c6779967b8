package mesh

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	tptu "github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
)

// dialFrom connects to a host from an address of loopback, with a key that nobody has seen.
func dialFrom(t *testing.T, ip string, to *wire) (transport.CapableConn, error) {
	t.Helper()
	key, _ := someone(t)
	muxers := []tptu.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	security, err := noise.New(noise.ID, key, muxers)
	if err != nil {
		t.Fatal(err)
	}
	upgrader, err := tptu.New([]sec.SecureTransport{security}, muxers, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	tr, err := tcp.NewTCPTransport(upgrader, nil, nil, tcp.DisableReuseport(),
		tcp.WithDialerForAddr(func(ma.Multiaddr) (tcp.ContextDialer, error) { return from, nil }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := tr.Dial(ctx, to.Addrs()[0], to.ID())
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// listening is limited with a socket.
func listening(t *testing.T, l Limits) *wire {
	t.Helper()
	w := limited(t, l)
	if err := w.listen([]ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}); err != nil {
		t.Fatal(err)
	}
	return w
}

// until waits for a condition, at most a minute of wall time.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// TestConnectionsBetweenRealHostsAreLimited fills a host of each role with real connections: in all, of one address, and
// of those that show no key; and with streams of one neighbour. Without -long the first two limits are smaller ones.
func TestConnectionsBetweenRealHostsAreLimited(t *testing.T) {
	for _, r := range roleLimits {
		all, ofOne := r.limits, r.limits
		ofOne.ConnBurstPerIP = 4096
		if !*Long {
			all.ConnsIn, ofOne.ConnsPerIP = min(all.ConnsIn, 24), min(ofOne.ConnsPerIP, 12)
		}
		w := listening(t, all)
		fill(t, r.name+", connections in", all.ConnsIn, func(i int) error {
			_, err := dialFrom(t, addressOf(i), w)
			if err == nil {
				until(t, "the host has the connection", func() bool { return len(w.swarm.Conns()) == i+1 })
			}
			return err
		})

		if all.ConnsIn > 0 { // nobody dials a home
			w = listening(t, ofOne)
			fill(t, r.name+", connections of one address", ofOne.ConnsPerIP, func(i int) error {
				_, err := dialFrom(t, "127.0.0.9", w)
				if err == nil {
					until(t, "the host has the connection", func() bool { return len(w.swarm.Conns()) == i+1 })
				}
				return err
			})
			if _, err := dialFrom(t, "127.0.0.10", w); err != nil {
				t.Errorf("%s: another address is refused too: %v", r.name, err)
			}
			silentConnections(t, r.name, listening(t, r.limits), r.limits.TransientConns)
			neighboursStreams(t, r.name, listening(t, r.limits), r.limits.StreamsPerPeer)
		}
	}
}

// silentConnections opens connections that show no key, each of another address.
func silentConnections(t *testing.T, name string, w *wire, limit int) {
	waiting := func() (n int) {
		_ = w.resources.ViewTransient(func(s network.ResourceScope) error { n = s.Stat().NumConnsInbound; return nil }) // always nil
		return n
	}
	dial := func(i int) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addressOf(i))}}
		port, err := w.Addrs()[0].ValueForProtocol(ma.P_TCP)
		if err != nil {
			t.Fatal(err)
		}
		c, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for i := range limit {
		dial(i)
	}
	until(t, name+": all connections without a key wait", func() bool { return waiting() == limit || w.blocked.n.Load() > 0 })
	if w.blocked.n.Load() > 0 {
		t.Errorf("%s: of %d connections without a key %d wait", name, limit, waiting())
		return
	}
	extra := dial(limit)
	extra.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, extra); errors.Is(err, context.DeadlineExceeded) || w.blocked.n.Load() != 1 {
		t.Errorf("%s: connection %d without a key is taken: %v", name, limit+1, err)
	}
}

// neighboursStreams opens streams on one connection.
func neighboursStreams(t *testing.T, name string, w *wire, limit int) {
	const proto = "/gridveil/test/1"
	w.SetStreamHandler(proto, func(s network.Stream) {
		_, _ = io.Copy(s, s) // ends with the connection
		_ = s.Reset()
	})
	c, err := dialFrom(t, "127.0.0.9", w)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, name+", streams of one neighbour", limit, func(int) error {
		s, err := c.OpenStream(t.Context())
		if err != nil {
			return err
		}
		_ = s.SetDeadline(time.Now().Add(time.Minute)) // a stream that cannot set it fails in SelectProtoOrFail
		if err := multistream.SelectProtoOrFail(proto, s); err != nil {
			return err
		}
		if _, err := s.Write([]byte("x")); err != nil {
			return err
		}
		_, err = io.ReadFull(s, make([]byte, 1))
		return err
	})
}

// TestAHomeDialsEightAndNoMore lets the host of a home dial one real host after another.
func TestAHomeDialsEightAndNoMore(t *testing.T) {
	home := limited(t, leafLimits)
	fill(t, "connections out", leafLimits.ConnsOut, func(int) error {
		far := listening(t, ssnLimits)
		home.Peerstore().AddAddrs(far.ID(), far.Addrs(), time.Hour)
		_, err := home.swarm.DialPeer(network.WithDialPeerTimeout(t.Context(), time.Minute), far.ID())
		return err
	})
	if n := len(home.swarm.Conns()); n != leafLimits.ConnsOut {
		t.Errorf("%d connections stand, want %d", n, leafLimits.ConnsOut)
	}
}

// TestADoorHoldsSoManyStreams lets nobody accept the streams at a door: so many wait, and the next is refused.
func TestADoorHoldsSoManyStreams(t *testing.T) {
	l := &listener{name: "door", room: make(chan struct{}, doorQueue), queue: make(chan *doorConn, doorQueue), done: make(chan struct{})}
	near, far := limited(t, backboneLimits), listening(t, backboneLimits)
	taken := make(chan bool, 1)
	far.SetStreamHandler(protoHTTP, func(s network.Stream) { taken <- l.offer(&doorConn{Stream: s}) })
	if err := near.Connect(t.Context(), peer.AddrInfo{ID: far.ID(), Addrs: far.Addrs()}); err != nil {
		t.Fatal(err)
	}
	knock := func(int) error {
		s, err := near.NewStream(t.Context(), far.ID(), protoHTTP)
		if err == nil && !<-taken {
			err = ErrRefused
		}
		if err != nil {
			return err
		}
		_, err = io.ReadFull(s, make([]byte, 1)) // that it was taken
		return err
	}
	fill(t, "streams at a door", doorQueue, knock)
	if c, err := l.Accept(); err != nil || c.Close() != nil {
		t.Fatal(err)
	}
	if err := knock(0); err != nil {
		t.Errorf("after one was accepted: %v", err)
	}
}
