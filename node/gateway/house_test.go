package gateway

import (
	"testing"
	"time"

	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/identity"
	"gridveil/node/plant"
	"gridveil/node/role"
	"gridveil/node/store/storetest"
)

// steady is a power that never changes.
type steady float64

func (s steady) Watts(time.Time) float64 { return float64(s) }

// TestNoRegisterFallsOverARestartWhileACarIsThere: a session keeps every minute's
// registers, of the roof too, so the house must not show less after a power cut.
func TestNoRegisterFallsOverARestartWhileACarIsThere(t *testing.T) {
	env := &role.Env{Store: storetest.Open(t), Clock: clock.Wall{}, ID: &identity.Identity{}, Config: &config.Config{}}
	env.Config.Meter.Zone = "Europe/Amsterdam"
	open := func(car bool) *house {
		h, err := newHouse(env, Hardware{Load: steady(600), Roof: steady(3600)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		h.readPeriod = func() time.Duration { return 15 * time.Minute }
		h.watched = func() bool { return car }
		return h
	}
	at := time.Date(2026, 6, 16, 12, 0, 0, 0, time.UTC)
	run := func(h *house, minutes int) plant.Registers {
		for range minutes {
			at = at.Add(time.Minute)
			if err := h.step(t.Context(), at); err != nil {
				t.Fatal(err)
			}
		}
		return h.last
	}
	cut := run(open(true), 22) // not a reading's minute
	if cut.PV == 0 || cut.Export == 0 {
		t.Fatalf("nothing flowed: %+v", cut)
	}
	if after := run(open(true), 1); after.PV <= cut.PV || after.Export <= cut.Export || after.Load <= cut.Load {
		t.Errorf("registers fell: %+v, then %+v", cut, after)
	}
	saved := open(false).last
	run(open(false), 3) // without a car only readings are kept, and nobody sees the minutes between
	if again := open(false).last; again != saved {
		t.Errorf("minutes were kept that nobody watches: %+v, then %+v", saved, again)
	}
}
