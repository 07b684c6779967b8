package store

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// calendar is a clock that stands until it is told.
type calendar struct{ ms atomic.Int64 }

func newCalendar() *calendar {
	c := &calendar{}
	c.ms.Store(time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC).UnixMilli())
	return c
}

func (c *calendar) now() time.Time          { return time.UnixMilli(c.ms.Load()) }
func (c *calendar) pass(days time.Duration) { c.ms.Add((days * 24 * time.Hour).Milliseconds()) }
func (c *calendar) options() Options        { return Options{Now: c.now, MinFree: -1} }

func maintain(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Maintain(t.Context()); err != nil {
		t.Fatalf("Maintain: %v", err)
	}
}

// months lets n generations begin, with a look every five days.
func months(t *testing.T, s *Store, c *calendar, n int) {
	t.Helper()
	for range n * 6 {
		c.pass(5)
		maintain(t, s)
	}
}

// copyFile copies a file of one directory into another.
func copyFile(t *testing.T, from, to, name string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// every opens an image and asks that it lost nothing, now and after it went on.
func every(t *testing.T, what, img string, o Options, n int) {
	t.Helper()
	s, err := Open(img, testKey, o)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	defer s.Close()
	look := func(when string) {
		for i := range n {
			if v, err := s.Get(faultKey(i)); err != nil || string(v) != faultValue(i) {
				t.Errorf("%s, %s: value %d is %q, %v", what, when, i, v, err)
				return
			}
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("%s, %s: %v", what, when, err)
		}
	}
	look("at the start")
	if err := s.Maintain(t.Context()); err != nil {
		t.Errorf("%s: the next Maintain: %v", what, err)
	}
	look("after the next Maintain")
}

func TestACrashAtAnyStepOfTheKeysLosesNothing(t *testing.T) {
	const n = 20
	c, dir := newCalendar(), t.TempDir()
	s := open(t, dir, c.options())
	for i := range n {
		mustSet(t, s, string(faultKey(i)[1:]), faultValue(i))
	}
	steps, reached := 0, []int{20}
	if *long {
		reached = []int{0, 1, 20, 76, 100, 200}
	}
	s.keys.at = func(step string) {
		steps++
		what := fmt.Sprintf("crash %d, %s", steps, step)
		every(t, what, image(t, dir), c.options(), n)
		var gen, file int
		var wiped bool
		if _, err := fmt.Sscanf(step, "slot of generation %d, wiped %t, in file %d", &gen, &wiped, &file); err != nil {
			return
		}
		for _, torn := range reached { // the write got so far
			img := image(t, dir)
			path := filepath.Join(img, []string{keysName, keysCopy}[file])
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := gen % keySlots * slotStride
			for i := torn; i < slotSize; i++ {
				b[at+i] = 0xee
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			every(t, fmt.Sprintf("%s, torn at %d", what, torn), img, c.options(), n)
		}
	}
	for range 2 {
		c.pass(31)
		maintain(t, s)
	}
	s.keys.at = nil
	k, err := s.DataKeys(t.Context())
	if err != nil || k.Generation != 3 || k.Oldest != 2 || k.Waiting != 0 {
		t.Errorf("%+v, %v", k, err)
	}
	if steps < 10 {
		t.Errorf("only %d steps were tried", steps)
	}
}

func TestTenThousandValuesAreResealedWhileOthersWrite(t *testing.T) {
	const values, batch = 10_000, 1000
	c, dir := newCalendar(), t.TempDir()
	s := open(t, dir, c.options())
	maintain(t, s) // generation 0 goes
	for at := 0; at < values; at += batch {
		err := s.Update(func(tx *Tx) error {
			for i := at; i < at+batch; i++ {
				if err := tx.Set(SpaceBlock.Key(U64(uint64(i))), U64(uint64(i))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c.pass(31)
	maintain(t, s)
	c.pass(31)
	if k, err := s.DataKeys(t.Context()); err != nil || k.Waiting != 0 {
		t.Fatalf("before it is due: %+v, %v", k, err)
	}
	stop, wrote := make(chan struct{}), [2]int{}
	var wg sync.WaitGroup
	for w := range wrote {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				at := uint64(i * 7 % values)
				if at%2 != uint64(w) {
					at++ // each writes keys of its own
				}
				err := s.Update(func(tx *Tx) error {
					if at%5 == 0 {
						return tx.Delete(SpaceBlock.Key(U64(at)))
					}
					return tx.Set(SpaceBlock.Key(U64(at)), U64(at+values))
				})
				if err != nil {
					t.Error(err)
					return
				}
				wrote[w]++
			}
		})
	}
	maintain(t, s)
	close(stop)
	wg.Wait()
	k, err := s.DataKeys(t.Context())
	if err != nil || k.Generation != 3 || k.Oldest != 2 {
		t.Fatalf("%+v, %v", k, err)
	}
	if wrote[0] == 0 || wrote[1] == 0 {
		t.Error("nobody wrote meanwhile")
	}
	s.Close()
	s = open(t, dir, c.options())
	gone := 0
	for i := range uint64(values) {
		v, err := s.Get(SpaceBlock.Key(U64(i)))
		if errors.Is(err, ErrNotFound) && i%5 == 0 {
			gone++
			continue
		}
		if n, _ := GetU64(v); err != nil || n != i && n != i+values || n == i+values && i%5 == 0 {
			t.Fatalf("value %d is %d, %v", i, n, err)
		}
	}
	t.Logf("%d and %d writes meanwhile, %d deleted", wrote[0], wrote[1], gone)
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestAWriteThatOvertakesTheResealingStays has a value written after it was found
// to be old and before it is resealed.
func TestAWriteThatOvertakesTheResealingStays(t *testing.T) {
	s := open(t, t.TempDir(), newCalendar().options())
	mustSet(t, s, "a", "old")
	mustSet(t, s, "b", "old")
	keys, _, err := s.sealedWith(t.Context(), 1, nil)
	if err != nil || len(keys) != 4 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	next, err := newGeneration(2, time.Now())
	if err := errors.Join(err, s.keys.put(next)); err != nil {
		t.Fatal(err)
	}
	s.seal.turn(s.keys)
	mustSet(t, s, "a", "new")
	if err := s.Update(func(tx *Tx) error { return tx.Delete(SpaceCursor.Key([]byte("b"))) }); err != nil {
		t.Fatal(err)
	}
	if n, err := s.reseal(keys, 1); n != 2 || err != nil { // the two commit records
		t.Errorf("%d resealed, %v", n, err)
	}
	if v, err := s.Get(SpaceCursor.Key([]byte("a"))); err != nil || string(v) != "new" {
		t.Errorf("overwritten meanwhile: %q, %v", v, err)
	}
	if _, err := s.Get(SpaceCursor.Key([]byte("b"))); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted meanwhile: %v", err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAReaderOfBeforeStillReadsWhenAKeyIsErased(t *testing.T) {
	c := newCalendar()
	s := open(t, t.TempDir(), c.options())
	mustSet(t, s, "a", "1")
	for range 2 {
		maintain(t, s)
		c.pass(31)
	}
	err := s.View(func(tx *Tx) error {
		maintain(t, s)
		if k, err := s.DataKeys(t.Context()); err != nil || k.Oldest != 2 {
			t.Errorf("%+v, %v: the key is not erased", k, err)
		}
		_, err := tx.Get(SpaceCursor.Key([]byte("a")))
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestValuesFromBeforeGenerationsOpen builds what a store held before there were
// data keys: values under a key that follows from the master key, stamped with
// their commit number alone, and no key files.
func TestValuesFromBeforeGenerationsOpen(t *testing.T) {
	c, dir := newCalendar(), t.TempDir()
	s := open(t, dir, c.options())
	old := *s.seal.ring.Load()
	old.current = 0
	s.seal.ring.Store(&old)
	mustSet(t, s, "a", "before")
	s.db.View(func(txn *badger.Txn) error {
		key := SpaceCursor.Key([]byte("a"))
		item, err := txn.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		sealed, _ := item.ValueCopy(nil)
		block, _ := aes.NewCipher(testKey.derive("value"))
		aead, _ := cipher.NewGCM(block)
		if v, err := aead.Open(nil, sealed[8:20], sealed[20:], append(bytes.Clone(key), sealed[:8]...)); err != nil || string(v) != "before" || binary.BigEndian.Uint64(sealed) != 1 {
			t.Errorf("generation 0 is not what stores held: %q, %v", v, err)
		}
		return nil
	})
	if err := errors.Join(s.Close(), os.Remove(filepath.Join(dir, keysName)), os.Remove(filepath.Join(dir, keysCopy))); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, c.options())
	if k, err := s.DataKeys(t.Context()); err != nil || k.Generation != 1 || k.Oldest != 0 || k.Waiting != 2 {
		t.Errorf("%+v, %v", k, err)
	}
	mustSet(t, s, "b", "after")
	maintain(t, s)
	if k, err := s.DataKeys(t.Context()); err != nil || k.Oldest != 1 || k.Waiting != 0 {
		t.Errorf("%+v, %v", k, err)
	}
	s.Close()
	s = open(t, dir, c.options())
	for key, want := range map[string]string{"a": "before", "b": "after"} {
		if v, err := s.Get(SpaceCursor.Key([]byte(key))); err != nil || string(v) != want {
			t.Errorf("%s: %q, %v", key, v, err)
		}
	}
}

func TestLostDataKeysAreMendedOrNamed(t *testing.T) {
	c, dir := newCalendar(), t.TempDir()
	s := open(t, dir, c.options())
	mustSet(t, s, "a", "1")
	first := image(t, dir)
	months(t, s, c, 2)
	mustSet(t, s, "b", "2")
	s.Close()
	remove := func(names ...string) func(string) {
		return func(img string) {
			for _, name := range names {
				if err := os.Remove(filepath.Join(img, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	tear := func(slot int, names ...string) func(string) {
		return func(img string) {
			for _, name := range names {
				b, err := os.ReadFile(filepath.Join(img, name))
				if err != nil {
					t.Fatal(err)
				}
				b[slot*slotStride+50] ^= 1
				if err := os.WriteFile(filepath.Join(img, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for fact, x := range map[string]struct {
		harm func(img string)
		lost bool
	}{
		"first file lost":              {remove(keysName), false},
		"second file lost":             {remove(keysCopy), false},
		"both files lost":              {remove(keysName, keysCopy), true},
		"present slot torn in one":     {tear(3, keysName), false},
		"present slot torn in other":   {tear(3, keysCopy), false},
		"present slot torn in both":    {tear(3, keysName, keysCopy), true},
		"erased slot torn in both":     {tear(1, keysName, keysCopy), true},
		"both files and the head lost": {func(img string) { remove(keysName, keysCopy)(img); os.Truncate(filepath.Join(img, headName), 100) }, true},
		"both files of two months ago": {func(img string) { copyFile(t, first, img, keysName); copyFile(t, first, img, keysCopy) }, true},
		"one file of two months ago":   {func(img string) { copyFile(t, first, img, keysCopy) }, false},
		"first file empty":             {func(img string) { os.Truncate(filepath.Join(img, keysName), 0) }, false},
	} {
		img := image(t, dir)
		x.harm(img)
		s, err := Open(img, testKey, c.options())
		var d *DamageError
		if x.lost {
			if s != nil || !errors.As(err, &d) || d.Kind != LostKeys || !errors.Is(err, ErrDegraded) || !strings.Contains(d.Next(), "store accept") {
				t.Errorf("%s: %v", fact, err)
			}
			if _, err := Open(img, testKey, c.options()); !errors.As(err, &d) {
				t.Errorf("%s, once more: %v", fact, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", fact, err)
			continue
		}
		if v, err := s.Get(SpaceCursor.Key([]byte("b"))); err != nil || string(v) != "2" {
			t.Errorf("%s: %q, %v", fact, v, err)
		}
		s.Close()
		for _, name := range []string{keysName, keysCopy} { // each is whole again
			alone := image(t, img)
			remove(name)(alone)
			s, err := Open(alone, testKey, c.options())
			if err != nil {
				t.Errorf("%s, then without %s: %v", fact, name, err)
				continue
			}
			s.Close()
		}
	}
	if _, err := Open(dir, MasterKey{9}, c.options()); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another master key: %v", err)
	}
}

func TestFewGenerationsLiveHoweverTheClockRuns(t *testing.T) {
	c := newCalendar()
	s := open(t, t.TempDir(), c.options())
	for i, days := range []time.Duration{0, 3650, 3650, -7300, 1, 29, 31, -31, -365, 4000, 40, 40, 40} {
		c.pass(days)
		mustSet(t, s, fmt.Sprint(i), "x")
		maintain(t, s)
		k, err := s.DataKeys(t.Context())
		if err != nil || k.Generation-k.Oldest > 1 {
			t.Errorf("after %d days: %+v, %v", days, k, err)
		}
	}
	if k, _ := s.DataKeys(t.Context()); k.Generation < 9 {
		t.Errorf("only %d generations began", k.Generation)
	}
	// A clock that a fast demonstration drives ends at the last number.
	for _, d := range []uint16{65534, 65535} {
		g, err := newGeneration(d, c.now())
		if err := errors.Join(err, s.keys.put(g)); err != nil {
			t.Fatal(err)
		}
	}
	s.seal.turn(s.keys)
	c.pass(31)
	if err := s.Maintain(t.Context()); err == nil || !strings.Contains(err.Error(), "used up") {
		t.Errorf("after the last generation: %v", err)
	}
	mustSet(t, s, "last", "x")
}

func TestMaintenanceIsPutOffNotHalfDone(t *testing.T) {
	c, dir := newCalendar(), t.TempDir()
	free := int64(1 << 40)
	o := c.options()
	o.MinFree, o.Free = 1<<20, func(string) (int64, error) { return free, nil }
	s := open(t, dir, o)
	mustSet(t, s, "a", "1")
	maintain(t, s)
	c.pass(31)
	maintain(t, s)
	c.pass(31)
	free = 0
	if err := s.Maintain(t.Context()); !errors.Is(err, ErrFull) {
		t.Errorf("with a full disk: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	free = 1 << 40
	if err := s.Maintain(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("while the node stops: %v", err)
	}
	if k, err := s.DataKeys(t.Context()); err != nil || k.Oldest != 1 || k.Generation != 3 || k.Waiting != 2 {
		t.Errorf("%+v, %v", k, err) // the value and the record of its commit
	}
	maintain(t, s)
	if k, err := s.DataKeys(t.Context()); err != nil || k.Oldest != 2 {
		t.Errorf("%+v, %v", k, err)
	}
	s.Close()
	if err := s.Maintain(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestAnAlteredValueKeepsNoKeyAlive(t *testing.T) {
	c, dir := newCalendar(), t.TempDir()
	s := open(t, dir, c.options())
	for i := range 5 {
		mustSet(t, s, string(faultKey(i)[1:]), faultValue(i))
	}
	altered := make([]byte, 99)
	altered[1] = 1 // generation 1
	txn := s.db.NewTransaction(true)
	if err := errors.Join(txn.Set(faultKey(2), altered), txn.Commit()); err != nil {
		t.Fatal(err)
	}
	months(t, s, c, 2)
	if k, err := s.DataKeys(t.Context()); err != nil || k.Oldest != 2 {
		t.Errorf("%+v, %v", k, err)
	}
	if _, err := s.Get(faultKey(2)); !errors.Is(err, ErrDamaged) {
		t.Errorf("altered value: %v", err)
	}
	if v, err := s.Get(faultKey(3)); err != nil || string(v) != faultValue(3) {
		t.Errorf("its neighbour: %q, %v", v, err)
	}
}

func TestEachMachineOfAClusterHasItsOwnKeys(t *testing.T) {
	c := newCalendar()
	o := c.options()
	o.Replica = true
	a, b := open(t, t.TempDir(), o), open(t, t.TempDir(), o)
	if err := a.Found([32]byte{1}); err != nil {
		t.Fatal(err)
	}
	move(t, a, b)
	a.Lead(both(a, b))
	for i := range 10 {
		if err := a.Set(faultKey(i), []byte(faultValue(i))); err != nil {
			t.Fatal(err)
		}
	}
	at, _ := a.Position()
	months(t, b, c, 3) // the follower alone
	if pb, ok := b.Position(); !ok || pb != at || content(t, a) != content(t, b) {
		t.Fatalf("position of the follower %v, %v, was %v", pb, ok, at)
	}
	if err := a.Set(faultKey(10), []byte(faultValue(10))); err != nil {
		t.Fatalf("the leader goes on: %v", err)
	}
	months(t, a, c, 3)
	b.Lead(both(b, a)) // and takes what the other decides
	if err := b.Set(faultKey(11), []byte(faultValue(11))); err != nil {
		t.Fatal(err)
	}
	third := open(t, t.TempDir(), o)
	move(t, a, third)
	if content(t, a) != content(t, b) || content(t, third) != content(t, b) {
		t.Error("the stores differ")
	}
	for _, s := range []*Store{a, b, third} {
		if err := s.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
	ka, kb := a.keys.current(), b.keys.current()
	if ka.key == kb.key {
		t.Error("two machines have one key")
	}
}

func FuzzDataKeySlot(f *testing.F) {
	d := &dataKeys{mac: testKey.derive("data keys checksum"), wrap: newAEAD(testKey.derive("data keys"))}
	g, err := newGeneration(7, time.UnixMilli(1e12))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d.encode(g), false)
	f.Add(d.encode(keySlot{gen: 7, wiped: true, began: g.began}), true)
	f.Add([]byte("GVK1"), true)
	f.Fuzz(func(t *testing.T, b []byte, summed bool) {
		if summed && len(b) >= keySummed+32 { // past the checksum
			copy(b[keySummed:], d.sum(b[:keySummed]))
		}
		s, ok := d.decode(b)
		if !ok {
			return
		}
		if again, ok := d.decode(d.encode(s)); !ok || again != s {
			t.Errorf("%+v is read as %+v", s, again)
		}
		if s.wiped && !bytes.Equal(d.encode(s), b) {
			t.Error("a wiped slot has two forms")
		}
	})
}
