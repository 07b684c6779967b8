package writer_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/store"
	"gridveil/ledger/verifier"
	"gridveil/ledger/writer"
	"gridveil/privacy/commit"
)

const (
	batch   = 1024
	batches = 48 // of a log before the benchmark starts a new one
	waiting = 4  // batches that a submitter may have waiting, a divisor of batches
)

// logs builds logs of one kind of entry: two to begin with, then batches.
func logs(b *testing.B, kind string) *scene.Scene {
	b.Helper()
	s := scene.New(b, 1).Begin()
	for i := range batch * batches {
		if kind == "transfer" {
			from, to := scene.Uta+ledger.PartyID(i%3), scene.Regulator+ledger.PartyID(i%2)
			s.By(from, &ledger.Transfer{From: ledger.OpenAccount(from, 0), To: ledger.OpenAccount(to, 0), X: 1,
				Purpose: ledger.PurposeFeedIn, Ref: s.Bytes32()})
			continue
		}
		s.By(scene.Evagg, s.CDR(scene.Utb, 0, scene.Session(10)))
	}
	return s
}

// floor is the processor time of verifying the log's signatures and facts alone,
// batch after batch with the same verifier; of a session, whose commitment no
// machine can sum up without reading it, with one point decoded and added. It is
// measured as often as what stands beside it, and at the same time: both are means,
// and a machine whose clock changes changes both.
type floor struct {
	checks  [][]ledger.Check
	points  [][32]byte // of sessions, else none
	at      int        // the next batch
	used    time.Duration
	entries int
}

func yardstick(b *testing.B, s *scene.Scene) *floor {
	b.Helper()
	state := ledger.New(scene.Origin)
	f := &floor{}
	for i, raw := range s.Log {
		e, err := ledger.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		if c, ok := e.Body().(*ledger.CDR); ok {
			f.points = append(f.points, c.Commit)
		}
		c, err := state.Checks(e)
		if err == nil && i >= 2 {
			f.checks = append(f.checks, c)
		}
		if _, err := state.Apply(e); err != nil {
			b.Fatal(err)
		}
	}
	return f
}

// measure verifies some batches more.
func (f *floor) measure(b *testing.B, rounds int) {
	b.Helper()
	start := town.CPU(b)
	for range rounds {
		from := f.at % batches * batch
		f.at++
		if errs := ledger.Verify(f.checks[from : from+batch]); errs != nil {
			b.Fatal(errs)
		}
		var sum commit.Sum
		for _, p := range f.points[min(from, len(f.points)):min(from+batch, len(f.points))] {
			var err error
			if sum, err = sum.Add(p); err != nil {
				b.Fatal(err)
			}
		}
	}
	f.used += town.CPU(b) - start
	f.entries += rounds * batch
}

// each is the mean for one entry in nanoseconds.
func (f *floor) each() float64 { return float64(f.used.Nanoseconds()) / float64(f.entries) }

// earnest are the settings of a log of its own machine, in this test's folder.
func earnest(b *testing.B, s *scene.Scene) *town.Town {
	tw := town.New(b, s)
	tw.Store = store.Options{MemTableBytes: 32 << 20, MinFree: -1}
	return tw
}

// BenchmarkPipeline measures the whole pipeline (parse, check, apply, journal,
// Badger and head synced for each group, receipts signed) in processor time per
// entry against verifying alone. A submitter hands in as much as it may have
// waiting; one round is that much.
func BenchmarkPipeline(b *testing.B) {
	for _, kind := range []string{"transfer", "cdr"} {
		b.Run(kind, func(b *testing.B) {
			s := logs(b, kind)
			alone := yardstick(b, s)
			var used time.Duration
			at := len(s.Log)
			var w *writer.Writer
			stop := func() {}
			for b.Loop() {
				b.StopTimer()
				alone.measure(b, waiting)
				if at == len(s.Log) {
					stop()
					tw := earnest(b, s)
					cfg := tw.WriterConfig()
					cfg.Policy = ledger.NewPolicy(tw.Policy.Log)
					w, stop = tw.Writer(cfg)
					tw.Submit(w, s.Log[:2])
					at = 2
				}
				b.StartTimer()
				start := town.CPU(b)
				for i, r := range w.Submit(context.Background(), s.Log[at:at+waiting*batch]) {
					if r.Err != nil {
						b.Fatalf("entry %d: %v", at+i, r.Err)
					}
				}
				used += town.CPU(b) - start
				at += waiting * batch
			}
			entries := float64(b.N * waiting * batch)
			each := float64(used.Nanoseconds()) / entries
			b.ReportMetric(each/alone.each(), "ratio")
			b.ReportMetric(each/1e3, "µs-cpu/entry")
			b.ReportMetric(entries/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkReplay measures a verifier that follows a log from the start, rate
// against the rate of verifying alone on all processors and against that of the
// writer (writer-ratio). A far one waits 20 ms for each answer.
func BenchmarkReplay(b *testing.B) {
	s := logs(b, "transfer")
	tw := earnest(b, s)
	cfg := tw.WriterConfig()
	cfg.Policy = ledger.NewPolicy(tw.Policy.Log)
	w, _ := tw.Writer(cfg)
	tw.Submit(w, s.Log[:2])
	start := time.Now()
	for part := range slices.Chunk(s.Log[2:], waiting*batch) {
		tw.Submit(w, part)
	}
	written := float64(len(s.Log)) / time.Since(start).Seconds()
	tw.Final(w, uint64(len(s.Log)))
	_, msg := w.Final()
	for name, away := range map[string]time.Duration{"near": 0, "far": 20 * time.Millisecond} {
		b.Run(name, func(b *testing.B) {
			alone := yardstick(b, s)
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				alone.measure(b, batches)
				v := tw.VerifierConfig("uta")
				v.Dir, v.Transport = b.TempDir(), distant{v.Transport, away}
				x, err := verifier.Open(v)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				start := town.CPU(b)
				if _, err := x.Observe(context.Background(), msg); err != nil {
					b.Fatal(err)
				}
				used += town.CPU(b) - start
				b.StopTimer()
				x.Close()
				b.StartTimer()
			}
			entries := float64(b.N * len(s.Log))
			b.ReportMetric(alone.each()*entries/float64(used.Nanoseconds()), "ratio")
			b.ReportMetric(entries/b.Elapsed().Seconds()/written, "writer-ratio")
			b.ReportMetric(entries/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// distant answers after a while.
type distant struct {
	http.RoundTripper
	away time.Duration
}

func (d distant) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(d.away)
	return d.RoundTripper.RoundTrip(r)
}

// BenchmarkReceipt measures how long a lone operator waits for its receipt,
// against one fsync of the same disk.
func BenchmarkReceipt(b *testing.B) {
	s := logs(b, "transfer")
	tw := earnest(b, s)
	cfg := tw.WriterConfig()
	cfg.Policy = ledger.NewPolicy(tw.Policy.Log)
	w, _ := tw.Writer(cfg)
	tw.Submit(w, s.Log[:2])
	at, waits := 2, []time.Duration{}
	for b.Loop() {
		if at == len(s.Log) {
			b.Skip("longer than the log")
		}
		start := time.Now()
		tw.Submit(w, s.Log[at:at+1])
		waits = append(waits, time.Since(start))
		at++
	}
	slices.Sort(waits)
	disk := fsync(b)
	b.ReportMetric(float64(waits[len(waits)/2])/float64(disk), "p50-ratio")
	b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "µs-p99")
	b.ReportMetric(float64(disk.Microseconds()), "µs-fsync")
}

// fsync is the median time of writing 512 B and syncing it.
func fsync(b *testing.B) time.Duration {
	f, err := os.Create(filepath.Join(b.TempDir(), "x"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var list []time.Duration
	for i := range 200 {
		start := time.Now()
		if _, err := f.WriteAt(make([]byte, 512), int64(i)*512); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		list = append(list, time.Since(start))
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// BenchmarkHostile measures the rate of three operators while a fourth sends 1 %
// bad signatures without pause, against their rate alone.
func BenchmarkHostile(b *testing.B) {
	s := logs(b, "transfer")
	bad := spoiled(b, s)
	rate := func(hostile bool) float64 {
		tw := earnest(b, s)
		cfg := tw.WriterConfig()
		cfg.Policy = ledger.NewPolicy(tw.Policy.Log)
		w, stop := tw.Writer(cfg)
		defer stop()
		tw.Submit(w, s.Log[:2])
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { // waited for below
			defer close(done)
			for hostile && ctx.Err() == nil {
				w.SubmitAs(ctx, "mallory", bad)
			}
		}()
		start := time.Now()
		var wg sync.WaitGroup
		for p := range 3 {
			var own [][]byte
			for i := 2 + p; i < len(s.Log); i += 3 { // of one author, see logs
				own = append(own, s.Log[i])
			}
			wg.Go(func() {
				for part := range slices.Chunk(own, batch/4) {
					w.SubmitAs(ctx, string(rune('a'+p)), part)
				}
			})
		}
		wg.Wait()
		took := time.Since(start)
		cancel()
		<-done
		return float64(len(s.Log)) / took.Seconds()
	}
	var clean, disturbed float64
	for b.Loop() {
		clean += rate(false)
		disturbed += rate(true)
	}
	b.ReportMetric(disturbed/clean, "ratio")
}

// spoiled is a batch of another operator in which one of a hundred signatures is
// wrong, and whose first number never comes, so that it stays new.
func spoiled(b *testing.B, s *scene.Scene) (out [][]byte) {
	for i := range uint64(batch) {
		e, err := ledger.NewEntry(scene.Utc, 2+i, &ledger.Anchor{Topic: ledger.TopicTask, Ref: ledger.Hash{byte(i)}})
		if err == nil {
			err = ledger.Sign(e, scene.Origin, s.Keys[scene.Utc])
		}
		if err != nil {
			b.Fatal(err)
		}
		raw := slices.Clone(e.Bytes())
		if i%100 == 0 {
			raw[len(raw)-1] ^= 1
		}
		out = append(out, raw)
	}
	return out
}
