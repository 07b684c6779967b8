package ev_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"gridveil/ev"
)

const (
	beginRecord = `OCMF|{"FV":"1.0","PG":"T1","RD":[{"TX":"B","RV":0}]}|{"SD":"3045"}`
	endRecord   = `OCMF|{"FV":"1.0","PG":"T2","RD":[{"TX":"E","RV":7.345}]}|{"SD":"3046"}`
)

func event(kind ev.EventKind, at int64, seq int, raw string, samples ...ev.Sample) ev.Event {
	return ev.Event{Kind: kind, At: at, Seq: seq, Station: "box", TransactionID: "7", IDToken: "CODE", Raw: []byte(raw), Samples: samples}
}

// session is a transaction as a troublesome station tells it: numbers all 0, an Updated after Ended, signed texts in
// three places, values as sums and per phase.
func session() []ev.Event {
	wrapped, _ := json.Marshal(map[string]any{"value": `{"signedMeterData":"` + base64.StdEncoding.EncodeToString([]byte(beginRecord)) + `"}`})
	plain, _ := json.Marshal(map[string]any{"transactionData": []any{map[string]any{"value": endRecord}}})
	return []ev.Event{
		event(ev.Started, 1000, 0, `{"idTag":"CODE"}`, ev.Sample{Value: "1000", Context: "Transaction.Begin"}),
		event(ev.Values, 2000, 0, string(wrapped), ev.Sample{Value: "1.5", Unit: "kWh"}, ev.Sample{Value: "3.68", Measurand: "Power.Active.Import", Unit: "kW"}),
		event(ev.Updated, 3000, 0, `{"n":1}`, ev.Sample{Value: "0.7", Unit: "kWh", Phase: "L1"}, ev.Sample{Value: "600", Phase: "L2-N"}, ev.Sample{Value: "600", Phase: "L3"}),
		event(ev.Ended, 4000, 0, string(plain), ev.Sample{Value: "2.345", Unit: "kWh"}),
		event(ev.Updated, 4000, 1, `{"late":true}`, ev.Sample{Value: "10", Measurand: "SoC", Unit: "Percent"}, ev.Sample{Value: "NaN"}, ev.Sample{Value: "9", Measurand: "Voltage"}),
	}
}

func TestFoldReadsWhatTroublesomeStationsSend(t *testing.T) {
	got := ev.Fold(session())
	want := ev.Transaction{ID: "7", Station: "box", IDToken: "CODE", HasStarted: true, StartedAt: 1000, EndedAt: 4000, HasEnded: true,
		Events: 5, Signed: [][]byte{[]byte(beginRecord), []byte(endRecord)}, Readings: []ev.Reading{
			{At: 1000, ImportMWh: 1_000_000, HasImport: true},
			{At: 2000, ImportMWh: 1_500_000, HasImport: true, PowerW: 3680, HasPower: true},
			{At: 3000, ImportMWh: 1_900_000, HasImport: true},
			{At: 4000, ImportMWh: 2_345_000, HasImport: true, SoCPermille: 100, HasSoC: true},
		}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("transaction (-want +got):\n%s", d)
	}
}

// G1: order, repetition and delay of messages move nothing.
func TestFoldDependsOnTheSetOfEventsOnly(t *testing.T) {
	base := session()
	want := ev.Fold(base)
	rapid.Check(t, func(t *rapid.T) {
		evs := slices.Clone(base)
		for range rapid.IntRange(0, 10).Draw(t, "repetitions") {
			again := rapid.SampledFrom(base).Draw(t, "again")
			again.Received = rapid.Int64Range(0, 1<<40).Draw(t, "received")
			if again.Kind == ev.Ended {
				again.Received = 0
			}
			evs = append(evs, again)
		}
		evs = rapid.Permutation(evs).Draw(t, "order")
		if d := cmp.Diff(want, ev.Fold(evs)); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
	})
}

func TestSignedRecordsAreFoundWhereverStationsPutThem(t *testing.T) {
	quoted := strings.ReplaceAll(endRecord, `"`, `\"`)
	for name, raw := range map[string]string{
		"plain text":               endRecord,
		"in a JSON text":           `{"value":"` + quoted + `"}`,
		"with blanks around":       `{"value":"  ` + quoted + `\n"}`,
		"in base64":                `["` + base64.StdEncoding.EncodeToString([]byte(endRecord)) + `"]`,
		"in base64 of the web":     `["` + base64.RawURLEncoding.EncodeToString([]byte(endRecord)) + `"]`,
		"in hex":                   `["` + strings.ToUpper(hex.EncodeToString([]byte(endRecord))) + `"]`,
		"in JSON in a text":        `{"value":"{\"signedMeterValue\":\"` + strings.ReplaceAll(quoted, `\`, `\\\`) + `\"}"}`,
		"twice":                    `["` + quoted + `","` + quoted + `"]`,
		"in the XML of a portal":   `["<signedData>` + quoted + `</signedData>"]`,
		"behind something like it": `["OCMF|{} OCMF|x ` + quoted + `"]`,
	} {
		t.Run(name, func(t *testing.T) {
			got := ev.FindOCMF([]byte(raw))
			if len(got) != 1 || string(got[0]) != endRecord {
				t.Errorf("got %q", got)
			}
		})
	}
	if got := ev.FindOCMF([]byte(`{"value":"` + quoted + ` ` + strings.ReplaceAll(beginRecord, `"`, `\"`) + `"}`)); len(got) != 2 {
		t.Errorf("two records in one text: got %d", len(got))
	}
}

func FuzzFindOCMF(f *testing.F) {
	for _, e := range session() {
		f.Add(e.Raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, r := range ev.FindOCMF(raw) {
			if again := ev.FindOCMF(r); len(again) != 1 || string(again[0]) != string(r) {
				t.Errorf("%q is not found in itself: %q", r, again)
			}
		}
	})
}

func TestThinningKeepsEverythingThatIsSigned(t *testing.T) {
	evs := session()
	for i := range ev.MaxEvents {
		evs = append(evs, event(ev.Updated, 5000+int64(i)*1000, 0, fmt.Sprint(i), ev.Sample{Value: fmt.Sprint(3000 + i)}))
	}
	thin := ev.Thin(evs, 300_000)
	if len(thin) > 100 {
		t.Errorf("%d events are left", len(thin))
	}
	a, b := ev.Fold(evs), ev.Fold(thin)
	if cmp.Diff(a.Signed, b.Signed) != "" || a.EndedAt != b.EndedAt || a.StartedAt != b.StartedAt {
		t.Errorf("thinning changed what is signed")
	}
	if d := cmp.Diff(thin, ev.Thin(thin, 300_000)); d != "" {
		t.Errorf("thinning twice differs: %s", d)
	}
}

func TestIntakeClosesOnceTheStationHasSaidAll(t *testing.T) {
	tx := ev.Transaction{HasEnded: true, EndReceived: 1_000_000}
	for _, c := range []struct {
		name     string
		complete bool
		dry      int64
		want     int64
	}{
		{"records are complete", true, 0, 1_005_000},
		{"queue ran dry", false, 1_020_000, 1_080_000},
		{"queue never runs dry", false, 0, 1_600_000},
		{"queue ran dry very late", false, 1_590_000, 1_600_000},
	} {
		if got := tx.ClosesAt(c.complete, c.dry); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
	if got := (ev.Transaction{}).ClosesAt(true, 5); got != 0 {
		t.Errorf("a transaction that runs closes at %d", got)
	}
}
