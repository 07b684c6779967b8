package onion

import (
	"context"

	"github.com/libp2p/go-libp2p/core/network"

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

// Limits of an onion.
const (
	MaxCalls      = maxCalls
	MaxWaiting    = maxWaiting
	MaxHandlers   = maxHandlers
	MaxAnswerSize = maxAnswerSize
	MaxNeighbours = maxNeighbours
	SendQueue     = sendQueue
	DeliverQueue  = deliverQueue
	OverRate      = overRate
)

// Open lets o unwrap a packet at once.
func (o *Onion) Open(p *packet.Packet) { o.relay.unwrap(o.self, p) }

// ServeStream takes packets in from a neighbour until it is kept out.
func (o *Onion) ServeStream(from mesh.Member, s network.Stream) { o.serveStream(from, s) }

// Full makes a leaf behave as with so many calls open, reply blocks out and packets waiting for slots.
func (o *Onion) Full(calls, replies, waiting int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = calls
	clear(o.replies)
	for i := range replies {
		o.replies[packet.ReplyID{1, byte(i), byte(i >> 8)}] = &openReply{try: &try{}, until: o.clock.Now().Add(packet.AnswerLife)}
	}
	o.slots.drawn = nil
	for range waiting {
		o.slots.drawn = append(o.slots.drawn, slot{at: o.clock.Now().Add(packet.AnswerLife), job: &job{}})
	}
}

// PlanMeter plans packets of class meter to a recipient, as a call does.
func (o *Onion) PlanMeter(to Recipient, count int) error {
	_, err := o.plan(to, mesh.Meter, mix.ClassMeter.Timing(o.h.Bundle().Policy), count)
	return err
}

// SendDecoy sends one decoy now and waits for its answer.
func (o *Onion) SendDecoy(ctx context.Context) { o.decoy(ctx) }

// SendDecoys sends decoys at times of a clock until ctx ends.
func (o *Onion) SendDecoys(ctx context.Context, c mesh.Clock) { o.sendDecoys(ctx, c) }

// Busy takes up n of the slots for handlers and gives a function that frees them.
func (o *Onion) Busy(n int) (free func()) {
	for range n {
		o.handling <- struct{}{}
	}
	return func() {
		for range n {
			<-o.handling
		}
	}
}

// Crowd makes o have n neighbours that it sends to, whose writers are stuck.
func (o *Onion) Crowd(n int) {
	o.out.mu.Lock()
	defer o.out.mu.Unlock()
	clear(o.out.to)
	for i := range n {
		o.out.to[packet.NodeKey{0xff, byte(i), byte(i >> 8)}] = &neighbour{queue: make(chan *packet.Packet, sendQueue)}
	}
}

// Push hands a packet to the neighbour with a key.
func (o *Onion) Push(to packet.NodeKey) bool { return o.out.send(to, new(packet.Packet)) }
