package gateway

import (
	"fmt"
	"time"

	"gridveil/node/meter"
	"gridveil/node/model"
	"gridveil/node/store"
	"gridveil/privacy/leak"
	"gridveil/privacy/pseudo"
)

// utcDay is the day that a journal counts.
const utcDay = 24 * time.Hour

// Told is how much each party learnt of this home on the day of now (UTC), so far.
func (g *Gateway) Told(now time.Time) ([]leak.Told, error) {
	_, off := g.env.Onion.Off()
	h := leak.Home{Left: g.journal.day(now), Covered: !off && !g.env.Lab()}
	if g.metered != nil {
		if err := g.metered.tell(&h, now); err != nil {
			return nil, fmt.Errorf("readings of the figures: %w", err)
		}
	}
	if g.sums != nil {
		h.Sums = g.sums.told(now)
	}
	if in, _, ok := g.Insight(); ok && !in.Leak.Doubtful {
		report, _ := g.Mask()
		h.HasMask, h.Masked = true, in.Leak.Masked+report.ExposedBits
	}
	return h.Parties(), nil
}

// tell adds the registers and the period at which they are reported.
func (m *metering) tell(h *leak.Home, now time.Time) error {
	midnight := now.UTC().Truncate(utcDay)
	var all []model.Reading
	err := m.env.Store.View(func(tx *store.Tx) (err error) {
		all, err = meter.Readings(tx, meterName, midnight.Add(-forgetAfter).UnixMilli(), midnight.Add(utcDay).UnixMilli())
		return err
	})
	if err != nil {
		return err
	}
	slot := m.collector.Status().ReadPeriod
	for _, c := range []model.Channel{model.ImportTotal, model.ExportTotal} {
		var of []model.Reading
		for _, r := range all {
			if r.Channel == c {
				of = append(of, r)
			}
		}
		h.Curves = append(h.Curves, curveOf(of, midnight.UnixMilli(), slot))
	}
	if m.mayReport(slot) || reported(h.Left) {
		h.Period = slot
		for _, c := range h.Curves {
			h.Period = min(h.Period, c.Slot)
		}
	}
	return nil
}

// mayReport says whether an order lets readings of a period leave one by one.
func (m *metering) mayReport(slot time.Duration) bool {
	o := m.currentOrder()
	if o == nil {
		return false
	}
	for _, p := range o.Profiles {
		if !p.TAF.SharesOnly() && slot >= p.CapturePeriod {
			return true
		}
	}
	return false
}

func reported(v leak.View) bool {
	for _, l := range v.Lines {
		if l.Row.Message == leak.MeterReport {
			return true
		}
	}
	return false
}

// curveOf turns readings of one register, in slot order, into the energies of the
// day from midnight on and of the days before. slot is the reading period; a day
// that was read more often has the shorter one. Energy over a gap stands where the
// next reading is.
func curveOf(readings []model.Reading, midnight int64, slot time.Duration) leak.Curve {
	c := leak.Curve{Slot: slot}
	for i := 1; i < len(readings); i++ {
		if gap := readings[i].Slot - readings[i-1].Slot; gap > 0 && readings[i].Slot >= midnight {
			c.Slot = min(c.Slot, time.Duration(gap)*time.Millisecond)
		}
	}
	step, ms := resolution(readings), c.Slot.Milliseconds()
	if len(readings) == 0 || ms <= 0 {
		return c
	}
	day := utcDay.Milliseconds()
	first := midnight - (midnight-min(readings[0].Slot, midnight)+day-1)/day*day // midnight of the oldest
	for i := 1; i < len(readings); i++ {
		r, before := readings[i], readings[i-1]
		if r.Epoch != before.Epoch || r.Register < before.Register {
			continue // another meter, or one that began anew
		}
		e, at, to := (r.Register-before.Register)/step, (r.Slot-first)/ms, &c.Past
		if r.Slot >= midnight {
			at, to = (r.Slot-midnight)/ms, &c.Day
		}
		for int64(len(*to)) <= at {
			*to = append(*to, -1)
		}
		(*to)[at] = e + max(0, (*to)[at])
	}
	return c
}

// resolution is the coarsest usual step in mWh that all registers are whole
// numbers of.
func resolution(readings []model.Reading) int64 {
	step := int64(1000)
	for _, r := range readings {
		for r.Register%step != 0 {
			step /= 10
		}
	}
	return step
}

// told are the sums of the day of now whose results can be out.
func (s *sums) told(now time.Time) (out []leak.Sum) {
	over := int(now.Sub(now.UTC().Truncate(utcDay)) / leak.SumPeriod)
	today := pseudo.Day(now)
	for _, t := range s.list() {
		if t.From <= today && today < t.To {
			out = append(out, leak.Sum{Homes: int(t.MinBatch), Most: int64(t.Max), Times: over})
		}
	}
	return out
}
