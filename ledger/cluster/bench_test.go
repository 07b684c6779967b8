package cluster_test

import (
	"context"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/store"
	"gridveil/ledger/writer"
)

// BenchmarkSubmit measures receipts per second of a cluster of three in one
// process against those of one node, both with synced disks, in the same run.
func BenchmarkSubmit(b *testing.B) {
	for _, batch := range []int{64, 1024} {
		b.Run(map[int]string{64: "64", 1024: "1024"}[batch], func(b *testing.B) {
			const batches = 12
			s := transfers(b, batch*batches)
			var one, three float64
			for b.Loop() {
				one += rate(b, alone(b, s), s.Log, batch)
				three += rate(b, together(b, s), s.Log, batch)
			}
			b.ReportMetric(one/float64(b.N), "one/s")
			b.ReportMetric(three/float64(b.N), "three/s")
			b.ReportMetric(three/one, "ratio")
		})
	}
}
