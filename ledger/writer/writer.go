package writer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"gridveil/ledger"
	"gridveil/ledger/store"
)

// Clock gives log time and waits for it; nil in a Config means the wall clock. A
// demonstration runs it faster. Only network timeouts use the wall clock.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Config describes one log. Dir, Machine, LogKey, ReceiptKey and Policy are
// needed.
type Config struct {
	Dir   string
	Store store.Options
	// Machine is the empty state machine of the log. The writer owns it: look at
	// it only inside Read.
	Machine ledger.Machine
	// LogKey signs checkpoints, ReceiptKey receipts; the latter must be a
	// registered receipt key before anybody believes it.
	LogKey, ReceiptKey ed25519.PrivateKey
	// Policy names the log and its origin, the witnesses with their URLs, and the
	// quorum that makes a checkpoint final.
	Policy *ledger.Policy
	// Transport carries requests to witnesses; nil means http.DefaultTransport.
	Transport http.RoundTripper
	// Tick makes a signed entry of the log's own party that moves the log time to
	// now; see MoneyTick. Nil means a log without ticks.
	Tick func(m ledger.Machine, now time.Time) ([]byte, error)
	// TickEvery is the log time between ticks while there is traffic; zero means
	// 60 s.
	TickEvery time.Duration
	// CheckpointEvery is the least time between two checkpoints; zero means 1 s.
	CheckpointEvery time.Duration
	// Submitter names who sent a request, for queues and limits; nil takes the
	// remote host.
	Submitter func(*http.Request) string
	// Cluster makes what takes the place of the store's own steps where several
	// nodes keep one log; ledger/cluster sets it. Nil means one node.
	Cluster func(*store.Store) Cluster
	Clock   Clock        // nil means the wall clock
	Log     *slog.Logger // nil discards
}

// Steps are the three moments at which something becomes durable: a group before
// its receipts, a signed state before its checkpoint leaves, and a final
// checkpoint before it is served. A store.Store is the one of a single node, and
// says what each promises. An ErrBusy of Take means that the submitter sends the
// same bytes again.
type Steps interface {
	Take(list []*store.Pending) (first uint64, err error)
	Seal() (size uint64, root ledger.Hash, err error)
	Publish(size uint64, note []byte) error
}

// Cluster is several nodes that keep one log, of which one at a time leads.
type Cluster interface {
	Steps
	// Leads returns nil if no other node can have taken the lead before this call.
	Leads() error
	// Refusal is what entries are refused with while Serve does not run here.
	Refusal() error
}

// Defaults.
const (
	defaultTickEvery       = time.Minute
	defaultCheckpointEvery = time.Second
)

// Writer is a running log. Its methods may be called from any goroutine.
type Writer struct {
	cfg     Config
	origin  string
	store   *store.Store
	steps   Steps
	cluster Cluster // nil: one node
	signer  note.Signer
	intake  intake
	own     chan struct{} // held while the own party's next number is in use
	ticked  atomic.Uint64 // the size after the newest tick: what is beyond is traffic
	grown   signal        // entries became durable
	settled signal        // a checkpoint became final

	witnesses []*witness // owned by the checkpoint loop, but for their status

	mu    sync.Mutex // guards final
	final final
}

// final is the newest checkpoint with its quorum.
type final struct {
	checkpoint ledger.Checkpoint
	note       []byte
	cosigners  []string
}

// Open opens the log, recovering and replaying what is on disk. See store.Open
// for its errors.
func Open(cfg Config) (*Writer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	st, err := store.Open(cfg.Dir, cfg.Machine, cfg.Store)
	if err != nil {
		return nil, err
	}
	w := &Writer{cfg: cfg, origin: cfg.Policy.Log.Name(), store: st, own: make(chan struct{}, 1)}
	w.signer = ledger.LogSigner(w.origin, cfg.LogKey)
	w.intake.init()
	w.steps = st
	if cfg.Cluster != nil {
		w.cluster = cfg.Cluster(st)
		w.steps, w.intake.stopped = w.cluster, w.cluster.Refusal
	}
	for _, x := range cfg.Policy.Witnesses {
		w.witnesses = append(w.witnesses, &witness{Witness: x, status: WitnessStatus{Name: x.Name}})
	}
	if err := w.loadFinal(); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return w, nil
}

func (c *Config) check() error {
	switch {
	case c.Dir == "" || c.Machine == nil || c.Policy == nil:
		return errors.New("ledger writer: Config needs Dir, Machine and Policy")
	case len(c.LogKey) != ed25519.PrivateKeySize || len(c.ReceiptKey) != ed25519.PrivateKeySize:
		return errors.New("ledger writer: Config needs LogKey and ReceiptKey")
	case c.Policy.Log.Pub() != ledger.Hash(c.LogKey.Public().(ed25519.PublicKey)):
		return errors.New("ledger writer: LogKey is not the key of the log in the policy")
	}
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	if c.TickEvery == 0 {
		c.TickEvery = defaultTickEvery
	}
	if c.CheckpointEvery == 0 {
		c.CheckpointEvery = defaultCheckpointEvery
	}
	if c.Submitter == nil {
		c.Submitter = remoteHost
	}
	if c.Clock == nil {
		c.Clock = wallClock{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Store.Log = c.Log
	return nil
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// loadFinal takes up the newest published checkpoint that the policy still
// calls final.
func (w *Writer) loadFinal() error {
	size, msg := w.store.Published()
	if c, now := w.Final(); msg == nil || size < c.Size || bytes.Equal(msg, now) {
		return nil
	}
	c, cosigners, err := w.cfg.Policy.Open(msg)
	if err != nil {
		return fmt.Errorf("published checkpoint of size %d: %w", size, err)
	}
	if w.cfg.Policy.Final(cosigners) {
		w.mu.Lock()
		w.final = final{c, msg, cosigners}
		w.mu.Unlock()
	}
	return nil
}

// Refresh takes up what another writer of a cluster made durable in this store:
// who waits for growth or a final checkpoint is woken.
func (w *Writer) Refresh() error {
	err := w.loadFinal()
	w.grown.fire()
	w.settled.fire()
	return err
}

// Serve sequences entries, ticks and signs checkpoints until ctx ends, and
// returns nil then. Any other return is fatal: close the writer and open it
// again. In a cluster Serve runs while this node leads, once in each term, and
// only what Status then calls Err is fatal.
func (w *Writer) Serve(ctx context.Context) error {
	if w.cluster != nil {
		if err := w.survey(ctx); err != nil {
			return err
		}
		w.intake.accept()
	}
	g, ctx := errgroup.WithContext(ctx) // waited for below
	groups := make(chan *group, runtime.GOMAXPROCS(0))
	g.Go(func() error { return w.check(ctx, groups) })
	g.Go(func() error { return w.sequence(ctx, groups) })
	g.Go(func() error { return w.ticks(ctx) })
	g.Go(func() error { return w.checkpoints(ctx) })
	err := g.Wait()
	for len(groups) > 0 {
		(<-groups).refuse(w.refusal())
	}
	w.intake.refuse(w.refusal)
	if fatal := w.store.Err(); fatal != nil {
		return fatal
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// refusal is what entries get that come too late.
func (w *Writer) refusal() error {
	if w.cluster != nil {
		return w.cluster.Refusal()
	}
	return fmt.Errorf("%w: the writer has stopped", ledger.ErrHalted)
}

// Close closes the store. Serve must have returned.
func (w *Writer) Close() error { return w.store.Close() }

// Origin is the name of the log.
func (w *Writer) Origin() string { return w.origin }

// Read calls f with the machine after the newest durable entry, which need not
// be final. f must not keep or change it, nor call the writer.
func (w *Writer) Read(f func(ledger.Machine)) { w.store.Read(f) }

// Size is the number of durable entries.
func (w *Writer) Size() uint64 {
	size, _ := w.store.Size()
	return size
}

// Final is the newest final checkpoint and its note; the size is 0 and the note
// nil before the first.
func (w *Writer) Final() (ledger.Checkpoint, []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.final.checkpoint, w.final.note
}

// Entry reads one durable entry.
func (w *Writer) Entry(index uint64) ([]byte, error) { return w.store.Entry(index) }

// WaitFinal returns once the first size entries are final, or when ctx ends.
func (w *Writer) WaitFinal(ctx context.Context, size uint64) error {
	for {
		changed := w.settled.next()
		if c, _ := w.Final(); c.Size >= size {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Watch calls f with every final entry from index from on, in order, as they
// become final, until ctx ends or f fails; it returns that error. Whoever acts on
// the ledger acts here, and remembers index+1 to go on after a restart.
func (w *Writer) Watch(ctx context.Context, from uint64, f func(index uint64, raw []byte) error) error {
	for {
		if err := w.WaitFinal(ctx, from+1); err != nil {
			return err
		}
		c, _ := w.Final()
		if err := w.store.Entries(from, c.Size, f); err != nil {
			return err
		}
		from = c.Size
	}
}

// Proof makes the .tlog-proof of an entry under the newest final checkpoint. It
// returns ErrMalformed if the entry is not final yet.
func (w *Writer) Proof(index uint64) (*ledger.Proof, error) {
	c, msg := w.Final()
	hashes, err := w.store.ProveInclusion(index, c)
	if err != nil {
		return nil, err
	}
	return &ledger.Proof{Index: index, Hashes: hashes, Checkpoint: msg}, nil
}

// RootAt is the root of the tree of the first n entries. It returns ErrMalformed
// for more than there are.
func (w *Writer) RootAt(n uint64) (ledger.Hash, error) { return w.store.RootAt(n) }

// Status is what a page shows of the log.
type Status struct {
	Origin    string
	Size      uint64 // durable
	Signed    uint64 // under a checkpoint of the log
	Final     uint64 // under one with the quorum
	LogTime   time.Time
	Cosigners []string // of the final checkpoint
	Witnesses []WitnessStatus
	Slowed    []string // submitters whose signatures were wrong
	Repaired  []string // what the start mended: warning store-repaired
	Err       error    // why the writer stopped
}

// Status describes the log now.
func (w *Writer) Status() Status {
	s := Status{Origin: w.origin, Size: w.Size(), Slowed: w.intake.slowed(), Repaired: w.store.Repaired(), Err: w.store.Err()}
	s.Signed, _ = w.store.Signed()
	w.Read(func(m ledger.Machine) { s.LogTime = m.LogTime() })
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Final, s.Cosigners = w.final.checkpoint.Size, w.final.cosigners
	for _, x := range w.witnesses {
		s.Witnesses = append(s.Witnesses, x.status)
	}
	return s
}

// signal wakes everybody who waits for the next event.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed at the next event after this call.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// NotLeaderError says that another node of a cluster takes entries now. Nothing,
// or nothing certain, has happened: send the same bytes there. It is an ErrBusy.
type NotLeaderError struct {
	Leader string // the member ID of who leads, empty if nobody does or it is unknown
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return fmt.Sprintf("%v: no node of the ledger's cluster leads yet", ledger.ErrBusy)
	}
	return fmt.Sprintf("%v: node %s leads the ledger", ledger.ErrBusy, strings.ToValidUTF8(e.Leader[:min(8, len(e.Leader))], "?"))
}

// Unwrap gives ErrBusy.
func (e *NotLeaderError) Unwrap() error { return ledger.ErrBusy }
