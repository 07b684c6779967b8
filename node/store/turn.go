package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// How long a generation of data keys seals, and how many are kept before what
// still lives of the oldest is sealed anew. What is deleted was sealed by one of
// two generations, so it can be opened for two of these lives at most.
const (
	generationLife = 30 * 24 * time.Hour
	generationsIn  = 2
	resealValues   = 256     // of one commit
	scanned        = 1 << 10 // values between two looks at ctx
)

// DataKeys says how far the erasing of what was deleted is.
type DataKeys struct {
	Generation uint16    // the one that seals now
	Began      time.Time // when it began
	Oldest     uint16    // the oldest whose key still exists: what was sealed before can be opened nowhere any more
	Since      time.Time // when that one began; the zero time of Unix for generation 0
	Waiting    int       // values that have to be sealed anew before the oldest can be erased; 0 while it need not be
}

// DataKeys reads which key every value is sealed with. It reads the whole database.
func (s *Store) DataKeys(ctx context.Context) (DataKeys, error) {
	if err := s.enter(); err != nil {
		return DataKeys{}, err
	}
	defer s.merge.Done()
	now, oldest, due := s.keys.current(), s.keys.oldest(), s.keys.due()
	k := DataKeys{Generation: now.gen, Began: now.began, Oldest: oldest.gen, Since: oldest.began}
	if !due {
		return k, nil
	}
	err := s.eachSealed(ctx, nil, func(_ []byte, t stamp, _ int) bool {
		if t.generation() == oldest.gen {
			k.Waiting++
		}
		return true
	})
	return k, err
}

// oldest is the oldest generation whose key exists.
func (d *dataKeys) oldest() keySlot {
	oldest := d.current()
	for _, s := range d.kept() {
		if !s.wiped && s.gen < oldest.gen {
			oldest = s
		}
	}
	return oldest
}

// due says whether the oldest generation is to go. Generation 0 goes at once: its key
// follows from the master key, and what is sealed with it cannot be erased.
func (d *dataKeys) due() bool {
	oldest, current := d.oldest(), d.current()
	return oldest.gen < current.gen && (oldest.gen == 0 || oldest.gen+generationsIn <= current.gen)
}

// turnKeys begins a generation when it is time, seals anew what lives of one that
// is due, and erases its key. Caller holds turning.
func (s *Store) turnKeys(ctx context.Context) error {
	s.headMu.Lock()
	s.seal.turn(s.keys) // forgets keys that were erased at the last call: readers of that time are done
	s.headMu.Unlock()
	if err := s.beginGeneration(); err != nil {
		return err
	}
	for s.keys.due() {
		old := s.keys.oldest()
		n, err := s.resealAll(ctx, old.gen)
		if err != nil {
			return err
		}
		if err := s.unused(ctx, old.gen); err != nil {
			return err
		}
		s.step("nothing lives of an old generation")
		if err := s.keys.put(keySlot{gen: old.gen, wiped: true, began: old.began}); err != nil {
			return err
		}
		if n > 0 || old.gen > 0 { // not of a new store, which never used generation 0
			s.opt.Log.Info("data key erased", "generation", old.gen, "resealed_values", n)
		}
	}
	return nil
}

func (s *Store) step(name string) {
	if s.keys.at != nil {
		s.keys.at(name)
	}
}

// beginGeneration draws a new key when the present one has served its time, by a
// clock that may have been set back. It waits while its slot is still needed.
func (s *Store) beginGeneration() error {
	now, current := s.opt.Now(), s.keys.current()
	if now.Sub(current.began).Abs() < generationLife {
		return nil
	}
	if current.gen == math.MaxUint16 {
		return errors.New("store: the generations of data keys are used up: copy the node's data into a new store")
	}
	if !s.keys.kept()[(current.gen+1)%keySlots].wiped {
		return nil
	}
	next, err := newGeneration(current.gen+1, now)
	if err != nil {
		return err
	}
	s.step("before a generation")
	if err := s.keys.put(next); err != nil {
		return err
	}
	s.headMu.Lock()
	defer s.headMu.Unlock()
	s.seal.turn(s.keys)
	return nil
}

// resealAll seals every value of a generation with the present key, in commits of
// at most resealValues values and MaxValue bytes, between which others write. It
// returns how many they were.
func (s *Store) resealAll(ctx context.Context, gen uint16) (n int, err error) {
	var from []byte
	for {
		keys, next, err := s.sealedWith(ctx, gen, from)
		if err != nil {
			return n, err
		}
		done, err := s.reseal(keys, gen)
		if n += done; err != nil {
			return n, err
		}
		s.step("values resealed")
		if from = next; from == nil {
			return n, nil
		}
	}
}

// sealedWith lists keys of a generation from a key on, as many as one commit takes,
// and where to go on, nil at the end.
func (s *Store) sealedWith(ctx context.Context, gen uint16, from []byte) (keys [][]byte, next []byte, err error) {
	size := 0
	err = s.eachSealed(ctx, from, func(key []byte, t stamp, sealed int) bool {
		if t.generation() != gen {
			return true
		}
		if size += 2*len(key) + sealed + 64; len(keys) == resealValues || len(keys) > 0 && size > s.opt.MaxValue {
			next = key
			return false
		}
		keys = append(keys, key)
		return true
	})
	return keys, next, err
}

// eachSealed calls fn for every value, commit records included, from a key on,
// until fn says false. key may be kept.
func (s *Store) eachSealed(ctx context.Context, from []byte, fn func(key []byte, t stamp, size int) bool) error {
	return s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{PrefetchValues: false})
		defer it.Close()
		it.Seek(from)
		for n := 0; it.Valid(); it.Next() {
			if n++; n%scanned == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			key := it.Item().KeyCopy(nil)
			if len(key) == 0 || key[0] == '!' {
				continue // Badger's own keys
			}
			more := true
			err := it.Item().Value(func(sealed []byte) error {
				if len(sealed) >= sealOverhead { // a shorter one opens under no key
					more = fn(key, stampOf(sealed), len(sealed))
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			if !more {
				return nil
			}
		}
		return ctx.Err()
	})
}

// reseal seals the values of keys, as they are now, with the present key in one
// commit of this store alone: what they hold stays the same, so the position of a
// replica does too. It returns how many there were.
func (s *Store) reseal(keys [][]byte, gen uint16) (n int, err error) {
	if err := s.sound(); err != nil {
		return 0, err
	}
	n, size, err := s.resealHeld(keys, gen)
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, ErrStopped) {
		if s.stopped == nil {
			s.stopped = err
		}
		s.broken = errors.Join(s.broken, err)
	}
	s.mergeWhenDue(size)
	return n, err
}

// sound says whether this store may commit by itself, whoever leads.
func (s *Store) sound() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.stopped != nil:
		return s.stopped
	case s.damage != nil:
		return fmt.Errorf("%w: %w", ErrDegraded, s.damage)
	}
	return s.broken
}

// resealHeld reads and writes with headMu held, so that no commit comes between.
func (s *Store) resealHeld(keys [][]byte, gen uint16) (n, size int, err error) {
	s.headMu.Lock()
	defer s.headMu.Unlock()
	writes, links := layer{}, layer{}
	for _, key := range keys {
		value, err := s.openStamped(key, gen)
		if err != nil {
			return 0, 0, err
		}
		size += cost(key, write{value: value})
		switch {
		case value == nil: // deleted or written meanwhile, or altered on disk
		case Space(key[0]) == spaceCommit:
			links[string(key)] = write{value: value}
		default:
			writes[string(key)] = write{value: value}
		}
	}
	if n = len(writes) + len(links); n == 0 {
		return 0, 0, nil
	}
	if err := errors.Join(s.hasRoom(writes), s.hasRoom(links)); err != nil {
		return 0, 0, err
	}
	if err := s.commitHeld(writes, links); err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return n, size, nil
}

// openStamped opens the value of key if it is sealed with the key of gen; nil
// says that it is not, or that it opens under no key any more.
func (s *Store) openStamped(key []byte, gen uint16) (value []byte, err error) {
	err = s.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return item.Value(func(sealed []byte) error {
			if len(sealed) < sealOverhead || stampOf(sealed).generation() != gen {
				return nil
			}
			v, err := s.seal.open(key, sealed)
			if err == nil {
				value = append([]byte{}, v...)
			}
			return nil
		})
	})
	return value, err
}

// unused makes sure, on what is stored now, that no value that opens needs the key
// of a generation.
func (s *Store) unused(ctx context.Context, gen uint16) error {
	var held [][]byte
	err := s.eachSealed(ctx, nil, func(key []byte, t stamp, _ int) bool {
		if t.generation() == gen {
			held = append(held, key)
		}
		return true // none, but for values that were altered on disk
	})
	for _, key := range held {
		value, failed := s.openStamped(key, gen)
		if err = errors.Join(err, failed); err == nil && value != nil {
			return fmt.Errorf("store: a value in space %s is still sealed with an old key: its erasure is put off", spaceOf(key).Name())
		}
	}
	return err
}
