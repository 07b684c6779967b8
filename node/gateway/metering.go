package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/battery"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/clock"
	"gridveil/node/meter"
	"gridveil/node/meter/p1"
	"gridveil/node/meter/replay"
	wire "gridveil/node/metering"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/vee"
	"gridveil/privacy/leak"
)

// meterName labels the only meter of a house in its store.
const meterName = "meter"

// ordinal is the place of the house's only meter in its roster.
const ordinal = 1

// sendPeriod is how often waiting reports are offered again.
const sendPeriod = time.Minute

// callTimeout bounds one report's way to the substation, in wall time.
const callTimeout = 10 * time.Second

// metering reads the meter, checks, stores and reports.
type metering struct {
	env     *role.Env
	journal *journal
	alarms  *alarms
	self    ed25519.PublicKey

	collector *meter.Collector
	queue     *report.Queue
	rules     uint32 // version of the checks that set the flags
	onFrame   func(meter.Frame)

	ordering sync.Mutex // one order at a time; mu may be taken under it

	mu     sync.Mutex
	order  *model.Order           // nil until the head-end sent one
	nonces map[[16]byte]time.Time // of answered readings on demand
	asked  time.Time              // the newest of them
	wake   chan struct{}
}

// openMeter builds source, battery and metering. See Hardware for what a
// demonstration replaces.
func (g *Gateway) openMeter(ctx context.Context, hw Hardware) error {
	m := &metering{env: g.env, journal: g.journal, alarms: g.alarms, self: g.env.ID.Key.Public().(ed25519.PublicKey), wake: make(chan struct{}, 1), rules: vee.Standard().Version()}
	src, err := g.source(hw)
	if err != nil {
		return err
	}
	if err := g.openMask(ctx); err != nil {
		return err
	}
	m.onFrame = g.frame
	m.queue = report.OpenQueue(g.env.Store, report.ClassEnergy, g.env.ID.Key)
	m.queue.Final = m.keepEvidence
	if m.order, err = loadOrder(g.env.Store); err != nil {
		return err
	}
	g.alarms.watch(g.env, src.Info(), m.sealKey)
	zone, err := time.LoadLocation(g.env.Config.Meter.Zone)
	if err != nil {
		return err
	}
	c := g.env.Config.Meter
	read, send := m.periods(c.ReadPeriod.D(), c.ReportPeriod.D())
	m.collector, err = meter.New(meter.Config{Name: meterName, Source: src, Store: g.env.Store, Clock: g.env.Clock,
		ReadPeriod: read, ReportPeriod: send, Channels: []model.Channel{model.ImportTotal, model.ExportTotal},
		State: model.ReadImportExport, LimitMW: int64(c.ConnectionLimitW) * 1000, Masked: g.mask != nil, Zone: zone, Log: g.env.Log,
		OnFrame: m.onFrame, With: g.stage, Report: m.pack})
	if err != nil {
		return err
	}
	if g.house != nil {
		g.house.readPeriod = func() time.Duration { return m.collector.Status().ReadPeriod }
	}
	g.metered = m
	g.env.Host.Handle(mesh.Order, m.takeOrder)
	g.env.Host.Handle(mesh.Ack, m.takeAck)
	g.env.Host.Handle(mesh.ReadNow, m.readNow)
	return nil
}

// stage puts the simulated house into the update of a reading.
func (g *Gateway) stage(tx *store.Tx) error {
	if g.house == nil {
		return nil
	}
	return g.house.stage(tx)
}

// periods are those of the order in force, else the configuration's.
func (m *metering) periods(read, send time.Duration) (time.Duration, time.Duration) {
	if m.order != nil && len(m.order.Groups) > 0 {
		g := m.order.Groups[0]
		return g.ReadPeriod, g.ReportPeriod
	}
	return read, send
}

// source opens what configuration or demonstration names.
func (g *Gateway) source(hw Hardware) (meter.Source, error) {
	c := g.env.Config.Meter
	zone, err := time.LoadLocation(c.Zone)
	if err != nil {
		return nil, err
	}
	switch c.Source {
	case "p1":
		return p1.New(c.Address, p1.Options{Offset: winterOffset(zone)})
	case "replay":
		return openReplay(g.env, c.Address, zone)
	}
	h, err := newHouse(g.env, hw, g.carWatts)
	if err != nil {
		return nil, err
	}
	h.watched = func() bool { return g.hosting != nil && g.hosting.occupied() }
	g.house = h
	return h.meter, nil
}

// winterOffset is what a meter of the zone adds to UTC in winter, as p1 wants it.
func winterOffset(zone *time.Location) time.Duration {
	_, s := time.Date(2026, 1, 15, 12, 0, 0, 0, zone).Zone()
	if s == 0 {
		return p1.UTCWinter
	}
	return time.Duration(s) * time.Second
}

func openReplay(env *role.Env, path string, zone *time.Location) (meter.Source, error) {
	f, err := os.Open(env.Config.Path(path))
	if err != nil {
		return nil, fmt.Errorf("open the replayed file: %w", err)
	}
	defer f.Close()
	t, err := replay.Load(f, path, zone)
	if err != nil {
		return nil, err
	}
	return replay.New(replay.Config{Trace: t, Clock: env.Clock, Loop: true})
}

// openMask puts the mask between house and battery. A model of a battery needs the
// simulated house around it; an inverter does not.
func (g *Gateway) openMask(ctx context.Context) error {
	c := g.env.Config.Battery
	spec, ok := batterySpec(c)
	if !ok || g.house == nil && c.Driver != "sunspec" {
		return nil
	}
	if c.Driver == "sunspec" {
		spec.MaxImport = battery.Watts(g.env.Config.Meter.ConnectionLimitW)
	}
	m, err := newMask(ctx, g.env, spec, sharedPrior)
	if err != nil {
		return err
	}
	m.heard = g.signals.At
	if c.Driver == "sunspec" {
		if m.bank, err = openBank(g.env, spec); err != nil {
			return err
		}
	}
	g.mask = m
	if g.house != nil {
		g.house.regulate(m)
	} else {
		m.car = g.carDrawn
	}
	return nil
}

// inverter is what battery, roof and wallbox measure; ok is false before the first
// value, and for a house without any of them.
func (g *Gateway) inverter() (h House, ok bool) {
	switch {
	case g.house != nil:
		return g.house.House()
	case g.mask != nil:
		var age time.Duration
		if h, age, ok = g.mask.bank.house(); age > bankHolds {
			h.BattWatts = 0 // not known: nothing is made of it
		}
		h.CarWatts = battery.Watts(g.carWatts())
	}
	return h, ok
}

// frame sees every meter value at once: mask, curve, alarms.
func (g *Gateway) frame(f meter.Frame) {
	g.alarms.frame(f)
	g.signals.frame(f)
	watts := battery.Watts(0)
	if v, ok := f.Get(model.PowerImport); ok {
		watts += battery.Watts(v) / 1000
	}
	if v, ok := f.Get(model.PowerExport); ok {
		watts -= battery.Watts(v) / 1000
	}
	at := time.UnixMilli(f.At).UTC()
	g.observe(f, at, watts)
	if g.house == nil && g.mask != nil {
		g.mask.frame(watts)
	}
	h, ok := g.inverter()
	if !ok && g.house != nil {
		return
	}
	g.curve.add(Minute{At: at, Load: float64(trueLoad(watts, h)), Meter: float64(watts), PV: float64(h.PVWatts), Battery: float64(h.BattWatts), Car: float64(h.CarWatts)})
}

// serve reads and reports until ctx ends.
func (m *metering) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.collector.Serve(ctx) })
	g.Go(func() error { return m.send(ctx) })
	return g.Wait()
}

// pack turns a closed report period into signed reports, inside the update that
// moves the cursor: a reading is reported exactly once, whatever crashes.
func (m *metering) pack(tx *store.Tx, w meter.Window) error {
	o := m.currentOrder()
	from, err := m.owedSince(tx, w.From, o == nil)
	if err != nil || o == nil {
		return err // without an order nothing may leave: the readings wait
	}
	w.From = from
	readings, err := meter.Readings(tx, meterName, w.From, w.To)
	if err != nil {
		return err
	}
	for _, p := range o.Profiles {
		drafts, err := report.Build(m.env.Rand, p, o.Roster, report.Window{Class: report.ClassEnergy, From: w.From, To: w.To, Period: w.Period, Rules: m.rules}, []report.Series{{Ordinal: ordinal, Readings: readings}})
		if errors.Is(err, report.ErrNoProfile) {
			continue
		}
		if err != nil {
			return err
		}
		for _, d := range drafts {
			if m.simulated() {
				d.Flags |= report.FlagSimulated
			}
			if _, err := m.queue.Append(tx, d); err != nil {
				return err
			}
		}
	}
	m.poke()
	return nil
}

var owedKey = store.SpaceCursor.Key([]byte("owed"))

// owedSince gives the start of the readings that no report holds yet. While
// waiting for an order it remembers the start; afterwards it forgets it.
func (m *metering) owedSince(tx *store.Tx, from int64, waiting bool) (int64, error) {
	b, err := tx.Get(owedKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, fmt.Errorf("unreported readings: %w", err)
	}
	if v, ok := store.GetU64(b); ok {
		from = int64(v)
	}
	if waiting {
		return from, tx.Set(owedKey, store.U64(uint64(from)))
	}
	return from, tx.Delete(owedKey)
}

func (m *metering) simulated() bool { return m.env.Config.Meter.Source == "sim" }

func (m *metering) poke() {
	select {
	case m.wake <- struct{}{}:
	default: // the sender has not yet seen the last poke
	}
}

// send offers due reports to the substations until ctx ends.
func (m *metering) send(ctx context.Context) error {
	for {
		if err := m.sendDue(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-m.env.Clock.After(sendPeriod):
		}
	}
}

// sendDue sends what the queue says. Only a broken store is an error: with no
// substation in reach the reports wait.
func (m *metering) sendDue(ctx context.Context) error {
	o := m.currentOrder()
	if o == nil {
		return nil
	}
	due, err := m.queue.Due(m.env.Clock.Now(), m.env.Rand, o)
	if errors.Is(err, report.ErrNoSealKey) {
		m.warnNoKey(true)
		return nil
	}
	if err != nil {
		return fmt.Errorf("reports to send: %w", err)
	}
	m.warnNoKey(false)
	for _, msg := range due {
		if !m.sendOne(ctx, msg.Encode()) {
			break
		}
	}
	m.watchBacklog()
	return nil
}

// sendOne tries the substations in order until one answers; false when none does.
func (m *metering) sendOne(ctx context.Context, raw []byte) bool {
	for _, ssn := range substations(m.env) {
		if err := m.note(leak.MeterReport, len(raw), leak.OwnUtility, leak.Substation); err != nil {
			m.env.Log.Error("journal of what left cannot be kept; the report waits", "err", err)
			return false
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := m.env.Host.Call(call, ssn.Peer, mesh.Report, raw)
		cancel()
		if err != nil {
			continue // the next parent; the report stays
		}
		m.answered(answer, ssn.Key[:])
		return true
	}
	return false
}

// note writes down who learns of registers that are about to leave.
func (m *metering) note(what leak.Message, size int, to ...leak.Role) error {
	e := leak.Entry{Message: what, Bytes: uint32(size), At: m.env.Clock.Now()}
	copy(e.As[:], m.self)
	return m.env.Store.Update(func(tx *store.Tx) error {
		for _, e.To = range to {
			if err := m.journal.record(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// answered applies the substation's or the head-end's answer.
func (m *metering) answered(answer []byte, from ed25519.PublicKey) {
	now := m.env.Clock.Now()
	if a, err := report.DecodeAck(answer); err == nil {
		key := from
		if a.Level == report.LevelFinal {
			if key = m.headendKey(a.Receiver); key == nil {
				return // not ours, or not known yet: the report is offered again
			}
		}
		_, err := m.queue.OnAck(a, key, now)
		switch {
		case errors.Is(err, report.ErrForked):
			m.alarms.report(alarm.Malfunction, alarm.CodeStore, "the head-end holds reports that this gateway has lost")
			m.poke()
		case err != nil:
			m.env.Log.Warn("acknowledgement refused", "err", err)
		case a.Level == report.LevelFinal:
			m.env.Warn.Clear("report-refused")
		}
		return
	}
	r, err := report.DecodeRefusal(answer)
	if err != nil {
		m.env.Log.Warn("answer to a report is neither acknowledgement nor refusal")
		return
	}
	key := from
	if r.Receiver != report.SourceOf(from) {
		key = m.headendKey(r.Receiver)
	}
	if err := m.queue.OnRefusal(r, key, now); err != nil {
		m.env.Warn.Raise(role.Warning{Code: "report-refused", Severity: role.Problem, Title: "A meter report was refused", Text: err.Error() + ". The readings are kept here.",
			Next: "Ask your utility whether this gateway is on its list."}, now)
	}
}

// headendKey finds the key of the head-end with a source id, among those that
// the directory names.
func (m *metering) headendKey(id model.SourceID) ed25519.PublicKey {
	for _, h := range m.env.Dir.All(member.RoleHeadend, "") {
		if report.SourceOf(h.Member.Key[:]) == id {
			return h.Member.Key[:]
		}
	}
	return nil
}

// takeAck applies a final acknowledgement that a substation passes on.
func (m *metering) takeAck(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
	m.answered(req, from.Key[:])
	m.poke()
	return nil, nil
}

const orderState = "order"

func loadOrder(st *store.Store) (*model.Order, error) {
	b, err := st.Get(store.SpaceOrder.Key([]byte(orderState)))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load order: %w", err)
	}
	o, err := model.DecodeOrder(b)
	return &o, err
}

func (m *metering) currentOrder() *model.Order {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.order
}

func (m *metering) sealKey(day uint16) ([32]byte, bool) {
	if o := m.currentOrder(); o != nil {
		return o.KeyFor(day)
	}
	return [32]byte{}, false
}

// takeOrder installs a newer order of a head-end that may give it: one of this
// home's operator. The answer echoes the version in force.
func (m *metering) takeOrder(_ context.Context, _ mesh.Member, req []byte) ([]byte, error) {
	o, err := model.DecodeOrder(req)
	if err != nil {
		return nil, err
	}
	if o.Source != report.SourceOf(m.self) {
		return nil, errors.New("the order is for another gateway")
	}
	key := m.headendKey(o.Issuer)
	if key == nil || !m.ownHeadend(o.Issuer) {
		return nil, errors.New("the order's issuer is no head-end of this home's operator")
	}
	if err := o.Verify(key); err != nil {
		return nil, err
	}
	version, err := m.install(&o, req)
	if err != nil {
		return nil, err
	}
	return wire.OrderAnswer{Version: version, Chain: m.env.Host.Chain()}.Encode(), nil
}

// install keeps an order that is newer than the one in force, and gives the
// version in force. Orders that come at once are taken one after the other.
func (m *metering) install(o *model.Order, raw []byte) (uint32, error) {
	m.ordering.Lock()
	defer m.ordering.Unlock()
	if held := m.currentOrder(); held != nil && held.Version >= o.Version {
		return held.Version, nil
	}
	if err := m.env.Store.Set(store.SpaceOrder.Key([]byte(orderState)), bytes.Clone(raw)); err != nil {
		return 0, errors.New("the order cannot be kept now")
	}
	m.mu.Lock()
	m.order = o
	m.mu.Unlock()
	if len(o.Groups) > 0 { // a house has one meter
		if err := m.collector.SetPeriods(o.Groups[0].ReadPeriod, o.Groups[0].ReportPeriod); err != nil {
			m.env.Log.Warn("ordered periods refused", "err", err)
		}
	}
	m.poke()
	return o.Version, nil
}

func (m *metering) ownHeadend(id model.SourceID) bool {
	for _, h := range m.env.Dir.All(member.RoleHeadend, m.env.Host.Self().Operator) {
		if report.SourceOf(h.Member.Key[:]) == id {
			return true
		}
	}
	return false
}

func (m *metering) warnNoKey(none bool) {
	m.env.Warn.Set(none, role.Warning{Code: "no-seal-key", Severity: role.Problem, Title: "The utility's keys have run out",
		Text: "Readings are taken and kept, but there is no key of today to seal them with.", Next: "Nothing to do: a new order of the head-end brings keys for 30 days.",
		After: 10 * time.Minute}, m.env.Clock.Now())
}

// backlogReports is from when on a person is told that reports wait.
const backlogReports = 4

func (m *metering) watchBacklog() {
	n, err := m.queue.Pending()
	if err != nil {
		return // the sender meets the same error and reports it
	}
	m.env.Warn.Set(n >= backlogReports, role.Warning{Code: "reports-waiting", Severity: role.Problem, Title: "Meter reports are waiting",
		Text: fmt.Sprintf("%d reports have not reached the utility yet. They are kept here for 30 days.", n), Next: "Check the Internet connection of this home.",
		Because: "parents-offline", After: 30 * time.Minute}, m.env.Clock.Now())
}

// substations are the connected SSNs, the own zone's first.
func substations(env *role.Env) []mesh.Member {
	var own, other []mesh.Member
	zone := env.Host.Self().Zone
	for _, p := range env.Host.Peers() {
		if p.Role != member.RoleSSN {
			continue
		}
		if p.Zone == zone {
			own = append(own, p)
		} else {
			other = append(other, p)
		}
	}
	return append(own, other...)
}

// forgetAfter is how long own readings are kept beyond their report.
const forgetAfter = 7 * 24 * time.Hour

// tidy drops what the house no longer needs; it is called daily.
func (g *Gateway) tidy(ctx context.Context) error {
	for clock.Sleep(ctx, g.env.Clock, 24*time.Hour) {
		if err := g.forget(g.env.Clock.Now()); err != nil {
			return fmt.Errorf("forget what is over: %w", err)
		}
	}
	return nil
}

// forget drops readings and journal entries that nobody looks at any more.
func (g *Gateway) forget(now time.Time) error {
	for {
		n, err := g.journal.forget(now)
		if err != nil {
			return err
		}
		m := 0
		err = g.env.Store.Update(func(tx *store.Tx) (err error) {
			if m, err = meter.Forget(tx, meterName, now.Add(-forgetAfter).UnixMilli(), forgetBatch); err != nil || g.metered == nil {
				return err
			}
			old, err := g.metered.forgetEvidence(tx, now)
			m = max(m, old)
			return err
		})
		if err != nil || n < forgetBatch && m < forgetBatch {
			return err
		}
	}
}

// forgetBatch bounds one update of forget.
const forgetBatch = 500
