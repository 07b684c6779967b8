package commit

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"gridveil/privacy"
	"gridveil/privacy/internal/golden"
	"gridveil/privacy/internal/judge"
)

func mustBlind(t testing.TB, label string) [Size]byte {
	t.Helper()
	r, err := NewBlind(privacy.SeededReader("gridveil/test/blind/", []byte(label)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustNew(t testing.TB, v Values, r [Size]byte) [Size]byte {
	t.Helper()
	c, err := New(v, r)
	if err != nil {
		t.Fatalf("New(%+v): %v", v, err)
	}
	return c
}

// judged commits with the second implementation.
func judged(v Values, r [Size]byte) [Size]byte {
	sum := judge.Hash("blind", dst).Mul(judge.Scalar(r))
	for i, x := range []int64{v.Pay, v.Earn, v.GridPay, v.Energy} {
		g := judge.Hash([]string{"cdr/1", "cdr/2", "cdr/3", "cdr/4"}[i], dst)
		sum = sum.Add(g.Mul(big.NewInt(x)))
	}
	return sum.Encode()
}

func TestCommitmentsAreThoseOfTheSecondImplementation(t *testing.T) {
	for name, v := range map[string]Values{
		"a session":        {Pay: 7_000_000, Earn: 6_600_000, GridPay: 0, Energy: 20_000_000},
		"grid pays":        {Pay: 0, Earn: 3_200_000, GridPay: -3_500_000, Energy: -8_000_000},
		"zeros":            {},
		"extremes":         {math.MinInt64, math.MaxInt64, -1, 1},
		"smallest amounts": {1, 1, 1, 1},
	} {
		r := mustBlind(t, name)
		if got, want := mustNew(t, v, r), judged(v, r); got != want {
			t.Errorf("%s: got %x, want %x", name, got, want)
		}
	}
}

func TestSumOpensToTheSumsAndToNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Int64Range(-1<<40, 1<<40)
		var sum Sum
		var values Values
		var blind [Size]byte
		rnd := privacy.SeededReader("gridveil/test/sum/", []byte{rapid.Byte().Draw(t, "seed")})
		for range rapid.IntRange(1, 6).Draw(t, "sessions") {
			v := Values{amount.Draw(t, "pay"), amount.Draw(t, "earn"), amount.Draw(t, "gridpay"), amount.Draw(t, "energy")}
			r, err := NewBlind(rnd)
			if err != nil {
				t.Fatal(err)
			}
			c, err := New(v, r)
			if err != nil {
				t.Fatal(err)
			}
			if !Opens(c, v, r) {
				t.Fatal("a commitment does not open")
			}
			if sum, err = sum.Add(c); err != nil {
				t.Fatal(err)
			}
			if blind, err = AddBlinds(blind, r); err != nil {
				t.Fatal(err)
			}
			var ok bool
			if values, ok = values.Plus(v); !ok {
				t.Fatal("overflow below 2^43")
			}
		}
		if !sum.Opens(values, blind) {
			t.Fatal("the sum does not open")
		}
		values.Energy++
		if sum.Opens(values, blind) {
			t.Fatal("the sum opens to one mWh more")
		}
	})
}

func TestAnOpeningOffByOneIsRefused(t *testing.T) {
	v := Values{Pay: 5, Earn: 4, GridPay: -3, Energy: 2}
	r := mustBlind(t, "off by one")
	c := mustNew(t, v, r)
	for i := range 4 {
		for _, by := range []int64{-1, 1} {
			off := v
			*[]*int64{&off.Pay, &off.Earn, &off.GridPay, &off.Energy}[i] += by
			if Opens(c, off, r) {
				t.Errorf("opens with field %d off by %d", i, by)
			}
		}
	}
	if Opens(c, v, mustBlind(t, "another")) {
		t.Error("opens under another blind")
	}
	if Opens(c, Values{Pay: 4, Earn: 5, GridPay: -3, Energy: 2}, r) {
		t.Error("opens with two fields exchanged")
	}
}

func TestTakingACommitmentOutRestoresTheSum(t *testing.T) {
	a, b := mustNew(t, Values{Pay: 1}, mustBlind(t, "a")), mustNew(t, Values{Pay: 2}, mustBlind(t, "b"))
	one, err := Sum{}.Add(a)
	if err != nil {
		t.Fatal(err)
	}
	two, err := one.Add(b)
	if err != nil {
		t.Fatal(err)
	}
	back, err := two.Sub(b)
	if err != nil {
		t.Fatal(err)
	}
	if back.Bytes() != one.Bytes() || one.Bytes() != a {
		t.Error("add and sub do not cancel")
	}
	empty, err := back.Sub(a)
	if err != nil {
		t.Fatal(err)
	}
	if empty.Bytes() != ([Size]byte{}) || !empty.Opens(Values{}, [Size]byte{}) || empty.Opens(Values{Pay: 1}, [Size]byte{}) {
		t.Error("the empty sum does not open to zeros only")
	}
	if one.Join(empty).Bytes() != one.Bytes() || empty.Join(one).Bytes() != one.Bytes() || one.Join(one).Bytes() == one.Bytes() {
		t.Error("Join does not add")
	}
}

func TestASumSurvivesItsEncoding(t *testing.T) {
	s, err := Sum{}.Add(mustNew(t, Values{Pay: 9}, mustBlind(t, "stored")))
	if err != nil {
		t.Fatal(err)
	}
	for _, sum := range []Sum{{}, s} {
		again, err := ParseSum(sum.Bytes())
		if err != nil || again.Bytes() != sum.Bytes() {
			t.Errorf("ParseSum: %v", err)
		}
	}
}

func TestBadEncodingsAreRefused(t *testing.T) {
	good := mustNew(t, Values{Pay: 1}, mustBlind(t, "good"))
	bad := map[string][Size]byte{
		"identity":      {},
		"negative":      {1},
		"not canonical": {0: 0xed, 31: 0x7f},
	}
	for i := 1; i < 31; i++ {
		b := bad["not canonical"]
		b[i] = 0xff
		bad["not canonical"] = b
	}
	for name, c := range bad {
		if err := Check(c); !errors.Is(err, ErrEncoding) {
			t.Errorf("Check of %s: %v", name, err)
		}
		if _, err := (Sum{}).Add(c); !errors.Is(err, ErrEncoding) {
			t.Errorf("Add of %s: %v", name, err)
		}
		if _, err := (Sum{}).Sub(c); !errors.Is(err, ErrEncoding) {
			t.Errorf("Sub of %s: %v", name, err)
		}
	}
	var order [Size]byte // the group order is no canonical scalar
	for i, b := range judge.L.FillBytes(make([]byte, Size)) {
		order[Size-1-i] = b
	}
	if _, err := New(Values{}, order); !errors.Is(err, ErrEncoding) {
		t.Errorf("New with a blind not reduced: %v", err)
	}
	if _, err := New(Values{}, [Size]byte{}); !errors.Is(err, ErrEncoding) {
		t.Errorf("New of the identity: %v", err)
	}
	if _, err := AddBlinds(order, [Size]byte{}); !errors.Is(err, ErrEncoding) {
		t.Errorf("AddBlinds of a blind not reduced: %v", err)
	}
	if Opens(good, Values{Pay: 1}, order) {
		t.Error("opens under a blind not reduced")
	}
}

func TestPlusRefusesOverflow(t *testing.T) {
	if _, ok := (Values{Energy: math.MaxInt64}).Plus(Values{Energy: 1}); ok {
		t.Error("overflow is not noticed")
	}
	if _, ok := (Values{GridPay: math.MinInt64}).Plus(Values{GridPay: -1}); ok {
		t.Error("underflow is not noticed")
	}
	if v, ok := (Values{1, 2, 3, 4}).Plus(Values{10, 20, 30, 40}); !ok || v != (Values{11, 22, 33, 44}) {
		t.Errorf("Plus: %+v, %v", v, ok)
	}
}

func TestVectors(t *testing.T) {
	v := Values{Pay: 7_000_000, Earn: 6_600_000, GridPay: -1, Energy: 20_000_000}
	r := mustBlind(t, "vector")
	c := mustNew(t, v, r)
	h, err := H().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "commit", golden.Line{Name: "blind", Value: r[:]}, golden.Line{Name: "commitment_7000000_6600000_-1_20000000", Value: c[:]}, golden.Line{Name: "H", Value: h})
}

func FuzzSum(f *testing.F) {
	good := mustNew(f, Values{Pay: 1}, mustBlind(f, "fuzz"))
	f.Add(good[:], good[:])
	f.Add(make([]byte, Size), good[:])
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) != Size || len(b) != Size {
			return
		}
		s, err := ParseSum([Size]byte(a))
		if err != nil {
			return
		}
		if s.Bytes() != [Size]byte(a) {
			t.Fatal("a sum has two encodings")
		}
		two, err := s.Add([Size]byte(b))
		if err != nil {
			return
		}
		if back, err := two.Sub([Size]byte(b)); err != nil || back.Bytes() != s.Bytes() {
			t.Fatal("add and sub do not cancel")
		}
	})
}
