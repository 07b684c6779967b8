// Package pseudo issues and checks single-use pseudonyms: certificates under
// which a driver charges at a stranger's home, or a meter reports for one day,
// without its name.
//
// # The life of a driver's pseudonym
//
//	NewBatch       wallet makes 16 (or 64) key pairs and asks its utility, sealed
//	Issuer.Issue   utility checks the contract, certifies, keeps bpk -> contract only
//	Pending.Finish wallet checks every certificate: its deck for one week
//	Deck.Take      one pseudonym leaves the deck for ever, durably before its first use
//	Verify         aggregator checks the certificate; committee can open its capsule
//
// Each pseudonym is two key pairs. The session key spk stands in the
// certificate; the bill key bpk is known to the utility, which never sees a
// certificate again. Only a salted hash of it (bcom) ties the two, so a
// certificate may be shown without showing whom to bill.
//
// # What it guarantees
//
// Two certificates of one driver share no value but what all certificates of
// the utility, audience and week share. The capsule ties a certificate to its
// contract for 3 of 5 openers and nobody else; its proof of knowledge stops an
// issuer from wrapping another's capsule, and the driver's own enrol signature
// inside stops it from framing a driver.
//
// # What it does not
//
// A utility that runs altered issuing code can keep what it should forget.
// Capsule and proof are our own composition: experimental until reviewed.
//
// Start with [NewBatch], [Issuer] and [Verify]. Source: doc/design.md,
// privacy 4.2.
package pseudo

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"gridveil/privacy"
)

// CertSize is the length of a certificate.
const CertSize = 372

// Offsets in a certificate. Everything before headEnd is what the wallet knows
// before issuance and signs (enrol); everything before sigAt is what the issuer
// signs.
const (
	schemeAt, kindAt, argAt      = 4, 5, 6
	issuerAt, audienceAt         = 8, 24
	epochAt, keyIDAt, spkAt      = 40, 44, 52
	bcomAt, headEnd              = 84, 116
	capEAt, capCAt, pokAt        = 116, 148, 244
	sigAt                        = 308
	magic                        = "GVP1"
	scheme                  byte = 1 // certificate with capsule; scheme 2 will be group signatures
)

// CertKind says whose pseudonym a certificate is.
type CertKind uint8

const (
	Driver CertKind = 1 // one charging session; epochs are weeks, arg is the limit
	Meter  CertKind = 2 // one day's private sums; epochs are days, arg is the zone
)

var (
	// ErrEncoding is privacy.ErrEncoding.
	ErrEncoding = privacy.ErrEncoding
	// ErrAudience says that a certificate is for another aggregator or DSO.
	ErrAudience = errors.New("certificate is for another audience")
	// ErrExpired says that a certificate's epoch is over or has not begun.
	ErrExpired = errors.New("certificate is not valid at this time")
	// ErrIssuer says that the issuer or its key is not known.
	ErrIssuer = errors.New("certificate of an unknown issuer")
	// ErrSignature says that a signature does not verify.
	ErrSignature = errors.New("signature does not verify")
	// ErrProof says that a capsule's proof of knowledge does not verify.
	ErrProof = errors.New("capsule proof does not verify")
	// ErrLimit says that a band is none, or above the certificate's limit.
	ErrLimit = errors.New("band exceeds the limit")
)

// Bands are the highest amounts a session may cost, in whole currency units. A
// session names one; a certificate's limit is the highest its driver may name.
var Bands = [4]uint16{10, 20, 40, 80}

// CheckBand returns ErrLimit unless band is one of Bands and at most limit.
func CheckBand(band, limit uint16) error {
	for _, b := range Bands {
		if b == band && band <= limit {
			return nil
		}
	}
	return fmt.Errorf("band %d, limit %d: %w", band, limit, ErrLimit)
}

// Cert is a certificate, 372 bytes; every field stands at a fixed place:
//
//	0 "GVP1" | 4 scheme | 5 kind | 6 arg u16 | 8 issuer16 | 24 audience16 | 40 epoch u32 | 44 issuer key id8
//	52 spk32 | 84 bcom32 | 116 capE32 | 148 capC96 | 244 PoK64 | 308 sig64 (issuer, over 0..307)
type Cert [CertSize]byte

// ParseCert checks length, magic, scheme and kind. Signatures are for Verify.
func ParseCert(b []byte) (*Cert, error) {
	if len(b) != CertSize {
		return nil, fmt.Errorf("certificate of %d bytes, want %d: %w", len(b), CertSize, ErrEncoding)
	}
	c := Cert(b)
	return &c, c.checkForm()
}

func (c *Cert) checkForm() error {
	if string(c[:schemeAt]) != magic || c[schemeAt] != scheme {
		return fmt.Errorf("certificate scheme %d: %w", c[schemeAt], ErrEncoding)
	}
	if k := c.Kind(); k != Driver && k != Meter {
		return fmt.Errorf("certificate kind %d: %w", k, ErrEncoding)
	}
	return nil
}

// Kind is Driver or Meter.
func (c *Cert) Kind() CertKind { return CertKind(c[kindAt]) }

// Arg is a driver's limit in currency units, or a meter's zone.
func (c *Cert) Arg() uint16 { return binary.BigEndian.Uint16(c[argAt:]) }

// Issuer is the utility (or escrow) that certified.
func (c *Cert) Issuer() [16]byte { return [16]byte(c[issuerAt:]) }

// Audience is the only aggregator (or DSO) that accepts the certificate.
func (c *Cert) Audience() [16]byte { return [16]byte(c[audienceAt:]) }

// Epoch is a week (driver) or day (meter), see Window.
func (c *Cert) Epoch() uint32 { return binary.BigEndian.Uint32(c[epochAt:]) }

// KeyID names the issuer's key.
func (c *Cert) KeyID() [8]byte { return [8]byte(c[keyIDAt:]) }

// SPK is the session key (driver) or one-day key (meter), Ed25519.
func (c *Cert) SPK() [32]byte { return [32]byte(c[spkAt:]) }

// BCom is BillCommitment of the bill key, zero for meters.
func (c *Cert) BCom() [32]byte { return [32]byte(c[bcomAt:]) }

// CapE is the capsule's ephemeral point s*G.
func (c *Cert) CapE() [32]byte { return [32]byte(c[capEAt:]) }

// Ref names the certificate's session on the ledger:
// SHA-256("gridveil/ref/v1\0" Cert). Only those who saw the certificate know it.
func (c *Cert) Ref() [32]byte {
	return sha256.Sum256(append([]byte("gridveil/ref/v1\x00"), c[:]...))
}

func (c *Cert) head() []byte                 { return c[:headEnd] }
func (c *Cert) signature() privacy.Signature { return privacy.Signature(c[sigAt:]) }

// BillCommitment is SHA-256("gridveil-bill" bpk bsalt).
func BillCommitment(bpk [32]byte, bsalt [16]byte) [32]byte {
	b := append([]byte("gridveil-bill"), bpk[:]...)
	return sha256.Sum256(append(b, bsalt[:]...))
}

// OpensBill reports whether the certificate's bcom opens to bpk with bsalt.
func (c *Cert) OpensBill(bpk [32]byte, bsalt [16]byte) bool {
	return c.Kind() == Driver && c.BCom() == BillCommitment(bpk, bsalt)
}

// IssuerKeys are the issuers' current keys, by privacy.KeyID with UsePseudonym,
// as registered on the ledger.
type IssuerKeys map[[8]byte]IssuerKey

// IssuerKey is one issuer's Ed25519 key.
type IssuerKey struct {
	Issuer [16]byte
	Pub    [32]byte
}

// Add registers a key. It returns ErrEncoding for a key no issuer may have.
func (k IssuerKeys) Add(issuer [16]byte, pub [32]byte) error {
	if err := privacy.CheckKey(pub[:]); err != nil {
		return fmt.Errorf("issuer key: %w", err)
	}
	k[privacy.KeyID(privacy.UsePseudonym, pub[:])] = IssuerKey{issuer, pub}
	return nil
}

// Verify checks a certificate at the moment a session opens: form, kind,
// audience, epoch at now, issuer key and signature; one signature's work. It
// returns ErrEncoding, ErrAudience, ErrExpired, ErrIssuer or ErrSignature. It
// does not know about use or revocation, nor check the capsule: see
// [CheckCapsule].
func Verify(c *Cert, net privacy.Net, kind CertKind, audience [16]byte, keys IssuerKeys, now time.Time) error {
	if err := c.checkForm(); err != nil {
		return err
	}
	if c.Kind() != kind {
		return fmt.Errorf("certificate kind %d, want %d: %w", c.Kind(), kind, ErrEncoding)
	}
	if c.Audience() != audience {
		return ErrAudience
	}
	if from, to := Window(kind, c.Epoch()); now.Before(from) || !now.Before(to) {
		return fmt.Errorf("epoch %d: %w", c.Epoch(), ErrExpired)
	}
	return VerifySignature(c, net, keys)
}

// VerifySignature checks the issuer's signature alone, for openers and disputes
// that come after the epoch. It returns ErrIssuer or ErrSignature.
func VerifySignature(c *Cert, net privacy.Net, keys IssuerKeys) error {
	key, ok := keys[c.KeyID()]
	if !ok || key.Issuer != c.Issuer() {
		return ErrIssuer
	}
	if !privacy.Verify(key.Pub[:], privacy.KindCert, net, c[:sigAt], c.signature()) {
		return fmt.Errorf("certificate: %w", ErrSignature)
	}
	return nil
}
