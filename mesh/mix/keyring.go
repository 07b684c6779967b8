package mix

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"gridveil/mesh/packet"
)

const (
	// KeyMargin is how long before and after its epoch a key is accepted: clocks
	// of relays differ by up to 30 s, answers are due within 2 min.
	KeyMargin = 2 * time.Minute

	// KeysAhead is how many epochs after the current one are published: with 20-min
	// epochs a sender that saw no directory for an hour still knows every key it needs.
	KeysAhead = 5
)

// ErrNoKey is a packet for a key that is not valid now.
var ErrNoKey = errors.New("packet is for an onion key that is not valid now")

// EpochAt is the number of the epoch that t lies in.
func EpochAt(t time.Time, epoch time.Duration) uint32 {
	return uint32(t.UnixMilli() / epoch.Milliseconds())
}

// EpochStart is when epoch number n begins.
func EpochStart(n uint32, epoch time.Duration) time.Time {
	return time.UnixMilli(int64(n) * epoch.Milliseconds()).UTC()
}

// Keyring holds a node's onion keys, one per epoch, each with its replay table.
// Nothing of it is ever stored: a restart means new keys, so a packet recorded
// before it cannot be replayed after it.
type Keyring struct {
	epoch   time.Duration
	maxTags int
	keys    []epochKey // ascending epochs without gap
}

type epochKey struct {
	number uint32
	key    *packet.Key
	seen   *Replay
}

// NewKeyring makes an empty keyring; maxTags is one of RelayTags, BackboneTags, LeafTags.
func NewKeyring(epoch time.Duration, maxTags int) *Keyring {
	return &Keyring{epoch: epoch, maxTags: maxTags}
}

// Advance wipes keys whose time is over and draws those up to KeysAhead epochs
// from now. It reports whether the published set changed, so that the `keys`
// register must be published anew. Call it at least once per minute.
func (k *Keyring) Advance(now time.Time, rnd io.Reader) (changed bool, err error) {
	for len(k.keys) > 0 && now.After(EpochStart(k.keys[0].number+1, k.epoch).Add(KeyMargin)) {
		k.keys[0].key.Wipe()
		k.keys[0].seen.Wipe()
		k.keys = k.keys[1:]
	}
	current := EpochAt(now, k.epoch)
	next := current
	if len(k.keys) > 0 {
		next = k.keys[len(k.keys)-1].number + 1
	}
	for ; next <= current+KeysAhead; next++ {
		made, err := k.draw(next, rnd)
		if err != nil {
			return changed, err
		}
		k.keys = append(k.keys, made)
		changed = true
	}
	return changed, nil
}

func (k *Keyring) draw(number uint32, rnd io.Reader) (epochKey, error) {
	var id [2]byte
	for {
		if _, err := io.ReadFull(rnd, id[:]); err != nil {
			return epochKey{}, fmt.Errorf("draw key id: %w", err)
		}
		if !k.taken(binary.BigEndian.Uint16(id[:])) {
			break
		}
	}
	key, err := packet.NewKey(binary.BigEndian.Uint16(id[:]), rnd)
	if err != nil {
		return epochKey{}, err
	}
	seen, err := NewReplay(k.maxTags, rnd)
	if err != nil {
		return epochKey{}, err
	}
	return epochKey{number, key, seen}, nil
}

func (k *Keyring) taken(id uint16) bool {
	for _, e := range k.keys {
		if e.key.ID == id {
			return true
		}
	}
	return false
}

// Find gives key and replay table for a packet's key id, or ErrNoKey if there is
// none or its epoch is more than KeyMargin away.
func (k *Keyring) Find(id uint16, now time.Time) (*packet.Key, *Replay, error) {
	for _, e := range k.keys {
		if e.key.ID != id {
			continue
		}
		from := EpochStart(e.number, k.epoch).Add(-KeyMargin)
		to := EpochStart(e.number+1, k.epoch).Add(KeyMargin)
		if !now.Before(from) && !now.After(to) {
			return e.key, e.seen, nil
		}
	}
	return nil, nil, ErrNoKey
}

// PublicKey is what others need to build a packet for one epoch of a node.
type PublicKey struct {
	ID  uint16
	Key [32]byte
}

// Public lists the public keys from the epoch of now on, for the `keys` register.
func (k *Keyring) Public(now time.Time) (first uint32, keys []PublicKey) {
	first = EpochAt(now, k.epoch)
	for _, e := range k.keys {
		if e.number >= first {
			keys = append(keys, PublicKey{e.key.ID, e.key.Public})
		}
	}
	return first, keys
}

// At gives the own public key for a packet that arrives back at time t: the last
// hop of loops and reply blocks. ok is false if no key is drawn for then.
func (k *Keyring) At(t time.Time) (key PublicKey, ok bool) {
	number := EpochAt(t, k.epoch)
	for _, e := range k.keys {
		if e.number == number {
			return PublicKey{e.key.ID, e.key.Public}, true
		}
	}
	return PublicKey{}, false
}
