package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger"
)

// PruneEarly deletes journal segments as early as in a log of years.
func PruneEarly(s *Store) {
	s.take.Lock()
	defer s.take.Unlock()
	s.journal.keep = 0
}

// DatabaseAlone is how many entries Badger by itself finds in a directory, as a
// store without journal and head file would.
func DatabaseAlone(dir string, o Options) (entries uint64, err error) {
	if o, err = o.withDefaults(); err != nil {
		return 0, err
	}
	s := &Store{dir: dir, opt: o}
	if s.db, err = openBadger(dir, o); err != nil {
		return 0, err
	}
	entries, err = s.extent()
	closed := s.db.Close()
	if err == nil {
		err = closed
	}
	return entries, err
}

// Broken are stores whose recovery lacks something, for the tests of the tests.
var Broken = map[string]func(*recovery) []func() error{
	"believes the database": func(r *recovery) []func() error {
		return []func() error{r.believe, r.extend, r.trim, r.mendJournal, r.finish}
	},
	"forgets what was signed": func(r *recovery) []func() error {
		return []func() error{r.mend, r.extend, r.trim, r.mendJournal, r.forget, r.finish}
	},
	"drops what it cannot mend": func(r *recovery) []func() error {
		return []func() error{r.giveUp, r.extend, r.trim, r.mendJournal, r.finish}
	},
}

// OpenBroken is Open with such a recovery.
func OpenBroken(how string) func(string, ledger.Machine, Options) (*Store, error) {
	return func(dir string, m ledger.Machine, o Options) (*Store, error) {
		o, err := o.withDefaults()
		if err != nil {
			return nil, err
		}
		s := &Store{dir: dir, opt: o, machine: m, blank: m.Snapshot()}
		r, err := s.openFiles()
		if err == nil {
			err = r.settle(Broken[how](r)...)
		}
		if err != nil {
			s.closeFiles()
			return nil, err
		}
		return s, nil
	}
}

// believe takes the end of the database for the end of the log.
func (r *recovery) believe() (err error) {
	if r.slot.size, err = r.extent(); err != nil {
		return err
	}
	if r.edge, err = r.edgeOf(r.slot.size); err != nil {
		return err
	}
	r.slot.root, r.places = r.edge.Root(), nil
	if r.slot.signed.size > r.slot.size {
		return r.forget()
	}
	return nil
}

func (r *recovery) forget() error {
	r.slot.signed = signed{root: ledger.EmptyRoot()}
	return nil
}

func (r *recovery) giveUp() error {
	if r.mend() == nil {
		return nil
	}
	return r.believe()
}

// SnapshotWhole writes the machine down as the version before used-sets had keys
// of their own did, and drops what that would not have had. It returns the bytes
// written.
func SnapshotWhole(s *Store) (int, error) {
	s.take.Lock()
	defer s.take.Unlock()
	s.mu.Lock()
	whole := s.machine.Snapshot()
	s.mu.Unlock()
	size, _ := s.Size()
	parts := slices.Collect(slices.Chunk(whole, s.opt.partBytes()))
	for i, p := range parts {
		if err := s.put(badger.NewEntry(snapshotKey(size, uint16(i+1)), p)); err != nil {
			return 0, err
		}
	}
	sum := sha256.Sum256(whole)
	title := append(binary.BigEndian.AppendUint16(nil, uint16(len(parts))), sum[:]...)
	return len(whole), s.put(badger.NewEntry(snapshotKey(size, 0), title))
}

// LoadedFrom is the snapshot that Open began from, and whether it has its
// used-sets in keys of their own.
func LoadedFrom(s *Store) (index uint64, parts bool) {
	return s.marks.size, s.marks.used[s.marks.size] != nil
}

// NewestBytes is what the newest snapshot wrote.
func NewestBytes(s *Store) (n int, err error) {
	taken := s.marks.taken
	title, err := s.get(snapshotKey(s.marks.size, 0))
	if err != nil {
		return 0, err
	}
	n = len(title)
	for part := range binary.BigEndian.Uint16(title) {
		p, err := s.get(snapshotKey(s.marks.size, part+1))
		if err != nil {
			return 0, err
		}
		n += len(p)
	}
	for w := range s.marks.used[s.marks.size] {
		err := s.parts(w, taken[len(taken)-2], s.marks.size, func(_ uint64, p []byte) error { n += len(p); return nil })
		if err != nil {
			return 0, err
		}
	}
	return n, nil
}

// Each calls f with the keys and values of one kind in a closed store's database;
// what f returns takes the value's place, nil deletes it.
func Each(dir string, o Options, kind byte, f func(key, value []byte) []byte) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	s := &Store{dir: dir, opt: o}
	if s.db, err = openBadger(dir, o); err != nil {
		return err
	}
	var keys [][]byte
	err = s.keys([]byte{kind}, []byte{kind}, func(key []byte, _ byte) bool { keys = append(keys, key); return true })
	for _, key := range keys {
		if err != nil {
			break
		}
		var value []byte
		if value, err = s.get(key); err == nil {
			if after := f(key, bytes.Clone(value)); !bytes.Equal(after, value) {
				err = s.put(&badger.Entry{Key: key, Value: after})
			}
		}
	}
	return errors.Join(err, s.db.Close())
}
