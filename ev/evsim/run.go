package evsim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lorenzodonini/ocpp-go/ocpp"
	"github.com/lorenzodonini/ocpp-go/ocppj"
	"github.com/lorenzodonini/ocpp-go/ws"
)

// Wall-clock times of the shell: they concern sockets, not the simulation.
const (
	redialPause   = 200 * time.Millisecond
	answerTimeout = 10 * time.Second
	// never keeps ocpp-go from reconnecting by itself: each of our connections
	// is a new client, as its reconnect loses the request that was under way.
	never = 1 << 30 * time.Second
)

// Errors of one connection.
var (
	errGone    = errors.New("evsim: the socket ended")
	errRefused = errors.New("evsim: the central system refused a message")
)

// link is one connection in one OCPP version.
type link interface {
	boot(ctx context.Context) (accepted bool, interval time.Duration, err error)
	heartbeat(ctx context.Context) error
	// send tells one report and waits for the answer. errRefused means that
	// repeating it is no use.
	send(ctx context.Context, r report) error
}

// Run keeps the wallbox connected until ctx ends: it boots, then sends what
// Step has queued, in order, each report until it was answered.
func (cp *ChargePoint) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := cp.session(ctx); err != nil && ctx.Err() == nil {
			select { // redial
			case <-time.After(redialPause):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// session is one connection from dial to end.
func (cp *ChargePoint) session(ctx context.Context) error {
	t, err := cp.dial()
	if err != nil {
		return err
	}
	defer t.close()
	defer cp.setOnline(false)
	pause, err := cp.introduce(ctx, t)
	if err != nil {
		return err
	}
	cp.setOnline(true)
	beat := cp.cfg.Clock.After(pause)
	for {
		r, ok := cp.head()
		if !ok {
			select {
			case <-cp.wake:
			case <-beat:
				if err := t.link.heartbeat(ctx); err != nil {
					return err
				}
				beat = cp.cfg.Clock.After(pause)
			case <-t.down:
				return errGone
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		if r.kind == reportBoot {
			_, _, err = t.link.boot(ctx)
		} else {
			err = t.link.send(ctx, r)
		}
		if err != nil && !errors.Is(err, errRefused) {
			return err
		}
		cp.sent()
	}
}

// introduce boots until the central system accepts the wallbox.
func (cp *ChargePoint) introduce(ctx context.Context, t *transport) (time.Duration, error) {
	for {
		ok, pause, err := t.link.boot(ctx)
		if err != nil || ok {
			return pause, err
		}
		select {
		case <-cp.cfg.Clock.After(pause):
		case <-cp.wake: // a trigger, or something to tell
		case <-t.down:
			return 0, errGone
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		cp.dropBoot()
	}
}

func (cp *ChargePoint) setOnline(v bool) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	cp.online = v
}

// head returns the oldest report that is not answered yet.
func (cp *ChargePoint) head() (report, bool) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if len(cp.outbox) == 0 {
		return report{}, false
	}
	return cp.outbox[0], true
}

// sent removes the oldest report.
func (cp *ChargePoint) sent() {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	cp.outbox = cp.outbox[1:]
}

// dropBoot removes a trigger to boot that is being followed already.
func (cp *ChargePoint) dropBoot() {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if len(cp.outbox) > 0 && cp.outbox[0].kind == reportBoot {
		cp.outbox = cp.outbox[1:]
	}
}

// txID returns the id of a transaction, which a 1.6 central system gives.
func (cp *ChargePoint) txID(t *transaction) string {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return t.id
}

func (cp *ChargePoint) nameTx(t *transaction, id string) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	t.id = id
}

// transport is one ocpp-go client.
type transport struct {
	link link
	down chan struct{} // closed when the socket ended or we end it
	once sync.Once
	stop func()
}

// end releases everybody who waits for the socket.
func (t *transport) end() { t.once.Do(func() { close(t.down) }) }

// close ends the client. Nothing may be sent afterwards: ocpp-go panics.
func (t *transport) close() {
	t.end()
	t.stop()
}

// dial opens a socket with a fresh client.
func (cp *ChargePoint) dial() (*transport, error) {
	cp.mu.Lock()
	password := cp.password
	cp.mu.Unlock()
	client := ws.NewClient()
	timeouts := ws.NewClientTimeoutConfig()
	timeouts.RetryBackOffWaitMinimum, timeouts.RetryBackOffRandomRange = never, 0
	client.SetTimeoutConfig(timeouts)
	if password != "" {
		client.SetBasicAuth(cp.cfg.ID, password)
	}
	dispatcher := ocppj.NewDefaultClientDispatcher(ocppj.NewFIFOClientQueue(0))
	dispatcher.SetTimeout(answerTimeout)
	t := &transport{down: make(chan struct{})}
	lost := func(error) { t.end() }
	var err error
	if cp.cfg.Version == "1.6" {
		t.link, t.stop, err = cp.dial16(client, dispatcher, t.down, lost)
	} else {
		t.link, t.stop, err = cp.dial201(client, dispatcher, t.down, lost)
	}
	if err != nil {
		return nil, fmt.Errorf("evsim: connect: %w", err)
	}
	return t, nil
}

// sender is what both clients of ocpp-go have.
type sender interface {
	SendRequestAsync(request ocpp.Request, callback func(ocpp.Response, error)) error
}

// ask sends one request and waits for its answer, the end of the socket or ctx.
func ask(ctx context.Context, s sender, down <-chan struct{}, req ocpp.Request) (ocpp.Response, error) {
	type answer struct {
		r   ocpp.Response
		err error
	}
	got := make(chan answer, 1)
	if err := s.SendRequestAsync(req, func(r ocpp.Response, err error) { got <- answer{r, err} }); err != nil {
		return nil, errors.Join(errRefused, err) // our own message did not pass ocpp-go's validation
	}
	select {
	case a := <-got:
		if a.err == nil {
			return a.r, nil
		}
		var oe *ocpp.Error
		if errors.As(a.err, &oe) && oe.Description != "Request timed out" {
			return nil, errors.Join(errRefused, a.err)
		}
		return nil, a.err
	case <-down:
		return nil, errGone
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// yield misbehaves as told before a call is answered.
func (cp *ChargePoint) yield(down <-chan struct{}) {
	cp.mu.Lock()
	f := cp.faults
	cp.mu.Unlock()
	switch {
	case f.Mute:
		<-down
	case f.Late > 0:
		select {
		case <-time.After(f.Late):
		case <-down:
		}
	}
}
