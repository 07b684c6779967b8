package node

import (
	"context"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/route"
	"gridveil/node/clock"
)

const (
	leafParents   = 3  // SSNs that a leaf stays connected to
	backboneLinks = 24 // backbone members that one of them stays connected to
	parentsPeriod = time.Minute
	parentsSettle = time.Second // registers of the directory come in groups
)

// keepParents holds connections to members that the directory names, so that an
// enrolment's one contact is enough to start with: a leaf to substations, its
// own zone's first; a backbone member to the others. It looks again whenever the
// directory changes.
func (n *Node) keepParents(ctx context.Context) error {
	news := make(chan struct{}, 1)
	n.Host.Follow(gossip.KindDirectory, nil, func(gossip.Envelope) {
		select {
		case news <- struct{}{}:
		default: // one look serves them all
		}
	})
	kept := map[peer.ID]bool{}
	for {
		for _, p := range n.wanted() {
			if !kept[p.ID] {
				kept[p.ID] = true
				n.Host.Keep(p)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.Clock.After(parentsPeriod):
		case <-news:
			if !clock.Sleep(ctx, n.Clock, parentsSettle) {
				return nil
			}
		}
	}
}

// wanted lists the members to stay connected to, best first.
func (n *Node) wanted() []peer.AddrInfo {
	self := n.Host.Self()
	type candidate struct {
		m    mesh.Member
		info peer.AddrInfo
	}
	var all []candidate
	for _, e := range n.Host.Registers(gossip.KindDirectory) {
		if e.Key != gossip.KeyOnion {
			continue
		}
		m, err := n.Host.Publisher(e)
		if err != nil || m.Peer == self.Peer || self.Role.Leaf() && m.Role != member.RoleSSN {
			continue // not usable now, or not one to connect to
		}
		if info, ok := addresses(m, e.Body); ok {
			all = append(all, candidate{m, info})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if near, far := a.m.Zone == self.Zone, b.m.Zone == self.Zone; near != far {
			if near {
				return -1
			}
			return 1
		}
		return slices.Compare(a.m.Key[:], b.m.Key[:])
	})
	limit := backboneLinks
	if self.Role.Leaf() {
		limit = leafParents
	}
	var out []peer.AddrInfo
	for _, c := range all[:min(limit, len(all))] {
		out = append(out, c.info)
	}
	return out
}

func addresses(m mesh.Member, body []byte) (peer.AddrInfo, bool) {
	k, err := route.ParseKeys(body)
	if err != nil {
		return peer.AddrInfo{}, false // the publisher's fault; it cannot be dialled
	}
	info := peer.AddrInfo{ID: m.Peer}
	for _, a := range k.Addresses {
		if addr, err := ma.NewMultiaddr(a); err == nil {
			info.Addrs = append(info.Addrs, addr)
		}
	}
	return info, len(info.Addrs) > 0
}
