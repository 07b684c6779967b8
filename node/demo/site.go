package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"gridveil/mesh/member"
	"gridveil/node/aggregator"
	"gridveil/node/gateway"
	"gridveil/node/role"
	"gridveil/node/site"
	"gridveil/node/utility"
	"gridveil/node/web"
	"gridveil/privacy/leak"
)

// Site shows a whole neighbourhood on one dashboard. Its viewer sees more than
// any party of the scene could, and every page says which party sees what.
//
// It asks only what nodes keep in memory and their own stores, and never waits
// for a node that is starting or stopping: that one is shown as offline.
type Site struct {
	scene *Scene
	story *Story
	plots plots

	mu  sync.Mutex // guards the fields below
	now *look
	log Feed // what the site itself saw happen
}

// NewSite shows s and what st tells of it.
func NewSite(s *Scene, st *Story) *Site { return &Site{scene: s, story: st, plots: s.plot()} }

// Meta is the same on every page.
func (s *Site) Meta(context.Context) web.Meta {
	m := web.Meta{Title: "Elm Street neighbourhood", Role: "demo", Now: s.scene.Clock.Now(), Speed: s.scene.Speed,
		Banners: []web.Banner{{Short: "Demonstration with simulated hardware", Text: "Meters, wallboxes, batteries, roofs and the operators' bank are models. Nodes, stores, signatures and the network between them are real. You see every party at once; no party does."}}}
	if s.scene.Lab {
		m.Banners = append(m.Banners, web.Banner{Short: "Class lab: too few homes to hide among", Text: fmt.Sprintf("With %d homes, fewer than %d, packets travel without delay and cover. Start with --homes %d or more for the real classes.", s.scene.Homes, floorHomes, floorHomes)})
	}
	l := s.look()
	for _, c := range s.scene.Members {
		if ml := l.members[c.Name]; !ml.up && c.Role != member.RoleWallet {
			m.Warnings = append(m.Warnings, offline(ml))
		}
	}
	if len(m.Warnings) > len(s.scene.Members)/2 {
		m.Warnings = []web.Warning{{Severity: string(role.Notice), Title: "The neighbourhood is starting", Text: "Its nodes come up one after the other.", Since: l.now}}
	}
	return m
}

// offline is the warning of a stopped node that others rely on.
func offline(m memberLook) web.Warning {
	w := web.Warning{Severity: string(role.Notice), Title: m.title + " is offline", Since: m.since}
	switch m.role {
	case member.RoleSSN:
		w.Severity, w.Text = string(role.Problem), "Its homes send their reports and alarms through the neighbouring substations. Nothing is lost."
	case member.RoleAggregator:
		w.Severity, w.Text = string(role.Problem), "Guests charge on trust up to a limit, and what they owe waits at the host. Nothing is lost."
	case member.RoleHeadend:
		w.Severity, w.Text = string(role.Problem), "Reports wait in the substations. Nothing is lost."
	case member.RoleUtility:
		w.Severity, w.Text = string(role.Problem), "Readings wait at the head-end, settlements at the aggregator. Nothing is lost."
	default:
		w.Text = "It continues where it stopped when it is started again."
	}
	return w
}

// Homes lists the homes in the order of the cast.
func (s *Site) Homes(context.Context) (out []web.HomeRef) {
	for _, m := range s.scene.Of(member.RoleGateway) {
		out = append(out, refOf(m))
	}
	return out
}

func refOf(m *Member) web.HomeRef { return web.HomeRef{ID: m.Name, Name: titleOf(m)} }

// home finds a home and its gateway; g is nil while it is offline.
func (s *Site) home(id string) (m *Member, g *gateway.Gateway, ok bool) {
	m = s.scene.Get(id)
	if m == nil || m.Role != member.RoleGateway {
		return nil, nil, false
	}
	if n := m.peek(); n != nil {
		g, _ = n.Role.(*gateway.Gateway)
	}
	return m, g, true
}

// houseOf says what a home of the cast has.
func (s *Site) houseOf(m *Member) site.House {
	h := site.House{Simulated: true, BatteryWh: m.Home.BatteryWh, Roof: m.Home.Roof != nil, Hosts: m.Home.Wallbox != nil}
	if n := m.peek(); n != nil {
		c := site.HouseOf(n.Config)
		h.BatteryW, h.ReadPeriod, h.ReportPeriod = c.BatteryW, c.ReadPeriod, c.ReportPeriod
	}
	return h
}

// Energy is the load page of a home, with the bill that its utility computes
// from what it was sent.
func (s *Site) Energy(_ context.Context, id string) (web.Energy, bool) {
	m, g, ok := s.home(id)
	if !ok {
		return web.Energy{}, false
	}
	if g == nil {
		return web.Energy{Home: refOf(m), Offline: true, Simulated: true}, true
	}
	e := site.EnergyPage(refOf(m), s.houseOf(m), g, s.scene.Clock.Now())
	if u, c, ok := s.contract(m); ok {
		site.AddBill(&e, u, c.UsagePoint)
	}
	return e, true
}

// contract is a home's contract at the utility of the homes.
func (s *Site) contract(m *Member) (*utility.Utility, utility.Contract, bool) {
	u, ok := roleOf[*utility.Utility](s.scene.Get("utility-a"))
	n := m.peek()
	if !ok || n == nil {
		return nil, utility.Contract{}, false
	}
	key := n.Host.Self().Key
	for _, c := range u.Contracts() {
		if c.Gateway == key {
			return u, c, true
		}
	}
	return nil, utility.Contract{}, false
}

// roleOf is the running role of a member, if it is of type R.
func roleOf[R role.Role](m *Member) (r R, ok bool) {
	if m == nil {
		return r, false
	}
	n := m.peek()
	if n == nil {
		return r, false
	}
	r, ok = n.Role.(R)
	return r, ok
}

// Left is what left a home today, from that home's own journal.
func (s *Site) Left(_ context.Context, id string) (web.Left, bool) {
	m, g, ok := s.home(id)
	if !ok {
		return web.Left{}, false
	}
	now := s.scene.Clock.Now()
	if g == nil {
		return web.Left{Home: refOf(m), Day: now.Format("2 January 2006"), Offline: true}, true
	}
	names := func(r leak.Role) string {
		switch r {
		case leak.OwnUtility:
			return m.Operator
		case leak.Substation:
			return m.Zone
		case leak.Aggregator:
			return evagg
		}
		return ""
	}
	return site.Left(refOf(m), g, now, names, site.Stays(s.houseOf(m))), true
}

// Mask is how well a home's battery hides its load, as that home's own page has it.
func (s *Site) Mask(_ context.Context, id string) (web.Mask, bool) {
	m, g, ok := s.home(id)
	if !ok || g == nil {
		return web.Mask{}, ok
	}
	v := site.MaskPage(s.houseOf(m), g, s.scene.Clock.Now())
	for i, x := range v.Account {
		if x.Name == "Car" {
			v.Account[i].Value += " (simulated car and wallbox)"
		}
	}
	return v, true
}

// OrderBattery takes a command as a home's owner would give it.
func (s *Site) OrderBattery(_ context.Context, id string, o web.BatteryOrder) error {
	_, g, ok := s.home(id)
	if !ok || g == nil {
		return errors.New("This home is offline. Try again when it runs.")
	}
	return site.OrderBattery(g, s.scene.Clock.Now(), o)
}

// TurnDial chooses cost against privacy as a home's owner would.
func (s *Site) TurnDial(_ context.Context, id string, stop int) error {
	_, g, ok := s.home(id)
	if !ok || g == nil {
		return errors.New("This home is offline. Try again when it runs.")
	}
	return g.SetDial(stop)
}

// Guests is what a home's owner shows to a driver.
func (s *Site) Guests(_ context.Context, id string) (web.Guests, bool) {
	m, g, ok := s.home(id)
	if !ok {
		return web.Guests{}, false
	}
	n := m.peek()
	if g == nil || n == nil {
		return web.Guests{Home: refOf(m), Closed: "This home's node does not run now, so no guest can charge there."}, true
	}
	return site.GuestsPage(refOf(m), g, n.Config.Hosting), true
}

// Alarms are what reached the utility of the homes, with the homes' names.
func (s *Site) Alarms(context.Context) (out []web.AlarmRow) {
	u, ok := roleOf[*utility.Utility](s.scene.Get("utility-a"))
	if !ok {
		return nil
	}
	homes := s.byPoint(u)
	for _, d := range u.Alarms() {
		device := "substation or head-end"
		if name, ok := homes[d.UsagePoint]; ok {
			device = name
		}
		if out = append(out, site.Delivered(d, device)); len(out) == pageRows {
			break
		}
	}
	return out
}

// pageRows bounds the tables of the pages.
const pageRows = 200

// Ledger is the ledger page.
func (s *Site) Ledger(_ context.Context, from uint64) web.Ledger {
	if b, ok := s.book(); ok {
		return site.LedgerPage(b, from)
	}
	return web.Ledger{Quorum: "nobody yet"}
}

// Entry is one entry of the ledger.
func (s *Site) Entry(_ context.Context, index uint64) (web.Entry, bool) {
	if b, ok := s.book(); ok {
		return site.EntryPage(b, index)
	}
	return web.Entry{}, false
}

// errNoProof means that the writer of the ledger is away.
var errNoProof = errors.New("the aggregator is offline, ask again later")

// Proof writes the .tlog-proof of an entry.
func (s *Site) Proof(_ context.Context, w io.Writer, index uint64) error {
	a, ok := roleOf[*aggregator.Aggregator](s.scene.Get("evagg"))
	if !ok {
		return errNoProof
	}
	return site.WriteProof(w, a, index)
}

// Find finds an entry by its leaf hash.
func (s *Site) Find(_ context.Context, leaf string) (uint64, bool) {
	b, ok := s.book()
	if !ok {
		return 0, false
	}
	return site.FindLeaf(b, leaf)
}

// Money is what operators owe each other, paid by the simulated bank.
func (s *Site) Money(context.Context) web.Money {
	var v web.Money
	if a, ok := roleOf[*aggregator.Aggregator](s.scene.Get("evagg")); ok {
		v = site.MoneyPage(a, 0)
		site.AddFiles(&v, a)
	} else if u, ok := roleOf[*utility.Utility](s.scene.Get("utility-a")); ok {
		v = site.MoneyPage(u.Party(), 0)
	}
	v.Simulated = true
	return v
}

// PaymentFile reads a payment file.
func (s *Site) PaymentFile(_ context.Context, name string) ([]byte, bool) {
	a, ok := roleOf[*aggregator.Aggregator](s.scene.Get("evagg"))
	if !ok {
		return nil, false
	}
	return site.PaymentFile(a, name)
}

// Disputes are the cases of the ledger, as the utility of the drivers sees them.
func (s *Site) Disputes(context.Context) web.Disputes {
	u, ok := roleOf[*utility.Utility](s.scene.Get("utility-b"))
	if !ok {
		return web.Disputes{}
	}
	list, err := u.Party().CaseViews()
	return site.CasesPage(u.Party(), list, err)
}

// Live gives everything that moves.
func (s *Site) Live(ctx context.Context) map[string]string {
	l := s.look()
	out := map[string]string{"now": l.now.UTC().Format("2 Jan 2006 15:04"), "headline": l.headline}
	for _, f := range l.figures {
		out["fig-"+f.Key], out["fig-"+f.Key+"-note"] = f.Value, f.Note
	}
	site.LiveMap(out, web.Overview{Nodes: l.nodes, Edges: l.edges, Events: l.events})
	for id, f := range l.flows {
		site.LiveFlows(out, id, f)
	}
	out["ledger-size"], out["ledger-cosigned"] = site.Count(l.ledger.size), site.Count(l.ledger.final)
	return out
}
