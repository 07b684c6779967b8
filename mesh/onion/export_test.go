package onion

import (
	"gridveil/mesh"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

// Witness shows every packet that o unwraps to see, which may lose it by returning false. Set it before Serve.
func (o *Onion) Witness(see func(from packet.NodeKey, r packet.Routing, before, after *packet.Packet) bool) {
	o.relay.witness = func(s sight) bool { return see(s.from, s.routing, s.before, s.after) }
}

// Inject hands o a packet as if from a neighbour.
func (o *Onion) Inject(from mesh.Member, p *packet.Packet) { o.relay.take(from, p) }

// Unlimit lifts the intake's rates, which would hide what a benchmark measures. Set it before Serve.
func (o *Onion) Unlimit() {
	o.relay.rates = [2]mix.Rate{{PerSecond: 1e6, Burst: 1e6}, {PerSecond: 1e6, Burst: 1e6}}
}

// OwnHop gives the last hop of a packet that ends here now.
func (o *Onion) OwnHop() packet.Hop {
	k, _ := o.relay.ownKey(o.clock.Now())
	return packet.Hop{Node: o.self, KeyID: k.ID, Key: k.Key}
}

// Push sends a packet to a neighbour.
func (o *Onion) Push(to packet.NodeKey, p *packet.Packet) bool { return o.out.send(to, p) }

// Relayed counts the packets that o has forwarded.
func (o *Onion) Relayed() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stats.Relayed
}
