package site

import (
	"strings"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/node/alarm"
	"gridveil/node/bill"
	"gridveil/node/gateway"
	"gridveil/node/model"
	"gridveil/node/utility"
	"gridveil/node/web"
	"gridveil/privacy/leak"
)

func TestNumbersReadAsPeopleWriteThem(t *testing.T) {
	for _, tc := range []struct{ fact, got, want string }{
		{"whole cents", Money(1_810_000, Euro), "EUR 1.81"},
		{"half a cent goes away from zero", Money(1_815_000, Euro), "EUR 1.82"},
		{"a credit", Money(-220_000, Euro), "EUR -0.22"},
		{"less than half a cent owes no minus", Money(-4_000, Euro), "EUR 0.00"},
		{"a rate keeps a hundredth of a cent", Rate(320_050), "0.3200"},
		{"a negative price", Rate(-12_300), "-0.0123"},
		{"energy in Wh", Energy(4_120_400), "4.120 kWh"},
		{"half a Wh", Energy(-500), "-0.001 kWh"},
		{"power below a kilowatt", Watts(702.4), "702 W"},
		{"power above", Watts(-3120), "-3.12 kW"},
		{"no minus before nothing", Watts(-.2), "0 W"},
		{"a session", ShortID([]byte{0x7f, 0x3a, 0x92, 1}), "7F3A-92"},
		{"no session", ShortID(nil), "none"},
		{"thousands", Count(1_018_204), "1\u202f018\u202f204"},
		{"a thousand", Count(1000), "1\u202f000"},
		{"hundreds", Count(204), "204"},
		{"below zero", Count(-1234), "-1\u202f234"},
		{"below zero, three digits", Count(-123), "-123"},
		{"one", Plural(1, "home", "homes"), "1 home"},
		{"none", Plural(0, "home", "homes"), "0 homes"},
		{"seconds", Span(40 * time.Second), "40 s"},
		{"hours", Span(135 * time.Minute), "2 h 15 min"},
		{"whole hours", Span(4 * time.Hour), "4 h"},
		{"days", Span(72 * time.Hour), "3 days"},
		{"a list", list([]string{"a", "b", "c"}), "a, b and c"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.fact, tc.got, tc.want)
		}
	}
}

func TestWhatABatteryCannotHideUsesTheHomesOwnFigures(t *testing.T) {
	h := House{BatteryWh: 5000, BatteryW: 3000, Hosts: true, Roof: true}
	var d Day
	for range 60 {
		d.add(gateway.Minute{Load: 7200, Meter: 4200, PV: 1500, Car: 11_000}, time.Minute)
	}
	text := strings.Join(CannotHide(h, d), "\n")
	for _, want := range []string{"4.20 kWh today", "More than 3.00 kW", "up to 7.20 kW", "5.0 kWh carries 2 kW for 2 h 30 min", "today it drew up to 11.00 kW", "1.5 kWh came from the roof"} {
		if !strings.Contains(text, want) {
			t.Errorf("does not say %q:\n%s", want, text)
		}
	}
	if got := CannotHide(House{}, d); got != nil {
		t.Errorf("a home without battery is told %q", got)
	}
}

func TestBillOnThePageIsTheBillComputed(t *testing.T) {
	var e web.Energy
	Bill(&e, bill.Bill{From: 0, To: 6 * 3600_000, Slots: 24, Estimated: 2, Total: 1_098_400,
		Ends: []bill.Ends{{Channel: model.ImportTotal, Opening: 1_000_000, Closing: 5_120_000}},
		Lines: []bill.Line{{Channel: model.ImportTotal, Register: 1, Energy: 4_120_000, Rate: 320_000, Amount: 1_318_400},
			{Channel: model.ExportTotal, Energy: 2_200_000, Rate: 100_000, Amount: -220_000}}})
	if e.BillTotal != "EUR 1.10" || len(e.Bill) != 2 || e.Bill[0] != (web.BillLine{Text: "Taken from the grid, day", Energy: "4.120 kWh", Rate: "0.3200", Amount: "EUR 1.32", Exact: "1318400"}) {
		t.Errorf("%+v", e)
	}
	if e.Bill[1].Amount != "EUR -0.22" || e.BillEnds[0].Value != "1.000 kWh to 5.120 kWh" || !strings.Contains(e.BillNote, "2 of them estimated") {
		t.Errorf("%+v", e)
	}
}

func TestJournalLinesNameRecipientAndWhatTheyLearn(t *testing.T) {
	at := time.Date(2026, 6, 15, 8, 0, 0, 0, time.UTC)
	var j leak.Journal
	for i, e := range []leak.Entry{
		{Message: leak.MeterReport, To: leak.OwnUtility, As: [8]byte{0xab, 0xcd, 0xef}, Bytes: 700},
		{Message: leak.MeterReport, To: leak.OwnUtility, As: [8]byte{0xab, 0xcd, 0xef}, Bytes: 700},
		{Message: leak.OnionCell, To: leak.Relay, As: [8]byte{1}, Bytes: 2048}, {Message: leak.OnionCell, To: leak.Relay, As: [8]byte{2}, Bytes: 2048},
	} {
		e.At = at.Add(time.Duration(i) * time.Minute)
		if err := j.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	names := func(r leak.Role) string { return map[leak.Role]string{leak.OwnUtility: "northgrid"}[r] }
	l := LeftView(web.HomeRef{ID: "home"}, j.Day(at), j.Entries(at), names, nil)
	if l.Messages != 4 || l.Bytes != 5496 || l.Day != "15 June 2026" || len(l.Lines) != 2 {
		t.Fatalf("%+v", l)
	}
	report, cell := l.Lines[0], l.Lines[1]
	if report.To != "your utility (northgrid)" || report.As != "ABCD-EF" || report.Learns != "contract, registers and day" || !report.Last.Equal(at.Add(time.Minute)) {
		t.Errorf("%+v", report)
	}
	if cell.As != "2 one-time names" || cell.Learns != "nothing about you: it is sealed or random" || cell.Bits != 0 {
		t.Errorf("%+v", cell)
	}
}

func TestEveryRowOfTheLeakTableHasWords(t *testing.T) {
	for _, r := range leak.Table() {
		if recipients[r.To] == "" || learns(r) == "" || r.Why == "" {
			t.Errorf("%v to %v has no words", r.Message, r.To)
		}
	}
}

func TestAlarmsReadAsSentences(t *testing.T) {
	at := time.Date(2026, 6, 15, 17, 0, 0, 0, time.UTC)
	e := alarm.Event{Priority: alarm.P0, Kind: alarm.VoltageAbsent, At: at.UnixMilli(), Count: 1}
	r := Delivered(utility.Delivery{Event: e, Detail: "phase 1 below 160 V", At: at.Add(400 * time.Millisecond), Class: alarm.ClassAlarm}, "Home 6")
	if r.Kind != "voltage lost" || r.Text != "Phase 1 below 160 V." || r.DeliveredMs != 400 || r.Device != "Home 6" || r.Class != "alarm" || r.Level != 0 {
		t.Errorf("%+v", r)
	}
	e.Flags, e.Count = alarm.Restored, 3
	if r = Delivered(utility.Delivery{Event: e, At: at}, "Home 6"); !r.Over || r.Kind != "voltage lost is over" || !strings.HasSuffix(r.Text, "3 times in a row.") {
		t.Errorf("%+v", r)
	}
	for k := alarm.Malfunction; k <= alarm.Outage; k++ {
		if alarmKinds[k] == "" {
			t.Errorf("%v has no words", k)
		}
	}
}

func TestReportedRegistersBecomeACurveWithExportBelowZero(t *testing.T) {
	block := func(ch model.Channel, registers ...int64) model.IntervalBlock {
		b := model.IntervalBlock{Channel: ch, Period: 15 * time.Minute}
		for i, v := range registers {
			b.Readings = append(b.Readings, model.IntervalReading{Slot: int64(i) * 900_000, Register: v})
		}
		return b
	}
	old := block(model.ImportTotal, 1, 2, 3)
	fresh := block(model.ImportTotal, 0, 250_000, 250_000)
	fresh.Revision = 1
	times, watts, in, out := Metered([]model.IntervalBlock{old, fresh, block(model.ExportTotal, 0, 0, 500_000)})
	if len(times) != 2 || watts[0] != 1000 || watts[1] != -2000 || in != .25 || out != .5 {
		t.Errorf("%v %v %v %v", times, watts, in, out)
	}
}

func TestEveryKindOfNodeSaysWhatItCannotSee(t *testing.T) {
	for _, kind := range []string{"home", "ssn", "headend", "utility", "aggregator", "verifier", "wallet"} {
		if Is(kind) == "" || len(Never(kind)) == 0 {
			t.Errorf("%s: nothing is said", kind)
		}
	}
	rows := Knows(Learned{Energy: "6.00 kWh", Amount: "EUR 2.01", Zone: "elm", Utility: "southpower", Onion: true})
	for _, r := range rows {
		if r.Party == "" || r.Learned == "" || r.NotLearned == "" || r.Because == "" {
			t.Errorf("%+v", r)
		}
		if r.Party == "The house's utility" && r.Learned != "nothing" {
			t.Error("the house's utility learns something")
		}
	}
}

// TestLedgerPagesStepThroughAllEntries walks a log of 120 entries by the links.
func TestLedgerPagesStepThroughAllEntries(t *testing.T) {
	log := fakeLog(120)
	seen := map[uint64]bool{}
	from := uint64(1<<63 - 1)
	pages := 0
	for {
		v := LedgerPage(log, from)
		if pages++; pages == 1 && v.Newer != nil || pages > 1 && v.Newer == nil {
			t.Errorf("page %d from %d: newer %v", pages, from, v.Newer)
		}
		for _, e := range v.Entries {
			if seen[e.Index] {
				t.Errorf("entry %d is listed twice", e.Index)
			}
			seen[e.Index] = true
		}
		if v.Older == nil {
			break
		}
		from = *v.Older
	}
	if len(seen) != 120 || pages != 3 {
		t.Errorf("%d entries on %d pages", len(seen), pages)
	}
	if v := LedgerPage(log, 10); v.Newer == nil || *v.Newer != 60 || v.Entries[0].Index != 10 {
		t.Errorf("from 10: %+v", v)
	}
}

// fakeLog pages like party.Copy over so many entries.
type fakeLog uint64

func (f fakeLog) Ledger(before uint64) (v web.Ledger) {
	v.Size = uint64(f)
	if before == 0 || before > v.Size {
		before = v.Size
	}
	first := before - min(before, pageEntries)
	for i := before; i > first; i-- {
		v.Entries = append(v.Entries, web.EntryRow{Index: i - 1})
	}
	if first > 0 {
		v.Older = &first
	}
	return v
}
func (f fakeLog) LedgerEntry(uint64) (web.Entry, bool) { return web.Entry{}, false }
func (f fakeLog) Read(func(*ledger.State)) bool        { return false }
func (f fakeLog) Entry(uint64) ([]byte, error)         { return nil, nil }

func TestNodesOfANeighboursMapDoNotMeet(t *testing.T) {
	nodes := []web.Node{{ID: "self", Kind: "home"}}
	for _, k := range []string{"ssn", "ssn", "ssn", "utility", "utility", "aggregator", "verifier", "headend"} {
		nodes = append(nodes, web.Node{Kind: k, Name: k})
	}
	place(nodes)
	seen := map[web.Place]bool{}
	for _, n := range nodes {
		if seen[n.Wide] || n.Wide.X <= 0 || n.Tall.X >= web.TallWidth || n.Tall.Y >= web.TallHeight {
			t.Errorf("%s at %v, %v", n.Kind, n.Wide, n.Tall)
		}
		seen[n.Wide] = true
	}
}

func TestPowerLevelsFlowBothWays(t *testing.T) {
	for _, tc := range []struct {
		w    float64
		want int
	}{{0, 0}, {49, 0}, {60, 1}, {700, 2}, {2000, 3}, {9000, 4}, {-60, -1}, {-9000, -4}} {
		if got := PowerLevel(tc.w); got != tc.want {
			t.Errorf("%v W: level %d, want %d", tc.w, got, tc.want)
		}
	}
}
