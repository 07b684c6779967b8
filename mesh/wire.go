package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/gologshim"
	blankhost "github.com/libp2p/go-libp2p/p2p/host/blank"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	tptu "github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
)

const (
	negotiateTimeout = 10 * time.Second // to agree on a stream's protocol
	dialTimeout      = 10 * time.Second // TCP and Noise together, on either side
	streamWindow     = 1 << 20          // libp2p's 16 MiB would let one bulk stream fill a home's uplink for minutes
)

// wire is the libp2p host below a Host: TCP, Noise and yamux, and nothing else. There is no identify protocol, so a
// stranger learns neither protocols nor addresses; what peers may know of each other travels in hello and registers.
type wire struct {
	*blankhost.BlankHost
	swarm     *swarm.Swarm
	resources network.ResourceManager
	blocked   *blockCounter
}

// Close ends all connections and frees the limits' bookkeeping, which the swarm does not own.
func (w *wire) Close() error { return errors.Join(w.swarm.Close(), w.resources.Close()) }

// muteLibrary silences go-libp2p's own loggers, which print peer ids and addresses of homes. It must run before their
// first line.
var muteLibrary = sync.OnceFunc(func() { gologshim.SetDefaultHandler(slog.DiscardHandler) })

// newWire builds the host without listening or dialling. spend, if set, is told of the bytes of connections,
// and shut says when nobody may connect.
func newWire(key crypto.PrivKey, lim Limits, gate *gater, spend func(up, down int), shut func() bool) (*wire, error) {
	muteLibrary()
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("peer id of the host key: %w", err)
	}
	store, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, fmt.Errorf("open peer store: %w", err)
	}
	if err := errors.Join(store.AddPubKey(id, key.GetPublic()), store.AddPrivKey(id, key)); err != nil {
		return nil, fmt.Errorf("store host key: %w", err)
	}
	blocked := &blockCounter{}
	manager, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(lim.concrete()), lim.options(blocked)...)
	if err != nil {
		return nil, fmt.Errorf("resource limits: %w", err)
	}
	resources := &inbound{ResourceManager: manager, pace: lim.pace(), blocked: blocked}
	bus := eventbus.NewBus()
	sw, err := swarm.NewSwarm(id, store, bus, swarm.WithConnectionGater(gate), swarm.WithResourceManager(resources),
		swarm.WithDialTimeout(dialTimeout), swarm.WithDialTimeoutLocal(dialTimeout))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("swarm: %w", err), resources.Close())
	}
	if err := addTCP(sw, key, resources, gate, spend, shut); err != nil {
		return nil, errors.Join(err, sw.Close(), resources.Close())
	}
	w := &wire{BlankHost: blankhost.NewBlankHost(sw, blankhost.WithEventBus(bus)), swarm: sw, resources: resources, blocked: blocked}
	sw.SetStreamHandler(w.negotiate)
	return w, nil
}

func addTCP(sw *swarm.Swarm, key crypto.PrivKey, resources network.ResourceManager, gate *gater, spend func(up, down int), shut func() bool) error {
	window := *yamux.DefaultTransport
	window.MaxStreamWindowSize = streamWindow
	muxers := []tptu.StreamMuxer{{ID: yamux.ID, Muxer: &window}}
	security, err := noise.New(noise.ID, key, muxers)
	if err != nil {
		return fmt.Errorf("noise: %w", err)
	}
	upgrader, err := tptu.New([]sec.SecureTransport{security}, muxers, nil, resources, gate, tptu.WithAcceptTimeout(dialTimeout))
	if err != nil {
		return fmt.Errorf("upgrader: %w", err)
	}
	opts := []tcp.Option{tcp.DisableReuseport(), tcp.WithConnectionTimeout(dialTimeout)}
	if spend != nil {
		opts = append(opts, tcp.WithDialerForAddr((&dialer{spend: spend}).forAddr))
	}
	t, err := tcp.NewTCPTransport(upgrader, resources, nil, opts...)
	if err != nil {
		return fmt.Errorf("tcp: %w", err)
	}
	if spend != nil {
		return sw.AddTransport(&countedTCP{t, upgrader, spend, shut})
	}
	return sw.AddTransport(t)
}

// listen opens the given addresses; a leaf gives none.
func (w *wire) listen(addrs []ma.Multiaddr) error {
	if len(addrs) == 0 {
		return nil
	}
	return w.swarm.Listen(addrs...)
}

// negotiate agrees on the protocol of an inbound stream, within a deadline that the library's blank host does not set.
func (w *wire) negotiate(s network.Stream) {
	_ = s.SetDeadline(time.Now().Add(negotiateTimeout)) // a stream that cannot set it fails in Negotiate
	proto, handle, err := w.Mux().Negotiate(s)
	if err == nil {
		err = s.SetProtocol(proto) // counts against the protocol's limits; leaves the transient scope
	}
	if err != nil {
		_ = s.Reset() // nothing to say to a peer that asked for something we do not speak
		return
	}
	_ = s.SetDeadline(time.Time{}) // handlers set their own
	_ = handle(proto, s)           // our handlers return nothing
}

// NewStream opens a stream to a connected peer or to one whose address is known, within ctx.
func (w *wire) NewStream(ctx context.Context, p peer.ID, protos ...protocol.ID) (network.Stream, error) {
	s, err := w.swarm.NewStream(ctx, p)
	if err != nil {
		return nil, redact(err)
	}
	return agree(ctx, s, protos...)
}

// agree selects a protocol on a fresh stream.
func agree(ctx context.Context, s network.Stream, protos ...protocol.ID) (network.Stream, error) {
	deadline := time.Now().Add(negotiateTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = s.SetDeadline(deadline) // a stream that cannot set it fails in SelectOneOf
	chosen, err := multistream.SelectOneOf(protos, s)
	if err == nil {
		err = s.SetProtocol(chosen)
	}
	if err != nil {
		_ = s.Reset() // unusable
		return nil, redact(err)
	}
	return s, s.SetDeadline(time.Time{})
}

// openOn opens a stream on one connection.
func openOn(ctx context.Context, c network.Conn, proto protocol.ID) (network.Stream, error) {
	s, err := c.NewStream(ctx)
	if err != nil {
		return nil, redact(err)
	}
	return agree(ctx, s, proto)
}

// blockCounter counts what the resource manager refused. Connections are counted by inbound: the library tells nobody of
// those above the limit of an address.
type blockCounter struct{ n atomic.Uint64 }

func (b *blockCounter) AllowConn(network.Direction, bool)      {}
func (b *blockCounter) BlockConn(network.Direction, bool)      {}
func (b *blockCounter) AllowStream(peer.ID, network.Direction) {}
func (b *blockCounter) BlockStream(peer.ID, network.Direction) { b.n.Add(1) }
func (b *blockCounter) AllowPeer(peer.ID)                      {}
func (b *blockCounter) BlockPeer(peer.ID)                      { b.n.Add(1) }
func (b *blockCounter) AllowProtocol(protocol.ID)              {}
func (b *blockCounter) BlockProtocol(protocol.ID)              { b.n.Add(1) }
func (b *blockCounter) BlockProtocolPeer(protocol.ID, peer.ID) { b.n.Add(1) }
func (b *blockCounter) AllowService(string)                    {}
func (b *blockCounter) BlockService(string)                    { b.n.Add(1) }
func (b *blockCounter) BlockServicePeer(string, peer.ID)       { b.n.Add(1) }
func (b *blockCounter) AllowMemory(int)                        {}
func (b *blockCounter) BlockMemory(int)                        { b.n.Add(1) }
