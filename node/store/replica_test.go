package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
)

// pair is a leader and a store that follows it.
func pair(t *testing.T) (leader, follower *Store) {
	t.Helper()
	leader, follower = open(t, t.TempDir(), Options{Replica: true}), open(t, t.TempDir(), Options{Replica: true})
	if err := leader.Found([32]byte{1}); err != nil {
		t.Fatal(err)
	}
	return leader, follower
}

// both proposes to two stores, as a cluster would.
func both(leader, follower *Store) func(Position, []byte) error {
	return func(at Position, data []byte) error {
		for _, s := range []*Store{leader, follower} {
			if here, ok := s.Position(); !ok || here != at {
				return fmt.Errorf("at %v, proposed at %v", here, at)
			}
			if err := s.Apply(data); err != nil {
				return err
			}
		}
		return nil
	}
}

func move(t *testing.T, from, to *Store) {
	t.Helper()
	var dump bytes.Buffer
	if err := from.Dump(&dump); err != nil {
		t.Fatal(err)
	}
	if err := to.Load(&dump); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, s *Store) (out string) {
	t.Helper()
	err := s.View(func(tx *Tx) error {
		return tx.Each(SpaceCursor.Key(), func(k, v []byte) error {
			out += fmt.Sprintf("%q=%q\n", k, v)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAReplicaHoldsWhatItsLeaderCommitted(t *testing.T) {
	a, b := pair(t)
	if err := b.Set(SpaceCursor.Key([]byte("own")), nil); !errors.Is(err, ErrFollows) {
		t.Fatalf("a follower writes: %v", err)
	}
	if err := a.Dump(io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := b.Dump(io.Discard); !errors.Is(err, ErrFollows) {
		t.Fatalf("a store without a position gives itself away: %v", err)
	}
	move(t, a, b)
	a.Lead(both(a, b))
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		err := a.Update(func(tx *Tx) error {
			if i%3 == 2 {
				return tx.Delete(faultKey(rnd.IntN(50)))
			}
			return tx.Set(faultKey(rnd.IntN(50)), []byte(faultValue(i)))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	pa, _ := a.Position()
	if pb, _ := b.Position(); pa != pb || pa.N != 300 || content(t, a) != content(t, b) {
		t.Fatalf("positions %v and %v", pa, pb)
	}
	// A new leader goes on where the old one was.
	b.Lead(both(b, a))
	if err := b.Set(faultKey(99), []byte("after")); err != nil {
		t.Fatal(err)
	}
	if content(t, a) != content(t, b) {
		t.Error("the stores differ after the lead changed")
	}
}

func TestALeaderThatIsRefusedStopsAndHasWrittenNothing(t *testing.T) {
	a, b := pair(t)
	move(t, a, b)
	lost := errors.New("another machine leads")
	a.Lead(func(Position, []byte) error { return lost })
	if err := a.Set(faultKey(1), []byte("x")); !errors.Is(err, lost) || !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	if err := a.Set(faultKey(2), []byte("x")); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	if content(t, a) != "" {
		t.Error("a refused commit is there")
	}
	b.Lead(both(b, a)) // it still follows
	if err := b.Set(faultKey(3), []byte("y")); err != nil || content(t, a) != content(t, b) {
		t.Fatal(err)
	}
}

func TestAPositionSurvivesARestartButNotALonelyRun(t *testing.T) {
	dir := t.TempDir()
	for round, replica := range []bool{true, true, false, false, true} {
		s, err := Open(dir, testKey, Options{Replica: replica})
		if err != nil {
			t.Fatal(err)
		}
		p, ok := s.Position()
		if want := round > 0 && round < 4; ok != want || ok && p.Digest != [32]byte{7} {
			t.Errorf("round %d: position %v, known %v", round, p, ok)
		}
		if round == 3 {
			if err := s.Set(faultKey(1), nil); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 {
			if err := s.Found([32]byte{7}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALoadThatBreaksOffLeavesNoPosition(t *testing.T) {
	a, b := pair(t)
	a.Lead(func(at Position, data []byte) error { return a.Apply(data) })
	for i := range 20 {
		if err := a.Set(faultKey(i), []byte(faultValue(i))); err != nil {
			t.Fatal(err)
		}
	}
	var dump bytes.Buffer
	if err := a.Dump(&dump); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 39, 40, 60, dump.Len() - 1} {
		if err := b.Load(bytes.NewReader(dump.Bytes()[:n])); !errors.Is(err, ErrReplica) {
			t.Errorf("%d bytes of a dump: %v", n, err)
		}
		if _, ok := b.Position(); ok {
			t.Errorf("%d bytes of a dump are a position", n)
		}
	}
	move(t, a, b)
	if content(t, a) != content(t, b) {
		t.Error("the dump that came at last is not what was sent")
	}
}

func FuzzWrites(f *testing.F) {
	f.Add(encodeWrites(layer{"sa": {value: []byte("1")}, "sb": {gone: true}}))
	f.Add([]byte{0, 0, 1, 's', 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := decodeWrites(b); err == nil && !bytes.Equal(encodeWrites(w), b) {
			t.Errorf("%x is read as %x", b, encodeWrites(w))
		}
	})
}

func FuzzLoad(f *testing.F) {
	s, err := Open(f.TempDir(), testKey, Options{Replica: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	f.Add(append(make([]byte, 40), 0, 2, 's', 'a', 0, 0, 0, 1, 'x', 0, 0))
	f.Add(make([]byte, 42))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := s.Load(bytes.NewReader(b))
		if _, ok := s.Position(); ok != (err == nil) {
			t.Errorf("loaded: %v, position known: %v", err, ok)
		}
	})
}
