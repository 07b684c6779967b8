package agg

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cloudflare/circl/vdaf/prio3/sum"

	"gridveil/privacy"
	"gridveil/privacy/internal/curve"
	"gridveil/privacy/pseudo"
)

// public is what both servers, and later everybody, see of a report. The
// leader's share is in it only as a digest: with the share in its own box the
// helper could add the two.
type public struct {
	Task     [16]byte
	Interval uint32
	Cert     *pseudo.Cert // nil if only its hash is sent
	CertHash [32]byte     // SHA-256 of the certificate
	Nonce    [16]byte
	C        [2][32]byte // commitments to the output shares
	Digest   [32]byte    // SHA-256(leader's share r0)
	Box      []byte      // for the helper: its share and r1
	Sig      privacy.Signature
}

// Report is one home's reading of one interval, in the form the leader gets.
type Report struct {
	public
	Share []byte   // leader's input share, 736 B
	R0    [32]byte // blind of C[0]
}

// Sizes of a report with its certificate, suite 1: 1451 B; with the
// certificate's hash 340 B less.
const (
	boxPlain  = seedSize + 32
	fixedSize = 2 + 16 + 4 + 1 + 16 + 64
)

func (p *public) body() []byte {
	b := make([]byte, 0, fixedSize+pseudo.CertSize+32+len(p.Box)+64)
	b = append(b, byte(privacy.KindReport), privacy.Version)
	b = append(b, p.Task[:]...)
	b = binary.BigEndian.AppendUint32(b, p.Interval)
	if p.Cert != nil {
		b = append(append(b, 1), p.Cert[:]...)
	} else {
		b = append(append(b, 2), p.CertHash[:]...)
	}
	b = append(b, p.Nonce[:]...)
	b = append(b, p.C[0][:]...)
	b = append(b, p.C[1][:]...)
	b = append(b, p.Digest[:]...)
	return append(b, p.Box...)
}

// signed is what the home signs: the same whether certificate or hash is sent.
func (p *public) signed() []byte {
	short := *p
	short.Cert = nil
	return short.body()
}

// id names the report in lists.
func (p *public) id(net privacy.Net) [32]byte {
	return privacy.Hash(privacy.KindReport, net, p.signed(), p.Sig)
}

// bytes encodes what the helper gets.
func (p *public) bytes() []byte { return append(p.body(), p.Sig[:]...) }

// Bytes encodes the report.
func (r *Report) Bytes() []byte {
	b := append(r.public.bytes(), r.Share...)
	return append(b, r.R0[:]...)
}

// parsePublic reads the helper's form from the front of b.
func parsePublic(b []byte, s privacy.Suite) (p public, rest []byte, err error) {
	bad := fmt.Errorf("%w: report", ErrMalformed)
	if len(b) < 23 || b[0] != byte(privacy.KindReport) || b[1] != privacy.Version {
		return p, nil, bad
	}
	p.Task, p.Interval = [16]byte(b[2:]), binary.BigEndian.Uint32(b[18:])
	form, rest := b[22], b[23:]
	certLen := map[byte]int{1: pseudo.CertSize, 2: 32}[form]
	boxLen := privacy.KindReportBox.Block() + s.Overhead()
	if certLen == 0 || len(rest) < certLen+16+64+32+boxLen+64 {
		return p, nil, bad
	}
	if form == 1 {
		if p.Cert, err = pseudo.ParseCert(rest[:certLen]); err != nil {
			return p, nil, fmt.Errorf("report: %w", err)
		}
		p.CertHash = sha256.Sum256(rest[:certLen])
	} else {
		p.CertHash = [32]byte(rest)
	}
	rest = rest[certLen:]
	p.Nonce = [16]byte(rest)
	p.C[0], p.C[1] = [32]byte(rest[16:]), [32]byte(rest[48:])
	p.Digest = [32]byte(rest[80:])
	rest = rest[112:]
	p.Box = append([]byte(nil), rest[:boxLen]...)
	p.Sig = privacy.Signature(rest[boxLen:])
	return p, rest[boxLen+64:], nil
}

// ParseReport decodes a report of a network that seals with suite s. It checks
// the layout only.
func ParseReport(b []byte, s privacy.Suite) (*Report, error) {
	p, rest, err := parsePublic(b, s)
	if err != nil {
		return nil, err
	}
	if len(rest) != shareSize+32 {
		return nil, fmt.Errorf("%w: report of %d bytes", ErrMalformed, len(b))
	}
	r := &Report{public: p, Share: append([]byte(nil), rest[:shareSize]...), R0: [32]byte(rest[shareSize:])}
	if r.Digest != r.digest() {
		return nil, fmt.Errorf("%w: share is not the one signed", ErrMalformed)
	}
	return r, nil
}

func (r *Report) digest() [32]byte {
	return sha256.Sum256(append(append([]byte(nil), r.Share...), r.R0[:]...))
}

// Home is what a gateway needs to report.
type Home struct {
	Net       privacy.Net
	Suite     privacy.Suite
	HelperBox []byte // the helper's HPKE key
	Rand      io.Reader
}

// NewReport makes the report of one reading under a one-day identity (a Meter
// pseudonym of package pseudo). Reading is in the task's units. It returns
// ErrRange, ErrTask or ErrDay. Send it by onion at a random second of the next
// interval, and keep it for a day: a rerun takes the same bytes.
func NewReport(h Home, t *Task, interval uint32, me pseudo.Pseudonym, reading uint64) (*Report, error) {
	if reading > uint64(t.Max) {
		return nil, fmt.Errorf("%w: %d of %d", ErrRange, reading, t.Max)
	}
	if err := t.covers(interval); err != nil {
		return nil, err
	}
	if err := checkCert(t, interval, &me.Cert); err != nil {
		return nil, err
	}
	r := &Report{public: public{Task: t.ID, Interval: interval, Cert: &me.Cert, CertHash: sha256.Sum256(me.Cert[:])}}
	if _, err := io.ReadFull(h.Rand, r.Nonce[:]); err != nil {
		return nil, fmt.Errorf("draw nonce: %w", err)
	}
	seed, err := r.shard(h.Rand, t, reading)
	if err != nil {
		return nil, err
	}
	if err := r.commit(h, t, seed); err != nil {
		return nil, err
	}
	r.Digest = r.digest()
	r.Sig = privacy.Sign(ed25519.PrivateKey(me.SSK), privacy.KindReport, h.Net, r.signed())
	return r, nil
}

// shard splits the reading; the result is the helper's seed.
func (r *Report) shard(rnd io.Reader, t *Task, reading uint64) ([]byte, error) {
	v, err := t.vdaf()
	if err != nil {
		return nil, err
	}
	params := v.Params()
	random := make([]byte, params.RandSize())
	if _, err := io.ReadFull(rnd, random); err != nil {
		return nil, fmt.Errorf("draw shares: %w", err)
	}
	nonce := sum.Nonce(r.Nonce)
	_, shares, err := v.Shard(reading, &nonce, random)
	if err != nil {
		return nil, fmt.Errorf("share the reading: %w", err)
	}
	if r.Share, err = shares[0].MarshalBinary(); err != nil {
		return nil, fmt.Errorf("encode share: %w", err)
	}
	seed, err := shares[1].MarshalBinary()
	if err != nil || len(r.Share) != shareSize || len(seed) != seedSize {
		return nil, fmt.Errorf("%w: shares of %d and %d bytes", ErrMalformed, len(r.Share), len(seed))
	}
	return seed, nil
}

// commit finds both output shares by preparing them here (any verify key gives
// the same), and commits to each.
func (r *Report) commit(h Home, t *Task, seed []byte) error {
	v, err := t.vdaf()
	if err != nil {
		return err
	}
	var blinds [2][32]byte
	for j, share := range [][]byte{r.Share, seed} {
		p, err := prepare(v, new(sum.VerifyKey), r.Nonce, uint8(j), share)
		if err != nil {
			return err
		}
		s, err := curve.Scalar(h.Rand)
		if err != nil {
			return fmt.Errorf("draw blind: %w", err)
		}
		r.C[j], blinds[j] = curve.Bytes(bind(p.out, s)), curve.ScalarBytes(s)
	}
	r.R0 = blinds[0]
	r.Box, _, err = privacy.Seal(h.Rand, h.Suite, h.HelperBox, privacy.KindReportBox, h.Net, append(seed, blinds[1][:]...))
	if err != nil {
		return fmt.Errorf("seal helper's share: %w", err)
	}
	return nil
}

// Public is the report without the leader's share: what the helper and the
// published list get.
func (r *Report) Public() []byte { return r.public.bytes() }

// ID names the report in the published list: a home looks for it there, and a
// dropped report shows.
func (r *Report) ID(net privacy.Net) [32]byte { return r.public.id(net) }

// Short drops the certificate from the bytes to send, once the leader has seen
// it on that day. The identity of the report does not change.
func (r *Report) Short() *Report {
	s := *r
	s.Cert = nil
	return &s
}

// checkCert: a certificate is good for the intervals of its own day only. The
// hours of grace that package pseudo gives would let a home report twice.
func checkCert(t *Task, interval uint32, c *pseudo.Cert) error {
	switch {
	case c.Kind() != pseudo.Meter || c.Audience() != t.DSO || c.Arg() != t.Zone:
		return fmt.Errorf("%w: certificate of another zone or kind", ErrTask)
	case c.Epoch() != pseudo.Day(Begin(interval)):
		return ErrDay
	}
	return nil
}

// fits checks that the report is for the task and interval, under a certificate
// of the day.
func (p *public) fits(t *Task, interval uint32) error {
	if p.Task != t.ID || p.Interval != interval {
		return ErrTask
	}
	if err := t.covers(interval); err != nil {
		return err
	}
	if p.Cert == nil {
		return ErrCert
	}
	return checkCert(t, interval, p.Cert)
}

func (p *public) verifySig(net privacy.Net) error {
	hk := p.Cert.SPK()
	if !privacy.Verify(hk[:], privacy.KindReport, net, p.signed(), p.Sig) {
		return fmt.Errorf("report: %w", ErrSignature)
	}
	return nil
}

// verify is the whole check of a report that needs no share, for strangers.
func (p *public) verify(net privacy.Net, t *Task, interval uint32, issuers pseudo.IssuerKeys) error {
	if err := p.fits(t, interval); err != nil {
		return err
	}
	if err := pseudo.VerifySignature(p.Cert, net, issuers); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return p.verifySig(net)
}
