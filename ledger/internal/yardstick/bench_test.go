package yardstick

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/codenotary/immudb/embedded/logger"
	immudb "github.com/codenotary/immudb/embedded/store"
	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/tile"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/store"
	"gridveil/ledger/writer"
)

// group is how many entries are made durable at once.
const group = 1000

const memTable = 32 << 20 // of our store and of every bare Badger

// must ends the benchmark on an error.
func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// transfers is a scene with so many transfers after its first two entries.
func transfers(b *testing.B, n int) *scene.Scene {
	s := scene.New(b, 1).Begin()
	for i := range n {
		from, to := scene.Uta+ledger.PartyID(i%3), scene.Regulator+ledger.PartyID(i%2)
		s.By(from, &ledger.Transfer{From: ledger.OpenAccount(from, 0), To: ledger.OpenAccount(to, 0), X: 1, Purpose: ledger.PurposeFeedIn, Ref: s.Bytes32()})
	}
	return s
}

// bare is Badger with the settings of our store and nothing around it.
func bare(b *testing.B) *badger.DB {
	db, err := badger.Open(badger.DefaultOptions(b.TempDir()).WithSyncWrites(true).WithDetectConflicts(false).WithCompression(options.None).
		WithMemTableSize(memTable).WithNumMemtables(2).WithValueThreshold(1 << 20).WithMetricsEnabled(false).WithLogger(nil))
	must(b, err)
	return db
}

// BenchmarkCommit hashes groups of 1000 entries that are already checked, grows
// the tree by them and makes them durable, and compares the processor time of an entry with immudb's transactions of 1000
// (Synced, sync frequency 1 ms, its index caught up) and with bare Badger that
// gets the same entries as we give it, 256 to a value (SyncWrites). Each is
// closed within its time, so that nothing is left to be flushed. One round is
// 200 groups of each.
func BenchmarkCommit(b *testing.B) {
	const groups = 200
	s := transfers(b, group)
	raw := s.Log[2:]
	var ours, immu, chunks, keys time.Duration
	for b.Loop() {
		ours += timed(b, func() { commitOurs(b, s, raw, groups) })
		immu += timed(b, func() { commitImmudb(b, raw, groups) })
		chunks += timed(b, func() { commitBadger(b, raw, groups, tile.Width) })
		keys += timed(b, func() { commitBadger(b, raw, groups, 1) })
	}
	b.ReportMetric(float64(ours)/float64(immu), "immudb-ratio")
	b.ReportMetric(float64(ours)/float64(chunks), "badger-ratio")
	b.ReportMetric(float64(ours)/float64(keys), "badger-keys-ratio")
	b.ReportMetric(float64(ours.Nanoseconds())/float64(b.N*groups*group), "ns-cpu/entry")
}

// timed is the processor time of f.
func timed(b *testing.B, f func()) time.Duration {
	runtime.GC()
	start := town.CPU(b)
	f()
	return town.CPU(b) - start
}

// blob is an entry that nobody reads, as a yardstick's value is.
type blob []byte

func (e blob) Bytes() []byte          { return e }
func (e blob) Leaf() ledger.Hash      { return ledger.LeafHash(e) }
func (blob) Author() (uint32, uint64) { return 1, 1 }

// unread is a machine that stores entries and looks at none.
type unread struct{ *town.Lax }

func (unread) Parse(raw []byte) (ledger.Item, error) { return blob(raw), nil }

func commitOurs(b *testing.B, s *scene.Scene, raw [][]byte, groups int) {
	st, err := store.Open(b.TempDir(), unread{town.NewLax(s)}, store.Options{MemTableBytes: memTable, MinFree: -1})
	must(b, err)
	for range groups {
		list := make([]*store.Pending, len(raw))
		for i := range raw {
			list[i], err = st.Parse(raw[i])
			must(b, err)
		}
		_, err := st.Take(list)
		must(b, err)
	}
	must(b, st.Close())
}

func commitImmudb(b *testing.B, raw [][]byte, groups int) {
	ctx := context.Background()
	st, err := immudb.Open(b.TempDir(), immudb.DefaultOptions().WithSynced(true).WithSyncFrequency(time.Millisecond).
		WithLogger(logger.NewMemoryLoggerWithLevel(logger.LogError)))
	must(b, err)
	var last uint64
	for g := range groups {
		tx, err := st.NewWriteOnlyTx(ctx)
		must(b, err)
		for i := range raw {
			must(b, tx.Set(binary.BigEndian.AppendUint64(nil, uint64(g*len(raw)+i)), nil, raw[i]))
		}
		h, err := tx.Commit(ctx)
		must(b, err)
		last = h.ID
	}
	must(b, st.WaitForIndexingUpto(ctx, last))
	must(b, st.Close())
}

func commitBadger(b *testing.B, raw [][]byte, groups, width int) {
	db := bare(b)
	for g := range groups {
		txn := db.NewTransaction(true)
		n := uint64(g * len(raw))
		for part := range slices.Chunk(raw, width) {
			var frames []byte
			for _, e := range part {
				frames = ledger.AppendBundle(frames, e)
			}
			must(b, txn.Set(binary.BigEndian.AppendUint64(nil, n), frames))
			n += uint64(len(part))
		}
		must(b, txn.Commit())
	}
	must(b, db.Close())
}

// BenchmarkSingles lets 64 clients send one entry at a time and wait for it, for
// five seconds each: our writer with signatures verified and receipts signed,
// Badger with a transaction for each entry (SyncWrites), and Pebble, whose commits
// share a sync (pebble.Sync). Rates on the clock. verify-ratio is what no writer
// passes that verifies what it takes: all processors verify the 64 entries in one
// batch again and again and do nothing else, against the same Badger.
func BenchmarkSingles(b *testing.B) {
	const clients, long = 64, 5 * time.Second
	s := transfers(b, clients)
	raw := s.Log[2:]
	rate := func(send func(client int)) float64 {
		var n atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		for c := range clients {
			wg.Go(func() {
				for ; time.Since(start) < long; n.Add(1) {
					send(c)
				}
			})
		}
		wg.Wait()
		return float64(n.Load()) / time.Since(start).Seconds()
	}
	var ours, naive, grouped, verified float64
	var groups atomic.Int64
	for b.Loop() {
		verified += verifyAlone(b, town.NewLax(s), raw, long)
		w, stop := ourWriter(b, s, town.NewLax(s), func(step string) error {
			if step == "W1" {
				groups.Add(1)
			}
			return nil
		})
		ours += rate(func(c int) {
			if r := w.Submit(context.Background(), raw[c:c+1])[0]; r.Err != nil {
				b.Error(r.Err)
			}
		})
		stop()
		var next atomic.Uint64
		key := func() []byte { return binary.BigEndian.AppendUint64(nil, next.Add(1)) }
		bdb := bare(b)
		naive += rate(func(c int) {
			if err := bdb.Update(func(txn *badger.Txn) error { return txn.Set(key(), raw[c]) }); err != nil {
				b.Error(err)
			}
		})
		must(b, bdb.Close())
		pdb, err := pebble.Open(b.TempDir(), &pebble.Options{MemTableSize: memTable, Logger: quiet{}})
		must(b, err)
		grouped += rate(func(c int) {
			if err := pdb.Set(key(), raw[c], pebble.Sync); err != nil {
				b.Error(err)
			}
		})
		must(b, pdb.Close())
	}
	b.ReportMetric(ours/naive, "badger-ratio")
	b.ReportMetric(ours/grouped, "pebble-ratio")
	b.ReportMetric(verified/naive, "verify-ratio")
	b.ReportMetric(ours*long.Seconds()/float64(groups.Load()), "entries/group")
	b.ReportMetric(ours/float64(b.N), "entries/s")
}

// verifyAlone is how many entries a second all processors verify in batches of
// those given.
func verifyAlone(b *testing.B, m *town.Lax, raw [][]byte, long time.Duration) float64 {
	var n atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for ; time.Since(start) < long; n.Add(int64(len(raw))) {
				if err := verifyBatch(m, raw); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(start).Seconds()
}

// quiet is a Pebble logger.
type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(format string, args ...any) { slog.Error(fmt.Sprintf(format, args...)) }
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// ourWriter is a log on the disk without witnesses and on the wall clock.
// step is called before and after each durable step.
func ourWriter(b *testing.B, s *scene.Scene, m ledger.Machine, step func(string) error) (w *writer.Writer, stop func()) {
	tw := town.New(b, s)
	tw.Store = store.Options{MemTableBytes: memTable, MinFree: -1, Fail: step}
	cfg := tw.WriterConfig()
	cfg.Policy, cfg.Clock, cfg.Machine = ledger.NewPolicy(tw.Policy.Log), nil, m
	return tw.Writer(cfg)
}

// BenchmarkTessera compares the rate at which 12,288 transfers are verified and
// durable in a fresh log: ours from three operators with all rules, and tessera's
// POSIX storage, which syncs every file, in batches of 1024 whose signatures the
// standard library has verified (std-ratio) or our batch verifier (batch-ratio),
// on all processors and while the batch before is being written.
func BenchmarkTessera(b *testing.B) {
	const batches, width = 12, 1024
	s := transfers(b, batches*width)
	var ours, std, same cost
	for b.Loop() {
		w, stop := ourWriter(b, s, ledger.NewMoney(scene.Origin), nil)
		for _, r := range w.Submit(context.Background(), s.Log[:2]) {
			must(b, r.Err)
		}
		ours.add(b, func() {
			var wg sync.WaitGroup
			for p := range 3 {
				var own [][]byte // of one operator, see transfers; no more than may wait
				for i := 2 + p; i < len(s.Log); i += 3 {
					own = append(own, s.Log[i])
				}
				wg.Go(func() {
					for _, r := range w.SubmitAs(context.Background(), string(rune('a'+p)), own) {
						if r.Err != nil {
							b.Error(r.Err)
						}
					}
				})
			}
			wg.Wait()
		})
		stop()
		m := town.NewLax(s)
		intoTessera(b, s, &std, width, func(part [][]byte) error { return verifyStd(m, part) })
		intoTessera(b, s, &same, width, func(part [][]byte) error { return verifyBatch(m, part) })
	}
	b.ReportMetric(float64(std.wall)/float64(ours.wall), "std-ratio")
	b.ReportMetric(float64(same.wall)/float64(ours.wall), "batch-ratio")
	b.ReportMetric(float64(std.cpu)/float64(ours.cpu), "std-cpu-ratio")
	b.ReportMetric(float64(same.cpu)/float64(ours.cpu), "batch-cpu-ratio")
	b.ReportMetric(float64(b.N*batches*width)/ours.wall.Seconds(), "entries/s")
}

// cost is time on the clock and processor time.
type cost struct{ wall, cpu time.Duration }

func (c *cost) add(b *testing.B, f func()) {
	start := time.Now()
	c.cpu += timed(b, f)
	c.wall += time.Since(start)
}

// checks lists what must verify of an entry.
func checks(m *town.Lax, raw []byte) ([]ledger.Check, error) {
	it, err := m.Parse(raw)
	if err != nil {
		return nil, err
	}
	return m.Checks(it)
}

func verifyStd(m *town.Lax, part [][]byte) error {
	for _, raw := range part {
		list, err := checks(m, raw)
		if err != nil {
			return err
		}
		for _, c := range list {
			if !ed25519.Verify(c.Pub, c.Msg, c.Sig) {
				return ledger.ErrSignature
			}
		}
	}
	return nil
}

func verifyBatch(m *town.Lax, part [][]byte) error {
	all := make([][]ledger.Check, len(part))
	for i, raw := range part {
		var err error
		if all[i], err = checks(m, raw); err != nil {
			return err
		}
	}
	if ledger.Verify(all) != nil {
		return ledger.ErrSignature
	}
	return nil
}

// intoTessera writes the transfers of a scene into a new log of tessera; a batch
// is verified on all processors while the one before is written. The cost ends
// when the last entry is in the tree and durable, before its checkpoint.
func intoTessera(b *testing.B, s *scene.Scene, c *cost, width int, verify func([][]byte) error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: filepath.Join(b.TempDir(), "log")})
	must(b, err)
	skey, _, err := note.GenerateKey(nil, "gridveil.test/yardstick")
	must(b, err)
	signer, err := note.NewSigner(skey)
	must(b, err)
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().WithCheckpointSigner(signer).
		WithBatching(uint(width), 5*time.Millisecond).WithCheckpointInterval(time.Second).WithPushback(uint(4*width)))
	must(b, err)
	c.add(b, func() {
		var before []tessera.IndexFuture
		for part := range slices.Chunk(s.Log[2:], width) {
			var wg sync.WaitGroup
			cores := runtime.GOMAXPROCS(0)
			for i := range cores {
				wg.Go(func() {
					if err := verify(part[i*len(part)/cores : (i+1)*len(part)/cores]); err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
			await(b, before)
			before = before[:0]
			for _, raw := range part {
				before = append(before, appender.Add(ctx, tessera.NewEntry(raw)))
			}
		}
		await(b, before)
	})
	must(b, shutdown(ctx))
}

// await waits until tessera has written the entries.
func await(b *testing.B, list []tessera.IndexFuture) {
	for _, f := range list {
		_, err := f()
		must(b, err)
	}
}
