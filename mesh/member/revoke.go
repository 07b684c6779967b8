package member

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"
)

// MaxRevoked is the longest revocation list: with 16-B serials it fits the 60-KiB trust register.
const MaxRevoked = 1200

// MaxCRL is the largest revocation list in bytes.
const MaxCRL = 60 << 10

// ErrCRL is a revocation list that this network cannot use; wrapped with the reason.
var ErrCRL = errors.New("revocation list is not usable")

// Revocations holds the newest revocation list of every CA of the bundle.
//
// A CA's list covers every certificate whose chain ends in that CA, also those
// that an intermediate issued: serials are 120 random bits, so they do not clash.
// The zero value is ready. Not safe for concurrent use.
type Revocations struct {
	lists map[[32]byte]revocationList // by SHA-256 of the CA's public key
}

type revocationList struct {
	number  *big.Int
	serials map[string]bool
	until   time.Time
}

// Add takes a revocation list signed by a CA of the bundle. It reports whether
// the list was newer than the one held; an older or equal list is no error.
func (r *Revocations) Add(b *Bundle, der []byte) (changed bool, err error) {
	if len(der) > MaxCRL {
		return false, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrCRL, len(der), MaxCRL)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrCRL, err)
	}
	if list.Number == nil || len(list.RevokedCertificateEntries) > MaxRevoked {
		return false, fmt.Errorf("%w: want a number and at most %d entries, got %d", ErrCRL, MaxRevoked, len(list.RevokedCertificateEntries))
	}
	ca, found := b.signerOf(list)
	if !found {
		return false, fmt.Errorf("%w: no CA of the bundle signed it", ErrCRL)
	}
	held, have := r.lists[ca]
	if have && list.Number.Cmp(held.number) <= 0 {
		return false, nil
	}
	next := revocationList{list.Number, map[string]bool{}, list.NextUpdate}
	for _, e := range list.RevokedCertificateEntries {
		next.serials[hex.EncodeToString(e.SerialNumber.Bytes())] = true
	}
	if r.lists == nil {
		r.lists = map[[32]byte]revocationList{}
	}
	r.lists[ca] = next
	return true, nil
}

// signerOf finds the bundle CA whose key signed list.
func (b *Bundle) signerOf(list *x509.RevocationList) ([32]byte, bool) {
	for _, ca := range b.cas {
		if list.CheckSignatureFrom(ca.cert) == nil {
			return sha256.Sum256(ca.cert.RawSubjectPublicKeyInfo), true
		}
	}
	return [32]byte{}, false
}

// Revoked reports whether the operator took back m's certificate.
func (r *Revocations) Revoked(m Member) bool {
	return r != nil && r.lists[m.CA].serials[m.Serial]
}

// Stale reports whether the list of the member's CA is past its next update; a
// warning, not a refusal: an operator that is down must not switch homes off.
func (r *Revocations) Stale(m Member, now time.Time) bool {
	held, have := r.lists[m.CA]
	return have && now.After(held.until)
}

// CAOf is how Member.CA names the CA with this certificate: the SHA-256 of its
// public key.
func CAOf(certificate []byte) ([32]byte, error) {
	c, err := x509.ParseCertificate(certificate)
	if err != nil {
		return [32]byte{}, fmt.Errorf("CA certificate: %w", err)
	}
	return sha256.Sum256(c.RawSubjectPublicKeyInfo), nil
}

// CRLKey is the register key of a CA's revocation list in gossip: the first 8
// bytes of the hash of its public key, never 0 (0 is the bundle).
func CRLKey(ca [32]byte) uint64 {
	var key uint64
	for _, x := range ca[:8] {
		key = key<<8 | uint64(x)
	}
	return max(key, 1)
}

// CRLSigner names the CA of the bundle that signed a list and the list's number.
func (b *Bundle) CRLSigner(der []byte) (ca [32]byte, number uint64, err error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return ca, 0, fmt.Errorf("%w: %w", ErrCRL, err)
	}
	ca, found := b.signerOf(list)
	if !found || list.Number == nil || !list.Number.IsUint64() {
		return ca, 0, fmt.Errorf("%w: no CA of the bundle signed it with a number below 2^64", ErrCRL)
	}
	return ca, list.Number.Uint64(), nil
}

// Revoked is one entry of a revocation list.
type Revoked struct {
	Serial string    // lower-case hexadecimal, as in Member.Serial
	At     time.Time // when it was taken back
}

// RevokedIn gives the entries of a list whose signature was checked before, as
// that of a register of kind trust was. The error wraps ErrCRL.
func RevokedIn(der []byte) ([]Revoked, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCRL, err)
	}
	var out []Revoked
	for _, e := range list.RevokedCertificateEntries {
		out = append(out, Revoked{hex.EncodeToString(e.SerialNumber.Bytes()), e.RevocationTime.UTC()})
	}
	return out, nil
}

// Revoke signs a revocation list with all serials (hexadecimal, as in
// Member.Serial) that are revoked so far, as of now. number must grow with each list.
func (ca CA) Revoke(serials []string, number uint64, now, next time.Time, rnd io.Reader) ([]byte, error) {
	var list []Revoked
	for _, s := range serials {
		list = append(list, Revoked{s, now})
	}
	return ca.SignRevoked(list, number, now, next, rnd)
}

// SignRevoked is Revoke for entries that were taken back at different times.
func (ca CA) SignRevoked(entries []Revoked, number uint64, now, next time.Time, rnd io.Reader) ([]byte, error) {
	issuing, err := x509.ParseCertificate(ca.Certificate)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: own CA: %w", err)
	}
	list := &x509.RevocationList{Number: new(big.Int).SetUint64(number), ThisUpdate: now.UTC(), NextUpdate: next.UTC()}
	for _, e := range entries {
		n, ok := new(big.Int).SetString(e.Serial, 16)
		if !ok {
			return nil, fmt.Errorf("sign revocation list: serial %q is not hexadecimal", e.Serial)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: n, RevocationTime: e.At.UTC()})
	}
	der, err := x509.CreateRevocationList(rnd, list, issuing, ca.Key)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return der, nil
}
