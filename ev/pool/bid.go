package pool

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
)

// Session is what the aggregator knows of an authorised session.
type Session struct {
	Open     [32]byte
	Hpk, Spk ed25519.PublicKey
}

// Quotas of one gate.
type Quotas struct {
	PerSession int // offers, replacing each other, per session and gate
	PerZone    int // sessions per zone and gate
}

// Book collects the offers for one gate closure. It is plain state: not safe for concurrent use.
type Book struct {
	net      [8]byte
	operator ed25519.PublicKey // who certifies meters
	from     int64             // first slot
	gate     int64             // closure, UTC ms
	quotas   Quotas
	offers   map[[32]byte]*Flex
	tries    map[[32]byte]int
	zones    map[uint32]int
	meters   map[[32]byte][32]byte // meter key -> session: one car cannot be offered twice
}

// NewBook opens the book for the slots from from, until gate.
func NewBook(net [8]byte, operator ed25519.PublicKey, from, gate int64, q Quotas) *Book {
	return &Book{net: net, operator: operator, from: from, gate: gate, quotas: q, offers: map[[32]byte]*Flex{},
		tries: map[[32]byte]int{}, zones: map[uint32]int{}, meters: map[[32]byte][32]byte{}}
}

// Admit takes one encoded offer that came for s at now. The newest offer of a session replaces the one before. It
// returns ErrLate, ErrUnknown, ErrQuota, ErrMeter, ErrMessage or ErrSignature, and then the book is unchanged but for
// the count of tries. Quotas come before signatures, so that a flood costs little.
func (b *Book) Admit(raw []byte, s Session, now int64) error {
	if now >= b.gate {
		return ErrLate
	}
	f, err := DecodeFlex(raw)
	if err != nil {
		return err
	}
	if f.Open != s.Open {
		return ErrUnknown
	}
	if f.From != b.from {
		return fmt.Errorf("%w: offer for another gate", ErrMessage)
	}
	if b.tries[f.Open] >= b.quotas.PerSession {
		return ErrQuota
	}
	b.tries[f.Open]++
	old := b.offers[f.Open]
	if old == nil && b.zones[f.Meter.Zone] >= b.quotas.PerZone {
		return ErrQuota
	}
	if other, used := b.meters[f.Meter.Key]; used && other != f.Open {
		return fmt.Errorf("%w: the meter is offered by another session", ErrMeter)
	}
	if old != nil && (old.Meter.Key != f.Meter.Key || old.Meter.Zone != f.Meter.Zone) {
		return fmt.Errorf("%w: another meter than before", ErrMeter)
	}
	if err := f.Verify(b.operator, s.Hpk, s.Spk, b.net); err != nil {
		return err
	}
	if old == nil {
		b.zones[f.Meter.Zone]++
	}
	b.offers[f.Open], b.meters[f.Meter.Key] = f, f.Open
	return nil
}

// Close returns the offers in the order of their session names, and the tree whose root is anchored before the gate
// closes. Each leaf is one encoded offer.
func (b *Book) Close() ([]*Flex, *Tree) {
	offers := make([]*Flex, 0, len(b.offers))
	for _, f := range b.offers {
		offers = append(offers, f)
	}
	slices.SortFunc(offers, func(a, c *Flex) int { return bytes.Compare(a.Open[:], c.Open[:]) })
	leaves := make([][]byte, len(offers))
	for i, f := range offers {
		leaves[i] = f.Encode()
	}
	return offers, NewTree(leaves)
}

// Bid is what the pool offers to the market for one slot.
type Bid struct {
	Slot       int
	UpW, DownW int64
}

// Reserve limits, permille: some reserve always, since cars leave early (69 % of workplace sessions end more than half
// an hour before they said), and never so much that a pool cannot recover.
const (
	minReserve = 50
	maxReserve = 500
)

// ReserveOf returns the reserve in permille from what the pool delivered of what it was instructed before, mWh.
func ReserveOf(delivered, instructed int64) int64 {
	if instructed <= 0 {
		return maxReserve / 2
	}
	kept := mulDiv(min(max(delivered, 0), instructed), 1000, instructed)
	return min(max(1000-kept, minReserve), maxReserve)
}

// MakeBid sums the envelopes of one zone for one slot, less the reserve in permille. ok is false where neither direction
// reaches the market's minimum; a direction below it is bid as zero.
func MakeBid(offers []*Flex, zone uint32, slot int, reserve, minW int64) (bid Bid, ok bool) {
	if slot < 0 || slot >= Slots || reserve < 0 || reserve > 1000 {
		return Bid{}, false
	}
	var up, down int64
	for _, f := range offers {
		if f.Meter.Zone == zone {
			up += int64(f.Envelopes[slot].UpW)
			down += int64(f.Envelopes[slot].DownW)
		}
	}
	enough := func(w int64) int64 {
		if w = mulDiv(w, 1000-reserve, 1000); w < minW {
			return 0
		}
		return w
	}
	bid = Bid{Slot: slot, UpW: enough(up), DownW: enough(down)}
	return bid, bid.UpW > 0 || bid.DownW > 0
}

func hash(kind string, b []byte) [32]byte {
	return sha256.Sum256(append([]byte("gridveil/pool/"+kind+"\x00"), b...))
}
