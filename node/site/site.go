// Package site says what a node shows on its own dashboard: one [web.Site] per
// role, each with only what that role may see, and the builders of pages that
// a demonstration shares.
//
// A Site reads what its role keeps in memory and in its own store; it never asks
// a remote, so a page appears at once with every remote down. Words are those of
// a home owner first. Amounts and energies are rounded here, for people only.
//
// Start with [For]. The files: words.go (numbers and words), energy.go, left.go, mask.go,
// alarm.go, ledger.go, mesh.go (pages), metrics.go (counters), sight.go (who can see what, and why not more),
// one file per role.
package site

import (
	"context"
	"errors"
	"io"
	"strconv"

	"gridveil/node/aggregator"
	"gridveil/node/gateway"
	"gridveil/node/headend"
	"gridveil/node/role"
	"gridveil/node/ssn"
	"gridveil/node/utility"
	"gridveil/node/verifier"
	"gridveil/node/wallet"
	"gridveil/node/web"
)

// For gives the pages of a role; ok is false for a role that has none.
func For(env *role.Env, r role.Role) (s web.Site, ok bool) {
	switch r := r.(type) {
	case *gateway.Gateway:
		return ForGateway(env, r), true
	case *ssn.SSN:
		return ForSSN(env, r), true
	case *headend.Headend:
		return ForHeadend(env, r), true
	case *utility.Utility:
		return ForUtility(env, r), true
	case *aggregator.Aggregator:
		return ForAggregator(env, r), true
	case *verifier.Verifier:
		return ForVerifier(env, r), true
	case *wallet.Wallet:
		return ForWallet(env, r), true
	}
	return nil, false
}

// common is the Site of a role that shows nothing; roles embed it and replace
// what they have.
type common struct {
	env   *role.Env
	pages []string
}

// Meta names the node and its standing warnings.
func (c common) Meta(context.Context) web.Meta {
	now := c.env.Clock.Now()
	m := web.Meta{Title: c.env.Config.Name, Role: c.env.Config.Role, Now: now, Speed: 1, Pages: c.pages, Warnings: Warnings(c.env)}
	if c.env.Config.Meter.Source == "sim" {
		m.Banners = append(m.Banners, web.Banner{Short: "Simulated hardware", Text: "Meter, battery and roof of this house are models; nothing here is connected to copper."})
	}
	if c.env.Lab() {
		m.Banners = append(m.Banners, web.Banner{Short: "Class lab: a trial without a crowd", Text: "With fewer than 20 homes nobody can hide among the others, so packets travel without delay and cover, and who talks to whom can be seen."})
	}
	return m
}

// Warnings are the standing warnings of a node, worst first: its own and those
// of its mesh.
func Warnings(env *role.Env) []web.Warning {
	var out []web.Warning
	for _, w := range env.Warnings() {
		out = append(out, web.Warning{Severity: string(w.Severity), Title: w.Title, Text: w.Text, Next: w.Next, Since: w.Since})
	}
	return out
}

func (common) Overview(context.Context) web.Overview             { return web.Overview{} }
func (common) Homes(context.Context) []web.HomeRef               { return nil }
func (common) Energy(context.Context, string) (web.Energy, bool) { return web.Energy{}, false }
func (common) Sessions(context.Context) []web.SessionRow         { return nil }
func (common) Session(context.Context, string) (web.Session, bool) {
	return web.Session{}, false
}
func (common) Guests(context.Context, string) (web.Guests, bool) {
	return web.Guests{}, false
}
func (common) Ledger(context.Context, uint64) web.Ledger       { return web.Ledger{} }
func (common) Entry(context.Context, uint64) (web.Entry, bool) { return web.Entry{}, false }
func (common) Alarms(context.Context) []web.AlarmRow           { return nil }
func (common) Mask(context.Context, string) (web.Mask, bool)   { return web.Mask{}, false }
func (common) TurnDial(context.Context, string, int) error {
	return errors.New("This node has no battery.")
}
func (common) OrderBattery(context.Context, string, web.BatteryOrder) error {
	return errors.New("This node has no battery.")
}
func (common) Left(context.Context, string) (web.Left, bool) { return web.Left{}, false }
func (common) Proof(context.Context, io.Writer, uint64) error {
	return errors.New("this node keeps no ledger")
}

func (common) Find(context.Context, string) (uint64, bool)        { return 0, false }
func (common) Money(context.Context) web.Money                    { return web.Money{} }
func (common) PaymentFile(context.Context, string) ([]byte, bool) { return nil, false }
func (common) Disputes(context.Context) web.Disputes              { return web.Disputes{} }

// Party is what a party of the map can see; the own node says it with numbers.
func (c common) Party(_ context.Context, id string) (web.Party, bool) {
	nodes, _ := neighbours(c.env)
	for _, n := range nodes {
		if n.ID == id {
			return web.Party{Node: n, Is: Is(n.Kind), Never: Never(n.Kind)}, true
		}
	}
	return web.Party{}, false
}

// live are the values that every role keeps current: the clock, headline,
// figures, and what became of the neighbours.
func (c common) live(o web.Overview) map[string]string {
	out := map[string]string{"now": c.env.Clock.Now().UTC().Format("2 Jan 2006 15:04"), "headline": o.Headline}
	for _, f := range o.Figures {
		out["fig-"+f.Key], out["fig-"+f.Key+"-note"] = f.Value, f.Note
	}
	LiveMap(out, o)
	return out
}

// LiveMap adds the states of nodes and edges.
func LiveMap(out map[string]string, o web.Overview) {
	for _, n := range o.Nodes {
		out["node-"+n.ID+"-state"], out["node-"+n.ID+"-text"] = n.State, n.Text
	}
	for _, e := range o.Edges {
		out["edge-"+e.ID+"-level"] = strconv.Itoa(e.Level)
	}
	out["events"] = web.EventLines(o.Events)
}

// LiveFlows adds the present powers of a home.
func LiveFlows(out map[string]string, home string, f web.Flows) {
	p := "energy-" + home + "-"
	out[p+"load"], out[p+"meter"], out[p+"pv"], out[p+"battery"], out[p+"ev"] = Watts(f.Load), Watts(f.Meter), Watts(f.PV), Watts(f.Battery), Watts(f.EV)
	out[p+"soc"] = strconv.Itoa(int(f.SoCPct+.5)) + " %"
}
