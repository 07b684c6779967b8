package mesh

import (
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

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
