package session

import (
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/commit"
)

// Settled is a session as the aggregator books it: what its ledger entry, its
// bill line and its claims are made of.
type Settled struct {
	Session  [32]byte // H(Open)
	Ref      [32]byte // names the session on the ledger
	Payer    [16]byte // the utility that certified the driver
	Evidence [32]byte // of the ledger entry: SHA-256(salt Record)
	Salt     [32]byte
	Values   commit.Values
	Blind    [commit.Size]byte
	Commit   [commit.Size]byte
	Host     int64 // the host's earnings, millionths
	Change   int64 // what is left of the host's lock
	Driver   int64 // the driver's earnings
	Currency uint16
	Direct   bool // the grid part concerns the host's utility
	Line     Line
}

// Bytes encodes the booking for the aggregator's store.
func (x *Settled) Bytes() []byte {
	var e enc
	for _, f := range [...][]byte{x.Session[:], x.Ref[:], x.Payer[:], x.Evidence[:], x.Salt[:]} {
		e.raw(f)
	}
	for _, v := range [...]int64{x.Values.Pay, x.Values.Earn, x.Values.GridPay, x.Values.Energy} {
		e.i64(v)
	}
	e.raw(x.Blind[:])
	e.raw(x.Commit[:])
	e.i64(x.Host)
	e.i64(x.Change)
	e.i64(x.Driver)
	e.u16(x.Currency)
	e.flag(x.Direct)
	e.line(&x.Line)
	return e
}

// ParseSettled is the inverse of Bytes.
func ParseSettled(b []byte) (Settled, error) {
	var x Settled
	d := &dec{b: b}
	x.read(d)
	return x, d.end("stored booking")
}

func (x *Settled) read(d *dec) {
	for _, f := range [...][]byte{x.Session[:], x.Ref[:], x.Payer[:], x.Evidence[:], x.Salt[:]} {
		d.raw(f)
	}
	x.Values = commit.Values{Pay: d.debt(), Earn: d.debt(), GridPay: d.money(), Energy: d.within(0, 4*MaxEnergy)}
	d.raw(x.Blind[:])
	d.raw(x.Commit[:])
	x.Host, x.Change, x.Driver = d.debt(), d.debt(), d.debt()
	x.Currency = d.u16()
	x.Direct = d.flag()
	x.Line = d.line()
}

// Settle takes a finished session. Settled is nil for a repetition, which gets
// the stored Receipt again; else it must be stored together with Reply.Put.
//
// It returns ErrUnknown for a session that was not authorised here (send the
// AuthReq first), ErrDuplicate for other bytes than before, and ErrSignature,
// ErrMismatch, ErrAmount, ErrNotWholeCents, ErrBand, ErrNoLock, ErrEvidence or
// an error of Price for a session that does not hold, and ErrCollected for one
// whose lock the host took back.
func (s *Settler) Settle(now time.Time, msg []byte) (Reply, *Settled, error) {
	x, err := ParseSettle(msg)
	if err != nil {
		return Reply{}, nil, err
	}
	name, hash := x.Record.Open, sha256.Sum256(msg)
	if b := s.cfg.Get(key(bySettle, name)); b != nil {
		known, receipt, _, err := parseBooked(b)
		if err != nil {
			return Reply{}, nil, err
		}
		if known != hash {
			return Reply{}, nil, ErrDuplicate
		}
		return Reply{Msg: receipt}, nil, nil
	}
	a, err := s.session(name)
	if err != nil {
		return Reply{}, nil, err
	}
	if s.cfg.Get(key(byClaim, name, byte(PartyChange))) != nil {
		return Reply{}, nil, ErrCollected // only a lapsed lock is claimed before the settlement
	}
	line, fee, err := s.judge(now, &a, &x)
	if err != nil {
		return Reply{}, nil, err
	}
	x.Record.Amounts.Fee = fee
	booked, err := s.book(&a, &x.Record, line)
	if err != nil {
		return Reply{}, nil, err
	}
	receipt, err := s.receipt(&a, &x.Record, booked)
	if err != nil {
		return Reply{}, nil, err
	}
	var e enc
	e.raw(hash[:])
	e.blob(receipt)
	e.raw(booked.Bytes())
	return Reply{Msg: receipt, Put: []Put{{key(bySettle, name), e, s.keepUntil(now, &a)}}}, booked, nil
}

func parseBooked(b []byte) (hash [32]byte, receipt []byte, x Settled, err error) {
	d := &dec{b: b}
	d.raw(hash[:])
	receipt = d.blob(ReceiptSize)
	x.read(d)
	return hash, receipt, x, d.end("stored booking")
}

// judge checks a Settle against its authorised session and makes its bill line.
func (s *Settler) judge(now time.Time, a *admitted, x *Settle) (Line, int64, error) {
	r := &x.Record
	if r.Offer != a.Open.Offer || r.Currency != a.Offer.Currency {
		return Line{}, 0, fmt.Errorf("record: %w", ErrMismatch)
	}
	if err := withinTimes(now, a, r); err != nil {
		return Line{}, 0, err
	}
	if err := r.verifyHost(s.cfg.Net, a.Offer.HPK); err != nil {
		return Line{}, 0, err
	}
	if err := s.evidence(a, x); err != nil {
		return Line{}, 0, err
	}
	fee, err := s.cfg.Price(Case{Offer: a.Offer, Band: a.Open.Band, Record: *r, Evidence: x.Evidence})
	if err != nil {
		return Line{}, 0, err
	}
	if err := s.amounts(a, r, fee); err != nil {
		return Line{}, 0, err
	}
	line, err := s.line(a, x, fee)
	return line, fee, err
}

// withinTimes: a session begins after its offer was made and while its answer is
// good, and ends before it is settled, to the quarter hour.
func withinTimes(now time.Time, a *admitted, r *Record) error {
	begin, end := int64(r.T0)*slotSeconds, int64(r.T1)*slotSeconds
	earliest := int64(a.Offer.Expires) - int64(MaxOfferAge/time.Second) - slotSeconds
	if begin < earliest || begin > int64(a.Expires) || end-slotSeconds > now.Unix() {
		return fmt.Errorf("record: %w: its times lie outside the authorisation", ErrMismatch)
	}
	return nil
}

// evidence: what was shown must open the commitments, and must be shown where
// the offer or the form of the record says so.
func (s *Settler) evidence(a *admitted, x *Settle) error {
	if x.Evidence == nil {
		// A sale that the driver did not sign is judged by the terms, so they
		// must be there.
		sale := x.Record.Form == Cut && x.Record.Energy.Out > 0
		if a.Offer.Mode&ModeShown != 0 || x.Record.Form == Unattended || sale {
			return fmt.Errorf("%w: it must be shown", ErrEvidence)
		}
		return nil
	}
	return x.Evidence.opens(&a.Offer, &x.Record)
}

func (s *Settler) amounts(a *admitted, r *Record, fee int64) error {
	am := r.Amounts
	am.Fee = fee
	if err := am.Check(a.Offer.Mode); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	if am.Total() > int64(a.Open.Band)*unit {
		return fmt.Errorf("record: %w", ErrBand)
	}
	if am.Owed > 0 {
		if l, ok := s.locked(r.Open); !ok || am.Owed > l.value {
			return fmt.Errorf("record: %w", ErrNoLock)
		}
	}
	return nil
}

// line checks the driver's word for the record, in the form that it has, and
// makes the bill line from it.
func (s *Settler) line(a *admitted, x *Settle, fee int64) (Line, error) {
	am := x.Record.Amounts
	am.Fee = fee
	l := Line{BPK: a.Box.BPK, EVAGG: s.cfg.ID, Epoch: a.Box.Cert.Epoch(), In: RoundEnergy(x.Record.Energy.In()),
		Out: RoundEnergy(x.Record.Energy.Out), Total: am.Total(), Currency: x.Record.Currency, AuthNonce: a.Box.Nonce}
	if x.Record.Form != Both {
		l.Form, l.Band, l.Sig = Mandate, a.Open.Band, a.Box.Sig
		if x.Record.Form == Cut {
			return l, s.cut(a, x, am.Total())
		}
		return l, nil
	}
	if err := x.Record.verifyDriver(s.cfg.Net, a.Open.SPK); err != nil {
		return Line{}, err
	}
	pt, err := a.Exporter.Open(privacy.KindStub, x.Stub)
	if err != nil {
		return Line{}, fmt.Errorf("stub: %w", err)
	}
	st, err := parseStub(pt)
	if err != nil {
		return Line{}, err
	}
	l.Form, l.Sig = Signed, st.Sig
	if st != l.stub() {
		return Line{}, fmt.Errorf("stub: %w: it does not say what the record says", ErrAmount)
	}
	if !l.verify(s.cfg.Net) {
		return Line{}, fmt.Errorf("stub: %w", ErrSignature)
	}
	return l, nil
}

// cut: the last Tick that the driver acknowledged says it all.
func (s *Settler) cut(a *admitted, x *Settle, total int64) error {
	if err := x.Tick.verify(s.cfg.Net, a.Offer.HPK); err != nil {
		return err
	}
	if err := x.Ack.verify(s.cfg.Net, a.Open.SPK); err != nil {
		return err
	}
	h := x.Tick.Hash(s.cfg.Net)
	if x.Ack.Tick != h || x.Record.LastTick != h || x.Record.Energy != x.Tick.Energy {
		return fmt.Errorf("cut: %w", ErrMismatch)
	}
	if x.Tick.Seq == 1 && x.Tick.Prev != x.Record.Open {
		return fmt.Errorf("cut: %w", ErrMismatch)
	}
	if total > x.Tick.Cum {
		return fmt.Errorf("cut: %w: more than the driver acknowledged", ErrAmount)
	}
	return nil
}

// book makes the ledger's view.
func (s *Settler) book(a *admitted, r *Record, l Line) (*Settled, error) {
	am := r.Amounts
	x := &Settled{Session: r.Open, Ref: a.Box.Cert.Ref(), Payer: a.Box.Cert.Issuer(), Line: l, Currency: r.Currency,
		Host: am.Host, Driver: am.Driver, Direct: a.Offer.Mode&ModeDirect != 0}
	if lock, ok := s.locked(r.Open); ok {
		x.Change = lock.value - am.Owed
	}
	// Notes paid from the host's own lock are redeemed and issued apart.
	x.Values = commit.Values{Pay: am.Total(), Earn: am.Host + max(-am.Grid, 0), GridPay: am.Grid, Energy: l.In + l.Out}
	if _, err := io.ReadFull(s.cfg.Rand, x.Salt[:]); err != nil {
		return nil, fmt.Errorf("draw salt: %w", err)
	}
	x.Evidence = sha256.Sum256(append(x.Salt[:len(x.Salt):len(x.Salt)], r.Bytes()...))
	var err error
	if x.Blind, err = commit.NewBlind(s.cfg.Rand); err != nil {
		return nil, fmt.Errorf("draw blind: %w", err)
	}
	x.Commit, err = commit.New(x.Values, x.Blind)
	return x, err
}

func (s *Settler) receipt(a *admitted, r *Record, x *Settled) ([]byte, error) {
	o := Opening{Record: r.Hash(s.cfg.Net), Salt: x.Salt, Values: x.Values, Blind: x.Blind}
	box, err := a.Exporter.Seal(s.cfg.Rand, privacy.KindReceiptInner, o.bytes())
	if err != nil {
		return nil, fmt.Errorf("seal opening: %w", err)
	}
	rc := Receipt{Taken: TakenRecord, Session: r.Open, What: o.Record, Value: r.Amounts.Host, Inner: box}
	rc.Sig = privacy.Sign(s.cfg.Key, privacy.KindReceipt, s.cfg.Net, rc.body())
	return rc.Bytes(), nil
}

// locked is a stored lock.
type locked struct {
	value   int64
	hash    [32]byte
	receipt []byte
}

func (s *Settler) locked(name [32]byte) (locked, bool) {
	b := s.cfg.Get(key(byLock, name))
	if b == nil {
		return locked{}, false
	}
	d := &dec{b: b}
	l := locked{value: d.debt()}
	d.raw(l.hash[:])
	l.receipt = d.blob(ReceiptSize)
	return l, d.end("stored lock") == nil
}
