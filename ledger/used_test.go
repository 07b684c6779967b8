package ledger_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

// shelf keeps what Save gives as a store does.
type shelf struct {
	core    []byte
	windows map[ledger.Window][][]byte
	bytes   int // of the last save's records
}

func (b *shelf) save(s *ledger.State) {
	core, used := s.Save()
	next := map[ledger.Window][][]byte{}
	b.bytes = 0
	for _, u := range used {
		if !u.Whole {
			next[u.Window] = b.windows[u.Window]
		}
		if len(u.Records) > 0 {
			next[u.Window] = append(slices.Clone(next[u.Window]), u.Records)
		}
		b.bytes += len(u.Records)
	}
	b.core, b.windows = core, next
}

func (b *shelf) load() (*ledger.State, error) {
	return ledger.Load(scene.Origin, b.core, func(each func(ledger.Window, []byte) error) error {
		var order []ledger.Window
		for w := range b.windows {
			order = append(order, w)
		}
		slices.SortFunc(order, func(a, b ledger.Window) int { return bytes.Compare(a[:], b[:]) })
		for _, w := range order {
			for _, records := range b.windows[w] {
				if err := each(w, records); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// check proves that what is on the shelf is the state.
func (b *shelf) check(t *testing.T, s *ledger.State) *ledger.State {
	t.Helper()
	back, err := b.load()
	if err != nil {
		t.Fatalf("load at entry %d: %v", s.Size(), err)
	}
	if !bytes.Equal(back.Snapshot(), s.Snapshot()) {
		t.Fatalf("what was saved at entry %d is another state", s.Size())
	}
	return back
}

// TestSavedPartsAreTheState saves a ledger with settled, overdue, disputed,
// moved and cancelled sessions at random moments, for longer than refs are
// remembered, and goes on now and then from what was saved: it is always the
// same state as that of a replay, byte by byte.
func TestSavedPartsAreTheState(t *testing.T) {
	runs := 6
	if testing.Short() {
		runs = 2
	}
	for seed := range uint64(runs) {
		r := rand.New(rand.NewPCG(seed, 28))
		s := scene.New(t, seed).Begin()
		late := &ledger.Party{Party: scene.Late, Role: ledger.ConsumerBody, Approver: true, Name: "Late", Pub: scene.Pub(s.Keys[scene.Late])}
		s.Do(scene.Step{Author: 1, Body: late, Signers: s.As(scene.Evagg, scene.Late, scene.Dso, scene.Regulator, scene.Consumers)})
		var held []ledger.CaseID
		var b shelf
		for step := range 330 {
			payer := scene.Utb
			if r.IntN(3) == 0 {
				payer = scene.Utc // settled only at times
			}
			switch n := r.IntN(20); {
			case n < 10:
				s.By(1, s.CDR(payer, 0, scene.Session(10+r.Int64N(9))))
			case n < 13:
				cdr := s.CDR(scene.Uta, 0, scene.Session(10))
				s.By(1, cdr)
				s.Forget(scene.Uta, 0)
				id := ledger.CaseID{byte(step), byte(step >> 8), 1}
				s.By(1, &ledger.Dispute{Case: id, Asks: ledger.CaseHold, Reason: ledger.ReasonBilling, Utility: scene.Uta, Refs: [][32]byte{cdr.Ref}})
				held = append(held, id)
			case n < 15 && len(held) > 0:
				i := r.IntN(len(held))
				how := ledger.Release
				if r.IntN(2) == 0 {
					how = ledger.Cancel
				}
				s.By(1, &ledger.End{Case: held[i], Outcome: how})
				held = slices.Delete(held, i, i+1)
			case n < 17 || n == 17 && step > 250:
				if n, _, _ := s.State.Unsettled(0, payer, 0, s.State.Bucket()); n > 1 && (payer == scene.Utb || step%90 > 60) {
					s.Do(s.Settle(payer, 0))
				}
			case n == 18 && r.IntN(8) == 0:
				s.Tick(s.Now() + scene.Hour*uint64(2+r.IntN(30)))
			default:
				s.Tick(s.Now() + scene.Hour)
			}
			if r.IntN(4) > 0 {
				continue
			}
			b.save(s.State)
			if back := b.check(t, s.State); r.IntN(3) == 0 {
				s.State = back // what follows is saved by the one that was loaded
			}
		}
		full := ledger.New(scene.Origin)
		for i, raw := range s.Log {
			if _, err := scene.Submit(full, raw); err != nil {
				t.Fatalf("replay of entry %d: %v", i, err)
			}
		}
		if !bytes.Equal(full.Snapshot(), s.State.Snapshot()) {
			t.Fatal("saving and loading gave another state than the replay")
		}
	}
}

// TestAMovedSessionDoesNotComeBack has a session that leaves a bucket which is
// past, but kept for another that is overdue. When it is forgotten in its new
// bucket, the record in the old one must not bring it back.
func TestAMovedSessionDoesNotComeBack(t *testing.T) {
	s := scene.New(t, 8).Begin()
	s.By(1, s.CDR(scene.Utc, 0, scene.Session(10))) // overdue for good
	moved := s.CDR(scene.Utb, 0, scene.Session(10))
	s.By(1, moved)
	var b shelf
	b.save(s.State)
	s.By(1, &ledger.Dispute{Case: ledger.CaseID{1}, Asks: ledger.CaseHold, Reason: ledger.ReasonBilling, Utility: scene.Utb, Refs: [][32]byte{moved.Ref}})
	s.Pass(22)
	s.By(1, &ledger.End{Case: ledger.CaseID{1}, Outcome: ledger.Release})
	b.save(s.State)
	s.State = b.check(t, s.State)
	s.Pass(4)
	s.Do(s.Settle(scene.Utb, 0))
	for range 25 {
		s.Pass(1)
		b.save(s.State)
		b.check(t, s.State)
	}
	if _, state := s.State.Session(moved.Ref); state != ledger.CDRUnknown {
		t.Errorf("the session is %s after its time", state)
	}
}

// TestStoryInParts saves before each entry of the story and goes on from there.
func TestStoryInParts(t *testing.T) {
	s := scene.New(t, 7)
	var b shelf
	s.Story(func(st scene.Step) uint64 {
		b.save(s.State)
		s.State = b.check(t, s.State)
		return s.Do(st)
	})
}

// TestASaveCostsWhatChanged is what parts are for: the second save of a thousand
// sessions has only the one that came since.
func TestASaveCostsWhatChanged(t *testing.T) {
	s := scene.New(t, 9).Begin()
	for range 200 {
		s.By(1, s.CDR(scene.Utb, 0, scene.Session(10)))
	}
	var b shelf
	b.save(s.State)
	all := b.bytes
	s.By(1, s.CDR(scene.Utb, 0, scene.Session(10)))
	b.save(s.State)
	if b.bytes == 0 || b.bytes*200 != all {
		t.Errorf("one session takes %d bytes after 200 that took %d", b.bytes, all)
	}
	b.save(s.State)
	if b.bytes != 0 {
		t.Errorf("nothing changed, and %d bytes are saved", b.bytes)
	}
	s.Do(s.Settle(scene.Utb, 0))
	s.Pass(22)
	b.save(s.State)
	if len(b.windows) != 0 {
		t.Errorf("%d windows are kept after their time", len(b.windows))
	}
	b.check(t, s.State)
}

// parts packs a core and the records of one window for FuzzLoad.
func parts(core []byte, w ledger.Window, records []byte) []byte {
	out := append([]byte{byte(len(core) >> 16), byte(len(core) >> 8), byte(len(core))}, core...)
	return append(append(out, w[:]...), records...)
}

func FuzzLoad(f *testing.F) {
	s := scene.New(f, 3)
	s.Story(func(st scene.Step) uint64 {
		core, used := clone(f, s.State).Save()
		for _, u := range used {
			f.Add(parts(core, u.Window, u.Records))
		}
		return s.Do(st)
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 9 {
			return
		}
		n := min(int(b[0])<<16|int(b[1])<<8|int(b[2]), len(b)-9)
		core, w, records := b[3:3+n], ledger.Window(b[3+n:]), b[9+n:]
		state, err := ledger.Load(scene.Origin, core, func(each func(ledger.Window, []byte) error) error { return each(w, records) })
		if err != nil {
			if !errors.Is(err, ledger.ErrDamaged) {
				t.Fatalf("load: %v", err)
			}
			return
		}
		again, used := state.Save()
		if !bytes.Equal(again, core) || len(used) > 1 {
			t.Fatal("a second encoding of the same state")
		}
		if _, err := ledger.Restore(scene.Origin, state.Snapshot()); err != nil {
			t.Fatalf("what was loaded cannot be written: %v", err)
		}
	})
}
