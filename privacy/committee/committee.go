// Package committee opens one pseudonym in a ledgered case: five seats of
// different operators share the key to which every certificate's capsule is
// closed, and any three of them, never two, can recover one capsule's link to
// its contract.
//
//	Deal           the demo's key: one dealer, 3 of 5 (networks will run a joint ceremony)
//	PartialOf      a seat's share for one certificate, with proof that it is right
//	SealPartial    to the utility only; its hash goes on the ledger
//	Combine        three partials -> contract, if the driver really asked for the certificate
//
// Partials of one certificate say nothing about any other. A partial checks
// itself (DLEQ), so a wrong one names its seat. The contract's own signature
// inside the capsule is verified before anybody is named: an issuer that put
// another driver's name there gets [ErrMismatch], not a victim.
//
// The rules of a case (who may ask, approvals, notice, one opening per ref)
// live in the ledger; this package is arithmetic and keeps no state. A dealt
// key is known to its dealer: see doc/decisions.
//
// Source: doc/design.md, privacy 4.6; Feldman 1987; Shoup, Gennaro 1998.
package committee

import (
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"

	"gridveil/privacy"
	"gridveil/privacy/internal/curve"
)

const (
	// Seats of one committee.
	Seats = 5
	// Threshold is how many seats open a capsule.
	Threshold = 3
)

var (
	// ErrEncoding is privacy.ErrEncoding.
	ErrEncoding = privacy.ErrEncoding
	// ErrShare says that a seat's share does not fit its public key.
	ErrShare = errors.New("share does not belong to this committee")
	// ErrPartial says that a partial is not of the seat and certificate it
	// claims: its proof does not verify.
	ErrPartial = errors.New("partial does not verify")
	// ErrTooFew says that fewer than Threshold different seats gave a
	// partial; wait for more.
	ErrTooFew = errors.New("too few partials")
	// ErrMismatch says that the capsule's contract never signed for this
	// certificate: the issuer lied, nobody is named.
	ErrMismatch = errors.New("capsule does not belong to a driver who asked for it")
)

// Public is a committee's public key with its seats' parts, as on the ledger.
type Public struct {
	Y     [32]byte        // capsules are closed to it
	Seats [Seats][32]byte // Y_j = y_j*G of seats 1 to 5
}

// Share is one seat's secret.
type Share struct {
	Seat uint8 // 1 to Seats
	y    [32]byte
}

// String shows the seat only.
func (s Share) String() string { return fmt.Sprintf("share of seat %d", s.Seat) }

// GoString shows the seat only.
func (s Share) GoString() string { return s.String() }

// Deal makes a committee key with a dealer who must forget it: the demo's way,
// and a first network's under witnesses. Each share is checked against the
// dealer's Feldman commitments before it is given out.
func Deal(rnd io.Reader) (Public, [Seats]Share, error) {
	var pub Public
	var shares [Seats]Share
	// circl's secretsharing.New draws from its own group, which ignores
	// readers: the coefficients are drawn here instead.
	poly := make([]group.Scalar, Threshold)
	for i := range poly {
		var err error
		if poly[i], err = curve.Scalar(rnd); err != nil {
			return pub, shares, fmt.Errorf("draw committee secret: %w", err)
		}
	}
	commitment := make(secretsharing.SecretCommitment, Threshold)
	for i, c := range poly {
		commitment[i] = curve.MulBase(c)
	}
	pub.Y = curve.Bytes(commitment[0])
	for i := range shares {
		y := evaluate(poly, uint64(i+1))
		id := group.Ristretto255.NewScalar().SetUint64(uint64(i + 1))
		if !secretsharing.Verify(Threshold-1, secretsharing.Share{ID: id, Value: y}, commitment) {
			return Public{}, [Seats]Share{}, fmt.Errorf("dealt seat %d: %w", i+1, ErrShare)
		}
		shares[i] = Share{uint8(i + 1), curve.ScalarBytes(y)}
		pub.Seats[i] = curve.Bytes(curve.MulBase(y))
	}
	return pub, shares, nil
}

// evaluate gives the polynomial's value at x by Horner's rule.
func evaluate(poly []group.Scalar, x uint64) group.Scalar {
	at := group.Ristretto255.NewScalar().SetUint64(x)
	sum := poly[len(poly)-1].Copy()
	for i := len(poly) - 2; i >= 0; i-- {
		sum.Mul(sum, at)
		sum.Add(sum, poly[i])
	}
	return sum
}

// Check returns ErrEncoding or ErrShare unless the seats' parts are points of
// one polynomial of degree 2 whose value at 0 is Y. Members check the ledger's
// key once.
func (p *Public) Check() error {
	for _, seats := range [][]uint64{{1, 2, 3}, {2, 3, 4}, {3, 4, 5}} {
		parts := make([]group.Element, len(seats))
		for i, s := range seats {
			e, err := curve.ParseElement(p.Seats[s-1][:])
			if err != nil {
				return fmt.Errorf("seat %d: %w", s, ErrEncoding)
			}
			parts[i] = e
		}
		if curve.Bytes(interpolate(seats, parts)) != p.Y {
			return fmt.Errorf("seats %v do not open to Y: %w", seats, ErrShare)
		}
	}
	return nil
}

func interpolate(seats []uint64, points []group.Element) group.Element {
	sum := group.Ristretto255.Identity()
	for i, w := range curve.LagrangeAtZero(seats) {
		sum.Add(sum, curve.Mul(points[i], w))
	}
	return sum
}

// ShareSize is the length of a stored share: seat 1, scalar 32.
const ShareSize = 33

// Bytes encodes the share for the seat's encrypted store. It is secret.
func (s Share) Bytes() []byte { return append([]byte{s.Seat}, s.y[:]...) }

// ParseShare reads a stored share and checks that it belongs to pub. It returns
// ErrEncoding or ErrShare.
func ParseShare(b []byte, pub *Public) (Share, error) {
	if len(b) != ShareSize || b[0] < 1 || b[0] > Seats {
		return Share{}, fmt.Errorf("stored share: %w", ErrEncoding)
	}
	y, err := curve.ParseScalar(b[1:])
	if err != nil {
		return Share{}, fmt.Errorf("stored share: %w", ErrEncoding)
	}
	if curve.Bytes(curve.MulBase(y)) != pub.Seats[b[0]-1] {
		return Share{}, ErrShare
	}
	return Share{b[0], [32]byte(b[1:])}, nil
}
