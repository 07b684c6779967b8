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

// curve is a ring of the last day's minutes. Safe for concurrent use.
type curve struct {
	mu  sync.Mutex
	all []Minute
}

func newCurve() *curve { return &curve{} }

func (c *curve) add(m Minute) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) == curveMinutes {
		c.all = append(c.all[:0], c.all[1:]...)
	}
	c.all = append(c.all, m)
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
