// Package node composes a running gridveil node: it opens the store, joins the
// mesh and serves one role, whether alone (`gridveil run`) or among forty others
// in a demonstration.
//
// The walk of the data is in doc/design.md. Here stands only who owns what:
// [Open] acquires everything in order and starts nothing; [Node.Serve] starts
// every part under one group and, when the context ends, stops intake first,
// then the roles, then the mesh, then closes the store.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/onion"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/control"
	"gridveil/node/enrol"
	"gridveil/node/identity"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/signal"
	"gridveil/node/site"
	"gridveil/node/store"
	"gridveil/node/watch"
	"gridveil/node/web"
	"gridveil/privacy"
)

// Options are what a demonstration changes about a node. The zero value is a
// node in a house or a server room.
type Options struct {
	Clock clock.Clock  // nil means the wall clock
	Log   *slog.Logger // nil discards
	Rand  io.Reader    // nil means crypto/rand
	// Hardware stands in for what config would connect to; nil means config.
	Hardware *Hardware
	// NoPages serves neither dashboard nor control socket: many nodes in one
	// process share those of the demonstration.
	NoPages bool

	shards *party.Shards // of a machine in a cluster, which keeps them; else nil
}

// Node is one running member.
type Node struct {
	*role.Env
	Role role.Role

	o         Options
	machine   *machine // of an aggregator on several machines, which owns the store; else nil
	watch     *watch.Watch
	registrar *enrol.Registrar // nil on nodes that certify nobody
	pagesAt   net.Listener     // nil on nodes that serve no pages
	started   time.Time
}

// Open acquires everything that the node in dir needs, in order, and starts
// nothing. Close or Serve must follow.
func Open(dir string, o Options) (*Node, error) {
	o.fill()
	c, err := config.Load(dir)
	if err != nil {
		return nil, err
	}
	return open(c, o, nil)
}

// open is Open of a node that is, or is not, on several machines.
func open(c *config.Config, o Options, m *machine) (*Node, error) {
	n := &Node{o: o, machine: m, started: time.Now(), Env: &role.Env{Config: c, Clock: o.Clock, Log: o.Log, Warn: role.NewBoard(), Rand: o.Rand,
		Control: control.NewServer(c.Dir)}}
	if m != nil {
		n.Store, n.Cluster = m.store(), m.cluster
	}
	if err := n.identify(); err != nil {
		return nil, errors.Join(err, n.closeStore())
	}
	if err := n.join(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// identify reads who the node is, and opens its store on the way.
func (n *Node) identify() error {
	c := n.Config
	id, err := identity.LoadNewest(c.Dir, n.Clock.Now(), func(installed *member.Bundle, sig []byte) (*member.Bundle, []byte, error) {
		if n.Store == nil {
			var err error
			if n.Store, err = openStore(c.Dir, store.Options{Log: n.Log, Now: n.Clock.Now}); err != nil {
				return nil, nil, err
			}
		}
		return mesh.NewestBundle(installed, sig, meshStore{n.Store})
	})
	if err == nil && id.Member.Role.String() != c.Role {
		err = fmt.Errorf("%s says role %q, the certificate says %q: one of them belongs to another node", config.FileName, c.Role, id.Member.Role)
	}
	if err != nil {
		return err
	}
	n.ID, n.Net = id, privacy.Net(id.Bundle.Tag())
	return nil
}

// closeStore closes the store of a node that owns it.
func (n *Node) closeStore() error {
	if n.machine != nil || n.Store == nil {
		return nil
	}
	return n.Store.Close()
}

// openStore opens the node's store, or says what to do about a damaged one.
func openStore(dir string, o store.Options) (*store.Store, error) {
	mk, err := store.LoadOrCreateKey(filepath.Join(dir, "store.key"))
	if err != nil {
		return nil, err
	}
	st, err := store.Open(filepath.Join(dir, "store"), mk, o)
	if err != nil {
		return nil, describeDamage(err, st)
	}
	return st, nil
}

func (o *Options) fill() {
	if o.Clock == nil {
		o.Clock = clock.Wall{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
}

// join builds the node's mesh side and its role.
func (n *Node) join() error {
	if err := n.openHost(); err != nil {
		return err
	}
	var err error
	if n.Onion, err = onion.New(n.Host, onion.Config{Rand: n.Rand, Log: n.Log, Store: meshStore{n.Store}, Relay: relays(n.ID.Member.Role) || n.Config.Mesh.Relay,
		MinSet: n.Config.Mesh.MinSet, MinHomes: n.Config.Mesh.MinHomes, Decoys: n.Config.Mesh.Decoys, GuardsKept: true}); err != nil {
		return err
	}
	signal.Guard(n.Host)
	n.Keys = keys.NewRing(n.Store, n.Rand, privacy.SuiteX25519)
	n.Dir = keys.Directory{Host: n.Host}
	if n.Role, err = newRole(n.Env, n.o); err != nil {
		return fmt.Errorf("%s: %w", n.Config.Role, err)
	}
	n.watch = watch.New(n.Env, ledgerOf(n.Role))
	n.commands()
	return n.listenPages()
}

// relays says which roles forward onion packets besides substations: those that
// are never the recipient of a home's requests, so that the loss of one
// substation of three leaves a route.
func relays(r member.Role) bool { return r == member.RoleHeadend || r == member.RoleVerifier }

func (n *Node) openHost() error {
	if n.ID.CA != nil {
		r, err := enrol.New(n.Store, n.ID.CA, n.bundle, n.ID.Member.Operator, n.Clock, n.Rand, n.Log, func() { n.misusedCode() })
		if err != nil {
			return err
		}
		n.registrar = r
		n.misusedCode()
	}
	key, err := crypto.UnmarshalEd25519PrivateKey(n.ID.Key)
	if err != nil {
		return fmt.Errorf("node key: %w", err)
	}
	c := mesh.Config{Clock: n.Clock, Log: n.Log, Bundle: n.ID.Bundle, Sig: n.ID.Sig, Chain: n.ID.Chain, DailyMB: n.Config.Mesh.DailyMB,
		Relay:      n.Config.Mesh.Relay,
		SaveChain:  n.saveChain,
		SaveBundle: func(raw, sig []byte) error { return identity.SaveBundle(n.Config.Dir, raw, sig) }}
	if n.registrar != nil {
		c.Enrol = n.registrar
	}
	if c.Listen, err = multiaddrs(n.Config.Mesh.Listen); err != nil {
		return fmt.Errorf("mesh.listen: %w", err)
	}
	if c.Announce, err = multiaddrs(n.Config.Mesh.Announce); err != nil {
		return fmt.Errorf("mesh.announce: %w", err)
	}
	for _, a := range append(n.ID.Contacts, n.Config.Mesh.Parents...) {
		info, err := peer.AddrInfoFromString(a)
		if err != nil {
			return fmt.Errorf("parent %q: %w", a, err)
		}
		c.Parents = append(c.Parents, *info)
	}
	if n.Host, err = mesh.New(c, key, meshStore{n.Store}); err != nil {
		if strings.Contains(err.Error(), "address already in use") {
			err = fmt.Errorf("%w\nnext: choose another mesh.listen in %s: each node of a machine needs its own", err, config.FileName)
		}
		return err
	}
	return n.prime()
}

// ledgerOf is a role's own copy of the ledger, nil without one.
func ledgerOf(r role.Role) watch.Judge {
	switch r := r.(type) {
	case interface{ Party() *party.Party }:
		return r.Party()
	case watch.Judge:
		return r
	}
	return nil
}

func multiaddrs(texts []string) ([]ma.Multiaddr, error) {
	var out []ma.Multiaddr
	for _, t := range texts {
		a, err := ma.NewMultiaddr(t)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// bundle is the network's bundle in force.
func (n *Node) bundle() *member.Bundle {
	if n.Host == nil {
		return n.ID.Bundle
	}
	return n.Host.Bundle()
}

// misusedCode tells the operator of codes that were tried by the wrong hands, until a week after the last one.
func (n *Node) misusedCode() {
	m, stands, err := n.registrar.Misuse()
	if err != nil {
		n.Log.Error("misused codes not read", "err", err)
		return
	}
	times := "once"
	if m.Times > 1 {
		times = fmt.Sprintf("%d times", m.Times)
	}
	w := role.Warning{Code: "enrolment-misused", Severity: role.Problem, Title: "An enrolment code was misused",
		Text: fmt.Sprintf("Wrong proofs killed a code, last on %s (%s in all). It admitted nobody.", m.At.UTC().Format("2 Jan 15:04 UTC"), times),
		Next: "Ask whom you sent the code to, and send a new one over another channel."}
	if m.Used {
		w.Text = fmt.Sprintf("A code that had admitted a member was tried again by another device, last on %s (%s in all). One of the two is not whom you sent it to, and it may be the one that got in.",
			m.At.UTC().Format("2 Jan 15:04 UTC"), times)
		w.Next = "Ask whom you sent the code to whether it joined. If not, find the member with `gridveil members` and take it back with `gridveil revoke`; send a new code over another channel."
	}
	n.Warn.Set(stands, w, n.Clock.Now())
}

// Close releases what Open acquired, for a node that is not served.
func (n *Node) Close() error {
	var err error
	if n.Host != nil {
		err = n.Host.Close()
	}
	if n.pagesAt != nil {
		err = errors.Join(err, n.pagesAt.Close())
	}
	return errors.Join(err, n.closeStore())
}

// Serve runs every part until ctx ends or one fails.
func (n *Node) Serve(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, n.closeStore()) }()
	// The mesh outlives the role, so that what the role sends last still leaves.
	meshCtx, stopMesh := context.WithCancel(context.WithoutCancel(ctx))
	defer stopMesh()
	lower, lowerCtx := errgroup.WithContext(meshCtx)
	lower.Go(func() error { return n.Host.Serve(lowerCtx) })
	n.awaitHost(lowerCtx) // before the onion, which publishes its keys at once
	lower.Go(func() error { return n.Onion.Serve(lowerCtx) })
	upper, upperCtx := errgroup.WithContext(ctx)
	upper.Go(func() error { return n.Role.Serve(upperCtx) })
	upper.Go(func() error { return n.keepParents(upperCtx) })
	upper.Go(func() error { return n.maintain(upperCtx) })
	upper.Go(func() error { return n.watch.Serve(upperCtx) })
	upper.Go(func() error { return n.keepRevocations(upperCtx) })
	if n.machine != nil {
		upper.Go(func() error { return n.watchMachines(upperCtx) })
	}
	upper.Go(func() error { // a fallen mesh ends the node
		select {
		case <-lowerCtx.Done():
			return errors.New("the mesh stopped")
		case <-upperCtx.Done():
			return nil
		}
	})
	if !n.o.NoPages {
		upper.Go(func() error { return n.Control.Serve(upperCtx) })
		upper.Go(func() error { return n.pages(upperCtx) })
	}
	upErr := upper.Wait()
	stopMesh()
	lowErr := lower.Wait()
	if ctx.Err() != nil && errors.Is(upErr, context.Canceled) {
		upErr = nil
	}
	return errors.Join(upErr, lowErr)
}

// awaitHost waits the moment until the host serves: what a role publishes as it
// starts would be refused before.
func (n *Node) awaitHost(ctx context.Context) {
	for ctx.Err() == nil && !n.Host.Go(func(context.Context) {}) {
		time.Sleep(time.Millisecond) // machine time, not the day's
	}
}

// listenPages takes the dashboard's address, so that a taken one is known before
// anything starts.
func (n *Node) listenPages() (err error) {
	if n.o.NoPages || n.Config.Web.Listen == "off" {
		return nil
	}
	if n.pagesAt, err = net.Listen("tcp", n.Config.Web.Listen); err != nil {
		return fmt.Errorf("web.listen: %w\nnext: choose another address in %s, or \"off\"", err, config.FileName)
	}
	return nil
}

// pages serves the dashboard.
func (n *Node) pages(ctx context.Context) error {
	pages, ok := site.For(n.Env, n.Role)
	if !ok || n.pagesAt == nil {
		return nil
	}
	s, err := web.New(pages, n.Log)
	if err != nil {
		return err
	}
	return s.Serve(ctx, n.pagesAt)
}

const (
	maintainPeriod = time.Hour
	forgetPeriod   = 24 * time.Hour
)

// maintain does the hourly and daily chores: disk space, data keys of the store,
// expired keys and codes.
func (n *Node) maintain(ctx context.Context) error {
	last := n.Clock.Now()
	upkeep(ctx, n.Store, n.Log) // a wallet may never run for an hour
	for clock.Sleep(ctx, n.Clock, maintainPeriod) {
		if n.registrar != nil {
			n.misusedCode() // ends after a week
		}
		upkeep(ctx, n.Store, n.Log)
		if now := n.Clock.Now(); now.Sub(last) >= forgetPeriod {
			last = now
			if err := n.Keys.Erase(now); err != nil {
				return fmt.Errorf("erase expired keys: %w", err)
			}
			if n.registrar != nil {
				if err := n.registrar.Forget(); err != nil {
					return fmt.Errorf("forget invitations: %w", err)
				}
			}
		}
	}
	return nil
}

// upkeep does the store's hourly chores.
func upkeep(ctx context.Context, st *store.Store, log *slog.Logger) {
	if err := st.Maintain(ctx); err != nil && ctx.Err() == nil {
		log.Warn("store maintenance put off", "err", err)
	}
}

// Run opens the node in dir and serves it until ctx ends. ready gets what is to be
// told of it once it is up: the node, or that this machine stands by for another.
func Run(ctx context.Context, dir string, o Options, ready func(fmt.Stringer)) error {
	o.fill()
	c, err := config.Load(dir)
	if err != nil {
		return err
	}
	if c.Ledger.Cluster.Address != "" {
		return runMachine(ctx, c, o, ready)
	}
	n, err := open(c, o, nil)
	if err != nil {
		return err
	}
	if ready != nil {
		ready(n)
	}
	return n.Serve(ctx)
}
