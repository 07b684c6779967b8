package gossip

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/mesh/member"
)

// village knows one aggregator, whose certificate hash is all ones.
type village struct {
	bundle *member.Bundle
	m      member.Member
}

var villageCert = [32]byte{1, 1, 1}

func (t village) Lookup(hash [32]byte, _ time.Time) (member.Member, error) {
	if hash != villageCert {
		return member.Member{}, member.ErrUnknown
	}
	return t.m, nil
}

func (t village) Bundle() *member.Bundle { return t.bundle }

var villageTime = time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC)

// bookOf makes a running book of a village with one aggregator, and the aggregator's key.
func bookOf(t testing.TB, save func([]Envelope) error) (*Book, ed25519.PrivateKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := &member.Bundle{Network: member.NetworkID{7}, Zones: []member.Zone{{Name: "z1"}}}
	regs := NewRegisters(village{b, member.Member{Key: member.Key(pub), Role: member.RoleAggregator, CertHash: villageCert}})
	book := NewBook(BookConfig{Registers: regs, Lock: &sync.Mutex{}, Now: func() time.Time { return villageTime }, Save: save,
		Accepted: func(Envelope) {}, Count: func(Verdict) {}})
	return book, key
}

func serveBook(t testing.TB, b *Book) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func draftOf(key uint64, body string) Draft {
	return Draft{Kind: KindControl, Key: key, Body: []byte(body), Expires: villageTime.Add(time.Minute)}
}

func TestARegisterIsDurableBeforeItsFollowersHearOfIt(t *testing.T) {
	var order []string
	var mu sync.Mutex
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, s)
	}
	b, key := bookOf(t, func(list []Envelope) error { note("saved " + string(list[0].Body)); return nil })
	heard := make(chan bool, 2)
	b.Follow(KindControl, func(e Envelope) { note("heard " + string(e.Body)); heard <- true })
	serveBook(t, b)
	for _, body := range []string{"a", "b"} {
		if _, err := b.Publish(t.Context(), draftOf(1, body), key, villageCert); err != nil {
			t.Fatal(err)
		}
		<-heard
	}
	if want := []string{"saved a", "heard a", "saved b", "heard b"}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
	if e, ok := b.Get(KindControl, member.Key(key.Public().(ed25519.PublicKey)), 1); !ok || string(e.Body) != "b" {
		t.Errorf("held: %q, %t", e.Body, ok)
	}
}

func TestAFollowerMayPublish(t *testing.T) {
	b, key := bookOf(t, func([]Envelope) error { return nil })
	answered := make(chan error, 1)
	b.Follow(KindControl, func(e Envelope) {
		if e.Key == 1 {
			_, err := b.Publish(t.Context(), draftOf(2, "answer"), key, villageCert)
			answered <- err
		}
	})
	serveBook(t, b)
	if _, err := b.Publish(t.Context(), draftOf(1, "question"), key, villageCert); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("publish from a follower: %v", err)
	}
}

func TestAFailedSaveStopsTheBookAndTellsThePublisher(t *testing.T) {
	full := errors.New("disk full")
	b, key := bookOf(t, func([]Envelope) error { return full })
	b.Follow(KindControl, func(Envelope) { t.Error("a register that was not saved was handed on") })
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(t.Context()) }()
	if _, err := b.Publish(t.Context(), draftOf(1, "x"), key, villageCert); !errors.Is(err, full) {
		t.Errorf("publisher: got %v", err)
	}
	if err := <-ended; !errors.Is(err, full) {
		t.Errorf("book: got %v", err)
	}
}

// TestABurstIsSavedTogether: what comes while the disk is busy shares the next write, in order, and no write is longer
// than a store takes.
func TestABurstIsSavedTogether(t *testing.T) {
	var writes [][]Envelope
	b, key := bookOf(t, func(list []Envelope) error { writes = append(writes, list); return nil })
	const count = 200
	heard := make(chan uint64, count)
	b.Follow(KindControl, func(e Envelope) { heard <- e.Key })
	for i := range uint64(count) { // nobody serves yet
		e := Envelope{Kind: KindControl, Network: [8]byte{7}, Key: i, Version: 1, Issued: villageTime, Expires: villageTime.Add(time.Minute), CertHash: villageCert, Body: make([]byte, 1024)}
		if err := e.Sign(key); err != nil {
			t.Fatal(err)
		}
		if d := b.Offer(e.Encode(), Source{Pulled: true}); d.Action != Accept {
			t.Fatalf("register %d: %+v", i, d.Verdict)
		}
	}
	serveBook(t, b)
	for i := range uint64(count) {
		if got := <-heard; got != i {
			t.Fatalf("heard register %d, want %d", got, i)
		}
	}
	saved := 0
	for _, list := range writes {
		bytes := 0
		for _, e := range list {
			if e.Key != uint64(saved) {
				t.Fatalf("saved register %d, want %d", e.Key, saved)
			}
			saved, bytes = saved+1, bytes+len(e.Encode())
		}
		if bytes > saveBytes {
			t.Errorf("a write of %d bytes, limit %d", bytes, saveBytes)
		}
	}
	if want := count*(1024+overhead)/saveBytes + 1; saved != count || len(writes) != want {
		t.Errorf("%d registers in %d writes, want %d in %d", saved, len(writes), count, want)
	}
}

func TestABookThatCannotSaveFastEnoughRefusesMore(t *testing.T) {
	b, key := bookOf(t, func([]Envelope) error { return nil })
	refused := false
	for i := range uint64(maxPending + 1) { // nobody serves
		e := Envelope{Kind: KindControl, Network: [8]byte{7}, Key: i, Version: 1, Issued: villageTime, Expires: villageTime.Add(time.Minute), CertHash: villageCert}
		if err := e.Sign(key); err != nil {
			t.Fatal(err)
		}
		d := b.Offer(e.Encode(), Source{Pulled: true})
		refused = d.Action == Ignore && d.Reason == ReasonFull
		if refused != (i == maxPending) {
			t.Fatalf("register %d: %+v", i, d.Verdict)
		}
	}
}

func TestSyncBringsWhatIsNewerAndNothingElse(t *testing.T) {
	far, key := bookOf(t, func([]Envelope) error { return nil })
	serveBook(t, far)
	for i := range uint64(5) {
		if _, err := far.Publish(t.Context(), draftOf(i, "old"), key, villageCert); err != nil {
			t.Fatal(err)
		}
	}
	near, _ := bookOf(t, func([]Envelope) error { return nil })
	near.c.Registers.certs = far.c.Registers.certs
	pull := func() (n int) {
		answer, err := far.AnswerSync(near.AskSync(KindControl), func(e *Envelope) bool { return e.Key != 4 })
		if err != nil {
			t.Fatal(err)
		}
		envelopes, more, err := ParseSync(answer)
		if err != nil || more {
			t.Fatalf("answer: %v, more %t", err, more)
		}
		for _, raw := range envelopes {
			if d := near.Offer(raw, Source{Pulled: true}); d.Action != Accept {
				t.Fatalf("pulled register: %+v", d.Verdict)
			}
		}
		return len(envelopes)
	}
	if got := pull(); got != 4 {
		t.Errorf("first pull brought %d registers, want the 4 that are wanted", got)
	}
	if got := pull(); got != 0 {
		t.Errorf("second pull brought %d registers, want none", got)
	}
	if _, err := far.Publish(t.Context(), draftOf(2, "new"), key, villageCert); err != nil {
		t.Fatal(err)
	}
	if got := pull(); got != 1 {
		t.Errorf("third pull brought %d registers, want the changed one", got)
	}
	answer, err := far.AnswerSync(near.AskSync(KindPrice), func(*Envelope) bool { return true })
	if err != nil || len(answer) != 1 {
		t.Errorf("a kind that nobody published: %d bytes, %v", len(answer), err)
	}
}

func TestALongSyncAnswerIsCutAndSaysSo(t *testing.T) {
	far, key := bookOf(t, func([]Envelope) error { return nil })
	serveBook(t, far)
	for i := range uint64(300) {
		d := draftOf(i, "")
		d.Body = make([]byte, 1024)
		if _, err := far.Publish(t.Context(), d, key, villageCert); err != nil {
			t.Fatal(err)
		}
	}
	empty, _ := bookOf(t, func([]Envelope) error { return nil })
	answer, err := far.AnswerSync(empty.AskSync(KindControl), func(*Envelope) bool { return true })
	if err != nil || len(answer) > MaxSync {
		t.Fatalf("%d bytes, %v", len(answer), err)
	}
	envelopes, more, err := ParseSync(answer)
	if err != nil || !more || len(envelopes) == 0 || len(envelopes) == 300 {
		t.Errorf("%d envelopes, more %t, %v", len(envelopes), more, err)
	}
}

func TestCertificatesTravelInTheOrderAsked(t *testing.T) {
	chains := map[[32]byte][][]byte{{1}: {[]byte("leaf"), []byte("intermediate")}, {3}: {[]byte("other")}}
	raw, err := AnswerCerts(AskCerts([][32]byte{{1}, {2}, {3}}), func(h [32]byte) ([][]byte, bool) { c, ok := chains[h]; return c, ok })
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseCerts(raw)
	if err != nil || len(got) != 3 || len(got[0]) != 2 || len(got[1]) != 0 || string(got[2][0]) != "other" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := AnswerCerts(make([]byte, 32*MaxCertAsk+32), nil); !errors.Is(err, ErrEnvelope) {
		t.Errorf("one certificate above the limit: got %v", err)
	}
}

func FuzzParseSync(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{1, 0, 0, 0, 2, 9, 9})
	f.Fuzz(func(t *testing.T, raw []byte) {
		envelopes, more, err := ParseSync(raw)
		if err != nil {
			return
		}
		again := []byte{0}
		if more {
			again[0] = 1
		}
		for _, e := range envelopes {
			again = append(again, byte(len(e)>>24), byte(len(e)>>16), byte(len(e)>>8), byte(len(e)))
			again = append(again, e...)
		}
		if !bytes.Equal(again, raw) {
			t.Errorf("decode then encode: got %x, want %x", again, raw)
		}
	})
}

func FuzzParseCerts(f *testing.F) {
	f.Add([]byte{1, 0, 1, 9, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		chains, err := ParseCerts(raw)
		if err != nil {
			return
		}
		var hashes [][32]byte
		for i := range chains {
			hashes = append(hashes, [32]byte{byte(i)})
		}
		again, err := AnswerCerts(AskCerts(hashes), func(h [32]byte) ([][]byte, bool) { return chains[h[0]], true })
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("decode then encode: got %x, %v, want %x", again, err, raw)
		}
	})
}

func FuzzAnswerSync(f *testing.F) {
	b, _ := bookOf(f, func([]Envelope) error { return nil })
	f.Add(b.AskSync(KindControl, KindTrust))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if answer, err := b.AnswerSync(raw, func(*Envelope) bool { return true }); err == nil {
			if _, _, err := ParseSync(answer); err != nil {
				t.Errorf("own answer: %v", err)
			}
		}
	})
}

func FuzzAnswerCerts(f *testing.F) {
	known := map[[32]byte][][]byte{{1}: {{9}}, {2}: {{9}, {8, 8}}}
	f.Add(AskCerts([][32]byte{{1}, {2}, {3}}))
	f.Add(make([]byte, 33))
	f.Fuzz(func(t *testing.T, req []byte) {
		raw, err := AnswerCerts(req, func(h [32]byte) ([][]byte, bool) { c, ok := known[h]; return c, ok })
		if err != nil {
			return
		}
		chains, err := ParseCerts(raw)
		if err != nil || len(chains) != len(req)/32 || len(chains) > MaxCertAsk {
			t.Fatalf("%d bytes are answered with %d chains, %v", len(req), len(chains), err)
		}
		for i, chain := range chains {
			if len(chain) != len(known[[32]byte(req[32*i:])]) {
				t.Errorf("hash %d is answered with %d certificates", i, len(chain))
			}
		}
	})
}
