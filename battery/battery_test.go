package battery

import (
	"context"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"gridveil/battery/kernel"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func chacha(seed byte) *rand.Rand { return rand.New(rand.NewChaCha8([32]byte{seed})) }

type wild struct{ r *rand.Rand }

func (wild) Name() string { return "wild" }
func (w wild) Target(Obs) Watts {
	switch w.r.IntN(8) {
	case 0:
		return Watts(math.NaN())
	case 1:
		return Watts(math.Inf(1))
	case 2:
		return 1e300
	case 3:
		return -1e300
	}
	return Watts(w.r.NormFloat64() * 8000)
}

func randomSpec(r *rand.Rand) Spec {
	s := Reference(WattHours(200+20_000*r.Float64()), Watts(300+9000*r.Float64()))
	s.SoCMin, s.SoCMax = .3*r.Float64(), .6+.4*r.Float64()
	s.EtaCharge, s.EtaDischarge = .7+.3*r.Float64(), .7+.3*r.Float64()
	s.AllowExport = r.IntN(2) == 0
	s.Standby = Watts(20 * r.Float64())
	if r.IntN(3) == 0 {
		s.MaxImport = Watts(2000 + 10_000*r.Float64())
	}
	if r.IntN(3) == 0 {
		s.RampPerSecond = Watts(5 + 100*r.Float64())
	}
	return s
}

var long = flag.Bool("long", false, "try a hundred million steps, which takes minutes")

// TestLimitsHold: no target, input, command, car or fault moves a battery outside its
// limits, in a million steps, or a hundred million.
func TestLimitsHold(t *testing.T) {
	steps := 1_000_000
	if *long {
		steps = 100_000_000
	} else if testing.Short() {
		steps = 100_000
	}
	r := rand.New(rand.NewPCG(1, 2))
	for done := 0; done < steps; {
		spec := randomSpec(r)
		if err := spec.Check(); err != nil {
			t.Fatal(err)
		}
		g := Governor{Spec: spec}
		st := Store{Spec: spec, E: spec.Floor() + WattHours(r.Float64())*(spec.Ceiling()-spec.Floor())}
		for range 500 {
			done++
			checkStep(t, &g, &st, r)
		}
	}
}

func checkStep(t *testing.T, g *Governor, st *Store, r *rand.Rand) {
	t.Helper()
	dt := time.Duration(1+r.IntN(60)) * time.Second
	o := Obs{Time: noon, Dt: dt, Load: Watts(r.NormFloat64() * 3000), E: st.E, PrevActual: g.last}
	if r.IntN(2) == 0 {
		plan := Watts(7000 * r.Float64())
		o.EV = EVState{Plugged: true, Plan: plan, Lo: plan * Watts(r.Float64()), Hi: plan + Watts(4000*r.Float64()), Step: Watts(230 * r.IntN(2))}
	}
	switch r.IntN(24) {
	case 0:
		o.Load = Watts(math.NaN())
	case 1:
		o.Stale = time.Hour
	case 2:
		v := Watts(r.NormFloat64() * 1e6)
		o.Commanded = &v
	case 3:
		o.E = WattHours(math.NaN())
	case 4:
		o.Grid = &GridLimit{Import: Watts(r.NormFloat64() * 4000), Export: Watts(r.NormFloat64() * 4000)}
	case 5:
		v := Watts(math.Inf(-1))
		o.Commanded = &v
	case 6:
		o.EV.Lo, o.EV.Hi = Watts(math.NaN()), Watts(math.Inf(1))
	case 7:
		*g = Governor{Spec: g.Spec} // started anew
	}
	c := g.Decide(o, wild{r})
	lo, hi := st.Bounds(dt)
	if math.IsNaN(float64(o.E)) {
		return // the battery's own electronics stop it; nothing is decided on an unknown charge
	}
	const eps = 1e-6
	if math.IsNaN(float64(c.Battery)) || c.Battery < lo-eps || c.Battery > hi+eps {
		t.Fatalf("battery at %.1f W, allowed %.1f to %.1f (%s)", c.Battery, lo, hi, c.Cause)
	}
	net := o.Load + c.EV
	if c.EV != o.EV.Plan && !(c.EV >= o.EV.Lo-eps && c.EV <= o.EV.Hi+eps) || math.IsNaN(float64(c.EV)) {
		t.Fatalf("the car at %.1f W, planned %.1f, between %.1f and %.1f", c.EV, o.EV.Plan, o.EV.Lo, o.EV.Hi)
	}
	if c.Cause != CauseStale && !g.AllowExport && c.Battery > max(0, net)+eps && c.Battery > eps {
		t.Fatalf("battery feeds the grid: %.1f W at a load of %.1f W", c.Battery, net)
	}
	st.Apply(c.Battery, dt)
	if st.E < -eps || st.E > st.Ceiling()+1e-3 && c.Battery < 0 {
		t.Fatalf("store at %.3f Wh of %.1f", st.E, st.Ceiling())
	}
}

// TestEnergyIsConserved keeps a second set of books by the textbook, from powers and
// efficiencies alone: over a day what the meter bought is what the home took, what
// each direction and the standby ate, and what is stored.
func TestEnergyIsConserved(t *testing.T) {
	spec := Reference(5000, 3000)
	spec.Standby, spec.EtaCharge, spec.EtaDischarge = 8, .93, .96
	for _, name := range Policies {
		ctl := controller(t, spec, name, 1)
		r := rand.New(rand.NewPCG(9, 9))
		st := Store{Spec: spec, E: 2500}
		var bought, took, eaten, booked, charged, discharged float64
		var prev Watts
		for m := range 1440 {
			o := Obs{Time: noon.Add(time.Duration(m) * time.Minute), Dt: time.Minute, Load: Watts(100 + r.Float64()*2500), E: st.E, PrevMeter: prev}
			c := ctl.Step(o)
			b, before := float64(c.Battery), float64(st.E)
			booked += float64(st.Apply(c.Battery, time.Minute))
			prev = c.Predicted
			bought += float64(prev) / 60
			took += float64(o.Load) / 60
			if b > 0 {
				eaten += b / 60 * (1/.96 - 1)
				before -= b / 60 / .96
				discharged += b
			} else {
				eaten += -b / 60 * (1 - .93)
				before -= b / 60 * .93
				charged -= b
			}
			eaten += min(before, 8./60)
			if st.E > spec.Ceiling()+1e-9 || st.E < 0 {
				t.Fatalf("%s: %.3f Wh stored, between 0 and %.0f are possible", name, st.E, spec.Ceiling())
			}
		}
		if d := bought - took - eaten - float64(st.E-2500); math.Abs(d) > 1e-6 {
			t.Errorf("%s: a day's books differ by %g Wh", name, d)
		}
		if d := booked - eaten; math.Abs(d) > 1e-6 {
			t.Errorf("%s: %.6f Wh of losses are booked, %.6f arose", name, booked, eaten)
		}
		if name != "none" && (charged == 0 || discharged == 0) {
			t.Errorf("%s: %.0f W charged and %.0f W discharged in a day: nothing was tried", name, charged, discharged)
		}
	}
}

func controller(t *testing.T, spec Spec, policy string, seed byte) *Controller {
	t.Helper()
	ctl, err := NewController(context.Background(), Config{Spec: spec, Policy: policy, Rand: chacha(seed), Prior: solvedOnce})
	if err != nil {
		t.Fatal(err)
	}
	return ctl
}

var priors = map[Plan]*kernel.Kernel{}

// solvedOnce is SolvePrior for homes of one size, each plan solved once.
func solvedOnce(ctx context.Context, p Plan, yearly float64) (*kernel.Kernel, error) {
	if k := priors[p]; k != nil {
		return k, nil
	}
	k, err := SolvePrior(ctx, p, yearly)
	if err == nil {
		priors[p] = k
	}
	return k, err
}

// TestPolicyIsCausal: what a block shows is drawn before its first minute. Of two
// homes that part in the middle of a day, a block policy shows the same until the
// next block, in which it must differ; a restart of the memory changes nothing.
func TestPolicyIsCausal(t *testing.T) {
	const parts = 400 // the first minute of a block
	differ := func(a, b Watts) bool { return math.Abs(float64(a-b)) > 1e-9 }
	for name, block := range map[string]int{"veil": 5, "lkm": 15} {
		start := noon.Add(-parts * time.Minute) // noon begins a block of every policy
		run := func(other, restore bool) (shown []Watts) {
			ctl := controller(t, Reference(5000, 3000), name, 5)
			st := Store{Spec: ctl.gov.Spec, E: 2500}
			prev := Watts(0)
			for m := range 600 {
				load := Watts(300 + 100*(m%17))
				if other && m >= parts {
					load += 400 // the battery covers it
				}
				if restore && m == 202 {
					ctl.Restore(ctl.Snapshot())
				}
				c := ctl.Step(Obs{Time: start.Add(time.Duration(m) * time.Minute), Dt: time.Minute, Load: load, E: st.E, PrevMeter: prev})
				st.Apply(c.Battery, time.Minute)
				prev = c.Predicted
				shown = append(shown, prev)
			}
			return shown
		}
		one, other, restored := run(false, false), run(true, false), run(false, true)
		next := parts + block
		later := 0
		for m := range one {
			if m < next && differ(one[m], other[m]) {
				t.Fatalf("%s, minute %d: %.2f W and %.2f W, and the homes' pasts are the same", name, m, one[m], other[m])
			}
			if differ(one[m], other[m]) {
				later++
			}
			if differ(one[m], restored[m]) {
				t.Fatalf("%s, minute %d: %.2f W and after a restore %.2f W", name, m, one[m], restored[m])
			}
		}
		if later == 0 {
			t.Errorf("%s: two different homes show the same all day: the policy reads nothing", name)
		}
	}
}

func TestTooSmallBatteryHoldsAndSaysWhatWouldDo(t *testing.T) {
	ctl := controller(t, Reference(150, 3000), "veil", 1)
	if r := ctl.Today(); r.Policy != "hold" || r.Reason == "" {
		t.Errorf("got %+v", r)
	}
	if _, err := PlanFor(Reference(150, 3000), nil, 3500); !errors.Is(err, ErrTooSmall) {
		t.Errorf("got %v", err)
	}
}

func TestFaultySpecificationListsEveryFault(t *testing.T) {
	err := Spec{Capacity: WattHours(math.NaN()), EtaCharge: 2, MaxCharge: -1}.Check()
	if !errors.Is(err, ErrInvalidSpec) {
		t.Fatalf("got %v", err)
	}
	if _, err := NewController(context.Background(), Config{}); !errors.Is(err, ErrInvalidSpec) {
		t.Errorf("controller without a battery: got %v", err)
	}
}

func TestStaleReadingLetsGo(t *testing.T) {
	g := Governor{Spec: Reference(5000, 3000)}
	fresh := Obs{Time: noon, Dt: 5 * time.Second, Load: 2000, E: 2500}
	g.Decide(fresh, fixed(500))
	stale := fresh
	stale.Stale = time.Minute
	first := g.Decide(stale, fixed(500))
	if first.Battery != 1500 || first.Cause != CauseStale {
		t.Errorf("first stale step: got %+v, want the last power held", first)
	}
	g.Decide(stale, fixed(500))
	if c := g.Decide(stale, fixed(500)); c.Battery != 0 {
		t.Errorf("after 15 s without a reading: %.0f W", c.Battery)
	}
}

// TestExposedIsCounted: a load that the battery cannot cover, a command and a silent
// meter are exposed minutes; a home that the battery covers has none.
func TestExposedIsCounted(t *testing.T) {
	spec := Reference(5000, 3000)
	order := Watts(1500)
	for _, c := range []struct {
		name    string
		edit    func(m int, o *Obs)
		exposed [2]float64 // minutes of the day, least and most
		wh      float64    // at least
		spans   int
	}{
		{"a covered home", func(int, *Obs) {}, [2]float64{0, 0}, 0, 0},
		{"a 9 kW shower of ten minutes", func(m int, o *Obs) {
			if m >= 700 && m < 710 {
				o.Load = 9000
			}
		}, [2]float64{10, 40}, 800, 1},
		{"an hour of command", func(m int, o *Obs) {
			if m >= 700 && m < 760 {
				o.Commanded = &order
			}
		}, [2]float64{60, 70}, 200, 1},
		{"a silent meter", func(m int, o *Obs) {
			if m >= 700 && m < 720 {
				o.Stale = time.Hour
			}
		}, [2]float64{20, 30}, 0, 1},
	} {
		ctl := controller(t, spec, "veil", 3)
		st := Store{Spec: spec, E: 2500}
		prev := Watts(0)
		for m := range 1440 {
			o := Obs{Time: noon.Add(time.Duration(m) * time.Minute), Dt: time.Minute, Load: 400, E: st.E, PrevMeter: prev}
			c.edit(m, &o)
			cmd := ctl.Step(o)
			st.Apply(cmd.Battery, time.Minute)
			prev = o.Load - cmd.Battery
		}
		if r := ctl.Today(); r.ExposedMins < c.exposed[0] || r.ExposedMins > c.exposed[1] || r.ExposedWh < c.wh {
			t.Errorf("%s: %.0f minutes, %.0f Wh exposed; want %.0f to %.0f minutes, %.0f Wh or more", c.name, r.ExposedMins, r.ExposedWh, c.exposed[0], c.exposed[1], c.wh)
		} else if r.ExposedSpans != c.spans || (r.ExposedBits > 0) != (c.spans > 0) {
			t.Errorf("%s: %d intervals worth %.1f bits, want %d", c.name, r.ExposedSpans, r.ExposedBits, c.spans)
		}
	}
}

// TestACommandDoesNotStopLearning: under a command the home's demand is still booked
// block by block; without a reading it is not guessed.
func TestACommandDoesNotStopLearning(t *testing.T) {
	spec := Reference(5000, 3000)
	ctl := controller(t, spec, "veil", 3)
	st := Store{Spec: spec, E: 2500}
	order, prev := Watts(0), Watts(0)
	for m := range 181 {
		o := Obs{Time: noon.Add(time.Duration(m) * time.Minute), Dt: time.Minute, Load: 600, E: st.E, PrevMeter: prev}
		switch {
		case m >= 60 && m < 120:
			o.Commanded, o.Load = &order, 1200
		case m >= 120 && m < 150:
			o.Stale = time.Hour
		}
		cmd := ctl.Step(o)
		st.Apply(cmd.Battery, time.Minute)
		prev = o.Load - cmd.Battery
	}
	var low, high int
	for _, wh := range ctl.Snapshot() {
		switch {
		case math.Abs(wh-50) < 3:
			low++
		case math.Abs(wh-100) < 3:
			high++
		default:
			t.Errorf("a block of %.1f Wh, the home took 50 or 100", wh)
		}
	}
	if low < 15 || low > 18 || high < 10 || high > 12 {
		t.Errorf("%d blocks of 50 Wh and %d of 100 Wh, want about 17 and 11: none of the silent half-hour", low, high)
	}
}

type fixed Watts

func (fixed) Name() string       { return "fixed" }
func (f fixed) Target(Obs) Watts { return Watts(f) }

func TestRestoreKeepsOnlyEnergies(t *testing.T) {
	ctl := controller(t, Reference(5000, 3000), "veil", 1)
	ctl.Restore([]float64{10, math.NaN(), -5, 1e9, 20})
	if got := ctl.Snapshot(); len(got) != 2 || got[0] != 10 || got[1] != 20 {
		t.Errorf("got %v", got)
	}
}

func FuzzGovernor(f *testing.F) {
	f.Add(500., 2000., 2500., 30.)
	f.Fuzz(func(t *testing.T, target, load, e, secs float64) {
		g := Governor{Spec: Reference(5000, 3000)}
		dt := time.Duration(secs * float64(time.Second))
		c := g.Decide(Obs{Time: noon, Dt: dt, Load: Watts(load), E: WattHours(e)}, fixed(target))
		if math.IsNaN(float64(c.Battery)) || c.Battery > 3000 || c.Battery < -3000 {
			t.Fatalf("battery at %v W", c.Battery)
		}
	})
}

// steps runs a day of steps of ten seconds and gives the time of one.
func steps(b *testing.B, ctl *Controller, n int) time.Duration {
	start := time.Now()
	for i := range n {
		ctl.Step(Obs{Time: noon.Add(time.Duration(i) * 10 * time.Second), Dt: 10 * time.Second, Load: Watts(300 + i%900), E: 2500})
	}
	return time.Since(start)
}

func benchController(b *testing.B, policy string) *Controller {
	ctl, err := NewController(context.Background(), Config{Spec: Reference(5000, 3000), Policy: policy, Rand: chacha(1), Prior: solvedOnce})
	if err != nil {
		b.Fatal(err)
	}
	return ctl
}

func BenchmarkHoldStep(b *testing.B) {
	b.ReportAllocs()
	ctl := benchController(b, "hold")
	b.ResetTimer()
	steps(b, ctl, b.N)
}

func BenchmarkVeilStep(b *testing.B) {
	b.ReportAllocs()
	ctl, hold := benchController(b, "veil"), benchController(b, "hold")
	steps(b, ctl, 1) // the first kernel row
	b.ResetTimer()
	took := steps(b, ctl, b.N)
	b.StopTimer()
	b.ReportMetric(float64(took)/float64(steps(b, hold, b.N)), "x-of-hold")
}
