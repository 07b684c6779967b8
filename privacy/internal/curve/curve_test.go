package curve

import (
	"bytes"
	"errors"
	"math"
	"math/big"
	"testing"

	"gridveil/privacy/internal/judge"
)

func TestInt64sMapToScalarsModuloTheOrder(t *testing.T) {
	for _, v := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64, 12345} {
		want := new(big.Int).Mod(big.NewInt(v), judge.L)
		if got := judge.Scalar(ScalarBytes(FromInt64(v))); got.Cmp(want) != 0 {
			t.Errorf("FromInt64(%d) = %v, want %v", v, got, want)
		}
	}
}

func TestRandomnessComesFromTheReaderOnly(t *testing.T) {
	a, err := Scalar(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		t.Fatal(err)
	}
	b := Group.RandomNonZeroScalar(bytes.NewReader(make([]byte, 64)))
	if !a.IsEqual(b) {
		t.Error("two scalars from the same bytes differ")
	}
	if _, err := Scalar(bytes.NewReader(make([]byte, 63))); err == nil {
		t.Error("63 bytes are enough for a scalar")
	}
	if _, err := Prove(bytes.NewReader(nil), a, MulBase(a), nil, nil); err == nil {
		t.Error("a proof without randomness")
	}
	if _, err := ProveEqual(bytes.NewReader(nil), a, MulBase(a), MulBase(a), MulBase(a)); err == nil {
		t.Error("an equality proof without randomness")
	}
}

func TestOperationsLeaveTheirArgumentsAlone(t *testing.T) {
	a, b := MulBase(FromInt64(3)), MulBase(FromInt64(5))
	before := [2][Size]byte{Bytes(a), Bytes(b)}
	if Bytes(Add(a, b)) != Bytes(MulBase(FromInt64(8))) ||
		Bytes(Mul(a, FromInt64(4))) != Bytes(MulBase(FromInt64(12))) {
		t.Error("wrong arithmetic")
	}
	if Bytes(a) != before[0] || Bytes(b) != before[1] {
		t.Error("an argument changed")
	}
}

func TestLagrangeWeightsInterpolateAtZero(t *testing.T) {
	f := func(x int64) int64 { return 7 + 3*x + 2*x*x }
	for _, seats := range [][]uint64{{1, 2, 3}, {5, 1, 3}, {2, 4, 5}} {
		sum := FromInt64(0)
		for i, w := range LagrangeAtZero(seats) {
			sum.Add(sum, w.Mul(w, FromInt64(f(int64(seats[i])))))
		}
		if !sum.IsEqual(FromInt64(7)) {
			t.Errorf("seats %v do not give the value at 0", seats)
		}
	}
}

func TestTheIdentityIsNoElement(t *testing.T) {
	for name, b := range map[string][]byte{"identity": make([]byte, 32), "short": make([]byte, 31), "empty": nil} {
		if _, err := ParseElement(b); !errors.Is(err, ErrEncoding) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if VerifyProof(MulBase(FromInt64(1)), [ProofSize]byte{}, nil, nil) {
		t.Error("an empty proof verifies")
	}
}
