package mailbox

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"testing"
)

func TestAPageHasThreeItemsAndSaysThatThereAreMore(t *testing.T) {
	p := newPlace(t)
	p.open(1)
	page := func() Answer {
		t.Helper()
		a, err := ParseAnswer(p.k.Answer(must(t)(p.owner.Get(first, 0, p.now, rand.Reader)), p.now))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for range maxPage {
		p.want("put", p.item("x"), OK)
	}
	if a := page(); len(a.Cells) != maxPage || a.More {
		t.Errorf("of %d items %d are in a page, more %v", maxPage, len(a.Cells), a.More)
	}
	p.want("put", p.item("x"), OK)
	a := page()
	if len(a.Cells) != maxPage || !a.More {
		t.Errorf("of %d items %d are in a page, more %v", maxPage+1, len(a.Cells), a.More)
	}
	raw := a.Encode()
	raw[2]++
	if _, err := ParseAnswer(raw); !errors.Is(err, ErrAnswer) {
		t.Errorf("a page of %d items: %v", maxPage+1, err)
	}
}

func TestAnOwnerRemembersSoManyItemsAndForgetsTheOldest(t *testing.T) {
	p := newPlace(t)
	p.open(1)
	item := func(i int) (id ItemID) {
		binary.BigEndian.PutUint64(id[:], uint64(i))
		return id
	}
	for i := range maxSeen - 1 {
		p.owner.Seen = append(p.owner.Seen, item(i))
	}
	for over := range 2 {
		p.want("put", p.item("x"), OK)
		if got, err := p.fetch(); err != nil || len(got) != 1 {
			t.Fatalf("fetched %d items: %v", len(got), err)
		}
		if n := len(p.owner.Seen); n != maxSeen || p.owner.Seen[0] != item(over) {
			t.Errorf("after item %d an owner remembers %d, the oldest %x", maxSeen+over, n, p.owner.Seen[0])
		}
	}
}

func TestABoxIsOpenedForAMonthAtMost(t *testing.T) {
	p := newPlace(t)
	for over := range 2 {
		req := must(t)(p.owner.Open(first, uint8(MaxDays+over), p.now, rand.Reader))
		if _, err := ParseRequest(req); errors.Is(err, ErrRequest) != (over == 1) {
			t.Errorf("for %d days: %v", MaxDays+over, err)
		}
	}
	p.open(MaxDays)
	req := must(t)(p.owner.Done(first, make([]uint64, MaxCells), p.now, rand.Reader))
	if _, err := p.owner.Done(first, make([]uint64, MaxCells+1), p.now, rand.Reader); !errors.Is(err, ErrRequest) {
		t.Errorf("%d items at once: %v", MaxCells+1, err)
	}
	p.want("all items of a full box at once", req, OK)
}
