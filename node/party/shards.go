package party

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/durable"
	"gridveil/ledger/export"
	"gridveil/ledger/store"
	"gridveil/node/clock"
	"gridveil/node/role"
)

// A ledger is kept in shards, one log behind the other (decision 0271). The one
// that grows has a store; a sealed one becomes flat files:
//
//	ledger, ledger-2, ...        stores of the first, second, ... shard
//	ledger-sealed/1              tlog-tiles folder of the first, once it is sealed and compared
//	ledger-sealed/carried-2      what the second began with
//	ledger-sealed/shards         where each sealed one ended
//
// Outside of a shard's own log, entries are counted over all shards.

// Shard is one log of the ledger.
type Shard struct {
	No     int // from 1
	Origin string
	Base   uint64 // entries of all shards before it
	Size   uint64 // entries, 0 while it grows
	Note   []byte // final checkpoint, nil while it grows
	Policy string // by which that is final
}

// Sealed says whether nothing can follow in the shard.
func (x Shard) Sealed() bool { return x.Note != nil }

// Shards are the logs of the ledger that a node has: the last one grows. Its
// methods may be called from any goroutine.
type Shards struct {
	env     *role.Env     // Config, Warn, Clock and Log of it
	options store.Options // of each store
	prev    string        // of shards that begin with a later log: the one before, "" for a genesis
	begin   []byte        // what that carried over
	// fail is called with the name of each step of a border after it; tests stop
	// there as a crash would.
	fail func(step string) error

	wake chan struct{} // a shard was sealed

	mu     sync.Mutex
	list   []Shard
	sealed map[string]sealedLog // by hash of the origin, hex
}

// sealedLog is a sealed shard as it is read and served.
type sealedLog struct {
	http.Handler
	entry func(index uint64) ([]byte, error)
	prove func(index uint64) (*ledger.Proof, error)
	files bool // flat files, and no store any more
}

// OpenShards finds the shards that this machine has of the ledger whose first log
// has the origin home.
func OpenShards(env *role.Env, home string) (*Shards, error) {
	opt, err := StoreOptions(env)
	if err != nil {
		return nil, err
	}
	return ShardsOf(env, opt, home, "", nil)
}

// ShardsOf is OpenShards for who is no member of the network; of env it uses
// Config.Dir, Clock, Log and Warn. Shards that begin with a later log than the
// ledger's first are told the one before it and what that carried over.
func ShardsOf(env *role.Env, opt store.Options, home, prev string, begin []byte) (*Shards, error) {
	s := &Shards{env: env, options: opt, prev: prev, begin: begin, fail: func(string) error { return nil }, wake: make(chan struct{}, 1), list: []Shard{{No: 1, Origin: home}}, sealed: map[string]sealedLog{}}
	b, err := os.ReadFile(s.listFile())
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	var list []Shard
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("stored shards of the ledger: %w", err)
	}
	if len(list) > 0 && list[0].Origin == home {
		s.list = list
	}
	return s, nil
}

// List gives all shards, the growing one last.
func (s *Shards) List() []Shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Shard(nil), s.list...)
}

// Open is the shard that grows.
func (s *Shards) Open() Shard {
	list := s.List()
	return list[len(list)-1]
}

// Dir is where the store of a shard is.
func (s *Shards) Dir(no int) string {
	if no == 1 {
		return s.env.Config.Path("ledger")
	}
	return s.env.Config.Path("ledger-" + strconv.Itoa(no))
}

// Files is where the flat files of a shard are, once it is sealed.
func (s *Shards) Files(no int) string {
	return filepath.Join(s.env.Config.Path("ledger-sealed"), strconv.Itoa(no))
}

func (s *Shards) listFile() string {
	return filepath.Join(s.env.Config.Path("ledger-sealed"), "shards")
}

func (s *Shards) carriedFile(no int) string {
	return filepath.Join(s.env.Config.Path("ledger-sealed"), "carried-"+strconv.Itoa(no))
}

// Carried is what a shard began with, export.ErrMissing for the ledger's first.
func (s *Shards) Carried(no int) ([]byte, error) {
	if no == 1 && s.begin != nil {
		return s.begin, nil
	}
	if no == 1 {
		return nil, export.ErrMissing
	}
	return os.ReadFile(s.carriedFile(no))
}

// Machine is the state before the first entry of a shard. Its first entry must
// begin with the final checkpoint that this node has of the shard before.
func (s *Shards) Machine(no int) (*ledger.Money, error) {
	list := s.List()
	if no == 1 && s.begin != nil {
		return ledger.NewHeir(s.prev, list[0].Origin, s.begin)
	}
	if no == 1 {
		return ledger.NewMoney(list[0].Origin), nil
	}
	carried, err := s.Carried(no)
	if err != nil {
		return nil, fmt.Errorf("what shard %d of the ledger began with: %w", no, err)
	}
	before := list[no-2]
	m, err := ledger.NewHeir(before.Origin, list[no-1].Origin, carried)
	if err != nil {
		return nil, fmt.Errorf("what shard %d of the ledger began with: %w", no, err)
	}
	m.First = before.begins
	return m, nil
}

// begins checks that the next shard goes on from the end of x that we have
// replayed, under a checkpoint with its quorum.
func (x Shard) begins(b *ledger.Shard) error {
	policy, err := ledger.ParsePolicy([]byte(x.Policy))
	if err != nil {
		return err
	}
	own, err := policy.OpenFinal(x.Note)
	if err != nil {
		return err
	}
	c, err := policy.OpenFinal(b.Sealed)
	if err == nil && c != own {
		err = fmt.Errorf("%w: the shard goes on from another end of the log before", ledger.ErrState)
	}
	return err
}

// Cross ends the shard that grows and begins the next one: state is where the
// log was sealed, note its final checkpoint under policy. Whoever calls it has
// acted on every entry, and opens the next shard's store afterwards. A crash in
// between is repaired by calling it again. In a cluster each machine calls it at
// the same raft entry.
func (s *Shards) Cross(state *ledger.State, note []byte, policy *ledger.Policy) error {
	now := s.Open()
	carried, err := state.Carry()
	if err != nil {
		return err
	}
	c, err := policy.OpenFinal(note)
	if err != nil {
		return err
	}
	if c.Size != state.Size() || c.Origin != now.Origin {
		return fmt.Errorf("%w: checkpoint of size %d does not end the log of %d entries", ledger.ErrState, c.Size, state.Size())
	}
	if err := os.MkdirAll(s.env.Config.Path("ledger-sealed"), 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(s.carriedFile(now.No+1), carried); err != nil {
		return fmt.Errorf("keep what the next shard begins with: %w", err)
	}
	if err := s.fail("carried"); err != nil {
		return err
	}
	list := s.List()
	end := &list[len(list)-1]
	end.Size, end.Note, end.Policy = c.Size, note, policy.String()
	list = append(list, Shard{No: now.No + 1, Origin: state.Sealed(), Base: now.Base + c.Size})
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(s.listFile(), b); err != nil {
		return fmt.Errorf("keep the shards of the ledger: %w", err)
	}
	s.mu.Lock()
	s.list = list
	s.mu.Unlock()
	s.env.Log.Info("a shard of the ledger is sealed and the next one begins", "entries", c.Size, "next", state.Sealed())
	return s.fail("crossed")
}

// Settle makes Keep look for sealed shards now; their store must be closed.
func (s *Shards) Settle() { nudge(s.wake) }

// keepRetry is the pause before a sealed shard that could not be written to flat
// files is tried again, on the wall clock: a disk was full, or a store damaged.
const keepRetry = time.Minute

// Keep turns sealed shards into flat files and serves them, until ctx ends. A
// store goes only once its files were read back and compared; until then it
// serves the shard.
func (s *Shards) Keep(ctx context.Context) error {
	w := role.Warning{Code: "shard-not-written", Severity: role.Problem, Title: "A sealed part of the ledger cannot be written to flat files",
		Next: "Make room on the disk. Nothing is lost: the part stays in its database, and it is tried again every minute."}
	for ctx.Err() == nil {
		failed := s.SettleAll(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if failed != nil {
			w.Text = failed.Error()
		}
		s.env.Warn.Set(failed != nil, w, s.env.Clock.Now())
		retry := make(<-chan time.Time)
		if failed != nil {
			retry = clock.Wall{}.After(keepRetry)
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-retry:
		}
	}
	return nil
}

// SettleAll brings every sealed shard to flat files once, as Keep does.
func (s *Shards) SettleAll(ctx context.Context) (failed error) {
	for _, x := range s.List() {
		if x.Sealed() {
			failed = errors.Join(failed, s.settle(ctx, x))
		}
	}
	return failed
}

// settle brings one sealed shard to flat files and removes its store.
func (s *Shards) settle(ctx context.Context, x Shard) error {
	dir := s.Files(x.No)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := s.write(ctx, x, dir); err != nil {
			return fmt.Errorf("shard %d: %w", x.No, err)
		}
	}
	files := export.Dir(dir)
	s.serve(x, sealedLog{Handler: files.Handler(), entry: files.Entry, files: true,
		prove: func(i uint64) (*ledger.Proof, error) { return export.Prove(dir, i) }})
	if err := os.RemoveAll(s.Dir(x.No)); err != nil {
		return fmt.Errorf("remove the store of shard %d: %w", x.No, err)
	}
	return s.fail("pruned")
}

func (s *Shards) serve(x Shard, l sealedLog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed[originHex(x.Origin)] = l
}

func originHex(origin string) string {
	h := ledger.OriginHash(origin)
	return hex.EncodeToString(h[:])
}

// write makes the flat files of a shard from its store, which serves it
// meanwhile, and compares them byte for byte with what its entries give. They
// get their name last.
func (s *Shards) write(ctx context.Context, x Shard, dir string) (err error) {
	policy, err := ledger.ParsePolicy([]byte(x.Policy))
	if err != nil {
		return err
	}
	m, err := s.Machine(x.No)
	if err != nil {
		return err
	}
	st, err := store.Open(s.Dir(x.No), m, s.options)
	if err != nil {
		return err
	}
	src := stored{Store: st, shard: x, carried: s.Carried}
	defer func() {
		s.mu.Lock()
		delete(s.sealed, originHex(x.Origin))
		s.mu.Unlock()
		src.gone.Lock() // whoever reads has answered
		err = errors.Join(err, st.Close())
	}()
	s.serve(x, src.log())
	if size, _ := st.Size(); size < x.Size {
		return fmt.Errorf("%w: the store has %d entries of %d", ledger.ErrDamaged, size, x.Size)
	}
	fresh := dir + ".part"
	if err := os.RemoveAll(fresh); err != nil { // of a run that was interrupted
		return err
	}
	if _, err := export.Archive(fresh, &src, export.Config{Policy: policy}); err != nil {
		return err
	}
	if err := errors.Join(s.fail("written"), ctx.Err()); err != nil {
		return err
	}
	if err := errors.Join(export.Dir(fresh).Sync(), durable.SyncDir(filepath.Dir(dir))); err != nil {
		return err
	}
	if r, err := export.Verify(fresh, policy); err != nil {
		return err
	} else if r.Entries != x.Size {
		return fmt.Errorf("%w: the files have %d entries of %d", ledger.ErrDamaged, r.Entries, x.Size)
	}
	if err := s.fail("compared"); err != nil {
		return err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(filepath.Dir(dir)), s.fail("named"))
}

// stored is a sealed shard whose entries are still in a store.
type stored struct {
	*store.Store
	shard   Shard
	carried func(no int) ([]byte, error)
	gone    sync.RWMutex // held for reading while somebody reads, for writing for good once the store closes
}

// Checkpoint implements export.Source.
func (x *stored) Checkpoint() ([]byte, error) { return x.shard.Note, nil }

// Carried implements export.Heir.
func (x *stored) Carried() ([]byte, error) { return x.carried(x.shard.No) }

// Bundle implements export.Source.
func (x *stored) Bundle(n uint64, width int) (b []byte, err error) {
	err = x.Entries(n*bundleSize, n*bundleSize+uint64(width), func(_ uint64, raw []byte) error {
		b = ledger.AppendBundle(b, raw)
		return nil
	})
	return b, err
}

// errMoving means that a sealed shard is on its way from its store to flat files.
var errMoving = fmt.Errorf("%w: this part of the ledger is being moved to flat files; ask again", ledger.ErrBusy)

// log reads and serves the shard from its store.
func (x *stored) log() sealedLog {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write(x.shard.Note) // the client is gone if this fails
	})
	mux.HandleFunc("GET /tile/", func(w http.ResponseWriter, r *http.Request) {
		if !x.gone.TryRLock() {
			http.Error(w, errMoving.Error(), http.StatusServiceUnavailable)
			return
		}
		defer x.gone.RUnlock()
		x.ServeTile(w, strings.TrimPrefix(r.URL.Path, "/"), x.shard.Size)
	})
	return sealedLog{Handler: mux,
		entry: func(index uint64) ([]byte, error) {
			if !x.gone.TryRLock() {
				return nil, errMoving
			}
			defer x.gone.RUnlock()
			return x.Entry(index)
		},
		prove: func(index uint64) (*ledger.Proof, error) {
			policy, err := ledger.ParsePolicy([]byte(x.shard.Policy))
			if err != nil {
				return nil, err
			}
			c, err := policy.OpenFinal(x.shard.Note)
			if err != nil {
				return nil, err
			}
			if !x.gone.TryRLock() {
				return nil, errMoving
			}
			defer x.gone.RUnlock()
			hashes, err := x.ProveInclusion(index, c)
			return &ledger.Proof{Index: index, Hashes: hashes, Checkpoint: x.shard.Note}, err
		}}
}

// of finds the sealed shard that holds an entry, counted over all shards.
func (s *Shards) of(index uint64) (l sealedLog, own uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.list {
		if x.Sealed() && index >= x.Base && index < x.Base+x.Size {
			l, ok := s.sealed[originHex(x.Origin)]
			if !ok {
				return l, 0, errMoving
			}
			return l, index - x.Base, nil
		}
	}
	return l, 0, fmt.Errorf("%w: no sealed log has entry %d", ledger.ErrMalformed, index)
}

// Entry reads an entry of a sealed shard, counted over all shards. It returns
// ErrBusy while the shard is moved to flat files.
func (s *Shards) Entry(index uint64) ([]byte, error) {
	l, own, err := s.of(index)
	if err != nil {
		return nil, err
	}
	return l.entry(own)
}

// Proof is the .tlog-proof of an entry of a sealed shard, counted over all
// shards; the proof counts in its own log.
func (s *Shards) Proof(index uint64) (*ledger.Proof, error) {
	l, own, err := s.of(index)
	if err != nil {
		return nil, err
	}
	return l.prove(own)
}

// ShardLine is one log of the ledger in words.
type ShardLine struct {
	No      int    `json:"no"`
	Origin  string `json:"origin"`
	Sealed  bool   `json:"sealed"`
	First   uint64 `json:"first"` // its first entry, counted over all shards
	Entries uint64 `json:"entries"`
	Where   string `json:"where"` // folder
	Files   bool   `json:"files"` // flat files and no database
}

// Text says what the shard is and where it lies.
func (l ShardLine) Text() string {
	switch {
	case !l.Sealed:
		return fmt.Sprintf("open, %s from number %d on, in the database %s", entries(l.Entries), l.First, l.Where)
	case l.Files:
		return fmt.Sprintf("sealed, %s from number %d on, flat files in %s", entries(l.Entries), l.First, l.Where)
	}
	return fmt.Sprintf("sealed, %s from number %d on, on its way from the database %s to flat files", entries(l.Entries), l.First, l.Where)
}

// shardLines describes all shards of a copy.
func (c Copy) shardLines() (out []ShardLine) {
	if c.Shards == nil {
		return nil
	}
	for _, x := range c.Shards.List() {
		l := ShardLine{No: x.No, Origin: x.Origin, Sealed: x.Sealed(), First: x.Base, Entries: x.Size, Where: c.Shards.Dir(x.No)}
		if !l.Sealed {
			l.Entries = c.Size - c.Base
		}
		c.Shards.mu.Lock()
		l.Files = c.Shards.sealed[originHex(x.Origin)].files
		c.Shards.mu.Unlock()
		if l.Files {
			l.Where = c.Shards.Files(x.No)
		}
		out = append(out, l)
	}
	return out
}

// Handler serves the shard that grows at the root and under
// /<sha256(origin)>, and every sealed one under its own.
func (s *Shards) Handler(origin string, open http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		s.mu.Lock()
		l, ok := s.sealed[first]
		s.mu.Unlock()
		switch {
		case ok:
			http.StripPrefix("/"+first, l).ServeHTTP(w, r)
		case first == originHex(origin):
			http.StripPrefix("/"+first, open).ServeHTTP(w, r)
		default:
			open.ServeHTTP(w, r)
		}
	})
}

func entries(n uint64) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}
