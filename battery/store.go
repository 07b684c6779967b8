package battery

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Spec is what a battery and its inverter can do.
type Spec struct {
	Capacity WattHours // usable energy between empty and full
	Reserve  WattHours // kept for outages; never discharged below it
	// SoCMin and SoCMax bound the state of charge, 0..1.
	SoCMin, SoCMax float64
	// EtaCharge and EtaDischarge are one-way efficiencies, above 0 and at most 1.
	EtaCharge, EtaDischarge float64
	AllowExport             bool  // whether the battery may feed the grid
	MaxCharge, MaxDischarge Watts // at the meter's side, positive
	MaxImport               Watts // import fuse; zero means none
	Standby                 Watts // drawn from the store all the time
	RampPerSecond           Watts // zero means instant
	Lag                     time.Duration
}

// Reference is the battery of the published comparisons: .95 efficiency each
// way, no standby, no export.
func Reference(capacity WattHours, power Watts) Spec {
	return Spec{Capacity: capacity, SoCMax: 1, EtaCharge: .95, EtaDischarge: .95, MaxCharge: power, MaxDischarge: power}
}

// ErrInvalidSpec is wrapped by Check; the text lists every fault.
var ErrInvalidSpec = errors.New("invalid battery specification")

// Check lists every fault of s, or gives nil.
func (s Spec) Check() error {
	var f []string
	say := func(bad bool, text string) {
		if bad {
			f = append(f, text)
		}
	}
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	say(!finite(float64(s.Capacity)) || s.Capacity <= 0, "capacity must be above 0 Wh")
	say(!(s.SoCMin >= 0 && s.SoCMin < s.SoCMax && s.SoCMax <= 1), "want 0 <= SoCMin < SoCMax <= 1")
	say(!(s.EtaCharge > 0 && s.EtaCharge <= 1), "charging efficiency must be above 0 and at most 1")
	say(!(s.EtaDischarge > 0 && s.EtaDischarge <= 1), "discharging efficiency must be above 0 and at most 1")
	say(!(s.MaxCharge > 0) || !finite(float64(s.MaxCharge)), "charging power must be above 0 W")
	say(!(s.MaxDischarge > 0) || !finite(float64(s.MaxDischarge)), "discharging power must be above 0 W")
	say(!(s.Reserve >= 0 && s.Reserve < WattHours(s.SoCMax)*s.Capacity), "reserve must be at least 0 and below the highest charge")
	say(!(s.Standby >= 0) || !(s.MaxImport >= 0) || !(s.RampPerSecond >= 0) || s.Lag < 0, "standby, import limit, ramp and lag must not be negative")
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrInvalidSpec, strings.Join(f, "; "))
}

// Floor is the least energy that discharging may leave.
func (s Spec) Floor() WattHours { return max(WattHours(s.SoCMin)*s.Capacity, s.Reserve) }

// Ceiling is the most energy that charging may reach.
func (s Spec) Ceiling() WattHours { return WattHours(s.SoCMax) * s.Capacity }

// Store is a battery with its stored energy.
type Store struct {
	Spec
	E WattHours
}

// Bounds are the least and the greatest battery power that dt can hold:
// negative charges, positive discharges.
func (s *Store) Bounds(dt time.Duration) (lo, hi Watts) {
	h := dt.Hours()
	if h <= 0 {
		return 0, 0
	}
	out := Watts(float64(s.E-s.Floor()) * s.EtaDischarge / h)
	in := Watts(float64(s.Ceiling()-s.E) / (s.EtaCharge * h))
	return -min(s.MaxCharge, max(0, in)), min(s.MaxDischarge, max(0, out))
}

// Apply lets power b flow for dt and gives what was lost on the way. The
// caller keeps b within Bounds.
func (s *Store) Apply(b Watts, dt time.Duration) (loss WattHours) {
	before := s.E
	flow := WattHours(float64(b) * dt.Hours())
	if b >= 0 {
		s.E -= WattHours(float64(flow) / s.EtaDischarge)
	} else {
		s.E -= WattHours(float64(flow) * s.EtaCharge)
	}
	s.E = max(0, s.E-WattHours(float64(s.Standby)*dt.Hours()))
	return -flow + (before - s.E)
}
