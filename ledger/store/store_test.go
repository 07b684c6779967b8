package store_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/tile"
	"gridveil/ledger/store"
)

var long = flag.Bool("long", false, "run the long crash and damage tests")

// small makes memtables and segments that fill up within a test.
var small = store.Options{MemTableBytes: 1 << 20, SegmentBytes: 64 << 10, MinFree: -1}

var key = bytes.Repeat([]byte{7}, 32)

// telling is the log of these tests: every kind of entry, then transfers and
// sessions of a day, so that snapshots and their used-sets are written all along.
var telling = sync.OnceValue(func() *scene.Scene {
	s := scene.New(nopTB{}, 3)
	s.Story(s.Do)
	for bucket := range 16 {
		s.Transfers(30)
		for range 4 {
			s.By(scene.Evagg, s.CDR(scene.Uta, 0, scene.Session(10)))
		}
		if bucket%5 == 4 {
			s.Do(s.Settle(scene.Uta, 0))
		}
		s.Pass(1)
	}
	return s
})

// nopTB lets a scene outlive the test that needed it first.
type nopTB struct{ testing.TB }

func (nopTB) Helper()                      {}
func (nopTB) Fatal(args ...any)            { panic(args) }
func (nopTB) Fatalf(_ string, args ...any) { panic(args) }

// state is what a machine must be after an entry: by its hash, and byte by byte.
type state struct{ hash, whole [32]byte }

func stateOf(m interface {
	Hash() [32]byte
	Snapshot() []byte
}) state {
	return state{m.Hash(), sha256.Sum256(m.Snapshot())}
}

// states of the log of these tests.
var states = sync.OnceValue(func() []state { return replay(telling().Log) })

// replay gives the states after each entry, without a store.
func replay(log [][]byte) []state {
	s := ledger.New(scene.Origin)
	out := []state{stateOf(s)}
	for _, raw := range log {
		e, err := ledger.Parse(raw)
		if err == nil {
			_, err = s.Apply(e)
		}
		if err != nil {
			panic(err)
		}
		out = append(out, stateOf(s))
	}
	return out
}

// roots of the first n entries, by a tree in memory.
var tree = sync.OnceValue(func() *tile.Hashes {
	h := new(tile.Hashes)
	for _, raw := range telling().Log {
		if err := h.Append(ledger.LeafHash(raw)); err != nil {
			panic(err)
		}
	}
	return h
})

func rootOf(t testing.TB, n uint64) ledger.Hash {
	t.Helper()
	root, err := tree().Root(n)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func open(t testing.TB, dir string, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(dir, ledger.NewMoney(scene.Origin), o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// take enters log entries as one group.
func take(t testing.TB, s *store.Store, raw ...[]byte) error {
	t.Helper()
	var list []*store.Pending
	for _, r := range raw {
		p, err := s.Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	s.Check(list)
	if _, err := s.Take(list); err != nil {
		return err
	}
	for i, p := range list {
		if p.Err != nil && !errors.Is(p.Err, ledger.ErrExists) {
			t.Fatalf("entry %d of the group: %v", i, p.Err)
		}
	}
	return nil
}

// run writes the log from entry from on in groups of n, sealing, publishing and
// taking snapshots between. It returns what was acknowledged and signed before
// the first error.
func run(t testing.TB, s *store.Store, from uint64, n int) (acked, signed uint64, err error) {
	t.Helper()
	acked, _ = s.Size()
	signed, _ = s.Signed()
	log := telling().Log
	for i := int(from); i < len(log); i += n {
		if err := take(t, s, log[i:min(i+n, len(log))]...); err != nil {
			return acked, signed, err
		}
		acked, _ = s.Size()
		if err := s.Snapshot(); err != nil {
			return acked, signed, err
		}
		if i/n%3 != 0 {
			continue
		}
		size, root, err := s.Seal()
		if err != nil {
			return acked, signed, err
		}
		signed = size
		if root != rootOf(t, size) {
			t.Fatalf("sealed another root at %d", size)
		}
		if err := s.Publish(size, []byte("note")); err != nil {
			return acked, signed, err
		}
	}
	return acked, signed, nil
}

// holds checks that a store has the first entries of the log, all of them the
// same, and the state that they give.
func holds(t testing.TB, s *store.Store, atLeast uint64) uint64 {
	t.Helper()
	size, root := s.Size()
	if size < atLeast {
		t.Fatalf("%d entries were acknowledged, %d are there", atLeast, size)
	}
	if root != rootOf(t, size) {
		t.Fatalf("root of %d entries is another", size)
	}
	i := uint64(0)
	err := s.Entries(0, size, func(at uint64, raw []byte) error {
		if at != i || !bytes.Equal(raw, telling().Log[at]) {
			t.Fatalf("entry %d is another", at)
		}
		i++
		return nil
	})
	if err != nil || i != size {
		t.Fatalf("read %d of %d entries: %v", i, size, err)
	}
	s.Read(func(m ledger.Machine) {
		if m.Size() != size || stateOf(m) != states()[size] {
			t.Errorf("state after %d entries is another", size)
		}
	})
	return size
}

// image copies a log directory as a crash would leave it: what was written,
// whether synced or not.
func image(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	copyTree(t, dir, to)
	return to
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(from, path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // compacted away meanwhile
			return nil
		case err != nil:
			return err
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case d.Name() == "LOCK":
			return nil
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestALogIsFoundAgain(t *testing.T) {
	for name, k := range map[string][]byte{"plain": nil, "encrypted": key} {
		t.Run(name, func(t *testing.T) {
			dir, o := t.TempDir(), small
			o.Key = k
			s := open(t, dir, o)
			if _, _, err := run(t, s, 0, 50); err != nil {
				t.Fatal(err)
			}
			size, _, err := s.Seal()
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.PutNote("x", []byte("y")), s.Publish(size, []byte("last")), s.Close()); err != nil {
				t.Fatal(err)
			}
			if got := containsEntries(t, dir); got == (k != nil) {
				t.Errorf("entries in clear in the files: %v", got)
			}
			s = open(t, dir, o)
			holds(t, s, uint64(len(telling().Log)))
			if signed, root := s.Signed(); signed != size || root != rootOf(t, size) {
				t.Errorf("signed size is %d, want %d", signed, size)
			}
			if at, note := s.Published(); at != size || string(note) != "last" {
				t.Errorf("published: %d %q", at, note)
			}
			if note, err := s.Note("x"); err != nil || string(note) != "y" {
				t.Errorf("note: %q %v", note, err)
			}
			if len(s.Repaired()) > 0 {
				t.Errorf("repaired: %v", s.Repaired())
			}
		})
	}
}

// containsEntries reports whether any file of the log holds the name of an
// operator in clear.
func containsEntries(t *testing.T, dir string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || bytes.Contains(b, []byte("Stadtwerke Uta"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestOpenRefusesWhatItCannotTrust(t *testing.T) {
	dir, o := t.TempDir(), small
	o.Key = key
	s := open(t, dir, o)
	if _, _, err := run(t, s, 0, 300); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(dir, ledger.NewMoney(scene.Origin), o); err == nil || errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("a second process: got %v", err)
	}
	s.Close()
	try := func(o store.Options) error {
		s, err := store.Open(dir, ledger.NewMoney(scene.Origin), o)
		if err == nil {
			s.Close()
		}
		return err
	}
	other := o
	other.Key = bytes.Repeat([]byte{8}, 32)
	if err := try(other); err == nil || errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("another key: got %v", err)
	}
	other.Key = nil
	if err := try(other); err == nil || errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("no key: got %v", err)
	}
	if err := try(o); err != nil {
		t.Fatalf("after the refusals: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "HEAD")); err != nil {
		t.Fatal(err)
	}
	if err := try(o); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("without a head file: got %v", err)
	}
	for name, bad := range map[string]store.Options{
		"short key":     {Key: key[:31]},
		"tiny memtable": {MemTableBytes: 1<<20 - 1},
		"tiny segment":  {SegmentBytes: 1},
	} {
		if _, err := store.Open(t.TempDir(), ledger.NewMoney(scene.Origin), bad); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := store.Open(t.TempDir(), &ledger.Money{State: telling().State}, small); err == nil {
		t.Error("a machine that is not empty was accepted")
	}
}

func TestGroupsHaveTheirLimits(t *testing.T) {
	o := small
	o.MemTableBytes = 4 << 20
	s := open(t, t.TempDir(), o)
	log := telling().Log
	group := func(n int) error {
		var list []*store.Pending
		for i := range n {
			p, err := s.Parse(log[i%len(log)])
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, p)
		}
		s.Check(list)
		_, err := s.Take(list)
		return err
	}
	if err := group(store.MaxGroup + 1); err == nil {
		t.Error("a group above the limit was taken")
	}
	if size, _ := s.Size(); size != 0 {
		t.Errorf("%d entries of it were", size)
	}
	if err := group(store.MaxGroup); err != nil {
		t.Errorf("a full group: %v", err)
	}
	holds(t, s, uint64(min(len(log), store.MaxGroup)))
}

func TestAFullDiskRefusesAndGoesOn(t *testing.T) {
	o, free := small, int64(1000)
	o.MinFree, o.Free = 100, func(string) (int64, error) { return free, nil }
	s := open(t, t.TempDir(), o)
	log := telling().Log
	if err := take(t, s, log[:5]...); err != nil {
		t.Fatal(err)
	}
	free = 99
	if err := take(t, s, log[5:9]...); !errors.Is(err, store.ErrFull) || !errors.Is(err, ledger.ErrBusy) {
		t.Fatalf("full disk: got %v", err)
	}
	holds(t, s, 5)
	free = 100
	if err := take(t, s, log[5:9]...); err != nil {
		t.Fatal(err)
	}
	holds(t, s, 9)
}

func TestARefusedEntryLeavesNoTrace(t *testing.T) {
	s := open(t, t.TempDir(), small)
	log := telling().Log
	if err := take(t, s, log[:10]...); err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(log[11])
	forged[len(forged)-1] ^= 1
	var list []*store.Pending
	for _, raw := range [][]byte{log[10], forged, log[11], log[12]} {
		p, err := s.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	s.Check(list[:2], list[2:])
	first, err := s.Take(list)
	if err != nil || first != 10 {
		t.Fatalf("Take: %d, %v", first, err)
	}
	if !errors.Is(list[1].Err, ledger.ErrSignature) || list[0].Err != nil || list[2].Err != nil || list[3].Err != nil {
		t.Errorf("errors: %v %v %v %v", list[0].Err, list[1].Err, list[2].Err, list[3].Err)
	}
	holds(t, s, 13)
}

func TestTakeAllTakesAllOrNothing(t *testing.T) {
	s := open(t, t.TempDir(), small)
	log := telling().Log
	parse := func(raw ...[]byte) (list []*store.Pending) {
		for _, r := range raw {
			p, err := s.Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, p)
		}
		return list
	}
	if bad, err := s.TakeAll(parse(log[:590]...)); bad != -1 || err != nil {
		t.Fatalf("got %d, %v", bad, err)
	}
	holds(t, s, 590)
	bad, err := s.TakeAll(parse(log[590], log[591], log[591], log[592]))
	if bad != 2 || !errors.Is(err, ledger.ErrExists) {
		t.Fatalf("an entry twice: got %d, %v", bad, err)
	}
	if holds(t, s, 590) != 590 {
		t.Error("a part was taken")
	}
	if bad, err := s.TakeAll(parse(log[590:]...)); bad != -1 || err != nil {
		t.Fatalf("got %d, %v", bad, err)
	}
	holds(t, s, uint64(len(log)))
}

func TestTilesAndProofsAreThoseOfTheTree(t *testing.T) {
	s := open(t, t.TempDir(), small)
	if _, _, err := run(t, s, 0, 113); err != nil {
		t.Fatal(err)
	}
	size, root := s.Size()
	for _, want := range tile.Of(size) {
		if want.L == tile.Entries {
			b, err := s.Bundle(want)
			if err != nil {
				t.Fatal(err)
			}
			list, err := ledger.ParseBundle(b, tile.Width)
			if err != nil || len(list) != want.W {
				t.Errorf("%s: %d entries, %v", want.Path(), len(list), err)
			}
			continue
		}
		got, err := s.Tile(want)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := tree().Tile(want); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s differs, %v", want.Path(), err)
		}
	}
	for _, bad := range []tile.Tile{{L: 0, N: 9999, W: 1}, {L: 7, N: 0, W: 1}, {L: 0, N: size / 256, W: 256}, {L: 63, N: 0, W: 256}, {L: 0, N: 1 << 60, W: 3}} {
		if _, err := s.Tile(bad); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
	c := ledger.Checkpoint{Origin: scene.Origin, Size: size, Root: root}
	for _, i := range []uint64{0, 1, 255, 256, size / 2, size - 1} {
		p, err := s.ProveInclusion(i, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := ledger.CheckInclusion(c, i, ledger.LeafHash(telling().Log[i]), p); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
		if i == 0 {
			continue
		}
		got, err := s.RootAt(i)
		if err != nil || got != rootOf(t, i) {
			t.Errorf("RootAt(%d): %v", i, err)
		}
		if p, err = s.ProveConsistency(i, c); err != nil {
			t.Fatal(err)
		}
		if err := ledger.CheckConsistency(ledger.Checkpoint{Size: i, Root: got}, c, p); err != nil {
			t.Errorf("growth from %d: %v", i, err)
		}
	}
	if _, err := s.RootAt(size + 1); !errors.Is(err, ledger.ErrMalformed) {
		t.Errorf("root beyond the end: got %v", err)
	}
}
