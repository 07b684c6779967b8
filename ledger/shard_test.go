package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

// tally sums up what the entries of a scene moved, without the rules.
type tally map[ledger.Account]int64

func (m tally) add(s *scene.Scene) {
	for i, raw := range s.Log {
		e, err := ledger.Parse(raw)
		if err != nil {
			s.TB.Fatal(err)
		}
		if e.Kind() == ledger.KindShard {
			continue // it repeats what is there
		}
		for _, p := range s.Postings[i] {
			m[p.Account] += p.Amount
		}
	}
}

// check compares every account of the state with the sums.
func (m tally) check(t *testing.T, when string, s *ledger.State) {
	t.Helper()
	var all [2]int64
	for cur := range s.Currencies() {
		c := uint8(cur)
		list := []ledger.Account{ledger.EarnedAccount(c), ledger.NotesAccount(c), ledger.UnclaimedAccount(c)}
		for _, p := range s.Parties() {
			list = append(list, ledger.OpenAccount(p.Party, c), ledger.DueAccount(p.Party, c))
		}
		for _, a := range list {
			if got := s.Balance(a); got != m[a] {
				t.Errorf("%s: %v is %d, the entries sum to %d", when, a, got, m[a])
			}
			all[cur] += s.Balance(a)
		}
	}
	if all != [2]int64{} {
		t.Errorf("%s: accounts sum to %v", when, all)
	}
}

// year lets a shard see money of every sort move.
func year(s *scene.Scene, first bool) {
	if first {
		s.By(scene.Evagg, s.Denoms())
	}
	for kwh := int64(10); kwh <= 20; kwh += 5 {
		s.By(scene.Evagg, s.CDR(scene.Utb, 0, scene.Session(kwh)))
	}
	s.Pass(1)
	s.Do(s.Settle(scene.Utb, 0))
	s.By(scene.Evagg, &ledger.Issue{Epoch: scene.Month, Claims: 3, Root: s.Bytes32(), Counts: []uint32{4, 2, 0}})
	s.By(scene.Uta, s.Redeem(ledger.OpenAccount(scene.Uta, 0), s.Note(0), s.Note(0), s.Note(1)))
	s.Transfers(20)
	s.Pass(2)
	period := s.State.NextClose(0)
	s.By(scene.Evagg, &ledger.Close{Period: period, Pays: s.State.Net(0)})
}

// TestBalancesCarryOverThreeShardsExactly seals a log twice. What every account
// holds at the end is what the entries of all three moved, and what was used or
// is owed in one shard is so in the next.
func TestBalancesCarryOverThreeShardsExactly(t *testing.T) {
	s := scene.New(t, 5).Begin()
	sums := tally{}
	var carried []byte
	for shard := range 3 {
		if shard > 0 {
			before := s.State.Size() + s.State.Base()
			held := s.Redeem(ledger.OpenAccount(scene.Uta, 0), s.Note(0), s.Note(0), s.Note(1))
			cdr := s.CDR(scene.Utc, 0, scene.Session(12)) // left unsettled
			s.By(scene.Evagg, cdr)
			second := s.CDR(scene.Utc, 0, scene.Session(14))
			s.By(scene.Evagg, second)
			s.By(scene.Evagg, &ledger.Issue{Epoch: scene.Month, Claims: 2, Root: s.Bytes32(), Counts: []uint32{2, 1, 0}})
			s.By(scene.Uta, held)
			target := s.By(scene.Uta, &ledger.Transfer{From: ledger.OpenAccount(scene.Uta, 0), To: ledger.OpenAccount(scene.Utb, 0), X: 77, Purpose: ledger.PurposeFeedIn, Ref: s.Bytes32()}) + s.State.Base()
			leaf := ledger.LeafHash(s.Log[len(s.Log)-1])
			state := s.State
			sums.add(s)
			seal := &ledger.Seal{Next: state.Origin()}
			if err := s.Try(scene.Step{Author: scene.Evagg, Body: seal, Signers: s.As(scene.Evagg)}); !errors.Is(err, ledger.ErrMalformed) {
				t.Errorf("sealed in favour of itself: %v", err)
			}
			_, _, carried = s.GoOn(fmt.Sprintf("%s/%d", scene.Origin, 2026+shard))
			sums.check(t, "sealed", state)
			sums.check(t, "carried over", s.State)
			if err := s.State.Audit(); err != nil {
				t.Fatal(err)
			}
			if s.State.Size() != 1 || s.State.Base() != before+6 {
				t.Errorf("size %d after %d entries, want 1 after %d", s.State.Size(), s.State.Base(), before+6)
			}
			if first, err := ledger.Parse(s.Log[0]); err != nil {
				t.Fatal(err)
			} else if _, err := state.Apply(first); !errors.Is(err, ledger.ErrKind) {
				t.Errorf("the sealed log takes another entry: %v", err)
			}
			again := *held
			if err := s.Try(scene.Step{Author: scene.Uta, Body: s.Redeem(again.Payee, again.Notes[0].Note, again.Notes[1].Note, again.Notes[2].Note), Signers: s.As(scene.Uta)}); !errors.Is(err, ledger.ErrDuplicate) {
				t.Errorf("notes of the log before are redeemed again: %v", err)
			}
			twice := *cdr
			twice.Bucket = s.State.OpenBucket(0, scene.Utc, 0)
			if err := s.Try(scene.Step{Author: scene.Evagg, Body: &twice, Signers: s.As(scene.Evagg)}); !errors.Is(err, ledger.ErrDuplicate) {
				t.Errorf("a session of the log before is entered again: %v", err)
			}
			s.By(scene.Utb, &ledger.Reverse{Target: target, Leaf: leaf})
			s.Pass(1)
			s.Do(s.Settle(scene.Utc, 0)) // both sessions of the log before
		}
		year(s, shard == 0)
	}
	sums.add(s)
	sums.check(t, "at the end", s.State)
	replayed, err := ledger.Succeed(fmt.Sprintf("%s/%d", scene.Origin, 2027), s.Here, carried)
	if err != nil {
		t.Fatal(err)
	}
	for i, raw := range s.Log {
		if _, err := scene.Submit(replayed, raw); err != nil {
			t.Fatalf("replay of entry %d: %v", i, err)
		}
		back, err := ledger.Restore(s.Here, replayed.Snapshot())
		if err != nil || back.Hash() != replayed.Hash() || back.Base() != replayed.Base() {
			t.Fatalf("restore after entry %d: %v", i, err)
		}
	}
	if replayed.Hash() != s.State.Hash() {
		t.Error("the replayed state is another")
	}
}

// FuzzSucceed reads what a sealed log is said to have carried over.
func FuzzSucceed(f *testing.F) {
	const next = scene.Origin + "/2027"
	s := scene.New(f, 6).Begin()
	s.Transfers(3)
	f.Add(s.State.Snapshot())
	_, _, carried := s.GoOn(next)
	f.Add(carried)
	f.Add(s.State.Snapshot())
	f.Fuzz(func(t *testing.T, b []byte) {
		heir, err := ledger.Succeed(scene.Origin, next, b)
		if err != nil {
			if !errors.Is(err, ledger.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		if heir.Size() != 0 || heir.Base() == 0 || heir.Sealed() != "" {
			t.Fatalf("heir of size %d after %d entries", heir.Size(), heir.Base())
		}
		if _, err := ledger.Restore(next, heir.Snapshot()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestShardRules(t *testing.T) {
	const next = scene.Origin + "/2027"
	s := scene.New(t, 6).Begin()
	s.Transfers(3)
	if _, err := s.State.Carry(); !errors.Is(err, ledger.ErrKind) {
		t.Errorf("a log that goes on is carried over: %v", err)
	}
	by := func(p ledger.PartyID, body ledger.Body) error {
		return s.Try(scene.Step{Author: p, Body: body, Signers: s.As(p)})
	}
	if err := by(scene.Uta, &ledger.Seal{Next: next}); !errors.Is(err, ledger.ErrRole) && !errors.Is(err, ledger.ErrSigners) {
		t.Errorf("sealed by a utility: %v", err)
	}
	if err := by(scene.Evagg, &ledger.Shard{Rules: 1, Origin: scene.Origin, Params: s.State.Params()}); !errors.Is(err, ledger.ErrKind) {
		t.Errorf("a shard in the middle: %v", err)
	}
	s.By(scene.Evagg, &ledger.Seal{Next: next})
	if err := by(scene.Evagg, &ledger.Anchor{Topic: ledger.TopicTask, Ref: s.Bytes32()}); !errors.Is(err, ledger.ErrWindow) || s.State.Sealed() != next {
		t.Errorf("after the seal: %v", err)
	}
	if e, err := ledger.Parse(s.Log[len(s.Log)-1]); err != nil {
		t.Fatal(err)
	} else if _, err := s.State.Apply(e); !errors.Is(err, ledger.ErrExists) {
		t.Errorf("the seal again: %v", err)
	}
	note := s.Final("uta", "utb")
	carried, err := s.State.Carry()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() (*ledger.State, error){
		"another log":        func() (*ledger.State, error) { return ledger.Succeed("other", next, carried) },
		"another successor":  func() (*ledger.State, error) { return ledger.Succeed(scene.Origin, "other", carried) },
		"a byte is missing":  func() (*ledger.State, error) { return ledger.Succeed(scene.Origin, next, carried[:len(carried)-1]) },
		"a log with history": func() (*ledger.State, error) { return ledger.Succeed(scene.Origin, next, s.State.Snapshot()[:9]) },
	} {
		if _, err := f(); !errors.Is(err, ledger.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	heir, err := ledger.Succeed(scene.Origin, next, carried)
	if err != nil {
		t.Fatal(err)
	}
	s.State, s.Here = heir, next
	good := heir.NewShard(heir.Params(), note)
	change := func(f func(*ledger.Shard)) *ledger.Shard {
		b := *good
		f(&b)
		return &b
	}
	for name, c := range map[string]struct {
		body ledger.Body
		want error
	}{
		"genesis":                     {s.Genesis(), ledger.ErrSigners},
		"something else":              {&ledger.Anchor{Topic: ledger.TopicTask}, ledger.ErrKind},
		"another origin":              {change(func(b *ledger.Shard) { b.Origin = "other" }), ledger.ErrMalformed},
		"other rules":                 {change(func(b *ledger.Shard) { b.Rules = 2 }), ledger.ErrMalformed},
		"another state":               {change(func(b *ledger.Shard) { b.State[0] ^= 1 }), ledger.ErrState},
		"other buckets":               {change(func(b *ledger.Shard) { b.Params.BucketMs++ }), ledger.ErrMalformed},
		"impossible parameters":       {change(func(b *ledger.Shard) { b.Params.K = 0 }), ledger.ErrMalformed},
		"no checkpoint":               {change(func(b *ledger.Shard) { b.Sealed = nil }), ledger.ErrMalformed},
		"a checkpoint of another log": {change(func(b *ledger.Shard) { b.Sealed = bytes.Replace(note, []byte(scene.Origin), []byte("other.log"), 1) }), ledger.ErrState},
		"an earlier checkpoint":       {change(func(b *ledger.Shard) { b.Sealed = bytes.Replace(note, []byte("\n6\n"), []byte("\n5\n"), 1) }), ledger.ErrState},
	} {
		if err := by(scene.Evagg, c.body); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if err := by(scene.Uta, good); !errors.Is(err, ledger.ErrRole) && !errors.Is(err, ledger.ErrSigners) {
		t.Errorf("begun by a utility: %v", err)
	}
	params := heir.Params()
	params.CloseEvery++
	s.By(scene.Evagg, heir.NewShard(params, note))
	if got := s.State.Params().CloseEvery; got != params.CloseEvery {
		t.Errorf("close_every %d", got)
	}
}

// TestWhatWasSignedBeforeABorderHoldsAfterIt signs a transfer and spends notes in
// one shard and enters both in the next: what operators and households hold need
// not be signed again.
func TestWhatWasSignedBeforeABorderHoldsAfterIt(t *testing.T) {
	s := scene.New(t, 8).Begin()
	year(s, true)
	e, err := ledger.NewEntry(scene.Uta, s.State.NextSeq(scene.Uta), s.Redeem(ledger.OpenAccount(scene.Uta, 0), s.Note(0), s.Note(0), s.Note(1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := ledger.Sign(e, scene.Origin, s.Keys[scene.Uta]); err != nil {
		t.Fatal(err)
	}
	old := s.State
	s.GoOn(scene.Origin + "/2027")
	if s.State.Ledger() != scene.Origin || s.State.Origin() == scene.Origin {
		t.Errorf("ledger %q, log %q", s.State.Ledger(), s.State.Origin())
	}
	if _, err := scene.Submit(s.State, e.Bytes()); err != nil {
		t.Errorf("signed before the border, entered after it: %v", err)
	}
	if _, err := scene.Submit(s.State, e.Bytes()); !errors.Is(err, ledger.ErrExists) {
		t.Errorf("entered again: %v", err)
	}
	if _, err := scene.Submit(old, e.Bytes()); err == nil {
		t.Error("the sealed log takes it too")
	}
}
