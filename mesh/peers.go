package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	redialFirst = time.Second     // pause after the first failure, doubled with each
	redialLast  = 5 * time.Minute // a street that lost its substation must not knock it over when it returns
	maxFailures = 4096            // peers whose last failure is remembered
)

// failure keeps callers from waiting for a dial that has just failed.
type failure struct {
	err   error
	until time.Time
}

// keeper holds a connection to one peer open.
type keeper struct {
	info   peer.AddrInfo
	users  int                // Keep calls without a Release; guarded by Host.mu
	cancel context.CancelFunc // nil before it runs; guarded by Host.mu
}

// Keep connects to a peer and reconnects whenever the connection ends, until as many Release calls or the end of Serve.
func (h *Host) Keep(p peer.AddrInfo) {
	if p.ID == h.ID() {
		return
	}
	h.Learn(p)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keepLocked(p)
}

func (h *Host) keepLocked(p peer.AddrInfo) {
	if k := h.keepers[p.ID]; k != nil {
		k.users++
		return
	}
	k := &keeper{info: p, users: 1}
	h.keepers[p.ID] = k
	if h.serving {
		h.startKeeper(k)
	}
}

// startKeeper runs the loop of k; h.mu is held and the host serves.
func (h *Host) startKeeper(k *keeper) {
	ctx, cancel := context.WithCancel(h.run)
	k.cancel = cancel
	h.wg.Go(func() { defer cancel(); h.keepLoop(ctx, k.info.ID) })
}

// Release ends what Keep began. After the last one the connections that this node opened to the peer close, so that
// they do not take up its router's table.
func (h *Host) Release(id peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.releaseLocked(id)
}

func (h *Host) releaseLocked(id peer.ID) {
	k := h.keepers[id]
	if k == nil {
		return
	}
	if k.users--; k.users == 0 {
		if k.cancel != nil {
			k.cancel()
		}
		delete(h.keepers, id)
		h.hangUp(id)
	}
}

// hangUp closes the connections that this node opened to a peer; h.mu is held.
func (h *Host) hangUp(id peer.ID) {
	for c := range h.links {
		if h.serving && c.RemotePeer() == id && c.Stat().Direction == network.DirOutbound {
			h.wg.Go(func() { _ = c.Close() }) // nothing more to say
		}
	}
}

// unkeptLife is how long a leaf's connection to a peer that nobody keeps may stay: a call began it.
const unkeptLife = time.Minute

// dropUnkept closes a leaf's connections to peers that nobody keeps. A home that relays keeps those that carry a stream:
// its neighbours end theirs when they have had nothing to send for ten minutes.
func (h *Host) dropUnkept() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.self.Role.Leaf() {
		return
	}
	now := h.clock.Now()
	for c, l := range h.links {
		switch {
		case h.keepers[c.RemotePeer()] != nil, h.c.Relay && len(c.GetStreams()) > 0:
			l.unkept = time.Time{}
		case l.unkept.IsZero():
			l.unkept = now
		case now.Sub(l.unkept) >= unkeptLife && h.c.Relay && h.serving: // whoever dialled: each costs keep-alives
			h.wg.Go(func() { _ = c.Close() }) // nothing more to say
		case now.Sub(l.unkept) >= unkeptLife:
			h.hangUp(c.RemotePeer())
		}
	}
}

// Learn remembers where a peer can be dialled.
func (h *Host) Learn(p peer.AddrInfo) {
	h.wire.Peerstore().AddAddrs(p.ID, p.Addrs, peerstore.PermanentAddrTTL)
}

// LearnText is Learn for addresses as text; what is no address is skipped.
func (h *Host) LearnText(id peer.ID, addrs []string) {
	p := peer.AddrInfo{ID: id}
	for _, a := range addrs {
		if m, err := ma.NewMultiaddr(a); err == nil {
			p.Addrs = append(p.Addrs, m)
		}
	}
	h.Learn(p)
}

// KeepID is Keep for a peer whose address is known or comes later.
func (h *Host) KeepID(id peer.ID) { h.Keep(peer.AddrInfo{ID: id}) }

func (h *Host) keepLoop(ctx context.Context, id peer.ID) {
	pause := redialFirst
	for ctx.Err() == nil {
		if l := h.admitted(id); l != nil {
			select {
			case <-l.ctx.Done():
			case <-ctx.Done():
			}
			pause = redialFirst
			continue
		}
		if _, err := h.connect(ctx, id); err == nil {
			pause = redialFirst
			continue
		}
		select {
		case <-h.clock.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, redialLast)
	}
}

// admitted gives the oldest live link to a peer, nil if there is none.
func (h *Host) admitted(id peer.ID) *link {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.peers[id] {
		if l.ctx.Err() == nil {
			return l
		}
	}
	return nil
}

// reach gives a link to a peer, dialling at most once. A peer that has just failed is ErrOffline at once.
func (h *Host) reach(ctx context.Context, id peer.ID) (*link, error) {
	if l := h.admitted(id); l != nil {
		return l, nil
	}
	h.mu.Lock()
	f, failed := h.failures[id]
	serving := h.serving
	h.mu.Unlock()
	switch {
	case !serving:
		return nil, fmt.Errorf("%w: this node is not connected", ErrOffline)
	case id == h.ID():
		return nil, fmt.Errorf("%w: a node does not call itself", ErrNotAllowed)
	case failed && h.clock.Now().Before(f.until):
		return nil, f.err
	case len(h.wire.Peerstore().Addrs(id)) == 0:
		return nil, fmt.Errorf("%w: no address is known", ErrOffline)
	}
	return h.connect(ctx, id)
}

// connect dials a peer and waits for its hello to end.
func (h *Host) connect(ctx context.Context, id peer.ID) (*link, error) {
	h.wire.swarm.Backoff().Clear(id) // our own pauses are on protocol time
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := h.wire.swarm.DialPeer(network.WithDialPeerTimeout(dctx, dialTimeout), id)
	if err != nil {
		return nil, h.failed(ctx, id, fmt.Errorf("%w: %w", ErrOffline, redact(err)))
	}
	l := h.linkOf(c)
	if l == nil {
		return nil, h.failed(ctx, id, fmt.Errorf("%w: connection closed at once", ErrOffline))
	}
	select {
	case <-l.settled:
	case <-dctx.Done():
		return nil, h.failed(ctx, id, fmt.Errorf("%w: no hello in time", ErrOffline))
	}
	h.mu.Lock()
	ok, err := l.admitted, l.err
	h.mu.Unlock()
	if !ok {
		return nil, h.failed(ctx, id, err)
	}
	return l, nil
}

// failed remembers a failure of the peer, not one of a caller that gave up.
func (h *Host) failed(ctx context.Context, id peer.ID, err error) error {
	if ctx.Err() != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.failures[id]; !known && len(h.failures) >= maxFailures {
		clear(h.failures) // costs one useless dial each
	}
	h.failures[id] = failure{err, h.clock.Now().Add(redialFirst)}
	switch {
	case errors.Is(err, ErrClock):
		h.warnLocked(WarnClockOff)
	case errors.Is(err, ErrRevoked):
		h.warnLocked(WarnRevoked)
	case errors.Is(err, ErrNotMember):
		h.warnLocked(WarnNotMember)
	}
	return err
}
