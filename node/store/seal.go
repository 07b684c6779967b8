package store

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// sealOverhead is commit number + nonce + tag, the bytes a sealed value is longer.
const sealOverhead = 8 + 12 + 16

// sealer seals values under key || commit number. Nonces are random, because a
// crash may reuse a commit number for other content.
type sealer struct{ aead cipher.AEAD }

func newSealer(k MasterKey) sealer {
	block, err := aes.NewCipher(k.derive("value"))
	if err != nil {
		panic("store: aes refused a 32-byte key: " + err.Error())
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("store: gcm refused aes: " + err.Error())
	}
	return sealer{aead}
}

// seal gives n || nonce || ciphertext || tag.
func (s sealer) seal(key []byte, n uint64, value []byte) []byte {
	out := make([]byte, 8, sealOverhead+len(value))
	binary.BigEndian.PutUint64(out, n)
	return s.aead.Seal(out, nil, value, sealedUnder(key, n))
}

// open returns the value and the commit that wrote it, or ErrDamaged.
func (s sealer) open(key, sealed []byte) (value []byte, n uint64, err error) {
	if len(sealed) < sealOverhead {
		return nil, 0, fmt.Errorf("%w: %d bytes in space %s", ErrDamaged, len(sealed), Space(key[0]).Name())
	}
	n = binary.BigEndian.Uint64(sealed)
	value, err = s.aead.Open(nil, nil, sealed[8:], sealedUnder(key, n))
	if err != nil {
		return nil, 0, fmt.Errorf("%w: in space %s, commit %d", ErrDamaged, Space(key[0]).Name(), n)
	}
	return value, n, nil
}

func sealedUnder(key []byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(key)+8), key...), n)
}
