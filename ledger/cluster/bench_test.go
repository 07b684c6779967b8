package cluster_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/writer"
)

// BenchmarkSubmit measures receipts per second of a cluster of three, all in one
// process, against those of one node; both sync to disk, without witnesses.
func BenchmarkSubmit(b *testing.B) {
	const batches = 8
	for _, batch := range []int{64, 1024} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			s := transfers(b, batch*batches)
			var one, three time.Duration
			for b.Loop() {
				one += alone(b, s, batch)
				three += together(b, s, batch)
			}
			n := float64(b.N * batch * batches)
			b.ReportMetric(n/one.Seconds(), "one/s")
			b.ReportMetric(n/three.Seconds(), "three/s")
			b.ReportMetric(one.Seconds()/three.Seconds(), "ratio")
		})
	}
}

// earnest are the settings of a log of its own machine.
func earnest(c *writer.Config) {
	c.Policy = ledger.NewPolicy(c.Policy.Log)
	c.Store.MemTableBytes, c.Store.SegmentBytes, c.Store.MinFree = 32<<20, 0, -1
}

// timed submits a log in batches, one after the other, behind its first two
// entries.
func timed(b *testing.B, w *writer.Writer, log [][]byte, batch int) time.Duration {
	b.Helper()
	send := func(raw [][]byte) {
		for i, r := range w.Submit(context.Background(), raw) {
			if r.Err != nil {
				b.Fatalf("entry %d: %v", i, r.Err)
			}
		}
	}
	send(log[:2])
	start := time.Now()
	for at := 2; at < len(log); at += batch {
		send(log[at:min(at+batch, len(log))])
	}
	return time.Since(start)
}

func alone(b *testing.B, s *scene.Scene, batch int) time.Duration {
	tw := town.New(b, s)
	cfg := tw.WriterConfig()
	cfg.CheckpointEvery = 10 * time.Second
	earnest(&cfg)
	w, stop := tw.Writer(cfg)
	defer stop()
	return timed(b, w, s.Log, batch)
}

func together(b *testing.B, s *scene.Scene, batch int) time.Duration {
	f := emptyFleet(b, s)
	f.tune = earnest
	f.start(3)
	defer f.kill()
	l := f.leader().up().Writer()
	eventually(b, "the leader takes entries", func() bool { return l.Submit(context.Background(), s.Log[:1])[0].Err == nil })
	return timed(b, l, s.Log, batch)
}
