package session

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// Stored forms of a session: "GVH1" at the host, "GVU1" at the driver. Both
// hold secret keys and belong into an encrypted store.
const (
	hostMagic   = "GVH1"
	driverMagic = "GVU1"
	maxStored   = 64 << 10 // one stored field; the largest is a Lock of 10 kB
)

func (e *enc) flag(v bool) {
	if v {
		e.u8(1)
		return
	}
	e.u8(0)
}

func (d *dec) flag() bool {
	v := d.u8()
	d.bad = d.bad || v > 1
	return v == 1
}

// signed appends a message whose zero value means that there is none yet.
func (e *enc) signed(sig privacy.Signature, msg []byte) {
	if sig == (privacy.Signature{}) {
		msg = nil
	}
	e.blob(msg)
}

// stored reads a message that may be missing.
func stored[T any](d *dec, parse func([]byte) (T, error)) (t T) {
	b := d.blob(maxStored)
	if d.bad || b == nil {
		return t
	}
	v, err := parse(b)
	if err != nil {
		d.bad = true
		return t
	}
	return v
}

func (e *enc) step(s *step) {
	e.signed(s.tick.Sig, s.tick.Bytes())
	e.amounts(&s.amounts)
	e.i64(s.at)
}

func (d *dec) step() (s step) {
	s.tick = stored(d, ParseTick)
	s.amounts = d.amounts()
	s.at = int64(d.u64())
	return s
}

func (e *enc) amounts(a *Amounts) {
	for _, v := range [...]int64{a.Host, a.Owed, a.Grid, a.Driver, a.Fee} {
		e.i64(v)
	}
}

func (d *dec) amounts() Amounts {
	return Amounts{Host: d.debt(), Owed: d.debt(), Grid: d.money(), Driver: d.debt(), Fee: d.debt()}
}

func (e *enc) ending(x *Ending) {
	e.flag(x != nil)
	if x == nil {
		return
	}
	e.i64(x.Energy.Grid)
	e.i64(x.Energy.Res)
	e.i64(x.Energy.Out)
	e.amounts(&x.Amounts)
	e.i64(millis(x.Begin))
	e.i64(millis(x.End))
	e.evidence(x.Evidence)
}

func (d *dec) ending() *Ending {
	if !d.flag() {
		return nil
	}
	x := &Ending{Energy: Energy{Grid: d.energy(), Res: d.energy(), Out: d.energy()}, Amounts: d.amounts()}
	x.Begin, x.End = time.UnixMilli(int64(d.u64())).UTC(), time.UnixMilli(int64(d.u64())).UTC()
	x.Evidence = d.evidence()
	return x
}

func (s *hostState) bytes() []byte {
	e := enc(hostMagic)
	e.raw(s.key.Seed())
	e.raw(s.pass[:])
	e.u8(byte(s.phase))
	e.raw(s.offer.Bytes())
	e.signed(s.open.Sig, s.open.Bytes())
	e.blob(s.box)
	e.i64(s.since)
	e.flag(s.asked)
	e.blob(s.cert)
	e.blob(s.answer)
	e.u16(s.band)
	e.blob(s.lock)
	e.i64(s.locked)
	e.flag(s.paused)
	e.step(&s.last)
	e.step(&s.acked)
	e.signed(s.ack.Sig, s.ack.Bytes())
	e.signed(s.record.HostSig, s.record.Bytes())
	e.blob(s.settle)
	e.blob(s.receipt)
	e.ending(s.ending)
	return e
}

func parseHostState(b []byte) (s hostState, err error) {
	d := &dec{b: b}
	if string(d.take(4)) != hostMagic {
		return s, fmt.Errorf("%w: stored host session", ErrMalformed)
	}
	var seed [32]byte
	d.raw(seed[:])
	s.key = ed25519.NewKeyFromSeed(seed[:])
	d.raw(s.pass[:])
	s.phase = Phase(d.u8())
	if s.offer, err = ParseOffer(d.take(OfferSize)); err != nil {
		return s, err
	}
	s.open = stored(d, ParseOpen)
	s.box = d.blob(maxStored)
	s.since = int64(d.u64())
	s.asked = d.flag()
	s.cert = d.blob(pseudo.CertSize)
	s.answer = d.blob(AnswerSize)
	s.band = d.u16()
	s.lock = d.blob(maxStored)
	s.locked = d.debt()
	s.paused = d.flag()
	s.last, s.acked = d.step(), d.step()
	s.ack = stored(d, ParseAck)
	s.record = stored(d, ParseRecord)
	s.settle = d.blob(maxStored)
	s.receipt = d.blob(ReceiptSize)
	s.ending = d.ending()
	d.bad = d.bad || s.phase < Offered || s.phase > Void || !s.whole()
	return s, d.end("stored host session")
}

// whole says whether the fields that the phase relies on are there, so that a
// damaged state is refused on loading and never met later.
func (s *hostState) whole() bool {
	opened := s.open.Sig != (privacy.Signature{}) && s.box != nil
	switch {
	case s.phase > Offered && !opened:
		return false
	case (s.phase == Closing || s.phase == Settling || s.phase == Done) && (s.ending == nil || s.record.HostSig == (privacy.Signature{})):
		return false
	case (s.phase == Settling || s.phase == Done) && s.settle == nil:
		return false
	}
	return true
}

func (s *driverState) bytes() []byte {
	e := enc(driverMagic)
	e.u8(byte(s.phase))
	e.blob(s.me.Bytes())
	e.raw(s.exporter[:])
	e.raw(s.nonce[:])
	e.raw(s.offer.Bytes())
	e.raw(s.open.Bytes())
	e.blob(s.box)
	e.u16(s.trust)
	e.blob(s.answer)
	e.u8(byte(s.cause))
	e.u32(s.fee.PerSession)
	e.u32(s.fee.PerKWhIn)
	e.u32(s.fee.PerKWhOut)
	e.raw(s.fee.Sheet[:])
	e.i64(s.locked)
	e.signed(s.last.Sig, s.last.Bytes())
	e.blob(s.closed)
	e.blob(s.evidence)
	var o []byte
	if s.opening != nil {
		o = s.opening.bytes()
	}
	e.blob(o)
	return e
}

func parseDriverState(b []byte) (s driverState, err error) {
	d := &dec{b: b}
	if string(d.take(4)) != driverMagic {
		return s, fmt.Errorf("%w: stored driver session", ErrMalformed)
	}
	s.phase = Phase(d.u8())
	if s.me, err = pseudo.ParsePseudonym(d.blob(maxStored)); err != nil {
		return s, err
	}
	if s.me.BSK == nil {
		return s, fmt.Errorf("%w: stored driver session has a meter's pseudonym", ErrMalformed)
	}
	d.raw(s.exporter[:])
	d.raw(s.nonce[:])
	if s.offer, err = ParseOffer(d.take(OfferSize)); err != nil {
		return s, err
	}
	if s.open, err = ParseOpen(d.take(OpenSize)); err != nil {
		return s, err
	}
	s.box = d.blob(maxStored)
	s.trust = d.u16()
	s.answer = d.blob(AnswerSize)
	s.cause = Cause(d.u8())
	s.fee.PerSession, s.fee.PerKWhIn, s.fee.PerKWhOut = d.u32(), d.u32(), d.u32()
	d.raw(s.fee.Sheet[:])
	s.locked = d.debt()
	s.last = stored(d, ParseTick)
	s.closed = d.blob(maxStored)
	s.evidence = d.blob(maxStored)
	if o := stored(d, parseOpening); o != (Opening{}) {
		s.opening = &o
	}
	d.bad = d.bad || s.phase < Asked || s.phase > Void
	return s, d.end("stored driver session")
}
