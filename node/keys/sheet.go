// Package keys keeps the keys of the services that a node offers: it makes and
// rotates the private ones in the node's store, publishes the public ones as a
// signed directory register (a [Sheet]), and finds the sheets of others.
//
// A sheet is signed by the member's certificate key through the mesh's register,
// so a key is as genuine as the operator's certificate. What must outlive its
// operator (entry keys, denominations) stands on the ledger besides.
package keys

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Use says what a key is for. The numbers are wire values.
type Use uint8

// Uses, with the role that has them and the period of their rotation.
const (
	Record  Use = 1  // aggregator, Ed25519: answers, receipts and batches of sessions; quarter
	Box     Use = 2  // aggregator, HPKE: certificates of drivers; week
	Issuer  Use = 3  // utility, Ed25519: pseudonyms of its drivers; quarter
	Issue   Use = 4  // utility, HPKE: requests for pseudonyms; day, then erased
	Bill    Use = 5  // utility, HPKE: bill batches; month
	Escrow  Use = 6  // utility, Ed25519: one-day meter certificates; quarter
	Readout Use = 7  // head-end, HPKE: meter reports; day, then erased
	Entry   Use = 8  // ledger party, Ed25519: its entries; until revoked
	Receipt Use = 9  // aggregator, Ed25519: receipts of the ledger; until revoked
	Log     Use = 10 // aggregator, Ed25519: checkpoints; until revoked
	Cosign  Use = 11 // utility, verifier, Ed25519: cosignatures; until revoked
	Sum     Use = 12 // aggregation server, HPKE: the helper's part of reports; week
	Opener  Use = 13 // opener's seat, HPKE and share; until revoked
	Direct  Use = 14 // utility, HPKE: on-demand answers of meters; day
)

var useNames = map[Use]string{Record: "record", Box: "box", Issuer: "issuer", Issue: "issue", Bill: "bill", Escrow: "escrow", Readout: "readout",
	Entry: "entry", Receipt: "receipt", Log: "log", Cosign: "cosign", Sum: "sum", Opener: "opener", Direct: "direct"}

// String is the word for a use.
func (u Use) String() string {
	if n, ok := useNames[u]; ok {
		return n
	}
	return fmt.Sprintf("use(%d)", uint8(u))
}

// rotation of a use; zero means that its period is always 0.
func (u Use) rotation() time.Duration {
	const day = 24 * time.Hour
	switch u {
	case Issue, Readout, Direct:
		return day
	case Box, Sum:
		return 7 * day
	case Bill:
		return 30 * day
	case Record, Issuer, Escrow:
		return 91 * day
	}
	return 0
}

// keep is how long after its period a private key is still needed.
func (u Use) keep() time.Duration {
	const day = 24 * time.Hour
	switch u {
	case Issue, Direct:
		return time.Hour // answers under way; recorded requests stay closed
	case Readout:
		return 3 * day
	case Sum:
		return 2 * day // homes resend a report for a day; recorded ones stay closed
	case Box:
		return 69 * day // sessions handed in late
	}
	return 180 * day
}

// Sealing says whether the key is for sealing (HPKE) or signing (Ed25519).
func (u Use) Sealing() bool {
	switch u {
	case Box, Issue, Bill, Readout, Sum, Direct:
		return true
	}
	return false
}

// Period numbers the rotation period of u that t lies in, counted from Monday
// 1970-01-05.
func (u Use) Period(t time.Time) uint32 {
	r := u.rotation()
	if r == 0 {
		return 0
	}
	return uint32(t.Sub(firstMonday) / r)
}

// Starts is when a period of u begins.
func (u Use) Starts(period uint32) time.Time {
	return firstMonday.Add(time.Duration(period) * u.rotation())
}

var firstMonday = time.Date(1970, 1, 5, 0, 0, 0, 0, time.UTC)

// Key is a public key with its use and period.
type Key struct {
	Use    Use
	Period uint32
	Public []byte // 32 B Ed25519 or X25519; longer in other suites
}

// Sheet is what a member publishes about its services.
type Sheet []Key

// Limits of a sheet: it travels in a directory register of 2 KiB.
const (
	MaxSheet = 2000
	maxKeys  = 56
)

// ErrSheet means that bytes are no sheet.
var ErrSheet = errors.New("key sheet is malformed")

// Encode gives "GVS1" | n u8 | n x { use u8 | period u32 | len u16 | key }.
func (s Sheet) Encode() ([]byte, error) {
	out := append([]byte("GVS1"), byte(len(s)))
	for _, k := range s {
		out = append(out, byte(k.Use))
		out = binary.BigEndian.AppendUint32(out, k.Period)
		out = binary.BigEndian.AppendUint16(out, uint16(len(k.Public)))
		out = append(out, k.Public...)
	}
	if len(s) > maxKeys || len(out) > MaxSheet {
		return nil, fmt.Errorf("%w: %d keys in %d bytes, at most %d in %d", ErrSheet, len(s), len(out), maxKeys, MaxSheet)
	}
	return out, nil
}

// ParseSheet is the inverse of Encode.
func ParseSheet(b []byte) (Sheet, error) {
	if len(b) < 5 || len(b) > MaxSheet || string(b[:4]) != "GVS1" || b[4] > maxKeys {
		return nil, fmt.Errorf("%w: bad head", ErrSheet)
	}
	n, b := int(b[4]), b[5:]
	s := make(Sheet, 0, n)
	for i := range n {
		if len(b) < 7 {
			return nil, fmt.Errorf("%w: key %d is cut off", ErrSheet, i)
		}
		k := Key{Use: Use(b[0]), Period: binary.BigEndian.Uint32(b[1:])}
		size := int(binary.BigEndian.Uint16(b[5:]))
		if b = b[7:]; size == 0 || len(b) < size {
			return nil, fmt.Errorf("%w: key %d is cut off", ErrSheet, i)
		}
		k.Public, b = append([]byte(nil), b[:size]...), b[size:]
		s = append(s, k)
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes behind the last key", ErrSheet, len(b))
	}
	return s, nil
}

// Find gives the public key of a use and period.
func (s Sheet) Find(u Use, period uint32) ([]byte, bool) {
	for _, k := range s {
		if k.Use == u && k.Period == period {
			return k.Public, true
		}
	}
	return nil, false
}

// At gives the public key of a use that is current at t.
func (s Sheet) At(u Use, t time.Time) ([]byte, bool) { return s.Find(u, u.Period(t)) }

// OperatorID is an operator's 16-byte name in messages: issuer and audience of
// certificates.
func OperatorID(network [16]byte, operator string) (id [16]byte) {
	h := sha256.New()
	h.Write([]byte("gridveil/operator/1"))
	h.Write(network[:])
	h.Write([]byte(operator))
	copy(id[:], h.Sum(nil))
	return id
}
