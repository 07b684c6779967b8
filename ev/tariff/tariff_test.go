package tariff_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"gridveil/ev/tariff"
)

func ms(t testing.TB, zone, local string) int64 {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.ParseInLocation("2006-01-02 15:04", local, loc)
	if err != nil {
		t.Fatal(err)
	}
	return at.UnixMilli()
}

func dayNight(t testing.TB) *tariff.Calendar {
	t.Helper()
	c, err := tariff.DayNight(978, "Europe/Rome", 8*60, 20*60, 300_000, 200_000, 90_000,
		[]tariff.Date{{Year: 2024, Month: time.June, Day: 5}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDayAndNightFollowTheLocalWallClock(t *testing.T) {
	c := dayNight(t)
	for _, x := range []struct {
		name, local string
		want        int64
	}{
		{"before the day band", "2024-06-04 07:59", 200_000},
		{"the day band begins on the minute", "2024-06-04 08:00", 300_000},
		{"the last minute of the day band", "2024-06-04 19:59", 300_000},
		{"bands are half-open", "2024-06-04 20:00", 200_000},
		{"Saturday at noon", "2024-06-08 12:00", 200_000},
		{"Sunday at noon", "2024-06-09 12:00", 200_000},
		{"holiday at noon", "2024-06-05 12:00", 200_000},
		{"winter time at eight", "2024-01-09 08:00", 300_000},
	} {
		r, err := c.PriceAt(ms(t, "Europe/Rome", x.local), 0)
		if err != nil || r.Import != x.want || r.Export != 90_000 {
			t.Errorf("%s: got %+v, %v, want %d", x.name, r, err, x.want)
		}
	}
}

func TestTheHourThatHappensTwiceHasItsPriceTwice(t *testing.T) {
	day := []tariff.Band{{ToMin: 150, Import: 1}, {FromMin: 150, ToMin: 1440, Import: 2}}
	c, err := tariff.New(tariff.Spec{Currency: 978, Zone: "Europe/Berlin", Days: [4][]tariff.Band{day, day, day, day}})
	if err != nil {
		t.Fatal(err)
	}
	// 2024-10-27: 02:00 to 03:00 local runs from 00:00Z to 01:00Z and again to 02:00Z.
	midnight := time.Date(2024, 10, 27, 0, 0, 0, 0, time.UTC).UnixMilli()
	for minute, want := range map[int64]int64{0: 1, 29: 1, 30: 2, 59: 2, 60: 1, 89: 1, 90: 2} {
		if r, err := c.PriceAt(midnight+minute*60_000, 0); err != nil || r.Import != want {
			t.Errorf("minute %d: got %d, %v, want %d", minute, r.Import, err, want)
		}
	}
}

func TestLayersAnswerInTheirOrder(t *testing.T) {
	day := []tariff.Band{{ToMin: 1440, Import: 100, Export: 10, Register: tariff.RegisterDay, AvailableW: 3000}}
	noon := time.Date(2024, 6, 4, 12, 0, 0, 0, time.UTC).UnixMilli()
	c, err := tariff.New(tariff.Spec{Currency: 978, Zone: "UTC", From: noon - 3_600_000, Days: [4][]tariff.Band{day, day, day, day},
		Vector:    &tariff.Vector{From: noon, StepS: 900, Import: []int64{-5, 6}, Export: []int64{-7, 8}},
		NoticeMin: 60, Overlays: []tariff.Overlay{{Announced: noon - 3_000_000, From: noon + 900_000, To: noon + 1_000_000, Import: 999, Export: 888}},
		Blocks: []tariff.Block{{UpTo: 1_000, Import: 50}, {UpTo: tariff.MaxEnergy, Import: 70}}})
	if err != nil {
		t.Fatal(err)
	}
	base := tariff.Rate{Export: 10, Register: tariff.RegisterDay, AvailableW: 3000}
	rate := func(change func(*tariff.Rate)) tariff.Rate { r := base; change(&r); return r }
	for _, x := range []struct {
		name           string
		at, cumulative int64
		want           tariff.Rate
	}{
		{"the first block", noon - 1, 999, rate(func(r *tariff.Rate) { r.Import, r.Left = 50, 1 })},
		{"the next block begins at its limit", noon - 1, 1_000, rate(func(r *tariff.Rate) { r.Import, r.Left = 70, tariff.MaxEnergy })},
		{"the vector beats blocks", noon, 0, rate(func(r *tariff.Rate) { r.Import, r.Export, r.Left = -5, -7, tariff.MaxEnergy })},
		{"the critical peak beats the vector", noon + 900_000, 0, rate(func(r *tariff.Rate) { r.Import, r.Export, r.Critical, r.Left = 999, 888, true, tariff.MaxEnergy })},
		{"and ends half-open", noon + 1_000_000, 0, rate(func(r *tariff.Rate) { r.Import, r.Export, r.Left = 6, 8, tariff.MaxEnergy })},
		{"behind the vector the bands hold again", noon + 1_800_000, 5000, rate(func(r *tariff.Rate) { r.Import, r.Left = 70, tariff.MaxEnergy })},
	} {
		got, err := c.PriceAt(x.at, x.cumulative)
		if err != nil || got != x.want {
			t.Errorf("%s: got %+v, %v, want %+v", x.name, got, err, x.want)
		}
	}
	if _, err := c.PriceAt(noon-3_600_001, 0); !errors.Is(err, tariff.ErrNoPrice) {
		t.Errorf("before the calendar: got %v, want ErrNoPrice", err)
	}
	pieces, err := c.Pieces(noon-1, 400, 1_000)
	if err != nil || len(pieces) != 2 || pieces[0].Energy != 600 || pieces[0].Rate.Import != 50 || pieces[1].Energy != 400 || pieces[1].Rate.Import != 70 {
		t.Errorf("energy across a block: got %+v, %v", pieces, err)
	}
}

func TestVectorWithoutBandsHasNoPriceOutside(t *testing.T) {
	c, err := tariff.New(tariff.Spec{Currency: 978, Zone: "UTC", Vector: &tariff.Vector{From: 1000, StepS: 1, Import: []int64{5}, Export: []int64{4}}})
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[int64]error{999: tariff.ErrNoPrice, 1000: nil, 1999: nil, 2000: tariff.ErrNoPrice} {
		if _, err := c.PriceAt(at, 0); !errors.Is(err, want) {
			t.Errorf("at %d: got %v, want %v", at, err, want)
		}
	}
}

func TestCalendarsThatCannotBeBilledAreRefused(t *testing.T) {
	good := func() tariff.Spec { return dayNight(t).Spec() }
	for name, change := range map[string]func(*tariff.Spec){
		"no currency":            func(s *tariff.Spec) { s.Currency = 0 },
		"no zone":                func(s *tariff.Spec) { s.Zone = "" },
		"the machine's own zone": func(s *tariff.Spec) { s.Zone = "Local" },
		"unknown zone":           func(s *tariff.Spec) { s.Zone = "Europe/Atlantis" },
		"gap":                    func(s *tariff.Spec) { s.Days[0][1].FromMin++ },
		"overlap":                func(s *tariff.Spec) { s.Days[0][1].FromMin-- },
		"day of 23 hours":        func(s *tariff.Spec) { s.Days[2][0].ToMin = 1380 },
		"day of 25 hours":        func(s *tariff.Spec) { s.Days[2][0].ToMin = 1500 },
		"one day table missing":  func(s *tariff.Spec) { s.Days[3] = nil },
		"unknown register":       func(s *tariff.Spec) { s.Days[0][0].Register = 3 },
		"rate beyond 32 bits":    func(s *tariff.Spec) { s.Days[0][0].Import = 1 << 32 },
		"holiday twice":          func(s *tariff.Spec) { s.Holidays = append(s.Holidays, s.Holidays[0]) },
		"no such holiday":        func(s *tariff.Spec) { s.Holidays[0].Month = 13 },
		"overlay without notice": func(s *tariff.Spec) {
			s.NoticeMin, s.Overlays = 60, []tariff.Overlay{{Announced: 1, From: 3_600_000, To: 3_700_000}}
		},
		"overlays that overlap":   func(s *tariff.Spec) { s.Overlays = []tariff.Overlay{{From: 1, To: 5}, {From: 4, To: 6}} },
		"empty vector":            func(s *tariff.Spec) { s.Vector = &tariff.Vector{StepS: 900} },
		"vector of one direction": func(s *tariff.Spec) { s.Vector = &tariff.Vector{StepS: 900, Import: []int64{1}} },
		"blocks that end":         func(s *tariff.Spec) { s.Blocks = []tariff.Block{{UpTo: 5}} },
		"nothing at all":          func(s *tariff.Spec) { s.Days = [4][]tariff.Band{} },
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			change(&s)
			if _, err := tariff.New(s); !errors.Is(err, tariff.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
}

// zones have whole-hour, half-hour and 45-minute offsets, changes of 30 minutes, and changes at midnight.
var zones = []string{"Europe/Rome", "Europe/London", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe",
	"America/Havana", "Asia/Tehran", "UTC", "Pacific/Apia", "Africa/Casablanca"}

// randomSpec draws a valid calendar.
func randomSpec(rnd *rand.Rand) tariff.Spec {
	s := tariff.Spec{Version: rnd.Uint32(), Currency: 978, Zone: zones[rnd.IntN(len(zones))]}
	rate := func() int64 { return int64(rnd.Int32()) - 1<<30 }
	for d := range s.Days {
		for from := 0; from < 1440; {
			to := min(1440, from+1+rnd.IntN(700))
			s.Days[d] = append(s.Days[d], tariff.Band{FromMin: from, ToMin: to, Register: tariff.Register(rnd.IntN(3)),
				Import: rate(), Export: rate(), AvailableW: rnd.Int64N(1 << 20)})
			from = to
		}
	}
	day := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for range rnd.IntN(40) {
		day = day.AddDate(0, 0, 1+rnd.IntN(90))
		y, m, d := day.Date()
		s.Holidays = append(s.Holidays, tariff.Date{Year: y, Month: m, Day: d})
	}
	if rnd.IntN(3) == 0 {
		v := &tariff.Vector{From: day.UnixMilli(), StepS: 900}
		for range 1 + rnd.IntN(200) {
			v.Import, v.Export = append(v.Import, rate()), append(v.Export, rate())
		}
		s.Vector = v
	}
	if rnd.IntN(3) == 0 {
		s.Overlays = []tariff.Overlay{{From: day.UnixMilli() - 10_000_000, To: day.UnixMilli() + 5_000_000, Import: rate()}}
	}
	if rnd.IntN(3) == 0 {
		s.Blocks = []tariff.Block{{UpTo: 1 + rnd.Int64N(1<<40), Import: rate()}, {UpTo: tariff.MaxEnergy, Import: rate()}}
	}
	return s
}

// oracle finds the band by walking the local clock, without arithmetic on offsets.
func oracle(s tariff.Spec, loc *time.Location, at int64) tariff.Band {
	t := time.UnixMilli(at).In(loc)
	table := tariff.Weekday
	switch t.Weekday() {
	case time.Saturday:
		table = tariff.Saturday
	case time.Sunday:
		table = tariff.Sunday
	}
	for _, h := range s.Holidays {
		if fmt.Sprintf("%d-%d-%d", h.Year, h.Month, h.Day) == t.Format("2006-1-2") {
			table = tariff.Holiday
		}
	}
	var minute int
	fmt.Sscanf(t.Format("15"), "%d", &minute)
	var m int
	fmt.Sscanf(t.Format("4"), "%d", &m)
	minute = minute*60 + m
	for _, b := range s.Days[table] {
		if minute >= b.FromMin && minute < b.ToMin {
			return b
		}
	}
	panic("no band")
}

// G4: over 10^5 random days, including every change of clocks, prices are those of a slow oracle, and nothing changes
// between at and Next(at). Run with -short for a tenth of it.
func TestRandomCalendarsAgreeWithTheOracle(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	calendars := 1000
	if testing.Short() {
		calendars = 100
	}
	for range calendars {
		s := randomSpec(rnd)
		s.Vector, s.Overlays, s.Blocks = nil, nil, nil
		c, err := tariff.New(s)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			at := time.Date(2020, 1, 1+rnd.IntN(3650), 0, 0, 0, 0, c.Location()).UnixMilli() + rnd.Int64N(90_000)*1000
			checkInstant(t, c, s, at)
			next := c.Next(at)
			if next <= at {
				t.Fatalf("Next(%d) = %d", at, next)
			}
			checkInstant(t, c, s, next)
			a, _ := c.PriceAt(at, 0)
			for _, between := range []int64{at + rnd.Int64N(next-at), next - 1} {
				if b, _ := c.PriceAt(between, 0); a != b {
					t.Fatalf("%s: price changed at %d, before Next(%d) = %d", s.Zone, between, at, next)
				}
			}
		}
	}
}

func checkInstant(t *testing.T, c *tariff.Calendar, s tariff.Spec, at int64) {
	t.Helper()
	r, err := c.PriceAt(at, 0)
	b := oracle(s, c.Location(), at)
	if err != nil || r.Import != b.Import || r.Export != b.Export || r.Register != b.Register || r.AvailableW != b.AvailableW {
		t.Fatalf("%s at %d: got %+v, %v, want %+v", s.Zone, at, r, err, b)
	}
}

func TestNextMeetsEveryChangeOfEveryLayer(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		s := randomSpec(rnd)
		c, err := tariff.New(s)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() + rnd.Int64N(9*365*86_400)*1000
		if s.Vector != nil {
			at = s.Vector.From - rnd.Int64N(10_000_000)
		}
		for range 20 {
			next := c.Next(at)
			a, errA := c.PriceAt(at, 0)
			b, errB := c.PriceAt(next-1, 0)
			if a != b || !errors.Is(errB, errA) {
				t.Fatalf("changed between %d and %d: %+v %+v", at, next-1, a, b)
			}
			at = next
		}
	}
}

func TestOneCalendarHasOneEncodingAndOneHash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, err := tariff.New(randomSpec(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))))
		if err != nil {
			t.Fatal(err)
		}
		raw := c.Encode()
		back, err := tariff.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.Spec(), back.Spec()); d != "" || c.Hash() != back.Hash() {
			t.Fatal(d)
		}
		cut := rapid.IntRange(0, len(raw)-1).Draw(t, "cut")
		if _, err := tariff.Decode(raw[:cut]); !errors.Is(err, tariff.ErrInvalid) {
			t.Fatalf("cut at %d: got %v, want ErrInvalid", cut, err)
		}
	})
}

func TestWithVectorLeavesTheOldCalendarAlone(t *testing.T) {
	c := dayNight(t)
	before := c.Hash()
	d, err := c.WithVector(tariff.Vector{StepS: 900, Import: []int64{1}, Export: []int64{1}})
	if err != nil || c.Hash() != before || d.Hash() == before || d.Spec().Version != c.Spec().Version+1 {
		t.Errorf("got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		c, err := tariff.New(randomSpec(rnd))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(c.Encode())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := tariff.Decode(raw)
		if err != nil {
			if !errors.Is(err, tariff.ErrInvalid) {
				t.Errorf("got %v", err)
			}
			return
		}
		if !bytes.Equal(c.Encode(), raw) {
			t.Error("decoded bytes encode to others")
		}
		c.PriceAt(0, 0)
	})
}

func ExampleDayNight() {
	c, err := tariff.DayNight(978, "Europe/Rome", 8*60, 20*60, 300_000, 200_000, 90_000, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	noon := time.Date(2024, 6, 4, 12, 0, 0, 0, c.Location()).UnixMilli()
	r, err := c.PriceAt(noon, 0)
	fmt.Println(r.Import, r.Register, err)
	// Output: 300000 day <nil>
}
