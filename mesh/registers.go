package mesh

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
)

// Kind, Envelope and Verdict are package gossip's, so that callers of Publish and Follow need only this package.
type (
	Kind     = gossip.Kind
	Envelope = gossip.Envelope
	Verdict  = gossip.Verdict
)

const (
	backboneSync = time.Minute     // one random neighbour
	leafSync     = 5 * time.Minute // the second parent
	thriftySync  = 6               // only every so many of them when the day's data runs out
	sweepEvery   = time.Hour       // forget registers whose version number is no longer needed
	pullTimeout  = 20 * time.Second

	fewNeighbours = 4                       // backbone members; below it a backbone member dials more that it knows of
	maxRounds     = 64                      // pages of one pull: 16 MiB
	fedQueue      = 1024                    // registers waiting for one leaf; what does not fit comes with its next pull
	fedAtOnce     = 16                      // of them on their way, so that a distant leaf is not fed one per round trip
	settleTime    = 2500 * time.Millisecond // wall time until gossipsub's heartbeats have put a new neighbour into its mesh
	sparseEvery   = 10 * time.Minute        // between two checkpoints of one log to one leaf
)

// registers is the host's part that keeps signed registers: pubsub between backbone members, feed to leaves, pull.
type registers struct {
	h    *Host
	book *gossip.Book
	set  *gossip.Registers
	emit event.Emitter

	friends sync.Mutex // held from the look at a connection until pubsub knows of it; taken before any other

	mu       sync.Mutex
	ps       *gossip.PubSub // nil on leaves and before serve
	fed      map[peer.ID]*fed
	missing  map[[32]byte]bool // certificates to fetch
	feedFrom peer.ID           // leaf: the parent that feeds us, "" for none
	wake     chan struct{}     // leaf: the set of parents changed
	certWake chan struct{}

	// Leaf, only leafLoop uses it: directory registers that the second parent showed and the feeding one, lackedBy, did not.
	lacking  map[gossip.ID]uint64
	lackedBy peer.ID
}

func openRegisters(h *Host) (*registers, error) {
	r := &registers{h: h, fed: map[peer.ID]*fed{}, missing: map[[32]byte]bool{}, wake: make(chan struct{}, 1), certWake: make(chan struct{}, 1)}
	if _, err := h.roll.Add(h.chain, h.clock.Now()); err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	r.set = gossip.NewRegisters(h.roll)
	saved, err := h.store.LoadRegisters()
	if err != nil {
		return nil, fmt.Errorf("load registers: %w", err)
	}
	if refused := r.set.Load(saved, h.clock.Now()); refused > 0 {
		h.log.Warn("stored registers refused", "count", refused)
	}
	r.set.Check(gossip.KindTrust, h.checkTrust)
	r.book = gossip.NewBook(gossip.BookConfig{Registers: r.set, Lock: &h.trust, Now: h.clock.Now, Save: h.store.SaveRegisters,
		Accepted: r.spread, Count: h.stats.gossip})
	r.book.Follow(gossip.KindTrust, h.applyTrust)
	for _, e := range r.book.All(gossip.KindTrust) {
		h.applyTrust(e)
	}
	r.orphans()
	if r.emit, err = h.wire.EventBus().Emitter(&event.EvtPeerIdentificationCompleted{}); err != nil {
		return nil, fmt.Errorf("event bus: %w", err)
	}
	if h.self.Role.Backbone() {
		h.handlers[Sync], h.handlers[Cert] = r.answerSync, r.answerCerts
		h.handlers[Announce], h.handlers[DialBack] = r.takeAnnounced, h.answerDialBack
	} else {
		h.handlers[FeedNow], h.handlers[Feed] = r.takeFed, r.takeFed
	}
	return r, nil
}

// serve runs the background parts until ctx ends; it returns at once, or with an error that stops the host.
func (r *registers) serve(ctx context.Context) error {
	if r.h.self.Role.Backbone() {
		ps, err := gossip.OpenPubSub(ctx, gossipHost{r.h.wire, r.h}, gossip.PubSubConfig{Tag: r.h.Bundle().Tag(),
			Admitted: r.h.isBackbone, Offer: r.offerGossip, Dropped: func(string) { r.h.stats.drop(DropGossipQueue) }})
		if ctx.Err() != nil {
			return nil // stopped before it had begun
		}
		if err != nil {
			return fmt.Errorf("mesh: %w", err)
		}
		r.mu.Lock()
		r.ps = ps
		r.mu.Unlock()
		for _, m := range r.h.Peers() {
			r.announce(m)
			r.befriend(m)
		}
		r.h.wg.Go(func() { r.backboneLoop(ctx) })
	} else {
		r.h.wg.Go(func() { r.leafLoop(ctx) })
	}
	r.h.wg.Go(func() { r.certLoop(ctx) })
	failed := make(chan error, 1)
	r.h.wg.Go(func() { failed <- r.book.Serve(ctx) })
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (r *registers) close() { _ = r.emit.Close() } // an emitter has nothing to lose

// peerUp tells pubsub of a newly admitted member: there is no identify protocol that would.
func (r *registers) peerUp(m Member) {
	r.announce(m)
	r.befriend(m)
	r.poke()
	r.needCerts()
}

// needCerts wakes certLoop.
func (r *registers) needCerts() {
	select {
	case r.certWake <- struct{}{}:
	default:
	}
}

func (r *registers) announce(m Member) {
	r.mu.Lock()
	on := r.ps != nil
	r.mu.Unlock()
	if on && m.Role.Backbone() {
		_ = r.emit.Emit(event.EvtPeerIdentificationCompleted{Peer: m.Peer, Protocols: gossip.Protocols}) // fails only after close
	}
}

// befriend makes substations of one operator direct peers of each other for as long as they are connected: no score can
// part what one operator runs, and pubsub dials nobody by itself.
func (r *registers) befriend(m Member) {
	r.mu.Lock()
	ps := r.ps
	r.mu.Unlock()
	self := r.h.Self()
	if ps == nil || self.Role != member.RoleSSN || m.Role != member.RoleSSN || m.Operator != self.Operator {
		return
	}
	r.friends.Lock()
	defer r.friends.Unlock()
	_, up := r.h.Connected(m.Peer)
	_ = ps.Direct(m.Peer, up) // fails only once Serve ends
}

func (r *registers) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// isBackbone reports whether p is an admitted backbone member.
func (h *Host) isBackbone(p peer.ID) bool {
	m, ok := h.Connected(p)
	return ok && m.Role.Backbone()
}

// gossipHost lets pubsub see admitted members only.
type gossipHost struct {
	*wire
	h *Host
}

// SetStreamHandler opens a protocol to admitted members.
func (g gossipHost) SetStreamHandler(p protocol.ID, serve network.StreamHandler) {
	g.h.Streams(p, func(_ Member, s network.Stream) { serve(s) })
}

// SetStreamHandlerMatch opens a family of protocols to admitted members.
func (g gossipHost) SetStreamHandlerMatch(p protocol.ID, match func(protocol.ID) bool, serve network.StreamHandler) {
	g.wire.SetStreamHandlerMatch(p, match, g.h.gated(func(_ Member, s network.Stream) { serve(s) }))
}

// Publish signs and spreads a register of this node: backbone, and a home that relays its onion keys, by a parent.
// Errors: ErrNotAllowed on other leaves, ErrOffline, one wrapping gossip.ErrRefused when the network would not take it.
// It returns once the register is durable here.
func (h *Host) Publish(k Kind, key uint64, body []byte, expires time.Time) error {
	return h.publish(gossip.Draft{Kind: k, Key: key, Body: body, Expires: expires})
}

func (h *Host) publish(d gossip.Draft) error {
	h.mu.Lock()
	self, run, serving := h.self, h.run, h.serving
	h.mu.Unlock()
	home := self.Role == member.RoleGateway && d.Kind == gossip.KindDirectory && d.Key == gossip.KeyOnion &&
		(h.c.Relay || h.HomeRelay(self.Key)) // one that relayed until its restart says that it has stopped
	if !self.Role.Backbone() && !home {
		return fmt.Errorf("publish %v: %w: homes never publish, but for the keys of one that relays", d.Kind, ErrNotAllowed)
	}
	if !serving || home && !h.hasParent() {
		return fmt.Errorf("publish %v: %w: this node is not connected", d.Kind, ErrOffline)
	}
	raw, err := h.regs.book.Publish(run, d, h.key, self.CertHash)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if home {
		return h.announce(run, raw)
	}
	return h.regs.gossip(run, d.Kind, raw)
}

// gossip hands the bytes of a register that this node's book has accepted to pubsub.
func (r *registers) gossip(ctx context.Context, k Kind, raw []byte) error {
	r.mu.Lock()
	ps := r.ps
	r.mu.Unlock()
	if ps == nil {
		return nil // neighbours pull it
	}
	return ps.Publish(ctx, k, raw)
}

// Follow sets the body check of a kind and a receiver for what is accepted. check runs inside the validator: it must
// not block or call the host, nil accepts every body. accept is called one register at a time, after it is durable;
// own registers come too, and after a restart those held come again once their publisher's certificate is known. Kind trust is checked by the host itself; its check is ignored.
func (h *Host) Follow(k Kind, check func(Envelope) Verdict, accept func(Envelope)) {
	if check != nil && k != gossip.KindTrust {
		h.trust.Lock()
		h.regs.set.Check(k, check)
		h.trust.Unlock()
	}
	if accept != nil {
		h.regs.book.Follow(k, accept)
	}
}

// Registers lists the registers of a kind that are held and not expired, ordered by id.
func (h *Host) Registers(k Kind) []Envelope { return h.regs.book.All(k) }

// Register gives one register.
func (h *Host) Register(k Kind, publisher member.Key, key uint64) (Envelope, bool) {
	return h.regs.book.Get(k, publisher, key)
}

// Publisher gives the member that signed a register, if its certificate is known and valid now.
func (h *Host) Publisher(e Envelope) (Member, error) {
	h.trust.Lock()
	defer h.trust.Unlock()
	return h.roll.Lookup(e.CertHash, h.clock.Now())
}

// Standing says why the certificate with this hash does not count now: member.ErrUnknown, also after its CA left the
// network's bundle, ErrExpired or ErrRevoked; nil if it does. Registers signed under it count as long.
func (h *Host) Standing(cert [32]byte) error {
	h.trust.Lock()
	defer h.trust.Unlock()
	_, err := h.roll.Lookup(cert, h.clock.Now())
	return err
}

// offerGossip is pubsub's validator.
func (r *registers) offerGossip(raw []byte, k gossip.Kind) gossip.Action {
	return r.offer(raw, gossip.Source{Topic: k}).Action
}

// offer validates an envelope that came by itself and looks after what its refusal asks for.
func (r *registers) offer(raw []byte, from gossip.Source) gossip.Decision {
	d := r.book.Offer(raw, from)
	if d.NeedCert {
		r.mu.Lock()
		if len(r.missing) < gossip.MaxCertAsk {
			r.missing[d.Envelope.CertHash] = true
		}
		r.mu.Unlock()
		r.needCerts()
	}
	r.report(d)
	return d
}

// report makes evidence of equivocation public.
func (r *registers) report(d gossip.Decision) {
	if d.Evidence == nil || r.h.self.Role.Leaf() {
		return
	}
	r.h.Go(func(context.Context) {
		id := d.Envelope.ID()
		key := binary.BigEndian.Uint64(id[:]) ^ d.Envelope.Version
		// A second report of the same evidence is refused as over rate or known; one is enough.
		_ = r.h.Publish(gossip.KindAlarm, key, d.Evidence, r.h.clock.Now().Add(gossip.KindAlarm.MaxLife(key)))
	})
}
