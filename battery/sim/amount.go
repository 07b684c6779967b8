package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"gridveil/battery"
	"gridveil/battery/score"
)

// AmountTest is a resident car that is plugged in every night and was driven on half of
// the days, behind veil, and what detectors make of the meter: they look for the days
// on which it was driven. Hiding the amount is experimental.
type AmountTest struct {
	Slack float64 `json:"slack_sessions"` // that the car may hold beyond its need, in usual sessions; 0 charges what it needs
	// Bits is what a night's amount tells at the least, by model, of independent days.
	Bits    float64       `json:"bits_night"`
	Curves  []score.Curve `json:"curves"`
	Missing float64       `json:"missing_wh"` // in all cars when they left
}

// AmountTests are those that are published.
func AmountTests() []AmountTest { return []AmountTest{{Slack: 0}, {Slack: 1}, {Slack: 2}, {Slack: 3}} }

// amountRuns is how many months a car's days are drawn for, of each home: nine nights
// are too few to tell detectors apart.
const amountRuns = 6

// settling is how many nights a car has been plugged in before it is looked for.
const settling = 50

// Run charges the car every night of every home, evenly to the departure, and scores
// the meter's days from noon to noon.
func (a AmountTest) Run(ctx context.Context, homes []Home, visits []Visit, o Options, kernels map[string]*Kernels) (AmountTest, error) {
	o.Policy, o.Car = "veil", Even
	seed := o.Seed
	nights, mean := habits(visits)
	law, err := battery.NewAmount(nights, max(1, battery.WattHours(a.Slack))*mean, source(seed))
	if err != nil {
		return a, err
	}
	a.Bits = law.Bits
	if a.Slack == 0 {
		law, a.Bits = nil, law.Bare
	}
	var days []score.Days
	minutes := 1.
	for i, h := range homes {
		if kernels[h.Name] == nil {
			kernels[h.Name] = &Kernels{}
		}
		o.Kernels, minutes = kernels[h.Name], h.Step.Minutes()
		for run := range uint64(amountRuns) {
			o.Seed = seed + run
			var driven []bool
			o.Sessions, driven = resident(h, o.Learn, visits, law, rand.New(rand.NewPCG(o.Seed, uint64(i))))
			r, err := Simulate(ctx, h.Trace, o)
			if err != nil {
				return a, fmt.Errorf("%s: %w", h.Name, err)
			}
			a.Missing += r.Missing
			var d score.Days
			for n, day := range noons(r) {
				if driven[n] {
					d.With = append(d.With, day)
				} else {
					d.Without = append(d.Without, day)
				}
			}
			if len(d.With) > 0 && len(d.Without) > 1 {
				days = append(days, d)
			}
		}
	}
	if len(days) == 0 {
		return a, errors.New("recordings too short to look for a car: want a week to score")
	}
	a.Curves, err = score.EVCurves(days, minutes)
	return a, err
}

// habits are a car's past nights, half of them without need, and its usual session.
func habits(visits []Visit) (nights []battery.WattHours, mean battery.WattHours) {
	for _, v := range visits {
		nights = append(nights, v.Need, 0)
		mean += v.Need / battery.WattHours(len(visits))
	}
	return nights, mean
}

// resident draws a car's nights, one for each noon to noon that is scored, and tells
// which of them follow a day on which it was driven. A nil law charges what it needs.
func resident(h Home, learn int, visits []Visit, law *battery.Amount, r *rand.Rand) (sessions []battery.Session, driven []bool) {
	start := h.from(learn * int(24*time.Hour/h.Step)).Start
	beyond := battery.WattHours(0)
	if law != nil {
		beyond = law.Slack / 2
	}
	for d := -settling; d < len(h.Load)/int(24*time.Hour/h.Step)-learn-1; d++ {
		v := visits[r.IntN(len(visits))]
		drove := r.IntN(2) == 0
		if !drove {
			v.Need = 0
		}
		if law != nil {
			beyond -= v.Need
			v.Need = law.Tonight(beyond)
			beyond += v.Need
		}
		if d >= 0 {
			sessions = append(sessions, v.session(start.Add(time.Duration(d)*24*time.Hour)))
			driven = append(driven, drove)
		}
	}
	return sessions, driven
}
