package plant

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Trace replays a household's measured load, round and round from its first
// midnight, shifted by whole days.
type Trace struct {
	watts []float64 // per minute
	shift int       // minutes
}

// MaxTraceRows bounds a trace file: nineteen years of minutes.
const MaxTraceRows = 10_000_000

// Watts is the traced power in the minute that starts at t.
func (tr *Trace) Watts(t time.Time) float64 {
	n := int64(len(tr.watts))
	i := (t.Unix()/60 + int64(tr.shift)) % n
	return tr.watts[i]
}

// Traces makes one load per home from every home_*.csv of dir. With fewer files
// than homes a file serves several, each a day later than the one before.
func Traces(dir string, homes int) ([]Load, error) {
	files, err := filepath.Glob(filepath.Join(dir, "home_*.csv"))
	if err != nil {
		return nil, fmt.Errorf("list traces in %s: %w", dir, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no home_*.csv in %s: each is one home, with columns time,load_w", dir)
	}
	sort.Strings(files)
	parsed := make([][]float64, min(len(files), homes))
	for i := range parsed {
		if parsed[i], err = readTrace(files[i]); err != nil {
			return nil, err
		}
	}
	loads := make([]Load, homes)
	for i := range loads {
		loads[i] = &Trace{watts: parsed[i%len(parsed)], shift: i / len(parsed) * minutesPerDay}
	}
	return loads, nil
}

// readTrace gives whole days of minute values. Steps from one minute to an hour
// are held; a gap keeps the last value.
func readTrace(path string) ([]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open trace: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	if !sc.Scan() {
		return nil, fmt.Errorf("%s:1: empty file, want the header time,load_w", path)
	}
	timeCol, loadCol := columns(sc.Text())
	if timeCol < 0 || loadCol < 0 {
		return nil, fmt.Errorf("%s:1: header %q lacks time or load_w", path, sc.Text())
	}
	var out []float64
	var first, prev time.Time
	for line := 2; sc.Scan(); line++ {
		at, w, err := traceRow(sc.Text(), timeCol, loadCol)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, line, err)
		}
		if first.IsZero() {
			first, prev = at, at
		}
		if !at.After(prev) && line > 2 {
			return nil, fmt.Errorf("%s:%d: time %s is not after the row before", path, line, at.Format("2006-01-02T15:04"))
		}
		for int(at.Sub(first)/time.Minute) > len(out) && len(out) > 0 && len(out) < MaxTraceRows {
			out = append(out, out[len(out)-1])
		}
		if len(out) >= MaxTraceRows {
			return nil, fmt.Errorf("%s:%d: more than %d minutes", path, line, MaxTraceRows)
		}
		out = append(out, w)
		prev = at
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return wholeDays(path, out, first)
}

// wholeDays cuts to full days and turns the series so that it starts at midnight.
func wholeDays(path string, w []float64, first time.Time) ([]float64, error) {
	n := len(w) / minutesPerDay * minutesPerDay
	if n == 0 {
		return nil, fmt.Errorf("%s: %d minutes are less than one day", path, len(w))
	}
	w = w[:n]
	start := first.Hour()*60 + first.Minute()
	out := make([]float64, n)
	for i := range w {
		out[(i+start)%n] = w[i]
	}
	return out, nil
}

func columns(header string) (timeCol, loadCol int) {
	timeCol, loadCol = -1, -1
	for i, name := range strings.Split(strings.TrimSpace(header), ",") {
		switch strings.TrimSpace(name) {
		case "time":
			timeCol = i
		case "load_w":
			loadCol = i
		}
	}
	return timeCol, loadCol
}

func traceRow(text string, timeCol, loadCol int) (time.Time, float64, error) {
	cells := strings.Split(strings.TrimSpace(text), ",")
	if len(cells) <= max(timeCol, loadCol) {
		return time.Time{}, 0, fmt.Errorf("%d columns, want at least %d", len(cells), max(timeCol, loadCol)+1)
	}
	at, err := parseLocal(cells[timeCol])
	if err != nil {
		return time.Time{}, 0, err
	}
	w, err := strconv.ParseFloat(cells[loadCol], 64)
	if err != nil || w != w || w < -1e6 || w > 1e6 {
		return time.Time{}, 0, fmt.Errorf("load_w %q is not a power in watts", cells[loadCol])
	}
	return at, max(0, w), nil
}

func parseLocal(s string) (time.Time, error) {
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04"} {
		if at, err := time.Parse(layout, s); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("time %q is not ISO 8601 without zone", s)
}
