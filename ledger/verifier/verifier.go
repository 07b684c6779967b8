package verifier

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"gridveil/ledger"
	"gridveil/ledger/store"
)

// tileReader reads hashes of a tree.
type tileReader = tlog.HashReader

// Clock gives log time and waits for it; nil in a Config means the wall clock.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Config describes one log that is followed. Dir, Machine, Policy, Name and Key
// are needed.
type Config struct {
	Dir   string
	Store store.Options
	// Machine is the empty state machine of the log, owned by the verifier: look
	// at it only inside Read.
	Machine ledger.Machine
	// Policy names the log, its URL, and this verifier among its witnesses.
	Policy *ledger.Policy
	// Name is this verifier's name in the policy, Key the private half of its key
	// there.
	Name string
	Key  ed25519.PrivateKey
	// Transport carries requests to the log; nil means http.DefaultTransport.
	Transport http.RoundTripper
	// PullEvery is the time between two looks at the log besides what it submits;
	// zero means 60 s.
	PullEvery time.Duration
	// MaxBehind and MaxAhead bound how far the newest tick may be from our clock;
	// zero means 180 s and 120 s. An accelerated clock needs more.
	MaxBehind, MaxAhead time.Duration
	// RenewEvery is the age at which our cosignature of a log that does not grow
	// is made anew, so that it says since when we last looked; zero means never.
	RenewEvery time.Duration
	Clock      Clock        // nil means the wall clock
	Log        *slog.Logger // nil discards
}

// Defaults.
const (
	defaultPull   = time.Minute
	defaultBehind = 180 * time.Second
	defaultAhead  = 120 * time.Second
)

// Names of what is kept beside the log.
const (
	notePending   = "pending"   // the checkpoint under which entries were stored, not yet cosigned
	noteEvidence  = "evidence"  // that convicts the log
	noteObjection = "objection" // to an entry
	noteBadEntry  = "bad-entry" // evidence of that entry
)

// Verifier follows one log. Its methods may be called from any goroutine.
type Verifier struct {
	follower // its source is of who showed the checkpoint that is judged; owned by the turn
	cfg      Config
	origin   string
	me       ledger.VerifierKey
	home     source // the log

	turn chan struct{} // held while a checkpoint is judged: one at a time

	mu        sync.Mutex // guards what follows
	checked   time.Time
	signed    time.Time // our newest cosignature of this run
	failed    error
	evidence  *ledger.Evidence
	objection *ledger.Objection
	blocked   bool // the objection was made by this process: do not replay again
}

// Open opens the verifier's copy of the log, recovering and replaying what is on
// disk. See store.Open for its errors.
func Open(cfg Config) (*Verifier, error) {
	me, err := cfg.check()
	if err != nil {
		return nil, err
	}
	st, err := store.Open(cfg.Dir, cfg.Machine, cfg.Store)
	if err != nil {
		return nil, err
	}
	home := newSource(cfg.Policy.LogURL, cfg.Transport)
	v := &Verifier{follower: follower{st, home}, cfg: cfg, origin: cfg.Policy.Log.Name(), me: me, home: home, turn: make(chan struct{}, 1)}
	if err := v.loadCase(); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return v, nil
}

func (c *Config) check() (me ledger.VerifierKey, err error) {
	if c.Dir == "" || c.Machine == nil || c.Policy == nil || len(c.Key) != ed25519.PrivateKeySize {
		return me, errors.New("ledger verifier: Config needs Dir, Machine, Policy and Key")
	}
	if c.Policy.LogURL == "" {
		return me, errors.New("ledger verifier: the policy does not say where the log is; add its URL to the log line")
	}
	for _, w := range c.Policy.Witnesses {
		if w.Name == c.Name {
			me = w.Key
		}
	}
	if me.Pub() != ledger.Hash(c.Key.Public().(ed25519.PublicKey)) {
		return me, fmt.Errorf("ledger verifier: the policy has no witness %q with our key", c.Name)
	}
	c.defaults()
	return me, nil
}

func (c *Config) defaults() {
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	if c.PullEvery == 0 {
		c.PullEvery = defaultPull
	}
	if c.MaxBehind == 0 {
		c.MaxBehind = defaultBehind
	}
	if c.MaxAhead == 0 {
		c.MaxAhead = defaultAhead
	}
	if c.Clock == nil {
		c.Clock = wallClock{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Store.Log = c.Log
}

// Serve looks at the log every PullEvery until ctx ends, and returns nil then.
// Any other return is fatal: close the verifier and open it again. Checkpoints
// that the log submits are judged by Handler meanwhile.
func (v *Verifier) Serve(ctx context.Context) error {
	for {
		if err := v.pull(ctx); err != nil && !errors.Is(err, ErrAbsent) && ctx.Err() == nil {
			v.cfg.Log.Debug("log not followed", "err", err)
		}
		if err := v.store.Err(); err != nil {
			return err
		}
		select {
		case <-v.cfg.Clock.After(v.cfg.PullEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// pull fetches the log's newest checkpoint and judges it.
func (v *Verifier) pull(ctx context.Context) error {
	_, err := v.Look(ctx, "", true)
	return err
}

// Close closes the store. Serve and the handler must have returned.
func (v *Verifier) Close() error { return v.store.Close() }

// Read calls f with the machine after the newest stored entry. f must not keep
// or change it, nor call the verifier.
func (v *Verifier) Read(f func(ledger.Machine)) { v.store.Read(f) }

// Entry reads one stored entry.
func (v *Verifier) Entry(index uint64) ([]byte, error) { return v.store.Entry(index) }

// Cosigned is the newest checkpoint that this verifier cosigned, as a note with
// the log's and its own signature; nil before the first.
func (v *Verifier) Cosigned() (size uint64, note []byte) { return v.store.Published() }

// Status is what a page shows of a followed log.
type Status struct {
	Origin, Name string
	Size         uint64 // stored and replayed
	Cosigned     uint64
	LogTime      time.Time
	Checked      time.Time // last checkpoint that was judged well
	Err          error     // why the last one was not cosigned, nil if it was
	Objection    *ledger.Objection
	Evidence     *ledger.Evidence // the log shows two histories: warning ledger-fork
	Repaired     []string         // what the start mended: warning store-repaired
}

// Status describes the verifier now.
func (v *Verifier) Status() Status {
	s := Status{Origin: v.origin, Name: v.cfg.Name, Repaired: v.store.Repaired()}
	s.Size, _ = v.store.Size()
	s.Cosigned, _ = v.store.Signed()
	v.Read(func(m ledger.Machine) { s.LogTime = m.LogTime() })
	v.mu.Lock()
	defer v.mu.Unlock()
	s.Checked, s.Err, s.Objection, s.Evidence = v.checked, v.failed, v.objection, v.evidence
	if err := v.store.Err(); err != nil {
		s.Err = err
	}
	return s
}

// mark records how the last checkpoint fared.
func (v *Verifier) mark(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failed = err
	if err == nil {
		v.checked = v.cfg.Clock.Now()
	}
}
