package web

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// chart is one figure of the energy page: drawn here for readers without
// script, redrawn by chart.js for the others.
type chart struct {
	Label string
	Fill  bool // between the first two lines
	Lines []chartLine
	e     Energy
}

// chartLine is one curve. Key is its field of Energy, by which chart.js finds it
// again in the page's JSON; Class its colour.
type chartLine struct {
	Key, Name, Class, Caption string
	watts                     []float64
}

// charts are the figures of a home: load against meter, and what else flows in
// the house, as far as the viewer may know it.
func charts(e Energy) []chart {
	meter := chartLine{"Metered", "meter", "grid", "meter, is reported", e.Metered}
	if e.True == nil {
		return []chart{{"Metered load", false, []chartLine{meter}, e}}
	}
	out := []chart{{"House load and metered load over the day", true, []chartLine{{"True", "house", "house", "house without car, stays here", e.True}, meter}, e}}
	var flows []chartLine
	if e.HasRoof {
		flows = append(flows, chartLine{"PV", "roof", "pv", "roof", e.PV})
	}
	if e.HasBattery {
		flows = append(flows, chartLine{"Battery", "battery", "battery", "battery, giving is up", e.Battery})
	}
	if e.Hosts {
		flows = append(flows, chartLine{"EV", "car", "ev", "car, charging is up", e.EV})
	}
	if len(flows) > 0 {
		out = append(out, chart{"Roof, battery and car over the day", false, flows, e})
	}
	return out
}

// Keys, Names and Colors are the lines as chart.js reads them.
func (c chart) Keys() string   { return c.join(func(l chartLine) string { return l.Key }) }
func (c chart) Names() string  { return c.join(func(l chartLine) string { return l.Name }) }
func (c chart) Colors() string { return c.join(func(l chartLine) string { return "--" + l.Class }) }

func (c chart) join(f func(chartLine) string) string {
	var all []string
	for _, l := range c.Lines {
		all = append(all, f(l))
	}
	return strings.Join(all, ",")
}

// Path is the curve of a line.
func (c chart) Path(l chartLine) string {
	var all [][]float64
	for _, other := range c.Lines {
		all = append(all, other.watts)
	}
	return curve(l.watts, all...)
}

// Series is the data for chart.js: seconds, then one row a curve.
func (c chart) Series() (string, error) {
	all := []any{c.e.Times}
	for _, l := range c.Lines {
		r := l.watts
		short := make([]float64, len(r))
		for i, v := range r {
			short[i] = math.Round(v)
		}
		all = append(all, short)
	}
	b, err := json.Marshal(all)
	return string(b), err
}

// chartWidth and chartHeight are the units of the drawn curve.
const (
	chartWidth  = 1000
	chartHeight = 240
)

// curve is an SVG path of v, for readers without script; bounds are shared by
// all curves of a chart, so that they can be compared.
func curve(v []float64, all ...[]float64) string {
	lo, hi := 0., 1.
	for _, s := range append(all, v) {
		for _, w := range s {
			lo, hi = min(lo, w), max(hi, w)
		}
	}
	var b strings.Builder
	step := max(1, len(v)/500)
	for i := 0; i < len(v); i += step {
		x := float64(i) / float64(max(1, len(v)-1)) * chartWidth
		y := chartHeight - (v[i]-lo)/(hi-lo)*chartHeight
		op := "L"
		if i == 0 {
			op = "M"
		}
		fmt.Fprintf(&b, "%s%.1f %.1f", op, x, y)
	}
	return b.String()
}

// bar is one piece of a drawn interval: what came from or went to one place.
type bar struct {
	Class   string
	X, Y, H float64
}

// barStep is the width of an interval with its gap, in units of the drawing;
// fewer intervals than leastBars leave room beside them.
const (
	barStep   = 10
	leastBars = 24
)

// zeroLine is where the bars stand, from the top of a drawing 100 high, and how
// high a kWh is in it.
func zeroLine(list []Interval) (zero, scale float64) {
	up, down := .001, 0.
	for _, i := range list {
		up, down = max(up, i.FromPV+i.FromHouse+i.FromGrid), max(down, i.ToHouse+i.ToGrid)
	}
	scale = 100 / (up + down)
	return up * scale, scale
}

// bars stacks the energies of each interval on a zero line, out of the car
// downwards.
func bars(list []Interval) []bar {
	zero, scale := zeroLine(list)
	var out []bar
	for n, i := range list {
		x, y := float64(n*barStep+1), zero
		for _, p := range []struct {
			class string
			kwh   float64
		}{{"pv", i.FromPV}, {"house", i.FromHouse}, {"grid", i.FromGrid}} {
			y -= p.kwh * scale
			out = append(out, bar{p.class, x, y, p.kwh * scale})
		}
		out = append(out, bar{"ev", x, zero, (i.ToHouse + i.ToGrid) * scale})
	}
	return out
}
