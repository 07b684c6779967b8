// Package ocmf reads, checks and writes signed meter records in the Open Charge Metering Format.
//
// A record is the text "OCMF|payload|signature". The meter signs the payload byte for byte, so a record is kept as it
// came and only a copy is parsed. The way of a record is
//
//	Parse(text)              one record, syntax only
//	ParseKey(text)           the meter's key, from its label or the pairing page
//	Check(texts, key, code)  everything that billing needs: signature, begin and end, order, flags, code, registers
//
// Check decides whether energy may be billed; its errors are ErrOCMF with a Reason. A record that only verifies, but
// cannot be billed, may still be shown: Record.Verify. Sign writes records for simulated meters, ParseContainer reads
// the XML files of the transparency software.
//
// Guaranteed: what Check accepts was signed by exactly the key that the owner confirmed, for the session whose code it
// holds. Not guaranteed: that the key belongs to a calibrated meter; that is what its label or certificate says.
//
// Energy is int64 mWh, time UTC milliseconds. Source: OCMF 1.0 to 1.4, S.A.F.E. e.V.; doc/design.md, OCMF.
package ocmf

import "fmt"

// Limits of the input.
const (
	MaxRecord  = 16 << 10 // bytes of one record
	MaxRecords = 64       // records of one session
	maxRD      = 256      // readings of one record; load profiles are not billed from here
)

// Reason names the check that a record failed.
type Reason string

// The reasons. The comment says what to do about it.
const (
	TooLarge   Reason = "too-large"   // more than 16 KiB or 64 records: configure the station to sign begin and end only
	Syntax     Reason = "syntax"      // not an OCMF record: look at the station's firmware notes
	BareHash   Reason = "bare-hash"   // a hash or signature without the readings: enable full records at the station
	Algorithm  Reason = "algorithm"   // unknown or other than the key's: compare SA with the label
	BadKey     Reason = "key"         // not a public key of a known curve: scan the label again
	Unpinned   Reason = "unpinned"    // no confirmed key: confirm the label's key on the pairing page
	Weak       Reason = "weak"        // 192-bit curve: not billable, replace the meter
	Signature  Reason = "signature"   // the bytes were changed, or another meter signed: compare fingerprints
	ForeignID  Reason = "code"        // signed for another session or token
	Pagination Reason = "pagination"  // page numbers do not rise: a record was replayed
	Serial     Reason = "serial"      // records of different meters
	NoBegin    Reason = "no-begin"    // no signed begin: informational only
	NoEnd      Reason = "no-end"      // no signed end: informational only
	Order      Reason = "order"       // end before begin
	Status     Reason = "status"      // meter status is not G
	ErrorFlag  Reason = "error-flag"  // the meter flagged energy as faulty
	Register   Reason = "register"    // no usable energy register, or more than one
	Unit       Reason = "unit"        // not Wh or kWh, or finer than 1 mWh
	Negative   Reason = "negative"    // the register ran backwards
	Empty      Reason = "no-records"  // nothing was signed
	TimeFormat Reason = "time-format" // TM is not an OCMF time
)

// ErrOCMF says which check failed, and for which of the records, counted from 0; -1 where it is about all of them. It
// holds no serial, identity or reading.
type ErrOCMF struct {
	Reason Reason
	Record int
}

// Error names the reason and the record.
func (e *ErrOCMF) Error() string {
	if e.Record < 0 {
		return fmt.Sprintf("ocmf: refused: %s", e.Reason)
	}
	return fmt.Sprintf("ocmf: record %d refused: %s", e.Record, e.Reason)
}

func refuse(r Reason, record int) error { return &ErrOCMF{r, record} }

// Page is a PG field: a context letter, T for transactions and F for fiscal readings, and a running number.
type Page struct {
	Context byte
	Number  uint64
}

// Reading is one entry of RD, with what it inherits from the entry before.
type Reading struct {
	At     int64  // TM, UTC ms
	Sync   byte   // TM status: U unknown, I informative, S synchronised, R relative
	TX     byte   // B begin, E end, C charging, S suspended, L R A P T X; zero if absent
	Value  string // RV as sent, blanks trimmed
	RI, RU string // OBIS code and unit, as sent
	RT     string // AC or DC
	EF     string // error flags: E energy, t time
	ST     string // meter status: G good
}

// Payload holds the fields of a record. Fields that gridveil does not use are not parsed; they stay in the bytes.
type Payload struct {
	FV, GI, GS, GV string // format version; gateway
	PG             Page
	MV, MM, MS, MF string // meter: vendor, model, serial, firmware
	IS             bool   // a user was identified
	IL, IT, ID     string
	IF             []string
	CT, CI         string // charge point
	RD             []Reading
}

// Record is a parsed record and the bytes it came from.
type Record struct {
	Payload
	Raw  []byte // the whole text as received, blanks around it removed
	Body []byte // the signed bytes, between first and last '|'
	SA   string // signature algorithm, default "ECDSA-secp256r1-SHA256"
	SD   []byte // signature, DER or r||s
}

// Meter returns the serial that must stay the same within a session: the meter's, else the gateway's.
func (p Payload) Meter() string {
	if p.MS != "" {
		return p.MS
	}
	return p.GS
}
