package meter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"gridveil/node/model"
	"gridveil/node/store"
	"gridveil/node/vee"
)

// Window is a stretch of closed slots of one length, half-open, UTC ms.
type Window struct {
	From, To int64
	Period   time.Duration
}

// Config says what a collector reads and where the readings go.
type Config struct {
	Name   string // label of the source, unique in the store: 1..32 of a-z 0-9 -
	Source Source
	Store  *store.Store
	Clock  Clock // nil = wall clock

	ReadPeriod   time.Duration   // slot length; a divisor of 24 h
	ReportPeriod time.Duration   // how often Report is called; a multiple of ReadPeriod
	Channels     []model.Channel // what a reading must have; a frame lacking one closes no slot

	State   model.ReadingState
	LimitMW int64      // connection limit, 0 = unknown
	Masked  bool       // a battery masks the load
	Rules   vee.Params // zero = vee.Standard()
	Zone    *time.Location
	Known   func(Device) bool // whether the meter is the one in the roster; nil = any
	Unc     func() uint32     // uncertainty of the clock, ms; nil = 0

	// OnFrame sees every frame, one that closes a slot as soon as the slot is durable:
	// local page, alarm detectors. It must not block.
	OnFrame func(Frame)
	// With puts into the update of every closed slot what must not be lost behind its
	// readings: the registers of a simulated meter. Nil: nothing.
	With func(tx *store.Tx) error
	// OnReadings sees the readings of a slot after they are durable.
	OnReadings func([]model.Reading)
	// OnLost hears why the source ended before it is started again.
	OnLost func(error)
	// Report is called when a report period is over, inside the update that moves
	// the cursor: what it puts into tx is durable if and only if the cursor moved.
	Report func(tx *store.Tx, w Window) error
	Log    *slog.Logger
}

// Limits of a collector.
const (
	firstBackoff = time.Second
	longBackoff  = 2 * time.Minute
	maxName      = 32
	maxChannels  = 16
)

// Collector reads one source. Create it with New, run it with Serve.
type Collector struct {
	cfg Config

	mu    sync.Mutex // guards everything below
	state keeper
	cut   cutter
	link  Status
	wait  []chan Frame // callers of ReadNow
	fatal error        // a store failure that ends Serve
}

// Status is the health of a source for the local page.
type Status struct {
	LastFrame   int64 // UTC ms, 0 = none yet
	Frames      uint64
	Link        Link
	Restarts    uint64
	Gaps        uint64 // slots without a reading
	Incomplete  uint64 // frames at a slot's end that lacked a channel
	ReportedTo  int64  // end of the last reported slot
	ReadPeriod  time.Duration
	DeviceKnown bool
}

// New checks cfg and loads what an earlier run left in the store.
func New(cfg Config) (*Collector, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Clock == nil {
		cfg.Clock = wallClock{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Rules == (vee.Params{}) {
		cfg.Rules = vee.Standard()
	}
	c := &Collector{cfg: cfg}
	if err := cfg.Store.View(func(tx *store.Tx) (err error) { c.state, err = loadKeeper(tx, cfg.Name); return err }); err != nil {
		return nil, fmt.Errorf("meter %s: load state: %w", cfg.Name, err)
	}
	c.cut.period = cfg.ReadPeriod.Milliseconds()
	if k := c.state; k.closed != 0 {
		c.cut.period = k.period
		c.cut.setPeriod(cfg.ReadPeriod.Milliseconds())
		c.cut.resume(k.closed)
	}
	return c, nil
}

func (cfg Config) check() error {
	if !validName(cfg.Name) {
		return fmt.Errorf("meter name %q: want 1 to %d of a-z, 0-9 and -", cfg.Name, maxName)
	}
	if cfg.Source == nil || cfg.Store == nil {
		return fmt.Errorf("meter %s: Source and Store are needed", cfg.Name)
	}
	if len(cfg.Channels) == 0 || len(cfg.Channels) > maxChannels {
		return fmt.Errorf("meter %s: %d channels, want 1 to %d", cfg.Name, len(cfg.Channels), maxChannels)
	}
	for i, c := range cfg.Channels {
		if !c.IsRegister() || i > 0 && c <= cfg.Channels[i-1] {
			return fmt.Errorf("meter %s: channels must be registers in ascending order, got %v", cfg.Name, c)
		}
	}
	return checkPeriods(cfg.Name, cfg.ReadPeriod, cfg.ReportPeriod)
}

func checkPeriods(name string, read, report time.Duration) error {
	if err := model.CheckPeriod(read); err != nil {
		return fmt.Errorf("meter %s: read %w", name, err)
	}
	if err := model.CheckPeriod(report); err != nil {
		return fmt.Errorf("meter %s: report %w", name, err)
	}
	if report%read != 0 {
		return fmt.Errorf("meter %s: report period %v is no multiple of read period %v", name, report, read)
	}
	return nil
}

func validName(s string) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		ok := s[i] >= 'a' && s[i] <= 'z' || s[i] >= '0' && s[i] <= '9' || s[i] == '-'
		if !ok {
			return false
		}
	}
	return true
}

// SetPeriods changes both periods of a running collector. They hold from the
// next slot boundary that old and new grid share; no slot is lost or doubled.
func (c *Collector) SetPeriods(read, report time.Duration) error {
	if err := checkPeriods(c.cfg.Name, read, report); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg.ReadPeriod, c.cfg.ReportPeriod = read, report
	if c.cut.next == 0 {
		c.cut.period = read.Milliseconds()
		return nil
	}
	c.cut.setPeriod(read.Milliseconds())
	return nil
}

// Serve reads until ctx ends or the store fails. A lost source is started again
// after a wait that doubles from 1 s to 2 min and starts over with the first
// good frame.
func (c *Collector) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var timer sync.WaitGroup
	if !c.cfg.Source.Info().KeepsTime {
		timer.Go(func() { c.tickLoop(ctx, cancel) })
	}
	defer timer.Wait()
	defer cancel()
	backoff := firstBackoff
	for {
		before := c.Status().Frames
		err := c.cfg.Source.Run(ctx, func(f Frame) error { return c.take(f) })
		if stop := c.stopped(); stop != nil {
			return stop
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.Status().Frames > before {
			backoff = firstBackoff
		}
		c.lost(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.cfg.Clock.After(backoff):
		}
		backoff = min(2*backoff, longBackoff)
	}
}

func (c *Collector) lost(err error) {
	if err == nil {
		err = errors.New("source ended")
	}
	c.mu.Lock()
	c.link.Restarts++
	c.mu.Unlock()
	c.cfg.Log.Debug("meter source ended", "meter", c.cfg.Name, "error", err)
	if c.cfg.OnLost != nil {
		c.cfg.OnLost(err)
	}
}

// tickLoop closes slots that no frame closes.
func (c *Collector) tickLoop(ctx context.Context, cancel func()) {
	for {
		c.mu.Lock()
		wake := c.cut.wake()
		c.mu.Unlock()
		now := c.cfg.Clock.Now().UnixMilli()
		wait := time.Duration(max(wake-now, 100)) * time.Millisecond
		if wake == 0 || wait > 5*time.Second {
			wait = 5 * time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-c.cfg.Clock.After(wait):
		}
		if err := c.Tick(c.cfg.Clock.Now()); err != nil {
			cancel()
			return
		}
	}
}

func (c *Collector) stopped() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fatal
}

// Tick closes the slots that are over at now although no frame said so. Serve
// calls it; a simulation with its own time may.
func (c *Collector) Tick(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeAll(c.cut.tick(now.UnixMilli()))
}

// take deals with one frame: stamp, show, cut into slots, check, store.
func (c *Collector) take(f Frame) error {
	now := c.cfg.Clock.Now().UnixMilli()
	if f.At == 0 {
		f.At = now
	}
	if c.cfg.Unc != nil {
		f.Unc = max(f.Unc, c.cfg.Unc())
	}
	if err := c.count(f); err != nil {
		return err
	}
	if c.cfg.OnFrame != nil {
		c.cfg.OnFrame(f)
	}
	return nil
}

// count stores the slots that f closes, and hands it to those who wait for one.
func (c *Collector) count(f Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link.Frames++
	c.link.LastFrame = f.At
	if _, ok := pick(f, c.cfg.Channels); !ok {
		c.link.Incomplete++
	} else if err := c.closeAll(c.cut.feed(f)); err != nil {
		return err
	}
	for _, w := range c.wait {
		w <- f // buffered, one frame each
	}
	c.wait = nil
	return nil
}

// closeAll stores the closed slots in order. Caller holds mu.
func (c *Collector) closeAll(cuts []cut) error {
	for _, x := range cuts {
		readings, err := c.store(x)
		if err != nil {
			c.fatal = fmt.Errorf("meter %s: %w", c.cfg.Name, err)
			return c.fatal
		}
		if len(readings) > 0 && c.cfg.OnReadings != nil {
			c.cfg.OnReadings(readings)
		}
	}
	return nil
}

// store writes one slot, the state behind it and, when a report period is over,
// the report, in one update.
func (c *Collector) store(x cut) (readings []model.Reading, err error) {
	next := c.state.clone()
	if x.gap {
		c.link.Gaps++
	} else {
		readings = c.readings(&next, x)
	}
	err = c.cfg.Store.Update(func(tx *store.Tx) error {
		for _, r := range readings {
			if err := tx.Set(readingKey(c.cfg.Name, r.Slot, r.Channel), encodeReading(r)); err != nil {
				return err
			}
		}
		if err := c.report(tx, &next, x); err != nil {
			return err
		}
		if c.cfg.With != nil {
			if err := c.cfg.With(tx); err != nil {
				return err
			}
		}
		return next.save(tx, c.cfg.Name)
	})
	if err != nil {
		return nil, err
	}
	c.state = next
	return readings, nil
}

// report moves the cursor, and calls Report for each report period that the
// slot ends or lies behind, and before the slot length changes.
func (c *Collector) report(tx *store.Tx, k *keeper, x cut) error {
	end, every := x.slot+x.period, c.cfg.ReportPeriod.Milliseconds()
	if every%x.period != 0 {
		every = x.period // slots of the old length until the new periods hold
	}
	if k.reported == 0 {
		k.reported = x.slot
	}
	if k.period != 0 && k.period != x.period {
		if err := c.callReport(tx, k, x.slot, k.period); err != nil {
			return err
		}
	}
	k.period, k.closed = x.period, end
	if passed := x.slot - x.slot%every; passed > k.reported {
		// Boundaries passed in silence, or the report period became shorter.
		if err := c.callReport(tx, k, passed, x.period); err != nil {
			return err
		}
	}
	if end%every != 0 {
		return nil
	}
	return c.callReport(tx, k, end, x.period)
}

func (c *Collector) callReport(tx *store.Tx, k *keeper, to, period int64) error {
	w := Window{From: k.reported, To: to, Period: time.Duration(period) * time.Millisecond}
	if w.To <= w.From {
		return nil
	}
	k.reported = to
	if c.cfg.Report == nil {
		return nil
	}
	return c.cfg.Report(tx, w)
}

// readings stamps and checks the channels of a closed slot.
func (c *Collector) readings(k *keeper, x cut) []model.Reading {
	f := x.frame
	values, _ := pick(f, c.cfg.Channels)
	reset := k.observe(f.Device, values)
	status := f.Status
	if x.late {
		status |= model.StatusLate
	}
	if c.cfg.Source.Info().Simulated {
		status |= model.StatusSimulated
	}
	if k.fresh {
		status |= model.StatusEpoch
	}
	k.fresh = false
	k.counter++
	m := vee.Meter{Period: x.period, LimitMW: c.cfg.LimitMW, Masked: c.cfg.Masked, Now: max(f.At, x.slot+x.period),
		Zone: c.cfg.Zone, Known: c.cfg.Known == nil || c.cfg.Known(f.Device)}
	out := make([]model.Reading, 0, len(values))
	energy := map[model.Channel]int64{}
	for _, v := range values {
		r := model.Reading{Channel: v.Channel, Slot: x.slot, At: f.At, Register: v.N, Unc: f.Unc, Counter: k.counter,
			State: c.cfg.State, Status: status, Quality: model.QualityRaw, Epoch: k.epoch}
		s := k.rules[v.Channel]
		o := c.cfg.Rules.Check(&s, m, r)
		k.rules[v.Channel] = s
		if reset {
			o.Flags |= vee.Decrease // same meter, register near zero: our guess, so a person looks
		}
		energy[v.Channel] = o.Energy
		r.Flags = uint32(o.Flags)
		out = append(out, r)
	}
	bands := c.cfg.Rules.CheckBands(energy)
	for i := range out {
		out[i].Flags |= uint32(bands)
	}
	return out
}

// Status returns the health of the source.
func (c *Collector) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.link
	st.ReportedTo, st.ReadPeriod = c.state.reported, time.Duration(c.cut.period)*time.Millisecond
	st.DeviceKnown = c.cfg.Known == nil || c.cfg.Known(c.state.device)
	if g, ok := c.cfg.Source.(Gauge); ok {
		st.Link = g.Link()
	}
	return st
}

// ReadNow reads the meter on demand: it asks a Reader, and takes the next frame
// of a source that only pushes. It never gives a stored value; when ctx ends
// first, the meter is unreachable.
func (c *Collector) ReadNow(ctx context.Context, ch []model.Channel) (Frame, error) {
	if r, ok := c.cfg.Source.(Reader); ok {
		f, err := r.Read(ctx, ch)
		if err != nil {
			return Frame{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		return f, nil
	}
	got := make(chan Frame, 1)
	c.mu.Lock()
	if len(c.wait) >= maxWaiting {
		c.mu.Unlock()
		return Frame{}, ErrBusy
	}
	c.wait = append(c.wait, got)
	c.mu.Unlock()
	select {
	case f := <-got:
		return f, nil
	case <-ctx.Done():
		return Frame{}, fmt.Errorf("%w: no frame before the deadline", ErrUnreachable)
	}
}

// maxWaiting bounds the callers of ReadNow that share one frame; abandoned ones
// leave with the next frame.
const maxWaiting = 64

// Errors of an on-demand reading.
var (
	ErrUnreachable = errors.New("meter: unreachable")
	ErrBusy        = errors.New("meter: too many readings on demand; try again after the next frame")
)
