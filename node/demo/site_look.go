package demo

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"gridveil/mesh/lane"
	"gridveil/mesh/member"
	"gridveil/mesh/onion"
	"gridveil/node"
	"gridveil/node/gateway"
	"gridveil/node/headend"
	"gridveil/node/site"
	"gridveil/node/ssn"
	"gridveil/node/utility"
	"gridveil/node/web"
)

// lookEvery is how long a look at the scene is good for, in wall time: pages and
// streams share it.
const lookEvery = 400 * time.Millisecond

// look is what the scene's counters say at one moment and what moved since the
// look before. It is not changed once made.
type look struct {
	wall, now time.Time
	members   map[string]memberLook
	flows     map[string]web.Flows // of homes
	nodes     []web.Node
	edges     []web.Edge
	events    []web.Event // newest first
	figures   []web.Figure
	headline  string
	alarms    int
	ledger    ledgerLook
	headend   headend.Counters
	sessions  sessionLook
}

// memberLook is one node: whether it runs, and its counters.
type memberLook struct {
	name, title string
	role        member.Role
	up          bool
	since       time.Time // of the present state, scene time
	report      uint64    // bytes of reports sent
	alarm       uint64    // bytes of alarms sent
	bulk        uint64    // bytes received in bulk
	onion       onion.Stats
	ssn         ssn.Counters
	moved       moved
}

// moved is what a node's counters gained since the look before.
type moved struct{ report, alarm, relayed, received, calls uint64 }

// peek is the running node, nil while it is stopped, starting or stopping: it
// never waits for one that is.
func (m *Member) peek() *node.Node {
	for range 3 { // others hold the lock for nanoseconds, or for as long as a start takes
		if m.mu.TryLock() {
			n := m.node
			m.mu.Unlock()
			return n
		}
		runtime.Gosched()
	}
	return nil
}

// look gives the newest look, and takes one if it is too old.
func (s *Site) look() *look {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil || time.Since(s.now.wall) >= lookEvery {
		s.now = s.take(s.now)
	}
	return s.now
}

// take looks at every node once. The caller holds mu.
func (s *Site) take(old *look) *look {
	l := &look{wall: time.Now(), now: s.scene.Clock.Now(), members: map[string]memberLook{}, flows: map[string]web.Flows{}}
	for _, m := range s.scene.Members {
		ml := s.takeMember(m, l)
		if old != nil {
			ml.compare(old.members[m.Name])
		}
		l.members[m.Name] = ml
	}
	s.takeOperators(l)
	s.takeLedger(l)
	s.takeSessions(l)
	s.tell(old, l)
	l.nodes, l.edges = s.drawMap(old, l)
	l.figures, l.headline = s.figures(l), s.headline(l)
	l.events = s.events(overviewEvents)
	return l
}

func (s *Site) takeMember(m *Member, l *look) memberLook {
	ml := memberLook{name: m.Name, title: titleOf(m), role: m.Role, since: l.now}
	n := m.peek()
	if n == nil {
		return ml
	}
	ml.up = true
	t := n.Host.Metrics()
	ml.report, ml.alarm, ml.bulk = t.Sent[lane.Bulk], t.Sent[lane.Alarm], t.Received[lane.Bulk]
	ml.onion = n.Onion.Stats()
	switch r := n.Role.(type) {
	case *gateway.Gateway:
		l.flows[m.Name] = site.Flows(s.houseOf(m), r)
	case *ssn.SSN:
		ml.ssn = r.Counters()
	}
	return ml
}

// compare fills what moved since the same node's look before; a node that was
// restarted began its counters anew.
func (ml *memberLook) compare(old memberLook) {
	if ml.up == old.up {
		ml.since = old.since
	}
	gain := func(now, before uint64) uint64 {
		if now < before {
			return now
		}
		return now - before
	}
	ml.moved = moved{gain(ml.report, old.report), gain(ml.alarm, old.alarm), gain(ml.onion.Relayed, old.onion.Relayed),
		gain(ml.onion.Received, old.onion.Received), gain(ml.onion.Calls, old.onion.Calls)}
}

func (s *Site) takeOperators(l *look) {
	if h, ok := roleOf[*headend.Headend](s.scene.Get("headend")); ok {
		l.headend = h.Counters()
	}
	if u, ok := roleOf[*utility.Utility](s.scene.Get("utility-a")); ok {
		l.alarms = len(u.Alarms())
	}
}

// tell notes what changed between two looks, where the story need not say it.
func (s *Site) tell(old, l *look) {
	if old == nil {
		return
	}
	for _, m := range s.scene.Members {
		was, is := old.members[m.Name], l.members[m.Name]
		switch {
		case was.up && !is.up:
			s.log.Add(Happening{l.now, "node", is.title + " goes offline", "/party/" + m.Name})
		case !was.up && is.up:
			s.log.Add(Happening{l.now, "node", is.title + " is online", "/party/" + m.Name})
		}
	}
	s.tellSessions(old, l)
	if n := l.alarms - old.alarms; n > 0 && n <= 5 {
		s.tellAlarms(n)
	}
	if l.ledger.known && l.ledger.final/ledgerStep > old.ledger.final/ledgerStep {
		s.log.Add(Happening{l.now, "ledger", fmt.Sprintf("The first %s entries of the ledger are replayed and signed", site.Count(l.ledger.final)), "/ledger"})
	}
}

// ledgerStep is how many entries make the growth of the ledger worth telling.
const ledgerStep = 10

func (s *Site) tellAlarms(n int) {
	u, ok := roleOf[*utility.Utility](s.scene.Get("utility-a"))
	if !ok {
		return
	}
	homes := s.byPoint(u)
	all := u.Alarms()
	for _, d := range all[:min(n, len(all))] {
		name, ok := homes[d.UsagePoint]
		if !ok {
			name = "a substation"
		}
		row := site.Delivered(d, name)
		s.log.Add(Happening{d.At, "alarm", fmt.Sprintf("Alarm at %s: %s", name, row.Kind), "/alarms"})
	}
}

// overviewEvents is how many events the overview lists.
const overviewEvents = 12

// events are the newest of what the story told and what was seen here.
func (s *Site) events(n int) []web.Event {
	all := append(s.story.Feed.Newest(n), s.log.Newest(n)...)
	slices.SortStableFunc(all, func(a, b Happening) int { return b.At.Compare(a.At) })
	var out []web.Event
	for _, h := range all[:min(n, len(all))] {
		out = append(out, web.Event{At: h.At, Kind: h.Kind, Text: strings.ToUpper(h.Text[:1]) + h.Text[1:], Link: h.Link})
	}
	return out
}

// figures are the numbers of the overview.
func (s *Site) figures(l *look) []web.Figure {
	grid, sun, charging := 0., 0., 0
	for _, f := range l.flows {
		grid += f.Meter
		sun += f.PV
		if f.EV > carW || f.EV < -carW {
			charging++
		}
	}
	var relayed, dropped uint64
	for _, m := range l.members {
		relayed += m.onion.Relayed
		for _, n := range m.onion.Dropped {
			dropped += n
		}
	}
	return []web.Figure{
		{Key: "homes", Label: "Homes metered", Value: site.Count(len(l.flows)), Unit: fmt.Sprintf("of %d", s.scene.Homes), Note: fmt.Sprintf("%s, %s", site.Plural(l.headend.Readings, "reading", "readings"), site.Plural(l.alarms, "alarm", "alarms"))},
		{Key: "grid", Label: "Net from the grid", Value: kilowatts(grid), Unit: "kW", Note: "roofs give " + site.Watts(sun)},
		{Key: "cars", Label: "Cars charging", Value: site.Count(charging), Note: l.sessions.note()},
		{Key: "notes", Label: "Paid in blind notes", Value: site.Amount(l.ledger.notes), Unit: site.Euro, Note: "households hold them"},
		{Key: "ledger", Label: "Ledger entries", Value: site.Count(l.ledger.size), Note: site.Count(l.ledger.final) + " replayed and signed"},
		{Key: "onion", Label: "Onion packets", Value: site.Count(relayed), Note: "all of one size, " + site.Count(dropped) + " dropped"},
	}
}

// carW is from where on a wallbox counts as busy.
const carW = 100

func kilowatts(w float64) string { return fmt.Sprintf("%.1f", w/1000) }

// headline answers whether all is well.
func (s *Site) headline(l *look) string {
	var down []string
	for _, m := range l.members {
		if !m.up && m.role != member.RoleWallet {
			down = append(down, m.title)
		}
	}
	slices.SortFunc(down, cmp.Compare[string])
	switch {
	case len(down) == 1:
		return down[0] + " is offline; the others carry on."
	case len(down) > 1 && len(l.flows) == 0:
		return "The neighbourhood is starting."
	case len(down) > 3:
		return fmt.Sprintf("%d nodes are offline; the others carry on.", len(down))
	case len(down) > 1:
		last := len(down) - 1
		return strings.Join(down[:last], ", ") + " and " + down[last] + " are offline; the others carry on."
	case l.headend.Readings == 0:
		return "All nodes are up. The first readings arrive within the hour of the clock above."
	case l.ledger.known && l.ledger.sum != 0:
		return "The accounts do not sum to zero. Look at the ledger."
	case l.ledger.known && l.ledger.size > 0:
		return fmt.Sprintf("All is well: %s metered, every account sums to 0.", site.Plural(len(l.flows), "home", "homes"))
	}
	return fmt.Sprintf("All is well: %s metered, and nobody outside sees when.", site.Plural(len(l.flows), "home", "homes"))
}

// titleOf is a member's name as people say it: "Home 3", "Elm substation".
func titleOf(m *Member) string {
	_, rest, _ := strings.Cut(m.Name, "-")
	switch m.Role {
	case member.RoleGateway:
		return "Home " + rest
	case member.RoleSSN:
		return strings.ToUpper(m.Zone[:1]) + m.Zone[1:] + " substation"
	case member.RoleWallet:
		return "Driver " + rest
	case member.RoleHeadend:
		return "Head-end"
	case member.RoleUtility:
		return "Utility " + strings.ToUpper(rest)
	case member.RoleAggregator:
		return "Aggregator"
	case member.RoleVerifier:
		return strings.ToUpper(m.Name[:1]) + m.Name[1:]
	}
	return m.Name
}
