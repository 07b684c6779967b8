// Package sim is a simulated household meter: a physical model with registers,
// voltages and a clock of its own that speaks real P1 telegrams into the real
// decoder. Its readings are marked as simulated from the frame to the screen.
//
// Two ways to drive it. A demo that knows what flows calls Step with the energy
// since the last step; a stand-alone node sets Config.Load and the meter steps
// itself by Config.Clock. Either way a frame exists only while a collector runs
// Source.Run: what nobody listens to is lost, as on a real customer port, while
// the registers keep counting.
//
// Faults (voltage loss, clock skew, failed log-ins, dead, bad frames, swap,
// reset) come from Inject or from a script in the configuration.
package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"gridveil/node/meter"
	"gridveil/node/meter/p1"
	"gridveil/node/model"
)

// Sample is what flowed since the step before and what holds now.
type Sample struct {
	ImportMWh, ExportMWh int64    // energy since the last step, mWh, not negative
	VoltageMV            [3]int64 // per phase; zero array = nominal
}

// Config describes a meter.
type Config struct {
	Serial    string // printable, appears only as a hash outside the telegram
	Ident     string // after the '/'; zero = "GVL5GRIDVEIL-SIM-1.0"
	Decimals  int    // digits after the kWh point: 3 as real meters, up to 6; zero = 3
	Phases    int    // 1 or 3; zero = 1
	ImportMWh int64  // registers at the start
	ExportMWh int64
	Zone      *time.Location       // for the telegram's local time; nil = Europe/Amsterdam
	Night     func(time.Time) bool // counts into band 1 (night); nil = 23:00 to 07:00 local
	Script    []Event
	// Load and Every drive the meter alone: the power at t, import positive, in mW.
	Load  func(t time.Time) int64
	Every time.Duration // telegram interval with Load; zero = 10 s
	Clock meter.Clock   // with Load; nil = wall clock
}

// Fault is something that goes wrong with a meter.
type Fault uint8

// The faults of the script.
const (
	VoltageLoss Fault = iota + 1 // all phases; Event.Phase picks one
	ClockSkew                    // the meter's clock is off by Event.Skew
	FailedLogin                  // Event.Count wrong passwords at once
	Dead                         // says nothing, counts on
	BadFrames                    // telegrams with a wrong checksum
	Swap                         // another meter: new serial, registers at zero
	Reset                        // registers at zero
)

// Event is one fault of a script.
type Event struct {
	At    time.Time
	Fault Fault
	For   time.Duration // how long; zero = until Clear, instant faults ignore it
	Phase int           // VoltageLoss: 1..3, 0 = all
	Skew  time.Duration // ClockSkew
	Count int           // FailedLogin; 0 = 1
}

// Meter is one simulated meter; safe for concurrent use.
type Meter struct {
	cfg  Config
	zone *time.Location

	mu     sync.Mutex // guards everything below
	serial string
	imp    [3]int64 // total, band 1 (night), band 2 (day), mWh
	exp    [3]int64
	volts  [3]int64
	power  [2]int64 // import, export mW over the last step
	last   time.Time
	logins int64
	fails  int64 // power failures seen
	dark   bool  // without voltage at the last step
	active []Event
	script []Event
	port   *port // set while Run listens
	link   meter.Link
}

// port is one listening Run.
type port struct {
	in   chan delivery
	gone chan struct{} // closed when Run ends
}

// delivery hands a telegram to Run and waits until it is dealt with.
type delivery struct {
	at   time.Time
	raw  []byte
	done chan struct{}
}

// New makes a meter. It returns an error naming the field that is wrong.
func New(cfg Config) (*Meter, error) {
	if cfg.Ident == "" {
		cfg.Ident = "GVL5GRIDVEIL-SIM-1.0"
	}
	if cfg.Decimals == 0 {
		cfg.Decimals = 3
	}
	if cfg.Phases == 0 {
		cfg.Phases = 1
	}
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Second
	}
	switch {
	case cfg.Serial == "" || len(cfg.Serial) > 48:
		return nil, errors.New("simulated meter: Serial needs 1 to 48 characters")
	case cfg.Decimals < 3 || cfg.Decimals > 6:
		return nil, fmt.Errorf("simulated meter: Decimals %d, want 3 to 6", cfg.Decimals)
	case cfg.Phases != 1 && cfg.Phases != 3:
		return nil, fmt.Errorf("simulated meter: Phases %d, want 1 or 3", cfg.Phases)
	case cfg.ImportMWh < 0 || cfg.ExportMWh < 0:
		return nil, errors.New("simulated meter: registers start at 0 or above")
	}
	m := &Meter{cfg: cfg, zone: cfg.Zone, serial: cfg.Serial, script: append([]Event(nil), cfg.Script...)}
	if m.zone == nil {
		zone, err := time.LoadLocation("Europe/Amsterdam")
		if err != nil {
			return nil, fmt.Errorf("simulated meter: zone: %w", err)
		}
		m.zone = zone
	}
	m.imp[0], m.exp[0] = cfg.ImportMWh, cfg.ExportMWh
	m.imp[2], m.exp[2] = cfg.ImportMWh, cfg.ExportMWh
	m.volts = nominal(cfg.Phases)
	return m, nil
}

func nominal(phases int) (v [3]int64) {
	for i := range phases {
		v[i] = 230_000
	}
	return v
}

// Step moves the meter to now: the energy of s is counted, due faults begin and
// end, and a telegram goes to whoever listens. It returns when that telegram is
// stored, so that a simulation never runs ahead of its nodes, or with ctx's
// error. Steps must go forward in time.
func (m *Meter) Step(ctx context.Context, now time.Time, s Sample) error {
	m.mu.Lock()
	if !m.last.IsZero() && !now.After(m.last) {
		m.mu.Unlock()
		return fmt.Errorf("simulated meter: step to %v is not after %v", now, m.last)
	}
	if s.ImportMWh < 0 || s.ExportMWh < 0 {
		m.mu.Unlock()
		return errors.New("simulated meter: energy of a step is not negative; export has its own field")
	}
	m.advance(now, s)
	raw, to := m.telegram(now), m.port
	m.mu.Unlock()
	if raw == nil || to == nil {
		return nil
	}
	d := delivery{at: now, raw: raw, done: make(chan struct{})}
	select {
	case to.in <- d:
	case <-to.gone:
		return nil // nobody listens any more
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-d.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// advance counts energy and applies the script. Caller holds mu.
func (m *Meter) advance(now time.Time, s Sample) {
	band := 2
	if m.night(now) {
		band = 1
	}
	m.imp[0], m.imp[band] = m.imp[0]+s.ImportMWh, m.imp[band]+s.ImportMWh
	m.exp[0], m.exp[band] = m.exp[0]+s.ExportMWh, m.exp[band]+s.ExportMWh
	if dt := now.Sub(m.last).Milliseconds(); !m.last.IsZero() && dt > 0 {
		m.power = [2]int64{s.ImportMWh * 3_600_000 / dt, s.ExportMWh * 3_600_000 / dt}
	}
	m.last = now
	m.volts = s.VoltageMV
	if m.volts == ([3]int64{}) {
		m.volts = nominal(m.cfg.Phases)
	}
	m.applyFaults(now)
}

func (m *Meter) applyFaults(now time.Time) {
	waiting := m.script[:0]
	for _, e := range m.script {
		if now.Before(e.At) {
			waiting = append(waiting, e)
			continue
		}
		m.begin(e)
	}
	m.script = waiting
	running := m.active[:0]
	for _, e := range m.active {
		if e.For > 0 && !now.Before(e.At.Add(e.For)) {
			continue
		}
		running = append(running, e)
		if e.Fault == VoltageLoss {
			for i := range m.volts {
				if e.Phase == 0 || e.Phase == i+1 {
					m.volts[i] = 0
				}
			}
		}
	}
	m.active = running
	dark := m.volts == [3]int64{}
	if dark && !m.dark {
		m.fails++
	}
}

// begin starts a fault: instant ones act now, lasting ones become active.
func (m *Meter) begin(e Event) {
	switch e.Fault {
	case FailedLogin:
		m.logins += int64(max(e.Count, 1))
	case Swap:
		m.serial += "'"
		m.imp, m.exp = [3]int64{}, [3]int64{}
	case Reset:
		m.imp, m.exp = [3]int64{}, [3]int64{}
	default:
		m.active = append(m.active, e)
	}
}

// Inject starts a fault with the next step; its At is then.
func (m *Meter) Inject(e Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.At = m.last
	m.script = append(m.script, e)
}

// Clear ends a lasting fault.
func (m *Meter) Clear(f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	running := m.active[:0]
	for _, e := range m.active {
		if e.Fault != f {
			running = append(running, e)
		}
	}
	m.active = running
}

func (m *Meter) find(f Fault) (Event, bool) {
	for _, e := range m.active {
		if e.Fault == f {
			return e, true
		}
	}
	return Event{}, false
}

func (m *Meter) night(now time.Time) bool {
	if m.cfg.Night != nil {
		return m.cfg.Night(now)
	}
	h := now.In(m.zone).Hour()
	return h < 7 || h >= 23
}

// Registers returns the true registers, mWh: what a demo compares bills with.
func (m *Meter) Registers() (importMWh, exportMWh int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.imp[0], m.exp[0]
}

// telegram is what the port says now, nil when it says nothing. The last
// telegram before a blackout is the last gasp. Caller holds mu.
func (m *Meter) telegram(now time.Time) []byte {
	wasDark := m.dark
	m.dark = m.volts == [3]int64{}
	if _, dead := m.find(Dead); dead || m.dark && wasDark {
		return nil
	}
	return m.encode(now)
}

func (m *Meter) encode(now time.Time) []byte {
	raw := m.objects(now).Encode()
	if _, bad := m.find(BadFrames); bad {
		raw[len(raw)/2] ^= 0x01
	}
	return raw
}

func (m *Meter) objects(now time.Time) p1.Telegram {
	shown := now
	if e, skewed := m.find(ClockSkew); skewed {
		shown = now.Add(e.Skew)
	}
	kwh := func(n int64) []string { return []string{p1.FormatFixed(n, 6, m.cfg.Decimals, "kWh")} }
	band := "0002"
	if m.night(now) {
		band = "0001"
	}
	obj := []p1.Object{
		{Code: "1-3:0.2.8", Values: []string{"50"}},
		{Code: "0-0:1.0.0", Values: []string{m.localTime(shown)}},
		{Code: "0-0:96.1.1", Values: []string{fmt.Sprintf("%X", m.serial)}},
		{Code: "1-0:1.8.0", Values: kwh(m.imp[0])},
		{Code: "1-0:1.8.1", Values: kwh(m.imp[1])},
		{Code: "1-0:1.8.2", Values: kwh(m.imp[2])},
		{Code: "1-0:2.8.0", Values: kwh(m.exp[0])},
		{Code: "1-0:2.8.1", Values: kwh(m.exp[1])},
		{Code: "1-0:2.8.2", Values: kwh(m.exp[2])},
		{Code: "0-0:96.14.0", Values: []string{band}},
		{Code: "1-0:1.7.0", Values: []string{p1.FormatFixed(m.power[0], 2, 3, "kW")}},
		{Code: "1-0:2.7.0", Values: []string{p1.FormatFixed(m.power[1], 2, 3, "kW")}},
		{Code: "0-0:96.7.21", Values: []string{fmt.Sprintf("%05d", m.fails)}},
		{Code: "0-0:96.15.1", Values: []string{fmt.Sprintf("%05d", m.logins)}},
	}
	for i, code := range []string{"1-0:32.7.0", "1-0:52.7.0", "1-0:72.7.0"}[:m.cfg.Phases] {
		obj = append(obj, p1.Object{Code: code, Values: []string{fmt.Sprintf("%03d.%d*V", m.volts[i]/1000, m.volts[i]%1000/100)}})
	}
	return p1.Telegram{Ident: m.cfg.Ident, Objects: obj, CRC: true}
}

func (m *Meter) localTime(t time.Time) string {
	local := t.In(m.zone)
	_, offset := local.Zone()
	if local.IsDST() {
		return p1.FormatTime(t, m.winter(offset-3600), true)
	}
	return p1.FormatTime(t, m.winter(offset), false)
}

func (m *Meter) winter(seconds int) time.Duration {
	if seconds == 0 {
		return p1.UTCWinter
	}
	return time.Duration(seconds) * time.Second
}

// Info describes the meter as a source.
func (m *Meter) Info() meter.Info {
	return meter.Info{Kind: "sim", Model: "simulated P1 meter", Firmware: m.cfg.Ident, Integrity: model.IntegrityChecksum,
		ShortestPeriod: time.Second, Simulated: true, KeepsTime: true}
}

// Link counts the telegrams that were decoded and refused.
func (m *Meter) Link() meter.Link {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.link
}

// ErrInUse means a second collector wants to read the meter.
var ErrInUse = errors.New("simulated meter: another reader is connected")

// Run decodes telegrams for a collector until ctx ends; with Config.Load it
// also steps the meter.
func (m *Meter) Run(ctx context.Context, emit func(meter.Frame) error) error {
	p := &port{in: make(chan delivery), gone: make(chan struct{})}
	m.mu.Lock()
	if m.port != nil {
		m.mu.Unlock()
		return ErrInUse
	}
	m.port = p
	m.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	var own sync.WaitGroup
	if m.cfg.Load != nil {
		own.Go(func() { m.stepAlone(ctx) })
	}
	err := m.listen(ctx, p.in, emit)
	m.mu.Lock()
	m.port = nil
	m.mu.Unlock()
	close(p.gone)
	cancel()
	own.Wait()
	return err
}

// Connected says whether a reader listens. A simulation that wants every step
// heard waits for it before the first one.
func (m *Meter) Connected() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.port != nil
}

func (m *Meter) listen(ctx context.Context, in chan delivery, emit func(meter.Frame) error) error {
	var scan p1.Scanner
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case d := <-in:
			err := scan.Feed(d.raw, func(raw []byte) error { return m.take(d.at, raw, emit) })
			close(d.done)
			if err != nil {
				return err
			}
		}
	}
}

// Read answers on demand with a telegram of the registers as they were at the
// last step, as a meter's own interface would. It fails while the meter is dark,
// dead or garbled.
func (m *Meter) Read(context.Context, []model.Channel) (meter.Frame, error) {
	m.mu.Lock()
	at, silent := m.last, m.volts == [3]int64{}
	_, dead := m.find(Dead)
	var raw []byte
	if !at.IsZero() && !dead && !silent {
		raw = m.encode(at)
	}
	m.mu.Unlock()
	if raw == nil {
		return meter.Frame{}, errors.New("simulated meter: no answer")
	}
	return m.decode(at, raw)
}

// decode reads a telegram of the meter's own clock.
func (m *Meter) decode(at time.Time, raw []byte) (meter.Frame, error) {
	_, offset := at.In(m.zone).Zone()
	if at.In(m.zone).IsDST() {
		offset -= 3600
	}
	f, err := p1.Decode(raw, p1.Options{Offset: m.winter(offset)})
	f.At = at.UnixMilli()
	return f, err
}

func (m *Meter) take(at time.Time, raw []byte, emit func(meter.Frame) error) error {
	f, err := m.decode(at, raw)
	m.mu.Lock()
	if err != nil {
		m.link.Bad++
	} else {
		m.link.Good++
	}
	m.mu.Unlock()
	if err != nil {
		return nil
	}
	return emit(f)
}

// stepAlone drives a meter that has a load of its own.
func (m *Meter) stepAlone(ctx context.Context) {
	clock := m.cfg.Clock
	if clock == nil {
		clock = wallClock{}
	}
	last, rest := clock.Now(), int64(0) // rest: mW x ms that made no whole mWh yet
	for {
		next := last.Truncate(m.cfg.Every).Add(m.cfg.Every)
		select {
		case <-ctx.Done():
			return
		case <-clock.After(next.Sub(clock.Now())):
		}
		rest += m.cfg.Load(next) * next.Sub(last).Milliseconds()
		mwh := rest / 3_600_000
		rest -= mwh * 3_600_000
		s := Sample{ImportMWh: max(mwh, 0), ExportMWh: max(-mwh, 0)}
		if err := m.Step(ctx, next, s); err != nil {
			return // ctx ended: Step fails for no other reason here
		}
		last = next
	}
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
