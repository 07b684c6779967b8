package sigbatch

import (
	"crypto/ed25519"
	"fmt"
	"testing"
	"time"

	"github.com/hdevalence/ed25519consensus"
	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
)

// by signs n messages with so many keys.
func by(n, keys int) []signed {
	list := some(keys)
	out := make([]signed, n)
	for i := range out {
		key := ed25519.NewKeyFromSeed(append(make([]byte, 30), byte(i%keys>>8), byte(i%keys)))
		msg := fmt.Append(nil, "message of an entry, which is a hash of 32 bytes and a prefix, number ", i)
		out[i] = signed{list[i%keys].pub, msg, ed25519.Sign(key, msg)}
	}
	return out
}

func consensusBatch(list []signed) bool {
	b := ed25519consensus.NewPreallocatedBatchVerifier(len(list))
	for _, s := range list {
		b.Add(s.pub, s.msg, s.sig)
	}
	return b.Verify()
}

var zip215 = &voi.Options{Verify: voi.VerifyOptionsZIP_215}

func voiBatch(list []signed) bool {
	b := voi.NewBatchVerifierWithCapacity(len(list)).ForceNoPublicKeyExpansion()
	for _, s := range list {
		b.AddWithOptions(s.pub, s.msg, s.sig, zip215)
	}
	return b.VerifyBatchOnly(nil)
}

// BenchmarkBatch compares batch verifiers that take turns: the least time of
// ed25519consensus over the least of theirs.
func BenchmarkBatch(b *testing.B) {
	for _, n := range []int{1, 8, 64, 256, 1024} {
		for _, keys := range []int{3, 1000} {
			keys = min(keys, n)
			b.Run(fmt.Sprintf("n=%d/keys=%d", n, keys), func(b *testing.B) {
				list := by(n, keys)
				ways := map[string]func([]signed) bool{"consensus": consensusBatch, "voi": voiBatch, "ours": func(l []signed) bool { return batch(0, len(l), pick(l)) },
					"std": func(l []signed) bool {
						for _, s := range l {
							if !ed25519.Verify(s.pub, s.msg, s.sig) {
								return false
							}
						}
						return true
					},
					"single": func(l []signed) bool {
						for _, s := range l {
							if !One(s.pub, s.msg, s.sig) {
								return false
							}
						}
						return true
					}}
				took := map[string]time.Duration{}
				for b.Loop() {
					for name, f := range ways {
						start := time.Now()
						if !f(list) {
							b.Fatal(name)
						}
						if d := time.Since(start); took[name] == 0 || d < took[name] {
							took[name] = d
						}
					}
				}
				for name, d := range took {
					if name != "consensus" {
						b.ReportMetric(float64(took["consensus"])/float64(d), name)
					}
				}
				b.ReportMetric(float64(took["consensus"].Nanoseconds())/float64(n), "ns/consensus")
			})
		}
	}
}
