package onion

import (
	"maps"
	"time"

	"gridveil/mesh"
)

// Drops of the onion, beside those of mesh.
const (
	DropRate        mesh.Drop = "onion_rate"        // a neighbour sends faster than it may
	DropQueue       mesh.Drop = "onion_queue"       // its queue is full, or nearly
	DropKey         mesh.Drop = "onion_key"         // for a key that is not valid now
	DropTampered    mesh.Drop = "onion_tampered"    // header or payload changed, or not for us
	DropReplay      mesh.Drop = "onion_replay"      // seen before, or the table is full
	DropRouting     mesh.Drop = "onion_routing"     // an impossible next step, or relaying is not our job
	DropHold        mesh.Drop = "onion_hold"        // the hold is full
	DropNeighbour   mesh.Drop = "onion_neighbour"   // the next node cannot be reached, or takes nothing
	DropDelivery    mesh.Drop = "onion_delivery"    // the recipient's own queue is full
	DropMessage     mesh.Drop = "onion_message"     // fragments or seal of a message are bad
	DropService     mesh.Drop = "onion_service"     // no such service here
	DropHandlers    mesh.Drop = "onion_handlers"    // too many requests at once
	DropAnswer      mesh.Drop = "onion_answer"      // an answer for which no reply block is left
	DropLate        mesh.Drop = "onion_late"        // an answer that came after its call had ended without one
	DropDirectory   mesh.Drop = "onion_directory"   // a directory register that does not fit
	DropOff         mesh.Drop = "onion_off"         // private messages and relaying are switched off here
	DropUnbuildable mesh.Drop = "onion_unbuildable" // a packet of a request could not be built
)

// Stats is a snapshot of what an Onion counted since it was made.
type Stats struct {
	Relayed       uint64 // packets forwarded
	RelayedToday  uint64 // of them on the present UTC day
	Received      uint64 // requests handled here
	Answered      uint64 // answers sent from here
	Sent          uint64 // packets sent as a leaf, loops not counted
	Cover         uint64 // cover packets of class session
	Decoys        uint64 // decoys of class session that were answered; their packets are among Cover
	SlotCover     uint64 // packets of slots that had nothing to send and bring nothing back
	SlotsEmpty    uint64 // slots in which nothing could be sent, for want of relays: a node that has just begun
	LoopsSent     uint64
	LoopsReturned uint64
	LoopsLost     uint64
	Calls         uint64 // calls begun
	Retries       uint64 // tries after the first
	Unacked       uint64 // calls that ended without an answer
	Late          uint64 // packets that came back for a call that was answered: cover in its answer, or the answer to another try
	Held          int    // packets waiting to be forwarded now
	Waiting       int    // packets waiting for a slot now
	Dropped       map[mesh.Drop]uint64
}

type stats struct {
	Stats
	day int64 // of RelayedToday, since 1970
}

// relay counts packets forwarded.
func (s *stats) relay(n uint64, now time.Time) {
	s.turn(now)
	s.Relayed, s.RelayedToday = s.Relayed+n, s.RelayedToday+n
}

// turn begins a new day.
func (s *stats) turn(now time.Time) {
	if day := now.Unix() / 86400; day != s.day {
		s.day, s.RelayedToday = day, 0
	}
}

// count adds to a drop's counter.
func (o *Onion) count(d mesh.Drop, n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.countLocked(d, n)
}

func (o *Onion) countLocked(d mesh.Drop, n uint64) {
	if o.stats.Dropped == nil {
		o.stats.Dropped = map[mesh.Drop]uint64{}
	}
	o.stats.Dropped[d] += n
}

// Stats gives the counters.
func (o *Onion) Stats() Stats {
	held := o.relay.held()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stats.turn(o.clock.Now())
	s := o.stats.Stats
	s.Held, s.Waiting = held, o.slots.waiting()
	s.Dropped = maps.Clone(s.Dropped)
	return s
}
