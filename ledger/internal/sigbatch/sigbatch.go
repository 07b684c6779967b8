// Package sigbatch verifies many Ed25519 signatures under the one rule of the
// ledger, ZIP-215, and names those that are wrong.
//
// A batch and a single verification give the same verdict under this rule,
// which the standard library's rule does not promise: never mix them.
package sigbatch

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
)

// alone is the batch size at which single verification is as cheap as another
// pair of batches.
const alone = 4

// maxBatch bounds the memory of one batch.
const maxBatch = 1024

var rule = &voi.Options{Verify: voi.VerifyOptionsZIP_215}

// Verify checks n signatures, each fetched by item, and returns the positions
// of the bad ones in ascending order, nil if there are none.
func Verify(n int, item func(i int) (pub, msg, sig []byte)) []int {
	var bad []int
	for from := 0; from < n; from += maxBatch {
		bad = bisect(from, min(from+maxBatch, n), item, bad)
	}
	return bad
}

func bisect(from, to int, item func(int) (pub, msg, sig []byte), bad []int) []int {
	if to-from <= alone {
		for i := from; i < to; i++ {
			if pub, msg, sig := item(i); !One(pub, msg, sig) {
				bad = append(bad, i)
			}
		}
		return bad
	}
	if batch(from, to, item) {
		return bad
	}
	mid := from + (to-from)/2
	return bisect(mid, to, item, bisect(from, mid, item, bad))
}

// sum collects the terms of one batch equation:
//
//	8 (-[Σ z_i s_i] B + Σ [z_i] R_i + Σ_A [Σ z_i h_i] A) = 0
//
// with z_i random, 128 bits, and h_i = SHA-512(R_i, A, message). Signatures of
// one key share its term, so a batch of few signers costs about half of one of
// many. Source: ZIP-215; design/ledger.md, D1.
type sum struct {
	scalars []*scalar.Scalar
	points  []*curve.EdwardsPoint
	base    *scalar.Scalar              // of B
	keys    map[[32]byte]*scalar.Scalar // of each A
}

func batch(from, to int, item func(int) (pub, msg, sig []byte)) bool {
	n := to - from
	random := make([]byte, 16*n)
	rand.Read(random) // never fails
	s := &sum{make([]*scalar.Scalar, 0, n+8), make([]*curve.EdwardsPoint, 0, n+8), scalar.New(), map[[32]byte]*scalar.Scalar{}}
	s.scalars, s.points = append(s.scalars, s.base), append(s.points, curve.ED25519_BASEPOINT_POINT)
	for i := range n {
		pub, msg, sig := item(from + i)
		if len(pub) != ed25519.PublicKeySize || len(sig) != ed25519.SignatureSize || !s.add([16]byte(random[16*i:]), [32]byte(pub), msg, sig) {
			return false
		}
	}
	s.base.Neg(s.base)
	var zero curve.EdwardsPoint
	return zero.MultiscalarMulVartime(s.scalars, s.points).IsSmallOrder()
}

// add adds one signature with weight z. It is false if the signature cannot be
// valid.
func (s *sum) add(z16 [16]byte, pub [32]byte, msg, sig []byte) bool {
	if !scalar.ScMinimalVartime(sig[32:]) {
		return false
	}
	R, ok := point([32]byte(sig))
	if !ok {
		return false
	}
	var wide [32]byte
	copy(wide[:], z16[:])
	z, S, h := scalar.New(), scalar.New(), scalar.New()
	var digest [64]byte
	hash := sha512.New()
	hash.Write(sig[:32])
	hash.Write(pub[:])
	hash.Write(msg)
	hash.Sum(digest[:0])
	if _, err := z.SetBits(wide[:]); err != nil {
		return false
	}
	if _, err := S.SetBits(sig[32:]); err != nil {
		return false
	}
	if _, err := h.SetBytesModOrderWide(digest[:]); err != nil {
		return false
	}
	key := s.keys[pub]
	if key == nil {
		A, ok := point(pub)
		if !ok {
			return false
		}
		key = scalar.New()
		s.keys[pub] = key
		s.scalars, s.points = append(s.scalars, key), append(s.points, A)
	}
	key.Add(key, h.Mul(h, z))
	s.base.Add(s.base, S.Mul(S, z))
	s.scalars, s.points = append(s.scalars, z), append(s.points, R)
	return true
}

// point decodes a point as ZIP-215 does: the y coordinate need not be canonical.
func point(b [32]byte) (*curve.EdwardsPoint, bool) {
	y := curve.CompressedEdwardsY(b)
	p := new(curve.EdwardsPoint)
	_, err := p.SetCompressedY(&y)
	return p, err == nil
}

// One checks a single signature under the same rule.
func One(pub, msg, sig []byte) bool {
	return len(pub) == ed25519.PublicKeySize && voi.VerifyWithOptions(pub, msg, sig, rule)
}
