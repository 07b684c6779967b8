package note

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"

	"github.com/cloudflare/circl/blindsign/blindrsa"

	"gridveil/privacy"
)

// Slot is a blinded note on its way to the mint, or a blind signature on its
// way back.
type Slot [SlotSize]byte

// serialKey derives the Ed25519 key whose public half is a note's serial:
// HKDF(seed, keyid, counter).
func serialKey(seed [32]byte, key [8]byte, counter uint64) ed25519.PrivateKey {
	info := binary.BigEndian.AppendUint64([]byte("gridveil/serial/v1\x00"), counter)
	k, err := hkdf.Key(sha256.New, seed[:], key[:], string(info), ed25519.SeedSize)
	if err != nil {
		panic("note: HKDF refuses 32 bytes: " + err.Error()) // only possible beyond 255*32 bytes
	}
	return ed25519.NewKeyFromSeed(k)
}

// stream gives the randomness of one slot. Label "gridveil-blind" blinds,
// "gridveil-fill" fills the slots that the amount leaves empty.
func stream(label string, seed [32]byte, key [8]byte, counter uint64) io.Reader {
	return privacy.SeededReader(label, seed[:], key[:], binary.BigEndian.AppendUint64(nil, counter))
}

// blinded is one slot before and after the mint: circl's State cannot be
// stored, so it is made again from the seed when the answer comes.
type blinded struct {
	client blindrsa.Client
	state  blindrsa.State
	serial ed25519.PublicKey
	slot   Slot
}

func blind(seed [32]byte, pub *PublicKey, counter uint64) (blinded, error) {
	serial := serialKey(seed, pub.id, counter).Public().(ed25519.PublicKey)
	client, err := blindrsa.NewClient(blindrsa.SHA384PSSDeterministic, &pub.rsa)
	if err != nil {
		return blinded{}, fmt.Errorf("blind: %w", err)
	}
	msg, state, err := client.Blind(stream("gridveil-blind", seed, pub.id, counter), serial)
	if err != nil {
		return blinded{}, fmt.Errorf("blind: %w: %v", ErrKey, err)
	}
	return blinded{client, state, serial, Slot(msg)}, nil
}

// finish unblinds the mint's answer and verifies it.
func (b blinded) finish(answer Slot) ([SlotSize]byte, error) {
	sig, err := b.client.Finalize(b.state, answer[:])
	if err != nil {
		return [SlotSize]byte{}, fmt.Errorf("blind signature: %w", ErrSignature)
	}
	return [SlotSize]byte(sig), nil
}

// filler is a slot that is nobody's note: uniform in 1..N-1, as a blinded note
// is, and the same bytes whenever the request is made again.
func filler(seed [32]byte, pub *PublicKey, counter uint64) (Slot, error) {
	return uniform(stream("gridveil-fill", seed, pub.id, counter), pub.rsa.N)
}

func uniform(rnd io.Reader, n *big.Int) (Slot, error) {
	var s Slot
	for {
		if _, err := io.ReadFull(rnd, s[:]); err != nil {
			return Slot{}, fmt.Errorf("read filler: %w", err)
		}
		if inRange(s, n) {
			return s, nil
		}
	}
}

func inRange(s Slot, n *big.Int) bool {
	return s != Slot{} && bytes.Compare(s[:], n.FillBytes(make([]byte, SlotSize))) < 0
}

// blindSign is the raw private operation; circl checks its own result with e.
func blindSign(key *rsa.PrivateKey, in Slot) (Slot, error) {
	if !inRange(in, key.N) {
		return Slot{}, fmt.Errorf("blinded note: %w", ErrSlot)
	}
	out, err := blindrsa.NewSigner(key).BlindSign(in[:])
	if err != nil {
		return Slot{}, fmt.Errorf("blind sign: %w", err)
	}
	return Slot(out), nil
}
