package packet

import (
	"crypto/sha256"
	"crypto/subtle"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
)

// wideKeys are the four round keys of the wide-block cipher.
type wideKeys [4][32]byte

const wideLeft = 32 // the rest, 1660 bytes, is the right part

// encrypt turns the whole payload into one block of a 13,536-bit cipher
// (LIONESS): one changed bit anywhere changes all of it on the way back.
//
//	R ^= S(L^k0); L ^= H(k1,R); R ^= S(L^k2); L ^= H(k3,R)
func (k *wideKeys) encrypt(payload *[payloadSize]byte) {
	b := newWide(payload)
	b.streamRound(&k[0])
	b.hashRound(&k[1])
	b.streamRound(&k[2])
	b.hashRound(&k[3])
	b.end(payload)
}

// decrypt is the inverse of encrypt.
func (k *wideKeys) decrypt(payload *[payloadSize]byte) {
	b := newWide(payload)
	b.hashRound(&k[3])
	b.streamRound(&k[2])
	b.hashRound(&k[1])
	b.streamRound(&k[0])
	b.end(payload)
}

// wide is a payload with the spare bytes that xorStream needs.
type wide struct {
	bytes [payloadSize + chacha20poly1305.Overhead]byte
}

// wides spares a relay 1.7 KiB of garbage per packet.
var wides = sync.Pool{New: func() any { return new(wide) }}

func newWide(payload *[payloadSize]byte) *wide {
	b := wides.Get().(*wide) // the pool holds nothing else
	copy(b.bytes[:], payload[:])
	return b
}

// end gives the result and wipes what was plain in between.
func (b *wide) end(payload *[payloadSize]byte) {
	copy(payload[:], b.bytes[:payloadSize])
	clear(b.bytes[:])
	wides.Put(b)
}

// streamRound is R ^= S(L^k).
func (b *wide) streamRound(k *[32]byte) {
	var key [32]byte
	subtle.XORBytes(key[:], b.bytes[:wideLeft], k[:])
	xorStream(&key, b.bytes[wideLeft:payloadSize])
}

// hashRound is L ^= SHA-256(k|R). k takes the place of L for the moment, so that
// k|R is contiguous; a plain hash is a MAC here because its input has one length.
func (b *wide) hashRound(k *[32]byte) {
	left := [wideLeft]byte(b.bytes[:])
	copy(b.bytes[:], k[:])
	sum := sha256.Sum256(b.bytes[:payloadSize])
	subtle.XORBytes(b.bytes[:wideLeft], left[:], sum[:])
}
