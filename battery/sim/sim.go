// Package sim runs a masking policy over a recorded household and writes what
// its meter would have shown. It learns on the first days and is scored on the
// rest, as doc/design.md, battery, prescribes, so that outside evaluators get the
// same numbers from the same file.
package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"gridveil/battery"
	"gridveil/battery/score"
)

// Options of a run.
type Options struct {
	Policy   string
	Capacity battery.WattHours
	Power    battery.Watts
	Learn    int    // days that are only learned from
	Seed     uint64 // of a random policy
	Stop     int    // of veil's dial of cost against privacy, 0 private to battery.Stops-1
	// Sessions are of a car that charges as Car says; empty without one. Masks learn
	// from days without it.
	Sessions []battery.Session
	Car      Charging
	// Kernels remembers what was solved, for runs over the same traces that differ
	// in power or seed; nil solves for this run alone.
	Kernels *Kernels
}

// Kernels remembers the kernels of homes. It is not safe for concurrent use; the
// zero value is empty.
type Kernels struct {
	solved map[solvedKey]*battery.Learned
}

type solvedKey struct {
	home     *float64 // the first sample of the trace
	policy   string
	learn    int
	stop     int
	capacity battery.WattHours
}

// lesson is battery.Lesson, solved once for runs that share a kernel.
func (k *Kernels) lesson(ctx context.Context, tr Trace, spec battery.Spec, history []float64, o Options) (*battery.Learned, error) {
	key := solvedKey{&tr.Load[0], o.Policy, o.Learn, o.Stop, o.Capacity}
	if k != nil {
		if l, ok := k.solved[key]; ok {
			return l, nil
		}
	}
	var l *battery.Learned
	var err error
	if o.Policy == "veil" {
		l, err = battery.LessonAt(ctx, spec, history, battery.Dial{Stop: o.Stop, Prices: tariff()})
	}
	if err == nil && k != nil {
		if k.solved == nil {
			k.solved = map[solvedKey]*battery.Learned{}
		}
		k.solved[key] = l
	}
	return l, err
}

// tariff is the one that runs are scored with, by quarters of an hour. A recording's
// local time stands for UTC.
func tariff() []float64 {
	out := make([]float64, 96)
	for i := range out {
		out[i] = score.Price(i / 4)
	}
	return out
}

// source is the random source of a seed.
func source(seed uint64) *rand.Rand {
	var b [32]byte
	binary.LittleEndian.PutUint64(b[:], seed)
	return rand.New(rand.NewChaCha8(b))
}

// Run is what a policy made of a home: one value per sample of the scored days.
type Run struct {
	Trace
	Meter, SoC []float64
	Car        []float64 // what a car took, W
	Missing    float64   // Wh that cars lacked when they left
	Report     battery.Report
}

// ErrTooShort means that no day is left to score.
var ErrTooShort = errors.New("trace too short")

// Simulate runs o over the trace. A battery too small for veil runs hold, as in a house.
func Simulate(ctx context.Context, tr Trace, o Options) (*Run, error) {
	spd := int(24 * time.Hour / tr.Step)
	if !slices.Contains(battery.Policies, o.Policy) {
		return nil, fmt.Errorf("no policy %q: want one of %s", o.Policy, strings.Join(battery.Policies, ", "))
	}
	if tr.Step > time.Minute {
		return nil, fmt.Errorf("trace has one sample per %v; masking steps are at most a minute", tr.Step)
	}
	if len(tr.Load) < (o.Learn+1)*spd {
		return nil, fmt.Errorf("%w: %d days, %d of them to learn from", ErrTooShort, len(tr.Load)/spd, o.Learn)
	}
	spec := battery.Reference(o.Capacity, o.Power)
	history := blocks(tr, o.Learn*spd, o.Policy)
	learned, err := o.Kernels.lesson(ctx, tr, spec, history, o)
	if errors.Is(err, battery.ErrTooSmall) {
		o.Policy = "hold"
	} else if err != nil {
		return nil, err
	}
	ctl, err := battery.NewController(ctx, battery.Config{Spec: spec, Policy: o.Policy, YearlyKWh: yearly(tr, o.Learn*spd),
		Rand: source(o.Seed), History: history, Learned: learned})
	if err != nil {
		return nil, err
	}
	out := &Run{Trace: tr.from(o.Learn * spd)}
	st := battery.Store{Spec: spec, E: spec.Capacity / 2}
	prev, prevCar := battery.Watts(0), battery.Watts(0)
	ev := car{how: o.Car, rnd: source(o.Seed + 1<<32)}
	if o.Car != "" {
		ev.sessions = o.Sessions
	}
	for i, x := range out.Load {
		now := out.at(i)
		c := ctl.Step(battery.Obs{Time: now, Dt: tr.Step, Load: battery.Watts(x), PrevMeter: prev, PrevEV: prevCar, E: st.E,
			EV: ev.state(now, tr.Step), Price: score.Price(now.Hour())})
		st.Apply(c.Battery, tr.Step)
		ev.left -= battery.WattHours(float64(c.EV) * tr.Step.Hours())
		prev, prevCar = battery.Watts(x)+c.EV-c.Battery, c.EV
		out.Meter = append(out.Meter, float64(prev))
		out.Car = append(out.Car, float64(prevCar))
		out.SoC = append(out.SoC, float64(st.E))
	}
	out.Missing = float64(ev.missing + max(0, ev.left))
	out.Report = ctl.Today()
	return out, nil
}

// Score scores a run or a file that `battery sim` wrote.
func Score(tr Trace, meter, soc []float64, capacity battery.WattHours) (score.Result, error) {
	return score.Score(score.Input{Minutes: tr.Step.Minutes(), Load: tr.Load, Meter: meter, SoC: soc,
		Capacity: float64(capacity), Appliances: tr.Appliances, StartMinute: tr.Start.Hour()*60 + tr.Start.Minute()})
}

func yearly(tr Trace, n int) float64 {
	if n == 0 {
		return 0 // nothing observed: the controller's own default
	}
	sum := 0.
	for _, w := range tr.Load[:n] {
		sum += w
	}
	return sum / float64(n) * 8.76
}

// blocks are the energies, in Wh, of the blocks that the policy counts in.
func blocks(tr Trace, n int, policy string) []float64 {
	switch policy {
	case "lkm":
		return energies(tr, n, battery.LKMPeriod)
	case "lkm30":
		return energies(tr, n, 2*battery.LKMPeriod)
	}
	return energies(tr, n, battery.Block)
}

// energies are what n samples took, block by block, in Wh.
func energies(tr Trace, n int, period time.Duration) []float64 {
	size := int(period / tr.Step)
	var out []float64
	for i := 0; i+size <= n; i += size {
		e := 0.
		for _, w := range tr.Load[i : i+size] {
			e += w * tr.Step.Hours()
		}
		out = append(out, e)
	}
	return out
}
