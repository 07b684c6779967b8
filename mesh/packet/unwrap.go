package packet

import (
	"crypto/subtle"
	"encoding/binary"
)

// Seen is the replay table of one key. Insert records a packet's tag and
// returns an error when it was there already or the table is full; Unwrap
// returns that error as it is. mix.Replay implements it.
type Seen interface {
	Insert(tag [16]byte) error
}

// Unwrap takes one layer off p in place and says what to do next. key is the
// node's key that p.KeyID names, seen the replay table of that key. On any
// error the packet is worthless: drop it, count, do not answer.
//
// The order is fixed: shared secret, tag, replay, header, payload. Nothing of a
// packet is looked at before its tag held, and a tag is recorded before any of
// its effects, so that a replay costs its sender more than it costs us.
func Unwrap(p *Packet, key *Key, seen Seen) (Routing, error) {
	if p[0] != version || p[1] != suite || p.KeyID() != key.ID || key.private == [32]byte{} {
		return Routing{}, ErrVersion
	}
	prefix := (*[prefixSize]byte)(p[:])
	ct := (*[ctSize]byte)(p[prefixSize:])
	tag := p[prefixSize+ctSize:][:tagSize]
	beta := (*[betaSize]byte)(p[prefixSize+ctSize+tagSize:])

	var secret [32]byte
	if !(layerKEM{}).shared(&secret, &key.private, ct) {
		return Routing{}, ErrTampered
	}
	l := newLayer(&secret, ct, &key.Public, key.ID)
	want := l.tag(prefix, ct, beta)
	if subtle.ConstantTimeCompare(want[:], tag) != 1 {
		return Routing{}, ErrTampered
	}
	if err := seen.Insert(l.replay); err != nil {
		return Routing{}, err
	}
	var opened [headerSize + routingSize]byte
	copy(opened[:], beta[:])
	subtle.XORBytes(opened[:], opened[:], l.stream[:])
	r, err := decodeRouting(opened[:routingSize])
	if err != nil {
		return Routing{}, err
	}
	binary.BigEndian.PutUint16(p[2:], r.keyID)
	copy(p[prefixSize:], opened[routingSize:])
	l.wide.decrypt(p.payload())
	return r, nil
}

// User gives the user bytes of a packet whose Unwrap returned FlagDeliver. They
// alias p. ErrTampered means that some hop or link changed the payload.
func (p *Packet) User() ([]byte, error) {
	payload := p.payload()
	var zero [zeroSize]byte
	if subtle.ConstantTimeCompare(payload[:zeroSize], zero[:]) != 1 {
		return nil, ErrTampered
	}
	return payload[zeroSize:], nil
}
