// Package gossip spreads signed registers through the network: prices, keys,
// revocations, control signals, checkpoints, alarms.
//
// A Register holds the newest signed Envelope per (kind, publisher, key). The
// pure half is here: Envelope (layout and signature), the rules per kind, and
// Registers.Offer, the one validator through which every envelope goes, whether
// it came by pubsub, by pull or from our own store. It blames a forwarder
// (Reject) only for what every honest forwarder must have seen.
//
// What it guarantees: nothing unsigned, expired, out of role or zone, over rate
// or older than what is held is accepted, also after a restart; two versions of
// one register under one number become evidence. What it does not: that a
// register reaches everybody. Gossip loses silently, so nodes also pull.
// Homes never publish. Source: doc/design.md.
package gossip

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"gridveil/mesh/member"
)

const (
	headerSize = 112
	overhead   = headerSize + ed25519.SignatureSize
	signDomain = "gridveil/gossip/1"

	// MaxEnvelope is the largest envelope of any kind: a trust register.
	MaxEnvelope = 60<<10 + overhead
)

// ErrEnvelope is an envelope that does not have its layout; wrapped with the reason.
var ErrEnvelope = errors.New("register envelope is malformed")

// Envelope is one signed register.
//
//	0 "GVG1" | 4 kind u8 | 5 zero | 6 body len u16 | 8 network tag 8 | 16 key u64 | 24 version u64 | 32 issued u64 | 40 expires u64
//	48 publisher key 32 | 80 SHA-256(certificate) 32 | 112 body | Ed25519 signature 64 over "gridveil/gossip/1" || everything before
type Envelope struct {
	Kind      Kind
	Network   [8]byte
	Key       uint64
	Version   uint64    // grows with every change of the register, also across restarts
	Issued    time.Time // UTC ms
	Expires   time.Time // UTC ms
	Publisher member.Key
	CertHash  [32]byte // SHA-256 of the publisher's certificate (DER)
	Body      []byte
	Signature [ed25519.SignatureSize]byte
}

// Sign fills Publisher and Signature. Times are cut to milliseconds first, so
// that the envelope in memory is the one on the wire.
func (e *Envelope) Sign(key ed25519.PrivateKey) error {
	e.Issued, e.Expires = e.Issued.UTC().Truncate(time.Millisecond), e.Expires.UTC().Truncate(time.Millisecond)
	e.Publisher = member.Key(key.Public().(ed25519.PublicKey))
	if err := e.checkSize(); err != nil {
		return err
	}
	e.Signature = [ed25519.SignatureSize]byte(ed25519.Sign(key, e.appendSigned([]byte(signDomain))))
	return nil
}

// Verify reports whether the signature is the publisher's.
func (e *Envelope) Verify() bool {
	return ed25519.Verify(e.Publisher[:], e.appendSigned([]byte(signDomain)), e.Signature[:])
}

func (e *Envelope) checkSize() error {
	if !e.Kind.Valid() || len(e.Body) > rules[e.Kind].MaxBody {
		return fmt.Errorf("%w: kind %s with a body of %d bytes", ErrEnvelope, e.Kind, len(e.Body))
	}
	return nil
}

// Encode gives the wire form of a signed envelope.
func (e *Envelope) Encode() []byte {
	b := e.appendSigned(make([]byte, 0, overhead+len(e.Body)))
	return append(b, e.Signature[:]...)
}

func (e *Envelope) appendSigned(b []byte) []byte {
	b = append(b, "GVG1"...)
	b = append(b, byte(e.Kind), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Body)))
	b = append(b, e.Network[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Key)
	b = binary.BigEndian.AppendUint64(b, e.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Issued.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Expires.UnixMilli()))
	b = append(b, e.Publisher[:]...)
	b = append(b, e.CertHash[:]...)
	return append(b, e.Body...)
}

// ParseEnvelope is the inverse of Encode. It checks layout and sizes, not the
// signature. The result does not alias raw.
func ParseEnvelope(raw []byte) (Envelope, error) {
	if len(raw) < overhead || len(raw) > MaxEnvelope || string(raw[:4]) != "GVG1" || raw[5] != 0 {
		return Envelope{}, fmt.Errorf("%w: %d bytes or wrong first word", ErrEnvelope, len(raw))
	}
	size := int(binary.BigEndian.Uint16(raw[6:]))
	if len(raw) != overhead+size {
		return Envelope{}, fmt.Errorf("%w: body of %d bytes in %d", ErrEnvelope, size, len(raw))
	}
	e := Envelope{
		Kind: Kind(raw[4]), Network: [8]byte(raw[8:]), Key: binary.BigEndian.Uint64(raw[16:]), Version: binary.BigEndian.Uint64(raw[24:]),
		Publisher: member.Key(raw[48:]), CertHash: [32]byte(raw[80:]), Body: bytes.Clone(raw[headerSize : headerSize+size]),
		Signature: [ed25519.SignatureSize]byte(raw[headerSize+size:]),
	}
	var err1, err2 error
	e.Issued, err1 = timeOf(binary.BigEndian.Uint64(raw[32:]))
	e.Expires, err2 = timeOf(binary.BigEndian.Uint64(raw[40:]))
	if err := errors.Join(err1, err2, e.checkSize()); err != nil {
		return Envelope{}, fmt.Errorf("%w: %w", ErrEnvelope, err)
	}
	return e, nil
}

// timeOf turns Unix ms into UTC; years beyond 9999 do not exist.
func timeOf(ms uint64) (time.Time, error) {
	const year10000 = 253402300800000
	if ms >= year10000 {
		return time.Time{}, errors.New("time is beyond the year 9999")
	}
	return time.UnixMilli(int64(ms)).UTC(), nil
}

// MessageID is the pubsub message id of an envelope's bytes: SHA-256(bytes)[:20].
func MessageID(raw []byte) string {
	sum := sha256.Sum256(raw)
	return string(sum[:20])
}

// ID names a register: one kind and key of one publisher. It travels in sync digests.
type ID [8]byte

// ID gives the name of the register that e belongs to.
func (e *Envelope) ID() ID {
	b := append([]byte("gridveil/register/1"), byte(e.Kind))
	if !rules[e.Kind].ByKeyOnly {
		b = append(b, e.Publisher[:]...)
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(b, e.Key))
	return ID(sum[:8])
}
