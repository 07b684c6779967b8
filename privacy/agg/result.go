package agg

import (
	"encoding/binary"
	"fmt"

	"github.com/cloudflare/circl/group"

	"gridveil/privacy"
	"gridveil/privacy/internal/curve"
	"gridveil/privacy/pseudo"
)

// Result is the sum of one interval, signed by both servers. Neither total says
// anything alone; together they are the zone's reading.
type Result struct {
	Task      [16]byte
	Interval  uint32
	N         uint32      // reports counted
	T         [2][16]byte // integer totals of leader's and helper's output shares
	R         [2][32]byte // sums of the blinds
	Root      [32]byte    // hash of the sorted ids of the reports counted
	LeaderSig privacy.Signature
	HelperSig privacy.Signature
}

const resultSize = 2 + 16 + 4 + 4 + 32 + 64 + 32 + 128

func (r *Result) body() []byte {
	b := append(make([]byte, 0, resultSize), byte(privacy.KindSum), privacy.Version)
	b = append(b, r.Task[:]...)
	b = binary.BigEndian.AppendUint32(b, r.Interval)
	b = binary.BigEndian.AppendUint32(b, r.N)
	for j := range 2 {
		b = append(b, r.T[j][:]...)
		b = append(b, r.R[j][:]...)
	}
	return append(b, r.Root[:]...)
}

// Bytes encodes the result.
func (r *Result) Bytes() []byte {
	return append(append(r.body(), r.LeaderSig[:]...), r.HelperSig[:]...)
}

// ParseResult decodes a result; it checks the layout only.
func ParseResult(b []byte) (Result, error) {
	var r Result
	if len(b) != resultSize || b[0] != byte(privacy.KindSum) || b[1] != privacy.Version {
		return r, fmt.Errorf("%w: result of %d bytes", ErrMalformed, len(b))
	}
	r.Task = [16]byte(b[2:])
	r.Interval, r.N = binary.BigEndian.Uint32(b[18:]), binary.BigEndian.Uint32(b[22:])
	for j := range 2 {
		r.T[j], r.R[j] = [16]byte(b[26+48*j:]), [32]byte(b[42+48*j:])
	}
	r.Root = [32]byte(b[122:])
	r.LeaderSig, r.HelperSig = privacy.Signature(b[154:]), privacy.Signature(b[218:])
	return r, nil
}

// Signed checks the signatures of both servers and gives the sum that they say,
// for whoever has no list of the reports: the servers, not the homes, vouch for
// it. It returns ErrTask, ErrSmallBatch, ErrSignature or ErrCommitment.
func (r *Result) Signed(net privacy.Net, t *Task) (uint64, error) {
	if r.Task != t.ID || t.check() != nil {
		return 0, ErrTask
	}
	if r.N < uint32(t.MinBatch) || r.N > MaxBatch {
		return 0, fmt.Errorf("%w: result of %d reports, %d needed", ErrSmallBatch, r.N, t.MinBatch)
	}
	if !privacy.Verify(t.Leader[:], privacy.KindSum, net, r.body(), r.LeaderSig) ||
		!privacy.Verify(t.Helper[:], privacy.KindSum, net, r.body(), r.HelperSig) {
		return 0, fmt.Errorf("result: %w", ErrSignature)
	}
	s64 := totalOf(r.T[0][:]).mod(totalOf(r.T[1][:]))
	if s64 > uint64(r.N)*uint64(t.Max) {
		return 0, fmt.Errorf("%w: sum above the range of %d readings", ErrCommitment, r.N)
	}
	return s64, nil
}

// opensTotal says whether the sum of commitments is T*G + R*H.
func opensTotal(sumC group.Element, t [16]byte, r [32]byte) bool {
	blind, err := curve.ParseScalar(r[:])
	if err != nil {
		return false
	}
	want := bind(0, blind)
	return want.Add(want, curve.MulBase(totalOf(t[:]).scalar())).IsEqual(sumC)
}

// Check recomputes a result from the published list (the bytes that Publish
// gave) and returns the sum in the task's units. It needs no secret: a home, the
// grid operator and a stranger run the same check.
//
// It returns ErrTask, ErrSmallBatch, ErrSignature (of a server, or of a home in
// the list), ErrSecond, ErrSplit if the list is not the one signed, or
// ErrCommitment if a total was moved.
func Check(net privacy.Net, s privacy.Suite, t *Task, issuers pseudo.IssuerKeys, r *Result, list [][]byte) (uint64, error) {
	sum, err := r.Signed(net, t)
	if err != nil {
		return 0, err
	}
	if len(list) != int(r.N) {
		return 0, fmt.Errorf("%w: result of %d reports, list of %d", ErrSmallBatch, r.N, len(list))
	}
	sums, root, err := readList(net, s, t, issuers, r.Interval, list)
	if err != nil {
		return 0, err
	}
	if root != r.Root {
		return 0, ErrSplit
	}
	for j := range 2 {
		if !opensTotal(sums[j], r.T[j], r.R[j]) {
			return 0, ErrCommitment
		}
	}
	return sum, nil
}

// readList verifies every report of a published list and adds up its
// commitments.
func readList(net privacy.Net, s privacy.Suite, t *Task, issuers pseudo.IssuerKeys, interval uint32, list [][]byte) (sums [2]group.Element, root [32]byte, err error) {
	ids := make([][32]byte, 0, len(list))
	seen := make(map[[32]byte]bool, len(list))
	sums = [2]group.Element{group.Ristretto255.Identity(), group.Ristretto255.Identity()}
	for _, raw := range list {
		p, rest, err := parsePublic(raw, s)
		if err != nil || len(rest) != 0 {
			return sums, root, fmt.Errorf("%w: list entry", ErrMalformed)
		}
		if err := p.verify(net, t, interval, issuers); err != nil {
			return sums, root, err
		}
		hk := p.Cert.SPK()
		if seen[hk] {
			return sums, root, ErrSecond
		}
		seen[hk] = true
		for j := range 2 {
			c, err := curve.ParseElement(p.C[j][:])
			if err != nil {
				return sums, root, ErrCommitment
			}
			sums[j].Add(sums[j], c)
		}
		ids = append(ids, p.id(net))
	}
	return sums, listHash(ids), nil
}

// Lists says whether a report is in a published list: a home checks that it was
// not dropped.
func Lists(net privacy.Net, s privacy.Suite, list [][]byte, id [32]byte) bool {
	for _, raw := range list {
		if p, _, err := parsePublic(raw, s); err == nil && p.id(net) == id {
			return true
		}
	}
	return false
}
