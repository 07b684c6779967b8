package agg

import (
	"bytes"
	"fmt"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/vdaf/prio3/sum"

	"gridveil/privacy"
	"gridveil/privacy/internal/curve"
)

// Helper is the second server of one interval. It is not safe for concurrent use.
type Helper struct {
	s        *Server
	interval uint32
	v        *sum.Sum
	seen     map[[32]byte][32]byte // one-day key -> report id, over all attempts
	list     []public              // of the current attempt
	ids      [][32]byte
	mine     []half
	blinds   []group.Scalar
	ok       []bool
	past     Past
}

// Past is what a helper must not forget of an interval, whatever crashes.
type Past struct {
	Verify [32]byte // the interval's verify key, zero before the first Prepare
	Done   bool     // a result was signed: a second one could be subtracted from it
}

// NewHelper joins the sum of one interval. past is what the caller stored of it,
// zero at first.
func NewHelper(s *Server, interval uint32, past Past) (*Helper, error) {
	if err := s.ready(interval); err != nil {
		return nil, err
	}
	if s.pub() != s.Task.Helper {
		return nil, fmt.Errorf("%w: this server is not its helper", ErrTask)
	}
	v, err := s.Task.vdaf()
	if err != nil {
		return nil, err
	}
	return &Helper{s: s, interval: interval, v: v, seen: map[[32]byte][32]byte{}, past: past}, nil
}

// Past is what to store before an answer of Prepare or Finish leaves.
func (h *Helper) Past() Past { return h.past }

// Prepare takes the leader's Start, checks every report by itself and answers
// with its preparation shares. A report that does not hold is refused, the
// others are not affected. It returns ErrClosed, ErrSmallBatch, ErrVerifyKey,
// ErrMalformed or ErrTask. Store Past before the answer leaves.
func (h *Helper) Prepare(msg []byte) ([]byte, error) {
	if h.past.Done {
		return nil, ErrClosed
	}
	n, rest, err := readHead(msg, stepStart, h.s.Task.ID, h.interval)
	if err != nil {
		return nil, err
	}
	if n < int(h.s.Task.MinBatch) {
		return nil, fmt.Errorf("%w: %d reports, %d needed", ErrSmallBatch, n, h.s.Task.MinBatch)
	}
	if len(rest) < 32 {
		return nil, fmt.Errorf("%w: start", ErrMalformed)
	}
	verify := sum.VerifyKey(rest[:32])
	switch {
	case verify == sum.VerifyKey{}:
		return nil, fmt.Errorf("%w: start", ErrMalformed)
	case h.past.Verify == [32]byte{}:
		h.past.Verify = verify
	case h.past.Verify != verify:
		return nil, ErrVerifyKey
	}
	if err := h.read(rest[32:], n); err != nil {
		h.list = nil
		return nil, err
	}
	size := prepLen(h.v)
	root := listHash(h.ids)
	out := append(prepHead(stepPrepared, h.s.Task.ID, h.interval, n), root[:]...)
	h.mine, h.blinds, h.ok = make([]half, n), make([]group.Scalar, n), make([]bool, n)
	for i := range h.list {
		err := h.own(&verify, i)
		h.ok[i] = err == nil
		out = appendVote(out, h.ok[i], h.mine[i].prep, size)
	}
	return out, nil
}

// read takes the leader's list, which must be sorted and without repetition.
func (h *Helper) read(b []byte, n int) error {
	h.list, h.ids = nil, nil
	for i := range n {
		p, rest, err := parsePublic(b, h.s.Suite)
		if err != nil {
			return err
		}
		id := p.id(h.s.Net)
		if i > 0 && bytes.Compare(h.ids[i-1][:], id[:]) >= 0 {
			return fmt.Errorf("%w: list is not sorted", ErrMalformed)
		}
		h.list, h.ids, b = append(h.list, p), append(h.ids, id), rest
	}
	if len(b) != 0 {
		return fmt.Errorf("%w: start has bytes left over", ErrMalformed)
	}
	return nil
}

// own checks one report, opens its box, prepares the share and checks it
// against the commitment that the home signed.
func (h *Helper) own(verify *sum.VerifyKey, i int) error {
	p := &h.list[i]
	if err := h.s.check(p, h.interval); err != nil {
		return err
	}
	hk := p.Cert.SPK()
	if old, ok := h.seen[hk]; ok && old != h.ids[i] {
		return ErrSecond
	}
	h.seen[hk] = h.ids[i]
	pt, _, err := privacy.Open(h.s.Box, privacy.KindReportBox, h.s.Net, p.Box)
	if err != nil || len(pt) != boxPlain {
		return fmt.Errorf("%w: helper's share", ErrMalformed)
	}
	m, err := prepare(h.v, verify, p.Nonce, 1, pt[:seedSize])
	if err != nil {
		return err
	}
	if err := opens(p.C[1], m.out, pt[seedSize:]); err != nil {
		return err
	}
	h.mine[i] = m
	h.blinds[i], err = curve.ParseScalar(pt[seedSize:])
	return err
}

// Finish takes the leader's Combine, decides each report again with both
// preparation shares, checks the leader's total against the homes' commitments
// and signs the result with its own total in it. Store Past with the bytes that
// it returns before they leave.
//
// It returns ErrSmallBatch, ErrCommitment if the leader's total is not what
// homes committed to, ErrSplit if the leader counts a report that does not
// hold, ErrOrder, ErrMalformed or ErrTask.
func (h *Helper) Finish(msg []byte) ([]byte, error) {
	if h.past.Done || h.list == nil {
		return nil, ErrOrder
	}
	n, rest, err := readHead(msg, stepCombine, h.s.Task.ID, h.interval)
	if err != nil {
		return nil, err
	}
	size := prepLen(h.v)
	if n != len(h.list) || len(rest) != n*(1+size)+16+32 {
		return nil, fmt.Errorf("%w: combine", ErrMalformed)
	}
	for i := range n {
		theirs := rest[i*(1+size) : (i+1)*(1+size)]
		if theirs[0] != accepted {
			h.ok[i] = false
			continue
		}
		if !h.ok[i] || !decide(h.v, theirs[1:], h.mine[i].prep) {
			return nil, ErrSplit
		}
	}
	res, err := h.result(rest[n*(1+size):])
	if err != nil {
		return nil, err
	}
	h.past.Done = true
	return res.Bytes(), nil
}

// result adds up the helper's half and checks the leader's.
func (h *Helper) result(tail []byte) (*Result, error) {
	t, r := total{}, group.Ristretto255.NewScalar()
	res := &Result{Task: h.s.Task.ID, Interval: h.interval}
	var ids [][32]byte
	sumC := group.Ristretto255.Identity()
	for i := range h.list {
		if !h.ok[i] {
			continue
		}
		c, err := curve.ParseElement(h.list[i].C[0][:])
		if err != nil {
			return nil, ErrCommitment
		}
		sumC.Add(sumC, c)
		t = t.plus(h.mine[i].out)
		r.Add(r, h.blinds[i])
		ids = append(ids, h.ids[i])
	}
	res.N = uint32(len(ids))
	if len(ids) < int(h.s.Task.MinBatch) {
		return nil, fmt.Errorf("%w: %d good reports, %d needed", ErrSmallBatch, len(ids), h.s.Task.MinBatch)
	}
	res.T = [2][16]byte{[16]byte(tail), t.bytes()}
	res.R = [2][32]byte{[32]byte(tail[16:]), curve.ScalarBytes(r)}
	res.Root = listHash(ids)
	if !opensTotal(sumC, res.T[0], res.R[0]) {
		return nil, fmt.Errorf("%w: leader's", ErrCommitment)
	}
	res.HelperSig = privacy.Sign(h.s.Key, privacy.KindSum, h.s.Net, res.body())
	return res, nil
}
