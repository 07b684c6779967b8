package agg

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sort"
	"sync"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/vdaf/prio3/sum"

	"gridveil/privacy"
	"gridveil/privacy/internal/curve"
	"gridveil/privacy/pseudo"
)

// Server is one operator's side of a task: its configuration, and the
// certificates it verified. Leaders and helpers of several intervals share it;
// it must not be copied.
type Server struct {
	Net     privacy.Net
	Suite   privacy.Suite
	Task    Task
	Key     ed25519.PrivateKey // signs results; its public half is in the task
	Issuers pseudo.IssuerKeys  // the escrow's certificate keys
	Box     privacy.BoxKey     // helper only: opens the homes' boxes

	mu    sync.Mutex
	certs map[[32]byte]*pseudo.Cert // by hash, verified: a certificate serves 96 intervals
}

// maxCerts bounds the certificates remembered: two days of a full task.
const maxCerts = 2 * MaxBatch

// verified checks a certificate's issuer once.
func (s *Server) verified(hash [32]byte, c *pseudo.Cert) error {
	s.mu.Lock()
	known := s.certs[hash] != nil
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := pseudo.VerifySignature(c, s.Net, s.Issuers); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.certs == nil || len(s.certs) >= maxCerts {
		s.certs = map[[32]byte]*pseudo.Cert{}
	}
	s.certs[hash] = c
	return nil
}

// cert finds a certificate that was verified before, nil if there is none.
func (s *Server) cert(hash [32]byte) *pseudo.Cert {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.certs[hash]
}

// check verifies everything about a report that needs no share.
func (s *Server) check(p *public, interval uint32) error {
	if err := p.fits(&s.Task, interval); err != nil {
		return err
	}
	if err := s.verified(p.CertHash, p.Cert); err != nil {
		return err
	}
	return p.verifySig(s.Net)
}

func (s *Server) pub() [32]byte { return [32]byte(s.Key.Public().(ed25519.PublicKey)) }

// reasons of a refused report, one byte each in the helper's answer.
const (
	accepted byte = 0
	refused  byte = 1
)

// listHash is the root of a list of report ids: SHA-256 over all, sorted.
func listHash(ids [][32]byte) [32]byte {
	h := sha256.New()
	for _, id := range ids {
		h.Write(id[:])
	}
	return [32]byte(h.Sum(nil))
}

// Leader collects the reports of one interval and leads its sum.
//
// It is not safe for concurrent use. Reports are durable when the caller has stored the bytes that Add returned;
// after a restart the same bytes go through Add again.
type Leader struct {
	s        *Server
	interval uint32
	v        *sum.Sum
	reports  map[[32]byte]*Report // by one-day key
	round    *round
	result   *Result
}

// round is one attempt at the sum.
type round struct {
	list []*Report // sorted by id
	ids  [][32]byte
	mine []half // at index of list; zero where this server refused
	ok   []bool
}

// NewLeader takes reports of one interval of the server's task.
func NewLeader(s *Server, interval uint32) (*Leader, error) {
	if err := s.ready(interval); err != nil {
		return nil, err
	}
	if s.pub() != s.Task.Leader {
		return nil, fmt.Errorf("%w: this server is not its leader", ErrTask)
	}
	v, err := s.Task.vdaf()
	if err != nil {
		return nil, err
	}
	return &Leader{s: s, interval: interval, v: v, reports: map[[32]byte]*Report{}}, nil
}

func (s *Server) ready(interval uint32) error {
	if err := s.Task.check(); err != nil {
		return err
	}
	return s.Task.covers(interval)
}

// Add takes one report and returns the bytes to store before it is acknowledged
// (nil for a repetition). It returns ErrSecond for other bytes of the same
// identity, ErrCert for an unknown certificate hash, ErrClosed when the sum has
// begun or the interval is full, besides ErrMalformed, ErrTask, ErrDay and
// ErrSignature.
func (l *Leader) Add(msg []byte) ([]byte, error) {
	r, err := ParseReport(msg, l.s.Suite)
	if err != nil {
		return nil, err
	}
	if r.Cert == nil {
		r.Cert = l.s.cert(r.CertHash)
	}
	if err := l.s.check(&r.public, l.interval); err != nil {
		return nil, err
	}
	hk := r.Cert.SPK()
	if old := l.reports[hk]; old != nil {
		if old.ID(l.s.Net) != r.ID(l.s.Net) {
			return nil, ErrSecond
		}
		return nil, nil
	}
	if l.round != nil || l.result != nil || len(l.reports) >= MaxBatch {
		return nil, ErrClosed
	}
	l.reports[hk] = r
	return r.Bytes(), nil
}

// Count is how many reports are in.
func (l *Leader) Count() int { return len(l.reports) }

// Start begins a sum over the reports collected; it may be called again after a
// failed attempt, and over the same reports gives the same message, for the
// helper. It returns ErrSmallBatch or ErrClosed.
func (l *Leader) Start() ([]byte, error) {
	if l.result != nil {
		return nil, ErrClosed
	}
	if len(l.reports) < int(l.s.Task.MinBatch) {
		return nil, fmt.Errorf("%w: %d reports, %d needed", ErrSmallBatch, len(l.reports), l.s.Task.MinBatch)
	}
	verify, err := l.verifyKey()
	if err != nil {
		return nil, err
	}
	rd := &round{}
	for _, r := range l.reports {
		rd.list = append(rd.list, r)
	}
	sort.Slice(rd.list, func(i, j int) bool {
		a, b := rd.list[i].ID(l.s.Net), rd.list[j].ID(l.s.Net)
		return bytes.Compare(a[:], b[:]) < 0
	})
	msg := prepHead(stepStart, l.s.Task.ID, l.interval, len(rd.list))
	msg = append(msg, verify[:]...)
	for _, r := range rd.list {
		rd.ids = append(rd.ids, r.ID(l.s.Net))
		h, err := l.own(&verify, r)
		rd.mine, rd.ok = append(rd.mine, h), append(rd.ok, err == nil)
		msg = append(msg, r.public.bytes()...)
	}
	l.round = rd
	return msg, nil
}

// Reopen ends a failed attempt, so that late reports may join before the next.
// Do not call it while the helper may have signed: when Combine was sent, send
// the same again.
func (l *Leader) Reopen() { l.round = nil }

// verifyKey is the interval's, in all attempts and after a restart. Preparation
// shows both servers the wire polynomial of a report at one point, hidden by one
// random value; a second key would show a second point, and from two the bits of
// the reading follow.
func (l *Leader) verifyKey() (k sum.VerifyKey, err error) {
	info := binary.BigEndian.AppendUint32(append([]byte(nil), l.s.Task.ID[:]...), l.interval)
	raw, err := hkdf.Key(sha256.New, l.s.Key.Seed(), []byte("gridveil/agg/verify/1"), string(info), len(k))
	if err != nil {
		return k, fmt.Errorf("derive verify key: %w", err)
	}
	return sum.VerifyKey(raw), nil
}

// own prepares the leader's share of a report and checks it against the
// commitment that the home signed.
func (l *Leader) own(verify *sum.VerifyKey, r *Report) (half, error) {
	h, err := prepare(l.v, verify, r.Nonce, 0, r.Share)
	if err != nil {
		return half{}, err
	}
	return h, opens(r.C[0], h.out, r.R0[:])
}

// Combine takes the helper's answer to Start and decides each report: its proof
// must hold, and neither server may refuse it. The message is for the helper's
// Finish. It returns ErrSplit if the helper saw another list, ErrSmallBatch if
// too few reports are left.
func (l *Leader) Combine(msg []byte) ([]byte, error) {
	if l.round == nil || l.result != nil {
		return nil, ErrOrder
	}
	n, rest, err := readHead(msg, stepPrepared, l.s.Task.ID, l.interval)
	if err != nil {
		return nil, err
	}
	size := prepLen(l.v)
	if n != len(l.round.list) || len(rest) != 32+n*(1+size) {
		return nil, fmt.Errorf("%w: helper's preparation", ErrMalformed)
	}
	if [32]byte(rest) != listHash(l.round.ids) {
		return nil, ErrSplit
	}
	rest = rest[32:]
	out := prepHead(stepCombine, l.s.Task.ID, l.interval, n)
	for i := range n {
		theirs := rest[i*(1+size) : (i+1)*(1+size)]
		good := l.round.ok[i] && theirs[0] == accepted && decide(l.v, l.round.mine[i].prep, theirs[1:])
		l.round.ok[i] = good
		out = appendVote(out, good, l.round.mine[i].prep, size)
	}
	t, r, count := l.totals()
	if count < int(l.s.Task.MinBatch) {
		l.round = nil
		return nil, fmt.Errorf("%w: %d good reports, %d needed", ErrSmallBatch, count, l.s.Task.MinBatch)
	}
	tb, rb := t.bytes(), curve.ScalarBytes(r)
	return append(append(out, tb[:]...), rb[:]...), nil
}

// appendVote adds one report's verdict and preparation share, zeros if there is
// none.
func appendVote(b []byte, good bool, prep []byte, size int) []byte {
	if !good || len(prep) != size {
		return append(append(b, refused), make([]byte, size)...)
	}
	return append(append(b, accepted), prep...)
}

// totals adds up the leader's shares and blinds of the reports still accepted.
func (l *Leader) totals() (t total, r group.Scalar, n int) {
	r = group.Ristretto255.NewScalar()
	for i, ok := range l.round.ok {
		if !ok {
			continue
		}
		t = t.plus(l.round.mine[i].out)
		b, err := curve.ParseScalar(l.round.list[i].R0[:])
		if err != nil {
			continue // opens refused it before
		}
		r.Add(r, b)
		n++
	}
	return t, r, n
}

// Publish takes the helper's half-signed result, checks it like any stranger
// would, and signs it too. It returns the result with its list, ready for
// Check.
func (l *Leader) Publish(msg []byte) (Result, [][]byte, error) {
	if l.round == nil || l.result != nil {
		return Result{}, nil, ErrOrder
	}
	res, err := ParseResult(msg)
	if err != nil {
		return Result{}, nil, err
	}
	var list [][]byte
	for i, r := range l.round.list {
		if l.round.ok[i] {
			list = append(list, r.public.bytes())
		}
	}
	t, r, _ := l.totals()
	if res.T[0] != t.bytes() || res.R[0] != curve.ScalarBytes(r) {
		return Result{}, nil, fmt.Errorf("%w: helper changed the leader's total", ErrCommitment)
	}
	res.LeaderSig = privacy.Sign(l.s.Key, privacy.KindSum, l.s.Net, res.body())
	if _, err := Check(l.s.Net, l.s.Suite, &l.s.Task, l.s.Issuers, &res, list); err != nil {
		return Result{}, nil, err
	}
	l.result = &res
	return res, list, nil
}

// Steps of the exchange between the servers.
const (
	stepStart    byte = 1
	stepPrepared byte = 2
	stepCombine  byte = 3
)

func prepHead(step byte, task [16]byte, interval uint32, n int) []byte {
	b := append([]byte{byte(privacy.KindPrep), privacy.Version, step}, task[:]...)
	b = binary.BigEndian.AppendUint32(b, interval)
	return binary.BigEndian.AppendUint16(b, uint16(n))
}

// PrepFor gives the task and interval that a message between the servers is
// for, so that a server finds its Leader or Helper. It returns ErrMalformed.
func PrepFor(b []byte) (task [16]byte, interval uint32, err error) {
	if len(b) < 25 || b[0] != byte(privacy.KindPrep) || b[1] != privacy.Version {
		return task, 0, fmt.Errorf("%w: preparation of %d bytes", ErrMalformed, len(b))
	}
	return [16]byte(b[3:]), binary.BigEndian.Uint32(b[19:]), nil
}

func readHead(b []byte, step byte, task [16]byte, interval uint32) (n int, rest []byte, err error) {
	if len(b) < 25 || b[0] != byte(privacy.KindPrep) || b[1] != privacy.Version || b[2] != step {
		return 0, nil, fmt.Errorf("%w: preparation step %d", ErrMalformed, step)
	}
	if [16]byte(b[3:]) != task || binary.BigEndian.Uint32(b[19:]) != interval {
		return 0, nil, ErrTask
	}
	n = int(binary.BigEndian.Uint16(b[23:]))
	if n < 1 || n > MaxBatch {
		return 0, nil, fmt.Errorf("%w: batch of %d", ErrMalformed, n)
	}
	return n, b[25:], nil
}
