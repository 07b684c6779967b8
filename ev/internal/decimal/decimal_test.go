package decimal_test

import (
	"errors"
	"math/big"
	"strings"
	"testing"

	"gridveil/ev/internal/decimal"
)

func TestDecimalTextBecomesWholeUnits(t *testing.T) {
	for _, c := range []struct {
		text  string
		shift int
		want  int64
		err   error
	}{
		{"7.345", 6, 7_345_000, nil},
		{"  00009.038 ", 6, 9_038_000, nil},
		{"-2", 3, -2_000, nil},
		{"+.5", 1, 5, nil},
		{"1e3", 0, 1000, nil},
		{"1.5E-1", 2, 15, nil},
		{"0.00000", 0, 0, nil},
		{"1.10", 1, 11, nil},
		{"0.0001", 3, 0, decimal.ErrRange},
		{"4611686018427387904", 0, 1 << 62, nil},
		{"4611686018427387905", 0, 0, decimal.ErrRange},
		{"1e20", 0, 0, decimal.ErrRange},
		{"", 0, 0, decimal.ErrSyntax},
		{".", 0, 0, decimal.ErrSyntax},
		{"1e", 0, 0, decimal.ErrSyntax},
		{"1e100", 0, 0, decimal.ErrSyntax},
		{"0x10", 0, 0, decimal.ErrSyntax},
		{"NaN", 0, 0, decimal.ErrSyntax},
		{"1,5", 0, 0, decimal.ErrSyntax},
		{"1.2.3", 0, 0, decimal.ErrSyntax},
		{strings.Repeat("0", 41), 0, 0, decimal.ErrSyntax},
	} {
		got, err := decimal.Parse(c.text, c.shift)
		if !errors.Is(err, c.err) || err == nil && got != c.want {
			t.Errorf("Parse(%q, %d): got %d, %v, want %d, %v", c.text, c.shift, got, err, c.want, c.err)
		}
	}
	if got, err := decimal.Floor("1.9999", 3); err != nil || got != 1999 {
		t.Errorf("Floor: got %d, %v", got, err)
	}
}

// FuzzParse compares with big rationals.
func FuzzParse(f *testing.F) {
	f.Add("7.345", 6)
	f.Add("-1.5e-3", 3)
	f.Fuzz(func(t *testing.T, text string, shift int) {
		if shift < -20 || shift > 20 {
			return
		}
		got, err := decimal.Parse(text, shift)
		if err != nil {
			return
		}
		want, ok := new(big.Rat).SetString(strings.TrimSpace(text))
		if !ok {
			t.Fatalf("%q is no number, got %d", text, got)
		}
		scale := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(shift, -shift))), nil))
		if shift < 0 {
			scale.Inv(scale)
		}
		if want.Mul(want, scale); want.Cmp(new(big.Rat).SetInt64(got)) != 0 {
			t.Errorf("Parse(%q, %d): got %d, want %v", text, shift, got, want)
		}
	})
}
