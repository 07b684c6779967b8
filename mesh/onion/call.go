package onion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
	"gridveil/mesh/route"
)

// Flags of a request message.
const (
	flagCarried = 1 // the body is a whole request that a guest sealed; open it again
	flagFill    = 2 // use every reply block, so that the number of packets says nothing
)

// A try that arrives when the recipient has forgotten its answer would be handled again. So none is made later than
// lastRetry after the first, which leaves a packet of class meter its way (P99 6.8 min), nor after retryLags of Lag on a
// fast clock; recipients there remember for answerLags more.
const (
	lastRetry  = packet.AnswerLife - 7*time.Minute
	retryLags  = 3
	answerLags = 4
)

// answer statuses: the first byte of an answer.
const (
	answerOK      = 0
	answerFailed  = 1 // the rest is the handler's error
	answerRefused = 2 // no such service here
)

// openReply is a reply block that may still come back.
type openReply struct {
	keys  *packet.ReplyKeys
	try   *try
	until time.Time
}

// call is one Call from its first try to its end.
type call struct {
	id     [16]byte
	result chan []byte // capacity 1; the plain answer
}

// try is one sealed sending of a call.
type try struct {
	call *call
	key  packet.AnswerKey
	ids  []packet.ReplyID
}

// Call sends a request to a backbone member over three relays and waits for its answer. In class meter that takes
// minutes: P99 7.3 min for one packet each way. The class is the service's own, or Lab. It tries three times over
// different routes, with one request id. Errors: ErrNotAllowed; ErrSmallSet, ErrFewRelays, ErrStaleDirectory or
// route.ErrLabClass or ErrOff before anything is sent; ErrBusy; ErrTooLarge; ErrUnacked when the outcome is unknown;
// a *mesh.RemoteError with the handler's words. ctx bounds the wait in wall time.
func (o *Onion) Call(ctx context.Context, to Recipient, c mesh.Class, s mesh.Service, body []byte) ([]byte, error) {
	if err := o.allowed(to, c, s); err != nil {
		return nil, fmt.Errorf("call %v: %w", s, err)
	}
	answer, err := o.call(ctx, to, c, s, 0, body)
	if err != nil {
		return nil, fmt.Errorf("call %v: %w", s, err)
	}
	return answer, nil
}

// Carry sends a request that a guest sealed for the recipient itself (SealGuest, for the key of SealKey), and returns
// the answer, sealed for the guest (GuestKey.Open). The carrier learns neither. Errors are those of Call.
func (o *Onion) Carry(ctx context.Context, to Recipient, c mesh.Class, sealed []byte) ([]byte, error) {
	role, err := o.recipient(to)
	if err == nil && !mesh.Carries(c, o.role, role) {
		err = mesh.ErrNotAllowed
	}
	if err != nil {
		return nil, fmt.Errorf("carry: %w", err)
	}
	answer, err := o.call(ctx, to, c, 0, flagCarried, sealed)
	if err != nil {
		return nil, fmt.Errorf("carry: %w", err)
	}
	return answer, nil
}

// allowed checks role, class and recipient of a request.
func (o *Onion) allowed(to Recipient, c mesh.Class, s mesh.Service) error {
	if !s.Onion() || c != s.Class() && c != mesh.Lab {
		return mesh.ErrNotAllowed
	}
	role, err := o.recipient(to)
	if err == nil && !s.Allowed(o.role, role) {
		err = mesh.ErrNotAllowed
	}
	return err
}

// recipient gives the role of a member that takes requests.
func (o *Onion) recipient(to Recipient) (member.Role, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, known := o.snap.Node(packet.NodeKey(to))
	if !known || !n.Recipient() {
		return 0, fmt.Errorf("%w: the recipient is not in the directory", mesh.ErrOffline)
	}
	return n.Member.Role, nil
}

func (o *Onion) call(ctx context.Context, to Recipient, c mesh.Class, s mesh.Service, flags uint8, body []byte) ([]byte, error) {
	timing := c.Timing(o.h.Bundle().Policy)
	if err := o.beginCall(c); err != nil {
		return nil, err
	}
	defer o.endCall()
	cl := &call{result: make(chan []byte, 1)}
	if _, err := io.ReadFull(o.rnd, cl.id[:]); err != nil {
		return nil, fmt.Errorf("draw request id: %w", err)
	}
	return o.tryAll(ctx, to, c, timing, cl, s, flags, body)
}

// tryAll sends a request over different routes until it is answered, or its tries are used up.
func (o *Onion) tryAll(ctx context.Context, to Recipient, c mesh.Class, timing mix.Timing, cl *call, s mesh.Service, flags uint8, body []byte) ([]byte, error) {
	var tries []*try
	answered := false
	defer func() { o.endTries(tries, answered) }()
	began := o.clock.Now()
	for n := range timing.Tries {
		if n > 0 && o.clock.Now().Sub(began) > lastRetry+retryLags*o.h.Lag() {
			o.bump(func(s *Stats) { s.Unacked++ })
			return nil, fmt.Errorf("%w: no answer in %v, after which a try could be done twice", mesh.ErrUnacked, lastRetry)
		}
		t, departs, err := o.send(to, c, timing, cl, s, flags, body)
		if err != nil {
			if n > 0 && !errors.Is(err, mesh.ErrTooLarge) {
				err = fmt.Errorf("%w: %w", mesh.ErrUnacked, err)
			}
			return nil, err
		}
		tries = append(tries, t)
		if n > 0 {
			o.bump(func(s *Stats) { s.Retries++ })
		}
		answer, err := o.await(ctx, timing, cl, departs)
		if err != nil {
			o.bump(func(s *Stats) { s.Unacked++ })
			return nil, fmt.Errorf("%w: %w", mesh.ErrUnacked, err)
		}
		if answer != nil {
			answered = true
			return plainAnswer(answer)
		}
	}
	o.bump(func(s *Stats) { s.Unacked++ })
	return nil, fmt.Errorf("%w: no answer to %d tries over different routes", mesh.ErrUnacked, timing.Tries)
}

func (o *Onion) bump(f func(*Stats)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(&o.stats.Stats)
}

// beginCall checks the floor and takes a place among the open calls.
func (o *Onion) beginCall(c mesh.Class) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if st := o.offStatus(o.floor().Check(c, o.snap, o.guards.List(), o.clock.Now())); st.Err != nil {
		return st.Err
	}
	if o.calls >= maxCalls {
		return &mesh.BusyError{After: time.Minute}
	}
	o.calls++
	o.stats.Calls++
	return nil
}

func (o *Onion) endCall() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls--
}

// forget closes the reply blocks of a call that has ended.
func (o *Onion) forget(tries []*try) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range tries {
		for _, id := range t.ids {
			delete(o.replies, id)
		}
	}
}

// endTries closes the reply blocks of a call that has ended. What still comes back for an answered one is no loss: cover
// that filled its answer, or the answer to another try.
func (o *Onion) endTries(tries []*try, answered bool) {
	o.mu.Lock()
	for _, t := range tries {
		for _, id := range t.ids {
			if r := o.replies[id]; answered && r != nil && len(o.late) < packet.MaxOpenReplies {
				o.late[id] = r.until
			}
		}
	}
	o.mu.Unlock()
	o.forget(tries)
}

// await waits for an answer until the try is over: then both are nil. The retry waits on protocol time, and on wall
// time for at least what a busy machine needs.
func (o *Onion) await(ctx context.Context, t mix.Timing, cl *call, departs time.Time) (answer []byte, err error) {
	retry, err := t.RetryAt(departs, o.rnd)
	if err != nil {
		return nil, err
	}
	machine := time.NewTimer(min(retry.Sub(departs), mesh.MachineTime))
	defer machine.Stop()
	over, worked, stopped := o.clock.After(retry.Sub(o.clock.Now())), machine.C, o.stop()
	for over != nil || worked != nil {
		select {
		case answer := <-cl.result:
			return answer, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-stopped:
			return nil, mesh.ErrOff
		case <-over:
			over = nil
		case <-worked:
			worked = nil
		}
	}
	return nil, nil
}

func plainAnswer(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, &mesh.RemoteError{Code: 1, Text: "answer is empty"}
	}
	switch b[0] {
	case answerOK:
		return b[1:], nil
	case answerRefused:
		return nil, fmt.Errorf("%w: %s", mesh.ErrRefused, b[1:])
	}
	return nil, &mesh.RemoteError{Code: 1, Text: string(b[1:])}
}

// send seals one try and hands its packets to slots or, outside of class meter, to the guards at once. It returns when
// the last of them departs.
func (o *Onion) send(to Recipient, c mesh.Class, timing mix.Timing, cl *call, s mesh.Service, flags uint8, body []byte) (*try, time.Time, error) {
	want := answerBlocks(c, timing, s)
	count := packet.Fragments(sealedSize(len(body), want))
	if len(body) > packet.MaxBody || count > timing.UpPackets {
		return nil, time.Time{}, fmt.Errorf("%w: %d bytes need %d packets, class %v allows %d", mesh.ErrTooLarge, len(body), count, c, timing.UpPackets)
	}
	jobs, err := o.plan(to, c, timing, count)
	if err != nil {
		return nil, time.Time{}, err
	}
	last, arrival := lastOf(jobs)
	t, blocks, err := o.replyBlocks(to, timing, cl, want, arrival)
	if err != nil {
		return nil, time.Time{}, errors.Join(err, o.cancel(jobs))
	}
	if c != mesh.Lab {
		flags |= flagFill
	}
	users, err := o.seal(to, t, &packet.Request{Service: uint16(s), Flags: flags, ID: cl.id, Replies: blocks, Body: body})
	if err != nil {
		o.forget([]*try{t})
		return nil, time.Time{}, errors.Join(err, o.cancel(jobs))
	}
	for i, j := range jobs {
		j.user, j.decoy = users[i], s == mesh.Decoy
	}
	if timing.Slots {
		o.release(jobs)
		return t, last, nil
	}
	if c == mesh.Session {
		jobs = append(jobs, o.sessionCover(to, timing, len(jobs))...)
	}
	for _, j := range jobs {
		o.depart(j)
	}
	return t, last, nil
}

// sealedSize is the length of a sealed request: HPKE 1136, message header 20, reply blocks, body.
func sealedSize(body, replies int) int { return 1136 + 20 + replies*packet.ReplyBlockSize + body }

// answerBlocks is how many packets the answer may take.
func answerBlocks(c mesh.Class, t mix.Timing, s mesh.Service) int {
	n := answerPackets[s]
	if n == 0 {
		n = defaultAnswer
	}
	if c == mesh.Session {
		n = t.DownPackets
	}
	return min(n, t.DownPackets)
}

// seal makes the user bytes of a try's packets and remembers its answer key.
func (o *Onion) seal(to Recipient, t *try, q *packet.Request) ([][]byte, error) {
	key, known := o.SealKey(to)
	if !known {
		return nil, fmt.Errorf("%w: the recipient publishes no sealing key now", mesh.ErrOffline)
	}
	sealed, answerKey, err := packet.SealRequest(key, q, o.rnd)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	t.key = answerKey
	o.mu.Unlock()
	var id packet.MessageID
	if _, err := io.ReadFull(o.rnd, id[:]); err != nil {
		return nil, fmt.Errorf("draw message id: %w", err)
	}
	return packet.Split(id, packet.MessageRequest, sealed)
}

// replyBlocks prepays the way back for an answer that leaves the recipient shortly after arrival.
func (o *Onion) replyBlocks(to Recipient, timing mix.Timing, cl *call, n int, arrival time.Time) (*try, []packet.ReplyBlock, error) {
	t := &try{call: cl}
	var blocks []packet.ReplyBlock
	for i := range n {
		var id packet.ReplyID
		if _, err := io.ReadFull(o.rnd, id[:]); err != nil {
			return t, nil, fmt.Errorf("draw reply id: %w", err)
		}
		way := timing
		if timing.Slots {
			way.HopMean = mix.AnswerHold(timing.HopMean, i)
		}
		r, err := o.wayBack(to, way, arrival.Add(answerSpare))
		if err != nil {
			o.forget([]*try{t})
			return t, nil, err
		}
		b, keys, err := packet.NewReplyBlock(r.Hops, id, o.rnd)
		if err != nil {
			o.forget([]*try{t})
			return t, nil, err
		}
		o.mu.Lock()
		full := len(o.replies) >= packet.MaxOpenReplies
		if !full {
			o.replies[id] = &openReply{keys: keys, try: t, until: r.Arrival.Add(packet.AnswerLife)}
			t.ids = append(t.ids, id)
		}
		o.mu.Unlock()
		if full {
			o.forget([]*try{t})
			return t, nil, &mesh.BusyError{After: time.Minute}
		}
		blocks = append(blocks, *b)
		if timing.Slots {
			o.expect(r, timing, n)
		}
	}
	return t, blocks, nil
}

// expect lets cover leave room for a packet of an answer of n.
func (o *Onion) expect(r *route.Route, timing mix.Timing, n int) {
	relays := r.Relays()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shape.Answer(relays[len(relays)-1], r.Arrival.Add(-mix.CoverLead(timing.HopMean, o.slotMean, n)))
}

func (o *Onion) wayBack(to Recipient, timing mix.Timing, depart time.Time) (*route.Route, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.chooser(timing.HopMean)
	ends, err := o.guards.Usable(o.usable, o.rnd)
	if err == nil && timing.Slots {
		ends, err = o.endsLikeLoops(c, ends)
	}
	if err != nil {
		return nil, err
	}
	return c.Back(o.backSelf(), packet.NodeKey(to), ends, depart, o.rnd)
}

// endsLikeLoops lists the relays that an answer in class meter may come back by, the first drawn as a loop's last relay
// is. guards are the usable ones in random order. o.mu is held.
func (o *Onion) endsLikeLoops(c *route.Chooser, guards []packet.NodeKey) ([]packet.NodeKey, error) {
	ends := o.ends()
	if len(guards) == 0 {
		return ends, nil
	}
	first := c.LoopEnds(guards[0], ends)
	for _, list := range [][]packet.NodeKey{first, ends} {
		if err := mix.Shuffle(list, o.rnd); err != nil {
			return nil, err
		}
	}
	return append(first, ends...), nil
}

// chooser chooses over the present snapshot; o.mu is held.
func (o *Onion) chooser(hop time.Duration) *route.Chooser {
	now := o.clock.Now()
	return &route.Chooser{Snapshot: o.snap, HopMean: hop,
		Skip: func(n packet.NodeKey) bool { return o.health.Skipped(n, now) }}
}

func (o *Onion) backSelf() route.Self { return route.Self{Node: o.self, Key: o.relay.ownKey} }

// answered takes a packet that came back on a reply block.
func (o *Onion) answered(id packet.ReplyID, p *packet.Packet, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.replies[id]
	if _, late := o.late[id]; late {
		delete(o.late, id)
		o.stats.Late++
		return
	}
	if r == nil {
		o.countLocked(DropLate, 1)
		return
	}
	delete(o.replies, id)
	user, err := r.keys.Open(p)
	if err != nil {
		o.countLocked(DropTampered, 1)
		return
	}
	if user[12] == 0 { // no kind: cover that filled an unused block
		return
	}
	whole, err := o.answers.Add(user, now)
	if err != nil || whole != nil && whole.Kind != packet.MessageReply {
		o.countLocked(DropMessage, 1)
		return
	}
	if whole == nil {
		return
	}
	body, err := r.try.key.OpenAnswer(r.try.call.id, whole.Sealed)
	if err != nil {
		o.countLocked(DropMessage, 1)
		return
	}
	select {
	case r.try.call.result <- body:
	default: // an earlier try was answered too
	}
}

// expireReplies forgets reply blocks that nobody can use any more; o.mu is held.
func (o *Onion) expireReplies(now time.Time) {
	for id, r := range o.replies {
		if now.After(r.until) {
			delete(o.replies, id)
		}
	}
	maps.DeleteFunc(o.late, func(_ packet.ReplyID, until time.Time) bool { return now.After(until) })
	o.answers.Expire(now)
}
