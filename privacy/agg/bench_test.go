package agg

import (
	"testing"

	"gridveil/privacy/internal/yard"
)

func BenchmarkAggReport(b *testing.B) {
	z := newZone(b, 1)
	v := yard.V(b)
	for b.Loop() {
		z.report(0, 1234)
	}
	yard.Report(b, v, 1)
}

// BenchmarkAggServer is one server's whole work per report: the helper's, which
// opens a box besides.
func BenchmarkAggServer(b *testing.B) {
	const homes = 100
	z := newZone(b, homes)
	xs, _ := readings(homes)
	l, _ := z.collect(xs)
	start := must(l.Start())(b)
	v := yard.V(b)
	for b.Loop() {
		h := must(NewHelper(z.helper, z.interval, Past{}))(b)
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
	yard.Report(b, v, homes)
}

func BenchmarkAggCheck(b *testing.B) {
	const homes = 100
	z := newZone(b, homes)
	xs, _ := readings(homes)
	res, list, err := finish(z.collect(xs))
	if err != nil {
		b.Fatal(err)
	}
	v := yard.V(b)
	for b.Loop() {
		must(z.check(res, list))(b)
	}
	yard.Report(b, v, homes)
}
