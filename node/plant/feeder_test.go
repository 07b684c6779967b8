package plant

import (
	"testing"
	"time"
)

func TestFeederAddsUpItsConnections(t *testing.T) {
	f := NewFeeder()
	at := time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)
	elm, oak := f.Connect(), f.Connect()
	elm(at, 1000, 0)
	oak(at, 5000, 200)
	elm(at.Add(time.Minute), 9999, 0) // between two quarter hours
	if _, ok := f.Energy(at, at.Add(15*time.Minute)); ok {
		t.Error("energy of a quarter hour that is not over")
	}
	elm(at.Add(15*time.Minute), 1300, 50)
	if got, ok := f.Energy(at, at.Add(15*time.Minute)); !ok || got != 250 {
		t.Errorf("one house is dark: got %d, %v, want 250", got, ok)
	}
	oak(at.Add(15*time.Minute), 5000, 700)
	if got, ok := f.Energy(at, at.Add(15*time.Minute)); !ok || got != 250-500 {
		t.Errorf("both: got %d, %v, want -250", got, ok)
	}
	oak(at.Add(feederKeep), 1, 1)
	oak(at.Add(feederKeep+15*time.Minute), 1, 1)
	if len(f.seen[1]) > 3 {
		t.Errorf("%d readings kept", len(f.seen[1]))
	}
}
