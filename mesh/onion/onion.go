// Package onion carries requests and answers over three relays, so that who asks, who answers and who forwards do not
// learn of each other: the shell around packages packet, mix and route.
//
// An [Onion] stands on a [mesh.Host]. On a leaf it sends: [Onion.Call] and [Onion.Carry]. On a substation it relays; on
// any backbone member it receives: [Onion.Handle]. Start with [New], register handlers, then run [Onion.Serve] beside
// the host's.
//
// What it guarantees: a private class refuses to send below the network's floor and says why ([Onion.Status]); a leaf's
// link shows slots that do not depend on what it has to say (class meter); a request is handled at most once while its
// answer is remembered; a call ends with the answer or with an error that says what is known. What it does not: timing
// of class session shows on the sender's link, and class lab hides little. Nothing is kept on disk here but guards and
// the sealing key; records that wait are the caller's.
//
// Locks: Onion.mu guards what a sender knows, relay.mu the intake, relay.keysMu the onion keys. None is held while
// taking another, except keysMu, which may be taken under Onion.mu, and Onion.mu under switching. Source: doc/design.md, onion.
package onion

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
	"gridveil/mesh/route"
)

// Recipient is a backbone member, named by its key.
type Recipient = member.Key

// Store keeps the guards of a leaf and the sealing key of a recipient; mesh.Stores is one. It holds a secret: node
// encrypts what it stores.
type Store interface {
	LoadState(name string) ([]byte, error)
	SaveState(name string, value []byte) error
}

// Config says what an Onion does. The zero value suits every role.
type Config struct {
	// GuardsKept says that whoever runs this onion keeps its guards (Onion.Guards) connected, as they share a leaf's few
	// connections with its other parents.
	GuardsKept bool

	Relay    bool         // a backbone member that is no SSN, or a gateway with mesh.Config.Relay, relays too; SSNs always do
	Decoys   bool         // a leaf sends decoys of class session, four a day; experimental
	MinSet   int          // own floor of class meter, when above the network's
	MinHomes int          // own floor of homes enrolled, when above the network's
	Intake   [2]mix.Rate  // most that a leaf and that a backbone neighbour may send; zero means mix.LeafRate and mix.RelayRate
	Rand     io.Reader    // nil means crypto/rand
	Log      *slog.Logger // nil discards
	Store    Store        // nil keeps nothing: new guards at every start
}

// HandlerFunc answers a request that came by onion. There is no sender to know. A returned error travels back as its
// text: write no identity into it. Answers are due at once; what takes longer is polled by another service.
type HandlerFunc func(ctx context.Context, body []byte) ([]byte, error)

const (
	guardPatience = 2 * time.Minute // until a guard that does not answer counts as down
	settle        = 5 * time.Second // without a relay that is new, until the first guards are drawn
	tick          = time.Minute     // keys, directory, guards, lost loops
	maxHandlers   = 64              // requests handled at once; more are dropped and retried
	deliverQueue  = 256             // packets waiting to be opened
	maxWaiting    = 512             // packets of class meter that wait for a slot
	maxCalls      = 256             // calls open at once
	answerSpare   = 2 * time.Second // between a request's arrival and its answer's departure, as planned
	defaultAnswer = 2               // packets that an answer may use, for services not named in answerPackets
	maxAnswerSize = packet.MaxBody - 1
)

// answerPackets says how many packets an answer may need; more reply blocks make the request longer.
var answerPackets = map[mesh.Service]int{
	mesh.Notes: 6, mesh.EVCollect: 6, mesh.Deck: 8, mesh.Dispute: 4, mesh.Pass: 4,
	mesh.AggShare: 1, // taken or refused; so a report fits two packets
}

// Onion is one node's end of the onion network. Its methods are safe for concurrent use.
type Onion struct {
	h     *mesh.Host
	c     Config
	rnd   io.Reader
	log   *slog.Logger
	clock mesh.Clock
	self  packet.NodeKey
	role  member.Role
	relay *relay
	out   *neighbours
	seals *seals

	delivered chan *packet.Packet // to the recipient loop
	handling  chan struct{}       // slots for running handlers

	switching sync.Mutex // held while the switch is stored, before mu
	off       atomic.Bool
	republish chan struct{} // capacity 1: what the directory says of this node has changed

	mu       sync.Mutex // guards what follows
	dir      *route.Directory
	known    map[packet.NodeKey]bool // every member that was ever in the directory
	snap     *route.Snapshot         // never nil once New returned
	guards   *route.Guards
	kept     map[packet.NodeKey]bool // guards that we hold a connection to
	lastUp   map[packet.NodeKey]time.Time
	began    time.Time
	grown    time.Time // when a relay was last added to the directory
	health   route.Health
	loops    mix.Loops
	slots    schedule
	shape    mix.Shape
	slotMean time.Duration
	replies  map[packet.ReplyID]*openReply
	late     map[packet.ReplyID]time.Time // of answered calls, until when they may still come back; at most MaxOpenReplies
	answers  packet.Assembler             // of answers to us
	calls    int
	stats    stats
	handlers map[mesh.Service]HandlerFunc
	wake     chan struct{} // slots changed
	offSince time.Time     // zero while on
	stopped  chan struct{} // closed while off

	sessionTook time.Duration // by the last real request of class session that was handled here, wall time; for decoys

	announced bool // home: the directory says that it relays
	relaying  bool // home: it would, as refresh last saw
	reach     mesh.Reachability
	reachedAt time.Time // when a parent was last asked
}

// New prepares an Onion on h. Handlers are registered before Serve.
func New(h *mesh.Host, c Config) (*Onion, error) {
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Store == nil {
		c.Store = nothing{}
	}
	self := h.Self()
	policy := h.Bundle().Policy
	o := &Onion{h: h, c: c, rnd: c.Rand, log: c.Log, clock: h.Clock(), self: packet.NodeKey(self.Key), role: self.Role,
		delivered: make(chan *packet.Packet, deliverQueue), handling: make(chan struct{}, maxHandlers),
		dir: route.NewDirectory(policy.Epoch()), known: map[packet.NodeKey]bool{}, kept: map[packet.NodeKey]bool{},
		lastUp: map[packet.NodeKey]time.Time{}, began: h.Clock().Now(), slotMean: policy.Slot(),
		replies: map[packet.ReplyID]*openReply{}, late: map[packet.ReplyID]time.Time{}, handlers: map[mesh.Service]HandlerFunc{}, wake: make(chan struct{}, 1),
		republish: make(chan struct{}, 1)}
	if err := o.loadOff(); err != nil {
		return nil, err
	}
	raw, err := c.Store.LoadState(stateGuards)
	if err != nil {
		return nil, fmt.Errorf("onion: load guards: %w", err)
	}
	if o.guards, err = route.ParseGuards(raw); err != nil {
		return nil, fmt.Errorf("onion: %w", err)
	}
	if o.seals, err = openSeals(c.Store, o.rnd, self.Role, o.clock.Now()); err != nil {
		return nil, fmt.Errorf("onion: %w", err)
	}
	if o.role.Leaf() {
		o.dir.Self = o.self
	}
	if o.role == member.RoleWallet {
		o.guards.Avoid = self.Operator
	}
	o.snap = o.dir.Snapshot(o.clock.Now())
	o.relay = newRelay(o, policy)
	o.out = &neighbours{o: o, to: map[packet.NodeKey]*neighbour{}}
	if _, err := o.relay.advance(o.clock.Now(), 0); err != nil {
		return nil, fmt.Errorf("onion: %w", err)
	}
	if mesh.Decoy.AllowedRecipient(o.role) {
		o.Handle(mesh.Decoy, o.answerDecoy)
	}
	h.Follow(gossip.KindDirectory, checkDirectory, o.learn)
	h.Follow(gossip.KindTrust, nil, func(mesh.Envelope) { o.refresh(o.clock.Now()) }) // after the host: who was revoked leaves the routes
	h.Streams(Protocol, o.serveStream)
	for _, e := range h.Registers(gossip.KindDirectory) {
		o.learn(e)
	}
	o.refresh(o.clock.Now())
	return o, nil
}

// relays reports whether this node forwards packets of others now.
func (o *Onion) relays() bool {
	return o.role == member.RoleSSN || o.c.Relay && o.role.Backbone() || o.chosen() && o.h.Thrift() < mesh.ThriftRelay
}

// Serve runs the onion until ctx ends and waits for what it started; it runs beside the host's Serve.
func (o *Onion) Serve(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { o.relay.run(ctx) })
	wg.Go(func() { o.housekeep(ctx) })
	if o.role.Leaf() {
		wg.Go(func() { o.sendSlots(ctx) })
		if o.c.Decoys {
			wg.Go(func() { o.sendDecoys(ctx, o.clock) })
		}
	}
	if !o.role.Leaf() || o.chosen() || o.h.HomeRelay(o.h.Self().Key) { // also a home that relayed before it was restarted
		wg.Go(func() { o.publishLoop(ctx) })
	}
	if !o.role.Leaf() {
		wg.Go(func() { o.receiveLoop(ctx, &wg) })
	}
	wg.Wait()
	o.out.wait()
	return nil
}

// Handle serves an onion service. It panics on a direct service, a role that may not receive it, or a second handler:
// all are errors of the program.
func (o *Onion) Handle(s mesh.Service, fn HandlerFunc) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !s.Onion() || !s.AllowedRecipient(o.role) || o.handlers[s] != nil {
		panic(fmt.Sprintf("onion: %v cannot handle %v", o.role, s))
	}
	o.handlers[s] = fn
}

// housekeep keeps keys, directory, guards and loop statistics current.
func (o *Onion) housekeep(ctx context.Context) {
	for {
		now := o.clock.Now()
		if _, err := o.relay.advance(now, o.h.Lag()); err != nil {
			o.log.Error("onion keys not drawn", "err", err)
		}
		wait := tick
		if o.refresh(now) {
			wait = settle
		}
		select {
		case <-ctx.Done():
			return
		case <-o.clock.After(wait):
		}
	}
}

// checkDirectory is the body check of directory registers: no honest member publishes one that does not parse.
func checkDirectory(e mesh.Envelope) mesh.Verdict {
	bad := mesh.Verdict{Action: gossip.Reject, Reason: mesh.ReasonBody}
	switch {
	case e.Key == gossip.KeyOnion:
		if _, err := route.ParseKeys(e.Body); err != nil {
			return bad
		}
	case e.Key == gossip.KeySeal && len(e.Body) != packet.SealKeySize:
		return bad
	}
	return mesh.Verdict{}
}

// learn takes a directory register that was accepted.
func (o *Onion) learn(e mesh.Envelope) {
	m, err := o.h.Publisher(e)
	if err != nil {
		o.unlearn(e, err) // its certificate ended meanwhile
		return
	}
	if e.Key == gossip.KeySheet {
		return // service keys: the onion has no use for them
	}
	o.mu.Lock()
	if e.Key == gossip.KeySeal {
		err = o.dir.PutSeal(m, e.Body, e.Expires)
	} else {
		err = o.dir.PutKeys(m, e.Body, e.Issued, e.Expires)
	}
	if err == nil {
		o.known[packet.NodeKey(m.Key)] = true
	}
	o.mu.Unlock()
	if err != nil {
		o.count(DropDirectory, 1)
		return
	}
	if e.Key == gossip.KeyOnion {
		keys, err := route.ParseKeys(e.Body)
		if err == nil {
			o.h.LearnText(m.Peer, keys.Addresses)
		}
	}
	o.refresh(o.clock.Now())
}

// unlearn ends a guard that was revoked while this node was off.
func (o *Onion) unlearn(e mesh.Envelope, err error) {
	if !errors.Is(err, mesh.ErrRevoked) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	key := packet.NodeKey(e.Publisher)
	if _, known := o.snap.Node(key); !known {
		o.guards.Drop(key) // the refresh that follows keeps the change
	}
}

// refresh rebuilds the snapshot and what depends on it. It reports whether a leaf's guards are yet to be drawn: soon,
// once the directory has settled.
func (o *Onion) refresh(now time.Time) (settling bool) {
	o.mu.Lock()
	dropped := false
	for _, key := range o.dir.Prune(o.h.Standing) {
		dropped = o.guards.Drop(key) || dropped
	}
	o.dir.Sweep(now)
	relays := len(o.snap.Relays())
	o.snap = o.dir.Snapshot(now)
	if len(o.snap.Relays()) > relays {
		o.grown = now
	}
	off := o.off.Load()
	if !o.role.Leaf() {
		o.mu.Unlock()
		o.flag(mesh.WarnOff, off)
		return false
	}
	for _, lost := range o.loops.Expire(now) {
		o.stats.LoopsLost++
		o.health.Judge(lost.Relays, true, now)
	}
	ratio, enough := o.loops.LostRatio(now)
	var changed bool
	var err error
	floor := o.floor()
	if len(o.snap.Relays()) >= route.MinRelays { // sooner, whoever shows us the directory first would choose our guards
		if len(o.guards.List()) == route.GuardCount || now.Sub(o.grown) >= settle+o.h.Lag() {
			changed, err = o.guards.Refresh(o.snap, floor, o.usableSoon(now), now, o.rnd)
		}
	}
	settling = len(o.guards.List()) < route.GuardCount
	record := o.guards.Encode()
	relaying := o.chosen() && o.relays() && !off
	turned := relaying != o.relaying
	o.relaying = relaying
	keep, release := o.guardChanges()
	o.changeSlots(now, floor.SlotMean(o.slotMean, o.snap, o.guards.List()))
	st := floor.Check(mesh.Meter, o.snap, o.guards.List(), now)
	single := o.snap.Operators() == 1
	o.expireReplies(now)
	o.mu.Unlock()

	if err == nil && (changed || dropped) {
		err = o.c.Store.SaveState(stateGuards, record)
	}
	if err != nil {
		o.log.Error("guards not chosen or saved", "err", err)
	}
	if !o.c.GuardsKept {
		o.hold(keep, release)
	}
	o.flag(mesh.WarnLoopsLost, enough && ratio > mix.LostLimit)
	o.flag(mesh.WarnSingleOperator, single)
	o.flag(mesh.WarnSmallSet, errors.Is(st.Err, route.ErrSmallSet))
	o.flag(mesh.WarnStaleDirectory, errors.Is(st.Err, route.ErrStaleDirectory))
	o.flag(mesh.WarnFewRelays, errors.Is(st.Err, route.ErrFewRelays))
	o.flag(mesh.WarnOff, off)
	o.flag(mesh.WarnLab, floor.Policy.Lab)
	if turned {
		o.publishAgain()
	}
	return settling
}

func (o *Onion) flag(code string, on bool) {
	if on {
		o.h.Warn(code)
	} else {
		o.h.Calm(code)
	}
}

// guardChanges says which guards to connect to and which to let go; o.mu is held.
func (o *Onion) guardChanges() (keep, release []packet.NodeKey) {
	want := map[packet.NodeKey]bool{}
	for _, g := range o.guards.List() { // a third is drawn from connected SSNs only
		want[g.Node] = true
		if !o.kept[g.Node] {
			keep = append(keep, g.Node)
		}
	}
	for g := range o.kept {
		if !want[g] {
			release = append(release, g)
		}
	}
	o.kept = want
	return keep, release
}

func (o *Onion) hold(keep, release []packet.NodeKey) {
	for _, g := range keep {
		if id, err := member.Key(g).Peer(); err == nil {
			o.h.KeepID(id)
		}
	}
	for _, g := range release {
		if id, err := member.Key(g).Peer(); err == nil {
			o.h.Release(id)
		}
	}
}

// Guards lists the relays that this leaf uses as first hop, the third while both others are down among them; they need a
// kept connection each.
func (o *Onion) Guards() []peer.ID {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []peer.ID
	for _, g := range o.guards.All() {
		if id, err := member.Key(g.Node).Peer(); err == nil {
			out = append(out, id)
		}
	}
	return out
}

// usable reports whether a relay is connected and not skipped; o.mu is held.
func (o *Onion) usable(n packet.NodeKey) bool {
	id, err := member.Key(n).Peer()
	if err != nil || o.health.Skipped(n, o.clock.Now()) {
		return false
	}
	_, up := o.h.Connected(id)
	return up
}

// usableSoon is usable with patience: a guard that was connected a moment ago, or that nobody had time to dial since the
// start, is not down yet. Otherwise every restart would show this home to a third guard. o.mu is held.
func (o *Onion) usableSoon(now time.Time) func(packet.NodeKey) bool {
	guards := o.guards.List()
	return func(n packet.NodeKey) bool {
		if o.usable(n) {
			o.lastUp[n] = now
			return true
		}
		up, known := o.lastUp[n]
		if !known {
			up = o.began
		}
		guard := slices.ContainsFunc(guards, func(g route.Guard) bool { return g.Node == n })
		return guard && now.Sub(up) < guardPatience+o.h.Lag()
	}
}

func (o *Onion) floor() route.Floor {
	return route.Floor{Policy: o.h.Bundle().Policy, MinSet: o.c.MinSet, MinHomes: o.c.MinHomes}
}

// Status says whether class c may send now, and the numbers for the page. Err is mesh.ErrOff, ErrSmallSet, ErrFewRelays,
// ErrStaleDirectory or route.ErrLabClass.
func (o *Onion) Status(c mesh.Class) route.Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.offStatus(o.floor().Check(c, o.snap, o.guards.List(), o.clock.Now()))
}

// LoopsLost is the share of this leaf's loops of the last hour that did not come back; enough is false while too few
// were judged for the share to mean anything.
func (o *Onion) LoopsLost() (ratio float64, enough bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loops.LostRatio(o.clock.Now())
}

// Recipients lists the members of a role that take requests by onion, ordered by key.
func (o *Onion) Recipients(r member.Role) []mesh.Member {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []mesh.Member
	for key := range o.known {
		if n, ok := o.snap.Node(key); ok && n.Recipient() && n.Member.Role == r {
			out = append(out, n.Member)
		}
	}
	slices.SortFunc(out, func(a, b mesh.Member) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	return out
}

// keepsMail reports whether this node serves mailboxes.
func (o *Onion) keepsMail() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.handlers[mesh.Mailbox] != nil
}

// Keepers lists the substations that say they keep mailboxes, ordered by key.
func (o *Onion) Keepers() []mesh.Member {
	all := o.Recipients(member.RoleSSN)
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.DeleteFunc(all, func(m mesh.Member) bool {
		n, ok := o.snap.Node(packet.NodeKey(m.Key))
		return !ok || n.Keys.Flags&route.FlagMailbox == 0
	})
}

// SealKey gives the public sealing key that a recipient publishes, for messages that a guest seals itself (Carry).
func (o *Onion) SealKey(to Recipient) ([]byte, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, known := o.snap.Node(packet.NodeKey(to))
	if !known || n.SealKey == nil {
		return nil, false
	}
	return n.SealKey, true
}

// nothing keeps nothing.
type nothing struct{}

func (nothing) LoadState(string) ([]byte, error) { return nil, nil }
func (nothing) SaveState(string, []byte) error   { return nil }
