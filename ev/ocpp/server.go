package ocpp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"gridveil/ev"
)

// Limits of a server.
const (
	maxSockets        = 512 // a home has a few; this bounds memory to about 20 MB
	maxPending        = 64  // unknown ids that wait for the owner
	maxSocketsPerAddr = 16  // unknown stations behind one address
	headerTimeout     = 10 * time.Second
	maxHeader         = 16 << 10
	shutdownGrace     = time.Second // for handshakes that are under way when Serve ends
)

// Errors of the owner's API.
var (
	ErrUnknownStation = errors.New("no station with this id has connected; check the id configured in the wallbox")
	ErrInvalidID      = errors.New("station id must be 1 to 48 characters of A-Z a-z 0-9 * _ : . = @ | + -")
)

// Clock is the time that protocol steps use; socket timeouts use the wall clock.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Stations keeps what must survive a restart. Save is durable when it returns.
type Stations interface {
	LoadStations() ([]Record, error)
	SaveStation(Record) error
}

// Config of a Server. Dialects, Ingest and Stations are required.
type Config struct {
	// Dialects in order of preference.
	Dialects []Dialect
	// Ingest stores an event durably. The station is answered after it returns
	// nil; on an error it is called again with the same event, after a pause,
	// until it succeeds or the station goes away (and then repeats the message
	// itself). It must be idempotent and safe for concurrent use.
	Ingest func(ctx context.Context, station string, e ev.Event) error
	// Stations stores who may connect.
	Stations Stations
	// Authorize says whether an id token (an RFID card of the house, or the code
	// of a session) may charge. Codes given to Station.Start since the server
	// started are always allowed; nil allows nothing else.
	Authorize func(station, token string) bool
	// Needs is told what a car plans (ISO 15118 through OCPP 2.0.1); nil ignores it.
	Needs func(station string, n Needs)
	// HouseLimitW is the default profile of every station: what it may draw when
	// nobody tells it anything, for example because this gateway is off.
	// Zero means 4140 W, 6 A on three phases.
	HouseLimitW int64
	// Settings for every station; zero fields mean 60 s samples, 300 s marks and
	// 300 s heartbeats.
	Settings Settings
	// Clock is the protocol clock, nil for the wall clock.
	Clock Clock
	// Log is nil for none. Station ids are never logged.
	Log *slog.Logger
}

// Server accepts wallboxes. Create it with NewServer, run it with Serve.
type Server struct {
	cfg   Config
	stats counters
	rate  int // frameRate, except in benchmarks

	mu       sync.Mutex // guards the fields below
	stations map[string]*Station
	sockets  int
	perAddr  map[netip.Addr]int // sockets of stations that are not accepted
}

// Stats are totals since the server was created.
type Stats struct {
	Sockets     int    // now open
	Frames      uint64 // received
	BadFrames   uint64 // not OCPP-J
	LateAnswers uint64 // answers after their call had timed out, or to no call
}

// NewServer checks the configuration and loads the known stations.
func NewServer(cfg Config) (*Server, error) {
	if len(cfg.Dialects) == 0 || cfg.Ingest == nil || cfg.Stations == nil {
		return nil, errors.New("ocpp: Config needs Dialects, Ingest and Stations")
	}
	if cfg.HouseLimitW < 0 {
		return nil, fmt.Errorf("ocpp: house limit of %d W is negative", cfg.HouseLimitW)
	}
	cfg.HouseLimitW = or(cfg.HouseLimitW, 4140)
	cfg.Settings.Sample = or(cfg.Settings.Sample, time.Minute)
	cfg.Settings.Aligned = or(cfg.Settings.Aligned, 5*time.Minute)
	cfg.Settings.Heartbeat = or(cfg.Settings.Heartbeat, 5*time.Minute)
	if cfg.Clock == nil {
		cfg.Clock = wallClock{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	recs, err := cfg.Stations.LoadStations()
	if err != nil {
		return nil, fmt.Errorf("load stations: %w", err)
	}
	s := &Server{cfg: cfg, rate: frameRate, stations: make(map[string]*Station, len(recs)), perAddr: make(map[netip.Addr]int)}
	for _, r := range recs {
		if !validID(r.ID) {
			return nil, fmt.Errorf("load stations: %w", ErrInvalidID)
		}
		s.stations[r.ID] = newStation(s, r)
	}
	return s, nil
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// Serve answers on ln until ctx ends, then closes every socket and waits for
// its work. Wrap ln with tls.NewListener for profile 2 and 3.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	var open sync.WaitGroup
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		open.Add(1)
		defer open.Done()
		s.handle(w, r)
	})
	hs := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)} // it would log addresses
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	err := hs.Serve(ln)
	// Handshakes still under way end first, so that nothing joins open below.
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if hs.Shutdown(grace) != nil {
		hs.Close()
	}
	for _, st := range s.all() {
		st.hangUp()
	}
	open.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve OCPP: %w", err)
}

// handle is one websocket from handshake to end.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	id := stationID(r.URL)
	if id == "" {
		http.Error(w, "use /ocpp/<station id>; "+ErrInvalidID.Error(), http.StatusNotFound)
		return
	}
	if r.TLS == nil && !inHouse(remoteIP(r)) {
		http.Error(w, "OCPP without TLS is only served inside the house", http.StatusForbidden)
		return
	}
	st, ticket, release, status := s.admit(id, r)
	if status != 0 {
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="ocpp"`)
		}
		http.Error(w, http.StatusText(status), status)
		return
	}
	defer release()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: s.subprotocols()})
	if err != nil {
		return // Accept has answered
	}
	d := s.dialect(ws.Subprotocol())
	if d == nil {
		_ = ws.Close(websocket.StatusProtocolError, "want subprotocol ocpp2.0.1 or ocpp1.6")
		return
	}
	ws.SetReadLimit(maxFrame)
	c := newConn(r.Context(), ws, d.MalformedCode(), &s.stats)
	c.rate = s.rate
	st.adopt(c, d, ticket)
	c.run(func(ctx context.Context, action string, payload jsonRaw) (any, func(), error) {
		return st.receive(ctx, c, d, action, payload)
	})
	st.release(c)
}

// admit decides whether a socket may open, and counts it. The ticket orders the
// sockets of one station. A status other than 0 is the HTTP answer of a refusal.
func (s *Server) admit(id string, r *http.Request) (st *Station, ticket uint64, release func(), status int) {
	addr := remoteIP(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sockets >= maxSockets {
		return nil, 0, nil, http.StatusServiceUnavailable
	}
	st = s.stations[id]
	if st == nil {
		if s.countPending() >= maxPending {
			return nil, 0, nil, http.StatusServiceUnavailable
		}
		// Kept in memory only: a stranger cannot fill the store.
		st = newStation(s, Record{ID: id, Standing: Pending})
	}
	rec := st.record()
	switch rec.Standing {
	case Refused:
		return nil, 0, nil, http.StatusForbidden
	case Accepted:
		if pw, ok := basicPassword(r.Header, id); !ok || !rec.checkPassword(pw) {
			return nil, 0, nil, http.StatusUnauthorized
		}
		addr = netip.Addr{}
	default:
		if s.perAddr[addr] >= maxSocketsPerAddr {
			return nil, 0, nil, http.StatusServiceUnavailable
		}
	}
	s.stations[id] = st
	st.sockets++
	st.tickets++
	s.sockets++
	s.perAddr[addr]++
	return st, st.tickets, func() { s.leave(st, addr) }, 0
}

// leave undoes admit. A pending station that hangs up is forgotten.
func (s *Server) leave(st *Station, addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sockets--
	st.sockets--
	if s.perAddr[addr]--; s.perAddr[addr] <= 0 {
		delete(s.perAddr, addr)
	}
	if rec := st.record(); rec.Standing == Pending && st.sockets == 0 {
		delete(s.stations, rec.ID)
	}
}

func (s *Server) countPending() (n int) {
	for _, st := range s.stations {
		if st.record().Standing == Pending {
			n++
		}
	}
	return n
}

func (s *Server) subprotocols() []string {
	var names []string
	for _, d := range s.cfg.Dialects {
		names = append(names, d.Subprotocol())
	}
	return names
}

// dialect finds the one that was negotiated, nil if none was: coder/websocket
// accepts a client without a common subprotocol.
func (s *Server) dialect(subprotocol string) Dialect {
	for _, d := range s.cfg.Dialects {
		if d.Subprotocol() == subprotocol {
			return d
		}
	}
	return nil
}

// Stats returns the totals.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Sockets: s.sockets, Frames: s.stats.frames.Load(), BadFrames: s.stats.bad.Load(), LateAnswers: s.stats.late.Load()}
}

// Station returns the handle of a known station.
func (s *Server) Station(id string) (*Station, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.stations[id]
	return st, ok
}

func (s *Server) all() []*Station {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Station, 0, len(s.stations))
	for _, st := range s.stations {
		out = append(out, st)
	}
	return out
}

// List describes every known or waiting station, sorted by id.
func (s *Server) List() []Info {
	var out []Info
	for _, st := range s.all() {
		out = append(out, st.Info())
	}
	slices.SortFunc(out, func(a, b Info) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out
}

// Provision makes a station known before it first connects and returns the
// Basic password to be typed into it: 40 hex characters, not stored in clear.
// For a station that is already accepted the old password ends here.
func (s *Server) Provision(id string) (password string, err error) {
	if !validID(id) {
		return "", ErrInvalidID
	}
	s.mu.Lock()
	st := s.stations[id]
	if st == nil {
		st = newStation(s, Record{ID: id, Standing: Pending})
		s.stations[id] = st
	}
	s.mu.Unlock()
	return st.accept()
}

// Accept admits a pending station. The password is sent to it over the socket
// that it waits on; it is also returned, for wallboxes that cannot take it and
// want it typed in. From its next connection on the station must use it.
func (s *Server) Accept(ctx context.Context, id string) (password string, err error) {
	st, ok := s.Station(id)
	if !ok {
		return "", ErrUnknownStation
	}
	if password, err = st.accept(); err != nil {
		return "", err
	}
	st.introduce(ctx, password)
	return password, nil
}

// Refuse closes a station's socket and turns it away from now on.
func (s *Server) Refuse(id string) error {
	st, ok := s.Station(id)
	if !ok {
		return ErrUnknownStation
	}
	err := st.change(func(r *Record) { r.Standing = Refused })
	st.hangUp()
	return err
}
