package packet

import (
	"bytes"
	"crypto/hpke"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

func mustSealKey(t testing.TB, rnd *rand.ChaCha8) *SealKey {
	t.Helper()
	k, err := NewSealKey(rnd)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sampleRequest(rnd *rand.ChaCha8, replies, body int) *Request {
	r := &Request{Service: 0x0102, Flags: 1, Body: make([]byte, body)}
	rnd.Read(r.ID[:])
	rnd.Read(r.Body)
	for range replies {
		var b ReplyBlock
		rnd.Read(b[:])
		r.Replies = append(r.Replies, b)
	}
	return r
}

func sameRequest(a, b *Request) bool {
	if a.Service != b.Service || a.Flags != b.Flags || a.ID != b.ID || len(a.Replies) != len(b.Replies) || !bytes.Equal(a.Body, b.Body) {
		return false
	}
	for i := range a.Replies {
		if a.Replies[i] != b.Replies[i] {
			return false
		}
	}
	return true
}

func TestARequestArrivesAndItsAnswerReturns(t *testing.T) {
	rnd := seeded(60)
	key := mustSealKey(t, rnd)
	for _, tc := range []struct{ replies, body int }{{0, 0}, {2, 0}, {2, 736}, {1, MaxBody}, {MaxReplies(100), 100}} {
		sent := sampleRequest(rnd, tc.replies, tc.body)
		sealed, answerKey, err := SealRequest(key.Public(), sent, rnd)
		if err != nil {
			t.Fatalf("%+v: %v", tc, err)
		}
		if len(sealed) != sealOverhead+messageFixed+tc.replies*ReplyBlockSize+tc.body {
			t.Errorf("%+v: sealed size %d", tc, len(sealed))
		}
		got, theirKey, err := key.OpenRequest(sealed)
		if err != nil || !sameRequest(sent, &got) {
			t.Fatalf("%+v: OpenRequest: %v, or another request", tc, err)
		}
		answer, err := theirKey.SealAnswer(got.ID, []byte("yes"), rnd)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := answerKey.OpenAnswer(sent.ID, answer); err != nil || string(body) != "yes" {
			t.Errorf("%+v: answer %q, %v", tc, body, err)
		}
	}
}

func TestAnAggregationShareTakesTwoPackets(t *testing.T) {
	rnd := seeded(61)
	sealed, _, err := SealRequest(mustSealKey(t, rnd).Public(), sampleRequest(rnd, 1, 736), rnd)
	if err != nil || Fragments(len(sealed)) != 2 {
		t.Errorf("736 bytes with one reply block take %d packets (%v)", Fragments(len(sealed)), err)
	}
}

func TestAMessageOpensOnlyForItsKeyAndUnchanged(t *testing.T) {
	rnd := seeded(62)
	key, other := mustSealKey(t, rnd), mustSealKey(t, rnd)
	sealed, answerKey, err := SealRequest(key.Public(), sampleRequest(rnd, 0, 50), rnd)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.OpenRequest(sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("another key: %v", err)
	}
	for at := 0; at < len(sealed); at += 7 {
		bad := bytes.Clone(sealed)
		bad[at] ^= 1
		if _, _, err := key.OpenRequest(bad); !errors.Is(err, ErrSealed) {
			t.Fatalf("byte %d changed: %v", at, err)
		}
	}
	if _, _, err := key.OpenRequest(sealed[:sealOverhead-1]); !errors.Is(err, ErrSealed) {
		t.Errorf("cut: %v", err)
	}
	id := [16]byte{1}
	answer, err := answerKey.SealAnswer(id, []byte("secret"), rnd)
	if err != nil {
		t.Fatal(err)
	}
	for at := range answer {
		bad := bytes.Clone(answer)
		bad[at] ^= 1
		if _, err := answerKey.OpenAnswer(id, bad); !errors.Is(err, ErrSealed) {
			t.Fatalf("answer byte %d changed: %v", at, err)
		}
	}
	if _, err := answerKey.OpenAnswer([16]byte{2}, answer); !errors.Is(err, ErrSealed) {
		t.Errorf("answer to another request: %v", err)
	}
}

func TestTooLargeMessagesAreRefusedWhole(t *testing.T) {
	rnd := seeded(63)
	key := mustSealKey(t, rnd)
	for _, tc := range []struct{ replies, body int }{{0, MaxBody + 1}, {2, MaxBody}, {MaxFragments + 1, 0}} {
		if _, _, err := SealRequest(key.Public(), sampleRequest(rnd, tc.replies, tc.body), rnd); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	if _, err := (AnswerKey{}).SealAnswer([16]byte{}, make([]byte, MaxBody+1), rnd); !errors.Is(err, ErrTooLarge) {
		t.Errorf("answer: %v", err)
	}
	if _, _, err := SealRequest(key.Public()[1:], sampleRequest(rnd, 0, 0), rnd); !errors.Is(err, ErrSealKey) {
		t.Errorf("short key: %v", err)
	}
}

func TestTheStandardLibraryOpensOurMessagesAndWeOpenItsOwn(t *testing.T) {
	rnd := seeded(64)
	key := mustSealKey(t, rnd)
	seed, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	std, err := hpke.MLKEM768X25519().NewPrivateKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(std.PublicKey().Bytes(), key.Public()) {
		t.Fatal("the two libraries derive different public keys")
	}
	sent := sampleRequest(rnd, 1, 300)
	sealed, answerKey, err := SealRequest(key.Public(), sent, rnd)
	if err != nil {
		t.Fatal(err)
	}
	r, err := hpke.NewRecipient(sealed[:encSize], std, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(requestInfo))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := r.Open(nil, sealed[encSize:])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseRequest(plain); err != nil || !sameRequest(sent, &got) {
		t.Errorf("std opens another request: %v", err)
	}
	if exported, err := r.Export(answerExport, 32); err != nil || !bytes.Equal(exported, answerKey[:]) {
		t.Errorf("the exporters differ (%v)", err)
	}
	enc, s, err := hpke.NewSender(std.PublicKey(), hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(requestInfo))
	if err != nil {
		t.Fatal(err)
	}
	ct, err := s.Seal(nil, plain)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := key.OpenRequest(append(enc, ct...)); err != nil || !sameRequest(sent, &got) {
		t.Errorf("we open another request than std sealed: %v", err)
	}
}

func TestFragmentsAddUpInAnyOrder(t *testing.T) {
	rnd := seeded(65)
	now := time.UnixMilli(1_700_000_000_000)
	for _, size := range []int{1, FragmentSize - 1, FragmentSize, FragmentSize + 1, 5000, MaxSealed} {
		sealed := make([]byte, size)
		rnd.Read(sealed)
		pieces, err := Split(MessageID{9}, MessageRequest, sealed)
		if err != nil {
			t.Fatal(err)
		}
		if len(pieces) != Fragments(size) {
			t.Errorf("%d bytes: %d pieces", size, len(pieces))
		}
		rand.New(rnd).Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		var a Assembler
		for i, piece := range pieces {
			w, err := a.Add(piece, now)
			if err != nil {
				t.Fatal(err)
			}
			if i == len(pieces)-1 {
				checkWhole(t, w, sealed)
				continue
			}
			if again, err := a.Add(piece, now); w != nil || again != nil || err != nil {
				t.Fatal("complete too early, or a repeated fragment has an effect")
			}
		}
	}
	for _, size := range []int{0, MaxSealed + 1} {
		if _, err := Split(MessageID{}, MessageReply, make([]byte, size)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func checkWhole(t *testing.T, w *Whole, want []byte) {
	t.Helper()
	if w == nil || w.ID != (MessageID{9}) || w.Kind != MessageRequest || !bytes.Equal(w.Sealed, want) {
		t.Fatal("the message did not come together")
	}
}

func TestContradictingFragmentsAreRefused(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	pieces, _ := Split(MessageID{1}, MessageRequest, make([]byte, 2*FragmentSize))
	var a Assembler
	if _, err := a.Add(pieces[0], now); err != nil {
		t.Fatal(err)
	}
	longer, _ := Split(MessageID{1}, MessageRequest, make([]byte, 3*FragmentSize))
	otherKind, _ := Split(MessageID{1}, MessageReply, make([]byte, 2*FragmentSize))
	for fact, piece := range map[string][]byte{"another count": longer[1], "another kind": otherKind[1]} {
		if w, err := a.Add(piece, now); w != nil || !errors.Is(err, ErrFragment) {
			t.Errorf("%s: %v, %v", fact, w, err)
		}
	}
	if w, err := a.Add(pieces[1], now); err != nil || w == nil {
		t.Errorf("the honest rest does not complete: %v", err)
	}
}

func TestUnfinishedMessagesAreLimitedInNumberAndTime(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	var a Assembler
	first := func(i int) []byte {
		pieces, err := Split(MessageID{byte(i), byte(i >> 8)}, MessageRequest, make([]byte, 2*FragmentSize))
		if err != nil {
			t.Fatal(err)
		}
		return pieces[0]
	}
	for i := range MaxPartial {
		if _, err := a.Add(first(i), now); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if _, err := a.Add(first(MaxPartial), now.Add(PartialLife-1)); !errors.Is(err, ErrPartialFull) {
		t.Errorf("message %d: %v", MaxPartial+1, err)
	}
	if _, err := a.Add(first(MaxPartial), now.Add(PartialLife)); err != nil {
		t.Errorf("after %s: %v", PartialLife, err)
	}
	if n := a.Expire(now.Add(3 * PartialLife)); n != 1 {
		t.Errorf("Expire forgets %d messages, want 1", n)
	}
}

func TestARetryIsAnsweredOnce(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	var a Answers
	id := [16]byte{1}
	if fresh, _, _ := a.Begin(id, now); !fresh {
		t.Fatal("a new request is not fresh")
	}
	if fresh, _, done := a.Begin(id, now); fresh || done {
		t.Error("a retry during handling is fresh or done")
	}
	a.Finish(id, []byte("a"))
	if fresh, body, done := a.Begin(id, now.Add(AnswerLife-1)); fresh || !done || string(body) != "a" {
		t.Error("a retry is not given the earlier answer")
	}
	if fresh, _, _ := a.Begin(id, now.Add(AnswerLife)); !fresh {
		t.Error("the answer outlives its time")
	}
	a.Forget(id)
	if fresh, _, _ := a.Begin(id, now.Add(AnswerLife)); !fresh {
		t.Error("a forgotten request is not handled anew")
	}
}

func TestAnswersAreRememberedLongerOnAFastClock(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	a := Answers{Lag: time.Hour}
	a.Begin([16]byte{1}, now)
	if fresh, _, _ := a.Begin([16]byte{1}, now.Add(AnswerLife+time.Hour-1)); fresh {
		t.Error("a request is forgotten before its time")
	}
	if fresh, _, _ := a.Begin([16]byte{1}, now.Add(AnswerLife+time.Hour)); !fresh {
		t.Error("a request is remembered beyond its time")
	}
}

func TestTheAnswerCacheDropsTheOldestFirst(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	var a Answers
	id := func(i int) [16]byte { return [16]byte{byte(i), byte(i >> 8)} }
	for i := range MaxAnswers + 1 {
		if fresh, _, _ := a.Begin(id(i), now.Add(time.Duration(i)*time.Millisecond)); !fresh {
			t.Fatalf("request %d is not fresh", i)
		}
	}
	later := now.Add(10 * time.Second)
	if fresh, _, _ := a.Begin(id(1), later); fresh {
		t.Error("the second oldest is gone")
	}
	if fresh, _, _ := a.Begin(id(0), later); !fresh {
		t.Error("the oldest is still there above the limit")
	}
}
