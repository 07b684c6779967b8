// Package aggregator is EVAGG's node: it authorises sessions at strangers' homes,
// takes their records, writes the ledger on which utilities settle them, mints
// the notes that pay households, and pools what cars can give to the grid.
//
// The walk of one session here:
//
//	AuthReq -> Answer -> Settle -> Receipt -> cdr entry -> settle entry (with the payer) -> issue entry -> notes
//
// What is decided is durable before it is answered or entered (ev/settle), and
// every entry is stored signed before it leaves, so that a crash at any point
// repeats bytes and never pays twice. With utilities away, records wait. With
// this node away, sessions go on at the homes and their records come later.
//
// aggregator.go runs the parts, book.go is the ledger's writer, mints.go the keys
// of notes and passes, work.go the settlement loop, answers.go what homes ask.
package aggregator

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/ev"
	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/ledger/writer"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/privacy/pseudo"
)

const (
	sheetPeriod = 6 * time.Hour
	callTimeout = 10 * time.Second // to another operator, on the wall clock
	leastPause  = 25 * time.Millisecond
)

// uses are the service keys that an aggregator publishes.
var uses = []keys.Use{keys.Record, keys.Box, keys.Entry, keys.Receipt, keys.Log}

// Aggregator is the aggregator role. Its methods may be called from any
// goroutine.
type Aggregator struct {
	env       *role.Env
	origin    string // of the ledger's first log: entries are signed under it in every shard
	shards    *party.Shards
	entry     ed25519.PrivateKey
	fees      ev.FeeSheet
	transport *http.Transport
	door      party.Door
	mints     *mints
	founding  founding
	flex      flexibility
	wake      chan struct{} // the settlement loop has something to do
	started   time.Time

	clerk *party.Clerk

	outside atomic.Pointer[string] // where the log is served to everybody
	mirrors mirrors

	bookMu sync.RWMutex
	w      *writer.Writer // nil until the ledger is open
	policy *ledger.Policy
	mender *party.Mender

	forgot, forgotWall time.Time // when old things were dropped last; owned by the settlement loop

	deskMu sync.RWMutex // held for reading while the desk works, for writing while it is exchanged
	desk   *settle.Desk
	memory *memory
	madeOf [32]byte // what the desk's keys were

	refreshing sync.Mutex // one exchange of the desk at a time; taken before deskMu

	mu          sync.Mutex                   // guards what follows; never held while another lock is taken
	overdue     map[ledger.PartyID]time.Time // payers that do not sign, since when
	revocations map[[16]byte]*pseudo.Revocation
	months      map[uint64]ask.Month // mint keys by the index of their entry
	looked      time.Time            // when the desk's keys were compared last, wall time
}

// New opens what the aggregator keeps and registers what it answers. The shards of
// its ledger are given by a machine of a cluster, which keeps them whether it leads
// or not; nil opens them.
func New(env *role.Env, shards *party.Shards) (*Aggregator, error) {
	entry, err := env.Keys.Signer(keys.Entry, env.Clock.Now())
	if err != nil {
		return nil, err
	}
	a := &Aggregator{env: env, entry: entry, origin: ask.LedgerOrigin(env.ID.Bundle.Network, env.Host.Self().Operator),
		fees:      ev.FeeSheet{Currency: ask.Currency, PerKWhIn: env.Config.Aggregator.FeePerKWh, PerKWhOut: env.Config.Aggregator.FeePerKWh},
		transport: party.Transport(env.Host), wake: make(chan struct{}, 1), started: env.Clock.Now(), overdue: map[ledger.PartyID]time.Time{}, months: map[uint64]ask.Month{}, revocations: map[[16]byte]*pseudo.Revocation{}}
	a.clerk = a.newClerk()
	if a.shards = shards; shards == nil {
		if a.shards, err = party.OpenShards(env, a.origin); err != nil {
			return nil, err
		}
	}
	if a.mints, err = openMints(env); err != nil {
		return nil, err
	}
	if err := a.founding.open(env); err != nil {
		return nil, err
	}
	if a.memory, err = openMemory(env.Store); err != nil {
		return nil, err
	}
	if err := a.loadRevocations(); err != nil {
		return nil, err
	}
	if err := a.openPool(); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	if err := a.refreshDesk(); err != nil {
		return nil, fmt.Errorf("desk: %w", err)
	}
	a.answer()
	a.mender = party.NewMender(env, a.transport)
	submit := &party.Joiner{Answer: a.takeSubmit}
	env.Host.Handle(mesh.LedgerSubmit, submit.Handle)
	a.commands()
	return a, nil
}

// Serve works until ctx ends. With everybody else away it answers homes and
// keeps what they send.
func (a *Aggregator) Serve(ctx context.Context) error {
	defer a.transport.CloseIdleConnections()
	l := a.env.Host.Listener(party.LogDoor)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.publish(ctx) })
	g.Go(func() error { return a.door.Serve(ctx, l) })
	if a.env.Config.Ledger.HTTP != "" {
		g.Go(func() error { return a.serveOutside(ctx, a.env.Config.Ledger.HTTP) })
	}
	g.Go(func() error { return a.watchMirrors(ctx) })
	g.Go(func() error { return a.mints.serve(ctx, a.nudge) })
	g.Go(func() error { return a.keepDesk(ctx) })
	g.Go(func() error { return a.keepBook(ctx) })
	if a.env.Cluster == nil {
		g.Go(func() error { return a.shards.Keep(ctx) })
	}
	return g.Wait()
}

// publish keeps the key sheet known.
func (a *Aggregator) publish(ctx context.Context) error {
	for {
		now := a.env.Clock.Now()
		sheet, err := a.env.Keys.Sheet(now, 1, uses...)
		if err != nil {
			return fmt.Errorf("service keys: %w", err)
		}
		if err := a.env.Dir.Publish(sheet, now); err != nil {
			a.env.Log.Warn("key sheet not published; tried again", "err", err)
		}
		if !clock.Sleep(ctx, a.env.Clock, sheetPeriod) {
			return nil
		}
	}
}

func (a *Aggregator) nudge() {
	select {
	case a.wake <- struct{}{}:
	default: // one nudge is enough
	}
}

// pause waits for d on the node's clock, but never less than leastPause on the
// wall, or until the loop is woken.
func (a *Aggregator) pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	after := a.env.Clock.After(d)
	select {
	case <-ctx.Done():
		return
	case <-wake:
		return
	case <-time.After(leastPause):
	}
	select {
	case <-ctx.Done():
	case <-wake:
	case <-after:
	}
}

// book is the open ledger, nil while there is none.
func (a *Aggregator) book() *writer.Writer {
	a.bookMu.RLock()
	defer a.bookMu.RUnlock()
	return a.w
}

// Read calls f with the ledger's newest state, and says whether there is one. f
// must not keep or change it.
func (a *Aggregator) Read(f func(*ledger.State)) bool {
	w := a.book()
	if w == nil || w.Size() == 0 {
		return false
	}
	w.Read(func(m ledger.Machine) { f(m.(*ledger.Money).State) })
	return true
}
