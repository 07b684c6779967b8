package utility

import (
	"strings"
	"testing"
	"time"
)

func TestACriticalPeakNeedsNoticeFullHoursAndABelievablePrice(t *testing.T) {
	now := time.Date(2026, 6, 15, 8, 20, 0, 0, time.UTC)
	at := func(h int) int64 { return time.Date(2026, 6, 15, h, 0, 0, 0, time.UTC).UnixMilli() }
	for _, c := range []struct {
		name string
		p    Peak
		want string // "" is accepted
	}{
		{"from noon to two", Peak{Plan: PlanFlat, From: at(12), To: at(14), Import: 900_000}, ""},
		{"in three hours less a bit", Peak{Plan: PlanFlat, From: at(11), To: at(14)}, "begin at 2026-06-15T12:00:00Z or later"},
		{"off the hour", Peak{Plan: PlanFlat, From: at(12) + 60_000, To: at(14)}, "on the hour"},
		{"backwards", Peak{Plan: PlanFlat, From: at(14), To: at(12)}, "lasts 1 h to 12h0m0s"},
		{"too long", Peak{Plan: PlanFlat, From: at(12), To: at(25)}, "lasts 1 h to 12h0m0s"},
		{"too far ahead", Peak{Plan: PlanFlat, From: at(12 + 48), To: at(13 + 48)}, "ahead of its end"},
		{"of an unknown plan", Peak{Plan: "green", From: at(12), To: at(14)}, `unknown plan "green"`},
		{"at ten euros", Peak{Plan: PlanFlat, From: at(12), To: at(14), Import: 10_000_000}, "want a price of 0 to 5000000"},
	} {
		err := c.p.check(now)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestBillsUseThePeaksThatHomesWereToldOf(t *testing.T) {
	from := time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)
	u := &Utility{peaks: []Peak{
		{Plan: PlanDayNight, Announced: from.Add(-4 * time.Hour).UnixMilli(), From: from.UnixMilli(), To: from.Add(time.Hour).UnixMilli(), Import: 100_000},
		{Plan: PlanFlat, Announced: from.Add(-4 * time.Hour).UnixMilli(), From: from.UnixMilli(), To: from.Add(2 * time.Hour).UnixMilli(), Import: 900_000}}}
	cal, err := u.calendar(PlanFlat)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[time.Duration]int64{-time.Minute: flatRate, 0: 900_000, 119 * time.Minute: 900_000, 120 * time.Minute: flatRate} {
		r, err := cal.PriceAt(from.Add(at).UnixMilli(), 0)
		if err != nil || r.Import != want || r.Export != feedInRate || r.Critical != (want != flatRate) {
			t.Errorf("%v after the peak began: %+v, %v, want %d", at, r, err, want)
		}
	}
}
