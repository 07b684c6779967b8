package ev_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"gridveil/ev"
)

func TestTermsHaveOneEncoding(t *testing.T) {
	x := ev.Terms{Policy: ev.ProRata, Price: ev.PerSource, Unattended: true, PExport: 80_000, FeeSheet: [32]byte{0xaa}}
	b, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(b[:17]), "4756543100020101"+"00013880"+"00000000"+"aa"; got != want || len(b) != ev.TermsSize {
		t.Errorf("got %s in %d bytes, want %s", got, len(b), want)
	}
	y, err := ev.DecodeTerms(b)
	if err != nil || x != y {
		t.Errorf("decoded %+v, %v", y, err)
	}
	for name, bad := range map[string][]byte{
		"short": b[:79], "long": append(bytes.Clone(b), 0), "magic": append([]byte("GVT2"), b[4:]...),
		"unknown flag": append(append(bytes.Clone(b[:7]), 3), b[8:]...), "odd price": append(append(bytes.Clone(b[:11]), 1), b[12:]...),
	} {
		if _, err := ev.DecodeTerms(bad); !errors.Is(err, ev.ErrTerms) {
			t.Errorf("%s: got %v, want ErrTerms", name, err)
		}
	}
}

func TestFeeSheetHasOneEncoding(t *testing.T) {
	x := ev.FeeSheet{Currency: 978, PerKWhIn: 15_000, PerKWhOut: 14_000, PerSession: 1}
	b, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if y, err := ev.DecodeFeeSheet(b); err != nil || x != y {
		t.Errorf("decoded %+v, %v", y, err)
	}
	if _, err := ev.DecodeFeeSheet(b[:17]); !errors.Is(err, ev.ErrTerms) {
		t.Errorf("short: got %v", err)
	}
	if _, err := (ev.FeeSheet{Currency: 978, PerKWhIn: -1}).Encode(); !errors.Is(err, ev.ErrTerms) {
		t.Errorf("negative fee: got %v", err)
	}
}

func FuzzDecodeTerms(f *testing.F) {
	b, _ := ev.Terms{Price: ev.PerSource}.Encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ev.DecodeTerms(b)
		if err != nil {
			return
		}
		if again, err := x.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x encodes to %x, %v", b, again, err)
		}
	})
}

func FuzzDecodeFeeSheet(f *testing.F) {
	b, _ := ev.FeeSheet{Currency: 978}.Encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ev.DecodeFeeSheet(b)
		if err != nil {
			return
		}
		if again, err := x.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x encodes to %x, %v", b, again, err)
		}
	})
}
