package packet

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
)

// layer holds everything that one shared secret gives:
//
//	m = HKDF-SHA256(ss, no salt, "gridveil/onion/1"|suite|ct|hop key|keyID, 32)
//	568 B of ChaCha20(m, nonce 0, counter 1) = mac 32 | wide keys 4x32 | replay tag 16 | stream 392
type layer struct {
	mac    [32]byte
	wide   wideKeys
	replay [tagSize]byte
	stream [headerSize + routingSize]byte
}

const layerBytes = 32 + 128 + tagSize + headerSize + routingSize // 568

const layerDomain = "gridveil/onion/1"

// newLayer derives a layer from the shared secret of ct and a hop's key.
func newLayer(secret, ct, hopKey *[32]byte, keyID uint16) (l layer) {
	var info [len(layerDomain) + 1 + 32 + 32 + 2 + 1]byte
	at := copy(info[:], layerDomain)
	info[at] = suite
	at++
	at += copy(info[at:], ct[:])
	at += copy(info[at:], hopKey[:])
	binary.BigEndian.PutUint16(info[at:], keyID)
	info[len(info)-1] = 1 // HKDF-Expand's counter: one block is all that is needed
	var noSalt [32]byte
	extracted := hmac256(&noSalt, secret[:])
	m := hmac256(&extracted, info[:])
	return expandLayer(&m)
}

// expansions are zero while they wait; with them a relay makes no garbage here.
var expansions = sync.Pool{New: func() any { return new([layerBytes + chacha20poly1305.Overhead]byte) }}

// expandLayer stretches m to the layer's keys.
func expandLayer(m *[32]byte) (l layer) {
	out := expansions.Get().(*[layerBytes + chacha20poly1305.Overhead]byte) // the pool holds nothing else
	xorStream(m, out[:layerBytes])
	at := copy(l.mac[:], out[:])
	for i := range l.wide {
		at += copy(l.wide[i][:], out[at:])
	}
	at += copy(l.replay[:], out[at:])
	copy(l.stream[:], out[at:layerBytes])
	clear(out[:])
	expansions.Put(out)
	return l
}

// tag authenticates prefix, ct and beta of a header with HMAC-SHA-256/128.
func (l *layer) tag(prefix *[prefixSize]byte, ct *[ctSize]byte, beta *[betaSize]byte) [tagSize]byte {
	var msg [prefixSize + ctSize + betaSize]byte
	at := copy(msg[:], prefix[:])
	at += copy(msg[at:], ct[:])
	copy(msg[at:], beta[:])
	sum := hmac256(&l.mac, msg[:])
	return [tagSize]byte(sum[:tagSize])
}

// maxMAC is the longest message of hmac256: prefix, ct and beta.
const maxMAC = prefixSize + ctSize + betaSize

// hmac256 is HMAC-SHA-256 (RFC 2104) for a 32-byte key and a message of at most
// maxMAC bytes. The standard library's allocates five objects per call; this
// one none, which matters at one call per packet and hop.
func hmac256(key *[32]byte, msg []byte) [32]byte {
	var inner [sha256.BlockSize + maxMAC]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	for i := range sha256.BlockSize {
		inner[i], outer[i] = 0x36, 0x5c
	}
	for i, x := range key {
		inner[i] ^= x
		outer[i] ^= x
	}
	n := copy(inner[sha256.BlockSize:], msg)
	sum := sha256.Sum256(inner[:sha256.BlockSize+n])
	copy(outer[sha256.BlockSize:], sum[:])
	return sha256.Sum256(outer[:])
}

// xorStream xors dst with ChaCha20(key, nonce 0) from block counter 1.
//
// It takes the ciphertext of the AEAD and lets the Poly1305 tag go: x/crypto
// has vector code for the AEAD on amd64 but none for bare ChaCha20, and the
// AEAD's ciphertext is that very stream (RFC 8439, 2.8). dst must have
// chacha20poly1305.Overhead spare bytes of capacity behind it; they are overwritten.
func xorStream(key *[32]byte, dst []byte) {
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		panic("packet: chacha20poly1305 refuses a 32-byte key: " + err.Error())
	}
	var nonce [chacha20poly1305.NonceSize]byte
	aead.Seal(dst[:0], nonce[:], dst, nil)
}
