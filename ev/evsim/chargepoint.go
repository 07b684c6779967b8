package evsim

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Faults are ways in which real stations misbehave. They may be combined.
type Faults struct {
	Unsigned   bool          // the wallbox has no signing meter
	Forged     bool          // the end record is altered after signing
	Replayed   bool          // the end record of an earlier transaction is sent again
	Mute       bool          // calls of the central system are never answered
	Late       time.Duration // every answer waits this long (wall clock)
	OutOfOrder bool          // updates come after the end and seqNo is always 0
}

// Config of a ChargePoint.
type Config struct {
	ID       string // OCPP identity
	URL      string // of the central system without the id: ws://127.0.0.1:8887/ocpp
	Password string // Basic password as text; empty: none
	Version  string // "1.6" or "2.0.1"
	// Key signs OCMF records; it must be P-256. Nil means no signing meter.
	Key    *ecdsa.PrivateKey
	Serial string // of the meter
	// ImportMWh and ExportMWh are what the registers show at first.
	ImportMWh, ExportMWh int64
	Phases               int64 // 1 (when zero) or 3
	MaxW                 int64 // zero means 32 A on all phases
	V2X                  bool  // understands the discharge set point
	Faults               Faults
	// Clock is used for heartbeats and for the pause between boots; nil is the
	// wall clock.
	Clock Clock
}

// Clock is the time of the shell.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Limits of the simulation.
const (
	evse          = 1 // a home wallbox has one
	volts         = 230
	minAmperes    = 6      // IEC 61851: below 6 A a car pauses
	maxOutbox     = 10_000 // reports kept while the socket is down; a day of samples
	defaultSample = time.Minute
)

// ChargePoint is one simulated wallbox. Its methods are safe for concurrent use.
type ChargePoint struct {
	cfg Config

	mu       sync.Mutex // guards the fields below
	meter    meter
	car      *Car
	tx       *transaction
	start    *startOrder // accepted, carried out by the next Step
	stop     string      // reason of an accepted stop
	profiles profiles
	setpoint *int64
	power    int64
	state    string // as last reported, 1.6 words
	faults   Faults
	counter  int
	sample   time.Duration // between samples of a transaction
	aligned  time.Duration // between clock-aligned samples, 0 for none
	password string
	earlier  []byte // end record of the transaction before
	outbox   []report
	dropped  int
	wake     chan struct{} // 1 token: the outbox has grown
	online   bool
	settings map[string]string
}

// transaction is one running transaction.
type transaction struct {
	code      string
	id        string // ours in 2.0.1, given by the central system in 1.6
	remoteID  int
	startedAt time.Time
	seq       int
	begin     []byte   // signed begin record
	held      []report // updates kept back by Faults.OutOfOrder
}

type startOrder struct {
	code     string
	remoteID int
}

// reportKind says what a report tells the central system.
type reportKind uint8

const (
	reportStatus reportKind = iota + 1
	reportStart
	reportSample
	reportState
	reportStop
	reportBoot
)

// report is one thing to tell, with everything that its message needs.
type report struct {
	kind                 reportKind
	at                   time.Time
	tx                   *transaction
	seq                  int
	state                string
	reason               string
	importMWh, exportMWh int64
	power, soc           int64
	signed               []byte
	offline              bool
}

// New checks the configuration.
func New(cfg Config) (*ChargePoint, error) {
	if cfg.ID == "" || cfg.URL == "" || cfg.Version != "1.6" && cfg.Version != "2.0.1" {
		return nil, errors.New(`evsim: want ID, URL and Version "1.6" or "2.0.1"`)
	}
	if cfg.Phases == 0 {
		cfg.Phases = 1
	}
	if cfg.Phases != 1 && cfg.Phases != 3 {
		return nil, fmt.Errorf("evsim: %d phases, want 1 or 3", cfg.Phases)
	}
	if cfg.MaxW == 0 {
		cfg.MaxW = 32 * volts * cfg.Phases
	}
	if cfg.Clock == nil {
		cfg.Clock = wallClock{}
	}
	cp := &ChargePoint{cfg: cfg, faults: cfg.Faults, profiles: profiles{}, sample: defaultSample, password: cfg.Password,
		state: "Available", wake: make(chan struct{}, 1), settings: map[string]string{},
		meter: meter{key: cfg.Key, serial: cfg.Serial, importMWh: cfg.ImportMWh, exportMWh: cfg.ExportMWh}}
	return cp, nil
}

// PublicKey is the DER SPKI on the meter's label, nil without a signing meter.
func (cp *ChargePoint) PublicKey() ([]byte, error) { return cp.meter.publicKey() }

// Plug connects a car. It fails if there is one.
func (cp *ChargePoint) Plug(now time.Time, car *Car) error {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if cp.car != nil {
		return errors.New("evsim: a car is plugged in already")
	}
	cp.car = car
	cp.setState(now, "Preparing")
	return nil
}

// Unplug removes the car, ending a running transaction.
func (cp *ChargePoint) Unplug(now time.Time) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if cp.tx != nil {
		cp.end(now, "EVDisconnected")
	}
	cp.car, cp.start, cp.power = nil, nil, 0
	cp.setState(now, "Available")
}

// SetFaults changes the misbehaviour from now on.
func (cp *ChargePoint) SetFaults(f Faults) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	cp.faults = f
}

// Status is a snapshot of a ChargePoint.
type Status struct {
	Online               bool // booted and connected
	Plugged              bool
	Transaction          string // "" if none runs
	Code                 string // of the running transaction
	PowerW               int64
	ImportMWh, ExportMWh int64
	CarMWh               int64
	Queued               int // reports not yet answered by the central system
}

// Status returns a snapshot.
func (cp *ChargePoint) Status() Status {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	s := Status{Online: cp.online, Plugged: cp.car != nil, PowerW: cp.power, ImportMWh: cp.meter.importMWh,
		ExportMWh: cp.meter.exportMWh, Queued: len(cp.outbox)}
	if cp.car != nil {
		s.CarMWh = cp.car.EnergyMWh
	}
	if cp.tx != nil {
		s.Transaction, s.Code = cp.tx.id, cp.tx.code
	}
	return s
}

// Step advances the wallbox from now to now+dt and returns the watts that it
// draws (positive) or feeds (negative) in that time. Orders accepted since the
// last Step take effect at now.
func (cp *ChargePoint) Step(now time.Time, dt time.Duration) int64 {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	cp.obey(now)
	ms := dt.Milliseconds()
	if ms <= 0 {
		return cp.power
	}
	cp.power = cp.decide(now, ms)
	cp.setState(now, cp.describe())
	cp.run(now, now.Add(dt))
	return cp.power
}

// obey carries out accepted orders.
func (cp *ChargePoint) obey(now time.Time) {
	if cp.stop != "" {
		if cp.tx != nil {
			cp.end(now, cp.stop)
		}
		cp.stop = ""
	}
	if cp.start != nil && cp.tx == nil && cp.car != nil {
		cp.begin(now, *cp.start)
		cp.start = nil
	}
}

// decide says what flows for the next ms milliseconds.
func (cp *ChargePoint) decide(now time.Time, ms int64) int64 {
	if cp.tx == nil || cp.car == nil {
		return 0
	}
	if cp.setpoint != nil && *cp.setpoint < 0 {
		return -cp.car.discharge(-*cp.setpoint, ms)
	}
	limit := cp.profiles.limit(now, cp.tx.startedAt, cp.tx.id, cp.cfg.MaxW, cp.cfg.Phases)
	if cp.setpoint != nil {
		limit = min(limit, *cp.setpoint)
	}
	if limit < minAmperes*volts*cp.cfg.Phases {
		return 0
	}
	return cp.car.charge(min(limit, cp.cfg.MaxW), ms)
}

// describe is the connector status in the words of OCPP 1.6.
func (cp *ChargePoint) describe() string {
	switch {
	case cp.car == nil:
		return "Available"
	case cp.tx == nil && cp.state == "Finishing":
		return "Finishing"
	case cp.tx == nil:
		return "Preparing"
	case cp.power != 0:
		return "Charging"
	case cp.car.EnergyMWh >= cp.car.target():
		return "SuspendedEV"
	}
	return "SuspendedEVSE"
}

// run integrates [from, to) and reports the samples that fall into it. Power is
// constant over a step, so the registers at a mark inside it are exact.
func (cp *ChargePoint) run(from, to time.Time) {
	for _, mark := range cp.marks(from, to) {
		cp.advance(mark.Sub(from))
		from = mark
		cp.report(report{kind: reportSample, at: mark})
	}
	cp.advance(to.Sub(from))
}

func (cp *ChargePoint) advance(d time.Duration) {
	moved := cp.meter.run(cp.power, d.Milliseconds())
	if cp.car != nil {
		cp.car.move(moved)
	}
}

// marks lists the sample times in (from, to], in order: only while a
// transaction runs, as a home wallbox is configured.
func (cp *ChargePoint) marks(from, to time.Time) []time.Time {
	if cp.tx == nil {
		return nil
	}
	var out []time.Time
	for _, step := range []time.Duration{cp.sample, cp.aligned} {
		if step <= 0 {
			continue
		}
		for t := from.Truncate(step).Add(step); !t.After(to); t = t.Add(step) {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, time.Time.Compare)
	return slices.CompactFunc(out, time.Time.Equal)
}

// begin starts a transaction.
func (cp *ChargePoint) begin(now time.Time, o startOrder) {
	cp.counter++
	cp.tx = &transaction{code: o.code, remoteID: o.remoteID, startedAt: now}
	if cp.cfg.Version == "2.0.1" {
		cp.tx.id = fmt.Sprintf("%s-%d-%d", cp.cfg.ID[:min(12, len(cp.cfg.ID))], now.Unix(), cp.counter)
	}
	cp.tx.begin = cp.signed('B', now)
	cp.report(report{kind: reportStart, at: now, signed: cp.tx.begin})
}

// end ends the running transaction.
func (cp *ChargePoint) end(now time.Time, reason string) {
	cp.power = 0
	record := cp.signed('E', now)
	genuine := record
	switch {
	case record == nil:
	case cp.faults.Replayed && cp.earlier != nil:
		record = cp.earlier
	case cp.faults.Forged:
		record = forge(record, cp.meter.importMWh)
	}
	cp.report(report{kind: reportStop, at: now, reason: reason, signed: record})
	for _, r := range cp.tx.held {
		cp.push(r)
	}
	cp.earlier = genuine
	cp.profiles.forget(cp.tx.id)
	cp.tx, cp.setpoint = nil, nil
	cp.setState(now, "Finishing")
}

// signed returns a record of the meter, nil if it signs nothing.
func (cp *ChargePoint) signed(tx byte, at time.Time) []byte {
	if cp.meter.key == nil || cp.faults.Unsigned {
		return nil
	}
	rec, err := cp.meter.sign(tx, at, cp.tx.code)
	if err != nil {
		return nil // the key was checked by the first record; a meter that cannot sign sends none
	}
	return rec
}

// setState reports a change of the connector.
func (cp *ChargePoint) setState(now time.Time, state string) {
	if state == cp.state {
		return
	}
	cp.state = state
	cp.report(report{kind: reportStatus, at: now, state: state})
	if cp.tx != nil && cp.cfg.Version == "2.0.1" {
		cp.report(report{kind: reportState, at: now, state: state})
	}
}

// report completes a report with the present values and queues it.
func (cp *ChargePoint) report(r report) {
	r.tx, r.importMWh, r.exportMWh, r.power = cp.tx, cp.meter.importMWh, cp.meter.exportMWh, cp.power
	r.offline = !cp.online
	if r.state == "" {
		r.state = cp.state
	}
	if cp.car != nil {
		r.soc = cp.car.permille()
	}
	if cp.tx != nil && r.kind != reportStatus {
		if !cp.faults.OutOfOrder {
			r.seq = cp.tx.seq
			cp.tx.seq++
		} else if r.kind == reportSample || r.kind == reportState {
			cp.tx.held = append(cp.tx.held, r)
			return
		}
	}
	cp.push(r)
}

// push queues a report; when full, samples are dropped first.
func (cp *ChargePoint) push(r report) {
	if len(cp.outbox) >= maxOutbox && r.kind == reportSample {
		cp.dropped++
		return
	}
	cp.outbox = append(cp.outbox, r)
	select {
	case cp.wake <- struct{}{}:
	default:
	}
}
