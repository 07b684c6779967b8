package store_test

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/store"
)

// sessions is a log in which windows of refs are filled, kept for overdue
// sessions, and dropped.
var sessions = sync.OnceValue(func() [][]byte {
	s := scene.New(nopTB{}, 12).Begin()
	for bucket := range 30 {
		for range 4 {
			s.By(1, s.CDR(scene.Utb, 0, scene.Session(10)))
		}
		if bucket < 3 {
			s.By(1, s.CDR(scene.Utc, 0, scene.Session(10))) // never settled
		}
		s.Do(s.Settle(scene.Utb, 0))
		s.Pass(1)
	}
	return s.Log
})

// sessionStates are the states after each of them, by replay without a store.
var sessionStates = sync.OnceValue(func() []state { return replay(sessions()) })

// enter takes the sessions from one on to another in groups of n and writes
// snapshots between them.
func enter(t *testing.T, s *store.Store, from, to, n int) {
	t.Helper()
	for group := range slices.Chunk(sessions()[from:to], n) {
		if err := take(t, s, group...); err != nil {
			t.Fatal(err)
		}
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
	}
}

// same proves that a store's machine is the state that the first n sessions lead
// to.
func same(t *testing.T, s *store.Store, n int) {
	t.Helper()
	s.Read(func(m ledger.Machine) {
		if m.Size() != uint64(n) || stateOf(m) != sessionStates()[n] {
			t.Errorf("the state after %d of %d entries is another than that of a replay", m.Size(), n)
		}
	})
}

// usedKeys lists what the database of a closed store holds of the used-sets.
func usedKeys(t *testing.T, dir string, o store.Options) (keys []string) {
	t.Helper()
	err := store.Each(dir, o, 'u', func(key, value []byte) []byte { keys = append(keys, string(key)); return value })
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestWindowsAreAddedToAndDroppedByKey follows a ledger for longer than refs are
// remembered: what was written of a window stays as it is, windows that are past
// go, and of those with an overdue session little stays.
func TestWindowsAreAddedToAndDroppedByKey(t *testing.T) {
	all, dir, o := len(sessions()), t.TempDir(), small
	half := all / 3
	s := open(t, dir, o)
	enter(t, s, 0, half, 3)
	s.Close()
	before := map[string][]byte{}
	if err := store.Each(dir, o, 'u', func(key, value []byte) []byte { before[string(key)] = value; return value }); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, o)
	if at, parts := store.LoadedFrom(s); at == 0 || !parts {
		t.Errorf("opened from the snapshot at %d, with parts %v", at, parts)
	}
	same(t, s, half)
	enter(t, s, half, all, 3)
	s.Close()
	kept, windows, total := 0, map[string]int{}, 0
	err := store.Each(dir, o, 'u', func(key, value []byte) []byte {
		if old, ok := before[string(key)]; ok {
			if kept++; !bytes.Equal(old, value) {
				t.Errorf("part %x was changed", key)
			}
		}
		windows[string(key[1:7])]++
		total += len(value)
		return value
	})
	if err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, o)
	same(t, s, all)
	if len(before) == 0 || kept == 0 || kept == len(before) {
		t.Errorf("of %d parts %d are still there", len(before), kept)
	}
	if n := len(windows); n < 22 || n > 26 {
		t.Errorf("%d windows, want the last 22 and those of 3 overdue sessions", n)
	}
	if most := 22 * 5 * 71; total > most+5*71 {
		t.Errorf("%d bytes of records, want about %d", total, most)
	}
}

// TestADamagedPartIsNoticed alters each part of the used-sets in turn, and the
// titles that name them: the log opens with the right state, from the snapshot
// before or by replay, and its next snapshots are whole again.
func TestADamagedPartIsNoticed(t *testing.T) {
	all, was, o := len(sessions()), t.TempDir(), small
	half := all / 2
	s := open(t, was, o)
	enter(t, s, 0, half, 3)
	s.Close()
	keys := usedKeys(t, was, o)
	titles := 0
	err := store.Each(was, o, 's', func(key, value []byte) []byte {
		if key[9] == 0 && key[10] == 0 {
			titles++
			keys = append(keys, string(key))
		}
		return value
	})
	if err != nil || len(keys) < 12 || titles != 2 {
		t.Fatalf("%d keys, %d titles: %v", len(keys), titles, err)
	}
	step := 24
	if *long {
		step = 1
	}
	harms := map[string]func(value []byte) []byte{
		"missing": func([]byte) []byte { return nil },
		"cut":     func(v []byte) []byte { return v[:len(v)-1] },
		"flipped": func(v []byte) []byte { v[len(v)/2] ^= 4; return v },
		"longer":  func(v []byte) []byte { return append(v, v...) },
	}
	for name, harm := range harms {
		for i := 0; i < len(keys); i += step {
			t.Run(fmt.Sprintf("%s/%d", name, i), func(t *testing.T) {
				dir := t.TempDir()
				copyTree(t, was, dir)
				if err := store.Each(dir, o, keys[i][0], func(key, value []byte) []byte {
					if string(key) == keys[i] {
						return harm(value)
					}
					return value
				}); err != nil {
					t.Fatal(err)
				}
				s := open(t, dir, o)
				same(t, s, half)
				enter(t, s, half, all, 12)
				same(t, s, all)
				s.Close()
				s = open(t, dir, o)
				if at, parts := store.LoadedFrom(s); int(at) < all-12 || !parts {
					t.Errorf("opened from the snapshot at %d of %d, with parts %v", at, all, parts)
				}
				same(t, s, all)
			})
		}
	}
}

// TestAStoreOfTheFormerVersionOpens begins from a snapshot that holds the
// used-sets itself, and goes on in parts.
func TestAStoreOfTheFormerVersionOpens(t *testing.T) {
	all, dir, o := len(sessions()), t.TempDir(), small
	half := all / 2
	s := open(t, dir, o)
	for i := 0; i < half; i += 10 {
		if err := take(t, s, sessions()[i:min(i+10, half)]...); err != nil {
			t.Fatal(err)
		}
		if i%40 == 0 {
			if _, err := store.SnapshotWhole(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := store.SnapshotWhole(s); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir, o)
	if at, parts := store.LoadedFrom(s); int(at) != half || parts {
		t.Errorf("opened from the snapshot at %d, with parts %v; want %d, whole", at, parts, half)
	}
	same(t, s, half)
	if err := take(t, s, sessions()[half:half+9]...); err != nil {
		t.Fatal(err)
	}
	if err := s.Snapshot(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if len(usedKeys(t, dir, o)) == 0 {
		t.Error("no parts were written")
	}
	s = open(t, dir, o)
	if at, parts := store.LoadedFrom(s); int(at) != half+9 || !parts {
		t.Errorf("opened from the snapshot at %d, with parts %v; want %d, in parts", at, parts, half+9)
	}
	same(t, s, half+9)
	enter(t, s, half+9, all, 12)
	s.Close()
	titles := 0
	err := store.Each(dir, o, 's', func(key, value []byte) []byte {
		if key[9] == 0 && key[10] == 0 {
			titles++
		}
		return value
	})
	if err != nil || titles != 2 {
		t.Errorf("%d snapshots are kept: %v", titles, err)
	}
	s = open(t, dir, o)
	same(t, s, all)
}
