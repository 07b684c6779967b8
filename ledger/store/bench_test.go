package store_test

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/store"
)

// crowd is a ledger that remembers many settled sessions of the last 21 buckets
// and counts only the entries after them.
type crowd struct {
	*ledger.Money
	from uint64
}

func (m crowd) Size() uint64 { return m.State.Size() - m.from }

// newCrowd draws the refs; everything else of the ledger is real.
func newCrowd(b *testing.B, refs int) crowd {
	b.Helper()
	const windows = 21
	s := scene.New(b, 1).Begin()
	for range 2 {
		s.By(1, s.CDR(scene.Utb, 0, scene.Session(10)))
	}
	s.Pass(windows - 1)
	s.Do(s.Settle(scene.Utb, 0))
	core, used := s.State.Save()
	old := used[0].Records[:39] // of a settled session, without its commitment
	recent := int(s.State.NextSeq(1)-1)*40 + 4*len(s.State.Parties())
	binary.BigEndian.PutUint64(core[len(core)-recent-8:], uint64(refs/windows*windows))
	state, err := ledger.Load(scene.Origin, core, func(each func(ledger.Window, []byte) error) error {
		for i := range windows {
			w, bucket := used[0].Window, s.State.Bucket()-windows+1+uint32(i)
			binary.BigEndian.PutUint32(w[2:], bucket)
			r := rand.New(rand.NewPCG(uint64(bucket), 1))
			digests := make([][16]byte, refs/windows)
			for i := range digests {
				binary.BigEndian.PutUint64(digests[i][:], r.Uint64())
				binary.BigEndian.PutUint64(digests[i][8:], r.Uint64())
			}
			slices.SortFunc(digests, func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
			var records []byte
			for _, d := range digests {
				records = append(append(records, d[:]...), old[16:]...)
				binary.BigEndian.PutUint32(records[len(records)-39+25:], bucket)
			}
			if err := each(w, records); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return crowd{&ledger.Money{State: state}, state.Size()}
}

// arrive enters n new sessions.
func (m crowd) arrive(b *testing.B, s *store.Store, key ed25519.PrivateKey, n int) {
	b.Helper()
	var list []*store.Pending
	seq := m.State.NextSeq(1)
	add := func(body ledger.Body) {
		e, err := ledger.NewEntry(1, seq, body)
		if err == nil {
			err = ledger.Sign(e, m.State.Ledger(), key)
		}
		if err != nil {
			b.Fatal(err)
		}
		p, err := s.Parse(e.Bytes())
		if err != nil {
			b.Fatal(err)
		}
		list, seq = append(list, p), seq+1
	}
	sc := scene.New(b, m.State.Size())
	sc.State = m.State
	one := sc.CDR(scene.Utb, 0, scene.Session(10))
	for range n {
		body := *one
		body.Ref = sc.Bytes32()
		add(&body)
	}
	for group := range slices.Chunk(list, 512) {
		if _, err := s.Take(group); err != nil {
			b.Fatal(err)
		}
		for _, p := range group {
			if p.Err != nil {
				b.Fatal(p.Err)
			}
		}
	}
}

// cost is what a step took.
type cost struct {
	cpu, wall time.Duration
	alloc     uint64
}

func measure(b *testing.B, f func() error) (c cost) {
	b.Helper()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, wall := town.CPU(b), time.Now()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	c.cpu, c.wall = town.CPU(b)-cpu, time.Since(wall)
	runtime.ReadMemStats(&after)
	c.alloc = after.TotalAlloc - before.TotalAlloc
	return c
}

// BenchmarkSnapshot writes a ledger down that remembers so many sessions, of
// which 65 536 came since the last time. The yardstick is the same ledger written
// whole in the same run, as it was before the used-sets had keys of their own.
// The ratio is that of processor times; the run with 10 million wants 8 GB of
// memory. Run it with -benchtime 1x.
func BenchmarkSnapshot(b *testing.B) {
	for _, refs := range []int{100_000, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("refs=%d", refs), func(b *testing.B) {
			m, dir := newCrowd(b, refs), b.TempDir()
			key := scene.New(b, 1).Keys[1]
			s, err := store.Open(dir, m, store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			m.arrive(b, s, key, 1<<16)
			first := measure(b, s.Snapshot) // writes all, once
			var part, whole cost
			var partBytes, wholeBytes int
			for b.Loop() {
				m.arrive(b, s, key, 1<<16)
				whole = measure(b, func() error { wholeBytes, err = store.SnapshotWhole(s); return err })
				part = measure(b, s.Snapshot)
				if partBytes, err = store.NewestBytes(s); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			again := newCrowd(b, refs)
			open := measure(b, func() error { s, err = store.Open(dir, again, store.Options{}); return err })
			if _, parts := store.LoadedFrom(s); !parts || again.State.Hash() != m.State.Hash() {
				b.Fatal("another ledger was opened")
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(part.cpu)/float64(whole.cpu), "ratio")
			b.ReportMetric(float64(part.wall.Milliseconds()), "ms")
			b.ReportMetric(float64(whole.wall.Milliseconds()), "whole-ms")
			b.ReportMetric(float64(first.wall.Milliseconds()), "first-ms")
			b.ReportMetric(float64(partBytes)/1e6, "MB")
			b.ReportMetric(float64(wholeBytes)/1e6, "whole-MB")
			b.ReportMetric(float64(part.alloc)/1e6, "alloc-MB")
			b.ReportMetric(float64(whole.alloc)/1e6, "whole-alloc-MB")
			b.ReportMetric(float64(open.wall.Milliseconds()), "open-ms")
		})
	}
}
