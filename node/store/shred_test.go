package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gridveil/node/store"
	"gridveil/node/store/storetest"
)

var master = store.MasterKey{4, 5, 6}

// aging is an open store whose clock the test turns.
type aging struct {
	*store.Store
	t   *testing.T
	dir string
	now time.Time
}

func (a *aging) open(dir string) {
	a.t.Helper()
	s, err := store.Open(dir, master, store.Options{MinFree: -1, Now: func() time.Time { return a.now }})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { s.Close() })
	a.Store, a.dir = s, dir
}

// days lets days pass, each with a maintenance.
func (a *aging) days(n int) {
	a.t.Helper()
	for range n {
		a.now = a.now.Add(24 * time.Hour)
		if err := a.Maintain(a.t.Context()); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *aging) set(key, value string) {
	a.t.Helper()
	if err := a.Set(store.SpaceCursor.Key([]byte(key)), []byte(value)); err != nil {
		a.t.Fatal(err)
	}
}

func (a *aging) get(key string) string {
	a.t.Helper()
	v, err := a.Get(store.SpaceCursor.Key([]byte(key)))
	if err != nil {
		a.t.Errorf("%s: %v", key, err)
	}
	return string(v)
}

// copied is the directory as a thief or a backup takes it now.
func (a *aging) copied() string {
	a.t.Helper()
	to := filepath.Join(a.t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(a.dir)); err != nil {
		a.t.Fatal(err)
	}
	return to
}

func TestShreddedValueIsNowhere(t *testing.T) {
	a := &aging{t: t, now: time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)}
	a.open(filepath.Join(t.TempDir(), "store"))
	const secret = "kitchen light at 02:13"
	shows := func(dir, keysOf string) (blobs, shown int) {
		values, blobs := storetest.Thief(t, dir, keysOf, master)
		for _, v := range values {
			if bytes.Contains(v, []byte(secret)) {
				shown++
			}
		}
		return blobs, shown
	}
	a.set("kept", "a bill")
	a.days(25)
	a.set("reading", secret)
	a.days(30)
	a.set("reading", secret+" again") // the second generation has it too
	backup := a.copied()
	if err := a.Update(func(tx *store.Tx) error { return tx.Delete(store.SpaceCursor.Key([]byte("reading"))) }); err != nil {
		t.Fatal(err)
	}
	old := a.copied()
	for i := range 10 { // what else a node does
		a.set(fmt.Sprint("other", i), "x")
	}
	for name, copied := range map[string]string{"backup": backup, "copy after the deletion": old} {
		if blobs, shown := shows(copied, copied); shown == 0 {
			t.Fatalf("%s with its own keys shows nothing in %d blobs: this test could not fail", name, blobs)
		}
	}
	a.days(61)
	for name, copied := range map[string]string{"backup": backup, "copy after the deletion": old, "store": a.dir} {
		if blobs, shown := shows(copied, a.dir); shown != 0 || blobs == 0 {
			t.Errorf("%s, two months after the deletion: %d of %d blobs show it", name, shown, blobs)
		}
	}
	if a.get("kept") != "a bill" {
		t.Error("what was not deleted is lost")
	}
	if err := errors.Join(a.Check(t.Context()), a.Close()); err != nil {
		t.Error(err)
	}
	a.open(a.dir)
	if a.get("kept") != "a bill" {
		t.Error("what was not deleted is lost after a restart")
	}
	// A whole backup is the store of its time, with its keys, and ages on.
	a.open(backup)
	a.days(100)
	if a.get("reading") != secret+" again" || a.get("kept") != "a bill" {
		t.Error("the restored backup lost something")
	}
}
