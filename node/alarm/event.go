package alarm

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"gridveil/node/model"
	"gridveil/node/report"
)

// ErrInvalidEvent counts against the peer that sent the bytes.
var ErrInvalidEvent = errors.New("alarm: invalid event")

// Priority decides the lane: P0 within 1 s, P1 within 5 s, P2 within 60 s at the
// head-end, P3 with the next report.
type Priority uint8

// The priorities, most urgent first.
const (
	P0 Priority = iota
	P1
	P2
	P3
)

// Kind says what happened.
type Kind uint8

// The nine kinds.
const (
	Malfunction      Kind = iota + 1 // meter or node works no longer as it should
	ClockDeviation                   // critical clock deviation
	ParameterChanged                 // critical parameter without a signed order
	Firmware                         // version changed, below floor, activation result
	VoltageAbsent                    // phase or supply lost
	Unauthorised                     // failed log-in, tamper, replay, denial
	PowerControl                     // limit written or crossed
	DisconnectOff                    // disconnect element switched off
	Outage                           // several VoltageAbsent on one transformer, or planned
	kindEnd          = Outage + 1
	firstKind        = Malfunction
)

var kindNames = [...]string{"", "malfunction", "clock deviation", "parameter changed", "firmware", "voltage absent",
	"unauthorised access", "power control", "disconnected", "outage"}

// String names the kind.
func (k Kind) String() string {
	if k < firstKind || k >= kindEnd {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return kindNames[k]
}

// DefaultPriority is the priority a source gives the kind.
func (k Kind) DefaultPriority() Priority {
	switch k {
	case ClockDeviation, PowerControl:
		return P1
	case Firmware:
		return P2
	}
	return P0
}

// Flags of an event.
type Flags uint16

// The flags; other bits are zero.
const (
	Restored   Flags = 1 << iota // the condition ended
	Warning                      // below critical: shown, not escalated
	Merged                       // stands for Count events of one kind and code
	Simulated                    // from a simulated meter
	Sealed                       // device and text are in a box for the head-end
	flagsKnown = Restored | Warning | Merged | Simulated | Sealed
)

// Key names a meter's event code; codes collide between meter generations, so
// profile and log belong to it.
type Key struct {
	Profile uint8 // 1 = DSMR, 2 = gridveil's own
	Log     uint8 // event log of the meter, 0 = standard
	Code    uint16
}

// Codes that the detectors set, DSMR where there is one (Profile 1).
const (
	CodePowerDown    = 1
	CodeClockInvalid = 6
	CodeFirmware     = 18
	CodeLogin        = 46
	CodePhaseL1      = 86 // L2 = 87, L3 = 88
	CodeForeign      = 103
	CodeClockDrift   = 104
	CodeSilent       = 106
	CodeStore        = 107
)

// ID names an event: SHA-256 of its signed bytes, first 16.
type ID [16]byte

// String shows the first four bytes.
func (id ID) String() string { return hex.EncodeToString(id[:4]) }

// Event is one thing that happened, or Count of the same.
type Event struct {
	Priority Priority
	Kind     Kind
	Flags    Flags
	Source   model.SourceID
	Seq      uint64 // per source, +1
	At       int64  // UTC ms
	Unc      uint32 // ms
	Key      Key
	Device   [16]byte // usage point or device handle; zero = the source itself, or sealed
	Cause    ID       // the event that led to this one, zero = none
	Count    uint32   // at least 1
	Roster   uint32   // version of the roster that Ordinals refer to
	Ordinals Bitmap   // devices concerned, for merged events
	Detail   []byte   // at most 256 bytes: printable text, or the box
	Sig      [64]byte
}

// Limits of an event.
const (
	MaxEvent   = 4 << 10
	MaxDetail  = 256
	maxBitmap  = model.MaxRoster / 8
	fixedEvent = 92
	eventMagic = "GVA1"
	eventLabel = "gridveil/alarm/v1\x00"
)

// Encode gives the event's bytes, or ErrInvalidEvent.
func (e Event) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, fixedEvent+len(e.Ordinals)+len(e.Detail)+64), eventMagic...)
	b = append(b, byte(e.Priority), byte(e.Kind))
	b = binary.BigEndian.AppendUint16(b, uint16(e.Flags))
	b = append(b, e.Source[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(e.At))
	b = binary.BigEndian.AppendUint32(b, e.Unc)
	b = append(b, e.Key.Profile, e.Key.Log)
	b = binary.BigEndian.AppendUint16(b, e.Key.Code)
	b = append(b, e.Device[:]...)
	b = append(b, e.Cause[:]...)
	b = binary.BigEndian.AppendUint32(b, e.Count)
	b = binary.BigEndian.AppendUint32(b, e.Roster)
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Ordinals)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Detail)))
	b = append(b, e.Ordinals...)
	b = append(b, e.Detail...)
	return append(b, e.Sig[:]...), nil
}

func (e Event) check() error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrInvalidEvent, what) }
	switch {
	case e.Priority > P3 || e.Kind < firstKind || e.Kind >= kindEnd:
		return bad("unknown priority or kind")
	case e.Flags&^flagsKnown != 0:
		return bad("unknown flag")
	case e.At < 0 || e.Count == 0 || e.Seq == 0:
		return bad("time, count or sequence number")
	case len(e.Ordinals) > maxBitmap || len(e.Ordinals) > 0 && e.Ordinals[len(e.Ordinals)-1] == 0:
		return bad("bitmap longer than needed")
	case len(e.Detail) > MaxDetail || e.Flags&Sealed == 0 && !printable(e.Detail):
		return bad("detail")
	case e.Flags&Sealed != 0 && e.Device != [16]byte{}:
		return bad("sealed event with an open device")
	}
	return nil
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// Decode parses an event; the caller verifies the signature.
func Decode(b []byte) (Event, error) {
	if len(b) < fixedEvent+64 || len(b) > MaxEvent || !bytes.Equal(b[:4], []byte(eventMagic)) {
		return Event{}, fmt.Errorf("%w: not a GVA1 event", ErrInvalidEvent)
	}
	be := binary.BigEndian
	e := Event{
		Priority: Priority(b[4]), Kind: Kind(b[5]), Flags: Flags(be.Uint16(b[6:])), Source: model.SourceID(b[8:24]),
		Seq: be.Uint64(b[24:]), At: int64(be.Uint64(b[32:])), Unc: be.Uint32(b[40:]),
		Key: Key{b[44], b[45], be.Uint16(b[46:])}, Device: [16]byte(b[48:64]), Cause: ID(b[64:80]),
		Count: be.Uint32(b[80:]), Roster: be.Uint32(b[84:]), Sig: [64]byte(b[len(b)-64:]),
	}
	bitmap, detail := int(be.Uint16(b[88:])), int(be.Uint16(b[90:]))
	if fixedEvent+bitmap+detail+64 != len(b) {
		return Event{}, fmt.Errorf("%w: length", ErrInvalidEvent)
	}
	if bitmap > 0 {
		e.Ordinals = Bitmap(bytes.Clone(b[fixedEvent : fixedEvent+bitmap]))
	}
	if detail > 0 {
		e.Detail = bytes.Clone(b[fixedEvent+bitmap : fixedEvent+bitmap+detail])
	}
	return e, e.check()
}

// Sign sets Source and Sig.
func (e *Event) Sign(key ed25519.PrivateKey) error {
	e.Source = report.SourceOf(key.Public().(ed25519.PublicKey))
	b, err := e.signed()
	if err == nil {
		copy(e.Sig[:], ed25519.Sign(key, b))
	}
	return err
}

func (e Event) signed() ([]byte, error) {
	b, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return append([]byte(eventLabel), b[:len(b)-64]...), nil
}

// Verify checks that pub is the source's key and signed e.
func (e Event) Verify(pub ed25519.PublicKey) error {
	b, err := e.signed()
	if err != nil {
		return err
	}
	if len(pub) != ed25519.PublicKeySize || report.SourceOf(pub) != e.Source || !ed25519.Verify(pub, b, e.Sig[:]) {
		return fmt.Errorf("%w: signature does not verify", ErrInvalidEvent)
	}
	return nil
}

// ID names the event; signing it again does not change the name.
func (e Event) ID() (id ID) {
	b, err := e.signed()
	if err != nil {
		return id
	}
	sum := sha256.Sum256(b)
	return ID(sum[:16])
}

// maxSealedText keeps day 2, box overhead 48, device 16 and length 1 inside Detail.
const (
	maxSealedText = MaxDetail - 2 - report.BoxOverhead - 16 - 1
	sealLabel     = "gridveil/alarm-seal/v1\x00"
)

// Seal moves device and detail into a box for the head-end's key of the day.
// Call it before Sign. The detail may have at most 189 bytes.
func (e *Event) Seal(rnd io.Reader, day uint16, key [32]byte) error {
	if e.Flags&Sealed != 0 {
		return nil
	}
	if len(e.Detail) > maxSealedText {
		return fmt.Errorf("%w: detail of %d bytes, sealed limit %d", ErrInvalidEvent, len(e.Detail), maxSealedText)
	}
	plain := make([]byte, 16+1+maxSealedText)
	copy(plain, e.Device[:])
	plain[16] = byte(len(e.Detail))
	copy(plain[17:], e.Detail)
	box, err := report.SealBox(rnd, key, []byte(sealLabel), e.Source[:], plain)
	if err != nil {
		return err
	}
	e.Flags |= Sealed
	e.Device = [16]byte{}
	e.Detail = append(binary.BigEndian.AppendUint16(nil, day), box...)
	return nil
}

// Open gives device and detail of a sealed event; keyOf finds the day key.
func (e Event) Open(keyOf func(day uint16) (report.DayKey, bool)) (device [16]byte, detail string, err error) {
	if e.Flags&Sealed == 0 {
		return e.Device, string(e.Detail), nil
	}
	key, err := e.BoxKey(keyOf)
	if err != nil {
		return device, "", err
	}
	return e.OpenWith(key)
}

// BoxKey derives the key of a sealed event's box, which opens this event alone.
func (e Event) BoxKey(keyOf func(day uint16) (report.DayKey, bool)) (b report.BoxKey, err error) {
	if err := e.boxed(); err != nil {
		return b, err
	}
	key, ok := keyOf(binary.BigEndian.Uint16(e.Detail))
	if !ok {
		return b, report.ErrOpen
	}
	return key.BoxKey([]byte(sealLabel), e.Detail[2:])
}

// OpenWith is Open for an outsider who was shown the key of the box.
func (e Event) OpenWith(key report.BoxKey) (device [16]byte, detail string, err error) {
	if err := e.boxed(); err != nil {
		return device, "", err
	}
	plain, err := key.Open(e.Source[:], e.Detail[2:])
	if err != nil {
		return device, "", err
	}
	if len(plain) != 16+1+maxSealedText {
		return device, "", fmt.Errorf("%w: sealed detail", ErrInvalidEvent)
	}
	n := int(plain[16])
	if n > maxSealedText || !printable(plain[17:17+n]) || len(bytes.Trim(plain[17+n:], "\x00")) != 0 {
		return device, "", fmt.Errorf("%w: sealed detail", ErrInvalidEvent)
	}
	return [16]byte(plain[:16]), string(plain[17 : 17+n]), nil
}

func (e Event) boxed() error {
	if e.Flags&Sealed == 0 || len(e.Detail) != MaxDetail {
		return fmt.Errorf("%w: box of %d bytes", ErrInvalidEvent, len(e.Detail))
	}
	return nil
}

// Bitmap is a set of roster ordinals: bit ordinal-1, low bit first, without
// trailing zero bytes.
type Bitmap []byte

// Set adds an ordinal; 0 and ordinals above a roster are ignored.
func (b *Bitmap) Set(ordinal uint32) {
	if ordinal == 0 || ordinal > model.MaxRoster {
		return
	}
	at := int(ordinal-1) / 8
	for len(*b) <= at {
		*b = append(*b, 0)
	}
	(*b)[at] |= 1 << ((ordinal - 1) % 8)
}

// Has says whether the ordinal is in the set.
func (b Bitmap) Has(ordinal uint32) bool {
	at := int(ordinal-1) / 8
	return ordinal > 0 && at < len(b) && b[at]&(1<<((ordinal-1)%8)) != 0
}

// Count is the number of ordinals.
func (b Bitmap) Count() (n int) {
	for i := range uint32(len(b) * 8) {
		if b.Has(i + 1) {
			n++
		}
	}
	return n
}

// Clear removes an ordinal.
func (b *Bitmap) Clear(ordinal uint32) {
	if !b.Has(ordinal) {
		return
	}
	(*b)[(ordinal-1)/8] &^= 1 << ((ordinal - 1) % 8)
	for len(*b) > 0 && (*b)[len(*b)-1] == 0 {
		*b = (*b)[:len(*b)-1]
	}
}

// Union adds all of other.
func (b *Bitmap) Union(other Bitmap) {
	for len(*b) < len(other) {
		*b = append(*b, 0)
	}
	for i, x := range other {
		(*b)[i] |= x
	}
}
