package mesh

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// ClockSample is what one backbone member's hello said about the time. Backbone clocks must be right, so several that
// agree against ours mean that ours is wrong. Only the part of the difference that the exchange itself cannot explain
// counts: 0 means that the clocks agree as far as can be told.
type ClockSample struct {
	Off time.Duration // the member's clock minus ours
	At  time.Time     // when it was heard, on our clock
}

// maxClockSamples bounds what is remembered; the oldest goes first.
const maxClockSamples = 64

// clockBook holds the newest sample of each member. The zero value is ready.
type clockBook struct {
	mu  sync.Mutex
	all map[peer.ID]ClockSample
}

func (b *clockBook) note(id peer.ID, s ClockSample) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all == nil {
		b.all = map[peer.ID]ClockSample{}
	}
	if _, have := b.all[id]; !have && len(b.all) >= maxClockSamples {
		var oldest peer.ID
		for p, o := range b.all {
			if oldest == "" || o.At.Before(b.all[oldest].At) {
				oldest = p
			}
		}
		delete(b.all, oldest)
	}
	b.all[id] = s
}

// Clocks gives the newest clock sample of each backbone member that was met, at most 64, newest first. Refused hellos
// count too: who is refused for its clock may be right.
func (h *Host) Clocks() []ClockSample {
	h.heard.mu.Lock()
	defer h.heard.mu.Unlock()
	out := make([]ClockSample, 0, len(h.heard.all))
	for _, s := range h.heard.all {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b ClockSample) int { return b.At.Compare(a.At) })
	return out
}

// Kept lists the peers that this host keeps a connection to, with the addresses it was told, ordered by id.
func (h *Host) Kept() []peer.AddrInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []peer.AddrInfo
	for id := range h.keepers {
		out = append(out, peer.AddrInfo{ID: id, Addrs: h.wire.Peerstore().Addrs(id)})
	}
	slices.SortFunc(out, func(a, b peer.AddrInfo) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	return out
}

// RoundTrip asks a member whether it is there and gives the wall time until its answer. Errors are those of Call.
func (h *Host) RoundTrip(ctx context.Context, to peer.ID) (time.Duration, error) {
	began := time.Now()
	_, err := h.Call(ctx, to, Probe, nil)
	return time.Since(began), err
}

// BudgetUsed is how many percent of the day's data budget are used, in the worse direction, and the budget in bytes each
// way; 0 bytes means that there is none.
func (h *Host) BudgetUsed() (percent, daily int64) {
	daily = h.dailyBytes()
	if daily == 0 {
		return 0, 0
	}
	up, down := h.Spent()
	return max(up, down) * 100 / daily, daily
}
