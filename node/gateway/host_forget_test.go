package gateway

import (
	"bytes"
	"testing"
	"time"

	"gridveil/ev"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/monthly"
	"gridveil/node/role"
	"gridveil/node/wallet"
)

// days opens the stopped home again, that many days after start, and lets it look
// at its sessions once.
func (s *scene) days(start time.Time, n int) *hosting {
	s.t.Helper()
	s.home.env.Clock = clock.NewAccelerated(start.AddDate(0, 0, n), 1)
	s.home.env.Warn = role.NewBoard()
	s.openStore(s.home)
	j, err := openJournal(s.home.env.Store)
	if err != nil {
		s.t.Fatal(err)
	}
	h, err := openHosting(s.home.env, j, s.market, nil)
	if err == nil {
		_, err = h.tick()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

func (s *scene) closeStore(n *node) {
	s.t.Helper()
	if err := n.env.Store.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// proves wants the month of a session to list it as signed and not settled, and an
// outsider to find it proved.
func (s *scene) proves(h *hosting, start time.Time) {
	s.t.Helper()
	x, err := h.month(monthAsked{start.Local().Format("2006-01"), true})
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := x.JSON()
	if err != nil {
		s.t.Fatal(err)
	}
	j, err := monthly.Judge(bytes.NewReader(b), nil)
	if err != nil || x.Unbilled != 1 || len(x.Sessions) != 0 || len(j.Unsettled) != 1 || !j.Unsettled[0].Proved || j.Unsettled[0].Earned <= 0 {
		s.t.Errorf("the month's statement: %+v, %v\n%s", j, err, b)
	}
	if !bytes.Contains(x.Text(), []byte("nobody has paid them yet")) {
		s.t.Errorf("the month in words:\n%s", x.Text())
	}
}

// TestASessionThatNobodySettlesEnds has the aggregator refuse a record for good, or
// be gone for good: the owner is warned, can print what proves the session, and after
// its time the home drops it with everything that belongs to it.
func TestASessionThatNobodySettlesEnds(t *testing.T) {
	for name, broken := range map[string]func(ask.Op, []byte) ([]byte, error, bool){
		"refused": func(op ask.Op, _ []byte) ([]byte, error, bool) {
			return nil, &ask.RefusedError{Reason: "amounts do not add up"}, op == ask.Settle
		},
		"gone": func(op ask.Op, _ []byte) ([]byte, error, bool) { return nil, mesh.ErrUnacked, op == ask.Settle },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait for their clocks most of the time
			s := newScene(t, sceneOptions{loadW: 300, speed: calm})
			start := s.clock.Now()
			s.plug(electric())
			s.market.Read(func() { s.market.Broken = broken })
			s.pay(wallet.Options{Band: 20, WantMWh: 500_000})
			s.eventually("a record that is not settled", func() bool {
				return s.newest().State == "signed" && (name == "gone" || s.newest().Case == "refused")
			})
			s.parks()
			s.stopNode(s.home)
			s.stopNode(s.guest)
			e := &erased{t: t, n: s.home}
			e.remember("v", "e")

			h := s.days(start, 13)
			if h.env.Warn.Has("sessions-unsettled") {
				t.Error("the owner is warned of a session that may well be settled yet")
			}
			s.closeStore(s.home)
			for _, day := range []int{15, 75, 121} {
				h = s.days(start, day)
				if !h.env.Warn.Has("sessions-unsettled") || len(h.Sessions()) != 1 {
					t.Errorf("on day %d: %d sessions, warnings %+v", day, len(h.Sessions()), h.env.Warn.Standing(h.env.Clock.Now()))
				}
				s.proves(h, start)
				s.closeStore(s.home)
			}
			h = s.days(start, 123)
			if waiting, err := h.outbox.List(0, 10); err != nil || len(waiting) != 0 || len(h.Sessions()) != 0 || h.env.Warn.Has("sessions-unsettled") {
				t.Errorf("on day 123: %d sessions, %d messages, %v", len(h.Sessions()), len(waiting), err)
			}
			s.closeStore(s.home)
			e.age(start.AddDate(0, 0, 123), 65)
			if names := e.shown(e.n.dir + "/store"); len(names) != 0 {
				t.Errorf("the store shows %q", names)
			}
		})
	}
}

// parks has the wallbox free again after a session.
func (s *scene) parks() {
	s.t.Helper()
	s.leave()
	s.eventually("the wallbox free again", func() bool {
		h := s.h()
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.current.rec.Begun == 0
	})
}

// earns lets a guest pay the house and swaps the notes, so that it can buy energy.
func (s *scene) earns() {
	s.t.Helper()
	s.plug(electric())
	s.pay(wallet.Options{Band: 20, WantMWh: 9_000_000})
	s.ends("paid")
	s.parks()
	s.eventually("change in the purse", func() bool {
		if err := s.h().purse.Hurry(); err != nil {
			s.t.Fatal(err)
		}
		return s.h().purse.Standing().Swapped > 0
	})
	s.weather(4_000, 0)
	s.plug(giving())
}

// TestNotesThatNobodyPaysEnd has the aggregator take the record of a car that fed the
// house, and pay neither house nor driver.
func TestNotesThatNobodyPaysEnd(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	if testing.Short() {
		t.Skip("two sessions with their notes: 10 s")
	}
	s := newScene(t, sceneOptions{loadW: 500})
	s.earns()
	s.market.Read(func() {
		s.market.Broken = func(op ask.Op, _ []byte) ([]byte, error, bool) { return nil, mesh.ErrUnacked, op == ask.Collect }
	})
	start := s.clock.Now()
	s.pay(wallet.Options{Band: 10, GiveMWh: 2_000_000})
	s.ends("receipted")
	s.eventually("the driver's claim", func() bool { return s.w().Notes().Waiting > 0 })
	s.parks()
	s.stopNode(s.home)
	s.stopNode(s.guest)
	for _, x := range []struct{ day, left int }{{121, 1}, {123, 0}} {
		h := s.days(start, x.day)
		s.guest.env.Clock = h.env.Clock
		s.openStore(s.guest)
		w, err := wallet.Open(s.guest.env, s.market)
		if err != nil {
			t.Fatal(err)
		}
		if house, driver := h.purse.Standing().Waiting > 0, w.Notes().Waiting > 0; house != (x.left > 0) || driver != house || len(h.Sessions()) != x.left || len(w.Sessions()) < x.left {
			t.Errorf("on day %d: house waits: %v, driver waits: %v, %d and %d sessions", x.day, house, driver, len(h.Sessions()), len(w.Sessions()))
		}
		s.closeStore(s.home)
		s.closeStore(s.guest)
	}
}

// TestALockThatWasNeverSettledIsAskedBack puts a confirmed lock behind a session and
// lets it end in each way without a settlement.
func TestALockThatWasNeverSettledIsAskedBack(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	if testing.Short() {
		t.Skip("two sessions with their notes: 10 s")
	}
	s := newScene(t, sceneOptions{loadW: 500})
	s.earns()
	s.market.Read(func() {
		s.market.Broken = func(op ask.Op, _ []byte) ([]byte, error, bool) {
			return nil, &ask.RefusedError{Reason: "not this one"}, op == ask.Settle
		}
	})
	start := s.clock.Now()
	s.pay(wallet.Options{Band: 10, GiveMWh: 2_000_000})
	s.eventually("the record refused", func() bool { return s.newest().Case == "refused" })
	s.leave()
	s.stopNode(s.home)
	for _, x := range []struct{ day, back int64 }{{59, 0}, {62, 1}} {
		h := s.days(start, int(x.day))
		var locked int64
		for _, v := range h.visits {
			if v.host != nil {
				locked += v.host.Locked() / ev.MinorEUR
			}
		}
		if got := int64(h.purse.Standing().Waiting); locked == 0 || got != x.back*locked {
			t.Errorf("day %d: %d minor units are asked back, of %d", x.day, got, locked)
		}
		s.closeStore(s.home)
	}
}
