package sim

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"strconv"

	"gridveil/battery"
	"gridveil/battery/score"
)

// Home is a recording with the name that tables call it by.
type Home struct {
	Name string
	Trace
}

// Grid is which runs a comparison is made of.
type Grid struct {
	Policies   []string
	Stops      []int // of veil's dial
	Capacities []battery.WattHours
	Powers     []battery.Watts
	Seeds      int // of random policies, from First on; others run once
	First      uint64
	Learn      int
}

// Case is one run.
type Case struct {
	Home, Policy string
	Stop         int
	Capacity     battery.WattHours
	Power        battery.Watts
	Seed         uint64
}

// Row is a run with what it scored.
type Row struct {
	Case
	Bound   float64 // bits per day, 0 without a kernel
	Exposed float64 // minutes a day
	score.Result
}

// steady are the policies that draw nothing.
var steady = map[string]bool{"none": true, "hold": true, "nill": true, "ls1": true, "lc": true, "lyapunov0": true, "lyapunov8": true}

// cases lists the runs for a home, those that share a kernel side by side.
func (g Grid) cases(home string) []Case {
	var out []Case
	for _, c := range g.Capacities {
		for _, p := range g.Policies {
			stops := []int{0}
			if p == "veil" {
				stops = g.Stops
			}
			seeds := g.Seeds
			if steady[p] {
				seeds = 1
			}
			for _, stop := range stops {
				for _, w := range g.Powers {
					for s := range seeds {
						out = append(out, Case{home, p, stop, c, w, g.First + uint64(s)})
					}
				}
			}
		}
	}
	return out
}

// Run makes every run of the grid that is not in done, one after the other, and gives
// each to keep as soon as it is scored, so that a broken off comparison goes on where
// it stopped. It gives all rows in the order of the grid.
func (g Grid) Run(ctx context.Context, homes []Home, done map[Case]Row, keep func(Row) error) ([]Row, error) {
	var out []Row
	for _, h := range homes {
		kernels := &Kernels{}
		for _, c := range g.cases(h.Name) {
			row, ok := done[c]
			if !ok {
				var err error
				if row, err = c.run(ctx, h, g.Learn, kernels); err != nil {
					return nil, fmt.Errorf("%s, %s, %.0f Wh: %w", h.Name, c.Policy, c.Capacity, err)
				}
				if err := keep(row); err != nil {
					return nil, err
				}
			}
			out = append(out, row)
		}
	}
	return out, nil
}

func (c Case) run(ctx context.Context, h Home, learn int, k *Kernels) (Row, error) {
	run, err := Simulate(ctx, h.Trace, Options{Policy: c.Policy, Stop: c.Stop, Capacity: c.Capacity, Power: c.Power, Learn: learn, Seed: c.Seed, Kernels: k})
	if err != nil {
		return Row{}, err
	}
	r, err := Score(run.Trace, run.Meter, run.SoC, c.Capacity)
	days := float64(len(run.Load)) * run.Step.Hours() / 24
	return Row{c, run.Report.BoundBits, run.Report.ExposedMins / days, r}, err
}

var caseColumns = []string{"home", "policy", "stop", "cap_wh", "power_w", "seed", "bound_bits_day", "exposed_min_day"}

// scoreColumns are the published names, in the order of values.
var scoreColumns = []string{"mi_level_x", "mi_diff_x", "bits_day", "edge_f1", "edge_loose_f1", "edge_f1_chance", "edge_loose_chance",
	"app_recall", "hour_r2", "lin_r2", "hour_mi_x", "day_corr", "loss_pct", "cost_ratio", "efc_day"}

func (r *Row) values() []*float64 {
	return []*float64{&r.MILevel, &r.MIDiff, &r.BitsDay, &r.EdgeF1, &r.EdgeLoose, &r.EdgeChance, &r.LooseChance,
		&r.AppRecall, &r.HourR2, &r.LinR2, &r.HourMI, &r.DayCorr, &r.LossPct, &r.CostRatio, &r.EFCDay}
}

// RowHeader is the first line of a file of rows.
func RowHeader() []string { return append(append([]string(nil), caseColumns...), scoreColumns...) }

// Cells are the row's columns, with eight digits.
func (r Row) Cells() []string {
	f := func(v float64) string { return strconv.FormatFloat(v, 'g', 8, 64) }
	out := []string{r.Home, r.Policy, strconv.Itoa(r.Stop), f(float64(r.Capacity)), f(float64(r.Power)), strconv.FormatUint(r.Seed, 10), f(r.Bound), f(r.Exposed)}
	for _, v := range r.values() {
		out = append(out, f(*v))
	}
	return out
}

// ErrRows is wrapped by ReadRows.
var ErrRows = errors.New("no table of runs")

// ReadRows reads a file of rows; a last line that was cut off is left out.
func ReadRows(r io.Reader) ([]Row, error) {
	in := csv.NewReader(bufio.NewReader(r))
	in.FieldsPerRecord = -1
	head, err := in.Read()
	if err != nil || len(head) != len(RowHeader()) {
		return nil, fmt.Errorf("%w: line 1 has not the %d columns of one", ErrRows, len(RowHeader()))
	}
	for i, want := range RowHeader() {
		if head[i] != want {
			return nil, fmt.Errorf("%w: line 1, column %d is %q, want %q", ErrRows, i+1, head[i], want)
		}
	}
	var out []Row
	for line := 2; ; line++ {
		cells, err := in.Read()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRows, err)
		}
		row, err := parseCells(cells)
		if err != nil {
			if _, end := in.Read(); end == io.EOF {
				return out, nil
			}
			return nil, fmt.Errorf("%w: line %d: %w", ErrRows, line, err)
		}
		out = append(out, row)
	}
}

func parseCells(cells []string) (Row, error) {
	if len(cells) != len(RowHeader()) {
		return Row{}, fmt.Errorf("%d columns, want %d", len(cells), len(RowHeader()))
	}
	r := Row{Case: Case{Home: cells[0], Policy: cells[1]}}
	var err error
	if r.Stop, err = strconv.Atoi(cells[2]); err != nil {
		return r, err
	}
	if r.Seed, err = strconv.ParseUint(cells[5], 10, 64); err != nil {
		return r, err
	}
	into := append([]*float64{(*float64)(&r.Capacity), (*float64)(&r.Power), nil, &r.Bound, &r.Exposed}, r.values()...)
	for i, to := range into {
		if to == nil {
			continue
		}
		if *to, err = strconv.ParseFloat(cells[3+i], 64); err != nil {
			return r, err
		}
	}
	return r, nil
}

// Mean is what a setting scored over homes: the figures of the published tables.
type Mean struct {
	Policy   string            `json:"policy"`
	Stop     int               `json:"stop"`
	Capacity battery.WattHours `json:"cap_wh"`
	Power    battery.Watts     `json:"power_w"`
	Homes    int               `json:"homes"`
	// Mean over homes of the means over seeds, the least and greatest home, and the
	// greatest mean when one home is left out.
	Mean  Figures `json:"mean"`
	Least Figures `json:"least"`
	Most  Figures `json:"most"`
	Worst Figures `json:"worst_without_one"`
}

// Figures are those of the published tables; R2 below 0 counts as 0.
type Figures struct {
	Bits    float64 `json:"bits_day"`
	Strict  float64 `json:"edge_f1"`
	Loose   float64 `json:"edge_loose_over_chance"`
	Recall  float64 `json:"app_recall"`
	Hour    float64 `json:"hour_r2"`
	Lin     float64 `json:"lin_r2"`
	Loss    float64 `json:"loss_pct"`
	Cost    float64 `json:"cost_ratio"`
	EFC     float64 `json:"efc_day"`
	Bound   float64 `json:"bound_bits_day"`
	Exposed float64 `json:"exposed_min_day"`
}

func (f *Figures) list() []*float64 {
	return []*float64{&f.Bits, &f.Strict, &f.Loose, &f.Recall, &f.Hour, &f.Lin, &f.Loss, &f.Cost, &f.EFC, &f.Bound, &f.Exposed}
}

func (r Row) figures() Figures {
	return Figures{r.BitsDay, r.EdgeF1, r.EdgeLoose - r.LooseChance, r.AppRecall, math.Max(0, r.HourR2), math.Max(0, r.LinR2), r.LossPct, r.CostRatio, r.EFCDay, r.Bound, r.Exposed}
}

// Means sums rows up by policy, stop, capacity and power, in the order of the rows.
func Means(rows []Row) []Mean {
	type setting struct {
		policy   string
		stop     int
		capacity battery.WattHours
		power    battery.Watts
	}
	var order []setting
	homes := map[setting]map[string][]Figures{}
	for _, r := range rows {
		s := setting{r.Policy, r.Stop, r.Capacity, r.Power}
		if homes[s] == nil {
			homes[s] = map[string][]Figures{}
			order = append(order, s)
		}
		homes[s][r.Home] = append(homes[s][r.Home], r.figures())
	}
	var out []Mean
	for _, s := range order {
		var names []string
		for n := range homes[s] {
			names = append(names, n)
		}
		sort.Strings(names)
		var each []Figures
		for _, n := range names {
			each = append(each, meanOf(homes[s][n]))
		}
		m := Mean{Policy: s.policy, Stop: s.stop, Capacity: s.capacity, Power: s.power, Homes: len(each), Mean: meanOf(each)}
		m.Least, m.Most, m.Worst = each[0], each[0], m.Mean
		for i, f := range each {
			fold(&m.Least, f, math.Min)
			fold(&m.Most, f, math.Max)
			if len(each) > 1 {
				rest := append(append([]Figures(nil), each[:i]...), each[i+1:]...)
				fold(&m.Worst, meanOf(rest), math.Max)
			}
		}
		out = append(out, m)
	}
	return out
}

func meanOf(all []Figures) (m Figures) {
	for _, f := range all {
		for i, v := range f.list() {
			*m.list()[i] += *v / float64(len(all))
		}
	}
	return m
}

func fold(into *Figures, f Figures, by func(a, b float64) float64) {
	for i, v := range f.list() {
		to := into.list()[i]
		*to = by(*to, *v)
	}
}

// WriteMeans writes the means as a table of Markdown, one for each battery.
func WriteMeans(w io.Writer, means []Mean) error {
	b := bufio.NewWriter(w)
	type size struct {
		c battery.WattHours
		p battery.Watts
	}
	var order []size
	by := map[size][]Mean{}
	for _, m := range means {
		s := size{m.Capacity, m.Power}
		if by[s] == nil {
			order = append(order, s)
		}
		by[s] = append(by[s], m)
	}
	for _, s := range order {
		fmt.Fprintf(b, "%g kWh, %g kW, %d homes\n\n", float64(s.c)/1000, float64(s.p)/1000, by[s][0].Homes)
		fmt.Fprintln(b, "| policy | bits_day | strict F1 | loose-chance | app_recall | hour R2+ | lin R2+ | loss % | cost | efc_day | U | exposed min |")
		fmt.Fprintln(b, "|---|---|---|---|---|---|---|---|---|---|---|---|")
		for _, m := range by[s] {
			name := m.Policy
			if m.Stop > 0 {
				name += " stop " + strconv.Itoa(m.Stop)
			}
			f := m.Mean
			bound := "-"
			if f.Bound > 0 {
				bound = fmt.Sprintf("%.2f", f.Bound)
			}
			fmt.Fprintf(b, "| %s | %.1f | %.3f | %.3f | %.3f | %.3f | %.3f | %.1f | %.2f | %.2f | %s | %.0f |\n", name, f.Bits, f.Strict, f.Loose, f.Recall, f.Hour, f.Lin, f.Loss, f.Cost, f.EFC, bound, f.Exposed)
		}
		fmt.Fprintln(b)
	}
	return b.Flush()
}
