package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger"
	"gridveil/ledger/durable"
	"gridveil/ledger/internal/tile"
)

// Options tune a store. The zero value suits a log of its own machine.
type Options struct {
	// Key encrypts everything but the head file, which holds only sizes and
	// hashes; 32 bytes. Nil means no encryption.
	Key []byte
	// MemTableBytes is Badger's write buffer; zero means 8 MiB, the least is
	// 1 MiB, which suits a demonstration with many logs. One group is at most
	// 15 % of it, less 88 KiB, and at most 4 MiB.
	MemTableBytes int64
	// SegmentBytes is how much disk a journal segment takes at once; zero means
	// 64 MiB.
	SegmentBytes int64
	// MinFree is the disk space in bytes that is never used, so that a full disk
	// gives ErrFull and not a bus error in Badger's memory map. Zero means 64
	// MiB, negative switches the check off.
	MinFree int64
	// Free reports the bytes free in a directory; nil asks the file system.
	Free func(dir string) (int64, error)
	// Fail is called with the name of each step before it happens, where an error
	// takes the place of the step, and with " done" behind the name after it, where
	// an error is that of a sync that reached the disk all the same. Tests simulate
	// crashes with it; nil is right everywhere else.
	Fail func(step string) error
	// Log receives what an operator should know; nil discards it.
	Log *slog.Logger
}

// Limits and their reasons.
const (
	MaxGroup        = 1024    // entries of one group, as of one request
	maxGroupBytes   = 4 << 20 // a request fits one group
	maxChunkBytes   = 512<<10 - 1
	tileReserve     = 88 << 10 // tiles that 1024 entries complete: five of level 0, one of each above
	minMemTable     = 1 << 20  // 15 % less the reserve holds the largest entry
	defaultMemTable = 8 << 20
	minSegment      = 64 << 10
	defaultSegment  = 64 << 20
	defaultMinFree  = 64 << 20
	snapshotEvery   = 1 << 16 // entries, bounds the replay at start
)

// ErrFull says that the disk has no room; nothing was written and the same call
// may be repeated once there is. It is an ErrBusy.
var ErrFull = fmt.Errorf("%w: the disk is full", ledger.ErrBusy)

// head is how far the log reaches.
type head struct {
	size  uint64
	root  ledger.Hash
	group uint64 // number of the group that made it so
}

// Store is the durable half of one log together with its Machine.
type Store struct {
	dir string
	opt Options
	db  *badger.DB

	take    sync.Mutex   // one group at a time; guards journal, prev and lastSnap
	journal *journal     // second copy
	prev    [32]byte     // hash of the previous head record
	marks   snapshotMark // where the machine was last written down

	shown sync.RWMutex // held for writing from Apply until the group is durable

	mu      sync.RWMutex // short: guards the machine, edge and young against Apply
	machine ledger.Machine
	blank   []byte // snapshot of the empty machine
	edge    tile.Edge
	young   map[tile.Tile][]byte // full tiles of a group that is not in Badger yet

	head struct {
		sync.Mutex // guards the file and what it says
		file       *headFile
		durable    head
		signed     signed
		fatal      error
	}

	sealing   sync.Mutex // one Seal at a time; guards checked and published
	checked   tile.Edge  // tree over what was read back
	published published

	repaired []string
	closed   bool // under take
}

// signed is the newest state that was signed.
type signed struct {
	size uint64
	root ledger.Hash
}

// Open opens the log in dir, creating it when dir holds none, recovers it and
// replays it into m, which must be empty. It returns ErrDamaged when what was
// acknowledged cannot be found in either copy; nothing has been written then:
// use verifier.Repair.
func Open(dir string, m ledger.Machine, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if m.Size() != 0 {
		return nil, errors.New("ledger store: the machine given to Open is not empty")
	}
	s := &Store{dir: dir, opt: o, machine: m, blank: m.Snapshot()}
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	return s, nil
}

func (o Options) withDefaults() (Options, error) {
	if o.Key != nil && len(o.Key) != 32 {
		return o, fmt.Errorf("ledger store: key has %d bytes, want 32", len(o.Key))
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = defaultMemTable
	}
	if o.MemTableBytes < minMemTable {
		return o, fmt.Errorf("ledger store: MemTableBytes is %d, want at least %d", o.MemTableBytes, minMemTable)
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegment
	}
	if o.SegmentBytes < minSegment {
		return o, fmt.Errorf("ledger store: SegmentBytes is %d, want at least %d", o.SegmentBytes, minSegment)
	}
	if o.MinFree == 0 {
		o.MinFree = defaultMinFree
	}
	if o.Free == nil {
		o.Free = durable.FreeBytes
	}
	if o.Fail == nil {
		o.Fail = func(string) error { return nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// batch is what Badger takes in one txn.
func (o Options) batch() int64 { return o.MemTableBytes * 15 / 100 }

// GroupBytes is the most framed bytes of one group.
func (s *Store) GroupBytes() int { return s.opt.groupBytes() }

func (o Options) groupBytes() int { return int(min(o.batch()-tileReserve, maxGroupBytes)) }

// partBytes is the most of a snapshot under one key.
func (o Options) partBytes() int { return min(maxPart, o.groupBytes()*3/4) }

func (o Options) chunkBytes() int { return min(o.groupBytes(), maxChunkBytes) }

// Size and root of what is durable.
func (s *Store) Size() (uint64, ledger.Hash) {
	s.head.Lock()
	defer s.head.Unlock()
	return s.head.durable.size, s.head.durable.root
}

// Signed is the newest size and root that Seal made ready to be signed.
func (s *Store) Signed() (uint64, ledger.Hash) {
	s.head.Lock()
	defer s.head.Unlock()
	return s.head.signed.size, s.head.signed.root
}

// Err is the error that stopped the store, nil while it works.
func (s *Store) Err() error {
	s.head.Lock()
	defer s.head.Unlock()
	return s.head.fatal
}

// Repaired lists what Open mended from the other copy, for the warning
// store-repaired; empty if nothing.
func (s *Store) Repaired() []string { return s.repaired }

// Read calls f with the machine at a durable state. f must not keep or change
// it, nor call the store.
func (s *Store) Read(f func(ledger.Machine)) {
	s.shown.RLock()
	defer s.shown.RUnlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	f(s.machine)
}

// Halt stops the store for a reason that its owner found, such as a witness that
// knows a larger log. It returns the first such error.
func (s *Store) Halt(err error) error {
	s.head.Lock()
	defer s.head.Unlock()
	if s.head.fatal == nil {
		s.head.fatal = fmt.Errorf("%w: %w", ledger.ErrHalted, err)
	}
	return s.head.fatal
}

// halt is Halt for an error of our own, which nobody else would report.
func (s *Store) halt(err error) error {
	if s.Err() == nil {
		s.opt.Log.Error("ledger store stopped", "err", err)
	}
	return s.Halt(err)
}

// Room returns ErrFull when the disk has less than MinFree left.
func (s *Store) Room() error {
	if s.opt.MinFree < 0 {
		return nil
	}
	free, err := s.opt.Free(s.dir)
	if err != nil {
		return fmt.Errorf("ledger store: free space: %w", err)
	}
	if free < s.opt.MinFree {
		return ErrFull
	}
	return nil
}

// Close waits for the running group and closes the files; later calls fail with
// ErrHalted or ErrDamaged. The caller has stopped its goroutines.
func (s *Store) Close() error {
	s.take.Lock()
	defer s.take.Unlock()
	s.sealing.Lock()
	defer s.sealing.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.head.Lock()
	if s.head.fatal == nil {
		s.head.fatal = fmt.Errorf("%w: the store is closed", ledger.ErrHalted)
	}
	s.head.Unlock()
	return s.closeFiles()
}

func (s *Store) closeFiles() error {
	var errs []error
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.journal != nil {
		errs = append(errs, s.journal.close())
	}
	if s.head.file != nil {
		errs = append(errs, s.head.file.close())
	}
	return errors.Join(errs...)
}

// makeDir creates a directory and makes its name durable.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("ledger store: create directory: %w", err)
	}
	return durable.SyncDir(filepath.Dir(dir))
}
