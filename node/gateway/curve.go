package gateway

import (
	"sync"
	"time"

	"gridveil/battery"
)

// curveMinutes is how much of the past the local page shows: a day.
const curveMinutes = 24 * 60

// Minute is one point of the local load curve, strictly personal: it never
// leaves the house.
type Minute struct {
	At                            time.Time
	Load, Meter, PV, Battery, Car float64 // W; Load without car
}

// curve is a ring of the last day's minutes, each the mean of its meter frames.
// Safe for concurrent use.
type curve struct {
	mu     sync.Mutex
	all    []Minute
	frames int    // in the newest minute
	last   Minute // as it came
}

func newCurve() *curve { return &curve{} }

// add takes a meter frame's powers: once a second, or once a minute.
func (c *curve) add(m Minute) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = m
	m.At = m.At.Truncate(time.Minute)
	for n := len(c.all); n > 0 && c.all[n-1].At.After(m.At); n-- {
		c.all, c.frames = c.all[:n-1], 1 // the clock was set back: these minutes come again
	}
	if n := len(c.all); n > 0 && c.all[n-1].At.Equal(m.At) {
		c.frames++
		c.all[n-1].mix(m, float64(c.frames))
		return
	}
	if len(c.all) == curveMinutes {
		c.all = append(c.all[:0], c.all[1:]...)
	}
	c.all, c.frames = append(c.all, m), 1
}

// mix adds the nth value of a minute to its mean.
func (a *Minute) mix(b Minute, n float64) {
	for _, p := range [][2]*float64{{&a.Load, &b.Load}, {&a.Meter, &b.Meter}, {&a.PV, &b.PV}, {&a.Battery, &b.Battery}, {&a.Car, &b.Car}} {
		*p[0] += (*p[1] - *p[0]) / n
	}
}

// since copies the minutes from t on.
func (c *curve) since(t time.Time) []Minute {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, m := range c.all {
		if !m.At.Before(t) {
			return append([]Minute(nil), c.all[i:]...)
		}
	}
	return nil
}

// Curve is today's load curve, for the local page.
func (g *Gateway) Curve(since time.Time) []Minute { return g.curve.since(since) }

// trueLoad is the house's own consumption: what the meter shows, less what the
// inverter and the wallbox add to it.
func trueLoad(meter battery.Watts, h House) battery.Watts {
	return meter + h.BattWatts + h.PVWatts - h.CarWatts
}
