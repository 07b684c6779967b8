package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridveil/node/store"
)

// keeping makes a data directory whose store holds a cursor.
func keeping(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	mk, err := store.LoadOrCreateKey(filepath.Join(dir, "store.key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(dir, "store"), mk, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(st.Set(store.SpaceCursor.Key([]byte("a")), []byte("1")), st.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestADamagedStoreIsGivenUpOnlyWhenItsOwnerSaysSo(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for name, c := range map[string]struct {
		damage func(dir string) error
		aside  bool
	}{
		"no head slots": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "store", "HEAD"), make([]byte, 8192), 0o600)
		}, false},
		"no data keys": {func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "store", "data.keys")), os.Remove(filepath.Join(dir, "store", "data.keys.2")))
		}, true},
		"no manifest": {func(dir string) error { return os.Remove(filepath.Join(dir, "store", "badger", "MANIFEST")) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := keeping(t)
			if found, _, err := AcceptDamage(dir, now); found != nil || err != nil {
				t.Fatalf("a sound store: %v, %v", found, err)
			}
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			if err := CheckStore(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "gridveil store accept") {
				t.Fatalf("check: %v does not say what to do", err)
			}
			st, err := openStored(dir)
			if !errors.Is(err, store.ErrDegraded) {
				t.Fatalf("open: %v, want ErrDegraded still", err)
			}
			if st != nil {
				if err := st.Close(); err != nil {
					t.Fatal(err)
				}
			}
			found, aside, err := AcceptDamage(dir, now)
			if found == nil || err != nil || (aside != "") != c.aside {
				t.Fatalf("accept: %v, aside %q, %v", found, aside, err)
			}
			if c.aside {
				if _, err := os.Stat(filepath.Join(aside, "badger")); err != nil {
					t.Errorf("the damaged store was not kept: %v", err)
				}
				return
			}
			if err := CheckStore(t.Context(), dir); err != nil {
				t.Errorf("check after accepting: %v", err)
			}
		})
	}
}
