// Package decimal reads decimal text of meters and stations into whole units, without floats.
package decimal

import (
	"errors"
	"math/bits"
	"strings"
)

// ErrSyntax says that a text is not a plain or exponential decimal number.
var ErrSyntax = errors.New("not a decimal number")

// ErrRange says that a number does not fit, or has digits below the unit asked for.
var ErrRange = errors.New("number out of range or finer than the unit")

// maxText bounds the work: the longest register texts seen have 20 characters.
const maxText = 40

// Parse returns text times 10^shift as a whole number. Leading and trailing blanks and an exponent are allowed.
// Digits that would fall below the unit must be zero, else the error is ErrRange. A result beyond ±2^62, which
// leaves room to subtract two of them, is ErrRange.
func Parse(text string, shift int) (int64, error) {
	v, rest, err := parse(text, shift)
	if err == nil && rest {
		return 0, ErrRange
	}
	return v, err
}

// Floor is Parse, but cuts digits below the unit off (toward zero). It is for unsigned samples only.
func Floor(text string, shift int) (int64, error) {
	v, _, err := parse(text, shift)
	return v, err
}

func parse(text string, shift int) (v int64, rest bool, err error) {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > maxText {
		return 0, false, ErrSyntax
	}
	negative := text[0] == '-'
	if negative || text[0] == '+' {
		text = text[1:]
	}
	mantissa, exponent, hasExponent := strings.Cut(strings.ToLower(text), "e")
	if hasExponent {
		e, err := small(exponent)
		if err != nil {
			return 0, false, err
		}
		shift += e
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := whole + fraction
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, ErrSyntax
	}
	shift -= len(fraction)
	if cut := -shift; cut > 0 {
		keep := max(len(digits)-cut, 0)
		rest = strings.Trim(digits[keep:], "0") != ""
		digits, shift = digits[:keep], 0
	}
	v, err = scaled(digits, shift)
	if negative {
		v = -v
	}
	return v, rest, err
}

// scaled returns digits times 10^shift, shift >= 0.
func scaled(digits string, shift int) (int64, error) {
	digits = strings.TrimLeft(digits, "0")
	if digits == "" {
		return 0, nil
	}
	if len(digits)+shift > 19 {
		return 0, ErrRange
	}
	var v uint64
	for i := range len(digits) + shift {
		var d uint64
		if i < len(digits) {
			d = uint64(digits[i] - '0')
		}
		hi, lo := bits.Mul64(v, 10)
		sum, carry := bits.Add64(lo, d, 0)
		if hi != 0 || carry != 0 || sum > 1<<62 {
			return 0, ErrRange
		}
		v = sum
	}
	return int64(v), nil
}

// small reads an exponent of at most two digits.
func small(text string) (int, error) {
	sign := 1
	if text != "" && (text[0] == '-' || text[0] == '+') {
		if text[0] == '-' {
			sign = -1
		}
		text = text[1:]
	}
	if text == "" || len(text) > 2 {
		return 0, ErrSyntax
	}
	v := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, ErrSyntax
		}
		v = v*10 + int(c-'0')
	}
	return sign * v, nil
}
