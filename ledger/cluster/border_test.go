package cluster_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/cluster"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/store"
	"gridveil/ledger/writer"
)

const nextOrigin = scene.Origin + "/2027"

// archive is where a member keeps its sealed shards: in a file, the borders and
// what each carried over, and in the stores that they leave.
type archive struct {
	m *member

	mu   sync.Mutex
	list []border
	fail bool // the next crossing ends before it is durable
}

type border struct {
	cluster.Border
	Carried []byte
	Raw     [][]byte
}

func (a *archive) file() string { return a.m.dir() + "-shards" }

func (a *archive) load() {
	b, err := os.ReadFile(a.file())
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(b, &a.list)
	}
	if err != nil {
		panic(err)
	}
}

func (a *archive) Crossed() (out []cluster.Border) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.list {
		out = append(out, x.Border)
	}
	return out
}

func (a *archive) Cross(m ledger.Machine, b cluster.Border) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail {
		return errors.New("crash")
	}
	carried, err := m.(*ledger.Money).State.Carry()
	if err != nil {
		return err
	}
	list := append(slices.Clone(a.list), border{b, carried, a.m.f.sealed})
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := os.WriteFile(a.file(), text, 0o600); err != nil {
		return err
	}
	a.list = list
	return nil
}

func (a *archive) Entry(index uint64) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.list[0].Raw[index], nil
}

// shard makes a config that of the shard in which the member is.
func (m *member) shard(cfg *cluster.Config) {
	a := &archive{m: m}
	a.load()
	m.mu.Lock()
	m.archive = a
	m.mu.Unlock()
	cfg.Shards = a
	policy := ledger.NewPolicy(m.f.tw.Policy.Log)
	cfg.Writer.Dir, cfg.Writer.Machine, cfg.Writer.Policy = m.dir(), ledger.NewMoney(scene.Origin), policy
	if len(a.list) > 0 {
		heir, err := ledger.NewHeir(scene.Origin, nextOrigin, a.list[0].Carried)
		if err != nil {
			panic(err)
		}
		cfg.Writer.Dir, cfg.Writer.Machine, cfg.Writer.Policy = m.dir()+"-2", heir, policy.As(nextOrigin)
	}
}

// sealing is a fleet with a log that it is about to seal: sealed ends with the seal,
// next begins with the shard's first entry.
func sealing(t *testing.T) (f *fleet, b cluster.Border, next [][]byte) {
	t.Helper()
	s := transfers(t, 60)
	sealed, note, _ := s.GoOn(nextOrigin)
	s.Transfers(40)
	f = emptyFleet(t, s)
	f.tw.Policy.Log = ledger.LogKey(scene.Origin, f.tw.Policy.Log.Pub()) // town.New was told the next one
	f.shards, f.sealed = true, sealed
	s.Here = scene.Origin // of what the test signs beside
	f.start(3)
	return f, cluster.Border{End: uint64(len(sealed)), Note: note, Policy: ledger.NewPolicy(f.tw.Policy.Log).String()}, s.Log
}

// beyond waits until whoever leads has crossed the border; it crosses it where
// that has not happened.
func (f *fleet) beyond(b cluster.Border) {
	f.t.Helper()
	eventually(f.t, "the border is crossed", func() bool {
		for _, m := range f.members {
			n := m.up()
			if n == nil || n.Status().State != "Leader" || n.Status().Err != nil {
				continue
			}
			if n.Writer().Origin() == nextOrigin {
				f.mu.Lock()
				f.receipts, f.origin = map[uint64]ledger.Hash{}, nextOrigin
				f.mu.Unlock()
				return true
			}
			if n.Writer().Size() == b.End {
				n.Cross(b) // what is refused is tried again
			}
		}
		return false
	})
}

// one wants the same next shard on every member, with everything that was
// acknowledged in it, and the same end of the one before.
func (f *fleet) one(next [][]byte) {
	f.t.Helper()
	for _, m := range f.members {
		eventually(f.t, fmt.Sprintf("member %d has the next shard", m.no), func() bool {
			n := m.up()
			return n != nil && n.Writer().Origin() == nextOrigin && n.Writer().Size() == uint64(len(next))
		})
		for i, want := range next {
			if raw, err := m.up().Writer().Entry(uint64(i)); err != nil || !bytes.Equal(raw, want) {
				f.t.Fatalf("member %d has another entry %d: %v", m.no, i, err)
			}
		}
		st, err := store.Open(m.dir(), ledger.NewMoney(scene.Origin), m.f.storeOptions())
		if err != nil {
			f.t.Fatal(err)
		}
		if size, _ := st.Size(); size != uint64(len(f.sealed)) {
			f.t.Errorf("member %d sealed %d entries of %d", m.no, size, len(f.sealed))
		}
		if err := st.Close(); err != nil {
			f.t.Error(err)
		}
		if got := m.up().Status().Size; got != uint64(len(f.sealed)+len(next)) {
			f.t.Errorf("member %d counts %d entries of both shards", m.no, got)
		}
	}
}

// TestAllMembersCrossABorder seals a log: all members go on in the next shard, one
// that was away the whole time too, from what the others archived, and once more
// from its own snapshot.
func TestAllMembersCrossABorder(t *testing.T) {
	f, b, next := sealing(t)
	f.submit(f.sealed[:20])
	away := f.members[0]
	if away == f.leader() {
		away = f.members[1]
	}
	away.kill()
	f.submit(f.sealed[20:])
	var late *writer.NotLeaderError
	for _, m := range f.members {
		if n := m.up(); n != nil && m != f.leader() {
			eventually(t, "a member that does not lead has the whole log, and says who crosses its border", func() bool { return errors.As(n.Cross(b), &late) })
		}
	}
	f.beyond(b)
	f.submit(next[:30])
	if err := f.leader().up().Snapshot(); err != nil { // raft no longer has what the absent one lacks
		t.Fatal(err)
	}
	away.again()
	f.submit(next[30:])
	f.one(next)
	if got := away.archive.Crossed(); len(got) != 1 || got[0].End != b.End || !bytes.Equal(got[0].Note, b.Note) {
		t.Errorf("the member that was away crossed %d borders", len(got))
	}
	for _, m := range f.members {
		m.kill()
	}
	for _, m := range f.members {
		m.again()
	}
	f.one(next)
}

// TestALeaderThatDiesAtABorder ends the leader before each durable step of a
// border; the others cross it or stay, all of them alike, and it follows.
func TestALeaderThatDiesAtABorder(t *testing.T) {
	for _, step := range []string{"before", "while", "after"} {
		t.Run(step, func(t *testing.T) {
			f, b, next := sealing(t)
			f.submit(f.sealed)
			l := f.leader()
			switch step {
			case "while": // decided on, and not durable there
				l.archive.mu.Lock()
				l.archive.fail = true
				l.archive.mu.Unlock()
				if err := l.up().Cross(b); err == nil {
					t.Error("a border that did not become durable is crossed")
				}
			case "after":
				if err := l.up().Cross(b); err != nil {
					t.Fatal(err)
				}
			}
			l.kill()
			f.leader(l)
			f.beyond(b)
			f.submit(next[:20])
			l.again()
			f.submit(next[20:])
			f.one(next)
		})
	}
}

// TestABorderThatDoesNotFitIsRefused offers borders that are not the end of the
// log: nothing is crossed, and the members go on.
func TestABorderThatDoesNotFitIsRefused(t *testing.T) {
	for what, change := range map[string]func(f *fleet, b *cluster.Border){
		"too early":    func(f *fleet, b *cluster.Border) { b.End-- },
		"another root": func(f *fleet, b *cluster.Border) { b.Note = f.tw.Scene.Checkpoint(b.End, ledger.Hash{1}) },
		"no policy":    func(f *fleet, b *cluster.Border) { b.Policy = "log" },
		"not sealed":   func(f *fleet, b *cluster.Border) { f.sealed = f.sealed[:len(f.sealed)-1] },
		"without a quorum": func(f *fleet, b *cluster.Border) {
			b.Policy = f.tw.Policy.String()
			b.Note = f.tw.Scene.Checkpoint(b.End, ledger.Hash{1}, "uta")
		},
	} {
		t.Run(what, func(t *testing.T) {
			f, b, _ := sealing(t)
			change(f, &b)
			f.submit(f.sealed)
			l := f.leader()
			if what == "not sealed" {
				size, root := uint64(len(f.sealed)), ledger.Hash{}
				eventually(t, "the root", func() (ok bool) {
					var err error
					root, err = l.up().Writer().RootAt(size)
					return err == nil
				})
				b.End, b.Note = size, f.tw.Scene.Checkpoint(size, root)
			}
			if err := l.up().Cross(b); err == nil {
				t.Error("it is crossed")
			}
			if err := l.up().Status().Err; err != nil {
				t.Errorf("the leader stopped: %v", err)
			}
			for _, m := range f.members {
				if len(m.archive.Crossed()) > 0 {
					t.Error("a member is beyond the border")
				}
			}
		})
	}
	s := transfers(t, 10)
	f := newFleet(t, s, 3)
	f.submit(s.Log)
	if err := f.leader().up().Cross(cluster.Border{End: uint64(len(s.Log))}); !errors.Is(err, ledger.ErrLimit) {
		t.Errorf("a cluster of one log: %v", err)
	}
}
