package agg

import (
	"crypto/ed25519"
	"testing"
	"time"

	"gridveil/privacy"
)

// yardstick is the time of one standard-library Ed25519 verification in this
// run.
func yardstick(b *testing.B) float64 {
	b.Helper()
	k := must(privacy.NewKey(privacy.SeededReader("yardstick")))(b)
	msg := make([]byte, 200)
	sig := ed25519.Sign(k, msg)
	pk := k.Public().(ed25519.PublicKey)
	const n = 400
	best := time.Duration(1 << 62)
	for range 3 {
		begin := time.Now()
		for range n {
			if !ed25519.Verify(pk, msg, sig) {
				b.Fatal("yardstick does not verify")
			}
		}
		best = min(best, time.Since(begin))
	}
	return float64(best.Nanoseconds()) / n
}

func ratio(b *testing.B, v float64, per int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*per)/v, "V/report")
}

func BenchmarkAggReport(b *testing.B) {
	z := newZone(b, 1)
	v := yardstick(b)
	for b.Loop() {
		z.report(0, 1234)
	}
	ratio(b, v, 1)
}

// BenchmarkAggServer is one server's whole work per report: the helper's, which
// opens a box besides.
func BenchmarkAggServer(b *testing.B) {
	const homes = 100
	z := newZone(b, homes)
	xs, _ := readings(homes)
	l, _ := z.collect(xs)
	start := must(l.Start())(b)
	v := yardstick(b)
	for b.Loop() {
		h := must(NewHelper(z.helper, z.interval, false))(b)
		prepared := must(h.Prepare(start))(b)
		b.StopTimer()
		l.round.ok = make([]bool, homes)
		for i := range l.round.ok {
			l.round.ok[i] = true
		}
		combine := must(l.Combine(prepared))(b)
		b.StartTimer()
		must(h.Finish(combine))(b)
	}
	ratio(b, v, homes)
}

func BenchmarkAggCheck(b *testing.B) {
	const homes = 100
	z := newZone(b, homes)
	xs, _ := readings(homes)
	res, list, err := finish(z.collect(xs))
	if err != nil {
		b.Fatal(err)
	}
	v := yardstick(b)
	for b.Loop() {
		must(z.check(res, list))(b)
	}
	ratio(b, v, homes)
}
