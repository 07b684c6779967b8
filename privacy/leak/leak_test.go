package leak

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestEveryFieldHasASphereAndNoneIsPersonal(t *testing.T) {
	seen := map[pair]bool{}
	for _, r := range Table() {
		p := pair{r.Message, r.To}
		if seen[p] {
			t.Errorf("%v to %v stands twice", r.Message, r.To)
		}
		seen[p] = true
		if len(r.Fields) == 0 || r.Why == "" {
			t.Errorf("%v to %v: no fields or no reason", r.Message, r.To)
		}
		for _, f := range r.Fields {
			if f.Sphere != Customer && f.Sphere != Technical {
				t.Errorf("%v to %v: field %q is %v", r.Message, r.To, f.Name, f.Sphere)
			}
			if f.Values == 0 {
				t.Errorf("%v to %v: field %q has no number of values", r.Message, r.To, f.Name)
			}
		}
	}
	for m := Offer; m <= lastMessage; m++ {
		found := false
		for r := Guest; r <= lastRole; r++ {
			found = found || seen[pair{m, r}]
		}
		if !found || m.String() == "" {
			t.Errorf("message %d (%v) goes to nobody", m, m)
		}
	}
}

func TestTableSaysWhatTheDesignSays(t *testing.T) {
	find := func(m Message, to Role) Row {
		r, ok := Find(m, to)
		if !ok {
			t.Fatalf("no row for %v to %v", m, to)
		}
		return r
	}
	has := func(r Row, word string) bool {
		for _, f := range r.Fields {
			if strings.Contains(f.Name, word) {
				return true
			}
		}
		return false
	}
	line := find(BillLine, OwnUtility)
	for _, word := range []string{"zone", "place", "time", "host", "prices"} {
		if has(line, word) {
			t.Errorf("a bill line tells the utility a %s", word)
		}
	}
	if r := find(Opening, HostHome); r.Bits() != 2 {
		t.Errorf("an opening tells the host %v bits, want the band's 2", r.Bits())
	}
	for _, to := range []Role{SumLeader, SumHelper} {
		for _, f := range find(SumReport, to).Fields {
			if f.Name == "share" && f.Bits() != 0 {
				t.Errorf("a share tells the %v %v bits", to, f.Bits())
			}
		}
	}
	for _, p := range []pair{{DeckRequest, Aggregator}, {Redeem, Aggregator}, {Settlement, OwnUtility}, {Tick, Aggregator}, {Offer, OwnUtility}} {
		if _, ok := Find(p.m, p.r); ok {
			t.Errorf("the table lets %v go to %v", p.m, p.r)
		}
	}
}

func TestJournalCountsADay(t *testing.T) {
	var j Journal
	noon := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	record := func(m Message, to Role, as byte, bytes uint32, at time.Time) {
		t.Helper()
		e := Entry{Message: m, To: to, As: [8]byte{as}, Bytes: bytes, At: at}
		back, err := ParseEntry(e.Store())
		if err != nil || back != e {
			t.Fatalf("ParseEntry: got %+v, %v, want %+v", back, err, e)
		}
		if err := j.Record(back); err != nil {
			t.Fatal(err)
		}
	}
	record(Offer, Guest, 1, 191, noon)
	record(Tick, Guest, 1, 134, noon.Add(time.Minute))
	record(Tick, Guest, 1, 134, noon.Add(2*time.Minute))
	record(Tick, Guest, 2, 134, noon.Add(3*time.Minute))
	record(SumReport, SumLeader, 7, 1483, noon.Add(13*time.Hour)) // the next day
	v := j.Day(noon)
	if len(v.Lines) != 2 || v.Bytes != 191+3*134 {
		t.Fatalf("Day: got %d lines, %d bytes", len(v.Lines), v.Bytes)
	}
	tick := v.Lines[0]
	if tick.Row.Message != Tick || tick.Messages != 3 || tick.Pseudonyms != 2 {
		t.Errorf("first line: got %v, %d messages, %d pseudonyms", tick.Row.Message, tick.Messages, tick.Pseudonyms)
	}
	if n := len(j.Entries(noon)); n != 4 {
		t.Errorf("Entries: got %d, want 4", n)
	}
	if d := j.Days(); len(d) != 2 || !d[0].After(d[1]) {
		t.Errorf("Days: got %v", d)
	}
	if v := j.Day(noon.AddDate(0, 0, -1)); len(v.Lines) != 0 || v.Bits != 0 {
		t.Error("a quiet day is not empty")
	}
}

func TestJournalRefusesWhatTheTableDoesNotKnow(t *testing.T) {
	var j Journal
	err := j.Record(Entry{Message: Redeem, To: Aggregator, At: time.Unix(0, 0)})
	if !errors.Is(err, ErrRow) {
		t.Errorf("Record: got %v, want ErrRow", err)
	}
	if len(j.Days()) != 0 {
		t.Error("a refused entry was counted")
	}
}

func TestJournalForgets(t *testing.T) {
	var j Journal
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range MaxDays + 5 {
		if err := j.Record(Entry{Message: Offer, To: Guest, At: start.AddDate(0, 0, i)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(j.Days()); n != MaxDays {
		t.Errorf("Days: got %d, want %d", n, MaxDays)
	}
	if err := j.Record(Entry{Message: Offer, To: Guest, At: start}); err != nil {
		t.Fatal(err)
	}
	if v := j.Day(start); len(v.Lines) != 0 {
		t.Error("an entry older than everything kept came back")
	}
	for range MaxEntries + 1 {
		_ = j.Record(Entry{Message: Offer, To: Guest, Bytes: 1, At: start.AddDate(1, 0, 0)})
	}
	last := start.AddDate(1, 0, 0)
	if n, v := len(j.Entries(last)), j.Day(last); n != MaxEntries || v.Lines[0].Messages != MaxEntries+1 {
		t.Errorf("a loud day: got %d entries, %d messages", n, v.Lines[0].Messages)
	}
}

func FuzzParseEntry(f *testing.F) {
	e := Entry{Message: Offer, To: Guest, Bytes: 5, At: time.UnixMilli(1_770_000_000_123)}
	f.Add(e.Store())
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ParseEntry(b); err == nil && string(e.Store()) != string(b) {
			t.Error("encode(decode(b)) is not b")
		}
	})
}
