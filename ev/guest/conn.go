package guest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// ErrClosed says that the connection has ended. The wallet dials again; the
// session goes on where it was.
var ErrClosed = errors.New("the connection to the other side ended")

// Conn is one open door, on either side. Send may be called by several
// goroutines, Receive by one.
type Conn struct {
	ws *websocket.Conn
	// ctx ends with the connection. It is kept because the pinger and both
	// directions share the connection's life.
	ctx    context.Context
	cancel context.CancelFunc
	pings  sync.WaitGroup
	last   time.Time // of the previous message received
}

func newConn(ctx context.Context, ws *websocket.Conn) *Conn {
	ws.SetReadLimit(maxMessage)
	c := &Conn{ws: ws}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.pings.Add(1)
	go c.ping() // ends with Close
	return c
}

// serve runs a handler and closes the connection.
func (c *Conn) serve(guest func(context.Context, *Conn)) {
	defer c.Close()
	guest(c.ctx, c)
}

// Dial opens the door of a link from the wallet's side. Errors wrap ErrPin if
// another key answered.
func Dial(ctx context.Context, l Link) (*Conn, error) {
	transport := &http.Transport{TLSClientConfig: pinned(l.SPKI), DisableKeepAlives: true}
	ws, resp, err := websocket.Dial(ctx, "wss://"+l.Door()+path, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		if resp != nil && resp.StatusCode == http.StatusServiceUnavailable {
			return nil, errors.New("open guest door: the host has too many guests, try again in a minute")
		}
		return nil, fmt.Errorf("open guest door: %w", err)
	}
	// The caller's ctx bounds the handshake, not the visit.
	return newConn(context.WithoutCancel(ctx), ws), nil
}

// Send writes one message. It returns ErrClosed if the connection has ended,
// and ErrMessage if the other side would refuse the message for its size.
func (c *Conn) Send(ctx context.Context, m Message) error {
	b := m.Bytes()
	if _, err := ParseMessage(b); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := c.ws.Write(ctx, websocket.MessageBinary, b); err != nil {
		return fmt.Errorf("send: %w", ErrClosed)
	}
	return nil
}

// Receive waits for the next message. A message that cannot be read ends the
// connection: both sides are programs, and one of them is not ours. Cancelling
// ctx ends the connection too.
func (c *Conn) Receive(ctx context.Context) (Message, error) {
	if err := c.pace(ctx); err != nil {
		return Message{}, err
	}
	// Cancelling a read closes the socket, so the caller's ctx must not reach
	// it: the read runs under the connection's own.
	stop := context.AfterFunc(ctx, c.cancel)
	defer stop()
	kind, b, err := c.ws.Read(c.ctx)
	if err != nil {
		if ctx.Err() != nil {
			return Message{}, ctx.Err()
		}
		return Message{}, fmt.Errorf("receive: %w", ErrClosed)
	}
	if kind != websocket.MessageBinary {
		c.refuse()
		return Message{}, fmt.Errorf("%w: text", ErrMessage)
	}
	m, err := ParseMessage(b)
	if err != nil {
		c.refuse()
	}
	return m, err
}

// pace keeps minGap between two messages.
func (c *Conn) pace(ctx context.Context) error {
	wait := minGap - time.Since(c.last)
	if wait > 0 && !c.last.IsZero() {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.last = time.Now()
	return nil
}

func (c *Conn) refuse() {
	c.cancel()
	// No closing handshake: the other side does not follow the protocol anyway.
	_ = c.ws.CloseNow()
}

// Close ends the connection and waits for its pinger.
func (c *Conn) Close() {
	c.cancel()
	// The other side sees the end either way.
	_ = c.ws.CloseNow()
	c.pings.Wait()
}

// ping keeps the connection alive through a host's router and finds out when
// the other side is gone. Pongs are only seen while a Receive is waiting.
func (c *Conn) ping() {
	defer c.pings.Done()
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	missed := 0
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(c.ctx, pingInterval)
		err := c.ws.Ping(ctx)
		cancel()
		if missed++; err == nil {
			missed = 0
		}
		if missed >= 2 {
			_ = c.ws.CloseNow()
			return
		}
	}
}
