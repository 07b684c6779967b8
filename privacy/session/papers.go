package session

import (
	"fmt"

	"gridveil/privacy"
)

// Papers are what both sides signed in one session, as messages: enough for
// somebody who trusts neither of them and was not there. They name no person:
// the keys in them serve this session only. What tells where it was is the
// meter's key in the evidence.
type Papers struct {
	Offer, Open []byte
	Close       []byte // the Record as signed in the end, with its Evidence
	Tick, Ack   []byte // the last one that the driver acknowledged; of a session that was cut only
}

// Proven is what papers show.
type Proven struct {
	Offer    Offer
	Open     Open
	Record   Record
	Evidence Evidence
	Code     string // what the meter signed as the session's name
}

// Papers are those of a session whose Record is signed; ok is false before.
func (h *Host) Papers() (p Papers, ok bool) {
	if h.ending == nil || h.ending.Evidence == nil || h.record.HostSig == (privacy.Signature{}) {
		return p, false
	}
	if h.record.Form == Both && h.record.DriverSig == (privacy.Signature{}) {
		return p, false
	}
	c := Close{Record: h.record, Evidence: h.ending.Evidence}
	p = Papers{Offer: h.offer.Bytes(), Open: h.open.Bytes(), Close: c.Bytes()}
	if h.record.Form == Cut {
		p.Tick, p.Ack = h.acked.tick.Bytes(), h.ack.Bytes()
	}
	return p, true
}

// Papers are those of a session that the driver signed with evidence; ok is
// false for others, and for one that the host cut: then the host has them.
func (d *Driver) Papers() (p Papers, ok bool) {
	if d.closed == nil {
		return p, false
	}
	s, err := ParseSettle(d.closed)
	if err != nil {
		return p, false
	}
	c, err := ParseClose(d.evidence)
	if err != nil || c.Evidence == nil {
		return p, false
	}
	c.Record = s.Record
	return Papers{Offer: d.offer.Bytes(), Open: d.open.Bytes(), Close: c.Bytes()}, true
}

// Check opens papers and verifies what they show by themselves: that the offer
// with its terms was signed by the host and accepted by the driver, that the
// record of this very session was signed by both, or its end by the driver's
// last acknowledgement, or agreed to be the meter's word alone; and that meter
// key, terms and meter records are those that were committed to. It does not
// look into terms and meter records. It returns ErrMalformed, ErrSignature,
// ErrMismatch or ErrEvidence.
func (p Papers) Check(net privacy.Net) (v Proven, err error) {
	if v.Offer, err = ParseOffer(p.Offer); err != nil {
		return v, err
	}
	if v.Open, err = ParseOpen(p.Open); err != nil {
		return v, err
	}
	c, err := ParseClose(p.Close)
	if err != nil {
		return v, err
	}
	v.Record, v.Code = c.Record, Code(v.Open.SPK, v.Offer.HPK)
	if err := v.Offer.verify(net); err != nil {
		return v, err
	}
	if err := v.Open.verify(net); err != nil {
		return v, err
	}
	if v.Open.Offer != v.Offer.Hash(net) || v.Record.Offer != v.Open.Offer || v.Record.Open != v.Open.Hash(net) || v.Record.Currency != v.Offer.Currency {
		return v, fmt.Errorf("papers: %w", ErrMismatch)
	}
	if err := v.Record.verifyHost(net, v.Offer.HPK); err != nil {
		return v, err
	}
	if c.Evidence == nil {
		return v, fmt.Errorf("%w: there is none", ErrEvidence)
	}
	v.Evidence = *c.Evidence
	if err := v.Evidence.opens(&v.Offer, &v.Record); err != nil {
		return v, err
	}
	return v, p.driver(net, &v)
}

// driver checks the driver's word, in the form that the record has.
func (p Papers) driver(net privacy.Net, v *Proven) error {
	switch v.Record.Form {
	case Both:
		return v.Record.verifyDriver(net, v.Open.SPK)
	case Unattended:
		return nil // the terms say whether that was agreed
	}
	t, err := ParseTick(p.Tick)
	if err != nil {
		return err
	}
	a, err := ParseAck(p.Ack)
	if err != nil {
		return err
	}
	if err := t.verify(net, v.Offer.HPK); err != nil {
		return err
	}
	if err := a.verify(net, v.Open.SPK); err != nil {
		return err
	}
	name := t.Hash(net)
	if a.Tick != name || v.Record.LastTick != name || v.Record.Energy != t.Energy {
		return fmt.Errorf("last tick: %w", ErrMismatch)
	}
	return nil
}
