package session

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"gridveil/privacy"
)

// Energy of a session so far, mWh, never negative.
type Energy struct {
	Grid int64 // from the grid into the car
	Res  int64 // from the house's own generation (or its battery's) into the car
	Out  int64 // from the car
}

// In is all energy into the car.
func (e Energy) In() int64 { return e.Grid + e.Res }

// covers says whether no register of e is below that of o.
func (e Energy) covers(o Energy) bool { return e.Grid >= o.Grid && e.Res >= o.Res && e.Out >= o.Out }

// Amounts of a session, millionths; package ev computes and rounds them.
type Amounts struct {
	Host   int64 // earned by the host
	Owed   int64 // owed by the host, for energy of the car; one of Host and Owed is zero
	Grid   int64 // due to the host's utility (direct mode); negative: due from it
	Driver int64 // earned by the driver: Owed, and what the host's utility pays
	Fee    int64 // the aggregator's; not part of a Record
}

// Total is what the driver's utility is billed.
func (a Amounts) Total() int64 { return a.Host + max(a.Grid, 0) + a.Fee }

// Check returns ErrNotWholeCents or ErrAmount unless every payee's amount is in
// whole minor units, not negative (Grid may be), netted, and what the driver
// earns is what host and host's utility owe.
func (a Amounts) Check(mode byte) error {
	for _, v := range [...]int64{a.Host, a.Owed, a.Grid, a.Driver, a.Fee} {
		if v%cent != 0 {
			return ErrNotWholeCents
		}
		if v > MaxAmount || v < -MaxAmount {
			return fmt.Errorf("%w: beyond %d", ErrAmount, int64(MaxAmount))
		}
	}
	switch {
	case a.Host < 0 || a.Owed < 0 || a.Driver < 0 || a.Fee < 0:
		return fmt.Errorf("%w: a negative share", ErrAmount)
	case a.Host > 0 && a.Owed > 0:
		return fmt.Errorf("%w: the host both earns and owes", ErrAmount)
	case a.Grid != 0 && mode&ModeDirect == 0:
		return fmt.Errorf("%w: the host's utility has a share outside direct mode", ErrAmount)
	case a.Driver != a.Owed+max(-a.Grid, 0):
		return fmt.Errorf("%w: the driver's share is not what others owe", ErrAmount)
	case a.Driver > 0 && mode&ModeDischarge == 0:
		return fmt.Errorf("%w: a sale by the car was not offered", ErrAmount)
	}
	return nil
}

// Form says how a session ended.
type Form byte

// Forms of a Record.
const (
	Both       Form = 1 // host and driver signed
	Cut        Form = 2 // the driver left: the last Tick with an Ack counts
	Unattended Form = 3 // agreed beforehand: the meter's signature stands in for Acks
)

// Record is the result of a session.
type Record struct {
	Offer     [32]byte // H(Offer)
	Open      [32]byte // H(Open)
	T0, T1    uint32   // begin and end, 15-minute units since 1970, T1 rounded up
	Energy    Energy
	Amounts   Amounts // Fee is not encoded
	Currency  uint16
	Form      Form
	LastTick  [32]byte // H(last Tick with an Ack), zero if there was none
	Evidence  [32]byte // Evidence.Hash, zero for an unmetered session
	HostSig   privacy.Signature
	DriverSig privacy.Signature // zero unless Form is Both and the driver signed
}

func (r *Record) body() []byte {
	e := head(privacy.KindRecord, RecordSize)
	e.raw(r.Offer[:])
	e.raw(r.Open[:])
	e.u32(r.T0)
	e.u32(r.T1)
	e.i64(r.Energy.Grid)
	e.i64(r.Energy.Res)
	e.i64(r.Energy.Out)
	e.i64(r.Amounts.Host)
	e.i64(r.Amounts.Owed)
	e.i64(r.Amounts.Grid)
	e.i64(r.Amounts.Driver)
	e.u16(r.Currency)
	e.u8(byte(r.Form))
	e.raw(r.LastTick[:])
	e.raw(r.Evidence[:])
	return e
}

// Bytes encodes the record, RecordSize bytes.
func (r *Record) Bytes() []byte {
	return append(append(r.body(), r.HostSig[:]...), r.DriverSig[:]...)
}

// Hash is H(Record) with both signatures.
func (r *Record) Hash(net privacy.Net) [32]byte {
	return privacy.Hash(privacy.KindRecord, net, append(r.body(), r.HostSig[:]...), r.DriverSig)
}

// ParseRecord decodes a record; it checks layout and ranges only.
func ParseRecord(b []byte) (Record, error) {
	d := body(b, privacy.KindRecord, RecordSize)
	r := d.record()
	return r, d.end("record")
}

// record reads a record behind its head.
func (d *dec) record() (r Record) {
	d.raw(r.Offer[:])
	d.raw(r.Open[:])
	r.T0, r.T1 = d.u32(), d.u32()
	r.Energy = Energy{Grid: d.energy(), Res: d.energy(), Out: d.energy()}
	r.Amounts.Host, r.Amounts.Owed = d.debt(), d.debt()
	r.Amounts.Grid, r.Amounts.Driver = d.money(), d.debt()
	r.Currency = d.u16()
	r.Form = Form(d.u8())
	d.raw(r.LastTick[:])
	d.raw(r.Evidence[:])
	d.raw(r.HostSig[:])
	d.raw(r.DriverSig[:])
	if r.Form < Both || r.Form > Unattended || r.T1 < r.T0 {
		d.bad = true
	}
	if r.Form != Both && r.DriverSig != (privacy.Signature{}) {
		d.bad = true
	}
	return r
}

// SignHost puts the host's signature under the record.
func (r *Record) SignHost(net privacy.Net, hsk ed25519.PrivateKey) {
	r.HostSig = privacy.Sign(hsk, privacy.KindRecord, net, r.body())
}

func (r *Record) verifyHost(net privacy.Net, hpk [32]byte) error {
	if !privacy.Verify(hpk[:], privacy.KindRecord, net, r.body(), r.HostSig) {
		return fmt.Errorf("record, host: %w", ErrSignature)
	}
	return nil
}

func (r *Record) verifyDriver(net privacy.Net, spk [32]byte) error {
	if !privacy.Verify(spk[:], privacy.KindRecord, net, r.body(), r.DriverSig) {
		return fmt.Errorf("record, driver: %w", ErrSignature)
	}
	return nil
}

// Evidence is what the meter signed, with what opens its commitments. The
// driver always gets it; the aggregator only in mode ModeShown or for an
// unattended session.
type Evidence struct {
	Salt      [32]byte // of Record.Evidence
	MeterSalt [32]byte // of Offer.MeterCommit
	MeterKey  []byte   // the meter's public key as the wallbox gave it
	Terms     []byte   // the terms behind Offer.Terms
	Records   [][]byte // OCMF records, byte for byte
}

// Hash is Record.Evidence: SHA-256 of the salt and each record with its length.
func (v *Evidence) Hash() [32]byte {
	h := sha256.New()
	h.Write(v.Salt[:])
	for _, r := range v.Records {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(r)))
		h.Write(n[:])
		h.Write(r)
	}
	return [32]byte(h.Sum(nil))
}

// opens says whether v is what offer and record committed to.
func (v *Evidence) opens(o *Offer, r *Record) error {
	switch {
	case v.Hash() != r.Evidence:
		return fmt.Errorf("%w: records are not those the record names", ErrEvidence)
	case MeterCommit(v.MeterSalt, v.MeterKey) != o.MeterCommit:
		return fmt.Errorf("%w: meter key is not the one the offer commits to", ErrEvidence)
	case sha256.Sum256(v.Terms) != o.Terms:
		return fmt.Errorf("%w: terms are not those the offer names", ErrEvidence)
	}
	return nil
}

func (v *Evidence) size() int {
	n := 64 + 4 + len(v.MeterKey) + 4 + len(v.Terms) + 1
	for _, r := range v.Records {
		n += 4 + len(r)
	}
	return n
}

// check refuses evidence that no message could carry.
func (v *Evidence) check() error {
	if v.size() > MaxEvidence || len(v.MeterKey) > maxKeyBytes || len(v.Terms) > maxTerms || len(v.Records) > maxRecords {
		return fmt.Errorf("%w: %d bytes in %d records, at most %d in %d", ErrEvidence, v.size(), len(v.Records), MaxEvidence, maxRecords)
	}
	return nil
}

// evidence appends v, or a zero byte for none.
func (e *enc) evidence(v *Evidence) {
	if v == nil {
		e.u8(0)
		return
	}
	e.u8(1)
	e.raw(v.Salt[:])
	e.raw(v.MeterSalt[:])
	e.blob(v.MeterKey)
	e.blob(v.Terms)
	e.u8(byte(len(v.Records)))
	for _, r := range v.Records {
		e.blob(r)
	}
}

func (d *dec) evidence() *Evidence {
	switch d.u8() {
	case 0:
		return nil
	case 1:
	default:
		d.bad = true
		return nil
	}
	v, left := new(Evidence), len(d.b)
	d.raw(v.Salt[:])
	d.raw(v.MeterSalt[:])
	v.MeterKey = d.blob(maxKeyBytes)
	v.Terms = d.blob(maxTerms)
	n := int(d.u8())
	if n > maxRecords {
		d.bad = true
	}
	for i := 0; i < n && !d.bad; i++ {
		v.Records = append(v.Records, d.blob(MaxEvidence))
	}
	d.bad = d.bad || left-len(d.b) > MaxEvidence
	return v
}

// Close is what a host hands its guest at the end: the record with its own
// signature, and the evidence to check it by. It stays on the guest link.
type Close struct {
	Record   Record
	Evidence *Evidence // nil for an unmetered session
}

// Bytes encodes the message.
func (c *Close) Bytes() []byte {
	e := head(kindClose, 2+RecordSize+1)
	e.raw(c.Record.Bytes()[2:])
	e.evidence(c.Evidence)
	return e
}

// ParseClose decodes a Close.
func ParseClose(b []byte) (Close, error) {
	var c Close
	d := body(b, kindClose, -1)
	c.Record = d.record()
	c.Evidence = d.evidence()
	return c, d.end("close")
}
