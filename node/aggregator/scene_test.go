package aggregator_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/durable"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node"
	"gridveil/node/aggregator"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/identity"
	"gridveil/node/loopback"
	"gridveil/node/party"
	"gridveil/node/store"
	"gridveil/node/utility"
	"gridveil/node/verifier"
	"gridveil/privacy/committee"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
)

// start is a Monday morning: the week's keys are new.
var start = time.Date(2026, 6, 15, 6, 0, 0, 0, time.UTC)

// RSA keys take seconds: one set for all tests of the package.
var (
	monthMint = sync.OnceValues(func() (*note.Mint, error) { return note.NewMint(ask.Currency, note.Epoch(start)) })
	weekMint  = sync.OnceValues(func() (*note.PassMint, error) { return note.NewPassMint(0, pseudo.Week(start)) })
	nextMint  = sync.OnceValues(func() (*note.PassMint, error) { return note.NewPassMint(0, pseudo.Week(start)+1) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// place is one node of the scene.
type place struct {
	name, operator, zone string
	role                 member.Role
	dir                  string
	node                 *node.Node
	stop                 context.CancelFunc
	done                 chan error
}

// scene is a small network of real nodes: three substations, two utilities, an
// aggregator, a verifier, a home and a wallet, class lab, on a fast clock.
type scene struct {
	t      *testing.T
	clock  *clock.Accelerated
	places map[string]*place
	dir    string
	net    *identity.Network
	log    *slog.Logger
	ctx    context.Context
}

const (
	fast     = 240              // speed of the scene's clock
	patience = 80 * time.Second // of wall time, on a machine that does much else
)

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// newScene founds the network and starts everybody but those absent. extra is
// added to the aggregator's configuration.
func newScene(t *testing.T, extra string, absent ...string) *scene {
	t.Helper()
	s := &scene{t: t, clock: clock.NewAccelerated(start, fast), places: map[string]*place{}, dir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	if os.Getenv("GRIDVEIL_DEBUG") != "" {
		s.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	zones := []string{"elm", "oak", "mill"}
	all := []member.Role{member.RoleGateway, member.RoleSSN, member.RoleHeadend, member.RoleUtility, member.RoleWallet}
	plan := identity.Plan{Roots: 3, Threshold: 2, Policy: member.Policy{HomesEnrolled: 6, Lab: true}}
	for _, z := range zones {
		plan.Zones = append(plan.Zones, member.Zone{Name: z, Region: 1})
	}
	plan.Operators = []identity.PlanOperator{
		{Name: "northgrid", Roles: all, Zones: zones, DSOZones: zones},
		{Name: "southpower", Roles: all, Zones: zones},
		{Name: "towngrid", Roles: []member.Role{member.RoleSSN, member.RoleVerifier}, Zones: zones},
		{Name: "evagg", Roles: []member.Role{member.RoleAggregator}},
		{Name: "watchdog", Roles: []member.Role{member.RoleVerifier}},
	}
	var err error
	s.net, err = identity.Found(plan, start.Add(-time.Hour), rand.Reader)
	s.must(err)
	s.cast(zones, extra)
	ctx, cancel := context.WithCancel(context.Background())
	s.ctx = ctx
	ran := make(chan struct{})
	go func() { defer close(ran); _ = s.clock.Run(ctx) }()
	t.Cleanup(func() {
		for _, name := range []string{"driver", "home", "evagg", "watchdog", "towngrid", "utility-b", "utility-a", "ssn-mill", "ssn-oak", "ssn-elm"} {
			s.halt(name)
		}
		cancel()
		<-ran
	})
	s.clock.SetSpeed(1)
	for _, name := range []string{"ssn-elm", "ssn-oak", "ssn-mill", "utility-a", "utility-b", "watchdog", "towngrid", "evagg", "home", "driver"} {
		if !slices.Contains(absent, name) {
			s.run(name)
		}
	}
	s.clock.SetSpeed(fast)
	return s
}

func (s *scene) cast(zones []string, extra string) {
	var contacts []string
	add := func(p *place, toml string) {
		listen := ""
		if p.role != member.RoleGateway && p.role != member.RoleWallet {
			listen = "/ip4/127.0.0.1/tcp/" + s.freePort()
			toml = fmt.Sprintf("[mesh]\nlisten = [%q]\n", listen) + toml
		}
		p.dir = filepath.Join(s.dir, p.name)
		s.must(os.MkdirAll(p.dir, 0o700))
		head := fmt.Sprintf("role = %q\n[web]\nlisten = \"off\"\n", p.role)
		s.must(durable.WriteFile(filepath.Join(p.dir, config.FileName), []byte(head+toml)))
		s.must(identity.Certify(p.dir, s.net, p.operator, p.role, p.zone, contacts, false, start.Add(-time.Minute), rand.Reader))
		if p.role == member.RoleSSN {
			id, err := identity.Load(p.dir, start)
			s.must(err)
			contacts = append(contacts, listen+"/p2p/"+id.Member.Peer.String())
		}
		s.places[p.name] = p
	}
	for i, z := range zones {
		add(&place{name: "ssn-" + z, operator: []string{"northgrid", "southpower", "towngrid"}[i], role: member.RoleSSN, zone: z}, "")
	}
	const seat = "[ledger]\nopener = true\n"
	add(&place{name: "utility-a", operator: "northgrid", role: member.RoleUtility}, seat+"iban = \"DE89370400440532013000\"\nbic = \"COBADEFFXXX\"\n")
	add(&place{name: "utility-b", operator: "southpower", role: member.RoleUtility}, seat+"iban = \"DE02120300000000202051\"\nbic = \"BYLADEM1001\"\n")
	add(&place{name: "watchdog", operator: "watchdog", role: member.RoleVerifier}, seat)
	add(&place{name: "towngrid", operator: "towngrid", role: member.RoleVerifier}, seat+"body = \"dso\"\n")
	add(&place{name: "evagg", operator: "evagg", role: member.RoleAggregator}, "[ledger]\niban = \"DE02500105170137075030\"\nbic = \"INGDDEFFXXX\"\n"+extra)
	add(&place{name: "home", operator: "northgrid", role: member.RoleGateway, zone: "elm"}, "")
	add(&place{name: "driver", operator: "southpower", role: member.RoleWallet}, "[wallet]\nlisten = \"off\"\n")
	s.preload()
	pub, shares, err := committee.Deal(rand.Reader)
	s.must(err)
	for _, name := range []string{"utility-a", "utility-b"} {
		s.must(durable.WriteFile(filepath.Join(s.places[name].dir, party.CommitteeFile), []byte(party.EncodeCommittee(pub))))
	}
	for i, name := range []string{"utility-a", "utility-b", "watchdog", "towngrid"} {
		dir := s.places[name].dir
		s.must(durable.WriteFile(filepath.Join(dir, party.ShareFile), []byte(party.EncodeShare(shares[i]))))
		if i > 1 {
			s.must(durable.WriteFile(filepath.Join(dir, party.CommitteeFile), []byte(party.EncodeCommittee(pub))))
		}
	}
}

// freePort finds a loopback port below those that outgoing connections take, so
// that it is still free when the node listens.
func (s *scene) freePort() string {
	s.t.Helper()
	port, err := loopback.Port()
	s.must(err)
	return port
}

// preload puts RSA keys that were made once into the aggregator's store.
func (s *scene) preload() {
	dir := s.places["evagg"].dir
	key, err := store.LoadOrCreateKey(filepath.Join(dir, "store.key"))
	s.must(err)
	st, err := store.Open(filepath.Join(dir, "store"), key, store.Options{Now: s.clock.Now})
	s.must(err)
	s.must(st.Set(aggregator.MonthKey(note.Epoch(start)), must(must(monthMint()).Bytes())))
	s.must(st.Set(aggregator.PassKey(0, pseudo.Week(start)), must(must(weekMint()).Bytes())))
	s.must(st.Set(aggregator.PassKey(0, pseudo.Week(start)+1), must(must(nextMint()).Bytes())))
	s.must(st.Close())
}

func (s *scene) run(name string) {
	s.t.Helper()
	p := s.places[name]
	n, err := node.Open(p.dir, node.Options{Clock: s.clock, Log: s.log.With("node", name), NoPages: true})
	if err != nil {
		s.t.Fatalf("open %s: %v", name, err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	p.node, p.stop, p.done = n, cancel, make(chan error, 1)
	go func() { p.done <- n.Serve(ctx) }()
}

// halt stops a node and waits for it.
func (s *scene) halt(name string) {
	s.t.Helper()
	p := s.places[name]
	if p == nil || p.node == nil {
		return
	}
	p.stop()
	if err := <-p.done; err != nil {
		s.t.Errorf("%s: %v", name, err)
	}
	p.node = nil
}

func (s *scene) evagg() *aggregator.Aggregator {
	return s.places["evagg"].node.Role.(*aggregator.Aggregator)
}

func (s *scene) utility(name string) *utility.Utility {
	return s.places[name].node.Role.(*utility.Utility)
}

func (s *scene) verifier(name string) *verifier.Verifier {
	return s.places[name].node.Role.(*verifier.Verifier)
}

// operators asks by onion from a leaf of the scene.
func (s *scene) operators(name string) ask.Operators {
	return ask.Operators{Env: s.places[name].node.Env}
}

// seenBy is the aggregator as a leaf knows it, once its keys have reached that leaf.
func (s *scene) seenBy(name string) (o ask.Aggregator) {
	s.t.Helper()
	s.eventually("the aggregator in the directory of "+name, func() (ok bool) {
		var err error
		o, err = s.operators(name).Aggregator()
		return err == nil
	})
	return o
}

// eventually waits for something to become true.
func (s *scene) eventually(what string, ok func() bool) {
	s.t.Helper()
	look, deadline := time.NewTicker(20*time.Millisecond), time.After(patience)
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-deadline:
			s.report()
			s.t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// report shows what every node thinks is wrong.
func (s *scene) report() {
	for name, p := range s.places {
		if p.node == nil {
			continue
		}
		for _, w := range p.node.Warn.Standing(s.clock.Now().Add(time.Hour)) {
			s.t.Logf("%s: %s: %s", name, w.Code, w.Text)
		}
	}
	if s.places["evagg"].node != nil {
		l := s.evagg().Ledger(0)
		s.t.Logf("ledger of %d, final %d, %s, desk %+v", l.Size, l.CosignedSize, l.Quorum, s.evagg().Counts())
		for _, e := range l.Entries {
			s.t.Logf("%4d %-8s %s", e.Index, e.Kind, e.Text)
		}
	}
}

// asks repeats a request until it is answered or refused.
func (s *scene) asks(from string, to member.Key, service mesh.Service, op ask.Op, body []byte) ([]byte, error) {
	s.t.Helper()
	var out []byte
	var err error
	defer func() {
		if s.t.Failed() {
			s.t.Logf("the last answer: %v", err)
		}
	}()
	s.eventually(fmt.Sprintf("an answer to operation %d", op), func() bool {
		ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
		defer cancel()
		out, err = s.operators(from).Ask(ctx, to, service, op, body)
		var no *ask.RefusedError
		return err == nil || errors.As(err, &no)
	})
	return out, err
}

// final reads the ledger as a follower has replayed it.
func (s *scene) balance(p ledger.PartyID) (x int64) {
	s.evagg().Read(func(st *ledger.State) { x = st.Total(p, 0) })
	return x
}
