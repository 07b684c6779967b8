package mesh_test

import (
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// shifted is a clock that is wrong by a fixed time.
type shifted struct {
	mesh.Clock
	by time.Duration
}

func (s shifted) Now() time.Time { return s.Clock.Now().Add(s.by) }

func TestHellosTellHowWrongTheClockIs(t *testing.T) {
	wrong := time.Duration(0)
	n := meshtest.Start(t, meshtest.Options{SSNs: 2, Homes: 1, Speed: 1, Config: func(_ *meshtest.Node, c *mesh.Config) {
		c.Clock = shifted{c.Clock, wrong}
	}})
	heard := n.Homes[0].Host.Clocks()
	if len(heard) != 2 {
		t.Fatalf("a home with two neighbours heard %d clocks", len(heard))
	}
	for _, s := range heard {
		if s.Off.Abs() > member.MaxClockOff {
			t.Errorf("clocks of one machine are %v apart", s.Off)
		}
	}
	for _, s := range n.SSNs[0].Host.Clocks() {
		if s.Off.Abs() > member.MaxClockOff {
			t.Errorf("a home's clock counts for a substation: %v", s.Off)
		}
	}
	// A home an hour ahead is refused by itself: its neighbours' clocks look wrong to it, and it keeps what they said.
	wrong = time.Hour
	home := n.Add(member.RoleGateway, "z1")
	meshtest.Eventually(t, "the home hears both clocks", func() bool { return len(home.Host.Clocks()) == 2 })
	for _, s := range home.Host.Clocks() {
		if s.Off > -time.Hour+member.MaxClockOff || s.Off < -time.Hour-member.MaxClockOff {
			t.Errorf("an hour ahead of neighbours: heard %v", s.Off)
		}
	}
	if n := len(home.Host.Peers()); n != 0 {
		t.Errorf("it is connected to %d relays whose clock it cannot accept", n)
	}
}

func TestHostTellsRoundTripsOfWhomItKeeps(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 2, Homes: 1, Speed: 1})
	home := n.Homes[0].Host
	kept := home.Kept()
	if len(kept) != 2 {
		t.Fatalf("a home keeps %d substations of two", len(kept))
	}
	for _, p := range kept {
		if len(p.Addrs) == 0 {
			t.Errorf("no address of a kept peer")
		}
		if rtt, err := home.RoundTrip(t.Context(), p.ID); err != nil || rtt <= 0 {
			t.Errorf("round trip: %v, %v", rtt, err)
		}
	}
	if percent, daily := home.BudgetUsed(); percent > 1 || daily != 30<<20 {
		t.Errorf("a fresh home has used %d %% of %d bytes", percent, daily)
	}
	if _, daily := n.SSNs[0].Host.BudgetUsed(); daily != 0 {
		t.Errorf("a substation has a budget of %d bytes", daily)
	}
}
