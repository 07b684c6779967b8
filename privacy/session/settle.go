package session

import (
	"fmt"

	"gridveil/privacy"
	"gridveil/privacy/commit"
)

// stub is what the driver lets the aggregator bill: no host, no session, no
// time. Its signature is the only part that reaches the driver's utility with
// the driver's own key, in a Line.
type stub struct {
	BPK       [32]byte
	EVAGG     [16]byte
	Epoch     uint32
	In, Out   int64 // mWh, rounded by RoundEnergy
	Total     int64 // millionths
	Currency  uint16
	AuthNonce [16]byte
	Sig       privacy.Signature // by bpk
}

func (s *stub) body() []byte {
	e := head(privacy.KindStub, 160)
	e.raw(s.BPK[:])
	e.raw(s.EVAGG[:])
	e.u32(s.Epoch)
	e.i64(s.In)
	e.i64(s.Out)
	e.i64(s.Total)
	e.u16(s.Currency)
	e.raw(s.AuthNonce[:])
	return e
}

func (s *stub) bytes() []byte { return append(s.body(), s.Sig[:]...) }

func parseStub(b []byte) (stub, error) {
	var s stub
	d := body(b, privacy.KindStub, -1)
	d.raw(s.BPK[:])
	d.raw(s.EVAGG[:])
	s.Epoch = d.u32()
	s.In, s.Out = d.energy(), d.energy()
	s.Total = d.debt()
	s.Currency = d.u16()
	d.raw(s.AuthNonce[:])
	d.raw(s.Sig[:])
	return s, d.end("stub")
}

// Settle hands a finished session to the aggregator. What follows the Record
// depends on its Form: the boxed stub (Both), the last Tick and its Ack (Cut),
// nothing (Unattended). Evidence travels only where it must.
type Settle struct {
	Record   Record
	Stub     []byte // Both: StubBoxSize bytes, boxed by exporter
	Tick     *Tick  // Cut
	Ack      *Ack   // Cut
	Evidence *Evidence
}

// Bytes encodes the message.
func (s *Settle) Bytes() []byte {
	e := head(privacy.KindSettle, 2+RecordSize+StubBoxSize+1)
	e.raw(s.Record.Bytes()[2:])
	switch s.Record.Form {
	case Both:
		e.raw(s.Stub)
	case Cut:
		e.raw(s.Tick.Bytes()[2:])
		e.raw(s.Ack.Bytes()[2:])
	}
	e.evidence(s.Evidence)
	return e
}

// ParseSettle decodes a Settle.
func ParseSettle(b []byte) (Settle, error) {
	var s Settle
	d := body(b, privacy.KindSettle, -1)
	s.Record = d.record()
	switch s.Record.Form {
	case Both:
		s.Stub = append([]byte(nil), d.take(StubBoxSize)...)
	case Cut:
		t, a := d.tick(), d.ack()
		s.Tick, s.Ack = &t, &a
	}
	s.Evidence = d.evidence()
	return s, d.end("settle")
}

// Opening is what the driver needs to check its entry on the ledger.
type Opening struct {
	Record [32]byte // H(Record)
	Salt   [32]byte // evidence field of the entry = SHA-256(salt Record)
	Values commit.Values
	Blind  [commit.Size]byte
}

func (o *Opening) bytes() []byte {
	e := head(privacy.KindReceiptInner, 130)
	e.raw(o.Record[:])
	e.raw(o.Salt[:])
	e.i64(o.Values.Pay)
	e.i64(o.Values.Earn)
	e.i64(o.Values.GridPay)
	e.i64(o.Values.Energy)
	e.raw(o.Blind[:])
	return e
}

func parseOpening(b []byte) (Opening, error) {
	var o Opening
	d := body(b, privacy.KindReceiptInner, -1)
	d.raw(o.Record[:])
	d.raw(o.Salt[:])
	o.Values = commit.Values{Pay: d.debt(), Earn: d.debt(), GridPay: d.money(), Energy: d.within(0, 2*MaxEnergy+2*stubStep)}
	d.raw(o.Blind[:])
	return o, d.end("opening")
}

// Taken says what a Receipt is for.
type Taken byte

// Things that a Receipt acknowledges.
const (
	TakenRecord Taken = 1 // a Settle; Value is the host's earnings
	TakenLock   Taken = 2 // a Lock; Value is the sum of its notes
)

// Receipt is the aggregator's word that it holds a Record or a Lock durably.
// Its Inner part, of one size for both, is for the driver.
type Receipt struct {
	Taken   Taken
	Session [32]byte // H(Open)
	What    [32]byte // H(Record) or H(Lock)
	Value   int64    // millionths
	Sig     privacy.Signature
	Inner   []byte // an Opening boxed by exporter; random bytes for a Lock
}

func (r *Receipt) body() []byte {
	e := head(privacy.KindReceipt, ReceiptSize)
	e.u8(byte(r.Taken))
	e.raw(r.Session[:])
	e.raw(r.What[:])
	e.i64(r.Value)
	return e
}

// Bytes encodes the receipt, ReceiptSize bytes.
func (r *Receipt) Bytes() []byte {
	return append(append(r.body(), r.Sig[:]...), r.Inner...)
}

// ParseReceipt decodes a receipt.
func ParseReceipt(b []byte) (Receipt, error) {
	var r Receipt
	d := body(b, privacy.KindReceipt, ReceiptSize)
	r.Taken = Taken(d.u8())
	d.raw(r.Session[:])
	d.raw(r.What[:])
	r.Value = d.debt()
	d.raw(r.Sig[:])
	r.Inner = append([]byte(nil), d.take(openingBox)...)
	d.bad = d.bad || r.Taken < TakenRecord || r.Taken > TakenLock
	return r, d.end("receipt")
}

// Verify returns ErrSignature unless the aggregator's record key signed r.
func (r *Receipt) Verify(net privacy.Net, evagg [32]byte) error {
	if !privacy.Verify(evagg[:], privacy.KindReceipt, net, r.body(), r.Sig) {
		return fmt.Errorf("receipt: %w", ErrSignature)
	}
	return nil
}
