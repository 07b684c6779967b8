package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/battery"
	"gridveil/ev"
	"gridveil/node/meter"
	"gridveil/node/model"
	"gridveil/node/store"
)

// gauges are the house's registers at one instant, mWh, and its present powers.
type gauges struct {
	At              time.Time
	Import, Export  int64
	PV              int64
	BattIn, BattOut int64
	MeterW          int64 // import positive
	CarW            int64 // charging positive, as the house sees it
	HasInverter     bool  // PV and battery are measured
}

// observe hands what the meter and the inverter say to the hosting half.
func (g *Gateway) observe(f meter.Frame, at time.Time, watts battery.Watts) {
	in, ok1 := f.Get(model.ImportTotal)
	out, ok2 := f.Get(model.ExportTotal)
	if g.hosting == nil || !ok1 || !ok2 {
		return
	}
	m := gauges{At: at, Import: in, Export: out, MeterW: int64(watts)}
	if g.house != nil || g.mask != nil {
		h, ok := g.inverter()
		if !ok {
			return
		}
		m.PV, m.BattIn, m.BattOut, m.CarW, m.HasInverter = h.PV, h.BattIn, h.BattOut, int64(h.CarWatts), g.house != nil || g.env.Config.PV.PeakW == 0
	}
	g.hosting.sample(m)
}

// samples are the house's registers minute by minute, as far back as an open
// bill or the memory of the battery needs them.
type samples struct {
	marks   []gauges // oldest first
	flushed time.Time
	lots    ev.Lots // what the home battery holds
	lotsAt  int64   // as of then, UTC ms
}

const (
	intervalMS = 300_000 // ev design 2: intervals of 300 s
	interval   = intervalMS * time.Millisecond
	// lotsBehind is how far the battery's memory stays behind the house: a
	// wallbox may tell of a transaction's begin when minutes of it are over.
	lotsBehind = 30 * time.Minute
	// maxMarks bounds the samples of one bill: ev.MaxIntervals of minutes.
	maxMarks = ev.MaxIntervals * 5
)

var (
	sampleSpace = store.SpaceSession.Key([]byte("h"))
	lotsKey     = store.SpaceSession.Key([]byte("lots"))
)

func sampleKey(window time.Time) []byte {
	return append(sampleSpace[:len(sampleSpace):len(sampleSpace)], store.U64(uint64(window.UnixMilli()))...)
}

type storedLots struct {
	Lots ev.Lots
	At   int64
}

func (h *hosting) loadSamples() error {
	return h.env.Store.View(func(tx *store.Tx) error {
		b, err := tx.Get(lotsKey)
		if err == nil {
			var l storedLots
			if err := json.Unmarshal(b, &l); err != nil {
				return fmt.Errorf("stored battery lots: %w", err)
			}
			h.samples.lots, h.samples.lotsAt = l.Lots, l.At
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		h.samples.lots.Capacity = int64(h.env.Config.Battery.CapacityWh) * 1000
		return tx.Each(sampleSpace, func(_, v []byte) error {
			var window []gauges
			if err := json.Unmarshal(v, &window); err != nil {
				return fmt.Errorf("stored samples: %w", err)
			}
			h.samples.marks = append(h.samples.marks, window...)
			if n := len(window); n > 0 {
				h.samples.flushed = window[n-1].At
			}
			return nil
		})
	})
}

// sample takes the house's registers; one a minute is kept, and what is kept is
// durable at every 5-minute mark. It is called for every frame of the meter.
func (h *hosting) sample(g gauges) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.samples
	if n := len(s.marks); n > 0 && !g.At.Truncate(time.Minute).After(s.marks[n-1].At.Truncate(time.Minute)) {
		return
	}
	if len(s.marks) >= maxMarks {
		s.marks = slices.Delete(s.marks, 0, maxMarks/8) // nobody can bill that far back
	}
	s.marks = append(s.marks, g)
	if s.lotsAt == 0 {
		s.lotsAt = g.At.UnixMilli()
	}
	if err := h.keepSamples(g.At); err != nil {
		h.env.Log.Warn("samples of the house not stored; they are kept in memory", "err", err)
	}
	if v := h.current; v.s.State.Running() {
		t := h.turn(v, h.env.Clock.Now())
		h.progress(t)
		if err := t.commit(); err != nil {
			h.env.Log.Warn("running session not stored; the next minute tries again", "err", err)
		}
	}
	poke(h.kick)
}

// keepSamples makes samples durable when a 5-minute mark has been passed, and
// lets the memory of the battery follow while no bill is open.
func (h *hosting) keepSamples(now time.Time) error {
	s := &h.samples
	if !now.Truncate(interval).After(s.flushed.Truncate(interval)) {
		return nil
	}
	return h.flush(now)
}

// flush stores every sample that is not stored yet.
func (h *hosting) flush(now time.Time) error {
	s := &h.samples
	windows := map[time.Time][]gauges{}
	for i := len(s.marks) - 1; i >= 0 && !s.marks[i].At.Before(s.flushed.Truncate(interval)); i-- {
		w := s.marks[i].At.Truncate(interval)
		windows[w] = append([]gauges{s.marks[i]}, windows[w]...)
	}
	lots, at := s.lots.Clone(), s.lotsAt
	if !h.billOpen() {
		at = h.advance(lots, at, now.Add(-lotsBehind-h.lag()).Truncate(interval).UnixMilli())
	}
	err := h.env.Store.Update(func(tx *store.Tx) error {
		for w, marks := range windows {
			b, err := json.Marshal(marks)
			if err != nil {
				return err
			}
			if err := tx.Set(sampleKey(w), b); err != nil {
				return err
			}
		}
		return h.writeLots(tx, lots, at)
	})
	if err == nil {
		s.flushed, s.lots, s.lotsAt = now, *lots, at
		h.dropSamples()
	}
	return err
}

// writeLots stages the memory of the battery and drops the samples before it.
func (h *hosting) writeLots(tx *store.Tx, lots *ev.Lots, at int64) error {
	b, err := json.Marshal(storedLots{*lots, at})
	if err != nil {
		return err
	}
	if err := tx.Set(lotsKey, b); err != nil {
		return err
	}
	var old [][]byte
	first := sampleKey(time.UnixMilli(h.oldest(at)).Truncate(interval))
	err = tx.Each(sampleSpace, func(k, _ []byte) error {
		if slices.Compare(k, first) >= 0 || len(old) >= 500 {
			return store.ErrStop
		}
		old = append(old, k)
		return nil
	})
	for _, k := range old {
		err = errors.Join(err, tx.Delete(k))
	}
	return err
}

// oldest is the first instant whose samples are still needed.
func (h *hosting) oldest(at int64) int64 {
	for _, v := range h.visits {
		if v.billOpen() {
			at = min(at, v.rec.LotsAt, v.s.StartedAt)
		}
	}
	return at
}

func (h *hosting) dropSamples() {
	from := time.UnixMilli(h.oldest(h.samples.lotsAt)).Truncate(interval)
	i := 0
	for i < len(h.samples.marks) && h.samples.marks[i].At.Before(from) {
		i++
	}
	h.samples.marks = h.samples.marks[i:]
}

// advance lets the battery's memory pass [from, to) without a car and says how
// far it came.
func (h *hosting) advance(lots *ev.Lots, from, to int64) int64 {
	if from == 0 || to-from < 2 {
		return from
	}
	rs, err := ev.Align(h.series(nil, from, to), from, to, intervalMS)
	if err != nil {
		h.env.Log.Warn("home battery's memory skips an interval", "err", err)
		return to
	}
	for _, r := range rs {
		if _, err := ev.Attribute(r, h.policy(), lots); err != nil {
			h.env.Log.Warn("home battery's memory skips an interval", "err", err)
		}
	}
	return to
}

// billOpen says whether some session still has to be attributed: until then the
// battery's memory waits at its begin.
func (h *hosting) billOpen() bool {
	for _, v := range h.visits {
		if v.billOpen() {
			return true
		}
	}
	return false
}

func (v *visit) billOpen() bool {
	return v.rec.LotsAt != 0 && (v.s.State.Running() || v.s.State == ev.EndedState && v.rec.Outcome.Bill == nil && v.rec.Outcome.Problem == "")
}

// pinLots remembers what the battery holds when a transaction begins.
func (h *hosting) pinLots(v *visit) {
	lots := h.samples.lots.Clone()
	at := h.advance(lots, h.samples.lotsAt, v.s.StartedAt)
	v.rec.Lots, v.rec.LotsAt = *lots, max(at, 1)
	if n := len(h.samples.marks); n > 0 {
		if err := h.flush(h.samples.marks[n-1].At); err != nil {
			h.env.Log.Warn("samples of the house not stored; they are kept in memory", "err", err)
		}
	}
}

// series are the registers of house and car around [from, to].
func (h *hosting) series(readings []ev.Reading, from, to int64) (s ev.Series) {
	const around = 2 * time.Minute
	for _, g := range h.samples.marks {
		at := g.At.UnixMilli()
		if at < from-around.Milliseconds() || at > to+around.Milliseconds() {
			continue
		}
		s.Import = append(s.Import, ev.Mark{At: at, MWh: g.Import})
		s.Export = append(s.Export, ev.Mark{At: at, MWh: g.Export})
		if g.HasInverter {
			s.PV = append(s.PV, ev.Mark{At: at, MWh: g.PV})
			s.BattIn = append(s.BattIn, ev.Mark{At: at, MWh: g.BattIn})
			s.BattOut = append(s.BattOut, ev.Mark{At: at, MWh: g.BattOut})
		}
	}
	for _, r := range readings {
		if r.HasImport {
			s.EVIn = appendRounded(s.EVIn, ev.Mark{At: r.At, MWh: r.ImportMWh})
		}
		if r.HasExport {
			s.EVOut = appendRounded(s.EVOut, ev.Mark{At: r.At, MWh: r.ExportMWh})
		}
	}
	return s
}

// coarsest is the step of OCPP 1.6's meterStop: a transaction that was sampled in
// mWh ends in whole Wh, up to that much below its last sample.
const coarsest = 1000 // mWh

// appendRounded appends a mark; one that only fell by rounding is raised to the
// mark before. The bill is scaled to the signed total anyway.
func appendRounded(marks []ev.Mark, m ev.Mark) []ev.Mark {
	if n := len(marks); n > 0 {
		if last := marks[n-1].MWh; m.MWh < last && last-m.MWh < coarsest {
			m.MWh = last
		}
	}
	return append(marks, m)
}

func (h *hosting) policy() ev.Policy {
	return map[string]ev.Policy{"ev-first": ev.EVFirst, "home-first": ev.HomeFirst, "pro-rata": ev.ProRata}[h.env.Config.Hosting.Policy]
}

// deal is what prices a visit: what was agreed with a guest, else the house's
// own offer, for the page.
func (h *hosting) deal(v *visit) (ev.Deal, error) {
	a := v.rec.Agreed
	if a == nil {
		return h.ownDeal()
	}
	terms, err := ev.DecodeTerms(a.Terms)
	if err != nil {
		return ev.Deal{}, err
	}
	fees, err := ev.DecodeFeeSheet(a.FeeSheet)
	return ev.Deal{Terms: terms, Grid: a.Grid, Res: a.Res, Out: a.Out, Fee: fees, Minor: ev.MinorEUR}, err
}

// seenTo is the newest instant that both the house's meter and the wallbox have
// told about.
func (h *hosting) seenTo(v *visit) int64 {
	if len(v.readings) == 0 || len(h.samples.marks) == 0 {
		return 0
	}
	return min(v.readings[len(v.readings)-1].At, h.samples.marks[len(h.samples.marks)-1].At.UnixMilli())
}

// flows attributes a running visit up to an instant.
func (h *hosting) flows(v *visit, to int64) ([]ev.Flow, error) {
	if v.s.StartedAt == 0 || to-v.s.StartedAt < 2 {
		return nil, nil
	}
	rs, err := ev.Align(h.series(v.readings, v.s.StartedAt, to), v.s.StartedAt, to, intervalMS)
	if err != nil {
		return nil, err
	}
	lots := v.rec.Lots.Clone()
	var out []ev.Flow
	for _, r := range rs {
		f, err := ev.Attribute(r, h.dealPolicy(v), lots)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func (h *hosting) dealPolicy(v *visit) ev.Policy {
	if d, err := h.deal(v); err == nil {
		return d.Terms.Policy
	}
	return h.policy()
}

// progress brings the running bill up to date and plans the next minute.
func (h *hosting) progress(t *turn) {
	v := t.v
	fs, err := h.flows(v, h.seenTo(v))
	if err == nil && len(fs) > 0 {
		var d ev.Deal
		var s ev.Shares
		if d, err = h.deal(v); err == nil {
			if s, err = ev.Split(fs, d); err == nil {
				e := energyOfFlows(fs)
				t.session(ev.SoFar{Energy: e, Shares: s})
				h.enough(t, e)
			}
		}
	}
	if err != nil {
		h.env.Log.Warn("running bill put off", "err", err)
	}
	h.plan(t)
}

func energyOfFlows(fs []ev.Flow) (e ev.Energy) {
	for _, f := range fs {
		e.Grid += f.Grid
		e.Res += f.Res
		e.Out += f.Home + f.Export
	}
	return e
}

// scaling is the share of an interval's energy that fitting the registers to the
// signed total may move: ev.ScaleEV allows 1 %.
const scaling = 64

// certain is the part of the running bill that the final one cannot fall below:
// closed intervals, each source less what scaling may take from it.
func (h *hosting) certain(v *visit) (e ev.Energy, s ev.Shares, err error) {
	to := h.seenTo(v) / intervalMS * intervalMS
	fs, err := h.flows(v, to)
	if err != nil {
		return e, s, err
	}
	for i := range fs {
		f := &fs[i]
		in, out := (f.Res+f.Grid)/scaling, (f.Home+f.Export)/scaling
		f.Res, f.Grid = max(0, f.Res-in), max(0, f.Grid-in)
		f.Home, f.Export = max(0, f.Home-out), max(0, f.Export-out)
	}
	d, err := h.deal(v)
	if err != nil {
		return e, s, err
	}
	s, err = ev.Split(fs, d)
	return energyOfFlows(fs), s, err
}
