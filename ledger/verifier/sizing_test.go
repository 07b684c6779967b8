package verifier_test

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
)

// BenchmarkSizing measures what doc/results.md computes the size of an
// aggregator from: sessions are entered, and a verifier replays and stores them.
// Disk is without the journal and what an empty
// store takes, which do not depend on the log, and without the snapshot. Run it with
// -benchtime 1x.
func BenchmarkSizing(b *testing.B) {
	const sessions = 20_000
	s := scene.New(b, 1).Begin()
	for i := range sessions {
		s.By(scene.Evagg, s.CDR(scene.Utb, 0, scene.Session(10+int64(i%10))))
	}
	log := s.Log
	snapshot := s.State.Snapshot()
	states := make([]*ledger.State, 8)
	before := heap()
	for i := range states {
		var err error
		if states[i], err = ledger.Restore(scene.Origin, snapshot); err != nil {
			b.Fatal(err)
		}
	}
	memory := (heap() - before) / int64(len(states))
	runtime.KeepAlive(states)
	entries := 0
	for _, raw := range log {
		entries += len(raw)
	}
	size := 0
	for b.Loop() {
		tw := town.New(b, s)
		l := newLog(b, tw, log)
		v, stop := tw.Verifier(tw.VerifierConfig("uta"))
		l.served = l.sign(l.at(len(log)))
		before := town.CPU(b)
		if _, err := v.Look(context.Background(), "", true); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64((town.CPU(b)-before).Microseconds())/float64(len(log)), "cpu-µs/entry")
		before = town.CPU(b)
		verifyOnly(b, log)
		b.ReportMetric(float64((town.CPU(b)-before).Microseconds())/float64(len(log)), "verify-µs/entry")
		stop()
		_, stop = tw.Verifier(tw.VerifierConfig("utb"))
		stop()
		size = town.DiskBytes(b, filepath.Join(tw.Dir, "uta")) - town.DiskBytes(b, filepath.Join(tw.Dir, "utb")) - len(snapshot)
	}
	b.ReportMetric(float64(entries)/float64(len(log)), "B/entry")
	b.ReportMetric(float64(size)/float64(len(log)), "disk-B/entry")
	b.ReportMetric(float64(len(snapshot))/sessions, "snapshot-B/session")
	b.ReportMetric(float64(memory)/sessions, "heap-B/session")
}

// verifyOnly checks the signatures of a log by its batches and nothing else.
func verifyOnly(b *testing.B, log [][]byte) {
	b.Helper()
	state := ledger.New(scene.Origin)
	for at := 0; at < len(log); at += 1024 {
		var checks [][]ledger.Check
		for _, raw := range log[at:min(at+1024, len(log))] {
			e, err := ledger.Parse(raw)
			if err != nil {
				b.Fatal(err)
			}
			if at == 0 && state.Size() == 0 {
				if _, err := state.Apply(e); err != nil {
					b.Fatal(err)
				}
				continue
			}
			list, err := state.Checks(e)
			if err != nil {
				b.Fatal(err)
			}
			checks = append(checks, list)
		}
		for _, err := range ledger.Verify(checks) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// heap is what lives after a collection, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
