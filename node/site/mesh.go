package site

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/onion"
	"gridveil/mesh/packet"
	"gridveil/mesh/route"
	"gridveil/node/gateway"
	"gridveil/node/role"
	"gridveil/node/web"
)

// Members is this node alone.
func (c common) Members(context.Context) []web.HomeRef { return []web.HomeRef{c.self()} }

func (c common) self() web.HomeRef { return web.HomeRef{ID: "self", Name: c.env.Config.Name} }

// Mesh is this node's end of the mesh.
func (c common) Mesh(_ context.Context, id string) (web.Mesh, bool) {
	return MeshPage(c.self(), c.env, nil), id == "self"
}

// SwitchMesh turns private messages and relaying off or on.
func (c common) SwitchMesh(_ context.Context, id string, on bool) error {
	if id != "self" {
		return errors.New("A node switches only itself.")
	}
	return SwitchMesh(c.env, on)
}

// SwitchMesh turns private messages and relaying of a node off or on. The error
// is for people.
func SwitchMesh(env *role.Env, on bool) error {
	if err := env.Onion.Switch(on); err != nil {
		env.Log.Error("switch of private messages not stored", "err", err)
		return errors.New("The choice could not be stored on this machine, so it does not hold. The log says why.")
	}
	return nil
}

// Metrics are this node's counters.
func (c common) Metrics() prometheus.Gatherer { return Metrics(c.env) }

// MeshPage shows a node's end of the mesh. r is its role, nil where that keeps
// nothing of its own that could wait.
func MeshPage(ref web.HomeRef, env *role.Env, r role.Role) web.Mesh {
	now := env.Clock.Now()
	p := web.Mesh{Node: ref, Leaf: env.Host.Self().Role.Leaf()}
	p.OffSince, p.Off = env.Onion.Off()
	for _, l := range env.Host.Links() {
		p.Peers = append(p.Peers, peerOf(l))
	}
	slices.SortStableFunc(p.Peers, func(a, b web.Peer) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Operator, b.Operator), a.Since.Compare(b.Since))
	})
	p.MorePeers = max(0, len(p.Peers)-web.MaxPeers)
	p.Peers = p.Peers[:len(p.Peers)-p.MorePeers]
	if p.Leaf {
		p.Classes = classes(env)
	}
	st, health := env.Onion.Stats(), env.Onion.Health()
	p.Packets = web.Packets{Own: st.Sent + st.Answered, Cover: st.LoopsSent + st.SlotCover + st.Cover, Relayed: st.Relayed}
	for _, n := range st.Dropped {
		p.Packets.Dropped += n
	}
	p.Routes = routes(p.Leaf, health, now)
	p.Waiting = waiting(env, st.Waiting, health.Calls)
	if g, ok := r.(*gateway.Gateway); ok {
		if n, err := g.Waiting(); err == nil && n > 0 { // the store's own warning tells of an error
			p.Waiting = append(p.Waiting, web.Waiting{What: "Meter reports for the substation", Count: int(n)})
		}
	}
	p.Traffic = trafficToday(env.Host.Usage())
	p.Relaying = relaying(env, st.RelayedToday, p.Traffic, p.Off)
	p.Decoys = web.Decoys{Shown: p.Leaf && !env.Lab(), On: env.Config.Mesh.Decoys, Sent: st.Decoys}
	p.Headline = meshHeadline(p, env)
	return p
}

// relaying says in words how a home relays for others.
func relaying(env *role.Env, today uint64, t web.MeshTraffic, off bool) web.Relaying {
	s := env.Onion.HomeRelay()
	r := web.Relaying{Shown: env.Host.Self().Role == member.RoleGateway, Chosen: s.Chosen, On: s.On, Packets: today}
	if all := t.Up + t.Down; all > 0 {
		r.Share = int(min(100, 2*int64(today)*packet.Size*100/all)) // each comes and goes
	}
	switch {
	case !s.Chosen || s.On:
	case off:
		r.Why = "Private messages and relaying are switched off on this node."
	case s.Paused:
		r.Why = "Today's data is used as far as relaying may use it; it goes on after midnight UTC. Raise mesh.daily_mb in gridveil.toml if your line allows it."
	case s.Unreachable:
		r.Why = "No substation could dial this home. Forward the port of mesh.listen in the router; `gridveil doctor` shows what was found."
	default:
		r.Why = "A substation is asked to dial this home first; that takes a minute."
	}
	return r
}

func peerOf(l mesh.Link) web.Peer {
	p := web.Peer{Role: roleWords[l.Member.Role], Operator: l.Member.Operator, Dialled: l.Outbound, Since: l.Since, RoundTripMs: -1}
	if l.RoundTrip > 0 {
		p.RoundTripMs = l.RoundTrip.Milliseconds()
	}
	return p
}

// roleWords say what a neighbour is.
var roleWords = map[member.Role]string{
	member.RoleGateway: "home", member.RoleWallet: "driver's wallet", member.RoleSSN: "substation", member.RoleHeadend: "head-end",
	member.RoleUtility: "utility", member.RoleAggregator: "aggregator", member.RoleVerifier: "verifier",
}

// classes says of both private classes whether they may send; in a trial, of
// class lab, which replaces them.
func classes(env *role.Env) []web.MeshClass {
	if env.Lab() {
		c := classOf("All messages", "trial: no delay, no cover", env.Onion.Status(mesh.Lab))
		c.MinSet, c.MinHomes = 0, 0
		return []web.MeshClass{c}
	}
	slow := classOf("Slow messages", "records, notes, the neighbourhood's sum: minutes", env.Onion.Status(mesh.Meter))
	quick := classOf("Quick messages", "a car asks to charge: a second", env.Onion.Status(mesh.Session))
	quick.MinSet = 0 // its timing shows on this node's own link
	policy, own := env.Host.Bundle().Policy, env.Config.Mesh
	slow.Own = strings.TrimSpace(OwnFloor("mesh.min_set", own.MinSet, policy.MinSet) + " " + OwnFloor("mesh.min_homes", own.MinHomes, policy.MinHomes))
	quick.Own = OwnFloor("mesh.min_homes", own.MinHomes, policy.MinHomes)
	return []web.MeshClass{slow, quick}
}

// OwnFloor says what a floor of gridveil.toml does to the network's; "" where none is set.
func OwnFloor(key string, own, network int) string {
	switch {
	case own == 0:
		return ""
	case own <= network:
		return fmt.Sprintf("%s = %d changes nothing: the network asks for %d, and it only raises.", key, own, network)
	}
	return fmt.Sprintf("%s raises the network's floor of %d to %d.", key, network, own)
}

func classOf(name, what string, st route.Status) web.MeshClass {
	c := web.MeshClass{Name: name, What: what, Set: st.Set, MinSet: st.MinSet, Homes: st.Homes, MinHomes: st.MinHomes, Open: st.Err == nil}
	c.Reason, c.Next = Refusal(st)
	return c
}

// Refusal says in words why a class may not send and what to do; both are empty
// where it may.
func Refusal(st route.Status) (reason, next string) {
	var stale *route.StaleDirectoryError
	switch {
	case st.Err == nil:
		return "", ""
	case errors.Is(st.Err, mesh.ErrOff):
		return "Private messages are switched off on this node.", "Turn them on above, or with `gridveil mesh on`."
	case errors.As(st.Err, &stale) && stale.Since.IsZero():
		return "This node has not heard of any relay yet.", "Wait a minute; if it lasts, check the Internet connection of this machine."
	case stale != nil:
		return fmt.Sprintf("The newest list of relays is of %s, and it may be at most %s old.", stale.Since.UTC().Format("2 Jan 15:04"), Span(route.MaxStale)), "Check the Internet connection and the clock of this machine."
	case errors.Is(st.Err, route.ErrFewRelays):
		return fmt.Sprintf("A message needs %d relays on its way; %d known.", route.MinRelays, st.Relays), "Nothing to do here: it leaves as soon as another substation is back or joins."
	case errors.Is(st.Err, route.ErrSmallSet) && st.Homes < st.MinHomes:
		return fmt.Sprintf("%s in this network; there must be %d.", Plural(st.Homes, "home takes part", "homes take part"), st.MinHomes),
			fmt.Sprintf("Nothing to do here: messages leave as soon as %s joined.", Plural(st.MinHomes-st.Homes, "more home has", "more homes have"))
	case errors.Is(st.Err, route.ErrSmallSet):
		return fmt.Sprintf("A message could come from %.1f homes only; there must be %d.", st.Set, st.MinSet), "Nothing to do here: every home now sends more cover, which helps within half an hour."
	}
	return sentence(st.Err.Error()), ""
}

// routes are the health of the ways in words.
func routes(leaf bool, h onion.Health, now time.Time) []web.Pair {
	dir := "none received yet"
	if !h.Fresh.IsZero() {
		dir = fmt.Sprintf("%s old; older than %s is not used", Span(now.Sub(h.Fresh)), Span(route.MaxStale))
	}
	out := []web.Pair{{Name: "List of relays", Value: dir}, {Name: "Relays", Value: fmt.Sprintf("%d, of %s", h.Relays, Plural(h.Operators, "operator", "operators"))}}
	if !leaf {
		return out
	}
	lost := "too few in the last hour to say"
	if h.LostEnough {
		lost = fmt.Sprintf("%.0f %% of the last hour's did not come back", h.LostRatio*100)
	}
	skipped := "none"
	if h.Skipped > 0 {
		skipped = fmt.Sprintf("%s for ten minutes: test packets over them got lost", Plural(h.Skipped, "relay", "relays"))
	}
	return append(out, web.Pair{Name: "First relays (guards)", Value: fmt.Sprintf("%d of %d connected", h.GuardsUp, h.Guards)},
		web.Pair{Name: "Test packets", Value: lost}, web.Pair{Name: "Avoided now", Value: skipped},
		web.Pair{Name: "A packet leaves", Value: "every " + Span(h.Slot) + " on average, message or cover"})
}

// outboxes are the queues of a node, by role, in words.
var outboxes = map[member.Role][]struct{ name, what string }{
	member.RoleGateway: {{"settle", "Charging records for the aggregator"}, {"alarm", "Alarms for the substation"}},
	member.RoleSSN:     {{"report", "Sealed meter reports for the head-end"}, {"alarm", "Alarms for the head-end"}},
	member.RoleHeadend: {{"block", "Readings for the utilities"}, {"alarm", "Alarms for the utilities"}},
}

func waiting(env *role.Env, slots, calls int) (out []web.Waiting) {
	for _, b := range outboxes[env.Host.Self().Role] {
		n, since, err := env.Store.Outbox(b.name).Waiting()
		if err == nil && n > 0 { // the store's own warning tells of an error
			out = append(out, web.Waiting{What: b.what, Count: n, Since: since})
		}
	}
	if calls > 0 {
		out = append(out, web.Waiting{What: "Private requests on their way", Count: calls})
	}
	if slots > 0 {
		out = append(out, web.Waiting{What: "Packets of them that wait for their turn", Count: slots})
	}
	return out
}

// partWords name the kinds of traffic.
var partWords = map[string]string{"alarm": "Alarms and urgent news", "normal": "Requests and directory", "bulk": "Meter reports", "onion": "Private packets and cover"}

func trafficToday(u mesh.Usage) web.MeshTraffic {
	t := web.MeshTraffic{Up: u.Today.Up, Down: u.Today.Down, Cap: u.Cap}
	for _, p := range u.Parts {
		t.Parts = append(t.Parts, web.MeshPart{Name: partWords[p.Name], Up: p.Today.Up, Down: p.Today.Down})
	}
	return t
}

func meshHeadline(p web.Mesh, env *role.Env) string {
	switch {
	case p.Off && p.Leaf:
		return "Private messages are switched off. What should leave waits here; metering, alarms and charging go on."
	case p.Off:
		return "Private messages and relaying are switched off on this node. Reports and alarms pass as ever."
	case len(p.Peers) == 0:
		return "Nobody is connected. What should leave waits here."
	case !p.Leaf:
		return fmt.Sprintf("This node is connected to %s and does its part.", Plural(len(p.Peers)+p.MorePeers, "neighbour", "neighbours"))
	}
	for _, c := range p.Classes {
		if !c.Open {
			return "Private messages wait: " + lowerFirst(c.Reason)
		}
	}
	if env.Lab() {
		return "Messages leave. In this trial nobody can hide among others."
	}
	return "Private messages leave, and nobody outside sees when."
}
