package committee

import (
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/cloudflare/circl/group"

	"gridveil/privacy"
	"gridveil/privacy/internal/curve"
	"gridveil/privacy/pseudo"
)

// Partial is one seat's contribution to opening one certificate:
// D = y_j*capE with a proof that it is the y_j of Y_j = y_j*G.
type Partial struct {
	Seat  uint8
	d     [32]byte
	proof [curve.ProofSize]byte
}

// PartialSize is the length of an encoded partial: kind, version, seat, D 32,
// proof 64.
const PartialSize = 2 + 1 + 32 + curve.ProofSize

// PartialOf makes a seat's partial for a certificate. It checks the capsule's
// proof of knowledge first, for an issuer must not have a capsule opened that
// it copied from elsewhere; the issuer's signature, the ref and the case are
// for the caller to check (pseudo.VerifySignature, ledger). It returns
// pseudo.ErrProof.
func PartialOf(rnd io.Reader, s Share, c *pseudo.Cert) (Partial, error) {
	if err := pseudo.CheckCapsule(c); err != nil {
		return Partial{}, err
	}
	capE, y, err := operands(c, s)
	if err != nil {
		return Partial{}, err
	}
	d := curve.Mul(capE, y)
	proof, err := curve.ProveEqual(rnd, y, curve.MulBase(y), capE, d)
	if err != nil {
		return Partial{}, err
	}
	return Partial{Seat: s.Seat, d: curve.Bytes(d), proof: proof}, nil
}

func operands(c *pseudo.Cert, s Share) (capE group.Element, y group.Scalar, err error) {
	e := c.CapE()
	if capE, err = curve.ParseElement(e[:]); err != nil {
		return nil, nil, fmt.Errorf("capsule point: %w", ErrEncoding)
	}
	if y, err = curve.ParseScalar(s.y[:]); err != nil {
		return nil, nil, fmt.Errorf("own share: %w", ErrEncoding)
	}
	return capE, y, nil
}

// Verify returns ErrPartial unless the partial is its seat's for certificate c.
func (p *Partial) Verify(pub *Public, c *pseudo.Cert) error {
	if p.Seat < 1 || p.Seat > Seats {
		return fmt.Errorf("seat %d: %w", p.Seat, ErrPartial)
	}
	e := c.CapE()
	capE, err1 := curve.ParseElement(e[:])
	part, err2 := curve.ParseElement(pub.Seats[p.Seat-1][:])
	d, err3 := curve.ParseElement(p.d[:])
	if err1 != nil || err2 != nil || err3 != nil || !curve.VerifyEqual(part, capE, d, p.proof) {
		return fmt.Errorf("seat %d: %w", p.Seat, ErrPartial)
	}
	return nil
}

// Bytes encodes the partial.
func (p *Partial) Bytes() []byte {
	b := append([]byte{byte(privacy.KindPartial), privacy.Version, p.Seat}, p.d[:]...)
	return append(b, p.proof[:]...)
}

// ParsePartial is the inverse of Bytes; Verify checks what it holds.
func ParsePartial(b []byte) (Partial, error) {
	if len(b) != PartialSize || b[0] != byte(privacy.KindPartial) || b[1] != privacy.Version || b[2] < 1 || b[2] > Seats {
		return Partial{}, fmt.Errorf("partial: %w", ErrEncoding)
	}
	return Partial{Seat: b[2], d: [32]byte(b[3:]), proof: [curve.ProofSize]byte(b[35:])}, nil
}

// SealPartial seals a partial of a case to the utility. ct goes to the utility,
// its SHA-256 on the ledger (entry `partial`).
func SealPartial(rnd io.Reader, net privacy.Net, suite privacy.Suite, utility []byte, caseID [16]byte, ref [32]byte, p Partial) (ct []byte, hash [32]byte, err error) {
	pt := append(append(p.Bytes(), caseID[:]...), ref[:]...)
	ct, _, err = privacy.Seal(rnd, suite, utility, privacy.KindPartial, net, pt)
	if err != nil {
		return nil, hash, fmt.Errorf("seal partial: %w", err)
	}
	return ct, sha256.Sum256(ct), nil
}

// OpenPartial opens what SealPartial made for this case and ref. It returns
// privacy.ErrOpen or ErrEncoding; the caller compares SHA-256(ct) with the
// ledger.
func OpenPartial(key privacy.BoxKey, net privacy.Net, caseID [16]byte, ref [32]byte, ct []byte) (Partial, error) {
	pt, _, err := privacy.Open(key, privacy.KindPartial, net, ct)
	if err != nil {
		return Partial{}, fmt.Errorf("sealed partial: %w", err)
	}
	if len(pt) != PartialSize+16+32 || [16]byte(pt[PartialSize:]) != caseID || [32]byte(pt[PartialSize+16:]) != ref {
		return Partial{}, fmt.Errorf("sealed partial of another case: %w", ErrEncoding)
	}
	return ParsePartial(pt[:PartialSize])
}

// Opened is what a committee's opening tells the utility.
type Opened struct {
	Contract [16]byte
	Enrol    privacy.Signature // the contract key's signature over the certificate's head
}

// Combine opens a certificate with the partials of at least Threshold different
// seats; it uses the first three. lk gives the key of a contract of this issuer.
//
// A result is proven by the enrol signature, so the partials' own proofs are
// looked at only when there is none: then either a seat is at fault, ErrPartial
// naming it, or the issuer, ErrMismatch: the capsule does not open, no such
// contract exists, or its key did not sign for this certificate. ErrTooFew
// means to wait for more seats.
func Combine(net privacy.Net, pub *Public, c *pseudo.Cert, partials []Partial, lk func(contract [16]byte) ([32]byte, bool)) (Opened, error) {
	chosen := distinct(partials)
	if len(chosen) < Threshold {
		return Opened{}, fmt.Errorf("%d of %d seats: %w", len(chosen), Threshold, ErrTooFew)
	}
	opened, err := open(net, c, chosen, lk)
	if err == nil {
		return opened, nil
	}
	for i := range chosen {
		if err := chosen[i].Verify(pub, c); err != nil {
			return Opened{}, err
		}
	}
	return Opened{}, err
}

// distinct gives the first Threshold partials of different seats.
func distinct(partials []Partial) []Partial {
	var chosen []Partial
	have := map[uint8]bool{}
	for _, p := range partials {
		if !have[p.Seat] && len(chosen) < Threshold {
			have[p.Seat] = true
			chosen = append(chosen, p)
		}
	}
	return chosen
}

// open trusts the partials; it returns ErrMismatch, or ErrPartial for one that
// is no point at all.
func open(net privacy.Net, c *pseudo.Cert, chosen []Partial, lk func(contract [16]byte) ([32]byte, bool)) (Opened, error) {
	seats, points := make([]uint64, len(chosen)), make([]group.Element, len(chosen))
	for i, p := range chosen {
		d, err := curve.ParseElement(p.d[:])
		if err != nil || p.Seat < 1 || p.Seat > Seats {
			return Opened{}, fmt.Errorf("seat %d: %w", p.Seat, ErrPartial)
		}
		seats[i], points[i] = uint64(p.Seat), d
	}
	contract, enrol, err := pseudo.OpenCapsule(c, curve.Bytes(interpolate(seats, points)))
	if err != nil {
		return Opened{}, fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	key, known := lk(contract)
	if !known || !pseudo.CheckEnrol(c, net, key, enrol) {
		return Opened{}, ErrMismatch
	}
	return Opened{Contract: contract, Enrol: enrol}, nil
}

// Linked answers LINK for two opened certificates: the same contract or not.
func Linked(a, b Opened) bool { return a.Contract == b.Contract }
