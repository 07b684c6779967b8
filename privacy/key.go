package privacy

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha3"
	"errors"
	"fmt"
	"io"

	"filippo.io/edwards25519"
)

// ErrEncoding says that foreign bytes are not the one canonical encoding of a
// usable key, point, scalar or message. It counts against the peer.
var ErrEncoding = errors.New("not a canonical encoding")

// Use separates the identifiers of keys that serve different purposes.
type Use uint8

// Uses 1 to 3 are those of the ledger's key entry; the rest live off the ledger
// or in its denoms entry.
const (
	UseEntry     Use = 1  // signs ledger entries
	UseReceipt   Use = 2  // signs ledger receipts
	UsePseudonym Use = 3  // issues certificates
	UseNote      Use = 16 // mint key of one denomination, month and currency
	UsePass      Use = 17 // host-pass key of one zone and week
	UseBox       Use = 18 // HPKE recipient
)

// KeyID names a public key: SHA-256("gridveil/key/v1\0" use pub)[:8]. For an
// RSA key pub is the modulus, 256 bytes big-endian.
func KeyID(use Use, pub []byte) [8]byte {
	h := sha256.New()
	h.Write([]byte("gridveil/key/v1\x00"))
	h.Write([]byte{byte(use)})
	h.Write(pub)
	return [8]byte(h.Sum(nil))
}

// CheckKey returns ErrEncoding unless pub is the canonical encoding of an
// Ed25519 point that is not of small order. Under a small-order key anybody can
// make signatures that verify, so its owner could deny every one.
func CheckKey(pub []byte) error {
	if len(pub) != ed25519.PublicKeySize {
		return fmt.Errorf("ed25519 key of %d bytes: %w", len(pub), ErrEncoding)
	}
	p, err := new(edwards25519.Point).SetBytes(pub)
	if err != nil {
		return fmt.Errorf("ed25519 key is no curve point: %w", ErrEncoding)
	}
	if !bytes.Equal(p.Bytes(), pub) {
		return fmt.Errorf("ed25519 key: %w", ErrEncoding)
	}
	if new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return fmt.Errorf("ed25519 key of small order: %w", ErrEncoding)
	}
	return nil
}

// NewKey makes an Ed25519 key from 32 bytes of rnd.
func NewKey(rnd io.Reader) (ed25519.PrivateKey, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rnd, seed[:]); err != nil {
		return nil, fmt.Errorf("read key seed: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed[:]), nil
}

// SeededReader is an endless deterministic stream, SHAKE256(label parts...).
// Parts are concatenated, so within one label each must have a fixed length.
// Wallets draw blinding values from it: the same counter gives the same
// request after a crash.
func SeededReader(label string, parts ...[]byte) io.Reader {
	s := sha3.NewSHAKE256()
	s.Write([]byte(label))
	for _, p := range parts {
		s.Write(p)
	}
	return s
}
