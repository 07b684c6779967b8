package site

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gridveil/node/gateway"
	"gridveil/node/role"
	"gridveil/node/web"
	"gridveil/privacy/leak"
)

// Gateway is the dashboard of a house.
type Gateway struct {
	common
	g     *gateway.Gateway
	house House
}

// ForGateway shows a house to who lives in it: its load, what left, its alarms
// and sessions.
func ForGateway(env *role.Env, g *gateway.Gateway) *Gateway {
	s := &Gateway{common: common{env, []string{"overview", "energy", "alarms", "privacy", "mesh"}}, g: g, house: HouseOf(env.Config)}
	if s.house.Hosts {
		s.pages = []string{"overview", "energy", "sessions", "guests", "alarms", "privacy", "mesh"}
	}
	return s
}

func (s *Gateway) ref() web.HomeRef { return web.HomeRef{ID: "home", Name: s.env.Config.Name} }

// Mesh is the house's end of the mesh.
func (s *Gateway) Mesh(_ context.Context, id string) (web.Mesh, bool) {
	return MeshPage(s.self(), s.env, s.g), id == "self"
}

// Homes is the one house.
func (s *Gateway) Homes(context.Context) []web.HomeRef { return []web.HomeRef{s.ref()} }

func (s *Gateway) own(home string) bool { return home == "home" }

// Energy is the house's load page.
func (s *Gateway) Energy(_ context.Context, home string) (web.Energy, bool) {
	if !s.own(home) {
		return web.Energy{}, false
	}
	return EnergyPage(s.ref(), s.house, s.g, s.env.Clock.Now()), true
}

// Left is what left the house today.
func (s *Gateway) Left(_ context.Context, home string) (web.Left, bool) {
	if !s.own(home) {
		return web.Left{}, false
	}
	operator := s.env.Host.Self().Operator
	names := func(r leak.Role) string {
		if r == leak.OwnUtility {
			return operator
		}
		return ""
	}
	return Left(s.ref(), s.g, s.env.Clock.Now(), names, Stays(s.house)), true
}

// Mask is how well the house's battery hides its load.
func (s *Gateway) Mask(_ context.Context, home string) (web.Mask, bool) {
	if !s.own(home) {
		return web.Mask{}, false
	}
	return MaskPage(s.house, s.g, s.env.Clock.Now()), true
}

// OrderBattery takes the owner's command.
func (s *Gateway) OrderBattery(_ context.Context, home string, o web.BatteryOrder) error {
	if !s.own(home) {
		return errors.New("A house commands only its own battery.")
	}
	return OrderBattery(s.g, s.env.Clock.Now(), o)
}

// TurnDial chooses cost against privacy.
func (s *Gateway) TurnDial(_ context.Context, home string, stop int) error {
	if !s.own(home) {
		return errors.New("A house turns only its own dial.")
	}
	return s.g.SetDial(stop)
}

// Sessions are the cars at this house.
func (s *Gateway) Sessions(context.Context) []web.SessionRow { return s.g.Sessions() }

// Session is one car's visit in full.
func (s *Gateway) Session(_ context.Context, id string) (web.Session, bool) { return s.g.Session(id) }

// pageAlarms is how many alarms a page lists.
const pageAlarms = 200

// Guests is the page that this host shows to a driver.
func (s *Gateway) Guests(_ context.Context, home string) (web.Guests, bool) {
	if !s.own(home) {
		return web.Guests{}, false
	}
	return GuestsPage(s.ref(), s.g, s.env.Config.Hosting), true
}

// Alarms are the house's own events.
func (s *Gateway) Alarms(context.Context) []web.AlarmRow { return newest(s.g, pageAlarms) }

// Overview tells whether all is well, what flows, and who learned what.
func (s *Gateway) Overview(context.Context) web.Overview {
	now := s.env.Clock.Now()
	f := Flows(s.house, s.g)
	var o web.Overview
	o.Nodes, o.Edges = neighbours(s.env)
	o.Nodes[0].State, o.Nodes[0].Features = HomeState(f), Features(s.house)
	o.Edges = append(o.Edges, s.power(o, f)...)
	view, _ := s.g.Left(now)
	o.Figures = []web.Figure{{Key: "load", Label: "House", Value: Watts(f.Load), Note: "stays here"}, {Key: "meter", Label: "Meter", Value: Watts(f.Meter), Note: "is reported"}}
	if s.house.BatteryWh > 0 {
		o.Figures = append(o.Figures, web.Figure{Key: "battery", Label: "Battery", Value: fmt.Sprintf("%.0f", f.SoCPct), Unit: "%", Note: BatteryWords(f.Battery)})
	}
	left := 0
	for _, l := range view.Lines {
		left += l.Messages
	}
	o.Figures = append(o.Figures, web.Figure{Key: "left", Label: "Messages that left today", Value: Count(left), Note: "each is listed under Privacy"})
	o.Headline, o.Events = s.headline(f), s.events()
	return o
}

// events are the newest alarms and cars, newest first.
func (s *Gateway) events() (out []web.Event) {
	for _, a := range newest(s.g, pageEvents) {
		out = append(out, web.Event{At: a.At, Kind: "alarm", Text: title(a.Kind) + ": " + a.Text, Link: "/alarms"})
	}
	for _, r := range s.g.Sessions() {
		out = append(out, web.Event{At: r.Begin, Kind: "session", Text: "A car comes, session " + r.ID, Link: "/sessions/" + r.ID})
	}
	slices.SortStableFunc(out, func(a, b web.Event) int { return b.At.Compare(a.At) })
	return out[:min(pageEvents, len(out))]
}

// pageEvents is how many events an overview lists.
const pageEvents = 12

// power is the flow between the house and its own substation.
func (s *Gateway) power(o web.Overview, f web.Flows) []web.Edge {
	for _, n := range o.Nodes {
		if n.Kind == "ssn" && n.Zone == s.env.Host.Self().Zone {
			return []web.Edge{{ID: "power", From: n.ID, To: "self", Kind: "power", Level: PowerLevel(f.Meter)}}
		}
	}
	return nil
}

func (s *Gateway) headline(f web.Flows) string {
	if ws := Warnings(s.env); len(ws) > 0 {
		return ws[0].Title + "."
	}
	if _, _, ok := s.g.Now(); !ok {
		return "Waiting for the first reading of the meter."
	}
	if len(s.env.Host.Peers()) == 0 {
		return "The network is out of reach. The house works as ever; what should leave waits here."
	}
	if f.Meter < 0 {
		return fmt.Sprintf("All is well: the house feeds %s into the grid.", Watts(-f.Meter))
	}
	return fmt.Sprintf("All is well: the house takes %s from the grid.", Watts(f.Meter))
}

// Party is what a neighbour can see; of this house, what it sees itself.
func (s *Gateway) Party(ctx context.Context, id string) (web.Party, bool) {
	p, ok := s.common.Party(ctx, id)
	if ok && id == "self" {
		p.Links = []web.Pair{{Name: "Its load", Value: "/energy"}, {Name: "What left it today", Value: "/privacy"}}
		p.Sees = []web.Pair{{Name: "own load", Value: "every minute of it, kept for a day"}, {Name: "own journal", Value: "every message that left, for 62 days"}}
		p.Sees = append(p.Sees, Neighbourhood(s.g)...)
	}
	return p, ok
}

// Live keeps the pages current.
func (s *Gateway) Live(ctx context.Context) map[string]string {
	out := s.live(s.Overview(ctx))
	LiveFlows(out, "home", Flows(s.house, s.g))
	return out
}

// HomeState is the map's word for what a house does now.
func HomeState(f web.Flows) string {
	switch {
	case f.EV > carFrom:
		return "charging"
	case f.EV < -carFrom:
		return "discharging"
	case f.PV > sunFrom:
		return "solar"
	}
	return "idle"
}

// carFrom and sunFrom are where a power is worth showing: wallboxes idle at a
// few watts, roofs glimmer at dawn.
const (
	carFrom = 100
	sunFrom = 300
)

// Features are the marks of a house on the map.
func Features(h House) (out []string) {
	if h.Roof {
		out = append(out, "pv")
	}
	if h.BatteryWh > 0 {
		out = append(out, "battery")
	}
	if h.Hosts {
		out = append(out, "evse")
	}
	return out
}

// BatteryWords says what a battery does, discharge positive.
func BatteryWords(w float64) string {
	switch {
	case w > 20:
		return "gives " + Watts(w)
	case w < -20:
		return "takes " + Watts(-w)
	}
	return "rests"
}

// PowerLevel is an edge's level for a power taken from the grid, negative when
// fed into it.
func PowerLevel(w float64) int {
	sign := 1
	if w < 0 {
		sign, w = -1, -w
	}
	for i, from := range []float64{4000, 1500, 500, 50} {
		if w >= from {
			return sign * (4 - i)
		}
	}
	return 0
}

// Neighbourhood says what the zone learned of its homes together.
func Neighbourhood(g *gateway.Gateway) (out []web.Pair) {
	sums, err := g.Neighbourhood()
	if err != nil {
		return nil // the store's own warning tells why
	}
	for _, n := range sums {
		out = append(out, web.Pair{Name: "the zone's sum", Value: n.Text})
	}
	return out
}
