package mesh

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	denyFor = 10 * time.Minute // how long a peer that broke the rules stays out
	maxDeny = 4096             // the oldest entries go first; a fresh key costs a stranger nothing anyway
)

// gater keeps denied peers out as soon as their key is known. Membership is not its business: it sees only a peer id.
type gater struct {
	clock Clock

	mu    sync.Mutex
	until map[peer.ID]time.Time
}

func newGater(c Clock) *gater { return &gater{clock: c, until: map[peer.ID]time.Time{}} }

// deny keeps p out for ten minutes.
func (g *gater) deny(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Now()
	if len(g.until) >= maxDeny {
		oldest, at := p, now.Add(denyFor)
		for q, t := range g.until {
			if t.Before(at) {
				oldest, at = q, t
			}
		}
		delete(g.until, oldest)
	}
	g.until[p] = now.Add(denyFor)
}

func (g *gater) allowed(p peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, denied := g.until[p]
	if denied && !g.clock.Now().Before(until) {
		delete(g.until, p)
		return true
	}
	return !denied
}

func (g *gater) InterceptPeerDial(p peer.ID) bool             { return g.allowed(p) }
func (g *gater) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }
func (g *gater) InterceptAccept(network.ConnMultiaddrs) bool  { return true }
func (g *gater) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return g.allowed(p)
}
func (g *gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
