package demo

import (
	"testing"
	"time"

	"gridveil/mesh/member"
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
