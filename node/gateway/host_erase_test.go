package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gridveil/node/clock"
	"gridveil/node/store"
	"gridveil/node/store/storetest"
	"gridveil/node/wallet"
)

// erased is one node whose store is watched for what a session left in it.
type erased struct {
	t      *testing.T
	n      *node
	copied string // of its store, from when the session was new
	marks  map[string][]byte
}

func (e *erased) master() store.MasterKey {
	e.t.Helper()
	k, err := store.LoadKey(e.n.dir + "/store.key")
	if err != nil {
		e.t.Fatal(err)
	}
	return k
}

// remember copies the store, closed as it is, and takes every value below some
// prefixes of its space of sessions as a mark.
func (e *erased) remember(prefixes ...string) {
	e.t.Helper()
	e.copied, e.marks = filepath.Join(e.t.TempDir(), "copy"), map[string][]byte{}
	if err := os.CopyFS(e.copied, os.DirFS(e.n.dir+"/store")); err != nil {
		e.t.Fatal(err)
	}
	st, err := store.Open(e.n.dir+"/store", e.master(), store.Options{MinFree: -1})
	if err != nil {
		e.t.Fatal(err)
	}
	for _, p := range prefixes {
		err = errors.Join(err, st.View(func(tx *store.Tx) error {
			return tx.Each(store.SpaceSession.Key([]byte(p)), func(k, v []byte) error {
				e.marks[fmt.Sprintf("%s %d", p, len(e.marks))] = v
				return nil
			})
		}))
	}
	if err := errors.Join(err, st.Close()); err != nil {
		e.t.Fatal(err)
	}
}

// shown names the marks that somebody with the store's key and key files finds in a
// directory.
func (e *erased) shown(dir string) (names []string) {
	e.t.Helper()
	values, blobs := storetest.Thief(e.t, dir, e.n.dir+"/store", e.master())
	if blobs == 0 {
		e.t.Errorf("no value in %s", dir)
	}
	for name, mark := range e.marks {
		for _, v := range values {
			if bytes.Contains(v, mark) {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// age lets days pass for a store that nobody has open, with its maintenance.
func (e *erased) age(from time.Time, days int) {
	e.t.Helper()
	now := from
	st, err := store.Open(e.n.dir+"/store", e.master(), store.Options{MinFree: -1, Now: func() time.Time { return now }})
	if err != nil {
		e.t.Fatal(err)
	}
	for range days {
		now = now.Add(24 * time.Hour)
		err = errors.Join(err, st.Maintain(e.t.Context()))
	}
	if err := errors.Join(err, st.Check(e.t.Context()), st.Close()); err != nil {
		e.t.Fatal(err)
	}
}

// TestNobodysStoreHoldsASessionAfterItsTime has a guest charge and be paid for; when
// the session can no more be contested, home and wallet drop it, and two months later
// nothing of it can be opened, not even in a copy from the day itself.
func TestNobodysStoreHoldsASessionAfterItsTime(t *testing.T) {
	t.Parallel()
	s := newScene(t, sceneOptions{loadW: 500})
	s.plug(electric())
	id := s.pay(wallet.Options{Band: 20, WantMWh: 1_000_000})
	s.ends("paid")
	s.leave()
	s.eventually("the wallbox free again", func() bool {
		h := s.h()
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.current.rec.Begun == 0
	})
	s.eventually("the driver's receipt", func() bool { y, ok := s.w().Session(id); return ok && len(y.OCMF) >= 2 })
	s.stopNode(s.home)
	s.stopNode(s.guest)
	both := []*erased{{t: t, n: s.home}, {t: t, n: s.guest}}
	for i, prefixes := range [][]string{{"v", "e"}, {"trip"}} {
		both[i].remember(prefixes...)
	}
	open := s.h().visits
	for _, v := range open {
		ref := v.host.Session()
		both[0].marks["name of the session"], both[1].marks["name of the session"] = ref[:], ref[:]
	}
	for _, e := range both {
		if names := e.shown(e.copied); len(names) < len(e.marks)-1 {
			t.Fatalf("%s: of %d marks only %q in the copy of the day: this test could not fail", e.n.dir, len(e.marks), names)
		}
	}
	later := s.clock.Now().Add(130 * 24 * time.Hour)
	for _, n := range []*node{s.home, s.guest} {
		n.env.Clock = clock.NewAccelerated(later, 1)
		s.openStore(n)
	}
	j, err := openJournal(s.home.env.Store)
	if err != nil {
		t.Fatal(err)
	}
	h, err := openHosting(s.home.env, j, s.market, nil)
	if err != nil {
		t.Fatal(err)
	}
	w, err := wallet.Open(s.guest.env, s.market)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := h.Sessions(), w.Sessions(); len(a) != 0 || len(b) != 0 {
		t.Errorf("sessions of before: %d and %d", len(a), len(b))
	}
	for _, e := range both {
		if err := e.n.env.Store.Close(); err != nil {
			t.Fatal(err)
		}
		e.age(later, 65)
		if names := e.shown(e.copied); len(names) != 0 {
			t.Errorf("%s: the copy of the day shows %q", e.n.dir, names)
		}
		if names := e.shown(e.n.dir + "/store"); len(names) != 0 {
			t.Errorf("%s: the store shows %q", e.n.dir, names)
		}
	}
}
