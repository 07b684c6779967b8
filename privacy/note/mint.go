package note

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"gridveil/privacy"
)

// Slots is the number of denominations: 2^0 to 2^12 minor units. The highest
// band, 80 currency units, needs 13 bits.
const Slots = 13

// MaxAmount is what one row of notes can pay, in minor units.
const MaxAmount = 1<<Slots - 1

// Row is one request for an amount, or its answer: slot i belongs to the note
// of 2^i minor units and carries filler if the amount has no bit i.
type Row [Slots]Slot

// RowSize is the length of an encoded row.
const RowSize = Slots * SlotSize

// Bytes is the 13 slots one after the other.
func (r *Row) Bytes() []byte {
	b := make([]byte, 0, RowSize)
	for i := range r {
		b = append(b, r[i][:]...)
	}
	return b
}

// ParseRow is the inverse of Bytes; it returns ErrEncoding for any other length.
func ParseRow(b []byte) (*Row, error) {
	if len(b) != RowSize {
		return nil, fmt.Errorf("row of %d bytes, want %d: %w", len(b), RowSize, ErrEncoding)
	}
	var r Row
	for i := range r {
		r[i] = Slot(b[i*SlotSize:])
	}
	return &r, nil
}

// Denoms are the public keys of one currency and month, as the ledger's denoms
// entry carries them. Wallets take them from a checkpoint with its quorum of
// cosignatures only: a mint that hands each wallet its own keys could tell the
// notes apart.
type Denoms struct {
	Currency uint16 // ISO 4217 number
	Epoch    uint32 // yyyymm
	Keys     [Slots]*PublicKey
}

// NewDenoms builds the public keys of a month from the moduli of the ledger's
// denoms entry, lowest denomination first. It returns ErrKey for an unusable or
// repeated modulus, ErrEncoding for an epoch that is no month.
func NewDenoms(currency uint16, epoch uint32, moduli [Slots][SlotSize]byte) (*Denoms, error) {
	if err := checkEpoch(epoch); err != nil {
		return nil, err
	}
	d := &Denoms{Currency: currency, Epoch: epoch}
	for i := range moduli {
		k, err := ParseKey(privacy.UseNote, moduli[i][:])
		if err != nil {
			return nil, fmt.Errorf("denomination %d: %w", i, err)
		}
		for _, old := range d.Keys[:i] {
			if old.id == k.id {
				return nil, fmt.Errorf("denomination %d repeats a key: %w", i, ErrKey)
			}
		}
		d.Keys[i] = k
	}
	return d, nil
}

// Value is the worth of a note signed by the key named id, in minor units.
func (d *Denoms) Value(id [8]byte) (minor uint16, ok bool) {
	for i, k := range d.Keys {
		if k.id == id {
			return 1 << i, true
		}
	}
	return 0, false
}

// Windows gives until when notes of a month yyyymm are issued (end of month M),
// redeemed at a utility (end of M+2) and swapped (end of M+3); each bound is
// the first moment that is too late, UTC.
func Windows(epoch uint32) (issueTo, redeemTo, swapTo time.Time) {
	first := time.Date(int(epoch/100), time.Month(epoch%100), 1, 0, 0, 0, 0, time.UTC)
	return first.AddDate(0, 1, 0), first.AddDate(0, 3, 0), first.AddDate(0, 4, 0)
}

// Epoch is the month yyyymm of t in UTC.
func Epoch(t time.Time) uint32 {
	t = t.UTC()
	return uint32(t.Year())*100 + uint32(t.Month())
}

// Mint holds the private keys of one currency and month. They sign blinded
// notes and nothing else. Sign may be called from several goroutines.
type Mint struct {
	denoms Denoms
	keys   [Slots]*rsa.PrivateKey
	fill   [32]byte // seed of the filler in answers, secret
}

// NewMint generates 13 RSA keys, which takes seconds. RSA keys come from the
// system's randomness: since Go 1.26 no reader can be given.
func NewMint(currency uint16, epoch uint32) (*Mint, error) {
	var keys [Slots]*rsa.PrivateKey
	for i := range keys {
		k, err := rsa.GenerateKey(rand.Reader, keyBits)
		if err != nil {
			return nil, fmt.Errorf("generate key of denomination %d: %w", i, err)
		}
		keys[i] = k
	}
	var fill [32]byte
	if _, err := io.ReadFull(rand.Reader, fill[:]); err != nil {
		return nil, fmt.Errorf("read filler seed: %w", err)
	}
	return mintOf(currency, epoch, keys, fill)
}

func mintOf(currency uint16, epoch uint32, keys [Slots]*rsa.PrivateKey, fill [32]byte) (*Mint, error) {
	var moduli [Slots][SlotSize]byte
	for i, k := range keys {
		pub, err := publicOf(privacy.UseNote, k)
		if err != nil {
			return nil, fmt.Errorf("denomination %d: %w", i, err)
		}
		moduli[i] = pub.Modulus()
	}
	d, err := NewDenoms(currency, epoch, moduli)
	if err != nil {
		return nil, err
	}
	return &Mint{denoms: *d, keys: keys, fill: fill}, nil
}

func checkEpoch(epoch uint32) error {
	if m := epoch % 100; m < 1 || m > 12 || epoch < 200001 || epoch > 999912 {
		return fmt.Errorf("epoch %d is no month yyyymm: %w", epoch, ErrEncoding)
	}
	return nil
}

func publicOf(use privacy.Use, k *rsa.PrivateKey) (*PublicKey, error) {
	if k.E != keyExponent || k.N.BitLen() != keyBits {
		return nil, fmt.Errorf("key of %d bits, exponent %d: %w", k.N.BitLen(), k.E, ErrKey)
	}
	return ParseKey(use, k.N.FillBytes(make([]byte, SlotSize)))
}

// Denoms gives the public keys for the ledger and for wallets.
func (m *Mint) Denoms() *Denoms { return &m.denoms }

// Sign answers a row: a blind signature in each slot of which the amount has
// the bit, filler elsewhere. The same amount and row give the same answer. It
// returns ErrAmount, or ErrSlot if a slot of the amount is out of range.
//
// Whether the caller may have the amount is decided before: see [Claims].
func (m *Mint) Sign(minor uint16, row *Row) (*Row, error) {
	if minor > MaxAmount {
		return nil, fmt.Errorf("%d minor units in one row: %w", minor, ErrAmount)
	}
	var out Row
	hash := sha256.Sum256(row.Bytes())
	for i := range row {
		var err error
		if minor>>i&1 == 1 {
			out[i], err = blindSign(m.keys[i], row[i])
		} else {
			out[i], err = uniform(stream("gridveil-answer", m.fill, [8]byte(hash[:]), uint64(i)), m.keys[i].N)
		}
		if err != nil {
			return nil, fmt.Errorf("slot %d: %w", i, err)
		}
	}
	return &out, nil
}

// Bytes encodes the mint for its operator's encrypted store: "GVM1" currency
// epoch fill, then each key as PKCS #8 with a u16 length. It is secret.
func (m *Mint) Bytes() ([]byte, error) {
	b := append([]byte("GVM1"), byte(m.denoms.Currency>>8), byte(m.denoms.Currency))
	b = binary.BigEndian.AppendUint32(b, m.denoms.Epoch)
	b = append(b, m.fill[:]...)
	for i, k := range m.keys {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, fmt.Errorf("encode denomination %d: %w", i, err)
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(der)))
		b = append(b, der...)
	}
	return b, nil
}

// ParseMint loads what Bytes gave. It returns ErrEncoding or ErrKey.
func ParseMint(b []byte) (*Mint, error) {
	const head = 4 + 2 + 4 + 32
	if len(b) < head || string(b[:4]) != "GVM1" {
		return nil, fmt.Errorf("stored mint: %w", ErrEncoding)
	}
	currency, epoch, fill := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint32(b[6:]), [32]byte(b[10:])
	rest := b[head:]
	var keys [Slots]*rsa.PrivateKey
	for i := range keys {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return nil, fmt.Errorf("stored mint ends in key %d: %w", i, ErrEncoding)
		}
		n := int(binary.BigEndian.Uint16(rest))
		k, err := ParsePrivateKey(rest[2 : 2+n])
		if err != nil {
			return nil, fmt.Errorf("stored mint, key %d: %w", i, err)
		}
		keys[i], rest = k, rest[2+n:]
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("stored mint has %d bytes too many: %w", len(rest), ErrEncoding)
	}
	return mintOf(currency, epoch, keys, fill)
}

// ParsePrivateKey reads one RSA key from PKCS #8 DER and checks its size,
// exponent and arithmetic. It returns ErrKey.
func ParsePrivateKey(der []byte) (*rsa.PrivateKey, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("PKCS #8: %w", ErrKey)
	}
	r, ok := k.(*rsa.PrivateKey)
	if !ok || r.Validate() != nil || len(r.Primes) != 2 {
		return nil, fmt.Errorf("PKCS #8 holds no valid two-prime RSA key: %w", ErrKey)
	}
	if _, err := publicOf(privacy.UseNote, r); err != nil {
		return nil, err
	}
	return r, nil
}
