package note

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"fmt"

	"gridveil/privacy"
)

// PassesPerWeek is how many host passes a gateway gets for one zone and week:
// one per session it may host.
const PassesPerWeek = 16

// PassSlots is a gateway's request for its passes of one week, or the answer.
type PassSlots [PassesPerWeek]Slot

// PassSlotsSize is the length of encoded PassSlots.
const PassSlotsSize = PassesPerWeek * SlotSize

// Bytes is the slots one after the other.
func (p *PassSlots) Bytes() []byte {
	b := make([]byte, 0, PassSlotsSize)
	for i := range p {
		b = append(b, p[i][:]...)
	}
	return b
}

// ParsePassSlots is the inverse of Bytes.
func ParsePassSlots(b []byte) (*PassSlots, error) {
	if len(b) != PassSlotsSize {
		return nil, fmt.Errorf("pass slots of %d bytes: %w", len(b), ErrEncoding)
	}
	var p PassSlots
	for i := range p {
		p[i] = Slot(b[i*SlotSize:])
	}
	return &p, nil
}

// PassMint signs host passes of one zone and week.
type PassMint struct {
	Zone uint16
	Week uint32 // pseudo.Week
	key  *rsa.PrivateKey
	pub  *PublicKey
}

// NewPassMint generates the key of one zone and week.
func NewPassMint(zone uint16, week uint32) (*PassMint, error) {
	k, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("generate pass key: %w", err)
	}
	return passMintOf(zone, week, k)
}

func passMintOf(zone uint16, week uint32, k *rsa.PrivateKey) (*PassMint, error) {
	pub, err := publicOf(privacy.UsePass, k)
	if err != nil {
		return nil, err
	}
	return &PassMint{Zone: zone, Week: week, key: k, pub: pub}, nil
}

// Public is the key that goes on the ledger and to gateways.
func (m *PassMint) Public() *PublicKey { return m.pub }

// Sign signs all slots of a week's request. The same request gives the same
// answer; that a gateway gets one request a week is for [Claims]. It returns
// ErrSlot.
func (m *PassMint) Sign(in *PassSlots) (*PassSlots, error) {
	var out PassSlots
	for i := range in {
		var err error
		if out[i], err = blindSign(m.key, in[i]); err != nil {
			return nil, fmt.Errorf("pass %d: %w", i, err)
		}
	}
	return &out, nil
}

// Bytes encodes the pass mint for its operator's encrypted store: "GVP0" zone
// week, then the key as PKCS #8. It is secret.
func (m *PassMint) Bytes() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(m.key)
	if err != nil {
		return nil, fmt.Errorf("encode pass key: %w", err)
	}
	b := binary.BigEndian.AppendUint16([]byte("GVP0"), m.Zone)
	return append(binary.BigEndian.AppendUint32(b, m.Week), der...), nil
}

// ParsePassMint loads what Bytes gave. It returns ErrEncoding or ErrKey.
func ParsePassMint(b []byte) (*PassMint, error) {
	if len(b) < 10 || string(b[:4]) != "GVP0" {
		return nil, fmt.Errorf("stored pass mint: %w", ErrEncoding)
	}
	k, err := ParsePrivateKey(b[10:])
	if err != nil {
		return nil, fmt.Errorf("stored pass mint: %w", err)
	}
	return passMintOf(binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint32(b[6:]), k)
}

// Pass is the right to host one session: the blind-signed serial is the
// per-session host key itself.
type Pass struct {
	KeyID [8]byte
	HSK   ed25519.PrivateKey // its public half is hpk
	Sig   [SlotSize]byte
}

// String names no key.
func (Pass) String() string { return "host pass" }

// GoString names no key.
func (Pass) GoString() string { return "host pass" }

// RequestPasses makes a gateway's request for one week's passes. It is a
// function of seed and key alone, so it needs no stored counter: asking again
// asks for the same passes.
func RequestPasses(seed [32]byte, pub *PublicKey) (*PassSlots, error) {
	var out PassSlots
	for i := range out {
		b, err := blind(seed, pub, uint64(i))
		if err != nil {
			return nil, err
		}
		out[i] = b.slot
	}
	return &out, nil
}

// FinishPasses unblinds and verifies the answer to RequestPasses. Which passes
// were used is for the gateway to remember, durably before an Offer leaves. It
// returns ErrSignature for an answer that is not signed by pub.
func FinishPasses(seed [32]byte, pub *PublicKey, answer *PassSlots) ([]Pass, error) {
	out := make([]Pass, PassesPerWeek)
	for i := range out {
		b, err := blind(seed, pub, uint64(i))
		if err != nil {
			return nil, err
		}
		sig, err := b.finish(answer[i])
		if err != nil {
			return nil, fmt.Errorf("pass %d: %w", i, err)
		}
		out[i] = Pass{KeyID: pub.id, HSK: serialKey(seed, pub.id, uint64(i)), Sig: sig}
	}
	return out, nil
}

// VerifyPass returns nil if sig makes hpk a host key of pub's zone and week,
// else ErrSignature.
func VerifyPass(pub *PublicKey, hpk [32]byte, sig [SlotSize]byte) error {
	return verifyPSS(&pub.rsa, hpk[:], sig[:])
}
