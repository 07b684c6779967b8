package store

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger"
	"gridveil/ledger/durable"
	"gridveil/ledger/internal/tile"
)

// Keys. Numbers are big-endian, so that Badger's order is the log's.
const (
	keyChunk      = 'b' // b|first: framed entries, never across a multiple of 256; user meta = count-1
	keyTile       = 't' // t|level|n: full tiles
	keyHead       = 'h' // h: size, root, group, hash of the previous record
	keySnapshot   = 's' // s|index|part: part 0 is the title
	keyUsed       = 'u' // u|window|first|part: records of the used-sets, from the snapshot at first to the next
	keyCheckpoint = 'c' // c|size: checkpoint note with its cosignatures
	keyNote       = 'n' // n|name: what the owner of the store keeps beside the log
)

const badgerDir = "badger"

func chunkKey(first uint64) []byte { return binary.BigEndian.AppendUint64([]byte{keyChunk}, first) }

func tileKey(t tile.Tile) []byte {
	return binary.BigEndian.AppendUint64([]byte{keyTile, byte(t.L)}, t.N)
}

func checkpointKey(size uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{keyCheckpoint}, size)
}

// subkey derives the key of one use from the store's key; nil stays nil.
func (o Options) subkey(use string) ([]byte, error) {
	if o.Key == nil {
		return nil, nil
	}
	return hkdf.Key(sha256.New, o.Key, nil, "gridveil/ledger/store/v1 "+use, 32)
}

// openBadger opens the database in dir.
func openBadger(dir string, o Options) (*badger.DB, error) {
	key, err := o.subkey("badger")
	if err != nil {
		return nil, err
	}
	return durable.Open(durable.Options(filepath.Join(dir, badgerDir), key, o.MemTableBytes, min(o.batch(), 1<<20), o.Log).
		WithEncryptionKeyRotationDuration(10 * 24 * time.Hour).
		WithBaseTableSize(max(o.MemTableBytes, 2<<20)).
		WithNumLevelZeroTables(3).
		WithNumLevelZeroTablesStall(8).
		WithNumCompactors(2))
}

// journalBytes is how much of the log may be in Badger's memtable logs alone,
// where a flipped bit goes unnoticed: the active one, those being flushed, and
// one to be sure.
func (o Options) journalBytes() int64 { return 4 * o.MemTableBytes }

// chunk is a run of entries under one key.
type chunk struct {
	first  uint64
	count  int
	frames []byte
}

// cut splits entries into chunks.
func cut(first uint64, entries [][]byte, limit int) []chunk {
	var out []chunk
	for i, e := range entries {
		at := first + uint64(i)
		last := len(out) - 1
		if last < 0 || at%tile.Width == 0 || len(out[last].frames)+2+len(e) > limit {
			room := 0
			for _, e := range entries[i:min(uint64(len(entries)), uint64(i)+tile.Width-at%tile.Width)] {
				room += 2 + len(e)
			}
			out = append(out, chunk{first: at, frames: make([]byte, 0, min(room, max(limit, 2+len(e))))})
			last++
		}
		out[last].frames = ledger.AppendBundle(out[last].frames, e)
		out[last].count++
	}
	return out
}

func (c *chunk) entry() *badger.Entry {
	return badger.NewEntry(chunkKey(c.first), c.frames).WithMeta(byte(c.count - 1))
}

// headRecord is the value under h.
func headRecord(h head, prev [32]byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, h.size)
	b = append(b, h.root[:]...)
	b = binary.BigEndian.AppendUint64(b, h.group)
	return append(b, prev[:]...)
}

func parseHeadRecord(b []byte) (h head, ok bool) {
	if len(b) != 80 {
		return head{}, false
	}
	return head{binary.BigEndian.Uint64(b), ledger.Hash(b[8:40]), binary.BigEndian.Uint64(b[40:])}, true
}

// get reads one value; nil without error means that there is none.
func (s *Store) get(key []byte) (value []byte, err error) {
	defer recoverRead(&err)
	err = s.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		value, err = item.ValueCopy([]byte{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: read key %q: %w", ledger.ErrDamaged, key[:1], err)
	}
	return value, nil
}

// recoverRead turns a panic of Badger over a damaged table into ErrDamaged.
func recoverRead(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: badger panicked: %v", ledger.ErrDamaged, p)
	}
}

// put commits writes in one synced txn. A nil value deletes.
func (s *Store) put(list ...*badger.Entry) error {
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	for _, e := range list {
		set := func() error { return txn.SetEntry(e) }
		if e.Value == nil {
			set = func() error { return txn.Delete(e.Key) }
		}
		if err := set(); err != nil { // ErrTxnTooBig would be a wrong limit of ours
			return fmt.Errorf("fill badger txn: %w", err)
		}
	}
	if err := txn.Commit(); err != nil {
		return fmt.Errorf("commit badger txn: %w", err)
	}
	return nil
}

// putAll commits writes in as many synced txns as they need, in order.
func (s *Store) putAll(list []*badger.Entry) error {
	for len(list) > 0 {
		n, size := 0, 0
		for n < len(list) && n < MaxGroup && (n == 0 || size+len(list[n].Value) <= s.opt.groupBytes()) {
			size += len(list[n].Value)
			n++
		}
		if err := s.put(list[:n]...); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// keys lists the keys with a prefix from a start on, in order, until f returns
// false; it reads no values.
func (s *Store) keys(prefix, start []byte, f func(key []byte, meta byte) bool) (err error) {
	defer recoverRead(&err)
	return s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Seek(start); it.Valid(); it.Next() {
			item := it.Item()
			if !f(item.KeyCopy(nil), item.UserMeta()) {
				return nil
			}
		}
		return nil
	})
}

// extent is how many entries stand in Badger without a gap from 0.
func (s *Store) extent() (uint64, error) {
	var n uint64
	err := s.keys([]byte{keyChunk}, []byte{keyChunk}, func(key []byte, meta byte) bool {
		if len(key) != 9 || binary.BigEndian.Uint64(key[1:]) != n {
			return false
		}
		n += uint64(meta) + 1
		return true
	})
	return n, err
}

// Entries calls f with the stored entries from..to-1 in order; f owns the bytes.
// It returns ErrDamaged if one is missing or cannot be read, or the error of f.
func (s *Store) Entries(from, to uint64, f func(index uint64, raw []byte) error) (err error) {
	if from >= to {
		return nil
	}
	defer recoverRead(&err)
	next := from
	var failed error // of f
	err = s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{keyChunk}}) // values lie beside their keys: nothing to fetch ahead
		defer it.Close()
		for it.Seek(chunkKey(from / tile.Width * tile.Width)); it.Valid() && next < to; it.Next() {
			item := it.Item()
			if len(item.Key()) != len(chunkKey(0)) {
				return fmt.Errorf("a chunk has a key of %d bytes", len(item.Key()))
			}
			first := binary.BigEndian.Uint64(item.Key()[1:])
			if first > next {
				return nil
			}
			frames, err := item.ValueCopy(nil)
			if err != nil {
				return err
			}
			list, err := ledger.ParseBundle(frames, tile.Width)
			if err != nil || len(list) != int(item.UserMeta())+1 {
				return fmt.Errorf("chunk of entry %d cannot be read", first)
			}
			for i := next - first; next < to && i < uint64(len(list)); i++ {
				if failed = f(next, list[i]); failed != nil {
					return nil
				}
				next++
			}
		}
		return nil
	})
	switch {
	case failed != nil:
		return failed
	case err != nil:
		return fmt.Errorf("%w: entries from %d: %w", ledger.ErrDamaged, next, err)
	case next < to:
		return fmt.Errorf("%w: entry %d is missing", ledger.ErrDamaged, next)
	}
	return nil
}
