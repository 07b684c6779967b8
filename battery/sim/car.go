package sim

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"gridveil/battery"
	"gridveil/battery/score"
)

// Charging is how a car takes what it needs.
type Charging string

// AtOnce is full power from the plug on; Even is spread to the departure and may be
// moved by the mask; Cycles imitates household appliances: 20 to 180 minutes of 1.2 to
// 4 kW with gaps of 25 minutes in the mean. Cycles is experimental.
const (
	AtOnce Charging = "at once"
	Even   Charging = "even"
	Cycles Charging = "cycles"
)

// wallbox is one of a single phase of 32 A, regulated in steps of an ampere.
const (
	wallboxMax  battery.Watts = 7400
	wallboxStep battery.Watts = 230
)

// Visit is a charging session without a date: minute of the day, minutes and Wh.
type Visit struct {
	Begin, Minutes int
	Need           battery.WattHours
}

// ReadVisits reads `user,start,end,kwh,duration_h` and keeps evening sessions that
// leave room to hide: begun from 15 to 22 h, of 8 to 16 hours and 4 to 30 kWh.
func ReadVisits(r io.Reader) ([]Visit, error) {
	in := csv.NewReader(r)
	rows, err := in.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read charging sessions: %w", err)
	}
	if len(rows) == 0 || len(rows[0]) != 5 || rows[0][1] != "start" || rows[0][3] != "kwh" {
		return nil, fmt.Errorf("line 1: no charging sessions, want the header user,start,end,kwh,duration_h")
	}
	var out []Visit
	for i, row := range rows[1:] {
		at, err1 := time.Parse("2006-01-02T15:04", row[1])
		kwh, err2 := strconv.ParseFloat(row[3], 64)
		hours, err3 := strconv.ParseFloat(row[4], 64)
		if err1 != nil || err2 != nil || err3 != nil {
			return nil, fmt.Errorf("line %d: %q is no session", i+2, row)
		}
		v := Visit{at.Hour()*60 + at.Minute(), int(hours * 60), battery.WattHours(kwh * 1000)}
		if at.Hour() >= 15 && at.Hour() < 22 && hours >= 8 && hours <= 16 && kwh >= 4 && kwh <= 30 && v.session(time.Time{}).Feasible() {
			out = append(out, v)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%d sessions, none of them of an evening with 4 to 30 kWh and 8 to 16 hours", len(rows)-1)
	}
	return out, nil
}

// MadeVisits are like those of recorded homes: 12 kWh in the median, evening to morning.
func MadeVisits(n int, seed uint64) []Visit {
	r := rand.New(rand.NewPCG(seed, 9))
	out := make([]Visit, n)
	for i := range out {
		kwh := min(max(12.2*math.Exp(.5*r.NormFloat64()), 4), 30)
		out[i] = Visit{900 + r.IntN(420), 480 + r.IntN(480), battery.WattHours(1000 * kwh)}
	}
	return out
}

func (v Visit) session(day time.Time) battery.Session {
	start := day.Add(time.Duration(v.Begin) * time.Minute)
	return battery.Session{Start: start, End: start.Add(time.Duration(v.Minutes) * time.Minute), Need: v.Need, Max: wallboxMax, Step: wallboxStep}
}

// car charges one session after the other.
type car struct {
	how      Charging
	sessions []battery.Session
	left     battery.WattHours
	begun    bool
	rnd      *rand.Rand
	power    battery.Watts // of the running cycle
	until    time.Time     // of it or the gap
	missing  battery.WattHours
}

// state is what the car does at now, to be asked once a step.
func (c *car) state(now time.Time, dt time.Duration) battery.EVState {
	for len(c.sessions) > 0 && !now.Before(c.sessions[0].End) {
		c.missing += max(0, c.left)
		c.sessions, c.begun, c.left = c.sessions[1:], false, 0
	}
	if len(c.sessions) == 0 || now.Before(c.sessions[0].Start) {
		return battery.EVState{}
	}
	s := c.sessions[0]
	if !c.begun {
		c.begun, c.left = true, s.Need
	}
	ev := s.State(now, dt, c.left)
	switch {
	case c.left <= 0 || c.how == Even || ev.Lo == ev.Hi: // what must be, must be
	case c.how == AtOnce:
		ev.Plan, ev.Lo = ev.Hi, ev.Hi
	case c.how == heater:
		ev.Plan = min(2000, ev.Hi)
		ev.Lo, ev.Hi = ev.Plan, ev.Plan
	case c.how == Cycles:
		if !now.Before(c.until) {
			if c.power > 0 {
				c.power, c.until = 0, now.Add(time.Duration(25*c.rnd.ExpFloat64()*float64(time.Minute)))
			} else {
				c.power = battery.Watts(1200 + 2800*c.rnd.Float64())
				c.until = now.Add(time.Duration(20+c.rnd.IntN(161)) * time.Minute)
			}
		}
		ev.Plan = min(c.power, ev.Hi)
		ev.Lo, ev.Hi = ev.Plan, ev.Plan
	}
	return ev
}

// EVTest is a way to charge behind a policy, and what detectors make of its meter.
type EVTest struct {
	Charging Charging      `json:"charging"`
	Policy   string        `json:"policy"`
	Curves   []score.Curve `json:"curves"`
	Missing  float64       `json:"missing_wh"` // in all cars when they left
	// Null compares with days on which a storage heater took the car's energy at its
	// own power, in the order of Curves: what remains to be told from energy alone.
	Null []float64 `json:"null_auc"`
}

// EVTests are the pairs that are published.
func EVTests() []EVTest {
	return []EVTest{{Charging: AtOnce, Policy: "none"}, {Charging: Even, Policy: "none"}, {Charging: Cycles, Policy: "none"}, {Charging: Cycles, Policy: "hold"},
		{Charging: Cycles, Policy: "ls2"}, {Charging: AtOnce, Policy: "lkm"}, {Charging: AtOnce, Policy: "veil"}, {Charging: Even, Policy: "veil"}, {Charging: Cycles, Policy: "veil"}}
}

// Run charges a car a night in every home, and scores the meter's days from noon to
// noon against the same days without a car.
func (e EVTest) Run(ctx context.Context, homes []Home, visits []Visit, o Options, kernels map[string]*Kernels) (EVTest, error) {
	o.Policy = e.Policy
	var cars, heaters []score.Days
	minutes := 1.
	for i, h := range homes {
		if kernels[h.Name] == nil {
			kernels[h.Name] = &Kernels{}
		}
		o.Kernels = kernels[h.Name]
		minutes = h.Step.Minutes()
		var meters [3][][]float64 // with a car, with a heater, with neither
		for j, how := range []Charging{e.Charging, heater, ""} {
			o.Car = how
			o.Sessions = nil
			start := h.from(o.Learn * int(24*time.Hour/h.Step)).Start
			src := rand.New(rand.NewPCG(o.Seed, uint64(i)))
			for d := range len(h.Load)/int(24*time.Hour/h.Step) - o.Learn - 1 {
				o.Sessions = append(o.Sessions, visits[src.IntN(len(visits))].session(start.Add(time.Duration(d)*24*time.Hour)))
			}
			run, err := Simulate(ctx, h.Trace, o)
			if err != nil {
				return e, fmt.Errorf("%s: %w", h.Name, err)
			}
			if j == 0 {
				e.Missing += run.Missing
			}
			meters[j] = noons(run)
		}
		cars = append(cars, score.Days{With: meters[0], Without: meters[2]})
		heaters = append(heaters, score.Days{With: meters[0], Without: meters[1]})
	}
	var err error
	if e.Curves, err = score.EVCurves(cars, minutes); err != nil {
		return e, err
	}
	null, err := score.EVCurves(heaters, minutes)
	for _, c := range null {
		e.Null = append(e.Null, c.AUC)
	}
	return e, err
}

// heater is a storage heater of 2 kW that takes what the car would.
const heater Charging = "heater"

// noons cuts a run's meter into days from noon to noon.
func noons(r *Run) (out [][]float64) {
	spd := int(24 * time.Hour / r.Step)
	midnight := (24*time.Hour - r.Start.Sub(r.Start.Truncate(24*time.Hour))) % (24 * time.Hour)
	for at := int((midnight + 12*time.Hour) / r.Step); at+spd <= len(r.Meter); at += spd {
		out = append(out, r.Meter[at:at+spd])
	}
	return out
}
