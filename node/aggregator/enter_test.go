package aggregator

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"testing"
	"time"

	"gridveil/ledger"
	ledgerstore "gridveil/ledger/store"
	"gridveil/ledger/writer"
	"gridveil/node/clock"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/store/storetest"
	"gridveil/privacy"
)

// desk is an aggregator with a ledger of its own and nobody else.
type bench struct {
	t  *testing.T
	a  *Aggregator
	w  *writer.Writer
	st *store.Store
}

const benchOrigin = "evagg.gridveil/test"

func newBench(t *testing.T) *bench {
	t.Helper()
	draw := func() ed25519.PrivateKey {
		k, err := privacy.NewKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	b := &bench{t: t, st: storetest.Open(t)}
	log := draw()
	b.a = &Aggregator{env: &role.Env{Store: b.st, Clock: clock.Wall{}, Log: slog.New(slog.DiscardHandler), Warn: role.NewBoard()}, origin: benchOrigin, entry: draw()}
	var err error
	b.w, err = writer.Open(writer.Config{Dir: t.TempDir(), Store: ledgerstore.Options{MemTableBytes: 1 << 20, SegmentBytes: 1 << 20}, Machine: ledger.NewMoney(benchOrigin),
		LogKey: log, ReceiptKey: draw(), Policy: ledger.NewPolicy(ledger.LogKey(benchOrigin, ledger.Hash(log.Public().(ed25519.PublicKey))))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.w.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, b.w.Close()); err != nil {
			t.Error(err)
		}
	})
	pub := ledger.Hash(b.a.entry.Public().(ed25519.PublicKey))
	g := &ledger.Genesis{Rules: 1, Origin: benchOrigin, Network: "test", Currencies: currencies(), Params: ledger.DefaultParams(),
		Parties: []ledger.Party{{Party: 1, Role: ledger.Aggregator, Limit: ownLimit, Name: "evagg", Pub: pub}}}
	raw, err := b.a.sign(1, g)
	if err != nil {
		t.Fatal(err)
	}
	if r := b.w.Submit(ctx, [][]byte{raw})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	return b
}

func note32(s string) (h [32]byte) { copy(h[:], s); return h }

func anchors(names ...string) (list []job) {
	for _, n := range names {
		list = append(list, job{note32(n), &ledger.Anchor{Topic: ledger.TopicBillRun, Ref: note32(n)}})
	}
	return list
}

func (b *bench) enter(list []job) []outcome {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := b.a.enter(ctx, b.w, list)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) next() (seq uint64) {
	b.w.Read(func(m ledger.Machine) { seq = m.(*ledger.Money).State.NextSeq(1) })
	return seq
}

func TestAJobIsEnteredOnceHoweverOftenItIsTried(t *testing.T) {
	b := newBench(t)
	first := b.enter(anchors("one", "two"))
	again := b.enter(anchors("two", "three", "one"))
	if first[0].index != 1 || first[1].index != 2 || again[0].index != 2 || again[1].index != 3 || again[2].index != 1 || b.w.Size() != 4 {
		t.Errorf("got %+v then %+v, size %d", first, again, b.w.Size())
	}
}

// TestCrashBeforeSubmitRepeatsTheSameBytes stores the signed bytes of two jobs and
// dies; meanwhile another entry may have taken their number.
func TestCrashBeforeSubmitRepeatsTheSameBytes(t *testing.T) {
	for _, taken := range []bool{false, true} {
		b := newBench(t)
		list := anchors("one", "two")
		before, err := b.a.prepare(b.next(), list) // and here the process ends
		if err != nil {
			t.Fatal(err)
		}
		if taken {
			raw, err := b.a.sign(before[0].Seq(), &ledger.Anchor{Topic: ledger.TopicBillRun, Ref: note32("other")})
			if err != nil {
				t.Fatal(err)
			}
			if r := b.w.Submit(t.Context(), [][]byte{raw})[0]; r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		var out []outcome
		for range 3 { // a number that is another's is seen, then made anew
			if out = b.enter(list); out[0].err == nil && out[1].err == nil {
				break
			}
		}
		if out[0].err != nil || out[1].err != nil {
			t.Fatalf("taken %v: %+v", taken, out)
		}
		after, err := b.w.Entry(out[0].index)
		if err != nil {
			t.Fatal(err)
		}
		if same := string(after) == string(before[0].Bytes()); same == taken {
			t.Errorf("taken %v: the same bytes were entered: %v", taken, same)
		}
		if want := uint64(3); taken {
			want++
			if b.w.Size() != want {
				t.Errorf("size %d, want %d", b.w.Size(), want)
			}
		} else if b.w.Size() != want {
			t.Errorf("size %d, want %d", b.w.Size(), want)
		}
	}
}

// TestCrashAfterThePayerSubmittedCountsOnce has the other signer hand the complete
// entry in by itself: the stored bytes lack its signature, and are recognised.
func TestCrashAfterThePayerSubmittedCountsOnce(t *testing.T) {
	b := newBench(t)
	other, err := privacy.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub := ledger.Hash(other.Public().(ed25519.PublicKey))
	body := &ledger.Party{Party: 2, Role: ledger.Utility, Limit: 1, Name: "payer", Pub: pub}
	id := note32("payer")
	died := errors.New("died")
	_, err = b.a.enterOne(t.Context(), b.w, id, body, func(_ context.Context, e *ledger.Entry) (*ledger.Entry, error) {
		full, err := ledger.Parse(append([]byte(nil), e.Bytes()...))
		if err != nil {
			return nil, err
		}
		if err := ledger.Sign(full, benchOrigin, other); err != nil {
			return nil, err
		}
		if r := b.w.Submit(t.Context(), [][]byte{full.Bytes()})[0]; r.Err != nil {
			return nil, r.Err
		}
		return nil, died
	})
	if !errors.Is(err, died) {
		t.Fatal(err)
	}
	r, err := b.a.enterOne(t.Context(), b.w, id, body, nil)
	if err != nil || r.index != 1 || b.w.Size() != 2 {
		t.Errorf("got %+v, %v, size %d; want entry 1 recognised", r, err, b.w.Size())
	}
}

// TestNobodySignsForANumberThatIsGone loses the other signer's answer and lets
// another entry take the number: the signer is asked again for a new number only.
func TestNobodySignsForANumberThatIsGone(t *testing.T) {
	b := newBench(t)
	other, err := privacy.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	body := &ledger.Party{Party: 2, Role: ledger.Utility, Limit: 1, Name: "payer", Pub: ledger.Hash(other.Public().(ed25519.PublicKey))}
	lost := errors.New("lost")
	var asked []uint64
	cosign := func(_ context.Context, e *ledger.Entry) (*ledger.Entry, error) {
		if asked = append(asked, e.Seq()); len(asked) == 1 {
			return nil, lost
		}
		return e, ledger.Sign(e, benchOrigin, other)
	}
	if _, err := b.a.enterOne(t.Context(), b.w, note32("payer"), body, cosign); !errors.Is(err, lost) {
		t.Fatal(err)
	}
	if out := b.enter(anchors("between")); out[0].err != nil {
		t.Fatal(out[0].err)
	}
	var r outcome
	for range 3 {
		if r, err = b.a.enterOne(t.Context(), b.w, note32("payer"), body, cosign); err == nil {
			break
		}
	}
	if err != nil || r.index != 2 {
		t.Errorf("got %+v, %v; want entry 2", r, err)
	}
	if len(asked) != 2 || asked[1] != asked[0]+1 {
		t.Errorf("the other signer was asked for the numbers %v, want two, one after the other", asked)
	}
}

func TestARefusedJobUsesNoNumber(t *testing.T) {
	b := newBench(t)
	refused := job{note32("bad"), &ledger.Transfer{From: ledger.OpenAccount(1, 0), To: ledger.OpenAccount(9, 0), X: 1, Purpose: ledger.PurposeFee}}
	out := b.enter(append([]job{refused}, anchors("one")...))
	if out[0].err == nil || !out[0].final {
		t.Errorf("a transfer to nobody: %+v", out[0])
	}
	if out = b.enter(anchors("one")); out[0].err != nil || out[0].index != 1 {
		t.Errorf("the job behind it: %+v", out[0])
	}
}

// TestAnOldEntryOfOursIsFoundByItsNumberAndContent looks for entries that the
// ledger remembers by number alone.
func TestAnOldEntryOfOursIsFoundByItsNumberAndContent(t *testing.T) {
	b := newBench(t)
	b.a.w = b.w
	payer, err := privacy.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	register := &ledger.Party{Party: 2, Role: ledger.Utility, Limit: 1, Name: "payer", Pub: ledger.Hash(payer.Public().(ed25519.PublicKey))}
	if _, err := b.a.enterOne(t.Context(), b.w, note32("payer"), register, func(_ context.Context, e *ledger.Entry) (*ledger.Entry, error) {
		return e, ledger.Sign(e, benchOrigin, payer)
	}); err != nil {
		t.Fatal(err)
	}
	entry := func(party ledger.PartyID, seq uint64, body ledger.Body, key ed25519.PrivateKey) *ledger.Entry {
		e, err := ledger.NewEntry(party, seq, body)
		if err == nil {
			err = ledger.Sign(e, benchOrigin, key)
		}
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	b.enter(anchors("one", "two")) // our numbers 3 and 4, entries 2 and 3
	for seq := range uint64(4) {   // entries 4 to 7 have our numbers 1 to 4, and are another party's
		e := entry(2, seq+1, anchors("one")[0].body, payer)
		if r := b.w.Submit(t.Context(), [][]byte{e.Bytes()})[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	for _, tc := range []struct {
		name  string
		e     *ledger.Entry
		index uint64
		found bool
	}{
		{"the entry itself", entry(1, 3, anchors("one")[0].body, b.a.entry), 2, true},
		{"the newest one of ours", entry(1, 4, anchors("two")[0].body, b.a.entry), 3, true},
		{"one that the payer has signed besides", entry(1, 2, register, b.a.entry), 1, true},
		{"another body under its number", entry(1, 3, anchors("two")[0].body, b.a.entry), 2, false},
		{"a number that nobody has yet", entry(1, 5, anchors("one")[0].body, b.a.entry), 0, false},
	} {
		if index, ok, err := b.a.find(b.w, tc.e); err != nil || ok != tc.found || index != tc.index {
			t.Errorf("%s: entry %d, %v, %v; want entry %d, %v", tc.name, index, ok, err, tc.index, tc.found)
		}
	}
	b.a.w = nil
	if _, _, err := b.a.find(b.w, entry(1, 3, anchors("one")[0].body, b.a.entry)); !errors.Is(err, errNoBook) {
		t.Errorf("without a ledger: %v", err)
	}
}

// TestAnAnswerThatTheLedgerForgotIsLookedUp gives judge an answer of the ledger
// that knows the number alone: the entry counts if it is there, and its bytes are
// made anew if another one has the number.
func TestAnAnswerThatTheLedgerForgotIsLookedUp(t *testing.T) {
	b := newBench(t)
	b.a.w = b.w
	list := anchors("one", "two")
	b.enter(list[:1])
	old := writer.Result{Err: ledger.ErrSeqOld}
	own, err := b.a.stored(list[0])
	if err != nil || own == nil {
		t.Fatalf("stored bytes: %v, %v", own, err)
	}
	if out, err := b.a.judge(b.w, own, old); err != nil || out.err != nil || out.index != 1 {
		t.Errorf("an entry that is there: %+v, %v", out, err)
	}
	waiting, err := b.a.prepare(own.Seq(), list[1:]) // number 2 is that of the first one
	if err != nil {
		t.Fatal(err)
	}
	if out, err := b.a.judge(b.w, waiting[0], old); err != nil || !errors.Is(out.err, ledger.ErrSeqOld) || out.final {
		t.Errorf("an entry whose number is another's: %+v, %v", out, err)
	}
	if e, err := b.a.stored(list[1]); err != nil || e != nil {
		t.Errorf("its bytes are kept: %v, %v", e, err)
	}
	if out := b.enter(list[1:]); out[0].err != nil || out[0].index != 2 {
		t.Errorf("the next try: %+v", out[0])
	}
}
