package onion

import (
	"gridveil/mesh"
	"gridveil/mesh/packet"
)

// Witness shows every packet that o unwraps to see, which may lose it by returning false. Set it before Serve.
func (o *Onion) Witness(see func(from packet.NodeKey, r packet.Routing, before, after *packet.Packet) bool) {
	o.relay.witness = func(s sight) bool { return see(s.from, s.routing, s.before, s.after) }
}

// Inject hands o a packet as if from a neighbour.
func (o *Onion) Inject(from mesh.Member, p *packet.Packet) { o.relay.take(from, p) }
