package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// write is a staged value; nil value with gone set is a deletion.
type write struct {
	value []byte
	gone  bool
}

// layer is a set of writes by key that is not in Badger yet.
type layer map[string]write

// Tx reads and, inside Update, writes. It is valid only during the function
// it was given to, and belongs to that goroutine.
type Tx struct {
	s      *Store
	txn    *badger.Txn
	writes layer   // nil in a view
	below  []layer // staged by earlier updates, newest first
	bytes  int
	err    error // first refused Set or Delete: the update cannot succeed any more
}

// Get returns a copy of the value of key, or ErrNotFound. A value altered on
// disk gives ErrDamaged.
func (tx *Tx) Get(key []byte) ([]byte, error) {
	for _, l := range append([]layer{tx.writes}, tx.below...) {
		if w, ok := l[string(key)]; ok {
			if w.gone {
				return nil, ErrNotFound
			}
			return bytes.Clone(w.value), nil
		}
	}
	item, err := tx.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return tx.openItem(key, item)
}

func (tx *Tx) openItem(key []byte, item *badger.Item) (value []byte, err error) {
	err = item.Value(func(sealed []byte) error {
		value, err = tx.s.seal.open(key, sealed)
		return err
	})
	if err != nil && !errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return value, err
}

// Has says whether key has a value.
func (tx *Tx) Has(key []byte) (bool, error) {
	_, err := tx.Get(key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Set stages value under key; both are copied. It returns ErrSpace, ErrTooLarge
// or ErrReadOnly, and then the whole update fails.
func (tx *Tx) Set(key, value []byte) error {
	if len(value) > tx.s.opt.MaxValue {
		return tx.refuse(fmt.Errorf("%w: value of %d bytes in space %s, limit %d",
			ErrTooLarge, len(value), spaceOf(key).Name(), tx.s.opt.MaxValue))
	}
	return tx.stage(key, write{value: append([]byte{}, value...)})
}

// Delete stages the removal of key; an absent key is fine.
func (tx *Tx) Delete(key []byte) error { return tx.stage(key, write{gone: true}) }

func (tx *Tx) stage(key []byte, w write) error {
	if tx.writes == nil {
		return ErrReadOnly
	}
	if err := checkKey(key); err != nil {
		return tx.refuse(err)
	}
	tx.bytes += cost(key, w)
	if old, ok := tx.writes[string(key)]; ok {
		tx.bytes -= cost(key, old)
	}
	tx.writes[string(key)] = w
	if tx.bytes > groupFactor*tx.s.opt.MaxValue || len(tx.writes) > maxGroupWrites {
		return tx.refuse(fmt.Errorf("%w: %d bytes in %d writes", ErrTooLarge, tx.bytes, len(tx.writes)))
	}
	return nil
}

func (tx *Tx) refuse(err error) error {
	if tx.writes == nil {
		return ErrReadOnly
	}
	if tx.err == nil {
		tx.err = err
	}
	return err
}

// cost is what one write adds to a Badger transaction, its chain entry included.
func cost(key []byte, w write) int { return 2*len(key) + len(w.value) + sealOverhead + 64 }

func spaceOf(key []byte) Space {
	if len(key) == 0 {
		return 0
	}
	return Space(key[0])
}

// Each calls fn for every key that starts with prefix, in ascending order, and
// stops at fn's first error, which it returns (ErrStop ends it silently). key
// and value may be kept. Each sees what this update has staged.
func (tx *Tx) Each(prefix []byte, fn func(key, value []byte) error) error {
	return tx.scan(prefix, prefix, fn)
}

// EachFrom is Each over keys not below from; from must start with prefix.
func (tx *Tx) EachFrom(prefix, from []byte, fn func(key, value []byte) error) error {
	return tx.scan(prefix, from, fn)
}

// ErrStop ends an iteration without an error.
var ErrStop = errors.New("store: stop iteration")

func (tx *Tx) scan(prefix, from []byte, fn func(key, value []byte) error) error {
	staged := tx.staged(prefix, from)
	names := slices.Sorted(maps.Keys(staged))
	it := tx.txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: false})
	defer it.Close()
	it.Seek(from)
	for it.ValidForPrefix(prefix) || len(names) > 0 {
		key, value, skip, err := tx.next(it, prefix, &names, staged)
		if err != nil {
			return err
		}
		if skip {
			continue
		}
		if err := fn(key, value); err != nil {
			if errors.Is(err, ErrStop) {
				return nil
			}
			return err
		}
	}
	return nil
}

// next merges the stored keys with the staged ones; a staged key hides the
// stored one, and skip says the key is staged for removal.
func (tx *Tx) next(it *badger.Iterator, prefix []byte, names *[]string, staged layer) (key, value []byte, skip bool, err error) {
	stored := it.ValidForPrefix(prefix)
	if len(*names) > 0 {
		name := (*names)[0]
		order := -1
		if stored {
			order = bytes.Compare([]byte(name), it.Item().Key())
		}
		if order <= 0 {
			*names = (*names)[1:]
			if order == 0 && stored {
				it.Next()
			}
			w := staged[name]
			return []byte(name), bytes.Clone(w.value), w.gone, nil
		}
	}
	item := it.Item()
	key = item.KeyCopy(nil)
	value, err = tx.openItem(key, item)
	it.Next()
	return key, value, false, err
}

func (tx *Tx) staged(prefix, from []byte) layer {
	out := layer{}
	for _, l := range append([]layer{tx.writes}, tx.below...) {
		for k, w := range l {
			if _, newer := out[k]; !newer && bytes.HasPrefix([]byte(k), prefix) && k >= string(from) {
				out[k] = w
			}
		}
	}
	return out
}

// Last returns the greatest key with prefix and its value, or ErrNotFound.
func (tx *Tx) Last(prefix []byte) (key, value []byte, err error) {
	staged := tx.staged(prefix, prefix)
	it := tx.txn.NewIterator(badger.IteratorOptions{Prefix: prefix, Reverse: true})
	defer it.Close()
	beyond := append(bytes.Clone(prefix), bytes.Repeat([]byte{0xff}, maxKey)...)
	for it.Seek(beyond); it.ValidForPrefix(prefix); it.Next() {
		item := it.Item()
		if _, hidden := staged[string(item.Key())]; hidden {
			continue
		}
		key = item.KeyCopy(nil)
		if value, err = tx.openItem(key, item); err != nil {
			return nil, nil, err
		}
		break
	}
	for k, w := range staged {
		if !w.gone && k > string(key) {
			key, value = []byte(k), bytes.Clone(w.value)
		}
	}
	if key == nil {
		return nil, nil, ErrNotFound
	}
	return key, value, nil
}
