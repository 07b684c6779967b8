package mesh

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"gridveil/mesh/gossip"
	"gridveil/mesh/lane"
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
	sweepEvery   = time.Hour       // forget registers whose version number is no longer needed
	pullTimeout  = 20 * time.Second
	maxRounds    = 64                      // pages of one pull: 16 MiB
	fedQueue     = 1024                    // registers waiting for one leaf; what does not fit comes with its next pull
	fedAtOnce    = 16                      // of them on their way, so that a distant leaf is not fed one per round trip
	settleTime   = 2500 * time.Millisecond // wall time until gossipsub's heartbeats have put a new neighbour into its mesh
	sparseEvery  = 10 * time.Minute        // between two checkpoints of one log to one leaf
)

// registers is the host's part that keeps signed registers: pubsub between backbone members, feed to leaves, pull.
type registers struct {
	h    *Host
	book *gossip.Book
	set  *gossip.Registers
	emit event.Emitter

	mu       sync.Mutex
	ps       *gossip.PubSub // nil on leaves and before serve
	fed      map[peer.ID]*fed
	missing  map[[32]byte]bool // certificates to fetch
	feedFrom peer.ID           // leaf: the parent that feeds us, "" for none
	wake     chan struct{}     // leaf: the set of parents changed
	certWake chan struct{}

	split int // leaf: rounds in a row in which the second parent knew more; only leafLoop uses it
}

// fed is one leaf that gets registers as they come.
type fed struct {
	zone   string
	queue  chan *Envelope // shared by all fed leaves
	sparse map[gossip.ID]time.Time
	stop   chan struct{} // closed when the leaf no longer wants it
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
	r.book = gossip.NewBook(gossip.BookConfig{Registers: r.set, Lock: &h.trust, Now: h.clock.Now, Save: h.store.SaveRegister,
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

// Publish signs and spreads a register of this node: backbone only. Errors: ErrNotAllowed on a leaf, one wrapping
// gossip.ErrRefused when the network would not take it. It returns once the register is durable here.
func (h *Host) Publish(k Kind, key uint64, body []byte, expires time.Time) error {
	return h.publish(gossip.Draft{Kind: k, Key: key, Body: body, Expires: expires})
}

func (h *Host) publish(d gossip.Draft) error {
	h.mu.Lock()
	self, run, serving := h.self, h.run, h.serving
	h.mu.Unlock()
	if !self.Role.Backbone() {
		return fmt.Errorf("publish %v: %w: homes never publish", d.Kind, ErrNotAllowed)
	}
	if !serving {
		return fmt.Errorf("publish %v: %w: this node is not connected", d.Kind, ErrOffline)
	}
	raw, err := h.regs.book.Publish(run, d, h.key, self.CertHash)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	h.regs.mu.Lock()
	ps := h.regs.ps
	h.regs.mu.Unlock()
	if ps == nil {
		return nil // neighbours pull it
	}
	return ps.Publish(run, d.Kind, raw)
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

// spread hands an accepted register to the leaves that this node feeds.
func (r *registers) spread(e Envelope) {
	now := r.h.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.fed {
		if !e.ForLeaf(f.zone) {
			continue
		}
		if gossip.RuleOf(e.Kind).Feed == gossip.FeedSparse {
			if now.Sub(f.sparse[e.ID()]) < sparseEvery {
				continue
			}
			f.sparse[e.ID()] = now
		}
		select {
		case f.queue <- &e:
		default: // the leaf is slow; its next pull brings it
			r.h.stats.drop(DropFeedQueue)
		}
	}
}

// feedChanged starts or stops feeding a leaf, or looks for another parent.
func (r *registers) feedChanged(m Member) {
	if r.h.Self().Role.Leaf() {
		r.mu.Lock()
		if _, up := r.h.Connected(m.Peer); !up && r.feedFrom == m.Peer {
			r.feedFrom = ""
		}
		r.mu.Unlock()
		r.poke()
		return
	}
	wants := r.h.wantsFeed(m.Peer)
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.fed[m.Peer]
	if f != nil && !wants {
		close(f.stop)
		delete(r.fed, m.Peer)
	}
	if f != nil || !wants || !m.Role.Leaf() {
		return
	}
	f = &fed{zone: m.Zone, queue: make(chan *Envelope, fedQueue),
		sparse: map[gossip.ID]time.Time{}, stop: make(chan struct{})}
	started := r.h.Go(func(ctx context.Context) { r.feedLoop(ctx, m.Peer, f) })
	if started {
		r.fed[m.Peer] = f
	}
}

// wantsFeed reports whether an admitted peer asked for the feed on any connection.
func (h *Host) wantsFeed(p peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.peers[p], func(l *link) bool { return l.wantsFeed })
}

// feedLoop sends a leaf what it follows, as it comes.
func (r *registers) feedLoop(ctx context.Context, to peer.ID, f *fed) {
	busy := make(chan struct{}, fedAtOnce)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.stop:
			return
		case busy <- struct{}{}:
		}
		select {
		case <-ctx.Done():
			return
		case <-f.stop:
			return
		case e := <-f.queue:
			wg.Go(func() { r.feed(ctx, to, e); <-busy })
		}
	}
}

func (r *registers) feed(ctx context.Context, to peer.ID, e *Envelope) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	raw := e.Encode()
	service := Feed
	if gossip.RuleOf(e.Kind).Lane0 && len(raw) <= lane.MaxAlarmBody {
		service = FeedNow
	}
	if _, err := r.h.Call(ctx, to, service, raw); err != nil {
		r.h.stats.drop(DropFeedQueue) // its next pull brings it
	}
}

// takeFed is the leaf's end of the feed.
func (r *registers) takeFed(_ context.Context, from Member, raw []byte) ([]byte, error) {
	if d := r.offer(raw, gossip.Source{Pulled: true}); d.Action == gossip.Reject {
		r.h.log.Debug("parent fed a bad register", "reason", d.Reason)
		r.h.stats.drop(DropBadRegister)
	}
	return nil, nil
}

func (r *registers) answerSync(_ context.Context, from Member, req []byte) ([]byte, error) {
	if from.Role.Leaf() {
		return r.book.AnswerSync(req, func(e *Envelope) bool { return e.ForLeaf(from.Zone) })
	}
	return r.book.AnswerSync(req, func(*Envelope) bool { return true })
}

func (r *registers) answerCerts(_ context.Context, _ Member, req []byte) ([]byte, error) {
	r.h.trust.Lock()
	defer r.h.trust.Unlock()
	return gossip.AnswerCerts(req, r.h.roll.Chain)
}

// pull brings this node up to date from one member and returns how many registers it did not have.
func (r *registers) pull(ctx context.Context, from peer.ID, kinds ...gossip.Kind) (fresh int, err error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	for range maxRounds {
		raw, err := r.h.Call(ctx, from, Sync, r.book.AskSync(kinds...))
		if err != nil {
			return fresh, err
		}
		envelopes, more, err := gossip.ParseSync(raw)
		if err != nil {
			return fresh, err
		}
		taken, again := r.take(envelopes)
		if len(again) > 0 {
			if err := r.fetchCerts(ctx, from, again); err != nil {
				return fresh, err
			}
			n, _ := r.take(envelopes)
			taken += n
		}
		fresh += taken
		if !more || taken == 0 {
			return fresh, nil
		}
	}
	return fresh, nil
}

// take offers pulled envelopes and lists the certificates that some of them still need.
func (r *registers) take(envelopes [][]byte) (taken int, need [][32]byte) {
	for _, raw := range envelopes {
		d := r.book.Offer(raw, gossip.Source{Pulled: true})
		r.report(d)
		if d.Action == gossip.Accept {
			taken++
		}
		if d.NeedCert && !slices.Contains(need, d.Envelope.CertHash) {
			need = append(need, d.Envelope.CertHash)
		}
	}
	return taken, need
}

// fetchCerts asks one member for certificates and remembers those that verify.
func (r *registers) fetchCerts(ctx context.Context, from peer.ID, hashes [][32]byte) error {
	for part := range slices.Chunk(hashes, gossip.MaxCertAsk) {
		raw, err := r.h.Call(ctx, from, Cert, gossip.AskCerts(part))
		if err != nil {
			return err
		}
		chains, err := gossip.ParseCerts(raw)
		if err != nil {
			return err
		}
		r.h.trust.Lock()
		for _, chain := range chains {
			if len(chain) > 0 {
				_, _ = r.h.roll.Add(chain, r.h.clock.Now()) // what does not verify stays unknown
			}
		}
		r.h.trust.Unlock()
	}
	return nil
}

// certLoop fetches certificates that registers name and we do not know. What then comes by a pull heals "certificate
// unknown", because pubsub keeps ignored messages in its seen cache. Registers loaded after a restart are handed to
// their followers again, who could not ask for the publisher before.
func (r *registers) certLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.certWake:
		}
		r.mu.Lock()
		var hashes [][32]byte
		for hash := range r.missing {
			hashes = append(hashes, hash)
		}
		r.mu.Unlock()
		if len(hashes) == 0 {
			continue
		}
		for _, m := range r.h.backbonePeers() {
			if r.fetchCerts(ctx, m, hashes) != nil {
				continue
			}
			r.adopt(hashes)
			if _, err := r.pull(ctx, m, gossip.Kinds()...); err == nil {
				r.giveUp(hashes)
				break
			}
		}
	}
}

// giveUp forgets certificates that a neighbour was asked for: if they exist, a register will name them again.
func (r *registers) giveUp(hashes [][32]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, hash := range hashes {
		delete(r.missing, hash)
	}
}

// adopt forgets certificates that are known now, and hands on the registers that waited for them.
func (r *registers) adopt(hashes [][32]byte) {
	now := r.h.clock.Now()
	var known [][32]byte
	r.h.trust.Lock()
	for _, hash := range hashes {
		if _, err := r.h.roll.Lookup(hash, now); err == nil {
			known = append(known, hash)
		}
	}
	r.h.trust.Unlock()
	r.mu.Lock()
	for _, hash := range known {
		delete(r.missing, hash)
	}
	r.mu.Unlock()
	for _, k := range gossip.Kinds() {
		for _, e := range r.book.All(k) {
			if slices.Contains(known, e.CertHash) {
				r.book.Again(e)
			}
		}
	}
}

// orphans notes the certificates of loaded registers, which are not kept across a restart.
func (r *registers) orphans() {
	now := r.h.clock.Now()
	for _, k := range gossip.Kinds() {
		for _, e := range r.book.All(k) {
			r.h.trust.Lock()
			_, err := r.h.roll.Lookup(e.CertHash, now)
			r.h.trust.Unlock()
			if errors.Is(err, member.ErrUnknown) && len(r.missing) < member.MaxRoll {
				r.missing[e.CertHash] = true
			}
		}
	}
}

// backbonePeers lists connected backbone members in random order.
func (h *Host) backbonePeers() []peer.ID {
	var out []peer.ID
	for _, m := range h.Peers() {
		if m.Role.Backbone() {
			out = append(out, m.Peer)
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// backboneLoop pulls from one random neighbour a minute, and from each new one at once.
func (r *registers) backboneLoop(ctx context.Context) {
	swept := r.h.clock.Now()
	known := map[peer.ID]bool{}
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
			settled = time.After(settleTime)
		case <-settled: // what was published before the newcomer was in the mesh did not reach it, or us
			clear(known)
		case <-r.h.clock.After(backboneSync):
			clear(known)
		}
		for _, p := range r.h.backbonePeers() {
			if known[p] {
				continue
			}
			known[p] = true
			if _, err := r.pull(ctx, p, gossip.Kinds()...); err != nil {
				r.h.log.Debug("pull failed", "err", err)
			}
			break
		}
		if len(known) < len(r.h.backbonePeers()) && len(known) < 4 {
			r.poke() // a handful of fresh neighbours at start; then one a minute
		}
		swept = r.sweep(swept)
	}
}

// sweep forgets what nobody needs any more, once an hour.
func (r *registers) sweep(last time.Time) time.Time {
	now := r.h.clock.Now()
	if now.Sub(last) < sweepEvery {
		return last
	}
	r.h.trust.Lock()
	gone := r.set.Sweep(now)
	r.h.trust.Unlock()
	if err := r.h.store.DropRegisters(gone); err != nil {
		r.h.log.Warn("old registers not removed", "err", err)
	}
	return now
}

// leafLoop keeps a parent feeding us, and compares with a second one.
func (r *registers) leafLoop(ctx context.Context) {
	swept := r.h.clock.Now()
	var fedBy peer.ID
	for {
		now := r.ensureFeed(ctx)
		if now != "" && now != fedBy {
			if _, err := r.pull(ctx, now, gossip.Kinds()...); err == nil {
				fedBy = now
			}
		} else if now == "" {
			fedBy = ""
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-r.h.clock.After(leafSync):
			r.compare(ctx, fedBy)
			swept = r.sweep(swept)
		}
	}
}

// ensureFeed asks the first connected parent for the feed if none feeds us, and names the one that does.
func (r *registers) ensureFeed(ctx context.Context) peer.ID {
	r.mu.Lock()
	cur := r.feedFrom
	r.mu.Unlock()
	if cur != "" && r.h.admitted(cur) != nil {
		return cur
	}
	for _, p := range r.h.c.Parents {
		l := r.h.admitted(p.ID)
		if l == nil {
			continue
		}
		r.mu.Lock()
		r.feedFrom = p.ID
		r.mu.Unlock()
		if err := r.h.greet(l); err == nil {
			return p.ID
		}
		r.mu.Lock()
		r.feedFrom = ""
		r.mu.Unlock()
		if ctx.Err() != nil {
			return ""
		}
	}
	return ""
}

// wantsFeed decides what a leaf's hello to p says.
func (r *registers) wantsFeed(p peer.ID) bool {
	if r.h.self.Role.Backbone() || !slices.ContainsFunc(r.h.c.Parents, func(i peer.AddrInfo) bool { return i.ID == p }) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.feedFrom == "" {
		r.feedFrom = p
	}
	return r.feedFrom == p
}

// compare pulls from another parent than the feeding one. If it knows more in two rounds running, the parents see
// different directories, which may be an attack on this home's anonymity.
func (r *registers) compare(ctx context.Context, fedBy peer.ID) {
	for _, p := range r.h.backbonePeers() {
		if p == fedBy {
			continue
		}
		fresh, err := r.pull(ctx, p, gossip.Kinds()...)
		if err != nil {
			continue
		}
		if fresh == 0 {
			r.split = 0
			r.h.calm(WarnDirectorySplit)
		} else if r.split++; r.split >= 2 {
			r.h.warn(WarnDirectorySplit)
		}
		return
	}
}
