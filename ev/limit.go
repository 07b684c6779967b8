package ev

import "math"

// Row is a line of the priority table; a lower number wins.
type Row uint8

// The rows. Source: doc/design.md, limits.
const (
	RowWiring  Row = iota + 1 // wiring, phase, fuse
	RowGrid                   // limit of the grid operator
	RowOwner                  // energy by departure, state of charge
	RowControl                // instruction within the offered envelope
	RowPlan                   // cheapest plan
)

// String names the row for the log and the Sessions page.
func (r Row) String() string {
	return [...]string{"none", "wiring", "grid operator", "owner", "control", "plan"}[min(r, RowPlan)]
}

const (
	minAmpere = 6     // IEC 61851: a car charges with at least 6 A or not at all
	volt      = 230   // per phase
	floor14a  = 4_200 // W that s.14a EnWG leaves to a device, whatever the operator asks
)

// Demand is everything that wants to decide about the power of one EVSE now. Charging is positive.
type Demand struct {
	Phases        int   // 1 or 3
	AmpereLeft    int64 // least of cable, EVSE and what the fuse leaves beside the house, per phase
	MaxDischargeW int64 // zero unless EVSE and session allow discharge

	HasGridLimit bool
	GridLimitW   int64 // most import that the operator allows the device
	GridExportW  int64 // most discharge that the operator allows, with HasGridLimit
	Par14a       bool  // the limit may not go below 4.2 kW

	HasDeparture   bool
	NeedMWh        int64 // energy still wanted before the car leaves
	SlotMS, LeftMS int64 // length of this slot; time until departure, this slot included
	HasSoC         bool
	SoC, FloorSoC  int64 // permille; at or below the floor nothing is discharged

	HasControl             bool
	ControlW               int64
	EnvelopeLo, EnvelopeHi int64 // what the owner offered to the pool

	PlanW int64
}

// Change says that a row moved the set point.
type Change struct {
	Row      Row
	From, To int64 // W
	Raised   bool  // the operator asked for less than s.14a EnWG allows
}

// Decision is the resolved set point and how it came about.
type Decision struct {
	W       int64
	Lo, Hi  int64    // W that this slot could bear: slack for the battery governor
	Changes []Change // in the order in which rows were applied, lowest priority first
	Missed  Row      // the row that makes the departure be missed, 0 if it will not be
}

// Resolve decides the power of one EVSE for one slot. Rows are applied from the plan upwards, so a higher row has the
// last word: wiring over operator over owner over control over plan. Every row that moved the set point is named. The
// result is 0, at least 6 A per phase, or a discharge within all limits.
func Resolve(d Demand) Decision {
	wire := bounds{-max(d.MaxDischargeW, 0), powerOf(d.AmpereLeft, d.Phases)}
	grid := d.gridBounds()
	hi := min(wire.hi, grid.hi)
	floor := d.ownerFloor(hi)

	out := Decision{W: d.PlanW, Lo: min(max(wire.lo, grid.lo, floor), hi), Hi: hi}
	out.moveTo(RowPlan, snap(out.W, d.Phases, 0))
	if d.HasControl {
		out.moveTo(RowControl, snap(bounds{d.EnvelopeLo, d.EnvelopeHi}.clamp(d.ControlW), d.Phases, 0))
	}
	out.moveTo(RowOwner, snap(max(out.W, floor), d.Phases, floor))
	before := len(out.Changes)
	out.moveTo(RowGrid, grid.clamp(out.W))
	if len(out.Changes) > before && d.Par14a && d.GridLimitW < floor14a {
		out.Changes[before].Raised = true
	}
	out.moveTo(RowWiring, wire.clamp(out.W))
	if d.HasDeparture && floor > hi {
		out.Missed = RowWiring
		if grid.hi < wire.hi {
			out.Missed = RowGrid
		}
	}
	return out
}

// gridBounds are the operator's; without a limit they bind nothing.
func (d Demand) gridBounds() bounds {
	if !d.HasGridLimit {
		return bounds{math.MinInt64, math.MaxInt64}
	}
	limit := max(d.GridLimitW, 0)
	if d.Par14a {
		limit = max(limit, floor14a)
	}
	if limit < powerOf(minAmpere, d.Phases) {
		limit = 0
	}
	return bounds{-max(d.GridExportW, 0), limit}
}

type bounds struct{ lo, hi int64 }

func (b bounds) clamp(w int64) int64 { return min(max(w, b.lo), b.hi) }

func (d *Decision) moveTo(r Row, w int64) {
	if w != d.W {
		d.Changes = append(d.Changes, Change{Row: r, From: d.W, To: w})
		d.W = w
	}
}

// powerOf returns the power of a current, zero below the least at which a car charges.
func powerOf(ampere int64, phases int) int64 {
	if ampere < minAmpere {
		return 0
	}
	return ampere * volt * int64(max(phases, 1))
}

// snap moves a power between 0 and 6 A to 6 A if floor asks for energy, else to 0.
func snap(w int64, phases int, floor int64) int64 {
	least := powerOf(minAmpere, phases)
	switch {
	case w <= 0 || w >= least:
		return w
	case floor > 0:
		return least
	}
	return 0
}

// ownerFloor returns the least power of this slot with which the need is still met if all later slots run at hi;
// negative where there is room to discharge. Above hi, the departure will be missed.
func (d Demand) ownerFloor(hi int64) int64 {
	floor := int64(math.MinInt64)
	if d.HasSoC && d.SoC <= d.FloorSoC {
		floor = 0
	}
	if !d.HasDeparture || d.SlotMS <= 0 {
		return floor
	}
	later := max(d.LeftMS-d.SlotMS, 0)
	// mWh = W x ms / 3600; both sides stay far below 2^63 for a GWh and a year.
	lacking := d.NeedMWh - hi*later/3600
	slot := min(d.SlotMS, max(d.LeftMS, 1))
	return max(floor, ceilDiv(lacking*3600, slot))
}

func ceilDiv(a, b int64) int64 {
	q := a / b
	if a%b > 0 {
		q++
	}
	return q
}
