package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

var testKey = MasterKey{1, 2, 3}

func open(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, testKey, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustSet(t *testing.T, s *Store, key, value string) {
	t.Helper()
	if err := s.Set(SpaceCursor.Key([]byte(key)), []byte(value)); err != nil {
		t.Fatalf("Set %s: %v", key, err)
	}
}

func TestAcknowledgedWritesSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	for i := range 100 {
		mustSet(t, s, fmt.Sprint("key", i), fmt.Sprint("value", i))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if got := s.Head(); got != 100 {
		t.Errorf("head after reopening is %d, want 100", got)
	}
	for i := range 100 {
		got, err := s.Get(SpaceCursor.Key([]byte(fmt.Sprint("key", i))))
		if err != nil || string(got) != fmt.Sprint("value", i) {
			t.Errorf("key%d: got %q, %v", i, got, err)
		}
	}
	if err := s.Check(context.Background()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	boom := errors.New("boom")
	err := s.Update(func(tx *Tx) error {
		tx.Set(SpaceCursor.Key([]byte("a")), []byte("1"))
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("Update: got %v, want boom", err)
	}
	if _, err := s.Get(SpaceCursor.Key([]byte("a"))); !errors.Is(err, ErrNotFound) {
		t.Errorf("a write of a failed update is visible: %v", err)
	}
	err = s.Update(func(tx *Tx) error {
		tx.Set(SpaceCursor.Key([]byte("a")), []byte("1"))
		tx.Set([]byte("?"), nil)
		return nil
	})
	if !errors.Is(err, ErrSpace) {
		t.Errorf("Update that ignores a refused Set: got %v, want ErrSpace", err)
	}
}

func TestConcurrentUpdatesShareCommitsAndLoseNothing(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	const writers, each = 16, 25
	key := SpaceCursor.Key([]byte("sum"))
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				err := s.Update(func(tx *Tx) error {
					raw, err := tx.Get(key)
					if err != nil && !errors.Is(err, ErrNotFound) {
						return err
					}
					v, _ := GetU64(raw)
					return tx.Set(key, U64(v+1))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	raw, err := s.Get(key)
	if v, _ := GetU64(raw); err != nil || v != writers*each {
		t.Errorf("sum is %d, %v, want %d", v, err, writers*each)
	}
	if n := s.Head(); n >= writers*each {
		t.Errorf("%d updates took %d commits: none was shared", writers*each, n)
	}
}

func TestIterationMergesStagedAndStored(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for _, k := range []string{"a", "b", "d"} {
		mustSet(t, s, k, "old")
	}
	mustSet(t, s, "z", "other prefix")
	err := s.Update(func(tx *Tx) error {
		at := func(k string) []byte { return SpaceCursor.Key([]byte(k)) }
		tx.Set(at("b"), []byte("new"))
		tx.Set(at("c"), []byte("new"))
		tx.Delete(at("d"))
		var got []string
		err := tx.Each([]byte{byte(SpaceCursor)}, func(k, v []byte) error {
			got = append(got, string(k[1:])+"="+string(v))
			return nil
		})
		if want := "[a=old b=new c=new z=other prefix]"; fmt.Sprint(got) != want {
			t.Errorf("Each: got %v, want %s", got, want)
		}
		k, v, err2 := tx.Last([]byte{byte(SpaceCursor)})
		if string(k) != "sz" || string(v) != "other prefix" || err2 != nil {
			t.Errorf("Last: got %q %q %v", k, v, err2)
		}
		tx.Delete(at("z"))
		if k, _, _ := tx.Last([]byte{byte(SpaceCursor)}); string(k) != "sc" {
			t.Errorf("Last after deleting z: got %q, want sc", k)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLimitsAreExact(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	key := SpaceBlock.Key([]byte("k"))
	if err := s.Set(key, make([]byte, defaultMaxValue)); err != nil {
		t.Errorf("value at the limit: %v", err)
	}
	if err := s.Set(key, make([]byte, defaultMaxValue+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("value above the limit: %v, want ErrTooLarge", err)
	}
	if err := s.Set(SpaceBlock.Key(make([]byte, maxKey-1)), nil); err != nil {
		t.Errorf("key at the limit: %v", err)
	}
	if err := s.Set(SpaceBlock.Key(make([]byte, maxKey)), nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("key above the limit: %v, want ErrTooLarge", err)
	}
	if err := s.Set(linkKey(1), nil); !errors.Is(err, ErrSpace) {
		t.Errorf("write into the commit chain: %v, want ErrSpace", err)
	}
	many := func(n int) error {
		return s.Update(func(tx *Tx) error {
			for i := range n {
				tx.Set(SpaceBlock.Key(U64(uint64(i))), []byte{1})
			}
			return nil
		})
	}
	if err := many(maxGroupWrites); err != nil {
		t.Errorf("update of %d writes: %v", maxGroupWrites, err)
	}
	if err := many(maxGroupWrites + 1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("update of %d writes: %v, want ErrTooLarge", maxGroupWrites+1, err)
	}
}

func TestFullDiskRefusesWritesButTakesDeletions(t *testing.T) {
	free := int64(1 << 30)
	s := open(t, t.TempDir(), Options{Free: func(string) (int64, error) { return free, nil }})
	mustSet(t, s, "a", "1")
	free = defaultMinFree - 1
	if err := s.Set(SpaceCursor.Key([]byte("b")), nil); !errors.Is(err, ErrFull) {
		t.Errorf("write on a full disk: %v, want ErrFull", err)
	}
	if err := s.Update(func(tx *Tx) error { return tx.Delete(SpaceCursor.Key([]byte("a"))) }); err != nil {
		t.Errorf("deletion on a full disk: %v", err)
	}
	free = defaultMinFree
	mustSet(t, s, "b", "2")
}

func TestFailedHeadSyncStopsTheWriter(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	mustSet(t, s, "a", "1")
	s.slots.f.Close()
	if err := s.Set(SpaceCursor.Key([]byte("b")), nil); !errors.Is(err, ErrStopped) {
		t.Errorf("write after the head file failed: %v, want ErrStopped", err)
	}
	if err := s.Set(SpaceCursor.Key([]byte("c")), nil); !errors.Is(err, ErrStopped) {
		t.Errorf("next write: %v, want ErrStopped", err)
	}
	if _, err := s.Get(SpaceCursor.Key([]byte("a"))); err != nil {
		t.Errorf("reading from a stopped store: %v", err)
	}
}

func TestWrongKeyOpensNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	mustSet(t, s, "a", "1")
	s.Close()
	if s, err := Open(dir, MasterKey{9}, Options{}); !errors.Is(err, ErrWrongKey) || errors.Is(err, ErrDegraded) || s != nil {
		t.Errorf("opened under another master key: %v, want ErrWrongKey", err)
	}
	if got, err := open(t, dir, Options{}).Get(SpaceCursor.Key([]byte("a"))); err != nil || string(got) != "1" {
		t.Errorf("the wrong key harmed the store: %q, %v", got, err)
	}
}

func TestSecondOpenerIsTurnedAway(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if _, err := Open(dir, testKey, Options{}); !errors.Is(err, ErrInUse) || errors.Is(err, ErrDegraded) {
		t.Errorf("second opener: %v, want ErrInUse", err)
	}
	mustSet(t, s, "a", "1")
	s.Close()
	open(t, dir, Options{})
}

func TestSwappedValuesAreRefused(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	mustSet(t, s, "a", "1")
	mustSet(t, s, "b", "2")
	a, b := SpaceCursor.Key([]byte("a")), SpaceCursor.Key([]byte("b"))
	txn := s.db.NewTransaction(true)
	item, err := txn.Get(a)
	if err != nil {
		t.Fatal(err)
	}
	sealed, _ := item.ValueCopy(nil)
	if err := errors.Join(txn.Set(b, sealed), txn.Commit()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(b); !errors.Is(err, ErrDamaged) {
		t.Errorf("value moved from a to b: %v, want ErrDamaged", err)
	}
	var damage *DamageError
	if err := s.Check(context.Background()); !errors.As(err, &damage) || damage.Kind != AlteredValue {
		t.Errorf("Check: %v, want AlteredValue", err)
	}
}

func TestDiskImageShowsNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	const keyMark, valueMark = "usagepoint-MARKER-K", "household-MARKER-V"
	for i := range 50 {
		mustSet(t, s, fmt.Sprint(keyMark, i), fmt.Sprint(valueMark, i))
	}
	look := func(when string) {
		filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			if bytes.Contains(raw, []byte("MARKER")) {
				t.Errorf("%s shows plaintext %s", filepath.Base(path), when)
			}
			return err
		})
	}
	look("while open")
	s.Close()
	look("after closing")
}

func TestMasterKeyFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "master.key")
	k, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := LoadOrCreateKey(path); err != nil || again != k {
		t.Errorf("second load: other key or %v", err)
	}
	if s := fmt.Sprintf("%v %+v %#v %s", k, k, k, k); bytes.Contains([]byte(s), fmt.Append(nil, k[0])) && k[0] > 99 {
		t.Errorf("a printed key shows its bytes: %s", s)
	}
	os.Chmod(path, 0o640)
	if _, err := LoadOrCreateKey(path); !errors.Is(err, ErrKeyFile) {
		t.Errorf("key readable by the group: %v, want ErrKeyFile", err)
	}
	os.Chmod(path, 0o600)
	os.WriteFile(path, []byte("short"), 0o600)
	if _, err := LoadOrCreateKey(path); !errors.Is(err, ErrKeyFile) {
		t.Errorf("malformed key: %v, want ErrKeyFile", err)
	}
}

func TestOutboxKeepsUntilDone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	o := s.Outbox("report")
	for i := range 3 {
		if err := o.Put([]byte{byte(i)}, "report", "ssn", []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Put([]byte{1}, "report", "ssn", []byte{1}); err != nil {
		t.Errorf("same message again: %v", err)
	}
	if err := o.Put([]byte{1}, "report", "ssn", []byte{9}); !errors.Is(err, ErrConflict) {
		t.Errorf("same id, other content: %v, want ErrConflict", err)
	}
	if err := errors.Join(o.Done([]byte{0}), o.Done([]byte{0})); err != nil {
		t.Errorf("Done twice: %v", err)
	}
	s.Close()
	s = open(t, dir, Options{})
	got, err := s.Outbox("report").List(0, 10)
	if err != nil || len(got) != 2 || got[0].ID[0] != 1 || got[1].Body[0] != 2 || got[0].To != "ssn" {
		t.Errorf("List after reopening: %+v, %v", got, err)
	}
	if got, _ := s.Outbox("other").List(0, 10); len(got) != 0 {
		t.Errorf("another outbox sees %d messages", len(got))
	}
	if got, _ := s.Outbox("report").List(got[0].Seq, 10); len(got) != 1 {
		t.Errorf("List after the first: %d messages, want 1", len(got))
	}
}

func TestOutboxSaysSinceWhenItsOldestMessageWaits(t *testing.T) {
	o := open(t, t.TempDir(), Options{}).Outbox("alarm")
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	put := func(id byte, at time.Time) {
		t.Helper()
		if err := o.s.Update(func(tx *Tx) error { return o.PutTx(tx, Message{ID: []byte{id}, At: at}) }); err != nil {
			t.Fatal(err)
		}
	}
	want := func(fact string, n int, since time.Time) {
		t.Helper()
		if got, when, err := o.Waiting(); err != nil || got != n || !when.Equal(since) {
			t.Errorf("%s: %d since %v, %v; want %d since %v", fact, got, when, err, n, since)
		}
	}
	want("empty", 0, time.Time{})
	put(1, at)
	put(2, at.Add(time.Minute))
	put(1, at.Add(time.Hour))
	want("the same message again keeps its time", 2, at)
	if err := o.Done([]byte{1}); err != nil {
		t.Fatal(err)
	}
	put(3, time.Time{})
	want("the oldest has left", 2, at.Add(time.Minute))
	if err := o.Done([]byte{2}); err != nil {
		t.Fatal(err)
	}
	want("one without a time", 1, time.Time{})
}

func TestClosedStoreRefuses(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	s.Close()
	if err := s.Set(SpaceCursor.Key(nil), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Set: %v, want ErrClosed", err)
	}
	if _, err := s.Get(SpaceCursor.Key(nil)); !errors.Is(err, ErrClosed) {
		t.Errorf("Get: %v, want ErrClosed", err)
	}
}
