package mesh

import (
	"errors"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Limits bounds what neighbours can make a host hold. The zero value of a field means the default of the role.
// Source: doc/design.md, mesh limits.
type Limits struct {
	ConnsIn, ConnsOut   int   // connections at once
	TransientConns      int   // connections whose remote key is not yet known
	TransientStreams    int   // streams whose protocol is not yet agreed
	StreamsPerPeer      int   // streams of one neighbour, both directions
	MemoryBytes         int64 // libp2p's buffers
	ConnsPerIP          int   // connections in from one address: homes behind one carrier NAT share one
	ConnBurstPerIP      int   // new ones at once from one address; refilled in a minute
	CountLoopbackAsPeer bool  // tests: apply ConnsPerIP to 127.0.0.0/8 too, which is otherwise exempt
}

// leafLimits, homeRelayLimits, ssnLimits and backboneLimits are the table of the design. Transient streams leave room for one hello,
// three lanes, two onion and one gossip stream of each transient connection.
var (
	leafLimits      = Limits{ConnsOut: 8, TransientConns: 8, TransientStreams: 32, StreamsPerPeer: 16, MemoryBytes: 32 << 20}
	homeRelayLimits = Limits{ConnsIn: 128, ConnsOut: 64, TransientConns: 16, TransientStreams: 64, StreamsPerPeer: 16,
		MemoryBytes: 64 << 20, ConnsPerIP: 16, ConnBurstPerIP: 8}
	ssnLimits = Limits{ConnsIn: 2048, ConnsOut: 256, TransientConns: 128, TransientStreams: 256, StreamsPerPeer: 16,
		MemoryBytes: 512 << 20, ConnsPerIP: 256, ConnBurstPerIP: 64}
	backboneLimits = Limits{ConnsIn: 512, ConnsOut: 64, TransientConns: 64, TransientStreams: 128, StreamsPerPeer: 32,
		MemoryBytes: 256 << 20, ConnsPerIP: 64, ConnBurstPerIP: 16}
)

// orDefaults fills the zero fields from d.
func (l Limits) orDefaults(d Limits) Limits {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&l.ConnsIn, d.ConnsIn)
	set(&l.ConnsOut, d.ConnsOut)
	set(&l.TransientConns, d.TransientConns)
	set(&l.TransientStreams, d.TransientStreams)
	set(&l.StreamsPerPeer, d.StreamsPerPeer)
	set(&l.ConnsPerIP, d.ConnsPerIP)
	set(&l.ConnBurstPerIP, d.ConnBurstPerIP)
	if l.MemoryBytes == 0 {
		l.MemoryBytes = d.MemoryBytes
	}
	return l
}

// concrete spells every limit out: a default of the library would silently allow 8 connections per address.
func (l Limits) concrete() rcmgr.ConcreteLimitConfig {
	in := rcmgr.LimitVal(l.ConnsIn)
	if l.ConnsIn == 0 {
		in = rcmgr.BlockAllLimit
	}
	conns := rcmgr.LimitVal(l.ConnsIn + l.ConnsOut)
	peer := rcmgr.LimitVal(l.StreamsPerPeer)
	streams := conns * peer
	mem := rcmgr.LimitVal64(l.MemoryBytes)
	all := func(conns, in, out, streams rcmgr.LimitVal, mem rcmgr.LimitVal64) rcmgr.ResourceLimits {
		return rcmgr.ResourceLimits{Conns: conns, ConnsInbound: in, ConnsOutbound: out, FD: conns,
			Streams: streams, StreamsInbound: streams, StreamsOutbound: streams, Memory: mem}
	}
	system := all(conns, in, rcmgr.LimitVal(l.ConnsOut), streams, mem)
	tc, ts := rcmgr.LimitVal(l.TransientConns), rcmgr.LimitVal(l.TransientStreams)
	transient := all(tc, min(tc, max(in, 0)), tc, ts, mem/4)
	if l.ConnsIn == 0 {
		transient.ConnsInbound = rcmgr.BlockAllLimit
	}
	// Four connections: both sides may dial at once, and again after a cut that only one of them has noticed.
	perPeer := all(4, 4, 4, peer, mem/8)
	conn := all(1, 1, 1, peer, mem/8)
	stream := all(0, 0, 0, 1, 2<<20) // two windows of 1 MiB
	cfg := rcmgr.PartialLimitConfig{
		System: system, Transient: transient,
		AllowlistedSystem: system, AllowlistedTransient: transient,
		ServiceDefault: system, ServicePeerDefault: perPeer,
		ProtocolDefault: system, ProtocolPeerDefault: perPeer,
		PeerDefault: perPeer, Conn: conn, Stream: stream,
	}
	return cfg.Build(rcmgr.ConcreteLimitConfig{})
}

var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// options gives the resource manager's settings, with the per-address limits in place of the library's. What comes in too
// fast is refused before it, by inbound.
func (l Limits) options(blocked rcmgr.MetricsReporter) []rcmgr.Option {
	v4 := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: l.ConnsPerIP}}
	v6 := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: l.ConnsPerIP}, {PrefixLength: 48, ConnCount: 4 * l.ConnsPerIP}}
	opts := []rcmgr.Option{rcmgr.WithLimitPerSubnet(v4, v6), rcmgr.WithConnRateLimiters(&rate.Limiter{}), rcmgr.WithMetrics(blocked), rcmgr.WithMetricsDisabled()}
	if l.CountLoopbackAsPeer {
		return append(opts, rcmgr.WithNetworkPrefixLimit([]rcmgr.NetworkPrefixLimit{}, []rcmgr.NetworkPrefixLimit{}))
	}
	return opts
}

// pace limits how many new connections of one address pass at once, and in a minute.
func (l Limits) pace() *rate.Limiter {
	burst := rate.Limit{RPS: float64(l.ConnBurstPerIP) / 60, Burst: l.ConnBurstPerIP}
	wide := rate.Limit{RPS: 4 * burst.RPS, Burst: 4 * burst.Burst}
	limiter := &rate.Limiter{SubnetRateLimiter: rate.SubnetLimiter{
		IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: burst}},
		IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: burst}, {PrefixLength: 48, Limit: wide}},
		GracePeriod:      time.Minute,
	}}
	if !l.CountLoopbackAsPeer {
		limiter.NetworkPrefixLimits = []rate.PrefixLimit{{Prefix: loopback4}, {Prefix: loopback6}} // zero limit: none
	}
	return limiter
}

// inbound is the resource manager of a host. The limits of an address hold for what comes in: whom a node dials is its
// own choice, and operators run several members on one address. It counts what is refused.
type inbound struct {
	network.ResourceManager
	pace    *rate.Limiter
	blocked *blockCounter
}

var errPace = errors.New("too many new connections of one address: try again in a minute")

// OpenConnection admits a connection, or says which limit refuses it.
func (r *inbound) OpenConnection(dir network.Direction, usefd bool, endpoint ma.Multiaddr) (network.ConnManagementScope, error) {
	raw, err := manet.ToIP(endpoint)
	ip, known := netip.AddrFromSlice(raw)
	switch {
	case err != nil || !known:
	case dir == network.DirOutbound:
		endpoint = endpoint[1:] // the library counts for the IP that it finds there
	case !r.pace.Allow(ip.Unmap()):
		r.blocked.n.Add(1)
		return nil, errPace
	}
	s, err := r.ResourceManager.OpenConnection(dir, usefd, endpoint)
	if err != nil {
		r.blocked.n.Add(1)
		return nil, err
	}
	return s, nil
}
