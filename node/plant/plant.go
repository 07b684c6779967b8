// Package plant is simulated hardware: households with their appliances, roofs,
// batteries behind inverters and meters. It is what `gridveil demo` and
// `meter.source = "sim"` put in the place of copper and says so on screen.
//
// A plant moves in steps of [Step]. In each it asks the wallbox what the car
// draws, lets the inverter go on as before for [Reaction] and then do what the
// gateway decides on what flows now, and advances the meter's registers by exactly
// what flowed: the meter of a masked home measures the mask, with the edges that no
// inverter is fast enough to hide, not a calculation of it. The same seed gives the same energy to the
// last milliwatt-hour, whatever the machine's speed.
package plant

import (
	"math"
	"time"

	"gridveil/battery"
)

// Step is the plant's time step.
const Step = time.Minute

// Reaction is how long a change of load shows at the meter before meter, gateway and
// inverter have answered it: readings come every few seconds, and an inverter needs
// 1 to 10 s.
const Reaction = 5 * time.Second

// Load is the true consumption of a household without car and battery.
type Load interface {
	// Watts is the mean power in the minute that starts at t, never negative.
	Watts(t time.Time) float64
}

// Source is a generator: a roof. Watts is positive.
type Source interface {
	Watts(t time.Time) float64
}

// Car is what the wallbox draws from the house (positive) or feeds into it
// (negative) in the minute that starts at t, in watts.
type Car interface {
	Watts(t time.Time) float64
}

// Bank is a battery behind an inverter of its own, outside the plant.
type Bank interface {
	// Flowed is what it gave up to now since the last call, mean W with discharge
	// positive, what it stores, and how old that knowledge is.
	Flowed(now time.Time) (watts float64, stored battery.WattHours, age time.Duration)
}

// Registers are the meters' cumulative values in mWh.
type Registers struct {
	Import, Export     int64 // the utility's meter
	PV                 int64
	BattIn, BattOut    int64
	CarIn, CarOut      int64
	Load               int64 // true consumption of the house; no instrument reports it
	BattLevel          int64 // energy stored now
	Loss               int64 // battery losses
	MeterW, LoadW, PVW float64
	BatteryW, CarW     float64 // discharge and charging are positive
	At                 time.Time
}

// Home is one connection point. It is stepped by one goroutine.
type Home struct {
	Load    Load
	PV      Source // nil without a roof
	Battery *battery.Store
	Bank    Bank // instead of Battery
	Car     Car  // nil without a wallbox
	// Regulate gives the battery's power, discharge positive, from what flows now. It
	// is asked once in each step; of a Bank at the step's end, for the next one, and
	// its inverter's own lag takes the place of Reaction. Nil: the battery rests.
	Regulate func(Flow) float64

	power battery.Watts // of the battery since it was regulated last
	reg   Registers
	rest  [7]float64 // sub-mWh remainders, so that rounding never drifts
}

// Flow is what gateway and inverter know in a step, in watts.
type Flow struct {
	At            time.Time // now
	Load, PV, Car float64   // now
	Stored        battery.WattHours
	Age           time.Duration // of Stored
	Last          Registers     // as the minute before ended; its powers are means
}

// Registers are the values at the end of the last step.
func (h *Home) Registers() Registers { return h.reg }

// Advance lets the minute that starts at t pass and returns the registers at
// its end.
func (h *Home) Advance(t time.Time) Registers {
	load := max(0, h.Load.Watts(t))
	pv, car := h.sun(t), 0.0
	if h.Car != nil {
		car = h.Car.Watts(t)
	}
	before, after, age := h.flows(Flow{At: t.Add(Reaction), Load: load, PV: pv, Car: car, Last: h.reg})
	net := load + car - pv
	r := &h.reg
	r.Import += h.take(0, mean(math.Max(net-before, 0), math.Max(net-after, 0)))
	r.Export += h.take(1, mean(math.Max(before-net, 0), math.Max(after-net, 0)))
	r.PV += h.take(2, pv)
	r.BattOut += h.take(3, mean(math.Max(before, 0), math.Max(after, 0)))
	r.BattIn += h.take(4, mean(math.Max(-before, 0), math.Max(-after, 0)))
	r.Load += h.take(5, load)
	if car >= 0 {
		r.CarIn += h.take(6, car)
	} else {
		r.CarOut += int64(math.Round(-car * 1000 / 60))
	}
	batt := mean(before, after)
	r.MeterW, r.LoadW, r.PVW, r.BatteryW, r.CarW = net-batt, load, pv, batt, car
	r.At = t.Add(Step)
	if h.Bank != nil && h.Regulate != nil {
		h.Regulate(Flow{At: r.At, Load: max(0, h.Load.Watts(r.At)), PV: h.sun(r.At), Car: car, Stored: battery.WattHours(r.BattLevel) / 1000, Age: age, Last: *r})
	}
	return *r
}

func (h *Home) sun(t time.Time) float64 {
	if h.PV == nil {
		return 0
	}
	return max(0, h.PV.Watts(t))
}

// flows are the battery's powers before and after it answered in the minute of f.
func (h *Home) flows(f Flow) (before, after float64, age time.Duration) {
	if h.Bank == nil {
		before, after = h.battery(f)
		return before, after, 0
	}
	w, stored, age := h.Bank.Flowed(f.At.Add(Step - Reaction))
	h.reg.BattLevel = stored.Milli()
	return w, w, age
}

// mean is the mean power of a step from those before and after the inverter answered.
func mean(before, after float64) float64 {
	const share = float64(Reaction) / float64(Step)
	return before*share + after*(1-share)
}

// battery lets the inverter go on, then regulate, within the battery's physics.
func (h *Home) battery(f Flow) (before, after float64) {
	if h.Battery == nil {
		return 0, 0
	}
	before = h.run(h.power, Reaction)
	h.power = 0
	if h.Regulate != nil {
		f.Stored = h.Battery.E
		h.power = battery.Watts(h.Regulate(f))
	}
	after = h.run(h.power, Step-Reaction)
	h.reg.BattLevel = int64(math.Round(float64(h.Battery.E) * 1000))
	return before, after
}

func (h *Home) run(asked battery.Watts, d time.Duration) float64 {
	lo, hi := h.Battery.Bounds(d)
	b := min(max(asked, lo), hi)
	loss := h.Battery.Apply(b, d)
	h.reg.Loss += int64(math.Round(float64(loss) * 1000))
	return float64(b)
}

// take turns a minute's mean power into whole mWh and keeps the remainder.
func (h *Home) take(i int, watts float64) int64 {
	h.rest[i] += watts * 1000 / 60
	whole := math.Floor(h.rest[i])
	h.rest[i] -= whole
	return int64(whole)
}

// Restore continues the registers and the stored energy of an earlier run.
func (h *Home) Restore(r Registers) {
	h.reg = r
	if h.Battery != nil {
		h.Battery.E = battery.WattHours(r.BattLevel) / 1000
	}
}
