package ev

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"gridveil/ev/tariff"
)

// Kind says what a session is billed by.
type Kind uint8

// The kinds of Terms.
const (
	Metered Kind = iota // by signed energy
	FlatFee             // one amount per session; for wallboxes without a signing meter
)

// Policy says who comes first when sources are shared out. Source: doc/design.md, attribution.
type Policy uint8

// The policies of Terms.
const (
	EVFirst   Policy = iota // the car, then the home, then the home battery
	HomeFirst               // the home, then the car, then the home battery
	ProRata                 // car and home together, then the home battery
)

// PriceRule says how energy is priced.
type PriceRule uint8

// The price rules of Terms.
const (
	SinglePrice   PriceRule = iota // one price whatever the source: the sum depends on signed data alone
	PerSource                      // roof and grid apart, home and export apart
	CalendarPrice                  // as PerSource, but grid and export follow the calendar
)

// Terms is what host and driver agree on besides the prices in the Offer. Offer.tariff is their hash.
type Terms struct {
	Kind       Kind
	Policy     Policy
	Price      PriceRule
	Unattended bool     // Open is a mandate: the meter's signature stands in for missing Acks
	PExport    int64    // micro/kWh paid for discharge that leaves the house; u32
	Flat       int64    // micro per session for FlatFee, else 0; u32
	FeeSheet   [32]byte // hash of the aggregator's FeeSheet, on the ledger
	Calendar   [32]byte // hash of the tariff.Calendar, zero unless Price is CalendarPrice
}

// TermsSize is the length of encoded Terms.
const TermsSize = 80

const (
	termsMagic     = "GVT1"
	flagUnattended = 1
	// PriceStep is the multiple that offered prices keep, so that odd prices do not mark a host.
	PriceStep = 5000
)

// ErrTerms says that terms, prices or fees break a rule; the text names it.
var ErrTerms = errors.New("ev: invalid terms")

// Encode returns the 80 bytes "GVT1" kind policy price flags pExport:u32 flat:u32 feeSheet[32] calendar[32].
func (t Terms) Encode() ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, TermsSize), termsMagic...)
	var flags byte
	if t.Unattended {
		flags |= flagUnattended
	}
	b = append(b, byte(t.Kind), byte(t.Policy), byte(t.Price), flags)
	b = binary.BigEndian.AppendUint32(b, uint32(t.PExport))
	b = binary.BigEndian.AppendUint32(b, uint32(t.Flat))
	b = append(b, t.FeeSheet[:]...)
	return append(b, t.Calendar[:]...), nil
}

// Hash names the terms: SHA-256 of Encode(). It is Offer.Terms of package privacy/session.
func (t Terms) Hash() ([32]byte, error) {
	b, err := t.Encode()
	return sha256.Sum256(b), err
}

// DecodeTerms reads exactly what Encode writes; anything else is ErrTerms.
func DecodeTerms(b []byte) (Terms, error) {
	if len(b) != TermsSize || string(b[:4]) != termsMagic {
		return Terms{}, fmt.Errorf("%w: want %d bytes that begin with %s", ErrTerms, TermsSize, termsMagic)
	}
	if b[7]&^flagUnattended != 0 {
		return Terms{}, fmt.Errorf("%w: unknown flags %#x", ErrTerms, b[7])
	}
	t := Terms{Kind: Kind(b[4]), Policy: Policy(b[5]), Price: PriceRule(b[6]), Unattended: b[7] == flagUnattended,
		PExport: int64(binary.BigEndian.Uint32(b[8:])), Flat: int64(binary.BigEndian.Uint32(b[12:])),
		FeeSheet: [32]byte(b[16:48]), Calendar: [32]byte(b[48:80])}
	return t, t.check()
}

func (t Terms) check() error {
	switch {
	case t.Kind > FlatFee || t.Policy > ProRata || t.Price > CalendarPrice:
		return fmt.Errorf("%w: unknown kind, policy or price rule", ErrTerms)
	case !isPrice(t.PExport):
		return fmt.Errorf("%w: export price must be a multiple of %d in 32 bits", ErrTerms, PriceStep)
	case t.Flat < 0 || t.Flat > math.MaxUint32 || (t.Kind == Metered) != (t.Flat == 0):
		return fmt.Errorf("%w: a flat session needs its amount, a metered one has none", ErrTerms)
	case (t.Price == CalendarPrice) == (t.Calendar == [32]byte{}):
		return fmt.Errorf("%w: calendar prices need the calendar's hash, others have none", ErrTerms)
	case t.Kind == FlatFee && t.Unattended:
		return fmt.Errorf("%w: unattended charging needs signed energy, not a flat amount", ErrTerms)
	}
	return nil
}

func isPrice(p int64) bool { return p >= 0 && p <= math.MaxUint32 && p%PriceStep == 0 }

// FeeSheet is what the aggregator takes, published on the ledger before use.
type FeeSheet struct {
	Currency   uint16 // ISO 4217 number
	PerKWhIn   int64  // micro per kWh charged; u32
	PerKWhOut  int64  // micro per kWh discharged; u32
	PerSession int64  // micro; u32
}

// FeeSheetSize is the length of an encoded fee sheet.
const FeeSheetSize = 18

const feeMagic = "GVF1"

// Encode returns "GVF1" cur:u16 in:u32 out:u32 session:u32.
func (f FeeSheet) Encode() ([]byte, error) {
	if f.Currency == 0 || !isU32(f.PerKWhIn) || !isU32(f.PerKWhOut) || !isU32(f.PerSession) {
		return nil, fmt.Errorf("%w: fee sheet without currency or with a fee beyond 32 bits", ErrTerms)
	}
	b := binary.BigEndian.AppendUint16([]byte(feeMagic), f.Currency)
	for _, v := range []int64{f.PerKWhIn, f.PerKWhOut, f.PerSession} {
		b = binary.BigEndian.AppendUint32(b, uint32(v))
	}
	return b, nil
}

// Hash names the fee sheet: SHA-256("gridveil/fees/v1\0" || Encode()). It is Terms.FeeSheet.
func (f FeeSheet) Hash() ([32]byte, error) {
	b, err := f.Encode()
	return sha256.Sum256(append([]byte("gridveil/fees/v1\x00"), b...)), err
}

// DecodeFeeSheet reads exactly what Encode writes.
func DecodeFeeSheet(b []byte) (FeeSheet, error) {
	if len(b) != FeeSheetSize || string(b[:4]) != feeMagic || binary.BigEndian.Uint16(b[4:]) == 0 {
		return FeeSheet{}, fmt.Errorf("%w: want a fee sheet of %d bytes that begins with %s", ErrTerms, FeeSheetSize, feeMagic)
	}
	u := func(i int) int64 { return int64(binary.BigEndian.Uint32(b[i:])) }
	return FeeSheet{Currency: binary.BigEndian.Uint16(b[4:]), PerKWhIn: u(6), PerKWhOut: u(10), PerSession: u(14)}, nil
}

func isU32(v int64) bool { return v >= 0 && v <= math.MaxUint32 }

// Deal is everything that prices a session, all of it signed before the first Wh: the Terms, the prices of the Offer
// and the documents whose hashes the Terms hold.
type Deal struct {
	Terms    Terms
	Grid     int64 // pGrid of the Offer, micro/kWh
	Res      int64 // pRes
	Out      int64 // pOut: discharge used at home
	Direct   bool  // grid energy is paid to the host's utility, not to the host
	Fee      FeeSheet
	Minor    int64            // millionths in one minor unit of the currency; MinorEUR for cents
	Calendar *tariff.Calendar // for CalendarPrice, else nil
}

// Check reports whether the parts of the deal belong together. The error wraps ErrTerms.
func (d Deal) Check() error {
	if err := d.Terms.check(); err != nil {
		return err
	}
	fees, err := d.Fee.Hash()
	switch {
	case err != nil:
		return err
	case fees != d.Terms.FeeSheet:
		return fmt.Errorf("%w: the fee sheet is not the one the terms name", ErrTerms)
	case !isPrice(d.Grid) || !isPrice(d.Res) || !isPrice(d.Out):
		return fmt.Errorf("%w: prices must be multiples of %d in 32 bits", ErrTerms, PriceStep)
	case d.Minor <= 0 || d.Minor > MWhPerKWh || d.Terms.Flat%d.Minor != 0:
		return fmt.Errorf("%w: flat amount or minor unit", ErrTerms)
	case d.Terms.Price == SinglePrice && (d.Grid != d.Res || d.Out != d.Terms.PExport):
		return fmt.Errorf("%w: a single price needs equal prices for every source and every sink", ErrTerms)
	case (d.Terms.Price == CalendarPrice) != (d.Calendar != nil):
		return fmt.Errorf("%w: calendar prices need the calendar itself", ErrTerms)
	case d.Calendar != nil && (d.Calendar.Hash() != d.Terms.Calendar || d.Calendar.Currency() != d.Fee.Currency):
		return fmt.Errorf("%w: the calendar is not the one the terms name", ErrTerms)
	}
	return nil
}
