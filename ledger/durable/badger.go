package durable

import (
	"fmt"
	"log/slog"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Options are the settings of Badger that every store of gridveil needs: synced
// writes of one writer, no compression, checksums read with each block, and
// memory in proportion to mem bytes of write buffer. Values above maxValue bytes
// would go into the value log, whose failed syncs Badger only logs: give the
// largest value that is ever written. key seals the files, nil leaves them open;
// log receives warnings, nil discards them.
//
// Tables, levels, compactors and the rotation of keys are for the caller to set.
func Options(dir string, key []byte, mem, maxValue int64, log *slog.Logger) badger.Options {
	o := badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithDetectConflicts(false). // one writer
		WithNumVersionsToKeep(1).
		WithCompression(options.None). // sealed bytes, signatures and hashes do not compress
		WithEncryptionKey(key).
		WithChecksumVerificationMode(options.OnBlockRead). // Open has read whole tables
		WithMemTableSize(mem).
		WithBaseLevelSize(4 * mem).
		WithNumMemtables(2).
		WithBlockCacheSize(max(mem/8, 256<<10)).
		WithIndexCacheSize(max(mem/4, 512<<10)). // 0 panics together with encryption
		WithMetricsEnabled(false).
		WithValueThreshold(maxValue).
		WithValueLogFileSize(1 << 20).
		WithLogger(nil)
	if log != nil {
		o = o.WithLogger(badgerLog{log})
	}
	return o
}

// Open verifies the files of a database and opens it, creating it when the
// directory holds none. A panic of Badger over its own damaged files is an error
// like any other.
//
// Before anything is changed it returns badger.ErrEncryptionKeyMismatch, to be
// asked for first, when the key is not the one that the files were made with, or
// ErrFiles when one of them is damaged.
func Open(o badger.Options) (db *badger.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("badger panicked: %v", p)
		}
	}()
	if err := checkTables(o); err != nil {
		return nil, err
	}
	if db, err = badger.Open(o); err != nil {
		return nil, err // with an error the database is half open
	}
	return db, nil
}

// badgerLog passes on what an operator should see and drops the rest.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(format string, args ...any) {
	l.log.Error("database reported", "text", fmt.Sprintf(format, args...))
}
func (l badgerLog) Warningf(format string, args ...any) {
	l.log.Warn("database reported", "text", fmt.Sprintf(format, args...))
}
func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}
