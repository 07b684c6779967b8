package battery

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestCarLeavesCharged: whatever a policy asks for, with silent meters, commands and a
// governor that is started anew, a car that can be full when it leaves is, and never
// takes what its wallbox cannot give.
func TestCarLeavesCharged(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	moved, sessions := 0, 0
	for sessions < 150 {
		s := Session{Start: noon, End: noon.Add(time.Duration(30+r.IntN(900)) * time.Minute), Need: WattHours(500 + r.Float64()*40_000), Max: Watts(2300 + r.Float64()*9000), Step: Watts(r.IntN(2) * 230)}
		if !s.Feasible() {
			continue
		}
		sessions++
		spec := randomSpec(r)
		g := Governor{Spec: spec}
		st := Store{Spec: spec, E: spec.Ceiling() / 2}
		left, dt := s.Need, time.Duration(5+r.IntN(56))*time.Second
		for now := s.Start; now.Before(s.End); now = now.Add(dt) {
			o := Obs{Time: now, Dt: dt, Load: Watts(r.Float64() * 4000), E: st.E, EV: s.State(now, dt, left)}
			switch r.IntN(12) {
			case 0:
				o.Stale = time.Hour
			case 1:
				v := Watts(r.NormFloat64() * 5000)
				o.Commanded = &v
			case 2:
				g = Governor{Spec: spec}
			}
			c := g.Decide(o, wild{r})
			if math.IsNaN(float64(c.EV)) || c.EV < -1e-9 || c.EV > s.Max+1e-6 {
				t.Fatalf("the car is asked for %.0f W of %.0f", c.EV, s.Max)
			}
			if math.Abs(float64(c.EV-o.EV.Plan)) > 1 {
				moved++
			}
			st.Apply(c.Battery, dt)
			left -= WattHours(float64(c.EV) * dt.Hours())
		}
		if left > 1 {
			t.Errorf("%.1f of %.0f Wh are missing after %v at %.0f W", left, s.Need, s.End.Sub(s.Start), s.Max)
		}
		if left < -1 {
			t.Errorf("%.1f Wh too much of %.0f", -left, s.Need)
		}
	}
	if moved == 0 {
		t.Error("no car was ever moved: nothing was tried")
	}
}

// TestTheCarLiftsThePowerLimit: what the battery cannot hide of a peak the car takes
// less of, in whole steps, keeps for half a minute, and gives back.
func TestTheCarLiftsThePowerLimit(t *testing.T) {
	g := Governor{Spec: Reference(5000, 3000)}
	ev := EVState{Plugged: true, Plan: 3000, Hi: 7400, Step: 230}
	step := func(load Watts, dt time.Duration) Command {
		return g.Decide(Obs{Time: noon, Dt: dt, Load: load, E: 2500, EV: ev}, fixed(3200))
	}
	if c := step(400, 10*time.Second); c.EV != 3000 || c.Predicted != 3200 {
		t.Errorf("without a peak: %+v", c)
	}
	peak := step(5000, 10*time.Second) // 8 kW of house and car, 3 kW of battery: 1.8 kW too much
	if peak.EV != 3000-7*230 || peak.Battery != 3000 || peak.Predicted-3200 > 230 {
		t.Errorf("in a peak: %+v", peak)
	}
	if c := step(400, 10*time.Second); c.EV != peak.EV {
		t.Errorf("10 s later the car takes %.0f W, want it to rest at %.0f", c.EV, peak.EV)
	}
	if c := step(400, 30*time.Second); c.EV != 3000 {
		t.Errorf("40 s later the car takes %.0f W, want its plan", c.EV)
	}
	ev.Lo, ev.Hi = 3000, 3000
	if c := step(5000, time.Minute); c.EV != 3000 {
		t.Errorf("without slack the car takes %.0f W, want its plan", c.EV)
	}
}

// TestASlowCarMisleadsNoBattery: until a car follows, the battery acts on what flows.
func TestASlowCarMisleadsNoBattery(t *testing.T) {
	g := Governor{Spec: Reference(5000, 3000)}
	drawn := Watts(3000)
	ev := EVState{Plugged: true, Plan: 3000, Hi: 7400, Step: 230, Drawn: &drawn}
	step := func(load Watts) Command {
		return g.Decide(Obs{Time: noon, Dt: 10 * time.Second, Load: load, E: 2500, EV: ev}, fixed(3200))
	}
	peak := step(5000)
	if peak.EV != 3000-7*230 || peak.Battery != 3000 || peak.Predicted != 5000 {
		t.Errorf("in a peak: %+v, want the car asked down and 5 kW at the meter until it is", peak)
	}
	if c := step(500); c.EV != peak.EV || c.Battery != 300 || c.Predicted != 3200 {
		t.Errorf("the peak is over and the car has not moved yet: %+v", c)
	}
	drawn = peak.EV
	if c := step(500); c.Battery != 500+peak.EV-3200 || c.Predicted != 3200 {
		t.Errorf("the car has moved: %+v", c)
	}
	drawn = Watts(math.NaN())
	if c := step(500); c.Cause != CauseStale {
		t.Errorf("a car of no power: %+v", c)
	}
}
