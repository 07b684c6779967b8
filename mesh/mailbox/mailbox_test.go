package mailbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"gridveil/privacy"
)

var (
	begin  = time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC)
	net    = privacy.Net{1}
	first  = Key{1}
	second = Key{2}

	errCut = errors.New("power cut")
)

// disk is a storage that dies at a commit: before it or just after it.
type disk struct {
	values map[string][]byte
	left   int  // commits until it dies; negative: never
	stored bool // the last commit is stored all the same
	dead   bool
}

func newDisk() *disk { return &disk{values: map[string][]byte{}, left: -1} }

func (d *disk) Each(prefix []byte, fn func(key, value []byte) error) error {
	var keys []string
	for k := range d.values {
		if bytes.HasPrefix([]byte(k), prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := fn([]byte(k), d.values[k]); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) Get(key []byte) ([]byte, error) {
	if d.dead {
		return nil, errCut
	}
	return d.values[string(key)], nil
}

func (d *disk) Commit(writes []Write) error {
	if d.dead = d.dead || d.left == 0; d.dead && !d.stored {
		return errCut
	}
	d.left--
	for _, w := range writes {
		if w.Value == nil {
			delete(d.values, string(w.Key))
			continue
		}
		d.values[string(w.Key)] = bytes.Clone(w.Value)
	}
	if d.dead {
		d.stored = false
		return errCut
	}
	return nil
}

// place is one keeper with its disk, a clock and a box's owner.
type place struct {
	t     testing.TB
	disk  *disk
	k     *Keeper
	now   time.Time
	owner *Owner
	seen  [][]byte // requests that the keeper got
}

func newPlace(t testing.TB) *place {
	t.Helper()
	owner, err := NewOwner(rand.Reader, [2]Key{first, second})
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, disk: newDisk(), now: begin, owner: owner}
	p.restart()
	return p
}

func (p *place) restart() {
	p.t.Helper()
	p.disk.left, p.disk.dead, p.disk.stored = -1, false, false
	var err error
	if p.k, err = NewKeeper(first, p.disk); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) client() Client {
	return Client{Now: func() time.Time { return p.now }, Rand: rand.Reader, Net: net,
		Call: func(_ context.Context, _ Key, req []byte) ([]byte, error) {
			p.seen = append(p.seen, bytes.Clone(req))
			return p.k.Answer(req, p.now), nil
		}}
}

// status sends bytes to the keeper.
func (p *place) status(req []byte) Status {
	p.t.Helper()
	a, err := ParseAnswer(p.k.Answer(req, p.now))
	if err != nil {
		p.t.Fatal(err)
	}
	return a.Status
}

func (p *place) item(msg string) []byte {
	p.t.Helper()
	a := p.owner.Address()
	req, err := a.Put(rand.Reader, net, []byte(msg))
	if err != nil {
		p.t.Fatal(err)
	}
	return req
}

func (p *place) open(days uint8) {
	p.t.Helper()
	if err := p.client().Open(p.t.Context(), p.owner, first, days); err != nil {
		p.t.Fatal(err)
	}
}

// fetch reads what came.
func (p *place) fetch() (got []string, err error) {
	err = p.client().Fetch(p.t.Context(), p.owner, first, func(msg []byte) error {
		got = append(got, string(msg))
		return nil
	})
	return got, err
}

func must(t testing.TB) func([]byte, error) []byte {
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func (p *place) want(what string, req []byte, want Status) {
	p.t.Helper()
	if got := p.status(req); got != want {
		p.t.Errorf("%s: got %v, want %v", what, got.Err(), want.Err())
	}
}

func TestItemsAreReadOnceAndRemovedWhenRead(t *testing.T) {
	p := newPlace(t)
	p.open(1)
	var want []string
	for i := range 8 { // three pages
		want = append(want, fmt.Sprint("item ", i))
		req := p.item(want[i])
		p.want("put", req, OK)
		p.want("the same again", req, OK)
	}
	if got, err := p.fetch(); err != nil || !slices.Equal(got, want) {
		t.Errorf("first fetch: got %q, %v, want %q", got, err, want)
	}
	if _, items := p.k.Counts(); items != 0 {
		t.Errorf("%d items left after they were read", items)
	}
	if got, err := p.fetch(); err != nil || len(got) > 0 {
		t.Errorf("second fetch: got %q, %v", got, err)
	}
}

func TestReadingRemovesNothingAndDoneExactlyWhatItNames(t *testing.T) {
	p := newPlace(t)
	p.open(1)
	for i := range 3 {
		p.want("put", p.item(fmt.Sprint(i)), OK)
	}
	read := func() (seqs []uint64) {
		a, err := p.client().Ask(t.Context(), first, func(now time.Time, rnd io.Reader) ([]byte, error) { return p.owner.Get(first, 0, now, rnd) })
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range a.Cells {
			seqs = append(seqs, c.Seq)
		}
		return seqs
	}
	if a, b := read(), read(); !slices.Equal(a, []uint64{1, 2, 3}) || !slices.Equal(a, b) {
		t.Fatalf("two readings: %v and %v", a, b)
	}
	p.want("put while it is read", p.item("late"), OK)
	p.want("done", must(t)(p.owner.Done(first, []uint64{1, 3, 77}, p.now, rand.Reader)), OK)
	if got := read(); !slices.Equal(got, []uint64{2, 4}) {
		t.Errorf("left after DONE of 1 and 3: %v, want 2 and 4", got)
	}
	p.want("done", must(t)(p.owner.Done(first, []uint64{2, 4}, p.now, rand.Reader)), OK)
	p.restart()
	p.want("put", p.item("next"), OK)
	if got := read(); !slices.Equal(got, []uint64{5}) {
		t.Errorf("a number was used again: %v", got)
	}
}

func TestNothingIsLostOrDoubledAtAnyKillPoint(t *testing.T) {
	for _, stored := range []bool{false, true} {
		for kill := 0; ; kill++ {
			p := newPlace(t)
			p.disk.left, p.disk.stored = kill, stored
			died := false
			again := func(what string, step func() error) { // as sender and owner do: until it is acknowledged
				t.Helper()
				err := step()
				if errors.Is(err, ErrBusy) && !died {
					died = true
					p.restart()
					err = step()
				}
				if err != nil {
					t.Fatalf("kill point %d, stored %v: %s: %v", kill, stored, what, err)
				}
			}
			again("open", func() error { return p.client().Open(t.Context(), p.owner, first, 1) })
			want := []string{"a", "b", "c", "d"}
			for _, w := range want {
				req := p.item(w)
				again("put", func() error { return p.status(req).Err() })
			}
			var got []string
			again("fetch", func() error {
				return p.client().Fetch(t.Context(), p.owner, first, func(msg []byte) error {
					got = append(got, string(msg))
					return nil
				})
			})
			if !slices.Equal(got, want) {
				t.Errorf("kill point %d, stored %v: taken %q, want %q", kill, stored, got, want)
			}
			again("close", func() error { return p.client().Close(t.Context(), p.owner, first) })
			if boxes, items := p.k.Counts(); boxes != 0 || items != 0 {
				t.Errorf("kill point %d, stored %v: %d boxes with %d items left", kill, stored, boxes, items)
			}
			if !died {
				if kill < 8 {
					t.Errorf("only %d commits were cut", kill)
				}
				break
			}
		}
	}
}

func TestAFailedCommitIsReadAgainWithoutARestart(t *testing.T) {
	for _, stored := range []bool{false, true} {
		p := newPlace(t)
		p.open(1)
		req := p.item("x")
		p.disk.left, p.disk.stored = 0, stored
		p.want("put on a dying disk", req, Busy)
		p.want("put on a dead disk", req, Busy)
		p.disk.left, p.disk.dead = -1, false
		p.want("put once it is back", req, OK)
		if got, err := p.fetch(); err != nil || len(got) != 1 {
			t.Errorf("stored %v: got %q, %v", stored, got, err)
		}
	}
}

func TestOwnersRequestsAreTakenOnceAlsoAfterARestart(t *testing.T) {
	p := newPlace(t)
	open := must(t)(p.owner.Open(first, 1, p.now, rand.Reader))
	p.want("open", open, OK)
	p.want("put", p.item("x"), OK)
	get := must(t)(p.owner.Get(first, 0, p.now, rand.Reader))
	done := must(t)(p.owner.Done(first, []uint64{1}, p.now, rand.Reader))
	closing := must(t)(p.owner.Close(first, p.now, rand.Reader))
	p.want("get", get, OK)
	p.want("done", done, OK)
	for _, again := range []string{"live", "after a restart"} {
		for _, req := range [][]byte{open, get, done} {
			p.want(again, req, Replay)
		}
		p.restart()
	}
	p.want("close", closing, OK)
	p.restart()
	p.want("opened again by an old request", open, Replay)
	p.want("closed twice", closing, Replay)
	p.now = p.now.Add(Window + time.Minute)
	if err := p.k.Sweep(p.now); err != nil {
		t.Fatal(err)
	}
	p.want("an old request after its window", open, Clock)
	p.now = p.now.Add(Window)
	if err := p.k.Sweep(p.now); err != nil {
		t.Fatal(err)
	}
	if len(p.disk.values) != 0 {
		t.Errorf("%d values stay of a closed box", len(p.disk.values))
	}
}

func TestRequestsThatAreRefusedAndWhy(t *testing.T) {
	p := newPlace(t)
	other := newPlace(t)
	get := func(o *Owner, keeper Key, at time.Time) []byte { return must(t)(o.Get(keeper, 0, at, rand.Reader)) }
	p.want("get before open", get(p.owner, first, p.now), Unknown)
	p.want("put before open", p.item("x"), Refused)
	p.open(1)
	p.want("signed for the other keeper", get(p.owner, second, p.now), Refused)
	forged := get(other.owner, first, p.now)
	copy(forged[4:], p.owner.public())
	p.want("signed by another key", forged, Refused)
	for _, d := range []time.Duration{Window, -Window} {
		p.want(fmt.Sprint("clock off by ", d), get(p.owner, first, p.now.Add(d)), OK)
	}
	for _, d := range []time.Duration{Window + time.Millisecond, -Window - time.Millisecond} {
		p.want(fmt.Sprint("clock off by ", d), get(p.owner, first, p.now.Add(d)), Clock)
	}
	req := p.item("x")
	p.want("put", req, OK)
	req[RequestSize-1] ^= 1
	p.want("the same id with another content", req, Refused)
	p.want("nonsense", []byte("nonsense"), Refused)
	if _, err := p.owner.Done(first, nil, p.now, rand.Reader); !errors.Is(err, ErrRequest) {
		t.Errorf("done of nothing: %v", err)
	}
	a := p.owner.Address()
	if _, err := a.Put(rand.Reader, net, make([]byte, MaxMessage)); err != nil {
		t.Errorf("longest message: %v", err)
	}
	if _, err := a.Put(rand.Reader, net, make([]byte, MaxMessage+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a byte more: %v", err)
	}
	p.now = begin.Add(24 * time.Hour)
	p.want("get after the box's days", get(p.owner, first, p.now), Unknown)
	p.want("put after the box's days", p.item("x"), Refused)
}

func TestFullBoxRefusesAndForgetsAfterSevenDays(t *testing.T) {
	p := newPlace(t)
	p.open(30)
	for range MaxCells {
		p.want("put", p.item("x"), OK)
	}
	p.want("one above", p.item("x"), Refused)
	p.restart()
	p.want("one above, after a restart", p.item("x"), Refused)
	p.now = p.now.Add(CellLife)
	p.want("after seven days", p.item("new"), OK)
	if got, err := p.fetch(); err != nil || !slices.Equal(got, []string{"new"}) {
		t.Errorf("after seven days: %q, %v", got, err)
	}
}

func TestNoncesOfABoxAreBounded(t *testing.T) {
	p := newPlace(t)
	p.open(1)
	for range maxNonces - 1 {
		p.want("get", must(t)(p.owner.Get(first, 0, p.now, rand.Reader)), OK)
	}
	p.want("one above", must(t)(p.owner.Get(first, 0, p.now, rand.Reader)), Busy)
	p.now = p.now.Add(forget)
	p.want("later", must(t)(p.owner.Get(first, 0, p.now, rand.Reader)), OK)
}

func TestAKeeperHoldsSoManyBoxesAndNoneMore(t *testing.T) {
	p := newPlace(t)
	for i := range MaxBoxes {
		p.k.boxes[BoxID{1, byte(i), byte(i >> 8)}] = &box{until: p.now.Add(time.Hour)}
	}
	if err := p.client().Open(t.Context(), p.owner, first, 1); !errors.Is(err, ErrFull) {
		t.Errorf("one box above the limit: %v", err)
	}
	delete(p.k.boxes, BoxID{1})
	p.open(1)
}

func TestEmptyFullAndUnknownBoxesLookAlike(t *testing.T) {
	p := newPlace(t)
	unknown := p.k.Answer(p.item("x"), p.now)
	p.open(1)
	empty := p.k.Answer(must(t)(p.owner.Get(first, 0, p.now, rand.Reader)), p.now)
	stored := p.k.Answer(p.item("x"), p.now)
	for range MaxCells {
		p.status(p.item("x"))
	}
	some := p.k.Answer(must(t)(p.owner.Get(first, 0, p.now, rand.Reader)), p.now)
	full := p.k.Answer(p.item("x"), p.now)
	stranger := newPlace(t)
	forged := must(t)(stranger.owner.Get(first, 0, p.now, rand.Reader))
	copy(forged[4:], p.owner.public())
	if !bytes.Equal(unknown, full) || !bytes.Equal(unknown, p.k.Answer(forged, p.now)) {
		t.Error("a stranger can tell a full box, an unknown one and one that is not its own apart")
	}
	for name, a := range map[string][]byte{"unknown": unknown, "empty": empty, "stored": stored, "with items": some} {
		if len(a) != AnswerSize {
			t.Errorf("answer of %s has %d bytes, want %d", name, len(a), AnswerSize)
		}
	}
	for _, req := range [][]byte{forged, p.item("x"), must(t)(p.owner.Close(first, p.now, rand.Reader))} {
		if len(req) != RequestSize {
			t.Errorf("request of %d bytes, want %d", len(req), RequestSize)
		}
	}
}

func TestWhatAKeeperRepeatsOrInventsIsNotTaken(t *testing.T) {
	p := newPlace(t)
	p.open(1)
	req := p.item("once")
	p.want("put", req, OK)
	copied := bytes.Clone(req)
	copied[4+keySize] ^= 1 // the same cell under another id
	p.want("copy", copied, OK)
	junk := bytes.Clone(req)
	copy(junk[4+keySize:], bytes.Repeat([]byte{7}, itemSize+CellSize))
	p.want("junk", junk, OK)
	if got, err := p.fetch(); err != nil || !slices.Equal(got, []string{"once"}) {
		t.Errorf("got %q, %v", got, err)
	}
	p.want("put again", req, OK)
	if got, err := p.fetch(); err != nil || len(got) > 0 {
		t.Errorf("taken twice: %q, %v", got, err)
	}
	if _, items := p.k.Counts(); items != 0 {
		t.Errorf("%d items left", items)
	}
}

func TestAnItemThatCannotBeTakenStays(t *testing.T) {
	p := newPlace(t)
	p.open(1)
	for i := range 3 {
		p.want("put", p.item(fmt.Sprint(i)), OK)
	}
	var got []string
	err := p.client().Fetch(t.Context(), p.owner, first, func(msg []byte) error {
		if string(msg) == "1" {
			return errCut
		}
		got = append(got, string(msg))
		return nil
	})
	if !errors.Is(err, errCut) {
		t.Errorf("the taker's error is lost: %v", err)
	}
	rest, err := p.fetch()
	if err != nil || !slices.Equal(append(got, rest...), []string{"0", "1", "2"}) {
		t.Errorf("first %q, then %q, %v", got, rest, err)
	}
}

func TestAKeeperSeesNothingPlain(t *testing.T) {
	p := newPlace(t)
	p.open(1)
	secret := []byte("EUR 12.40 for session 7F3A-92")
	req := p.item(string(secret))
	p.want("put", req, OK)
	if bytes.Contains(req, secret[:8]) {
		t.Error("a request shows its message")
	}
	for k, v := range p.disk.values {
		if bytes.Contains([]byte(k), secret[:8]) || bytes.Contains(v, secret[:8]) || bytes.Contains(v, p.owner.Secret) || bytes.Contains(v, p.owner.Seed[:]) {
			t.Error("the store shows a message or an owner's key")
		}
	}
}

func TestKeepersAreOfTwoOperators(t *testing.T) {
	list := []Candidate{{Key{1}, "a"}, {Key{2}, "a"}, {Key{3}, "b"}}
	for range 50 {
		got, err := Choose(list, rand.Reader)
		if err != nil || (got[0] == Key{3}) == (got[1] == Key{3}) {
			t.Fatalf("chosen %v, %v", got, err)
		}
	}
	for _, few := range [][]Candidate{nil, list[:1], list[:2]} {
		if _, err := Choose(few, rand.Reader); !errors.Is(err, ErrFewKeepers) {
			t.Errorf("%d keepers of one operator: %v", len(few), err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	p := newPlace(f)
	f.Add(p.item("x"))
	f.Add(must(f)(p.owner.Open(first, 3, begin, rand.Reader)))
	f.Add(must(f)(p.owner.Get(first, 7, begin, rand.Reader)))
	f.Add(must(f)(p.owner.Done(first, []uint64{1, 2}, begin, rand.Reader)))
	f.Add(must(f)(p.owner.Close(first, begin, rand.Reader)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			return
		}
		again, err := r.layout()
		if err != nil {
			t.Fatal(err)
		}
		if copy(again[RequestSize-len(r.sig):], r.sig); !bytes.Equal(again, b) {
			t.Errorf("%d bytes come back as others", len(b))
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	f.Add((&Answer{Status: Full}).Encode())
	f.Add((&Answer{More: true, Cells: []Cell{{1, ItemID{1}, make([]byte, CellSize)}, {2, ItemID{2}, make([]byte, CellSize)}}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := ParseAnswer(b); err == nil && !bytes.Equal(a.Encode(), b) {
			t.Error("an answer comes back as another")
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	p := newPlace(f)
	a := p.owner.Address()
	f.Add(a.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := ParseAddress(b); err == nil && !bytes.Equal(a.Encode(), b) {
			t.Error("an address comes back as another")
		}
	})
}
