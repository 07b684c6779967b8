package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

// Limits of guards.
const (
	GuardCount = 2
	guardLife  = 30 * 24 * time.Hour
	guardSpan  = 7 * 24 * time.Hour // life is 30 +- 7 days, uniform, so that changes do not coincide
	maxGuards  = GuardCount + 1     // a third only while both are down
	guardSmall = 2 * time.Hour      // a guard whose crowd is too small this long is replaced: two of its hourly registers say so
)

// Guard is a relay that a leaf uses as first hop for weeks: with few guards, few
// relays ever see which link a packet came from.
type Guard struct {
	Node  packet.NodeKey
	Until time.Time
}

// Guards holds a leaf's guards. Persist it (Encode) whenever Refresh reports a change.
type Guards struct {
	// Avoid names the operator whose SSNs become guards only where there are no others: a wallet's issuer, who knows
	// whose wallet it is and would learn from a guard where it is. "" avoids nobody.
	Avoid string

	list  []Guard                      // the standing two first, then a third while needed
	small map[packet.NodeKey]time.Time // guards whose crowd misses the floor, since when
}

// ErrGuards is a stored list of guards that does not have its layout.
var ErrGuards = errors.New("stored guards are malformed")

// Refresh keeps guards that are still SSNs of the directory, replaces those that
// ran out, and adds a third only while both others are down. usable says whether
// a node is connected and not skipped; a guard that is down stays a guard. An
// out-of-date directory removes nobody. A guard whose crowd misses the floor f
// for two hours, so that this home's messages wait, is replaced by one that meets
// it, if there is one. Guards are distinct, so at least one of them is not the
// parent that forwards this home's bills.
func (g *Guards) Refresh(s *Snapshot, f Floor, usable func(packet.NodeKey) bool, now time.Time, rnd io.Reader) (changed bool, err error) {
	before := slices.Clone(g.list)
	g.list = slices.DeleteFunc(g.list, func(x Guard) bool {
		n, known := s.Node(x.Node)
		return !x.Until.After(now) || known && n.haveKeys && !isGuard(n)
	})
	g.dropAvoided(s)
	g.dropSmall(s, f, now)
	for len(g.list) < GuardCount {
		added, err := g.add(s, f, nil, now, rnd)
		if err != nil {
			return true, err
		}
		if !added {
			break
		}
	}
	standing := g.list[:min(len(g.list), GuardCount)]
	down := len(standing) == GuardCount && !slices.ContainsFunc(standing, func(x Guard) bool { return usable(x.Node) })
	switch {
	case !down:
		g.list = standing
	case len(g.list) < maxGuards:
		if _, err := g.add(s, f, usable, now, rnd); err != nil {
			return true, err
		}
	}
	return !slices.Equal(before, g.list), nil
}

func isGuard(n *Node) bool { return n.Relay() && n.Member.Role == member.RoleSSN }

// dropAvoided ends a guard that was drawn while there was no other, one at a time.
func (g *Guards) dropAvoided(s *Snapshot) {
	i := slices.IndexFunc(g.list, func(x Guard) bool {
		n, known := s.Node(x.Node)
		return known && !g.wanted(n)
	})
	if i < 0 || !slices.ContainsFunc(s.relays, func(n *Node) bool { return isGuard(n) && g.wanted(n) && !g.has(n.Key) }) {
		return
	}
	g.list = slices.Delete(g.list, i, i+1)
}

// wanted reports whether a relay is of another operator than the avoided one.
func (g *Guards) wanted(n *Node) bool { return g.Avoid == "" || n.Member.Operator != g.Avoid }

// dropSmall ends the guard whose crowd has missed the floor for longest, after
// guardSmall, if another SSN meets it: one at a time, so that the home's link is
// shown to as few relays as possible.
func (g *Guards) dropSmall(s *Snapshot, f Floor, now time.Time) {
	small, worst := map[packet.NodeKey]time.Time{}, -1
	for i, x := range g.list {
		n, known := s.Node(x.Node)
		if !known || !n.haveKeys || f.crowd(n) {
			continue
		}
		since, was := g.small[x.Node]
		if !was {
			since = now
		}
		small[x.Node] = since
		if now.Sub(since) >= guardSmall && (worst < 0 || since.Before(small[g.list[worst].Node])) {
			worst = i
		}
	}
	g.small = small
	if worst < 0 {
		return
	}
	old, _ := s.Node(g.list[worst].Node)
	for _, n := range s.relays {
		if isGuard(n) && f.crowd(n) && !g.has(n.Key) && (g.wanted(n) || !g.wanted(old)) {
			delete(g.small, g.list[worst].Node)
			g.list = slices.Delete(g.list, worst, worst+1)
			return
		}
	}
}

func (g *Guards) has(node packet.NodeKey) bool {
	return slices.ContainsFunc(g.list, func(x Guard) bool { return x.Node == node })
}

// add draws one more guard, uniform over the SSNs that are allowed: of another
// operator than the avoided one if there are any; of those, whose crowd meets the
// floor if there are any, since behind another one this home's
// messages would wait; of those, of an operator that has no guard yet if there is
// one, so that a loop from one guard may come back by the other (Chooser.Loop).
func (g *Guards) add(s *Snapshot, f Floor, usable func(packet.NodeKey) bool, now time.Time, rnd io.Reader) (bool, error) {
	operators := map[string]bool{}
	for _, x := range g.list {
		if n, known := s.Node(x.Node); known {
			operators[n.Member.Operator] = true
		}
	}
	var free []*Node
	for _, n := range s.relays {
		if isGuard(n) && !g.has(n.Key) && (usable == nil || usable(n.Key)) {
			free = append(free, n)
		}
	}
	free = preferred(preferred(free, g.wanted), f.crowd)
	allowed := preferred(free, func(n *Node) bool { return !operators[n.Member.Operator] })
	if len(allowed) == 0 {
		return false, nil
	}
	i, err := mix.Below(len(allowed), rnd)
	if err != nil {
		return false, err
	}
	spread, err := mix.Below(int(2*guardSpan/time.Minute), rnd)
	if err != nil {
		return false, err
	}
	until := now.Add(guardLife - guardSpan + time.Duration(spread)*time.Minute).UTC().Truncate(time.Millisecond)
	g.list = append(g.list, Guard{allowed[i].Key, until})
	return true, nil
}

// preferred gives the nodes that are as wanted, or all if none is.
func preferred(nodes []*Node, wanted func(*Node) bool) []*Node {
	if out := slices.DeleteFunc(slices.Clone(nodes), func(n *Node) bool { return !wanted(n) }); len(out) > 0 {
		return out
	}
	return nodes
}

// List gives the guards, standing ones first. Floor.Check takes it.
func (g *Guards) List() []Guard { return slices.Clone(g.list[:min(len(g.list), GuardCount)]) }

// All gives the standing guards and the third, if there is one now.
func (g *Guards) All() []Guard { return slices.Clone(g.list) }

// Drop ends a guard whose certificate was revoked and reports whether it was one;
// the next Refresh draws another.
func (g *Guards) Drop(node packet.NodeKey) bool {
	n := len(g.list)
	g.list = slices.DeleteFunc(g.list, func(x Guard) bool { return x.Node == node })
	return len(g.list) < n
}

// Usable lists the guards to try for the next packet: those that are usable, in
// random order. Used in turn they would show on the link which packets were
// planned ahead.
func (g *Guards) Usable(usable func(packet.NodeKey) bool, rnd io.Reader) ([]packet.NodeKey, error) {
	var out []packet.NodeKey
	for _, x := range g.list {
		if usable(x.Node) {
			out = append(out, x.Node)
		}
	}
	return out, mix.Shuffle(out, rnd)
}

const guardRecord = 32 + 8

// Encode gives the stored form: (node key 32 | until u64)*.
func (g *Guards) Encode() []byte {
	var b []byte
	for _, x := range g.list {
		b = append(b, x.Node[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(x.Until.UnixMilli()))
	}
	return b
}

// ParseGuards is the inverse of Encode; no bytes are no guards.
func ParseGuards(b []byte) (*Guards, error) {
	if len(b)%guardRecord != 0 || len(b) > maxGuards*guardRecord {
		return nil, fmt.Errorf("%w: %d bytes", ErrGuards, len(b))
	}
	g := &Guards{}
	for ; len(b) > 0; b = b[guardRecord:] {
		ms := binary.BigEndian.Uint64(b[32:])
		if ms > 1<<48 { // the year 10889
			return nil, fmt.Errorf("%w: time of a guard", ErrGuards)
		}
		g.list = append(g.list, Guard{packet.NodeKey(b[:32]), time.UnixMilli(int64(ms)).UTC()})
	}
	return g, nil
}

// Limits of the health table.
const (
	healthLosses = 3                // lost loops on as many different routes, none returned in between
	healthSkip   = 10 * time.Minute // then the relay is skipped this long
)

// Health remembers which relays lose loops. The zero value is ready.
type Health struct {
	lost map[packet.NodeKey][]string // different routes that lost a loop since one returned
	skip map[packet.NodeKey]time.Time
}

// Judge takes the outcome of one loop over relays. A return clears the relays on
// its way: so a broken middle is found although every loop passes both guards.
func (h *Health) Judge(relays []packet.NodeKey, lost bool, now time.Time) {
	if h.lost == nil {
		h.lost, h.skip = map[packet.NodeKey][]string{}, map[packet.NodeKey]time.Time{}
	}
	var name []byte
	for _, r := range relays {
		name = append(name, r[:]...)
	}
	for _, r := range relays {
		if !lost {
			delete(h.lost, r)
			continue
		}
		if slices.Contains(h.lost[r], string(name)) {
			continue
		}
		h.lost[r] = append(h.lost[r], string(name))
		if len(h.lost[r]) >= healthLosses {
			delete(h.lost, r)
			h.skip[r] = now.Add(healthSkip)
		}
	}
}

// Forget clears every judgement.
func (h *Health) Forget() { *h = Health{} }

// Skipped reports whether a relay is to be avoided at now.
func (h *Health) Skipped(node packet.NodeKey, now time.Time) bool {
	until, marked := h.skip[node]
	return marked && now.Before(until)
}
