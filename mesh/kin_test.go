package mesh_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"

	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// TestASubstationOfOnesOwnOperatorIsNeverScoredAway lets a substation send rubbish to another of its operator and to one
// of somebody else, far below the score at which nothing more is taken, and then a price that is valid.
func TestASubstationOfOnesOwnOperatorIsNeverScoredAway(t *testing.T) {
	n, box := following(t, gossip.KindPrice, meshtest.Options{SSNs: 2, Others: []member.Role{member.RoleUtility, member.RoleUtility}, Speed: 1})
	topic := gossip.KindPrice.Topic(n.Bundle.Tag())
	price := func(utility *meshtest.Node, zone string, period uint32) []byte {
		signer, err := utility.Key.Raw()
		if err != nil {
			t.Fatal(err)
		}
		e := gossip.Envelope{Network: n.Bundle.Tag(), Kind: gossip.KindPrice, Key: gossip.ZoneKey(zone, period), Version: 1,
			Publisher: utility.Member.Key, CertHash: utility.Member.CertHash, Issued: n.Clock.Now(), Expires: n.Clock.Now().Add(time.Hour),
			Body: fmt.Appendf(nil, "%s %d", zone, period)}
		if err := e.Sign(signer); err != nil {
			t.Fatal(err)
		}
		return e.Encode()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i, to := range n.SSNs { // the rogue is of the first one's operator
		kin, zone, utility := i == 0, to.Member.Zone, n.Others[i] // each with its own rate
		var ps *pubsub.PubSub
		h := rogue(t, n, member.RoleSSN, to, func(h host.Host) {
			var err error
			if ps, err = pubsub.NewGossipSub(ctx, h, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithFloodPublish(true),
				pubsub.WithMessageIdFn(func(m *pb.Message) string { return gossip.MessageID(m.Data) })); err != nil {
				t.Fatal(err)
			}
		})
		joined, err := ps.Join(topic)
		if err != nil {
			t.Fatal(err)
		}
		bus, err := h.(interface{ EventBus() event.Bus }).EventBus().Emitter(&event.EvtPeerIdentificationCompleted{})
		if err != nil {
			t.Fatal(err)
		}
		defer bus.Close()
		if err := bus.Emit(event.EvtPeerIdentificationCompleted{Peer: to.Member.Peer, Protocols: gossip.Protocols}); err != nil {
			t.Fatal(err)
		}
		send := func(raw []byte) {
			t.Helper()
			if err := joined.Publish(ctx, raw); err != nil {
				t.Fatal(err)
			}
		}
		meshtest.Eventually(t, "the rogue knows that it is listened to", func() bool { return len(ps.ListPeers(topic)) == 1 })
		send(price(utility, zone, 1))
		meshtest.Eventually(t, "the rogue is heard", func() bool { return box(to).has(zone + " 1") })
		rejected := func() uint64 { return to.Host.Metrics().Gossip["reject:layout"] }
		const enough = 30 // squared and negative: nine times what makes a score count for nothing
		for j := range enough {
			send(fmt.Appendf(nil, "rubbish %d for %s", j, zone))
			if kin {
				meshtest.Eventually(t, "rubbish is refused", func() bool { return rejected() == uint64(j+1) })
			}
		}
		meshtest.Eventually(t, "rubbish is refused", func() bool { return rejected() >= 10 })
		send(price(utility, zone, 2))
		if err := utility.Host.Publish(gossip.KindPrice, gossip.ZoneKey(zone, 3), []byte(zone+" 3"), n.Clock.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		meshtest.Eventually(t, "the price of somebody else is there", func() bool { return box(to).has(zone + " 3") })
		if kin {
			meshtest.Eventually(t, "the valid price is taken all the same", func() bool { return box(to).has(zone + " 2") })
		} else if box(to).has(zone + " 2") {
			t.Error("a substation of another operator is heard whatever it sends: this test would see nothing")
		}
	}
}
