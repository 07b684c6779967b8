package ev_test

import (
	"testing"

	"pgregory.net/rapid"

	"gridveil/ev"
)

func TestAHigherRowWins(t *testing.T) {
	wired := ev.Demand{Phases: 3, AmpereLeft: 16, PlanW: 11_040}
	for _, c := range []struct {
		name   string
		change func(*ev.Demand)
		w      int64
		row    ev.Row // of the last change, 0 for none
	}{
		{"the plan runs", func(*ev.Demand) {}, 11_040, 0},
		{"less than 6 A is nothing", func(d *ev.Demand) { d.PlanW = 4_000 }, 0, ev.RowPlan},
		{"an instruction within the envelope beats the plan", func(d *ev.Demand) {
			d.HasControl, d.ControlW, d.EnvelopeHi = true, 5_000, 6_000
		}, 5_000, ev.RowControl},
		{"an instruction beyond the envelope is clamped", func(d *ev.Demand) {
			d.HasControl, d.ControlW, d.EnvelopeLo, d.EnvelopeHi = true, -9_000, 5_000, 6_000
		}, 5_000, ev.RowControl},
		{"the owner's departure beats an instruction", func(d *ev.Demand) {
			d.HasControl, d.HasDeparture, d.NeedMWh, d.SlotMS, d.LeftMS = true, true, 11_040_000, 900_000, 3_600_000
		}, 11_040, ev.RowOwner},
		{"the operator's limit beats the owner", func(d *ev.Demand) {
			d.HasDeparture, d.NeedMWh, d.SlotMS, d.LeftMS = true, 11_040_000, 900_000, 3_600_000
			d.HasGridLimit, d.GridLimitW = true, 5_000
		}, 5_000, ev.RowGrid},
		{"s.14a leaves 4.2 kW", func(d *ev.Demand) { d.HasGridLimit, d.Par14a = true, true }, 4_200, ev.RowGrid},
		{"without s.14a the operator may stop the car", func(d *ev.Demand) { d.HasGridLimit = true }, 0, ev.RowGrid},
		{"the fuse beats everything", func(d *ev.Demand) { d.AmpereLeft, d.HasGridLimit, d.Par14a = 5, true, true }, 0, ev.RowWiring},
		{"no discharge unless allowed", func(d *ev.Demand) { d.PlanW = -3_000 }, 0, ev.RowWiring},
		{"discharge within its limit", func(d *ev.Demand) { d.PlanW, d.MaxDischargeW = -3_000, 5_000 }, -3_000, 0},
		{"no discharge below the floor", func(d *ev.Demand) {
			d.PlanW, d.MaxDischargeW, d.HasSoC, d.SoC, d.FloorSoC = -3_000, 5_000, true, 300, 300
		}, 0, ev.RowOwner},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := wired
			c.change(&d)
			got := ev.Resolve(d)
			var last ev.Row
			if n := len(got.Changes); n > 0 {
				last = got.Changes[n-1].Row
			}
			if got.W != c.w || last != c.row {
				t.Errorf("got %d W by %v, want %d W by %v", got.W, last, c.w, c.row)
			}
		})
	}
}

func TestMissedDepartureNamesItsCause(t *testing.T) {
	d := ev.Demand{Phases: 3, AmpereLeft: 16, HasDeparture: true, NeedMWh: 50_000_000, SlotMS: 900_000, LeftMS: 3_600_000}
	if got := ev.Resolve(d); got.Missed != ev.RowWiring {
		t.Errorf("50 kWh in an hour: missed by %v, want wiring", got.Missed)
	}
	d.NeedMWh, d.HasGridLimit, d.Par14a = 10_000_000, true, true
	got := ev.Resolve(d)
	if got.Missed != ev.RowGrid {
		t.Errorf("10 kWh in an hour at 4.2 kW: missed by %v, want grid operator", got.Missed)
	}
	if !got.Changes[len(got.Changes)-1].Raised {
		t.Error("the operator's limit of 0 W was raised to 4.2 kW without a note")
	}
}

// G6: no sequence of demands passes the fuse, the operator's limit or an owner's floor, unless a reason is named.
func TestNoDemandPassesFuseLimitOrFloor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.Int64Range(-30_000, 30_000)
		b := rapid.Bool()
		d := ev.Demand{Phases: rapid.SampledFrom([]int{1, 3}).Draw(t, "phases"), AmpereLeft: rapid.Int64Range(-5, 40).Draw(t, "ampere"),
			MaxDischargeW: rapid.Int64Range(0, 11_000).Draw(t, "discharge"), HasGridLimit: b.Draw(t, "grid"), GridLimitW: w.Draw(t, "limit"),
			GridExportW: w.Draw(t, "export"), Par14a: b.Draw(t, "14a"), HasDeparture: b.Draw(t, "departure"),
			NeedMWh: rapid.Int64Range(0, 80_000_000).Draw(t, "need"), SlotMS: 900_000, LeftMS: rapid.Int64Range(-900_000, 40_000_000).Draw(t, "left"),
			HasSoC: b.Draw(t, "has soc"), SoC: rapid.Int64Range(0, 1000).Draw(t, "soc"), FloorSoC: 200, HasControl: b.Draw(t, "control"),
			ControlW: w.Draw(t, "set"), EnvelopeLo: -5_000, EnvelopeHi: 5_000, PlanW: w.Draw(t, "plan")}
		got := ev.Resolve(d)
		least := int64(d.Phases) * 6 * 230
		fuse := d.AmpereLeft * 230 * int64(d.Phases)
		limit := d.GridLimitW
		if d.Par14a {
			limit = max(limit, 4_200)
		}
		switch {
		case got.W > max(fuse, 0) || got.W > 0 && got.W < least:
			t.Fatalf("%d W with %d W of fuse", got.W, fuse)
		case got.W < -d.MaxDischargeW:
			t.Fatalf("%d W discharge beyond %d", got.W, d.MaxDischargeW)
		case d.HasGridLimit && got.W > max(limit, 0):
			t.Fatalf("%d W above the operator's %d", got.W, limit)
		case d.HasSoC && d.SoC <= d.FloorSoC && got.W < 0:
			t.Fatalf("discharge at the floor")
		case got.W < got.Lo && got.Missed == 0 || got.W > got.Hi:
			t.Fatalf("%d W outside the slack [%d, %d]", got.W, got.Lo, got.Hi)
		}
		// Whoever follows Resolve with full power later reaches the need, or is told who prevents it.
		later := max(d.LeftMS-d.SlotMS, 0)
		reach := got.W*min(d.SlotMS, max(d.LeftMS, 1))/3600 + got.Hi*later/3600
		if d.HasDeparture && reach+2 < d.NeedMWh && got.Missed == 0 {
			t.Fatalf("need %d, reachable %d, nobody named: %+v", d.NeedMWh, reach, got)
		}
	})
}
