package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger/durable"
)

// Options tune a store; the zero value suits a gateway and a demo with dozens
// of stores in one process.
type Options struct {
	// MaxValue is the largest value in bytes; zero means 128 KiB. One Update may
	// write twice that. Memory grows with it: about 16 x MaxValue when busy.
	MaxValue int
	// MinFree is the disk space in bytes that is never used, so that a full disk
	// stops us with ErrFull and not with a bus error inside Badger's memory map.
	// Zero means 64 MiB, negative switches the check off.
	MinFree int64
	// Free reports the bytes free in a directory; nil asks the file system.
	Free func(dir string) (int64, error)
	// Keep is how many commits the chain remembers; zero means 4096.
	Keep int
	// Large is for a head-end with more than some 100 MiB: Badger then compacts all
	// the time, which costs 40 wake-ups a second. Otherwise the store merges its
	// few tables when enough was written and sleeps in between.
	Large bool
	// Replica is for a store of a cluster: it changes by Apply, and by Update while
	// it leads; see Lead.
	Replica bool
	// Now is the node's clock, by which data keys age; nil means time.Now.
	Now func() time.Time
	// Log receives Badger's warnings and which data keys were erased; nil discards
	// them.
	Log *slog.Logger
}

// Limits and their reasons.
const (
	defaultMaxValue = 128 << 10
	largestMaxValue = 1 << 20 // Badger's largest value outside its value log
	memTableFactor  = 16      // Badger takes 15 % of the memtable per transaction: 2.4 values
	groupFactor     = 2       // bytes of one commit in values, safely below 2.4
	maxGroupWrites  = 1024    // Badger allows memtable x 15 % / 96 B = 3,276 at the default size
	defaultMinFree  = 64 << 20
	defaultKeep     = 4096
	mergeTables     = 3  // level 0 tables before a merge
	recheck         = 64 // newest commits whose values are re-hashed at start
)

// Store is one node's sealed database.
type Store struct {
	dir  string
	opt  Options
	db   *badger.DB
	seal sealer

	turning sync.Mutex // one maintenance at a time; guards keys

	keys *dataKeys

	headMu sync.Mutex // orders commits; guards slots, last and the position
	slots  *slots
	last   head
	at     Position // of a replica
	placed bool     // at is known

	mu      sync.Mutex // guards everything below
	pending []*group   // oldest first; [0] is being committed while leading
	leading bool
	written int            // bytes since the last look at the tables
	merging bool           // a merge runs
	merge   sync.WaitGroup // merges and maintenance
	stopped error          // why no update may follow
	broken  error          // why a replica applies nothing any more
	propose func(at Position, data []byte) error
	damage  *DamageError // set while DEGRADED
	closed  bool
}

// Open opens the store in dir, creating it when dir holds none, and runs the
// start-up check.
//
// When acknowledged data is lost it returns a readable store *and* a
// *DamageError (see AcceptDamage); when Badger refuses its files it returns nil
// and a *DamageError of kind Unopenable, and so where data keys are lost. It returns nil with ErrInUse, with
// ErrWrongKey, and with any other error.
func Open(dir string, key MasterKey, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: create directory: %w", err)
	}
	s := &Store{dir: dir, opt: o}
	fresh, err := s.openFiles(key)
	if err != nil {
		return nil, err
	}
	if err := s.verifyStart(fresh); err != nil {
		if errors.As(err, &s.damage) {
			return s, err
		}
		return nil, errors.Join(err, s.Close())
	}
	if err := s.loadPosition(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (o Options) withDefaults() (Options, error) {
	if o.MaxValue == 0 {
		o.MaxValue = defaultMaxValue
	}
	if o.MaxValue < defaultMaxValue/2 || o.MaxValue > largestMaxValue {
		return o, fmt.Errorf("store: MaxValue %d outside %d..%d", o.MaxValue, defaultMaxValue/2, largestMaxValue)
	}
	if o.MinFree == 0 {
		o.MinFree = defaultMinFree
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Free == nil {
		o.Free = durable.FreeBytes
	}
	if o.Keep == 0 {
		o.Keep = defaultKeep
	}
	if o.Keep < recheck {
		return o, fmt.Errorf("store: Keep %d, want at least %d", o.Keep, recheck)
	}
	return o, nil
}

func (s *Store) openFiles(key MasterKey) (fresh bool, err error) {
	if s.slots, fresh, err = openSlots(s.dir, key); err != nil {
		return false, err
	}
	o := s.badgerOptions(key)
	if err = restoreRegistry(s.dir, o.Dir, s.slots.mac); err == nil {
		s.db, err = durable.Open(o)
	}
	if err != nil {
		return false, errors.Join(openError(err), s.slots.close())
	}
	if err := keepRegistry(s.dir, o.Dir, s.slots.mac); err != nil {
		return false, errors.Join(fmt.Errorf("store: %w", err), s.db.Close(), s.slots.close())
	}
	if err := s.openKeys(key, fresh); err != nil { // after Badger, which knows whether the master key is right
		return false, errors.Join(err, s.db.Close(), s.slots.close())
	}
	return fresh, nil
}

// openKeys opens the data keys. A store without any, of which no head says that it
// had some, is new or older than they are.
func (s *Store) openKeys(key MasterKey, fresh bool) error {
	h, readable, err := s.slots.read()
	if err != nil {
		return err
	}
	if s.keys, err = openDataKeys(s.dir, key, fresh || readable && h.gen == 0, h.gen, s.opt.Now()); err != nil {
		return err
	}
	s.seal.turn(s.keys)
	return nil
}

// openError tells a wrong key, which harms nothing, from damaged files.
func openError(err error) error {
	if errors.Is(err, badger.ErrEncryptionKeyMismatch) {
		return ErrWrongKey
	}
	return &DamageError{Kind: Unopenable, Cause: err}
}

func (s *Store) badgerOptions(key MasterKey) badger.Options {
	mem := int64(memTableFactor * s.opt.MaxValue)
	compactors, stall := 0, 1000 // never wait for a merge that only the next commits would start
	if s.opt.Large {
		compactors, stall = 2, 8
	}
	return durable.Options(filepath.Join(s.dir, "badger"), key.derive("badger"), mem, int64(s.opt.MaxValue+sealOverhead), s.opt.Log).
		// Badger leaves a store unencrypted when the clock says less than one rotation
		// after 1970; this length makes a key at once and then never another.
		WithEncryptionKeyRotationDuration(time.Since(time.Unix(0, 0))).
		WithBaseTableSize(max(mem, 1<<20)).
		WithNumLevelZeroTables(mergeTables).
		WithNumLevelZeroTablesStall(stall).
		WithNumCompactors(compactors)
}

// Damage returns what the store lost, nil when it is sound.
func (s *Store) Damage() *DamageError {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damage
}

// Head returns the number of the newest commit.
func (s *Store) Head() uint64 {
	s.headMu.Lock()
	defer s.headMu.Unlock()
	return s.last.n
}

// AcceptDamage ends the DEGRADED state: it starts a new commit chain that names
// the gap. What was lost is not brought back: the owner decides, see
// node.AcceptDamage.
func (s *Store) AcceptDamage() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.damage == nil {
		return nil
	}
	if err := s.restartChain(); err != nil {
		s.stopped = err
		return fmt.Errorf("%w: %w", ErrStopped, err)
	}
	s.damage = nil
	return nil
}

// mergeWhenDue merges the tables when enough was written since the last time.
// Caller holds mu.
func (s *Store) mergeWhenDue(bytes int) {
	s.written += bytes
	if s.opt.Large || s.merging || s.closed || s.written < memTableFactor*s.opt.MaxValue {
		return
	}
	s.written = 0
	if s.db.Levels()[0].NumTables < mergeTables {
		return
	}
	s.merging = true
	s.merge.Go(func() { // Close waits for it
		err := s.db.Flatten(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.merging = false
		if err != nil {
			s.opt.Log.Warn("database merge ended early", "error", err)
		}
	})
}

// Maintain returns freed space to the disk and turns the data keys: see DataKeys.
// Call it about once an hour of the clock Options.Now from a goroutine of the node;
// it takes seconds, once a month longer, and ends early with ctx. Only one call works
// at a time. After an error everything is as safe as before, and the next call goes
// on.
func (s *Store) Maintain(ctx context.Context) error {
	s.turning.Lock()
	defer s.turning.Unlock()
	if err := s.enter(); err != nil {
		return err
	}
	defer s.merge.Done()
	err := s.db.RunValueLogGC(0.5)
	if errors.Is(err, badger.ErrNoRewrite) || errors.Is(err, badger.ErrRejected) {
		err = nil
	}
	return errors.Join(err, s.turnKeys(ctx))
}

// enter lets a chore begin, for whose end Close waits.
func (s *Store) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.merge.Add(1)
	return nil
}

// Close waits for running commits and closes the files.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	waiting := append([]*group(nil), s.pending...)
	s.mu.Unlock()
	for _, g := range waiting {
		<-g.done
	}
	s.merge.Wait()
	return errors.Join(s.db.Close(), s.slots.close(), s.keys.close())
}

// SetAside renames a damaged store directory to dir.damaged-<time> so that an
// empty store can be opened in its place. It returns the new name.
func SetAside(dir string, now time.Time) (string, error) {
	to := dir + ".damaged-" + now.UTC().Format("20060102T150405")
	if err := os.Rename(dir, to); err != nil {
		return "", fmt.Errorf("store: set damaged directory aside: %w", err)
	}
	return to, durable.SyncDir(filepath.Dir(dir))
}
