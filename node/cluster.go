package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/cluster"
	"gridveil/ledger/writer"
	"gridveil/node/aggregator"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/control"
	"gridveil/node/identity"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/site"
	"gridveil/node/store"
)

// machine is one of the three or five that are one aggregator: all hold its
// store and its ledger, and whichever leads runs the node as after a restart. The
// others stand by: they apply what the leader has decided, serve the log for
// reading and answer commands.
type machine struct {
	c       *config.Config
	o       Options
	self    string // ID
	cluster *cluster.Node
	ready   func(fmt.Stringer)
	started time.Time
	policy  *ledger.Policy // of the shard that grows
	shards  *party.Shards
	warn    *role.Board // what concerns this machine whether it leads or not

	standby func() // ends the parts that run while this machine stands by; owned by the term

	mu sync.RWMutex // held for reading while st is in use, for writing while it is exchanged
	st *store.Store
}

// runMachine runs one machine of a cluster until ctx ends.
func runMachine(ctx context.Context, c *config.Config, o Options, ready func(fmt.Stringer)) error {
	m := &machine{c: c, o: o, ready: ready, started: time.Now(), warn: role.NewBoard()}
	var err error
	if m.st, err = m.openStore(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.st.Close()) }()
	if err := m.openShards(); err != nil {
		return err
	}
	kctx, cancel := context.WithCancel(ctx)
	kept := make(chan error, 1)
	go func() { kept <- m.shards.Keep(kctx) }() // waited for below
	defer func() { cancel(); err = errors.Join(err, <-kept) }()
	for {
		if err := m.serve(ctx); !errors.Is(err, cluster.ErrBorder) {
			return err
		}
		m.shards.Settle()
	}
}

// serve takes part with one shard of the ledger until ctx ends, or until the next
// one begins: cluster.ErrBorder.
func (m *machine) serve(ctx context.Context) error {
	if err := m.open(); err != nil {
		return err
	}
	m.standby = m.stand(ctx)
	if m.ready != nil {
		m.ready(m)
	}
	err := m.cluster.Serve(ctx)
	m.standby()
	if closed := m.cluster.Close(); !errors.Is(err, cluster.ErrBorder) {
		err = errors.Join(err, closed)
	} else if closed != nil {
		return closed
	}
	return err
}

func (m *machine) openStore() (*store.Store, error) {
	return openStore(m.c.Dir, store.Options{Log: m.o.Log, Now: m.o.Clock.Now, Replica: true})
}

// open takes part in the cluster with the ledger that this machine's store knows.
func (m *machine) open() error {
	x := m.c.Ledger.Cluster
	key, err := identity.MachineKey(m.c.Dir, m.o.Rand)
	if err != nil {
		return fmt.Errorf("key of this machine: %w", err)
	}
	m.self = cluster.ID(key.Public().(ed25519.PublicKey))
	cfg := cluster.Config{Dir: m.c.Path("cluster"), Key: key, Address: x.Address, ElectionTimeout: x.Election.D(), Beside: m, Shards: shardsOf{m.shards}, Lead: m.lead}
	for _, text := range x.Members {
		member, err := config.ParseMember(text)
		if err != nil {
			return err
		}
		if member.ID == m.self && member.Address != x.Address {
			return fmt.Errorf("ledger.cluster.members has this machine at %s, and ledger.cluster.address says %s\nnext: make them the same on all machines", member.Address, x.Address)
		}
		cfg.Members = append(cfg.Members, member)
	}
	if cfg.Writer, err = m.book(); err != nil {
		return err
	}
	if cfg.Listener, err = net.Listen("tcp", x.Listen); err != nil {
		return fmt.Errorf("ledger.cluster.listen: %w", err)
	}
	if m.cluster, err = cluster.Open(cfg); err != nil {
		return errors.Join(err, cfg.Listener.Close())
	}
	return nil
}

// errNotFounded says how a cluster begins.
var errNotFounded = errors.New("the folder of this node holds no ledger yet\nnext: run the node on one machine without [ledger.cluster] until its ledger is founded, stop it, and copy its folder to the other machines")

// book is how this machine opens the log while it does not lead: for reading and
// for what the leader has decided.
func (m *machine) book() (w writer.Config, err error) {
	if m.policy, err = aggregator.GivenPolicy(m.c); err == nil && m.policy == nil {
		m.policy, err = party.KeptPolicy(m.st)
	}
	if err != nil {
		return w, notFounded(err)
	}
	shard := m.shards.Open()
	at := m.policy.LogURL
	m.policy = m.policy.As(shard.Origin)
	m.policy.LogURL = at
	env := m.env()
	w = writer.Config{Dir: m.shards.Dir(shard.No), Policy: m.policy, Clock: m.o.Clock, Log: m.o.Log}
	if w.Machine, err = m.shards.Machine(shard.No); err != nil {
		return w, err
	}
	w.LogKey, err = env.Keys.Signer(keys.Log, m.o.Clock.Now())
	if err == nil {
		w.ReceiptKey, err = env.Keys.Signer(keys.Receipt, m.o.Clock.Now())
	}
	if err == nil {
		w.Store, err = party.StoreOptions(env)
	}
	return w, notFounded(err)
}

// notFounded is what err means to somebody who starts a cluster: a missing key is
// drawn only where it can be kept.
func notFounded(err error) error {
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrFollows) {
		return errNotFounded
	}
	return err
}

// chainState is where the cluster keeps the node's newest certificate: a file
// alone would stay on the machine that renewed it.
const chainState = "cluster-certificate"

func (m *machine) takeChain() error {
	file, err := meshStore{m.st}.LoadState(chainState)
	if err != nil || file == nil {
		return err
	}
	return identity.TakeChain(m.c.Dir, file)
}

// saveChain keeps a renewed certificate, on all machines.
func (n *Node) saveChain(chain [][]byte) error {
	if err := identity.SaveChain(n.Config.Dir, chain); err != nil || n.machine == nil {
		return err
	}
	file, err := identity.ReadChain(n.Config.Dir)
	if err != nil {
		return err
	}
	return meshStore{n.Store}.SaveState(chainState, file)
}

// lead runs the node while this machine leads.
func (m *machine) lead(ctx context.Context) (err error) {
	m.standby()
	defer func() {
		err = errors.Join(err, m.reopen())
		m.standby = m.stand(context.WithoutCancel(ctx))
	}()
	m.store().Lead(func(at store.Position, data []byte) error {
		return m.cluster.Commit(at.N, ledger.Hash(at.Digest), data)
	})
	if err := m.takeChain(); err != nil {
		return err
	}
	o := m.o
	o.shards = m.shards
	n, err := open(m.c, o, m)
	if err != nil {
		return err
	}
	if m.ready != nil {
		m.ready(n)
	}
	return n.Serve(ctx)
}

// reopen ends a term: what still holds the old store writes nothing any more. An
// error of it stops this machine.
func (m *machine) reopen() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.st.Close()
	if err == nil {
		var st *store.Store
		if st, err = m.openStore(); err == nil {
			m.st = st
		}
	}
	if err != nil {
		m.cluster.Fail(err)
	}
	return err
}

// stand runs what this machine does while it does not lead. stop ends it and
// waits.
func (m *machine) stand(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	run := func(what string, f func(context.Context) error) {
		wg.Go(func() {
			for {
				err := f(ctx)
				if ctx.Err() != nil {
					return
				}
				m.o.Log.Warn("not served while this machine stands by; tried again", "what", what, "err", err)
				clock.Sleep(ctx, clock.Wall{}, time.Second)
			}
		})
	}
	run("store", func(ctx context.Context) error {
		for ok := true; ok; ok = clock.Sleep(ctx, m.o.Clock, maintainPeriod) {
			upkeep(ctx, m.store(), m.o.Log)
		}
		return nil
	})
	if !m.o.NoPages {
		run("commands", m.control().Serve)
		if at := m.c.Web.Listen; at != "off" {
			run("page", func(ctx context.Context) error { return m.page(ctx, at) })
		}
	}
	if at := m.c.Ledger.HTTP; at != "" {
		log := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { m.cluster.Writer().Handler().ServeHTTP(rw, r) })
		door := aggregator.ReadingDoor(m.shards.Handler(m.shards.Open().Origin, log), func() *ledger.Policy { return m.policy })
		run("log", func(ctx context.Context) error { return serveHTTP(ctx, at, door) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

func serveHTTP(ctx context.Context, addr string, h http.Handler) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return party.ServeHTTP(ctx, l, h)
}

// control answers commands while another machine leads.
func (m *machine) control() *control.Server {
	s := control.NewServer(m.c.Dir)
	m.commands(s)
	s.Handle("ledger-seal", m.sealed)
	s.Handle("status", func(ctx context.Context, _ json.RawMessage) (any, error) {
		return Status{Role: m.c.Role, Name: m.c.Name, Now: m.o.Clock.Now(), Uptime: time.Since(m.started).Round(time.Second).String(), Peers: map[string]int{},
			Cluster: m.String(), Warnings: m.warnings(m.status(ctx))}, nil
	})
	s.Handle("doctor", func(ctx context.Context, _ json.RawMessage) (any, error) {
		m.mu.RLock()
		defer m.mu.RUnlock()
		return Checkup{Running: true, Findings: []Finding{
			{Check: "node", State: Well, Text: "Stands by for the machine that leads, for " + time.Since(m.started).Round(time.Second).String() + "."},
			judgeCluster(m.status(ctx)),
			judgeStore(describeDamage(m.st.Check(ctx), nil), fmt.Sprintf("Sound up to commit %d: every record was read and verified.", m.st.Head()))}}, nil
	})
	s.Handle("store-check", func(ctx context.Context, _ json.RawMessage) (any, error) {
		m.mu.RLock()
		defer m.mu.RUnlock()
		return nil, describeDamage(m.st.Check(ctx), nil)
	})
	return s
}

// store is the open store.
func (m *machine) store() *store.Store {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.st
}

// Position implements cluster.Beside.
func (m *machine) Position() (n uint64, digest ledger.Hash, known bool) {
	p, known := m.store().Position()
	return p.N, ledger.Hash(p.Digest), known
}

// Found implements cluster.Beside.
func (m *machine) Found() error {
	var digest [32]byte
	if _, err := io.ReadFull(m.o.Rand, digest[:]); err != nil {
		return fmt.Errorf("draw the cluster's beginning: %w", err)
	}
	return m.store().Found(digest)
}

// Apply implements cluster.Beside.
func (m *machine) Apply(change []byte) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.st.Apply(change)
}

// Dump implements cluster.Beside.
func (m *machine) Dump(w io.Writer) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.st.Dump(w)
}

// Load implements cluster.Beside.
func (m *machine) Load(r io.Reader) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.st.Load(r)
}

// ClusterStatus is what `gridveil ledger cluster status` shows.
type ClusterStatus struct {
	Leader  string          `json:"leader"` // key, empty while nobody leads
	Term    uint64          `json:"term"`   // grows with every election
	Members []ClusterMember `json:"members"`
	Next    string          `json:"next,omitempty"` // what to do, empty when nothing
}

// ClusterMember is one machine of a cluster.
type ClusterMember struct {
	Key      string     `json:"key"`
	Address  string     `json:"address"`
	This     bool       `json:"this"` // the machine that was asked
	Leads    bool       `json:"leads"`
	Answers  bool       `json:"answers"`
	Heard    *time.Time `json:"heard,omitempty"` // when it answered last, if ever
	Entries  uint64     `json:"entries"`         // of the ledger that are on its disk
	Changes  uint64     `json:"changes"`         // of the store that are on its disk
	Behind   uint64     `json:"behind"`          // entries and changes that the furthest machine has beyond it
	Standing string     `json:"standing"`        // in words
}

// AskCluster has a machine of a cluster carry out a command: cluster-status,
// cluster-add or cluster-remove.
func AskCluster(ctx context.Context, dir, name string, in, out any) error {
	err := control.Call(ctx, dir, name, in, out)
	var refused *control.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		if c, bad := config.Load(dir); bad == nil && c.Role == "aggregator" {
			return errors.New("this aggregator runs on one machine\nnext: doc/cluster.md says how to make it three")
		}
	}
	return err
}

// MachineKey is the key of the machine with the data directory dir, 64 hexadecimal
// digits; it is made if there is none.
func MachineKey(dir string) (string, error) {
	if _, err := config.Load(dir); err != nil {
		return "", err
	}
	key, err := identity.MachineKey(dir, rand.Reader)
	if err != nil {
		return "", err
	}
	return cluster.ID(key.Public().(ed25519.PublicKey)), nil
}

// Quorate reports whether enough machines answer to take entries.
func (s ClusterStatus) Quorate() bool { return s.Leader != "" && 2*s.answering() > len(s.Members) }

func (s ClusterStatus) answering() (n int) {
	for _, m := range s.Members {
		if m.Answers {
			n++
		}
	}
	return n
}

// status asks every machine.
func (m *machine) status(ctx context.Context) ClusterStatus { return m.judge(m.cluster.Survey(ctx)) }

// judge says how the machines do that answered a survey.
func (m *machine) judge(list []cluster.Standing) ClusterStatus {
	st := m.cluster.Status()
	out := ClusterStatus{Leader: st.Leader, Term: st.Term}
	for _, s := range list {
		x := ClusterMember{Key: s.ID, Address: s.Address, This: s.ID == m.self, Answers: s.Answers, Entries: s.Size, Changes: s.Beside, Leads: s.Answers && s.Leads}
		if !s.Heard.IsZero() {
			at := s.Heard.UTC()
			x.Heard = &at
		}
		if s.Answers {
			x.Behind = cluster.Behind(list, s)
		}
		x.Standing = site.MachineWords(s, x.Behind)
		out.Members = append(out.Members, x)
	}
	out.Next = out.advice(m.self)
	return out
}

// advice is what an operator should do.
func (s ClusterStatus) advice(self string) string {
	var away []string
	for _, m := range s.Members {
		if !m.Answers {
			away = append(away, m.Address)
		}
	}
	spare := (len(s.Members)-1)/2 - len(away) // losses that are still survived
	switch {
	case !slices.ContainsFunc(s.Members, func(m ClusterMember) bool { return m.Key == self }):
		return "This machine is no member. On the machine that leads: gridveil ledger cluster add KEY ADDRESS"
	case 2*s.answering() <= len(s.Members):
		return fmt.Sprintf("%d of %d machines answer, so nothing is taken: start the others, or check the lines between them.", s.answering(), len(s.Members))
	case s.Leader == "":
		return "Nobody leads yet; an election takes seconds."
	case len(away) == 1:
		return fmt.Sprintf("Start the machine at %s; %s. If it is gone for ever, prepare another one, `gridveil ledger cluster add` it, then `remove` the lost one.", away[0], survives(spare))
	case len(away) > 1:
		return fmt.Sprintf("Start the machines at %s; %s. For each that is gone for ever prepare another one, `gridveil ledger cluster add` it, then `remove` the lost one.", strings.Join(away, " and "), survives(spare))
	}
	return ""
}

// survives says what happens when one more machine is lost.
func survives(spare int) string {
	if spare > 0 {
		return "the service survives the loss of one more"
	}
	return "with one more away nothing would be taken"
}

// String says in one line what this machine does.
func (m *machine) String() string {
	s := m.cluster.Status()
	at := slices.IndexFunc(s.Members, func(x cluster.Member) bool { return x.ID == s.Leader })
	switch {
	case s.Leader == m.self:
		return fmt.Sprintf("leads %d machines, term %d", len(s.Members), s.Term)
	case at >= 0:
		return fmt.Sprintf("stands by; the machine at %s leads, term %d", s.Members[at].Address, s.Term)
	}
	return "stands by; no machine leads yet"
}

// commands answers `gridveil ledger cluster`.
func (m *machine) commands(s *control.Server) {
	s.Handle("cluster-status", func(ctx context.Context, _ json.RawMessage) (any, error) { return m.status(ctx), nil })
	change := func(name string, do func(cluster.Member) error) {
		s.Handle(name, func(ctx context.Context, in json.RawMessage) (any, error) {
			var x cluster.Member
			if err := json.Unmarshal(in, &x); err != nil {
				return nil, errors.New("want a machine's key and address")
			}
			if err := m.explain(do(x)); err != nil {
				return nil, err
			}
			return m.status(ctx), nil
		})
	}
	change("cluster-add", func(x cluster.Member) error { return m.cluster.Add(x) })
	change("cluster-remove", func(x cluster.Member) error {
		id, err := m.find(x.ID)
		if err != nil {
			return err
		}
		return m.cluster.Remove(id)
	})
}

// find is the member whose key begins with, or whose address is, a text.
func (m *machine) find(text string) (id string, err error) {
	for _, x := range m.cluster.Status().Members {
		if x.Address == text || len(text) >= 4 && strings.HasPrefix(x.ID, strings.ToLower(text)) {
			if id != "" {
				return "", fmt.Errorf("%q is more than one machine: give more of the key", text)
			}
			id = x.ID
		}
	}
	if id == "" {
		return "", fmt.Errorf("%q is no machine of this cluster\nnext: `gridveil ledger cluster status` lists them", text)
	}
	return id, nil
}

// explain says where a change can be made that was refused here.
func (m *machine) explain(err error) error {
	var other *writer.NotLeaderError
	if errors.As(err, &other) {
		return fmt.Errorf("only the machine that leads changes the cluster; this one %s\nnext: run the command there", m)
	}
	return err
}

// watchMachines keeps the warning of a machine that is away, on the one that
// leads.
func (n *Node) watchMachines(ctx context.Context) error {
	w := role.Warning{Code: "cluster-member-away", Severity: role.Problem, Title: "A machine of the cluster is away",
		Text: "Entries are still taken, but fewer machines than planned hold them.", After: time.Minute}
	told := map[string]bool{} // what concerns this machine alone
	for {
		s := n.machine.status(ctx)
		for _, x := range n.machine.warn.Standing(n.Clock.Now()) {
			told[x.Code] = true
			n.Warn.Raise(x, n.Clock.Now())
		}
		for code := range told {
			if !n.machine.warn.Has(code) {
				n.Warn.Clear(code)
			}
		}
		w.Next = s.Next
		n.Warn.Set(ctx.Err() == nil && s.answering() < len(s.Members), w, n.Clock.Now())
		if !clock.Sleep(ctx, n.Clock, 10*time.Second) {
			return nil
		}
	}
}

// judgeCluster is doctor's row of the machines that are one aggregator.
func judgeCluster(s ClusterStatus) Finding {
	f := Finding{Check: "cluster", State: Well, Next: s.Next}
	var lines []string
	for _, m := range s.Members {
		lines = append(lines, fmt.Sprintf("%s %s.", m.Address, m.Standing))
	}
	f.Text = strings.Join(lines, "\n")
	switch {
	case !s.Quorate():
		f.State = Sick
	case s.Next != "":
		f.State = Limited
	}
	return f
}
