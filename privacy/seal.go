package privacy

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/hpke"
	"github.com/cloudflare/circl/kem"
	"golang.org/x/crypto/chacha20poly1305"
)

// Suite says how a network seals boxes to a public key. It is a setting of the
// network, not part of a box.
type Suite uint8

const (
	SuiteX25519 Suite = 1 // X25519, HKDF-SHA256, ChaCha20-Poly1305: 48 bytes more than the padded plaintext
	SuiteXWing  Suite = 2 // X25519 and ML-KEM-768 together: 1136 bytes more
)

// MaxPlaintext bounds what is sealed or opened: a bill batch of 4096 lines fits.
const MaxPlaintext = 2 << 20

// ExporterBoxOverhead is how much longer than its padded plaintext a box made
// with an Exporter is: 16 bytes of salt and 16 of tag.
const ExporterBoxOverhead = saltSize + chacha20poly1305.Overhead

const saltSize = 16 // 2^-64 collision chance after 2^32 boxes of one exchange

var (
	// ErrSuite says that a suite is not one of this version's.
	ErrSuite = errors.New("unknown sealing suite")
	// ErrKind says that a message kind may not be sealed, or is none.
	ErrKind = errors.New("kind is never sealed")
	// ErrTooLong says that a plaintext or box exceeds MaxPlaintext.
	ErrTooLong = errors.New("message too long")
	// ErrOpen says that a box does not open: wrong key, kind or network, or
	// changed bytes. The reasons are not told apart.
	ErrOpen = errors.New("box does not open")
)

// BoxKey is a recipient's key pair in one suite. Priv is secret.
type BoxKey struct {
	Suite Suite
	Pub   []byte
	Priv  []byte
}

// String shows the key's identifier only, so that a log never shows Priv.
func (k BoxKey) String() string { return fmt.Sprintf("box key %x", KeyID(UseBox, k.Pub)) }

// GoString is String: %#v must not show Priv either.
func (k BoxKey) GoString() string { return k.String() }

// hpke maps the suite to circl's names. Algorithm numbers never come from
// the wire: circl panics on unknown ones.
func (s Suite) hpke() (hpke.Suite, kem.Scheme, error) {
	id := hpke.KEM_X25519_HKDF_SHA256
	switch s {
	case SuiteX25519:
	case SuiteXWing:
		id = hpke.KEM_XWING
	default:
		return hpke.Suite{}, nil, fmt.Errorf("suite %d: %w", s, ErrSuite)
	}
	return hpke.NewSuite(id, hpke.KDF_HKDF_SHA256, hpke.AEAD_ChaCha20Poly1305), id.Scheme(), nil
}

// Overhead is how much longer than its padded plaintext a box of the suite is,
// 0 for an unknown suite.
func (s Suite) Overhead() int {
	_, scheme, err := s.hpke()
	if err != nil {
		return 0
	}
	return scheme.CiphertextSize() + chacha20poly1305.Overhead
}

// NewBoxKey makes a recipient's key pair from rnd.
func NewBoxKey(rnd io.Reader, s Suite) (BoxKey, error) {
	_, scheme, err := s.hpke()
	if err != nil {
		return BoxKey{}, err
	}
	seed := make([]byte, scheme.SeedSize())
	if _, err := io.ReadFull(rnd, seed); err != nil {
		return BoxKey{}, fmt.Errorf("read box key seed: %w", err)
	}
	pk, sk := scheme.DeriveKeyPair(seed)
	pub, err := pk.MarshalBinary()
	if err != nil {
		return BoxKey{}, fmt.Errorf("encode box key: %w", err)
	}
	priv, err := sk.MarshalBinary()
	if err != nil {
		return BoxKey{}, fmt.Errorf("encode box key: %w", err)
	}
	return BoxKey{Suite: s, Pub: pub, Priv: priv}, nil
}

// Seal pads pt to its kind's block and seals it to pk, the recipient's public
// key in suite s. The Exporter boxes all later messages of the exchange, both
// ways; the sender keeps it as long as it awaits an answer.
//
// It returns ErrSuite, ErrKind, ErrTooLong, or ErrEncoding for a bad pk.
// Source: RFC 9180 base mode, info = "gridveil/1/" kind 0x00 net keyid.
func Seal(rnd io.Reader, s Suite, pk []byte, k Kind, net Net, pt []byte) ([]byte, Exporter, error) {
	suite, scheme, err := s.hpke()
	if err != nil {
		return nil, Exporter{}, err
	}
	padded, err := pad(k, pt)
	if err != nil {
		return nil, Exporter{}, err
	}
	pub, err := scheme.UnmarshalBinaryPublicKey(pk)
	if err != nil {
		return nil, Exporter{}, fmt.Errorf("recipient key: %w", ErrEncoding)
	}
	sender, err := suite.NewSender(pub, boxInfo(k, net, pk))
	if err != nil {
		return nil, Exporter{}, fmt.Errorf("recipient key: %w", ErrEncoding)
	}
	enc, ctx, err := sender.Setup(rnd)
	if errors.Is(err, hpke.ErrInvalidKEMSharedSecret) { // a small-order point: everybody would know the secret
		return nil, Exporter{}, fmt.Errorf("recipient key: %w", ErrEncoding)
	}
	if err != nil {
		return nil, Exporter{}, fmt.Errorf("seal %v: %w", k, err)
	}
	ct, err := ctx.Seal(padded, nil)
	if err != nil {
		return nil, Exporter{}, fmt.Errorf("seal %v: %w", k, err)
	}
	return append(enc, ct...), exporterOf(ctx), nil
}

// Open opens a box sealed to key and removes the padding. The Exporter boxes
// the answers. It returns ErrOpen for anything that does not open, whatever the
// reason, besides ErrSuite, ErrKind and ErrTooLong.
func Open(key BoxKey, k Kind, net Net, box []byte) ([]byte, Exporter, error) {
	suite, scheme, err := key.Suite.hpke()
	if err != nil {
		return nil, Exporter{}, err
	}
	if k.Block() == 0 {
		return nil, Exporter{}, fmt.Errorf("open %v: %w", k, ErrKind)
	}
	n := scheme.CiphertextSize()
	if len(box) > MaxPlaintext+k.Block()+key.Suite.Overhead() {
		return nil, Exporter{}, fmt.Errorf("open %v: %w", k, ErrTooLong)
	}
	if len(box) < n {
		return nil, Exporter{}, fmt.Errorf("open %v: %w", k, ErrOpen)
	}
	priv, err := scheme.UnmarshalBinaryPrivateKey(key.Priv)
	if err != nil {
		return nil, Exporter{}, fmt.Errorf("own box key: %w", ErrEncoding)
	}
	receiver, err := suite.NewReceiver(priv, boxInfo(k, net, key.Pub))
	if err != nil {
		return nil, Exporter{}, fmt.Errorf("own box key: %w", ErrEncoding)
	}
	ctx, err := receiver.Setup(box[:n])
	if err != nil {
		return nil, Exporter{}, fmt.Errorf("open %v: %w", k, ErrOpen)
	}
	padded, err := ctx.Open(box[n:], nil)
	if err != nil {
		return nil, Exporter{}, fmt.Errorf("open %v: %w", k, ErrOpen)
	}
	pt, err := unpad(k, padded)
	return pt, exporterOf(ctx), err
}

func boxInfo(k Kind, net Net, pk []byte) []byte {
	id := KeyID(UseBox, pk)
	return append(prefix(k, net), id[:]...)
}

// pad appends 0x80 and zeros up to a multiple of the kind's block, so that the
// padding of any plaintext is unique and can be removed.
func pad(k Kind, pt []byte) ([]byte, error) {
	block := k.Block()
	if block == 0 {
		return nil, fmt.Errorf("seal %v: %w", k, ErrKind)
	}
	if len(pt) > MaxPlaintext {
		return nil, fmt.Errorf("seal %v of %d bytes: %w", k, len(pt), ErrTooLong)
	}
	padded := make([]byte, (len(pt)/block+1)*block)
	copy(padded, pt)
	padded[len(pt)] = 0x80
	return padded, nil
}

func unpad(k Kind, padded []byte) ([]byte, error) {
	end := len(padded) - 1
	for end >= 0 && padded[end] == 0 {
		end--
	}
	block := k.Block()
	if end < 0 || padded[end] != 0x80 || len(padded) != (end/block+1)*block {
		return nil, fmt.Errorf("padding of %v: %w", k, ErrEncoding)
	}
	return padded[:end], nil
}

// Exporter is the shared secret of one exchange, born with its first box. It
// is plain bytes so that both sides can store it until the exchange ends; the
// HPKE context itself is never kept. It is secret.
type Exporter [32]byte

func exporterOf(ctx hpke.Context) Exporter {
	return Exporter(ctx.Export([]byte("gridveil/1/exporter"), 32))
}

// String hides the secret from logs.
func (Exporter) String() string { return "exporter" }

// GoString hides the secret from %#v.
func (Exporter) GoString() string { return "exporter" }

// Export derives 32 bytes for a purpose that both sides know, for example the
// name of a reply mailbox. Labels must not begin with "gridveil/1/", which the
// boxes use.
func (e Exporter) Export(label string) [32]byte {
	out, err := hkdf.Expand(sha256.New, e[:], label, 32)
	if err != nil {
		panic("privacy: HKDF refuses 32 bytes: " + err.Error()) // only possible beyond 255*32 bytes
	}
	return [32]byte(out)
}

// Seal boxes a later message of the exchange: salt16 || AEAD(key, padded pt),
// where the key comes from the exporter, the kind and the fresh salt. It
// returns ErrKind or ErrTooLong.
func (e Exporter) Seal(rnd io.Reader, k Kind, pt []byte) ([]byte, error) {
	padded, err := pad(k, pt)
	if err != nil {
		return nil, err
	}
	box := make([]byte, saltSize, len(padded)+ExporterBoxOverhead)
	if _, err := io.ReadFull(rnd, box); err != nil {
		return nil, fmt.Errorf("read salt: %w", err)
	}
	aead, nonce := e.aead(k, box[:saltSize])
	return aead.Seal(box, nonce, padded, nil), nil
}

// Open opens a box made by Seal of an equal Exporter for the same kind. It
// returns ErrOpen, ErrKind, ErrTooLong or ErrEncoding.
func (e Exporter) Open(k Kind, box []byte) ([]byte, error) {
	if k.Block() == 0 {
		return nil, fmt.Errorf("open %v: %w", k, ErrKind)
	}
	if len(box) > MaxPlaintext+k.Block()+ExporterBoxOverhead {
		return nil, fmt.Errorf("open %v: %w", k, ErrTooLong)
	}
	if len(box) < ExporterBoxOverhead {
		return nil, fmt.Errorf("open %v: %w", k, ErrOpen)
	}
	aead, nonce := e.aead(k, box[:saltSize])
	padded, err := aead.Open(nil, nonce, box[saltSize:], nil)
	if err != nil {
		return nil, fmt.Errorf("open %v: %w", k, ErrOpen)
	}
	return unpad(k, padded)
}

// aead gives a key used for this one box, so that its nonce may be zero.
func (e Exporter) aead(k Kind, salt []byte) (aead cipher.AEAD, nonce []byte) {
	secret := e.Export("gridveil/1/" + k.String())
	key, err := hkdf.Key(sha256.New, secret[:], salt, "gridveil/1/box", chacha20poly1305.KeySize)
	if err != nil {
		panic("privacy: HKDF refuses 32 bytes: " + err.Error()) // only possible beyond 255*32 bytes
	}
	a, err := chacha20poly1305.New(key)
	if err != nil {
		panic("privacy: ChaCha20-Poly1305 refuses its key size: " + err.Error())
	}
	return a, make([]byte, chacha20poly1305.NonceSize)
}
