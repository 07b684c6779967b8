package monthly

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
)

// june is a month with a session at either edge and one beyond each.
func june(t *testing.T, signed bool) Statement {
	t.Helper()
	from, to, err := Span("2026-06", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	at := func(end time.Time, id string) Session {
		return Session{ID: id, Begin: end.Add(-time.Hour), End: end, Case: "mixed", InMWh: 7_345_600, OutMWh: 1, Paid: 1_810_000, Earned: -20_000, MeterKey: "04aa",
			Readings: []Reading{{`OCMF|{"FV":"1.0","ID":"a,b"}|{"SD":"00"}`, true, "signature verifies"}, {`OCMF|{}|{}`, false, "signature does not verify"}}}
	}
	list := []Session{at(to, "after"), at(to.Add(-time.Millisecond), "last"), at(from, "first"), at(from.Add(-time.Millisecond), "before")}
	return Make(Statement{Of: "driver", Name: "car", Month: "2026-06", From: from, To: to, Unbilled: 1}, list, signed)
}

// TestTextJSONAndCSVTellTheSame compares the sums of all three forms.
func TestTextJSONAndCSVTellTheSame(t *testing.T) {
	s := june(t, true)
	if len(s.Sessions) != 2 || s.Sessions[0].ID != "first" || s.Sessions[1].ID != "last" {
		t.Fatalf("sessions of June: %+v", s.Sessions)
	}
	b, err := s.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back Statement
	if err := json.Unmarshal(b, &back); err != nil || back.InMWh != 14_691_200 || back.Paid != 3_620_000 || back.Earned != -40_000 || len(back.Sessions[0].Readings) != 2 {
		t.Errorf("JSON: %+v, %v", back, err)
	}
	rows, err := csv.NewReader(bytes.NewReader(s.CSV())).ReadAll()
	if err != nil || len(rows) != 5 {
		t.Fatalf("CSV: %d rows, %v", len(rows), err)
	}
	var in, paid, earned int64
	var raw []string
	for _, r := range rows[1:] {
		for i, sum := range map[int]*int64{4: &in, 6: &paid, 7: &earned} {
			v, _ := strconv.ParseInt(r[i], 10, 64) // empty in further readings of a session
			*sum += v
		}
		raw = append(raw, r[11])
	}
	if in != s.InMWh || paid != s.Paid || earned != s.Earned || raw[0] != s.Sessions[0].Readings[0].OCMF {
		t.Errorf("CSV: %d mWh, %d paid, %d earned, %q", in, paid, earned, raw)
	}
	for _, want := range []string{"14.691 kWh", "3.62 EUR", "-0.04 EUR", "7.346 kWh", `OCMF|{"FV":"1.0","ID":"a,b"}|{"SD":"00"}`, "not settled yet: 1"} {
		if !strings.Contains(string(s.Text()), want) {
			t.Errorf("text lacks %q:\n%s", want, s.Text())
		}
	}
}

func TestNothingOfTheMeterStandsInAnUnsignedStatement(t *testing.T) {
	s := june(t, false)
	b, err := s.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, form := range map[string][]byte{"text": s.Text(), "CSV": s.CSV(), "JSON": b} {
		if bytes.Contains(form, []byte("OCMF|")) || bytes.Contains(form, []byte("04aa")) {
			t.Errorf("%s names the meter:\n%s", name, form)
		}
	}
}

func TestMonthsAreCutInTheirZone(t *testing.T) {
	berlin := time.FixedZone("summer", 2*3600)
	from, to, err := Span("2026-12", berlin)
	if err != nil || !from.Equal(time.Date(2026, 11, 30, 22, 0, 0, 0, time.UTC)) || !to.Equal(time.Date(2026, 12, 31, 22, 0, 0, 0, time.UTC)) {
		t.Errorf("got %v to %v, %v", from, to, err)
	}
	for _, bad := range []string{"", "2026", "2026-13", "06-2026", "2026-6-1"} {
		if _, _, err := Span(bad, time.UTC); !errors.Is(err, ErrMonth) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	empty := Make(Statement{Of: "host", Name: "home", Month: "2026-12", From: from, To: to}, nil, true)
	if !strings.Contains(string(empty.Text()), "No session ended") || strings.Count(string(empty.CSV()), "\n") != 1 {
		t.Errorf("an empty month:\n%s\n%s", empty.Text(), empty.CSV())
	}
}

// TestStatementSaysWhatTheLedgerShows has a session of each verdict.
func TestStatementSaysWhatTheLedgerShows(t *testing.T) {
	s := june(t, true)
	proof := &ClaimProof{Request: []byte{1}, Salt: []byte{2}}
	proved := Claim{For: "energy into the car", Minor: 181, Issue: 9, Proved: true, Verdict: "proved on the ledger", Proof: proof}
	for want, claims := range map[string][]Claim{"": nil, "proved": {proved}, "not yet": {{Proof: proof}, proved}, "not covered": {proved, {Uncovered: true, Proof: proof}, {}}} {
		x := s.Sessions[0]
		x.Claims = claims
		signed, unsigned := Make(s, []Session{x}, true), Make(s, []Session{x}, false)
		rows, err := csv.NewReader(bytes.NewReader(unsigned.CSV())).ReadAll()
		if err != nil || rows[0][12] != "ledger" || rows[1][12] != want || !strings.Contains(string(unsigned.Text()), want) {
			t.Errorf("%q: %v, %v\n%s", want, rows, err, unsigned.Text())
		}
		for i := range claims {
			if unsigned.Sessions[0].Claims[i].Proof != nil || signed.Sessions[0].Claims[i].Proof != claims[i].Proof {
				t.Errorf("%q: proofs belong into signed statements only", want)
			}
		}
	}
}
