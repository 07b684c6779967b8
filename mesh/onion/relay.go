package onion

import (
	"context"
	"errors"
	"sync"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

// intakeTurn is how many packets are unwrapped before due ones are released: about 1 ms.
const intakeTurn = 16

// maxLag bounds by how much an accelerated clock may stretch the life of a key: fewer than the epochs published ahead.
const maxLag = (mix.KeysAhead - 2)

// relay takes packets in, unwraps them and holds them. Every node has one: a leaf's unwraps what comes back.
type relay struct {
	o     *Onion
	epoch time.Duration
	rates [2]mix.Rate // of leaves, of backbone members
	wake  chan struct{}
	hold  *mix.Hold // only run uses it

	witness func(sight) bool // tests: sees each packet, and loses it by returning false

	mu     sync.Mutex // guards the intake
	fair   *mix.Fair
	joined map[packet.NodeKey]int // open streams per neighbour
	leaves map[packet.NodeKey]bool
	frames uint64 // from leaves, since window
	window time.Time
	inHold int

	keysMu sync.Mutex // guards the keys and, through them, the replay tables
	keys   *mix.Keyring
	lag    time.Duration
}

// sight is all that a node sees of a packet.
type sight struct {
	from    packet.NodeKey
	routing packet.Routing
	before  *packet.Packet // as it came
	after   *packet.Packet // one layer less
}

func newRelay(o *Onion, p member.Policy) *relay {
	hold, tags, queue := mix.BackboneHold, mix.BackboneTags, mix.RelayQueue
	switch {
	case o.role == member.RoleSSN:
		hold, tags = mix.RelayHold, mix.RelayTags
	case o.role.Leaf():
		hold, tags, queue = mix.LeafHold, mix.LeafTags, mix.LeafQueue
	}
	usual := [2]mix.Rate{mix.LeafRate, mix.RelayRate}
	if o.chosen() {
		usual[1] = mix.HomeRate
	}
	return &relay{o: o, epoch: p.Epoch(), rates: intake(o.c.Intake, usual), wake: make(chan struct{}, 1),
		hold: mix.NewHold(hold), fair: mix.NewFair(queue), joined: map[packet.NodeKey]int{}, leaves: map[packet.NodeKey]bool{},
		window: o.clock.Now(), keys: mix.NewKeyring(p.Epoch(), tags)}
}

// advance draws and wipes keys. lag keeps old keys for the time that a busy machine on a fast clock needs.
func (r *relay) advance(now time.Time, lag time.Duration) (changed bool, err error) {
	r.keysMu.Lock()
	defer r.keysMu.Unlock()
	r.lag = min(lag, maxLag*r.epoch)
	return r.keys.Advance(now.Add(-r.lag), r.o.rnd)
}

// ownKey gives the unpublished key for a packet that comes back at t.
func (r *relay) ownKey(t time.Time) (mix.PublicKey, bool) {
	r.keysMu.Lock()
	defer r.keysMu.Unlock()
	return r.keys.At(t)
}

func (r *relay) join(n packet.NodeKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.joined[n]++
}

func (r *relay) leave(n packet.NodeKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.joined[n]--; r.joined[n] == 0 {
		delete(r.joined, n)
		r.fair.Leave(n, r.o.clock.Now())
	}
}

// take queues a packet from a neighbour, or drops it before it costs an X25519. It returns mix.ErrRate for one that
// came faster than the neighbour may send. The packet is the relay's from then on.
func (r *relay) take(from mesh.Member, p *packet.Packet) error {
	if r.o.off.Load() {
		r.o.count(DropOff, 1)
		return nil
	}
	key, rate := packet.NodeKey(from.Key), r.rates[1]
	// What a home passes on for others is none of its own frames, so it must not make the crowd look larger.
	home := from.Role.Leaf() && r.o.homeRelay(key)
	leaf := from.Role.Leaf() && !home
	switch {
	case home:
		rate = mix.HomeRate
	case leaf:
		rate = r.rates[0]
	}
	r.mu.Lock()
	err := r.fair.Offer(key, rate, p, r.o.clock.Now(), r.o.rnd)
	if leaf {
		r.frames++
		r.leaves[key] = true
	}
	r.mu.Unlock()
	switch {
	case errors.Is(err, mix.ErrRate):
		r.o.count(DropRate, 1)
	case err != nil:
		r.o.count(DropQueue, 1)
	default:
		select {
		case r.wake <- struct{}{}:
		default: // run has not yet seen the last one
		}
	}
	return err
}

// measured gives the leaves and their frames since the last measurement and begins a new one; enough is false when
// that one was short, and then it goes on.
func (r *relay) measured(now time.Time) (leaves int, framesPer1000s uint32, enough bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	elapsed := now.Sub(r.window)
	if elapsed < minMeasured {
		return 0, 0, false
	}
	framesPer1000s = uint32(min(float64(r.frames)*1000/elapsed.Seconds(), 1<<31))
	leaves = len(r.leaves)
	r.frames, r.window = 0, now
	clear(r.leaves)
	return leaves, framesPer1000s, true
}

func (r *relay) held() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inHold
}

// run unwraps and releases packets until ctx ends.
func (r *relay) run(ctx context.Context) {
	var timer <-chan time.Time
	var armed time.Time
	for {
		more := r.unwrapSome()
		r.release(r.o.clock.Now())
		if more {
			if ctx.Err() != nil {
				return
			}
			continue
		}
		if due, any := r.hold.Next(); any && (timer == nil || due.Before(armed)) {
			timer, armed = r.o.clock.After(due.Sub(r.o.clock.Now())), due
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer:
			timer = nil
		}
	}
}

// unwrapSome works off a turn of the intake and reports whether more waits.
func (r *relay) unwrapSome() (more bool) {
	for range intakeTurn {
		r.mu.Lock()
		from, p, ok := r.fair.Take()
		r.mu.Unlock()
		if !ok {
			return false
		}
		r.unwrap(from, p)
	}
	return true
}

// unwrap takes one layer off a packet and does what it says.
func (r *relay) unwrap(from packet.NodeKey, p *packet.Packet) {
	now := r.o.clock.Now()
	var before *packet.Packet
	if r.witness != nil {
		came := *p
		before = &came
	}
	routing, err := r.open(p, now)
	if err != nil {
		r.o.count(dropOf(err), 1)
		packets.Put(p)
		return
	}
	if r.witness != nil {
		after := *p // what it keeps must not come back from the pool
		if !r.witness(sight{from, routing, before, &after}) {
			return
		}
	}
	switch routing.Flag {
	case packet.FlagRelay:
		if !r.o.relays() {
			r.o.count(DropRouting, 1)
			return
		}
		if err := r.hold.Add(routing, p, now); err != nil {
			r.o.count(DropHold, 1)
			return
		}
	case packet.FlagDeliver:
		if r.o.role.Leaf() {
			r.o.count(DropRouting, 1) // a leaf publishes no keys for requests
			return
		}
		select {
		case r.o.delivered <- p:
		default:
			r.o.count(DropDelivery, 1)
		}
	case packet.FlagReply:
		r.o.answered(routing.Reply, p, now)
	case packet.FlagDrop:
		r.o.looped(p, now)
	}
}

// open finds the packet's key, among those of the past lag, and unwraps it.
func (r *relay) open(p *packet.Packet, now time.Time) (packet.Routing, error) {
	r.keysMu.Lock()
	defer r.keysMu.Unlock()
	key, seen, err := r.keys.Find(p.KeyID(), now)
	for late := r.epoch / 2; err != nil && late < r.lag+r.epoch/2; late += r.epoch / 2 {
		key, seen, err = r.keys.Find(p.KeyID(), now.Add(-min(late, r.lag)))
	}
	if err != nil {
		return packet.Routing{}, err
	}
	return packet.Unwrap(p, key, seen)
}

func dropOf(err error) mesh.Drop {
	switch {
	case errors.Is(err, mix.ErrNoKey):
		return DropKey
	case errors.Is(err, mix.ErrReplayed), errors.Is(err, mix.ErrReplayFull):
		return DropReplay
	case errors.Is(err, packet.ErrRouting):
		return DropRouting
	}
	return DropTampered
}

// release sends on what is due.
func (r *relay) release(now time.Time) {
	due, err := r.hold.Due(now, 0, r.o.rnd)
	if err != nil {
		r.o.log.Error("no randomness", "err", err) // the batch still goes, in order of its due times
	}
	var sent, lost uint64
	for _, d := range due {
		if r.o.out.send(d.Next, d.Packet) {
			sent++
		} else {
			lost++
		}
	}
	r.mu.Lock()
	r.inHold = r.hold.Len()
	r.mu.Unlock()
	if sent+lost == 0 {
		return
	}
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	r.o.stats.relay(sent, now)
	if lost > 0 {
		r.o.countLocked(r.o.unsent(), lost)
	}
}

// intake fills in the usual rates.
func intake(rates, usual [2]mix.Rate) [2]mix.Rate {
	for i := range rates {
		if rates[i] == (mix.Rate{}) {
			rates[i] = usual[i]
		}
	}
	return rates
}
