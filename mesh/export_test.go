package mesh

import (
	"context"
	"flag"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Long runs the long versions of the tests.
var Long = flag.Bool("long", false, "publish 1000 control signals at the most that a publisher may, two minutes; fill hosts up to all their limits")

// NewStranger makes a bare libp2p host that speaks nothing by itself and keeps to no limits.
func NewStranger(key crypto.PrivKey) (host.Host, error) {
	loose := Limits{ConnsOut: 1 << 12, TransientConns: 1 << 12, TransientStreams: 1 << 12, StreamsPerPeer: 1 << 12, MemoryBytes: 1 << 32}
	return newWire(key, loose, newGater(wallClock{}), nil, nil)
}

// Conn is the oldest connection to a member, nil if there is none.
func (h *Host) Conn(id peer.ID) network.Conn {
	if l := h.admitted(id); l != nil {
		return l.conn
	}
	return nil
}

// SetPatience sets how long the end of Serve waits. Call it before Serve.
func (h *Host) SetPatience(d time.Duration) { h.patience = d }

// CallOrder lists the parents in the order in which CallParents asks them.
func (h *Host) CallOrder() []peer.ID { return h.callOrder() }

// Pull brings h up to date from one member, in one kind, and gives how many registers were new.
func (h *Host) Pull(ctx context.Context, from peer.ID, k Kind) (int, error) {
	fresh, err := h.regs.pull(ctx, from, k)
	return len(fresh), err
}

// Replace replaces the handler of a service.
func (h *Host) Replace(s Service, fn HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handlers[s] = fn
}

// MaxRounds is the most pages of one pull.
const MaxRounds = maxRounds
