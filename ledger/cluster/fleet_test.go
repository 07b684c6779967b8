package cluster_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/cluster"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/store"
	"gridveil/ledger/writer"
)

const election = 600 * time.Millisecond

// fleet is a cluster with its witnesses in one process. Members talk over
// loopback TCP that a test may cut.
type fleet struct {
	t       testing.TB
	tw      *town.Town
	members []*member
	tune    func(*writer.Config) // nil: small, and the scene's policy
	list    []cluster.Member
	beside  bool // each member keeps its shelf in step
	shards  bool // the log may be sealed; the members are without witnesses then
	sealed  [][]byte
	origin  string // of the log that takes entries

	mu       sync.Mutex
	cut      map[string]bool // addresses that nobody reaches and that reach nobody
	wires    []wire
	receipts map[uint64]ledger.Hash
	roots    map[uint64]ledger.Hash // of every checkpoint that left a member
}

type wire struct {
	from, to string
	conn     net.Conn
}

type member struct {
	f       *fleet
	no      int
	key     ed25519.PrivateKey
	address string
	shelf   *shelf

	stop func() error

	mu      sync.Mutex
	node    *cluster.Node // nil while it is down
	fails   func(step string) error
	archive *archive // of a fleet whose log may be sealed
}

// newFleet starts n members; the witnesses are those of the scene.
func newFleet(t testing.TB, s *scene.Scene, n int) *fleet {
	t.Helper()
	f := emptyFleet(t, s)
	f.tw.Verifiers()
	f.tw.Net.Put("log", http.HandlerFunc(f.serveLog))
	f.start(n)
	return f
}

func emptyFleet(t testing.TB, s *scene.Scene) *fleet {
	t.Helper()
	return &fleet{t: t, tw: town.New(t, s), cut: map[string]bool{}, receipts: map[uint64]ledger.Hash{}, roots: map[uint64]ledger.Hash{}, origin: scene.Origin}
}

func (f *fleet) start(n int) {
	for i := range n {
		f.newMember(i)
	}
	f.startMembers()
}

func (f *fleet) startMembers() {
	f.t.Helper()
	t := f.t
	var lns []net.Listener
	for _, m := range f.members {
		ln := listen(t, m)
		lns = append(lns, ln)
		f.list = append(f.list, cluster.Member{ID: cluster.ID(m.key.Public().(ed25519.PublicKey)), Address: m.address})
	}
	for i, m := range f.members {
		m.open(lns[i])
	}
	t.Cleanup(f.kill)
}

// kill ends all members.
func (f *fleet) kill() {
	for _, m := range f.members {
		m.kill()
	}
}

func (f *fleet) newMember(no int) *member {
	m := &member{f: f, no: no, key: f.tw.Scene.Key(), shelf: &shelf{}}
	f.members = append(f.members, m)
	return m
}

func listen(t testing.TB, m *member) net.Listener {
	t.Helper()
	at := m.address
	if at == "" {
		at = "127.0.0.1:0"
	}
	var ln net.Listener
	eventually(t, "a free port", func() (ok bool) {
		var err error
		ln, err = net.Listen("tcp", at)
		return err == nil
	})
	m.address = ln.Addr().String()
	return ln
}

// storeOptions are those of a member's stores.
func (f *fleet) storeOptions() store.Options {
	o := f.tw.Store
	o.Key = bytes.Repeat([]byte{7}, 32)
	return o
}

func (m *member) dir() string { return filepath.Join(m.f.tw.Dir, fmt.Sprintf("log-%d", m.no)) }

// open starts a member, for the first time or again.
func (m *member) open(ln net.Listener) {
	m.f.t.Helper()
	w := m.f.tw.WriterConfig()
	w.Dir = m.dir()
	w.Transport, w.CheckpointEvery = m.f, 10*time.Second
	w.Store = m.f.storeOptions()
	w.Store.Fail = m.fail
	if m.f.tune != nil {
		m.f.tune(&w)
	}
	cfg := cluster.Config{Writer: w, Dir: w.Dir + "-cluster", Key: m.key, Address: m.address, Listener: ln,
		Members: m.f.list[:3], ElectionTimeout: election, Dial: m.dial}
	if m.f.beside {
		cfg.Beside = m.shelf
	}
	n, err := m.join(cfg)
	if err != nil {
		m.f.t.Fatal(err)
	}
	m.mu.Lock()
	m.node = n
	m.mu.Unlock()
	m.stop = m.f.tw.Run(func(ctx context.Context) error {
		for {
			err := n.Serve(ctx)
			if !errors.Is(err, cluster.ErrBorder) {
				return err
			}
			n.Kill()
			cfg.Listener = listen(m.f.t, m)
			if n, err = m.join(cfg); err != nil {
				return err
			}
			m.mu.Lock()
			m.node = n
			m.mu.Unlock()
		}
	})
}

// join takes part with the shard in which the member is.
func (m *member) join(cfg cluster.Config) (n *cluster.Node, err error) {
	for {
		if m.f.shards {
			m.shard(&cfg)
		}
		if n, err = cluster.Open(cfg); !errors.Is(err, cluster.ErrBorder) {
			return n, err
		}
		cfg.Listener = listen(m.f.t, m) // it crossed on the way
	}
}

func (m *member) again() { m.f.t.Helper(); m.open(listen(m.f.t, m)) }

// kill ends a member without a word; what is not on its disk is gone.
func (m *member) kill() {
	m.mu.Lock()
	up := m.node != nil
	m.fails = nil
	m.mu.Unlock()
	if !up {
		return
	}
	m.stop()
	m.mu.Lock()
	n := m.node
	m.node = nil
	m.mu.Unlock()
	n.Kill()
}

func (m *member) fail(step string) error {
	m.mu.Lock()
	fails := m.fails
	m.mu.Unlock()
	if fails == nil {
		return nil
	}
	return fails(step)
}

func (m *member) failing(f func(step string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails = f
}

func (m *member) up() *cluster.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

// dial keeps the connection, so that a partition can end it.
func (m *member) dial(ctx context.Context, network, to string) (net.Conn, error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	if m.f.cut[m.address] || m.f.cut[to] {
		return nil, errors.New("no route to host")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, to)
	if err == nil {
		m.f.wires = append(m.f.wires, wire{m.address, to, c})
	}
	return c, err
}

// part cuts a member off from the others, or joins it to them again. It still
// reaches the witnesses.
func (f *fleet) part(m *member, cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut[m.address] = cut
	for _, w := range f.wires {
		if cut && (w.from == m.address || w.to == m.address) {
			w.conn.Close()
		}
	}
}

// RoundTrip carries checkpoints to the witnesses and notes which left: two of one
// size with different roots would be a second history.
func (f *fleet) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if req, err := ledger.ParseAddCheckpoint(body); err == nil {
			if c, _, err := ledger.OpenCheckpoint(req.Checkpoint, f.tw.Policy.Log); err == nil {
				f.note(c)
			}
		}
	}
	return f.tw.Net.RoundTrip(r)
}

func (f *fleet) note(c ledger.Checkpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if root, ok := f.roots[c.Size]; ok && root != c.Root {
		f.t.Errorf("two checkpoints of size %d with different roots", c.Size)
	}
	f.roots[c.Size] = c.Root
}

// serveLog shows the log to the verifiers from the longest member that runs.
func (f *fleet) serveLog(rw http.ResponseWriter, r *http.Request) {
	var best *cluster.Node
	for _, m := range f.members {
		if n := m.up(); n != nil && (best == nil || n.Status().Signed > best.Status().Signed) {
			best = n
		}
	}
	if best == nil {
		http.Error(rw, "nobody is up", http.StatusServiceUnavailable)
		return
	}
	best.Writer().Handler().ServeHTTP(rw, r)
}

// leader waits for a member, other than those given, that leads.
func (f *fleet) leader(not ...*member) (found *member) {
	f.t.Helper()
	eventually(f.t, "a leader", func() bool {
		for _, m := range f.members {
			n := m.up()
			if n == nil || len(not) > 0 && m == not[0] {
				continue
			}
			if s := n.Status(); s.State == "Leader" && s.Err == nil {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// submit sends entries until each has a receipt, to whoever takes them.
func (f *fleet) submit(raw [][]byte) {
	f.t.Helper()
	eventually(f.t, "receipts", func() bool {
		for _, m := range f.members {
			n := m.up()
			if n == nil || len(raw) == 0 {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), election)
			results := n.Writer().Submit(ctx, raw)
			cancel()
			raw = f.count(raw, results)
		}
		return len(raw) == 0
	})
}

// count notes the receipts; what got none is to be sent again.
func (f *fleet) count(raw [][]byte, results []writer.Result) (left [][]byte) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, r := range results {
		switch {
		case r.Err == nil:
			if err := r.Receipt.Verify(f.origin, scene.Pub(f.tw.Scene.Receipt)); err != nil {
				f.t.Fatal(err)
			}
			leaf := ledger.LeafHash(raw[i])
			if was, ok := f.receipts[r.Receipt.Index]; ok && was != leaf || r.Receipt.Leaf != leaf {
				f.t.Fatalf("two entries have a receipt for index %d", r.Receipt.Index)
			}
			f.receipts[r.Receipt.Index] = leaf
		case errors.Is(r.Err, ledger.ErrBusy), errors.Is(r.Err, ledger.ErrHalted), errors.Is(r.Err, context.DeadlineExceeded),
			errors.Is(r.Err, ledger.ErrSeqGap): // behind one that was not taken
			left = append(left, raw[i])
		default:
			f.t.Fatalf("entry refused: %v", r.Err)
		}
	}
	return left
}

// agree waits until every member has the whole log, final, and compares them with
// what was acknowledged.
func (f *fleet) agree(size uint64) {
	f.t.Helper()
	var state [32]byte
	for _, m := range f.members {
		n := m.up()
		eventually(f.t, fmt.Sprintf("member %d final at %d", m.no, size), func() bool {
			c, _ := n.Writer().Final()
			return c.Size >= size && n.Writer().Size() == size
		})
		n.Writer().Read(func(m ledger.Machine) {
			if state == ([32]byte{}) {
				state = m.Hash()
			}
			if m.Hash() != state {
				f.t.Error("members have different states")
			}
		})
		f.mu.Lock()
		for index, leaf := range f.receipts {
			if raw, err := n.Writer().Entry(index); err != nil || ledger.LeafHash(raw) != leaf {
				f.t.Errorf("member %d lacks entry %d, which has a receipt: %v", m.no, index, err)
			}
		}
		for size, root := range f.roots {
			if own, err := n.Writer().RootAt(size); err != nil || own != root {
				f.t.Errorf("member %d has another root than the checkpoint of size %d: %v", m.no, size, err)
			}
		}
		f.mu.Unlock()
	}
}

// eventually waits for what other goroutines bring about.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("it does not happen: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}
