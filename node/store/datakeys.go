package store

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gridveil/ledger/durable"
)

// Data keys seal the values of a store, one key for each generation of about a
// month. They are random, wrapped under the master key, and stand in fixed slots
// that are rewritten in place, so that a key can be erased while the files that
// it sealed, and copies of them, stay what they are.
//
// Two files hold the same slots. A slot is written and synced in the one, then in
// the other: at any moment one of them is whole.

const (
	keysName   = "data.keys"
	keysCopy   = "data.keys.2"
	keySlots   = 4 // two generations in use, one being resealed, one free
	keyMagic   = "GVK1"
	keyHeader  = 4 + 1 + 1 + 2 + 8
	keyWrapped = 12 + 32 + 16 // nonce, key, tag
	keySummed  = keyHeader + keyWrapped

	keyLive  = 1
	keyWiped = 2
)

// keySlot is the newest generation that a slot has held; generation g has slot
// g modulo keySlots.
type keySlot struct {
	gen   uint16
	wiped bool
	began time.Time // to the millisecond
	key   [32]byte  // zero when wiped
}

// newer says whether the slot was written after o.
func (k keySlot) newer(o keySlot) bool {
	return k.gen > o.gen || k.gen == o.gen && k.wiped && !o.wiped
}

// dataKeys is the pair of files. Only one goroutine writes at a time.
type dataKeys struct {
	files [2]*os.File
	mac   []byte
	wrap  cipher.AEAD
	at    func(step string) // tests stop here; nil otherwise

	mu    sync.Mutex // guards slots
	slots [keySlots]keySlot
}

func (d *dataKeys) kept() [keySlots]keySlot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.slots
}

func (d *dataKeys) keep(s keySlot) (before keySlot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := s.gen % keySlots
	before, d.slots[i] = d.slots[i], s
	return before
}

// openDataKeys opens the key files in dir and mends one by the other. It makes them
// only if mayCreate; otherwise missing ones, and slots that neither file can show,
// are a *DamageError. needed is the generation that the store's head names.
func openDataKeys(dir string, k MasterKey, mayCreate bool, needed uint16, now time.Time) (*dataKeys, error) {
	d := &dataKeys{mac: k.derive("data keys checksum"), wrap: newAEAD(k.derive("data keys"))}
	missing := 0
	for _, name := range []string{keysName, keysCopy} {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			missing++
		}
	}
	if missing == 2 {
		if !mayCreate {
			return nil, &DamageError{Kind: LostKeys, Cause: fmt.Errorf("%s and %s are missing", keysName, keysCopy)}
		}
		if err := d.create(dir, k, now); err != nil {
			return nil, err
		}
	}
	for i, name := range []string{keysName, keysCopy} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open data keys: %w", err), d.close())
		}
		d.files[i] = f
	}
	err := errors.Join(d.load(needed), durable.SyncDir(dir))
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// create makes both files. Generation 0 is the key that sealed every value before
// there were generations; it lives until a first look found nothing under it.
func (d *dataKeys) create(dir string, k MasterKey, now time.Time) error {
	for i := range d.slots {
		d.slots[i] = keySlot{wiped: true, began: time.UnixMilli(0)}
	}
	d.slots[0] = keySlot{began: time.UnixMilli(0), key: [32]byte(k.derive("value"))}
	first, err := newGeneration(1, now)
	if err != nil {
		return err
	}
	d.slots[1] = first
	for _, name := range []string{keysName, keysCopy} {
		b := make([]byte, keySlots*slotStride)
		for i, s := range d.slots {
			copy(b[i*slotStride:], d.encode(s))
		}
		if err := durable.WriteFile(filepath.Join(dir, name), b); err != nil {
			return fmt.Errorf("make data keys: %w", err)
		}
	}
	return nil
}

func newGeneration(gen uint16, now time.Time) (keySlot, error) {
	s := keySlot{gen: gen, began: time.UnixMilli(now.UnixMilli())}
	if _, err := rand.Read(s.key[:]); err != nil {
		return s, fmt.Errorf("draw data key: %w", err)
	}
	return s, nil
}

// load reads both files and writes what one of them lacks.
func (d *dataKeys) load(needed uint16) error {
	for i := range d.slots {
		var best keySlot
		var good [2]bool
		var seen [2]keySlot
		for f := range d.files {
			b := make([]byte, slotSize)
			if _, err := d.files[f].ReadAt(b, int64(i)*slotStride); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read data keys: %w", err)
			}
			s, ok := d.decode(b)
			if ok = ok && (int(s.gen)%keySlots == i || s.gen == 0 && s.wiped); !ok {
				continue
			}
			if good[f], seen[f] = true, s; !good[1-f] || s.newer(best) {
				best = s
			}
		}
		if !good[0] && !good[1] {
			return &DamageError{Kind: LostKeys, Cause: fmt.Errorf("slot %d is unreadable in %s and in %s", i, keysName, keysCopy)}
		}
		d.slots[i] = best
		for f := range d.files {
			if good[f] && seen[f] == best {
				continue
			}
			if err := d.write(f, i, best); err != nil {
				return err
			}
		}
	}
	if now := d.current(); now.wiped || now.gen < needed {
		return &DamageError{Kind: LostKeys, Cause: fmt.Errorf("%s ends with generation %d, the newest commit has %d", keysName, now.gen, needed)}
	}
	return nil
}

// current is the newest generation.
func (d *dataKeys) current() (newest keySlot) {
	newest.wiped = true
	for _, s := range d.kept() {
		if !s.wiped && (newest.wiped || s.gen > newest.gen) {
			newest = s
		}
	}
	return newest
}

// put writes a slot into one file and, once it is on disk there, into the other.
func (d *dataKeys) put(s keySlot) error {
	before := d.keep(s)
	for f := range d.files {
		if err := d.write(f, int(s.gen)%keySlots, s); err != nil {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.slots[s.gen%keySlots] = before // tried again: nothing is sealed with a key that stands in one file only
			return err
		}
		if d.at != nil {
			d.at(fmt.Sprintf("slot of generation %d, wiped %v, in file %d", s.gen, s.wiped, f))
		}
	}
	return nil
}

func (d *dataKeys) write(file, slot int, s keySlot) error {
	if _, err := d.files[file].WriteAt(d.encode(s), int64(slot)*slotStride); err != nil {
		return fmt.Errorf("write data key: %w", err)
	}
	if err := d.files[file].Sync(); err != nil {
		return fmt.Errorf("sync data key: %w", err)
	}
	return nil
}

// encode is magic 4 | state 1 | zero 1 | generation 2 | began 8, unix ms |
// wrapped key 60, zeros when wiped | HMAC-SHA-256 32 | zeros to 512. The key is
// wrapped with AES-256-GCM under nonce 12, with the 16 bytes before it as
// associated data.
func (d *dataKeys) encode(s keySlot) []byte {
	b := make([]byte, slotSize)
	copy(b, keyMagic)
	b[4] = keyLive
	if s.wiped {
		b[4] = keyWiped
	}
	binary.BigEndian.PutUint16(b[6:], s.gen)
	binary.BigEndian.PutUint64(b[8:], uint64(s.began.UnixMilli()))
	if !s.wiped {
		d.wrap.Seal(b[:keyHeader], nil, s.key[:], b[:keyHeader])
	}
	copy(b[keySummed:], d.sum(b[:keySummed]))
	return b
}

func (d *dataKeys) sum(b []byte) []byte {
	m := hmac.New(sha256.New, d.mac)
	m.Write(b)
	return m.Sum(nil)
}

// decode reads one slot; ok is false when it is not whole.
func (d *dataKeys) decode(b []byte) (s keySlot, ok bool) {
	if len(b) != slotSize || !hmac.Equal(b[keySummed:keySummed+sha256.Size], d.sum(b[:keySummed])) ||
		string(b[:4]) != keyMagic || b[5] != 0 || !zero(b[keySummed+sha256.Size:]) {
		return s, false
	}
	s = keySlot{gen: binary.BigEndian.Uint16(b[6:]), began: time.UnixMilli(int64(binary.BigEndian.Uint64(b[8:])))}
	switch b[4] {
	case keyWiped:
		s.wiped = true
		return s, zero(b[keyHeader:keySummed])
	case keyLive:
		key, err := d.wrap.Open(nil, nil, b[keyHeader:keySummed], b[:keyHeader])
		if err != nil {
			return keySlot{}, false
		}
		s.key = [32]byte(key)
		return s, true
	}
	return keySlot{}, false
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func (d *dataKeys) close() (err error) {
	for _, f := range d.files {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("store: aes refused a 32-byte key: " + err.Error())
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("store: gcm refused aes: " + err.Error())
	}
	return aead
}
