package score

import (
	"fmt"
	"math"
	"sort"
)

// Detectors are how somebody who reads the meter may tell days on which a car was
// charged, in the order of their curves.
var Detectors = []string{"plateau", "max 2 h", "energy 22-06 h", "day energy"}

// Curve is how well a detector tells days with a car from days without, over all of
// its thresholds.
type Curve struct {
	Detector string `json:"detector"`
	// AUC is the chance that a day with a car scores higher than one without, ties
	// half; a detector that is wrong more often than right is turned around.
	AUC float64 `json:"auc"`
	// False and True are the shares of days that a threshold takes for days with a
	// car, of those without and with, from strict to lax.
	False []float64 `json:"false"`
	True  []float64 `json:"true"`
}

// Days are one home's meter on days from noon to noon, in watts: as many with a car as
// you like, and without.
type Days struct{ With, Without [][]float64 }

// EVCurves runs each detector over the days of homes. minutes is the length of a
// sample. All detectors but the plateau know the home's days without a car.
func EVCurves(homes []Days, minutes float64) ([]Curve, error) {
	spd := int(math.Round(1440 / minutes))
	for _, h := range homes {
		if len(h.With) == 0 || len(h.Without) < 2 {
			return nil, fmt.Errorf("%w: %d days with a car and %d without, want 1 and 2", ErrInput, len(h.With), len(h.Without))
		}
		for _, d := range append(append([][]float64(nil), h.With...), h.Without...) {
			if len(d) != spd {
				return nil, fmt.Errorf("%w: a day of %d samples, want %d", ErrInput, len(d), spd)
			}
		}
	}
	var out []Curve
	for i, name := range Detectors {
		var with, without []float64
		for _, h := range homes {
			a, b := detect(i, h.With, minutes), detect(i, h.Without, minutes)
			if i > 0 {
				m, sd := mean(b), 0.
				for _, v := range b {
					sd += (v - m) * (v - m) / float64(len(b))
				}
				sd = math.Max(math.Sqrt(sd), 1e-9)
				for _, s := range [][]float64{a, b} {
					for j := range s {
						s[j] = (s[j] - m) / sd
					}
				}
			}
			with, without = append(with, a...), append(without, b...)
		}
		out = append(out, curve(name, with, without))
	}
	return out, nil
}

func detect(which int, days [][]float64, minutes float64) []float64 {
	out := make([]float64, len(days))
	for i, d := range days {
		hour := int(math.Round(60 / minutes))
		switch which {
		case 0:
			out[i] = plateau(d, minutes)
		case 1:
			out[i] = bestMean(d, 2*hour)
		case 2:
			out[i] = mean(d[10*hour : 18*hour]) // a day begins at noon
		default:
			out[i] = mean(d)
		}
	}
	return out
}

// plateau is how well the best half hour or hour stays at a charging power above the
// day's base.
func plateau(d []float64, minutes float64) float64 {
	sorted := append([]float64(nil), d...)
	sort.Float64s(sorted)
	base := quantile(sorted, .1)
	best := 0.
	fits := make([]float64, len(d))
	for _, p := range []float64{3600, 7400} {
		for i, y := range d {
			fits[i] = 1 - math.Min(1, math.Abs(y-base-p)/(.3*p))
		}
		for _, length := range []float64{30, 60} {
			best = math.Max(best, bestMean(fits, int(math.Round(length/minutes))))
		}
	}
	return best
}

// bestMean is the greatest mean of n samples in a row.
func bestMean(v []float64, n int) float64 {
	n = max(1, min(n, len(v)))
	sum := 0.
	for _, w := range v[:n] {
		sum += w
	}
	best := sum
	for i := n; i < len(v); i++ {
		sum += v[i] - v[i-n]
		best = math.Max(best, sum)
	}
	return best / float64(n)
}

func curve(name string, with, without []float64) Curve {
	higher := 0.
	for _, a := range with {
		for _, b := range without {
			switch {
			case a > b:
				higher++
			case a == b:
				higher += .5
			}
		}
	}
	c := Curve{Detector: name, AUC: higher / float64(len(with)*len(without))}
	turn := 1.
	if c.AUC < .5 {
		c.AUC, turn = 1-c.AUC, -1
	}
	thresholds := append(append([]float64(nil), with...), without...)
	sort.Slice(thresholds, func(i, j int) bool { return turn*thresholds[i] > turn*thresholds[j] })
	c.False, c.True = append(c.False, 0), append(c.True, 0)
	for i, t := range thresholds {
		if i > 0 && t == thresholds[i-1] {
			continue
		}
		share := func(v []float64) float64 {
			n := 0.
			for _, w := range v {
				if turn*w >= turn*t {
					n++
				}
			}
			return n / float64(len(v))
		}
		c.False, c.True = append(c.False, share(without)), append(c.True, share(with))
	}
	return c
}
