package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gridveil/ev"
	"gridveil/ev/evsim"
	"gridveil/ev/guest"
	"gridveil/node/ask"
	"gridveil/node/config"
	"gridveil/node/monthly"
	"gridveil/node/wallet"
	"gridveil/node/web"
	"gridveil/privacy"
	"gridveil/privacy/session"
)

// newest is the session that began last, as the house's page shows it.
func (s *scene) newest() web.SessionRow {
	rows := s.h().Sessions()
	if len(rows) == 0 {
		return web.SessionRow{}
	}
	return rows[0]
}

func (s *scene) ends(state string) web.SessionRow {
	s.t.Helper()
	s.eventually("session "+state, func() bool { return s.newest().State == state })
	return s.newest()
}

// leave takes the car away.
func (s *scene) leave() { s.cp.Unplug(s.clock.Now()) }

// books checks that the operators booked want sessions, and that the house's
// notes are exactly what they earned.
func (s *scene) books(want int) {
	s.t.Helper()
	booked := s.market.Settled()
	if len(booked) != want {
		s.describe()
		s.t.Fatalf("sessions booked: got %d, want %d", len(booked), want)
	}
	for _, b := range booked {
		if b.Values.Pay != b.Host+b.Line.Total-b.Values.Earn || b.Values.Pay < b.Host {
			s.t.Errorf("booked %+v does not add up", b.Values)
		}
	}
}

func TestGuestChargesFromRoofGridOrBoth(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	for _, c := range []struct {
		name      string
		load, pv  int64
		version   string
		grid, res bool
	}{{"pv", 300, 14_000, "2.0.1", false, true}, {"grid", 500, 0, "1.6", true, false}, {"mixed", 500, 3_000, "2.0.1", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, sceneOptions{loadW: c.load, pvW: c.pv, version: c.version})
			s.plug(electric())
			id := s.pay(wallet.Options{Band: 20, WantMWh: 3_000_000})
			row := s.ends("paid")
			if row.Case != c.name || row.KWhIn < 3 || row.ID != id {
				x, _ := s.h().Session(row.ID)
				t.Errorf("session: %+v, intervals %+v", row, x.Intervals)
			}
			s.books(1)
			for _, b := range s.market.Settled() {
				n := s.h().purse.Standing()
				if held := int64(n.Fresh+n.Swapped+n.Leaving) * ev.MinorEUR; b.Host != held {
					t.Errorf("the house earned %d and holds %d", b.Host, held)
				}
			}
			x, ok := s.h().Session(id)
			if !ok || len(x.OCMF) < 2 || len(x.Intervals) == 0 || len(x.Payees) < 3 || len(x.Parties) != 5 {
				t.Errorf("session in full: %+v", x)
			}
			for _, r := range x.OCMF {
				if !r.OK {
					t.Errorf("record: %s", r.Verdict)
				}
			}
			if y, ok := s.w().Session(id); !ok || y.Total != row.Total || len(y.OCMF) < 2 {
				t.Errorf("the driver sees %+v, the house %+v", y.SessionRow, row)
			}
			s.statements(x)
		})
	}
}

// statements compares the month's statements of house and driver with what their
// pages show of its one session.
func (s *scene) statements(x web.Session) {
	s.t.Helper()
	month := x.End.Local().Format("2006-01")
	host, err := s.h().month(monthAsked{month, true})
	if err != nil {
		s.t.Fatal(err)
	}
	driver, err := s.w().Month(month, false)
	if err != nil {
		s.t.Fatal(err)
	}
	cents := func(micro int64) string { return fmt.Sprintf("EUR %d.%02d", micro/1_000_000, micro/10_000%100) }
	if len(host.Sessions) != 1 || cents(host.Paid) != x.Total || float64(host.InMWh)/1e6 != x.KWhIn || len(host.Sessions[0].Readings) != len(x.OCMF) || host.Sessions[0].Readings[0].OCMF != x.OCMF[0].Raw {
		s.t.Errorf("the house's statement: %+v, its page %+v", host, x.SessionRow)
	}
	if len(driver.Sessions) != 1 || driver.Paid != host.Paid || driver.InMWh != host.InMWh || driver.Sessions[0].Readings != nil || driver.Sessions[0].MeterKey != "" {
		s.t.Errorf("the driver's statement: %+v, the house's %+v", driver, host)
	}
}

func TestCarFeedsHouseAndGridForLockedNotes(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	if testing.Short() {
		t.Skip("three sessions with their notes: 15 s")
	}
	s := newScene(t, sceneOptions{loadW: 500})
	s.plug(electric())
	s.pay(wallet.Options{Band: 20, WantMWh: 9_000_000})
	s.ends("paid")
	s.leave()
	s.eventually("change in the purse", func() bool {
		if err := s.h().purse.Hurry(); err != nil {
			t.Fatal(err)
		}
		return s.h().purse.Standing().Swapped > 0
	})

	s.weather(4_000, 0)
	s.plug(giving())
	s.pay(wallet.Options{Band: 10, GiveMWh: 2_000_000})
	row := s.ends("paid")
	if row.Case != "v2g-house" || row.KWhOut < 1.9 || row.KWhIn > 0.2 { // a simulated minute begins before the limit that is set in it
		t.Errorf("into the house: %+v", row)
	}
	s.eventually("the driver's notes", func() bool { return s.w().Notes().Fresh+s.w().Notes().Swapped > 0 })
	s.leave()
	s.books(2)

	s.eventually("change in the purse", func() bool {
		if err := s.h().purse.Hurry(); err != nil {
			t.Fatal(err)
		}
		return s.h().purse.Standing().Swapped >= 60
	})
	s.weather(300, 0)
	s.plug(giving())
	s.pay(wallet.Options{Band: 10, GiveMWh: 1_500_000})
	s.order(-9_000, -10_000, 0, 3*time.Hour)
	row = s.ends("paid")
	if row.Case != "v2g-grid" || row.KWhOut < 1.4 {
		t.Errorf("into the grid: %+v", row)
	}
	s.books(3)
	var owed, locked int64
	for _, b := range s.market.Settled() {
		owed += b.Driver
	}
	s.market.Read(func() { locked = s.market.Locked })
	if owed == 0 || owed > locked {
		t.Errorf("drivers earned %d of %d locked", owed, locked)
	}
	s.eventually("a proof of what house and driver got in notes", func() bool {
		if err := errors.Join(s.h().purse.Hurry(), s.w().HurryNotes()); err != nil {
			t.Fatal(err)
		}
		host, _ := s.h().Session(row.ID)
		driver, _ := s.w().Session(s.w().Sessions()[0].ID)
		proved := func(list []monthly.Claim, n int) bool {
			return len(list) == n && !slices.ContainsFunc(list, func(c monthly.Claim) bool { return !c.Proved })
		}
		return proved(host.Claims, 1) && proved(driver.Claims, 1) // the house's is what is left of its lock
	})
}

func TestForgedAndReplayedRecordsPayNothing(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	for _, c := range []struct {
		name, reason string
		faults       evsim.Faults
	}{{"forged", "signature does not verify", evsim.Faults{Forged: true}}, {"replayed", "sent before", evsim.Faults{Replayed: true}}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, sceneOptions{loadW: 500})
			s.plug(electric())
			s.h().mu.Lock()
			err := s.h().startOwn(s.clock.Now(), false)
			s.h().mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			s.ends("charging")
			if err := s.h().stopCar(); err != nil {
				t.Fatal(err)
			}
			if row := s.ends("informational"); row.Case != "own" || row.Refused != "" {
				t.Errorf("own session: %+v", row)
			}
			s.cp.SetFaults(c.faults)
			id := s.pay(wallet.Options{Band: 20, WantMWh: 1_000_000})
			row := s.ends("informational")
			if row.ID != id || row.Case != "refused" || !strings.Contains(row.Refused, c.reason) {
				t.Errorf("session: %+v", row)
			}
			s.eventually("refused in the wallet", func() bool { x, _ := s.w().Session(id); return x.Refused != "" })
			s.books(0)
		})
	}
}

func TestSessionWithoutSigningMeterIsAGift(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500, unsigned: true})
	s.cp.SetFaults(evsim.Faults{Unsigned: true})
	s.plug(electric())
	s.pay(wallet.Options{WantMWh: 1_000_000})
	row := s.ends("gift")
	if row.Case != "gift" || row.KWhIn < 1 {
		t.Errorf("session: %+v", row)
	}
	s.eventually("gift in the wallet", func() bool { r := s.w().Sessions(); return len(r) == 1 && r[0].Case == "gift" })
	s.books(0)
}

// errDied is a process that dies between a durable step and what follows.
var errDied = errors.New("died")

func TestHostThatDiesAfterEveryFewStepsLosesAndDoublesNothing(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	if testing.Short() {
		t.Skip("many restarts: 10 s")
	}
	s := newScene(t, sceneOptions{loadW: 500, pvW: 3_000, speed: slowSpeed})
	var steps, died atomic.Int64
	again := make(chan struct{}, 1)
	s.stopNode(s.home)
	s.onHost = func(h *hosting) {
		h.crash = func() error {
			if steps.Add(1)%6 == 0 {
				died.Add(1)
				poke(again)
				return errDied
			}
			return nil
		}
	}
	s.startHost()
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() { // ends with done, below
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			case <-again:
				s.stopNode(s.home)
				s.startHost()
			}
		}
	}()
	s.plug(electric())
	for len(s.market.Settled()) == 0 {
		_, err := s.tryPay(wallet.Options{Band: 20, WantMWh: 2_000_000})
		if err == nil {
			break
		}
		t.Logf("pay: %v", err)
	}
	s.eventually("settled", func() bool { return len(s.market.Settled()) == 1 })
	s.eventually("notes", func() bool { return s.h().purse.Standing().Fresh > 0 })
	close(done)
	<-stopped
	s.books(1)
	if died.Load() < 3 {
		t.Errorf("the host died %d times only", died.Load())
	}
	for _, b := range s.market.Settled() {
		n := s.h().purse.Standing()
		if held := int64(n.Fresh+n.Swapped+n.Leaving) * ev.MinorEUR; b.Host != held {
			t.Errorf("the house earned %d and holds %d after %d deaths", b.Host, held, died.Load())
		}
	}
	t.Logf("%d steps, %d deaths, %d collects", steps.Load(), died.Load(), s.market.Seen[ask.Collect])
}

func TestDriverWhoLeavesPaysWhatWasAcknowledgedAndNoMore(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500})
	s.plug(electric())
	id := s.pay(wallet.Options{Band: 20})
	s.eventually("acknowledged energy", func() bool { r := s.w().Sessions(); return len(r) == 1 && r[0].KWhIn > 1.5 })
	s.stopNode(s.guest)
	last := s.w().Sessions()[0]
	row := s.ends("paid")
	if row.ID != id || row.KWhIn <= last.KWhIn {
		t.Errorf("session: %+v, last acknowledged %+v", row, last)
	}
	s.books(1)
	for _, b := range s.market.Settled() {
		if got := float64(b.Values.Pay) / 1e6; got > 0.34*(last.KWhIn+1) || b.Line.Form == 1 {
			t.Errorf("billed %.2f for %.2f kWh acknowledged, form %d", got, last.KWhIn, b.Line.Form)
		}
	}
	s.startWallet()
	s.eventually("the driver learns of the bill", func() bool { x, _ := s.w().Session(id); return x.State == "receipted" })
}

func TestBandPausesTheCarAndIsNeverPassed(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 300, config: func(c *config.Config) { c.Hosting.PGrid = 5_000_000 }})
	s.plug(electric())
	s.pay(wallet.Options{Band: 10})
	s.eventually("paused at the band", func() bool {
		s.h().mu.Lock()
		defer s.h().mu.Unlock()
		return s.h().current.s.Hold&ev.HoldBand != 0 && s.cp.Status().PowerW == 0
	})
	s.leave()
	s.ends("paid")
	for _, b := range s.market.Settled() {
		if b.Values.Pay > 10_000_000 || b.Values.Pay < 4_000_000 {
			t.Errorf("billed %d within a band of 10 EUR", b.Values.Pay)
		}
	}
	s.books(1)
}

func TestRefusedGuestLeavesTheWallboxToTheNext(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 300})
	s.plug(electric())
	refusing := true
	s.market.Read(func() {
		s.market.Broken = func(op ask.Op, _ []byte) ([]byte, error, bool) {
			return nil, &ask.RefusedError{Reason: "not now"}, op == ask.Authorise && refusing
		}
	})
	if _, err := s.tryPay(wallet.Options{Band: 20}); err == nil {
		t.Error("a refused guest was let in")
	}
	s.market.Read(func() { refusing = false })
	s.pay(wallet.Options{Band: 20, WantMWh: 500_000})
	s.ends("paid")
	s.books(1)
	rows := s.h().Sessions()
	if len(rows) != 2 || rows[1].Case != "refused" || rows[1].Refused == "" {
		t.Errorf("sessions: %+v", rows)
	}
}

func TestRecordThatTheAggregatorRefusesIsShownWithItsReason(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 300})
	s.plug(electric())
	s.market.Read(func() {
		s.market.Broken = func(op ask.Op, _ []byte) ([]byte, error, bool) {
			return nil, &ask.RefusedError{Reason: "amounts do not add up"}, op == ask.Settle
		}
	})
	s.pay(wallet.Options{Band: 20, WantMWh: 500_000})
	s.eventually("refusal on the page", func() bool {
		r := s.newest()
		return r.Case == "refused" && strings.Contains(r.Refused, "do not add up")
	})
	if waiting, err := s.h().outbox.List(0, 10); err != nil || len(waiting) != 0 {
		t.Errorf("%d messages wait, %v", len(waiting), err)
	}
	s.books(0)
}

func TestDoorTakesNonsenseWithoutHarm(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 300})
	s.plug(electric())
	l, err := guest.ParseLink(s.link())
	if err != nil {
		t.Fatal(err)
	}
	wish := guest.Need{Want: 1}.Message()
	parcel, err := guest.Parcel{ID: 1, Service: 3}.Message(guest.Carry)
	if err != nil {
		t.Fatal(err)
	}
	tick := guest.SessionMessage(make([]byte, session.AckSize))
	tick.Body[0] = byte(privacy.KindAck)
	open := guest.SessionMessage(make([]byte, session.OpeningSize))
	open.Body[0], open.Body[1] = byte(privacy.KindOpen), privacy.Version
	for i, list := range [][]guest.Message{{{Type: guest.Stop}}, {tick}, {open}, {parcel}, {wish, wish, wish}, {wish, wish, wish, wish, wish}, {guest.Note{State: 3}.Message()}} {
		c, err := guest.Dial(t.Context(), l)
		if err != nil {
			t.Fatalf("visit %d: %v", i, err)
		}
		for _, m := range list {
			if err := c.Send(t.Context(), m); err != nil {
				break // sent away: right as well
			}
		}
		c.Close()
	}
	s.pay(wallet.Options{Band: 20, WantMWh: 300_000})
	s.ends("paid")
	s.books(1)
	if n := len(s.h().Sessions()); n != 1 {
		t.Errorf("%d sessions after nonsense and one guest", n)
	}
}
