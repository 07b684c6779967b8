package onion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
	"gridveil/mesh/route"
)

// job is one packet of a request, from the choice of its slot to its departure.
type job struct {
	to     Recipient
	flag   packet.Flag
	decoy  bool
	hop    time.Duration // mean hold at a relay
	depart time.Time
	route  *route.Route   // chosen ahead, so that the time of arrival is known
	drawn  packet.NodeKey // the guard that chance chose; the rules may have asked for another
	user   []byte         // nil until sealed
	ready  bool           // sealed; before that its slot sends a loop
	gone   bool           // cancelled; its slot sends a loop
}

// schedule holds the slots that are drawn, each with the job that goes in it or nil for a loop. Jobs take slots that
// are already drawn or that follow, so what is sent never changes when.
type schedule struct {
	mix.Slots
	drawn []slot
}

type slot struct {
	at  time.Time
	job *job
}

func (s *schedule) waiting() int {
	n := 0
	for _, d := range s.drawn {
		if d.job != nil && !d.job.gone {
			n++
		}
	}
	return n
}

// draw appends the next slot.
func (s *schedule) draw(now time.Time, mean time.Duration, rnd io.Reader) error {
	if s.Next().IsZero() {
		if err := s.Start(now, mean, rnd); err != nil {
			return err
		}
	}
	at := s.Next()
	if at.Before(now) {
		at = now // the machine slept; mix.Slots starts over when it lags too far
	}
	s.drawn = append(s.drawn, slot{at: at})
	_, err := s.Take(at, mean, rnd)
	return err
}

// changeSlots switches to another mean: slots without a job are drawn again. o.mu is held.
func (o *Onion) changeSlots(now time.Time, mean time.Duration) {
	if o.h.Thrift() >= mesh.ThriftSlow {
		mean = max(mean, mix.SlowSlot)
	}
	if mean == o.slotMean {
		return
	}
	o.slotMean = mean
	s := &o.slots
	for len(s.drawn) > 0 && s.drawn[len(s.drawn)-1].job == nil {
		s.drawn = s.drawn[:len(s.drawn)-1]
	}
	from := now
	if n := len(s.drawn); n > 0 {
		from = s.drawn[n-1].at
	}
	if err := s.Start(from, mean, o.rnd); err != nil {
		o.log.Error("no randomness", "err", err)
	}
	o.poke()
}

func (o *Onion) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// plan takes the next free slots, or the present moment outside of class meter, and chooses a route for each packet.
func (o *Onion) plan(to Recipient, c mesh.Class, timing mix.Timing, count int) ([]*job, error) {
	if err := o.h.Sparing(timing.Slots); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.clock.Now()
	if o.off.Load() {
		return nil, mesh.ErrOff
	}
	if timing.Slots && o.slots.waiting()+count > maxWaiting {
		return nil, &mesh.BusyError{After: time.Hour}
	}
	var jobs []*job
	for range count {
		j, err := o.planOne(to, timing, now)
		if err != nil {
			return nil, errors.Join(err, cancelJobs(jobs))
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// planOne plans one packet; o.mu is held.
func (o *Onion) planOne(to Recipient, timing mix.Timing, now time.Time) (*job, error) {
	j := &job{to: to, flag: packet.FlagDeliver, hop: timing.HopMean, depart: now}
	var err error
	if !timing.Slots {
		j.route, err = o.wayTo(j)
		return j, err
	}
	at, err := o.freeSlot(now)
	if err != nil {
		return nil, err
	}
	j.depart = o.slots.drawn[at].at
	if j.route, err = o.wayTo(j); err != nil {
		return nil, err
	}
	o.slots.drawn[at].job = j
	return j, nil
}

// wayTo chooses a job's route; o.mu is held.
func (o *Onion) wayTo(j *job) (*route.Route, error) {
	guards, err := o.guards.Usable(o.usable, o.rnd)
	if err != nil {
		return nil, err
	}
	if len(guards) > 0 {
		j.drawn = guards[0]
	}
	return o.chooser(j.hop).To(packet.NodeKey(j.to), guards, j.depart, o.rnd)
}

// lastOf gives when the last job departs and when the last one arrives.
func lastOf(jobs []*job) (departs, arrives time.Time) {
	for _, j := range jobs {
		if j.depart.After(departs) {
			departs = j.depart
		}
		if j.route.Arrival.After(arrives) {
			arrives = j.route.Arrival
		}
	}
	return departs, arrives
}

// cancelJobs frees the slots of jobs that will not be sent; loops go in their place. It returns nil, to be joined.
func cancelJobs(jobs []*job) error {
	for _, j := range jobs {
		j.gone = true
	}
	return nil
}

func (o *Onion) cancel(jobs []*job) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return cancelJobs(jobs)
}

// release lets sealed jobs go when their slots come.
func (o *Onion) release(jobs []*job) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, j := range jobs {
		j.ready = true
	}
	o.poke()
}

// sendSlots sends one packet per slot: what waits, else a loop.
func (o *Onion) sendSlots(ctx context.Context) {
	for {
		if o.off.Load() {
			select {
			case <-ctx.Done():
				return
			case <-o.wake:
			}
			continue
		}
		at, err := o.nextSlotAt(o.clock.Now())
		if err != nil {
			o.log.Error("no randomness", "err", err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-o.wake: // the mean changed, or the switch
			continue
		case <-o.clock.After(at.Sub(o.clock.Now())):
		}
		if j, came := o.takeSlot(o.clock.Now()); !came || o.h.Sparing(true) != nil {
			continue // nothing more today: what was planned is tried again, and then refused until midnight
		} else if j != nil {
			o.depart(j)
			o.tookSlot(j)
		} else {
			o.sendCover()
		}
	}
}

// nextSlotAt gives the time of the coming slot.
func (o *Onion) nextSlotAt(now time.Time) (time.Time, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.slots.drawn) == 0 {
		if err := o.slots.draw(now, o.slotMean, o.rnd); err != nil {
			return time.Time{}, err
		}
	}
	return o.slots.drawn[0].at, nil
}

// takeSlot removes the first slot if it has come; a nil job means a loop.
func (o *Onion) takeSlot(now time.Time) (*job, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.slots.drawn) == 0 || now.Before(o.slots.drawn[0].at) {
		return nil, false
	}
	j := o.slots.drawn[0].job
	o.slots.drawn = slices.Delete(o.slots.drawn, 0, 1)
	switch {
	case j == nil || j.gone:
		return nil, true
	case !j.ready:
		o.postpone(j, now)
		return nil, true
	}
	return j, true
}

// postpone moves a job whose sealing takes longer than its slot to the next free one; o.mu is held.
func (o *Onion) postpone(j *job, now time.Time) {
	at, err := o.freeSlot(now)
	if err == nil {
		j.depart = o.slots.drawn[at].at
		j.route, err = o.wayTo(j)
	}
	if err != nil {
		j.gone = true // the call tries again
		return
	}
	o.slots.drawn[at].job = j
}

// freeSlot finds the first slot without a job, drawing one if need be; o.mu is held.
func (o *Onion) freeSlot(now time.Time) (int, error) {
	for i, d := range o.slots.drawn {
		if d.job == nil || d.job.gone {
			return i, nil
		}
	}
	return len(o.slots.drawn), o.slots.draw(now, o.slotMean, o.rnd)
}

// depart builds a job's packet and hands it to its first relay, by another route if that relay is gone.
func (o *Onion) depart(j *job) {
	o.mu.Lock()
	if !o.usable(j.route.First()) {
		if again, err := o.wayTo(j); err == nil {
			j.route = again
		}
	}
	r := j.route
	o.mu.Unlock()
	var p packet.Packet
	if err := packet.Build(&p, r.Hops, j.flag, j.user, o.rnd); err != nil {
		o.log.Warn("packet not built", "err", err)
		o.count(DropUnbuildable, 1)
		return
	}
	o.push(r.First(), &p, func(s *Stats) {
		if j.flag == packet.FlagDrop || j.decoy {
			s.Cover++
		} else {
			s.Sent++
		}
	})
}

// push hands a packet to a first relay and counts it.
func (o *Onion) push(first packet.NodeKey, p *packet.Packet, counted func(*Stats)) {
	sent := o.out.send(first, p)
	o.mu.Lock()
	defer o.mu.Unlock()
	if sent {
		counted(&o.stats.Stats)
	} else {
		o.countLocked(o.unsent(), 1)
	}
}

// sessionCover fills a session's request up to the number of packets that all requests have.
func (o *Onion) sessionCover(to Recipient, timing mix.Timing, have int) []*job {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*job
	for range timing.UpPackets - have {
		j := &job{to: to, flag: packet.FlagDrop, hop: timing.HopMean, depart: o.clock.Now(), user: make([]byte, packet.UserSize)}
		var err error
		if j.route, err = o.wayTo(j); err != nil {
			break // the request itself has its route; without cover it still goes
		}
		out = append(out, j)
	}
	return out
}

// tookSlot notes what a request's packet did to the pattern that its slot drew.
func (o *Onion) tookSlot(j *job) {
	o.mu.Lock()
	defer o.mu.Unlock()
	drawn, err := o.shape.Draw([]packet.NodeKey{j.drawn}, o.loopEnds(), o.rnd)
	if err != nil {
		o.log.Error("no randomness", "err", err)
		return
	}
	o.shape.Sent(drawn, j.route.First())
}

// loopEnds gives the relays that a loop over a guard may come back by; o.mu is held while it is used.
func (o *Onion) loopEnds() func(packet.NodeKey) []packet.NodeKey {
	c, ends := o.chooser(0), o.ends()
	return func(guard packet.NodeKey) []packet.NodeKey { return c.LoopEnds(guard, ends) }
}

// sendCover sends what a slot's pattern asks for: a packet to ourselves over guard, middle and another SSN that we are
// connected to, or one that ends at some recipient.
func (o *Onion) sendCover() {
	p, first, loop, err := o.buildCover()
	if err != nil {
		o.bump(func(s *Stats) { s.SlotsEmpty++ }) // too few relays, which everybody can see anyway
		return
	}
	o.push(first, p, func(s *Stats) {
		if loop {
			s.LoopsSent++
		} else {
			s.SlotCover++
		}
	})
}

func (o *Onion) buildCover() (p *packet.Packet, first packet.NodeKey, loop bool, err error) {
	var id mix.LoopID
	if _, err := io.ReadFull(o.rnd, id[:]); err != nil {
		return nil, first, false, fmt.Errorf("draw loop id: %w", err)
	}
	o.mu.Lock()
	r, loop, err := o.coverRoute(o.clock.Now())
	if err == nil && loop {
		o.loops.Sent(id, r.Relays(), r.Arrival.Add(o.h.Lag()))
	}
	o.mu.Unlock()
	if err != nil {
		return nil, first, false, err
	}
	user := make([]byte, packet.UserSize)
	copy(user, id[:])
	p = new(packet.Packet)
	return p, r.First(), loop, packet.Build(p, r.Hops, packet.FlagDrop, user, o.rnd)
}

// coverRoute chooses the way of a slot's cover and whether it is a loop. Where no recipient can be reached, it is one.
// o.mu is held.
func (o *Onion) coverRoute(now time.Time) (r *route.Route, loop bool, err error) {
	guards, err := o.guards.Usable(o.usable, o.rnd)
	if err != nil {
		return nil, false, err
	}
	backs := o.loopEnds()
	drawn, err := o.shape.Draw(guards, backs, o.rnd)
	if err != nil {
		return nil, false, err
	}
	p := o.shape.Cover(drawn, guards, backs, now)
	c, ends := o.chooser(o.h.Bundle().Policy.Hop()), o.ends()
	if p.First != (packet.NodeKey{}) {
		guards = []packet.NodeKey{p.First}
	}
	if p.Back != (packet.NodeKey{}) {
		ends = []packet.NodeKey{p.Back}
	} else if to, ok := o.anyRecipient(p.First); ok {
		if r, err = c.To(to, guards, now, o.rnd); err == nil {
			return r, false, nil
		}
	}
	r, err = c.Loop(o.backSelf(), guards, ends, now, o.rnd)
	return r, true, err
}

// anyRecipient draws one of the members that take requests, but not the guard; o.mu is held.
func (o *Onion) anyRecipient(guard packet.NodeKey) (packet.NodeKey, bool) {
	var all []packet.NodeKey
	for key := range o.known {
		if n, ok := o.snap.Node(key); ok && n.Recipient() && key != guard {
			all = append(all, key)
		}
	}
	if len(all) == 0 {
		return packet.NodeKey{}, false
	}
	i, err := mix.Below(len(all), o.rnd)
	return all[max(i, 0)], err == nil
}

// ends lists the relays that a loop may come back by: those that this node is connected to. o.mu is held.
func (o *Onion) ends() []packet.NodeKey {
	var out []packet.NodeKey
	for _, n := range o.snap.Relays() {
		if n.Member.Role == member.RoleSSN && o.usable(n.Key) {
			out = append(out, n.Key)
		}
	}
	return out
}

// looped takes a cover packet that ended here: a loop of ours, or a session's cover.
func (o *Onion) looped(p *packet.Packet, now time.Time) {
	user, err := p.User()
	if err != nil {
		o.count(DropTampered, 1)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if out, known := o.loops.Returned(mix.LoopID(user[:16]), now); known {
		o.stats.LoopsReturned++
		o.health.Judge(out.Relays, false, now)
	}
}
