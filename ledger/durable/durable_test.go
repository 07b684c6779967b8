package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

var testKey = bytes.Repeat([]byte{7}, 32)

func testOptions(dir string) badger.Options {
	return Options(dir, testKey, 1<<20, 1<<10, nil).WithNumCompactors(0)
}

// oneTable makes a database whose values are all in one table.
func oneTable(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	db, err := Open(testOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(txn *badger.Txn) error {
		for i := range 200 {
			if err := txn.Set(fmt.Appendf(nil, "key %03d", i), bytes.Repeat([]byte{byte(i)}, 100)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if got := tables(t, dir); len(got) != 1 {
		t.Fatalf("%d tables, want 1", len(got))
	}
	return dir
}

func tables(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func flip(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[(at+len(b))%len(b)] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamageIsAnErrorAndNothingIsDeleted(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]func(t *testing.T, dir, table string){
		"bit in the first block":       func(t *testing.T, dir, table string) { flip(t, table, 10) },
		"bit in the index":             func(t *testing.T, dir, table string) { flip(t, table, -100) },
		"bit in the checksum":          func(t *testing.T, dir, table string) { flip(t, table, -6) },
		"bit in the checksum's length": func(t *testing.T, dir, table string) { flip(t, table, -1) },
		"table cut to half":            func(t *testing.T, dir, table string) { must(t, os.Truncate(table, 9000)) },
		"table empty":                  func(t *testing.T, dir, table string) { must(t, os.Truncate(table, 0)) },
		"no table":                     func(t *testing.T, dir, table string) { must(t, os.Rename(table, table+".kept")) },
		"no manifest":                  func(t *testing.T, dir, table string) { must(t, os.Remove(filepath.Join(dir, badger.ManifestFilename))) },
		"bit in the manifest's head":   func(t *testing.T, dir, table string) { flip(t, filepath.Join(dir, badger.ManifestFilename), 1) },
		"no key registry": func(t *testing.T, dir, table string) {
			must(t, os.Remove(filepath.Join(dir, badger.KeyRegistryFileName)))
		},
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			dir := oneTable(t)
			damage(t, dir, tables(t, dir)[0])
			before := tables(t, dir)
			db, err := Open(testOptions(dir))
			if err == nil {
				db.Close()
			}
			if !errors.Is(err, ErrFiles) {
				t.Errorf("open: %v, want ErrFiles", err)
			}
			if after := tables(t, dir); len(after) != len(before) {
				t.Errorf("%d tables are left of %d", len(after), len(before))
			}
		})
	}
}

func TestAnotherKeyIsNoDamage(t *testing.T) {
	dir := oneTable(t)
	o := testOptions(dir).WithEncryptionKey(bytes.Repeat([]byte{8}, 32))
	if _, err := Open(o); !errors.Is(err, badger.ErrEncryptionKeyMismatch) {
		t.Errorf("open: %v, want ErrEncryptionKeyMismatch", err)
	}
	db, err := Open(testOptions(dir))
	if err != nil {
		t.Fatalf("open with the right key: %v", err)
	}
	defer db.Close()
	err = db.View(func(txn *badger.Txn) error {
		_, err := txn.Get([]byte("key 199"))
		return err
	})
	if err != nil {
		t.Errorf("read: %v", err)
	}
}

func TestWriteFileReplacesWholeFilesOrNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "note")
	for _, text := range []string{"first, and longer", "second"} {
		if err := WriteFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("read %q, %v, want %q", got, err, text)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if err := WriteFile(dir, nil); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if err := WriteFile(filepath.Join(dir, "none", "note"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write below no folder: %v, want ErrNotExist", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%d files are left, %v, want the note alone", len(left), err)
	}
}
