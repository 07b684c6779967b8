package battery

import (
	"math"
	"testing"
	"time"
)

// TestNillRecovers: the steady value gives way to full charging when the store would
// run empty, and to a low one when it would overflow, and comes back between.
func TestNillRecovers(t *testing.T) {
	spec := Reference(1000, 3000)
	n := NewNill(spec)
	see := func(load Watts, e WattHours) Watts {
		return n.Target(Obs{Time: noon, Dt: time.Minute, Load: load, E: e})
	}
	for _, step := range []struct {
		name    string
		load    Watts
		e       WattHours
		want    Watts
		becomes byte
	}{
		{"the first load is held", 500, 500, 500, 'S'},
		{"and stays", 1500, 500, 500, 'S'},
		{"an empty store is filled", 1500, 5, 3000, 'L'},
		{"at full power", 3500, 500, 3500, 'L'},
		{"until most of it is full", 1000, 900, .5*500 + .5*2000, 'S'},
		{"a full store is emptied", 0, 999, 0, 'H'},
		{"until half of it", 0, 499, 0, 'S'},
	} {
		if got := see(step.load, step.e); math.Abs(float64(got-step.want)) > 1e-9 || n.state != step.becomes {
			t.Errorf("%s: got %.1f W in state %c, want %.1f in %c", step.name, got, n.state, step.want, step.becomes)
		}
	}
}

// TestSteppingTakesItsSide: each kind shows the multiple below or above the load that
// its rule says, and the other one when the store has no room or nothing left.
func TestSteppingTakesItsSide(t *testing.T) {
	for _, c := range []struct {
		kind string
		e    WattHours
		want Watts
	}{
		{"ls1", 4000, 0}, {"ls1", 1000, 3000}, {"ls1", 1, 3000},
		{"lc", 4000, 0}, {"lc", 1, 3000}, {"rc", 4999, 0}, {"rc", 1, 3000}, {"ls2", 4999, 0}, {"ls2", 1, 3000},
	} {
		p := NewStepping(c.kind, Reference(5000, 3000), chacha(1))
		if got := p.Target(Obs{Time: noon, Dt: time.Minute, Load: 1000, E: c.e}); got != c.want {
			t.Errorf("%s at %.0f Wh: %.0f W, want %.0f", c.kind, c.e, got, c.want)
		}
	}
}

// TestLyapunovBuysCheap: with a weight on prices it takes more when it is cheap.
func TestLyapunovBuysCheap(t *testing.T) {
	for weight, less := range map[float64]Watts{0: 0, 8: 500 * 8 * .05} {
		l := NewLyapunov("", Reference(5000, 3000), weight)
		l.Target(Obs{Time: noon, Dt: time.Minute, Load: 600, E: 2500, Price: .3})
		if got := l.Target(Obs{Time: noon, Dt: time.Minute, Load: 600, E: 2500, Price: .2}); math.Abs(float64(got-600-less)) > 1e-6 {
			t.Errorf("weight %.0f: %.1f W, want %.1f", weight, got, 600+less)
		}
	}
}

// TestLaplaceNoiseHasItsScale: its mean size is 800 W.
func TestLaplaceNoiseHasItsScale(t *testing.T) {
	l := NewLaplace(Reference(5000, 3000), chacha(2))
	sum := 0.
	const n = 20_000
	for range n {
		sum += math.Abs(float64(l.Target(Obs{Load: 100, E: 2500}) - 100))
	}
	if got := sum / n; math.Abs(got-800) > 25 {
		t.Errorf("mean size %.0f W, want 800", got)
	}
}
