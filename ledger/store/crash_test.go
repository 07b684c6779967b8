package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/store"
)

// TestACrashAtAnyStepLosesNothing stops the log at a step, before it or by a sync
// that fails after it, and goes on from what is on disk.
func TestACrashAtAnyStepLosesNothing(t *testing.T) {
	for _, step := range []string{"W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9",
		"snapshot", "snapshot used", "snapshot core", "snapshot title", "snapshot drop"} {
		for i, when := range []string{"", " done", ""} {
			t.Run(fmt.Sprintf("%s%s/%d", step, when, i/2+1), func(t *testing.T) {
				t.Parallel()
				crashAt(t, step+when, i/2+1, store.Options{MemTableBytes: 1 << 20, SegmentBytes: 64 << 10, MinFree: -1, Key: key})
			})
		}
	}
}

var errCrash = errors.New("crash")

func crashAt(t *testing.T, step string, nth int, o store.Options) {
	times := 0
	o.Fail = func(name string) error {
		if name == step {
			if times++; times == nth {
				return errCrash
			}
		}
		return nil
	}
	dir := t.TempDir()
	s := open(t, dir, o)
	acked, signed, err := run(t, s, 0, 37)
	if !errors.Is(err, errCrash) || !errors.Is(err, ledger.ErrHalted) {
		t.Fatalf("the crash gives %v", err)
	}
	if err := take(t, s, telling().Log[acked]); !errors.Is(err, ledger.ErrHalted) {
		t.Errorf("after the crash: got %v", err)
	}
	if _, _, err := s.Seal(); !errors.Is(err, ledger.ErrHalted) {
		t.Errorf("sealing after the crash: got %v", err)
	}
	after := image(t, dir)
	o.Fail = nil
	again := open(t, after, o)
	size := holds(t, again, acked)
	if got, _ := again.Signed(); got < signed {
		t.Errorf("signed up to %d, remembered is %d", signed, got)
	}
	// Whoever got no receipt sends again, from before the crash.
	if _, _, err := run(t, again, acked/2, 41); err != nil {
		t.Fatalf("going on from %d: %v", size, err)
	}
	if got := holds(t, again, 0); got != uint64(len(telling().Log)) {
		t.Errorf("the log has %d entries in the end, want %d", got, len(telling().Log))
	}
}

// killed writes half of the log and takes an image while it runs, without an
// orderly close.
func killed(t *testing.T, o store.Options) shot {
	t.Helper()
	dir := t.TempDir()
	s := open(t, dir, o)
	half := len(telling().Log) / 2
	for part := range slices.Chunk(telling().Log[:half], 50) {
		if err := take(t, s, part...); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Snapshot(); err != nil {
		t.Fatal(err)
	}
	signed, _, err := s.Seal()
	if err != nil {
		t.Fatal(err)
	}
	d, err := capture(dir)
	if err != nil {
		t.Fatal(err)
	}
	return shot{"killed", uint64(half), signed, d}
}

func TestEitherCopyRefillsTheOther(t *testing.T) {
	o := small
	was := killed(t, o)
	image := func() string {
		dir := t.TempDir()
		if err := was.write(dir); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name, hurt := range map[string]func(dir string) error{
		"no database": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "badger")) },
		"no journal":  func(dir string) error { return os.RemoveAll(filepath.Join(dir, "journal")) },
		"database refuses its files": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "badger", "MANIFEST"), []byte("no manifest"), 0o600)
		},
		"older head slot": func(dir string) error { return eraseNewerSlot(filepath.Join(dir, "HEAD")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := image()
			if err := hurt(dir); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir, o)
			holds(t, s, was.acked)
			if name != "older head slot" && len(s.Repaired()) == 0 {
				t.Error("the repair is not reported")
			}
			if _, _, err := run(t, s, was.acked, 100); err != nil {
				t.Fatal(err)
			}
			s.Close()
			s = open(t, dir, o)
			holds(t, s, uint64(len(telling().Log)))
			if len(s.Repaired()) > 0 {
				t.Errorf("repaired again: %v", s.Repaired())
			}
		})
	}
	t.Run("both copies short", func(t *testing.T) {
		dir := image()
		os.RemoveAll(filepath.Join(dir, "badger"))
		os.RemoveAll(filepath.Join(dir, "journal"))
		before, _ := os.ReadFile(filepath.Join(dir, "HEAD"))
		if _, err := store.Open(dir, ledger.NewMoney(scene.Origin), o); !errors.Is(err, ledger.ErrDamaged) {
			t.Fatalf("got %v", err)
		}
		if after, _ := os.ReadFile(filepath.Join(dir, "HEAD")); string(after) != string(before) {
			t.Error("a damaged log was written to")
		}
	})
	t.Run("both head slots", func(t *testing.T) {
		dir := image()
		if err := os.WriteFile(filepath.Join(dir, "HEAD"), make([]byte, 5000), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(dir, ledger.NewMoney(scene.Origin), o); !errors.Is(err, ledger.ErrDamaged) {
			t.Fatalf("got %v", err)
		}
	})
}

// eraseNewerSlot leaves the log with the slot before its last write.
func eraseNewerSlot(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	newer := 0
	if string(b[8:16]) < string(b[4096+8:4096+16]) {
		newer = 4096
	}
	copy(b[newer:newer+512], make([]byte, 512))
	return os.WriteFile(path, b, 0o600)
}
