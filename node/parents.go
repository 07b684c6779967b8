package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/route"
	"gridveil/node/clock"
	"gridveil/node/role"
)

const (
	leafParents   = 3  // SSNs that a leaf stays connected to, and so the entries in its router's table
	backboneLinks = 24 // backbone members that one of them stays connected to
	parentsPeriod = time.Minute
	parentsFirst  = 5 * time.Second // while no substation answers: a contact has the place of one until then
	parentsSettle = time.Second     // registers of the directory come in groups
	linkAway      = 2 * parentsPeriod
)

// keepParents holds connections to members that the directory names, so that an
// enrolment's one contact is enough to start with: a leaf to three substations,
// a backbone member to the others. It looks again whenever the directory changes.
func (n *Node) keepParents(ctx context.Context) error {
	news := make(chan struct{}, 1)
	n.Host.Follow(gossip.KindDirectory, nil, func(gossip.Envelope) {
		select {
		case news <- struct{}{}:
		default: // one look serves them all
		}
	})
	contacts := n.Host.Parents()
	if c, err := infos(n.ID.Contacts); err != nil {
		return err
	} else if len(c) > 0 {
		contacts = c
	}
	configured, err := infos(n.Config.Mesh.Parents)
	if err != nil {
		return err
	}
	kept := map[peer.ID]bool{}
	began := n.Clock.Now()
	for {
		again := parentsPeriod
		if n.Host.Self().Role.Leaf() {
			all := n.candidates(configured)
			up := func(id peer.ID) bool { _, up := n.Host.Connected(id); return up }
			if err := n.Host.SetParents(chooseParents(all, n.Host.Parents(), n.Onion.Guards(), inTurn(contacts, n.Clock.Now().Sub(began)), up)); err != nil {
				return err
			}
			if !slices.ContainsFunc(all, func(c candidate) bool { return up(c.info.ID) }) {
				again = parentsFirst
			}
			n.tellLinks()
		} else {
			all := n.candidates(nil)
			for _, c := range all[:min(backboneLinks, len(all))] {
				n.Host.Learn(c.info) // a node may have moved to another machine
				if !kept[c.info.ID] {
					kept[c.info.ID] = true
					n.Host.Keep(c.info)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.Clock.After(again):
		case <-news:
			if !clock.Sleep(ctx, n.Clock, parentsSettle) {
				return nil
			}
		}
	}
}

// tellLinks shows the owner which of a leaf's links are gone: one is a notice,
// since the others carry everything.
func (n *Node) tellLinks() {
	parents, up := n.Host.Parents(), 0
	for _, p := range parents {
		if _, ok := n.Host.Connected(p.ID); ok {
			up++
		}
	}
	now := n.Clock.Now()
	n.Warn.Set(len(parents) > 0 && up == 0, role.Warning{Code: "parents-offline", Severity: role.Problem, Title: "No substation can be reached",
		Text: "Reports, alarms and private messages wait here and leave when one answers. Nothing is lost.",
		Next: "Check the Internet connection of this node, then `gridveil doctor`.", After: linkAway}, now)
	n.Warn.Set(up > 0 && up < len(parents), role.Warning{Code: "parent-away", Severity: role.Notice, Title: fmt.Sprintf("%d of %d substations cannot be reached", len(parents)-up, len(parents)),
		Text: "The others carry reports, alarms and private messages. Nothing is lost.",
		Next: "Nothing to do if it passes within a day; else tell your operator.", After: linkAway}, now)
}

// inTurn names the contact to try, another one each minute.
func inTurn(contacts []peer.AddrInfo, since time.Duration) []peer.AddrInfo {
	if len(contacts) == 0 {
		return nil
	}
	i := max(0, int(since/parentsPeriod)) % len(contacts)
	return contacts[i : i+1]
}

// candidate is a member that this node may stay connected to.
type candidate struct {
	operator string
	info     peer.AddrInfo
}

// candidates lists the members that the directory names as such, best first: of
// the own zone, then the configured ones in their order, then by key. A leaf
// connects to substations only, a wallet to its issuer's only where there are too
// few others: its guards are among them (route.Guards.Avoid).
func (n *Node) candidates(configured []peer.AddrInfo) []candidate {
	self := n.Host.Self()
	type ranked struct {
		candidate
		m    mesh.Member
		rank int
	}
	var all []ranked
	for _, e := range n.Host.Registers(gossip.KindDirectory) {
		if e.Key != gossip.KeyOnion {
			continue
		}
		m, err := n.Host.Publisher(e)
		if err != nil || m.Peer == self.Peer || m.Role.Leaf() || self.Role.Leaf() && m.Role != member.RoleSSN {
			continue // not usable now, or not one to connect to: a home that relays is dialled for packets only
		}
		info, ok := addresses(m, e.Body)
		if !ok {
			continue
		}
		rank := 1 + len(configured)
		if i := slices.IndexFunc(configured, func(p peer.AddrInfo) bool { return p.ID == m.Peer }); i >= 0 {
			rank = 1 + i
		}
		if m.Zone == self.Zone {
			rank = 0
		}
		all = append(all, ranked{candidate{m.Operator, info}, m, rank})
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), slices.Compare(a.m.Key[:], b.m.Key[:]))
	})
	var out []candidate
	for _, c := range all {
		out = append(out, c.candidate)
	}
	if self.Role == member.RoleWallet {
		return withoutIssuer(out, self.Operator)
	}
	return out
}

// withoutIssuer leaves out the operator that issued a wallet, if others suffice: it knows whose wallet it is, and would
// learn from its own substations where the driver is.
func withoutIssuer(all []candidate, issuer string) []candidate {
	others := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return c.operator == issuer })
	if len(others) < route.GuardCount {
		return all
	}
	return others
}

// chooseParents gives a leaf its parents, best first, at most leafParents: its
// guards, which it has to reach anyway, then the best of all others, of operators
// that have none among them as far as there are, so that loops may come back by
// every operator. contact takes the last place only while none of the parents
// answers; now is what the leaf has, and keeps while it knows of
// no substation.
func chooseParents(all []candidate, now []peer.AddrInfo, guards []peer.ID, contact []peer.AddrInfo, up func(peer.ID) bool) []peer.AddrInfo {
	if len(all) == 0 {
		for _, p := range now {
			all = append(all, candidate{info: p})
		}
	}
	chosen := fill(all, guards, leafParents)
	if !slices.ContainsFunc(chosen, func(c candidate) bool { return up(c.info.ID) }) {
		chosen = fill(all, guards, leafParents-len(contact))
	} else {
		contact = nil
	}
	var out []peer.AddrInfo
	for _, c := range all { // in order of preference
		if slices.ContainsFunc(chosen, func(o candidate) bool { return o.info.ID == c.info.ID }) {
			out = append(out, c.info)
		}
	}
	for _, p := range contact {
		if !slices.ContainsFunc(out, func(o peer.AddrInfo) bool { return o.ID == p.ID }) {
			out = append(out, p)
		}
	}
	return out
}

// fill chooses up to limit candidates: guards, the best one, then others.
func fill(all []candidate, guards []peer.ID, limit int) []candidate {
	var chosen []candidate
	operators := map[string]bool{}
	take := func(allowed func(candidate) bool) {
		for _, c := range all {
			taken := slices.ContainsFunc(chosen, func(o candidate) bool { return o.info.ID == c.info.ID })
			if len(chosen) < limit && !taken && allowed(c) {
				chosen, operators[c.operator] = append(chosen, c), true
			}
		}
	}
	take(func(c candidate) bool { return slices.Contains(guards, c.info.ID) })
	take(func(c candidate) bool { return c.info.ID == all[0].info.ID })
	take(func(c candidate) bool { return !operators[c.operator] })
	take(func(candidate) bool { return true })
	return chosen
}

// infos parses multiaddrs with /p2p/ peer ids, merging those of one peer.
func infos(texts []string) ([]peer.AddrInfo, error) {
	addrs, err := multiaddrs(texts)
	if err != nil {
		return nil, err
	}
	return peer.AddrInfosFromP2pAddrs(addrs...)
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
