package mesh

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"gridveil/mesh/lane"
)

const (
	defaultDailyMB = 30 // each way, for a leaf; slots of 30 s need 7.5 up and 9.5 down

	// LeastDailyMB is the lowest cap that a leaf can keep: at its thriftiest a day takes about 7 MB down (packets of
	// 60-s slots coming back 3.2, directory 1.8, keep-alives 1.2, signals 0.5), and some is needed for reports.
	LeastDailyMB = 8

	thriftyDay = 7 << 20    // bytes of such a day, in the worse direction
	aliveDay   = 1200 << 10 // of them, keep-alives of three connections
	daySeconds = 86400

	packetHeader  = 52   // IPv4 and TCP with timestamps
	packetPayload = 1448 // of a full TCP segment on Ethernet

	budgetSteps = 100 // the count is saved whenever this part of the cap was used
	stateBudget = "budget"
)

// Thrift is how sparing a leaf has to be with the rest of its day's data. Alarms are counted and never stopped.
type Thrift int

// Levels of Thrift; each includes the ones before it.
const (
	ThriftNone   Thrift = iota
	ThriftRelay         // a home that relays for others stops until midnight
	ThriftBulk          // bulk calls are refused with ErrBusy
	ThriftSlow          // cover traffic slows down, comparisons with the second parent are rare
	ThriftScarce        // sessions and other requests are refused, the live feed of signals stops; slots go on
	ThriftSpent         // nothing but alarms and keep-alives
)

// budget counts the bytes of one UTC day in each direction, as they stand on the wire, so that a metered link is not
// used up.
type budget struct {
	mu       sync.Mutex
	cap      int64 // bytes per day and direction; 0 means none
	day      int64
	up, down int64
	lean     bool  // today's relaying for others has stopped, and stays so
	slow     bool  // today's slots have become slow, and stay so
	saved    int64 // up+down when last saved
}

// wireBytes gives the bytes that n bytes of one read or write take in their direction, and their acknowledgements in the other.
func wireBytes(n int) (there, back int64) {
	segments := int64(n+packetPayload-1) / packetPayload
	return int64(n) + segments*packetHeader, (segments + 1) / 2 * packetHeader
}

func (b *budget) spend(up, down int, now time.Time) {
	u, ackDown := wireBytes(up)
	d, ackUp := wireBytes(down)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	b.up, b.down = b.up+u+ackUp, b.down+d+ackDown
}

// turn begins a new day; b.mu is held.
func (b *budget) turn(now time.Time) {
	if day := now.Unix() / daySeconds; day != b.day {
		b.day, b.up, b.down, b.lean, b.slow, b.saved = day, 0, 0, false, false, 0
	}
}

// level compares what is left with what the rest of the day takes at its thriftiest.
func (b *budget) level(now time.Time) Thrift {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cap == 0 {
		return ThriftNone
	}
	b.turn(now)
	thrifty := min(thriftyDay, b.cap*7/8)
	rest := int64(untilMidnight(now) / time.Second)
	left := b.cap - max(b.up, b.down)
	spare := (left - thrifty*rest/daySeconds) * 100 / (b.cap - thrifty) // percent of what a day has beyond the thriftiest
	b.lean, b.slow = b.lean || spare < 40, b.slow || spare < 10
	switch {
	case left < min(aliveDay, b.cap/8)*rest/daySeconds+b.cap/100:
		return ThriftSpent
	case spare < 5:
		return ThriftScarce
	case b.slow:
		return ThriftSlow
	case spare < 20:
		return ThriftBulk
	case b.lean:
		return ThriftRelay
	}
	return ThriftNone
}

// record gives the stored form once enough was used since the last one: day u64 | up u64 | down u64. Now also gives less.
func (b *budget) record(now bool) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	used := b.up + b.down
	if b.cap == 0 || used == b.saved || !now && used-b.saved < b.cap/budgetSteps {
		return nil
	}
	b.saved = used
	out := binary.BigEndian.AppendUint64(nil, uint64(b.day))
	out = binary.BigEndian.AppendUint64(out, uint64(b.up))
	return binary.BigEndian.AppendUint64(out, uint64(b.down))
}

// load is the inverse of record; no bytes are a fresh start.
func (b *budget) load(raw []byte) error {
	if len(raw) == 0 || b.cap == 0 {
		return nil
	}
	if len(raw) != 24 {
		return fmt.Errorf("stored data budget has %d bytes, want 24", len(raw))
	}
	const most = 1 << 50
	day, up, down := binary.BigEndian.Uint64(raw), binary.BigEndian.Uint64(raw[8:]), binary.BigEndian.Uint64(raw[16:])
	if max(day, up, down) > most {
		return fmt.Errorf("stored data budget is out of range")
	}
	b.day, b.up, b.down, b.saved = int64(day), int64(up), int64(down), int64(up+down)
	return nil
}

func untilMidnight(now time.Time) time.Duration {
	return time.Duration(daySeconds-now.Unix()%daySeconds) * time.Second
}

// Carried counts bytes of onion streams, which do not travel on lanes, for Usage.
func (h *Host) Carried(up, down int) { h.traffic.add(onionPart, up, down, h.clock.Now()) }

// Thrift says how sparing this node has to be with data for the rest of the UTC day.
func (h *Host) Thrift() Thrift { return h.spent.level(h.clock.Now()) }

// Spent gives what this node's connections have used on the UTC day, as far as can be counted from here: TCP's payload,
// headers and acknowledgements of its connections. 0 on members without a cap.
func (h *Host) Spent() (up, down int64) {
	h.spent.mu.Lock()
	defer h.spent.mu.Unlock()
	h.spent.turn(h.clock.Now())
	return h.spent.up, h.spent.down
}

// spending counts what connections carry, if this node has a cap.
func (h *Host) spending() func(up, down int) {
	if h.spent.cap == 0 {
		return nil
	}
	return func(up, down int) {
		h.spent.spend(up, down, h.clock.Now())
		if h.shutToRelays() && h.sparing.CompareAndSwap(false, true) {
			h.Go(func(context.Context) { h.dropRelays() })
		}
	}
}

// shutToRelays reports whether a home that relays has to keep what is left of the day's data for itself.
func (h *Host) shutToRelays() bool { return h.c.Relay && h.Thrift() >= ThriftRelay }

// dropRelays closes the connections of a home that are there for relaying, until midnight: whoever floods it would go on
// to use up the data that its own reports need.
func (h *Host) dropRelays() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.links {
		if h.serving && h.keepers[c.RemotePeer()] == nil {
			h.wg.Go(func() { _ = c.Close() }) // nothing more to say
		}
	}
}

// Expel closes the connections to a neighbour that broke a rule of a protocol above, and keeps it out for ten minutes. It
// reports false, and does nothing, for a peer that this node keeps: its lanes are needed.
func (h *Host) Expel(id peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keepers[id] != nil || !h.serving {
		return false
	}
	h.gate.deny(id)
	for c := range h.links {
		if c.RemotePeer() == id {
			h.wg.Go(func() { _ = c.Close() }) // nothing more to say
		}
	}
	return true
}

// dailyBytes is the cap of this node; backbone members have none.
func (h *Host) dailyBytes() int64 {
	switch {
	case h.self.Role.Backbone():
		return 0
	case h.c.DailyMB == 0:
		return defaultDailyMB << 20
	}
	return int64(h.c.DailyMB) << 20
}

// countLane counts frames of lanes, for metrics and pages.
func (h *Host) countLane(l lane.Lane, sent, received int) {
	h.stats.lane(l, sent, received)
	h.traffic.add(int(l), sent, received, h.clock.Now())
}

// saveBudget keeps the count across a restart, and shows the warning. A failed write costs accuracy, not service.
func (h *Host) saveBudget(now bool) {
	if raw := h.spent.record(now); raw != nil {
		if err := h.store.SaveState(stateBudget, raw); err != nil {
			h.log.Warn("data budget not saved", "err", err)
		}
	}
	h.sparing.Store(h.shutToRelays())
	if h.Thrift() >= ThriftBulk {
		h.warn(WarnDataCap)
	} else {
		h.calm(WarnDataCap)
	}
}

// thrifty says whether a direct call has to wait for the next day.
func (h *Host) thrifty(s Service, r rule) error {
	level := h.Thrift()
	needed := s == Sync || s == Cert || s == Renew
	if r.lane == lane.Alarm || level < ThriftBulk || r.lane != lane.Bulk && level < ThriftScarce || needed && level < ThriftSpent {
		return nil
	}
	return h.tomorrow()
}

func (h *Host) tomorrow() error {
	return fmt.Errorf("the day's data budget is nearly used: %w", &BusyError{After: untilMidnight(h.clock.Now())})
}

// Sparing is nil, or wraps ErrBusy with the time until midnight UTC when onion packets have to wait for the next day's
// data: those outside of slots first.
func (h *Host) Sparing(slots bool) error {
	if level := h.Thrift(); level < ThriftScarce || slots && level < ThriftSpent {
		return nil
	}
	return h.tomorrow()
}

// countedTCP counts what connections that others open carry, as dialer does for this node's own.
type countedTCP struct {
	*tcp.TcpTransport
	upgrader transport.Upgrader
	spend    func(up, down int)
	shut     func() bool // nobody is let in now
}

// Listen listens like the transport, which has no place for a listener of ours; the connection timeout is the upgrader's.
func (t *countedTCP) Listen(laddr ma.Multiaddr) (transport.Listener, error) {
	l, err := manet.Listen(laddr)
	if err != nil {
		return nil, err
	}
	return t.upgrader.UpgradeGatedMaListener(t, t.upgrader.GateMaListener(countedListener{l, t.spend, t.shut})), nil
}

type countedListener struct {
	manet.Listener
	spend func(up, down int)
	shut  func() bool
}

// Accept counts what the connection carries. While the node is shut it closes connections before a byte of a handshake.
func (l countedListener) Accept() (manet.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.shut() {
			return countedManet{c, l.spend}, nil
		}
		_ = c.Close() // nothing was said on it
	}
}

type countedManet struct {
	manet.Conn
	spend func(up, down int)
}

// Read counts what came.
func (c countedManet) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.spend(0, n)
	return n, err
}

// Write counts what went.
func (c countedManet) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.spend(n, 0)
	return n, err
}

// dialer counts what connections that this node opens carry.
type dialer struct {
	spend func(up, down int)
	net.Dialer
}

func (d *dialer) forAddr(ma.Multiaddr) (tcp.ContextDialer, error) { return d, nil }

// DialContext connects like net.Dialer.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return countedConn{c, d.spend}, nil
}

type countedConn struct {
	net.Conn
	spend func(up, down int)
}

// Read counts what came.
func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.spend(0, n)
	return n, err
}

// Write counts what went.
func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.spend(n, 0)
	return n, err
}
