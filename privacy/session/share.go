package session

import (
	"errors"
	"fmt"

	"gridveil/privacy"
	"gridveil/privacy/note"
)

// ErrNotYet means that what a session earned in the pool is not known yet: ask
// again later with the same bytes.
var ErrNotYet = errors.New("the session's share is not known yet")

// Share is what a session earned in one flexibility event, with what proves that
// it is a line of the list behind the payment.
type Share struct {
	Instruction [32]byte // hash of the grid operator's order
	Delivered   int64    // mWh
	Permille    int64    // availability that weighed it
	Paid        int64    // millionths, whole minor units
	Size, Index uint32   // of the list, and this line's place in it
	Root        [32]byte // of the list
	Salt        [32]byte // of the payment's ref on the ledger: SHA-256(salt root)
	Path        [][32]byte
	Payment     []byte // the ledger's entry with its proof, as the operator of the ledger encodes it
}

// Limits of shares.
const (
	MaxShares  = 4 // events of one session; a longer stay opens a new one
	maxPath    = 40
	maxPayment = 6 << 10
	maxShares  = 40 << 10
)

// Shares answers a question for what a session earned.
type Shares struct {
	Session [32]byte // H(Open)
	List    []Share  // in the order of their instructions' hashes; empty if it earned nothing
}

// Sum is what may be collected, millionths: at most the largest amount of notes.
func (s *Shares) Sum() (sum int64) {
	for _, x := range s.List {
		sum += x.Paid
	}
	return min(sum, note.MaxAmount*cent)
}

// Bytes encodes the answer.
func (s *Shares) Bytes() []byte {
	e := head(privacy.KindShares, 2+32+1)
	e.raw(s.Session[:])
	e.u8(byte(len(s.List)))
	for _, x := range s.List {
		e.raw(x.Instruction[:])
		e.i64(x.Delivered)
		e.u16(uint16(x.Permille))
		e.i64(x.Paid)
		e.u32(x.Size)
		e.u32(x.Index)
		e.raw(x.Root[:])
		e.raw(x.Salt[:])
		e.u8(byte(len(x.Path)))
		for _, h := range x.Path {
			e.raw(h[:])
		}
		e.blob(x.Payment)
	}
	return e
}

// ParseShares is the inverse of Bytes. It checks layout and ranges only.
func ParseShares(b []byte) (Shares, error) {
	var s Shares
	d := body(b, privacy.KindShares, -1)
	d.raw(s.Session[:])
	n := int(d.u8())
	d.bad = d.bad || n > MaxShares
	for i := 0; i < n && !d.bad; i++ {
		x := Share{}
		d.raw(x.Instruction[:])
		x.Delivered = d.energy()
		x.Permille = int64(d.u16())
		x.Paid = d.debt()
		x.Size, x.Index = d.u32(), d.u32()
		d.raw(x.Root[:])
		d.raw(x.Salt[:])
		x.Path = d.path()
		x.Payment = d.blob(maxPayment)
		d.bad = d.bad || x.Permille > 1000 || x.Paid%cent != 0 || x.Index >= x.Size
		s.List = append(s.List, x)
	}
	return s, d.end("shares")
}

func (d *dec) path() (list [][32]byte) {
	n := int(d.u8())
	d.bad = d.bad || n > maxPath
	for i := 0; i < n && !d.bad; i++ {
		var h [32]byte
		d.raw(h[:])
		list = append(list, h)
	}
	return list
}

// AskShares is the driver's question for what its session earned in the pool,
// sealed by the session's exporter: who cannot seal it is not the driver.
func (d *Driver) AskShares() ([]byte, error) {
	if d.phase != Done {
		return nil, fmt.Errorf("shares: %w", ErrOrder)
	}
	name := d.Session()
	// Seeded by the exporter: asking again gives the same bytes.
	rnd := privacy.SeededReader("gridveil-shares", d.exporter[:], name[:])
	box, err := d.exporter.Seal(rnd, privacy.KindShareAsk, name[:])
	if err != nil {
		return nil, fmt.Errorf("shares: %w", err)
	}
	return boxedShare(privacy.KindShareAsk, name, box), nil
}

// OpenShares opens the answer. It does not check the proofs inside: package pool
// does, with the ledger's policy.
func (d *Driver) OpenShares(msg []byte) (Shares, error) {
	name, box, err := splitShare(privacy.KindShares, msg)
	if err != nil {
		return Shares{}, err
	}
	pt, err := d.exporter.Open(privacy.KindShares, box)
	if err != nil {
		return Shares{}, fmt.Errorf("shares: %w", err)
	}
	s, err := ParseShares(pt)
	if err == nil && (name != d.Session() || s.Session != name) {
		err = fmt.Errorf("shares: %w", ErrMismatch)
	}
	return s, err
}

// Shares answers a driver's question. It changes nothing and returns ErrUnknown,
// ErrNotYet, or an error of the box for everybody but the session's driver.
func (s *Settler) Shares(msg []byte) ([]byte, error) {
	name, box, err := splitShare(privacy.KindShareAsk, msg)
	if err != nil {
		return nil, err
	}
	a, err := s.session(name)
	if err != nil {
		return nil, err
	}
	pt, err := a.Exporter.Open(privacy.KindShareAsk, box)
	if err != nil {
		return nil, fmt.Errorf("shares: %w", err)
	}
	if string(pt) != string(name[:]) {
		return nil, fmt.Errorf("shares: %w", ErrMismatch)
	}
	if s.cfg.Get(key(bySettle, name)) == nil || s.cfg.Shares == nil {
		return nil, ErrNotYet
	}
	list, err := s.cfg.Shares(name)
	if err != nil {
		return nil, err
	}
	out := Shares{Session: name, List: list}
	sealed, err := a.Exporter.Seal(s.cfg.Rand, privacy.KindShares, out.Bytes())
	if err != nil {
		return nil, fmt.Errorf("shares: %w", err)
	}
	return boxedShare(privacy.KindShares, name, sealed), nil
}

func boxedShare(k privacy.Kind, session [32]byte, box []byte) []byte {
	e := head(k, 34+len(box))
	e.raw(session[:])
	e.raw(box)
	return e
}

func splitShare(k privacy.Kind, msg []byte) (session [32]byte, box []byte, err error) {
	d := body(msg, k, -1)
	d.raw(session[:])
	if d.bad || len(d.b) > maxShares {
		return session, nil, fmt.Errorf("%w: boxed shares", ErrMalformed)
	}
	return session, d.b, nil
}
