package mesh

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"gridveil/mesh/gossip"
	"gridveil/mesh/lane"
)

// fed is one leaf that gets registers as they come.
type fed struct {
	zone   string
	queue  chan *Envelope // shared by all fed leaves
	sparse map[gossip.ID]time.Time
	stop   chan struct{} // closed when the leaf no longer wants it
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
	if r.h.c.Relay && !containsPeer(r.h.Parents(), from.Peer) {
		r.h.stats.drop(DropNotAllowed) // whoever relays by this home feeds it nothing
		return nil, &RemoteError{Code: lane.CodeRefused, Text: "not a parent of this home"}
	}
	if d := r.offer(raw, gossip.Source{Pulled: true}); d.Action == gossip.Reject {
		r.h.log.Debug("parent fed a bad register", "reason", d.Reason)
		r.h.stats.drop(DropBadRegister)
	}
	return nil, nil
}

// leafLoop keeps a parent feeding us, and compares with a second one.
func (r *registers) leafLoop(ctx context.Context) {
	swept := r.h.clock.Now()
	var fedBy peer.ID
	round := 0
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
			if round++; r.h.Thrift() < ThriftSlow || round%thriftySync == 0 {
				r.compare(ctx, fedBy)
			}
			swept = r.sweep(swept)
		}
	}
}

// ensureFeed asks the first connected parent for the feed if none feeds us, and names the one that does.
func (r *registers) ensureFeed(ctx context.Context) peer.ID {
	parents := r.h.Parents()
	if r.h.Thrift() >= ThriftScarce {
		r.stopFeed()
		return ""
	}
	r.mu.Lock()
	if !containsPeer(parents, r.feedFrom) {
		r.feedFrom = ""
	}
	cur := r.feedFrom
	r.mu.Unlock()
	if cur != "" && r.h.admitted(cur) != nil {
		return cur
	}
	for _, p := range parents {
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

// stopFeed tells the feeding parent that the live feed has to wait for the next day's data; rare pulls go on.
func (r *registers) stopFeed() {
	r.mu.Lock()
	was := r.feedFrom
	r.feedFrom = ""
	r.mu.Unlock()
	if l := r.h.admitted(was); l != nil {
		_ = r.h.greet(l) // our hello now asks for none; a parent that did not hear it feeds on
	}
}

// wantsFeed decides what a leaf's hello to p says.
func (r *registers) wantsFeed(p peer.ID) bool {
	if r.h.self.Role.Backbone() || !containsPeer(r.h.Parents(), p) || r.h.Thrift() >= ThriftScarce {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.feedFrom == "" {
		r.feedFrom = p
	}
	return r.feedFrom == p
}

// compare brings a leaf up to date from its second parent, or from the only one. A directory register that the second
// parent shows and the feeding one still does not have a round later means that the two see different directories, which
// may be an attack on this home's anonymity.
func (r *registers) compare(ctx context.Context, fedBy peer.ID) {
	second := r.secondParent(fedBy)
	if fedBy == "" || second == "" {
		r.lacking = nil
		r.h.calm(WarnDirectorySplit)
		if one := cmp.Or(fedBy, second); one != "" {
			_, _ = r.pull(ctx, one, r.pulled()...) // what the feed lost; again in five minutes
		}
		return
	}
	fresh, err := r.pull(ctx, second, r.pulled()...)
	if err != nil {
		return
	}
	if r.lackedBy != fedBy {
		r.lacking, r.lackedBy = nil, fedBy
	}
	ask := map[gossip.ID]uint64{}
	for _, have := range r.book.Held(gossip.KindDirectory) {
		if v, open := r.lacking[have.ID]; open && v == have.Version || slices.Contains(fresh, have) {
			ask[have.ID] = have.Version
		}
	}
	lacking, err := r.lackingAt(ctx, fedBy, ask)
	if err != nil {
		return
	}
	split := false
	for id, v := range lacking {
		split = split || r.lacking[id] == v
	}
	if r.lacking = lacking; split {
		r.h.warn(WarnDirectorySplit)
	} else {
		r.h.calm(WarnDirectorySplit)
	}
}

// pulled lists the kinds that a leaf pulls: with little data left, not the signals that are worthless after minutes.
func (r *registers) pulled() []gossip.Kind {
	if r.h.Thrift() < ThriftScarce {
		return gossip.Kinds()
	}
	return []gossip.Kind{gossip.KindTrust, gossip.KindDirectory, gossip.KindPrice, gossip.KindAlarm}
}

// secondParent names the best connected parent besides the feeding one.
func (r *registers) secondParent(fedBy peer.ID) peer.ID {
	for _, p := range r.h.Parents() {
		if p.ID != fedBy && r.h.admitted(p.ID) != nil {
			return p.ID
		}
	}
	return ""
}

// lackingAt asks a parent for directory registers of these versions or newer, and returns those that it does not show.
func (r *registers) lackingAt(ctx context.Context, at peer.ID, ids map[gossip.ID]uint64) (map[gossip.ID]uint64, error) {
	lacking := maps.Clone(ids)
	for range maxRounds {
		if len(lacking) == 0 {
			return lacking, nil
		}
		ctx, cancel := context.WithTimeout(ctx, pullTimeout)
		raw, err := r.h.Call(ctx, at, Sync, r.book.AskSyncFor(lacking, gossip.KindDirectory))
		cancel()
		if err != nil {
			return nil, err
		}
		envelopes, more, err := gossip.ParseSync(raw)
		if err != nil {
			return nil, err
		}
		shown := 0
		for _, raw := range envelopes {
			e, err := gossip.ParseEnvelope(raw)
			if v, asked := lacking[e.ID()]; err == nil && asked && e.Version >= v {
				delete(lacking, e.ID())
				shown++
			}
		}
		if !more || shown == 0 {
			return lacking, nil
		}
	}
	return lacking, nil
}
