package mix

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestDecoysAreFourADayAtTimesThatSayNothing looks at the decoys of a thousand days: their number, the shape of the times
// between them, and the hours of the day.
func TestDecoysAreFourADayAtTimesThatSayNothing(t *testing.T) {
	const days = 1000
	rnd := rand.NewChaCha8([32]byte{7})
	var d Decoys
	start := time.UnixMilli(1_700_006_400_000) // midnight UTC
	if err := d.Start(start, rnd); err != nil {
		t.Fatal(err)
	}
	var gaps []float64
	var hours [24]float64
	last := start
	for now := start; now.Before(start.Add(days * 24 * time.Hour)); now = d.Next() {
		if came, err := d.Take(now, rnd); err != nil || came != (now != start) {
			t.Fatalf("decoy at %v: %v, %v", now, came, err)
		} else if !came {
			continue
		}
		gaps = append(gaps, now.Sub(last).Hours()/DecoyMean.Hours())
		hours[now.UTC().Hour()]++
		last = now
	}
	if n := float64(len(gaps)); math.Abs(n-4*days) > 5*math.Sqrt(4*days) {
		t.Errorf("%.0f decoys in %d days, want four a day", n, days)
	}
	slices.Sort(gaps)
	worst, n := 0.0, float64(len(gaps))
	for i, g := range gaps {
		worst = max(worst, math.Abs(1-math.Exp(-g)-(float64(i)+0.5)/n))
	}
	if worst > 1.95/math.Sqrt(n) { // Kolmogorov-Smirnov, p = 0.001
		t.Errorf("times between decoys are not exponential: they deviate by %.4f", worst)
	}
	chi := 0.0
	for _, h := range hours {
		chi += (h - n/24) * (h - n/24) / (n / 24)
	}
	if chi > 49.7 { // 23 degrees of freedom, p = 0.001
		t.Errorf("decoys prefer some hours of the day: chi-square %.1f", chi)
	}
}

func TestAMachineThatSleptSendsOneDecoyNotAll(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{8})
	var d Decoys
	start := time.UnixMilli(1_700_000_000_000)
	if came, err := d.Take(start, rnd); came || err != nil {
		t.Errorf("before its start: %v, %v", came, err)
	}
	if err := d.Start(start, rnd); err != nil {
		t.Fatal(err)
	}
	late := d.Next().Add(30 * 24 * time.Hour)
	if came, err := d.Take(d.Next().Add(-time.Millisecond), rnd); came || err != nil {
		t.Errorf("before its time: %v, %v", came, err)
	}
	for i := range 2 {
		if came, err := d.Take(late, rnd); err != nil || came != (i == 0) {
			t.Errorf("a month late, question %d: %v, %v", i+1, came, err)
		}
	}
	if !d.Next().After(late) {
		t.Error("the next decoy lies in the past")
	}
}
