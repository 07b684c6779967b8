package guest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Limits of the door. Times are wall-clock: they protect sockets.
const (
	maxGuests     = 8  // connected wallets
	maxHandshakes = 32 // sockets that have not become a wallet yet
	headerTimeout = 5 * time.Second
	maxHeader     = 4 << 10
	writeTimeout  = 10 * time.Second
	pingInterval  = 30 * time.Second
	minGap        = 5 * time.Millisecond // between messages of one wallet: a flood is read slower
	shutdownGrace = time.Second
	path          = "/guest"
)

// Clock gives the day; nil is the wall clock.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// Config of a Door.
type Config struct {
	// Seed derives the daily keys. It is secret, random, and kept by the gateway
	// over restarts.
	Seed [32]byte
	// Guest serves one wallet until it returns or the connection ends; up to 8
	// run at once. The door closes the connection afterwards.
	Guest func(ctx context.Context, c *Conn)
	// Clock decides which day's key is shown; nil is the wall clock.
	Clock Clock
	// Log is nil for none. Nothing about a wallet is logged.
	Log *slog.Logger
}

// Door is the host's listener for guests. Create it with NewDoor.
type Door struct {
	cfg Config

	mu     sync.Mutex // guards the fields below
	keys   []doorKey  // newest first, at most two
	guests int
}

// NewDoor checks the configuration.
func NewDoor(cfg Config) (*Door, error) {
	if cfg.Guest == nil || cfg.Seed == [32]byte{} {
		return nil, errors.New("guest door: Config needs Seed and Guest")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Door{cfg: cfg}
	if _, err := d.today(); err != nil {
		return nil, err
	}
	return d, nil
}

// Link is today's link to an EVSE of this gateway, for the QR code. gateway is
// the address under which guests reach the page, port that of the door.
func (d *Door) Link(gateway string, evse uint8, port uint16) (Link, error) {
	k, err := d.today()
	if err != nil {
		return Link{}, err
	}
	return Link{Gateway: gateway, EVSE: evse, Port: port, SPKI: k.spki}, nil
}

func (d *Door) now() time.Time {
	if d.cfg.Clock == nil {
		return time.Now()
	}
	return d.cfg.Clock.Now()
}

// today returns the key of the present day, making it when the day is new. The
// day before stays known for wallets that return after midnight.
func (d *Door) today() (doorKey, error) {
	n := d.now().Unix() / int64(day/time.Second)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.keys) > 0 && d.keys[0].day == n {
		return d.keys[0], nil
	}
	d.keys = nil
	for _, wanted := range []int64{n, n - 1} {
		k, err := newDoorKey(d.cfg.Seed, wanted)
		if err != nil {
			return doorKey{}, err
		}
		d.keys = append(d.keys, k)
	}
	return d.keys[0], nil
}

// certificate picks the key that the wallet pinned, today's if it named none.
func (d *Door) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	k, err := d.today()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.keys {
		if serverName(d.keys[i].spki) == h.ServerName {
			return &d.keys[i].cert, nil
		}
	}
	return &k.cert, nil
}

// Serve opens the door on ln until ctx ends, then sends every guest away and
// waits for their handlers.
func (d *Door) Serve(ctx context.Context, ln net.Listener) error {
	var open sync.WaitGroup
	secure := tls.NewListener(&gate{Listener: ln, free: make(chan struct{}, maxGuests+maxHandshakes)}, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, GetCertificate: d.certificate})
	hs := &http.Server{ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // it would log addresses
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			open.Add(1)
			defer open.Done()
			d.handle(w, r)
		})}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	err := hs.Serve(secure)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if hs.Shutdown(grace) != nil {
		hs.Close()
	}
	open.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve guest door: %w", err)
}

func (d *Door) handle(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != path {
		http.Error(w, "this door is for wallets only", http.StatusNotFound)
		return
	}
	if !d.enter() {
		http.Error(w, "too many guests, try again in a minute", http.StatusServiceUnavailable)
		return
	}
	defer d.leave()
	ws, err := websocket.Accept(w, r, nil) // refuses browsers of other origins
	if err != nil {
		return // Accept has answered
	}
	c := newConn(r.Context(), ws)
	c.serve(d.cfg.Guest)
}

func (d *Door) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.guests >= maxGuests {
		return false
	}
	d.guests++
	return true
}

func (d *Door) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guests--
}

// gate closes sockets beyond its capacity at once: a neighbour who opens
// thousands must not cost the gateway its memory.
type gate struct {
	net.Listener
	free chan struct{}
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case g.free <- struct{}{}:
			return &gated{Conn: c, free: g.free}, nil
		default:
			c.Close()
		}
	}
}

type gated struct {
	net.Conn
	once sync.Once
	free chan struct{}
}

func (c *gated) Close() error {
	c.once.Do(func() { <-c.free })
	return c.Conn.Close()
}
