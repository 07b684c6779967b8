package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recordings are two made homes of six days in a folder, beside a file that is none.
func recordings(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for i, name := range []string{"a.csv", "b.csv"} {
		var b strings.Builder
		b.WriteString("time,load_w,kettle_w\n")
		at := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
		for m := range 6 * 1440 {
			load, kettle := 150+m%7, 0
			if m%1440 > 1000 && m%(61+10*i) < 4 {
				kettle = 2000
			}
			fmt.Fprintf(&b, "%s,%d,%d\n", at.Add(time.Duration(m)*time.Minute).Format("2006-01-02T15:04"), load+kettle, kettle)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "other.csv"), []byte("a,b\n1,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAComparisonIsTheSameForTheSameSeed(t *testing.T) {
	traces := recordings(t)
	told := 0
	b := BatteryGrid{Traces: traces, Policies: []string{"veil", "hold", "lkm"}, Stops: []int{0}, Capacities: []float64{500, 800}, Powers: []float64{3000}, Seeds: 2, Seed: 3, Learn: 4,
		Told: func(string, ...any) { told++ }}
	files := []string{"pareto.csv", "pareto.md", "cost.svg", "capacity.svg"}
	var first []string
	for run := range 3 {
		if run != 1 { // the second goes on where the first ended
			b.Out = t.TempDir()
		}
		means, err := b.Pareto(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(means) != 6 || means[0].Homes != 2 {
			t.Fatalf("%d settings, %d homes", len(means), means[0].Homes)
		}
		for i, name := range files {
			text, err := os.ReadFile(filepath.Join(b.Out, name))
			if err != nil {
				t.Fatal(err)
			}
			if run == 0 {
				first = append(first, string(text))
			} else if string(text) != first[i] {
				t.Errorf("run %d: %s differs", run, name)
			}
		}
	}
	if told == 0 {
		t.Error("the file that is no recording was not told of")
	}
	if err := os.WriteFile(filepath.Join(b.Out, "pareto.csv"), []byte("mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Pareto(t.Context()); err == nil {
		t.Error("somebody else's file was written over")
	}
}
