// Package judge is a second implementation of ristretto255 in math/big,
// written from RFC 9496 and RFC 9380 without looking at the first, slow and
// not constant time. Tests hold commitments, capsules and sums against it; no
// program uses it.
package judge

import (
	"crypto/sha512"
	"errors"
	"math/big"
)

var (
	p        = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	one      = big.NewInt(1)
	d        = mul(neg(big.NewInt(121665)), inv(big.NewInt(121666)))
	sqrtM1   = new(big.Int).Exp(big.NewInt(2), new(big.Int).Rsh(new(big.Int).Sub(p, one), 2), p)
	invSqrtA = func() *big.Int { _, r := sqrtRatio(one, sub(neg(d), one)); return r }() // 1/sqrt(a-d) with a = -1, the even root
	sqrtAD   = func() *big.Int { _, r := sqrtRatio(sub(neg(d), one), one); return r }() // sqrt(a*d-1), the even root

	// L is the order of the group.
	L, _ = new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
)

func mod(x *big.Int) *big.Int    { return x.Mod(x, p) }
func add(a, b *big.Int) *big.Int { return mod(new(big.Int).Add(a, b)) }
func sub(a, b *big.Int) *big.Int { return mod(new(big.Int).Sub(a, b)) }
func mul(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }
func neg(a *big.Int) *big.Int    { return mod(new(big.Int).Neg(a)) }
func inv(a *big.Int) *big.Int    { return new(big.Int).ModInverse(a, p) }
func odd(a *big.Int) bool        { return a.Bit(0) == 1 }

func abs(a *big.Int) *big.Int {
	if odd(a) {
		return neg(a)
	}
	return new(big.Int).Set(a)
}

// sqrtRatio is SQRT_RATIO_M1 of RFC 9496, 4.2.
func sqrtRatio(u, v *big.Int) (bool, *big.Int) {
	v3 := mul(mul(v, v), v)
	v7 := mul(mul(v3, v3), v)
	e := new(big.Int).Rsh(new(big.Int).Sub(p, big.NewInt(5)), 3)
	r := mul(mul(u, v3), new(big.Int).Exp(mul(u, v7), e, p))
	check := mul(v, mul(r, r))
	correct := check.Cmp(mod(new(big.Int).Set(u))) == 0
	flipped := check.Cmp(neg(u)) == 0
	flippedI := check.Cmp(mul(neg(u), sqrtM1)) == 0
	if flipped || flippedI {
		r = mul(r, sqrtM1)
	}
	return correct || flipped, abs(r)
}

// Point is an element in affine Edwards coordinates of one representative.
type Point struct{ x, y *big.Int }

// Identity is the neutral element.
func Identity() Point { return Point{big.NewInt(0), big.NewInt(1)} }

// ErrEncoding says that bytes encode no element.
var ErrEncoding = errors.New("judge: not an element")

func little(b []byte) *big.Int {
	r := make([]byte, len(b))
	for i := range b {
		r[len(b)-1-i] = b[i]
	}
	return new(big.Int).SetBytes(r)
}

func bytesOf(x *big.Int) (out [32]byte) {
	b := x.FillBytes(make([]byte, 32))
	for i := range b {
		out[31-i] = b[i]
	}
	return out
}

// Scalar reads 32 little-endian bytes.
func Scalar(b [32]byte) *big.Int { return little(b[:]) }

// Decode is RFC 9496, 4.3.1.
func Decode(b [32]byte) (Point, error) {
	s := little(b[:])
	if s.Cmp(p) >= 0 || odd(s) {
		return Point{}, ErrEncoding
	}
	ss := mul(s, s)
	u1, u2 := sub(one, ss), add(one, ss)
	u2s := mul(u2, u2)
	v := sub(neg(mul(d, mul(u1, u1))), u2s)
	square, is := sqrtRatio(one, mul(v, u2s))
	dx := mul(is, u2)
	dy := mul(mul(is, dx), v)
	x := abs(mul(add(s, s), dx))
	y := mul(u1, dy)
	if !square || odd(mul(x, y)) || y.Sign() == 0 {
		return Point{}, ErrEncoding
	}
	return Point{x, y}, nil
}

// Encode is RFC 9496, 4.3.2, with Z = 1.
func (q Point) Encode() [32]byte {
	t := mul(q.x, q.y)
	u1 := mul(add(one, q.y), sub(one, q.y))
	u2 := mul(q.x, q.y)
	_, is := sqrtRatio(one, mul(u1, mul(u2, u2)))
	d1, d2 := mul(is, u1), mul(is, u2)
	zInv := mul(mul(d1, d2), t)
	x, y, dInv := q.x, q.y, d2
	if odd(mul(t, zInv)) {
		x, y, dInv = mul(q.y, sqrtM1), mul(q.x, sqrtM1), mul(d1, invSqrtA)
	}
	if odd(mul(x, zInv)) {
		y = neg(y)
	}
	return bytesOf(abs(mul(dInv, sub(one, y))))
}

// Add is the complete addition law of the curve -x^2 + y^2 = 1 + d x^2 y^2.
func (q Point) Add(r Point) Point {
	xy := mul(mul(q.x, r.x), mul(q.y, r.y))
	x := mul(add(mul(q.x, r.y), mul(q.y, r.x)), inv(add(one, mul(d, xy))))
	y := mul(add(mul(q.y, r.y), mul(q.x, r.x)), inv(sub(one, mul(d, xy))))
	return Point{x, y}
}

// Mul gives k*q by double and add; k may be negative.
func (q Point) Mul(k *big.Int) Point {
	k = new(big.Int).Mod(k, L)
	out := Identity()
	for i := k.BitLen() - 1; i >= 0; i-- {
		out = out.Add(out)
		if k.Bit(i) == 1 {
			out = out.Add(q)
		}
	}
	return out
}

// Base is the standard generator.
func Base() Point {
	y := mul(big.NewInt(4), inv(big.NewInt(5)))
	yy := mul(y, y)
	_, x := sqrtRatio(sub(yy, one), add(mul(d, yy), one))
	return Point{x, y}
}

// Hash is hash_to_ristretto255 of RFC 9380, appendix B, with expand_message_xmd
// and SHA-512.
func Hash(msg, dst string) Point {
	u := expand(msg, dst)
	return map1(u[:32]).Add(map1(u[32:]))
}

// expand gives 64 bytes, which is one block of SHA-512.
func expand(msg, dst string) []byte {
	prime := append([]byte(dst), byte(len(dst)))
	h := sha512.New()
	h.Write(make([]byte, 128))
	h.Write([]byte(msg))
	h.Write([]byte{0, 64, 0})
	h.Write(prime)
	b0 := h.Sum(nil)
	h.Reset()
	h.Write(b0)
	h.Write([]byte{1})
	h.Write(prime)
	return h.Sum(nil)
}

// map1 is MAP of RFC 9496, 4.3.4.
func map1(b []byte) Point {
	t := little(b)
	t.SetBit(t, 255, 0)
	mod(t)
	r := mul(sqrtM1, mul(t, t))
	oneMinusDSq := sub(one, mul(d, d))
	dMinusOneSq := mul(sub(d, one), sub(d, one))
	u := mul(add(r, one), oneMinusDSq)
	v := mul(sub(neg(one), mul(r, d)), add(r, d))
	square, s := sqrtRatio(u, v)
	c := neg(one)
	if !square {
		s, c = neg(abs(mul(s, t))), r
	}
	n := sub(mul(mul(c, sub(r, one)), dMinusOneSq), v)
	w0 := mul(mul(big.NewInt(2), s), v)
	// SQRT_AD_MINUS_ONE of the RFC is the odd root of a*d-1 = -d-1.
	root := sqrtAD
	if !odd(root) {
		root = neg(root)
	}
	w1 := mul(n, root)
	ss := mul(s, s)
	w2, w3 := sub(one, ss), add(one, ss)
	return Point{mul(w0, inv(w1)), mul(w2, inv(w3))}
}

// HashScalar is hash_to_field for ristretto255 scalars: 64 expanded bytes,
// little-endian, modulo L.
func HashScalar(msg []byte, dst string) *big.Int {
	s := little(expand(string(msg), dst))
	return s.Mod(s, L)
}
