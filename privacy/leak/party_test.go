package leak

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// day is a home's day with a car, reports, a fault and two sums.
func day(t *testing.T, sessions int) Home {
	t.Helper()
	var j Journal
	at := time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	record := func(n int, m Message, to ...Role) {
		for i := range n {
			for _, r := range to {
				if err := j.Record(Entry{Message: m, To: r, Bytes: 100, At: at.Add(time.Duration(i) * time.Minute)}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	record(24, MeterReport, OwnUtility, Substation)
	record(1, Alarm, OwnUtility, Substation)
	record(192, SumReport, SumLeader, SumHelper, GridOp)
	record(sessions, Offer, Guest)
	record(sessions, AuthRequest, Aggregator)
	record(30*sessions, Tick, Guest)
	record(sessions, Settlement, Aggregator)
	imp, exp := make([]int64, 8*96), make([]int64, 8*96)
	for i := range imp {
		imp[i] = int64(40 + (i*i)%97)
	}
	curve := func(e []int64) Curve { return Curve{quarterHour, e[:7*96], e[7*96:]} }
	return Home{Left: j.Day(at), Curves: []Curve{curve(imp), curve(exp)}, Period: quarterHour, Covered: true,
		Sums: []Sum{{20, 16383, 96}, {20, 16383, 96}}}
}

func find(t *testing.T, h Home, p Party) Told {
	t.Helper()
	all := h.Parties()
	if len(all) != int(lastParty) {
		t.Fatalf("%d parties, want %d", len(all), lastParty)
	}
	told := all[p-1]
	if told.Party != p {
		t.Fatalf("%v stands where %v should", told.Party, p)
	}
	return told
}

func TestEveryPartyHasAFigureOrAReason(t *testing.T) {
	for _, h := range []Home{day(t, 2), day(t, 0), {}, {Covered: true}} {
		for i, told := range h.Parties() {
			if told.Party != Party(i+1) || told.Party.String() == "unknown party" {
				t.Errorf("place %d: %v", i, told.Party)
			}
			for _, f := range []Figure{told.Load, told.Charging} {
				if f.Rests == "" || f.Basis.String() == "unknown basis" || f.AtMost < 0 || math.IsNaN(f.AtMost) || math.IsInf(f.AtMost, 0) {
					t.Errorf("%v: %+v", told.Party, f)
				}
				if (f.Basis == NoField || f.Basis == Tested || f.Basis == NoFigure) && f.AtMost != 0 || (f.Basis == Tested) != (f.Test != "") {
					t.Errorf("%v: %+v", told.Party, f)
				}
				if f.Modelled && f.Model > f.AtMost {
					t.Errorf("%v: by model more than at most: %+v", told.Party, f)
				}
			}
		}
	}
}

// TestFiguresOfADay compares with sums by hand over the fields that the design
// gives to each party.
func TestFiguresOfADay(t *testing.T) {
	h := day(t, 2)
	l := math.Log2
	imp, exp := h.Curves[0].Bits(quarterHour), h.Curves[1].Bits(quarterHour)
	fault := l(32 * 400 * 86400)
	many := func(n, kinds int) float64 { // n+1 in binary behind as many zeros less one, and each one's kind
		return float64(len(fmt.Sprintf("%b", n+1))*2-1) + float64(n)*l(float64(kinds))
	}
	settled := 2 * l(80_000_000*8192*96*96*3)
	for _, tc := range []struct {
		p              Party
		load, charging float64
	}{
		{Utility, imp + exp + fault + many(1, 2), many(0, 1)}, // faults and single readings
		{HeadEnd, imp + exp + fault + many(1, 2), 0},
		{Carrier, 24*l(6) + fault + many(25, 3), 66*l(86400) + many(66, 1)},
		{BothServers, imp + exp, 0},
		{EVAggregator, 0, settled + 2*l(200*200*40*96) + many(4, 7)},
		{GuestWallet, 0, 2*l(200*200*40*8) + 60*l(80_000_000*8192*86400) + many(62, 4)},
		{GuestUtility, 0, 2*l(800*800*8192*31) + many(2, 1)},
		{Verifiers, 0, 2*l(64*31) + many(2, 1)},
		{LineWatcher, 0, 66*l(86400) + many(66, 1)},
	} {
		told := find(t, h, tc.p)
		if math.Abs(told.Load.AtMost-tc.load) > 1e-6 || math.Abs(told.Charging.AtMost-tc.charging) > 1e-6 {
			t.Errorf("%v: %.3f and %.3f bits, want %.3f and %.3f", tc.p, told.Load.AtMost, told.Charging.AtMost, tc.load, tc.charging)
		}
	}
	zone := find(t, h, Zone).Load
	if want := min(imp+exp, 192*l(20*16383+1)/20); math.Abs(zone.AtMost-want) > 1e-6 || zone.Model > 192*.04 || zone.Model < 192*.03 {
		t.Errorf("the zone's sums: %+v, want at most %.3f", zone, want)
	}
}

func TestFiguresFollowWhatTheHomeDoes(t *testing.T) {
	base := day(t, 0)
	utility := find(t, base, Utility).Load
	masked := base
	masked.HasMask, masked.Masked = true, 9
	if f := find(t, masked, Utility).Load; !f.Modelled || f.Model >= f.AtMost || f.Model < 9+30 || f.AtMost != utility.AtMost {
		t.Errorf("with a mask: %+v", f)
	}
	hourly := base
	hourly.Period = time.Hour
	if f := find(t, hourly, Utility).Load; f.AtMost >= utility.AtMost {
		t.Errorf("an hourly report tells %.1f bits, a quarter-hourly one %.1f", f.AtMost, utility.AtMost)
	}
	silent := base
	silent.Period = 0
	if f := find(t, silent, Utility).Load; f.Basis != Fields || f.AtMost > 36 {
		t.Errorf("without an order: %+v", f)
	}
	alone := base
	alone.Sums = nil
	for _, p := range []Party{Zone, OneServer, BothServers} {
		if f := find(t, alone, p).Load; f.Basis != NoField {
			t.Errorf("%v, without a sum: %+v", p, f)
		}
	}
	small := base
	small.Sums = []Sum{{2, 16383, 96}}
	if f := find(t, small, Zone).Load; f.AtMost < find(t, base, Zone).Load.AtMost || f.AtMost > find(t, small, BothServers).Load.AtMost {
		t.Errorf("a sum of two homes: %+v", f)
	}
	bare := base
	bare.Covered = false
	for _, p := range []Party{LineWatcher, Relays} {
		if told := find(t, bare, p); told.Load.Basis != NoFigure || told.Charging.Basis != NoFigure {
			t.Errorf("%v, without cover: %+v", p, told)
		}
	}
}

// TestAPlantedFieldShows: a field of the load in a message to the aggregator turns
// its "no field" into a figure.
func TestAPlantedFieldShows(t *testing.T) {
	if f := find(t, day(t, 2), EVAggregator).Load; f.Basis != NoField {
		t.Fatalf("before: %+v", f)
	}
	for i, r := range table {
		if r.Message == Settlement && r.To == Aggregator {
			table[i].Fields = append(r.Fields[:len(r.Fields):len(r.Fields)], Field{"load of the house", Technical, Load, 1 << 10})
			defer func() { table[i] = r }()
		}
	}
	if f := find(t, day(t, 2), EVAggregator).Load; f.Basis != Fields || f.AtMost != 20+3 {
		t.Errorf("ten bits in each of two settlements: %+v", f)
	}
}

// TestTestsThatFiguresNameExist reads the sources of the module.
func TestTestsThatFiguresNameExist(t *testing.T) {
	want := map[string]bool{}
	for _, told := range (Home{Covered: true}).Parties() {
		for _, f := range []Figure{told.Load, told.Charging} {
			if f.Test != "" {
				want["func "+f.Test+"("] = true
			}
		}
	}
	if len(want) == 0 {
		t.Fatal("no figure names a test")
	}
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for name := range want {
			if strings.Contains(string(b), name) {
				delete(want, name)
			}
		}
		return err
	})
	if err != nil || len(want) > 0 {
		t.Errorf("no such tests: %v %v", want, err)
	}
}
