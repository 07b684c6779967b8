package battery

import (
	"math"
	"testing"
	"time"
)

// minute steps a controller of a 5 kWh battery through minute m with a load.
func minute(c *Controller, st *Store, m int, load Watts, prev Command) Command {
	cmd := c.Step(Obs{Time: noon.Add(time.Duration(m) * time.Minute), Dt: time.Minute, Load: load, E: st.E, PrevMeter: prev.Predicted, PrevActual: prev.Battery})
	st.Apply(cmd.Battery, time.Minute)
	return cmd
}

func TestARestartKeepsLevelAndAccount(t *testing.T) {
	spec := Reference(5000, 3000)
	st := Store{Spec: spec, E: 2500}
	c := controller(t, spec, "veil", 1)
	var cmd Command
	for m := range 13 { // three minutes into a block
		cmd = minute(c, &st, m, 700, cmd)
	}
	level, _ := c.Base()
	before := c.Today()
	again := controller(t, spec, "veil", 99)
	again.Resume(c.State())
	if r := again.Today(); r != before || r.LoadWh == 0 {
		t.Errorf("the account was %+v and is %+v", before, r)
	}
	cmd = minute(again, &st, 13, 700, cmd)
	if now, ok := again.Base(); !ok || now != level || math.Abs(float64(cmd.Predicted-level)) > 1 {
		t.Errorf("the block's level was %.1f W and is %.1f W; the meter shows %.1f W", level, now, cmd.Predicted)
	}
	for m := 14; m < 16; m++ {
		cmd = minute(again, &st, m, 700, cmd)
	}
	if _, _, ok := again.Demand(); ok {
		t.Error("a block that was seen in part counts as whole")
	}
}

func TestAStateThatNoHomeCanHaveIsDropped(t *testing.T) {
	c := controller(t, Reference(5000, 3000), "veil", 1)
	c.Resume(State{Day: Report{Policy: "other", LoadWh: math.NaN()}, Block: noon, Base: Watts(math.Inf(1))})
	if r := c.Today(); r.LoadWh != 0 || r.Policy != "veil" {
		t.Errorf("got %+v", r)
	}
	if level, _ := c.Base(); level != 0 {
		t.Errorf("level %v", level)
	}
}

func TestASilentMeterEndsInRest(t *testing.T) {
	g := Governor{Spec: Reference(5000, 3000)}
	g.RampPerSecond = 100
	g.last = 1950
	o := Obs{Time: noon, Dt: time.Second, Load: Watts(math.NaN()), E: 2500}
	for s := 1; s <= 40; s++ {
		c := g.Decide(o, None{})
		want := Watts(1950)
		if s > 10 {
			want = max(0, 1950-Watts(s-10)*100)
		}
		if c.Cause != CauseStale || math.Abs(float64(c.Battery-want)) > 1e-9 {
			t.Fatalf("second %d: %v W (%s), want %v W", s, c.Battery, c.Cause, want)
		}
	}
}

// TestWhatIsNoStepIsExposed: gaps, backward steps and a clock that jumps restart
// the block, and the interval counts as exposed.
func TestWhatIsNoStepIsExposed(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*Obs)
		mins float64
	}{
		{"a gap of an hour", func(o *Obs) { o.Dt, o.Time = time.Hour, o.Time.Add(59*time.Minute) }, 60},
		{"no time passed", func(o *Obs) { o.Dt = 0 }, 0}, {"time ran backwards", func(o *Obs) { o.Dt = -time.Minute }, 0},
		{"the clock jumped", func(o *Obs) { o.Time = o.Time.Add(3 * time.Hour) }, 1}, {"not a number", func(o *Obs) { o.Load = Watts(math.NaN()) }, 1},
		{"an old reading", func(o *Obs) { o.Stale = 10 * time.Minute }, 1}, {"a megawatt", func(o *Obs) { o.Load = 1e6 }, 1},
		{"a battery that measures nothing", func(o *Obs) { o.PrevActual = Watts(math.NaN()) }, 1}, {"an unknown charge", func(o *Obs) { o.E = WattHours(math.NaN()) }, 1},
	} {
		spec := Reference(5000, 3000)
		st := Store{Spec: spec, E: 2500}
		c := controller(t, spec, "hold", 1)
		var cmd Command
		for m := range 10 {
			cmd = minute(c, &st, m, 700, cmd)
		}
		before := c.Today().ExposedMins
		o := Obs{Time: noon.Add(10 * time.Minute), Dt: time.Minute, Load: 700, E: st.E, PrevMeter: cmd.Predicted, PrevActual: cmd.Battery}
		tc.edit(&o)
		cmd = c.Step(o)
		if got := c.Today().ExposedMins - before; math.Abs(got-tc.mins) > 1e-9 {
			t.Errorf("%s: %.1f minutes exposed, want %.1f", tc.name, got, tc.mins)
		}
		lo, hi := st.Bounds(time.Minute)
		if cmd.Battery < lo || cmd.Battery > hi || bad(cmd.Battery) {
			t.Errorf("%s: commanded %v W", tc.name, cmd.Battery)
		}
	}
}
