package cluster

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"gridveil/ledger"
	"gridveil/ledger/store"
	"gridveil/ledger/writer"
)

// Config describes one member. Writer, Dir, Key, Address and Members are needed.
type Config struct {
	// Writer is the log as for one node. All members have the same LogKey,
	// ReceiptKey and Policy; each has its own Dir. Store.Key seals the raft log too.
	Writer writer.Config
	// Dir holds the raft log; it must not be inside Writer.Dir.
	Dir string
	// Key is this member's own key, which the others know by its ID.
	Key ed25519.PrivateKey
	// Address is where the others reach this member. Listener takes their
	// connections; nil listens on Address.
	Address  string
	Listener net.Listener
	// Members found the cluster: the same three or five in one order on each of
	// them. What the first one holds is what the others take over. A member that is
	// not among them joins: it waits until the leader adds it.
	Members []Member
	// ElectionTimeout is how long a leader may be silent before the others elect
	// another, which takes about as long again; zero means 2 s, the least is 50 ms.
	ElectionTimeout time.Duration
	// Dial connects to an address; nil means a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Beside is what the members keep in step besides the log; nil means nothing.
	Beside Beside
	// Shards are the logs before this one and the way to the next; nil means that
	// the log is never sealed.
	Shards Shards
	// Lead works while this member leads, once in each term and until ctx ends; it
	// opens and serves the log by Reopen. Nil serves the writer that Open opened.
	Lead func(ctx context.Context) error
}

// Limits of the raft log: what a member that was away may catch up with from it;
// beyond that it fetches entries.
const (
	trailingLogs      = 256
	snapshotThreshold = 256
	snapshotEvery     = 20 * time.Second
	maxAppend         = 16 // proposals of one message, at most 4 MiB each
	commitEvery       = 20 * time.Millisecond
)

// Node is one running member. Its methods may be called from any goroutine.
type Node struct {
	cfg   Config
	self  raft.ServerID
	log   *slog.Logger
	book  atomic.Pointer[book]
	turn  sync.Mutex // held while something is applied, or the log is opened anew
	raft  atomic.Pointer[raft.Raft]
	disk  *disk
	trans *raft.NetworkTransport
	link  *link
	hand  hand
	took  atomic.Int64 // wall time of the newest thing applied, Unix nanoseconds

	applied chan struct{} // something became durable here
	broken  chan struct{} // closed when this member has stopped
	once    sync.Once
	failure error         // why; read behind broken
	closing chan struct{} // closed when nothing is waited for any more
	heard   heard
}

// book is the open log.
type book struct {
	w     *writer.Writer
	store *store.Store
	base  uint64 // entries of the shards before it
}

// Open opens the log of this member and takes part in the cluster; it may
// fetch what the store lacks and then waits for the others. See writer.Open for
// its errors; ErrBorder means that it crossed into the next shard on the way: open
// again.
func Open(cfg Config) (*Node, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, self: raft.ServerID(ID(cfg.Key.Public().(ed25519.PublicKey))), log: cfg.Writer.Log,
		applied: make(chan struct{}, 1), broken: make(chan struct{}), closing: make(chan struct{})}
	if err := n.openBook(cfg.Writer); err != nil {
		return nil, err
	}
	if err := n.open(); err != nil {
		select {
		case <-n.broken: // raft does not pass on why
			err = n.failure
		default:
		}
		return nil, errors.Join(err, n.shut())
	}
	return n, nil
}

func (n *Node) openBook(cfg writer.Config) error {
	b := &book{}
	cfg.Cluster = func(st *store.Store) writer.Cluster {
		b.store = st
		return steps{n}
	}
	var err error
	if b.w, err = writer.Open(cfg); err != nil {
		return err
	}
	b.w.Read(func(m ledger.Machine) { b.base = ledger.Base(m) })
	n.book.Store(b)
	return nil
}

// Reopen opens the log with other settings, for who leads and serves it: the
// writer before it is closed and must not be served. After an error of it this
// member stops.
func (n *Node) Reopen(cfg writer.Config) (*writer.Writer, error) {
	n.turn.Lock()
	defer n.turn.Unlock()
	err := n.Writer().Close()
	if err == nil {
		err = n.openBook(cfg)
	}
	if err != nil {
		n.Fail(err)
		return nil, err
	}
	return n.Writer(), nil
}

func (n *Node) store() *store.Store { return n.book.Load().store }

// base is how many entries the shards before the open one have.
func (n *Node) base() uint64 { return n.book.Load().base }

// size is how many entries are durable here, counted over all shards, and the
// root of the open one's log.
func (n *Node) size() (uint64, ledger.Hash) {
	b := n.book.Load()
	size, root := b.store.Size()
	return b.base + size, root
}

// signed is the newest state that may be signed here, counted over all shards.
func (n *Node) signed() (uint64, ledger.Hash) {
	b := n.book.Load()
	size, root := b.store.Signed()
	return b.base + size, root
}

func (c *Config) check() error {
	switch {
	case c.Dir == "" || c.Address == "":
		return errors.New("ledger cluster: Config needs Dir and Address")
	case len(c.Key) != ed25519.PrivateKeySize:
		return errors.New("ledger cluster: Config needs Key")
	case len(c.Members) != 3 && len(c.Members) != MaxMembers:
		return fmt.Errorf("ledger cluster: %d members are listed, want 3 or %d", len(c.Members), MaxMembers)
	case c.ElectionTimeout != 0 && c.ElectionTimeout < 50*time.Millisecond:
		return fmt.Errorf("ledger cluster: ElectionTimeout is %v, want at least 50ms", c.ElectionTimeout)
	}
	seen := map[string]bool{}
	for _, m := range c.Members {
		if err := m.check(); err != nil {
			return err
		}
		if seen[m.ID] || seen[m.Address] {
			return fmt.Errorf("ledger cluster: member %s is listed twice", m.short())
		}
		seen[m.ID], seen[m.Address] = true, true
	}
	if c.ElectionTimeout == 0 {
		c.ElectionTimeout = 2 * time.Second
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	if c.Writer.Log == nil {
		c.Writer.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// open starts raft; NewRaft brings the store as far as the newest snapshot says.
func (n *Node) open() error {
	if err := os.MkdirAll(n.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("create directory of the cluster: %w", err)
	}
	err := n.claim()
	if err != nil {
		return err
	}
	ln := n.cfg.Listener
	if ln == nil {
		if ln, err = net.Listen("tcp", n.cfg.Address); err != nil {
			return fmt.Errorf("listen for the cluster: %w", err)
		}
	}
	if n.link, err = newLink(n, ln); err != nil {
		return errors.Join(err, ln.Close())
	}
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: lines{n.log}, DisableTime: true})
	n.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: n.link, MaxPool: 3, Logger: log,
		Timeout: 10 * n.cfg.ElectionTimeout})
	if n.disk, err = openDisk(n.cfg.Dir, n.cfg.Writer.Store.Key, log); err != nil {
		return err
	}
	marks, err := raft.NewFileSnapshotStoreWithLogger(n.cfg.Dir, 1, log)
	if err != nil {
		return fmt.Errorf("open cluster snapshots: %w", err)
	}
	rc := n.raftConfig(log)
	if err := n.found(rc, marks); err != nil {
		return err
	}
	r, err := raft.NewRaft(rc, fsm{n}, n.disk, n.disk, marks, n.trans)
	if err != nil {
		return fmt.Errorf("start cluster member: %w", err)
	}
	n.raft.Store(r)
	return nil
}

// claim keeps a copied folder from being used: two members with one raft log
// could vote twice.
func (n *Node) claim() error {
	file := filepath.Join(n.cfg.Dir, "member")
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return os.WriteFile(file, []byte(n.self), 0o600)
	case err != nil:
		return fmt.Errorf("read directory of the cluster: %w", err)
	case string(b) != string(n.self):
		return fmt.Errorf("%s is the raft log of another machine\nnext: delete that folder, and let this machine take over what the others have", n.cfg.Dir)
	}
	return nil
}

func (n *Node) raftConfig(log hclog.Logger) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID, rc.Logger = n.self, log
	half := n.cfg.ElectionTimeout / 2 // raft waits between one and two of its timeouts
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = half, half, half
	rc.CommitTimeout = commitEvery
	rc.MaxAppendEntries = maxAppend
	rc.TrailingLogs, rc.SnapshotThreshold, rc.SnapshotInterval = trailingLogs, snapshotThreshold, snapshotEvery
	rc.NoLegacyTelemetry = true
	return rc
}

// found writes the first configuration, on the first of the founding members.
func (n *Node) found(rc *raft.Config, marks raft.SnapshotStore) error {
	has, err := raft.HasExistingState(n.disk, n.disk, marks)
	if err != nil {
		return fmt.Errorf("read the raft log: %w", err)
	}
	if has || raft.ServerID(n.cfg.Members[0].ID) != n.self {
		return nil
	}
	if n.cfg.Beside != nil {
		if err := n.cfg.Beside.Found(); err != nil {
			return fmt.Errorf("found the cluster: %w", err)
		}
	}
	var servers []raft.Server
	for _, m := range n.cfg.Members {
		servers = append(servers, raft.Server{ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.Address)})
	}
	if err := raft.BootstrapCluster(rc, n.disk, n.disk, marks, n.trans, raft.Configuration{Servers: servers}); err != nil {
		return fmt.Errorf("found the cluster: %w", err)
	}
	return nil
}

// Writer is the log of this member: reads work on every member, entries are taken
// by the leader. Reopen puts another in its place.
func (n *Node) Writer() *writer.Writer { return n.book.Load().w }

// Serve runs the log while this member leads and follows while it does not, until
// ctx ends, and returns nil then. Any other return is fatal: close the node and
// open it again. ErrBorder is the one that is no fault: the next shard is opened
// then.
func (n *Node) Serve(ctx context.Context) error {
	r := n.raft.Load()
	stop := func() {}
	defer func() { stop() }()
	wctx, cancel := context.WithCancel(ctx)
	watched := n.watch(wctx)
	defer func() { cancel(); <-watched }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.broken:
			return n.failure
		case <-n.applied:
			if err := n.refresh(); err != nil {
				return err
			}
		case leads := <-r.LeaderCh():
			stop() // the term before, if any
			stop = func() {}
			if leads {
				stop = n.begin(ctx)
			}
		}
	}
}

// refresh takes up what was applied. While something is being applied, which may
// wait for another member, that wakes Serve again.
func (n *Node) refresh() error {
	if !n.turn.TryLock() {
		return nil
	}
	defer n.turn.Unlock()
	if err := n.Writer().Refresh(); err != nil {
		return n.fatal(err)
	}
	return nil
}

// begin works for one term.
func (n *Node) begin(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // ended by stop
		defer close(done)
		n.term(ctx)
	}()
	return func() { cancel(); <-done }
}

// retryTerm is the pause before a leader tries again, on the wall clock.
const retryTerm = 50 * time.Millisecond

// term waits until everything that was agreed on before is applied, lets a
// majority know what this member has and signed, and leads.
func (n *Node) term(ctx context.Context) {
	for ctx.Err() == nil && n.store().Err() == nil {
		err := n.raft.Load().Barrier(0).Error()
		if err == nil {
			err = n.show()
		}
		if err == nil {
			n.log.Info("this member leads the ledger")
			if n.cfg.Lead != nil {
				err = n.lead(ctx)
			} else {
				err = n.Writer().Serve(ctx)
			}
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn("leading the ledger interrupted", "err", err)
		}
		if n.store().Err() != nil {
			n.fatal(err)
			return
		}
		pause := retryTerm
		if errors.Is(err, ledger.ErrBusy) {
			pause = retryFetch
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// lead is a term of the owner. What is not the end of the lead stops this
// member.
func (n *Node) lead(ctx context.Context) error {
	err := n.cfg.Lead(ctx)
	if ctx.Err() == nil && err != nil && !errors.Is(err, ledger.ErrBusy) {
		n.Fail(err)
		<-ctx.Done()
	}
	return err
}

// show lets a majority know what this member has and signed.
func (n *Node) show() error {
	if err := n.inStep(); err != nil {
		return err
	}
	p, err := n.mark()
	if err != nil {
		return err
	}
	_, err = n.propose(p.encode())
	return err
}

// fatal stops the store and this member.
func (n *Node) fatal(err error) error {
	if n.store().Err() == nil && !errors.Is(err, ErrBorder) {
		n.log.Error("this member of the cluster stops", "err", err)
	}
	err = n.store().Halt(err)
	n.Fail(err)
	return err
}

// Fail makes Serve return err: the owner cannot go on.
func (n *Node) Fail(err error) {
	n.once.Do(func() {
		n.failure = err
		close(n.broken)
	})
}

// wake tells Serve that something became durable.
func (n *Node) wake() {
	select {
	case n.applied <- struct{}{}:
	default: // it will look anyway
	}
}

// Close leaves the lead to another member if this one has it, and closes the
// files. Serve must have returned.
func (n *Node) Close() error {
	if r := n.raft.Load(); r.State() == raft.Leader && n.store().Err() == nil {
		if err := r.LeadershipTransfer().Error(); err != nil {
			n.log.Warn("the lead was not handed over", "err", err)
		}
	}
	return n.shut()
}

// shut stops at once.
func (n *Node) shut() error {
	close(n.closing)
	var errs []error
	if r := n.raft.Load(); r != nil {
		errs = append(errs, r.Shutdown().Error())
	}
	if n.trans != nil {
		n.trans.CloseStreams()
		errs = append(errs, n.trans.Close())
	}
	if n.link != nil {
		n.link.Close() // once more does nothing
		n.link.wg.Wait()
	}
	if n.disk != nil {
		errs = append(errs, n.disk.Close())
	}
	return errors.Join(append(errs, n.Writer().Close())...)
}

// lines passes on what raft reports.
type lines struct{ log *slog.Logger }

func (l lines) Write(b []byte) (int, error) {
	l.log.Debug("cluster reported", "text", strings.TrimSpace(string(b)))
	return len(b), nil
}
