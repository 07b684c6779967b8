// Package curve wraps circl's ristretto255 for the rooms of privacy: decoding
// that refuses the identity, scalars from a given reader and from int64, and
// Lagrange weights.
//
// circl's own group ignores the reader handed to RandomScalar and reads the
// system's randomness; [Group] honours it, so that every protocol step is a
// function of its arguments. circl's operations mutate their receiver: every
// function here returns a fresh value.
//
// Source: RFC 9496.
package curve

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/zk/dl"
	"github.com/cloudflare/circl/zk/dleq"
)

// Size is the length of an encoded element or scalar.
const Size = 32

// ErrEncoding says that bytes are not the canonical encoding of a usable
// element or scalar.
var ErrEncoding = errors.New("not a canonical ristretto255 encoding")

// Group is ristretto255 with scalars drawn from the reader it is given.
var Group group.Group = seeded{group.Ristretto255}

type seeded struct{ group.Group }

// RandomScalar draws 64 bytes from rnd and reduces them. It panics if rnd
// fails, because group.Group has no error to return; here it is only ever
// called with bytes that were read before.
func (g seeded) RandomScalar(rnd io.Reader) group.Scalar {
	s, err := Scalar(rnd)
	if err != nil {
		panic("curve: " + err.Error())
	}
	return s
}

// RandomNonZeroScalar is RandomScalar, never zero.
func (g seeded) RandomNonZeroScalar(rnd io.Reader) group.Scalar { return g.RandomScalar(rnd) }

// Scalar draws a uniform nonzero scalar from rnd.
func Scalar(rnd io.Reader) (group.Scalar, error) {
	var wide [64]byte // 512 bits reduce to 253 without measurable bias
	for {
		if _, err := io.ReadFull(rnd, wide[:]); err != nil {
			return nil, fmt.Errorf("read random scalar: %w", err)
		}
		if s := group.Ristretto255.HashToScalar(wide[:], []byte("gridveil/scalar/v1")); !s.IsZero() {
			return s, nil
		}
	}
}

// FromInt64 gives v modulo the group order.
func FromInt64(v int64) group.Scalar {
	s := group.Ristretto255.NewScalar()
	if v < 0 {
		s.SetUint64(-uint64(v)) // exact for math.MinInt64 too
		return s.Neg(s)
	}
	return s.SetUint64(uint64(v))
}

// ParseScalar decodes a canonical scalar; zero is allowed.
func ParseScalar(b []byte) (group.Scalar, error) {
	s := group.Ristretto255.NewScalar()
	if err := s.UnmarshalBinary(b); err != nil {
		return nil, fmt.Errorf("scalar: %w", ErrEncoding)
	}
	return s, nil
}

// ScalarBytes encodes s in 32 bytes, little-endian.
func ScalarBytes(s group.Scalar) [Size]byte {
	b, err := s.MarshalBinary()
	if err != nil {
		panic("curve: ristretto255 scalar does not marshal: " + err.Error())
	}
	return [Size]byte(b)
}

// ParseElement decodes a canonical element and refuses the identity.
func ParseElement(b []byte) (group.Element, error) {
	e := group.Ristretto255.NewElement()
	if err := e.UnmarshalBinary(b); err != nil {
		return nil, fmt.Errorf("element: %w", ErrEncoding)
	}
	if e.IsIdentity() {
		return nil, fmt.Errorf("identity element: %w", ErrEncoding)
	}
	return e, nil
}

// Bytes encodes e in 32 bytes; the identity is all zeros.
func Bytes(e group.Element) [Size]byte {
	b, err := e.MarshalBinary()
	if err != nil {
		panic("curve: ristretto255 element does not marshal: " + err.Error())
	}
	return [Size]byte(b)
}

// Add gives a + b.
func Add(a, b group.Element) group.Element { return group.Ristretto255.NewElement().Add(a, b) }

// Mul gives s*e.
func Mul(e group.Element, s group.Scalar) group.Element {
	return group.Ristretto255.NewElement().Mul(e, s)
}

// MulBase gives s*G of the standard generator G.
func MulBase(s group.Scalar) group.Element { return group.Ristretto255.NewElement().MulGen(s) }

// LagrangeAtZero gives for each of the distinct nonzero seats x_i the weight
// that interpolates a polynomial at 0: the product over j != i of
// x_j / (x_j - x_i).
func LagrangeAtZero(seats []uint64) []group.Scalar {
	weights := make([]group.Scalar, len(seats))
	for i, xi := range seats {
		num, den := FromInt64(1), FromInt64(1)
		for j, xj := range seats {
			if j == i {
				continue
			}
			a, b := scalarOf(xj), scalarOf(xi)
			num.Mul(num, a)
			den.Mul(den, b.Sub(a, b))
		}
		weights[i] = num.Mul(num, den.Inv(den))
	}
	return weights
}

func scalarOf(v uint64) group.Scalar { return group.Ristretto255.NewScalar().SetUint64(v) }

// ProofSize is the length of a proof made by Prove.
const ProofSize = 2 * Size

// Prove shows knowledge of s for the public point s*G, bound to userID and
// otherInfo: V and R of circl's Schnorr proof. public must not be the identity.
func Prove(rnd io.Reader, s group.Scalar, public group.Element, userID, otherInfo []byte) ([ProofSize]byte, error) {
	nonce, err := drawn(rnd)
	if err != nil {
		return [ProofSize]byte{}, err
	}
	p := dl.Prove(Group, Group.Generator(), public.Copy(), s, userID, otherInfo, nonce)
	v, r := Bytes(p.V), ScalarBytes(p.R)
	return [ProofSize]byte(append(v[:], r[:]...)), nil
}

// VerifyProof reports whether proof was made by someone who knows the discrete
// logarithm of public; false for non-canonical proofs too.
func VerifyProof(public group.Element, proof [ProofSize]byte, userID, otherInfo []byte) bool {
	v, err := ParseElement(proof[:Size])
	if err != nil {
		return false
	}
	r, err := ParseScalar(proof[Size:])
	if err != nil {
		return false
	}
	return dl.Verify(Group, Group.Generator(), public, dl.Proof{V: v, R: r}, userID, otherInfo)
}

// equal fixes the transcript of ProveEqual.
var equal = dleq.Params{G: Group, H: crypto.SHA512, DST: []byte("gridveil/open/1")}

// ProveEqual shows that pub = k*G and out = k*base with the same k.
func ProveEqual(rnd io.Reader, k group.Scalar, pub, base, out group.Element) ([ProofSize]byte, error) {
	nonce, err := drawn(rnd)
	if err != nil {
		return [ProofSize]byte{}, err
	}
	p, err := dleq.Prover{Params: equal}.Prove(k, Group.Generator(), pub.Copy(), base.Copy(), out.Copy(), nonce)
	if err != nil {
		return [ProofSize]byte{}, fmt.Errorf("prove equality: %w", err)
	}
	b, err := p.MarshalBinary()
	if err != nil {
		return [ProofSize]byte{}, fmt.Errorf("encode proof: %w", err)
	}
	return [ProofSize]byte(b), nil
}

// VerifyEqual checks what ProveEqual made.
func VerifyEqual(pub, base, out group.Element, proof [ProofSize]byte) bool {
	var p dleq.Proof
	if p.UnmarshalBinary(group.Ristretto255, proof[:]) != nil {
		return false
	}
	return dleq.Verifier{Params: equal}.Verify(Group.Generator(), pub, base, out, &p)
}

// drawn reads what one scalar needs, so that a failing reader is an error here
// and not a panic inside circl.
func drawn(rnd io.Reader) (io.Reader, error) {
	var b [64]byte
	if _, err := io.ReadFull(rnd, b[:]); err != nil {
		return nil, fmt.Errorf("read random scalar: %w", err)
	}
	return bytes.NewReader(b[:]), nil
}
