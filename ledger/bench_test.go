package ledger_test

import (
	"fmt"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/privacy/commit"
)

// batchSize is how many entries a group of the writer or a bundle holds at
// most.
const batchSize = 256

// benchLog is a signed log whose last n entries are of one kind, and the state
// before them.
func benchLog(b *testing.B, n int, kind string) (before []byte, tail [][]byte) {
	b.Helper()
	s := scene.New(b, 1)
	st := s.Found()
	for i := range st.Body.(*ledger.Genesis).Parties {
		st.Body.(*ledger.Genesis).Parties[i].Limit = 1 << 50
	}
	s.Do(st)
	s.Tick(scene.Start)
	before = s.State.Snapshot()
	from := len(s.Log)
	switch kind {
	case "transfer":
		s.Transfers(n)
	case "cdr":
		for range n {
			s.By(scene.Evagg, s.CDR(scene.Utb, scene.Uta, scene.Session(20)))
		}
	}
	return before, s.Log[from:]
}

func mustState(b *testing.B, snapshot []byte) *ledger.State {
	b.Helper()
	s, err := ledger.Restore(scene.Origin, snapshot)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// signatures gives the Ed25519 checks of a log, the work of a verify-only
// program.
func signatures(b *testing.B, before []byte, log [][]byte) [][]ledger.Check {
	b.Helper()
	s := mustState(b, before)
	var out [][]ledger.Check
	for _, raw := range log {
		e, err := ledger.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		checks, err := s.Checks(e)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Apply(e); err != nil {
			b.Fatal(err)
		}
		var sigs []ledger.Check
		for _, c := range checks {
			if c.Fact == nil {
				sigs = append(sigs, c)
			}
		}
		out = append(out, sigs)
	}
	return out
}

// BenchmarkReplay is parse, checks, batch verification and rules of a whole
// log. The ratio is verify-only time over its time; the two take turns batch by
// batch, so that other load on the machine meets both alike. For CDRs
// verify-only includes one point decoding and addition per entry.
func BenchmarkReplay(b *testing.B) {
	for _, kind := range []string{"transfer", "cdr"} {
		for _, n := range []int{1024, 8192} {
			b.Run(fmt.Sprintf("%s/entries=%d", kind, n), func(b *testing.B) {
				before, log := benchLog(b, n, kind)
				sigs := signatures(b, before, log)
				var yard, ours time.Duration
				for b.Loop() {
					s := mustState(b, before)
					for i := 0; i < n; i += batchSize {
						end := min(i+batchSize, n)
						start := time.Now()
						verifyOnly(b, sigs[i:end])
						if kind == "cdr" {
							addPointsOf(b, log[i:end])
						}
						middle := time.Now()
						replayBatch(b, s, log[i:end])
						yard += middle.Sub(start)
						ours += time.Since(middle)
					}
				}
				b.ReportMetric(float64(yard)/float64(ours), "ratio")
				b.ReportMetric(float64(ours.Nanoseconds())/float64(n)/float64(b.N), "ns/entry")
				b.ReportMetric(float64(n)*float64(b.N)/ours.Seconds(), "entries/s")
			})
		}
	}
}

func verifyOnly(b *testing.B, checks [][]ledger.Check) {
	if errs := ledger.Verify(checks); errs != nil {
		b.Fatal(errs)
	}
}

func addPointsOf(b *testing.B, log [][]byte) {
	const at = 19 + 1 + 4 + 4 + 4 + 32 + 32 // commitment in a cdr entry
	var sum commit.Sum
	for _, raw := range log {
		var err error
		if sum, err = sum.Add([32]byte(raw[at:][:32])); err != nil {
			b.Fatal(err)
		}
	}
}

func replayBatch(b *testing.B, s *ledger.State, log [][]byte) {
	checks := make([][]ledger.Check, 0, batchSize)
	for _, raw := range log {
		e, err := ledger.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		list, err := s.Checks(e)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Apply(e); err != nil {
			b.Fatal(err)
		}
		checks = append(checks, list)
	}
	verifyOnly(b, checks)
}

// BenchmarkRules is the same without signatures: what the state machine itself
// costs.
func BenchmarkRules(b *testing.B) {
	for _, kind := range []string{"transfer", "cdr"} {
		b.Run(kind, func(b *testing.B) {
			const n = 4096
			before, log := benchLog(b, n, kind)
			var spent time.Duration
			for b.Loop() {
				b.StopTimer()
				s := mustState(b, before)
				b.StartTimer()
				start := time.Now()
				for _, raw := range log {
					e, err := ledger.Parse(raw)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := s.Apply(e); err != nil {
						b.Fatal(err)
					}
				}
				spent += time.Since(start)
			}
			b.ReportMetric(float64(spent.Nanoseconds())/n/float64(b.N), "ns/entry")
		})
	}
}

func BenchmarkNet(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("parties=%d", n), func(b *testing.B) {
			open := make([]int64, n)
			for i := range open {
				open[i] = int64(i%2*2-1) * int64(1_000_000+i)
			}
			open[0] -= int64(n) * 1_000_000
			for b.Loop() {
				ledger.Net(open, scene.Cent)
			}
		})
	}
}
