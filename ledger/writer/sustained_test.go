package writer_test

import (
	"context"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/writer"
)

// sustained is so long that Badger compacts many times.
const sustained = time.Minute

// BenchmarkSustained measures a minute of transfers from three operators at once,
// with every rule, sync, compaction and checkpoint: its rate against that of
// verifying the same signatures on all processors (ratio), before and after, and
// in processor time (cpu-ratio). disk-ratio is what the log takes on the disk
// without its journal against the bytes of its entries. Run it with -benchtime
// 1x. SyncWrites is on; journal and head are synced for each group.
func BenchmarkSustained(b *testing.B) {
	s := logs(b, "transfer")
	floor := yardstick(b, s)
	const rounds = 400      // of the floor, before and after
	var authors [3][][]byte // of one operator each, see logs
	for i, raw := range s.Log[2:] {
		authors[i%3] = append(authors[i%3], raw)
	}
	var ours, alone float64 // entries a second
	var each, disk float64
	for b.Loop() {
		alone += verifyRate(b, s) / 2
		floor.measure(b, rounds)
		tw := earnest(b, s)
		cfg := tw.WriterConfig()
		cfg.Policy, cfg.Clock, cfg.Machine = ledger.NewPolicy(tw.Policy.Log), nil, town.NewLaps(s)
		w, stop := tw.Writer(cfg)
		used, start := town.CPU(b), time.Now()
		var wg sync.WaitGroup
		for i, own := range authors {
			wg.Go(func() {
				for time.Since(start) < sustained {
					submitLap(b, w, string(rune('a'+i)), own)
				}
			})
		}
		wg.Wait()
		n := float64(w.Size())
		ours += n / time.Since(start).Seconds()
		each += float64(town.CPU(b)-used) / n
		stop()
		bytes := 0
		for _, raw := range s.Log[2:] {
			bytes += len(raw)
		}
		disk += float64(town.DiskBytes(b, filepath.Join(tw.Dir, "log"))) / (n * float64(bytes) / float64(len(s.Log)-2))
		alone += verifyRate(b, s) / 2
		floor.measure(b, rounds)
	}
	b.ReportMetric(ours/alone, "ratio")
	b.ReportMetric(floor.each()*float64(b.N)/each, "cpu-ratio")
	b.ReportMetric(disk/float64(b.N), "disk-ratio")
	b.ReportMetric(ours/float64(b.N), "entries/s")
}

// submitLap submits all entries of one operator, as many at a time as it may have
// waiting.
func submitLap(b *testing.B, w *writer.Writer, operator string, own [][]byte) {
	for part := range slices.Chunk(own, waiting*batch) {
		for i, r := range w.SubmitAs(context.Background(), operator, part) {
			if r.Err != nil {
				b.Errorf("entry %d: %v", i, r.Err)
				return
			}
		}
	}
}

// verifyRate is how many signatures all processors verify in a second and do
// nothing else.
func verifyRate(b *testing.B, s *scene.Scene) float64 {
	m := town.NewLax(s)
	var checks [][]ledger.Check
	for _, raw := range s.Log[2:] {
		it, err := m.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		c, err := m.Checks(it)
		if err != nil {
			b.Fatal(err)
		}
		checks = append(checks, c)
	}
	const long = 5 * time.Second
	start := time.Now()
	n := make([]int, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for ; time.Since(start) < long; n[i] += batch {
				from := (n[i]/batch + i) % batches * batch
				if errs := ledger.Verify(checks[from : from+batch]); errs != nil {
					b.Error(errs)
					return
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, k := range n {
		sum += k
	}
	return float64(sum) / time.Since(start).Seconds()
}
