package vee

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"gridveil/node/model"
)

// ErrInvalidEdit counts against whoever sent the bytes.
var ErrInvalidEdit = errors.New("vee: invalid edit")

// Edit is the signed record of a changed value. The raw value stays; the edit
// is a further revision with quality 7.
type Edit struct {
	UsagePoint model.UsagePoint
	Channel    model.Channel
	Slot       int64          // start, UTC ms
	Who        model.SourceID // key that signs
	At         int64          // UTC ms
	Rules      uint32         // version of the rules that were looked at
	Before     int64          // register, mWh
	After      int64
	Why        string // printable, 1..200 bytes
	Sig        [64]byte
}

const (
	editMagic = "GVE1"
	editLabel = "gridveil/edit/v1\x00"
	editFixed = 75
	maxWhy    = 200
)

// Encode gives magic 4 | usage point 16 | channel 2 | slot 8 | who 16 | at 8 |
// rules 4 | before 8 | after 8 | length 1 | why | signature 64.
func (e Edit) Encode() ([]byte, error) {
	if e.Slot < 0 || e.At < 0 || e.Before < 0 || e.After < 0 || len(e.Why) == 0 || len(e.Why) > maxWhy || !printable(e.Why) {
		return nil, fmt.Errorf("%w: field out of range", ErrInvalidEdit)
	}
	b := append([]byte(editMagic), e.UsagePoint[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(e.Channel))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Slot))
	b = append(b, e.Who[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.At))
	b = binary.BigEndian.AppendUint32(b, e.Rules)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Before))
	b = binary.BigEndian.AppendUint64(b, uint64(e.After))
	b = append(append(b, byte(len(e.Why))), e.Why...)
	return append(b, e.Sig[:]...), nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// DecodeEdit parses what Encode wrote; the caller verifies the signature.
func DecodeEdit(b []byte) (Edit, error) {
	if len(b) < editFixed+64 || !bytes.Equal(b[:4], []byte(editMagic)) || editFixed+int(b[editFixed-1])+64 != len(b) {
		return Edit{}, fmt.Errorf("%w: not a GVE1 edit", ErrInvalidEdit)
	}
	be := binary.BigEndian
	e := Edit{UsagePoint: model.UsagePoint(b[4:20]), Channel: model.Channel(be.Uint16(b[20:])), Slot: int64(be.Uint64(b[22:])),
		Who: model.SourceID(b[30:46]), At: int64(be.Uint64(b[46:])), Rules: be.Uint32(b[54:]), Before: int64(be.Uint64(b[58:])),
		After: int64(be.Uint64(b[66:])), Why: string(b[editFixed : len(b)-64]), Sig: [64]byte(b[len(b)-64:])}
	_, err := e.Encode()
	return e, err
}

// Sign signs the edit.
func (e *Edit) Sign(key ed25519.PrivateKey) error {
	b, err := e.Encode()
	if err == nil {
		copy(e.Sig[:], ed25519.Sign(key, append([]byte(editLabel), b[:len(b)-64]...)))
	}
	return err
}

// Verify checks that pub signed.
func (e Edit) Verify(pub ed25519.PublicKey) error {
	b, err := e.Encode()
	if err != nil {
		return err
	}
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, append([]byte(editLabel), b[:len(b)-64]...), e.Sig[:]) {
		return fmt.Errorf("%w: signature does not verify", ErrInvalidEdit)
	}
	return nil
}
