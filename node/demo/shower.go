package demo

import (
	"time"

	"gridveil/node/plant"
)

// showers is the home, 1-based, where somebody showers late while a guest's car
// charges: more than its battery can hide, so that its mask moves the car.
const showers = 5

// A shower from an instantaneous heater. With recorded households there is none.
const (
	showerFrom = 36 * time.Minute
	showerFor  = 8 * time.Minute
	showerW    = 9000
)

// shower is a household with one shower a day.
type shower struct{ plant.Load }

// Watts adds the shower to the household's own load.
func (s shower) Watts(t time.Time) float64 {
	w := s.Load.Watts(t)
	if at := t.Sub(t.Truncate(24 * time.Hour)); at >= showerFrom && at < showerFrom+showerFor {
		w += showerW
	}
	return w
}
