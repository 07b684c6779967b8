// Package note holds blind-signed bearer notes: how a household is paid for a
// charging session without anybody, not even mint and utility together, being
// able to tell which session a note paid for. The same blind signature under a
// different key is the host pass, the right to host in a zone for a week.
//
// # The life of a note
//
//	Wallet.Collect -> Row     13 blinded slots, one per denomination, filler where the amount has no bit
//	Mint.Sign      -> Row     signs exactly the slots of the amount
//	Wallet.Finish             unblinds and verifies: the notes are held
//	Wallet.Swap               after 1 to 48 h: old notes for new ones of equal sum, alike for every cause
//	Wallet.RedeemStep         3 to 30 days later: always the same six notes, 20.00, at the own utility
//
// Every note is spent by a signature of its own serial key, bound to ledger,
// payee and purpose; the ledger refuses a nullifier it has seen.
//
// # What it guarantees
//
// All keys, blinding values and filler of a [Wallet] derive from its seed and a
// counter that is durable before a request leaves, so a crash repeats the very
// same bytes and the mint's answer is the same answer. The mint refuses the
// inputs 0 and N and above, signs each slot of the amount once per request and
// nothing else. What it does not do: know who may claim (session and ledger do)
// or schedule anything ([SwapDelay] and [RedeemDelay] say when).
//
// Start with [NewMint] and [NewWallet]; verifiers need [ParseKey], [Verify],
// [Nullifier] and [VerifySpend] only.
//
// Source: RFC 9474, RSABSSA-SHA384-PSS-Deterministic with 2048 bit keys (the
// message is a fresh public key, more than 250 bits of entropy).
package note

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/big"

	"gridveil/privacy"
)

const (
	// Size of a note: key id 8, serial 32, signature 256.
	Size = 8 + 32 + SlotSize
	// SlotSize is the length of a blinded note, a blind signature or a
	// signature: one 2048 bit number, big-endian.
	SlotSize = 256

	keyBits     = 8 * SlotSize
	keyExponent = 65537
)

var (
	// ErrSignature says that a note, pass or spend is not validly signed.
	ErrSignature = errors.New("signature does not verify")
	// ErrKey says that an RSA key is not an odd 2048 bit modulus with
	// exponent 65537, or not the key that was asked for.
	ErrKey = errors.New("unusable note key")
	// ErrSlot says that a blinded value is 0 or not below the modulus.
	ErrSlot = errors.New("blinded value out of range")
	// ErrAmount says that an amount cannot be paid in one row of notes, or
	// that sums differ.
	ErrAmount = errors.New("amount does not fit")
	// ErrLate says that the window in which a note may be spent this way is
	// over.
	ErrLate = errors.New("note can no longer be spent this way")
	// ErrTwice says that one payment holds the same note twice.
	ErrTwice = errors.New("note stands twice in one payment")
	// ErrEncoding is privacy.ErrEncoding.
	ErrEncoding = privacy.ErrEncoding
)

// Note is `keyid8 serial32 sig256`: a bearer credit of the value of its key.
// The serial is an Ed25519 public key whose owner may spend the note.
type Note [Size]byte

// KeyID names the mint key that signed the note, and so its value.
func (n *Note) KeyID() [8]byte { return [8]byte(n[:8]) }

// Serial is the public key that spends the note.
func (n *Note) Serial() [32]byte { return [32]byte(n[8:40]) }

// Nullifier is SHA-256("gridveil/null/v1\0" keyid serial). A ledger that has
// seen it refuses the note.
func Nullifier(n *Note) [32]byte {
	h := sha256.New()
	h.Write([]byte("gridveil/null/v1\x00"))
	h.Write(n[:40])
	return [32]byte(h.Sum(nil))
}

// PublicKey is a mint's public key for one denomination, or for host passes.
type PublicKey struct {
	id  [8]byte
	rsa rsa.PublicKey
}

// ParseKey reads a modulus of 256 bytes, exponent 65537, for use UseNote or
// UsePass. It returns ErrKey unless the modulus is odd and has 2048 bits.
func ParseKey(use privacy.Use, modulus []byte) (*PublicKey, error) {
	n := new(big.Int).SetBytes(modulus)
	if len(modulus) != SlotSize || n.BitLen() != keyBits || n.Bit(0) == 0 {
		return nil, fmt.Errorf("modulus of %d bits: %w", n.BitLen(), ErrKey)
	}
	return &PublicKey{id: privacy.KeyID(use, modulus), rsa: rsa.PublicKey{N: n, E: keyExponent}}, nil
}

// ID is privacy.KeyID of the use and the modulus.
func (k *PublicKey) ID() [8]byte { return k.id }

// Modulus is the key as it stands on the ledger.
func (k *PublicKey) Modulus() [SlotSize]byte {
	var b [SlotSize]byte
	k.rsa.N.FillBytes(b[:])
	return b
}

// Verify returns nil if the note is signed by pub, ErrKey if it names another
// key, ErrSignature else. It says nothing about whether the note was spent.
func Verify(n *Note, pub *PublicKey) error {
	if n.KeyID() != pub.id {
		return fmt.Errorf("note names another key: %w", ErrKey)
	}
	return verifyPSS(&pub.rsa, n[8:40], n[40:])
}

// verifyPSS uses the standard library, which is faster than circl here; tests
// hold the two against each other.
func verifyPSS(pub *rsa.PublicKey, message, sig []byte) error {
	digest := sha512.Sum384(message)
	opts := rsa.PSSOptions{SaltLength: sha512.Size384, Hash: crypto.SHA384}
	if rsa.VerifyPSS(pub, crypto.SHA384, digest[:], sig, &opts) != nil {
		return fmt.Errorf("note: %w", ErrSignature)
	}
	return nil
}

// SpendMessage is what the serial key signs to spend a note on the ledger whose
// origin line is given: "gridveil/spend/v1\0" SHA-256(origin) payee bind. payee
// is a ledger account, bind a salted hash of the purpose ([Bind]).
func SpendMessage(origin string, payee uint32, bind [32]byte) []byte {
	o := sha256.Sum256([]byte(origin))
	m := append([]byte("gridveil/spend/v1\x00"), o[:]...)
	m = append(m, byte(payee>>24), byte(payee>>16), byte(payee>>8), byte(payee))
	return append(m, bind[:]...)
}

// VerifySpend returns nil if spend is the signature of the note's serial key
// over SpendMessage, else ErrSignature. Verifiers that demand ZIP-215 check
// SpendMessage with their own rule instead.
func VerifySpend(n *Note, spend [64]byte, origin string, payee uint32, bind [32]byte) error {
	if !ed25519.Verify(n[8:40], SpendMessage(origin, payee, bind), spend[:]) {
		return fmt.Errorf("spend: %w", ErrSignature)
	}
	return nil
}

// Bind hides a purpose (a swap's request, a redeem's contract handle) from the
// ledger until its salt is shown: SHA-256("gridveil/bind/v1\0" salt purpose).
func Bind(salt [32]byte, purpose []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("gridveil/bind/v1\x00"))
	h.Write(salt[:])
	h.Write(purpose)
	return [32]byte(h.Sum(nil))
}

// Spent is a note with the signature that spends it, as the ledger's redeem
// entry carries them.
type Spent struct {
	Note  Note
	Spend [64]byte
}
