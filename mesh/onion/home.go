package onion

import (
	"context"
	"errors"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/packet"
	"gridveil/mesh/route"
)

// A home that relays: it is in the directory while a parent can dial it, the day's data lasts and the onion is on. It
// relays with the onion key by which its own loops and answers come back, so that whoever hands it a packet cannot tell
// what stays in the house from what passes through.

// reachLasts is how long a parent's dial need not be repeated.
const reachLasts = time.Minute

// errUnreachable makes the publisher ask a parent again in a minute.
var errUnreachable = errors.New("no parent could dial this home's address")

// HomeRelay is how a home that chose to relay for others fares.
type HomeRelay struct {
	Chosen      bool // by its owner; false on every other node
	On          bool // in the directory now, and relaying
	Paused      bool // the day's data is used as far as relaying may use it
	Unreachable bool // no parent could dial the address
	Reach       mesh.Reachability
	Asked       time.Time // when a parent was last asked to dial; zero for not yet
}

// HomeRelay says how this node relays for others, if it is a home.
func (o *Onion) HomeRelay() HomeRelay {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := HomeRelay{Chosen: o.chosen(), Reach: o.reach, Asked: o.reachedAt}
	if !s.Chosen {
		return s
	}
	s.Paused = !o.relays()
	s.On = o.announced && !s.Paused && !o.off.Load()
	s.Unreachable = !s.Asked.IsZero() && !s.Reach.OK()
	return s
}

// chosen reports whether the owner of this home wants it to relay.
func (o *Onion) chosen() bool { return o.c.Relay && o.role == member.RoleGateway }

// homeRelay reports whether the directory names a neighbour as a home that relays.
func (o *Onion) homeRelay(key packet.NodeKey) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, known := o.snap.Node(key)
	return known && n.Member.Role == member.RoleGateway && n.Relay()
}

// publishHome puts this home into the directory, or takes it out.
func (o *Onion) publishHome(ctx context.Context, now time.Time) error {
	if _, err := o.relay.advance(now, o.h.Lag()); err != nil {
		return err
	}
	if o.off.Load() || !o.relays() {
		o.h.Calm(mesh.WarnUnreachable)
		return o.withdraw(now)
	}
	reach, err := o.askReach(ctx, now)
	if err != nil {
		return err
	}
	if !reach.OK() {
		return errors.Join(errUnreachable, o.withdraw(now))
	}
	k := route.Keys{Flags: route.FlagRelay, Region: o.region()}
	o.addAddresses(&k)
	if err := o.putKeys(k, now); err != nil {
		return err
	}
	o.setAnnounced(true)
	return nil
}

// askReach has a parent dial this home, unless one did within the last minute.
func (o *Onion) askReach(ctx context.Context, now time.Time) (mesh.Reachability, error) {
	o.mu.Lock()
	reach, at := o.reach, o.reachedAt
	o.mu.Unlock()
	if reach.OK() && now.Sub(at) < reachLasts {
		return reach, nil
	}
	reach, err := o.h.Reachable(ctx)
	if err != nil {
		return reach, err
	}
	o.mu.Lock()
	o.reach, o.reachedAt = reach, now
	o.mu.Unlock()
	o.flag(mesh.WarnUnreachable, !reach.OK())
	return reach, nil
}

// withdraw tells the directory that this home has stopped relaying, if it says otherwise.
func (o *Onion) withdraw(now time.Time) error {
	if o.h.HomeRelay(o.h.Self().Key) {
		if err := o.putKeys(route.Keys{Region: o.region()}, now); err != nil {
			return err
		}
	}
	o.setAnnounced(false)
	return nil
}

func (o *Onion) setAnnounced(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.announced = on
}

// publishAgain makes publishLoop look at once.
func (o *Onion) publishAgain() {
	select {
	case o.republish <- struct{}{}:
	default: // publishLoop has not yet seen the last one
	}
}
