package node

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gridveil/battery/sim"
	"gridveil/privacy/leak"
)

// TestAPartysDayIsInTheTable: every message of the command's day was counted.
func TestAPartysDayIsInTheTable(t *testing.T) {
	v := BatteryParties{Sessions: 2}.journal()
	n := 0
	for _, l := range v.Lines {
		n += l.Messages
	}
	if want := 48 + 2*(5+sessionTicks); n != want {
		t.Errorf("%d messages, want %d", n, want)
	}
}

func TestMeterCurvesFollowTheRegisters(t *testing.T) {
	tr := sim.Trace{Start: time.Date(2026, 1, 1, 23, 30, 0, 0, time.UTC), Step: 15 * time.Minute, Load: []float64{9999, 9999, 2, 2, 2, -4, -8, 400}}
	got, err := meterCurves(tr, 30*time.Minute, 1)
	if err != nil || fmt.Sprint(got) != "[[1 0 100] [0 1 2]]" {
		t.Errorf("%v %v", got, err)
	}
	if _, err := meterCurves(tr, 20*time.Minute, 1); err == nil {
		t.Error("a slot that the recording's step does not divide was taken")
	}
}

// TestPartiesOfRecordedHomes reads ../shared/data where it is: fewer readings never
// tell the utility more, more homes never tell the zone more.
func TestPartiesOfRecordedHomes(t *testing.T) {
	files, _ := filepath.Glob("../../shared/data/home_*_1min.csv")
	if len(files) == 0 {
		t.Skip("no recorded homes in ../shared/data")
	}
	for _, in := range files {
		last, lastZone := math.Inf(1), math.Inf(1)
		for i, period := range []time.Duration{15 * time.Minute, 30 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour} {
			p, err := BatteryParties{In: in, Period: period, Step: 1, Homes: 20 << i, Learn: 4}.Run(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			utility, zone := *p.Parties[leak.Utility-1].Load.AtMost, *p.Parties[leak.Zone-1].Load.AtMost
			t.Logf("%s, every %s, %d homes: %.1f and %.1f bits", filepath.Base(in), p.Period, 20<<i, utility, zone)
			if utility > last || zone > lastZone || utility <= 0 {
				t.Errorf("%s, every %s: %.1f and %.1f bits, before %.1f and %.1f", in, p.Period, utility, zone, last, lastZone)
			}
			last, lastZone = utility, zone
		}
	}
}

func TestPartiesWantsWhatCanBe(t *testing.T) {
	in := filepath.Join(t.TempDir(), "home.csv")
	if err := os.WriteFile(in, []byte("time,load_w\n2026-01-01T00:00,1\n2026-01-01T00:01,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := BatteryParties{In: in, Period: 15 * time.Minute, Step: 1}
	for name, change := range map[string]func(*BatteryParties){
		"no whole day":  func(*BatteryParties) {},
		"period":        func(b *BatteryParties) { b.Period = 7 * time.Minute },
		"short period":  func(b *BatteryParties) { b.Period = time.Second },
		"step":          func(b *BatteryParties) { b.Step = 0 },
		"one home":      func(b *BatteryParties) { b.Homes = 1 },
		"sums' period":  func(b *BatteryParties) { b.Homes, b.Period = 20, 20*time.Minute },
		"many sessions": func(b *BatteryParties) { b.Sessions = 1001 },
		"no file":       func(b *BatteryParties) { b.In += "x" },
	} {
		b := good
		change(&b)
		if _, err := b.Run(context.Background()); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
