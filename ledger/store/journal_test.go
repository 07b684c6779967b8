package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

// write appends n small records from a size on.
func write(t *testing.T, j *journal, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		if err := j.append(&record{first: uint64(i), entries: [][]byte{bytes.Repeat([]byte{byte(i)}, 1000)}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheJournalKeepsItsEndAndDropsTheRest(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir, nil, 16<<10, 40<<10)
	if err != nil {
		t.Fatal(err)
	}
	write(t, j, 0, 200)
	places, err := j.scan()
	if err != nil {
		t.Fatal(err)
	}
	first, last := places[0], places[len(places)-1]
	kept := 200 - int(first.first)
	if last.next != 200 || kept*1000 < 40<<10 || kept*1000 > 80<<10 {
		t.Fatalf("records %d to %d are kept", first.first, last.next)
	}
	for i, p := range places[1:] {
		if p.first != places[i].next {
			t.Fatalf("gap before %d", p.first)
		}
	}
}

func TestATornRecordIsOverwritten(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir, nil, 64<<10, 0)
	if err != nil {
		t.Fatal(err)
	}
	write(t, j, 0, 3)
	end := j.end
	torn := j.encode(&record{first: 3, entries: [][]byte{bytes.Repeat([]byte{1}, 5000)}})
	if _, err := j.f.WriteAt(torn[:4000], end); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.close(), j.resume(1, end, nil)); err != nil {
		t.Fatal(err)
	}
	if dirty, err := j.dirtyTail(); err != nil || dirty {
		t.Errorf("the torn record is still there: %v", err)
	}
	write(t, j, 3, 1)
	if places, err := j.scan(); err != nil || len(places) != 4 {
		t.Errorf("%d records, %v", len(places), err)
	}
}

// TestAPrunedJournalStillMendsTheEnd damages the newest entries of a database
// whose journal no longer begins at 0.
func TestAPrunedJournalStillMendsTheEnd(t *testing.T) {
	sc := scene.New(t, 5).Begin()
	sc.Transfers(1200)
	dir, o := t.TempDir(), Options{MemTableBytes: 1 << 20, SegmentBytes: 64 << 10, MinFree: -1}
	s, err := Open(dir, ledger.NewMoney(scene.Origin), o)
	if err != nil {
		t.Fatal(err)
	}
	s.journal.keep = 0 // prune as early as in a log of years
	enter := func(s *Store, log [][]byte) {
		t.Helper()
		for len(log) > 0 {
			n := min(40, len(log))
			var list []*Pending
			for _, raw := range log[:n] {
				p, err := s.Parse(raw)
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, p)
			}
			s.Check(list)
			if _, err := s.Take(list); err != nil {
				t.Fatal(err)
			}
			log = log[n:]
		}
	}
	enter(s, sc.Log)
	size, root := s.Size()
	places, err := s.journal.scan()
	if err != nil || places[0].first == 0 {
		t.Fatalf("the journal begins at %d, %v: the test should prune", places[0].first, err)
	}
	// The memtable log lost its tail: what Badger holds ends early.
	if err := s.put(lose(t, s, places[1].first)...); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, ledger.NewMoney(scene.Origin), o); err != nil {
		t.Fatal(err)
	}
	if got, gotRoot := s.Size(); got != size || gotRoot != root || len(s.Repaired()) == 0 {
		t.Errorf("%d entries of %d, repaired %v", got, size, s.Repaired())
	}
	// Damage before the journal begins cannot be mended here.
	if err := errors.Join(s.put(lose(t, s, 3)...), s.Close()); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(filepath.Join(dir, headName))
	if s, err = Open(dir, ledger.NewMoney(scene.Origin), o); !errors.Is(err, ledger.ErrDamaged) {
		t.Fatalf("got %v", err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, headName)); !bytes.Equal(before, after) {
		t.Error("a damaged log was written to")
	}
}

// lose deletes the chunks from a size on.
func lose(t *testing.T, s *Store, from uint64) (writes []*badger.Entry) {
	t.Helper()
	err := s.keys([]byte{keyChunk}, chunkKey(from), func(key []byte, _ byte) bool {
		writes = append(writes, &badger.Entry{Key: key})
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return writes
}

func FuzzSlot(f *testing.F) {
	v := slot{no: 7, head: head{5, ledger.Hash{1}, 3}, seg: 2, end: 99, signed: signed{4, ledger.Hash{2}}, epoch: 1}
	f.Add(v.encode())
	f.Add(make([]byte, slotSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, ok := parseSlot(b); ok && !bytes.Equal(v.encode(), b) {
			t.Error("another encoding of the same slot")
		}
	})
}

func FuzzJournal(f *testing.F) {
	plain := &journal{}
	f.Add(plain.encode(&record{first: 3, entries: [][]byte{{1}, {2, 3}}, root: ledger.Hash{4}}))
	f.Add([]byte(journalMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, n, err := plain.parse(bytes.NewReader(b))
		if err != nil {
			return
		}
		if !bytes.Equal(plain.encode(rec), b[:n]) {
			t.Error("another encoding of the same record")
		}
	})
}

func TestASlotWithAnyBitFlippedIsRefused(t *testing.T) {
	v := slot{no: 7, head: head{5, ledger.Hash{1}, 3}, seg: 2, end: 99, signed: signed{4, ledger.Hash{2}}, epoch: 1}
	b := v.encode()
	if got, ok := parseSlot(b); !ok || got != v {
		t.Fatalf("got %+v, %v", got, ok)
	}
	for i := range b {
		for bit := range 8 {
			b[i] ^= 1 << bit
			if _, ok := parseSlot(b); ok {
				t.Errorf("byte %d bit %d", i, bit)
			}
			b[i] ^= 1 << bit
		}
	}
}

func TestSealedJournalRecordsAreBoundToTheirPlace(t *testing.T) {
	j, err := openJournal(t.TempDir(), bytes.Repeat([]byte{1}, 32), 1<<16, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	rec := &record{first: 3, entries: [][]byte{{1}, {2, 3}}, root: ledger.Hash{4}}
	b := j.encode(rec)
	if got, n, err := j.parse(bytes.NewReader(b)); err != nil || n != int64(len(b)) || got.first != 3 || got.root != rec.root {
		t.Fatalf("got %+v, %v", got, err)
	}
	other, err := openJournal(t.TempDir(), bytes.Repeat([]byte{2}, 32), 1<<16, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.parse(bytes.NewReader(b)); err == nil {
		t.Error("another key opens it")
	}
}

func FuzzTitle(f *testing.F) {
	m := mosaic{ledger.Window{'r', 0, 0, 0, 0, 9}: {start: 4, parts: 2, sum: [32]byte{1}}, ledger.Window{'n'}: {}}
	f.Add(m.title(3, []byte("core")))
	f.Add(make([]byte, wholeTitle))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parseTitle(b)
		if ok && m != nil && !bytes.Equal(m.list(), b[wholeTitle:]) {
			t.Error("another encoding of the same title")
		}
	})
}
