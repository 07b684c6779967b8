package sim

import (
	"context"
	"errors"
	"fmt"
	"html"
	"strings"
	"time"

	"gridveil/battery"
	"gridveil/battery/score"
)

// Page is what a report on one home shows.
type Page struct {
	Home     string            `json:"home"`
	Capacity battery.WattHours `json:"cap_wh"`
	Power    battery.Watts     `json:"power_w"`
	Seed     uint64            `json:"seed"`
	Means    []Mean            `json:"policies"` // of one home: means over nothing
	Leak     *battery.Leak     `json:"leak"`     // nil where nothing could be rated
	EV       []EVTest          `json:"ev"`
	Amounts  []AmountTest      `json:"ev_amounts"` // experimental

	day *Run // the first scored day of veil
}

// Report runs every policy and stop of the dial on a home, rates its mask, and lets
// detectors look for a car.
func Report(ctx context.Context, h Home, g Grid, visits []Visit) (*Page, error) {
	p := &Page{Home: h.Name, Capacity: g.Capacities[0], Power: g.Powers[0], Seed: g.First}
	rows, err := g.Run(ctx, []Home{h}, nil, func(Row) error { return nil })
	if err != nil {
		return nil, err
	}
	p.Means = Means(rows)
	spec := battery.Reference(p.Capacity, p.Power)
	kernels := map[string]*Kernels{h.Name: {}}
	o := Options{Policy: "veil", Capacity: p.Capacity, Power: p.Power, Learn: g.Learn, Seed: g.First, Kernels: kernels[h.Name]}
	if p.day, err = Simulate(ctx, h.Trace, o); err != nil {
		return nil, err
	}
	leak, _, err := Leak(ctx, h.Trace, spec)
	switch {
	case err == nil:
		p.Leak = &leak
	case !errors.Is(err, battery.ErrTooSmall) && !errors.Is(err, battery.ErrNoHistory):
		return nil, err
	}
	for _, e := range EVTests() {
		if e, err = e.Run(ctx, []Home{h}, visits, o, kernels); err != nil {
			return nil, err
		}
		p.EV = append(p.EV, e)
	}
	for _, a := range AmountTests() {
		if a, err = a.Run(ctx, []Home{h}, visits, o, kernels); err != nil {
			return nil, err
		}
		p.Amounts = append(p.Amounts, a)
	}
	return p, nil
}

const pageHead = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>gridveil: what a battery hides</title>
<style>body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}table{border-collapse:collapse;font-size:13px}
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}</style></head><body>
`

// HTML is the report as one file that needs nothing else, neither network nor script.
func (p *Page) HTML() string {
	var b strings.Builder
	b.WriteString(pageHead)
	fmt.Fprintf(&b, "<h1>What a battery hides of %s</h1>\n<p>%g kWh, %g kW, seed %d. What the battery cannot hide: energy over days, peaks above its power, one car's charge larger than its capacity.</p>\n",
		html.EscapeString(p.Home), float64(p.Capacity)/1000, float64(p.Power)/1000, p.Seed)
	p.writeDay(&b)
	p.writePolicies(&b)
	p.writeEV(&b)
	p.writeAmounts(&b)
	b.WriteString("</body></html>\n")
	return b.String()
}

func (p *Page) writeDay(b *strings.Builder) {
	n := int(24 * time.Hour / p.day.Step)
	line := func(name string, v []float64, unit float64) series {
		s := series{name: name, line: true}
		for i, w := range v[:min(n, len(v))] {
			s.points = append(s.points, at(float64(i)*p.day.Step.Hours(), w/unit))
		}
		return s
	}
	fmt.Fprintf(b, "<h2>A day</h2>\n%s%s", chart{title: "load and meter under veil, the first day that is scored", x: "hour", y: "kW",
		series: []series{line("load", p.day.Load, 1000), line("meter", p.day.Meter, 1000)}}.svg(),
		chart{title: "stored energy", x: "hour", y: "kWh", series: []series{line("stored", p.day.SoC, 1000)}}.svg())
}

func (p *Page) writePolicies(b *strings.Builder) {
	b.WriteString("<h2>Policies</h2>\n")
	if l := p.Leak; l != nil {
		fmt.Fprintf(b, "<p>By model, veil leaks %.2f bits a day (standard error %.2f) of this home; proven for its own chain: %.2f; no battery of this size does better on independent days than %.2f.</p>\n", l.Masked, l.Err, l.Bound, l.Floor)
	}
	b.WriteString("<table><tr><th>policy<th>bits a day<th>strict F1<th>loose F1 over chance<th>appliances found<th>hour R2<th>linear R2<th>loss %<th>cost<th>cycles a day<th>exposed min a day</tr>\n")
	for _, m := range p.Means {
		name := m.Policy
		if m.Stop > 0 {
			name = fmt.Sprintf("%s, stop %d", m.Policy, m.Stop)
		}
		f := m.Mean
		fmt.Fprintf(b, "<tr><td>%s<td>%.1f<td>%.3f<td>%.3f<td>%.3f<td>%.3f<td>%.3f<td>%.1f<td>%.2f<td>%.2f<td>%.0f</tr>\n", html.EscapeString(name), f.Bits, f.Strict, f.Loose, f.Recall, f.Hour, f.Lin, f.Loss, f.Cost, f.EFC, f.Exposed)
	}
	fmt.Fprintf(b, "</table>\n%s", CostChart(p.Means, p.Capacity, p.Power))
}

func (p *Page) writeEV(b *strings.Builder) {
	b.WriteString("<h2>A car at night</h2>\n<p>How often a detector is right about which of two days had a car (0.50: it knows nothing); in brackets against a heater that took the same energy.</p>\n<table><tr><th>charging<th>policy")
	writeDetectors(b)
	ch := chart{title: "plateau detector: days with a car that it finds", x: "share of days without a car that it takes for one", y: "share of days with a car"}
	for _, e := range p.EV {
		fmt.Fprintf(b, "<tr><td>%s<td>%s", html.EscapeString(string(e.Charging)), e.Policy)
		for i, c := range e.Curves {
			fmt.Fprintf(b, "<td>%.2f (%.2f)", c.AUC, e.Null[i])
		}
		b.WriteString("</tr>\n")
		ch.series = append(ch.series, detection(string(e.Charging)+", "+e.Policy, e.Curves[0]))
	}
	fmt.Fprintf(b, "</table>\n%s", ch.svg())
}

// writeDetectors ends a table's head.
func writeDetectors(b *strings.Builder) {
	for _, d := range score.Detectors {
		fmt.Fprintf(b, "<th>%s", html.EscapeString(d))
	}
	b.WriteString("</tr>\n")
}

// detection is a detector's curve, as a line of a chart.
func detection(name string, c score.Curve) series {
	s := series{name: name, line: true}
	for i := range c.True {
		s.points = append(s.points, at(c.False[i], c.True[i]))
	}
	return s
}

func (p *Page) writeAmounts(b *strings.Builder) {
	b.WriteString("<h2>How much a resident car takes (experimental)</h2>\n<p>The car is plugged in every night, behind veil, and was driven on half of the days. With slack in its own battery it charges amounts that tell little of the day. " +
		"The table says how often a detector is right about which of two days it was driven on. What this cannot hide: that there is a car, a charge larger than the slack, a guest's car, energy over weeks, absences.</p>\n" +
		"<table><tr><th>slack, in usual sessions<th>bits a night, at the least")
	writeDetectors(b)
	last := len(score.Detectors) - 1
	ch := chart{title: score.Detectors[last] + " detector: driven days that it finds", x: "share of other days that it takes for driven ones", y: "share of driven days"}
	for _, a := range p.Amounts {
		fmt.Fprintf(b, "<tr><td>%g<td>%.2f", a.Slack, a.Bits)
		for _, c := range a.Curves {
			fmt.Fprintf(b, "<td>%.2f", c.AUC)
		}
		b.WriteString("</tr>\n")
		ch.series = append(ch.series, detection(fmt.Sprintf("slack %g", a.Slack), a.Curves[last]))
	}
	fmt.Fprintf(b, "</table>\n%s", ch.svg())
}
