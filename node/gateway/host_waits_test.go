package gateway

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/route"
	"gridveil/node/ask"
	"gridveil/node/config"
	"gridveil/node/role"
	"gridveil/node/wallet"
)

func TestGuestChargesOnTrustAndIsSettledOnceTheAggregatorIsBack(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500})
	s.market.Down(true)
	s.plug(electric())
	id := s.pay(wallet.Options{Band: 20, WantMWh: 1_000_000, ShowUtility: true})
	row := s.ends("signed")
	if row.ID != id {
		t.Errorf("session: %+v", row)
	}
	s.books(0)
	if waiting, err := s.h().outbox.List(0, 10); err != nil || len(waiting) == 0 {
		t.Errorf("nothing waits for the aggregator: %v", err)
	}
	s.market.Down(false)
	s.ends("paid")
	s.books(1)
	s.eventually("receipt in the wallet", func() bool { x, _ := s.w().Session(id); return x.State == "receipted" })
}

func TestRecordWaitsBelowTheFloorAndLeavesOnceItIsMet(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500})
	tried := 0 // messages of sessions offered below the floor; the record follows the late authorisation
	s.market.Read(func() {
		s.market.Broken = func(op ask.Op, _ []byte) ([]byte, error, bool) {
			if op == ask.Authorise || op == ask.Settle {
				tried++
			}
			return nil, fmt.Errorf("call: %w", &route.SmallSetError{Homes: 12, MinHomes: 20}), true
		}
	})
	s.plug(electric())
	id := s.pay(wallet.Options{Band: 20, WantMWh: 500_000, ShowUtility: true})
	s.ends("signed")
	waiting := func() int {
		list, err := s.h().outbox.List(0, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	already := 0
	s.market.Read(func() { already = tried })
	s.eventually("more tries below the floor", func() bool {
		n := 0
		s.market.Read(func() { n = tried })
		return n >= already+2
	})
	if waiting() == 0 || s.newest().State != "signed" {
		t.Errorf("%d messages wait below the floor, the session is %s", waiting(), s.newest().State)
	}
	s.books(0)
	s.market.Read(func() { s.market.Broken = nil })
	s.ends("paid")
	s.books(1)
	s.eventually("nothing waits", func() bool { return waiting() == 0 })
	s.eventually("receipt in the wallet", func() bool { x, _ := s.w().Session(id); return x.State == "receipted" })
}

// TestWhatTheSwitchHeldBackIsPaidOnceItIsOn has a home whose private messages are
// switched off: the guest charges on trust, the records wait since a known time,
// and are settled later.
func TestWhatTheSwitchHeldBackIsPaidOnceItIsOn(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500})
	var off atomic.Bool
	off.Store(true)
	s.market.Broken = func(op ask.Op, _ []byte) ([]byte, error, bool) {
		own := op == ask.Authorise || op == ask.Lock || op == ask.Settle
		return nil, mesh.ErrOff, own && off.Load()
	}
	s.plug(electric())
	id := s.pay(wallet.Options{Band: 20, WantMWh: 1_000_000, ShowUtility: true})
	s.ends("signed")
	if n, since, err := s.h().outbox.Waiting(); err != nil || n == 0 || since.IsZero() {
		t.Errorf("%d messages wait since %v, %v", n, since, err)
	}
	s.books(0)
	off.Store(false)
	s.ends("paid")
	s.books(1)
	s.eventually("receipt in the wallet", func() bool { x, _ := s.w().Session(id); return x.State == "receipted" })
}

func TestRecordsWaitWhileTheLedgerShowsTwoHistories(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500})
	var asked, settles atomic.Int64
	s.market.Broken = func(op ask.Op, _ []byte) ([]byte, error, bool) {
		switch op {
		case ask.Authorise:
			asked.Add(1)
		case ask.Settle:
			settles.Add(1)
		}
		return nil, nil, false
	}
	s.home.env.Warn.Raise(role.Warning{Code: role.WarnFork}, s.clock.Now())
	s.plug(electric())
	id := s.pay(wallet.Options{Band: 20, WantMWh: 1_000_000, ShowUtility: true})
	s.ends("signed") // charging goes on
	until := s.clock.Now().Add(30 * time.Minute)
	s.eventually("time for some tries", func() bool { return s.clock.Now().After(until) })
	if asked.Load() == 0 || settles.Load() != 0 || s.newest().State != "signed" {
		t.Errorf("%d authorisations and %d records left, the session is %s; want the records to wait", asked.Load(), settles.Load(), s.newest().State)
	}
	s.books(0)
	s.home.env.Warn.Clear(role.WarnFork)
	s.ends("paid")
	s.books(1)
	s.eventually("receipt in the wallet", func() bool { x, _ := s.w().Session(id); return x.State == "receipted" })
}

func TestOwnCarChargesWithEverybodyAway(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500, config: func(c *config.Config) { c.Hosting.OfflineGuest = "refuse" }})
	s.market.Down(true)
	s.plug(electric())
	if _, err := s.tryPay(wallet.Options{Band: 20}); err == nil || !strings.Contains(err.Error(), "try again later") {
		t.Errorf("a guest without aggregator: %v", err)
	}
	s.h().mu.Lock()
	err := s.h().startOwn(s.clock.Now(), false)
	s.h().mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("own car charging", func() bool { return s.cp.Status().PowerW > 10_000 })
	s.leave()
	s.ends("informational")
	s.books(0)
	var left bool
	for _, l := range s.h().journal.day(s.clock.Now()).Lines {
		left = left || strings.Contains(l.Row.Message.String(), "settlement")
	}
	if left {
		t.Error("an own session left the house")
	}
}
