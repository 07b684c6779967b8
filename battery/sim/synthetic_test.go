package sim

import (
	"math/rand/v2"
	"time"
)

// synthetic is a home of base load, fridge, kettle, washer and cooking, made for
// tests that must not need recorded data.
func synthetic(days int) Trace {
	r := rand.New(rand.NewPCG(11, 12))
	tr := Trace{Start: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), Step: time.Minute, Load: make([]float64, days*1440)}
	run := func(at, minutes int, watts float64) {
		for m := at; m < min(at+minutes, len(tr.Load)); m++ {
			tr.Load[m] += watts
		}
	}
	for m := range tr.Load {
		tr.Load[m] = 90 + 10*r.Float64()
		if m%45 < 18 {
			tr.Load[m] += 95
		}
	}
	for d := range days {
		for range 3 + r.IntN(4) {
			run(d*1440+420+r.IntN(900), 3, 2100)
		}
		run(d*1440+1080+r.IntN(120), 30, 1700)
		if r.IntN(2) == 0 {
			at := d*1440 + 600 + r.IntN(400)
			run(at, 18, 2000)
			run(at+18, 60, 250)
		}
		run(d*1440+1020+r.IntN(60), 300, 180)
	}
	return tr
}
