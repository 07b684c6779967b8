package web

import (
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"
)

// funcs are the templates' helpers: formatting only.
func (s *Server) funcs() template.FuncMap {
	return template.FuncMap{
		"asset":  s.asset,
		"kwh":    func(v float64) string { return fmt.Sprintf("%.2f", v) },
		"kwh3":   kwh,
		"watts":  watts,
		"clock":  func(t time.Time) string { return t.UTC().Format("15:04") },
		"clocks": func(t time.Time) string { return t.UTC().Format("15:04:05") },
		"date":   func(t time.Time) string { return t.UTC().Format("2 Jan 2006 15:04") },
		"iso":    func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"zero":   func(t time.Time) bool { return t.IsZero() },
		"bytes":  byteSize,
		"series": series,
		"curve":  curve,
		"bits":   func(v float64) string { return fmt.Sprintf("%.1f", v) },
		"ms":     milliseconds,
		"flow":   flowLine,
		"mul":    func(a, b float64) float64 { return a * b },
		"lower":  strings.ToLower,
		"until":  func(a, b uint64) bool { return a < b },
		"micro":  func(v int64) string { return fmt.Sprintf("%d", v) },
		"case":   caseWords,
		"every":  every,
		"json":   func(v any) (string, error) { b, err := json.MarshalIndent(v, "", "  "); return string(b), err },
	}
}

func watts(w float64) string {
	if math.Abs(w) >= 1000 {
		return fmt.Sprintf("%.2f kW", w/1000)
	}
	return fmt.Sprintf("%.0f W", w)
}

func byteSize(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

func milliseconds(ms int64) string {
	switch {
	case ms < 0:
		return "not yet"
	case ms < 1000:
		return fmt.Sprintf("%d ms", ms)
	case ms < 120_000:
		return fmt.Sprintf("%.1f s", float64(ms)/1000)
	}
	return fmt.Sprintf("%.0f min", float64(ms)/60_000)
}

func caseWords(c string) string {
	switch c {
	case "pv":
		return "solar only"
	case "grid":
		return "grid only"
	case "mixed":
		return "solar and grid"
	case "v2g-house":
		return "car to house"
	case "v2g-grid":
		return "car to grid"
	}
	return c
}

// series is a chart's data for chart.js: seconds, then one row a curve.
func series(t []int64, rows ...[]float64) (string, error) {
	all := []any{t}
	for _, r := range rows {
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

// flowLine is a gently bent path between two nodes of the map.
func flowLine(e Edge, nodes []Node) string {
	var a, b Node
	for _, n := range nodes {
		if n.ID == e.From {
			a = n
		}
		if n.ID == e.To {
			b = n
		}
	}
	mx, my := (a.X+b.X)/2, (a.Y+b.Y)/2
	dx, dy := b.X-a.X, b.Y-a.Y
	return fmt.Sprintf("M%.1f %.1f Q%.1f %.1f %.1f %.1f", a.X*10, a.Y*6, (mx-dy*.08)*10, (my+dx*.08)*6, b.X*10, b.Y*6)
}

// every keeps one row in n, so that a table of a day stays readable.
func every(n int, e Energy) []energyRow {
	var out []energyRow
	at := func(v []float64, i int) float64 {
		if i < len(v) {
			return v[i]
		}
		return 0
	}
	for i := 0; i < len(e.Times); i += n {
		out = append(out, energyRow{time.Unix(e.Times[i], 0), at(e.True, i), at(e.Metered, i), at(e.PV, i), at(e.Battery, i), at(e.EV, i)})
	}
	return out
}

type energyRow struct {
	At                             time.Time
	True, Metered, PV, Battery, EV float64
}
