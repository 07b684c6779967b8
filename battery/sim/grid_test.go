package sim

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"gridveil/battery"
)

func small() (Grid, []Home) {
	return Grid{Policies: []string{"hold", "ls2", "lkm"}, Stops: []int{0}, Capacities: []battery.WattHours{2000, 5000}, Powers: []battery.Watts{3000}, Seeds: 2, First: 1, Learn: 4},
		[]Home{{"a", synthetic(7)}, {"b", synthetic(8)}}
}

// TestABrokenOffComparisonGoesOn: rows read back from a file that was cut in the middle
// of a line are not run again, and all rows are as those of an unbroken one.
func TestABrokenOffComparisonGoesOn(t *testing.T) {
	g, homes := small()
	var file bytes.Buffer
	w := csv.NewWriter(&file)
	write := func(cells []string) error {
		err := w.Write(cells)
		w.Flush()
		return err
	}
	if err := write(RowHeader()); err != nil {
		t.Fatal(err)
	}
	all, err := g.Run(context.Background(), homes, nil, func(r Row) error { return write(r.Cells()) })
	if err != nil {
		t.Fatal(err)
	}
	if want := 2 * 2 * (1 + 2 + 2); len(all) != want {
		t.Fatalf("%d rows, want %d", len(all), want)
	}
	lines := strings.SplitAfter(file.String(), "\n")
	cut := strings.Join(lines[:8], "") + lines[8][:20]
	kept, err := ReadRows(strings.NewReader(cut))
	if err != nil || len(kept) != 7 {
		t.Fatalf("%d rows read back, want 7: %v", len(kept), err)
	}
	done := map[Case]Row{}
	for _, r := range kept {
		done[r.Case] = r
	}
	again := 0
	second, err := g.Run(context.Background(), homes, done, func(Row) error { again++; return nil })
	if err != nil || again != len(all)-7 {
		t.Fatalf("%d runs again, want %d: %v", again, len(all)-7, err)
	}
	for i := range all {
		if !reflect.DeepEqual(all[i].Cells(), second[i].Cells()) {
			t.Errorf("row %d: %v, then %v", i, all[i].Cells(), second[i].Cells())
		}
	}
}

func TestWhatIsNoTableOfRunsIsRefused(t *testing.T) {
	head := strings.Join(RowHeader(), ",") + "\n"
	bad := "a,hold,x,1,1,1" + strings.Repeat(",0", len(RowHeader())-6) + "\n"
	for _, text := range []string{"", "home,policy\n", strings.Replace(head, "stop", "halt", 1), head + bad + bad} {
		if _, err := ReadRows(strings.NewReader(text)); !errors.Is(err, ErrRows) {
			t.Errorf("%.30q: got %v", text, err)
		}
	}
}

func FuzzReadRows(f *testing.F) {
	f.Add(strings.Join(RowHeader(), ",") + "\n")
	f.Fuzz(func(t *testing.T, s string) {
		rows, err := ReadRows(strings.NewReader(s))
		if err == nil && strings.Count(s, "\n") < len(rows) {
			t.Errorf("%d rows of %d lines", len(rows), strings.Count(s, "\n"))
		}
	})
}

// TestMeansAreOverHomesFirst: a home with more seeds weighs no more than another, and
// the worst without one is that of the worse home.
func TestMeansAreOverHomesFirst(t *testing.T) {
	row := func(home string, seed uint64, bits, r2 float64) Row {
		r := Row{Case: Case{Home: home, Policy: "veil", Capacity: 5000, Power: 3000, Seed: seed}}
		r.BitsDay, r.HourR2 = bits, r2
		return r
	}
	m := Means([]Row{row("a", 1, 2, -1), row("a", 2, 4, .5), row("b", 1, 9, .1)})
	if len(m) != 1 || m[0].Homes != 2 || math.Abs(m[0].Mean.Bits-6) > 1e-12 || m[0].Worst.Bits != 9 || m[0].Least.Bits != 3 || math.Abs(m[0].Mean.Hour-.175) > 1e-12 {
		t.Errorf("got %+v", m)
	}
}
