package battery

import (
	"errors"
	"math"
	"testing"
)

// TestEveryNightsNeedIsMet: over years of random nights the car never leaves with less
// than it needs, never takes more than there is room for, and takes on average what it
// drives.
func TestEveryNightsNeedIsMet(t *testing.T) {
	r := chacha(4)
	nights := make([]WattHours, 200)
	for i := range nights {
		if r.IntN(2) == 0 {
			nights[i] = WattHours(4000 + 20_000*r.Float64())
		}
	}
	for _, slack := range []WattHours{5000, 14_000, 40_000} {
		a, err := NewAmount(nights, slack, chacha(7))
		if err != nil {
			t.Fatal(err)
		}
		if !(a.Bits > 0 && a.Bits < a.Bare) {
			t.Errorf("%+v", a)
		}
		beyond, drove, charged := slack/2, 0., 0.
		for range 5000 {
			trip := nights[r.IntN(len(nights))]
			beyond -= trip
			y := a.Tonight(beyond)
			if y < 0 || beyond+y < -.01 || beyond+y > slack+.01 && beyond+y > a.Quantum {
				t.Fatalf("slack %g: %g Wh beyond the need, %g charged", slack, beyond, y)
			}
			beyond += y
			drove, charged = drove+float64(trip), charged+float64(y)
		}
		if math.Abs(charged/drove-1) > .01 {
			t.Errorf("slack %g: charged %.0f Wh, drove %.0f", slack, charged, drove)
		}
	}
}

// TestThePublishedAmountIsReached: a slack of three equal sessions, of which half of the
// nights have one, hides all but a quarter of a bit; a bare night tells one.
func TestThePublishedAmountIsReached(t *testing.T) {
	nights := make([]WattHours, 400)
	for i := range nights {
		nights[i] = WattHours(12_200 * (i % 2))
	}
	a, err := NewAmount(nights, 3*12_200, chacha(1))
	if err != nil {
		t.Fatal(err)
	}
	if a.Bits > .25 || a.Bits < .2 || a.Bare < .99 {
		t.Errorf("%.4f bits a night, bare %.4f", a.Bits, a.Bare)
	}
}

func TestAmountsWithoutSlackAreRefused(t *testing.T) {
	one := []WattHours{0, 12_000}
	for _, c := range []struct {
		nights []WattHours
		slack  WattHours
	}{{nil, 30_000}, {[]WattHours{0, 0}, 30_000}, {one, 0}, {one, 2000}, {one, WattHours(math.Inf(1))}, {one, WattHours(math.NaN())}, {[]WattHours{-1}, 30_000},
		{[]WattHours{WattHours(math.NaN())}, 30_000}, {[]WattHours{1e9}, 30_000}, {[]WattHours{1e-9}, 30_000}, {[]WattHours{1e-9, 200_000}, 1e-7}} {
		if a, err := NewAmount(c.nights, c.slack, chacha(1)); !errors.Is(err, ErrBadAmount) {
			t.Errorf("%v with %g: %+v, %v", c.nights, c.slack, a, err)
		}
	}
}
