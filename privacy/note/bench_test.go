package note

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"testing"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/internal/yard"
)

func BenchmarkNoteVerify(b *testing.B) {
	key := mustFixedKey(b)
	pub := mustPublic(b, privacy.UseNote, key)
	bl, err := blind(seed(1), pub, 1)
	if err != nil {
		b.Fatal(err)
	}
	answer, err := blindSign(key, bl.slot)
	if err != nil {
		b.Fatal(err)
	}
	sig, err := bl.finish(answer)
	if err != nil {
		b.Fatal(err)
	}
	var n Note
	id := pub.ID()
	copy(n[:], id[:])
	copy(n[8:], bl.serial)
	copy(n[40:], sig[:])
	one := yard.V(b)
	b.ResetTimer()
	for b.Loop() {
		if err := Verify(&n, pub); err != nil {
			b.Fatal(err)
		}
	}
	yard.Report(b, one, 1)
}

// BenchmarkBlindSign compares with the standard library's SignPSS, which does
// the same private operation in constant time.
func BenchmarkBlindSign(b *testing.B) {
	key := mustFixedKey(b)
	bl, err := blind(seed(1), mustPublic(b, privacy.UseNote, key), 1)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha512.Sum384([]byte("yardstick"))
	const rounds = 10
	one := time.Duration(1 << 62)
	for range rounds {
		start := time.Now()
		for range rounds {
			if _, err := rsa.SignPSS(rand.Reader, key, crypto.SHA384, digest[:], nil); err != nil {
				b.Fatal(err)
			}
		}
		one = min(one, time.Since(start)/rounds)
	}
	b.ResetTimer()
	for b.Loop() {
		if _, err := blindSign(key, bl.slot); err != nil {
			b.Fatal(err)
		}
	}
	yard.Report(b, one, 1)
}
