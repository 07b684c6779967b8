package ocmf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"strings"

	"github.com/ProtonMail/go-crypto/bitcurves"
	"github.com/ProtonMail/go-crypto/brainpool"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	k1ecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Curve is a curve that meters sign with, named as in SA.
type Curve string

// The curves. Those of 192 bits verify, but do not bill.
const (
	Secp256r1       Curve = "secp256r1"
	Secp384r1       Curve = "secp384r1"
	Secp256k1       Curve = "secp256k1"
	BrainpoolP256r1 Curve = "brainpoolP256r1"
	BrainpoolP384r1 Curve = "brainpoolP384r1"
	Secp192r1       Curve = "secp192r1"
	Secp192k1       Curve = "secp192k1"
)

// PublicKey is a meter's key. The zero value is no key: Check refuses it as unpinned.
type PublicKey struct {
	Curve Curve
	Point []byte // x||y, each padded to the curve's size
	std   *ecdsa.PublicKey
	k1    *secp256k1.PublicKey
}

// IsZero reports whether there is no key.
func (k PublicKey) IsZero() bool { return k.Curve == "" }

// Weak reports whether the key is too short to bill with.
func (k PublicKey) Weak() bool { return k.Curve == Secp192k1 || k.Curve == Secp192r1 }

// Hash names the key independently of how it was written: SHA-256("gridveil/meterkey/v1\0" curve 0 x y).
func (k PublicKey) Hash() [32]byte {
	b := append([]byte("gridveil/meterkey/v1\x00"+string(k.Curve)+"\x00"), k.Point...)
	return sha256.Sum256(b)
}

// family is what the package knows about one curve.
type family struct {
	name Curve
	oid  string
	size int // bytes of a coordinate
	math elliptic.Curve
}

func families() []family {
	return []family{
		{Secp256r1, "1.2.840.10045.3.1.7", 32, elliptic.P256()},
		{Secp256k1, "1.3.132.0.10", 32, secp256k1.S256()},
		{BrainpoolP256r1, "1.3.36.3.3.2.8.1.1.7", 32, brainpool.P256r1()},
		{Secp384r1, "1.3.132.0.34", 48, elliptic.P384()},
		{BrainpoolP384r1, "1.3.36.3.3.2.8.1.1.11", 48, brainpool.P384r1()},
		{Secp192r1, "1.2.840.10045.3.1.1", 24, p192()},
		{Secp192k1, "1.3.132.0.31", 24, bitcurves.S192()},
	}
}

// p192 returns NIST P-192, which the standard library does not have. Source: FIPS 186-2, appendix 6.
func p192() elliptic.Curve {
	n := func(s string) *big.Int { v, _ := new(big.Int).SetString(s, 16); return v }
	return &elliptic.CurveParams{Name: "P-192", BitSize: 192,
		P:  n("fffffffffffffffffffffffffffffffeffffffffffffffff"),
		N:  n("ffffffffffffffffffffffff99def836146bc9b1b4d22831"),
		B:  n("64210519e59c80e70fa7e9ab72243049feb8deecc146b9b1"),
		Gx: n("188da80eb03090f67cbf20eb43a18800f4ff0afd82ff1012"),
		Gy: n("07192b95ffc8da78631011ed6b24cdd573f977a11e794811")}
}

// maxKeyText bounds a key as text: a P-384 SPKI has 240 hex characters.
const maxKeyText = 1024

// ParseKey reads a key as labels and stations write it: DER SPKI, an uncompressed point or x||y, in hex or base64,
// with blanks, and with or without "oca:base16:asn1:". The key fixes the curve: a bare point is tried on each curve of
// its size. Errors are ErrOCMF with reason BadKey.
func ParseKey(text string) (PublicKey, error) {
	if len(text) > maxKeyText {
		return PublicKey{}, refuse(BadKey, -1)
	}
	text = strings.Join(strings.Fields(text), "")
	if rest, ok := strings.CutPrefix(text, "oca:base16:asn1:"); ok {
		text = rest
	}
	raw, err := hex.DecodeString(text)
	if err != nil {
		if raw, err = base64.StdEncoding.DecodeString(text); err != nil {
			return PublicKey{}, refuse(BadKey, -1)
		}
	}
	return NewKey(raw)
}

// NewKey reads a key as bytes: DER SPKI, an uncompressed point, or x||y.
func NewKey(raw []byte) (PublicKey, error) {
	if oid, point, ok := spki(raw); ok {
		for _, f := range families() {
			if f.oid == oid {
				return f.key(point)
			}
		}
		return PublicKey{}, refuse(Algorithm, -1)
	}
	for _, f := range families() {
		if k, err := f.key(raw); err == nil {
			return k, nil
		}
	}
	return PublicKey{}, refuse(BadKey, -1)
}

// spki takes a SubjectPublicKeyInfo of an EC key apart. Source: RFC 5480.
func spki(raw []byte) (curve string, point []byte, ok bool) {
	in := cryptobyte.String(raw)
	var outer, algorithm cryptobyte.String
	var alg, named asn1.ObjectIdentifier
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() || !outer.ReadASN1(&algorithm, cbasn1.SEQUENCE) ||
		!algorithm.ReadASN1ObjectIdentifier(&alg) || !algorithm.ReadASN1ObjectIdentifier(&named) ||
		!algorithm.Empty() || !outer.ReadASN1BitStringAsBytes(&point) || !outer.Empty() {
		return "", nil, false
	}
	return named.String(), point, alg.String() == "1.2.840.10045.2.1" /* id-ecPublicKey */
}

// key accepts a point, with or without the leading 04, if it lies on the curve.
func (f family) key(point []byte) (PublicKey, error) {
	if len(point) == 2*f.size+1 && point[0] == 4 {
		point = point[1:]
	}
	if len(point) != 2*f.size {
		return PublicKey{}, refuse(BadKey, -1)
	}
	k := PublicKey{Curve: f.name, Point: append([]byte(nil), point...)}
	full := append([]byte{4}, point...)
	var err error
	switch f.name {
	case Secp256r1, Secp384r1:
		k.std, err = ecdsa.ParseUncompressedPublicKey(f.math, full)
	case Secp256k1:
		k.k1, err = secp256k1.ParsePubKey(full)
	default:
		x, y := new(big.Int).SetBytes(point[:f.size]), new(big.Int).SetBytes(point[f.size:])
		if p := f.math.Params().P; x.Cmp(p) >= 0 || y.Cmp(p) >= 0 || !f.math.IsOnCurve(x, y) {
			return PublicKey{}, refuse(BadKey, -1)
		}
		k.std = &ecdsa.PublicKey{Curve: f.math, X: x, Y: y}
	}
	if err != nil {
		return PublicKey{}, refuse(BadKey, -1)
	}
	return k, nil
}

// algorithm splits SA into curve and digest. Meters write brainpool with and without the P.
func algorithm(sa string, body []byte) (Curve, []byte, bool) {
	parts := strings.Split(sa, "-")
	if len(parts) != 3 || parts[0] != "ECDSA" {
		return "", nil, false
	}
	curve := Curve(strings.Replace(parts[1], "brainpool256", "brainpoolP256", 1))
	curve = Curve(strings.Replace(string(curve), "brainpool384", "brainpoolP384", 1))
	switch parts[2] {
	case "SHA256":
		h := sha256.Sum256(body)
		return curve, h[:], true
	case "SHA384":
		h := sha512.Sum384(body)
		return curve, h[:], true
	case "SHA512":
		h := sha512.Sum512(body)
		return curve, h[:], true
	}
	return "", nil, false
}

// Verify checks the signature, nothing else. The error is ErrOCMF: Unpinned, Algorithm or Signature.
func (r Record) Verify(k PublicKey) error {
	if k.IsZero() {
		return refuse(Unpinned, 0)
	}
	curve, digest, ok := algorithm(r.SA, r.Body)
	if !ok || curve != k.Curve {
		return refuse(Algorithm, 0)
	}
	if !k.verify(digest, r.SD) {
		return refuse(Signature, 0)
	}
	return nil
}

// verify accepts DER and r||s; both are unambiguous, since DER of a real signature never has the length of r||s and
// the form of it at once.
func (k PublicKey) verify(digest, sig []byte) bool {
	if r, s, ok := rawSignature(sig, len(k.Point)); ok {
		sig = derSignature(r, s)
	}
	if k.k1 != nil {
		return verifyK1(k.k1, digest, sig)
	}
	if k.Curve == Secp256r1 || k.Curve == Secp384r1 {
		return ecdsa.VerifyASN1(k.std, digest, sig)
	}
	return verifySlow(k.std, digest, sig)
}

// verifySlow uses curves of third parties, whose point arithmetic may panic on crafted points; that is a refusal.
func verifySlow(k *ecdsa.PublicKey, digest, sig []byte) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return ecdsa.VerifyASN1(k, digest, sig)
}

func verifyK1(k *secp256k1.PublicKey, digest, sig []byte) bool {
	r, s, ok := splitDER(sig)
	if !ok || len(r) > 32 || len(s) > 32 {
		return false
	}
	var rs, ss secp256k1.ModNScalar
	if rs.SetByteSlice(r) || ss.SetByteSlice(s) || rs.IsZero() || ss.IsZero() {
		return false
	}
	return k1ecdsa.NewSignature(&rs, &ss).Verify(digest, k)
}

func splitDER(sig []byte) (r, s []byte, ok bool) {
	in, inner := cryptobyte.String(sig), cryptobyte.String(nil)
	ok = in.ReadASN1(&inner, cbasn1.SEQUENCE) && in.Empty() && inner.ReadASN1Integer(&r) &&
		inner.ReadASN1Integer(&s) && inner.Empty()
	return r, s, ok
}

func rawSignature(sig []byte, size int) (r, s []byte, ok bool) {
	if len(sig) != size {
		return nil, nil, false
	}
	if _, _, isDER := splitDER(sig); isDER {
		return nil, nil, false
	}
	return sig[:size/2], sig[size/2:], true
}

func derSignature(r, s []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(r))
		b.AddASN1BigInt(new(big.Int).SetBytes(s))
	})
	return b.BytesOrPanic()
}
