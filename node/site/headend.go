package site

import (
	"context"
	"fmt"

	"gridveil/node/headend"
	"gridveil/node/role"
	"gridveil/node/web"
)

// Headend is the dashboard of a meter collector.
type Headend struct {
	common
	h *headend.Headend
}

// ForHeadend shows collection in numbers; single readings belong to billing.
func ForHeadend(env *role.Env, h *headend.Headend) *Headend {
	return &Headend{common{env, []string{"overview", "mesh"}}, h}
}

// Overview counts what was collected.
func (s *Headend) Overview(context.Context) web.Overview {
	var o web.Overview
	o.Nodes, o.Edges = neighbours(s.env)
	c := s.h.Counters()
	o.Headline = fmt.Sprintf("%d of %s hold their newest order.", c.Ordered, Plural(c.Gateways, "gateway", "gateways"))
	if c.Gateways == 0 {
		o.Headline = "No utility has put a gateway on the list yet."
	}
	o.Figures = []web.Figure{{Key: "homes", Label: "Gateways on the list", Value: Count(c.Gateways)}, {Key: "reports", Label: "Reports stored", Value: Count(c.Reports), Note: Plural(c.Refused, "refused", "refused")},
		{Key: "readings", Label: "Readings", Value: Count(c.Readings), Note: Plural(c.Flagged, "looks odd", "look odd")}, {Key: "alarms", Label: "Alarms", Value: Count(c.Alarms)}}
	return o
}

// Party is what a neighbour can see; of this node, with its own numbers.
func (s *Headend) Party(ctx context.Context, id string) (web.Party, bool) {
	p, ok := s.common.Party(ctx, id)
	if ok && id == "self" {
		p.Sees = HeadendSees(s.h.Counters())
	}
	return p, ok
}

// HeadendSees is what a head-end sees, in numbers.
func HeadendSees(c headend.Counters) []web.Pair {
	return []web.Pair{
		{Name: "homes", Value: Plural(c.Gateways, "usage point", "usage points") + ", each a random number"},
		{Name: "readings", Value: Plural(c.Readings, "register", "registers") + " of the ordered periods, as the meter measured them behind the battery"},
		{Name: "checks", Value: Plural(c.Flagged, "value that looks odd", "values that look odd")},
		{Name: "alarms", Value: Plural(c.Alarms, "alarm", "alarms") + " with device and text"},
	}
}

// Live keeps the pages current.
func (s *Headend) Live(ctx context.Context) map[string]string { return s.live(s.Overview(ctx)) }
