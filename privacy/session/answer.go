package session

import (
	"fmt"

	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// AuthReq is the host's question whether a session may start. The Open is not
// sent whole: the aggregator recomputes what Offer, Box and certificate imply.
type AuthReq struct {
	Offer   Offer
	Band    uint16
	OpenSig privacy.Signature
	Box     []byte // BoxSize bytes with suite 1
	Pass    [PassSize]byte
}

// Bytes encodes the request: AuthReqSize bytes with suite 1. The embedded
// offer goes without its two head bytes.
func (r *AuthReq) Bytes() []byte {
	e := head(privacy.KindAuthReq, AuthReqSize-BoxSize+len(r.Box))
	e.raw(r.Offer.Bytes()[2:])
	e.u16(r.Band)
	e.raw(r.OpenSig[:])
	e.raw(r.Box)
	e.raw(r.Pass[:])
	return e
}

// ParseAuthReq decodes a request whose Box has the size that suite s gives.
func ParseAuthReq(b []byte, s privacy.Suite) (AuthReq, error) {
	var r AuthReq
	boxSize := boxSize(s)
	d := body(b, privacy.KindAuthReq, AuthReqSize-BoxSize+boxSize)
	offer := append([]byte{byte(privacy.KindOffer), privacy.Version}, d.take(OfferSize-2)...)
	r.Band = d.u16()
	d.raw(r.OpenSig[:])
	r.Box = append([]byte(nil), d.take(boxSize)...)
	d.raw(r.Pass[:])
	if err := d.end("authorisation request"); err != nil {
		return AuthReq{}, err
	}
	if !IsBand(r.Band) {
		return AuthReq{}, fmt.Errorf("%w: band of the authorisation request", ErrMalformed)
	}
	var err error
	r.Offer, err = ParseOffer(offer)
	return r, err
}

// boxSize is the size of a Box under suite s.
func boxSize(s privacy.Suite) int { return privacy.KindBox.Block() + s.Overhead() }

// Reason is all that a host learns of a refusal.
type Reason uint16

// Reasons; what lies behind ReasonRefused is for the driver only.
const (
	ReasonRefused Reason = 1 // not authorised
	ReasonRetry   Reason = 2 // the aggregator cannot answer now: same bytes again later
	ReasonOffer   Reason = 3 // the host's offer, pass or request is at fault
)

// String says what a host's page may show.
func (r Reason) String() string {
	switch r {
	case ReasonRefused:
		return "not authorised"
	case ReasonRetry:
		return "try again later"
	case ReasonOffer:
		return "the offer was not accepted"
	}
	return fmt.Sprintf("reason %d", uint16(r))
}

// Answer is the aggregator's yes or no. Both have one size, so that nobody on
// the way tells them apart.
type Answer struct {
	OK      bool
	Session [32]byte // H(Open); of a no: SHA-256 of the AuthReq, whatever the cause
	Band    uint16   // yes: the band authorised
	Reason  Reason   // no: what the host may know
	Expires uint32   // yes: Unix seconds by which the session must have begun; no: 0
	Sig     privacy.Signature
	Inner   []byte // for the driver, boxed by exporter
}

func (a *Answer) kind() privacy.Kind {
	if a.OK {
		return privacy.KindAuthOK
	}
	return privacy.KindAuthNo
}

func (a *Answer) body() []byte {
	e := head(a.kind(), AnswerSize)
	e.raw(a.Session[:])
	if a.OK {
		e.u16(a.Band)
	} else {
		e.u16(uint16(a.Reason))
	}
	e.u32(a.Expires)
	return e
}

// Bytes encodes the answer, AnswerSize bytes.
func (a *Answer) Bytes() []byte {
	return append(append(a.body(), a.Sig[:]...), a.Inner...)
}

// ParseAnswer decodes a yes or a no.
func ParseAnswer(b []byte) (Answer, error) {
	a := Answer{OK: len(b) > 0 && b[0] == byte(privacy.KindAuthOK)}
	d := body(b, a.kind(), AnswerSize)
	d.raw(a.Session[:])
	if v := d.u16(); a.OK {
		a.Band = v
		d.bad = d.bad || !IsBand(v)
	} else {
		a.Reason = Reason(v)
		d.bad = d.bad || v < uint16(ReasonRefused) || v > uint16(ReasonOffer)
	}
	a.Expires = d.u32()
	d.bad = d.bad || (!a.OK && a.Expires != 0)
	d.raw(a.Sig[:])
	a.Inner = append([]byte(nil), d.take(innerBox)...)
	return a, d.end("answer")
}

func (a *Answer) verify(net privacy.Net, evagg [32]byte) error {
	if !privacy.Verify(evagg[:], a.kind(), net, a.body(), a.Sig) {
		return fmt.Errorf("answer: %w", ErrSignature)
	}
	return nil
}

// Cause is what the driver learns of an answer.
type Cause byte

// Causes of an answer.
const (
	CauseNone    Cause = 0 // authorised
	CauseUsed    Cause = 1 // the pseudonym was used for another session
	CauseExpired Cause = 2 // its week is over
	CauseRevoked Cause = 3 // the utility revoked it
	CauseLimit   Cause = 4 // the band is above the certificate's limit
	CauseIssuer  Cause = 5 // certificate, mandate or issuer is not accepted here
	CauseOffer   Cause = 6 // the host is at fault: expired offer, bad pass, key used before
	CauseBusy    Cause = 7 // the aggregator cannot answer now
)

// String tells the driver what happened and what to do next.
func (c Cause) String() string {
	switch c {
	case CauseNone:
		return "authorised"
	case CauseUsed:
		return "this pseudonym was used before: open again with the next one"
	case CauseExpired:
		return "this week's pseudonyms are over: fetch a new deck"
	case CauseRevoked:
		return "this pseudonym was revoked: ask your utility, then fetch a new deck"
	case CauseLimit:
		return "the band is above your limit: choose a lower one"
	case CauseIssuer:
		return "the aggregator does not accept this certificate: fetch a new deck"
	case CauseOffer:
		return "the host's offer was not accepted: ask for a new one"
	case CauseBusy:
		return "the aggregator is busy: the same request goes out again"
	}
	return fmt.Sprintf("cause %d", byte(c))
}

// FeeTerms are the aggregator's terms for one session, told to the driver.
type FeeTerms struct {
	PerSession uint32   // millionths
	PerKWhIn   uint32   // millionths per kWh into the car
	PerKWhOut  uint32   // millionths per kWh from the car
	Sheet      [32]byte // hash of the fee sheet on the ledger
}

// inner is the driver's part of an Answer.
type inner struct {
	Cause   Cause
	Session [32]byte
	Band    uint16
	Expires uint32
	Fee     FeeTerms
}

func (x *inner) bytes() []byte {
	e := head(privacy.KindAuthInner, 80)
	e.u8(byte(x.Cause))
	e.raw(x.Session[:])
	e.u16(x.Band)
	e.u32(x.Expires)
	e.u32(x.Fee.PerSession)
	e.u32(x.Fee.PerKWhIn)
	e.u32(x.Fee.PerKWhOut)
	e.raw(x.Fee.Sheet[:])
	return e
}

func parseInner(b []byte) (inner, error) {
	var x inner
	d := body(b, privacy.KindAuthInner, -1)
	x.Cause = Cause(d.u8())
	d.raw(x.Session[:])
	x.Band = d.u16()
	x.Expires = d.u32()
	x.Fee.PerSession, x.Fee.PerKWhIn, x.Fee.PerKWhOut = d.u32(), d.u32(), d.u32()
	d.raw(x.Fee.Sheet[:])
	return x, d.end("driver's answer")
}

// Ask tells the wallet that no answer came and that the host would trust a
// certificate up to Limit currency units. It stays on the guest link.
type Ask struct {
	Session [32]byte // H(Open)
	Limit   uint16
}

// Bytes encodes the question, AskSize bytes.
func (a *Ask) Bytes() []byte {
	e := head(kindAsk, AskSize)
	e.raw(a.Session[:])
	e.u16(a.Limit)
	return e
}

// ParseAsk decodes an Ask.
func ParseAsk(b []byte) (Ask, error) {
	var a Ask
	d := body(b, kindAsk, AskSize)
	d.raw(a.Session[:])
	a.Limit = d.u16()
	return a, d.end("ask")
}

// Shown is the certificate that a driver shows an offline host. The host then
// knows the driver's utility, and nothing else.
type Shown struct {
	Session [32]byte // H(Open)
	Cert    pseudo.Cert
}

// Bytes encodes the certificate shown, ShownSize bytes.
func (s *Shown) Bytes() []byte {
	e := head(kindShown, ShownSize)
	e.raw(s.Session[:])
	e.raw(s.Cert[:])
	return e
}

// ParseShown decodes a Shown.
func ParseShown(b []byte) (Shown, error) {
	var s Shown
	d := body(b, kindShown, ShownSize)
	d.raw(s.Session[:])
	d.raw(s.Cert[:])
	return s, d.end("shown certificate")
}
