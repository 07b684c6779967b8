package demo

import (
	"fmt"
	"math"
	"strings"

	"gridveil/mesh/member"
	"gridveil/node/model"
	"gridveil/node/site"
	"gridveil/node/utility"
	"gridveil/node/web"
)

// spot is a place on both maps.
type spot struct{ wide, tall web.Place }

// backboneSpots are where operators stand: above the zones.
var backboneSpots = map[string]spot{
	"utility-a": {web.Place{X: 150, Y: 56}, web.Place{X: 70, Y: 44}},
	"headend":   {web.Place{X: 330, Y: 150}, web.Place{X: 120, Y: 126}},
	"utility-b": {web.Place{X: 500, Y: 56}, web.Place{X: 210, Y: 44}},
	"evagg":     {web.Place{X: 670, Y: 150}, web.Place{X: 300, Y: 126}},
	"watchdog":  {web.Place{X: 860, Y: 56}, web.Place{X: 350, Y: 44}},
}

// Rings of homes around a substation, in px.
const (
	wideZoneY = 370.
	farApart  = 84. // two homes of a ring are not further apart
	manyHomes = 30  // of one zone: from here on they stand close

	tallZoneTop = 190.
	tallAcross  = 52. // half the width of a zone's ring on the tall map
	tallDown    = 96. // half its height, more where there are many homes
	tallRoom    = 36.

	opening = math.Pi / 2.6 // of a ring, towards the backbone above
)

// arc puts n homes at equal distances on an ellipse around c that is open above;
// ok is false if they would be closer than room.
func arc(c web.Place, rx, ry float64, n int, room float64) (out []web.Place, ok bool) {
	const steps = 360
	at := func(i float64) web.Place {
		a := -math.Pi/2 + opening/2 + i/steps*(2*math.Pi-opening)
		return web.Place{X: c.X + rx*math.Cos(a), Y: c.Y + ry*math.Sin(a)}
	}
	along := [steps + 1]float64{}
	for i := 1; i <= steps; i++ {
		a, b := at(float64(i-1)), at(float64(i))
		along[i] = along[i-1] + math.Hypot(a.X-b.X, a.Y-b.Y)
	}
	gap := min(farApart, along[steps]/float64(max(1, n-1)))
	first, i := (along[steps]-gap*float64(n-1))/2, 0
	for k := range n {
		for i < steps && along[i] < first+gap*float64(k) {
			i++
		}
		out = append(out, at(float64(i)))
	}
	return out, gap >= room
}

// wideRings puts n homes on as many rings as they need.
func wideRings(c web.Place, n int) (out []web.Place) {
	r, step, room := 116., 32., 44.
	if n > manyHomes {
		r, step, room = 88, 26, 25
	}
	for ; len(out) < n; r += step {
		k := min(n-len(out), int((2*math.Pi-opening)*r/room))
		ring, _ := arc(c, r, r, k, room) // k was chosen to fit
		out = append(out, ring...)
	}
	return out
}

// tallReach is half the height of the rings when the largest zone has n homes.
func tallReach(n int) float64 {
	ry := tallDown
	for {
		if _, ok := arc(web.Place{}, tallAcross, ry, n, tallRoom); ok {
			return ry
		}
		ry += 16
	}
}

// plots is where everybody stands on the two maps.
type plots struct {
	at   map[string]spot
	tall float64 // height of the tall map
}

// plot places the cast once; who is where does not change.
func (s *Scene) plot() plots {
	p := plots{at: map[string]spot{}}
	for name, at := range backboneSpots {
		p.at[name] = at
	}
	most, homes := 0, map[string][]*Member{}
	for _, m := range s.Of(member.RoleGateway) {
		homes[m.Zone] = append(homes[m.Zone], m)
		most = max(most, len(homes[m.Zone]))
	}
	reach := tallReach(most)
	for i, z := range zones {
		x := (float64(i) + .5) / float64(len(zones))
		c := spot{web.Place{X: web.WideWidth * x, Y: wideZoneY}, web.Place{X: web.TallWidth * x, Y: tallZoneTop + reach}}
		p.at["ssn-"+z] = c
		wide := wideRings(c.wide, len(homes[z]))
		tall, _ := arc(c.tall, tallAcross, reach, len(homes[z]), tallRoom) // reach was chosen to fit
		for k, m := range homes[z] {
			p.at[m.Name] = spot{wide[k], tall[k]}
		}
	}
	bottom := tallZoneTop + 2*reach + 72
	for i, m := range s.Of(member.RoleWallet) {
		p.at[m.Name] = spot{web.Place{X: 100 + 160*float64(i), Y: 552}, web.Place{X: 35 + 70*float64(i), Y: bottom}}
	}
	p.tall = bottom + 44
	return p
}

// drawMap makes the map of a look.
func (s *Site) drawMap(l *look) (nodes []web.Node, edges []web.Edge) {
	for _, m := range s.scene.Members {
		nodes = append(nodes, s.node(l, m))
		if m.Role == member.RoleGateway {
			edges = append(edges, homeEdges(l, m)...)
		}
	}
	return nodes, append(edges, s.backboneEdges(l)...)
}

func (s *Site) node(l *look, m *Member) web.Node {
	at := s.plots.at[m.Name]
	n := web.Node{ID: m.Name, Kind: m.Role.String(), Name: titleOf(m), Label: titleOf(m), Zone: m.Zone, Wide: at.wide, Tall: at.tall, State: "idle", Text: s.nodeText(l, m)}
	switch m.Role {
	case member.RoleGateway:
		n.Label = strings.TrimPrefix(m.Name, "home-")
		n.Kind, n.State, n.Features = "home", site.HomeState(l.flows[m.Name]), site.Features(s.houseOf(m))
	case member.RoleSSN:
		n.Label = m.Zone
	case member.RoleWallet:
		n.Label = strings.TrimPrefix(m.Name, "driver-")
	}
	if !l.members[m.Name].up {
		n.State = "offline"
	}
	return n
}

// nodeText says in a sentence what a node does now.
func (s *Site) nodeText(l *look, m *Member) string {
	ml := l.members[m.Name]
	if !ml.up {
		return "Offline."
	}
	switch m.Role {
	case member.RoleGateway:
		return homeText(l.flows[m.Name], m.Home.BatteryWh > 0)
	case member.RoleSSN:
		return fmt.Sprintf("%s passed on, %s relayed.", site.Plural(ml.ssn.Reports, "sealed report", "sealed reports"), site.Plural(ml.onion.Relayed, "onion packet", "onion packets"))
	case member.RoleHeadend:
		return fmt.Sprintf("%s collected from %s.", site.Plural(l.headend.Readings, "reading", "readings"), site.Plural(l.headend.Gateways, "home", "homes"))
	case member.RoleUtility:
		if m.Operator == utilityA {
			return "Bills the homes: " + site.Plural(l.alarms, "alarm", "alarms") + " so far."
		}
		return "Bills the drivers, wherever they charge."
	case member.RoleAggregator:
		return "Admits sessions and writes the ledger: " + site.Plural(l.ledger.size, "entry", "entries") + "."
	case member.RoleVerifier:
		return fmt.Sprintf("Replays the ledger: signed up to entry %s.", site.Count(l.ledger.final))
	case member.RoleWallet:
		return s.driverText(l, m)
	}
	return site.Is(m.Role.String())
}

func homeText(f web.Flows, battery bool) string {
	text := "Takes " + site.Watts(f.Meter) + " from the grid"
	if f.Meter < 0 {
		text = "Feeds " + site.Watts(-f.Meter) + " into the grid"
	}
	if battery {
		text += fmt.Sprintf("; uses %s behind its battery, which %s", site.Watts(f.Load), site.BatteryWords(f.Battery))
	}
	switch {
	case f.EV > carW:
		text += "; a car charges with " + site.Watts(f.EV)
	case f.EV < -carW:
		text += "; a car gives " + site.Watts(-f.EV)
	}
	return text + "."
}

// pulse is a level for something that moved: 1 for a little, 4 for a lot.
func pulse(n uint64, steps ...uint64) int {
	level := 0
	for i, from := range steps {
		if n >= from {
			level = i + 1
		}
	}
	return level
}

// homeEdges are a home's: power, reports, onion and alarms to its substation.
func homeEdges(l *look, m *Member) []web.Edge {
	ml, ssn := l.members[m.Name], "ssn-"+m.Zone
	level := 0
	if ml.up {
		level = site.PowerLevel(l.flows[m.Name].Meter)
	}
	return []web.Edge{
		{ID: m.Name + "-power", From: ssn, To: m.Name, Kind: "power", Level: level},
		{ID: m.Name + "-report", From: m.Name, To: ssn, Kind: "report", Level: pulse(ml.moved.report, 200)},
		{ID: m.Name + "-onion", From: m.Name, To: ssn, Kind: "onion", Level: pulse(ml.moved.calls, 1)},
		{ID: m.Name + "-alarm", From: m.Name, To: ssn, Kind: "alarm", Level: pulse(ml.moved.alarm, 1) * 3},
	}
}

// backboneEdges are those between substations and operators.
func (s *Site) backboneEdges(l *look) []web.Edge {
	var out []web.Edge
	for i, z := range zones {
		ssn := l.members["ssn-"+z]
		out = append(out, web.Edge{ID: "up-" + z, From: "ssn-" + z, To: "headend", Kind: "report", Level: pulse(ssn.moved.report, 200, 4000, 40_000)},
			web.Edge{ID: "alarm-" + z, From: "ssn-" + z, To: "headend", Kind: "alarm", Level: pulse(ssn.moved.alarm, 1) * 3})
		next := "ssn-" + zones[(i+1)%len(zones)]
		out = append(out, web.Edge{ID: "onion-" + z, From: "ssn-" + z, To: next, Kind: "onion", Level: pulse(ssn.moved.relayed, 1, 50, 500)})
		for _, op := range []string{"evagg", "utility-b"} {
			level := min(pulse(l.members[op].moved.received, 1, 5), pulse(ssn.moved.relayed, 1)*2)
			out = append(out, web.Edge{ID: "onion-" + z + "-" + op, From: "ssn-" + z, To: op, Kind: "onion", Level: level})
		}
	}
	h := l.members["headend"]
	out = append(out, web.Edge{ID: "bill", From: "headend", To: "utility-a", Kind: "report", Level: pulse(h.moved.report, 200, 10_000)},
		web.Edge{ID: "alarm-up", From: "headend", To: "utility-a", Kind: "alarm", Level: pulse(h.moved.alarm, 1) * 3})
	for _, v := range []string{"utility-a", "utility-b", "watchdog"} {
		out = append(out, web.Edge{ID: "cosign-" + v, From: "evagg", To: v, Kind: "ledger", Level: l.cosigning(v)})
	}
	return out
}

// byPoint names the homes behind a utility's usage points.
func (s *Site) byPoint(u *utility.Utility) map[model.UsagePoint]string {
	name := map[member.Key]string{}
	for _, m := range s.scene.Of(member.RoleGateway) {
		if n := m.peek(); n != nil {
			name[n.Host.Self().Key] = titleOf(m)
		}
	}
	out := map[model.UsagePoint]string{}
	for _, c := range u.Contracts() {
		if n, ok := name[c.Gateway]; ok {
			out[c.UsagePoint] = n
		}
	}
	return out
}
