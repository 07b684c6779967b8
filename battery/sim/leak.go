package sim

import (
	"context"
	"math"

	"gridveil/battery"
)

// Forced is what a meter showed because the battery could do no more, a day: the
// power limit, an empty or a full store.
type Forced struct {
	Spans, Minutes, Wh float64
	Bits               float64 // by model: when, and how much
}

// forcedFrom is how near a limit, in watts, counts as at it.
const forcedFrom = 1

// Leak rates the kernel that a recording's own demand gives for a battery, and counts
// in its meter and charge, when it has them, when the battery stood at a limit. The
// recording needs four days.
func Leak(ctx context.Context, tr Trace, s battery.Spec) (battery.Leak, Forced, error) {
	history := energies(tr, len(tr.Load), battery.Block)
	l, err := battery.Lesson(ctx, "veil", s, history)
	if err != nil {
		return battery.Leak{}, Forced{}, err
	}
	if l == nil {
		return battery.Leak{}, Forced{}, battery.ErrNoHistory
	}
	leak, err := battery.RateLeak(ctx, s, *l, history)
	if err != nil || tr.Meter == nil || tr.SoC == nil {
		return leak, Forced{}, err
	}
	return leak, forced(tr, s, l.Plan.Mx), nil
}

func forced(tr Trace, s battery.Spec, mx int) Forced {
	var f Forced
	hours, on := tr.Step.Hours(), false
	for i, x := range tr.Load {
		b := x - tr.Meter[i]
		limit := math.Abs(b) >= math.Min(float64(s.MaxCharge), float64(s.MaxDischarge))-forcedFrom ||
			b >= 0 && tr.SoC[i] <= float64(s.Floor())+forcedFrom || b < 0 && tr.SoC[i] >= float64(s.Ceiling())-forcedFrom
		if limit {
			f.Minutes += tr.Step.Minutes()
			f.Wh += math.Max(0, tr.Meter[i]) * hours
			if !on {
				f.Spans++
			}
		}
		on = limit
	}
	days := float64(len(tr.Load)) * hours / 24
	f.Spans, f.Minutes, f.Wh = f.Spans/days, f.Minutes/days, f.Wh/days
	f.Bits = f.Spans * battery.IntervalBits(f.Spans, mx)
	return f
}
