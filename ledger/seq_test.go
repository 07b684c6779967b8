package ledger_test

import (
	"errors"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

func anchor(ref byte) *ledger.Anchor { return &ledger.Anchor{Topic: ledger.TopicKeyList, Ref: h(ref)} }

// entry signs a body with a given sequence number.
func entry(t *testing.T, s *scene.Scene, author ledger.PartyID, seq uint64, body ledger.Body) *ledger.Entry {
	t.Helper()
	e, err := ledger.NewEntry(author, seq, body)
	if err != nil {
		t.Fatal(err)
	}
	if err := ledger.Sign(e, scene.Origin, s.Keys[author]); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestSequenceNumbers(t *testing.T) {
	s := scene.New(t, 1).Begin()
	s.By(scene.Dso, anchor(1))
	s.By(scene.Dso, anchor(2))
	var gap *ledger.SeqGapError
	if _, err := s.State.Apply(entry(t, s, scene.Dso, 4, anchor(4))); !errors.As(err, &gap) || gap.Want != 3 || !errors.Is(err, ledger.ErrSeqGap) {
		t.Errorf("a gap: got %v, want resend from 3", err)
	}
	var exists *ledger.ExistsError
	if _, err := s.State.Apply(entry(t, s, scene.Dso, 1, anchor(1))); !errors.As(err, &exists) || exists.Index != 2 {
		t.Errorf("the same entry again: got %v, want it at index 2", err)
	}
	var conflict *ledger.SeqConflictError
	if _, err := s.State.Apply(entry(t, s, scene.Dso, 2, anchor(9))); !errors.As(err, &conflict) || conflict.Index != 3 {
		t.Errorf("other bytes under a used number: got %v, want conflict with index 3", err)
	}
	refused := entry(t, s, scene.Dso, 3, &ledger.Transfer{From: ledger.OpenAccount(scene.Dso, 0), To: ledger.OpenAccount(scene.Dso, 0), X: 1})
	if _, err := s.State.Apply(refused); !errors.Is(err, ledger.ErrMalformed) {
		t.Fatalf("transfer to itself: got %v", err)
	}
	if _, err := s.State.Apply(entry(t, s, scene.Dso, 3, anchor(3))); err != nil {
		t.Errorf("a refused entry uses up no sequence number: %v", err)
	}
}

// TestG7 is guarantee G7: the same entry sent any number of times counts once.
func TestG7EveryEntryOfTheStoryCountsOnce(t *testing.T) {
	s := scene.New(t, 2)
	s.Story(s.Do)
	before := s.State.Hash()
	for _, state := range []*ledger.State{s.State, clone(t, s.State)} { // as it is, and after a restart
		for i := len(s.Log) - 1; i > 0; i-- {
			e, err := ledger.Parse(s.Log[i])
			if err != nil {
				t.Fatal(err)
			}
			var exists *ledger.ExistsError
			if _, err := state.Apply(e); !errors.As(err, &exists) || exists.Index != uint64(i) {
				t.Fatalf("entry %d again: got %v, want it to exist there", i, err)
			}
			if _, err := scene.Submit(state, s.Log[i]); !errors.As(err, &exists) || exists.Index != uint64(i) {
				t.Fatalf("entry %d through the whole flow: got %v, want it to exist there", i, err)
			}
		}
		if state.Hash() != before {
			t.Error("resending changed the state")
		}
	}
}

func TestG7AnotherSequenceNumberDoesNotHelp(t *testing.T) {
	s := scene.New(t, 3)
	s.Story(s.Do)
	before := s.State.Hash()
	for i, raw := range s.Log {
		e, err := ledger.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		switch e.Kind() {
		case ledger.KindCDR, ledger.KindSettle, ledger.KindReverse, ledger.KindRedeem, ledger.KindClose, ledger.KindPaid,
			ledger.KindFailed, ledger.KindDispute, ledger.KindDenoms, ledger.KindLapse, ledger.KindParty, ledger.KindKey:
		default:
			continue // a transfer or issue may be made twice if its signers sign it twice
		}
		again, err := ledger.NewEntry(e.Party(), s.State.NextSeq(e.Party()), e.Body())
		if err != nil {
			t.Fatal(err)
		}
		for p := range s.Keys {
			for _, sig := range e.Sigs() {
				if sig.Key == ledger.KeyIDOf(ledger.UseEntry, scene.Pub(s.Keys[p])) {
					if err := ledger.Sign(again, scene.Origin, s.Keys[p]); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if _, err := s.State.Apply(again); err == nil {
			t.Errorf("entry %d (%s) was accepted a second time under another sequence number", i, e.Kind())
		}
	}
	if s.State.Hash() != before {
		t.Error("refused entries changed the state")
	}
}

func TestOldSequenceNumbersBeyondTheWindowAreNamed(t *testing.T) {
	s := scene.New(t, 4).Begin()
	first := entry(t, s, scene.Dso, 1, anchor(0))
	for seq := uint64(1); seq <= 9000; seq++ {
		if _, err := s.State.Apply(entryFast(t, s, scene.Dso, seq)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.State.Apply(first); !errors.Is(err, ledger.ErrSeqOld) {
		t.Errorf("an entry 9000 back: got %v, want %v", err, ledger.ErrSeqOld)
	}
	if _, err := s.State.Apply(entryFast(t, s, scene.Dso, 9000-4095)); !errors.Is(err, ledger.ErrExists) {
		t.Errorf("an entry 4096 back: got %v, want %v", err, ledger.ErrExists)
	}
}

// entryFast has the right signer but no signature: Apply checks none.
func entryFast(t testing.TB, s *scene.Scene, author ledger.PartyID, seq uint64) *ledger.Entry {
	return unsigned(t, seq, &ledger.Anchor{Topic: ledger.TopicKeyList, Ref: h(byte(seq))}, author, scene.Pub(s.Keys[author]))
}

// unsigned is an entry that names its signers without signing, for tests of
// Apply alone.
func unsigned(t testing.TB, seq uint64, body ledger.Body, author ledger.PartyID, signers ...[32]byte) *ledger.Entry {
	t.Helper()
	e, err := ledger.NewEntry(author, seq, body)
	if err != nil {
		t.Fatal(err)
	}
	raw := append([]byte(nil), e.Bytes()...)
	raw[len(raw)-1] = byte(len(signers))
	ids := make([]ledger.KeyID, len(signers))
	for i, pub := range signers {
		ids[i] = ledger.KeyIDOf(ledger.UseEntry, pub)
	}
	sortKeyIDs(ids)
	for _, id := range ids {
		raw = append(append(raw, id[:]...), make([]byte, 64)...)
	}
	if e, err = ledger.Parse(raw); err != nil {
		t.Fatal(err)
	}
	return e
}
