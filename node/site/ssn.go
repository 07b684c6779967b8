package site

import (
	"context"
	"fmt"

	"gridveil/mesh/member"
	"gridveil/node/role"
	"gridveil/node/ssn"
	"gridveil/node/web"
)

// SSN is the dashboard of a substation.
type SSN struct {
	common
	s *ssn.SSN
}

// ForSSN shows which homes are connected and what passes; readings are sealed
// to it and so not here.
func ForSSN(env *role.Env, s *ssn.SSN) *SSN {
	return &SSN{common{env, []string{"overview", "alarms", "mesh"}}, s}
}

// Overview counts what passes.
func (s *SSN) Overview(context.Context) web.Overview {
	var o web.Overview
	o.Nodes, o.Edges = neighbours(s.env)
	c, st := s.s.Counters(), s.env.Onion.Stats()
	homes := connected(s.env, member.RoleGateway)
	o.Headline = fmt.Sprintf("%s connected, %s waiting to be passed on.", Plural(homes, "home", "homes"), Plural(c.Waiting, "report", "reports"))
	o.Figures = []web.Figure{{Key: "homes", Label: "Homes connected", Value: Count(homes)}, {Key: "reports", Label: "Sealed reports passed on", Value: Count(c.Reports), Note: Plural(c.Refused, "refused", "refused")},
		{Key: "alarms", Label: "Alarms passed on", Value: Count(c.Alarms)}, {Key: "onion", Label: "Onion packets relayed", Value: Count(st.Relayed), Note: Plural(st.Held, "held now", "held now")}}
	return o
}

func connected(env *role.Env, r member.Role) (n int) {
	for _, p := range env.Host.Peers() {
		if p.Role == r {
			n++
		}
	}
	return n
}

// Party is what a neighbour can see; of this node, with its own numbers.
func (s *SSN) Party(ctx context.Context, id string) (web.Party, bool) {
	p, ok := s.common.Party(ctx, id)
	if ok && id == "self" {
		p.Sees = SSNSees(s.s.Counters(), s.env.Onion.Stats().Relayed, connected(s.env, member.RoleGateway))
	}
	return p, ok
}

// SSNSees is what a substation sees, in numbers.
func SSNSees(c ssn.Counters, relayed uint64, homes int) []web.Pair {
	return []web.Pair{
		{Name: "connections", Value: Plural(homes, "home", "homes") + ", by certificate and address"},
		{Name: "reports", Value: Plural(c.Reports, "sealed report", "sealed reports") + " of equal size, when each came; " + Count(c.Finals) + " confirmed by the head-end"},
		{Name: "alarms", Value: Plural(c.Alarms, "alarm", "alarms") + ": kind and time at once, device and text sealed"},
		{Name: "onion", Value: Plural(relayed, "packet", "packets") + " of one size passed on, and from which neighbour to which"},
	}
}

// Live keeps the pages current.
func (s *SSN) Live(ctx context.Context) map[string]string { return s.live(s.Overview(ctx)) }
