// Package sigbatch verifies many Ed25519 signatures under the one rule of the
// ledger, ZIP-215, and names those that are wrong.
//
// A batch and a single verification give the same verdict under this rule,
// which the standard library's rule does not promise: never mix them.
package sigbatch

import (
	"crypto/ed25519"
	"crypto/rand"
	"sync"

	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
	"github.com/oasisprotocol/curve25519-voi/primitives/ed25519/extra/cache"
)

// alone is the batch size at which single verification is as cheap as another
// pair of batches.
const alone = 4

// maxBatch bounds the memory of one batch.
const maxBatch = 1024

var rule = &voi.Options{Verify: voi.VerifyOptionsZIP_215}

// Verify checks n signatures, each fetched by item, and returns the positions
// of the bad ones in ascending order, nil if there are none.
func Verify(n int, item func(i int) (pub, msg, sig []byte)) []int {
	var bad []int
	for from := 0; from < n; from += maxBatch {
		bad = bisect(from, min(from+maxBatch, n), item, bad)
	}
	return bad
}

// All checks n signatures like Verify, and names none: a bad one costs no more than
// a good one.
func All(n int, item func(i int) (pub, msg, sig []byte)) bool {
	for from := 0; from < n; from += maxBatch {
		if !batch(from, min(from+maxBatch, n), item) {
			return false
		}
	}
	return true
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

// keptKeys is how many signers' keys are kept expanded: about those of the
// parties that a log can have (design/ledger.md, 5). A public key is all that is
// kept.
const keptKeys = 1024

// known holds the keys of signers with the tables that make a batch cheaper.
var known = cache.NewVerifier(cache.NewLRUCache(keptKeys))

// spare keeps the memory of batches, 0.7 KB for each signature.
var spare = sync.Pool{New: func() any { return voi.NewBatchVerifier() }}

func batch(from, to int, item func(int) (pub, msg, sig []byte)) bool {
	b := spare.Get().(*voi.BatchVerifier)
	defer func() { spare.Put(b.Reset()) }()
	for i := from; i < to; i++ {
		pub, msg, sig := item(i)
		if len(pub) != ed25519.PublicKeySize {
			return false
		}
		known.AddWithOptions(b, pub, msg, sig, rule)
	}
	return b.VerifyBatchOnly(rand.Reader)
}

// One checks a single signature under the same rule.
func One(pub, msg, sig []byte) bool {
	return len(pub) == ed25519.PublicKeySize && voi.VerifyWithOptions(pub, msg, sig, rule)
}
