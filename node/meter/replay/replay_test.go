package replay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gridveil/node/meter"
	"gridveil/node/model"
)

func load(t *testing.T, text string, zone *time.Location) (*Trace, error) {
	t.Helper()
	return Load(strings.NewReader(text), "home.csv", zone)
}

func mustLoad(t *testing.T, text string, zone *time.Location) *Trace {
	t.Helper()
	tr, err := load(t, text, zone)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestMistakesAreNamedByLineAndColumn(t *testing.T) {
	amsterdam, err := time.LoadLocation("Europe/Amsterdam")
	if err != nil {
		t.Fatal(err)
	}
	const head = "time,load_w,kettle_w\n"
	cases := map[string]struct{ text, want string }{
		"empty file":             {"", "home.csv:1:1: want a header and at least two rows"},
		"other header":           {"zeit,load_w\n", "home.csv:1:1: want a header that starts with time,load_w"},
		"column without unit":    {"time,load_w,kettle\n", `home.csv:1:13: column "kettle": names end in _w`},
		"one row":                {head + "2014-09-15T00:00,1,2\n", "home.csv:3:1: want a header and at least two rows"},
		"field missing":          {head + "2014-09-15T00:00,1\n", "home.csv:2:19: row has 2 fields, the header 3"},
		"no time":                {head + "yesterday,1,2\n", `home.csv:2:1: want local time such as 2014-09-15T00:01, got "yesterday"`},
		"power is text":          {head + "2014-09-15T00:00,78,n/a\n", `home.csv:2:21: kettle_w: want watts such as 230 or -12.5, got "n/a"`},
		"power of a city":        {head + "2014-09-15T00:00,2000000,1\n", `home.csv:2:18: load_w: want watts such as 230 or -12.5, got "2000000"`},
		"time stands still":      {head + "2014-09-15T00:00,1,2\n2014-09-15T00:00,1,2\n", "home.csv:3:1: 2014-09-15T00:00 is not after the row before"},
		"hour that clocks skip":  {head + "2014-03-30T02:30,1,2\n", "home.csv:2:1: 2014-03-30T02:30 does not exist in zone Europe/Amsterdam: clocks skip it"},
		"line of a megabyte":     {head + strings.Repeat("x", 1<<20), "home.csv:2:1: line longer than 4096 bytes"},
		"time goes back a month": {head + "2014-09-15T00:00,1,2\n2014-08-15T00:00,1,2\n", "home.csv:3:1: 2014-08-15T00:00 is not after the row before"},
	}
	for name, c := range cases {
		_, err := load(t, c.text, amsterdam)
		if !errors.Is(err, ErrInvalid) || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func TestRepeatedHourIsToldByRowOrder(t *testing.T) {
	zone, err := time.LoadLocation("Europe/London")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("time,load_w\n")
	for _, hm := range []string{"00:30", "01:00", "01:30", "01:00", "01:30", "02:00"} {
		fmt.Fprintf(&b, "2014-10-26T%s,100\n", hm)
	}
	tr := mustLoad(t, b.String(), zone)
	for i, at := range tr.times {
		if want := time.Date(2014, 10, 25, 23, 30, 0, 0, time.UTC).Add(time.Duration(i) * 30 * time.Minute).UnixMilli(); at != want {
			t.Errorf("row %d is %v", i, time.UnixMilli(at).UTC())
		}
	}
	if tr.Step != 30*time.Minute {
		t.Errorf("step %v", tr.Step)
	}
}

func TestPowerIsIntegratedExactly(t *testing.T) {
	tr := mustLoad(t, "time,load_w\n2024-01-01T00:00,60\n2024-01-01T00:01,-30.5\n2024-01-01T00:02,0\n", nil)
	in, out, covered := tr.Energy(0, tr.Start(), tr.End())
	if in != 1000 || out != 508 || covered != 3*time.Minute {
		t.Errorf("energy %d and %d mWh over %v, want 1000, 508, 3m", in, out, covered)
	}
	if p, ok := tr.Power(0, tr.Start().Add(90*time.Second)); p != -30_500 || !ok {
		t.Errorf("power %d, %v", p, ok)
	}
	if _, ok := tr.Power(0, tr.End()); ok {
		t.Error("power after the end")
	}
}

func TestGapHasNoPower(t *testing.T) {
	tr := mustLoad(t, "time,load_w\n2024-01-01T00:00,60\n2024-01-01T00:01,60\n2024-01-01T01:00,60\n2024-01-01T01:01,60\n", nil)
	if _, ok := tr.Power(0, tr.Start().Add(30*time.Minute)); ok {
		t.Error("power inside a gap")
	}
	if in, _, covered := tr.Energy(0, tr.Start(), tr.End()); in != 4000 || covered != 4*time.Minute {
		t.Errorf("energy %d over %v, want 4000 over 4m", in, covered)
	}
}

func TestSourcePlaysRegistersInItsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := mustLoad(t, "time,load_w\n2014-01-01T00:00,60\n2014-01-01T00:01,120\n2014-01-01T00:02,-60\n", nil)
		src, err := New(Config{Trace: tr, Begin: time.Now(), Loop: true})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute+time.Second)
		defer cancel()
		var got []string
		src.Run(ctx, func(f meter.Frame) error {
			if late := time.Now().UnixMilli() - f.At; late != 0 {
				t.Errorf("frame is %d ms late", late)
			}
			in, _ := f.Get(model.ImportTotal)
			out, _ := f.Get(model.ExportTotal)
			got = append(got, fmt.Sprint(time.UnixMilli(f.At).Sub(begin).Minutes(), in, out))
			return nil
		})
		want := "[1 1000 0 2 3000 0 3 3000 1000 4 4000 1000 5 6000 1000 6 6000 2000]"
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	})
}

func TestRestartContinuesWithTheSameRegisters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := mustLoad(t, "time,load_w\n2014-01-01T00:00,60\n2014-01-01T00:01,60\n2014-01-01T00:02,60\n2014-01-01T00:03,60\n", nil)
		src, _ := New(Config{Trace: tr, Begin: time.Now().Add(-2 * time.Minute)})
		ctx, cancel := context.WithTimeout(context.Background(), 70*time.Second)
		defer cancel()
		last := int64(0)
		src.Run(ctx, func(f meter.Frame) error { last, _ = f.Get(model.ImportTotal); return nil })
		if last != 3000 {
			t.Errorf("register after three minutes is %d, want 3000", last)
		}
	})
}

func TestRealTracesLoad(t *testing.T) {
	dir := os.Getenv("GRIDVEIL_DATA")
	if dir == "" {
		dir = "../../../../shared/data"
	}
	files, _ := filepath.Glob(filepath.Join(dir, "home_*.csv"))
	if len(files) == 0 {
		t.Skipf("no traces at %s: set GRIDVEIL_DATA to run this part", dir)
	}
	zone, err := time.LoadLocation("Europe/London")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := Load(f, filepath.Base(path), zone)
		f.Close()
		if err != nil {
			t.Error(err)
			continue
		}
		in, _, covered := tr.Energy(0, tr.Start(), tr.End())
		if tr.Step != time.Minute || covered < 13*24*time.Hour || in < 20e6 {
			t.Errorf("%s: step %v, %v covered, %d mWh", filepath.Base(path), tr.Step, covered, in)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("time,load_w\n2014-09-15T00:00,78\n2014-09-15T00:01,77.5\n")
	zone, err := time.LoadLocation("Europe/London")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tr, err := Load(strings.NewReader(text), "x", zone)
		if err != nil {
			return
		}
		for i := 1; i < len(tr.times); i++ {
			if tr.times[i] <= tr.times[i-1] {
				t.Fatal("times do not ascend")
			}
		}
		tr.Energy(0, tr.Start(), tr.End())
	})
}
