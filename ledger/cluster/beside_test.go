package cluster_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/cluster"
	"gridveil/ledger/writer"
)

// shelf is a state beside the log: a list of changes.
type shelf struct {
	mu      sync.Mutex
	changes [][]byte
	known   bool
	loads   int
}

func (s *shelf) Position() (n uint64, digest ledger.Hash, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.changes {
		digest = sha256.Sum256(append(digest[:], c...))
	}
	return uint64(len(s.changes)), digest, s.known
}

func (s *shelf) Found() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = true
	return nil
}

func (s *shelf) Apply(change []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, slices.Clone(change))
	return nil
}

func (s *shelf) Dump(w io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.changes {
		if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(c))), c...)); err != nil {
			return err
		}
	}
	return nil
}

func (s *shelf) Load(r io.Reader) error {
	var list [][]byte
	for {
		var n [4]byte
		if _, err := io.ReadFull(r, n[:]); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		c := make([]byte, binary.BigEndian.Uint32(n[:]))
		if _, err := io.ReadFull(r, c); err != nil {
			return err
		}
		list = append(list, c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes, s.known, s.loads = list, true, s.loads+1
	return nil
}

func (s *shelf) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.changes)
}

// put has a change decided on by whoever leads.
func (f *fleet) put(change []byte) {
	f.t.Helper()
	eventually(f.t, "a change", func() bool {
		m := f.leader()
		n := m.up()
		at, digest, _ := m.shelf.Position()
		err := n.Commit(at, digest, change)
		if err != nil && !errors.Is(err, ledger.ErrBusy) {
			f.t.Fatal(err)
		}
		return err == nil
	})
}

// same waits until all shelves are equal.
func (f *fleet) same(n int) {
	f.t.Helper()
	_, want, _ := f.leader().shelf.Position()
	for _, m := range f.members {
		eventually(f.t, "everybody has every change", func() bool {
			at, digest, known := m.shelf.Position()
			return known && at == uint64(n) && digest == want
		})
	}
}

// TestWhatStandsBesideTheLogIsTheSameOnEveryMember: the others take over what the
// first one held, changes are made on all of them, and one that was away for long
// fetches the whole.
func TestWhatStandsBesideTheLogIsTheSameOnEveryMember(t *testing.T) {
	s := transfers(t, 60)
	f := emptyFleet(t, s)
	f.beside = true
	f.tw.Verifiers()
	f.tw.Net.Put("log", http.HandlerFunc(f.serveLog))
	for i := range 3 {
		m := f.newMember(i)
		for range 2 - i { // the first one's state counts
			m.shelf.changes = append(m.shelf.changes, []byte{byte(i), 1})
		}
	}
	f.startMembers()
	f.submit(s.Log[:20])
	f.put([]byte("a"))
	f.same(3)
	if got := f.members[1].shelf.loads; got != 1 {
		t.Errorf("a member took over the state %d times, want once", got)
	}
	l := f.leader()
	at, digest, _ := l.shelf.Position()
	if err := l.up().Commit(at-1, digest, []byte("late")); !errors.Is(err, ledger.ErrBusy) {
		t.Errorf("a change after one that is not the newest: %v", err)
	}
	for _, m := range f.members {
		var refused *writer.NotLeaderError
		if m != l && !errors.As(m.up().Commit(at, digest, []byte("x")), &refused) {
			t.Error("a member that does not lead takes a change")
		}
	}
	if err := l.up().Commit(at, digest, make([]byte, 5<<20)); !errors.Is(err, ledger.ErrLimit) {
		t.Errorf("a change of 5 MiB: %v", err)
	}
	l.kill()
	f.leader(l)
	for range 20 {
		f.put([]byte("b"))
	}
	if err := f.leader(l).up().Snapshot(); err != nil {
		t.Fatal(err)
	}
	l.again()
	f.submit(s.Log[20:])
	f.put([]byte("c"))
	f.same(24)
	f.agree(uint64(len(s.Log)))
	eventually(t, "a survey says so", func() bool {
		all := f.leader().up().Survey(t.Context())
		return len(all) == 3 && !slices.ContainsFunc(all, func(x cluster.Standing) bool { return !x.Answers || !x.InStep || x.Beside != 24 })
	})
}

// TestACopiedRaftLogIsRefused: two machines with one would vote twice.
func TestACopiedRaftLogIsRefused(t *testing.T) {
	s := transfers(t, 10)
	f := newFleet(t, s, 3)
	f.submit(s.Log)
	m := f.members[0]
	m.kill()
	w := f.tw.WriterConfig()
	w.Dir = m.dir()
	_, err := cluster.Open(cluster.Config{Writer: w, Dir: w.Dir + "-cluster", Key: s.Key(), Address: m.address, Members: f.list})
	if err == nil {
		t.Error("another machine's raft log is used")
	}
}
