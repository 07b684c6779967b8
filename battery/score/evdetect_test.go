package score

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// charged are made days from noon to noon; a car at 7.4 kW takes two hours of each.
func charged(days int, car float64) (out [][]float64) {
	r := rand.New(rand.NewPCG(4, 4))
	for range days {
		d := make([]float64, 1440)
		for i := range d {
			d[i] = 200 + 100*r.Float64()
		}
		at := 300 + r.IntN(300)
		for i := at; i < at+120; i++ {
			d[i] += car
		}
		out = append(out, d)
	}
	return out
}

func TestDetectorsSeeACarAndNoneThatIsNotThere(t *testing.T) {
	seen, err := EVCurves([]Days{{charged(8, 7400), charged(8, 0)}, {charged(8, 7400), charged(8, 0)}}, 1)
	if err != nil || len(seen) != len(Detectors) {
		t.Fatalf("%d curves: %v", len(seen), err)
	}
	for _, c := range seen {
		if want := 1.; c.Detector != "energy 22-06 h" && c.AUC != want {
			t.Errorf("%s: %.2f, want %.0f", c.Detector, c.AUC, want)
		}
		if n := len(c.True); n != len(c.False) || c.True[0] != 0 || c.True[n-1] != 1 || c.False[n-1] != 1 {
			t.Errorf("%s: curve from %.1f to %.1f", c.Detector, c.True[0], c.True[n-1])
		}
	}
	none, err := EVCurves([]Days{{charged(8, 0), charged(8, 0)}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range none {
		if c.AUC != .5 { // the same days: every comparison has its mirror
			t.Errorf("%s finds a car that is not there: %.2f", c.Detector, c.AUC)
		}
	}
	if _, err := EVCurves([]Days{{charged(1, 0), charged(1, 0)}}, 1); !errors.Is(err, ErrInput) {
		t.Errorf("one day to compare with: got %v", err)
	}
	if _, err := EVCurves([]Days{{charged(2, 0), [][]float64{{1}, {2}}}}, 1); !errors.Is(err, ErrInput) {
		t.Errorf("short days: got %v", err)
	}
}

// TestPlateauIsThatOfTheText: an hour exactly 7.4 kW above the base scores 1, half of
// the tolerance off half, another power nothing.
func TestPlateauIsThatOfTheText(t *testing.T) {
	for power, want := range map[float64]float64{7400: 1, 7400 + .15*7400: .5, 5400: .0, 3600: 1} {
		d := make([]float64, 1440)
		for i := 600; i < 660; i++ {
			d[i] = power
		}
		if got := plateau(d, 1); math.Abs(got-want) > .11 {
			t.Errorf("an hour of %.0f W: %.3f, want %.2f", power, got, want)
		}
	}
}
