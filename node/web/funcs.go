package web

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"gridveil/ev/guest"
)

// funcs are the templates' helpers: formatting only.
func (s *Server) funcs() template.FuncMap {
	return template.FuncMap{
		"asset":  s.asset,
		"kwh":    func(v float64) string { return fmt.Sprintf("%.2f", v) },
		"kwh3":   kwh,
		"watts":  watts,
		"day":    func(t time.Time) string { return t.UTC().Format("2 Jan 15:04") },
		"clock":  func(t time.Time) string { return t.UTC().Format("15:04") },
		"moment": func(t time.Time) string { return t.UTC().Format("2 Jan 15:04:05") },
		"clocks": func(t time.Time) string { return t.UTC().Format("15:04:05") },
		"date":   func(t time.Time) string { return t.UTC().Format("2 Jan 2006 15:04") },
		"iso":    func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"untold": untold,
		"zero":   func(t time.Time) bool { return t.IsZero() },
		"bytes":  byteSize,
		"disk":   diskWords,
		"signed": signed,
		"qr":     qrCode,
		"flowed": flowed,
		"signer": keyName,
		"charts": charts,
		"masked": func(m Mask) []chart { return charts(Energy{Times: m.Times, True: m.True, Metered: m.Metered}) },
		"pct":    func(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) },
		"bits":   func(v float64) string { return fmt.Sprintf("%.1f", v) },
		"ms":     milliseconds,
		"lower":  strings.ToLower,
		"level":  levelClass,
		"kind":   kindWord,
		"line":   EventLine,
		"micro":  func(v int64) string { return fmt.Sprintf("%d", v) },
		"count":  count,
		"fast":   func(ms int64, speed float64) string { return milliseconds(int64(float64(ms)/speed + .5)) },
		"case":   caseWords,
		"state":  stateWords,
		"every":  every,
		"zeroAt": func(list []Interval) float64 { zero, _ := zeroLine(list); return zero },
		"bars":   bars,
		"people": func(n, more int) string {
			if n+more == 1 {
				return "1 neighbour connected"
			}
			return fmt.Sprintf("%d neighbours connected", n+more)
		},
		"div":   func(a int, b float64) float64 { return float64(a) / b },
		"width": func(list []Interval) int { return max(leastBars, len(list)) * barStep },
	}
}

// keyName lets a narrow screen break the name of a signing key behind its slash.
func keyName(name string) template.HTML {
	return template.HTML(strings.ReplaceAll(template.HTMLEscapeString(name), "/", "/<wbr>"))
}

// flowed leaves out the intervals in which nothing flowed.
func flowed(list []Interval) []Interval {
	return slices.DeleteFunc(slices.Clone(list), func(i Interval) bool {
		return i.FromPV == 0 && i.FromHouse == 0 && i.FromGrid == 0 && i.ToHouse == 0 && i.ToGrid == 0
	})
}

// qrCode draws a link; the text beside it says the same.
func qrCode(link string) (template.HTML, error) {
	svg, err := guest.QRSVG(link)
	return template.HTML(svg), err // a path of squares: nothing of the link stands in it
}

func watts(w float64) string {
	if math.Abs(w) >= 1000 {
		return fmt.Sprintf("%.2f kW", w/1000)
	}
	if math.Abs(w) < .5 {
		w = 0 // not "-0 W"
	}
	return fmt.Sprintf("%.0f W", w)
}

// count groups the digits of a number by three.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:] // a narrow space that does not break
	}
	return s
}

func byteSize(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
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

// stateWords explains the states that do not explain themselves.
func stateWords(s string) string {
	switch s {
	case "signed":
		return "signed by both sides"
	case "receipted":
		return "held by the aggregator, to be paid"
	case "cut":
		return "cut off: the driver left"
	case "informational":
		return "not paid for"
	}
	return s
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
	case "v2g":
		return "out of the car"
	case "own":
		return "own car"
	case "":
		return "begun"
	}
	return c
}

// tableRows is how many rows the table beside a chart may have: a day stays
// readable, and the CSV has them all.
const tableRows = 96

// every keeps one row in so many that tableRows are not exceeded.
func every(e Energy) []energyRow {
	n := max(1, (len(e.Times)+tableRows-1)/tableRows)
	var out []energyRow
	at := func(v []float64, i int) float64 {
		if i < len(v) {
			return v[i]
		}
		return 0
	}
	for i := 0; i < len(e.Times); i += n {
		out = append(out, energyRow{time.Unix(e.Times[i], 0).UTC(), at(e.True, i), at(e.Metered, i), at(e.PV, i), at(e.Battery, i), at(e.EV, i)})
	}
	return out
}

type energyRow struct {
	At                             time.Time
	True, Metered, PV, Battery, EV float64
}

// untold is what stands in list and not already above the page.
func untold(list, above []Warning) []Warning {
	return slices.DeleteFunc(slices.Clone(list), func(w Warning) bool {
		return slices.ContainsFunc(above, func(a Warning) bool { return a.Title == w.Title && a.Text == w.Text })
	})
}
