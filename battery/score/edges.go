package score

import "math"

type edge struct {
	at   int
	size float64
}

var edgeThresholds = []float64{50, 100, 200, 300, 500, 800}

// edgesOf lists the steps of at least th watts; two neighbouring differences of
// one sign count as one step.
func edgesOf(v []float64, th float64) []edge {
	var out []edge
	for i := 0; i+1 < len(v); i++ {
		d := v[i+1] - v[i]
		if math.Abs(d) < th/2 {
			continue
		}
		s, at := d, i+1
		if i+2 < len(v) {
			if next := v[i+2] - v[i+1]; next*d > 0 && math.Abs(next) >= .2*th {
				s += next
				i++
			}
		}
		if math.Abs(s) >= th {
			out = append(out, edge{at, s})
		}
	}
	return out
}

// match counts true edges that take the nearest unused predicted edge of their
// sign within one sample; strict also wants the size within 30 %.
func match(truth, pred []edge, strict bool) (tp int) {
	taken := make([]bool, len(pred))
	from := 0
	for _, t := range truth {
		for from < len(pred) && pred[from].at < t.at-1 {
			from++
		}
		best, dist := -1, 2
		for j := from; j < len(pred) && pred[j].at <= t.at+1; j++ {
			p := pred[j]
			if taken[j] || p.size*t.size <= 0 || strict && math.Abs(p.size-t.size) > .3*math.Abs(t.size) {
				continue
			}
			d := p.at - t.at
			if d < 0 {
				d = -d
			}
			if d < dist {
				best, dist = j, d
			}
		}
		if best >= 0 {
			taken[best] = true
			tp++
		}
	}
	return tp
}

func f1(truth, pred []edge, strict bool) float64 {
	if len(truth)+len(pred) == 0 {
		return 0
	}
	return 2 * float64(match(truth, pred, strict)) / float64(len(truth)+len(pred))
}

// edgeFigures fills the edge measures: the best threshold an attacker may pick,
// beside what the same meter of other days would score by chance.
func edgeFigures(r *Result, in Input, spd int) {
	truth := edgesOf(in.Load, 500)
	for _, strict := range []bool{true, false} {
		best, at := -1., 0.
		for _, th := range edgeThresholds {
			if v := f1(truth, edgesOf(in.Meter, th), strict); v > best {
				best, at = v, th
			}
		}
		chance := 0.
		for k := 1; k <= 3; k++ {
			chance += f1(truth, edgesOf(roll(in.Meter, k*spd+137), at), strict) / 3
		}
		if strict {
			r.EdgeF1, r.EdgeChance = best, chance
		} else {
			r.EdgeLoose, r.LooseChance = best, chance
		}
	}
	found, all := 0, 0
	pred := edgesOf(in.Meter, 350)
	for _, a := range in.Appliances {
		e := edgesOf(a, 500)
		all += len(e)
		found += match(e, pred, true)
	}
	if all > 0 {
		r.AppRecall = float64(found) / float64(all)
	}
}
