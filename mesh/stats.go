package mesh

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"gridveil/mesh/gossip"
	"gridveil/mesh/lane"
)

// Drop is why something was thrown away. The set is fixed, so it may label metrics.
type Drop string

// Drops of the host. Package onion has its own.
const (
	DropHello       Drop = "hello"        // a hello refused, by either side
	DropMembership  Drop = "membership"   // a member disconnected: revoked, expired, or no longer in the bundle
	DropBadFrame    Drop = "bad_frame"    // a neighbour broke the lane protocol
	DropNotAllowed  Drop = "not_allowed"  // role and service do not fit
	DropBadRegister Drop = "bad_register" // a parent fed something no honest parent forwards
	DropFeedQueue   Drop = "feed_queue"   // a leaf was too slow for its feed
	DropGossipQueue Drop = "gossip_queue" // pubsub's own queues overflowed
	DropEnrol       Drop = "enrol"        // a stranger refused
)

// Codes of standing problems. Node turns them into texts with a next step.
const (
	WarnClockOff       = "clock-off"         // a relay says that our clock is wrong, or a leaf's is
	WarnRevoked        = "revoked"           // our own certificate was taken back
	WarnNotMember      = "not-member"        // nobody accepts our certificate
	WarnDirectorySplit = "directory-split"   // two parents show different directories
	WarnRenewal        = "renewal"           // past 2/3 of its life and nobody renews the certificate
	WarnSingleOperator = "single-operator"   // all relays belong to one operator
	WarnLoopsLost      = "loops-lost"        // more than 30 % of loops in an hour did not return
	WarnSmallSet       = "small-set"         // below the anonymity floor: private records wait
	WarnLab            = "lab"               // class lab is on: no delays, no cover
	WarnDataCap        = "data-cap"          // the day's data is nearly used: less cover traffic, reports wait
	WarnStaleDirectory = "stale-directory"   // no fresh directory of relays
	WarnFewRelays      = "few-relays"        // fewer relays than a route needs: private records wait
	WarnOff            = "mesh-off"          // private messages and relaying are switched off here
	WarnUnreachable    = "relay-unreachable" // a home that wants to relay cannot be dialled
	WarnStaleRevoked   = "stale-revoked"     // an operator's revocation list is past its next update
)

// Warning is a standing problem.
type Warning struct {
	Code  string
	Since time.Time
}

// Warn raises a standing problem, Calm ends it. Package onion uses them too.
func (h *Host) Warn(code string) { h.warn(code) }

// Calm ends a standing problem.
func (h *Host) Calm(code string) { h.calm(code) }

func (h *Host) warn(code string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.warnLocked(code)
}

func (h *Host) warnLocked(code string) {
	if _, have := h.warnings[code]; !have {
		h.warnings[code] = h.clock.Now()
	}
}

func (h *Host) calm(code string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.warnings, code)
}

// Warnings lists the standing problems, ordered by code.
func (h *Host) Warnings() []Warning {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]Warning, 0, len(h.warnings))
	for code, since := range h.warnings {
		out = append(out, Warning{code, since})
	}
	slices.SortFunc(out, func(a, b Warning) int { return strings.Compare(a.Code, b.Code) })
	return out
}

// Metrics is a snapshot of what the host counted since it was made.
type Metrics struct {
	Drops    map[Drop]uint64
	Sent     [lane.Lanes]uint64 // bytes by lane
	Received [lane.Lanes]uint64
	Gossip   map[string]uint64 // offered registers by verdict, e.g. "accept" or "ignore:old"
	Blocked  uint64            // connections and streams that the resource limits refused
	Peers    int               // members connected now
	Dialled  int               // connections that this node opened and that stand: entries of a home's router
}

// Metrics gives the counters.
func (h *Host) Metrics() Metrics {
	m := h.stats.snapshot()
	m.Blocked = h.wire.blocked.n.Load()
	h.mu.Lock()
	defer h.mu.Unlock()
	m.Peers = len(h.peers)
	for c := range h.links {
		if c.Stat().Direction == network.DirOutbound {
			m.Dialled++
		}
	}
	return m
}

// counters is safe for concurrent use; the zero value is ready.
type counters struct {
	sent, received [lane.Lanes]atomic.Uint64

	mu       sync.Mutex
	drops    map[Drop]uint64
	verdicts map[string]uint64
}

func (c *counters) drop(d Drop) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drops == nil {
		c.drops = map[Drop]uint64{}
	}
	c.drops[d]++
}

func (c *counters) gossip(v gossip.Verdict) {
	name := v.Action.String()
	if v.Reason != "" {
		name += ":" + string(v.Reason)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.verdicts == nil {
		c.verdicts = map[string]uint64{}
	}
	c.verdicts[name]++
}

func (c *counters) lane(l lane.Lane, sent, received int) {
	c.sent[l].Add(uint64(sent))
	c.received[l].Add(uint64(received))
}

func (c *counters) snapshot() Metrics {
	m := Metrics{Drops: map[Drop]uint64{}, Gossip: map[string]uint64{}}
	for l := range m.Sent {
		m.Sent[l], m.Received[l] = c.sent[l].Load(), c.received[l].Load()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for d, n := range c.drops {
		m.Drops[d] = n
	}
	for v, n := range c.verdicts {
		m.Gossip[v] = n
	}
	return m
}
