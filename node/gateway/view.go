package gateway

import (
	"time"

	"gridveil/battery"
	"gridveil/privacy/leak"
)

// Now is what the newest meter frame said and what the inverter measured then,
// for the local page. ok is false before the first reading.
func (g *Gateway) Now() (m Minute, h House, ok bool) {
	g.curve.mu.Lock()
	m, ok = g.curve.last, len(g.curve.all) > 0
	g.curve.mu.Unlock()
	h, _ = g.inverter() // without values there is no minute either
	return m, h, ok
}

// Mask is the running day's account of the mask; ok is false without battery.
func (g *Gateway) Mask() (r battery.Report, ok bool) {
	if g.mask == nil {
		return r, false
	}
	return g.mask.today(), true
}

// Left is what left the house on the day of t, by kind and one by one.
func (g *Gateway) Left(t time.Time) (leak.View, []leak.Entry) {
	g.journal.mu.Lock()
	defer g.journal.mu.Unlock()
	return g.journal.j.Day(t), g.journal.j.Entries(t)
}

// Waiting is how many reports have not reached the head-end yet.
func (g *Gateway) Waiting() (uint64, error) {
	if g.metered == nil {
		return 0, nil
	}
	return g.metered.queue.Pending()
}
