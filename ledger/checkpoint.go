package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// MaxCheckpoint is the largest checkpoint note that is read, in bytes: 100
// signature lines of a note fit many times.
const MaxCheckpoint = 64 << 10

// Signature types of C2SP signed-note verifier keys.
const (
	algEd25519 = 0x01
	algCosig   = 0x04 // cosignature/v1: u64 timestamp || Ed25519
)

// cosigSize is a timestamp and an Ed25519 signature.
const cosigSize = 8 + ed25519.SignatureSize

// Checkpoint states that the log has Size entries under this root. Source: C2SP
// tlog-checkpoint, without extension lines.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   Hash
}

// Body is the note text that log and witnesses sign.
func (c Checkpoint) Body() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

// ParseCheckpoint reads a note text: exactly one text exists per checkpoint. It
// returns ErrMalformed.
func ParseCheckpoint(body string) (Checkpoint, error) {
	lines := strings.Split(body, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, refuse(ErrMalformed, "checkpoint has not three lines")
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil {
		return Checkpoint{}, refuse(ErrMalformed, "checkpoint size")
	}
	root, err := parseHash(lines[2])
	if err != nil {
		return Checkpoint{}, err
	}
	c := Checkpoint{Origin: lines[0], Size: size, Root: root}
	if c.Body() != body || c.Origin == "" {
		return Checkpoint{}, refuse(ErrMalformed, "checkpoint is not canonical")
	}
	if size == 0 && root != EmptyRoot() {
		return Checkpoint{}, refuse(ErrMalformed, "checkpoint of size 0 has not the root of the empty tree")
	}
	return c, nil
}

// EmptyRoot is the root of a log without entries. Source: RFC 6962, 2.1.
func EmptyRoot() Hash { return sha256.Sum256(nil) }

// parseHash reads a line of standard base64 strictly.
func parseHash(s string) (h Hash, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(h) || len(s) != base64.StdEncoding.EncodedLen(len(h)) {
		return h, refuse(ErrMalformed, "%q is no hash in base64", s)
	}
	return Hash(b), nil
}

// noteSigner is a note.Signer made of a function.
type noteSigner struct {
	name string
	hash uint32
	sign func(msg []byte) ([]byte, error)
}

func (s noteSigner) Name() string                    { return s.name }
func (s noteSigner) KeyHash() uint32                 { return s.hash }
func (s noteSigner) Sign(msg []byte) ([]byte, error) { return s.sign(msg) }

// LogSigner signs checkpoints of the log with this origin.
func LogSigner(origin string, key ed25519.PrivateKey) note.Signer {
	return noteSigner{origin, keyHash(origin, algEd25519, pubOf(key)), func(msg []byte) ([]byte, error) {
		return ed25519.Sign(key, msg), nil
	}}
}

// Cosigner signs checkpoints as the witness of this name, stating that at the
// time now it knew no larger one. Source: C2SP tlog-cosignature.
func Cosigner(name string, key ed25519.PrivateKey, now time.Time) note.Signer {
	return noteSigner{name, keyHash(name, algCosig, pubOf(key)), func(msg []byte) ([]byte, error) {
		seconds := now.Unix()
		if seconds < 1 {
			return nil, fmt.Errorf("ledger: cosign at %s, before 1970", now.UTC().Format(time.RFC3339))
		}
		sig := binary.BigEndian.AppendUint64(nil, uint64(seconds))
		return append(sig, ed25519.Sign(key, cosigned(uint64(seconds), msg))...), nil
	}}
}

func pubOf(key ed25519.PrivateKey) Hash { return Hash(key.Public().(ed25519.PublicKey)) }

// cosigned is the message of a cosignature.
func cosigned(seconds uint64, body []byte) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", seconds), body...)
}

// keyHash is the 32-bit key ID of a signed note.
func keyHash(name string, alg byte, pub Hash) uint32 {
	h := sha256.New()
	h.Write([]byte(name))
	h.Write([]byte{'\n', alg})
	h.Write(pub[:])
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// VerifierKey is a public key as a policy writes it: "name+hash+base64". There
// are two sorts, of logs and of witnesses.
type VerifierKey struct {
	name string
	alg  byte
	pub  Hash
}

// LogKey is the verifier key of a log.
func LogKey(origin string, pub Hash) VerifierKey { return VerifierKey{origin, algEd25519, pub} }

// WitnessKey is the verifier key of a cosigner.
func WitnessKey(name string, pub Hash) VerifierKey { return VerifierKey{name, algCosig, pub} }

// ParseVerifierKey reads "name+hash+base64". It returns ErrMalformed.
func ParseVerifierKey(s string) (VerifierKey, error) {
	name, rest, _ := strings.Cut(s, "+")
	hash, data, ok := strings.Cut(rest, "+")
	b, err := base64.StdEncoding.Strict().DecodeString(data)
	if !ok || err != nil || len(b) != 33 || (b[0] != algEd25519 && b[0] != algCosig) || !validOrigin(name) {
		return VerifierKey{}, refuse(ErrMalformed, "verifier key %q: want name+hash+key with an Ed25519 key of type 1 or 4", s)
	}
	k := VerifierKey{name, b[0], Hash(b[1:])}
	if k.String() != s {
		return VerifierKey{}, refuse(ErrMalformed, "verifier key %q: its hash is not %s", s, hash)
	}
	return k, nil
}

// String is the text form of the key.
func (k VerifierKey) String() string {
	key := append([]byte{k.alg}, k.pub[:]...)
	return fmt.Sprintf("%s+%08x+%s", k.name, k.KeyHash(), base64.StdEncoding.EncodeToString(key))
}

// Name implements note.Verifier.
func (k VerifierKey) Name() string { return k.name }

// KeyHash implements note.Verifier.
func (k VerifierKey) KeyHash() uint32 { return keyHash(k.name, k.alg, k.pub) }

// Pub is the Ed25519 public key.
func (k VerifierKey) Pub() Hash { return k.pub }

// Cosigns reports whether the key is a witness's.
func (k VerifierKey) Cosigns() bool { return k.alg == algCosig }

// Verify implements note.Verifier.
func (k VerifierKey) Verify(msg, sig []byte) bool {
	if k.alg == algEd25519 {
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(k.pub[:], msg, sig)
	}
	if len(sig) != cosigSize {
		return false
	}
	seconds := binary.BigEndian.Uint64(sig)
	return seconds >= 1 && seconds < 1<<63 && ed25519.Verify(k.pub[:], cosigned(seconds, msg), sig[8:])
}

// SignCheckpoint makes the note of a checkpoint, signed by the log.
func SignCheckpoint(c Checkpoint, signers ...note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.Body()}, signers...)
}

// OpenCheckpoint parses a checkpoint note and verifies the signatures of the
// known keys; at least one must have signed. It returns ErrMalformed for a note
// that cannot be read or a text that is no checkpoint, ErrSignature otherwise.
func OpenCheckpoint(msg []byte, known ...VerifierKey) (Checkpoint, *note.Note, error) {
	if len(msg) > MaxCheckpoint {
		return Checkpoint{}, nil, refuse(ErrMalformed, "checkpoint of %d bytes, the most is %d", len(msg), MaxCheckpoint)
	}
	list := make([]note.Verifier, len(known))
	for i := range known {
		list[i] = known[i]
	}
	n, err := note.Open(msg, note.VerifierList(list...))
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	switch {
	case errors.As(err, &unverified):
		return Checkpoint{}, nil, refuse(ErrSignature, "no known key has signed the checkpoint")
	case errors.As(err, &invalid):
		return Checkpoint{}, nil, refuse(ErrSignature, "signature of %q on the checkpoint", invalid.Name)
	case err != nil:
		return Checkpoint{}, nil, refuse(ErrMalformed, "checkpoint: %v", err)
	}
	c, err := ParseCheckpoint(n.Text)
	return c, n, err
}

// Cosign answers a checkpoint note with the signature line of a witness, as
// add-checkpoint does. The caller has checked the checkpoint.
func Cosign(msg []byte, signer note.Signer) ([]byte, error) {
	text, _, ok := bytes.Cut(msg, []byte("\n\n"))
	if !ok {
		return nil, refuse(ErrMalformed, "checkpoint is no signed note")
	}
	signed, err := note.Sign(&note.Note{Text: string(text) + "\n"}, signer)
	if err != nil {
		return nil, fmt.Errorf("cosign checkpoint: %w", err)
	}
	return signed[len(text)+2:], nil
}

// MergeCosignatures adds the valid signature lines of witnesses to a checkpoint
// note and returns it with exactly one line per known key, in the order of
// known. Lines of unknown keys are dropped. It returns ErrSignature if a line
// names a known key but does not verify.
func MergeCosignatures(msg, lines []byte, known ...VerifierKey) ([]byte, error) {
	_, n, err := OpenCheckpoint(append(bytes.Clone(msg), lines...), known...)
	if err != nil {
		return nil, err
	}
	out := append([]byte(n.Text), '\n')
	for _, k := range known {
		for _, s := range n.Sigs {
			if s.Name == k.Name() && s.Hash == k.KeyHash() {
				out = fmt.Appendf(out, "— %s %s\n", s.Name, canonical(s.Base64))
				break
			}
		}
	}
	return out, nil
}

// canonical drops the unused bits that a base64 text may carry at its end.
func canonical(text string) string {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return text // note.Open has decoded it before
	}
	return base64.StdEncoding.EncodeToString(b)
}

// CosignedAt is the time that a cosignature states.
func CosignedAt(s note.Signature) (time.Time, error) {
	b, err := base64.StdEncoding.DecodeString(s.Base64)
	if err != nil || len(b) != 4+cosigSize {
		return time.Time{}, refuse(ErrMalformed, "signature of %q is no cosignature", s.Name)
	}
	return time.Unix(int64(binary.BigEndian.Uint64(b[4:])), 0).UTC(), nil
}
