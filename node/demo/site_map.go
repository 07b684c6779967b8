package demo

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gridveil/mesh/member"
	"gridveil/node/model"
	"gridveil/node/site"
	"gridveil/node/utility"
	"gridveil/node/web"
)

// spot is a place on both maps.
type spot struct{ wide, tall web.Place }

// Rows of the backbone above the zones: those who bill and check, and below them
// those who collect and settle.
var (
	upperRow = []member.Role{member.RoleUtility, member.RoleVerifier}
	lowerRow = []member.Role{member.RoleHeadend, member.RoleAggregator}
)

// row spreads the members of some roles over the width of both maps.
func (s *Scene) row(at map[string]spot, roles []member.Role, wideY, tallY, margin float64) {
	var all []*Member
	for _, r := range roles {
		all = append(all, s.Of(r)...)
	}
	for i, m := range all {
		x := margin + (1-2*margin)*(float64(i)+.5)/float64(len(all))
		stagger := 0.
		if len(all) > 4 && i%2 == 1 {
			stagger = 30 // names of a full row do not meet on a phone
		}
		at[m.Name] = spot{web.Place{X: web.WideWidth * x, Y: wideY}, web.Place{X: web.TallWidth * x, Y: tallY + stagger}}
	}
}

// Rings of homes around a substation, in px.
const (
	wideZoneY = 370.
	wideLeast = 190. // width of a zone, however few its homes
	wideDown  = 120. // half the height of a ring
	wideRoom  = 46.  // between two homes of a ring

	manyHomes = 30 // of one zone: from here on they stand close, on several rings
	manyDown  = 150.
	manyRoom  = 25.
	manyStep  = 26. // from ring to ring

	tallZoneTop = 200.
	tallLeast   = 84.
	tallDown    = 96. // half the height of a ring, more where there are many homes
	tallRoom    = 36.

	farApart = 84.           // two homes of a ring are not further apart
	opening  = math.Pi / 2.6 // of a ring, towards the backbone above
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

// wideRings puts n homes around c, at most reach to its left and right: on one
// ring if they fit, else on rings inside each other.
func wideRings(c web.Place, n int, reach float64) (out []web.Place) {
	for rx := min(wideDown, reach); n <= manyHomes; rx = min(rx+8, reach) {
		ring, ok := arc(c, rx, wideDown, n, wideRoom)
		if ok || rx == reach {
			return ring
		}
	}
	for rx, ry := reach, manyDown; len(out) < n; rx, ry = rx-manyStep, ry-manyStep {
		k, left := 1, n-len(out)
		for inmost := ry < 2*manyStep; k < left; k++ {
			if _, ok := arc(c, rx, ry, k+1, manyRoom); !ok && !inmost {
				break
			}
		}
		ring, _ := arc(c, rx, ry, k, manyRoom) // k was chosen to fit; the inmost ring takes the rest
		out = append(out, ring...)
	}
	return out
}

// tallReach is half the height of a ring of n homes that is rx to each side.
func tallReach(rx float64, n int) float64 {
	for ry := tallDown; ; ry += 16 {
		if _, ok := arc(web.Place{}, rx, ry, n, tallRoom); ok {
			return ry
		}
	}
}

// cells cuts a width into one cell a zone, wider where more homes are: middle
// and half width of each.
func cells(homes [][]*Member, width, least float64) (middle, half []float64) {
	total, left := 0, 0.
	for _, h := range homes {
		total += len(h)
	}
	for _, h := range homes {
		w := least + (width-least*float64(len(homes)))*float64(len(h))/float64(max(1, total))
		middle, half = append(middle, left+w/2), append(half, w/2)
		left += w
	}
	return middle, half
}

// plots is where everybody stands on the two maps.
type plots struct {
	at   map[string]spot
	tall float64 // height of the tall map
}

// plot places the cast once; who is where does not change.
func (s *Scene) plot() plots {
	p := plots{at: map[string]spot{}}
	s.row(p.at, upperRow, 56, 36, 0)
	s.row(p.at, lowerRow, 156, 140, .1)
	homes := make([][]*Member, len(zones))
	for _, m := range s.Of(member.RoleGateway) {
		i := slices.Index(zones, m.Zone)
		homes[i] = append(homes[i], m)
	}
	wideX, wideHalf := cells(homes, web.WideWidth, wideLeast)
	tallX, tallHalf := cells(homes, web.TallWidth, tallLeast)
	reach := tallDown
	for i := range zones {
		reach = max(reach, tallReach(tallHalf[i]-22, len(homes[i])))
	}
	for i, z := range zones {
		c := spot{web.Place{X: wideX[i], Y: wideZoneY}, web.Place{X: tallX[i], Y: tallZoneTop + reach}}
		p.at["ssn-"+z] = c
		wide := wideRings(c.wide, len(homes[i]), wideHalf[i]-34)
		tall, _ := arc(c.tall, tallHalf[i]-22, reach, len(homes[i]), tallRoom) // reach was chosen to fit
		for k, m := range homes[i] {
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
func (s *Site) drawMap(old, l *look) (nodes []web.Node, edges []web.Edge) {
	for _, m := range s.scene.Members {
		nodes = append(nodes, s.node(l, m))
		if m.Role == member.RoleGateway {
			edges = append(edges, homeEdges(l, m)...)
		}
	}
	return nodes, append(edges, s.backboneEdges(old, l)...)
}

func (s *Site) node(l *look, m *Member) web.Node {
	at := s.plots.at[m.Name]
	n := web.Node{ID: m.Name, Kind: m.Role.String(), Name: titleOf(m), Label: titleOf(m), Zone: m.Zone, Wide: at.wide, Tall: at.tall, State: "idle", Text: s.nodeText(l, m)}
	switch m.Role {
	case member.RoleGateway:
		n.Label = strings.TrimPrefix(m.Name, "home-")
		n.Kind, n.State, n.Features = "home", l.homeState(m), site.Features(s.houseOf(m))
	case member.RoleSSN:
		n.Label = m.Zone
	case member.RoleWallet:
		n.Label = titleOf(m)
	}
	if !l.members[m.Name].up {
		n.State = "offline"
	}
	return n
}

// homeState is the map's word for what a house does: a car that stands there
// without drawing power is shown too.
func (l *look) homeState(m *Member) string {
	state := site.HomeState(l.flows[m.Name])
	if state == "charging" || state == "discharging" {
		return state
	}
	for id, host := range l.sessions.host {
		if host == m && slices.ContainsFunc(l.sessions.rows, func(r web.SessionRow) bool { return r.ID == id && running(r) }) {
			return "parked"
		}
	}
	return state
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
		{ID: m.Name + "-report", From: m.Name, To: ssn, Kind: "report", Quiet: true, Level: pulse(ml.moved.report, 200)},
		{ID: m.Name + "-onion", From: m.Name, To: ssn, Kind: "onion", Quiet: true, Level: pulse(ml.moved.calls, 1)},
		{ID: m.Name + "-alarm", From: m.Name, To: ssn, Kind: "alarm", Quiet: true, Level: pulse(ml.moved.alarm, 1) * 3},
	}
}

// backboneEdges are those between substations and operators.
func (s *Site) backboneEdges(old, l *look) []web.Edge {
	var out []web.Edge
	for i, z := range zones {
		ssn := l.members["ssn-"+z]
		out = append(out, web.Edge{ID: "up-" + z, From: "ssn-" + z, To: "headend", Kind: "report", Level: pulse(ssn.moved.report, 200, 4000, 40_000)},
			web.Edge{ID: "alarm-" + z, From: "ssn-" + z, To: "headend", Kind: "alarm", Quiet: true, Level: pulse(ssn.moved.alarm, 1) * 3})
		next := "ssn-" + zones[(i+1)%len(zones)]
		out = append(out, web.Edge{ID: "onion-" + z, From: "ssn-" + z, To: next, Kind: "onion", Quiet: true, Level: pulse(ssn.moved.relayed, 1, 50, 500)})
		for _, op := range []string{"evagg", "utility-b"} {
			level := min(pulse(l.members[op].moved.received, 1, 5), pulse(ssn.moved.relayed, 1)*2)
			out = append(out, web.Edge{ID: "onion-" + z + "-" + op, From: "ssn-" + z, To: op, Kind: "onion", Quiet: true, Level: level})
		}
	}
	h := l.members["headend"]
	out = append(out, web.Edge{ID: "bill", From: "headend", To: "utility-a", Kind: "report", Level: pulse(h.moved.report, 200, 10_000)},
		web.Edge{ID: "alarm-up", From: "headend", To: "utility-a", Kind: "alarm", Quiet: true, Level: pulse(h.moved.alarm, 1) * 3})
	for _, v := range append(s.scene.Of(member.RoleUtility), s.scene.Of(member.RoleVerifier)...) {
		out = append(out, web.Edge{ID: "cosign-" + v.Name, From: "evagg", To: v.Name, Kind: "ledger", Level: l.cosigning(old, v.Operator)})
	}
	return append(out, s.carEdges(l)...)
}

// carEdges lead from each driver to each wallbox; one moves while that driver is
// there.
func (s *Site) carEdges(l *look) (out []web.Edge) {
	at := map[[2]*Member]bool{}
	for _, r := range l.sessions.rows {
		if running(r) {
			at[[2]*Member{l.sessions.driver[r.ID], l.sessions.host[r.ID]}] = true
		}
	}
	for _, d := range s.scene.Of(member.RoleWallet) {
		for _, h := range s.scene.hosts() {
			e := web.Edge{ID: d.Name + "-" + h.Name, From: d.Name, To: h.Name, Kind: "car", Quiet: true}
			if at[[2]*Member{d, h}] {
				e.Level = 2
			}
			out = append(out, e)
		}
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
