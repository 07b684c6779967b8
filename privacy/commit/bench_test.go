package commit

import (
	"testing"

	"gridveil/privacy/internal/yard"
)

func BenchmarkCommit(b *testing.B) {
	v := Values{Pay: 7_000_000, Earn: 6_600_000, GridPay: 1_000_000, Energy: 20_000_000}
	r := mustBlind(b, "bench")
	c := mustNew(b, v, r)
	one := yard.V(b)
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			mustNew(b, v, r)
		}
		yard.Report(b, one, 1)
	})
	b.Run("add", func(b *testing.B) {
		var s Sum
		for b.Loop() {
			var err error
			if s, err = s.Add(c); err != nil {
				b.Fatal(err)
			}
		}
		yard.Report(b, one, 1)
	})
}
