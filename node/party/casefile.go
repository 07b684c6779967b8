package party

import (
	"encoding/binary"
	"errors"
	"fmt"

	"gridveil/ledger"
	"gridveil/privacy"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

// CaseFile is what a requester shows the openers of a case: the sessions that
// its dispute entry names, in that order. The entry's Evidence is the salted
// hash of it. It holds no bill key and nothing that names a person or a house.
type CaseFile struct {
	Case     ledger.CaseID
	Salt     [32]byte
	Sessions []CaseSession
}

// CaseSession is one session of a case.
type CaseSession struct {
	Cert   pseudo.Cert
	Offer  session.Offer
	Open   session.Open
	Answer session.Answer
	Record *session.Record // nil if it was never handed in
}

// ErrCase means that bytes are no case file, or one of another case.
var ErrCase = errors.New("case file is malformed")

const caseMagic = "GVC1"

// Bytes encodes "GVC1" | case 16 | salt 32 | n u8 | n x { cert | offer | open |
// answer | record length u16 | record }.
func (c *CaseFile) Bytes() []byte {
	b := append([]byte(caseMagic), c.Case[:]...)
	b = append(b, c.Salt[:]...)
	b = append(b, byte(len(c.Sessions)))
	for i := range c.Sessions {
		s := &c.Sessions[i]
		b = append(b, s.Cert[:]...)
		b = append(b, s.Offer.Bytes()...)
		b = append(b, s.Open.Bytes()...)
		b = append(b, s.Answer.Bytes()...)
		var record []byte
		if s.Record != nil {
			record = s.Record.Bytes()
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(record)))
		b = append(b, record...)
	}
	return b
}

// Evidence is what the dispute entry carries.
func (c *CaseFile) Evidence() ledger.Hash { return ledger.Salted(c.Salt, c.Bytes()) }

// ParseCaseFile is the inverse of Bytes. It checks layout only; Check the rest.
func ParseCaseFile(b []byte) (*CaseFile, error) {
	r := reader{b: b}
	c := &CaseFile{}
	if string(r.take(len(caseMagic))) != caseMagic {
		return nil, ErrCase
	}
	copy(c.Case[:], r.take(16))
	copy(c.Salt[:], r.take(32))
	n := int(r.u8())
	if n < 1 || n > ledger.MaxRefs {
		return nil, fmt.Errorf("%w: %d sessions", ErrCase, n)
	}
	for range n {
		s, err := r.session()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCase, err)
		}
		c.Sessions = append(c.Sessions, s)
	}
	if r.bad || len(r.b) != 0 {
		return nil, ErrCase
	}
	return c, nil
}

func (r *reader) session() (s CaseSession, err error) {
	cert, err := pseudo.ParseCert(r.take(pseudo.CertSize))
	if err != nil {
		return s, err
	}
	s.Cert = *cert
	if s.Offer, err = session.ParseOffer(r.take(session.OfferSize)); err != nil {
		return s, err
	}
	if s.Open, err = session.ParseOpen(r.take(session.OpenSize)); err != nil {
		return s, err
	}
	if s.Answer, err = session.ParseAnswer(r.take(session.AnswerSize)); err != nil {
		return s, err
	}
	switch n := int(r.u16()); n {
	case 0:
	case session.RecordSize:
		x, err := session.ParseRecord(r.take(n))
		if err != nil {
			return s, err
		}
		s.Record = &x
	default:
		r.bad = true
	}
	return s, nil
}

// Check verifies the file against its dispute entry: hash, refs, and for each
// session the issuer's certificate, the driver's consent, the aggregator's yes
// and the record.
func (c *CaseFile) Check(d *ledger.Dispute, net privacy.Net, issuers pseudo.IssuerKeys, record [32]byte) error {
	if d.Case != c.Case || d.Evidence != c.Evidence() || len(d.Refs) != len(c.Sessions) {
		return fmt.Errorf("%w: it is not the one that the ledger names", ErrCase)
	}
	for i := range c.Sessions {
		s := &c.Sessions[i]
		if s.Cert.Ref() != d.Refs[i] {
			return fmt.Errorf("%w: session %d is another", ErrCase, i)
		}
		if err := pseudo.VerifySignature(&s.Cert, net, issuers); err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
		f := session.File{Cert: s.Cert, Offer: s.Offer, Open: s.Open, Answer: s.Answer}
		if err := f.Check(net, record); err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
		if s.Record == nil {
			continue
		}
		if err := f.CheckRecord(net, s.Record); err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
	}
	return nil
}

// PayerFile is what the driver's utility is shown of a case: certificates and
// bill keys of its drivers, neither place nor time.
type PayerFile struct {
	Case     ledger.CaseID
	Sessions []PayerSession
}

// PayerSession is one session of a PayerFile.
type PayerSession struct {
	Cert pseudo.Cert
	BPK  [32]byte
}

const payerMagic = "GVC2"

// Bytes encodes "GVC2" | case 16 | n u8 | n x { cert | bpk 32 }.
func (p *PayerFile) Bytes() []byte {
	b := append([]byte(payerMagic), p.Case[:]...)
	b = append(b, byte(len(p.Sessions)))
	for i := range p.Sessions {
		b = append(append(b, p.Sessions[i].Cert[:]...), p.Sessions[i].BPK[:]...)
	}
	return b
}

// ParsePayerFile is the inverse of Bytes.
func ParsePayerFile(b []byte) (*PayerFile, error) {
	r := reader{b: b}
	p := &PayerFile{}
	if string(r.take(len(payerMagic))) != payerMagic {
		return nil, ErrCase
	}
	copy(p.Case[:], r.take(16))
	n := int(r.u8())
	if n < 1 || n > ledger.MaxRefs {
		return nil, fmt.Errorf("%w: %d sessions", ErrCase, n)
	}
	for range n {
		cert, err := pseudo.ParseCert(r.take(pseudo.CertSize))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCase, err)
		}
		s := PayerSession{Cert: *cert}
		copy(s.BPK[:], r.take(32))
		p.Sessions = append(p.Sessions, s)
	}
	if r.bad || len(r.b) != 0 {
		return nil, ErrCase
	}
	return p, nil
}

// Finding is what an opening showed of one session, or of one pair in a link.
type Finding uint8

// Findings.
const (
	Ours     Finding = 1 // the capsule names a contract of ours that asked for the certificate: billed or to be billed
	Mismatch Finding = 2 // it does not: the issuer is at fault, nobody is named
	Same     Finding = 3 // of a link: one contract
	Other    Finding = 4 // of a link: different contracts
)

var findings = map[Finding]string{Ours: "a driver of the utility stands behind it and pays", Mismatch: "nobody can be named: the certificate was not asked for by the driver in it",
	Same: "the sessions belong to one contract", Other: "the sessions belong to different contracts"}

// String is the finding in words.
func (f Finding) String() string { return findings[f] }

// Answer is what the driver's utility tells the requester of a case, and nobody
// else: one finding per session, or one for a link. Contracts are named only for
// safety or a lawful order.
type Answer struct {
	Case      ledger.CaseID
	Salt      [32]byte
	Findings  []Finding
	Contracts [][16]byte // empty, or one for each session
}

const answerMagic = "GVC3"

// Bytes encodes "GVC3" | case 16 | salt 32 | n u8 | n x finding | m u8 | m x contract 16.
func (a *Answer) Bytes() []byte {
	b := append([]byte(answerMagic), a.Case[:]...)
	b = append(b, a.Salt[:]...)
	b = append(b, byte(len(a.Findings)))
	for _, f := range a.Findings {
		b = append(b, byte(f))
	}
	b = append(b, byte(len(a.Contracts)))
	for _, c := range a.Contracts {
		b = append(b, c[:]...)
	}
	return b
}

// Hash is what the result entry carries.
func (a *Answer) Hash() ledger.Hash { return ledger.Salted(a.Salt, a.Bytes()) }

// ParseAnswer is the inverse of Bytes.
func ParseAnswer(b []byte) (*Answer, error) {
	r := reader{b: b}
	a := &Answer{}
	if string(r.take(len(answerMagic))) != answerMagic {
		return nil, ErrCase
	}
	copy(a.Case[:], r.take(16))
	copy(a.Salt[:], r.take(32))
	n := int(r.u8())
	for range min(n, ledger.MaxRefs+1) {
		f := Finding(r.u8())
		r.bad = r.bad || findings[f] == ""
		a.Findings = append(a.Findings, f)
	}
	m := int(r.u8())
	for range min(m, ledger.MaxRefs+1) {
		var c [16]byte
		copy(c[:], r.take(16))
		a.Contracts = append(a.Contracts, c)
	}
	if r.bad || len(r.b) != 0 || n < 1 || n > ledger.MaxRefs || m > ledger.MaxRefs {
		return nil, ErrCase
	}
	return a, nil
}

// reader takes fields off a message; bad is set once they run out.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() byte { return r.take(1)[0] }

func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
