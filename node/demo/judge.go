package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/clock"
	"gridveil/node/meter"
	"gridveil/node/model"
	"gridveil/node/plant"
	"gridveil/node/store"
)

// flushWait bounds, in wall time, how long the last reports of the day may take.
const flushWait = 60 * time.Second

// judge counts the day and says which invariants hold.
func (s *Scene) judge(ctx context.Context, st *Story) (*Summary, error) {
	sum := &Summary{Homes: s.Homes, SSNs: len(zones), Class: "meter"}
	if s.Lab {
		sum.Class = "lab"
	}
	if err := s.judgeReadings(ctx, st, sum); err != nil {
		return nil, err
	}
	s.judgeAlarms(st, sum)
	s.judgeOnion(sum)
	s.countMoves(sum)
	if err := st.judgeSessions(ctx, sum); err != nil {
		return nil, err
	}
	return sum, nil
}

// countMoves sums what the masks did with cars.
func (s *Scene) countMoves(sum *Summary) {
	for _, m := range s.Of(member.RoleGateway) {
		if b, ok := s.gateway(m).BatteryStatus(); ok && b.Car != nil {
			sum.Masked.Times += b.Car.Times
			sum.Masked.Minutes += b.Car.Mins
		}
	}
}

// judgeReadings waits for the last reports and compares, slot by slot, what
// every home stored with what the utility holds.
func (s *Scene) judgeReadings(ctx context.Context, st *Story, sum *Summary) error {
	end := st.end().UnixMilli()
	var lost, wrong []string
	deadline := time.Now().Add(flushWait)
	for {
		lost, wrong = nil, nil
		sum.Readings.Taken, sum.Readings.AtHeadend, sum.Readings.Lost = 0, 0, 0
		for _, m := range s.Of(member.RoleGateway) {
			if err := s.compare(m, end, sum, &lost, &wrong); err != nil {
				return err
			}
		}
		if sum.Readings.Lost == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
		if !clock.Sleep(ctx, clock.Wall{}, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
	sum.hold("every reading taken is at the utility", lost...)
	sum.hold("every register there is the one the meter showed", wrong...)
	return s.judgeBills(st, sum)
}

type slot struct {
	channel model.Channel
	at      int64
}

func (s *Scene) compare(m *Member, end int64, sum *Summary, lost, wrong *[]string) error {
	ua := s.utility("utility-a")
	up, ok := ua.PointOf(m.Node().Host.Self().Key)
	if !ok {
		return fmt.Errorf("%s has no contract", m.Name)
	}
	held := map[slot]int64{}
	blocks, err := ua.Blocks(up)
	if err != nil {
		return err
	}
	for _, b := range blocks {
		for _, r := range b.Readings {
			held[slot{b.Channel, r.Slot}] = r.Register
		}
	}
	var taken []model.Reading
	err = m.Node().Store.View(func(tx *store.Tx) error {
		taken, err = meter.Readings(tx, "meter", Start.UnixMilli(), end)
		return err
	})
	if err != nil {
		return fmt.Errorf("readings of %s: %w", m.Name, err)
	}
	for _, r := range taken {
		sum.Readings.Taken++
		v, ok := held[slot{r.Channel, r.Slot}]
		switch {
		case !ok:
			sum.Readings.Lost++
			*lost = append(*lost, fmt.Sprintf("%s %s", m.Name, time.UnixMilli(r.Slot).UTC().Format("15:04")))
		case v != r.Register:
			*wrong = append(*wrong, fmt.Sprintf("%s %s: %d, meter %d", m.Name, time.UnixMilli(r.Slot).UTC().Format("15:04"), v, r.Register))
			sum.Readings.AtHeadend++
		default:
			sum.Readings.AtHeadend++
		}
	}
	return nil
}

// judgeBills bills every home for the day and compares the lines with the
// registers.
func (s *Scene) judgeBills(st *Story, sum *Summary) error {
	ua := s.utility("utility-a")
	var off []string
	for _, m := range s.Of(member.RoleGateway) {
		d := HomeDetail{Home: m.Name}
		d.True = s.trueEnergy(m, st.end())
		up, _ := ua.PointOf(m.Node().Host.Self().Key)
		b, err := ua.Bill(up, Start, st.end())
		if err != nil {
			off = append(off, m.Name+": "+err.Error())
			continue
		}
		var billed, registers int64
		for _, l := range b.Lines {
			billed += l.Energy
		}
		for _, e := range b.Ends {
			registers += e.Closing - e.Opening
			if e.Channel == model.ImportTotal {
				d.Metered = e.Closing - e.Opening
			}
		}
		if billed != registers {
			off = append(off, fmt.Sprintf("%s: billed %d mWh of %d", m.Name, billed, registers))
		}
		d.Bill = b.Total
		sum.Detail = append(sum.Detail, d)
	}
	sum.hold("every bill adds up to its registers", off...)
	for _, m := range s.Of(member.RoleWallet) {
		b, err := s.utility("utility-b").DriverBill(m.Node().Host.Self().Key)
		if err != nil {
			return fmt.Errorf("bill of %s: %w", m.Name, err)
		}
		sum.Drivers = append(sum.Drivers, DriverDetail{Driver: m.Name, Sessions: len(b.Lines), Bill: b.Total})
	}
	return nil
}

// trueEnergy is what the house itself used on the last day before end, or since
// Start if that is less, in mWh.
func (s *Scene) trueEnergy(m *Member, end time.Time) int64 {
	from := end.Add(-24 * time.Hour)
	if from.Before(Start) {
		from = Start
	}
	sum := 0.
	for at := from; at.Before(end); at = at.Add(plant.Step) {
		sum += max(0, m.Home.Load.Watts(at)) * 1000 * plant.Step.Hours()
	}
	return int64(sum + .5)
}

// judgeAlarms compares what the story injected with what the utility got.
func (s *Scene) judgeAlarms(st *Story, sum *Summary) {
	got := s.utility("utility-a").Alarms()
	sum.Alarms.Delivered = len(got)
	for _, m := range s.Of(member.RoleGateway) {
		own, err := s.gateway(m).Alarms(1000)
		if err == nil {
			sum.Alarms.Raised += len(own)
		}
	}
	var missing []string
	for _, want := range st.alarms {
		found := false
		for _, d := range got {
			found = found || d.Event.Kind == want
		}
		if !found {
			missing = append(missing, want.String())
		}
	}
	sum.hold("every alarm of the day reached the utility", missing...)
}

func (s *Scene) judgeOnion(sum *Summary) {
	sum.Onion.Causes = map[mesh.Drop]uint64{}
	for _, m := range s.Members {
		n := m.Node()
		if n == nil {
			continue
		}
		st := n.Onion.Stats()
		sum.Onion.Relayed += st.Relayed
		for cause, c := range st.Dropped {
			sum.Onion.Dropped += c
			sum.Onion.Causes[cause] += c
		}
	}
}

// finish adds what is known only after every node has stopped.
func (s *Summary) finish(sc *Scene) {
	if !sc.temp {
		s.Export = filepath.Join(sc.Dir, "export")
	}
}
