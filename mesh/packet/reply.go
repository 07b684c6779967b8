package packet

import (
	"fmt"
	"io"
)

// ReplyBlockSize is the wire size of a ReplyBlock.
const ReplyBlockSize = 32 + prefixSize + headerSize + 32 // 420

// MaxOpenReplies bounds a creator's table of unused blocks; the table is the shell's.
const MaxOpenReplies = 1024

// ReplyBlock is a prepaid header for one answer of one packet: first hop 32 |
// prefix and header 356 | payload key 32. Its user learns the first hop only.
type ReplyBlock [ReplyBlockSize]byte

// First is the node to hand the answer to.
func (b *ReplyBlock) First() NodeKey { return NodeKey(b[:32]) }

// ReplyKeys is the creator's secret half of a block; it opens one answer.
type ReplyKeys struct {
	ID     ReplyID
	layers []wideKeys // of the hops, first hop first, own layer last
	user   wideKeys   // of the payload key
}

// NewReplyBlock makes a block that brings one packet along route to its creator,
// who is the last hop with an own, unpublished key. id must be fresh.
func NewReplyBlock(route []Hop, id ReplyID, rnd io.Reader) (*ReplyBlock, *ReplyKeys, error) {
	b, keys := new(ReplyBlock), &ReplyKeys{ID: id}
	layers, err := buildHeader((*[prefixSize + headerSize]byte)(b[32:]), route, Routing{Flag: FlagReply, Reply: id}, rnd)
	if err != nil {
		return nil, nil, err
	}
	for i := range layers {
		keys.layers = append(keys.layers, layers[i].wide)
	}
	copy(b[:32], route[0].Node[:])
	payloadKey := (*[32]byte)(b[32+prefixSize+headerSize:])
	if _, err := io.ReadFull(rnd, payloadKey[:]); err != nil {
		return nil, nil, fmt.Errorf("draw payload key: %w", err)
	}
	keys.user = expandLayer(payloadKey).wide
	return b, keys, nil
}

// Use writes an answer with user bytes (UserSize) into p, to be sent to First. A
// block serves once: the hops refuse a second packet with the same header.
func (b *ReplyBlock) Use(p *Packet, user []byte) error {
	if len(user) != UserSize {
		return fmt.Errorf("%w: %d, want %d", ErrUserSize, len(user), UserSize)
	}
	copy(p[:], b[32:32+prefixSize+headerSize])
	payload := p.payload()
	clear(payload[:zeroSize])
	copy(payload[zeroSize:], user)
	l := expandLayer((*[32]byte)(b[32+prefixSize+headerSize:]))
	l.wide.encrypt(payload)
	return nil
}

// Open gives the user bytes of an answer whose Unwrap returned FlagReply with
// this ID. They alias p. ErrTampered means that the payload was changed.
func (k *ReplyKeys) Open(p *Packet) ([]byte, error) {
	payload := p.payload()
	// Every hop decrypted, the creator's own Unwrap included: undo that, last first.
	for i := len(k.layers) - 1; i >= 0; i-- {
		k.layers[i].encrypt(payload)
	}
	k.user.decrypt(payload)
	return p.User()
}
