package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"gridveil/battery"
	"gridveil/battery/sim"
	"gridveil/node/site"
	"gridveil/node/web"
	"gridveil/privacy/leak"
)

// BatteryParties rates what each party would learn of a recorded household.
type BatteryParties struct {
	In       string        // CSV file; what its meter shows counts where it has that column
	Period   time.Duration // at which the meter is read and reported
	Step     float64       // Wh, of the register
	Homes    int           // of the neighbourhood's sum; 0: it takes part in none
	Sessions int           // guests' cars a day
	Learn    int           // days that are only learned from
	Lab      bool          // a trial network without cover traffic
	Capacity float64       // Wh, of the battery in a masked file
	Power    float64       // W
}

// PartyFigures are means over the rated days.
type PartyFigures struct {
	Days    int            `json:"days"`
	Period  string         `json:"period"`
	Masked  bool           `json:"masked"` // the file's meter is that of a mask
	Parties []web.ToldLine `json:"parties"`
}

// pastDays is how many days before it a day is rated with: as many as a gateway
// keeps.
const pastDays = 7

// sessionTicks is how many minutes a session is taken to last.
const sessionTicks = 60

// Run rates the file.
func (b BatteryParties) Run(ctx context.Context) (PartyFigures, error) {
	if err := b.check(); err != nil {
		return PartyFigures{}, err
	}
	tr, err := readTrace(b.In)
	if err != nil {
		return PartyFigures{}, err
	}
	slot := b.slot()
	curves, err := meterCurves(tr, slot, b.Step)
	if err != nil {
		return PartyFigures{}, fmt.Errorf("%s: %w", b.In, err)
	}
	perDay := int(24 * time.Hour / slot)
	days := len(curves[0]) / perDay
	if days <= b.Learn {
		return PartyFigures{}, fmt.Errorf("%s: %d whole days, want more than the %d that are only learned from", b.In, days, b.Learn)
	}
	h := leak.Home{Period: b.Period, Covered: !b.Lab, Left: b.journal()}
	if b.Homes > 0 {
		register := leak.Sum{Homes: b.Homes, Most: sumMost, Times: int(24 * time.Hour / leak.SumPeriod)}
		h.Sums = []leak.Sum{register, register} // taken and fed in
	}
	if tr.Meter != nil && tr.SoC != nil {
		l, f, err := sim.Leak(ctx, tr, battery.Reference(battery.WattHours(b.Capacity), battery.Watts(b.Power)))
		if err != nil && !errors.Is(err, battery.ErrNoHistory) {
			return PartyFigures{}, fmt.Errorf("%s: %w", b.In, err)
		}
		h.HasMask, h.Masked = err == nil && !l.Doubtful, l.Masked+f.Bits
	}
	var mean []leak.Told
	for day := b.Learn; day < days; day++ {
		if err := ctx.Err(); err != nil {
			return PartyFigures{}, err
		}
		h.Curves = nil
		for _, c := range curves {
			h.Curves = append(h.Curves, leak.Curve{Slot: slot, Past: c[max(0, day-pastDays)*perDay : day*perDay], Day: c[day*perDay : (day+1)*perDay]})
		}
		mean = addTold(mean, h.Parties(), float64(days-b.Learn))
	}
	return PartyFigures{Days: days - b.Learn, Period: site.Span(b.Period), Masked: tr.Meter != nil, Parties: site.ToldLines(mean)}, nil
}

// sumMost is the highest reading of a sum, in its steps of 1 Wh.
const sumMost = 16383

func (b BatteryParties) check() error {
	switch {
	case b.Period < time.Minute || 24*time.Hour%b.Period != 0:
		return fmt.Errorf("a reading period of %v: want a minute or more that divides a day", b.Period)
	case b.Step <= 0:
		return fmt.Errorf("a register's step of %v Wh: want more than 0", b.Step)
	case b.Homes < 0 || b.Homes == 1:
		return fmt.Errorf("a sum over %d homes: want 0 for none, or at least 2", b.Homes)
	case b.Homes > 0 && leak.SumPeriod%b.Period != 0 && b.Period%leak.SumPeriod != 0:
		return fmt.Errorf("a reading period of %v does not fit the sums' %v: want --homes 0, or another period", b.Period, leak.SumPeriod)
	case b.Sessions < 0 || b.Sessions > 1000 || b.Learn < 0:
		return errors.New("sessions and learned days cannot be negative, and a day has at most 1000 sessions")
	}
	return nil
}

// slot is the finest time that a party is told: that of the sums where the meter is
// reported less often.
func (b BatteryParties) slot() time.Duration {
	if b.Period%leak.SumPeriod == 0 {
		return leak.SumPeriod
	}
	return b.Period
}

// journal is a day of reports and sessions.
func (b BatteryParties) journal() leak.View {
	var j leak.Journal
	day := time.Unix(0, 0).UTC()
	send := func(n int, m leak.Message, to ...leak.Role) {
		for range n {
			for _, r := range to {
				_ = j.Record(leak.Entry{Message: m, To: r, At: day}) // refused only outside the table, see TestAPartysDayIsInTheTable
			}
		}
	}
	send(24, leak.MeterReport, leak.OwnUtility, leak.Substation)
	send(b.Sessions, leak.Offer, leak.Guest)
	send(b.Sessions, leak.AuthRequest, leak.Aggregator)
	send(b.Sessions*sessionTicks, leak.Tick, leak.Guest)
	send(b.Sessions, leak.Close, leak.Guest)
	send(b.Sessions, leak.Settlement, leak.Aggregator)
	send(b.Sessions, leak.CollectHost, leak.Aggregator)
	return j.Day(day)
}

// meterCurves are the energies per slot of both registers, in their steps, over the
// whole days of a recording.
func meterCurves(tr sim.Trace, slot time.Duration, step float64) ([2][]int64, error) {
	var out [2][]int64
	if slot%tr.Step != 0 {
		return out, fmt.Errorf("a step of %v does not divide %v", tr.Step, slot)
	}
	watts := tr.Load
	if tr.Meter != nil {
		watts = tr.Meter
	}
	midnight := tr.Start.Truncate(24 * time.Hour)
	if midnight.Before(tr.Start) {
		midnight = midnight.Add(24 * time.Hour)
	}
	first, n := int(midnight.Sub(tr.Start)/tr.Step), int(slot/tr.Step)
	var registers [2]float64 // Wh
	var shown [2]int64
	for i := first; i+n <= len(watts); i += n {
		for _, w := range watts[i : i+n] {
			registers[0] += max(0, w) * tr.Step.Hours()
			registers[1] += max(0, -w) * tr.Step.Hours()
		}
		for k := range out {
			now := int64(math.Floor(registers[k]/step + 1e-6)) // sums of tenths are not exact
			out[k], shown[k] = append(out[k], now-shown[k]), now
		}
	}
	return out, nil
}

// addTold adds a day to means over n days. What figures rest on is the newest
// day's.
func addTold(mean, day []leak.Told, n float64) []leak.Told {
	for i := range day {
		var before leak.Told
		if mean != nil {
			before = mean[i]
		}
		day[i].Load, day[i].Charging = plus(before.Load, day[i].Load, n), plus(before.Charging, day[i].Charging, n)
	}
	return day
}

func plus(mean, f leak.Figure, n float64) leak.Figure {
	f.AtMost, f.Model = mean.AtMost+f.AtMost/n, mean.Model+f.Model/n
	return f
}
