package store_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"gridveil/ledger/internal/town"
	"gridveil/ledger/store"
)

const page = 4096

// disk is a directory as bytes: files by name, of each the pages that are not
// zero.
type disk map[string]*content

type content struct {
	size  int64
	pages map[int64][]byte // never changed in place
}

// pages are shared between images.
var pages sync.Map

func keep(b []byte) []byte {
	p, _ := pages.LoadOrStore(sha256.Sum256(b), bytes.Clone(b))
	return p.([]byte)
}

var zeros [page]byte

func contentOf(b []byte) *content {
	c := &content{int64(len(b)), map[int64][]byte{}}
	for at := 0; at < len(b); at += page {
		if p := b[at:min(at+page, len(b))]; !bytes.Equal(p, zeros[:len(p)]) {
			c.pages[int64(at)] = keep(p)
		}
	}
	return c
}

func (c *content) bytes() []byte {
	b := make([]byte, c.size)
	for at, p := range c.pages {
		copy(b[min(at, c.size):], p)
	}
	return b
}

// written is where the last byte that is not zero stands, plus one.
func (c *content) written() (end int64) {
	for at, p := range c.pages {
		end = max(end, at+int64(len(bytes.TrimRight(p, "\x00"))))
	}
	return min(end, c.size)
}

// capture reads a directory as a crash would leave it: what was written, synced
// or not. Badger's own goroutines may work on it meanwhile, so it is read until
// two readings name the same files.
func capture(dir string) (disk, error) {
	for {
		before := names(dir)
		d, err := readDisk(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && slices.Equal(before, names(dir)) {
			return d, nil
		}
	}
}

func names(dir string) (list []string) {
	filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error { // an error shows in readDisk
		list = append(list, path)
		return nil
	})
	return list
}

func readDisk(dir string) (disk, error) {
	d := disk{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "LOCK" {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		d[rel] = contentOf(b)
		return err
	})
	return d, err
}

// write makes the directory; its parts exist even without a file.
func (d disk) write(dir string) error {
	for _, part := range []string{"badger", "journal"} {
		if err := os.MkdirAll(filepath.Join(dir, part), 0o700); err != nil {
			return err
		}
	}
	for name, c := range d {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		err = f.Truncate(c.size)
		for at, p := range c.pages {
			if at < c.size && err == nil {
				_, err = f.WriteAt(p[:min(int64(len(p)), c.size-at)], at)
			}
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// shot is an image of a running log, and what it had promised by then.
type shot struct {
	at            string // the step that it was taken before or after
	acked, signed uint64
	disk
}

// film runs a log and takes shots before and after steps, at some of their
// times. With tables the log is closed and opened in between, so that its
// older half is in Badger's tables, and its journal is pruned.
func film(t *testing.T, tables bool) (shots []shot) {
	t.Helper()
	dir, o := filepath.Join(town.RAM(t), "log"), small
	o.Key = key
	var mu sync.Mutex // W1 and W2 run at once
	var acked, signed uint64
	times := map[string]int{}
	o.Fail = func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		times[step]++
		if n := times[step]; acked == 0 || n%3 != 1 || n > 10 {
			return nil
		}
		d, err := capture(dir)
		shots = append(shots, shot{step, acked, signed, d})
		return err
	}
	free := int64(1)
	o.MinFree, o.Free = 1, func(string) (int64, error) { return free, nil }
	log := telling().Log
	s := open(t, dir, o)
	if tables {
		if err := take(t, s, log[:300]...); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = open(t, dir, o)
		store.PruneEarly(s)
		acked = 300
	}
	for i := int(acked); i < len(log); i += 37 {
		next := log[i:min(i+37, len(log))]
		if i/37%4 == 3 {
			free = 0
			if err := take(t, s, next...); !errors.Is(err, store.ErrFull) {
				t.Fatalf("full disk: %v", err)
			}
			o.Fail("full disk")
			free = 1
		}
		if err := take(t, s, next...); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		acked += uint64(len(next))
		mu.Unlock()
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
		size, _, err := s.Seal()
		if err != nil {
			t.Fatal(err)
		}
		if signed = size; i/37%2 == 0 {
			continue
		}
		if err := s.Publish(size, []byte("note")); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	for _, step := range []string{"snapshot used", "snapshot core", "snapshot title", "snapshot drop"} {
		if !slices.ContainsFunc(shots, func(s shot) bool { return s.at == step }) {
			t.Fatalf("no image was taken at %q", step)
		}
	}
	return shots
}
