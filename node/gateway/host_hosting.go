package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/ev/guest"
	"gridveil/ev/ocmf"
	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/v16"
	"gridveil/ev/ocpp/v201"
	"gridveil/ev/pool"
	"gridveil/mesh/mailbox"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/wallet/purse"
	"gridveil/privacy/leak"
	"gridveil/privacy/pseudo"
)

// operators is what the house asks of aggregator and utility: ask.Operators by
// onion.
type operators interface {
	purse.Operators
	Issuers() pseudo.IssuerKeys
	Lag() time.Duration
	Mail(ctx context.Context, keeper mailbox.Key, request []byte) ([]byte, error)
}

// hosting is the house as a host of cars: central system of the wallbox, guest
// door, one session at a time, and the purse that sessions fill.
//
// The flow of a guest's session: offer (host_offer) -> open (host_door) ->
// authorise (host_outbox) -> start, meter, tick, end (host_session, host_ocpp) ->
// fold, verify, attribute, price (host_flow) -> sign, settle, collect.
//
// Locks: mu, then the purse's, then the store's. Nothing that waits for a socket
// or an operator is done under mu.
type hosting struct {
	env     *role.Env
	journal *journal
	ops     operators
	purse   *purse.Purse
	srv     *ocpp.Server
	door    *guest.Door // nil unless guests are welcome
	outbox  store.Outbox
	mailbag store.Outbox   // receipts for drivers who left
	mask    *mask          // nil without battery
	signals outside        // nil: nobody outside is heard
	key     ocmf.PublicKey // pinned meter key, zero if none
	network [16]byte
	stepped bool          // the house is stepped, and an accelerated clock waits for its steps
	crash   func() error  // tests: dies between a durable step and what follows from it
	kick    chan struct{} // the timer loop looks again
	send    chan struct{} // the outbox has grown
	post    chan struct{} // the mailbag has grown
	command chan struct{} // there are orders for the wallbox

	mu      sync.Mutex // guards everything below
	visits  map[visitID]*visit
	swept   time.Time // when old ones were dropped last
	current *visit    // whose car is at the wallbox, never nil
	station string    // the wallbox that current is at
	samples samples
	passes  passes
	offers  []*standing // newest last
	orders  []order
	held    func()          // releases the clock, nil while it runs freely
	v2x     bool            // the wallbox has not refused to discharge
	cert    *pool.MeterCert // of the pinned meter, nil while sessions are not offered to the pool
	// discharging says that the newest order that the wallbox took is a discharge.
	discharging bool
	took        limitTaken
}

// newHosting opens the hosting half of the gateway. m is told how far it may move the
// car, and asked how far it wants to; nil without battery.
func newHosting(env *role.Env, j *journal, m *mask) (*hosting, error) {
	return openHosting(env, j, ask.Operators{Env: env}, m)
}

func openHosting(env *role.Env, j *journal, ops operators, m *mask) (*hosting, error) {
	h := &hosting{env: env, journal: j, ops: ops, outbox: env.Store.Outbox("settle"), mailbag: env.Store.Outbox("mail"), mask: m, network: [16]byte(env.ID.Bundle.Network),
		kick: make(chan struct{}, 1), send: make(chan struct{}, 1), post: make(chan struct{}, 1), command: make(chan struct{}, 1), visits: map[visitID]*visit{}, v2x: true}
	if text := env.Config.EVSE.MeterKey; text != "" {
		key, err := ocmf.ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("evse.meter_key: %w", err)
		}
		h.key = key
	}
	for _, load := range []func() error{h.openPurse, h.loadSamples, h.loadPasses, h.loadCert, h.loadVisits, h.openStation, h.openDoor} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	h.handleControl()
	return h, nil
}

func (h *hosting) openPurse() (err error) {
	self := h.env.ID.Member
	h.purse, err = purse.Open(purse.Config{Store: h.env.Store, Clock: h.env.Clock, Rand: h.env.Rand, Log: h.env.Log, Operators: h.ops, Claims: claims{h},
		Operator: self.Operator, Contract: ask.Contract(h.network, self.Key), Warn: h.env.Warn, Journal: h.journal.record})
	return err
}

func (h *hosting) openStation() (err error) {
	c := h.env.Config.EVSE
	h.srv, err = ocpp.NewServer(ocpp.Config{Dialects: []ocpp.Dialect{v201.Dialect{}, v16.Dialect{}}, Ingest: h.ingest, Stations: stations{h.env},
		Authorize: h.authorize, Needs: h.needs, HouseLimitW: int64(c.MaxW), Clock: h.env.Clock, Log: h.env.Log})
	if err != nil {
		return fmt.Errorf("wallbox: %w", err)
	}
	h.station = c.Station
	return nil
}

var doorSeedKey = store.SpaceSession.Key([]byte("door"))

func (h *hosting) openDoor() error {
	if !h.env.Config.Hosting.Enabled {
		return nil
	}
	seed, err := secret(h.env, doorSeedKey)
	if err != nil {
		return fmt.Errorf("guest door: %w", err)
	}
	h.door, err = guest.NewDoor(guest.Config{Seed: seed, Guest: h.welcome, Clock: h.env.Clock, Log: h.env.Log})
	return err
}

// secret loads or draws 32 random bytes that a restart keeps.
func secret(env *role.Env, key []byte) (s [32]byte, err error) {
	b, err := env.Store.Get(key)
	if err == nil && len(b) == len(s) {
		return [32]byte(b), nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return s, err
	}
	if _, err := io.ReadFull(env.Rand, s[:]); err != nil {
		return s, fmt.Errorf("draw a secret: %w", err)
	}
	return s, env.Store.Set(key, s[:])
}

// serve hosts until ctx ends. With every remote down it goes on: the own car
// charges, guests charge on trust, and records wait.
func (h *hosting) serve(ctx context.Context) error {
	l, err := net.Listen("tcp", h.env.Config.EVSE.Listen)
	if err != nil {
		return fmt.Errorf("evse.listen: %w; choose another address in the configuration", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return h.srv.Serve(ctx, l) })
	group.Go(func() error { return h.acceptOwn(ctx) })
	group.Go(func() error { return h.serveOrders(ctx) })
	group.Go(func() error { return h.serveTimers(ctx) })
	group.Go(func() error { return h.serveOutbox(ctx) })
	group.Go(func() error { return h.serveMail(ctx) })
	group.Go(func() error { return h.purse.Serve(ctx) })
	if h.door != nil {
		d, err := net.Listen("tcp", h.env.Config.Hosting.Listen)
		if err != nil {
			return errors.Join(fmt.Errorf("hosting.listen: %w; choose another address in the configuration", err), l.Close())
		}
		group.Go(func() error { return h.door.Serve(ctx, d) })
		group.Go(func() error { return h.servePasses(ctx) })
	}
	err = group.Wait()
	h.mu.Lock()
	h.release()
	h.mu.Unlock()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// poke wakes a loop that waits on c.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has not yet seen the last poke
	}
}

// serveTimers does what time alone asks for.
func (h *hosting) serveTimers(ctx context.Context) error {
	for {
		next, err := h.tick()
		if err != nil {
			h.env.Log.Warn("step of a session not stored; it is tried again", "err", err)
			next = again
		}
		h.env.Warn.Set(err != nil, role.Warning{Code: "sessions-not-stored", Severity: role.Fault, Title: "Charging sessions cannot be stored",
			Text: "Cars go on charging and the wallbox keeps its records, but nothing is signed or settled.", Next: "Make room on the disk; `gridveil store check` then says whether it is sound."}, h.env.Clock.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-h.kick:
		case <-h.env.Clock.After(next):
		}
	}
}

// longestPause is how long the timer loop sleeps when nothing is due.
const longestPause = time.Minute

// tick handles every deadline that has come and says how long to sleep.
func (h *hosting) tick() (time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.env.Clock.Now()
	next := now.Add(longestPause)
	ids := make([]visitID, 0, len(h.visits))
	for id := range h.visits {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b visitID) int { return slices.Compare(a[:], b[:]) })
	for _, id := range ids {
		v := h.visits[id]
		for _, due := range h.deadlines(v) {
			if due.at.IsZero() {
				continue
			}
			if due.at.After(now) {
				next = earlier(next, due.at)
				continue
			}
			if err := due.act(now); err != nil {
				return 0, err
			}
		}
	}
	if now.Sub(h.swept) >= sweepPeriod {
		if err := h.forgetOld(now); err != nil {
			return 0, err
		}
	}
	h.warnUnsettled(now)
	h.expireOffers(now)
	h.hold(now)
	return max(next.Sub(now), 10*time.Millisecond), nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// hold slows an accelerated clock while a session is being opened or an order is
// on its way to the wallbox. The caller holds mu.
func (h *hosting) hold(now time.Time) {
	busy := len(h.orders) > 0 && !h.orders[0].notBefore.After(now)
	for _, v := range h.visits {
		busy = busy || v.opening()
	}
	switch {
	case busy && h.held == nil:
		h.held = clock.Hold(h.env.Clock)
	case !busy:
		h.release()
	}
}

func (h *hosting) release() {
	if h.held != nil {
		h.held()
		h.held = nil
	}
}

// lag is how much later than planned a deadline is enforced on a machine whose
// clock is accelerated; zero in a house.
func (h *hosting) lag() time.Duration { return h.ops.Lag() }

// heldLag is lag while the clock is held.
func (h *hosting) heldLag() time.Duration { return min(h.lag(), clock.HeldSpeed*machineTime) }

const machineTime = 2 * time.Second // mesh.MachineTime: what a busy machine may need for what counts as instant

// left notes in the journal what leaves, inside the update that lets it leave.
func (h *hosting) left(m leak.Message, to leak.Role, as [32]byte, size int) func(*store.Tx) error {
	e := leak.Entry{Message: m, To: to, Bytes: uint32(size), At: h.env.Clock.Now()}
	copy(e.As[:], as[:])
	return func(tx *store.Tx) error { return h.journal.record(tx, e) }
}

// short is a digest in the form that pages show: "7F3A-92".
func short(id []byte) string {
	if len(id) < 3 {
		sum := sha256.Sum256(id)
		id = sum[:]
	}
	return fmt.Sprintf("%02X%02X-%02X", id[0], id[1], id[2])
}
