package sim

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gridveil/node/meter"
	"gridveil/node/meter/p1"
	"gridveil/node/model"
)

var noon = time.Date(2024, 7, 1, 10, 0, 0, 0, time.UTC)

// listen collects frames of a running meter; stop waits for Run.
func listen(t *testing.T, m *Meter) (frames func() []meter.Frame, stop func()) {
	t.Helper()
	var mu sync.Mutex
	var got []meter.Frame
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- m.Run(ctx, func(f meter.Frame) error { mu.Lock(); defer mu.Unlock(); got = append(got, f); return nil })
	}()
	for !m.Connected() {
		runtime.Gosched()
	}
	return func() []meter.Frame { mu.Lock(); defer mu.Unlock(); return append([]meter.Frame(nil), got...) },
		func() { cancel(); <-done }
}

func newMeter(t *testing.T, cfg Config) *Meter {
	t.Helper()
	if cfg.Serial == "" {
		cfg.Serial = "SIM0001"
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func step(t *testing.T, m *Meter, at time.Time, imp, exp int64) {
	t.Helper()
	if err := m.Step(context.Background(), at, Sample{ImportMWh: imp, ExportMWh: exp}); err != nil {
		t.Fatal(err)
	}
}

func TestEnergyArrivesThroughRealTelegrams(t *testing.T) {
	m := newMeter(t, Config{ImportMWh: 5_000_000, Phases: 3, Decimals: 6})
	frames, stop := listen(t, m)
	defer stop()
	step(t, m, noon, 0, 0)
	step(t, m, noon.Add(time.Minute), 12_345, 678)
	got := frames()
	if len(got) != 2 {
		t.Fatalf("%d frames after two steps: Step has to wait for its telegram", len(got))
	}
	for c, want := range map[model.Channel]int64{model.ImportTotal: 5_012_345, model.ExportTotal: 678, model.ImportT2: 5_012_345,
		model.ImportT1: 0, model.PowerImport: 740_000, model.VoltageL3: 230_000, model.TariffIndicator: 2} {
		if n, ok := got[1].Get(c); !ok || n != want {
			t.Errorf("%v: got %d, %v, want %d", c, n, ok, want)
		}
	}
	if f := got[1]; f.At != noon.Add(time.Minute).UnixMilli() || f.MeterTime != f.At || f.Integrity != model.IntegrityChecksum {
		t.Errorf("frame: %+v", f)
	}
}

func TestBandsFollowTheLocalNight(t *testing.T) {
	m := newMeter(t, Config{Decimals: 6})
	midnight := time.Date(2024, 7, 1, 22, 0, 0, 0, time.UTC) // 00:00 in summer
	step(t, m, midnight, 100, 0)
	step(t, m, midnight.Add(8*time.Hour), 40, 0)
	if m.imp != [3]int64{140, 100, 40} {
		t.Errorf("registers %v", m.imp)
	}
}

func TestUnheardMeterKeepsCounting(t *testing.T) {
	m := newMeter(t, Config{Decimals: 6})
	step(t, m, noon, 0, 0)
	step(t, m, noon.Add(time.Minute), 1000, 0)
	frames, stop := listen(t, m)
	step(t, m, noon.Add(2*time.Minute), 500, 0)
	stop()
	step(t, m, noon.Add(3*time.Minute), 250, 0)
	got := frames()
	if n, _ := got[0].Get(model.ImportTotal); len(got) != 1 || n != 1500 {
		t.Errorf("%d frames, register %d, want 1 and 1500", len(got), n)
	}
	if in, _ := m.Registers(); in != 1750 {
		t.Errorf("register %d, want 1750", in)
	}
}

func TestTwoReadersAreRefused(t *testing.T) {
	m := newMeter(t, Config{})
	_, stop := listen(t, m)
	defer stop()
	if err := m.Run(context.Background(), nil); !errors.Is(err, ErrInUse) {
		t.Errorf("second reader: %v, want ErrInUse", err)
	}
}

func TestReadAnswersOnDemandUnlessTheMeterCannot(t *testing.T) {
	m := newMeter(t, Config{Decimals: 6})
	if _, err := m.Read(t.Context(), nil); err == nil {
		t.Error("a meter that never ran answered")
	}
	step(t, m, noon, 0, 0)
	step(t, m, noon.Add(time.Minute), 1234, 0)
	f, err := m.Read(t.Context(), nil)
	if v, _ := f.Get(model.ImportTotal); err != nil || v != 1234 || f.At != noon.Add(time.Minute).UnixMilli() {
		t.Errorf("register %d at %d, %v", v, f.At, err)
	}
	for _, fault := range []Fault{Dead, BadFrames, VoltageLoss} {
		m.Inject(Event{Fault: fault})
		step(t, m, m.last.Add(time.Minute), 0, 0)
		if _, err := m.Read(t.Context(), nil); err == nil {
			t.Errorf("a meter with fault %v answered", fault)
		}
		m.Clear(fault)
		step(t, m, m.last.Add(time.Minute), 0, 0)
	}
	if _, err := m.Read(t.Context(), nil); err != nil {
		t.Errorf("after the faults: %v", err)
	}
}

func TestStepDoesNotHangWhenTheReaderLeaves(t *testing.T) {
	for range 200 {
		m := newMeter(t, Config{})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- m.Run(ctx, func(meter.Frame) error { return nil }) }()
		go cancel()
		step(t, m, noon, 1, 0)
		<-done
	}
}

func TestFaultScript(t *testing.T) {
	m := newMeter(t, Config{Phases: 3, Script: []Event{
		{At: noon.Add(2 * time.Minute), Fault: VoltageLoss, Phase: 2, For: 2 * time.Minute},
		{At: noon.Add(5 * time.Minute), Fault: FailedLogin, Count: 3},
		{At: noon.Add(6 * time.Minute), Fault: ClockSkew, Skew: 90 * time.Second, For: time.Minute},
		{At: noon.Add(8 * time.Minute), Fault: VoltageLoss, For: 3 * time.Minute},
		{At: noon.Add(12 * time.Minute), Fault: BadFrames, For: time.Minute},
		{At: noon.Add(14 * time.Minute), Fault: Dead, For: 2 * time.Minute},
		{At: noon.Add(17 * time.Minute), Fault: Swap},
	}})
	frames, stop := listen(t, m)
	defer stop()
	byMinute := map[int64]meter.Frame{}
	for i := range 19 {
		step(t, m, noon.Add(time.Duration(i)*time.Minute), 1_000_000, 0)
	}
	for _, f := range frames() {
		byMinute[(f.At-noon.UnixMilli())/60_000] = f
	}
	volts := func(minute int64, c model.Channel) int64 { n, _ := byMinute[minute].Get(c); return n }
	if volts(1, model.VoltageL2) != 230_000 || volts(2, model.VoltageL2) != 0 || volts(2, model.VoltageL1) != 230_000 || volts(4, model.VoltageL2) != 230_000 {
		t.Error("phase L2 is not away from minute 2 to 4")
	}
	if volts(4, model.AuthFailures) != 0 || volts(5, model.AuthFailures) != 3 {
		t.Error("three failed log-ins do not show")
	}
	if f := byMinute[6]; f.MeterTime-f.At != 90_000 || byMinute[7].MeterTime != byMinute[7].At {
		t.Errorf("clock skew: %d ms", f.MeterTime-f.At)
	}
	if _, gasp := byMinute[8]; !gasp || volts(8, model.VoltageL1) != 0 {
		t.Error("no last gasp")
	}
	for _, silent := range []int64{9, 10, 12, 14, 15} {
		if _, heard := byMinute[silent]; heard {
			t.Errorf("minute %d should be silent", silent)
		}
	}
	if volts(11, model.PowerFails) != 1 || m.Link().Bad != 1 {
		t.Errorf("power failures %d, bad frames %d", volts(11, model.PowerFails), m.Link().Bad)
	}
	if byMinute[16].Device == byMinute[17].Device || volts(18, model.ImportTotal) != 1_000_000 {
		t.Error("swap is not another meter at zero")
	}
	if byMinute[1].Device != p1.DeviceOf("53494D30303031") {
		t.Error("device is not the hash of the serial number")
	}
}

func TestInjectAndClear(t *testing.T) {
	m := newMeter(t, Config{})
	frames, stop := listen(t, m)
	defer stop()
	step(t, m, noon, 0, 0)
	m.Inject(Event{Fault: Dead})
	step(t, m, noon.Add(time.Minute), 0, 0)
	m.Clear(Dead)
	step(t, m, noon.Add(2*time.Minute), 0, 0)
	if n := len(frames()); n != 2 {
		t.Errorf("%d frames, want 2", n)
	}
}

func TestStepRefusesTimeAndEnergyBackwards(t *testing.T) {
	m := newMeter(t, Config{})
	step(t, m, noon, 0, 0)
	if err := m.Step(context.Background(), noon, Sample{}); err == nil {
		t.Error("two steps at one time")
	}
	if err := m.Step(context.Background(), noon.Add(1), Sample{ImportMWh: -1}); err == nil {
		t.Error("negative energy")
	}
}

func TestStandAloneMeterLosesNoEnergy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(t, Config{Decimals: 6, Load: func(time.Time) int64 { return 1234 }, Every: 7 * time.Second})
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Hour)
		defer cancel()
		n := 0
		m.Run(ctx, func(meter.Frame) error { n++; return nil })
		in, _ := m.Registers()
		if in < 12_330 || in > 12_340 || n < 5000 {
			t.Errorf("1.234 W for 10 h: %d mWh in %d frames, want 12340", in, n)
		}
	})
}

func TestSummerTimeIsTold(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Dublin")
	if err != nil {
		t.Fatal(err)
	}
	for _, z := range []*time.Location{nil, zone, time.UTC} {
		m := newMeter(t, Config{Zone: z})
		frames, stop := listen(t, m)
		for _, at := range []time.Time{noon.AddDate(0, -6, 0), noon} {
			step(t, m, at, 0, 0)
		}
		for _, f := range frames() {
			if f.MeterTime != f.At {
				t.Errorf("zone %v: meter time is off by %d ms", z, f.MeterTime-f.At)
			}
		}
		stop()
	}
}

func TestSerialNeverLeavesTheTelegram(t *testing.T) {
	m := newMeter(t, Config{Serial: "SECRETSERIAL"})
	frames, stop := listen(t, m)
	defer stop()
	step(t, m, noon, 0, 0)
	f := frames()[0]
	if bytes.Contains([]byte(f.Firmware), []byte("SECRET")) || f.Raw != nil {
		t.Error("frame shows the serial number")
	}
}
