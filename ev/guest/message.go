package guest

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"gridveil/ev/pool"
	"gridveil/privacy"
	"gridveil/privacy/session"
)

// ErrMessage says that bytes are not a message of the door.
var ErrMessage = errors.New("not a message of the guest door")

// Type is the first byte of every message of the door.
type Type byte

// Types of messages, and who sends them.
const (
	Session Type = 1 // both: a message of privacy/session, byte for byte
	Hello   Type = 2 // host: the documents behind the offer, see Welcome
	Wish    Type = 3 // wallet: what the car needs, see Need
	Carry   Type = 4 // wallet: sealed bytes to forward, see Parcel
	Carried Type = 5 // host: the answer to a Carry, see Parcel
	Notice  Type = 6 // host: where things stand, see Note
	Stop    Type = 7 // wallet: the driver ends the session; empty
	Flex    Type = 8 // host: an offer to the pool, a pool.Flex without the driver's signature
	FlexOK  Type = 9 // wallet: the driver's signature under it, see Assent

	// Mail is the wallet's: where the host may leave the receipt if the wallet is
	// gone by then, an address that the mesh knows how to use; empty once the
	// receipt is here and nothing need be left.
	Mail Type = 10
)

// Limits of bodies, bytes.
const (
	maxRecordWithEvidence = session.RecordSize + 1 + session.MaxEvidence
	maxKey                = 256
	maxParcel             = 12 << 10 // one request of the mesh's private lane
	maxText               = 255
	maxMessage            = 1 + 4 + 16 + 1 + maxParcel // the largest of all
	needSize              = 33
	assentSize            = 8 + ed25519.SignatureSize
	maxMail               = 129 // bytes of an address
)

// Message is one websocket message.
type Message struct {
	Type Type
	Body []byte
}

// Bytes encodes the message: type, then body.
func (m Message) Bytes() []byte { return append([]byte{byte(m.Type)}, m.Body...) }

// ParseMessage reads one message and checks its size by type; for messages of
// a session by kind, where the kind has one size.
func ParseMessage(b []byte) (Message, error) {
	if len(b) < 1 || len(b) > maxMessage {
		return Message{}, fmt.Errorf("%w: %d bytes", ErrMessage, len(b))
	}
	m := Message{Type: Type(b[0]), Body: b[1:]}
	low, high := m.size()
	if n := len(m.Body); n < low || n > high {
		return Message{}, fmt.Errorf("%w: type %d with %d bytes, want %d to %d", ErrMessage, m.Type, n, low, high)
	}
	return m, nil
}

// size gives the shortest and longest body of a type; low > high: no such type.
func (m Message) size() (low, high int) {
	switch m.Type {
	case Session:
		return sessionSize(m.Body)
	case Hello:
		return welcomeSize(0), welcomeSize(maxKey)
	case Wish:
		return needSize, needSize
	case Carry, Carried:
		return parcelHead, parcelHead + maxParcel
	case Notice:
		return noteHead, noteHead + maxText
	case Stop:
		return 0, 0
	case Flex:
		return pool.FlexSize, pool.FlexSize
	case FlexOK:
		return assentSize, assentSize
	case Mail:
		return 0, maxMail
	}
	return 1, 0
}

// sessionSize is the exact size of a session message by its kind; kinds that
// vary, or that only one side of the session package knows, have a limit and
// are measured by their parser.
func sessionSize(b []byte) (low, high int) {
	if len(b) < 2 {
		return 2, maxRecordWithEvidence
	}
	exact := func(n int) (int, int) { return n, n }
	switch privacy.Kind(b[0]) {
	case privacy.KindOffer:
		return exact(session.OfferSize)
	case privacy.KindOpen: // Open and Box; the Box depends on the network's suite
		return session.OpeningSize, session.OpeningSize + xwingExtra
	case privacy.KindAuthOK, privacy.KindAuthNo:
		return exact(session.AnswerSize)
	case privacy.KindTick:
		return exact(session.TickSize)
	case privacy.KindAck:
		return exact(session.AckSize)
	case privacy.KindReceipt:
		return exact(session.ReceiptSize)
	case privacy.KindSettle: // the driver's: record, boxed stub, no evidence
		return exact(session.RecordSize + session.StubBoxSize + 1)
	}
	return 2, maxRecordWithEvidence
}

// xwingExtra is what a Box of suite 2 is longer (1136 B overhead against 48 B).
const xwingExtra = 1088

// SessionMessage wraps a message of privacy/session.
func SessionMessage(b []byte) Message { return Message{Session, b} }

// Welcome holds the documents whose hashes an Offer signs, so that the wallet
// can show prices and check every Tick. It is worth nothing without the Offer
// that follows it.
type Welcome struct {
	Terms     []byte   // ev.Terms, encoded
	FeeSheet  []byte   // ev.FeeSheet, encoded
	MeterSalt [32]byte // opens Offer.MeterCommit
	MeterKey  []byte   // the meter's public key; empty for an unmetered session
	EVSE      uint8
	Phases    uint8
}

// Lengths of encoded terms and fee sheet; package ev fixes them.
const (
	termsSize = 80
	feeSize   = 18
)

func welcomeSize(key int) int { return termsSize + feeSize + 32 + 2 + 2 + key }

// Message encodes the welcome. It fails if a part has the wrong length.
func (w Welcome) Message() (Message, error) {
	if len(w.Terms) != termsSize || len(w.FeeSheet) != feeSize || len(w.MeterKey) > maxKey {
		return Message{}, fmt.Errorf("%w: welcome with terms of %d, fee sheet of %d and key of %d bytes", ErrMessage,
			len(w.Terms), len(w.FeeSheet), len(w.MeterKey))
	}
	b := make([]byte, 0, welcomeSize(len(w.MeterKey)))
	b = append(b, w.Terms...)
	b = append(b, w.FeeSheet...)
	b = append(b, w.MeterSalt[:]...)
	b = append(b, w.EVSE, w.Phases)
	b = binary.BigEndian.AppendUint16(b, uint16(len(w.MeterKey)))
	return Message{Hello, append(b, w.MeterKey...)}, nil
}

// ParseWelcome reads a Hello's body; the result owns its bytes.
func ParseWelcome(b []byte) (Welcome, error) {
	if len(b) < welcomeSize(0) || len(b) != welcomeSize(int(binary.BigEndian.Uint16(b[welcomeSize(0)-2:]))) || len(b) > welcomeSize(maxKey) {
		return Welcome{}, fmt.Errorf("%w: welcome of %d bytes", ErrMessage, len(b))
	}
	b = append([]byte(nil), b...)
	w := Welcome{Terms: b[:termsSize:termsSize], FeeSheet: b[termsSize : termsSize+feeSize : termsSize+feeSize]}
	rest := b[termsSize+feeSize:]
	w.MeterSalt = [32]byte(rest)
	w.EVSE, w.Phases, w.MeterKey = rest[32], rest[33], rest[36:]
	return w, nil
}

// Need is what the driver would like: first of energy into the car, in a second
// message of energy out of it. It stays in the house: it is bound to the
// connection that sent the Open and signed by nobody.
type Need struct {
	Want      int64 // mWh, 0 for as much as fits
	Floor     int64 // mWh that must be in by then, whatever it costs
	Departure int64 // UTC ms, 0 if unknown
	NotBefore int64 // UTC ms, 0 for at once; of energy out of the car
	OnCall    bool  // energy out of the car only when the grid operator asks for it
}

// Message encodes the need.
func (n Need) Message() Message {
	b := make([]byte, 0, needSize)
	for _, v := range []int64{n.Want, n.Floor, n.Departure, n.NotBefore} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	if n.OnCall {
		return Message{Wish, append(b, 1)}
	}
	return Message{Wish, append(b, 0)}
}

const (
	maxNeed = 1_000_000_000       // mWh: 1 MWh, above any car
	maxTime = 253_402_300_800_000 // UTC ms of the year 10000
)

// ParseNeed reads a Wish's body and checks the ranges.
func ParseNeed(b []byte) (Need, error) {
	if len(b) != needSize {
		return Need{}, fmt.Errorf("%w: need of %d bytes", ErrMessage, len(b))
	}
	at := func(i int) int64 { return int64(binary.BigEndian.Uint64(b[8*i:])) }
	n := Need{Want: at(0), Floor: at(1), Departure: at(2), NotBefore: at(3), OnCall: b[needSize-1] == 1}
	if n.Want < 0 || n.Want > maxNeed || n.Floor < 0 || n.Floor > maxNeed || n.Departure < 0 || n.Departure > maxTime || n.NotBefore < 0 || n.NotBefore > maxTime || b[needSize-1] > 1 {
		return Need{}, fmt.Errorf("%w: need out of range", ErrMessage)
	}
	return n, nil
}

// FlexMessage shows the driver an offer that the host has signed.
func FlexMessage(f *pool.Flex) Message { return Message{Flex, f.Encode()} }

// ParseFlex reads a Flex's body: the driver's signature must be missing. It
// checks ranges, not the host's signature. Errors wrap ErrMessage.
func ParseFlex(b []byte) (*pool.Flex, error) {
	f, err := pool.DecodeFlex(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if f.DriverSig != [64]byte{} {
		return nil, fmt.Errorf("%w: an offer that is signed already", ErrMessage)
	}
	return f, nil
}

// Assent is the driver's signature under the offer for the slots from From.
type Assent struct {
	From int64 // UTC ms
	Sig  [64]byte
}

// Message encodes the assent.
func (a Assent) Message() Message {
	return Message{FlexOK, append(binary.BigEndian.AppendUint64(make([]byte, 0, assentSize), uint64(a.From)), a.Sig[:]...)}
}

// ParseAssent reads a FlexOK's body and checks the range of From.
func ParseAssent(b []byte) (Assent, error) {
	if len(b) != assentSize {
		return Assent{}, fmt.Errorf("%w: assent of %d bytes", ErrMessage, len(b))
	}
	a := Assent{From: int64(binary.BigEndian.Uint64(b)), Sig: [64]byte(b[8:])}
	if a.From < 0 || a.From > maxTime {
		return Assent{}, fmt.Errorf("%w: assent out of range", ErrMessage)
	}
	return a, nil
}

// Parcel is sealed bytes that the host forwards to an operator for a wallet
// without network, or what came back. The host sees their length only.
type Parcel struct {
	ID      uint32   // chosen by the wallet, repeated in the answer
	To      [16]byte // operator: the audience of certificates, or a utility's id
	Service uint8    // which of the operator's services: a number of the mesh
	Failed  bool     // Carried only: nothing came back; try again later
	Body    []byte
}

const parcelHead = 4 + 16 + 1 + 1

// Message encodes the parcel as Carry or Carried.
func (p Parcel) Message(t Type) (Message, error) {
	if t != Carry && t != Carried || len(p.Body) > maxParcel || p.Failed && t == Carry {
		return Message{}, fmt.Errorf("%w: parcel of %d bytes", ErrMessage, len(p.Body))
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, parcelHead+len(p.Body)), p.ID)
	b = append(b, p.To[:]...)
	b = append(b, p.Service, 0)
	if p.Failed {
		b[len(b)-1] = 1
	}
	return Message{t, append(b, p.Body...)}, nil
}

// ParseParcel reads the body of a Carry or Carried; the result owns its bytes.
func ParseParcel(m Message) (Parcel, error) {
	b := m.Body
	if m.Type != Carry && m.Type != Carried || len(b) < parcelHead || len(b) > parcelHead+maxParcel {
		return Parcel{}, fmt.Errorf("%w: parcel of %d bytes", ErrMessage, len(b))
	}
	p := Parcel{ID: binary.BigEndian.Uint32(b), To: [16]byte(b[4:]), Service: b[20], Failed: b[21] == 1}
	if b[21] > 1 || p.Failed && m.Type == Carry {
		return Parcel{}, fmt.Errorf("%w: parcel", ErrMessage)
	}
	p.Body = append([]byte(nil), b[parcelHead:]...)
	return p, nil
}

// Note tells the wallet where things stand: what the host's page shows too.
type Note struct {
	State  uint8  // ev.State of the session
	PowerW int32  // charging positive
	Text   string // at most 255 bytes of UTF-8: why, and what to do next
}

const noteHead = 1 + 4

// Message encodes the note; a longer text is cut at a rune.
func (n Note) Message() Message {
	text := n.Text
	for len(text) > maxText {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	b := binary.BigEndian.AppendUint32([]byte{n.State}, uint32(n.PowerW))
	return Message{Notice, append(b, text...)}
}

// ParseNote reads a Notice's body.
func ParseNote(b []byte) (Note, error) {
	if len(b) < noteHead || len(b) > noteHead+maxText || !utf8.Valid(b[noteHead:]) {
		return Note{}, fmt.Errorf("%w: note of %d bytes", ErrMessage, len(b))
	}
	return Note{State: b[0], PowerW: int32(binary.BigEndian.Uint32(b[1:])), Text: string(b[noteHead:])}, nil
}
