package demo

import (
	"errors"
	"flag"
	"slices"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/gateway"
	"gridveil/node/ssn"
	"gridveil/node/utility"
	"gridveil/privacy/agg"
	"gridveil/privacy/leak"
)

// balanced gives the zone's quarter hours in which both sums and the feeder are
// known.
func balanced(t *testing.T, u *utility.Utility, zone string) (out []utility.ZoneSum) {
	t.Helper()
	all, err := u.Sums(zone, Start.Add(-24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, z := range all {
		if _, ok := z.Residual(); ok {
			out = append(out, z)
		}
	}
	return out
}

var long = flag.Bool("long", false, "run the tests of a whole neighbourhood above the floor of the private classes")

// TestZoneAboveTheFloorSumsInClassMeter is the same with the real class and the
// real smallest batch: 21 homes of one zone, and two zones that are too small.
func TestZoneAboveTheFloorSumsInClassMeter(t *testing.T) {
	if !*long {
		t.Skip("minutes; run with -long")
	}
	st := newStreet(t, 25, 300, nil)
	st.until(5*patience, "two balanced quarter hours of the large zone", func() bool { return len(balanced(t, st.u, zones[0])) >= 2 })
	for _, z := range balanced(t, st.u, zones[0]) {
		if z.Homes < agg.MinBatch {
			t.Errorf("a sum of %d homes", z.Homes)
		}
	}
	for _, zone := range zones[1:] {
		if small, err := st.u.Sums(zone, Start.Add(-24*time.Hour)); err != nil || len(small) > 0 {
			t.Errorf("zone %s has a sum of too few homes: %v, %v", zone, small, err)
		}
	}
}

// TestZoneLearnsItsSumAndNoReading is the private sum of three zones, live: the
// escrow certifies days, homes report by onion, two substations of different
// operators sum, and the grid operator compares with its transformers.
func TestZoneLearnsItsSumAndNoReading(t *testing.T) {
	st := newStreet(t, 6, 600, nil)
	st.until(patience, "four balanced quarter hours of each zone", func() bool {
		for _, z := range zones {
			if len(balanced(t, st.u, z)) < 4 {
				return false
			}
		}
		return true
	})
	for _, zone := range zones {
		homes := int64(0)
		for _, m := range st.Of(member.RoleGateway) {
			if m.Zone == zone {
				homes++
			}
		}
		for _, z := range balanced(t, st.u, zone) {
			rest, _ := z.Residual()
			// Each register is cut to whole watt-hours at both ends and in both directions.
			if slack := 2 * 1000 * homes; int64(z.Homes) == homes && (rest >= slack || rest <= -slack) {
				t.Errorf("%s at %s: %d homes import %d, export %d, the feeder says %d", zone, z.From.Format("15:04"), z.Homes, *z.ImportMWh, *z.ExportMWh, *z.FeederMWh)
			}
		}
	}
	st.until(patience, "the homes hear of it", func() bool {
		for _, m := range st.Of(member.RoleGateway) {
			n, err := m.Node().Role.(*gateway.Gateway).Neighbourhood()
			if err != nil {
				t.Fatal(err)
			}
			if len(n) == 0 || n[0].Homes < 2 || n[0].Leader == n[0].Helper || n[0].Leader == "" {
				return false
			}
		}
		return true
	})
	told := map[leak.Role]int{}
	for _, day := range []time.Duration{0, -24 * time.Hour} {
		view, _ := st.home(1).Left(st.Clock.Now().Add(day))
		for _, l := range view.Lines {
			if l.Row.Message == leak.SumReport || l.Row.Message == leak.DayRequest {
				told[l.Row.To] += l.Messages
			}
		}
	}
	for _, to := range []leak.Role{leak.SumLeader, leak.SumHelper, leak.GridOp, leak.Escrow} {
		if told[to] == 0 {
			t.Errorf("the journal has no line for the %v: %v", to, told)
		}
	}
	wantNoNames(t, st.Scene, st.log.text())
}

// TestSumLivesThroughRestartsAndGaps: substations restart while they lead and
// help, a home goes missing, and a zone with too few homes gets an event in the
// place of a sum.
func TestSumLivesThroughRestartsAndGaps(t *testing.T) {
	st := newStreet(t, 8, 600, nil) // elm and oak have three homes, mill two
	st.until(patience, "a first sum", func() bool { return len(balanced(t, st.u, "elm")) >= 1 })
	st.stop("home-3", "home-4") // of mill and elm
	st.restart("ssn-elm")
	st.restart("ssn-oak")
	st.restart("utility-a")
	from := st.Clock.Now()
	st.until(patience, "sums of elm without the missing home", func() bool {
		n := 0
		for _, z := range balanced(t, st.u, "elm") {
			if z.From.After(from) && z.Homes == 2 {
				n++
			}
		}
		return n >= 2
	})
	st.until(patience, "an event for mill, where one home is left", func() bool {
		return slices.ContainsFunc(st.substation("mill").Sums(), func(o ssn.Outcome) bool { return errors.Is(o.Err, agg.ErrSmallBatch) })
	})
	for _, zone := range zones {
		all, err := st.u.Sums(zone, Start.Add(-24*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		for _, z := range all {
			if z.Homes < 2 {
				t.Errorf("%s at %s: a sum of %d homes", zone, z.From.Format("15:04"), z.Homes)
			}
		}
	}
	wantNoNames(t, st.Scene, st.log.text())
}
