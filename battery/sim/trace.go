package sim

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// MaxRows bounds a trace file.
const MaxRows = 10_000_000

// maxGap is how much missing time is held over and counted.
const maxGap = 5 * time.Minute

// Trace is a household's recorded load.
type Trace struct {
	Start      time.Time // local time of the first sample, as UTC
	Step       time.Duration
	Load       []float64
	Meter, SoC []float64 // when the file has them
	Names      []string
	Appliances [][]float64
	Held       int // samples that were held over gaps
}

// at is the time of a sample.
func (t Trace) at(i int) time.Time { return t.Start.Add(time.Duration(i) * t.Step) }

func (t Trace) from(i int) Trace {
	out := t
	out.Start = t.at(i)
	out.Load = t.Load[i:]
	out.Meter, out.SoC = nil, nil
	out.Appliances = nil
	for _, a := range t.Appliances {
		out.Appliances = append(out.Appliances, a[i:])
	}
	return out
}

// Read parses `time,load_w[,meter_w,soc_wh][,<name>_w…]`. Steps are even; a gap
// of at most five minutes is held. Errors name line and column.
func Read(r io.Reader) (Trace, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 64<<10)
	if !sc.Scan() {
		return Trace{}, fmt.Errorf("line 1: empty file, want a header time,load_w,…")
	}
	head := strings.Split(strings.TrimSpace(sc.Text()), ",")
	var t Trace
	if len(head) < 2 || head[0] != "time" || head[1] != "load_w" {
		return t, fmt.Errorf("line 1: header starts %q, want time,load_w", strings.Join(head[:min(2, len(head))], ","))
	}
	for col, name := range head[2:] {
		if name != "soc_wh" && !strings.HasSuffix(name, "_w") {
			return t, fmt.Errorf("line 1, column %d: unknown column %q, want meter_w, soc_wh or <appliance>_w", col+3, name)
		}
	}
	columns := make([][]float64, len(head)-1)
	var last time.Time
	for line := 2; sc.Scan(); line++ {
		if line > MaxRows {
			return t, fmt.Errorf("line %d: more than %d rows", line, MaxRows)
		}
		at, row, err := parseRow(sc.Text(), len(head))
		if err != nil {
			return t, fmt.Errorf("line %d, %w", line, err)
		}
		if err := t.place(at, last, line); err != nil {
			return t, err
		}
		for held := last.Add(t.Step); line > 3 && held.Before(at); held = held.Add(t.Step) {
			t.Held++
			for c := range columns {
				columns[c] = append(columns[c], columns[c][len(columns[c])-1])
			}
		}
		for c, v := range row {
			columns[c] = append(columns[c], v)
		}
		last = at
	}
	if err := sc.Err(); err != nil {
		return t, fmt.Errorf("read trace: %w", err)
	}
	t.assign(head[1:], columns)
	if len(t.Load) < 2 {
		return t, fmt.Errorf("%d rows: too few to tell the step", len(t.Load))
	}
	return t, nil
}

// place checks the time of a row against the grid of the first two.
func (t *Trace) place(at, last time.Time, line int) error {
	switch line {
	case 2:
		t.Start = at
		return nil
	case 3:
		if t.Step = at.Sub(last); t.Step <= 0 || t.Step > time.Hour {
			return fmt.Errorf("line 3, column 1: step of %v, want above 0 and at most an hour", t.Step)
		}
		return nil
	}
	gap := at.Sub(last)
	if gap <= 0 || gap%t.Step != 0 {
		return fmt.Errorf("line %d, column 1: %v after the row before, want a multiple of %v", line, gap, t.Step)
	}
	if gap > t.Step && gap > maxGap+t.Step {
		return fmt.Errorf("line %d, column 1: gap of %v, longer than %v; cut the file there", line, gap, maxGap)
	}
	return nil
}

func (t *Trace) assign(names []string, columns [][]float64) {
	for i, name := range names {
		switch name {
		case "load_w":
			t.Load = columns[i]
		case "meter_w":
			t.Meter = columns[i]
		case "soc_wh":
			t.SoC = columns[i]
		default:
			t.Names = append(t.Names, name)
			t.Appliances = append(t.Appliances, columns[i])
		}
	}
}

func parseRow(text string, width int) (time.Time, []float64, error) {
	cells := strings.Split(strings.TrimSpace(text), ",")
	if len(cells) != width {
		return time.Time{}, nil, fmt.Errorf("column %d: %d columns, header has %d", len(cells), len(cells), width)
	}
	at, err := time.Parse("2006-01-02T15:04:05", pad(cells[0]))
	if err != nil {
		return time.Time{}, nil, fmt.Errorf("column 1: time %q is not ISO 8601 without zone", cells[0])
	}
	row := make([]float64, width-1)
	for i, c := range cells[1:] {
		v, err := strconv.ParseFloat(c, 64)
		if err != nil || v != v || v < -1e9 || v > 1e9 {
			return time.Time{}, nil, fmt.Errorf("column %d: %q is not a number", i+2, c)
		}
		row[i] = v
	}
	return at, row, nil
}

func pad(s string) string {
	if len(s) == len("2006-01-02T15:04") {
		return s + ":00"
	}
	return s
}

// Write writes a run in the same format: what a scorer needs and no more.
func (r *Run) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprint(b, "time,load_w,meter_w,soc_wh")
	for _, n := range r.Names {
		fmt.Fprint(b, ",", n)
	}
	fmt.Fprintln(b)
	for i, x := range r.Load {
		at := r.at(i)
		fmt.Fprintf(b, "%s,%g,%.3f,%.3f", at.Format("2006-01-02T15:04:05"), x, r.Meter[i], r.SoC[i])
		for _, a := range r.Appliances {
			fmt.Fprintf(b, ",%g", a[i])
		}
		fmt.Fprintln(b)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write trace: %w", err)
	}
	return nil
}
