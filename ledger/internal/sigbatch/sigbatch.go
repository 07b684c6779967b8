// Package sigbatch verifies many Ed25519 signatures under the one rule of the
// ledger, ZIP-215, and names those that are wrong.
//
// A batch and a single verification give the same verdict under this rule,
// which the standard library's rule does not promise: never mix them.
package sigbatch

import (
	"crypto/ed25519"

	"github.com/hdevalence/ed25519consensus"
)

// alone is the batch size at which single verification is as cheap as another
// pair of batches.
const alone = 4

// maxBatch bounds the memory of one batch; the gain per signature is flat from
// 64 on.
const maxBatch = 1024

// Verify checks n signatures, each fetched by item, and returns the positions
// of the bad ones in ascending order, nil if there are none.
func Verify(n int, item func(i int) (pub, msg, sig []byte)) []int {
	var bad []int
	for from := 0; from < n; from += maxBatch {
		bad = bisect(from, min(from+maxBatch, n), item, bad)
	}
	return bad
}

func bisect(from, to int, item func(int) (pub, msg, sig []byte), bad []int) []int {
	if to-from <= alone {
		for i := from; i < to; i++ {
			if pub, msg, sig := item(i); !One(pub, msg, sig) {
				bad = append(bad, i)
			}
		}
		return bad
	}
	if batch(from, to, item) {
		return bad
	}
	mid := from + (to-from)/2
	return bisect(mid, to, item, bisect(from, mid, item, bad))
}

func batch(from, to int, item func(int) (pub, msg, sig []byte)) bool {
	b := ed25519consensus.NewPreallocatedBatchVerifier(to - from)
	for i := from; i < to; i++ {
		pub, msg, sig := item(i)
		if len(pub) != ed25519.PublicKeySize {
			return false
		}
		b.Add(pub, msg, sig)
	}
	return b.Verify()
}

// One checks a single signature under the same rule.
func One(pub, msg, sig []byte) bool {
	return len(pub) == ed25519.PublicKeySize && ed25519consensus.Verify(pub, msg, sig)
}
