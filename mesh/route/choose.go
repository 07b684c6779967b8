package route

import (
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

// Self is the sender's own end of a loop or reply block: its identity and its
// unpublished onion key for the time of arrival (mix.Keyring.At).
type Self struct {
	Node packet.NodeKey
	Key  func(arrival time.Time) (mix.PublicKey, bool)
}

// Chooser chooses routes over one snapshot.
type Chooser struct {
	Snapshot *Snapshot
	Skip     func(packet.NodeKey) bool // relays to avoid now; nil for none
	HopMean  time.Duration             // of the class; 0 for lab
}

// Route is a way for one packet, ready for packet.Build or packet.NewReplyBlock.
type Route struct {
	Hops           []packet.Hop // relays, then the last hop
	Arrival        time.Time    // when the last hop will see it, transit not counted
	SingleOperator bool         // all relays of the network belong to one operator
}

// First is the node to hand the packet to.
func (r *Route) First() packet.NodeKey { return r.Hops[0].Node }

// Relays lists the relays of the route in order, for mix.Loops and Health.
func (r *Route) Relays() []packet.NodeKey {
	var out []packet.NodeKey
	for _, h := range r.Hops[:len(r.Hops)-1] {
		out = append(out, h.Node)
	}
	return out
}

// To chooses guard, middle and exit for a packet that leaves at depart for the
// member recipient. guards are the usable guards, the preferred one first.
func (c *Chooser) To(recipient packet.NodeKey, guards []packet.NodeKey, depart time.Time, rnd io.Reader) (*Route, error) {
	target, known := c.Snapshot.Node(recipient)
	if !known || !target.Recipient() {
		return nil, fmt.Errorf("%w: the recipient publishes no keys for onion requests", packet.ErrRoute)
	}
	path, err := c.pick(guards, target, rnd)
	if err != nil {
		return nil, err
	}
	return c.time(append(path, target), nil, depart, rnd)
}

// Back chooses the way of an answer from whoever holds the reply block to self:
// any two relays, then the first of ends that the rules allow: relays that self
// is connected to. depart is when the answer is expected to leave; answers are
// due within mix.KeyMargin of it. from is the replier.
func (c *Chooser) Back(self Self, from packet.NodeKey, ends []packet.NodeKey, depart time.Time, rnd io.Reader) (*Route, error) {
	replier, known := c.Snapshot.Node(from)
	if !known {
		return nil, fmt.Errorf("%w: the replier is not in the directory", packet.ErrRoute)
	}
	path, err := c.pick(ends, replier, rnd)
	if err != nil {
		return nil, err
	}
	// The same rules hold as on the way there, read from the other end.
	path[0], path[2] = path[2], path[0]
	return c.time(path, &self, depart, rnd)
}

// Loop chooses a way back to self: guard, middle, and one of ends, the SSNs that
// self is connected to, guards among them. To the guard it looks like a way to
// a recipient: the same operator rules hold. With no end besides the guard the
// third relay is any other SSN, and the loop is lost.
func (c *Chooser) Loop(self Self, guards, ends []packet.NodeKey, depart time.Time, rnd io.Reader) (*Route, error) {
	path, err := c.pickLoop(guards, ends, rnd)
	if err != nil {
		return nil, err
	}
	return c.time(path, &self, depart, rnd)
}

// LoopEnds lists those of ends that a loop over this guard may come back by.
func (c *Chooser) LoopEnds(guard packet.NodeKey, ends []packet.NodeKey) []packet.NodeKey {
	g, ok := c.relay(guard)
	if !ok {
		return nil
	}
	var apart, reaching []packet.NodeKey
	for _, n := range c.filter(func(n *Node) bool { return reaches(g, n, ends) }) {
		reaching = append(reaching, n.Key)
		if !c.sameSide(g, n) {
			apart = append(apart, n.Key)
		}
	}
	if len(apart) > 0 {
		return apart
	}
	return reaching
}

// reaches reports whether a loop over guard may end at n, operators left aside.
func reaches(guard, n *Node, ends []packet.NodeKey) bool {
	return otherSSN(guard, n) && slices.Contains(ends, n.Key)
}

func otherSSN(guard, n *Node) bool { return n.Key != guard.Key && n.Member.Role == member.RoleSSN }

// rule says how strict pick is about the recipient's operator.
type rule struct{ guardToo, exitToo bool }

// pick returns guard, middle, exit for a way between a leaf and the member far.
// The first guard that allows a route is used; exit and middle are uniform over
// what the rules allow.
func (c *Chooser) pick(guards []packet.NodeKey, far *Node, rnd io.Reader) ([]*Node, error) {
	for _, r := range []rule{{true, true}, {false, true}, {false, false}} {
		for _, g := range guards {
			guard, ok := c.relay(g)
			if !ok || guard.Key == far.Key || r.guardToo && guard.Member.Operator == far.Member.Operator {
				continue
			}
			path, err := c.pickBehind(guard, far, r, rnd)
			if path != nil || err != nil {
				return path, err
			}
		}
	}
	return nil, c.tooFew(guards)
}

// pickBehind chooses exit, then middle; nil when the rules leave none.
func (c *Chooser) pickBehind(guard, far *Node, r rule, rnd io.Reader) ([]*Node, error) {
	exits := c.filter(func(n *Node) bool {
		return n.Key != guard.Key && n.Key != far.Key && !c.sameSide(guard, n) && !(r.exitToo && n.Member.Operator == far.Member.Operator)
	})
	return c.between(guard, exits, func(n *Node) bool { return n.Key == far.Key && c.Snapshot.ssns >= 4 }, rnd)
}

// sameSide reports whether guard and exit would belong to one operator although there are several.
func (c *Chooser) sameSide(guard, exit *Node) bool {
	return c.Snapshot.Operators() >= 2 && exit.Member.Operator == guard.Member.Operator
}

// between draws one of exits, then a middle that is not avoided; nil when the rules leave none.
func (c *Chooser) between(guard *Node, exits []*Node, avoid func(*Node) bool, rnd io.Reader) ([]*Node, error) {
	for len(exits) > 0 {
		exit, err := drawNode(exits, rnd)
		if err != nil {
			return nil, err
		}
		middles := c.filter(func(n *Node) bool {
			op := n.Member.Operator
			return n.Key != guard.Key && n.Key != exit.Key && !avoid(n) &&
				(c.Snapshot.Operators() < 3 || op != guard.Member.Operator && op != exit.Member.Operator)
		})
		middle, err := drawNode(middles, rnd)
		if middle != nil || err != nil {
			return []*Node{guard, middle, exit}, err
		}
		exits = slices.DeleteFunc(exits, func(n *Node) bool { return n == exit })
	}
	return nil, nil
}

// pickLoop returns guard, middle, another relay that reaches us. The operator rules are those of pick: a guard that saw
// a next hop which only a loop, or only a call, may have could tell the two apart. Where every relay that reaches us
// is of the guard's operator, that rule falls for the last relay, never for the middle, which the guard sees.
func (c *Chooser) pickLoop(guards, ends []packet.NodeKey, rnd io.Reader) ([]*Node, error) {
	for _, g := range guards {
		guard, ok := c.relay(g)
		if !ok {
			continue
		}
		other := func(n *Node) bool { return otherSSN(guard, n) }
		reaching := func(n *Node) bool { return reaches(guard, n, ends) }
		apart := func(n *Node) bool { return reaching(n) && !c.sameSide(guard, n) }
		for _, allowed := range []func(*Node) bool{apart, reaching, other} { // the last keeps the slot filled while one parent is left
			path, err := c.between(guard, c.filter(allowed), func(*Node) bool { return false }, rnd)
			if path != nil || err != nil {
				return path, err
			}
		}
	}
	return nil, c.tooFew(guards)
}

// drawNode picks one uniformly; nil from an empty list.
func drawNode(from []*Node, rnd io.Reader) (*Node, error) {
	if len(from) == 0 {
		return nil, nil
	}
	i, err := mix.Below(len(from), rnd)
	if err != nil {
		return nil, err
	}
	return from[i], nil
}

// relay finds a usable relay.
func (c *Chooser) relay(key packet.NodeKey) (*Node, bool) {
	n, known := c.Snapshot.Node(key)
	return n, known && n.Relay() && !(c.Skip != nil && c.Skip(key))
}

func (c *Chooser) filter(keep func(*Node) bool) []*Node {
	var out []*Node
	for _, n := range c.Snapshot.relays {
		if keep(n) && !(c.Skip != nil && c.Skip(n.Key)) {
			out = append(out, n)
		}
	}
	return out
}

func (c *Chooser) tooFew(guards []packet.NodeKey) error {
	usable := len(c.filter(func(*Node) bool { return true }))
	e := &FewRelaysError{Relays: usable}
	switch {
	case len(guards) == 0:
		e.Why = "no guard is connected"
	case usable >= MinRelays:
		e.Why = "the rules for guard, middle, exit and operators leave none"
	}
	return e
}

// time draws the holds and picks for every hop the key that is valid when the
// packet gets there. self, if set, is the last hop.
func (c *Chooser) time(path []*Node, self *Self, depart time.Time, rnd io.Reader) (*Route, error) {
	r := &Route{Arrival: depart, SingleOperator: c.Snapshot.Operators() == 1}
	for i, n := range path {
		key, ok := n.KeyAt(r.Arrival, c.Snapshot.Epoch)
		if !ok {
			return nil, fmt.Errorf("%w: relay %d of the route has no key for that time", ErrStaleDirectory, i+1)
		}
		h := packet.Hop{Node: n.Key, KeyID: key.ID, Key: key.Key}
		if i < MinRelays {
			var err error
			if h.Delay, err = mix.HopDelay(c.HopMean, rnd); err != nil {
				return nil, err
			}
			r.Arrival = r.Arrival.Add(h.Delay)
		}
		r.Hops = append(r.Hops, h)
	}
	if self != nil {
		key, ok := self.Key(r.Arrival)
		if !ok {
			return nil, fmt.Errorf("%w: no own key for the time of return", packet.ErrRoute)
		}
		r.Hops = append(r.Hops, packet.Hop{Node: self.Node, KeyID: key.ID, Key: key.Key})
	}
	return r, nil
}
