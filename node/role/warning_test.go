package role

import (
	"testing"
	"time"
)

func TestBoardShowsRootCausesWorstFirstWithoutFlapping(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	b := NewBoard()
	b.Raise(Warning{Code: "parents-offline", Severity: Problem}, now)
	b.Raise(Warning{Code: "reports-waiting", Severity: Problem, Because: "parents-offline"}, now)
	b.Raise(Warning{Code: "store-degraded", Severity: Fault}, now)
	b.Raise(Warning{Code: "clock-off", Severity: Notice, After: time.Minute}, now)
	if got := codes(b.Standing(now)); got != "store-degraded parents-offline " {
		t.Errorf("at once: %q", got)
	}
	b.Raise(Warning{Code: "clock-off", Severity: Notice, After: time.Minute}, now.Add(50*time.Second))
	if got := codes(b.Standing(now.Add(time.Minute))); got != "store-degraded parents-offline clock-off " {
		t.Errorf("after a minute: %q", got)
	}
	b.Set(false, Warning{Code: "parents-offline"}, now)
	b.Set(true, Warning{Code: "a-fault", Severity: Fault}, now)
	if got := codes(b.Standing(now)); got != "a-fault store-degraded reports-waiting " {
		t.Errorf("cause gone: %q", got)
	}
}

func codes(ws []Warning) (s string) {
	for _, w := range ws {
		s += w.Code + " "
	}
	return s
}
