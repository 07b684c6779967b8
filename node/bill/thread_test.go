package bill_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"runtime"
	"testing"
	"time"

	"gridveil/ev/tariff"
	"gridveil/node/bill"
	"gridveil/node/meter"
	"gridveil/node/meter/sim"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/store"
	"gridveil/node/vee"
)

// home is a gateway with a simulated meter: read, check, store, pack, sign.
type home struct {
	meter   *sim.Meter
	queue   *report.Queue
	pub     ed25519.PublicKey
	roster  model.Roster
	profile model.Profile
	stop    func()
}

var registers = []model.Channel{model.ImportTotal, model.ExportTotal}

func newHome(t *testing.T) *home {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	st := openStore(t)
	h := &home{pub: pub, queue: report.OpenQueue(st, report.ClassEnergy, key),
		roster: model.Roster{Version: 1, Entries: []model.RosterEntry{{Ordinal: 1, UsagePoint: model.UsagePoint{7}, State: model.ReadImportExport}}},
		profile: model.Profile{TAF: model.TAFSeries, Basis: model.BasisContract, CapturePeriod: 15 * time.Minute,
			ReportPeriod: time.Hour, Channels: registers}}
	if h.meter, err = sim.New(sim.Config{Serial: "T1", Decimals: 6, ImportMWh: 1_000_000}); err != nil {
		t.Fatal(err)
	}
	rules := vee.Standard()
	c, err := meter.New(meter.Config{Name: "main", Source: h.meter, Store: st, ReadPeriod: 15 * time.Minute, ReportPeriod: time.Hour,
		Channels: registers, State: model.ReadImportExport, Rules: rules,
		Report: func(tx *store.Tx, w meter.Window) error {
			rs, err := meter.Readings(tx, "main", w.From, w.To)
			if err != nil {
				return err
			}
			drafts, err := report.Build(rand.Reader, h.profile, h.roster,
				report.Window{Class: report.ClassEnergy, From: w.From, To: w.To, Period: w.Period, Rules: rules.Version()},
				[]report.Series{{Ordinal: 1, Readings: rs}})
			for _, d := range drafts {
				if _, err := h.queue.Append(tx, d); err != nil {
					return err
				}
			}
			return err
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Serve(ctx) }()
	for !h.meter.Connected() {
		runtime.Gosched()
	}
	h.stop = func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	}
	return h
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	st, err := store.Open(t.TempDir(), store.MasterKey{1}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// headEnd verifies, opens, checks and keeps what homes send.
type headEnd struct {
	key    ed25519.PrivateKey
	days   map[uint16]report.DayKey
	head   report.Head
	states map[model.Channel]vee.State
	blocks map[[2]int64]*model.IntervalBlock
}

// KeyFor stands for the seal keys of an order.
func (e *headEnd) KeyFor(day uint16) ([32]byte, bool) {
	k, ok := e.days[day]
	return k.Pub, ok
}

func (e *headEnd) take(t *testing.T, h *home, raw []byte) report.Ack {
	t.Helper()
	m, err := report.DecodeMessage(raw)
	if err != nil {
		t.Fatal(err)
	}
	v := report.Admit(report.Known{Key: h.pub, Head: e.head, HasRoster: func(n uint32) bool { return n == 1 }}, m.Header)
	if v.Take {
		body, err := report.OpenReport(m, e.days[m.Day])
		if err != nil {
			t.Fatal(err)
		}
		for _, rs := range report.Readings(m.Header, body) {
			for _, r := range rs {
				e.keep(t, m.Header, r)
			}
		}
		e.head = e.head.Advance(m.Header)
	} else if !v.Duplicate {
		t.Fatalf("refused: %+v", v)
	}
	return e.head.AckFor(report.ClassEnergy, m.Header.Source, report.LevelFinal, 0, e.key)
}

// keep is the second stage of checking and the day's interval block.
func (e *headEnd) keep(t *testing.T, h report.Header, r model.Reading) {
	t.Helper()
	rules, s := vee.Standard(), e.states[r.Channel]
	o := rules.Check(&s, vee.Meter{Period: int64(h.Period), Known: true, Now: h.End()}, r)
	e.states[r.Channel] = s
	if skipped := vee.Missing(vee.Flags(r.Flags), o.Flags); skipped != 0 || o.Flags.Rejected() {
		t.Errorf("slot %d: flags here %v, there %v", r.Slot, o.Flags, vee.Flags(r.Flags))
	}
	day := r.Slot - r.Slot%86_400_000
	b := e.blocks[[2]int64{int64(r.Channel), day}]
	if b == nil {
		b = &model.IntervalBlock{UsagePoint: model.UsagePoint{7}, Source: h.Source, Channel: r.Channel, State: r.State, Day: day,
			Period: time.Duration(h.Period) * time.Millisecond}
		e.blocks[[2]int64{int64(r.Channel), day}] = b
	}
	b.Readings = append(b.Readings, model.IntervalReading{Slot: r.Slot, Register: r.Register, Epoch: r.Epoch, Status: r.Status,
		Quality: r.Quality, Flags: uint32(o.Flags), Unc: r.Unc, Report: h.Seq})
}

// TestOneMeterBecomesOneBill is the thin thread through every package here:
// P1 bytes, slots, rules, signed and sealed report, head-end, block, bill.
func TestOneMeterBecomesOneBill(t *testing.T) {
	headPub, headKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h := newHome(t)
	e := &headEnd{key: headKey, days: map[uint16]report.DayKey{}, states: map[model.Channel]vee.State{}, blocks: map[[2]int64]*model.IntervalBlock{}}
	begin := time.Date(2024, 3, 4, 0, 0, 0, 0, time.UTC)
	for _, at := range []time.Time{begin, begin.AddDate(0, 0, 1)} {
		day := report.DayOf(at.UnixMilli())
		if e.days[day], err = report.NewDayKey(rand.Reader, day); err != nil {
			t.Fatal(err)
		}
	}
	imported, exported := int64(0), int64(0)
	for minute := range int64(24*60 + 1) {
		now := begin.Add(time.Duration(minute) * time.Minute)
		s := sim.Sample{}
		if minute > 0 {
			s.ImportMWh = 5_000 + minute*37%9_001
			if h := minute / 60; h >= 10 && h < 15 {
				s.ExportMWh, s.ImportMWh = s.ImportMWh*2, 0
			}
			imported, exported = imported+s.ImportMWh, exported+s.ExportMWh
		}
		if err := h.meter.Step(context.Background(), now, s); err != nil {
			t.Fatal(err)
		}
		msgs, err := h.queue.Due(now, rand.Reader, e)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range msgs {
			if _, err := h.queue.OnAck(e.take(t, h, m.Encode()), headPub, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.stop()
	if n, _ := h.queue.Pending(); n != 0 {
		t.Errorf("%d reports are still pending", n)
	}
	var blocks []model.IntervalBlock
	for _, b := range e.blocks {
		raw, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := model.DecodeBlock(raw)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, again)
	}
	flat := []tariff.Band{{FromMin: 0, ToMin: 1440, Import: 300_000, Export: 80_000}}
	cal, err := tariff.New(tariff.Spec{Version: 1, Currency: 978, Zone: "UTC", Days: [4][]tariff.Band{flat, flat, flat, flat}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bill.Compute(bill.Contract{UsagePoint: model.UsagePoint{7}, State: model.ReadImportExport, Calendar: cal,
		From: begin.UnixMilli(), To: begin.AddDate(0, 0, 1).UnixMilli()}, blocks)
	if err != nil {
		t.Fatal(err)
	}
	if b.Lines[0].Energy != imported || b.Lines[1].Energy != exported || b.Slots != 2*96 {
		t.Errorf("billed %d and %d mWh, true %d and %d", b.Lines[0].Energy, b.Lines[1].Energy, imported, exported)
	}
	in, _ := bill.Amount(imported, 300_000)
	out, _ := bill.Amount(exported, 80_000)
	if b.Total != in-out {
		t.Errorf("total %d, want %d", b.Total, in-out)
	}
}
