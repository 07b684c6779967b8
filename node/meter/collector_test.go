package meter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gridveil/node/model"
	"gridveil/node/store"
	"gridveil/node/vee"
)

const quarter = int64(900_000)

// base is a whole day, so that all periods share the boundary.
var base = time.Date(2024, 3, 4, 0, 0, 0, 0, time.UTC).UnixMilli()

// script is a source that emits given frames and then waits.
type script struct {
	frames []Frame
	info   Info
	end    error // returned after the frames instead of waiting
	runs   atomic.Int64
}

func (s *script) Info() Info { return s.info }

func (s *script) Run(ctx context.Context, emit func(Frame) error) error {
	s.runs.Add(1)
	for len(s.frames) > 0 {
		f := s.frames[0]
		s.frames = s.frames[1:]
		if err := emit(f); err != nil {
			return err
		}
	}
	if s.end != nil {
		return s.end
	}
	<-ctx.Done()
	return ctx.Err()
}

func frameAt(at, register int64) Frame {
	return Frame{At: at, Values: []Value{{model.ImportTotal, register}, {model.ExportTotal, 0}}}
}

func openStore(t testing.TB, dir string) *store.Store {
	t.Helper()
	st, err := store.Open(dir, store.MasterKey{1}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// report is what Config.Report saw.
type report struct {
	w     Window
	slots []int64
}

type bench struct {
	st      *store.Store
	reports []report
	live    []model.Reading
}

func (b *bench) collector(t testing.TB, src Source, read, every time.Duration) *Collector {
	t.Helper()
	c, err := New(Config{Name: "main", Source: src, Store: b.st, ReadPeriod: read, ReportPeriod: every, State: model.ReadImportExport,
		Channels:   []model.Channel{model.ImportTotal, model.ExportTotal},
		OnReadings: func(r []model.Reading) { b.live = append(b.live, r...) },
		Report: func(tx *store.Tx, w Window) error {
			rs, err := Readings(tx, "main", w.From, w.To)
			if err != nil {
				return err
			}
			rep := report{w: w}
			for _, r := range rs {
				if r.Channel == model.ImportTotal {
					rep.slots = append(rep.slots, (r.Slot-base)/60_000)
				}
			}
			b.reports = append(b.reports, rep)
			return tx.Set(store.SpaceReport.Key(store.U64(uint64(len(b.reports)))), fmt.Append(nil, rep.slots))
		}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// feed gives frames to a collector without Serve.
func feed(t testing.TB, c *Collector, frames ...Frame) {
	t.Helper()
	for _, f := range frames {
		if err := c.take(f); err != nil {
			t.Fatal(err)
		}
	}
}

func minutes(from, to, step int64) (out []Frame) {
	for m := from; m <= to; m += step {
		out = append(out, frameAt(base+m*60_000, 1_000_000+m*1000))
	}
	return out
}

func (b *bench) reported() (out []int64) {
	for _, r := range b.reports {
		out = append(out, r.slots...)
	}
	return out
}

func TestSlotTakesTheFrameAtItsEnd(t *testing.T) {
	b := &bench{st: openStore(t, t.TempDir())}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	feed(t, c, minutes(0, 60, 1)...)
	if len(b.live) != 10 {
		t.Fatalf("%d readings, want 5 slots of two registers", len(b.live))
	}
	for i, r := range b.live {
		end := base + int64(i/2)*quarter
		if r.Slot != end-quarter || r.At != end || r.Channel == model.ImportTotal && r.Register != 1_000_000+int64(i/2)*15_000 {
			t.Errorf("reading %d: %+v", i, r)
		}
	}
	if b.live[0].Status&model.StatusEpoch == 0 || b.live[2].Status != 0 {
		t.Errorf("first reading of an epoch is marked: %v, next %v", b.live[0].Status, b.live[2].Status)
	}
}

func TestPushedFrameStandsForTenSecondsElseTheNextIsLate(t *testing.T) {
	end := base + quarter
	cases := map[string]struct {
		frames []int64 // ms relative to the slot's end
		at     int64   // chosen frame
		late   bool
		gap    bool
	}{
		"exactly at the end":        {[]int64{-5000, 0, 5000}, 0, false, false},
		"ten seconds before":        {[]int64{-10_000, 3000}, -10_000, false, false},
		"eleven before, then after": {[]int64{-11_000, 3000}, 3000, true, false},
		"half a slot later":         {[]int64{-60_000, 450_000}, 450_000, true, false},
		"beyond half a slot":        {[]int64{-60_000, 450_001}, 0, false, true},
	}
	for name, c := range cases {
		cut := cutter{period: quarter}
		cut.feed(frameAt(base, 1))
		var got []cut2
		for _, ms := range c.frames {
			for _, x := range cut.feed(frameAt(end+ms, 2)) {
				got = append(got, cut2{x.frame.At - end, x.late, x.gap})
			}
		}
		want := cut2{c.at, c.late, c.gap}
		if c.gap {
			want.at = -end
		}
		if len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

type cut2 struct {
	at        int64
	late, gap bool
}

func TestTimeAloneClosesSlots(t *testing.T) {
	c := cutter{period: quarter}
	c.feed(frameAt(base, 1))
	c.feed(frameAt(base+quarter-4000, 2))
	if out := c.tick(base + quarter + 1999); len(out) != 0 {
		t.Errorf("closed before the grace: %+v", out)
	}
	if out := c.tick(base + quarter + 2000); len(out) != 1 || out[0].gap || out[0].frame.At != base+quarter-4000 {
		t.Errorf("after the grace: %+v", out)
	}
	if out := c.tick(base + 2*quarter + 452_000); len(out) != 1 || !out[0].gap {
		t.Errorf("silence: %+v", out)
	}
	if out := c.tick(base + 1000*quarter); len(out) > 3 {
		t.Errorf("a long silence makes %d cuts", len(out))
	}
}

func TestReportCardinality(t *testing.T) {
	b := &bench{st: openStore(t, t.TempDir())}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	feed(t, c, minutes(0, 24*60, 5)...)
	if len(b.reports) != 25 { // the slot that ends at the first midnight, then 24 hours
		t.Errorf("%d reports, want 25", len(b.reports))
	}
	if got := b.reported(); len(got) != 97 {
		t.Errorf("%d slots reported, want 97", len(got))
	}
}

// TestPeriodsChangeLiveWithoutGapOrDouble is requirement B3 (F4).
func TestPeriodsChangeLiveWithoutGapOrDouble(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	periods := []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour}
	b := &bench{st: openStore(t, t.TempDir())}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	for m := int64(0); m <= 30*60; m++ {
		feed(t, c, frameAt(base+m*60_000, m*1000))
		if rng.IntN(97) == 0 {
			read := periods[rng.IntN(len(periods))]
			every := periods[rng.IntN(len(periods))]
			if every%read != 0 {
				every = read
			}
			if err := c.SetPeriods(read, every); err != nil {
				t.Fatal(err)
			}
		}
	}
	end := int64(-15)
	for _, r := range b.reports {
		if from := (r.w.From - base) / 60_000; from != end {
			t.Fatalf("report begins at minute %d, the one before ended at %d", from, end)
		}
		step := int64(r.w.Period / time.Minute)
		if want := (r.w.To - r.w.From) / r.w.Period.Milliseconds(); int64(len(r.slots)) != want {
			t.Fatalf("report %v..%v in slots of %v has %d slots, want %d", r.w.From, r.w.To, r.w.Period, len(r.slots), want)
		}
		for i, s := range r.slots {
			if s != end+int64(i)*step {
				t.Fatalf("slot %d of the report is minute %d, want %d", i, s, end+int64(i)*step)
			}
		}
		end = (r.w.To - base) / 60_000
	}
	if end < 29*60 {
		t.Errorf("reported to minute %d only", end)
	}
}

// TestCrashBetweenReadAndReport is requirement B2: the collector is thrown away
// at any frame; what is reported in the end is everything, once.
func TestCrashBetweenReadAndReport(t *testing.T) {
	dir := t.TempDir()
	b := &bench{st: openStore(t, dir)}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	rng := rand.New(rand.NewPCG(8, 8))
	for m := int64(0); m <= 12*60; m++ {
		if rng.IntN(50) == 0 {
			c = b.collector(t, &script{}, 15*time.Minute, time.Hour)
		}
		feed(t, c, frameAt(base+m*60_000, m*1000))
	}
	want := []int64{}
	for m := int64(-15); m < 12*60; m += 15 {
		want = append(want, m)
	}
	if got := b.reported(); !reflect.DeepEqual(got, want) {
		t.Errorf("reported %v, want %v", got, want)
	}
}

func TestFailedReportMovesNothing(t *testing.T) {
	b := &bench{st: openStore(t, t.TempDir())}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	feed(t, c, minutes(0, 59, 1)...)
	boom := errors.New("no seal key")
	good := c.cfg.Report
	c.cfg.Report = func(*store.Tx, Window) error { return boom }
	if err := c.take(frameAt(base+4*quarter, 1_060_000)); !errors.Is(err, boom) {
		t.Fatalf("take: %v", err)
	}
	c = b.collector(t, &script{}, 15*time.Minute, time.Hour)
	c.cfg.Report = good
	feed(t, c, frameAt(base+4*quarter, 1_060_000))
	if got := b.reported(); !reflect.DeepEqual(got, []int64{-15, 0, 15, 30, 45}) {
		t.Errorf("reported %v", got)
	}
}

func TestGapsAreReportedAsAbsent(t *testing.T) {
	b := &bench{st: openStore(t, t.TempDir())}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	feed(t, c, minutes(0, 40, 1)...)
	feed(t, c, minutes(6*60+20, 7*60, 1)...)
	if got := b.reported(); !reflect.DeepEqual(got, []int64{-15, 0, 15, 360, 360 + 15, 360 + 30, 360 + 45}) {
		t.Errorf("reported %v", got)
	}
	first := b.live[6] // read at 6:20 for the slot that ended at 6:15
	if vee.Flags(first.Flags)&vee.Gap == 0 || first.Status&model.StatusLate == 0 {
		t.Errorf("first reading after the gap has %v, status %v", vee.Flags(first.Flags), first.Status)
	}
	if c.Status().Gaps == 0 {
		t.Error("no gap counted")
	}
}

func TestMeterSwapAndResetBeginEpochs(t *testing.T) {
	b := &bench{st: openStore(t, t.TempDir())}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	at := func(n, register int64, d byte) Frame {
		f := frameAt(base+n*quarter, register)
		f.Device = Device{d}
		return f
	}
	feed(t, c, at(0, 5_000_000_000, 1), at(1, 5_000_100_000, 1), at(2, 700, 2), at(3, 90_700, 2), at(4, 180_700, 2))
	feed(t, c, at(5, 1000, 2), at(6, 50_000, 2))
	var epochs []uint16
	var flags []vee.Flags
	for _, r := range b.live {
		if r.Channel == model.ImportTotal {
			epochs, flags = append(epochs, r.Epoch), append(flags, vee.Flags(r.Flags))
		}
	}
	if want := []uint16{0, 0, 1, 1, 1, 2, 2}; !reflect.DeepEqual(epochs, want) {
		t.Errorf("epochs %v, want %v", epochs, want)
	}
	if flags[2] != 0 || flags[5]&vee.Decrease == 0 || flags[6] != 0 {
		t.Errorf("a swap is clean, a guessed reset is not: %v", flags)
	}
}

func TestUnknownMeterIsFlagged(t *testing.T) {
	b := &bench{st: openStore(t, t.TempDir())}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	c.cfg.Known = func(d Device) bool { return d == Device{1} }
	feed(t, c, frameAt(base, 5))
	if !vee.Flags(b.live[0].Flags).Rejected() || c.Status().DeviceKnown {
		t.Errorf("flags %v", vee.Flags(b.live[0].Flags))
	}
}

func TestFrameLackingAChannelClosesNothing(t *testing.T) {
	b := &bench{st: openStore(t, t.TempDir())}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	feed(t, c, Frame{At: base, Values: []Value{{model.ImportTotal, 1}}})
	if len(b.live) != 0 || c.Status().Incomplete != 1 {
		t.Errorf("%d readings, status %+v", len(b.live), c.Status())
	}
}

func TestLostSourceIsStartedAgainWithBackoff(t *testing.T) {
	dir := t.TempDir()
	st := openStore(t, dir)
	synctest.Test(t, func(t *testing.T) {
		src := &script{end: errors.New("cable pulled"), info: Info{KeepsTime: true}}
		var lost atomic.Int64
		c, err := New(Config{Name: "main", Source: src, Store: st, ReadPeriod: time.Minute, ReportPeriod: time.Minute,
			Channels: []model.Channel{model.ImportTotal}, OnLost: func(error) { lost.Add(1) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- c.Serve(ctx) }()
		time.Sleep(1*time.Second + 2*time.Second + 4*time.Second + 8*time.Second + time.Millisecond)
		synctest.Wait()
		if src.runs.Load() != 5 || lost.Load() != 5 {
			t.Errorf("%d runs in 15 s, %d reported, want 5 (1, 2, 4, 8 s apart)", src.runs.Load(), lost.Load())
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := src.runs.Load(); n > 5+4+30 || n < 5+30 {
			t.Errorf("%d runs after an hour, want one per two minutes", n)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestReadNowTakesTheNextFrameOrSaysUnreachable(t *testing.T) {
	b := &bench{st: openStore(t, t.TempDir())}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	feed(t, c, frameAt(base, 5))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.ReadNow(ctx, nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("silent meter: %v, want ErrUnreachable", err)
	}
	got := make(chan Frame)
	go func() { f, _ := c.ReadNow(context.Background(), nil); got <- f }()
	for at := base + 1000; ; at += 1000 { // the reader may not wait yet
		feed(t, c, frameAt(at, 6))
		select {
		case f := <-got:
			if f.At <= base {
				t.Error("a stored frame was given")
			}
			return
		default:
		}
	}
}

func TestConfigMistakesSayWhatToWrite(t *testing.T) {
	st := openStore(t, t.TempDir())
	good := Config{Name: "main", Source: &script{}, Store: st, ReadPeriod: 15 * time.Minute, ReportPeriod: time.Hour,
		Channels: []model.Channel{model.ImportTotal}}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"name with capitals":     func(c *Config) { c.Name = "Main" },
		"no source":              func(c *Config) { c.Source = nil },
		"no channels":            func(c *Config) { c.Channels = nil },
		"channel is no register": func(c *Config) { c.Channels = []model.Channel{model.VoltageL1} },
		"period of 7 minutes":    func(c *Config) { c.ReadPeriod = 7 * time.Minute },
		"report no multiple":     func(c *Config) { c.ReportPeriod = 20 * time.Minute },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestForgetDeletesOldReadingsOnly(t *testing.T) {
	b := &bench{st: openStore(t, t.TempDir())}
	c := b.collector(t, &script{}, 15*time.Minute, time.Hour)
	feed(t, c, minutes(0, 120, 15)...)
	err := b.st.Update(func(tx *store.Tx) error {
		n, err := Forget(tx, "main", base+quarter, 100)
		if n != 4 {
			t.Errorf("%d deleted, want 4", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.st.View(func(tx *store.Tx) error {
		rs, err := Readings(tx, "main", 0, 1<<62)
		if len(rs) != 14 || err != nil || rs[0].Slot != base+quarter {
			t.Errorf("%d left, %v", len(rs), err)
		}
		return nil
	})
}
