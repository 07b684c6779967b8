package demo

import (
	"slices"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/role"
)

// A home's router has few entries in its table: guards, parents and the contact of the enrolment share three.
func TestAHomeOpensThreeConnectionsAtMost(t *testing.T) {
	st := newStreet(t, 6, 120, nil)
	substations := len(st.Of(member.RoleSSN))
	if substations < 3 {
		t.Fatalf("%d substations: the homes have no choice", substations)
	}
	homes := st.Of(member.RoleGateway)
	open := func(m *Member) int { return m.Node().Host.Metrics().Dialled }
	st.until(patience, "every home has its three parents and both guards among them", func() bool {
		for _, m := range homes {
			n := m.Node()
			guards := n.Onion.Guards()
			for _, g := range guards {
				if _, up := n.Host.Connected(g); !up {
					return false
				}
			}
			if len(guards) < 2 || open(m) != 3 {
				return false
			}
		}
		return true
	})
	stop := st.Clock.Now().Add(10 * time.Minute)
	most := 0
	st.until(patience, "ten minutes pass", func() bool {
		for _, m := range homes {
			most = max(most, open(m))
		}
		return st.Clock.Now().After(stop)
	})
	if most != 3 {
		t.Errorf("a home had %d connections open, want 3", most)
	}
}

// TestAHomeSaysWhichOfItsLinksIsGone stops one substation and then the others: the
// homes say so within minutes, and no longer when they are back. That nothing is
// lost meanwhile is TestRestartsLoseAndDoubleNothing.
func TestAHomeSaysWhichOfItsLinksIsGone(t *testing.T) {
	st := newStreet(t, 6, 600, nil)
	home, substations := st.Of(member.RoleGateway)[0], []string{"ssn-elm", "ssn-oak", "ssn-mill"}
	says := func(code string) bool {
		return slices.ContainsFunc(home.Node().Warnings(), func(w role.Warning) bool { return w.Code == code })
	}
	links := func(n int) bool { return home.Node().Host.Metrics().Dialled == n }
	st.until(patience, "the home has its three links", func() bool { return links(3) && !says("parent-away") && !says("parents-offline") })
	st.stop(substations[0])
	st.until(patience, "the home says that one is away", func() bool { return says("parent-away") })
	st.stop(substations[1:]...)
	st.until(patience, "the home says that none answers", func() bool { return says("parents-offline") && !says("parent-away") })
	for _, name := range substations {
		st.start(name)
	}
	st.until(patience, "the home is content", func() bool { return links(3) && !says("parent-away") && !says("parents-offline") })
}
