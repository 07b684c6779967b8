package demo

import (
	"fmt"
	"math"

	"gridveil/mesh/member"
	"gridveil/node/model"
	"gridveil/node/site"
	"gridveil/node/utility"
	"gridveil/node/web"
)

// point is a place on the map, 0..100 both ways; a unit is 10 px across and 6
// px down.
type point struct{ x, y float64 }

// places of the backbone.
var backbonePlaces = map[string]point{
	"utility-a": {14, 9}, "headend": {33, 24}, "utility-b": {50, 9}, "evagg": {68, 24}, "watchdog": {87, 9},
}

// ssnY is the height of the substations, driverY that of the drivers' row.
const (
	ssnY    = 61
	driverY = 95
)

// zonePlace is the middle of a zone.
func zonePlace(zone string) point {
	for i, z := range zones {
		if z == zone {
			return point{100 * (float64(i) + .5) / float64(len(zones)), ssnY}
		}
	}
	return point{50, ssnY}
}

// Rings of homes around a substation, in pixels of the map.
const (
	firstRing = 116.
	ringStep  = 36.
	homeRoom  = 44. // along a ring
	opening   = math.Pi / 2.6
)

// homePlaces puts n homes on rings around c, open towards the backbone above.
func homePlaces(c point, n int) []point {
	var out []point
	for r := firstRing; len(out) < n; r += ringStep {
		left := n - len(out)
		room := int((2*math.Pi - opening) * r / homeRoom)
		k := min(left, room)
		for i := range k {
			share := .5
			if k > 1 {
				share = float64(i) / float64(k-1)
			}
			a := -math.Pi/2 + opening/2 + share*(2*math.Pi-opening)
			out = append(out, point{c.x + r*math.Cos(a)/10, c.y + r*math.Sin(a)/6})
		}
	}
	return out
}

// drawMap makes the map of a look.
func (s *Site) drawMap(l *look) (nodes []web.Node, edges []web.Edge) {
	zoneOf := map[string][]*Member{}
	drivers := 0
	for _, m := range s.scene.Members {
		switch m.Role {
		case member.RoleGateway:
			zoneOf[m.Zone] = append(zoneOf[m.Zone], m)
		case member.RoleSSN:
			nodes = append(nodes, s.node(l, m, zonePlace(m.Zone)))
		case member.RoleWallet:
			drivers++
			nodes = append(nodes, s.node(l, m, point{8 + 14*float64(drivers-1)*1.2, driverY}))
		default:
			nodes = append(nodes, s.node(l, m, backbonePlaces[m.Name]))
		}
	}
	for _, z := range zones {
		for i, p := range homePlaces(zonePlace(z), len(zoneOf[z])) {
			m := zoneOf[z][i]
			nodes = append(nodes, s.node(l, m, p))
			edges = append(edges, homeEdges(l, m)...)
		}
	}
	return nodes, append(edges, s.backboneEdges(l)...)
}

func (s *Site) node(l *look, m *Member, at point) web.Node {
	n := web.Node{ID: m.Name, Kind: m.Role.String(), Name: titleOf(m), Zone: m.Zone, X: at.x, Y: at.y, State: "idle", Text: s.nodeText(l, m)}
	if m.Role == member.RoleGateway {
		n.Kind, n.State, n.Features = "home", site.HomeState(l.flows[m.Name]), site.Features(s.houseOf(m))
	}
	if m.Role == member.RoleSSN {
		n.Name = m.Zone
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
