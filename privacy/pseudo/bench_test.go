package pseudo

import (
	"testing"

	"gridveil/privacy/internal/yard"
)

// BenchmarkIssueCert is a whole batch of 16, sealed request to sealed answer,
// per certificate.
func BenchmarkIssueCert(b *testing.B) {
	w := newWorld(b)
	req := w.mustBatch(b, w.driver, "bench", Week(now))
	one := yard.V(b)
	b.ResetTimer()
	for b.Loop() {
		if _, err := w.issuer.Issue(seeded("bench"), w.driver.reqKind(), req.Box, now); err != nil {
			b.Fatal(err)
		}
	}
	yard.Report(b, one, w.driver.Deck)
}

func BenchmarkCheckCapsule(b *testing.B) {
	w := newWorld(b)
	p, err := w.mustDeck(b, w.driver, "bench", Week(now)).Take(now)
	if err != nil {
		b.Fatal(err)
	}
	one := yard.V(b)
	b.ResetTimer()
	for b.Loop() {
		if err := CheckCapsule(&p.Cert); err != nil {
			b.Fatal(err)
		}
	}
	yard.Report(b, one, 1)
}

func BenchmarkVerifyCert(b *testing.B) {
	w := newWorld(b)
	p, err := w.mustDeck(b, w.driver, "bench", Week(now)).Take(now)
	if err != nil {
		b.Fatal(err)
	}
	one := yard.V(b)
	b.ResetTimer()
	for b.Loop() {
		if err := Verify(&p.Cert, testNet, Driver, evagg, w.keys, now); err != nil {
			b.Fatal(err)
		}
	}
	yard.Report(b, one, 1)
}
