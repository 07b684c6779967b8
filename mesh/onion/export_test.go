package onion

import (
	"context"

	"gridveil/mesh"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

// Witness shows every packet that o unwraps to see, which may lose it by returning false. Set it before Serve.
func (o *Onion) Witness(see func(from packet.NodeKey, r packet.Routing, before, after *packet.Packet) bool) {
	o.relay.witness = func(s sight) bool { return see(s.from, s.routing, s.before, s.after) }
}

// Inject hands o a packet as if from a neighbour.
func (o *Onion) Inject(from mesh.Member, p *packet.Packet) { _ = o.relay.take(from, p) }

// OwnHop gives the last hop of a packet that ends here now.
func (o *Onion) OwnHop() packet.Hop {
	k, _ := o.relay.ownKey(o.clock.Now())
	return packet.Hop{Node: o.self, KeyID: k.ID, Key: k.Key}
}

// Unlimit lifts the intake's rates, which would hide what a test counts. Set it before Serve.
func (o *Onion) Unlimit() {
	o.relay.rates = [2]mix.Rate{{PerSecond: 1e6, Burst: 1e6}, {PerSecond: 1e6, Burst: 1e6}}
}

// KS and AUC are the statistics of the link traces.
var (
	KS  = ks
	AUC = auc
)

// CallBelowFloor is one Call of class meter in a network with too few homes for one.
func (o *Onion) CallBelowFloor(ctx context.Context, to Recipient, s mesh.Service, body []byte) ([]byte, error) {
	cl := &call{result: make(chan []byte, 1)}
	_, _ = o.rnd.Read(cl.id[:]) // crypto/rand never fails
	return o.tryAll(ctx, to, mesh.Meter, mix.ClassMeter.Timing(o.h.Bundle().Policy), cl, s, 0, body)
}
