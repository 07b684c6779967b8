// Package packet is the onion packet of gridveil: 2048 bytes, one size, up to
// four layers, with reply blocks and end-to-end sealed messages on top.
//
// A sender calls Build with a route; each hop calls Unwrap and learns only
// where to forward next and how long to hold; the recipient's Unwrap returns
// FlagDeliver and User gives the 1676 bytes. A ReplyBlock is a prepaid header:
// the replier calls ReplyBlock.Use, the creator ReplyKeys.Open.
// SealRequest, Split and Assembler carry whole messages.
//
// What it guarantees: a hop sees one size and no position, length, direction or
// cover; one changed header byte stops the packet at the next hop, one changed
// payload byte turns all of it into noise; a packet is not accepted twice under
// one key. What it does not: hide timing (package mix), choose routes (package
// route), or protect against hops that all collude.
//
//	prefix 4     version 1 | suite 1 | keyID 2 (rewritten per hop from routing: no trial decryption)
//	header 352   4 slots x 88: ct 32 | tag 16 | routing 40
//	payload 1692 = 16 zero bytes + 1676 user
//
// Everything is pure: randomness is an argument, there is no clock.
// Sources: doc/design.md; Sphinx (Danezis, Goldberg 2009); Outfox (arXiv
// 2412.19937) for a fresh KEM per layer; LIONESS (Anderson, Biham 1996).
package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Sizes of a packet in bytes.
const (
	Size     = 2048
	UserSize = payloadSize - zeroSize // 1676

	MaxLayers = 4 // guard, middle, exit, recipient

	prefixSize  = 4
	headerSize  = MaxLayers * slotSize // 352
	payloadSize = Size - prefixSize - headerSize
	zeroSize    = 16 // zero bytes before the user's; 2^-128 for an altered payload to pass

	ctSize      = 32
	tagSize     = 16
	routingSize = 40
	slotSize    = ctSize + tagSize + routingSize
	betaSize    = headerSize - ctSize - tagSize // 304

	version = 1
	suite   = 1 // X25519, HKDF-SHA-256, HMAC-SHA-256/128, ChaCha20, LIONESS

	// MaxDelay is the longest hold that a sender may ask of a relay.
	MaxDelay = 10 * time.Minute
)

// Packet errors. Unwrap drops for any of them, without an answer.
var (
	ErrVersion  = errors.New("packet has another version, suite or key")
	ErrTampered = errors.New("packet was changed on its way or is not for this key")
	ErrRouting  = errors.New("packet asks for an impossible next step")
	ErrRoute    = errors.New("route is not usable")
	ErrUserSize = errors.New("user bytes do not have the packet's size")
)

// Packet is one onion packet. It is changed in place at every hop.
type Packet [Size]byte

// KeyID tells which of the receiving hop's onion keys the packet is for.
func (p *Packet) KeyID() uint16 { return binary.BigEndian.Uint16(p[2:]) }

// Flag says what the unwrapping node does next.
type Flag uint8

// Flags of a routing field.
const (
	FlagRelay   Flag = 0 // hold, then forward to Routing.Next
	FlagDeliver Flag = 1 // User gives bytes for this node
	FlagReply   Flag = 2 // an answer to an own reply block: ReplyID says which
	FlagDrop    Flag = 3 // cover: count and forget
)

// NodeKey is the Ed25519 identity key of a node, as in member.Key.
type NodeKey = [32]byte

// ReplyID finds the creator's record of a reply block.
type ReplyID [16]byte

// Routing is what one layer tells the hop that unwraps it.
type Routing struct {
	Flag  Flag
	Next  NodeKey       // FlagRelay: forward to this node
	Reply ReplyID       // FlagReply: which reply block
	Delay time.Duration // FlagRelay: hold this long, whole ms, at most MaxDelay
	keyID uint16        // the next hop's key
}

// encode writes: next node key 32 (or reply id 16 | 0 16), flag 1, delay ms 3, next keyID 2, 0 2.
func (r Routing) encode() (out [routingSize]byte) {
	if r.Flag == FlagReply {
		copy(out[:], r.Reply[:])
	} else {
		copy(out[:], r.Next[:])
	}
	binary.BigEndian.PutUint32(out[32:], uint32(r.Flag)<<24|uint32(r.Delay/time.Millisecond))
	binary.BigEndian.PutUint16(out[36:], r.keyID)
	return out
}

// decodeRouting is the inverse of encode; every field that a flag does not use must be zero.
func decodeRouting(raw []byte) (Routing, error) {
	word := binary.BigEndian.Uint32(raw[32:])
	r := Routing{
		Flag: Flag(word >> 24), Delay: time.Duration(word&0xffffff) * time.Millisecond,
		keyID: binary.BigEndian.Uint16(raw[36:]),
	}
	if r.Flag == FlagReply {
		copy(r.Reply[:], raw)
	} else {
		copy(r.Next[:], raw)
	}
	last := r.Flag != FlagRelay
	noNext := r.Flag != FlagRelay && r.Next != NodeKey{} || r.Flag == FlagRelay && r.Next == NodeKey{}
	if r.Flag > FlagDrop || noNext || r.Delay > MaxDelay || last && (r.Delay != 0 || r.keyID != 0) || r.encode() != [routingSize]byte(raw) {
		return Routing{}, ErrRouting
	}
	return r, nil
}

// Hop is one station of a route as its sender knows it.
type Hop struct {
	Node  NodeKey       // identity, known to the hop before it
	KeyID uint16        // which onion key is valid when the packet arrives
	Key   [32]byte      // that X25519 public key
	Delay time.Duration // hold at this hop; ignored at the last
}

// checkRoute validates a route once, before any arithmetic.
func checkRoute(route []Hop) error {
	if len(route) == 0 || len(route) > MaxLayers {
		return fmt.Errorf("%w: %d hops, want 1 to %d", ErrRoute, len(route), MaxLayers)
	}
	for i, h := range route {
		if h.Node == (NodeKey{}) {
			return fmt.Errorf("%w: hop %d has no node", ErrRoute, i)
		}
		if h.Delay < 0 || h.Delay > MaxDelay {
			return fmt.Errorf("%w: hop %d delays %s, at most %s", ErrRoute, i, h.Delay, MaxDelay)
		}
	}
	return nil
}
