package session

import (
	"fmt"
	"io"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/note"
)

// CheckLock reads a Lock of an authorised session. If known is not nil, the same
// lock was confirmed before and known is the stored Receipt. Else redeem its
// notes on the ledger and, once that is final, call Locked.
func (s *Settler) CheckLock(msg []byte) (l Lock, known []byte, err error) {
	if l, err = ParseLock(msg); err != nil {
		return Lock{}, nil, err
	}
	a, err := s.session(l.Session)
	if err != nil {
		return Lock{}, nil, err
	}
	if !privacy.Verify(a.Offer.HPK[:], privacy.KindLock, s.cfg.Net, l.body(), l.Sig) {
		return Lock{}, nil, fmt.Errorf("lock: %w", ErrSignature)
	}
	if old, ok := s.locked(l.Session); ok {
		if old.hash != l.Hash(s.cfg.Net) {
			return Lock{}, nil, fmt.Errorf("lock: %w", ErrDuplicate)
		}
		return l, old.receipt, nil
	}
	switch {
	case s.cfg.Get(key(bySettle, l.Session)) != nil:
		return Lock{}, nil, fmt.Errorf("lock: %w", ErrOrder)
	case a.Offer.Mode&ModeDischarge == 0 || l.Currency != a.Offer.Currency:
		return Lock{}, nil, fmt.Errorf("lock: %w", ErrMismatch)
	case l.Value%cent != 0 || l.Value < cent || l.Value > note.MaxAmount*cent:
		return Lock{}, nil, fmt.Errorf("lock: %w: %d millionths", ErrAmount, l.Value)
	}
	return l, nil, nil
}

// Locked confirms a Lock whose notes the ledger has redeemed, worth value.
func (s *Settler) Locked(now time.Time, l *Lock, value int64) (Reply, error) {
	if value != l.Value {
		return Reply{}, fmt.Errorf("lock: %w: notes are worth %d, lock says %d", ErrAmount, value, l.Value)
	}
	a, err := s.session(l.Session)
	if err != nil {
		return Reply{}, err
	}
	rc := Receipt{Taken: TakenLock, Session: l.Session, What: l.Hash(s.cfg.Net), Value: value, Inner: make([]byte, openingBox)}
	if _, err := io.ReadFull(s.cfg.Rand, rc.Inner); err != nil {
		return Reply{}, fmt.Errorf("draw filler: %w", err)
	}
	rc.Sig = privacy.Sign(s.cfg.Key, privacy.KindReceipt, s.cfg.Net, rc.body())
	var e enc
	e.i64(value)
	e.raw(rc.What[:])
	e.blob(rc.Bytes())
	// The host has as long to ask for a lapsed lock as it had to settle.
	until := s.keepUntil(now, &a).Add(LateFor)
	return Reply{Msg: rc.Bytes(), Put: []Put{{key(byLock, l.Session), e, until}, {key(bySession, l.Session), a.bytes(), until}}}, nil
}

// Claim is a Collect that may be paid.
type Claim struct {
	Session [32]byte
	Party   Party
	Minor   uint16 // what to sign, minor units
	Epoch   uint32 // month yyyymm of the keys
	Row     note.Row
	Request [32]byte // H(Collect)
}

// Claim reads a Collect, plain from a host or boxed from a driver. If known is
// not nil, the same request was answered before and known is that answer. Else
// store Reply.Put, post the claim to the ledger and call Collected when it is
// final. It returns ErrUnknown, ErrNotDue, ErrNotYet, ErrSignature, or ErrCollected for
// another request than before.
func (s *Settler) Claim(now time.Time, msg []byte) (c Claim, known []byte, r Reply, err error) {
	req, a, err := s.readCollect(msg)
	if err != nil {
		return Claim{}, nil, Reply{}, err
	}
	spender := a.Offer.HPK
	if req.Party.boxed() {
		spender = a.Open.SPK
	}
	if !privacy.Verify(spender[:], privacy.KindCollect, s.cfg.Net, req.body(), req.Sig) {
		return Claim{}, nil, Reply{}, fmt.Errorf("collect: %w", ErrSignature)
	}
	hash := req.Hash(s.cfg.Net)
	k := key(byClaim, req.Session, byte(req.Party))
	if b := s.cfg.Get(k); b != nil {
		d := &dec{b: b}
		var old [32]byte
		d.raw(old[:])
		known = d.blob(maxBoxed)
		if err := d.end("stored claim"); err != nil {
			return Claim{}, nil, Reply{}, err
		}
		if old != hash {
			return Claim{}, nil, Reply{}, ErrCollected
		}
	}
	due, err := s.due(now, a, req.Session, req.Party)
	if err != nil {
		return Claim{}, nil, Reply{}, err
	}
	c = Claim{Session: req.Session, Party: req.Party, Minor: uint16(due / cent), Epoch: req.Epoch, Row: req.Row, Request: hash}
	if known != nil {
		return c, known, Reply{Msg: known}, nil
	}
	var e enc
	e.raw(hash[:])
	e.blob(nil)
	return c, nil, Reply{Put: []Put{{k, e, s.keepUntil(now, a)}}}, nil
}

// readCollect tells host and driver apart: a driver's request comes boxed, and
// only so, or the carrying host could collect in its name.
func (s *Settler) readCollect(msg []byte) (Collect, *admitted, error) {
	boxed := len(msg) > 0 && msg[0] == byte(privacy.KindCollectInner)
	var name [32]byte
	var err error
	var box []byte
	if boxed {
		if name, box, err = splitBoxed(msg); err != nil {
			return Collect{}, nil, err
		}
		a, err := s.session(name)
		if err != nil {
			return Collect{}, nil, err
		}
		if msg, err = a.Exporter.Open(privacy.KindCollectInner, box); err != nil {
			return Collect{}, nil, fmt.Errorf("collect: %w", err)
		}
	}
	c, err := ParseCollect(msg)
	if err != nil {
		return Collect{}, nil, err
	}
	if boxed != c.Party.boxed() || boxed && c.Session != name {
		return Collect{}, nil, fmt.Errorf("collect: %w", ErrMismatch)
	}
	a, err := s.session(c.Session)
	return c, &a, err
}

// due is what a party of a session may still be paid, millionths.
func (s *Settler) due(now time.Time, a *admitted, name [32]byte, p Party) (int64, error) {
	var due int64
	b := s.cfg.Get(key(bySettle, name))
	switch {
	case b != nil && p == PartyPool:
		if s.cfg.Shares == nil {
			return 0, ErrNotDue
		}
		list, err := s.cfg.Shares(name)
		if err != nil {
			return 0, err
		}
		due = (&Shares{List: list}).Sum()
	case b != nil:
		_, _, x, err := parseBooked(b)
		if err != nil {
			return 0, err
		}
		due = map[Party]int64{PartyHost: x.Host, PartyChange: x.Change, PartyDriver: x.Driver}[p]
	case p == PartyChange && now.After(time.Unix(int64(a.Expires), 0).Add(LateFor)):
		// Nothing was ever settled: the lock goes back whole.
		l, _ := s.locked(name)
		due = l.value
	}
	if due < cent {
		return 0, ErrNotDue
	}
	return due, nil
}

// Collected answers a claim with what the mint signed and the ledger's proof.
// Its Put replaces the one of Claim.
func (s *Settler) Collected(now time.Time, c *Claim, answer Collected) (Reply, error) {
	a, err := s.session(c.Session)
	if err != nil {
		return Reply{}, err
	}
	answer.Request = c.Request
	msg := answer.Bytes()
	if c.Party.boxed() {
		if msg, err = boxCollect(s.cfg.Rand, a.Exporter, c.Session, msg); err != nil {
			return Reply{}, err
		}
	}
	var e enc
	e.raw(c.Request[:])
	e.blob(msg)
	return Reply{Msg: msg, Put: []Put{{key(byClaim, c.Session, byte(c.Party)), e, s.keepUntil(now, &a)}}}, nil
}
