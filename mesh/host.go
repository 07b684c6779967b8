package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh/lane"
	"gridveil/mesh/member"
)

// Member is a peer whose certificate was accepted.
type Member = member.Member

// Config says who a host is and whom it knows at start. Only Bundle and Chain are needed.
type Config struct {
	Clock  Clock          // protocol time; nil means the wall clock
	Log    *slog.Logger   // nil discards; no identity of a home is ever logged
	Bundle *member.Bundle // the installed network bundle; a newer one that the host accepted before counts instead
	Sig    []byte         // its signatures, handed to those who enrol here
	Chain  [][]byte       // own certificates, leaf first, DER; role and zone stand in them

	Listen   []ma.Multiaddr  // where to listen; a leaf has none, unless it relays
	Announce []ma.Multiaddr  // addresses to publish instead of the listen addresses, behind a NAT
	Parents  []peer.AddrInfo // kept connected: a leaf's SSNs in order of preference, a backbone node's seeds; until SetParents

	Limits Limits    // zero fields mean the defaults of the role
	Enrol  Registrar // nil: strangers are not served
	// SaveChain keeps a renewed certificate, which is Chain of the next start; nil forgets it.
	SaveChain func(chain [][]byte) error
	// SaveBundle keeps a newer network bundle and its signatures, which are Bundle and Sig of the next start: a renewed
	// certificate may hang on a CA that only the newer one names. Nil keeps it in the store alone.
	SaveBundle func(raw, sig []byte) error
	// Relay makes a gateway listen and forward onion packets of others: it accepts backbone members and other homes that
	// relay, and may publish its onion keys through a parent (Host.Publish). Other roles leave it false.
	Relay   bool
	DailyMB int // cap on each direction of a leaf's traffic per UTC day, 0 means 30; kept from LeastDailyMB on; see Host.Thrift
}

// HandlerFunc answers a request of a member whose role the service allows. The returned bytes are the answer.
// An error travels to the caller as its text: write no identity into it, or return a *RemoteError to choose its class.
type HandlerFunc func(ctx context.Context, from Member, req []byte) ([]byte, error)

// Host is one node's end of the mesh. Its methods are safe for concurrent use.
type Host struct {
	c       Config
	clock   Clock
	log     *slog.Logger
	key     ed25519.PrivateKey
	wire    *wire
	gate    *gater
	store   Stores
	lim     Limits
	regs    *registers
	stats   counters
	lag     lagMeter
	spent   budget
	sparing atomic.Bool // a home that relays has closed what it has open for relaying
	heard   clockBook
	backs   dialBacks

	traffic traffic

	patience time.Duration // of shut

	run context.Context // of Serve; libp2p's callbacks bring none. Set before serving is true
	wg  sync.WaitGroup  // everything that Serve or a callback started

	bundle bundlePointer
	roller roller // only housekeep uses it

	trust   sync.Mutex // guards certificates and registers; may be taken while nothing else is held
	revoked *member.Revocations
	roll    *member.Roll

	mu       sync.Mutex // guards what follows; never held across I/O or while taking trust
	serving  bool
	closed   bool
	chain    [][]byte
	self     Member
	links    map[network.Conn]*link
	peers    map[peer.ID][]*link // admitted, oldest first
	parents  []peer.AddrInfo     // best first; each has a keeper
	handlers map[Service]HandlerFunc
	doors    map[string]*listener
	keepers  map[peer.ID]*keeper
	failures map[peer.ID]failure
	enrols   int
	hellos   int
	warnings map[string]time.Time
}

// New prepares a host: it checks the certificate, opens its listening sockets and loads what it knew, but it accepts
// nobody and dials nobody before Serve. A host that is never served must be closed.
func New(c Config, key crypto.PrivKey, s Stores) (*Host, error) {
	if c.Bundle == nil {
		return nil, errors.New("mesh: no network bundle: install network.toml, or enrol with a code")
	}
	if c.Clock == nil {
		c.Clock = wallClock{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if s == nil {
		s = nothing{}
	}
	bundle, sig, err := NewestBundle(c.Bundle, c.Sig, s)
	if err != nil {
		return nil, fmt.Errorf("mesh: %w", err)
	}
	now := c.Clock.Now()
	self, err := bundle.Verify(c.Chain, now)
	if err != nil {
		return nil, fmt.Errorf("mesh: own certificate: %w", err)
	}
	if !key.GetPublic().Equals(mustPublic(self)) {
		return nil, fmt.Errorf("mesh: own certificate is for another key: %w", ErrNotMember)
	}
	raw, err := key.Raw()
	if err != nil {
		return nil, fmt.Errorf("mesh: host key: %w", err)
	}
	switch {
	case c.Relay && (self.Role != member.RoleGateway || len(c.Listen) == 0):
		return nil, fmt.Errorf("mesh: a %s with %d listen addresses cannot relay: only a gateway that listens chooses to", self.Role, len(c.Listen))
	case self.Role.Leaf() && len(c.Listen) > 0 && !c.Relay:
		return nil, fmt.Errorf("mesh: a %s only dials out: remove its listen addresses", self.Role)
	}
	h := &Host{c: c, clock: c.Clock, log: c.Log, key: ed25519.PrivateKey(raw), gate: newGater(c.Clock), store: s,
		revoked: &member.Revocations{}, chain: c.Chain, self: self,
		links: map[network.Conn]*link{}, peers: map[peer.ID][]*link{}, handlers: map[Service]HandlerFunc{},
		doors: map[string]*listener{}, keepers: map[peer.ID]*keeper{}, failures: map[peer.ID]failure{},
		warnings: map[string]time.Time{}, patience: closeTimeout}
	h.spent.cap = h.dailyBytes()
	h.bundle.Store(&held{bundle, sig})
	h.roll = member.NewRoll(bundle, h.revoked)
	h.lim = c.Limits.orDefaults(defaultLimits(self.Role, c.Relay))
	if h.wire, err = newWire(key, h.lim, h.gate, h.spending(), h.shutToRelays); err != nil {
		return nil, fmt.Errorf("mesh: %w", err)
	}
	if err := errors.Join(h.open(), h.wire.listen(c.Listen)); err != nil {
		return nil, errors.Join(fmt.Errorf("mesh: %w", err), h.wire.Close())
	}
	parents, err := h.loadParents()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mesh: %w", err), h.wire.Close())
	}
	for _, p := range c.Parents {
		h.Learn(p) // also those that are parents no more: one of them may be the registrar
	}
	h.useParents(parents)
	return h, nil
}

func mustPublic(m Member) crypto.PubKey {
	pub, err := crypto.UnmarshalEd25519PublicKey(m.Key[:])
	if err != nil {
		panic("mesh: a verified certificate holds no Ed25519 key: " + err.Error())
	}
	return pub
}

func defaultLimits(r member.Role, relay bool) Limits {
	switch {
	case relay:
		return homeRelayLimits
	case r.Leaf():
		return leafLimits
	case r == member.RoleSSN:
		return ssnLimits
	}
	return backboneLimits
}

// open wires the protocols and loads state.
func (h *Host) open() error {
	raw, err := h.store.LoadState(stateBudget)
	if err != nil {
		return fmt.Errorf("load data budget: %w", err)
	}
	if err := h.spent.load(raw); err != nil {
		return err
	}
	regs, err := openRegisters(h)
	if err != nil {
		return err
	}
	h.regs = regs
	h.wire.Network().Notify((*notifee)(h))
	h.wire.SetStreamHandler(member.ProtocolHello, h.answerHello)
	h.Streams(protoLane, func(m Member, s network.Stream) { h.serveLane(s) })
	if h.self.Role.Backbone() {
		h.Streams(protoHTTP, h.serveDoor)
	}
	if h.c.Enrol != nil {
		h.wire.SetStreamHandler(ProtocolEnrol, h.answerEnrol)
		h.handlers[Renew] = h.serveRenew
	}
	h.Handle(Probe, func(_ context.Context, _ Member, req []byte) ([]byte, error) { return req, nil })
	return nil
}

// Serve runs the host until ctx ends; then it closes every connection, waits for everything it started and returns
// nil, or ErrHangs when that takes more than 15 s. It must be called at most once. It does not wait for anybody: with every remote down it just keeps trying.
func (h *Host) Serve(ctx context.Context) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	h.mu.Lock()
	if h.serving || h.closed {
		h.mu.Unlock()
		return errors.New("mesh: host was served or closed before")
	}
	h.run, h.serving = run, true
	for _, k := range h.keepers {
		h.startKeeper(k)
	}
	h.mu.Unlock()
	h.wg.Go(func() { h.housekeep(run) })
	err := h.regs.serve(run)
	if err == nil {
		<-run.Done()
	}
	cancel()
	return errors.Join(err, h.shut())
}

// closeTimeout is how long shut waits, in wall time: the library's Close may hang, and so may a handler that does not end
// with its context. A node that cannot stop could not be restarted either.
const closeTimeout = 15 * time.Second

// ErrHangs means that the host was closed but something of it did not end; it is gone with the process.
var ErrHangs = errors.New("mesh did not close in time")

// shut refuses new work, closes the connections and waits, at most closeTimeout. The sockets close first, so that every
// blocked read ends.
func (h *Host) shut() error {
	h.mu.Lock()
	h.serving, h.closed = false, true
	for _, l := range h.links {
		l.cancel()
	}
	for _, d := range h.doors {
		d.shut()
	}
	h.mu.Unlock()
	closed := make(chan error, 1)
	go func() { // owned by shut, which lets it go when it hangs
		err := h.wire.Close()
		h.wg.Wait()
		closed <- err
	}()
	defer h.saveBudget(true)
	select {
	case err := <-closed:
		h.regs.close()
		return errors.Join(err, h.wire.Peerstore().Close())
	case <-time.After(h.patience):
		return fmt.Errorf("%w: waited %v for connections and handlers", ErrHangs, h.patience)
	}
}

// Close frees a host that is not served; ErrHangs when that takes more than 15 s. After Serve it does nothing.
func (h *Host) Close() error {
	h.mu.Lock()
	idle := !h.serving && !h.closed
	h.mu.Unlock()
	if !idle {
		return nil
	}
	return h.shut()
}

const houseTick = 20 * time.Second // a revoked or expired peer is gone within a minute of its news

// housekeep closes connections whose certificate ended, and renews our own in time.
func (h *Host) housekeep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.clock.After(houseTick):
			h.recheck(false)
			h.dropUnkept()
			h.checkLists()
			h.saveBudget(false)
			h.renewIfDue(ctx)
			h.showChain()
		}
	}
}

// ID is the host's peer id; Self its own certificate's content; Addrs where it can be dialled.
func (h *Host) ID() peer.ID { return h.wire.ID() }

// Self is what the host's own certificate says.
func (h *Host) Self() Member {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.self
}

// Addrs gives the addresses to publish: Config.Announce if set, else the listening ones.
func (h *Host) Addrs() []ma.Multiaddr {
	if len(h.c.Announce) > 0 {
		return slices.Clone(h.c.Announce)
	}
	return h.wire.Addrs()
}

// AddrInfo is the host's id with its addresses, as Config.Parents of others wants it.
func (h *Host) AddrInfo() peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()} }

// Clock is the host's protocol time.
func (h *Host) Clock() Clock { return h.clock }

// Bundle is the newest network bundle that the host accepted.
func (h *Host) Bundle() *member.Bundle { return h.bundle.Load().Bundle }

// Go runs f for as long as the host is served and lets Serve wait for it; f must end with its ctx. It reports false,
// without running f, when the host is not served.
func (h *Host) Go(f func(ctx context.Context)) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.goLocked(f)
}

func (h *Host) goLocked(f func(ctx context.Context)) bool {
	if !h.serving {
		return false
	}
	ctx := h.run
	h.wg.Go(func() { f(ctx) })
	return true
}

// Handle serves a direct service. It panics on an onion service or a second handler: both are errors of the program.
func (h *Host) Handle(s Service, fn HandlerFunc) {
	r, known := rules[s]
	h.mu.Lock()
	defer h.mu.Unlock()
	if !known || r.class != 0 || h.handlers[s] != nil {
		panic(fmt.Sprintf("mesh: cannot handle %v: not a direct service, or handled already", s))
	}
	h.handlers[s] = fn
}

// Call asks a member directly, on the lane that the service travels on, and waits for the answer. It dials if the
// member's address is known and no connection stands. Errors: ErrNotAllowed, ErrOffline, ErrBusy, ErrTooLarge,
// ErrRefused, ErrUnacked, or a *RemoteError with the handler's words. ctx bounds the wait in wall time.
func (h *Host) Call(ctx context.Context, to peer.ID, s Service, req []byte) ([]byte, error) {
	r, known := rules[s]
	if !known || r.class != 0 || !s.AllowedSender(h.Self().Role) {
		return nil, fmt.Errorf("call %v: %w", s, ErrNotAllowed)
	}
	if err := h.thrifty(s, r); err != nil {
		return nil, fmt.Errorf("call %v: %w", s, err)
	}
	for again := true; ; again = false {
		l, err := h.reach(ctx, to)
		if err != nil {
			return nil, fmt.Errorf("call %v: %w", s, err)
		}
		if !s.Allowed(h.Self().Role, l.role()) {
			return nil, fmt.Errorf("call %v: %w", s, ErrNotAllowed)
		}
		body, err := l.lanes.Call(ctx, r.lane, uint8(s), req)
		if errors.Is(err, lane.ErrUnsent) && again && l.ctx.Err() != nil && ctx.Err() == nil {
			continue // the connection went before anything was sent on it; there may be another
		}
		if err = callError(err); err != nil {
			return nil, fmt.Errorf("call %v: %w", s, err)
		}
		return body, nil
	}
}

// nextParent is how long CallParents waits for one parent before it asks the next one too.
const nextParent = time.Second

// CallParents sends one request to this node's parents in order of preference, connected ones first, until one answers: after each second of
// protocol time without an answer, or at once after an error, the next one is asked too. Receivers see the request more than
// once and deduplicate by the id in it. Alarms go this way. The error is the last parent's.
func (h *Host) CallParents(ctx context.Context, s Service, req []byte) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		body []byte
		err  error
	}
	parents := h.callOrder()
	results := make(chan result, len(parents))
	err := fmt.Errorf("call %v: %w: no parent is known", s, ErrOffline)
	asked, open := 0, 0
	for {
		var next <-chan time.Time
		if asked < len(parents) {
			to := parents[asked]
			asked, open = asked+1, open+1
			if !h.Go(func(context.Context) {
				body, err := h.Call(ctx, to, s, req)
				results <- result{body, err}
			}) {
				return nil, fmt.Errorf("call %v: %w: this node is not connected", s, ErrOffline)
			}
			next = h.clock.After(nextParent)
		}
	wait:
		for open > 0 {
			select {
			case r := <-results:
				open--
				if r.err == nil {
					return r.body, nil
				}
				if err = r.err; asked < len(parents) {
					break wait
				}
			case <-next:
				if asked < len(parents) {
					break wait
				}
				next = nil
			}
		}
		if open == 0 && asked == len(parents) {
			return nil, err
		}
	}
}

// answer is the lane handler of one link: it decides whether the peer may ask, and runs the service.
func (h *Host) answer(l *link) func(context.Context, lane.Lane, uint8, []byte) ([]byte, error) {
	return func(ctx context.Context, on lane.Lane, service uint8, req []byte) ([]byte, error) {
		s := Service(service)
		h.mu.Lock()
		from, fn, self := l.member, h.handlers[s], h.self
		h.mu.Unlock()
		r, known := rules[s]
		switch {
		case !known || r.class != 0 || r.lane != on || !s.Allowed(from.Role, self.Role):
			h.stats.drop(DropNotAllowed)
			return nil, &RemoteError{Code: lane.CodeRefused, Text: "this role may not use that service"}
		case fn == nil:
			return nil, &RemoteError{Code: lane.CodeRefused, Text: "service is not offered here"}
		}
		return fn(ctx, from, req)
	}
}

// Streams opens a protocol to admitted members; serve owns the stream and must reset or close it. Strangers never
// reach serve.
func (h *Host) Streams(proto protocol.ID, serve func(from Member, s network.Stream)) {
	h.wire.SetStreamHandler(proto, h.gated(serve))
}

// gated lets streams of admitted members through to serve, on libp2p's goroutine, and Serve wait for it.
func (h *Host) gated(serve func(from Member, s network.Stream)) network.StreamHandler {
	return func(s network.Stream) {
		l, ok := h.entrance(s)
		if !ok {
			_ = s.Reset() // a stranger learns nothing
			return
		}
		defer h.wg.Done()
		h.mu.Lock()
		from := l.member
		h.mu.Unlock()
		serve(from, s)
	}
}

// entrance waits until the stream's connection is admitted and enters the wait group; ok means the caller must leave it.
func (h *Host) entrance(s network.Stream) (*link, bool) {
	l := h.linkOf(s.Conn())
	if l == nil {
		return nil, false
	}
	select {
	case <-l.settled:
	case <-time.After(member.HelloTimeout):
		return nil, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.serving || !l.admitted {
		return nil, false
	}
	h.wg.Add(1)
	return l, true
}

// Stream opens a stream to an admitted member, dialling if need be. The caller owns it.
func (h *Host) Stream(ctx context.Context, to peer.ID, proto protocol.ID) (network.Stream, error) {
	l, err := h.reach(ctx, to)
	if err != nil {
		return nil, err
	}
	s, err := openOn(ctx, l.conn, proto)
	if err != nil {
		return nil, fmt.Errorf("%w: open %s: %w", ErrOffline, proto, err)
	}
	return s, nil
}

// Peers lists the members that are connected now, each once, in no order.
func (h *Host) Peers() []Member {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]Member, 0, len(h.peers))
	for _, ls := range h.peers {
		out = append(out, ls[0].member)
	}
	return out
}

// Connected gives the member with this id if it is connected now.
func (h *Host) Connected(id peer.ID) (Member, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ls := h.peers[id]; len(ls) > 0 {
		return ls[0].member, true
	}
	return Member{}, false
}
