package sim

import (
	"context"
	"fmt"
	"html"
	"math"
	"strings"

	"gridveil/battery"
)

// chart is a plot of series over two axes, drawn without scripts or fonts of its own.
type chart struct {
	title, x, y string
	logX, logY  bool
	series      []series
}

type series struct {
	name   string
	line   bool // joined; without, dots
	points []point
}

// point has the ends of its bars beside it; equal to the value where it has none.
type point struct{ x, y, xLo, xHi, yLo, yHi float64 }

func at(x, y float64) point { return point{x, y, x, x, y, y} }

// Sizes of a chart in pixels.
const (
	chartW, chartH         = 720, 420
	left, right            = 64, 190
	above, below           = 34, 48
	legendLine             = 15
	plotW, plotH           = chartW - left - right, chartH - above - below
	leastOfLog     float64 = .1 // on a logarithmic axis nothing is drawn lower
)

var colours = []string{"#0b6e4f", "#c1121f", "#1d4e89", "#e09f3e", "#6a4c93", "#2a9d8f", "#9c6644", "#5f6f65", "#d62976", "#3a86ff", "#8ac926", "#7f5539", "#444444"}

type axis struct {
	lo, hi float64
	log    bool
}

func (a *axis) scale(v float64) float64 {
	if a.log {
		return math.Log10(max(v, leastOfLog))
	}
	return v
}

func (a *axis) share(v float64) float64 { return (a.scale(v) - a.lo) / (a.hi - a.lo) }

// fit makes the axis hold all values, with a little room.
func (a *axis) fit(values []float64) {
	a.lo, a.hi = math.Inf(1), math.Inf(-1)
	for _, v := range values {
		a.lo, a.hi = min(a.lo, a.scale(v)), max(a.hi, a.scale(v))
	}
	room := (a.hi - a.lo) * .05
	if !(room > 0) {
		room = 1
	}
	a.lo, a.hi = a.lo-room, a.hi+room
}

// ticks are round values inside the axis.
func (a *axis) ticks() (out []float64) {
	if a.log {
		for e := math.Floor(a.lo); e <= a.hi; e++ {
			for _, m := range []float64{1, 2, 5} {
				if v := m * math.Pow(10, e); a.scale(v) >= a.lo && a.scale(v) <= a.hi && v >= leastOfLog {
					out = append(out, v)
				}
			}
		}
		return out
	}
	step := math.Pow(10, math.Floor(math.Log10((a.hi-a.lo)/4)))
	for _, m := range []float64{1, 2, 5} {
		if (a.hi-a.lo)/(step*m) <= 8 {
			step *= m
			break
		}
	}
	for v := math.Ceil(a.lo/step) * step; v <= a.hi; v += step {
		out = append(out, math.Round(v/step)*step+0) // not -0
	}
	return out
}

// svg draws the chart; equal charts give equal bytes.
func (c chart) svg() string {
	var xs, ys []float64
	for _, s := range c.series {
		for _, p := range s.points {
			xs, ys = append(xs, p.xLo, p.xHi), append(ys, p.yLo, p.yHi)
		}
	}
	x, y := axis{log: c.logX}, axis{log: c.logY}
	x.fit(xs)
	y.fit(ys)
	px := func(v float64) float64 { return left + plotW*x.share(v) }
	py := func(v float64) float64 { return above + plotH*(1-y.share(v)) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" font-family="sans-serif" font-size="11"><title>%s</title>`, chartW, chartH, html.EscapeString(c.title))
	fmt.Fprintf(&b, "\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/><text x=\"%d\" y=\"18\" font-size=\"13\">%s</text>\n", chartW, chartH, left, html.EscapeString(c.title))
	for _, v := range x.ticks() {
		fmt.Fprintf(&b, "<path d=\"M%.1f %dv%d\" stroke=\"#e4e4e4\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.4g</text>\n", px(v), above, plotH, px(v), above+plotH+15, v)
	}
	for _, v := range y.ticks() {
		fmt.Fprintf(&b, "<path d=\"M%d %.1fh%d\" stroke=\"#e4e4e4\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n", left, py(v), plotW, left-5, py(v)+4, v)
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text><text x=\"14\" y=\"%d\" text-anchor=\"middle\" transform=\"rotate(-90 14 %d)\">%s</text>\n",
		left+plotW/2, chartH-10, html.EscapeString(c.x), above+plotH/2, above+plotH/2, html.EscapeString(c.y))
	for i, s := range c.series {
		colour := colours[i%len(colours)]
		fmt.Fprintf(&b, "<g stroke=\"%s\" fill=\"none\" stroke-width=\"1.5\">\n", colour)
		if s.line {
			for j, p := range s.points {
				op := "L"
				if j == 0 {
					op = "<path d=\"M"
				}
				fmt.Fprintf(&b, "%s%.1f %.1f", op, px(p.x), py(p.y))
			}
			b.WriteString("\"/>\n")
		}
		for _, p := range s.points {
			if p.xLo < p.xHi || p.yLo < p.yHi {
				fmt.Fprintf(&b, "<path stroke-width=\".6\" d=\"M%.1f %.1fL%.1f %.1fM%.1f %.1fL%.1f %.1f\"/>\n", px(p.xLo), py(p.y), px(p.xHi), py(p.y), px(p.x), py(p.yLo), px(p.x), py(p.yHi))
			}
			if len(s.points) < 60 {
				fmt.Fprintf(&b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", px(p.x), py(p.y), colour)
			}
		}
		fmt.Fprintf(&b, "</g><text x=\"%d\" y=\"%d\" fill=\"%s\">%s</text>\n", chartW-right+12, above+10+i*legendLine, colour, html.EscapeString(s.name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// CostChart is what policies cost and tell with one battery: the dial of veil is a
// line, bars go from the least to the greatest home. It is an SVG file.
func CostChart(means []Mean, c battery.WattHours, w battery.Watts) string {
	ch := chart{title: fmt.Sprintf("%g kWh, %g kW: the bill and what the meter tells", float64(c)/1000, float64(w)/1000), x: "bits a day", y: "cost ratio", logX: true}
	for _, m := range means {
		if m.Capacity != c || m.Power != w || m.Policy == "none" {
			continue
		}
		p := point{m.Mean.Bits, m.Mean.Cost, m.Least.Bits, m.Most.Bits, m.Least.Cost, m.Most.Cost}
		if m.Stop > 0 && len(ch.series) > 0 && ch.series[len(ch.series)-1].name == m.Policy {
			s := &ch.series[len(ch.series)-1]
			s.points, s.line = append(s.points, p), true
			continue
		}
		ch.series = append(ch.series, series{name: m.Policy, points: []point{p}})
	}
	return ch.svg()
}

// CapacityChart is what policies tell by the size of the battery, at one power, with
// the floor line of the homes. It is an SVG file.
func CapacityChart(means []Mean, w battery.Watts, floor map[battery.WattHours]float64) string {
	ch := chart{title: fmt.Sprintf("%g kW: what a larger battery hides", float64(w)/1000), x: "capacity, kWh", y: "bits a day", logX: true, logY: true}
	where := map[string]int{}
	var sizes []battery.WattHours
	for _, m := range means {
		if m.Power != w || m.Stop > 0 || m.Policy == "none" {
			continue
		}
		i, ok := where[m.Policy]
		if !ok {
			i, where[m.Policy] = len(ch.series), len(ch.series)
			ch.series = append(ch.series, series{name: m.Policy, line: true})
		}
		kwh := float64(m.Capacity) / 1000
		ch.series[i].points = append(ch.series[i].points, point{kwh, m.Mean.Bits, kwh, kwh, m.Least.Bits, m.Most.Bits})
		if i == 0 {
			sizes = append(sizes, m.Capacity)
		}
	}
	line := series{name: "floor", line: true}
	for _, c := range sizes {
		line.points = append(line.points, at(float64(c)/1000, floor[c]))
	}
	ch.series = append(ch.series, line)
	return ch.svg()
}

// Floors are the floor lines, in bits a day, meant over homes.
func (g Grid) Floors(ctx context.Context, homes []Home) (map[battery.WattHours]float64, error) {
	out := map[battery.WattHours]float64{}
	for _, c := range g.Capacities {
		for _, h := range homes {
			f, err := battery.FloorLine(ctx, battery.Reference(c, g.Powers[0]), energies(h.Trace, len(h.Load), battery.Block))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", h.Name, err)
			}
			out[c] += f / float64(len(homes))
		}
	}
	return out, nil
}
