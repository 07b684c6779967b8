package committee

import (
	"errors"
	"testing"

	"gridveil/privacy/internal/yard"
)

// BenchmarkOpenCase is the work of all parties for one ref: three partials with
// their checks of the capsule, and one combination. BenchmarkMismatch is the
// same for a capsule that names a driver who never asked: every proof is checked.
func BenchmarkOpenCase(b *testing.B) {
	s := newScene(b)
	card := s.cards[alice]
	one := yard.V(b)
	b.ResetTimer()
	for b.Loop() {
		if _, err := Combine(testNet, &s.pub, &card.Cert, s.mustPartials(b, &card.Cert, 1, 3, 5), s.key); err != nil {
			b.Fatal(err)
		}
	}
	yard.Report(b, one, 1)
}

func BenchmarkMismatch(b *testing.B) {
	s := newScene(b)
	card := s.cards[alice]
	s.lk[alice] = s.lk[bob]
	one := yard.V(b)
	b.ResetTimer()
	for b.Loop() {
		if _, err := Combine(testNet, &s.pub, &card.Cert, s.mustPartials(b, &card.Cert, 1, 3, 5), s.key); !errors.Is(err, ErrMismatch) {
			b.Fatal(err)
		}
	}
	yard.Report(b, one, 1)
}
