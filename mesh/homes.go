package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"gridveil/mesh/gossip"
	"gridveil/mesh/lane"
	"gridveil/mesh/member"
	"gridveil/mesh/route"
)

// Homes that relay for others: how their register gets into gossip, and how they learn whether their address answers.

const (
	dialBackTimeout = 5 * time.Second  // for one address
	dialBackEvery   = 10 * time.Second // protocol time between two questions of one home
	dialBacksAtOnce = 8
	maxDialBacks    = 2048 // homes whose last question is remembered
	resolveTimeout  = 5 * time.Second
)

// hasParent reports whether any parent is connected.
func (h *Host) hasParent() bool {
	for _, p := range h.Parents() {
		if h.admitted(p.ID) != nil {
			return true
		}
	}
	return false
}

// announce hands this home's register to a parent, which spreads it.
func (h *Host) announce(ctx context.Context, raw []byte) error {
	if _, err := h.CallParents(ctx, Announce, raw); err != nil {
		return fmt.Errorf("publish by a parent: %w", err)
	}
	return nil
}

// takeAnnounced spreads the register of a home that relays: its own, and valid for everybody.
func (r *registers) takeAnnounced(ctx context.Context, from Member, raw []byte) ([]byte, error) {
	refused := func(why string) ([]byte, error) {
		r.h.stats.drop(DropBadRegister)
		return nil, &RemoteError{Code: lane.CodeRefused, Text: "the register is refused: " + why}
	}
	e, err := gossip.ParseEnvelope(raw)
	if err != nil || e.Kind != gossip.KindDirectory || e.Key != gossip.KeyOnion || e.Publisher != from.Key || e.CertHash != from.CertHash {
		return refused("a home announces its own onion keys and nothing else")
	}
	known := r.know(from)
	d := r.offer(raw, gossip.Source{})
	switch {
	case d.Action == gossip.Accept:
		return nil, r.gossip(ctx, e.Kind, raw)
	case d.Reason == gossip.ReasonSame: // another parent was asked as well
		return nil, nil
	}
	if !known {
		r.h.trust.Lock()
		r.h.roll.Forget(from.CertHash)
		r.h.trust.Unlock()
	}
	return refused(string(d.Reason))
}

// know puts a connected member's certificate on the roll and reports whether it was there.
func (r *registers) know(m Member) bool {
	if r.h.Standing(m.CertHash) == nil {
		return true
	}
	l := r.h.admitted(m.Peer)
	if l == nil {
		return false
	}
	r.h.mu.Lock()
	chain := l.chain
	r.h.mu.Unlock()
	r.h.trust.Lock()
	defer r.h.trust.Unlock()
	_, _ = r.h.roll.Add(chain, r.h.clock.Now()) // verified in its hello; a full roll makes the register wait
	return false
}

// HomeRelay reports whether the directory names a member as a home that relays for others.
func (h *Host) HomeRelay(key member.Key) bool {
	e, ok := h.Register(gossip.KindDirectory, key, gossip.KeyOnion)
	if !ok {
		return false
	}
	m, err := h.Publisher(e)
	if err != nil || !m.Role.Leaf() {
		return false
	}
	k, err := route.ParseKeys(e.Body)
	return err == nil && k.Flags&route.FlagRelay != 0
}

// homePeer is HomeRelay by peer id.
func (h *Host) homePeer(p peer.ID) bool {
	key, err := member.KeyOf(p)
	return err == nil && h.HomeRelay(key)
}

// mayDialIn says whether a member may connect to this node: to a home that relays, backbone members and others such
// homes; nobody uses a home as its first relay.
func (h *Host) mayDialIn(m Member) bool {
	return !h.c.Relay || m.Role.Backbone() || h.HomeRelay(m.Key)
}

// Reach is what a parent found about one address of this node.
type Reach uint8

// What dialling back can find.
const (
	ReachOK      Reach = iota // this node answered
	ReachNone                 // nobody answered, or somebody else
	ReachForeign              // not dialled: the parent sees this node come from another address
)

// Reachability is a parent's answer to DialBack.
type Reachability struct {
	Seen      netip.Addr // where the parent sees this node come from
	Addresses []string   // as configured
	Reach     []Reach    // of each address; ReachNone for a name that does not resolve
}

// OK reports whether any address answered.
func (r Reachability) OK() bool {
	for _, x := range r.Reach {
		if x == ReachOK {
			return true
		}
	}
	return false
}

// Reachable asks a parent to dial this node's addresses, as others would. Names are resolved here, so that nobody can
// make a parent look them up. Errors are those of CallParents.
func (h *Host) Reachable(ctx context.Context) (Reachability, error) {
	var out Reachability
	var ask []string
	var of []int // the address that ask[i] stands for
	for i, a := range h.Addrs() {
		out.Addresses, out.Reach = append(out.Addresses, a.String()), append(out.Reach, ReachNone)
		for _, numeric := range resolve(ctx, a) {
			if len(ask) < route.MaxAddresses {
				ask, of = append(ask, numeric), append(of, i)
			}
		}
	}
	if len(ask) == 0 {
		return out, nil
	}
	raw, err := h.CallParents(ctx, DialBack, encodeAddresses(ask))
	if err != nil {
		return out, err
	}
	seen, found, err := parseDialBack(raw)
	if err != nil || len(found) != len(ask) {
		return out, errors.New("mesh: a parent's answer about this node's addresses is malformed")
	}
	out.Seen = seen
	for i, f := range found {
		switch at := &out.Reach[of[i]]; {
		case f == ReachOK, f == ReachForeign && *at == ReachNone:
			*at = f
		}
	}
	return out, nil
}

// resolve gives the numeric TCP addresses of a multiaddr.
func resolve(ctx context.Context, a ma.Multiaddr) []string {
	if ip, port, ok := tcpOf(a); ok {
		return []string{tcpText(ip, port)}
	}
	if len(a) != 2 || a[1].Protocol().Code != ma.P_TCP {
		return nil
	}
	network := map[int]string{ma.P_DNS: "ip", ma.P_DNS4: "ip4", ma.P_DNS6: "ip6"}[a[0].Protocol().Code]
	if network == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, network, a[0].Value())
	if err != nil {
		return nil // the name stands in the row as not reachable
	}
	var out []string
	for _, ip := range ips {
		out = append(out, tcpText(ip, a[1].Value()))
	}
	return out
}

// tcpOf takes an address of exactly /ip4|ip6/x/tcp/port apart.
func tcpOf(a ma.Multiaddr) (ip netip.Addr, port string, ok bool) {
	if len(a) != 2 || a[1].Protocol().Code != ma.P_TCP || a[0].Protocol().Code != ma.P_IP4 && a[0].Protocol().Code != ma.P_IP6 {
		return ip, "", false
	}
	ip, err := netip.ParseAddr(a[0].Value())
	return ip.Unmap(), a[1].Value(), err == nil
}

func tcpText(ip netip.Addr, port string) string {
	word := "ip6"
	if ip = ip.Unmap(); ip.Is4() {
		word = "ip4"
	}
	return "/" + word + "/" + ip.String() + "/tcp/" + port
}

// dialBacks bounds what homes can make a parent dial. The zero value is ready.
type dialBacks struct {
	mu   sync.Mutex
	busy int
	last map[peer.ID]time.Time
}

// begin reports whether a home may ask now; end follows if so.
func (d *dialBacks) begin(p peer.ID, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy >= dialBacksAtOnce || now.Sub(d.last[p]) < dialBackEvery {
		return false
	}
	if d.last == nil || len(d.last) >= maxDialBacks {
		d.last = map[peer.ID]time.Time{} // costs each home one early question
	}
	d.last[p], d.busy = now, d.busy+1
	return true
}

func (d *dialBacks) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy--
}

// answerDialBack dials the addresses that a home names, but only where it is seen to come from: nobody else is dialled
// for it.
func (h *Host) answerDialBack(ctx context.Context, from Member, req []byte) ([]byte, error) {
	asked, err := parseAddresses(req)
	if err != nil {
		return nil, &RemoteError{Code: lane.CodeRefused, Text: err.Error()}
	}
	l := h.admitted(from.Peer)
	if l == nil {
		return nil, ErrOffline
	}
	seen, err := manet.ToIP(l.conn.RemoteMultiaddr())
	ip, ok := netip.AddrFromSlice(seen)
	if err != nil || !ok {
		return nil, ErrOffline
	}
	ip = ip.Unmap()
	if !h.backs.begin(from.Peer, h.clock.Now()) {
		return nil, &RemoteError{Code: lane.CodeBusy, Text: "asked a moment ago", After: dialBackEvery}
	}
	defer h.backs.end()
	found := make([]Reach, len(asked))
	for i, a := range asked {
		if at, _, ok := tcpOf(a); !ok || at != ip {
			found[i] = ReachForeign
		} else {
			found[i] = h.dialBack(ctx, from.Peer, a)
		}
	}
	return encodeDialBack(ip, found), nil
}

// dialBack opens one connection beside those that stand, which proves the key of who answers, and closes it.
func (h *Host) dialBack(ctx context.Context, id peer.ID, a ma.Multiaddr) Reach {
	ctx, cancel := context.WithTimeout(ctx, dialBackTimeout)
	defer cancel()
	t := h.wire.swarm.TransportForDialing(a)
	if t == nil {
		return ReachNone
	}
	c, err := t.Dial(ctx, a, id)
	if err != nil {
		return ReachNone
	}
	_ = c.Close() // it has told all it can
	return ReachOK
}

var errAddresses = errors.New("want 1 to 6 addresses such as /ip4/192.0.2.1/tcp/4100")

// encodeAddresses gives a question for DialBack: n u8 | (len u8 | multiaddr)*.
func encodeAddresses(addrs []string) []byte {
	b := []byte{byte(len(addrs))}
	for _, a := range addrs {
		b = append(append(b, byte(len(a))), a...)
	}
	return b
}

// parseAddresses is the inverse of encodeAddresses, for 1 to route.MaxAddresses.
func parseAddresses(b []byte) ([]ma.Multiaddr, error) {
	if len(b) == 0 || b[0] == 0 || b[0] > route.MaxAddresses {
		return nil, errAddresses
	}
	n, rest := int(b[0]), b[1:]
	var out []ma.Multiaddr
	for range n {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return nil, errAddresses
		}
		a, err := ma.NewMultiaddr(string(rest[1 : 1+int(rest[0])]))
		if err != nil {
			return nil, errAddresses
		}
		out, rest = append(out, a), rest[1+int(rest[0]):]
	}
	if len(rest) > 0 {
		return nil, errAddresses
	}
	return out, nil
}

// encodeDialBack gives an answer: len u8 | address it is seen at, 4 or 16 | n u8 | reach u8 *.
func encodeDialBack(seen netip.Addr, found []Reach) []byte {
	raw := seen.AsSlice()
	b := append([]byte{byte(len(raw))}, raw...)
	b = append(b, byte(len(found)))
	for _, f := range found {
		b = append(b, byte(f))
	}
	return b
}

// parseDialBack is the inverse of encodeDialBack.
func parseDialBack(b []byte) (seen netip.Addr, found []Reach, err error) {
	bad := errors.New("mesh: answer of a dial back is malformed")
	if len(b) == 0 || b[0] != 4 && b[0] != 16 || len(b) < 2+int(b[0]) {
		return seen, nil, bad
	}
	n := int(b[0])
	seen, _ = netip.AddrFromSlice(b[1 : 1+n])
	rest := b[2+n:]
	if int(b[1+n]) != len(rest) || len(rest) > route.MaxAddresses {
		return seen, nil, bad
	}
	for _, f := range rest {
		if Reach(f) > ReachForeign {
			return seen, nil, bad
		}
		found = append(found, Reach(f))
	}
	return seen, found, nil
}
