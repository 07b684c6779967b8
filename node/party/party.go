package party

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/ledger"
	"gridveil/ledger/store"
	"gridveil/ledger/verifier"
	"gridveil/ledger/writer"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/keys"
	"gridveil/node/role"
)

// Config says who the operator is on the ledger.
type Config struct {
	Env   *role.Env
	Role  ledger.Role
	Limit int64 // its total may fall to -Limit, millionths
}

// Periods, on the node's clock.
const (
	findPeriod = 5 * time.Second  // until the log is known
	pullPeriod = time.Minute      // between looks at the log that nobody asked for
	joinPeriod = 10 * time.Second // until registered
	leastPause = 25 * time.Millisecond
)

// FinalFunc acts on a final entry.
type FinalFunc func(index uint64, e *ledger.Entry) error

// Party is one operator. Its methods may be called from any goroutine.
type Party struct {
	cfg       Config
	env       *role.Env
	key       ed25519.PrivateKey // entries
	door      Door
	mender    *Mender
	transport *http.Transport
	onFinal   []FinalFunc
	onRound   []func(context.Context) error
	cases     CaseBook
	receipts  receipts
	seat      *Seat // nil without an opener's seat
	onRefused func(id [32]byte, cause error) error
	answers   map[byte]func(from mesh.Member, body []byte) ([]byte, error) // of mesh.Opener
	look      chan struct{}                                                // a checkpoint was cosigned: look for its quorum
	send      chan struct{}                                                // something is to be posted

	mu       sync.Mutex
	shards   *Shards            // nil until the log is found
	v        *verifier.Verifier // nil until the log is found
	log      mesh.Member
	final    ledger.Checkpoint
	note     []byte // of final
	id       ledger.PartyID
	conflict error // why the log does not register us
}

// New prepares the operator's side and registers what it answers.
func New(cfg Config) (*Party, error) {
	key, err := cfg.Env.Keys.Signer(keys.Entry, cfg.Env.Clock.Now())
	if err != nil {
		return nil, err
	}
	p := &Party{cfg: cfg, env: cfg.Env, key: key, transport: Transport(cfg.Env.Host),
		look: make(chan struct{}, 1), send: make(chan struct{}, 1)}
	p.cases, p.receipts, p.mender = CaseBook{cfg.Env.Store}, receipts{cfg.Env.Store}, NewMender(cfg.Env, p.transport)
	p.OnFinal(func(index uint64, e *ledger.Entry) error {
		return p.cases.Take(index, e, p.logTime())
	})
	p.answers = map[byte]func(mesh.Member, []byte) ([]byte, error){OpSign: p.takeSign}
	calls := &Joiner{Answer: func(_ context.Context, from mesh.Member, op byte, body []byte) ([]byte, error) {
		f, ok := p.answers[op]
		if !ok {
			return nil, ErrCall
		}
		return f(from, body)
	}}
	cfg.Env.Host.Handle(mesh.Opener, calls.Handle)
	if cfg.Env.Config.Ledger.Opener {
		p.seat = newSeat(p)
	}
	p.commands()
	return p, nil
}

// ErrNoSeat means that this node may not vote.
var ErrNoSeat = errors.New("this node holds no opener's seat\nnext: ledger.opener = true in gridveil.toml and the seat's opener.share make it one")

// commands are what `gridveil ledger` and `gridveil case` ask a running operator.
func (p *Party) commands() {
	p.env.Control.Handle("ledger", func(context.Context, json.RawMessage) (any, error) { return p.Ledger(0), nil })
	p.env.Control.Handle("reconcile", p.Teller().Command)
	p.Clerk().Commands(p.env.Control)
	p.env.Control.Handle("cases", func(context.Context, json.RawMessage) (any, error) { return p.CaseViews() })
	if p.seat == nil {
		p.env.Control.Handle("vote", func(context.Context, json.RawMessage) (any, error) { return nil, ErrNoSeat })
		return
	}
	p.env.Control.Handle("vote", func(_ context.Context, in json.RawMessage) (any, error) {
		var q struct {
			Case string `json:"case"`
			Yes  bool   `json:"yes"`
		}
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {case, yes}")
		}
		id, err := ParseCaseID(q.Case)
		if err != nil {
			return nil, err
		}
		return nil, p.seat.Vote(id, q.Yes)
	})
}

// Answer sets what is done with a call of mesh.Opener (OpFile and following);
// before Serve.
func (p *Party) Answer(op byte, f func(from mesh.Member, body []byte) ([]byte, error)) {
	p.answers[op] = f
}

// OnFinal adds what is done with final entries; before Serve.
func (p *Party) OnFinal(f FinalFunc) { p.onFinal = append(p.onFinal, f) }

// OnRefused sets what is done when an own entry is refused for good; before
// Serve.
func (p *Party) OnRefused(f func(id [32]byte, cause error) error) { p.onRefused = f }

// OnRound adds what is done from time to time while the ledger is followed;
// before Serve. Its error is logged, and it is tried again.
func (p *Party) OnRound(f func(context.Context) error) { p.onRound = append(p.onRound, f) }

// Look makes the party look at the ledger, and do its rounds, now.
func (p *Party) Look() { nudge(p.look) }

// Cases are the cases of the ledger as they became final.
func (p *Party) Cases() CaseBook { return p.cases }

// Seat is this node's opener's seat, nil if it has none.
func (p *Party) Seat() *Seat { return p.seat }

// Names are the operators on the ledger by number; 0 are the households.
func (p *Party) Names() map[ledger.PartyID]string { return p.copy().names() }

// CaseViews are the cases of the ledger in words, newest first.
func (p *Party) CaseViews() ([]CaseView, error) {
	list, err := p.cases.All()
	if err != nil {
		return nil, err
	}
	need := uint64(0)
	p.Read(func(s *ledger.State) { need = s.Params().K })
	names := p.Names()
	out := make([]CaseView, 0, len(list))
	for i := len(list) - 1; i >= 0; i-- {
		v := list[i].View(names, need)
		if p.seat != nil {
			v.Vote = p.seat.open(&list[i])
		}
		v.Statement = statementWords(p.env.Store, list[i].ID)
		out = append(out, v)
	}
	return out, nil
}

// logTime is the newest time that our copy of the log states.
func (p *Party) logTime() (t time.Time) {
	p.Read(func(s *ledger.State) { t = s.LogTime() })
	return t
}

// Serve follows the log until ctx ends. With the aggregator away it waits.
func (p *Party) Serve(ctx context.Context) error {
	defer p.transport.CloseIdleConnections()
	l := p.env.Host.Listener(WitnessDoor)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.door.Serve(ctx, l) })
	g.Go(func() error { return p.follow(ctx) })
	return g.Wait()
}

// StoreOptions are those of a ledger's copy in this node: encrypted under the
// node's own key, small enough for many nodes on one machine.
func StoreOptions(env *role.Env) (store.Options, error) {
	k, err := env.Keys.Signer(keys.Entry, env.Clock.Now())
	if err != nil {
		return store.Options{}, err
	}
	secret, err := hkdf.Key(sha256.New, k.Seed(), nil, "gridveil/ledger-store/1", 32)
	if err != nil {
		return store.Options{}, fmt.Errorf("key of the ledger's store: %w", err)
	}
	return store.Options{Key: secret, MemTableBytes: 2 << 20, SegmentBytes: 4 << 20, Log: env.Log}, nil
}

// Behind is how far a log's newest tick may lie behind a cosigner's clock. An
// accelerated clock runs hours while a machine is busy for a second.
func Behind(c clock.Clock) time.Duration {
	if _, real := c.(clock.Wall); real {
		return 0 // the verifier's default
	}
	return 6 * time.Hour
}

// follow opens our copy of the log once it is known, and works on it, one shard
// after the other. A copy that is damaged is refilled from the log.
func (p *Party) follow(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	keeping := false
	g.Go(func() error {
		return p.followShards(ctx, func(s *Shards) {
			if !keeping {
				keeping = true
				g.Go(func() error { return s.Keep(ctx) })
			}
		})
	})
	return g.Wait()
}

func (p *Party) followShards(ctx context.Context, keep func(*Shards)) error {
	for ctx.Err() == nil {
		cfg, ok, err := p.locate()
		if err != nil {
			return err
		}
		if !ok {
			p.pause(ctx, findPeriod)
			continue
		}
		keep(p.shards)
		v, err := verifier.Open(cfg)
		if errors.Is(err, ledger.ErrDamaged) {
			no := p.shards.Open().No
			if err := p.mender.Mend(ctx, cfg, func() (ledger.Machine, error) { return p.shards.Machine(no) }, err, p.holders(cfg)); err != nil {
				return nil // ctx ended
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("copy of the ledger: %w", err)
		}
		if err := p.work(ctx, v); err != nil && !errors.Is(err, errBorder) {
			return err
		}
		p.shards.Settle()
	}
	return nil
}

// holders are where copies of the log are served: by the log and its other
// cosigners.
func (p *Party) holders(cfg verifier.Config) []string {
	list := []string{cfg.Policy.LogURL}
	known, err := KnownPolicy(p.env.Store, p.env.Dir)
	if err != nil {
		p.env.Log.Debug("cosigners of the ledger are not known", "err", err)
		return list
	}
	for _, w := range known.Witnesses {
		if w.Name != cfg.Name && w.URL != "" {
			list = append(list, CopyURL(w.URL, cfg.Policy.Log.Name()))
		}
	}
	return list
}

// locate finds the log in the directory.
func (p *Party) locate() (cfg verifier.Config, ok bool, err error) {
	log, ok := p.env.Dir.One(member.RoleAggregator, "")
	if !ok {
		return cfg, false, nil
	}
	pub, ok := log.Sheet.Find(keys.Log, 0)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return cfg, false, nil
	}
	key, err := p.env.Keys.Signer(keys.Cosign, p.env.Clock.Now())
	if err != nil {
		return cfg, false, err
	}
	opt, err := StoreOptions(p.env)
	if err != nil {
		return cfg, false, err
	}
	shards, err := p.ledgerOf(ask.LedgerOrigin(p.env.ID.Bundle.Network, log.Member.Operator))
	if err != nil {
		return cfg, false, err
	}
	shard := shards.Open()
	machine, err := shards.Machine(shard.No)
	if err != nil {
		return cfg, false, err
	}
	name := ask.WitnessName(p.env.Host.Self())
	me := ledger.Witness{Name: name, Key: ledger.WitnessKey(name, ledger.Hash(key.Public().(ed25519.PublicKey)))}
	policy := ledger.NewPolicy(ledger.LogKey(shard.Origin, ledger.Hash(pub)), me)
	policy.LogURL = CopyURL(URL(log.Member, LogDoor), shard.Origin)
	p.mu.Lock()
	p.log = log.Member
	p.mu.Unlock()
	return verifier.Config{Dir: shards.Dir(shard.No), Store: opt, Machine: machine, Policy: policy, Name: name, Key: key,
		Transport: p.transport, PullEvery: 5 * pullPeriod, MaxBehind: Behind(p.env.Clock), Clock: p.env.Clock, Log: p.env.Log}, true, nil
}

// ledgerOf opens the shards that we have of a ledger.
func (p *Party) ledgerOf(home string) (*Shards, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shards != nil {
		return p.shards, nil
	}
	s, err := OpenShards(p.env, home)
	p.shards = s
	return s, err
}

// Shards are the logs of the ledger that we have, nil until the first is found.
func (p *Party) Shards() []Shard {
	p.mu.Lock()
	s := p.shards
	p.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.List()
}

// work runs everything that needs our copy of the log.
func (p *Party) work(ctx context.Context, v *verifier.Verifier) (err error) {
	h := verifier.Handler(v)
	p.door.Open(p.shards.Handler("", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		if r.Method == http.MethodPost {
			nudge(p.look)
		}
	})))
	p.mu.Lock()
	p.v, p.final, p.note = v, ledger.Checkpoint{}, nil
	p.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return v.Serve(ctx) })
	g.Go(func() error { return p.watch(ctx, v) })
	g.Go(func() error { return p.join(ctx) })
	g.Go(func() error { return p.post(ctx) })
	err = g.Wait()
	p.door.Open(nil)
	p.mu.Lock()
	p.v = nil
	p.mu.Unlock()
	return errors.Join(err, v.Close())
}

// pause waits for d on the node's clock, but not less than leastPause on the
// wall: an accelerated day must not become a busy loop.
func (p *Party) pause(ctx context.Context, d time.Duration, wake ...<-chan struct{}) {
	var woken <-chan struct{}
	if len(wake) > 0 {
		woken = wake[0]
	}
	after := p.env.Clock.After(d)
	select {
	case <-ctx.Done():
		return
	case <-woken:
		return
	case <-time.After(leastPause):
	}
	select {
	case <-ctx.Done():
	case <-woken:
	case <-after:
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one nudge is enough
	}
}

// client talks to the log.
func (p *Party) client() (*writer.Client, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.v == nil {
		return nil, false
	}
	return &writer.Client{URL: CopyURL(URL(p.log, LogDoor), p.shards.Open().Origin), HTTP: &http.Client{Transport: p.transport, Timeout: readTimeout}}, true
}

// Read calls f with the ledger's state after the newest entry of our copy, and
// says whether there is one. f must not keep or change it, nor call the Party.
func (p *Party) Read(f func(*ledger.State)) bool {
	p.mu.Lock()
	v := p.v
	p.mu.Unlock()
	if v == nil {
		return false
	}
	v.Read(func(m ledger.Machine) { f(m.(*ledger.Money).State) })
	return true
}

// ErrNoLedger means that our copy of the ledger is not open: the aggregator was
// never seen, or the node is starting.
var ErrNoLedger = errors.New("the ledger is not open here yet")

// Entry reads one entry of our copy, counted over all shards.
func (p *Party) Entry(index uint64) ([]byte, error) {
	p.mu.Lock()
	v, shards := p.v, p.shards
	p.mu.Unlock()
	if v == nil {
		return nil, ErrNoLedger
	}
	base := shards.Open().Base
	if index < base {
		return shards.Entry(index)
	}
	return v.Entry(index - base)
}

// base is how many entries the sealed shards before ours have.
func (p *Party) base() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shards == nil {
		return 0
	}
	return p.shards.Open().Base
}

// policy is the network's policy for the shard that we follow.
func (p *Party) policy() (*ledger.Policy, error) {
	known, err := KnownPolicy(p.env.Store, p.env.Dir)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || p.shards == nil {
		return known, err
	}
	return known.As(p.shards.Open().Origin), nil
}

// Final is the newest checkpoint with the network's quorum that our copy agrees
// with, and its note.
func (p *Party) Final() (ledger.Checkpoint, []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.final, p.note
}

// ID is our number on the ledger, 0 until registered.
func (p *Party) ID() ledger.PartyID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id
}

// Status is what a page shows of our copy; ok is false until there is one.
func (p *Party) Status() (s verifier.Status, ok bool) {
	p.mu.Lock()
	v := p.v
	p.mu.Unlock()
	if v == nil {
		return s, false
	}
	return v.Status(), true
}
