// Package session is the guest charging session: its messages, and the state
// machines of the three parties that speak them.
//
// A driver (Ub, a Driver in the wallet) charges or discharges at a stranger's
// house (Ua, a Host in the gateway) and an aggregator (EVAGG, a Settler)
// authorises the session beforehand and settles it afterwards:
//
//	Offer -> Open + Box -> AuthReq -> Answer -> Tick / Ack ... -> Close -> Closed -> Settle -> Receipt
//
// The host never sees who the driver is: the certificate travels inside Box,
// which only the aggregator opens, and everything the aggregator tells the
// driver comes back inside the same exchange. The aggregator never sees which
// house it was: the host shows a blind-signed pass. The driver's utility later
// gets a Line, which has no field for a place, an hour or a host.
//
// # How to use it
//
// Start with NewHost, NewDriver or a Settler. The machines are pure: they take
// the time and randomness as arguments and start nothing. Bytes that came from
// another party go into Step; what the house or the wallet itself knows (a
// meter value, the end, a timer) goes into the method named after it. Each
// call returns an Out or a Reply whose Persist part must be durable before
// anything in its Send part leaves; a crash in between repeats the same bytes.
//
// Energy is int64 mWh, money int64 millionths of a currency unit, and every
// amount that a payee gets in a session is a whole minor unit (ErrNotWholeCents
// otherwise; the rounding happens once, in package ev).
//
// # What it does not protect
//
// A host and the driver's utility together can match exact amounts, and the
// aggregator and that utility together see contract, zone and time; see
// doc/threats.md. Source: doc/design.md; privacy design 4.3 and 4.4.
package session

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// Kinds of the unsigned messages between wallet and gateway: they never leave
// the guest link, so they are numbered here and not with the signed ones.
const (
	kindAsk   privacy.Kind = 30 + iota // the host would trust a certificate
	kindShown                          // the certificate itself
	kindClose                          // record and evidence, for the driver's signature
)

// Exact sizes of the messages, bytes. Guest door and onion service refuse any
// other length before parsing.
const (
	OfferSize   = 191
	OpenSize    = 180
	BoxSize     = 560                // sealed with suite 1; other suites differ by their overhead
	OpeningSize = OpenSize + BoxSize // what the driver sends: Open and Box
	PassSize    = 256
	AuthReqSize = 1073
	AnswerSize  = 104 + 192 + privacy.ExporterBoxOverhead
	TickSize    = 134
	AckSize     = 98
	RecordSize  = 325
	StubBoxSize = 192 + privacy.ExporterBoxOverhead
	ReceiptSize = 139 + 384 + privacy.ExporterBoxOverhead
	AskSize     = 36
	ShownSize   = 34 + pseudo.CertSize
	LineSize    = 161
	RejectSize  = 99
	boxPlain    = 502
	innerBox    = 192 + privacy.ExporterBoxOverhead
	openingBox  = 384 + privacy.ExporterBoxOverhead
)

// Limits with their reasons.
const (
	MaxEnergy = 1_000_000_000_000 // mWh (1 GWh): 1e6 sessions still sum in 63 bits
	MaxAmount = 1_000_000_000_000 // millionths (1e6 units): far above the highest band, sums stay in 63 bits
	MaxLines  = 4096              // lines of one BillBatch
	MaxLocked = 28                // notes of one Lock: 10 kB, one onion request holds 11.5 kB
	// MaxEvidence bounds the encoded Evidence, so that a Settle with shown
	// evidence still fits one onion request.
	MaxEvidence = 10 << 10
	maxRecords  = 64      // OCMF records of one session
	maxKeyBytes = 256     // a meter key in any encoding OCMF allows
	maxTerms    = 256     // the terms behind Offer.Terms; v1 has 80 bytes
	cent        = 10_000  // millionths in a minor unit
	unit        = 1000000 // millionths in a currency unit
	stubStep    = 100_000 // mWh: energies that reach the utility are rounded to 100 Wh
	slotSeconds = 900     // T0, T1 count 15-minute units since 1970
)

// Times of the protocol.
const (
	PauseAfter  = 30 * time.Second    // no Ack: the car pauses
	CutAfter    = 5 * time.Minute     // no Ack: the session closes as cut
	TrustAfter  = 5 * time.Second     // no Answer: the offline rule decides
	MaxOfferAge = time.Hour           // an offer may not expire later than this
	LateFor     = 60 * 24 * time.Hour // offline records are taken this long
	KeepFor     = 62 * 24 * time.Hour // burned pseudonyms are kept this long after their epoch
)

// Mode bits of an Offer.
const (
	ModeDirect    byte = 1 << 0 // grid energy is paid to the host's utility
	ModeShown     byte = 1 << 1 // the aggregator gets the signed meter records
	ModeDischarge byte = 1 << 2 // the car may give energy back
	modeMask           = ModeDirect | ModeShown | ModeDischarge
)

// Errors. Those of foreign bytes count against the peer, none stops a session
// that runs.
var (
	// ErrConfig: a part of a machine's configuration is missing.
	ErrConfig = errors.New("configuration is incomplete")
	// ErrMalformed: the bytes are not a message of the expected kind.
	ErrMalformed = errors.New("not a valid session message")
	// ErrSignature: a signature does not verify.
	ErrSignature = errors.New("signature does not verify")
	// ErrOffer: the offer is expired, too far in the future or out of limits; ask the host for a new one.
	ErrOffer = errors.New("offer is not acceptable")
	// ErrBand: the session would cost more than agreed, or the certificate's limit.
	ErrBand = errors.New("amount is above the agreed band")
	// ErrAmount: amounts do not add up.
	ErrAmount = errors.New("amounts do not add up")
	// ErrNotWholeCents: a payee's amount is not a whole minor unit.
	ErrNotWholeCents = errors.New("amount is not in whole cents")
	// ErrMismatch: a message belongs to another session.
	ErrMismatch = errors.New("message belongs to another session")
	// ErrOrder: a valid message that this state does not expect; it changes nothing.
	ErrOrder = errors.New("message does not fit the state of the session")
	// ErrChain: a Tick does not continue the chain of Ticks.
	ErrChain = errors.New("tick does not continue the chain")
	// ErrEvidence: the signed meter records do not support the Record.
	ErrEvidence = errors.New("meter evidence does not support the record")
	// ErrNoLock: energy sold by the car has no locked notes behind it.
	ErrNoLock = errors.New("no locked notes cover this sale")
	// ErrDuplicate: another Settle of this session was accepted before.
	ErrDuplicate = errors.New("session was settled with other bytes")
	// ErrUnknown: no such session here, or it was not authorised.
	ErrUnknown = errors.New("session is not authorised here")
	// ErrCollected: notes of this session were collected with other bytes.
	ErrCollected = errors.New("notes were collected with another request")
	// ErrNotDue: nothing to collect yet or at all.
	ErrNotDue = errors.New("nothing to collect")
)

// IsBand says whether b is one of pseudo.Bands.
func IsBand(b uint16) bool { return pseudo.CheckBand(b, pseudo.Bands[len(pseudo.Bands)-1]) == nil }

// Code is the identity token of a session towards the wallbox: base32 without
// padding of the first 10 bytes of SHA-256("gridveil-code" spk hpk), 16
// characters. It is set as idTag before the transaction, so the meter signs it
// as OCMF ID and the record names this one session and no person.
func Code(spk, hpk [32]byte) string {
	h := sha256.New()
	h.Write([]byte("gridveil-code"))
	h.Write(spk[:])
	h.Write(hpk[:])
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:10])
}

// MeterCommit is Offer.MeterCommit: SHA-256(salt key). The key is opened to the
// driver only, since it would name the house for ever.
func MeterCommit(salt [32]byte, key []byte) [32]byte {
	return sha256.Sum256(append(salt[:len(salt):len(salt)], key...))
}

// RoundEnergy rounds mWh to the nearest 100 Wh, halves up: what the driver's
// utility may learn of a session's energy.
func RoundEnergy(mWh int64) int64 { return (mWh + stubStep/2) / stubStep * stubStep }
