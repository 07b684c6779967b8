package ocpp

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// Errors of a call to a station. A CALLERROR from the station is a *CallError.
var (
	ErrOffline  = errors.New("station is not connected")
	ErrBusy     = errors.New("station has 32 calls waiting; try again later")
	ErrTimeout  = errors.New("station did not answer within 30 s")
	ErrBadReply = errors.New("station answered with something that is not the reply of this action")
)

// Limits of one connection. All of them are wall-clock: they protect a socket,
// not a protocol step.
const (
	maxWaiting    = 32               // calls of ours waiting for their turn, per station
	callTimeout   = 30 * time.Second // from writing a CALL to its answer
	writeTimeout  = 10 * time.Second // a station that does not read for this long is dead
	pingInterval  = 30 * time.Second // keeps NAT entries of home routers alive
	maxMissed     = 2                // pings without pong before the socket is closed
	inboxSize     = 16               // frames read ahead of the handler; when full the socket is read slower
	frameRate     = 50               // frames per second of one station; above, we read slower and never drop
	maxBadFrames  = 20               // per minute; more closes with 1008
	badFrameSpan  = time.Minute
	retryIngest   = time.Second // first pause after the store refused an event
	maxRetryPause = 10 * time.Second
)

// handler serves the CALLs of a station, one after the other. It returns the
// payload of the answer and what to do once the answer is written, before the
// next CALL is served. A *CallError is sent as it is; errNoAnswer sends nothing.
type handler func(ctx context.Context, action string, payload json.RawMessage) (reply any, after func(), err error)

// errNoAnswer makes the connection stay silent: the event is not durable.
var errNoAnswer = errors.New("no answer")

// conn is one websocket of one station: a reader, a worker that handles the
// station's calls in order, and at most one call of ours in flight. Every
// queue belongs to this station alone, so a mute one delays nobody.
type conn struct {
	ws     *websocket.Conn
	badFmt string // error code for a malformed frame: differs between versions
	stats  *counters
	rate   int // frames per second; above, the socket is read slower

	inbox   chan frame
	slot    chan struct{} // held by the call in flight; waiters queue in order of arrival
	waiting atomic.Int32
	prefix  string
	next    atomic.Uint64
	missed  atomic.Int32 // pings without pong

	// ctx ends with the socket. It is kept here because calls come from
	// goroutines that know nothing of the socket's life.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup // worker, pinger and after-answer work

	mu      sync.Mutex
	pending map[string]chan frame // at most one entry
	pinger  *time.Timer
	closed  bool
}

// counters are the totals of one server, for metrics.
type counters struct {
	late, bad, frames atomic.Uint64
}

func newConn(ctx context.Context, ws *websocket.Conn, badFmt string, stats *counters) *conn {
	var seed [6]byte
	rand.Read(seed[:]) // never fails (crypto/rand)
	c := &conn{ws: ws, badFmt: badFmt, stats: stats, rate: frameRate, inbox: make(chan frame, inboxSize), slot: make(chan struct{}, 1),
		prefix: hex.EncodeToString(seed[:]), pending: make(map[string]chan frame, 1)}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

// run serves the connection until the socket or its context ends. The caller's
// goroutine is the reader; run waits for everything it started.
func (c *conn) run(serve handler) {
	c.tasks.Add(1)
	go c.work(serve) // owned by run
	c.armPing()
	c.read()
	c.close()
	c.tasks.Wait()
}

// close ends the connection at once, without a handshake; the call in flight
// and every later one return ErrOffline.
func (c *conn) close() {
	c.cancel()
	c.mu.Lock()
	c.closed = true
	for id, answer := range c.pending {
		delete(c.pending, id)
		close(answer)
	}
	if c.pinger != nil && c.pinger.Stop() {
		c.tasks.Done()
	}
	c.pinger = nil
	c.mu.Unlock()
	// The peer may be gone already: nothing is left to be said to it.
	_ = c.ws.CloseNow()
}

// read is the reader: it hands calls to the worker and answers to the waiting
// call, counts bad frames and slows down a flood.
func (c *conn) read() {
	bad := window{limit: maxBadFrames, span: badFrameSpan}
	pace := pacer{rate: c.rate}
	for {
		_, msg, err := c.ws.Read(c.ctx)
		if err != nil {
			return
		}
		c.missed.Store(0)
		c.stats.frames.Add(1)
		if !pace.wait(c.ctx) {
			return
		}
		f, err := parseFrame(msg)
		if err != nil {
			c.stats.bad.Add(1)
			if bad.over(time.Now()) {
				c.ws.Close(websocket.StatusPolicyViolation, "too many malformed frames")
				return
			}
			c.refuse(err)
			continue
		}
		if f.Type != typeCall {
			c.deliver(f)
			continue
		}
		select {
		case c.inbox <- f:
		case <-c.ctx.Done():
			return
		}
	}
}

// refuse answers a malformed frame if it may be answered at all.
func (c *conn) refuse(err error) {
	var fe *frameError
	if errors.As(err, &fe) && fe.Answer {
		// The socket's own reader notices a failed write.
		_ = c.write(frame{Type: typeCallError, ID: fe.ID, Code: c.badFmt, Description: fe.Reason})
	}
}

// work handles the station's calls in the order in which they came.
func (c *conn) work(serve handler) {
	defer c.tasks.Done()
	for {
		select {
		case <-c.ctx.Done():
			return
		case f := <-c.inbox:
			if !c.answer(serve, f) {
				return
			}
		}
	}
}

// answer runs the handler and writes what it returns. It reports whether the
// connection still stands.
func (c *conn) answer(serve handler, f frame) bool {
	reply, after, err := serve(c.ctx, f.Action, f.Payload)
	if errors.Is(err, errNoAnswer) {
		return c.ctx.Err() == nil
	}
	out := frame{Type: typeCallResult, ID: f.ID}
	if err == nil {
		out.Payload, err = json.Marshal(reply)
	}
	if err != nil {
		var ce *CallError
		if !errors.As(err, &ce) {
			ce = &CallError{Code: CodeInternal, Description: "the central system could not handle this call"}
		}
		out = frame{Type: typeCallError, ID: f.ID, Code: ce.Code, Description: ce.Description}
	}
	if c.write(out) != nil {
		return false
	}
	if after != nil {
		after()
	}
	return true
}

// spawn runs work of the connection beside the worker; it must end with c.ctx.
// It is called by the worker only, so run cannot be done waiting already.
func (c *conn) spawn(work func()) {
	c.tasks.Add(1)
	go func() { // owned by run
		defer c.tasks.Done()
		work()
	}()
}

// call sends one CALL and waits for its answer. Calls of one station go out
// one at a time, in the order in which they were made.
func (c *conn) call(ctx context.Context, action string, request any) (json.RawMessage, error) {
	payload, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", action, err)
	}
	if c.waiting.Add(1) > maxWaiting+1 { // the one in flight does not wait
		c.waiting.Add(-1)
		return nil, ErrBusy
	}
	defer c.waiting.Add(-1)
	select {
	case c.slot <- struct{}{}:
		defer func() { <-c.slot }()
	case <-c.ctx.Done():
		return nil, ErrOffline
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return c.exchange(ctx, action, payload)
}

// exchange writes one CALL and waits for what comes back.
func (c *conn) exchange(ctx context.Context, action string, payload json.RawMessage) (json.RawMessage, error) {
	id := c.prefix + "-" + strconv.FormatUint(c.next.Add(1), 36)
	answer := make(chan frame, 1)
	if !c.expect(id, answer) {
		return nil, ErrOffline
	}
	defer c.forget(id)
	if err := c.write(frame{Type: typeCall, ID: id, Action: action, Payload: payload}); err != nil {
		return nil, ErrOffline
	}
	timeout := time.NewTimer(callTimeout)
	defer timeout.Stop()
	select {
	case f, ok := <-answer:
		switch {
		case !ok:
			return nil, ErrOffline
		case f.Type == typeCallError:
			return nil, &CallError{Code: f.Code, Description: clip(f.Description)}
		case !isObject(f.Payload):
			return nil, ErrBadReply
		}
		return f.Payload, nil
	case <-timeout.C:
		return nil, ErrTimeout
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *conn) expect(id string, answer chan frame) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.pending[id] = answer
	return true
}

func (c *conn) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// deliver gives an answer to the call that waits for it. An answer that nobody
// waits for came late or was invented; it is counted and dropped.
func (c *conn) deliver(f frame) {
	c.mu.Lock()
	answer, ok := c.pending[f.ID]
	delete(c.pending, f.ID)
	c.mu.Unlock()
	if !ok {
		c.stats.late.Add(1)
		return
	}
	answer <- f // buffered, one answer per entry
}

func (c *conn) write(f frame) error {
	b, err := f.encode()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, writeTimeout)
	defer cancel()
	return c.ws.Write(ctx, websocket.MessageText, b)
}

// armPing sets the timer of the next ping. Between pings there is no
// goroutine, which keeps an idle station small.
func (c *conn) armPing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.tasks.Add(1)
	c.pinger = time.AfterFunc(pingInterval, c.ping)
}

// ping sends one ping; a station that misses two of them is dead.
func (c *conn) ping() {
	defer c.tasks.Done()
	for c.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(c.ctx, pingInterval)
		err := c.ws.Ping(ctx)
		cancel()
		if err == nil {
			break
		}
		if c.missed.Add(1) >= maxMissed {
			_ = c.ws.CloseNow() // the reader returns and ends the connection
			return
		}
	}
	c.missed.Store(0)
	c.armPing()
}

// window counts events in a sliding span of whole spans: over reports the
// event that exceeds limit.
type window struct {
	limit int
	span  time.Duration
	from  time.Time
	n     int
}

func (w *window) over(now time.Time) bool {
	if now.Sub(w.from) > w.span {
		w.from, w.n = now, 0
	}
	w.n++
	return w.n > w.limit
}

// pacer is a token bucket of one second: it never drops, it makes its caller wait.
type pacer struct {
	rate   int
	tokens float64
	last   time.Time
}

// wait returns false if ctx ended while waiting.
func (p *pacer) wait(ctx context.Context) bool {
	now := time.Now()
	if p.last.IsZero() {
		p.tokens = float64(p.rate)
	} else {
		p.tokens = min(float64(p.rate), p.tokens+now.Sub(p.last).Seconds()*float64(p.rate))
	}
	p.last = now
	p.tokens--
	if p.tokens >= 0 {
		return true
	}
	pause := time.NewTimer(time.Duration(-p.tokens / float64(p.rate) * float64(time.Second)))
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-ctx.Done():
		return false
	}
}
