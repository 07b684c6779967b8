package report

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cloudflare/circl/hpke"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"
)

// DayKey is the head-end's X25519 pair of one day. The private half is
// destroyed three days later; recorded traffic then stays closed for ever.
type DayKey struct {
	Day  uint16 // days since 1970-01-01 UTC
	Pub  [32]byte
	priv [32]byte
}

// DayOf is the number of the UTC day that holds t (ms).
func DayOf(t int64) uint16 { return uint16(t / 86_400_000) }

// Days of a key's life.
const (
	PublishAhead = 30 // days of keys in an order
	KeepPrivate  = 3  // days after which a private key is destroyed
)

var dayKEM = hpke.KEM_X25519_HKDF_SHA256.Scheme()

func daySuite() hpke.Suite {
	return hpke.NewSuite(hpke.KEM_X25519_HKDF_SHA256, hpke.KDF_HKDF_SHA256, hpke.AEAD_ChaCha20Poly1305)
}

// NewDayKey draws the pair of a day from rnd; nil means crypto/rand.
func NewDayKey(rnd io.Reader, day uint16) (DayKey, error) {
	if rnd == nil {
		rnd = rand.Reader
	}
	seed := make([]byte, dayKEM.SeedSize())
	if _, err := io.ReadFull(rnd, seed); err != nil {
		return DayKey{}, fmt.Errorf("draw day key: %w", err)
	}
	pub, priv := dayKEM.DeriveKeyPair(seed)
	p, err := pub.MarshalBinary()
	if err != nil {
		return DayKey{}, fmt.Errorf("encode day key: %w", err)
	}
	s, err := priv.MarshalBinary()
	if err != nil {
		return DayKey{}, fmt.Errorf("encode day key: %w", err)
	}
	return DayKey{Day: day, Pub: [32]byte(p), priv: [32]byte(s)}, nil
}

// Secret gives the bytes to keep in the store: public || private key.
func (k DayKey) Secret() []byte { return append(k.Pub[:len(k.Pub):len(k.Pub)], k.priv[:]...) }

// DayKeyFrom restores what Secret gave.
func DayKeyFrom(day uint16, secret []byte) (DayKey, error) {
	if len(secret) != 64 {
		return DayKey{}, fmt.Errorf("day key of %d bytes, want 64", len(secret))
	}
	return DayKey{Day: day, Pub: [32]byte(secret[:32]), priv: [32]byte(secret[32:])}, nil
}

// String hides the private half.
func (k DayKey) String() string { return fmt.Sprintf("day key %d", k.Day) }

// GoString hides the private half from %#v.
func (k DayKey) GoString() string { return k.String() }

// Message is what travels: the signed header in clear, the body sealed.
type Message struct {
	Header Header
	Day    uint16
	Box    []byte
}

// paddedSizes are the only sizes of a padded body: 512 x 4^k hides how many
// slots and meters a report holds within a factor of four.
var paddedSizes = [...]int{512, 2048, 8192, 32768, 131072, 524288}

// MaxMessage is the largest encoded message.
const MaxMessage = HeaderSize + 2 + BoxOverhead + 524288

// Seal pads and seals the encoded body to a day key. The header is bound as
// associated data.
func Seal(rnd io.Reader, h Header, body []byte, day uint16, key [32]byte) (Message, error) {
	padded, err := pad(body)
	if err != nil {
		return Message{}, err
	}
	box, err := SealBox(rnd, key, sealInfo(day), h.Encode(), padded)
	if err != nil {
		return Message{}, err
	}
	return Message{Header: h, Day: day, Box: box}, nil
}

// OpenBody opens a message and returns the encoded body. It returns ErrOpen,
// which a receiver answers with BadBody (or Reseal when it has no such key).
func (k DayKey) OpenBody(m Message) ([]byte, error) {
	if m.Day != k.Day {
		return nil, ErrOpen
	}
	padded, err := k.OpenBox(sealInfo(k.Day), m.Header.Encode(), m.Box)
	if err != nil {
		return nil, err
	}
	return unpad(padded)
}

// BoxOverhead is how much longer than its plaintext a box is: the HPKE
// encapsulated key and the tag.
const BoxOverhead = 32 + 16

// SealBox seals plain to a day key (HPKE base mode, RFC 9180, X25519,
// HKDF-SHA256, ChaCha20-Poly1305). info separates uses of the key; the opener
// has to know info and aad.
func SealBox(rnd io.Reader, key [32]byte, info, aad, plain []byte) ([]byte, error) {
	pub, err := dayKEM.UnmarshalBinaryPublicKey(key[:])
	if err != nil {
		return nil, fmt.Errorf("%w: day key is no X25519 key", ErrInvalidReport)
	}
	sender, err := daySuite().NewSender(pub, info)
	if err != nil {
		return nil, fmt.Errorf("seal to day key: %w", err)
	}
	enc, ctx, err := sender.Setup(rnd)
	if err != nil {
		return nil, fmt.Errorf("seal to day key: %w", err)
	}
	ct, err := ctx.Seal(plain, aad)
	if err != nil {
		return nil, fmt.Errorf("seal to day key: %w", err)
	}
	return append(enc, ct...), nil
}

// OpenBox opens what SealBox made, or returns ErrOpen.
func (k DayKey) OpenBox(info, aad, box []byte) ([]byte, error) {
	ctx, err := k.opener(info, box)
	if err != nil {
		return nil, err
	}
	plain, err := ctx.Open(box[32:], aad)
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

func (k DayKey) opener(info, box []byte) (hpke.Opener, error) {
	if len(box) < BoxOverhead {
		return nil, ErrOpen
	}
	priv, err := dayKEM.UnmarshalBinaryPrivateKey(k.priv[:])
	if err != nil {
		return nil, fmt.Errorf("%w: own day key", ErrOpen)
	}
	receiver, err := daySuite().NewReceiver(priv, info)
	if err != nil {
		return nil, fmt.Errorf("%w: own day key", ErrOpen)
	}
	ctx, err := receiver.Setup(box[:32])
	if err != nil {
		return nil, ErrOpen
	}
	return ctx, nil
}

// BoxKey opens one box and nothing else: key 32 || nonce 12 of its AEAD, as RFC 9180
// derives them. It may be shown to an outsider; the day key may not.
type BoxKey [chacha20poly1305.KeySize + chacha20poly1305.NonceSize]byte

// BoxKey derives the key of one box, or returns ErrOpen.
func (k DayKey) BoxKey(info, box []byte) (b BoxKey, err error) {
	ctx, err := k.opener(info, box)
	if err != nil {
		return b, err
	}
	raw, err := ctx.MarshalBinary()
	if err != nil {
		return b, fmt.Errorf("%w: key of a box: %w", ErrOpen, err)
	}
	// role 1 | KEM, KDF, AEAD 6 | then each behind its length u8: exporter secret, key, nonce, sequence number
	s := cryptobyte.String(raw)
	var exporter, key, nonce cryptobyte.String
	if !s.Skip(7) || !s.ReadUint8LengthPrefixed(&exporter) || !s.ReadUint8LengthPrefixed(&key) || !s.ReadUint8LengthPrefixed(&nonce) || len(key)+len(nonce) != len(b) {
		return b, fmt.Errorf("%w: key of a box", ErrOpen)
	}
	copy(b[copy(b[:], key):], nonce)
	return b, nil
}

// Open opens the box whose key b is, or returns ErrOpen. No other box and no other
// content opens with it.
func (b BoxKey) Open(aad, box []byte) ([]byte, error) {
	if len(box) < BoxOverhead {
		return nil, ErrOpen
	}
	aead, err := chacha20poly1305.New(b[:chacha20poly1305.KeySize])
	if err != nil {
		return nil, fmt.Errorf("%w: key of a box", ErrOpen)
	}
	plain, err := aead.Open(nil, b[chacha20poly1305.KeySize:], box[32:], aad)
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

func sealInfo(day uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte("gridveil/report-seal/v1\x00"), day)
}

func pad(body []byte) ([]byte, error) {
	for _, size := range paddedSizes {
		if len(body) < size {
			out := make([]byte, size)
			copy(out, body)
			out[len(body)] = 0x80
			return out, nil
		}
	}
	return nil, fmt.Errorf("%w: body of %d bytes, limit %d", ErrInvalidReport, len(body), MaxBody)
}

func unpad(padded []byte) ([]byte, error) {
	end := len(padded) - 1
	for end >= 0 && padded[end] == 0 {
		end--
	}
	if end < 0 || padded[end] != 0x80 {
		return nil, fmt.Errorf("%w: padding", ErrOpen)
	}
	if again, err := pad(padded[:end]); err != nil || len(again) != len(padded) {
		return nil, fmt.Errorf("%w: padding", ErrOpen)
	}
	return padded[:end], nil
}

// Encode gives header 192 | seal day 2 | box.
func (m Message) Encode() []byte {
	b := append(make([]byte, 0, HeaderSize+2+len(m.Box)), m.Header.Encode()...)
	b = binary.BigEndian.AppendUint16(b, m.Day)
	return append(b, m.Box...)
}

// DecodeMessage parses a message. The box must have one of the padded sizes,
// so a relay can check the size of what it cannot read.
func DecodeMessage(raw []byte) (Message, error) {
	if len(raw) < HeaderSize+2 || len(raw) > MaxMessage {
		return Message{}, fmt.Errorf("%w: message of %d bytes", ErrInvalidReport, len(raw))
	}
	h, err := DecodeHeader(raw[:HeaderSize])
	if err != nil {
		return Message{}, err
	}
	m := Message{Header: h, Day: binary.BigEndian.Uint16(raw[HeaderSize:]), Box: raw[HeaderSize+2:]}
	for _, size := range paddedSizes {
		if len(m.Box) == size+BoxOverhead {
			return m, nil
		}
	}
	return Message{}, fmt.Errorf("%w: box of %d bytes", ErrInvalidReport, len(m.Box))
}
