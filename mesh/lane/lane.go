package lane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// Limits of the shell.
const (
	writeTimeout = 10 * time.Second // a neighbour that does not take a piece in this time is gone
	bodyTimeout  = 30 * time.Second // from a frame's header to its last byte
	ackTimeout   = 2 * time.Minute  // without one Window frame while bulk waits: 8 KiB take 1 min of a tenth of 9.6 kbit/s
	openTimeout  = 10 * time.Second // to open and negotiate a stream
	reopenFirst  = time.Second      // pause before a lost stream is opened again, doubled up to reopenLast
	reopenLast   = time.Minute
	maxAssembly  = 4       // bulk messages coming in at once: 4 MiB per neighbour
	ackEvery     = 8 << 10 // bulk bytes between two Window frames
	readBuffer   = 2 << 10 // per stream; a gateway has about ten
)

// handlers and calls limit what one neighbour can have running or waiting here, and what we have open there, per lane.
// A handler's slot is free when the last byte of its answer is handed to the stream, so a neighbour that reads slowly
// holds at most that many answers in our memory: 0.25, 16 and 8 MiB. calls is also how many refusals may wait for it.
var (
	handlers = [Lanes]int{32, 64, 8}
	calls    = [Lanes]int{64, 256, 64}
)

// ErrUnsent: the request never left, so it was not done. ErrUnanswered: it left, and whether it was done is unknown;
// send it again under the same record id. Both wrap their cause.
var (
	ErrUnsent     = errors.New("lane: request not sent")
	ErrUnanswered = errors.New("lane: request sent, no answer")
	ErrTooLarge   = errors.New("lane: message is longer than the lane allows")

	errClosed = errors.New("link closed")
	errBroken = errors.New("stream broke")
)

// Stream is what a lane runs on; a libp2p stream is one.
type Stream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	Reset() error
}

// Clock gives protocol time; nil in a Config means the wall clock.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// Config says what a Link runs on.
type Config struct {
	// Open opens a stream to the neighbour. The side that dialled the connection sets it and opens all lanes;
	// the other side leaves it nil and hands streams to Accept.
	Open func(ctx context.Context) (Stream, error)
	// Handle answers a request of the neighbour. It runs on its own goroutine, at most 32, 64 and 8 at once on the
	// three lanes; ctx ends when the neighbour cancels or the link closes.
	Handle func(ctx context.Context, l Lane, service uint8, req []byte) ([]byte, error)
	// Clock paces the reopening of lost streams.
	Clock Clock
	// Count, if set, is told of frame bytes sent and received. It must not block.
	Count func(l Lane, sent, received int)
}

// Link is the lanes to one neighbour. Its methods are safe for concurrent use.
type Link struct {
	c     Config
	wake  chan struct{} // capacity 1: something to write
	done  chan struct{} // closed when Serve ends
	slots [Lanes]chan struct{}
	runs  [Lanes]chan struct{}
	wg    sync.WaitGroup

	mu      sync.Mutex // guards everything below; never held while reading or writing a stream
	closed  bool
	pace    Pace
	lanes   [Lanes]laneState
	nextID  uint32
	pending map[uint32]*call
	running map[uint32]context.CancelFunc
	partial map[uint32]*assembly
}

type laneState struct {
	stream  Stream
	queue   []*out
	refused int       // busy answers in queue
	unacked int       // bulk bytes sent and not yet acknowledged
	acked   time.Time // when the neighbour last acknowledged some, or the first of unacked left
	taken   int       // bulk bytes received and not yet acknowledged by us
}

// duty says what an outgoing frame owes when it leaves the queue.
type duty uint8

const (
	owesNothing duty = iota
	owesSlot         // the last frame of an answer frees its handler's slot
	owesRefusal      // a busy answer counts in refused
)

// out is one frame on its way.
type out struct {
	id     uint32
	buf    []byte
	off    int
	weight int   // body bytes that count against the bulk window
	call   *call // nil in answers
	duty   duty
}

type call struct {
	lane Lane
	sent bool // a first byte left
	done chan result
}

type result struct {
	body []byte
	err  error
}

// New makes a Link. It does nothing until Serve runs.
func New(c Config) *Link {
	if c.Clock == nil {
		c.Clock = wall{}
	}
	if c.Count == nil {
		c.Count = func(Lane, int, int) {}
	}
	k := &Link{c: c, wake: make(chan struct{}, 1), done: make(chan struct{}), nextID: 2,
		pending: map[uint32]*call{}, running: map[uint32]context.CancelFunc{}, partial: map[uint32]*assembly{}}
	if c.Open != nil {
		k.nextID = 1
	}
	for l := range k.slots {
		k.slots[l] = make(chan struct{}, calls[l])
		k.runs[l] = make(chan struct{}, handlers[l])
	}
	return k
}

// Serve runs the link until ctx ends, then fails every open call and waits for its goroutines.
func (k *Link) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if k.c.Open != nil {
		for l := range Lane(Lanes) {
			k.wg.Go(func() { k.keepOpen(ctx, l) })
		}
	}
	k.write(ctx)
	k.close()
	k.wg.Wait()
	return ctx.Err()
}

func (k *Link) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	close(k.done)
	for l := range k.lanes {
		if s := k.lanes[l].stream; s != nil {
			_ = s.Reset() // the link is over; nothing more can be said on it
		}
	}
	for _, stop := range k.running {
		stop()
	}
	for id, c := range k.pending {
		k.finish(id, c, nil, errClosed)
	}
}

// Call sends a request on lane l and waits for its answer. A *RemoteError is the far side's own answer; ErrUnsent and
// ErrUnanswered wrap what ended the wait. A request above MaxMessage(l) is ErrTooLarge.
func (k *Link) Call(ctx context.Context, l Lane, service uint8, req []byte) ([]byte, error) {
	if len(req) > MaxMessage(l) {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(req), MaxMessage(l))
	}
	select {
	case k.slots[l] <- struct{}{}:
		defer func() { <-k.slots[l] }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnsent, ctx.Err())
	case <-k.done:
		return nil, fmt.Errorf("%w: %w", ErrUnsent, errClosed)
	}
	c := &call{lane: l, done: make(chan result, 1)}
	id, err := k.enqueueCall(c, service, req)
	if err != nil {
		return nil, err
	}
	select {
	case r := <-c.done:
		return r.body, r.err
	case <-ctx.Done():
		return k.abandon(id, c, ctx.Err())
	}
}

func (k *Link) enqueueCall(c *call, service uint8, req []byte) (uint32, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return 0, fmt.Errorf("%w: %w", ErrUnsent, errClosed)
	}
	id := k.nextID
	for k.pending[id] != nil { // only after 2^31 requests
		id += 2
	}
	k.nextID = id + 2
	k.pending[id] = c
	k.enqueue(c.lane, c, owesNothing, frames(c.lane, id, Req, service, req)...)
	return id, nil
}

// abandon ends a call whose caller stopped waiting, unless the answer came first.
func (k *Link) abandon(id uint32, c *call, cause error) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pending[id] == c {
		k.finish(id, c, nil, cause)
		if c.sent && !k.closed {
			k.unqueue(c)
			k.enqueue(c.lane, nil, owesNothing, Frame{ID: id, Type: Cancel})
		}
	}
	r := <-c.done
	return r.body, r.err
}

// finish hands a call its result; k.mu is held.
func (k *Link) finish(id uint32, c *call, body []byte, err error) {
	delete(k.pending, id)
	delete(k.partial, id)
	if err != nil {
		var re *RemoteError
		switch {
		case errors.As(err, &re):
		case c.sent:
			err = fmt.Errorf("%w: %w", ErrUnanswered, err)
		default:
			err = fmt.Errorf("%w: %w", ErrUnsent, err)
			k.unqueue(c)
		}
	}
	c.done <- result{body, err}
}

// unqueue takes a call's untouched frames out of the queue; k.mu is held.
func (k *Link) unqueue(c *call) {
	k.sift(c.lane, func(o *out) bool { return o.call != c || o.off > 0 })
}

// sift keeps only some frames of a lane's queue; k.mu is held.
func (k *Link) sift(l Lane, keep func(*out) bool) {
	q := k.lanes[l].queue
	kept := q[:0]
	for _, o := range q {
		if keep(o) {
			kept = append(kept, o)
		} else {
			k.settle(l, o)
		}
	}
	clear(q[len(kept):])
	k.lanes[l].queue = kept
}

// settle does what a frame owes that leaves the queue, sent or not; k.mu is held.
func (k *Link) settle(l Lane, o *out) {
	switch o.duty {
	case owesSlot:
		<-k.runs[l] // taken in start, so this does not block
	case owesRefusal:
		k.lanes[l].refused--
	}
}

// enqueue adds frames to a lane, the last of which has the duty d; k.mu is held. The queue is bounded by our own calls,
// by the handlers' slots and by the refusals that may wait.
func (k *Link) enqueue(l Lane, c *call, d duty, fs ...Frame) {
	for i, f := range fs {
		o := &out{id: f.ID, buf: AppendFrame(make([]byte, 0, HeaderSize+len(f.Body)), f), call: c}
		if l == Bulk {
			o.weight = len(f.Body)
		}
		if i == len(fs)-1 {
			o.duty = d
		}
		k.lanes[l].queue = append(k.lanes[l].queue, o)
	}
	k.poke()
}

func (k *Link) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// write is the only writer of all lanes of this link: that is what makes priorities hold.
func (k *Link) write(ctx context.Context) {
	for {
		s, l, b, ok := k.take()
		if !ok {
			select {
			case <-k.wake:
				continue
			case <-k.ackDue():
				continue // take resets the lane
			case <-ctx.Done():
				return
			}
		}
		_ = s.SetWriteDeadline(time.Now().Add(writeTimeout)) // a stream that cannot set it fails in Write
		if _, err := s.Write(b); err != nil {
			k.drop(l, s)
			continue
		}
		k.c.Count(l, len(b), 0)
		if ctx.Err() != nil {
			return
		}
	}
}

// take picks the next piece to write and marks it as sent.
func (k *Link) take() (Stream, Lane, []byte, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	bulk := &k.lanes[Bulk]
	midFrame := len(bulk.queue) > 0 && bulk.queue[0].off > 0
	if bulk.stream != nil && bulk.taken >= ackEvery && !midFrame {
		ack := AppendFrame(nil, Frame{Type: Window, Body: binary.BigEndian.AppendUint32(nil, uint32(bulk.taken))})
		bulk.taken = 0
		return bulk.stream, Bulk, ack, true
	}
	var waiting [Lanes]bool
	for l := range k.lanes {
		waiting[l] = k.lanes[l].stream != nil && len(k.lanes[l].queue) > 0
	}
	if k.windowShut() {
		waiting[Bulk] = false
		if time.Since(bulk.acked) >= ackTimeout {
			_ = bulk.stream.Reset() // the neighbour does not take what it asked for
			k.forget(Bulk)
		}
	}
	l, most, ok := k.pace.Next(waiting)
	if !ok {
		return nil, 0, nil, false
	}
	b := k.fill(l, most)
	k.pace.Wrote(l, len(b), waiting[Bulk])
	return k.lanes[l].stream, l, b, true
}

// windowShut reports whether bulk waits for the neighbour to acknowledge; k.mu is held.
func (k *Link) windowShut() bool {
	b := &k.lanes[Bulk]
	return b.stream != nil && len(b.queue) > 0 && b.queue[0].off == 0 && b.unacked+b.queue[0].weight > BulkWindow
}

// ackDue fires when bulk has waited too long for an acknowledgement; it is nil when bulk does not wait.
func (k *Link) ackDue() <-chan time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.windowShut() {
		return nil
	}
	return time.After(time.Until(k.lanes[Bulk].acked.Add(ackTimeout)))
}

// fill takes up to most bytes off a lane's queue: several short frames go in one write. k.mu is held.
func (k *Link) fill(l Lane, most int) []byte {
	st := &k.lanes[l]
	var b []byte
	for len(st.queue) > 0 && len(b) < most {
		o := st.queue[0]
		if o.off == 0 {
			if l == Bulk && len(b) > 0 && st.unacked+o.weight > BulkWindow {
				break
			}
			if st.unacked == 0 && o.weight > 0 {
				st.acked = time.Now()
			}
			st.unacked += o.weight
			if o.call != nil {
				o.call.sent = true
			}
		}
		part := o.buf[o.off:min(len(o.buf), o.off+most-len(b))]
		o.off += len(part)
		if b == nil && o.off == len(o.buf) && len(st.queue) == 1 {
			b = part // the usual case: one frame, no copy
		} else {
			b = append(b, part...)
		}
		if o.off == len(o.buf) {
			k.settle(l, o)
			st.queue[0] = nil
			st.queue = st.queue[1:]
		}
	}
	return b
}

// keepOpen holds one lane's stream open for as long as ctx lasts.
func (k *Link) keepOpen(ctx context.Context, l Lane) {
	pause := reopenFirst
	for ctx.Err() == nil {
		if s, err := k.open(ctx, l); err == nil {
			pause = reopenFirst
			k.attach(ctx, l, s)
		}
		jittered := pause/2 + rand.N(pause)
		pause = min(2*pause, reopenLast)
		select {
		case <-k.c.Clock.After(jittered):
		case <-ctx.Done():
		}
	}
}

func (k *Link) open(ctx context.Context, l Lane) (Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, err := k.c.Open(ctx)
	if err != nil {
		return nil, err
	}
	_ = s.SetWriteDeadline(time.Now().Add(openTimeout)) // a stream that cannot set it fails in Write
	if _, err := s.Write([]byte{byte(l)}); err != nil {
		_ = s.Reset() // already broken
		return nil, err
	}
	return s, nil
}

// Accept serves a stream that the neighbour opened, until it breaks or the link closes. A second stream for a lane
// replaces the first: the neighbour reopens only what it lost.
func (k *Link) Accept(ctx context.Context, s Stream) error {
	var first [1]byte
	_ = s.SetReadDeadline(time.Now().Add(openTimeout)) // a stream that cannot set it fails in Read
	if _, err := io.ReadFull(s, first[:]); err != nil {
		_ = s.Reset() // already broken
		return err
	}
	if first[0] >= Lanes {
		_ = s.Reset() // says no more than the error below
		return fmt.Errorf("%w: lane %d", ErrFrame, first[0])
	}
	_ = s.SetReadDeadline(time.Time{}) // a kept stream may be idle for hours
	return k.attach(ctx, Lane(first[0]), s)
}

// attach makes s the stream of lane l and reads it until it ends.
func (k *Link) attach(ctx context.Context, l Lane, s Stream) error {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		_ = s.Reset() // the link is over
		return errClosed
	}
	if old := k.lanes[l].stream; old != nil {
		_ = old.Reset() // replaced
		k.forget(l)
	}
	k.lanes[l].stream = s
	k.poke()
	k.mu.Unlock()
	err := k.read(ctx, l, s)
	k.drop(l, s)
	return err
}

// drop forgets a broken stream, unless another has taken its place.
func (k *Link) drop(l Lane, s Stream) {
	_ = s.Reset() // broken already, or replaced
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lanes[l].stream == s {
		k.forget(l)
	}
}

// forget clears a lane's stream: calls that used it fail, frames half written or answering go, unsent requests stay.
// k.mu is held.
func (k *Link) forget(l Lane) {
	st := &k.lanes[l]
	st.stream, st.unacked, st.taken = nil, 0, 0
	k.sift(l, func(o *out) bool { return o.call != nil && !o.call.sent })
	for id, c := range k.pending {
		if c.lane == l && c.sent {
			k.finish(id, c, nil, errBroken)
		}
	}
	if l == Bulk {
		clear(k.partial)
	}
}

// wall is the clock of a Config without one.
type wall struct{}

func (wall) Now() time.Time                         { return time.Now() }
func (wall) After(d time.Duration) <-chan time.Time { return time.After(d) }
