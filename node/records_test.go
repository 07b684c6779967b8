package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridveil/ev/ocmf"
)

// stationMeter signs records as a wallbox does.
type stationMeter struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	page uint64
}

func newStationMeter(t *testing.T) *stationMeter {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &stationMeter{t: t, key: key}
}

func (m *stationMeter) label() string {
	der, err := x509.MarshalPKIXPublicKey(&m.key.PublicKey)
	if err != nil {
		m.t.Fatal(err)
	}
	return hex.EncodeToString(der)
}

// record is a signed reading: tx is B for begin, E for end.
func (m *stationMeter) record(tx byte, mwh int64) string {
	m.t.Helper()
	m.page++
	at := time.Date(2026, 6, 1, 12, int(m.page), 0, 0, time.UTC).UnixMilli()
	raw, err := ocmf.Sign(m.key, ocmf.Payload{FV: "1.0", GI: "station", GS: "S-7", PG: ocmf.Page{Context: 'T', Number: m.page}, MS: "M-17",
		RD: []ocmf.Reading{{At: at, Sync: 'S', TX: tx, Value: ocmf.FormatEnergy(mwh), RI: "1-0:1.8.0", RU: "kWh", ST: "G"}}})
	if err != nil {
		m.t.Fatal(err)
	}
	return string(raw)
}

// container is the XML file of the transparency software.
func container(key string, values ...string) string {
	b := new(strings.Builder)
	b.WriteString("\ufeff<?xml version=\"1.0\"?>\n<values>\n")
	for _, v := range values {
		id, record, _ := strings.Cut(v, " ")
		fmt.Fprintf(b, "<value transactionId=%q><signedData format=\"OCMF\" encoding=\"hex\">%x</signedData><publicKey encoding=\"plain\">%s</publicKey></value>\n", id, record, key)
	}
	b.WriteString("</values>\n")
	return b.String()
}

func recordsFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "records")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestARecordsFileOfAStationIsJudged(t *testing.T) {
	m, other := newStationMeter(t), newStationMeter(t)
	begin, end, second := m.record('B', 100_000_000), m.record('E', 107_345_000), m.record('B', 107_345_000)
	for _, tc := range []struct {
		name, text, key string
		sound           bool
		verdicts        []string
		charged         []string
	}{
		{"a session", container(m.label(), "1 "+begin, "1 "+end), "", true, []string{"signature verifies", "signature verifies"}, []string{"7345000 true"}},
		{"with the key of the label", container(other.label(), "1 "+begin, "1 "+end), m.label(), true, []string{"signature verifies", "signature verifies"}, []string{"7345000 true"}},
		{"with another key than the label's", container(m.label(), "1 "+begin, "1 "+end), other.label(), false, []string{"signature", "signature"}, nil},
		{"changed bytes", container(m.label(), "1 "+begin, "1 "+strings.Replace(end, "107.345", "103.345", 1)), "", false, []string{"signature verifies", "signature"}, nil},
		{"a session without end", container(m.label(), "1 "+begin, "1 "+end, "2 "+second), "", true, []string{"signature verifies", "signature verifies", "signature verifies"}, []string{"7345000 true", "0 false"}},
		{"a record without key", container("", "1 "+begin), "", false, []string{"--meter-key"}, nil},
		{"no record at all", container(m.label(), "1 nothing"), "", false, []string{"syntax"}, nil},
		{"another format", strings.Replace(container(m.label(), "1 "+begin), `"OCMF"`, `"ALFEN"`, 1), "", false, []string{`"ALFEN" is not read here`}, nil},
		{"one record as text", "\n" + end + "\n", m.label(), true, []string{"signature verifies"}, []string{"0 false"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := recordsFile(t, tc.text)
			if !IsSignedRecords(file) {
				t.Error("not taken for signed records")
			}
			s, err := VerifyRecords(file, tc.key)
			if err != nil {
				t.Fatal(err)
			}
			if s.Sound() != tc.sound || s.Confirmed != (tc.key != "") || len(s.Values) != len(tc.verdicts) || len(s.Charged) != len(tc.charged) {
				t.Fatalf("got %+v", s)
			}
			for i, want := range tc.verdicts {
				if got := s.Values[i].Verdict; !strings.Contains(got, want) {
					t.Errorf("record %d: %q, want %q", i, got, want)
				}
			}
			for i, want := range tc.charged {
				if got := fmt.Sprint(s.Charged[i].ImportMWh, s.Charged[i].Billable); got != want {
					t.Errorf("session %d: %s (%s), want %s", i, got, s.Charged[i].Verdict, want)
				}
			}
		})
	}
}

func TestWhatHoldsNoRecordsSaysSo(t *testing.T) {
	for name, text := range map[string]string{"an empty file": "", "another XML file": "<Document/>", "too much": "<values>" + strings.Repeat(" ", ocmf.MaxContainer)} {
		if _, err := VerifyRecords(recordsFile(t, text), ""); !errors.Is(err, ocmf.ErrContainer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := VerifyRecords(recordsFile(t, container("", "1 x")), "no key"); err == nil {
		t.Error("a label that is no key is taken")
	}
	if IsSignedRecords(recordsFile(t, "GVX1")) || IsSignedRecords(filepath.Join(t.TempDir(), "none")) {
		t.Error("evidence of a ledger is taken for records")
	}
}
