package plant

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridveil/battery"
)

var monday = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

type constant float64

func (c constant) Watts(time.Time) float64 { return float64(c) }

func TestEnergyIsConservedToTheMilliwattHour(t *testing.T) {
	h := &Home{Load: NewHousehold(7), PV: Roof{PeakW: 6000, Seed: 1}, Car: constant(3700),
		Battery: &battery.Store{Spec: battery.Reference(5000, 3000), E: 2500}}
	h.reg.BattLevel = 2_500_000
	asked := 0
	h.Regulate = func(Flow) float64 { asked++; return float64(asked%7-3) * 900 }
	for m := range minutesPerDay {
		h.Advance(monday.Add(time.Duration(m) * time.Minute))
	}
	r := h.Registers()
	in := r.Import + r.PV + r.BattOut
	out := r.Export + r.Load + r.CarIn - r.CarOut + r.BattIn
	if d := in - out; d < -10 || d > 10 {
		t.Errorf("flows differ by %d mWh over a day: %+v", d, r)
	}
	if d := r.BattIn - r.BattOut - r.Loss - (r.BattLevel - 2_500_000); d < -2000 || d > 2000 {
		t.Errorf("battery books differ by %d mWh", d)
	}
	if r.PV == 0 || r.Export == 0 || r.BattOut == 0 {
		t.Errorf("the day was not exercised: %+v", r)
	}
}

func TestSameSeedSameHomeAndHomesDiffer(t *testing.T) {
	a, b, c := NewHousehold(3), NewHousehold(3), NewHousehold(4)
	var same, other int
	var kwh float64
	for m := range 7 * minutesPerDay {
		at := monday.Add(time.Duration(m) * time.Minute)
		w := a.Watts(at)
		kwh += w / 60000
		if w != b.Watts(at) {
			same++
		}
		if w != c.Watts(at) {
			other++
		}
		if w < 0 || w > 25_000 {
			t.Fatalf("minute %d: %.0f W", m, w)
		}
	}
	if same != 0 || other == 0 {
		t.Errorf("%d minutes differ for one seed, %d between two", same, other)
	}
	if kwh < 15 || kwh > 220 {
		t.Errorf("a week took %.0f kWh, not a household", kwh)
	}
}

func TestRoofShinesByDayOnly(t *testing.T) {
	p := Roof{PeakW: 8000, Seed: 2}
	if w := p.Watts(monday.Add(1 * time.Hour)); w != 0 {
		t.Errorf("at night: %.0f W", w)
	}
	var kwh float64
	for m := range minutesPerDay {
		w := p.Watts(monday.Add(time.Duration(m) * time.Minute))
		if w < 0 || w > 8000 {
			t.Fatalf("minute %d: %.0f W from 8 kW", m, w)
		}
		kwh += w / 60000
	}
	if kwh < 10 || kwh > 75 {
		t.Errorf("a June day gave %.1f kWh from 8 kW", kwh)
	}
}

func TestTraceServesManyHomesADayApart(t *testing.T) {
	dir := t.TempDir()
	var b strings.Builder
	b.WriteString("time,load_w\n")
	for m := range 2 * minutesPerDay {
		at := monday.Add(time.Duration(m) * time.Minute)
		b.WriteString(at.Format("2006-01-02T15:04") + "," + []string{"100", "200"}[m/minutesPerDay] + "\n")
	}
	if err := os.WriteFile(filepath.Join(dir, "home_a.csv"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	loads, err := Traces(dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := loads[0].Watts(monday), loads[1].Watts(monday); a == b {
		t.Errorf("both homes show %v W at the same minute", a)
	}
}

func TestBadTraceNamesItsLine(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", ":1: empty file"},
		{"time,power\n", ":1: header"},
		{"time,load_w\n2026-06-01T00:00,abc\n", ":2: load_w \"abc\""},
		{"time,load_w\nyesterday,5\n", ":2: time \"yesterday\""},
		{"time,load_w\n2026-06-01T00:00,5\n2026-06-01T00:00,5\n", ":3: time"},
		{"time,load_w\n2026-06-01T00:00\n", ":2: 1 columns"},
		{"time,load_w\n2026-06-01T00:00,5\n", "less than one day"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "home_x.csv"), []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Traces(dir, 1); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: got %v, want %q", tc.text, err, tc.want)
		}
	}
	if _, err := Traces(t.TempDir(), 3); err == nil || !strings.Contains(err.Error(), "home_*.csv") {
		t.Errorf("empty folder: got %v", err)
	}
}
