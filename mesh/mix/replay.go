package mix

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Most packets that a replay table remembers per key and so per epoch.
const (
	RelayTags    = 1 << 20 // SSN: 870 packets/s for 20 min; the table grows to 16 MiB
	BackboneTags = 1 << 18 // other backbone: 4 MiB
	LeafTags     = 1 << 16 // gateway, wallet: 1 MiB

	maxProbe   = 32
	firstSlots = 1 << 10 // 8 KiB until there is traffic
)

// Replay errors. Both mean: drop the packet.
var (
	ErrReplayed   = errors.New("packet was seen before")
	ErrReplayFull = errors.New("replay table is full: packets are shed until the next key")
)

// Replay remembers the packets seen under one onion key. It is exact up to a
// chance of 2^-43 per packet: 8-byte tags under a secret of its own, so nobody
// can aim at a slot. When it is full it refuses, it never forgets.
type Replay struct {
	secret  [16]byte
	tags    []uint64 // open addressing, linear; 0 is empty
	count   int
	maxTags int
}

// NewReplay makes a table for at most maxTags packets; its secret comes from rnd.
func NewReplay(maxTags int, rnd io.Reader) (*Replay, error) {
	r := &Replay{tags: make([]uint64, firstSlots), maxTags: maxTags}
	if _, err := io.ReadFull(rnd, r.secret[:]); err != nil {
		return nil, fmt.Errorf("draw replay secret: %w", err)
	}
	return r, nil
}

// Insert records a tag, or returns ErrReplayed or ErrReplayFull.
func (r *Replay) Insert(tag [16]byte) error {
	short := r.shorten(tag)
	for {
		slot, found := r.find(short)
		switch {
		case found:
			return ErrReplayed
		case r.count >= r.maxTags:
			return ErrReplayFull
		case slot >= 0 && r.count < len(r.tags)/2:
			r.tags[slot] = short
			r.count++
			return nil
		case !r.grow():
			return ErrReplayFull
		}
	}
}

// Len is the number of packets recorded.
func (r *Replay) Len() int { return r.count }

// Wipe zeroises the table, when its key is gone.
func (r *Replay) Wipe() {
	clear(r.tags)
	r.secret, r.tags, r.maxTags = [16]byte{}, r.tags[:0], 0
}

// shorten maps a tag to 64 secret bits, never 0.
func (r *Replay) shorten(tag [16]byte) uint64 {
	var keyed [32]byte
	copy(keyed[:], r.secret[:])
	copy(keyed[16:], tag[:])
	sum := sha256.Sum256(keyed[:])
	return binary.BigEndian.Uint64(sum[:]) | 1<<63
}

// find looks short up; slot is where it could go, or -1 if the probe is exhausted.
func (r *Replay) find(short uint64) (slot int, found bool) {
	if len(r.tags) == 0 {
		return -1, false // wiped
	}
	mask := uint64(len(r.tags) - 1)
	for i := range uint64(maxProbe) {
		at := (short + i) & mask
		switch r.tags[at] {
		case 0:
			return int(at), false
		case short:
			return int(at), true
		}
	}
	return -1, false
}

// grow doubles the table up to twice maxTags slots and reports whether it could.
func (r *Replay) grow() bool {
	for size := 2 * len(r.tags); size > 0 && size <= 2*r.maxTags; size *= 2 {
		bigger := Replay{tags: make([]uint64, size)}
		if bigger.adopt(r.tags) {
			r.tags = bigger.tags
			return true
		}
	}
	return false
}

// adopt fills an empty table and reports whether every tag found a slot.
func (r *Replay) adopt(tags []uint64) bool {
	for _, t := range tags {
		if t == 0 {
			continue
		}
		slot, _ := r.find(t)
		if slot < 0 {
			return false
		}
		r.tags[slot] = t
	}
	return true
}
