package store

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var long = flag.Bool("long", false, "run the full fault matrix (10,000 images)")

// image copies a store directory as a crash would leave it: what is in the
// page cache of the open store, without the lock.
func image(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), raw, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func faultKey(i int) []byte   { return SpaceCursor.Key([]byte(fmt.Sprintf("k%03d", i))) }
func faultValue(i int) string { return fmt.Sprintf("value %d %s", i, strings.Repeat("x", i%50)) }

// filled is an open store with n commits of one key each.
func filled(t *testing.T, n int, o Options) (*Store, string) {
	t.Helper()
	dir := t.TempDir()
	s := open(t, dir, o)
	for i := range n {
		if err := s.Set(faultKey(i), []byte(faultValue(i))); err != nil {
			t.Fatal(err)
		}
	}
	return s, dir
}

// verdict opens an image and says how many of n acknowledged values are right,
// and whether anything was noticed.
func verdict(dir string, n int, o Options) (right int, noticed error) {
	s, err := Open(dir, testKey, o)
	if s == nil {
		return 0, err
	}
	defer s.Close()
	noticed = err
	for i := range n {
		v, err := s.Get(faultKey(i))
		if err == nil && string(v) == faultValue(i) {
			right++
		} else if err != nil && !errors.Is(err, ErrNotFound) {
			noticed = errors.Join(noticed, err)
		}
	}
	return right, noticed
}

func TestCrashAfterEveryCommitLosesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	for i := range 25 {
		if err := s.Set(faultKey(i), []byte(faultValue(i))); err != nil {
			t.Fatal(err)
		}
		if right, err := verdict(image(t, dir), i+1, Options{}); right != i+1 || err != nil {
			t.Fatalf("after commit %d: %d values right, %v", i+1, right, err)
		}
	}
}

func TestCrashBetweenCommitAndHeadSlotIsRepaired(t *testing.T) {
	s, dir := filled(t, 10, Options{})
	before, err := os.ReadFile(filepath.Join(dir, headName))
	if err != nil {
		t.Fatal(err)
	}
	mustSet(t, s, "unacknowledged", "x")
	img := image(t, dir)
	if err := os.WriteFile(filepath.Join(img, headName), before, 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(t, img, Options{})
	if again.Head() != 11 {
		t.Errorf("head is %d, want the durable 11", again.Head())
	}
	mustSet(t, again, "next", "y")
	again.Close()
	if right, err := verdict(img, 10, Options{}); right != 10 || err != nil {
		t.Errorf("after the repair: %d right, %v", right, err)
	}
}

// TestStoreFaultMatrix damages images of a crashed store in one place each and
// asks that either every acknowledged value is right or the loss is noticed.
func TestStoreFaultMatrix(t *testing.T) {
	const commits = 40
	images := 120
	switch {
	case *long:
		images = 10000
	case testing.Short():
		images = 40
	}
	_, dir := filled(t, commits, Options{})
	files := stored(t, dir)
	seed := uint64(20240607)
	rng := rand.New(rand.NewPCG(seed, 0))
	lost := 0
	for n := range images {
		img := image(t, dir)
		f := files[n%len(files)]
		what := damage(t, rng, filepath.Join(img, f.path), f.used, n)
		right, noticed := verdict(img, commits, Options{})
		if right != commits {
			lost++
			if noticed == nil {
				t.Errorf("seed %d image %d, %s of %s: %d of %d values lost without a word", seed, n, what, f.path, commits-right, commits)
			}
		}
		os.RemoveAll(img)
	}
	if lost == 0 {
		t.Error("no image lost anything: the matrix tests nothing")
	}
	t.Logf("%d images, %d lost values, all noticed", images, lost)
}

type storedFile struct {
	path string
	used int // bytes up to the last one that is not zero
}

func stored(t *testing.T, dir string) (out []storedFile) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" {
			return err
		}
		raw, err := os.ReadFile(path)
		used := len(raw)
		for used > 0 && raw[used-1] == 0 {
			used--
		}
		if rel, _ := filepath.Rel(dir, path); used > 0 {
			out = append(out, storedFile{rel, used})
		}
		return err
	})
	return out
}

// damage flips a bit, tears the tail, or zeroes a 512-byte sector.
func damage(t *testing.T, rng *rand.Rand, path string, used, n int) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := rng.IntN(used)
	what := ""
	switch n / 7 % 3 {
	case 0:
		raw[at] ^= 1 << rng.IntN(8)
		what = fmt.Sprintf("bit flip at %d", at)
	case 1:
		clear(raw[at:])
		what = fmt.Sprintf("tail torn at %d", at)
	case 2:
		at -= at % 512
		clear(raw[at:min(at+512, len(raw))])
		what = fmt.Sprintf("sector zeroed at %d", at)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return what
}

func TestLostFilesAreNoticed(t *testing.T) {
	const commits = 30
	s, dir := filled(t, commits, Options{})
	crashed := image(t, dir)
	s.Close()
	for name, from := range map[string]string{"crashed": crashed, "closed": dir} {
		for _, f := range stored(t, from) {
			img := image(t, from)
			os.Remove(filepath.Join(img, f.path))
			right, noticed := verdict(img, commits, Options{})
			if right != commits && noticed == nil {
				t.Errorf("%s store without %s: %d values lost without a word", name, f.path, commits-right)
			}
			if f.path == headName && noticed == nil {
				t.Errorf("%s store without head slots: not noticed", name)
			}
		}
	}
}

func TestDamageIsNamedAcceptedAndGoneAfterwards(t *testing.T) {
	const commits = 40
	_, dir := filled(t, commits, Options{})
	img := image(t, dir)
	for _, f := range stored(t, img) {
		if strings.HasSuffix(f.path, ".mem") {
			raw, _ := os.ReadFile(filepath.Join(img, f.path))
			clear(raw[f.used/2:])
			os.WriteFile(filepath.Join(img, f.path), raw, 0o600)
		}
	}
	s, err := Open(img, testKey, Options{})
	var d *DamageError
	if !errors.As(err, &d) || d.Kind != LostTail || d.To != commits || d.From == 0 || d.From >= d.To || s == nil {
		t.Fatalf("Open: %v", err)
	}
	if !strings.Contains(d.Error(), fmt.Sprintf("commits %d to %d", d.From, d.To)) || d.Next() == "" {
		t.Errorf("error does not say what is lost and what to do: %v", d)
	}
	if err := s.Set(faultKey(0), nil); !errors.Is(err, ErrDegraded) {
		t.Errorf("write while degraded: %v, want ErrDegraded", err)
	}
	if v, err := s.Get(faultKey(0)); err != nil || string(v) != faultValue(0) {
		t.Errorf("reading while degraded: %q, %v", v, err)
	}
	if err := s.AcceptDamage(); err != nil {
		t.Fatal(err)
	}
	if got := s.Head(); got != commits+1 {
		t.Errorf("new chain begins at commit %d, want %d: numbers must not repeat", got, commits+1)
	}
	mustSet(t, s, "after", "1")
	if err := s.Check(context.Background()); err != nil {
		t.Errorf("Check after acceptance: %v", err)
	}
	s.Close()
	s = open(t, img, Options{})
	if s.Damage() != nil {
		t.Error("accepted damage is back after reopening")
	}
}

func TestAcceptedAlteredValueStaysUnreadableButStopsNothing(t *testing.T) {
	s, dir := filled(t, 5, Options{})
	txn := s.db.NewTransaction(true)
	if err := errors.Join(txn.Set(faultKey(2), make([]byte, 99)), txn.Commit(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, testKey, Options{})
	var d *DamageError
	if !errors.As(err, &d) || d.Kind != AlteredValue || d.Space != SpaceCursor {
		t.Fatalf("Open: %v", err)
	}
	if err := s.AcceptDamage(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir, Options{})
	if _, err := s.Get(faultKey(2)); !errors.Is(err, ErrDamaged) {
		t.Errorf("altered value: %v, want ErrDamaged", err)
	}
	if err := s.Set(faultKey(2), []byte(faultValue(2))); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(context.Background()); err != nil {
		t.Errorf("after the value was fetched again: %v", err)
	}
}

func TestChainIsTrimmedAndStillVerifies(t *testing.T) {
	const commits = 200
	s, dir := filled(t, commits, Options{Keep: recheck})
	first := uint64(0)
	s.eachLink(func(l link) error {
		if first == 0 {
			first = l.n
		}
		return nil
	})
	if first != commits-recheck+1 {
		t.Errorf("oldest kept commit is %d, want %d", first, commits-recheck+1)
	}
	s.Close()
	if right, err := verdict(dir, commits, Options{Keep: recheck}); right != commits || err != nil {
		t.Errorf("after trimming: %d right, %v", right, err)
	}
}

func TestSetAsideMakesRoomForAnEmptyStore(t *testing.T) {
	s, dir := filled(t, 3, Options{})
	s.Close()
	to, err := SetAside(dir, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(to, headName)); err != nil {
		t.Error("damaged directory was not kept")
	}
	fresh := open(t, dir, Options{})
	if fresh.Head() != 0 {
		t.Errorf("fresh store begins at %d", fresh.Head())
	}
}

func FuzzLink(f *testing.F) {
	f.Add(link{n: 3, entries: []linkEntry{{key: []byte("sx")}, {key: []byte("sy"), gone: true}}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := decodeLink(b); err == nil && string(l.encode()) != string(b) {
			t.Error("commit record is not bijective")
		}
	})
}
