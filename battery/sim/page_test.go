package sim

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"gridveil/battery"
)

// TestThePageNeedsNothingElse: a report is one file without addresses to fetch or
// scripts, has its charts and tables, and is the same for the same seed.
func TestThePageNeedsNothingElse(t *testing.T) {
	h := Home{"<home>", synthetic(11)}
	g := Grid{Policies: []string{"veil", "hold", "none"}, Stops: []int{0, 2}, Capacities: []battery.WattHours{4000}, Powers: []battery.Watts{3000}, Seeds: 1, First: 1, Learn: 4}
	page := func() string {
		p, err := Report(context.Background(), h, g, MadeVisits(20, 1))
		if err != nil {
			t.Fatal(err)
		}
		if p.Leak == nil || len(p.EV) != len(EVTests()) || len(p.Means) != 4 || len(p.Amounts) != len(AmountTests()) {
			t.Fatalf("%d policies, %d and %d tests of a car, leak %v", len(p.Means), len(p.EV), len(p.Amounts), p.Leak)
		}
		for i, a := range p.Amounts {
			if a.Missing > 1 || i > 0 && a.Bits >= p.Amounts[i-1].Bits {
				t.Errorf("slack of %g sessions: %.3f bits a night, cars lack %.0f Wh", a.Slack, a.Bits, a.Missing)
			}
		}
		return p.HTML()
	}
	text := page()
	bare := strings.ReplaceAll(text, `xmlns="http://www.w3.org/2000/svg"`, "")
	if m := regexp.MustCompile(`(?i)(://|<script|<link|@import|src=|href=|url\()`).FindString(bare); m != "" {
		t.Errorf("the page has %q", m)
	}
	if strings.Contains(text, "<home>") || strings.Contains(text, "NaN") || strings.Count(text, "<svg") != 5 || strings.Count(text, "<table") != 3 {
		t.Errorf("%d charts and %d tables, or a name that was not escaped", strings.Count(text, "<svg"), strings.Count(text, "<table"))
	}
	if *long && text != page() {
		t.Error("the same seed gives another page")
	}
}

// TestEveryWayOfChargingFillsTheCar: behind every policy of the published pairs.
func TestEveryWayOfChargingFillsTheCar(t *testing.T) {
	tr := synthetic(6)
	kernels := &Kernels{}
	for _, e := range append(EVTests(), EVTest{Charging: heater, Policy: "veil"}) {
		o := Options{Policy: e.Policy, Capacity: 1500, Power: 3000, Learn: 4, Seed: 1, Kernels: kernels, Car: e.Charging}
		o.Sessions = []battery.Session{Visit{900, 600, 12_000}.session(tr.Start.Add(4 * 24 * time.Hour))}
		run, err := Simulate(context.Background(), tr, o)
		if err != nil {
			t.Fatal(err)
		}
		took := 0.
		for _, w := range run.Car {
			took += w / 60
		}
		if run.Missing > 1 || took < 11_999 || took > 12_001 {
			t.Errorf("%s, %s: the car took %.0f Wh and lacks %.0f", e.Charging, e.Policy, took, run.Missing)
		}
	}
}

func TestVisitsOfEveningsAreKept(t *testing.T) {
	head := "user,start,end,kwh,duration_h\n"
	v, err := ReadVisits(strings.NewReader(head + "a,2019-01-01T18:30,2019-01-02T06:30,12,12\na,2019-01-01T09:30,2019-01-01T19:30,12,10\na,2019-01-01T18:30,2019-01-01T19:30,12,1\n"))
	if err != nil || len(v) != 1 || v[0] != (Visit{18*60 + 30, 720, 12_000}) {
		t.Errorf("got %v, %v", v, err)
	}
	for _, text := range []string{"", "a,b\n", head, head + "a,noon,,1,1\n"} {
		if _, err := ReadVisits(strings.NewReader(text)); err == nil {
			t.Errorf("%q: accepted", text)
		}
	}
}

func FuzzReadVisits(f *testing.F) {
	f.Add("user,start,end,kwh,duration_h\na,2019-01-01T18:30,2019-01-02T06:30,12,12\n")
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := ReadVisits(strings.NewReader(s)); err == nil && len(v) == 0 {
			t.Error("no sessions and no error")
		}
	})
}
