// Package replay reads household load from CSV files and plays it as a meter.
//
// A file has a header and rows `time,load_w[,*_w]`: local time without zone in
// ISO 8601, household power in watts (import positive), further columns of
// appliances. Load checks the whole file before anything is played and names
// line and column of the first mistake. The zone is stated by the caller; the
// hour that a clock change repeats is told by row order.
//
// A row's power holds until the next row. Where rows are missing nothing is
// invented: the trace has no power there and the meter says nothing.
package replay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"gridveil/node/meter"
	"gridveil/node/model"
)

// Limits of a file.
const (
	maxLine    = 4 << 10
	maxRows    = 2_000_000 // almost four years of minutes
	maxColumns = 64
	maxGap     = 3             // a distance above this many steps is a gap
	maxPowerMW = 1_000_000_000 // 1 MW: above is a wrong unit
)

// ErrInvalid is wrapped by every ParseError.
var ErrInvalid = errors.New("replay: invalid file")

// ParseError says where a file is wrong.
type ParseError struct {
	Name         string
	Line, Column int // from 1
	Text         string
}

// Error is name:line:column: text.
func (e *ParseError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.Name, e.Line, e.Column, e.Text)
}

// Unwrap gives ErrInvalid.
func (e *ParseError) Unwrap() error { return ErrInvalid }

// Trace is a loaded file. It is immutable.
type Trace struct {
	Columns []string      // "load_w" first
	Step    time.Duration // the commonest distance of rows
	times   []int64       // UTC ms, ascending
	power   [][]int64     // per column, mW
}

// Load reads a CSV file; name is used in errors only.
func Load(r io.Reader, name string, zone *time.Location) (*Trace, error) {
	if zone == nil {
		zone = time.UTC
	}
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, maxLine), maxLine)
	p := parser{name: name, zone: zone, t: &Trace{}}
	for in.Scan() {
		p.line++
		if err := p.take(strings.TrimSuffix(in.Text(), "\r")); err != nil {
			return nil, err
		}
	}
	if err := in.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			p.line++
			return nil, p.fail(1, "line longer than %d bytes", maxLine)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(p.t.times) < 2 {
		p.line++
		return nil, p.fail(1, "want a header and at least two rows")
	}
	p.t.Step = p.t.commonStep()
	return p.t, nil
}

type parser struct {
	name string
	zone *time.Location
	line int
	t    *Trace
}

func (p *parser) fail(column int, format string, args ...any) error {
	return &ParseError{Name: p.name, Line: p.line, Column: column, Text: fmt.Sprintf(format, args...)}
}

func (p *parser) take(line string) error {
	if p.line == 1 {
		return p.header(strings.TrimPrefix(line, "\ufeff"))
	}
	if line == "" {
		return nil
	}
	if len(p.t.times) == maxRows {
		return p.fail(1, "more than %d rows", maxRows)
	}
	fields := strings.Split(line, ",")
	if len(fields) != len(p.t.Columns)+1 {
		return p.fail(len(line)+1, "row has %d fields, the header %d", len(fields), len(p.t.Columns)+1)
	}
	at, err := p.time(fields[0])
	if err != nil {
		return err
	}
	p.t.times = append(p.t.times, at)
	column := len(fields[0]) + 2
	for i, text := range fields[1:] {
		mw, ok := milliwatts(text)
		if !ok {
			return p.fail(column, "%s: want watts such as 230 or -12.5, got %q", p.t.Columns[i], clip(text))
		}
		p.t.power[i] = append(p.t.power[i], mw)
		column += len(text) + 1
	}
	return nil
}

func (p *parser) header(line string) error {
	fields := strings.Split(line, ",")
	if len(fields) < 2 || fields[0] != "time" || fields[1] != "load_w" {
		return p.fail(1, "want a header that starts with time,load_w")
	}
	if len(fields) > maxColumns {
		return p.fail(1, "%d columns, limit %d", len(fields), maxColumns)
	}
	column := len("time") + 2
	for _, f := range fields[1:] {
		if !strings.HasSuffix(f, "_w") {
			return p.fail(column, "column %q: names end in _w", clip(f))
		}
		column += len(f) + 1
	}
	p.t.Columns = fields[1:]
	p.t.power = make([][]int64, len(p.t.Columns))
	return nil
}

var layouts = []string{"2006-01-02T15:04", "2006-01-02T15:04:05"}

// time reads a local time and picks the instant after the row before it; in the
// repeated hour of a clock change two instants have the same local time.
func (p *parser) time(text string) (int64, error) {
	var wall time.Time
	var err error
	for _, l := range layouts {
		if wall, err = time.Parse(l, text); err == nil {
			break
		}
	}
	if err != nil {
		return 0, p.fail(1, "want local time such as 2014-09-15T00:01, got %q", clip(text))
	}
	last := int64(-1 << 62)
	if n := len(p.t.times); n > 0 {
		last = p.t.times[n-1]
	}
	exists := false
	for _, at := range instants(wall, p.zone) {
		exists = true
		if at > last {
			return at, nil
		}
	}
	if !exists {
		return 0, p.fail(1, "%s does not exist in zone %s: clocks skip it", text, p.zone)
	}
	return 0, p.fail(1, "%s is not after the row before", text)
}

// instants lists the UTC instants (0, 1 or 2, ascending) that the zone's clocks
// show as wall.
func instants(wall time.Time, zone *time.Location) (out []int64) {
	for _, probe := range []time.Duration{-26 * time.Hour, 26 * time.Hour} { // offsets before and after any change near
		_, offset := wall.Add(probe).In(zone).Zone()
		at := wall.Add(-time.Duration(offset) * time.Second)
		shown := at.In(zone).Format(layouts[1])
		if shown == wall.Format(layouts[1]) && (len(out) == 0 || out[0] != at.UnixMilli()) {
			out = append(out, at.UnixMilli())
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

// milliwatts reads decimal watts; digits finer than 1 mW, which no meter
// resolves, are cut.
func milliwatts(text string) (int64, bool) {
	digits, negative := strings.CutPrefix(text, "-")
	whole, frac, _ := strings.Cut(digits, ".")
	if whole == "" || len(whole) > 9 || len(frac) > 9 || strings.Trim(whole+frac, "0123456789") != "" {
		return 0, false
	}
	n := int64(0)
	for _, c := range whole + (frac + "000")[:3] {
		n = n*10 + int64(c-'0')
	}
	if n > maxPowerMW {
		return 0, false
	}
	if negative {
		n = -n
	}
	return n, true
}

func clip(s string) string {
	if len(s) > 24 {
		return s[:24] + "..."
	}
	return s
}

func (t *Trace) commonStep() time.Duration {
	count := map[int64]int{}
	best := t.times[1] - t.times[0]
	for i := 1; i < len(t.times); i++ {
		d := t.times[i] - t.times[i-1]
		if count[d]++; count[d] > count[best] || count[d] == count[best] && d < best {
			best = d
		}
	}
	return time.Duration(best) * time.Millisecond
}

// Start and End bound the trace; End is the end of the last row's power.
func (t *Trace) Start() time.Time { return time.UnixMilli(t.times[0]).UTC() }

// End is where the last row's power ends.
func (t *Trace) End() time.Time {
	return time.UnixMilli(t.times[len(t.times)-1]).UTC().Add(t.Step)
}

// Power returns the power of column (0 = household load) at an instant, mW,
// import positive; ok is false outside the trace and in gaps.
func (t *Trace) Power(column int, at time.Time) (mw int64, ok bool) {
	ms := at.UnixMilli()
	i := sort.Search(len(t.times), func(i int) bool { return t.times[i] > ms }) - 1
	if i < 0 || column < 0 || column >= len(t.power) || ms >= t.until(i) {
		return 0, false
	}
	return t.power[column][i], true
}

// until is the end of row i's power.
func (t *Trace) until(i int) int64 {
	step := t.Step.Milliseconds()
	if i+1 < len(t.times) && t.times[i+1]-t.times[i] <= maxGap*step {
		return t.times[i+1]
	}
	return t.times[i] + step
}

// Energy integrates a column from..to, mWh: imported and exported apart, and
// how much of the time the trace covers.
func (t *Trace) Energy(column int, from, to time.Time) (importMWh, exportMWh int64, covered time.Duration) {
	a, b := from.UnixMilli(), to.UnixMilli()
	i := max(sort.Search(len(t.times), func(i int) bool { return t.times[i] > a })-1, 0)
	var in, out int64 // mW x ms; 1 MW over 292 years fits
	for ; i < len(t.times) && t.times[i] < b; i++ {
		span := min(t.until(i), b) - max(t.times[i], a)
		if span <= 0 {
			continue
		}
		covered += time.Duration(span) * time.Millisecond
		if p := t.power[column][i]; p >= 0 {
			in += p * span
		} else {
			out -= p * span
		}
	}
	return in / 3_600_000, out / 3_600_000, covered
}

// Source plays a trace as a meter from Config.Begin on.
type Source struct {
	cfg    Config
	serial meter.Device
}

// Config says how a trace is played.
type Config struct {
	Trace *Trace
	Begin time.Time   // when the trace's start happens on Clock; zero = as recorded
	Clock meter.Clock // nil = wall clock
	Loop  bool        // start again at the end
}

// New makes a source of a trace.
func New(cfg Config) (*Source, error) {
	if cfg.Trace == nil {
		return nil, errors.New("replay: Trace is needed")
	}
	if cfg.Clock == nil {
		cfg.Clock = wallClock{}
	}
	if cfg.Begin.IsZero() {
		cfg.Begin = cfg.Trace.Start()
	}
	return &Source{cfg: cfg}, nil
}

// Info describes the source.
func (s *Source) Info() meter.Info {
	return meter.Info{Kind: "replay", Model: "CSV trace", Integrity: model.IntegrityNone, ShortestPeriod: s.cfg.Trace.Step,
		Simulated: true, KeepsTime: true}
}

// Run emits a frame at the end of each row until ctx ends or the trace does.
// Registers are the integral from the trace's start, so a restart continues
// with the same values.
func (s *Source) Run(ctx context.Context, emit func(meter.Frame) error) error {
	t := s.cfg.Trace
	length := t.End().Sub(t.Start())
	var base [2]int64 // mW x ms of whole rounds
	for round := time.Duration(0); ; round++ {
		shift := s.cfg.Begin.Add(round * length).Sub(t.Start())
		total := base
		for i := range t.times {
			end := t.until(i)
			p := t.power[0][i] * (end - t.times[i])
			total[0] += max(p, 0)
			total[1] += max(-p, 0)
			at := time.UnixMilli(end).Add(shift)
			now := s.cfg.Clock.Now()
			if at.Before(now.Add(-t.Step)) {
				continue // before we were started
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-s.cfg.Clock.After(at.Sub(now)):
			}
			if err := emit(s.frame(at, t.power[0][i], total)); err != nil {
				return err
			}
		}
		base = total
		if !s.cfg.Loop {
			<-ctx.Done() // the trace is over, the meter is silent
			return ctx.Err()
		}
	}
}

func (s *Source) frame(at time.Time, mw int64, total [2]int64) meter.Frame {
	return meter.Frame{At: at.UnixMilli(), MeterTime: at.UnixMilli(), Firmware: "replay", Values: []meter.Value{
		{Channel: model.ImportTotal, N: total[0] / 3_600_000}, {Channel: model.ExportTotal, N: total[1] / 3_600_000},
		{Channel: model.PowerImport, N: max(mw, 0)}, {Channel: model.PowerExport, N: max(-mw, 0)},
	}}
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
