// Package ev turns what a wallbox and the meters of a home report into bills that conserve energy and money.
//
// Everything here is pure: no clock, disk, socket or goroutine. The flow of one session is
//
//	Fold(events)            what the station did, whatever the order in which its messages came
//	ocmf.Check(records)     what the meter signed
//	Align(series, ...)      registers of house and car cut into intervals
//	ScaleEV(intervals, ...) the car's energy made equal to the signed total
//	Attribute(interval)     which source fed which sink
//	Split(flows, deal)      who pays whom, in whole minor units
//
// and Step drives a Session through its states. Guarantees: a bill is a function of a set of facts (G1), energy and
// money are conserved to the unit (G3), prices and rules are fixed before the first Wh (G4). Not guaranteed: that the
// split between roof and grid is right, for the house's registers are not calibrated; only the total is signed.
//
// Units: energy int64 mWh, power int64 W, money int64 millionths of a currency unit, prices millionths per kWh, time
// UTC milliseconds. Charging and discharging are two registers, never a sign. No floats.
package ev

import (
	"errors"
	"math/bits"
)

const (
	// MWhPerKWh converts a price per kWh: amount = energy x price / MWhPerKWh.
	MWhPerKWh = 1_000_000
	// MinorEUR is one euro cent in millionths.
	MinorEUR = 10_000
	// maxMWh bounds one quantity (a GWh), so that sums of a session's quantities cannot overflow.
	maxMWh = 1_000_000_000_000
)

// ErrRange says that a quantity is negative where it must not be, or absurdly large.
var ErrRange = errors.New("ev: quantity out of range")

// Exact is a sum of energy x price products in millionths of a millionth: 128 bits, never negative.
type Exact struct{ Hi, Lo uint64 }

// Add returns e + energy x price. Both must be >= 0, else ErrRange.
func (e Exact) Add(energy, price int64) (Exact, error) {
	if energy < 0 || price < 0 {
		return e, ErrRange
	}
	hi, lo := bits.Mul64(uint64(energy), uint64(price))
	lo, carry := bits.Add64(e.Lo, lo, 0)
	hi, over := bits.Add64(e.Hi, hi, carry)
	if over != 0 {
		return e, ErrRange
	}
	return Exact{hi, lo}, nil
}

// Less reports whether e < x.
func (e Exact) Less(x Exact) bool { return e.Hi < x.Hi || e.Hi == x.Hi && e.Lo < x.Lo }

// Minus returns e - x, which must not be negative.
func (e Exact) Minus(x Exact) (Exact, error) {
	if e.Less(x) {
		return Exact{}, ErrRange
	}
	lo, borrow := bits.Sub64(e.Lo, x.Lo, 0)
	hi, _ := bits.Sub64(e.Hi, x.Hi, borrow)
	return Exact{hi, lo}, nil
}

// Floor returns the amount in millionths, rounded down to a whole number of minor units of minor millionths each. It is
// the only place where money is rounded, and is called once per payee of a session.
func (e Exact) Floor(minor int64) (int64, error) {
	if minor <= 0 || minor > MWhPerKWh {
		return 0, ErrRange
	}
	divisor := uint64(minor) * MWhPerKWh
	if e.Hi >= divisor {
		return 0, ErrRange
	}
	units, _ := bits.Div64(e.Hi, e.Lo, divisor)
	hi, micro := bits.Mul64(units, uint64(minor))
	if hi != 0 || micro > 1<<62 {
		return 0, ErrRange
	}
	return int64(micro), nil
}

// mulDiv returns a x b / c rounded down, for a, b >= 0, c > 0 and a result that fits (a <= c suffices).
func mulDiv(a, b, c int64) int64 {
	q, _ := mulDivRem(a, b, c)
	return q
}

func mulDivRem(a, b, c int64) (quotient, remainder int64) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, r := bits.Div64(hi, lo, uint64(c))
	return int64(q), int64(r)
}
