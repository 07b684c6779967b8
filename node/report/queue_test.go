package report

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	mrand "math/rand/v2"
	"testing"
	"time"

	"gridveil/node/model"
	"gridveil/node/store"
)

// receiver is a head-end in memory: what it accepted, in order.
type receiver struct {
	key  ed25519.PrivateKey
	from ed25519.PublicKey
	day  DayKey
	head Head
	took []Header
	gaps int
}

func (r *receiver) take(t *testing.T, raw []byte, now int64) Reply {
	t.Helper()
	m, err := DecodeMessage(raw)
	if err != nil {
		t.Fatal(err)
	}
	v := Admit(Known{Key: r.from, Head: r.head}, m.Header)
	switch {
	case v.Take:
		if _, err := OpenReport(m, r.day); err != nil {
			t.Fatal(err)
		}
		if v.Gap {
			r.gaps++
		}
		r.head = r.head.Advance(m.Header)
		r.took = append(r.took, m.Header)
	case v.Refuse != 0:
		ref := RefusalFor(m.Header, v.Refuse, v.WantSeq, 0, now, r.key)
		return Reply{Refusal: &ref}
	}
	a := r.head.AckFor(m.Header.Class, m.Header.Source, LevelFinal, now, r.key)
	return Reply{Ack: &a}
}

func newReceiver(t *testing.T, source ed25519.PublicKey) *receiver {
	t.Helper()
	day, err := NewDayKey(nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, key := testKeys(50)
	return &receiver{key: key, from: source, day: day}
}

func draftAt(t *testing.T, hour int) Draft {
	t.Helper()
	s := Series{Ordinal: 1, Readings: []model.Reading{{Channel: model.ImportTotal, Slot: int64(hour) * 3_600_000, Register: int64(hour)}}}
	w := Window{Class: ClassEnergy, From: int64(hour) * 3_600_000, To: int64(hour+1) * 3_600_000, Period: time.Hour}
	p := profile
	d, err := Build(rand.Reader, p, roster(1), w, []Series{s})
	if err != nil || len(d) != 1 {
		t.Fatalf("Build: %v", err)
	}
	return d[0]
}

func apply(t *testing.T, q *Queue, r Reply, pub ed25519.PublicKey, now time.Time) error {
	t.Helper()
	if r.Ack != nil {
		_, err := q.OnAck(*r.Ack, pub, now)
		return err
	}
	return q.OnRefusal(*r.Refusal, pub, now)
}

func TestLossyPathDeliversEveryReportOnce(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := mrand.New(mrand.NewPCG(seed, 1))
	pub, key := testKeys(1)
	st := openStore(t)
	q := OpenQueue(st, ClassEnergy, key)
	r := newReceiver(t, pub)
	rpub := r.key.Public().(ed25519.PublicKey)
	const reports = 60
	now := time.UnixMilli(0)
	for made := 0; ; {
		if made < reports {
			mustAppend(t, q, st, draftAt(t, made))
			made++
		}
		if rng.IntN(10) == 0 {
			q = OpenQueue(st, ClassEnergy, key) // restart: the memory of what was sent is gone
		}
		msgs, err := q.Due(now, rand.Reader, oneKey{r.day})
		if err != nil {
			t.Fatal(err)
		}
		if len(msgs) > maxInFlight {
			t.Fatalf("%d messages in flight", len(msgs))
		}
		rng.Shuffle(len(msgs), func(i, j int) { msgs[i], msgs[j] = msgs[j], msgs[i] })
		for _, m := range msgs {
			for range rng.IntN(3) { // lost, once, twice
				reply := r.take(t, m.Encode(), now.UnixMilli())
				if rng.IntN(4) == 0 {
					continue // answer lost
				}
				if err := apply(t, q, reply, rpub, now); err != nil {
					t.Fatal(err)
				}
			}
		}
		now = now.Add(retryLost)
		if n, _ := q.Pending(); n == 0 && made == reports {
			break
		}
		if now.Unix() > 1_000_000 {
			t.Fatal("never drained")
		}
	}
	if len(r.took) != reports || r.gaps != 0 {
		t.Fatalf("head-end has %d reports and %d gaps, want %d and none", len(r.took), r.gaps, reports)
	}
	for i, h := range r.took {
		if h.From != int64(i)*3_600_000 {
			t.Fatalf("report %d begins at %d", i, h.From)
		}
	}
}

func TestHeldDoesNotTrim(t *testing.T) {
	pub, key := testKeys(1)
	_, relay := testKeys(9)
	st := openStore(t)
	q := OpenQueue(st, ClassEnergy, key)
	mustAppend(t, q, st, draftAt(t, 0))
	day, _ := NewDayKey(nil, 0)
	msgs, err := q.Due(time.UnixMilli(0), rand.Reader, oneKey{day})
	if err != nil {
		t.Fatal(err)
	}
	a := Head{}.Advance(msgs[0].Header).AckFor(ClassEnergy, SourceOf(pub), LevelHeld, 1, relay)
	if n, err := q.OnAck(a, relay.Public().(ed25519.PublicKey), time.UnixMilli(0)); n != 0 || err != nil {
		t.Errorf("held trimmed %d, %v", n, err)
	}
	if n, _ := q.Pending(); n != 1 {
		t.Errorf("%d pending after held, want 1", n)
	}
	if _, err := q.OnAck(a, pub, time.UnixMilli(0)); !errors.Is(err, ErrSignature) {
		t.Errorf("acknowledgement under another key: %v", err)
	}
}

func TestLostSourceStoreStartsANewChainBehindTheOld(t *testing.T) {
	pub, key := testKeys(1)
	r := newReceiver(t, pub)
	rpub := r.key.Public().(ed25519.PublicKey)
	send := func(q *Queue, now time.Time) (last error) {
		for range 4 {
			msgs, err := q.Due(now, rand.Reader, oneKey{r.day})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range msgs {
				if err := apply(t, q, r.take(t, m.Encode(), 0), rpub, now); err != nil {
					last = err
				}
			}
			now = now.Add(time.Hour)
		}
		return last
	}
	st := openStore(t)
	q := OpenQueue(st, ClassEnergy, key)
	for i := range 5 {
		mustAppend(t, q, st, draftAt(t, i))
	}
	if err := send(q, time.UnixMilli(0)); err != nil {
		t.Fatal(err)
	}
	empty := openStore(t)
	q = OpenQueue(empty, ClassEnergy, key)
	for i := 7; i < 9; i++ {
		mustAppend(t, q, empty, draftAt(t, i))
	}
	if err := send(q, time.UnixMilli(0)); !errors.Is(err, ErrForked) {
		t.Errorf("first answer after the loss: %v, want ErrForked", err)
	}
	if n, _ := q.Pending(); n != 0 || len(r.took) != 7 || r.gaps != 1 {
		t.Errorf("pending %d, head-end has %d reports and %d gaps, want 0, 7 and 1", n, len(r.took), r.gaps)
	}
	mustAppend(t, q, empty, draftAt(t, 9))
	if err := send(q, time.UnixMilli(0)); err != nil || len(r.took) != 8 || r.gaps != 1 {
		t.Errorf("chain does not go on: %v, %d reports, %d gaps", err, len(r.took), r.gaps)
	}
}

func TestDroppedBacklogIsNamedAsAGap(t *testing.T) {
	pub, key := testKeys(1)
	st := openStore(t)
	q := OpenQueue(st, ClassEnergy, key)
	r := newReceiver(t, pub)
	rpub := r.key.Public().(ed25519.PublicKey)
	now := time.UnixMilli(0)
	send := func() {
		for range 3 {
			msgs, err := q.Due(now, rand.Reader, oneKey{r.day})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range msgs {
				if err := apply(t, q, r.take(t, m.Encode(), 0), rpub, now); err != nil {
					t.Fatal(err)
				}
			}
			now = now.Add(time.Hour)
		}
	}
	for i := range 3 {
		mustAppend(t, q, st, draftAt(t, i))
	}
	send()
	for i := 3; i < 10; i++ {
		mustAppend(t, q, st, draftAt(t, i))
	}
	if n, err := q.DropBefore(7 * 3_600_000); n != 4 || err != nil {
		t.Fatalf("dropped %d, %v, want 4", n, err)
	}
	send()
	if n, _ := q.Pending(); n != 0 || len(r.took) != 6 || r.gaps != 1 || r.took[3].From != 7*3_600_000 {
		t.Errorf("pending %d, %d reports, %d gaps", n, len(r.took), r.gaps)
	}
	if n, err := q.DropBefore(1 << 40); n != 0 || err != nil {
		t.Errorf("an empty backlog drops %d, %v", n, err)
	}
}

func TestRefusalsDecideWhatTheSenderDoes(t *testing.T) {
	_, key := testKeys(1)
	_, other := testKeys(4)
	opub := other.Public().(ed25519.PublicKey)
	day, _ := NewDayKey(nil, 0)
	now := time.UnixMilli(0)
	cases := map[string]struct {
		reason  Reason
		told    bool          // the caller gets an error
		silence time.Duration // nothing is sent before
	}{
		"busy":         {Busy, false, 5 * time.Second},
		"reseal":       {Reseal, false, 0},
		"unreferenced": {Unreferenced, true, retryRefused},
		"other roster": {WrongRoster, true, retryRefused},
		"bad body":     {BadBody, true, retryBadBody},
	}
	for name, c := range cases {
		st := openStore(t)
		q := OpenQueue(st, ClassEnergy, key)
		mustAppend(t, q, st, draftAt(t, 0))
		msgs, err := q.Due(now, rand.Reader, oneKey{day})
		if err != nil || len(msgs) != 1 {
			t.Fatal(err)
		}
		ref := RefusalFor(msgs[0].Header, c.reason, 0, 5000, 0, other)
		var got Refusal
		if err := q.OnRefusal(ref, opub, now); errors.As(err, &got) != c.told {
			t.Errorf("%s: error %v, told %v", name, err, c.told)
		}
		if c.silence > 0 {
			if msgs, _ := q.Due(now.Add(c.silence-time.Millisecond), rand.Reader, oneKey{day}); len(msgs) != 0 {
				t.Errorf("%s: sent again before %v", name, c.silence)
			}
		}
		if msgs, _ := q.Due(now.Add(c.silence), rand.Reader, oneKey{day}); len(msgs) != 1 {
			t.Errorf("%s: not sent again after %v", name, c.silence)
		}
	}
	st := openStore(t)
	q := OpenQueue(st, ClassEnergy, key)
	if _, err := q.Due(now, rand.Reader, noKeys{}); err != nil {
		t.Errorf("nothing to send, no seal key: %v", err)
	}
	mustAppend(t, q, st, draftAt(t, 0))
	if _, err := q.Due(now, rand.Reader, noKeys{}); !errors.Is(err, ErrNoSealKey) {
		t.Errorf("without a seal key: %v, want ErrNoSealKey", err)
	}
}

type noKeys struct{}

func (noKeys) KeyFor(uint16) ([32]byte, bool) { return [32]byte{}, false }

func TestReceiverHeadIsDurable(t *testing.T) {
	st := openStore(t)
	want := Head{Seq: 3, Hash: [32]byte{1}, End: 99}
	err := st.Update(func(tx *store.Tx) error { return SaveHead(tx, model.SourceID{5}, ClassEnergy, want) })
	if err != nil {
		t.Fatal(err)
	}
	st.View(func(tx *store.Tx) error {
		if got, err := LoadHead(tx, model.SourceID{5}, ClassEnergy); got != want || err != nil {
			t.Errorf("got %+v, %v", got, err)
		}
		if got, err := LoadHead(tx, model.SourceID{5}, ClassQuality); got != (Head{}) || err != nil {
			t.Errorf("other class: %+v, %v", got, err)
		}
		return nil
	})
}
