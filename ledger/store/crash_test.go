package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/store"
)

// TestACrashAtAnyStepLosesNothing stops the log before a step, at its first,
// second and a later time, and goes on from what is on disk.
func TestACrashAtAnyStepLosesNothing(t *testing.T) {
	for _, step := range []string{"W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "snapshot"} {
		for _, nth := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/%d", step, nth), func(t *testing.T) {
				t.Parallel()
				crashAt(t, step, nth, store.Options{MemTableBytes: 1 << 20, SegmentBytes: 64 << 10, MinFree: -1, Key: key})
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

// damage is a log that was killed, and what it had acknowledged by then.
type damage struct {
	dir           string
	acked, signed uint64
}

// killed writes part of the log and takes an image while it runs, without an
// orderly close.
func killed(t *testing.T, o store.Options, n int) (early, late damage) {
	t.Helper()
	dir := t.TempDir()
	s := open(t, dir, o)
	log := telling().Log
	shot := func(upTo int) damage {
		from, _ := s.Size()
		for i := int(from); i < upTo; i += n {
			if err := take(t, s, log[i:min(i+n, upTo)]...); err != nil {
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
		return damage{image(t, dir), uint64(upTo), signed}
	}
	early = shot(len(log) / 2)
	late = shot(len(log)/2 + 60)
	return early, late
}

// survives opens a damaged image. Either everything acknowledged is there, or it
// is refused as damaged.
func survives(t *testing.T, d damage, o store.Options) (refused bool) {
	t.Helper()
	s, err := store.Open(d.dir, ledger.NewMoney(scene.Origin), o)
	if errors.Is(err, ledger.ErrDamaged) {
		return true
	}
	if err != nil {
		t.Fatalf("damage is called %v", err)
	}
	defer s.Close()
	holds(t, s, d.acked)
	if signed, _ := s.Signed(); signed < d.signed {
		t.Errorf("signed up to %d, remembered is %d", d.signed, signed)
	}
	if size, root, err := s.Seal(); err == nil && root != rootOf(t, size) {
		t.Error("a wrong root was sealed")
	}
	return false
}

// TestNoAcknowledgedEntryIsLostUnnoticed is guarantee G3: bits flip, files are
// cut, and later writes reach the disk in part.
func TestNoAcknowledgedEntryIsLostUnnoticed(t *testing.T) {
	images := 60
	if *long {
		images = 10_000
	} else if testing.Short() {
		images = 30
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	o := small
	o.Key = key
	early, late := killed(t, o, 23)
	refused := 0
	for i := range images {
		var what string
		d := damage{t.TempDir(), early.acked, early.signed}
		copyTree(t, early.dir, d.dir)
		switch i % 3 {
		case 0:
			what = flip(t, r, d.dir)
		case 1:
			what = mixPages(t, r, d.dir, late.dir)
		case 2:
			what = shorten(t, r, d.dir)
		}
		t.Run(what, func(t *testing.T) {
			if survives(t, d, o) {
				refused++
				if i%3 == 1 {
					t.Error("an ordinary crash was refused")
				}
			}
		})
		os.RemoveAll(d.dir)
	}
	t.Logf("%d of %d damaged images were refused, the others repaired", refused, images)
}

// files lists the files of a log that are not empty.
func files(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil && info.Size() > 0 {
				list = append(list, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func base(dir, path string) string {
	rel, _ := filepath.Rel(dir, path)
	return strings.ReplaceAll(rel, "/", "_")
}

// flip inverts one bit where something was written.
func flip(t *testing.T, r *rand.Rand, dir string) string {
	list := files(t, dir)
	path := list[r.IntN(len(list))]
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	end := len(b)
	for end > 1 && b[end-1] == 0 { // preallocated zeros say nothing
		end--
	}
	at, bit := r.IntN(end), r.IntN(8)
	b[at] ^= 1 << bit
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("flip %s byte %d bit %d", base(dir, path), at, bit)
}

// shorten cuts the tail off a file.
func shorten(t *testing.T, r *rand.Rand, dir string) string {
	list := files(t, dir)
	path := list[r.IntN(len(list))]
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	n := r.Int64N(info.Size())
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("cut %s at %d of %d", base(dir, path), n, info.Size())
}

// mixPages puts some of the pages that were written later into the image, as a
// kernel may that was interrupted. The head file and the journal up to the
// acknowledged size were synced, so only what differs moves.
func mixPages(t *testing.T, r *rand.Rand, dir, later string) string {
	moved := 0
	for _, path := range files(t, later) {
		rel, _ := filepath.Rel(later, path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		old, err := os.ReadFile(filepath.Join(dir, rel))
		if err != nil { // a file that was made later may be there, whole or empty
			continue
		}
		const page = 4096
		grown := make([]byte, max(len(b), len(old)))
		copy(grown, old)
		for at := 0; at < len(b); at += page {
			end := min(at+page, len(b))
			if string(grown[at:end]) != string(b[at:end]) && r.IntN(2) == 0 {
				copy(grown[at:end], b[at:end])
				moved++
			}
		}
		if rel == "HEAD" {
			grown = old // O_DSYNC: a slot is written whole, and only after its group
		}
		if err := os.WriteFile(filepath.Join(dir, rel), grown, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("%d pages of later writes", moved)
}

func TestEitherCopyRefillsTheOther(t *testing.T) {
	o := small
	early, _ := killed(t, o, 50)
	for name, hurt := range map[string]func(dir string) error{
		"no database": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "badger")) },
		"no journal":  func(dir string) error { return os.RemoveAll(filepath.Join(dir, "journal")) },
		"database refuses its files": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "badger", "MANIFEST"), []byte("no manifest"), 0o600)
		},
		"older head slot": func(dir string) error { return eraseNewerSlot(filepath.Join(dir, "HEAD")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := image(t, early.dir)
			if err := hurt(dir); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir, o)
			holds(t, s, early.acked)
			if name != "older head slot" && len(s.Repaired()) == 0 {
				t.Error("the repair is not reported")
			}
			if _, _, err := run(t, s, early.acked, 100); err != nil {
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
		dir := image(t, early.dir)
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
		dir := image(t, early.dir)
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
