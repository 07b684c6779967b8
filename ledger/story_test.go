package ledger_test

import (
	"crypto/ed25519"
	"errors"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

func TestStoryHasEveryKindAndSurvivesRestore(t *testing.T) {
	s := scene.New(t, 1)
	seen := map[ledger.Kind]bool{}
	s.Story(func(st scene.Step) uint64 {
		seen[st.Body.Kind()] = true
		at := s.Do(st)
		if err := s.State.Audit(); err != nil {
			t.Fatal(err)
		}
		back, err := ledger.Restore(scene.Origin, s.State.Snapshot())
		if err != nil {
			t.Fatalf("restore after entry %d (%s): %v", at, st.Body.Kind(), err)
		}
		if back.Hash() != s.State.Hash() {
			t.Fatalf("restore after entry %d gives another hash", at)
		}
		return at
	})
	for k := ledger.Kind(1); k < 0x50; k++ {
		if k.String()[0] != 'k' || k == ledger.KindKey {
			if !seen[k] && k != ledger.KindSeal && k != ledger.KindShard { // an end and another beginning: shard_test.go
				t.Errorf("the story has no %s", k)
			}
		}
	}
}

// clone copies a state through its snapshot.
func clone(t testing.TB, s *ledger.State) *ledger.State {
	t.Helper()
	c, err := ledger.Restore(s.Origin(), s.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestG1 tries, for each step of the story, every set of signers that is not
// the demanded one. Guarantee G1: an operator's total falls only under its own
// signature.
func TestG1EverySetOfSignersButTheRightOneIsRefused(t *testing.T) {
	s := scene.New(t, 2)
	s.Story(func(st scene.Step) uint64 {
		refused := func(what string, st scene.Step, wants ...error) {
			t.Helper()
			before := s.State.Hash()
			e := s.Entry(st)
			_, err := scene.Submit(s.State, e.Bytes())
			for _, want := range wants {
				if errors.Is(err, want) {
					if s.State.Hash() != before {
						t.Fatalf("%s %s: refused, but the state changed", st.Body.Kind(), what)
					}
					return
				}
			}
			t.Errorf("%s %s: got %v, want %v", st.Body.Kind(), what, err, wants)
		}
		for i := range st.Signers {
			less := append(append([]scene.Signer(nil), st.Signers[:i]...), st.Signers[i+1:]...)
			if len(less) > 0 {
				refused("without one signer", scene.Step{Author: st.Author, Body: st.Body, Signers: less}, ledger.ErrSigners)
			}
			foreign := append([]scene.Signer{{Use: ledger.UseEntry, Key: s.Key()}}, less...)
			refused("with an unknown key instead", scene.Step{Author: st.Author, Body: st.Body, Signers: foreign}, ledger.ErrSigners)
			for p := scene.Evagg; p <= scene.Late; p++ {
				if !among(st.Signers, s.Keys[p]) && !spareApprover(st, p, s) {
					swapped := append(s.As(p), less...)
					refused("with another party instead", scene.Step{Author: st.Author, Body: st.Body, Signers: swapped}, ledger.ErrSigners)
				}
			}
		}
		if len(st.Signers) < ledger.MaxSigs {
			for p := scene.Evagg; p <= scene.Late; p++ {
				if !among(st.Signers, s.Keys[p]) {
					refused("with an extra party", scene.Step{Author: st.Author, Body: st.Body, Signers: append(s.As(p), st.Signers...)}, ledger.ErrSigners)
				}
			}
		}
		if st.Body.Kind() != ledger.KindGenesis {
			for p := scene.Evagg; p <= scene.Utc; p++ {
				if p != st.Author && !anyAuthor(st.Body) {
					refused("by another author", scene.Step{Author: p, Body: st.Body, Signers: s.As(p)}, ledger.ErrSigners, ledger.ErrRole)
				}
			}
			foreignLog(t, s, st)
			revoked(t, s, st)
		}
		return s.Do(st)
	})
}

func among(list []scene.Signer, k ed25519.PrivateKey) bool {
	for _, s := range list {
		if s.Key.Equal(k) {
			return true
		}
	}
	return false
}

// spareApprover reports whether p may take the place of a missing approver.
func spareApprover(st scene.Step, p ledger.PartyID, s *scene.Scene) bool {
	b, ok := st.Body.(*ledger.Party)
	return ok && b.Approver && int(p) <= len(s.State.Parties()) && s.State.Parties()[p-1].Approver
}

// anyAuthor lists the kinds that every party may enter in its own name, with
// rules of their own.
func anyAuthor(b ledger.Body) bool {
	switch b := b.(type) {
	case *ledger.Anchor, *ledger.Dispute, *ledger.Approve, *ledger.Partial, *ledger.Tariff:
		return true
	case *ledger.Key:
		return b.Add
	}
	return false
}

func foreignLog(t *testing.T, s *scene.Scene, st scene.Step) {
	t.Helper()
	e, err := ledger.NewEntry(st.Author, s.State.NextSeq(st.Author), st.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range st.Signers {
		if err := ledger.SignAs(e, "another.log", k.Use, k.Key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := scene.Submit(s.State, e.Bytes()); !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("%s signed for another log: got %v, want %v", st.Body.Kind(), err, ledger.ErrSignature)
	}
}

// revoked replaces the author's key by a new one and submits the step signed
// with the old.
func revoked(t *testing.T, s *scene.Scene, st scene.Step) {
	t.Helper()
	state := clone(t, s.State)
	fresh := s.Key()
	enter := func(seq uint64, body ledger.Body, keys ...ed25519.PrivateKey) error {
		e, err := ledger.NewEntry(st.Author, seq, body)
		if err != nil {
			t.Fatal(err)
		}
		if err := ledger.Sign(e, scene.Origin, keys...); err != nil {
			t.Fatal(err)
		}
		_, err = scene.Submit(state, e.Bytes())
		return err
	}
	seq := state.NextSeq(st.Author)
	old := s.Keys[st.Author]
	if err := enter(seq, &ledger.Key{Add: true, Use: ledger.UseEntry, Pub: scene.Pub(fresh)}, old, fresh); err != nil {
		t.Fatal(err)
	}
	if err := enter(seq+1, &ledger.Key{Use: ledger.UseEntry, Pub: scene.Pub(old)}, fresh); err != nil {
		t.Fatal(err)
	}
	e, err := ledger.NewEntry(st.Author, seq+2, st.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range st.Signers {
		if err := ledger.SignAs(e, scene.Origin, k.Use, k.Key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := scene.Submit(state, e.Bytes()); !errors.Is(err, ledger.ErrSigners) {
		t.Errorf("%s with a revoked key: got %v, want %v", st.Body.Kind(), err, ledger.ErrSigners)
	}
}

// TestSnapshotAndReplayEqualFullReplay stops at every entry of the story,
// restores a snapshot, and goes on.
func TestSnapshotAndReplayEqualFullReplay(t *testing.T) {
	s := scene.New(t, 7)
	s.Story(s.Do)
	full := ledger.New(scene.Origin)
	want := string(s.State.Snapshot())
	for i, raw := range s.Log {
		rest := clone(t, full)
		for _, later := range s.Log[i:] {
			e, err := ledger.Parse(later)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := rest.Apply(e); err != nil {
				t.Fatalf("from a snapshot before entry %d: %v", i, err)
			}
		}
		if string(rest.Snapshot()) != want {
			t.Fatalf("from a snapshot before entry %d: another state", i)
		}
		e, err := ledger.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := full.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCodesAndErrorsMatch(t *testing.T) {
	for c := ledger.Code(1); c.Err() != ledger.Code(9999).Err() || c == ledger.CodeOf(ledger.ErrHalted); c++ {
		if got := ledger.CodeOf(c.Err()); got != c {
			t.Errorf("code %d: comes back as %d", c, got)
		}
	}
	if ledger.CodeOf(nil) != 0 || ledger.Code(0).Err() != nil || ledger.CodeOf(errors.New("x")) != ledger.CodeOf(ledger.ErrHalted) {
		t.Error("no error and strange errors")
	}
	if ledger.CodeOf(&ledger.SeqGapError{}) != ledger.CodeOf(ledger.ErrSeqGap) {
		t.Error("a typed error has not the code of its sentinel")
	}
}
