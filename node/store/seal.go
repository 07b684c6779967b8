package store

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync/atomic"
)

// sealOverhead is stamp + nonce + tag, the bytes a sealed value is longer.
const sealOverhead = 8 + 12 + 16

// stamp is what a sealed value begins with: the generation of its key in the upper
// 16 bits, the number of its commit below. Values sealed before there were
// generations have zeros there: generation 0, whose bytes are as they were.
type stamp uint64

const commitBits = 48 // 2^48 commits are 8,900 years of 1000 a second

func newStamp(gen uint16, n uint64) stamp { return stamp(uint64(gen)<<commitBits | n) }

func (t stamp) generation() uint16 { return uint16(t >> commitBits) }
func (t stamp) commit() uint64     { return uint64(t) & (1<<commitBits - 1) }

// sealer seals values under key || stamp. Nonces are random, because a crash may
// reuse a commit number for other content.
type sealer struct{ ring atomic.Pointer[keyring] }

// keyring is the data keys in use; it is replaced, never changed.
type keyring struct {
	current uint16
	aeads   [keySlots]cipher.AEAD // nil where the generation is wiped
	gens    [keySlots]uint16
}

// turn puts the keys of d into use.
func (s *sealer) turn(d *dataKeys) {
	r := &keyring{current: d.current().gen}
	for i, k := range d.kept() {
		if r.gens[i] = k.gen; !k.wiped {
			r.aeads[i] = newAEAD(k.key[:])
		}
	}
	s.ring.Store(r)
}

func (s *sealer) current() uint16 { return s.ring.Load().current }

// seal gives stamp || nonce || ciphertext || tag.
func (s *sealer) seal(key []byte, n uint64, value []byte) []byte {
	r := s.ring.Load()
	t := newStamp(r.current, n)
	out := make([]byte, 8, sealOverhead+len(value))
	binary.BigEndian.PutUint64(out, uint64(t))
	return r.aeads[r.current%keySlots].Seal(out, nil, value, sealedUnder(key, t))
}

// open returns the value, or ErrDamaged.
func (s *sealer) open(key, sealed []byte) (value []byte, err error) {
	if len(sealed) < sealOverhead {
		return nil, fmt.Errorf("%w: %d bytes in space %s", ErrDamaged, len(sealed), Space(key[0]).Name())
	}
	t := stampOf(sealed)
	r := s.ring.Load()
	i := t.generation() % keySlots
	if r.aeads[i] == nil || r.gens[i] != t.generation() {
		return nil, fmt.Errorf("%w: in space %s, commit %d: the key of generation %d is erased", ErrDamaged, Space(key[0]).Name(), t.commit(), t.generation())
	}
	value, err = r.aeads[i].Open(nil, nil, sealed[8:], sealedUnder(key, t))
	if err != nil {
		return nil, fmt.Errorf("%w: in space %s, commit %d", ErrDamaged, Space(key[0]).Name(), t.commit())
	}
	return value, nil
}

// stampOf reads the stamp of a sealed value of at least 8 bytes.
func stampOf(sealed []byte) stamp { return stamp(binary.BigEndian.Uint64(sealed)) }

func sealedUnder(key []byte, t stamp) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(key)+8), key...), uint64(t))
}
