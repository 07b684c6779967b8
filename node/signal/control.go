package signal

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	grid "gridveil/ev/signal"
	"gridveil/mesh/gossip"
	"gridveil/node/store"
)

// Key is the secret of aggregator and gateway for the controls of one session.
type Key [32]byte

// String hides the key.
func (Key) String() string { return "[redacted]" }

// GoString hides the key from %#v.
func (Key) GoString() string { return "signal.Key{[redacted]}" }

// SessionKey gives the key of a session (H(Open)) from the aggregator's own
// secret, so that the aggregator stores none. It travels to the gateway in the
// sealed answer to the session's flexibility offer.
func SessionKey(secret, open [32]byte) Key {
	m := hmac.New(sha256.New, secret[:])
	m.Write([]byte("gridveil/control/1 key"))
	m.Write(open[:])
	return Key(m.Sum(nil))
}

// Line is a session's control line: its key and the counter of the next control.
type Line struct {
	Key  Key
	Next uint64
}

// LineSize is the length of an encoded Line.
const LineSize = 40

// Bytes gives key 32 | next u64.
func (l Line) Bytes() []byte { return binary.BigEndian.AppendUint64(l.Key[:], l.Next) }

// ParseLine is the inverse of Bytes.
func ParseLine(b []byte) (Line, error) {
	if len(b) != LineSize {
		return Line{}, fmt.Errorf("%w: control line of %d bytes, want %d", grid.ErrBody, len(b), LineSize)
	}
	return Line{Key(b[:32]), binary.BigEndian.Uint64(b[32:])}, nil
}

// Tag is the register key of a session's control number counter. Nobody but the
// two sides can tell two tags of one session from those of two.
func (k Key) Tag(counter uint64) uint64 {
	m := hmac.New(sha256.New, k[:])
	m.Write(binary.BigEndian.AppendUint64([]byte("gridveil/control/1 tag"), counter))
	return binary.BigEndian.Uint64(m.Sum(nil))
}

// SealedSize is the size of every sealed control: all look alike.
const SealedSize = grid.ControlSize

// inner is how much of a control's padded encoding is sealed; the rest of it is
// zero by its own rule, so that nonce and tag fit the same 256 bytes.
const inner = SealedSize - chacha20poly1305.NonceSizeX - chacha20poly1305.Overhead

// Seal closes control number counter:
//
//	nonce 24 | XChaCha20-Poly1305 of the control's first 216 bytes, bound to its tag
//
// The nonce is random, so that a counter that was used twice gives nothing away.
func (k Key) Seal(rnd io.Reader, counter uint64, c *grid.Control) ([]byte, error) {
	plain, err := c.Encode()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX, SealedSize)
	if _, err := io.ReadFull(rnd, nonce); err != nil {
		return nil, fmt.Errorf("draw nonce: %w", err)
	}
	return k.aead().Seal(nonce, nonce, plain[:inner], k.bound(counter)), nil
}

// ErrSealed means that a sealed control does not open: it is not this session's,
// or was altered.
var ErrSealed = errors.New("control does not open with this session's key")

// Open is the inverse of Seal.
func (k Key) Open(counter uint64, sealed []byte) (*grid.Control, error) {
	if len(sealed) != SealedSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrSealed, len(sealed), SealedSize)
	}
	nonce, rest := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	plain, err := k.aead().Open(nil, nonce, rest, k.bound(counter))
	if err != nil {
		return nil, ErrSealed
	}
	return grid.DecodeControl(append(plain, make([]byte, grid.ControlSize-inner)...))
}

func (k Key) bound(counter uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte("gridveil/control/1"), k.Tag(counter))
}

func (k Key) aead() cipher.AEAD {
	key, err := hkdf.Key(sha256.New, k[:], nil, "gridveil/control/1 seal", chacha20poly1305.KeySize)
	if err != nil {
		panic("signal: HKDF refuses 32 bytes: " + err.Error()) // only possible beyond 255*32 bytes
	}
	a, err := chacha20poly1305.NewX(key)
	if err != nil {
		panic("signal: XChaCha20-Poly1305 refuses its key size: " + err.Error())
	}
	return a
}

// Publisher makes a register known; *mesh.Host is one.
type Publisher interface {
	Publish(k gossip.Kind, key uint64, body []byte, expires time.Time) error
}

// Sender sends controls: the aggregator's side of a line. Safe for concurrent use.
type Sender struct {
	Host  Publisher
	Store *store.Store
	Rand  io.Reader

	mu sync.Mutex // one counter at a time
}

func counterKey(open [32]byte) []byte { return store.SpaceSession.Key([]byte("control"), open[:]) }

// Line gives the session's line, for the answer to its flexibility offer.
func (s *Sender) Line(k Key, open [32]byte) (Line, error) {
	next, err := s.next(open)
	return Line{k, next}, err
}

func (s *Sender) next(open [32]byte) (uint64, error) {
	b, err := s.Store.Get(counterKey(open))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, fmt.Errorf("control counter: %w", err)
	}
	n, _ := store.GetU64(b)
	return n, nil
}

// Send publishes a control to the session c.Open. The counter is durable before
// the control leaves; one that could not leave gives its counter back, so that the
// gateway, which looks out for the next few, never loses the line. Errors are
// those of Publish, of the store, or grid.ErrBody.
func (s *Sender) Send(k Key, c *grid.Control, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	counter, err := s.next(c.Open)
	if err != nil {
		return err
	}
	sealed, err := k.Seal(s.Rand, counter, c)
	if err != nil {
		return err
	}
	if err := s.Store.Set(counterKey(c.Open), store.U64(counter+1)); err != nil {
		return fmt.Errorf("control counter: %w", err)
	}
	expires := now.Add(ControlLife)
	if end := time.UnixMilli(c.To); end.Before(expires) {
		expires = end
	}
	if err := s.Host.Publish(gossip.KindControl, k.Tag(counter), sealed, expires); err != nil {
		return errors.Join(fmt.Errorf("publish control: %w", err), s.Store.Set(counterKey(c.Open), store.U64(counter)))
	}
	return nil
}

// Forget drops the counter of a session that is over.
func (s *Sender) Forget(open [32]byte) error { return remove(s.Store, counterKey(open)) }

func remove(st *store.Store, key []byte) error {
	return st.Update(func(tx *store.Tx) error { return tx.Delete(key) })
}
