package sim

import (
	"bytes"
	"context"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridveil/battery"
	"gridveil/battery/score"
)

var long = flag.Bool("long", false, "compare every published figure, which takes minutes")

func TestReadNamesLineAndColumn(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", "line 1: empty"},
		{"a,b\n", "line 1: header"},
		{"time,load_w,colour\n", "line 1, column 3: unknown column"},
		{"time,load_w\n2026-01-01T00:00,x\n", "line 2, column 2"},
		{"time,load_w\nnoon,1\n", "line 2, column 1"},
		{"time,load_w\n2026-01-01T00:00,1\n2026-01-01T00:01,1\n2026-01-01T00:01,1\n", "line 4, column 1"},
		{"time,load_w\n2026-01-01T00:00,1\n2026-01-01T00:01,1\n2026-01-01T01:01,1\n", "gap of 1h0m0s"},
		{"time,load_w\n2026-01-01T00:00,1,2\n", "3 columns"},
		{"time,load_w\n2026-01-01T00:00,1\n", "too few"},
	} {
		if _, err := Read(strings.NewReader(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: got %v, want %q", tc.text, err, tc.want)
		}
	}
}

func TestShortGapIsHeldAndCounted(t *testing.T) {
	tr, err := Read(strings.NewReader("time,load_w\n2026-01-01T00:00,1\n2026-01-01T00:01,2\n2026-01-01T00:04,3\n"))
	if err != nil || tr.Held != 2 || len(tr.Load) != 5 || tr.Load[3] != 2 || tr.Load[4] != 3 {
		t.Errorf("got %+v, %v", tr, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("time,load_w,meter_w,soc_wh\n2026-01-01T00:00,1,2,3\n2026-01-01T00:01,1,2,3\n")
	f.Fuzz(func(t *testing.T, s string) {
		if tr, err := Read(strings.NewReader(s)); err == nil && len(tr.Load) < 2 {
			t.Error("accepted a trace without step")
		}
	})
}

// TestSyntheticHomeGolden runs veil and hold over a made home: the masked meter
// must tell less than the bare one by every measure that the design names.
func TestSyntheticHomeGolden(t *testing.T) {
	tr := synthetic(9)
	bare, err := Score(tr.from(4*1440), tr.Load[4*1440:], nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	run, err := Simulate(context.Background(), tr, Options{Policy: "veil", Capacity: 5000, Power: 3000, Learn: 4, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Score(run.Trace, run.Meter, run.SoC, 5000)
	if err != nil {
		t.Fatal(err)
	}
	if r.BitsDay > bare.BitsDay/20 || r.EdgeF1 > .15 || r.LinR2 > .5 || r.LossPct < 0 || r.LossPct > 12 {
		t.Errorf("bare %+v\nveil %+v", bare, r)
	}
	var b bytes.Buffer
	if err := run.Write(&b); err != nil {
		t.Fatal(err)
	}
	back, err := Read(&b)
	if err != nil || len(back.Meter) != len(run.Meter) {
		t.Errorf("what was written reads back as %d samples: %v", len(back.Meter), err)
	}
}

// TestRunsKnowNoFuture: two recordings that part at a minute of the scored days give
// the same meter and charge up to it, whatever the policy.
func TestRunsKnowNoFuture(t *testing.T) {
	const parts = 4*1440 + 1000
	one, other := synthetic(6), synthetic(6)
	for m := parts; m < len(other.Load); m++ {
		other.Load[m] += 1700
	}
	for _, policy := range battery.Policies {
		o := Options{Policy: policy, Capacity: 2500, Power: 3000, Learn: 4, Seed: 1}
		a, err := Simulate(context.Background(), one, o)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Simulate(context.Background(), other, o)
		if err != nil {
			t.Fatal(err)
		}
		for m := range parts - 4*1440 {
			if a.Meter[m] != b.Meter[m] || a.SoC[m] != b.SoC[m] {
				t.Fatalf("%s, minute %d: %.2f W and %.2f W before the recordings part", policy, m, a.Meter[m], b.Meter[m])
			}
		}
	}
}

// household reads a recorded home that may stand beside the project; none is part
// of it.
func household(t testing.TB, name string) Trace {
	t.Helper()
	dir := os.Getenv("GRIDVEIL_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	f, err := os.Open(filepath.Join(dir, name+"_1min.csv"))
	if err != nil {
		t.Skipf("no recorded household beside the project: published figures are not compared (%v)", err)
	}
	defer f.Close()
	tr, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// figures are those of the published rows.
func figures(r score.Result) [9]float64 {
	return [9]float64{r.BitsDay, r.EdgeF1, r.EdgeLoose - r.LooseChance, r.AppRecall, r.HourR2, r.LinR2, r.LossPct, r.CostRatio, r.EFCDay}
}

var figureNames = [9]string{"bits_day", "strict F1", "loose-chance", "app_recall", "hour_r2", "lin_r2", "loss_pct", "cost_ratio", "efc_day"}

// digit is half of the last one that was published.
var digit = [9]float64{.05, .0005, .0005, .0005, .0005, .0005, .05, .005, .005}

// published are rows A and B of doc/design.md, battery: 5 kWh, 3 kW.
var published = []struct {
	home, policy string
	row          [9]float64
	ours         map[int]float64 // figures of this build that are held to it instead, see decisions 0610 and 0630
}{
	{"home_ukdale_h2", "hold", [9]float64{14.8, .014, .128, .012, .450, .248, 3.4, 1.01, .45}, nil},
	{"home_refit_h2", "hold", [9]float64{27.2, .023, .144, .023, .513, .275, 4.5, 1.06, .90}, nil},
	{"home_ukdale_h2", "ls2", [9]float64{8.0, .143, .288, .103, .210, .212, 8.1, 1.20, 1.13}, nil},
	{"home_refit_h2", "ls2", [9]float64{25.6, .145, .283, .107, .369, .256, 6.2, 1.09, 1.28}, map[int]float64{3: .116, 4: .424, 5: .279}},
	{"home_ukdale_h2", "lkm", [9]float64{1.4, .036, .118, .028, .010, .015, 5.2, .95, .71}, map[int]float64{3: .039}},
	{"home_refit_h2", "lkm", [9]float64{8.8, .075, .177, .073, .270, .113, 5.7, .97, 1.18}, nil},
	{"home_ukdale_h2", "veil", [9]float64{3.3, .019, .089, .037, .024, .017, 5.5, .96, .75}, map[int]float64{3: .024, 6: 5.03, 8: .69}},
	{"home_refit_h2", "veil", [9]float64{9.1, .031, .112, .046, .369, .159, 5.8, .99, 1.19}, map[int]float64{6: 5.65, 8: 1.16}},
}

// TestBaselinesReproduce compares with the published rows of two recorded homes:
// hold to one percent, random policies within three standard errors of the
// difference of the two means.
func TestBaselinesReproduce(t *testing.T) {
	for _, p := range published {
		if p.policy == "veil" && !*long {
			continue // a recorded home's kernel takes seconds to solve
		}
		t.Run(p.home+"/"+p.policy, func(t *testing.T) {
			tr := household(t, p.home)
			seeds := 20
			if p.policy == "hold" {
				seeds = 1
			}
			mean, se := repeat(t, tr, Options{Policy: p.policy, Capacity: 5000, Power: 3000, Learn: 4}, seeds)
			for i, want := range p.row {
				if own, ok := p.ours[i]; ok {
					want = own
				}
				tol := .01*math.Abs(want) + digit[i]
				if seeds > 1 {
					tol = 3*se[i] + digit[i]
				}
				if math.Abs(mean[i]-want) > tol {
					t.Errorf("%s: got %.4f, published %.4f, tolerance %.4f", figureNames[i], mean[i], want, tol)
				}
			}
			t.Logf("%.4f", mean)
		})
	}
}

// publishedSeeds is of how many runs the published rows of random policies are means.
const publishedSeeds = 5

// repeat runs seeds 1.. and gives the mean of each figure and the standard error
// of its difference to a published mean.
func repeat(t *testing.T, tr Trace, o Options, seeds int) (mean, se [9]float64) {
	t.Helper()
	var all [][9]float64
	o.Kernels = &Kernels{}
	for seed := range seeds {
		o.Seed = uint64(seed + 1)
		run, err := Simulate(context.Background(), tr, o)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Score(run.Trace, run.Meter, run.SoC, o.Capacity)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, figures(r))
	}
	for i := range mean {
		for _, f := range all {
			mean[i] += f[i] / float64(seeds)
		}
		for _, f := range all {
			se[i] += (f[i] - mean[i]) * (f[i] - mean[i])
		}
		if seeds > 1 {
			se[i] = math.Sqrt(se[i] / float64(seeds-1) * 2 / float64(seeds))
		}
	}
	return mean, se
}

// TestYardsticksReproduce compares with the published rates on models of three homes:
// hold, ls2 and the kernel's bound to 8 %, the rates of rated kernels to 16 %. Rows
// that another reading of the model gives are not compared, see decision 0611.
func TestYardsticksReproduce(t *testing.T) {
	homes := []string{"home_ukdale_h2", "train_ukdale_h2", "home_refit_h2"}
	rows := map[string][3][3]float64{ // hold, ls2, veil on A, A', B
		"R15": {{12.3, 10.5, 21.2}, {8.8, 8.2, 13.2}, {3.58, 2.85, 7.99}},
		"R5":  {{12.5, 11.9, 25.9}, {9.5, 8.5, 15.9}, {2.34, 2.06, 6.09}},
		"S15": {{}, {}, {.45, .33, 1.34}},
		"Z5":  {{}, {9.1, 8.7, 16.0}, {2.8, 3.0, 7.2}},
	}
	for _, y := range Yardsticks() {
		for h, home := range homes {
			if (y.Name != "R15" || h > 0) && !*long {
				continue
			}
			r, err := y.Rate(context.Background(), household(t, home))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s %s: %.3f", y.Name, home, r)
			veil, within := r.Bound, [3]float64{.08, .08, .08}
			if y.Name == "Z5" {
				veil, within[2] = r.Veil, .16
			}
			for i, got := range []float64{r.Hold, r.LS2, veil} {
				if want := rows[y.Name][i][h]; want > 0 && math.Abs(got-want) > within[i]*want+.05 {
					t.Errorf("%s of %s, policy %d: %.2f bits a day, published %.2f", y.Name, home, i, got, want)
				}
			}
			if y.Name != "Z5" && r.Veil > r.Bound*1.05 {
				t.Errorf("%s of %s: %.3f bits a day measured, the bound is %.3f", y.Name, home, r.Veil, r.Bound)
			}
		}
	}
}

// BenchmarkSimDay is a simulated day of veil, scored days only, beside one without a
// mask.
func BenchmarkSimDay(b *testing.B) {
	tr := synthetic(14)
	o := Options{Policy: "veil", Capacity: 5000, Power: 3000, Learn: 4, Seed: 1, Kernels: &Kernels{}}
	if _, err := Simulate(context.Background(), tr, o); err != nil { // solves the kernel
		b.Fatal(err)
	}
	run := func(policy string) time.Duration {
		o.Policy = policy
		start := time.Now()
		if _, err := Simulate(context.Background(), tr, o); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	var veil, none time.Duration
	for b.Loop() {
		veil += run("veil")
		none += run("none")
	}
	b.ReportMetric(float64(veil)/10/float64(b.N), "ns/day")
	b.ReportMetric(float64(veil)/float64(none), "x-of-none")
}
