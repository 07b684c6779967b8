package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	queueSize  = 1024             // validate and outbound: the library's 32 is shared by all topics and drops silently
	maxMessage = 64 << 10         // one trust register with its frame; control messages likewise
	seenTTL    = 10 * time.Minute // longer than any forwarding delay

	// Heartbeat is twice the library's pace: a new neighbour gets messages only once a heartbeat has put it into the
	// mesh of a topic, and a control signal should not wait for that.
	Heartbeat = 500 * time.Millisecond
)

// Protocols are the pubsub protocols spoken: gossipsub only, since a floodsub peer would get every message.
var Protocols = []protocol.ID{pubsub.GossipSubID_v13, pubsub.GossipSubID_v12, pubsub.GossipSubID_v11}

// PubSubConfig says how registers spread between backbone members.
type PubSubConfig struct {
	Tag      [8]byte                         // of the network
	Admitted func(peer.ID) bool              // admitted backbone members; asked per use
	Offer    func(raw []byte, k Kind) Action // the validator: inline, no I/O
	Dropped  func(reason string)             // messages that the library dropped; must not block
}

// PubSub spreads envelopes over gossipsub. Its goroutines end with the ctx of OpenPubSub.
type PubSub struct {
	ps     *pubsub.PubSub
	topics [len(rules)]*pubsub.Topic
	subs   []*pubsub.Subscription
}

// OpenPubSub joins the topics of all kinds on h.
func OpenPubSub(ctx context.Context, h host.Host, c PubSubConfig) (*PubSub, error) {
	allowed := make([]string, 0, len(rules))
	for _, k := range Kinds() {
		allowed = append(allowed, k.Topic(c.Tag))
	}
	score, thresholds := scoring(allowed)
	params := pubsub.DefaultGossipSubParams()
	params.HeartbeatInterval = Heartbeat
	params.HistoryLength, params.HistoryGossip = 2*params.HistoryLength, 2*params.HistoryGossip // in heartbeats
	ps, err := pubsub.NewGossipSub(ctx, h,
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithMessageIdFn(func(m *pb.Message) string { return MessageID(m.Data) }),
		pubsub.WithGossipSubProtocols(Protocols, pubsub.GossipSubDefaultFeatures),
		pubsub.WithPeerFilter(func(p peer.ID, _ string) bool { return c.Admitted(p) }),
		pubsub.WithAppSpecificRpcInspector(func(p peer.ID, rpc *pubsub.RPC) error {
			if !c.Admitted(p) {
				rpc.Publish = nil // its subscriptions may stay: it may be in the middle of hello
			}
			return nil
		}),
		pubsub.WithSubscriptionFilter(pubsub.NewAllowlistSubscriptionFilter(allowed...)),
		pubsub.WithGossipSubParams(params), pubsub.WithPeerScore(score, thresholds),
		pubsub.WithValidateQueueSize(queueSize), pubsub.WithPeerOutboundQueueSize(queueSize),
		pubsub.WithMaxMessageSize(maxMessage), pubsub.WithMaxControlMessageSize(maxMessage),
		pubsub.WithSeenMessagesTTL(seenTTL), pubsub.WithFloodPublish(false), pubsub.WithPeerExchange(false),
		pubsub.WithLogger(slog.New(slog.DiscardHandler)), pubsub.WithRPCLogger(slog.New(slog.DiscardHandler)), // they print peer ids
		pubsub.WithRawTracer(dropTracer{dropped: c.Dropped}),
	)
	if err != nil {
		return nil, fmt.Errorf("gossipsub: %w", err)
	}
	p := &PubSub{ps: ps}
	for _, k := range Kinds() {
		if err := p.join(ctx, h.ID(), k, c); err != nil {
			return nil, fmt.Errorf("topic %s: %w", k, err)
		}
	}
	return p, nil
}

func (p *PubSub) join(ctx context.Context, self peer.ID, k Kind, c PubSubConfig) error {
	name := k.Topic(c.Tag)
	validate := func(_ context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
		if from == self {
			return pubsub.ValidationAccept // Book.Publish has checked it
		}
		switch c.Offer(m.Data, k) {
		case Accept:
			return pubsub.ValidationAccept
		case Reject:
			return pubsub.ValidationReject
		}
		return pubsub.ValidationIgnore
	}
	if err := p.ps.RegisterTopicValidator(name, validate, pubsub.WithValidatorInline(true)); err != nil {
		return err
	}
	t, err := p.ps.Join(name)
	if err != nil {
		return err
	}
	p.topics[k] = t
	// The validator has already taken the content: relaying keeps us in the mesh without a reader.
	stop, err := t.Relay()
	if err == nil {
		context.AfterFunc(ctx, stop)
	}
	return err
}

// Direct makes a neighbour a direct peer or an ordinary one again. Messages to a direct peer go by no topic's mesh, which
// might prune it, and what it sends is taken whatever its score. Both ends have to agree.
func (p *PubSub) Direct(id peer.ID, on bool) error {
	if on {
		return p.ps.AddDirectPeer(peer.AddrInfo{ID: id})
	}
	return p.ps.RemoveDirectPeer(id)
}

// Publish spreads the bytes of an envelope that this node's Book has accepted.
func (p *PubSub) Publish(ctx context.Context, k Kind, raw []byte) error {
	err := p.topics[k].Publish(ctx, raw)
	if errors.Is(err, context.Canceled) || err == nil {
		return err
	}
	return fmt.Errorf("publish %s register: %w", k, err)
}

// scoring keeps what blames a peer for invalid messages (P4) and bad behaviour (P7). Delivery counters and colocation
// stay off: we carry less than one message a second, and operators run several members on one address.
func scoring(names []string) (*pubsub.PeerScoreParams, *pubsub.PeerScoreThresholds) {
	topics := map[string]*pubsub.TopicScoreParams{}
	for _, name := range names {
		topics[name] = &pubsub.TopicScoreParams{SkipAtomicValidation: true, TopicWeight: 1,
			TimeInMeshQuantum:              time.Second, // weight 0, but the library divides by it
			InvalidMessageDeliveriesWeight: -1, InvalidMessageDeliveriesDecay: 0.9}
	}
	params := &pubsub.PeerScoreParams{
		Topics: topics, AppSpecificScore: func(peer.ID) float64 { return 0 }, AppSpecificWeight: 1,
		BehaviourPenaltyWeight: -1, BehaviourPenaltyThreshold: 6, BehaviourPenaltyDecay: 0.9,
		DecayInterval: 10 * time.Second, DecayToZero: 0.01, RetainScore: 10 * time.Minute,
	}
	return params, &pubsub.PeerScoreThresholds{GossipThreshold: -10, PublishThreshold: -50, GraylistThreshold: -100}
}

// dropTracer counts what the library drops without telling anybody; the rest of RawTracer does nothing.
type dropTracer struct{ dropped func(reason string) }

func (t dropTracer) DropRPC(*pubsub.RPC, peer.ID)           { t.dropped("outbound queue full") }
func (t dropTracer) UndeliverableMessage(*pubsub.Message)   { t.dropped("reader too slow") }
func (t dropTracer) ThrottlePeer(peer.ID)                   { t.dropped("validation throttled") }
func (dropTracer) OnNewOutboundStream(peer.ID, protocol.ID) {}
func (dropTracer) OnClosedOutboundStream(peer.ID)           {}
func (dropTracer) Join(string)                              {}
func (dropTracer) Leave(string)                             {}
func (dropTracer) Graft(peer.ID, string)                    {}
func (dropTracer) Prune(peer.ID, string)                    {}
func (dropTracer) ValidateMessage(*pubsub.Message)          {}
func (dropTracer) DeliverMessage(*pubsub.Message)           {}
func (dropTracer) DuplicateMessage(*pubsub.Message)         {}
func (dropTracer) RecvRPC(*pubsub.RPC)                      {}
func (dropTracer) SendRPC(*pubsub.RPC, peer.ID)             {}

// RejectMessage counts messages that never reached the validator.
func (t dropTracer) RejectMessage(_ *pubsub.Message, reason string) {
	if reason == pubsub.RejectValidationQueueFull || reason == pubsub.RejectValidationThrottled {
		t.dropped(reason)
	}
}
