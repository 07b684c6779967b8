package gateway

import (
	"crypto/rand"
	mrand "math/rand/v2"
	"testing"
	"time"

	"gridveil/battery"
	"gridveil/battery/sim"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/identity"
	"gridveil/node/plant"
	"gridveil/node/role"
	"gridveil/node/store"
)

// TestTheNodesMeterShowsWhatTheSimulationPromises scores what a node's own meter
// measured over four days like the simulation that published figures come from, on
// the same load. The node is worse by what an inverter is too slow to hide.
func TestTheNodesMeterShowsWhatTheSimulationPromises(t *testing.T) {
	begin := time.Date(2026, 6, 15, 0, 0, 0, 0, time.UTC)
	h := maskedHouse(t, plant.NewHousehold(11))
	tr := sim.Trace{Start: begin, Step: plant.Step}
	var meter []float64
	for m := range 4 * 1440 {
		if err := h.step(t.Context(), begin.Add(time.Duration(m+1)*time.Minute)); err != nil {
			t.Fatal(err)
		}
		tr.Load, meter = append(tr.Load, h.last.LoadW), append(meter, h.last.MeterW)
	}
	node, err := sim.Score(tr, meter, nil, 5000)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := sim.Score(tr, tr.Load, nil, 5000)
	if err != nil {
		t.Fatal(err)
	}
	run, err := sim.Simulate(t.Context(), tr, sim.Options{Policy: "veil", Capacity: 5000, Power: 3000, Seed: 5})
	if err != nil {
		t.Fatal(err)
	}
	promised, err := sim.Score(run.Trace, run.Meter, nil, 5000)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("edges found: node %.2f, promised %.2f, unmasked %.2f; loose %.2f, %.2f, %.2f; hours %.2f, %.2f, %.2f; linear %.2f, %.2f, %.2f", node.EdgeF1, promised.EdgeF1, bare.EdgeF1,
		node.EdgeLoose, promised.EdgeLoose, bare.EdgeLoose, node.HourR2, promised.HourR2, bare.HourR2, node.LinR2, promised.LinR2, bare.LinR2)
	for _, c := range []struct {
		name                       string
		node, promised, bare, more float64
	}{
		{"edges", node.EdgeF1, promised.EdgeF1, bare.EdgeF1, .1}, {"edges, loosely", node.EdgeLoose, promised.EdgeLoose, bare.EdgeLoose, .3},
		{"hours", node.HourR2, promised.HourR2, bare.HourR2, .1}, {"linear attacker", node.LinR2, promised.LinR2, bare.LinR2, .1},
	} {
		if c.node > c.promised+c.more || c.bare < .5 {
			t.Errorf("%s: the node's meter tells %.2f, the simulation promised %.2f, the bare load %.2f", c.name, c.node, c.promised, c.bare)
		}
	}
}

// TestAnEdgeShowsForSecondsOnly: a kettle's two kilowatts reach the meter for as long
// as the inverter needs, and nothing is fed in at its end for longer.
func TestAnEdgeShowsForSecondsOnly(t *testing.T) {
	begin := time.Date(2026, 6, 15, 0, 0, 0, 0, time.UTC)
	on, off := begin.Add(402*time.Minute), begin.Add(404*time.Minute)
	h := maskedHouse(t, kettle{on, off})
	var before float64
	var exported int64
	for m := range 410 {
		at := begin.Add(time.Duration(m) * time.Minute)
		if err := h.step(t.Context(), at.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		switch {
		case at.Equal(on):
			if d := h.last.MeterW - before; d < 0 || d > 2000*5/60+1 {
				t.Errorf("the kettle shows %.0f W in its first minute, want at most 5 s of 2000 W", d)
			}
		case at.Equal(off):
			if d := h.last.Export - exported; d > 2000*1000*5/3600 {
				t.Errorf("%d mWh fed in when the kettle ends, want at most 5 s of 2000 W", d)
			}
		}
		before, exported = h.last.MeterW, h.last.Export
	}
}

// kettle draws two kilowatts for a while in a house of 300 W.
type kettle struct{ on, off time.Time }

func (k kettle) Watts(t time.Time) float64 {
	if t.Before(k.on) || !t.Before(k.off) {
		return 300
	}
	return 2300
}

// maskedHouse is a simulated house of 5 kWh and 3 kW with its mask and nothing around.
func maskedHouse(t *testing.T, load plant.Load) *house {
	t.Helper()
	key, err := store.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.TempDir(), key, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	env := &role.Env{Store: st, Clock: clock.Wall{}, ID: &identity.Identity{}, Config: &config.Config{}, Rand: mrand.NewChaCha8([32]byte{7})}
	env.Config.Meter.Zone, env.Config.Battery.CapacityWh, env.Config.Battery.PowerW, env.Config.Battery.Policy = "Europe/Amsterdam", 5000, 3000, "veil"
	h, err := newHouse(env, Hardware{Load: load}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.readPeriod, h.watched = func() time.Duration { return time.Hour }, func() bool { return false }
	m, err := newMask(t.Context(), env, battery.Reference(5000, 3000), sharedPrior)
	if err != nil {
		t.Fatal(err)
	}
	h.regulate(m)
	return h
}
