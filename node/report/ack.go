package report

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"

	"gridveil/node/model"
)

// Level says how far an acknowledged report got.
type Level uint8

// The levels: held by a relay that cannot read it, or final at the head-end.
const (
	LevelHeld  Level = 1
	LevelFinal Level = 2
)

// Ack acknowledges all reports of a chain up to and including Seq.
type Ack struct {
	Class    Class
	Level    Level
	Source   model.SourceID
	Seq      uint64
	Hash     [32]byte       // of the header with Seq
	Receiver model.SourceID // who acknowledges
	At       int64          // UTC ms
	Sig      [64]byte
}

// AckSize is the encoded size of an Ack.
const AckSize = 152

const (
	ackMagic  = "GVK1"
	ackDomain = "gridveil/report-ack/v1\x00"
)

// Encode gives magic 4 | class 1 | level 1 | zero 2 | source 16 | seq 8 |
// hash 32 | receiver 16 | time 8 | signature 64.
func (a Ack) Encode() []byte {
	b := append(make([]byte, 0, AckSize), ackMagic...)
	b = append(b, byte(a.Class), byte(a.Level), 0, 0)
	b = append(b, a.Source[:]...)
	b = binary.BigEndian.AppendUint64(b, a.Seq)
	b = append(b, a.Hash[:]...)
	b = append(b, a.Receiver[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(a.At))
	return append(b, a.Sig[:]...)
}

// DecodeAck parses exactly 152 bytes.
func DecodeAck(b []byte) (Ack, error) {
	if len(b) != AckSize || !bytes.Equal(b[:4], []byte(ackMagic)) || b[6] != 0 || b[7] != 0 {
		return Ack{}, fmt.Errorf("%w: not a GVK1 acknowledgement", ErrInvalidReport)
	}
	a := Ack{
		Class: Class(b[4]), Level: Level(b[5]), Source: model.SourceID(b[8:24]), Seq: binary.BigEndian.Uint64(b[24:]),
		Hash: [32]byte(b[32:64]), Receiver: model.SourceID(b[64:80]), At: int64(binary.BigEndian.Uint64(b[80:])),
		Sig: [64]byte(b[88:152]),
	}
	if !a.Class.valid() || a.Class == ClassAnswer || (a.Level != LevelHeld && a.Level != LevelFinal) || a.Seq == 0 || a.At < 0 {
		return Ack{}, fmt.Errorf("%w: acknowledgement field out of range", ErrInvalidReport)
	}
	return a, nil
}

// Sign sets Receiver and Sig.
func (a *Ack) Sign(key ed25519.PrivateKey) {
	a.Receiver = SourceOf(key.Public().(ed25519.PublicKey))
	copy(a.Sig[:], ed25519.Sign(key, a.signed()))
}

func (a Ack) signed() []byte {
	return append([]byte(ackDomain), a.Encode()[:AckSize-64]...)
}

// Verify checks that pub acknowledged; it returns ErrSignature.
func (a Ack) Verify(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize || SourceOf(pub) != a.Receiver || !ed25519.Verify(pub, a.signed(), a.Sig[:]) {
		return ErrSignature
	}
	return nil
}

// Reason is why a receiver refuses a report. The report stays with its sender.
type Reason uint8

// The reasons. Their Error text says what the sender does next.
const (
	Unreferenced Reason = iota + 1 // the source is on no list here: raises an event of kind 6
	FromSeq                        // the chain continues elsewhere: resend from Seq
	WrongRoster                    // the roster version is not ours: fetch the order
	Reseal                         // the day key is gone: seal for a later day
	Busy                           // try again after RetryMS
	BadBody                        // content does not match the signed root
)

var reasonTexts = [...]string{"", "source is not referenced; ask the operator to add it", "chain continues at another number; resend from there",
	"roster version differs; fetch the current order", "day key is gone; seal for a current day", "receiver is busy; try again later",
	"content does not match its signature; rebuild the report"}

// Refusal answers a report that was not taken.
type Refusal struct {
	Class    Class
	Reason   Reason
	Source   model.SourceID
	Seq      uint64 // FromSeq: the number wanted next; else the refused one
	RetryMS  uint32 // Busy: how long to wait
	Receiver model.SourceID
	At       int64
	Sig      [64]byte
}

// Error makes a refusal usable as an error.
func (r Refusal) Error() string {
	return "report: refused: " + reasonTexts[min(int(r.Reason), len(reasonTexts)-1)]
}

// RefusalSize is the encoded size of a Refusal.
const RefusalSize = 124

const (
	refusalMagic  = "GVN1"
	refusalDomain = "gridveil/report-refusal/v1\x00"
)

// Encode gives magic 4 | class 1 | reason 1 | zero 2 | source 16 | seq 8 |
// retry 4 | receiver 16 | time 8 | signature 64.
func (r Refusal) Encode() []byte {
	b := append(make([]byte, 0, RefusalSize), refusalMagic...)
	b = append(b, byte(r.Class), byte(r.Reason), 0, 0)
	b = append(b, r.Source[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Seq)
	b = binary.BigEndian.AppendUint32(b, r.RetryMS)
	b = append(b, r.Receiver[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.At))
	return append(b, r.Sig[:]...)
}

// DecodeRefusal parses exactly 124 bytes.
func DecodeRefusal(b []byte) (Refusal, error) {
	if len(b) != RefusalSize || !bytes.Equal(b[:4], []byte(refusalMagic)) || b[6] != 0 || b[7] != 0 {
		return Refusal{}, fmt.Errorf("%w: not a GVN1 refusal", ErrInvalidReport)
	}
	r := Refusal{
		Class: Class(b[4]), Reason: Reason(b[5]), Source: model.SourceID(b[8:24]), Seq: binary.BigEndian.Uint64(b[24:]),
		RetryMS: binary.BigEndian.Uint32(b[32:]), Receiver: model.SourceID(b[36:52]),
		At: int64(binary.BigEndian.Uint64(b[52:])), Sig: [64]byte(b[60:124]),
	}
	if !r.Class.valid() || r.Reason < Unreferenced || r.Reason > BadBody || r.At < 0 {
		return Refusal{}, fmt.Errorf("%w: refusal field out of range", ErrInvalidReport)
	}
	return r, nil
}

// Sign sets Receiver and Sig.
func (r *Refusal) Sign(key ed25519.PrivateKey) {
	r.Receiver = SourceOf(key.Public().(ed25519.PublicKey))
	copy(r.Sig[:], ed25519.Sign(key, r.signed()))
}

func (r Refusal) signed() []byte {
	return append([]byte(refusalDomain), r.Encode()[:RefusalSize-64]...)
}

// Verify checks that pub refused; it returns ErrSignature.
func (r Refusal) Verify(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize || SourceOf(pub) != r.Receiver || !ed25519.Verify(pub, r.signed(), r.Sig[:]) {
		return ErrSignature
	}
	return nil
}
