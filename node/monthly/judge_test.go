package monthly

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
)

func hostFile(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/host.json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAStatementThatWasPrintedOnceStaysProvable judges a file of an earlier
// version: what is in it must count for ever.
func TestAStatementThatWasPrintedOnceStaysProvable(t *testing.T) {
	j, err := Judge(bytes.NewReader(hostFile(t)), nil)
	if err != nil || j.Proved != 1 {
		t.Fatalf("got %+v, %v", j, err)
	}
	s := j.Sessions[0]
	want := Judged{ID: "AC45-EC", Proved: true, Agreed: "signed by host and driver", MeterKey: s.MeterKey, InMWh: 3_116_666, Paid: 910_000, Earned: 870_000, Open: 1,
		Prices: Prices{Roof: 180_000, Grid: 320_000, House: 260_000, Export: 80_000}}
	if s != want {
		t.Errorf("got %+v, want %+v", s, want)
	}
}

// TestEveryCharacterOfAStatementsPapersCounts changes one character after the other
// of what host and driver signed.
func TestEveryCharacterOfAStatementsPapersCounts(t *testing.T) {
	file := hostFile(t)
	from := bytes.Index(file, []byte(`"papers"`))
	from += bytes.Index(file[from:], []byte(`{`))
	to := from + bytes.Index(file[from:], []byte(`}`))
	tried := 0
	for i := from; i < to; i += 3 {
		old := file[i]
		if !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef0123456789+/", rune(old)) {
			continue
		}
		file[i] = 'g'
		tried++
		if _, err := Judge(bytes.NewReader(file), nil); !errors.Is(err, ErrStatement) {
			t.Fatalf("changed at %d, %q: got %v", i, file[max(0, i-20):i+1], err)
		}
		file[i] = old
	}
	if tried < 300 {
		t.Errorf("only %d characters tried", tried)
	}
}

func TestAFileThatIsNoStatementIsRefused(t *testing.T) {
	for _, text := range []string{"", "{}", "[]", `{"of": "host", "sessions": {}}`, `{"of": "nobody"}`, `{"of": "host", "paid_micro": 1}`} {
		if _, err := Judge(strings.NewReader(text), nil); !errors.Is(err, ErrStatement) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	long := `{"of": "host", "name": "` + strings.Repeat("a", MaxStatement) + `"}`
	if _, err := Judge(strings.NewReader(long), nil); !errors.Is(err, ErrStatement) {
		t.Errorf("a file of %d bytes: got %v", len(long), err)
	}
}

// FuzzJudge feeds foreign bytes: nothing panics, and what is judged proved adds up.
func FuzzJudge(f *testing.F) {
	f.Add(hostFile(f))
	f.Add([]byte(`{"of": "host", "in_mwh": 7, "sessions": [{"session": "AAAA-AA", "in_mwh": 7, "claims": [{"proved": true}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := Judge(bytes.NewReader(b), nil)
		if err == nil && j.Proved+j.Unproved != len(j.Sessions) {
			t.Errorf("%+v", j)
		}
	})
}
