package store

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	packedReading = 4  // bytes of a reading in a report body: one delta varint and its share of the rest
	plainReading  = 36 // bytes of a reading on its own
)

// BenchmarkStore writes readings in chunks as reports hold them, sealed and
// synced; the yardstick is plain Badger with a key per reading and no
// synchronisation.
func BenchmarkStore(b *testing.B) {
	for _, chunk := range []int{1e3, 1e4} {
		b.Run(fmt.Sprintf("chunk=%.0e", float64(chunk)), func(b *testing.B) {
			s, err := Open(b.TempDir(), testKey, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			value := make([]byte, chunk*packedReading)
			n := uint64(0)
			for b.Loop() {
				n++
				if err := s.Set(SpaceBlock.Key(U64(n)), value); err != nil {
					b.Fatal(err)
				}
			}
			each := float64(b.Elapsed()) / float64(b.N*chunk)
			b.ReportMetric(each, "ns/reading")
			b.ReportMetric(each/plainBadger(b), "ratio")
		})
	}
}

// plainBadger is the time of one reading under its own key, unsynced.
func plainBadger(b *testing.B) float64 {
	b.Helper()
	db, err := badger.Open(badger.DefaultOptions(b.TempDir()).WithLogger(nil).WithCompression(0))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	const readings = 50_000
	start := time.Now()
	for at := 0; at < readings; at += 1000 {
		err := db.Update(func(txn *badger.Txn) error {
			for i := range 1000 {
				if err := txn.Set(binary.BigEndian.AppendUint64(nil, uint64(at+i)), make([]byte, plainReading)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return float64(time.Since(start)) / readings
}

// BenchmarkGroupCommit shows what sharing a synchronisation gives: commits per
// second with one and with many callers.
func BenchmarkGroupCommit(b *testing.B) {
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s, err := Open(b.TempDir(), testKey, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.ResetTimer()
			var wg sync.WaitGroup
			for c := range callers {
				wg.Go(func() {
					for i := c; i < b.N; i += callers {
						if err := s.Set(SpaceCursor.Key(U64(uint64(i))), make([]byte, 100)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
		})
	}
}
