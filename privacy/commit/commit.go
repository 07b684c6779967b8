// Package commit hides the money and energy of one session in a commitment
// that the ledger can add up without opening it.
//
//	C = pay*G1 + earn*G2 + gridpay*G3 + energy*G4 + r*H        on ristretto255
//
// The sum of commitments opens to the sums of the values and of the blinds, so
// the ledger keeps one [Sum] per settlement and opens only that. One commitment
// alone tells nothing, as long as its blind is uniform and used once; opening
// it to other values would need a discrete logarithm between the generators,
// which are hashed from their names.
//
// It does not prove ranges: an aggregator could commit to absurd values, but
// every sum it opens carries its and the payer's signature, and the payer checks
// each line (ledger, 4.4). The composition is our own and experimental until
// reviewed by others.
//
// Start with [NewBlind] and [New]; add with [Sum]; check with [Opens].
//
// Source: doc/design.md; Pedersen 1991; RFC 9496; ledger 4.4.
package commit

import (
	"fmt"
	"io"

	"github.com/cloudflare/circl/group"

	"gridveil/privacy"
	"gridveil/privacy/internal/curve"
)

// Size is the length of an encoded commitment or blind.
const Size = curve.Size

// ErrEncoding says that bytes are not the canonical encoding of a commitment
// (which is never the identity) or of a blind.
var ErrEncoding = privacy.ErrEncoding

// dst separates the hashing of generators from every other hash to the group.
const dst = "gridveil/commit/v1"

// generators is built once and never written again: G1 to G4 and H.
var generators = [5]group.Element{hashed("cdr/1"), hashed("cdr/2"), hashed("cdr/3"), hashed("cdr/4"), hashed("blind")}

func hashed(name string) group.Element {
	return group.Ristretto255.HashToElement([]byte(name), []byte(dst))
}

// H gives a copy of the blinding generator. Private sums use it, so that one
// nothing-up-my-sleeve point serves all of gridveil.
func H() group.Element { return generators[4].Copy() }

// Values are what one session, or a sum of sessions, moves.
type Values struct {
	Pay     int64 // what the payer owes, millionths of the currency unit
	Earn    int64 // what hosts receive as notes, whole minor units in millionths
	GridPay int64 // what the host's utility receives; negative if it pays
	Energy  int64 // mWh
}

// Plus adds values field by field; ok is false on int64 overflow.
func (v Values) Plus(w Values) (sum Values, ok bool) {
	for _, f := range []struct {
		a, b int64
		out  *int64
	}{{v.Pay, w.Pay, &sum.Pay}, {v.Earn, w.Earn, &sum.Earn}, {v.GridPay, w.GridPay, &sum.GridPay}, {v.Energy, w.Energy, &sum.Energy}} {
		*f.out = f.a + f.b
		if (f.b > 0 && *f.out < f.a) || (f.b < 0 && *f.out > f.a) {
			return Values{}, false
		}
	}
	return sum, true
}

// NewBlind draws a blind from rnd: a uniform nonzero scalar, little-endian.
func NewBlind(rnd io.Reader) ([Size]byte, error) {
	s, err := curve.Scalar(rnd)
	if err != nil {
		return [Size]byte{}, err
	}
	return curve.ScalarBytes(s), nil
}

// AddBlinds gives a + b modulo the group order, the blind of a sum of two
// commitments. It returns ErrEncoding for a non-canonical blind.
func AddBlinds(a, b [Size]byte) ([Size]byte, error) {
	x, err := parseBlind(a)
	if err != nil {
		return [Size]byte{}, err
	}
	y, err := parseBlind(b)
	if err != nil {
		return [Size]byte{}, err
	}
	return curve.ScalarBytes(x.Add(x, y)), nil
}

func parseBlind(r [Size]byte) (group.Scalar, error) {
	s, err := curve.ParseScalar(r[:])
	if err != nil {
		return nil, fmt.Errorf("blind: %w", ErrEncoding)
	}
	return s, nil
}

// New commits to v under blind r. It returns ErrEncoding if r is not a
// canonical scalar or the result would be the identity, which needs a zero
// blind with zero values.
func New(v Values, r [Size]byte) ([Size]byte, error) {
	e, err := point(v, r)
	if err != nil {
		return [Size]byte{}, err
	}
	if e.IsIdentity() {
		return [Size]byte{}, fmt.Errorf("commitment is the identity: %w", ErrEncoding)
	}
	return curve.Bytes(e), nil
}

func point(v Values, r [Size]byte) (group.Element, error) {
	blind, err := parseBlind(r)
	if err != nil {
		return nil, err
	}
	e := curve.Mul(generators[4], blind)
	for i, x := range []int64{v.Pay, v.Earn, v.GridPay, v.Energy} {
		if x != 0 { // the time this saves tells of zeros only to those who measure the aggregator, which knows them
			e.Add(e, curve.Mul(generators[i], curve.FromInt64(x)))
		}
	}
	return e, nil
}

// Check returns ErrEncoding unless c is the canonical encoding of a commitment.
func Check(c [Size]byte) error {
	_, err := parse(c)
	return err
}

func parse(c [Size]byte) (group.Element, error) {
	e, err := curve.ParseElement(c[:])
	if err != nil {
		return nil, fmt.Errorf("commitment: %w", ErrEncoding)
	}
	return e, nil
}

// Sum is a running sum of commitments. The zero value is the empty sum. It is
// a value: copies do not share state.
type Sum struct{ e group.Element } // never mutated after it is set; nil is the empty sum

// ParseSum decodes what Bytes gave. Unlike a commitment, a sum may be the
// identity: all zeros, the empty sum.
func ParseSum(b [Size]byte) (Sum, error) {
	if b == ([Size]byte{}) {
		return Sum{}, nil
	}
	e, err := parse(b)
	return Sum{e}, err
}

// Bytes encodes the sum canonically; the empty sum is all zeros.
func (s Sum) Bytes() [Size]byte {
	if s.e == nil {
		return [Size]byte{}
	}
	return curve.Bytes(s.e)
}

// Add gives the sum with commitment c added, or ErrEncoding.
func (s Sum) Add(c [Size]byte) (Sum, error) {
	e, err := parse(c)
	if err != nil {
		return s, err
	}
	return s.plus(e), nil
}

// Sub gives the sum with commitment c taken away, or ErrEncoding. That c was
// added before is for the caller to know.
func (s Sum) Sub(c [Size]byte) (Sum, error) {
	e, err := parse(c)
	if err != nil {
		return s, err
	}
	return s.plus(e.Neg(e)), nil
}

// Join adds two sums, for settlements over several buckets.
func (s Sum) Join(t Sum) Sum {
	if t.e == nil {
		return s
	}
	return s.plus(t.e)
}

func (s Sum) plus(e group.Element) Sum {
	if s.e != nil {
		e = curve.Add(s.e, e)
	}
	if e.IsIdentity() {
		return Sum{}
	}
	return Sum{e}
}

// Opens reports whether the sum is exactly a commitment to v under blind r.
// A non-canonical r opens nothing; the empty sum opens to zeros only.
func (s Sum) Opens(v Values, r [Size]byte) bool {
	e, err := point(v, r)
	if err != nil {
		return false
	}
	if s.e == nil {
		return e.IsIdentity()
	}
	return e.IsEqual(s.e)
}

// Opens reports whether commitment c opens to v under blind r.
func Opens(c [Size]byte, v Values, r [Size]byte) bool {
	e, err := parse(c)
	return err == nil && Sum{e}.Opens(v, r)
}
