package node

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gridveil/battery"
	"gridveil/battery/sim"
)

// BatteryGrid compares policies over recorded homes; the results stand in Out.
type BatteryGrid struct {
	Traces, Out string // folders
	Policies    []string
	Stops       []int
	Capacities  []float64 // Wh
	Powers      []float64 // W
	Seeds       int
	Seed        uint64 // the first
	Learn       int
	// Told is called before each home and for each file that is no recording.
	Told func(format string, args ...any)
}

func (b BatteryGrid) grid() sim.Grid {
	g := sim.Grid{Policies: b.Policies, Stops: b.Stops, Seeds: b.Seeds, First: b.Seed, Learn: b.Learn}
	for _, c := range b.Capacities {
		g.Capacities = append(g.Capacities, battery.WattHours(c))
	}
	for _, w := range b.Powers {
		g.Powers = append(g.Powers, battery.Watts(w))
	}
	return g
}

// homes reads every recording of the folder, by name.
func (b BatteryGrid) homes() ([]sim.Home, error) {
	files, err := filepath.Glob(filepath.Join(b.Traces, "*.csv"))
	if err != nil {
		return nil, err
	}
	var out []sim.Home
	for _, path := range files {
		tr, err := readTrace(path)
		if err != nil {
			b.Told("left out: %v", err)
			continue
		}
		out = append(out, sim.Home{Name: strings.TrimSuffix(filepath.Base(path), ".csv"), Trace: tr})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no recorded household in %s\nnext: put CSV files with the columns time,load_w there", b.Traces)
	}
	return out, nil
}

// rows makes the runs, or takes them from the file of an earlier call.
func (b BatteryGrid) rows(ctx context.Context, homes []sim.Home, file string) ([]sim.Row, error) {
	if b.Seeds < 1 || len(b.Capacities) == 0 || len(b.Powers) == 0 || len(b.Policies) == 0 || len(b.Stops) == 0 {
		return nil, errors.New("nothing to compare: want a policy, a stop, a capacity, a power and a seed at least")
	}
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of results: %w", err)
	}
	path := filepath.Join(b.Out, file)
	done, err := earlier(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return nil, fmt.Errorf("write results: %w", err)
	}
	defer f.Close()
	w := csv.NewWriter(f)
	write := func(cells []string) error {
		if err := w.Write(cells); err != nil {
			return err
		}
		w.Flush()
		return w.Error()
	}
	if err := write(sim.RowHeader()); err != nil {
		return nil, err
	}
	kept := make(map[sim.Case]sim.Row, len(done))
	for _, r := range done { // what is there already survives a second interruption
		kept[r.Case] = r
		if err := write(r.Cells()); err != nil {
			return nil, err
		}
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, fmt.Errorf("write results: %w", err)
	}
	last := ""
	rows, err := b.grid().Run(ctx, homes, kept, func(r sim.Row) error {
		if r.Home != last {
			b.Told("%s: %d runs are done", r.Home, len(kept))
			last = r.Home
		}
		kept[r.Case] = r
		return write(r.Cells())
	})
	if err != nil {
		return nil, err
	}
	return rows, b.write(file, func(w io.Writer) error { return writeRows(w, rows) })
}

// earlier reads the rows of an interrupted call.
func earlier(path string) ([]sim.Row, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("go on with earlier results: %w", err)
	}
	defer f.Close()
	rows, err := sim.ReadRows(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w\nnext: move it away, or choose another folder with --out", path, err)
	}
	return rows, nil
}

func writeRows(w io.Writer, rows []sim.Row) error {
	c := csv.NewWriter(w)
	if err := c.Write(sim.RowHeader()); err != nil {
		return err
	}
	for _, r := range rows {
		if err := c.Write(r.Cells()); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

func (b BatteryGrid) write(name string, fill func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(b.Out, name))
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	err = fill(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Pareto runs the grid and writes pareto.csv, pareto.md, cost.svg and capacity.svg. The
// charts are of the capacity and the power in the middle of those asked for. Equal
// seeds give equal bytes.
func (b BatteryGrid) Pareto(ctx context.Context) ([]sim.Mean, error) {
	homes, err := b.homes()
	if err != nil {
		return nil, err
	}
	rows, err := b.rows(ctx, homes, "pareto.csv")
	if err != nil {
		return nil, err
	}
	g := b.grid()
	floors, err := g.Floors(ctx, homes)
	if err != nil {
		return nil, err
	}
	means := sim.Means(rows)
	c, w := g.Capacities[len(g.Capacities)/2], g.Powers[(len(g.Powers)-1)/2]
	for name, text := range map[string]string{"cost.svg": sim.CostChart(means, c, w), "capacity.svg": sim.CapacityChart(means, w, floors)} {
		if err := b.write(name, func(w io.Writer) error { _, err := io.WriteString(w, text); return err }); err != nil {
			return nil, err
		}
	}
	return means, b.write("pareto.md", func(w io.Writer) error { return sim.WriteMeans(w, means) })
}

// BatteryStudy is what Study found.
type BatteryStudy struct {
	Means  []sim.Mean                      `json:"means"`
	Models map[string]map[string]sim.Rates `json:"models"` // by yardstick and home, bits per day
}

// Study runs the grid, rates the policies on models of the homes, and writes study.csv
// and study.md. What an earlier call left in study.csv is not run again.
func (b BatteryGrid) Study(ctx context.Context) (*BatteryStudy, error) {
	homes, err := b.homes()
	if err != nil {
		return nil, err
	}
	rows, err := b.rows(ctx, homes, "study.csv")
	if err != nil {
		return nil, err
	}
	out := &BatteryStudy{Means: sim.Means(rows), Models: map[string]map[string]sim.Rates{}}
	for _, y := range sim.Yardsticks() {
		b.Told("models of %s", y.Name)
		out.Models[y.Name] = map[string]sim.Rates{}
		for _, h := range homes {
			r, err := y.Rate(ctx, h.Trace)
			if err != nil {
				b.Told("left out: %s on %s: %v", h.Name, y.Name, err)
				continue
			}
			out.Models[y.Name][h.Name] = r
		}
	}
	return out, b.write("study.md", out.Write)
}

// Write writes the study as tables of Markdown.
func (s *BatteryStudy) Write(w io.Writer) error {
	if err := sim.WriteMeans(w, s.Means); err != nil {
		return err
	}
	return sim.WriteRates(w, s.Models)
}

// WriteBatteryMeans writes means as tables of Markdown.
func WriteBatteryMeans(w io.Writer, means []sim.Mean) error { return sim.WriteMeans(w, means) }

// BatteryReport writes one HTML file on one recorded home.
type BatteryReport struct {
	In, Sessions, Out string // Sessions may be empty: made ones
	Capacity, Power   float64
	Learn             int
	Seed              uint64
}

// Run makes the report.
func (b BatteryReport) Run(ctx context.Context) (*sim.Page, error) {
	tr, err := readTrace(b.In)
	if err != nil {
		return nil, err
	}
	visits := sim.MadeVisits(200, b.Seed)
	if b.Sessions != "" {
		f, err := os.Open(b.Sessions)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if visits, err = sim.ReadVisits(f); err != nil {
			return nil, fmt.Errorf("%s: %w", b.Sessions, err)
		}
	}
	g := sim.Grid{Policies: battery.Policies, Stops: []int{0, 1, 2, 3, 4}, Capacities: []battery.WattHours{battery.WattHours(b.Capacity)},
		Powers: []battery.Watts{battery.Watts(b.Power)}, Seeds: 1, First: b.Seed, Learn: b.Learn}
	p, err := sim.Report(ctx, sim.Home{Name: strings.TrimSuffix(filepath.Base(b.In), ".csv"), Trace: tr}, g, visits)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.In, err)
	}
	if err := os.WriteFile(b.Out, []byte(p.HTML()), 0o644); err != nil {
		return nil, fmt.Errorf("write the report: %w", err)
	}
	return p, nil
}
