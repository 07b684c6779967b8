// Package score measures how much of a true load a metered load gives away. It
// knows nothing of policies: an outside evaluator with the same two series gets
// the same numbers.
//
// Measures are those of doc/design.md, battery: excess mutual information over
// circular shifts, edges, regressions, energy correlation. Sources: Arzamasov
// and Böhm (arXiv 2408.06460) for which measures discriminate.
package score

import (
	"errors"
	"fmt"
	"math"
	"sort"
)

// Input is one home: equal-length series, one sample per Minutes.
type Input struct {
	Minutes float64
	Load    []float64 // true house load, W
	Meter   []float64 // metered load, W
	SoC     []float64 // stored energy, Wh; empty without a battery
	// Capacity of the battery in Wh, for cycles.
	Capacity float64
	// Appliances are sub-metered loads, W; may be empty.
	Appliances [][]float64
	// StartMinute is the local minute of day of the first sample.
	StartMinute int
}

// Result has the figures by their published names.
type Result struct {
	MILevel     float64 `json:"mi_level_x"`
	MIDiff      float64 `json:"mi_diff_x"`
	BitsDay     float64 `json:"bits_day"`
	EdgeF1      float64 `json:"edge_f1"`
	EdgeLoose   float64 `json:"edge_loose_f1"`
	EdgeChance  float64 `json:"edge_f1_chance"`
	LooseChance float64 `json:"edge_loose_chance"`
	AppRecall   float64 `json:"app_recall"`
	HourR2      float64 `json:"hour_r2"`
	LinR2       float64 `json:"lin_r2"`
	HourMI      float64 `json:"hour_mi_x"`
	DayCorr     float64 `json:"day_corr"`
	LossPct     float64 `json:"loss_pct"`
	CostRatio   float64 `json:"cost_ratio"`
	EFCDay      float64 `json:"efc_day"`
}

// ErrInput is wrapped by Score for series that cannot be scored.
var ErrInput = errors.New("series cannot be scored")

// Score computes every figure. It needs at least two whole days.
func Score(in Input) (Result, error) {
	n := len(in.Load)
	if len(in.Meter) != n || !(in.Minutes > 0) || len(in.SoC) != 0 && len(in.SoC) != n {
		return Result{}, fmt.Errorf("%w: %d load, %d meter and %d charge samples of %g min", ErrInput, n, len(in.Meter), len(in.SoC), in.Minutes)
	}
	spd := int(math.Round(1440 / in.Minutes))
	if n < 2*spd {
		return Result{}, fmt.Errorf("%w: %d samples are less than two days", ErrInput, n)
	}
	x, y := in.Load, in.Meter
	var r Result
	r.MILevel = excess(levels(x), levels(y), spd)
	r.MIDiff = excess(differences(x), differences(y), spd)
	r.BitsDay = bitsDay(x, y, spd)
	edgeFigures(&r, in, spd)
	hx, hy := blockMeans(x, max(1, spd/24)), blockMeans(y, max(1, spd/24))
	r.HourR2 = regress(hx, hy, -2, 6)
	r.LinR2 = regress(x, y, -10, 10)
	r.HourMI = hourMI(hx, hy)
	r.DayCorr = correlation(blockMeans(x, spd), blockMeans(y, spd))
	account(&r, in, spd)
	return r, nil
}

var (
	levelEdges = []float64{0, 50, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2000, 2500, 3000, 4000, 6000}
	diffEdges  = []float64{-2000, -1000, -500, -200, -50, 50, 200, 500, 1000, 2000}
)

// levels indexes each value by the number of edges at or below it, less one.
func levels(v []float64) []int {
	out := make([]int, len(v))
	for i, w := range v {
		out[i] = max(0, sort.Search(len(levelEdges), func(k int) bool { return levelEdges[k] > w })-1)
	}
	return out
}

func differences(v []float64) []int {
	out := make([]int, len(v)-1)
	for i := range out {
		d := v[i+1] - v[i]
		out[i] = sort.SearchFloat64s(diffEdges, d)
	}
	return out
}

// mutual is the plug-in mutual information in bits, less its first-order bias.
func mutual(a, b []int) float64 {
	na, nb := 1+maxOf(a), 1+maxOf(b)
	joint := make([]float64, na*nb)
	pa, pb := make([]float64, na), make([]float64, nb)
	n := float64(len(a))
	for i := range a {
		joint[a[i]*nb+b[i]]++
		pa[a[i]]++
		pb[b[i]]++
	}
	mi, cells := 0., 0
	for i, c := range joint {
		if c > 0 {
			cells++
			mi += c / n * math.Log2(c*n/(pa[i/nb]*pb[i%nb]))
		}
	}
	bias := float64(cells-used(pa)-used(pb)+1) / (2 * n * math.Ln2)
	return mi - bias
}

func used(p []float64) (n int) {
	for _, v := range p {
		if v > 0 {
			n++
		}
	}
	return n
}

func maxOf(a []int) int {
	m := 0
	for _, v := range a {
		m = max(m, v)
	}
	return m
}

// excess is mutual information beyond that of the same days in another order.
func excess(x, y []int, spd int) float64 {
	return mutual(x, y) - shifted(len(y), spd, func(k int) float64 { return mutual(x, roll(y, k)) })
}

// shifted is the mean of f over all shifts by whole days.
func shifted(n, spd int, f func(k int) float64) float64 {
	days := n / spd
	sum, count := 0., 0
	for k := 1; k < max(2, days); k++ {
		sum += f(k * spd)
		count++
	}
	return sum / float64(count)
}

// roll turns v so that out[t] = v[t-k].
func roll[T any](v []T, k int) []T {
	n := len(v)
	k = ((k % n) + n) % n
	out := make([]T, n)
	copy(out[k:], v[:n-k])
	copy(out[:k], v[n-k:])
	return out
}

// bitsDay is the excess information of a step beyond that of its level, a day.
func bitsDay(x, y []float64, spd int) float64 {
	a, b := sextiles(x), sextiles(y)
	gain := func(b []int) float64 {
		return mutual(pairs(a), pairs(b)) - mutual(a, b)
	}
	return float64(spd) * (gain(b) - shifted(len(b), spd, func(k int) float64 { return gain(roll(b, k)) }))
}

func pairs(v []int) []int {
	m := 1 + maxOf(v)
	out := make([]int, len(v)-1)
	for i := range out {
		out[i] = v[i+1]*m + v[i]
	}
	return out
}

// sextiles indexes by the distinct 1/6..5/6 quantiles that lie below a value.
func sextiles(v []float64) []int {
	sorted := append([]float64(nil), v...)
	sort.Float64s(sorted)
	var edges []float64
	for k := 1; k < 6; k++ {
		q := quantile(sorted, float64(k)/6)
		if len(edges) == 0 || q != edges[len(edges)-1] {
			edges = append(edges, q)
		}
	}
	out := make([]int, len(v))
	for i, w := range v {
		out[i] = sort.SearchFloat64s(edges, w)
	}
	return out
}

func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

func blockMeans(v []float64, size int) []float64 {
	out := make([]float64, len(v)/size)
	for i := range out {
		for _, w := range v[i*size : (i+1)*size] {
			out[i] += w / float64(size)
		}
	}
	return out
}

func hourMI(hx, hy []float64) float64 {
	best := math.Inf(-1)
	a, b := sextiles(hx), sextiles(hy)
	for k := range 5 {
		best = max(best, excess(a, roll(b, -k), 24))
	}
	return best
}

func correlation(a, b []float64) float64 {
	ma, mb := mean(a), mean(b)
	var sab, saa, sbb float64
	for i := range a {
		da, db := a[i]-ma, b[i]-mb
		sab, saa, sbb = sab+da*db, saa+da*da, sbb+db*db
	}
	if saa == 0 || sbb == 0 {
		return 0
	}
	return sab / math.Sqrt(saa*sbb)
}

func mean(v []float64) float64 {
	s := 0.
	for _, w := range v {
		s += w
	}
	return s / float64(len(v))
}

// Price is the tariff of the published cost ratios, currency per kWh by local hour.
func Price(hour int) float64 {
	switch {
	case hour < 6:
		return .14
	case hour >= 16 && hour < 19:
		return .40
	}
	return .28
}

// account fills losses, cost and cycles.
func account(r *Result, in Input, spd int) {
	h := in.Minutes / 60
	var sumX, diff, costX, costY, falls float64
	for i, x := range in.Load {
		y := in.Meter[i]
		hour := ((in.StartMinute + int(float64(i)*in.Minutes)) / 60) % 24
		p := Price(hour)
		sumX += x * h
		diff += (y - x) * h
		costX += x * p * h
		costY += y * p * h
		if i > 0 && len(in.SoC) > 0 {
			falls += max(0, in.SoC[i-1]-in.SoC[i])
		}
	}
	dE := 0.
	if n := len(in.SoC); n > 0 {
		dE = in.SoC[n-1] - in.SoC[0]
	}
	if sumX > 0 {
		r.LossPct = 100 * (diff - dE) / sumX
		r.CostRatio = (costY - .28*dE) / costX
	}
	if in.Capacity > 0 {
		r.EFCDay = falls / in.Capacity / (float64(len(in.Load)) / float64(spd))
	}
}
