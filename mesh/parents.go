package mesh

import (
	"fmt"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	stateParents = "parents"
	maxParents   = 8 // far above the three of a leaf
)

// SetParents replaces the parents that Config.Parents began with, best first, at most 8: they are kept connected, feed
// a leaf and take its alarms; connections to those that are no parents any more close. They are durable: after a
// restart they are the parents, because certificates, which say who is an SSN, have to be asked for first.
func (h *Host) SetParents(parents []peer.AddrInfo) error {
	parents = h.distinct(parents)
	if slices.EqualFunc(parents, h.Parents(), sameInfo) {
		return nil
	}
	var text []string
	for _, p := range parents {
		addrs, err := peer.AddrInfoToP2pAddrs(&p)
		if err != nil {
			return fmt.Errorf("parent: %w", err)
		}
		for _, a := range addrs {
			text = append(text, a.String())
		}
	}
	if err := h.store.SaveState(stateParents, []byte(strings.Join(text, "\n"))); err != nil {
		return fmt.Errorf("save parents: %w", err)
	}
	h.useParents(parents)
	h.regs.poke()
	return nil
}

// Parents lists the parents, best first.
func (h *Host) Parents() []peer.AddrInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.parents)
}

func sameInfo(a, b peer.AddrInfo) bool {
	return a.ID == b.ID && slices.EqualFunc(a.Addrs, b.Addrs, ma.Multiaddr.Equal)
}

// distinct drops this node itself and merges entries of one peer.
func (h *Host) distinct(parents []peer.AddrInfo) []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, p := range parents {
		i := slices.IndexFunc(out, func(o peer.AddrInfo) bool { return o.ID == p.ID })
		switch {
		case p.ID == h.ID():
		case i >= 0:
			out[i].Addrs = append(slices.Clone(out[i].Addrs), p.Addrs...)
		case len(out) < maxParents || !h.self.Role.Leaf():
			out = append(out, p)
		}
	}
	return out
}

// useParents keeps the new parents, then lets the old ones go, so that what stays is not closed in between.
func (h *Host) useParents(parents []peer.AddrInfo) {
	for _, p := range parents {
		h.Learn(p)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.parents
	h.parents = parents
	for _, p := range parents {
		if !containsPeer(old, p.ID) {
			h.keepLocked(p)
		}
	}
	for _, p := range old {
		if !containsPeer(parents, p.ID) {
			h.releaseLocked(p.ID)
		}
	}
}

func containsPeer(list []peer.AddrInfo, id peer.ID) bool {
	return slices.ContainsFunc(list, func(p peer.AddrInfo) bool { return p.ID == id })
}

// loadParents gives the parents that were set before the restart, else the configured ones.
func (h *Host) loadParents() ([]peer.AddrInfo, error) {
	raw, err := h.store.LoadState(stateParents)
	if err != nil {
		return nil, fmt.Errorf("load parents: %w", err)
	}
	var parents []peer.AddrInfo
	for _, line := range strings.Fields(string(raw)) {
		p, err := peer.AddrInfoFromString(line)
		if err != nil {
			return nil, fmt.Errorf("stored parents: %w", err)
		}
		parents = append(parents, *p)
	}
	if len(parents) == 0 {
		parents = h.c.Parents
	}
	return h.distinct(parents), nil
}

// callOrder lists the parents to call: connected ones first, so that one that is down costs no time.
func (h *Host) callOrder() []peer.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var up, down []peer.ID
	for _, p := range h.parents {
		if len(h.peers[p.ID]) > 0 && h.wire.Network().Connectedness(p.ID) == network.Connected {
			up = append(up, p.ID)
		} else {
			down = append(down, p.ID)
		}
	}
	return append(up, down...)
}
