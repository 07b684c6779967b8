package packet

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/hpke"
	"github.com/cloudflare/circl/kem"
	"golang.org/x/crypto/chacha20poly1305"
)

// Sizes of sealed messages in bytes.
const (
	SealKeySize  = 1216   // HPKE public key (ML-KEM-768 and X25519)
	sealSeedSize = 32     // HPKE private key
	encSize      = 1120   // HPKE encapsulation
	sealOverhead = 1136   // enc and AEAD tag
	MaxBody      = 11_500 // of a request or answer; with seal and header it fits 8 packets

	// MaxSealed is what eight fragments carry.
	MaxSealed = MaxFragments * FragmentSize

	messageFixed   = 20 // service 2, nreply 1, flags 1, request id 16
	answerNonce    = 16
	answerOverhead = answerNonce + chacha20poly1305.Overhead
)

// Message errors.
var (
	ErrSealKey  = errors.New("sealing key is not usable")
	ErrSealed   = errors.New("message was not sealed for this key or was changed")
	ErrMessage  = errors.New("message is malformed")
	ErrTooLarge = errors.New("message is too large: split it")
)

const (
	requestInfo   = "gridveil/message/1"
	answerExport  = "gridveil/answer/1"
	answerKeyInfo = "gridveil/answer-key/1"
)

// messageSuite is HPKE (RFC 9180) with X-Wing: safe if either X25519 or ML-KEM-768 is.
func messageSuite() hpke.Suite {
	return hpke.NewSuite(hpke.KEM_XWING, hpke.KDF_HKDF_SHA256, hpke.AEAD_ChaCha20Poly1305)
}

// SealKey opens what others seal for this node.
type SealKey struct {
	private kem.PrivateKey
	public  []byte
}

// NewSealKey draws a sealing key from rnd.
func NewSealKey(rnd io.Reader) (*SealKey, error) {
	seed := make([]byte, sealSeedSize)
	if _, err := io.ReadFull(rnd, seed); err != nil {
		return nil, fmt.Errorf("draw sealing key: %w", err)
	}
	return ParseSealKey(seed)
}

// ParseSealKey restores a key from its 32-byte seed (SealKey.Seed).
func ParseSealKey(seed []byte) (*SealKey, error) {
	if len(seed) != sealSeedSize {
		return nil, fmt.Errorf("%w: seed of %d bytes, want %d", ErrSealKey, len(seed), sealSeedSize)
	}
	private, err := hpke.KEM_XWING.Scheme().UnmarshalBinaryPrivateKey(seed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealKey, err)
	}
	public, err := private.Public().MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealKey, err)
	}
	return &SealKey{private, public}, nil
}

// Public gives the SealKeySize bytes that go into the `seal` register.
func (k *SealKey) Public() []byte { return bytes.Clone(k.public) }

// Seed gives the 32 secret bytes to store.
func (k *SealKey) Seed() ([]byte, error) { return k.private.MarshalBinary() }

// Request is a message to a service. It has no sender: answers go by its reply blocks.
//
//	service u16 | nreply u8 | flags u8 | request id 16 | ReplyBlock* | body
type Request struct {
	Service uint16
	Flags   uint8
	ID      [16]byte // the same on every retry; the recipient answers it once
	Replies []ReplyBlock
	Body    []byte
}

// MaxReplies is how many reply blocks still leave room for a body of size n.
func MaxReplies(n int) int {
	return min(MaxFragments, max(0, (MaxSealed-sealOverhead-messageFixed-n)/ReplyBlockSize))
}

func (r *Request) encode() ([]byte, error) {
	size := messageFixed + len(r.Replies)*ReplyBlockSize + len(r.Body)
	if len(r.Body) > MaxBody || len(r.Replies) > MaxReplies(len(r.Body)) {
		return nil, fmt.Errorf("%w: body of %d bytes with %d reply blocks", ErrTooLarge, len(r.Body), len(r.Replies))
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, size), r.Service)
	b = append(b, byte(len(r.Replies)), r.Flags)
	b = append(b, r.ID[:]...)
	for i := range r.Replies {
		b = append(b, r.Replies[i][:]...)
	}
	return append(b, r.Body...), nil
}

func parseRequest(b []byte) (Request, error) {
	if len(b) < messageFixed {
		return Request{}, fmt.Errorf("%w: %d bytes", ErrMessage, len(b))
	}
	r := Request{Service: binary.BigEndian.Uint16(b), Flags: b[3], ID: [16]byte(b[4:])}
	n, rest := int(b[2]), b[messageFixed:]
	if n > MaxFragments || len(rest) < n*ReplyBlockSize {
		return Request{}, fmt.Errorf("%w: %d reply blocks in %d bytes", ErrMessage, n, len(b))
	}
	for range n {
		r.Replies = append(r.Replies, ReplyBlock(rest[:ReplyBlockSize]))
		rest = rest[ReplyBlockSize:]
	}
	if len(rest) > MaxBody || n > MaxReplies(len(rest)) {
		return Request{}, fmt.Errorf("%w: body of %d bytes with %d reply blocks", ErrMessage, len(rest), n)
	}
	r.Body = bytes.Clone(rest)
	return r, nil
}

// AnswerKey seals or opens the answers to one sealed request; both ends get it
// from the HPKE exporter of that request.
type AnswerKey [32]byte

// SealRequest seals r for the holder of the public key (SealKeySize bytes). The
// answer key stays with the sender, to open the answer.
func SealRequest(public []byte, r *Request, rnd io.Reader) (sealed []byte, answer AnswerKey, err error) {
	plain, err := r.encode()
	if err != nil {
		return nil, answer, err
	}
	sealed, ctx, err := sealFor(public, plain, rnd)
	if err != nil {
		return nil, answer, err
	}
	return sealed, AnswerKey(ctx.Export([]byte(answerExport), 32)), nil
}

// OpenRequest is the recipient's side of SealRequest.
func (k *SealKey) OpenRequest(sealed []byte) (Request, AnswerKey, error) {
	plain, ctx, err := k.open(sealed)
	if err != nil {
		return Request{}, AnswerKey{}, err
	}
	r, err := parseRequest(plain)
	if err != nil {
		return Request{}, AnswerKey{}, err
	}
	return r, AnswerKey(ctx.Export([]byte(answerExport), 32)), nil
}

func sealFor(public, plain []byte, rnd io.Reader) ([]byte, hpke.Context, error) {
	if len(public) != SealKeySize {
		return nil, nil, fmt.Errorf("%w: %d bytes, want %d", ErrSealKey, len(public), SealKeySize)
	}
	pk, err := hpke.KEM_XWING.Scheme().UnmarshalBinaryPublicKey(public)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSealKey, err)
	}
	sender, err := messageSuite().NewSender(pk, []byte(requestInfo))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSealKey, err)
	}
	enc, sealer, err := sender.Setup(rnd)
	if err != nil {
		return nil, nil, fmt.Errorf("seal message: %w", err)
	}
	ct, err := sealer.Seal(plain, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("seal message: %w", err)
	}
	return append(enc, ct...), sealer, nil
}

func (k *SealKey) open(sealed []byte) ([]byte, hpke.Context, error) {
	if len(sealed) < sealOverhead || len(sealed) > MaxSealed {
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrSealed, len(sealed))
	}
	receiver, err := messageSuite().NewReceiver(k.private, []byte(requestInfo))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSealKey, err)
	}
	opener, err := receiver.Setup(sealed[:encSize])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	plain, err := opener.Open(sealed[encSize:], nil)
	if err != nil {
		return nil, nil, ErrSealed
	}
	return plain, opener, nil
}

// SealAnswer seals the answer to request id: nonce 16 | ChaCha20-Poly1305 under
// a key of its own, so that two answers to one request are both safe (as RFC 9458, 4.2).
func (k AnswerKey) SealAnswer(id [16]byte, body []byte, rnd io.Reader) ([]byte, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%w: answer of %d bytes", ErrTooLarge, len(body))
	}
	out := make([]byte, answerNonce, answerOverhead+len(body))
	if _, err := io.ReadFull(rnd, out); err != nil {
		return nil, fmt.Errorf("draw answer nonce: %w", err)
	}
	aead, err := k.aead(out)
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, make([]byte, chacha20poly1305.NonceSize), body, id[:]), nil
}

// OpenAnswer is the inverse of SealAnswer; a wrong key, id or byte is ErrSealed.
func (k AnswerKey) OpenAnswer(id [16]byte, sealed []byte) ([]byte, error) {
	if len(sealed) < answerOverhead || len(sealed) > MaxSealed {
		return nil, fmt.Errorf("%w: answer of %d bytes", ErrSealed, len(sealed))
	}
	aead, err := k.aead(sealed[:answerNonce])
	if err != nil {
		return nil, err
	}
	body, err := aead.Open(nil, make([]byte, chacha20poly1305.NonceSize), sealed[answerNonce:], id[:])
	if err != nil {
		return nil, ErrSealed
	}
	return body, nil
}

// aead gives the cipher of one answer from its nonce.
func (k AnswerKey) aead(nonce []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, k[:], nonce, answerKeyInfo, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive answer key: %w", err)
	}
	return chacha20poly1305.New(key)
}
