package town

import (
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

// CPU is the time that this process has computed, whoever else does.
func CPU(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// DiskBytes is the size of a log's files without its journal.
func DiskBytes(tb testing.TB, dir string) (n int) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.Contains(name, "journal") {
			return err
		}
		info, err := e.Info()
		n += int(info.Size())
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// Lax is a machine for benchmarks: signatures are those that a fresh scene
// demands, but it takes every entry, in any order and any number of times.
type Lax struct {
	*ledger.Money // the scene's state, which never changes
	n             uint64
}

// NewLax is a machine that has taken nothing.
func NewLax(s *scene.Scene) *Lax {
	m := ledger.NewMoney(scene.Origin)
	for _, raw := range s.Log[:2] {
		e, err := ledger.Parse(raw)
		if err == nil {
			_, err = m.State.Apply(e)
		}
		if err != nil {
			s.TB.Fatal(err)
		}
	}
	return &Lax{Money: m}
}

// Apply takes the entry.
func (m *Lax) Apply(ledger.Item) error {
	m.n++
	return nil
}

// Size is how many entries were taken.
func (m *Lax) Size() uint64 { return m.n }

// Laps is a Lax that applies the rules: the entries of each author come round
// again and again, each time to the state of the scene's beginning.
type Laps struct {
	*Lax
	start []byte
	size  map[ledger.PartyID]int // entries of a lap
	at    map[ledger.PartyID]*lap
}

type lap struct {
	state *ledger.State
	left  int
}

// NewLaps is a machine for the entries of s after the first two, which of one
// author do not depend on those of another.
func NewLaps(s *scene.Scene) *Laps {
	m := &Laps{Lax: NewLax(s), size: map[ledger.PartyID]int{}, at: map[ledger.PartyID]*lap{}}
	m.start = m.State.Snapshot()
	for _, raw := range s.Log[2:] {
		e, err := ledger.Parse(raw)
		if err != nil {
			s.TB.Fatal(err)
		}
		m.size[e.Party()]++
	}
	return m
}

// Apply applies the entry to the state of its author's lap.
func (m *Laps) Apply(it ledger.Item) error {
	e := it.(*ledger.Entry)
	l := m.at[e.Party()]
	if l == nil {
		state, err := ledger.Restore(scene.Origin, m.start)
		if err != nil {
			return err
		}
		l = &lap{state, m.size[e.Party()]}
		m.at[e.Party()] = l
	}
	if _, err := l.state.Apply(e); err != nil {
		return err
	}
	if l.left--; l.left == 0 {
		delete(m.at, e.Party())
	}
	return m.Lax.Apply(it)
}
