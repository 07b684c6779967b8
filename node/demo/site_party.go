package demo

import (
	"context"
	"fmt"
	"strings"

	"gridveil/mesh/member"
	"gridveil/node/aggregator"
	"gridveil/node/gateway"
	"gridveil/node/headend"
	"gridveil/node/site"
	"gridveil/node/ssn"
	"gridveil/node/utility"
	"gridveil/node/verifier"
	"gridveil/node/wallet"
	"gridveil/node/web"
)

// Overview is the neighbourhood at a glance.
func (s *Site) Overview(context.Context) web.Overview {
	l := s.look()
	o := web.Overview{Headline: l.headline, Figures: l.figures, Nodes: l.nodes, Edges: l.edges, Events: l.events, Tall: s.plots.tall}
	if !s.scene.temp {
		o.Verify = "gridveil verify " + s.scene.Dir + "/export"
	}
	return o
}

// Party is what one node of the map can see, and what it cannot.
func (s *Site) Party(_ context.Context, id string) (web.Party, bool) {
	m := s.scene.Get(id)
	if m == nil {
		return web.Party{}, false
	}
	l := s.look()
	var p web.Party
	for _, n := range l.nodes {
		if n.ID == id {
			p.Node = n
		}
	}
	p.Node.Name = titleOf(m)
	p.Is, p.Never = site.Is(p.Node.Kind), site.Never(p.Node.Kind)
	p.Sees, p.Links = s.sees(l, m), links(m)
	for _, e := range s.allEvents() {
		if mentions(e.Text, p.Node.Name) && len(p.Recent) < 12 {
			p.Recent = append(p.Recent, e)
		}
	}
	return p, true
}

func (s *Site) allEvents() []web.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events(2 * maxFeed)
}

// mentions says whether a text names somebody: "Home 1" is not in "Home 12".
func mentions(text, name string) bool {
	text, name = strings.ToLower(text), strings.ToLower(name)
	for {
		i := strings.Index(text, name)
		if i < 0 {
			return false
		}
		text = text[i+len(name):]
		if text == "" || text[0] < '0' || text[0] > '9' {
			return true
		}
	}
}

func links(m *Member) []web.Pair {
	switch m.Role {
	case member.RoleGateway:
		return []web.Pair{{Name: "Its load and mask", Value: "/energy?home=" + m.Name}, {Name: "What left it today", Value: "/privacy?home=" + m.Name}}
	case member.RoleAggregator, member.RoleVerifier:
		return []web.Pair{{Name: "The ledger", Value: "/ledger"}}
	case member.RoleUtility:
		return []web.Pair{{Name: "The ledger", Value: "/ledger"}, {Name: "Alarms", Value: "/alarms"}}
	}
	return nil
}

// sees is what a party really holds now, in numbers.
func (s *Site) sees(l *look, m *Member) []web.Pair {
	n := m.peek()
	if n == nil {
		return []web.Pair{{Name: "now", Value: "nothing: it is offline"}}
	}
	switch r := n.Role.(type) {
	case *ssn.SSN:
		homes := 0
		for _, p := range n.Host.Peers() {
			if p.Role == member.RoleGateway {
				homes++
			}
		}
		return site.SSNSees(r.Counters(), n.Onion.Stats().Relayed, homes)
	case *headend.Headend:
		return site.HeadendSees(r.Counters())
	case *utility.Utility:
		return s.utilitySees(m, r)
	case *gateway.Gateway:
		return s.homeSees(l, m, r)
	case *aggregator.Aggregator:
		return site.AggregatorSees(r)
	case *verifier.Verifier:
		return site.VerifierSees(r)
	case *wallet.Wallet:
		return site.WalletSees(r)
	}
	return nil
}

func (s *Site) homeSees(l *look, m *Member, g *gateway.Gateway) []web.Pair {
	f := l.flows[m.Name]
	view, _ := g.Left(l.now)
	left := 0
	for _, line := range view.Lines {
		left += line.Messages
	}
	out := []web.Pair{
		{Name: "its own load", Value: fmt.Sprintf("every minute of the last day; %s now, while the meter shows %s", site.Watts(f.Load), site.Watts(f.Meter))},
		{Name: "its journal", Value: site.Plural(left, "message", "messages") + " left today; its Privacy page says how much they tell whom"},
	}
	return append(append(out, s.guests(l, m)...), site.Neighbourhood(g)...)
}

func (s *Site) utilitySees(m *Member, u *utility.Utility) []web.Pair {
	contracts := u.Contracts()
	if m.Operator != utilityA {
		return s.driverUtilitySees(u)
	}
	out := []web.Pair{{Name: "contracts", Value: site.Plural(len(contracts), "home", "homes") + ", by usage point; names are in its customer system"}}
	if len(contracts) > 0 {
		if from, to, err := u.Covered(contracts[0].UsagePoint); err == nil {
			blocks, err := u.Blocks(contracts[0].UsagePoint)
			if err == nil {
				_, _, in, fed := site.Metered(blocks)
				out = append(out, web.Pair{Name: "for example", Value: fmt.Sprintf("%s took %.2f kWh and fed in %.2f kWh from %s to %s", s.pointName(u, contracts[0]), in, fed, from.Format("15:04"), to.Format("15:04 on 2 Jan"))})
			}
		}
	}
	return append(out, web.Pair{Name: "alarms", Value: site.Plural(len(u.Alarms()), "alarm", "alarms") + " with device and text"})
}

func (s *Site) pointName(u *utility.Utility, c utility.Contract) string {
	if n, ok := s.byPoint(u)[c.UsagePoint]; ok {
		return n
	}
	return "usage point " + site.ShortID(c.UsagePoint[:])
}
