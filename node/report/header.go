package report

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"gridveil/node/model"
)

// Errors of foreign bytes. ErrInvalidReport counts against the peer.
var (
	ErrInvalidReport = errors.New("report: invalid")
	ErrSignature     = fmt.Errorf("%w: signature does not verify", ErrInvalidReport)
	ErrNoProfile     = errors.New("report: no data profile permits this")
	ErrOpen          = errors.New("report: sealed body does not open")
)

// Class separates streams; each has a chain of its own.
type Class uint8

// The classes.
const (
	ClassEnergy  Class = 1
	ClassQuality Class = 2
	ClassEvents  Class = 3
	ClassAnswer  Class = 4
)

func (c Class) valid() bool { return c >= ClassEnergy && c <= ClassAnswer }

// Flags of a header.
type Flags uint16

// The flags; all other bits are zero.
const (
	FlagBackfill  Flags = 1 << iota // older than the newest period
	FlagRestart                     // a new chain after lost state; Prev is zero
	FlagSimulated                   // at least one meter is simulated
	flagsKnown    = FlagBackfill | FlagRestart | FlagSimulated
)

// Header is the signed head of a report. From and Period are UTC ms; the report
// covers Slots slots of Period each, from From on.
type Header struct {
	Class    Class
	Profile  model.TAF
	Flags    Flags
	Source   model.SourceID
	Seq      uint64   // per source and class, first is 1; answers have 0
	Prev     [32]byte // Hash of the header before, zero for the first
	From     int64
	Period   uint32
	Slots    uint16
	Channels uint16
	Meters   uint32
	Roster   uint32 // version of the roster that maps ordinals
	Unc      uint32 // worst clock uncertainty in the report, ms
	Rules    uint32 // version of the rules that set the flags
	Root     [32]byte
	Sig      [ed25519.SignatureSize]byte

	// First says that it is of the first layout, "GVR1", whose root does not hold
	// the channels: it is taken, and proves nothing to outsiders.
	First bool
}

// HeaderSize is the encoded size of a header.
const HeaderSize = 192

const (
	headerMagic  = "GVR2"
	headerDomain = "gridveil/report/v2\x00"
	firstMagic   = "GVR1"
	firstDomain  = "gridveil/report/v1\x00"
	signedHeader = 128
)

// Limits of a report. A source splits what exceeds them.
const (
	MaxMeters   = 16384
	MaxSlots    = 3000 // a month of quarter hours with its two clock changes
	MaxChannels = 16
	MaxBody     = 512<<10 - 1 // the largest padded size less the padding mark
)

// Encode gives the 192 bytes of h.
func (h Header) Encode() []byte {
	b := make([]byte, 0, HeaderSize)
	if h.First {
		b = append(b, firstMagic...)
	} else {
		b = append(b, headerMagic...)
	}
	b = append(b, byte(h.Class), byte(h.Profile))
	b = binary.BigEndian.AppendUint16(b, uint16(h.Flags))
	b = append(b, h.Source[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	b = append(b, h.Prev[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.From))
	b = binary.BigEndian.AppendUint32(b, h.Period)
	b = binary.BigEndian.AppendUint16(b, h.Slots)
	b = binary.BigEndian.AppendUint16(b, h.Channels)
	b = binary.BigEndian.AppendUint32(b, h.Meters)
	b = binary.BigEndian.AppendUint32(b, h.Roster)
	b = binary.BigEndian.AppendUint32(b, h.Unc)
	b = binary.BigEndian.AppendUint32(b, h.Rules)
	b = append(b, h.Root[:]...)
	return append(b, h.Sig[:]...)
}

// DecodeHeader parses exactly 192 bytes and checks every field's range. It
// returns an error wrapping ErrInvalidReport.
func DecodeHeader(b []byte) (Header, error) {
	if len(b) != HeaderSize || !bytes.Equal(b[:4], []byte(headerMagic)) && !bytes.Equal(b[:4], []byte(firstMagic)) {
		return Header{}, fmt.Errorf("%w: not a GVR2 header", ErrInvalidReport)
	}
	h := Header{
		Class: Class(b[4]), Profile: model.TAF(b[5]), Flags: Flags(binary.BigEndian.Uint16(b[6:])),
		Source: model.SourceID(b[8:24]), Seq: binary.BigEndian.Uint64(b[24:]), Prev: [32]byte(b[32:64]),
		From: int64(binary.BigEndian.Uint64(b[64:])), Period: binary.BigEndian.Uint32(b[72:]),
		Slots: binary.BigEndian.Uint16(b[76:]), Channels: binary.BigEndian.Uint16(b[78:]),
		Meters: binary.BigEndian.Uint32(b[80:]), Roster: binary.BigEndian.Uint32(b[84:]),
		Unc: binary.BigEndian.Uint32(b[88:]), Rules: binary.BigEndian.Uint32(b[92:]),
		Root: [32]byte(b[96:128]), Sig: [64]byte(b[128:192]),
		First: string(b[:4]) == firstMagic,
	}
	return h, h.check()
}

func (h Header) check() error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrInvalidReport, what) }
	switch {
	case !h.Class.valid():
		return bad("unknown class")
	case !h.Profile.Valid():
		return bad("unknown profile")
	case h.Flags&^flagsKnown != 0:
		return bad("unknown flag")
	case (h.Class == ClassAnswer) != (h.Seq == 0):
		return bad("only answers have sequence number 0")
	case h.Flags&FlagRestart != 0 && h.Prev != [32]byte{}:
		return bad("a restarted chain names no predecessor")
	case h.Period == 0 || h.From < 0 || h.From%int64(h.Period) != 0:
		return bad("start is off the slot grid")
	case h.Slots == 0 || h.Slots > MaxSlots:
		return bad("number of slots")
	case h.Channels == 0 || h.Channels > MaxChannels:
		return bad("number of channels")
	case h.Meters == 0 || h.Meters > MaxMeters:
		return bad("number of meters")
	case h.From > maxTime:
		return bad("start beyond the year 2200")
	}
	return nil
}

const maxTime = 7258118400000 // 2200-01-01: keeps From + Slots x Period far from overflow

// Hash names a header in the next one and in acknowledgements: SHA-256 of all
// 192 bytes.
func (h Header) Hash() [32]byte { return sha256.Sum256(h.Encode()) }

// End is the end of the last slot, UTC ms.
func (h Header) End() int64 { return h.From + int64(h.Slots)*int64(h.Period) }

// Sign sets Sig over bytes 0..127.
func (h *Header) Sign(key ed25519.PrivateKey) {
	copy(h.Sig[:], ed25519.Sign(key, h.signed()))
}

func (h Header) signed() []byte {
	domain := headerDomain
	if h.First {
		domain = firstDomain
	}
	return append([]byte(domain), h.Encode()[:signedHeader]...)
}

// Verify checks that pub is the source's key and signed h. It returns
// ErrSignature.
func (h Header) Verify(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize || SourceOf(pub) != h.Source || !ed25519.Verify(pub, h.signed(), h.Sig[:]) {
		return ErrSignature
	}
	return nil
}

// SourceOf is the id of the node that signs with pub.
func SourceOf(pub ed25519.PublicKey) model.SourceID {
	sum := sha256.Sum256(pub)
	return model.SourceID(sum[:16])
}
