package mesh

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"

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
		b.day, b.up, b.down, b.slow, b.saved = day, 0, 0, false, 0
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
	b.slow = b.slow || spare < 10
	switch {
	case left < min(aliveDay, b.cap/8)*rest/daySeconds+b.cap/100:
		return ThriftSpent
	case spare < 5:
		return ThriftScarce
	case b.slow:
		return ThriftSlow
	case spare < 20:
		return ThriftBulk
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
// headers and acknowledgements of the connections that it dialled. 0 on members without a cap.
func (h *Host) Spent() (up, down int64) {
	h.spent.mu.Lock()
	defer h.spent.mu.Unlock()
	h.spent.turn(h.clock.Now())
	return h.spent.up, h.spent.down
}

// spending counts what dialled connections carry, if this node has a cap.
func (h *Host) spending() func(up, down int) {
	if h.spent.cap == 0 {
		return nil
	}
	return func(up, down int) { h.spent.spend(up, down, h.clock.Now()) }
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
