// Package yard gives benchmarks of privacy their yardstick V: the time of one
// standard-library Ed25519 verification in the same run, so that results are
// ratios that hold on other machines.
package yard

import (
	"crypto/ed25519"
	"testing"
	"time"
)

// V measures one verification: the fastest of 20 rounds of 20, because the
// machine may be shared.
func V(b *testing.B) time.Duration {
	b.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	pub, msg := key.Public().(ed25519.PublicKey), make([]byte, 128)
	sig := ed25519.Sign(key, msg)
	const rounds = 20
	best := time.Duration(1 << 62)
	for range rounds {
		start := time.Now()
		for range rounds {
			if !ed25519.Verify(pub, msg, sig) {
				b.Fatal("yardstick does not verify")
			}
		}
		best = min(best, time.Since(start)/rounds)
	}
	return best
}

// Report adds the metric "ratio": time per operation in units of one yardstick.
// Call it after the loop; each is the number of things one iteration does.
func Report(b *testing.B, one time.Duration, each int) {
	b.Helper()
	per := float64(b.Elapsed()) / float64(b.N) / float64(each)
	b.ReportMetric(per/float64(one), "ratio")
}
