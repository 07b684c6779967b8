package mesh

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
)

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

// pull brings this node up to date from one member and returns the registers that it did not have.
func (r *registers) pull(ctx context.Context, from peer.ID, kinds ...gossip.Kind) (fresh []gossip.Have, err error) {
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
			late, _ := r.take(envelopes)
			taken = append(taken, late...)
		}
		fresh = append(fresh, taken...)
		if !more || len(taken) == 0 {
			return fresh, nil
		}
	}
	return fresh, nil
}

// take offers pulled envelopes and lists the certificates that some of them still need.
func (r *registers) take(envelopes [][]byte) (taken []gossip.Have, need [][32]byte) {
	for _, raw := range envelopes {
		d := r.book.Offer(raw, gossip.Source{Pulled: true})
		r.report(d)
		if d.Action == gossip.Accept {
			taken = append(taken, gossip.Have{Kind: d.Envelope.Kind, ID: d.Envelope.ID(), Version: d.Envelope.Version})
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
		for _, m := range r.sources() {
			if len(hashes) == 0 || r.fetchCerts(ctx, m, hashes) != nil {
				continue
			}
			open := len(hashes)
			if hashes = r.adopt(hashes); len(hashes) == open {
				continue // it knows none of them
			}
			if _, err := r.pull(ctx, m, gossip.Kinds()...); err != nil {
				r.h.log.Debug("pull failed", "err", err)
			}
		}
		r.giveUp(hashes)
	}
}

// sources lists the neighbours to ask: a leaf's feeding parent first, since what is missing came from there, then the
// others in random order.
func (r *registers) sources() []peer.ID {
	r.mu.Lock()
	first := r.feedFrom
	r.mu.Unlock()
	peers := r.h.backbonePeers()
	if i := slices.Index(peers, first); i > 0 {
		peers[0], peers[i] = peers[i], peers[0]
	}
	return peers
}

// giveUp forgets certificates that were found, or that no neighbour has: then a register will name them again.
func (r *registers) giveUp(hashes [][32]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, hash := range hashes {
		delete(r.missing, hash)
	}
}

// adopt forgets certificates that are known now, hands on the registers that waited for them, and returns the others.
func (r *registers) adopt(hashes [][32]byte) (unknown [][32]byte) {
	now := r.h.clock.Now()
	var known [][32]byte
	r.h.trust.Lock()
	for _, hash := range hashes {
		if _, err := r.h.roll.Lookup(hash, now); errors.Is(err, member.ErrUnknown) {
			unknown = append(unknown, hash)
		} else {
			known = append(known, hash)
		}
	}
	r.h.trust.Unlock()
	r.giveUp(known)
	for _, k := range gossip.Kinds() {
		for _, e := range r.book.All(k) {
			if slices.Contains(known, e.CertHash) {
				r.book.Again(e)
			}
		}
	}
	return unknown
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
			r.h.Go(r.h.meetOne)
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

// meetOne dials one more backbone member while few are connected, so that gossip does not hang on one seed.
func (h *Host) meetOne(ctx context.Context) {
	if len(h.backbonePeers()) >= fewNeighbours {
		return
	}
	var known []peer.ID
	for _, p := range h.wire.Peerstore().PeersWithAddrs() {
		if p != h.ID() && h.admitted(p) == nil && !h.homePeer(p) {
			known = append(known, p)
		}
	}
	if len(known) > 0 {
		_, _ = h.reach(ctx, known[rand.N(len(known))]) // another one in a minute
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
