package battery

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// evenings is a made home's demand in Wh per five minutes: quiet days, busy evenings.
func evenings(days int, seed uint64) []float64 {
	r := rand.New(rand.NewPCG(seed, 3))
	var out []float64
	for b := range days * 288 {
		e := 15 + 5*r.Float64()
		if h := b % 288; h > 210 && h < 270 && r.IntN(3) > 0 {
			e += 60 * r.Float64()
		}
		if r.IntN(40) == 0 {
			e += 90
		}
		out = append(out, e)
	}
	return out
}

// TestLeakIsRated: what a home's mask leaks by model lies between the floor line and
// what its demand could tell, and a larger battery leaks less.
func TestLeakIsRated(t *testing.T) {
	history := evenings(8, 1)
	last := math.Inf(1)
	for _, wh := range []WattHours{1000, 2000} {
		spec := Reference(wh, 3000)
		l, err := Lesson(context.Background(), "veil", spec, history)
		if err != nil || l == nil {
			t.Fatalf("%v, %v", l, err)
		}
		leak, err := RateLeak(context.Background(), spec, *l, history)
		if err != nil {
			t.Fatal(err)
		}
		if !(leak.Masked > 0 && leak.Masked > leak.Bound/2 && leak.Masked < 300 && leak.Err > 0 && leak.Err < leak.Masked/10) {
			t.Errorf("%.0f Wh: %+v", wh, leak)
		}
		if !(leak.Floor > 0 && leak.Floor < last && leak.Masked < last) || leak.Doubtful != (leak.Masked+3*leak.Err < leak.Floor) {
			t.Errorf("%.0f Wh: %+v, the smaller battery leaks %.2f", wh, leak, last)
		}
		last = leak.Masked
	}
	if _, err := RateLeak(context.Background(), Reference(2000, 3000), Learned{}, history[:100]); !errors.Is(err, ErrNoHistory) {
		t.Errorf("a morning's history: got %v", err)
	}
}

// TestExposedIntervalsArePriced: two intervals of a usual two a day cost twice what
// one costs, and more than when they are usual by the dozen.
func TestExposedIntervalsArePriced(t *testing.T) {
	var e exposure
	today := 0
	for _, on := range []bool{false, true, true, false, true, false} {
		today += e.note(on)
	}
	if today != 2 {
		t.Fatalf("%d intervals, want 2", today)
	}
	want := 2 * (math.Log2(1440*math.E/2) + math.Log2(10))
	if got := e.bits(2, 9); math.Abs(got-want) > 1e-9 {
		t.Errorf("got %.4f bits, want %.4f", got, want)
	}
	e.over(24)
	if got, want := e.bits(2, 9), 2*(math.Log2(60*math.E)+math.Log2(10)); math.Abs(got-want) > 1e-9 {
		t.Errorf("after a day of 24: got %.4f bits, want %.4f", got, want)
	}
}
