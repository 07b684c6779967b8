package demo

import (
	"fmt"
	"strings"

	"gridveil/mesh"
	"gridveil/mesh/onion"
	"gridveil/node/site"
)

// Summary is what `gridveil demo --once --json` prints. Fields are only ever
// added.
type Summary struct {
	Homes     int    `json:"homes"`
	SSNs      int    `json:"ssns"`
	Verifiers int    `json:"verifiers"`
	Class     string `json:"class"` // of the private messages: meter, or lab below the floors

	Readings struct {
		Taken     int `json:"taken"`
		AtHeadend int `json:"at_headend"`
		Lost      int `json:"lost"`
	} `json:"readings"`
	Alarms struct {
		Raised    int `json:"raised"`
		Delivered int `json:"delivered"`
	} `json:"alarms"`
	Sessions struct {
		Settled  int `json:"settled"`
		Refused  int `json:"refused"`
		Gift     int `json:"gift"`
		PV       int `json:"pv"`
		Grid     int `json:"grid"`
		Mixed    int `json:"mixed"`
		V2GHouse int `json:"v2g_house"`
		V2GGrid  int `json:"v2g_grid"`
	} `json:"sessions"`
	// Masked is how masks used the cars of the last 24 hours.
	Masked struct {
		Times   int     `json:"times"`
		Minutes float64 `json:"minutes"`
	} `json:"cars_moved"`
	Onion struct {
		Relayed uint64 `json:"relayed"`
		Dropped uint64 `json:"dropped"`

		Causes map[mesh.Drop]uint64 `json:"causes"` // of Dropped
	} `json:"onion"`
	Ledger struct {
		Entries       uint64 `json:"entries"`
		TreeSize      uint64 `json:"tree_size"`
		Quorum        int    `json:"quorum"`
		CosignedSize  uint64 `json:"cosigned_size"`
		Equivocations int    `json:"equivocations"`
		SumMicro      int64  `json:"sum_micro"`
	} `json:"ledger"`
	Notes struct {
		Issued      int64 `json:"issued_micro"`
		Redeemed    int64 `json:"redeemed_micro"`
		Outstanding int64 `json:"outstanding_micro"`
	} `json:"notes"`

	Payments struct {
		Closes       int   `json:"closes"`
		Arrived      int   `json:"arrived"`
		ArrivedMicro int64 `json:"arrived_micro"`
		Due          int   `json:"due"`
	} `json:"payments"` // between operators, by the simulated bank

	Flexibility struct {
		Events       int   `json:"events"`
		DeliveredMWh int64 `json:"delivered_mwh"`
		PaidMicro    int64 `json:"paid_micro"`   // by the grid operator
		SharedMicro  int64 `json:"shared_micro"` // among drivers
		HeldMicro    int64 `json:"held_micro"`   // in their notes
	} `json:"flexibility"`

	Detail      []HomeDetail   `json:"homes_detail"`
	Drivers     []DriverDetail `json:"drivers_detail"`
	Invariants  []Invariant    `json:"invariants"`
	WallSeconds float64        `json:"wall_seconds"`
	Export      string         `json:"export,omitempty"` // kept with --data
}

// HomeDetail is one home's day: what it used, and what its meter showed.
type HomeDetail struct {
	Home    string `json:"home"`
	True    int64  `json:"energy_true_mwh"`
	Metered int64  `json:"energy_metered_mwh"` // import, as billed
	Bill    int64  `json:"bill_micro"`
}

// DriverDetail is what one driver's utility bills for sessions.
type DriverDetail struct {
	Driver   string `json:"driver"`
	Sessions int    `json:"sessions"`
	Bill     int64  `json:"bill_micro"`
}

// Invariant is one thing that must hold at the end of a day.
type Invariant struct {
	Name  string `json:"name"`
	Holds bool   `json:"holds"`
	Why   string `json:"why,omitempty"` // when it does not
}

// hold notes an invariant; problems say why it does not hold.
func (s *Summary) hold(name string, problems ...string) {
	s.Invariants = append(s.Invariants, Invariant{Name: name, Holds: len(problems) == 0, Why: strings.Join(problems[:min(3, len(problems))], "; ")})
}

// Broken names the invariants that do not hold.
func (s *Summary) Broken() (names []string) {
	for _, i := range s.Invariants {
		if !i.Holds {
			names = append(names, i.Name)
		}
	}
	return names
}

// String is the summary for people.
func (s *Summary) String() string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", label, fmt.Sprintf(format, args...))
	}
	line("neighbourhood", "%d homes, %d substations, %d verifiers, private class %s", s.Homes, s.SSNs, s.Verifiers, s.Class)
	line("readings", "%d taken, %d at the head-end, %d lost", s.Readings.Taken, s.Readings.AtHeadend, s.Readings.Lost)
	line("alarms", "%d raised, %d delivered", s.Alarms.Raised, s.Alarms.Delivered)
	x := s.Sessions
	line("sessions", "%d settled (%d solar, %d grid, %d mixed, %d car to house, %d car to grid), %d gift, %d refused", x.Settled, x.PV, x.Grid, x.Mixed, x.V2GHouse, x.V2GGrid, x.Gift, x.Refused)
	c := s.Onion.Causes
	away, late, old := c[onion.DropNeighbour], c[onion.DropLate], c[onion.DropKey]
	line("onion", "%d packets relayed, %d dropped: %d next node away, %d answers late, %d for old keys, %d otherwise", s.Onion.Relayed, s.Onion.Dropped, away, late, old, s.Onion.Dropped-away-late-old)
	l := s.Ledger
	line("ledger", "%d entries, %d cosigned by %d of %d, %d contradictions, accounts sum to %d", l.Entries, l.CosignedSize, l.Quorum, s.Verifiers, l.Equivocations, l.SumMicro)
	line("notes", "%s issued, %s redeemed, %s outstanding", euros(s.Notes.Issued), euros(s.Notes.Redeemed), euros(s.Notes.Outstanding))
	p := s.Payments
	line("bank", "simulated: %s, %s arrived (%s), %d due", site.Plural(p.Closes, "close", "closes"), site.Plural(p.Arrived, "payment", "payments"), euros(p.ArrivedMicro), p.Due)
	if f := s.Flexibility; f.Events > 0 {
		line("flexibility", "%s bought, %.2f kWh delivered, %s paid, %s of it to drivers", site.Plural(f.Events, "instruction", "instructions"), float64(f.DeliveredMWh)/kWh, euros(f.PaidMicro), euros(f.SharedMicro))
	}
	for _, i := range s.Invariants {
		mark := "holds"
		if !i.Holds {
			mark = "BROKEN: " + i.Why
		}
		fmt.Fprintf(&b, "  %-58s %s\n", i.Name, mark)
	}
	if s.Export != "" {
		line("verify it", "gridveil verify %s", s.Export)
	}
	line("took", "%.0f s", s.WallSeconds)
	return b.String()
}

func euros(micro int64) string { return fmt.Sprintf("%.2f EUR", float64(micro)/1e6) }
