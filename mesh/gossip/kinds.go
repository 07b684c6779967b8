package gossip

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/route"
)

// Kind is the subject of a register. The numbers are wire values.
type Kind uint8

// The kinds of registers.
const (
	KindTrust      Kind = 1 // bundle or revocation list, signed by roots or a CA
	KindDirectory  Kind = 2 // a member's onion or sealing keys
	KindPrice      Kind = 3
	KindNetState   Kind = 4
	KindControl    Kind = 5
	KindCheckpoint Kind = 6
	KindAlarm      Kind = 7
)

var kindNames = [...]string{"", "trust", "dir", "price", "netstate", "control", "ckpt", "alarm"}

// String gives the kind's word, as used in topic names and metrics.
func (k Kind) String() string {
	if !k.Valid() {
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
	return kindNames[k]
}

// Valid reports whether k is one of the seven kinds.
func (k Kind) Valid() bool { return k >= KindTrust && k <= KindAlarm }

// Kinds lists all kinds in order.
func Kinds() []Kind {
	return []Kind{KindTrust, KindDirectory, KindPrice, KindNetState, KindControl, KindCheckpoint, KindAlarm}
}

// Topic is the pubsub topic of kind k in the network with this tag.
func (k Kind) Topic(tag [8]byte) string { return fmt.Sprintf("/gridveil/%x/%s", tag, k) }

// Register keys with a fixed meaning.
const (
	KeyBundle uint64 = 0 // trust: the bundle; a revocation list has member.CRLKey
	KeyOnion  uint64 = 1 // dir: `keys`, the onion keys of a member
	KeySeal   uint64 = 2 // dir: `seal`, the HPKE key of a member
	KeySheet  uint64 = 3 // dir: `sheet`, public keys of the services a member offers; the mesh does not read it
)

// ZoneKey is the register key for prices (low = tariff) and network states (low = quantity) of a zone.
func ZoneKey(zone string, low uint32) uint64 {
	return uint64(zoneTag(zone))<<32 | uint64(low)
}

// zoneTag is a zone's 32-bit name in register keys.
func zoneTag(zone string) uint32 {
	sum := sha256.Sum256(append([]byte("gridveil/zone/1"), zone...))
	return binary.BigEndian.Uint32(sum[:])
}

// OriginKey is the register key for checkpoints of the log with this origin.
func OriginKey(origin string) uint64 {
	sum := sha256.Sum256(append([]byte("gridveil/origin/1"), origin...))
	return binary.BigEndian.Uint64(sum[:])
}

// Feed says when a parent hands a register of some kind to its leaves.
type Feed uint8

// Feeds.
const (
	FeedNow    Feed = iota // every register at once
	FeedZone               // registers of the leaf's zone at once (InZone)
	FeedSparse             // the newest, at most one per 10 min
	FeedPublic             // only what the body marks as public
)

// Rule is what the network allows for one kind.
type Rule struct {
	MaxBody   int           // bytes
	Rate      int           // registers per publisher and Per
	Per       time.Duration // period of Rate
	Total     int           // registers held, of all publishers together
	Feed      Feed
	Lane0     bool // fed on lane 0, ahead of everything
	ByKeyOnly bool // newest per key whoever publishes it (the body itself is signed)

	life    func(key uint64) time.Duration
	publish func(m member.Member, e *Envelope, b *member.Bundle) bool
}

const (
	day = 24 * time.Hour

	// maxAlarm holds the evidence of equivocation: two checkpoints of 8 KiB, each in its envelope.
	maxAlarm = 2*(8<<10+overhead) + evidenceFixed

	// MaxHomes is how many homes of one network may be in the directory as relays: their registers take a leaf 1 MB a day.
	// Homes of one operator take at most half, so that it cannot fill the list with certificates that it gives out itself.
	MaxHomes = 64
)

var rules = [...]Rule{
	KindTrust: {MaxBody: 60 << 10, Rate: 1, Per: time.Minute, Total: 256, Feed: FeedNow, Lane0: true, ByKeyOnly: true,
		life: fixed(90 * day), publish: anyBackbone},
	KindDirectory: {MaxBody: 2 << 10, Rate: 6, Per: time.Hour, Total: 2048, Feed: FeedNow,
		life: directoryLife, publish: aboutItself},
	KindPrice: {MaxBody: 4 << 10, Rate: 4, Per: time.Minute, Total: 4096, Feed: FeedZone,
		life: fixed(48 * time.Hour), publish: mayPrice},
	KindNetState: {MaxBody: 1 << 10, Rate: 2, Per: time.Minute, Total: 4096, Feed: FeedZone,
		life: fixed(30 * time.Minute), publish: mayNetState},
	KindControl: {MaxBody: 1 << 10, Rate: 600, Per: time.Minute, Total: 16_384, Feed: FeedNow, Lane0: true,
		life: fixed(15 * time.Minute), publish: mayControl},
	KindCheckpoint: {MaxBody: 8 << 10, Rate: 6, Per: time.Minute, Total: 256, Feed: FeedSparse,
		life: fixed(day), publish: mayCheckpoint},
	KindAlarm: {MaxBody: maxAlarm, Rate: 10, Per: time.Minute, Total: 4096, Feed: FeedPublic, Lane0: true,
		life: fixed(7 * day), publish: anyBackbone},
}

// RuleOf gives the rule of a valid kind.
func RuleOf(k Kind) Rule { return rules[k] }

// MaxLife is the longest allowed time from issue to expiry of a register.
func (k Kind) MaxLife(key uint64) time.Duration { return rules[k].life(key) }

// InZone reports whether a FeedZone register speaks about zone.
func (e *Envelope) InZone(zone string) bool { return uint32(e.Key>>32) == zoneTag(zone) }

func fixed(d time.Duration) func(uint64) time.Duration {
	return func(uint64) time.Duration { return d }
}

func directoryLife(key uint64) time.Duration {
	if key == KeySeal || key == KeySheet {
		return 14 * day // renewed weekly, or when a key changes
	}
	return 2 * time.Hour // renewed hourly
}

func anyBackbone(m member.Member, _ *Envelope, _ *member.Bundle) bool { return m.Role.Backbone() }

// aboutItself: the publisher's key is the subject, so only the register key is left to check; of a home also the body,
// which has to make it a relay or say that it has stopped.
func aboutItself(m member.Member, e *Envelope, _ *member.Bundle) bool {
	if m.Role == member.RoleGateway && e.Key == KeyOnion {
		k, err := route.ParseKeys(e.Body)
		return err == nil && k.CheckHome() == nil
	}
	return m.Role.Backbone() && (e.Key == KeyOnion || e.Key == KeySeal || e.Key == KeySheet)
}

// mayPrice: a utility prices the zones it serves, an aggregator flexibility anywhere.
func mayPrice(m member.Member, e *Envelope, b *member.Bundle) bool {
	zone, known := zoneOf(e, b)
	switch m.Role {
	case member.RoleUtility:
		return known && b.MayPublishZone(m, zone)
	case member.RoleAggregator:
		return known
	}
	return false
}

// mayNetState: a substation speaks for its zone, a utility for those whose grid it runs.
func mayNetState(m member.Member, e *Envelope, b *member.Bundle) bool {
	zone, known := zoneOf(e, b)
	switch m.Role {
	case member.RoleSSN:
		return known && m.Zone == zone
	case member.RoleUtility:
		return known && b.IsDSO(m, zone)
	}
	return false
}

// mayControl: an aggregator, or a utility that runs some grid. Which session an
// address tag means is hidden on purpose; the body says what it may order.
func mayControl(m member.Member, _ *Envelope, b *member.Bundle) bool {
	if m.Role == member.RoleAggregator {
		return true
	}
	o, known := b.Operator(m.Operator)
	return m.Role == member.RoleUtility && known && len(o.DSOZones) > 0
}

func mayCheckpoint(m member.Member, _ *Envelope, _ *member.Bundle) bool {
	return m.Role == member.RoleAggregator || m.Role == member.RoleUtility
}

// zoneOf finds the bundle's zone that a register key means.
func zoneOf(e *Envelope, b *member.Bundle) (string, bool) {
	for _, z := range b.Zones {
		if e.InZone(z.Name) {
			return z.Name, true
		}
	}
	return "", false
}
