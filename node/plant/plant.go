// Package plant is simulated hardware: households with their appliances, roofs,
// batteries behind inverters and meters. It is what `gridveil demo` and
// `meter.source = "sim"` put in the place of copper and says so on screen.
//
// A plant moves in steps of [Step]. In each it asks the wallbox what the car
// draws, lets the inverter do what the gateway commanded, and advances the
// meter's registers by exactly what flowed: the meter of a masked home measures
// the mask, not a calculation of it. The same seed gives the same energy to the
// last milliwatt-hour, whatever the machine's speed.
package plant

import (
	"math"
	"time"

	"gridveil/battery"
)

// Step is the plant's time step.
const Step = time.Minute

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
	Car     Car // nil without a wallbox

	command float64 // battery power asked for, discharge positive
	reg     Registers
	rest    [7]float64 // sub-mWh remainders, so that rounding never drifts
}

// Command sets the battery's power from the next step on; discharge is positive.
func (h *Home) Command(watts float64) { h.command = watts }

// Registers are the values at the end of the last step.
func (h *Home) Registers() Registers { return h.reg }

// Advance lets the minute that starts at t pass and returns the registers at
// its end.
func (h *Home) Advance(t time.Time) Registers {
	load := max(0, h.Load.Watts(t))
	pv, car := 0.0, 0.0
	if h.PV != nil {
		pv = max(0, h.PV.Watts(t))
	}
	if h.Car != nil {
		car = h.Car.Watts(t)
	}
	batt := h.battery()
	net := load + car - pv - batt
	r := &h.reg
	r.Import += h.take(0, math.Max(net, 0))
	r.Export += h.take(1, math.Max(-net, 0))
	r.PV += h.take(2, pv)
	r.BattOut += h.take(3, math.Max(batt, 0))
	r.BattIn += h.take(4, math.Max(-batt, 0))
	r.Load += h.take(5, load)
	if car >= 0 {
		r.CarIn += h.take(6, car)
	} else {
		r.CarOut += int64(math.Round(-car * 1000 / 60))
	}
	r.MeterW, r.LoadW, r.PVW, r.BatteryW, r.CarW = net, load, pv, batt, car
	r.At = t.Add(Step)
	return *r
}

// battery applies the command within the battery's physics.
func (h *Home) battery() float64 {
	if h.Battery == nil {
		return 0
	}
	lo, hi := h.Battery.Bounds(Step)
	b := min(max(battery.Watts(h.command), lo), hi)
	loss := h.Battery.Apply(b, Step)
	h.reg.Loss += int64(math.Round(float64(loss) * 1000))
	h.reg.BattLevel = int64(math.Round(float64(h.Battery.E) * 1000))
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
