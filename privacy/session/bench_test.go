package session_test

import (
	"testing"

	"gridveil/privacy"
	"gridveil/privacy/internal/world"
	"gridveil/privacy/internal/yard"
	"gridveil/privacy/session"
)

// recorded runs one session and gives its requests to the aggregator.
func recorded(b *testing.B) (w *world.World, auth, settle []byte) {
	b.Helper()
	w = newWorld(b)
	mustSession(b, w, world.Plan{Energy: mixed, Tamper: func(to session.Role, msg []byte) []byte {
		switch {
		case to != session.ToAggregator:
		case msg[0] == byte(privacy.KindAuthReq):
			auth = msg
		default:
			settle = msg
		}
		return msg
	}})
	return w, auth, settle
}

// BenchmarkAuthorise is one AuthReq that is admitted, without storing.
func BenchmarkAuthorise(b *testing.B) {
	w, auth, _ := recorded(b)
	clear(w.EVAGG.Store)
	v := yard.V(b)
	for b.Loop() {
		r, err := w.EVAGG.Settler.Authorise(w.Now, auth)
		if err != nil || len(r.Put) == 0 {
			b.Fatalf("not admitted: %v", err)
		}
	}
	yard.Report(b, v, 1)
}

// BenchmarkSettle is one Settle that is booked, without notes and storing.
func BenchmarkSettle(b *testing.B) {
	w, _, settle := recorded(b)
	for k := range w.EVAGG.Store {
		if k[0] == 't' {
			delete(w.EVAGG.Store, k)
		}
	}
	v := yard.V(b)
	for b.Loop() {
		_, booked, err := w.EVAGG.Settler.Settle(w.Now, settle)
		if err != nil || booked == nil {
			b.Fatalf("not booked: %v", err)
		}
	}
	yard.Report(b, v, 1)
}
