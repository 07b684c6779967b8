package ocpp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"gridveil/ev"
)

type jsonRaw = json.RawMessage

const (
	maxEVSE     = 64               // of one station; higher numbers are kept in events but not tracked
	maxCodes    = 64               // codes started here and still allowed to begin a transaction
	followTime  = 60 * time.Second // power must follow a profile within this
	followSlack = 300              // W above the limit that counts as not following: meter noise and 6 A steps
)

// Station is one wallbox, connected or not. Its methods are safe for
// concurrent use; orders to one station go out in the order of the calls.
type Station struct {
	srv     *Server
	sockets int    // guarded by srv.mu
	tickets uint64 // sockets admitted so far; guarded by srv.mu

	mu       sync.Mutex // guards the fields below
	rec      Record
	conn     *conn
	newest   uint64 // ticket of the newest connection
	dialect  Dialect
	traits   Traits
	defaultW int64
	running  map[int]string // EVSE to transaction
	last     map[int]string // EVSE to its newest transaction, running or ended
	codes    []string       // newest last
	number   int32          // of the next remote start
	follow   map[int]follow // by EVSE
	setup    bool           // configuration after boot is running
	version  string         // of the last connection
}

// follow watches whether measured power obeys the last limit.
type follow struct {
	watts int64
	since time.Time // of the limit
	lost  bool      // a sample later than followTime was above it
}

// Info is a snapshot of a station for pages and for the gateway.
type Info struct {
	ID       string
	Version  string // "1.6" or "2.0.1", "" before the first connection
	Standing Standing
	Online   bool
	Vendor   string
	Model    string
	Running  map[int]string // EVSE to transaction id
	// Uncontrollable: power stayed above a limit for more than 60 s, so the
	// station must not be sold as flexibility.
	Uncontrollable bool
}

func newStation(s *Server, r Record) *Station {
	return &Station{srv: s, rec: r, traits: Traits{Phases: r.Phases}, defaultW: s.cfg.HouseLimitW,
		running: make(map[int]string), last: make(map[int]string), follow: make(map[int]follow)}
}

// ID is the id from the station's URL.
func (st *Station) ID() string { return st.record().ID }

// Online reports whether a socket is open.
func (st *Station) Online() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.conn != nil
}

// Info returns a snapshot.
func (st *Station) Info() Info {
	st.mu.Lock()
	defer st.mu.Unlock()
	in := Info{ID: st.rec.ID, Version: st.version, Standing: st.rec.Standing, Online: st.conn != nil,
		Vendor: st.rec.Vendor, Model: st.rec.Model, Running: make(map[int]string, len(st.running))}
	for evse, tx := range st.running {
		in.Running[evse] = tx
	}
	for _, f := range st.follow {
		in.Uncontrollable = in.Uncontrollable || f.lost
	}
	return in
}

// Start asks the station to begin a transaction on an EVSE with a code, which
// becomes the id token that the meter signs. It returns when the station has
// agreed; the transaction itself arrives as an event. code is at most 20
// characters (OCPP 1.6 idTag).
func (st *Station) Start(ctx context.Context, evse int, code string) error {
	if evse < 1 || code == "" || len(code) > 20 {
		return fmt.Errorf("start a transaction: want EVSE >= 1 and a code of 1 to 20 characters, got EVSE %d and %d characters", evse, len(code))
	}
	st.mu.Lock()
	st.allow(code)
	st.number = st.number%(1<<30) + 1
	number := st.number
	st.mu.Unlock()
	return st.order(ctx, func(d Dialect) (Request, error) { return d.Start(evse, code, number), nil })
}

// Resume tells a server that was restarted which transaction runs on an EVSE, so
// that Limit speaks of it before the station does. code may begin it again.
func (st *Station) Resume(evse int, transaction, code string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if evse < 1 || evse > maxEVSE {
		return
	}
	if transaction != "" {
		st.running[evse], st.last[evse] = transaction, transaction
	}
	st.allow(code)
}

// allow lets a code begin a transaction; the oldest is forgotten. st.mu is held.
func (st *Station) allow(code string) {
	if code == "" {
		return
	}
	st.codes = append(st.codes, code)
	if len(st.codes) > maxCodes {
		st.codes = slices.Delete(st.codes, 0, len(st.codes)-maxCodes)
	}
}

// Stop asks the station to end a transaction, named as in its events.
func (st *Station) Stop(ctx context.Context, transaction string) error {
	return st.order(ctx, func(d Dialect) (Request, error) { return d.Stop(transaction) })
}

// begun is how long ago every limit begins: a station whose clock is behind would
// otherwise fall back to its default until its clock comes to the limit's begin.
const begun = 5 * time.Minute

// Limit sets what the car on an EVSE may draw, in watts >= 0 (0 pauses), until
// a time; the zero time means until the transaction ends. After that the
// station's default profile holds, so a limit that protects a fuse must be
// renewed before it runs out.
func (st *Station) Limit(ctx context.Context, evse int, watts int64, until time.Time) error {
	if evse < 1 || watts < 0 {
		return fmt.Errorf("limit: want EVSE >= 1 and watts >= 0, got EVSE %d and %d W", evse, watts)
	}
	now := st.srv.cfg.Clock.Now()
	st.mu.Lock()
	l := Limit{EVSE: evse, Transaction: st.running[evse], Watts: watts, From: now.Add(-begun), Until: until, Traits: st.traits}
	st.mu.Unlock()
	err := st.order(ctx, func(d Dialect) (Request, error) { return d.Limit(l), nil })
	if err == nil {
		st.mu.Lock()
		st.follow[evse] = follow{watts: watts, since: now}
		st.mu.Unlock()
	}
	return err
}

// DefaultLimit sets the profile that holds whenever no other does, now and
// after every reboot of the station while this server runs. Watts >= 0.
func (st *Station) DefaultLimit(ctx context.Context, watts int64) error {
	if watts < 0 {
		return fmt.Errorf("default limit of %d W is negative", watts)
	}
	st.mu.Lock()
	st.defaultW = watts
	l := Limit{Watts: watts, Default: true, From: st.srv.cfg.Clock.Now().Add(-begun), Traits: st.traits}
	st.mu.Unlock()
	return st.order(ctx, func(d Dialect) (Request, error) { return d.Limit(l), nil })
}

// Setpoint asks for a power, negative to discharge (experimental: OCPP has no
// message for it in these versions, it goes as DataTransfer
// "gridveil/V2XSetpoint"). Zero ends discharging; limits then rule again. A
// station that does not know it gives a *RefusedError.
func (st *Station) Setpoint(ctx context.Context, evse int, watts int64) error {
	if evse < 1 {
		return fmt.Errorf("setpoint: want EVSE >= 1, got %d", evse)
	}
	return st.order(ctx, func(d Dialect) (Request, error) { return d.Setpoint(evse, watts), nil })
}

// order sends one request and reads the verdict.
func (st *Station) order(ctx context.Context, build func(Dialect) (Request, error)) error {
	st.mu.Lock()
	c, d, standing := st.conn, st.dialect, st.rec.Standing
	st.mu.Unlock()
	if c == nil || standing != Accepted {
		return ErrOffline
	}
	req, err := build(d)
	if err != nil {
		return err
	}
	_, err = st.send(ctx, c, d, req)
	return err
}

func (st *Station) send(ctx context.Context, c *conn, d Dialect, req Request) (jsonRaw, error) {
	reply, err := c.call(ctx, req.Action, req.Payload)
	if err == nil {
		err = d.Verdict(req.Action, reply)
	}
	if err != nil {
		return reply, fmt.Errorf("%s: %w", req.Action, err)
	}
	return reply, nil
}

// receive handles one CALL of the station.
func (st *Station) receive(ctx context.Context, c *conn, d Dialect, action string, payload jsonRaw) (any, func(), error) {
	rec := st.record()
	if rec.Standing != Accepted && action != "BootNotification" {
		return nil, nil, &CallError{Code: CodeSecurity, Description: "this station waits for its owner's acceptance"}
	}
	ans, err := d.Receive(Call{Station: rec.ID, Action: action, Payload: payload, Now: st.srv.cfg.Clock.Now(),
		Standing: rec.Standing, Heartbeat: st.srv.cfg.Settings.Heartbeat, Authorize: st.authorize})
	if err != nil {
		return nil, nil, err
	}
	if rec.Standing == Accepted {
		for i, e := range ans.Events {
			e = st.complete(e)
			if !st.store(ctx, rec.ID, e) {
				return nil, nil, errNoAnswer
			}
			ans.Events[i] = e
		}
	}
	if ans.Boot != nil {
		st.describe(*ans.Boot)
	}
	return ans.Reply, func() { st.settle(c, d, rec.Standing, ans) }, nil
}

// settle does what follows from a message once it is answered: only then does
// the station know its transaction's id, and may be told about it.
func (st *Station) settle(c *conn, d Dialect, standing Standing, ans Answer) {
	if standing != Accepted {
		return
	}
	for _, e := range ans.Events {
		st.observe(e)
	}
	if ans.Needs != nil && st.srv.cfg.Needs != nil {
		st.srv.cfg.Needs(st.ID(), *ans.Needs)
	}
	if ans.Boot != nil {
		c.spawn(func() { st.configure(c.ctx, c, d) })
	}
}

// store offers an event until it is durable. It gives up only when the socket
// ends; the station then still has the message and sends it again.
func (st *Station) store(ctx context.Context, id string, e ev.Event) bool {
	pause := retryIngest
	for first := true; ; first = false {
		err := st.srv.cfg.Ingest(ctx, id, e)
		if err == nil {
			return true
		}
		if first {
			st.srv.cfg.Log.Warn("charging event not stored, station waits", "err", err)
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return false
		}
		pause = min(2*pause, maxRetryPause)
	}
}

// complete adds what a message leaves out. 1.6 stops name no connector, meter
// values of both versions may name no transaction. Values after the end join
// the transaction only if they hold a signed record: idle samples would grow
// it for ever.
func (st *Station) complete(e ev.Event) ev.Event {
	st.mu.Lock()
	defer st.mu.Unlock()
	if e.EVSE == 0 && e.TransactionID != "" {
		for evse, tx := range st.last {
			if tx == e.TransactionID {
				e.EVSE, e.Connector = evse, evse
			}
		}
	}
	if e.Kind != ev.Values || e.TransactionID != "" {
		return e
	}
	e.TransactionID = st.running[e.EVSE]
	if e.TransactionID == "" && len(ev.FindOCMF(e.Raw)) > 0 {
		e.TransactionID = st.last[e.EVSE]
	}
	return e
}

// observe keeps track of running transactions and of power against the limit.
func (st *Station) observe(e ev.Event) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if e.EVSE < 1 || e.EVSE > maxEVSE {
		return
	}
	switch e.Kind {
	case ev.Started, ev.Updated, ev.Values:
		// An update numbered after the end does not reopen its transaction.
		unseen := st.running[e.EVSE] == "" && st.last[e.EVSE] != e.TransactionID
		if e.TransactionID != "" && (e.Kind == ev.Started || unseen) {
			st.running[e.EVSE], st.last[e.EVSE] = e.TransactionID, e.TransactionID
		}
	case ev.Ended:
		if st.running[e.EVSE] == e.TransactionID {
			delete(st.running, e.EVSE)
			delete(st.follow, e.EVSE)
		}
	}
	f, limited := st.follow[e.EVSE]
	if !limited || len(e.Samples) == 0 {
		return
	}
	for _, r := range ev.Fold([]ev.Event{e}).Readings {
		if r.HasPower && r.At > f.since.Add(followTime).UnixMilli() {
			f.lost = r.PowerW > f.watts+followSlack
		}
	}
	st.follow[e.EVSE] = f
}

// authorize allows codes that were started here and what the owner allows.
func (st *Station) authorize(token string) bool {
	st.mu.Lock()
	ours := slices.Contains(st.codes, token)
	id := st.rec.ID
	st.mu.Unlock()
	if ours {
		return true
	}
	return st.srv.cfg.Authorize != nil && st.srv.cfg.Authorize(id, token)
}

// configure tells a booted station how to report and what to draw when alone.
// A setting that a station does not know is not an error: Fold copes.
func (st *Station) configure(ctx context.Context, c *conn, d Dialect) {
	st.mu.Lock()
	busy := st.setup
	st.setup = true
	st.mu.Unlock()
	if busy {
		return
	}
	defer func() {
		st.mu.Lock()
		st.setup = false
		st.mu.Unlock()
	}()
	for _, req := range d.Settings(st.srv.cfg.Settings) {
		reply, err := st.send(ctx, c, d, req)
		if errors.Is(err, ErrOffline) || ctx.Err() != nil {
			return
		}
		if err != nil {
			st.srv.cfg.Log.Debug("station setting refused", "action", req.Action, "err", err)
			continue
		}
		st.mu.Lock()
		d.Learn(req.Action, reply, &st.traits)
		st.mu.Unlock()
	}
	st.mu.Lock()
	watts := st.defaultW
	st.mu.Unlock()
	if err := st.DefaultLimit(ctx, watts); err != nil && ctx.Err() == nil {
		st.srv.cfg.Log.Warn("wallbox did not take its default limit", "err", err)
	}
}

// introduce gives a just accepted station its password and asks it to boot
// again, so that it need not wait for its retry interval.
func (st *Station) introduce(ctx context.Context, password string) {
	for _, build := range []func(Dialect) Request{
		func(d Dialect) Request { return d.Password(password) },
		Dialect.Boot,
	} {
		if err := st.order(ctx, func(d Dialect) (Request, error) { return build(d), nil }); err != nil {
			// The owner has the password on screen and the station boots by itself.
			st.srv.cfg.Log.Debug("accepted station not told", "err", err)
		}
	}
}

// accept makes the station accepted under a new password.
func (st *Station) accept() (password string, err error) {
	err = st.change(func(r *Record) {
		r.Standing = Accepted
		password = r.newPassword()
	})
	return password, err
}

// describe keeps what a BootNotification said, in the store if it is news.
func (st *Station) describe(b Boot) {
	rec := st.record()
	if rec.Vendor == b.Vendor && rec.Model == b.Model {
		return
	}
	if err := st.change(func(r *Record) { r.Vendor, r.Model = b.Vendor, b.Model }); err != nil {
		st.srv.cfg.Log.Warn("station description not stored", "err", err)
	}
}

// change edits the record and stores it; strangers' records stay in memory.
func (st *Station) change(edit func(*Record)) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	r := st.rec
	edit(&r)
	if r.Standing != Pending {
		if err := st.srv.cfg.Stations.SaveStation(r); err != nil {
			return fmt.Errorf("store station: %w", err)
		}
	}
	st.rec = r
	return nil
}

func (st *Station) record() Record {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.rec
}

// adopt makes c the station's connection; the newest one wins, because the old
// socket of a station that lost its network can linger for minutes. A station
// that was refused during its handshake is closed at once.
func (st *Station) adopt(c *conn, d Dialect, ticket uint64) {
	st.mu.Lock()
	loser := c
	if st.rec.Standing != Refused && ticket > st.newest {
		loser = st.conn
		st.conn, st.newest, st.dialect, st.version = c, ticket, d, d.Version()
	}
	st.mu.Unlock()
	if loser != nil {
		loser.close()
	}
}

// release forgets c if it is still the station's connection.
func (st *Station) release(c *conn) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.conn == c {
		st.conn = nil
	}
}

func (st *Station) hangUp() {
	st.mu.Lock()
	c := st.conn
	st.mu.Unlock()
	if c != nil {
		c.close()
	}
}
