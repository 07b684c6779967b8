package store_test

import (
	"bytes"
	"fmt"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/store"
)

// sessions is a log in which windows of refs are filled, kept for overdue
// sessions, and dropped; a snapshot falls between the entries of each bucket.
func sessions(tb testing.TB) *scene.Scene {
	s := scene.New(tb, 12).Begin()
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
	return s
}

// enter takes a scene's entries from one on in groups and writes snapshots
// between them.
func enter(t *testing.T, s *store.Store, log [][]byte, from int) {
	t.Helper()
	for i := from; i < len(log); i += 3 {
		if err := take(t, s, log[i:min(i+3, len(log))]...); err != nil {
			t.Fatal(err)
		}
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
	}
}

// same proves that a store's machine is the state that a log leads to.
func same(t *testing.T, s *store.Store, log [][]byte) {
	t.Helper()
	want := ledger.New(scene.Origin)
	for i, raw := range log {
		if _, err := scene.Submit(want, raw); err != nil {
			t.Fatalf("replay of entry %d: %v", i, err)
		}
	}
	s.Read(func(m ledger.Machine) {
		if stateOf(m) != stateOf(want) {
			t.Errorf("the state after %d entries is another than that of a replay", m.Size())
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
	log, dir, o := sessions(t).Log, t.TempDir(), small
	half := len(log) / 3
	s := open(t, dir, o)
	enter(t, s, log[:half], 0)
	s.Close()
	before := map[string][]byte{}
	if err := store.Each(dir, o, 'u', func(key, value []byte) []byte { before[string(key)] = value; return value }); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, o)
	if at, parts := store.LoadedFrom(s); at == 0 || !parts {
		t.Errorf("opened from the snapshot at %d, with parts %v", at, parts)
	}
	same(t, s, log[:half])
	enter(t, s, log, half)
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
	same(t, s, log)
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
	log, was, o := sessions(t).Log, t.TempDir(), small
	half := len(log) / 2
	s := open(t, was, o)
	enter(t, s, log[:half], 0)
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
				same(t, s, log[:half])
				enter(t, s, log, half)
				same(t, s, log)
				s.Close()
				s = open(t, dir, o)
				if at, parts := store.LoadedFrom(s); int(at) < len(log)-8 || !parts {
					t.Errorf("opened from the snapshot at %d of %d, with parts %v", at, len(log), parts)
				}
				same(t, s, log)
			})
		}
	}
}

// TestAStoreOfTheFormerVersionOpens begins from a snapshot that holds the
// used-sets itself, and goes on in parts.
func TestAStoreOfTheFormerVersionOpens(t *testing.T) {
	log, dir, o := sessions(t).Log, t.TempDir(), small
	half := len(log) / 2
	s := open(t, dir, o)
	for i := 0; i < half; i += 10 {
		if err := take(t, s, log[i:min(i+10, half)]...); err != nil {
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
	same(t, s, log[:half])
	if err := take(t, s, log[half:half+9]...); err != nil {
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
	same(t, s, log[:half+9])
	enter(t, s, log, half+9)
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
	same(t, s, log)
}
