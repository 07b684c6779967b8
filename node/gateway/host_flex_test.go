package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"sync"
	"testing"
	"time"

	"gridveil/ev"
	"gridveil/ev/pool"
	grid "gridveil/ev/signal"
	"gridveil/mesh/gossip"
	"gridveil/node/ask"
	"gridveil/node/signal"
	"gridveil/node/wallet"
	"gridveil/node/wallet/markettest"
	"gridveil/privacy/session"
)

// radio is what a house follows of others, without a mesh: a real book of signals
// that tests speak into.
type radio struct {
	s *scene

	mu      sync.Mutex
	book    *signal.Book
	changed func()
	orders  map[[32]byte]signal.Set // as if they had been accepted
}

// listen gives the house a radio, in this start and every later one.
func (s *scene) listen() *radio {
	s.t.Helper()
	r := &radio{s: s, orders: map[[32]byte]signal.Set{}}
	s.onHost = func(h *hosting) {
		book, err := signal.OpenBook(signal.Config{Store: s.home.env.Store, Rand: rand.Reader, Zone: "elm", Operator: markettest.Utility})
		if err != nil {
			s.t.Fatal(err)
		}
		r.mu.Lock()
		r.book = book
		r.mu.Unlock()
		h.heed(r)
	}
	s.stopNode(s.home)
	s.startHost()
	s.eventually("wallbox online", func() bool { return s.cp.Status().Online })
	return r
}

func (r *radio) held() *signal.Book {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.book
}

func (r *radio) At(now time.Time) signal.Signals {
	x := r.held().Signals(now)
	r.mu.Lock()
	defer r.mu.Unlock()
	for open, set := range r.orders {
		x.Sets[open] = set
	}
	return x
}

func (r *radio) OnChange(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed = fn
}

func (r *radio) ExpectControl(x signal.Session) error { return r.held().Expect(x) }
func (r *radio) ForgetControl(open [32]byte) error    { return r.held().Forget(open) }

// say sends a control to the house and gives what was made of it.
func (r *radio) say(counter uint64, c *grid.Control) grid.Reason {
	r.s.t.Helper()
	k, now := markettest.ControlKey(c.Open), r.s.clock.Now()
	body, err := k.Seal(rand.Reader, counter, c)
	if err != nil {
		r.s.t.Fatal(err)
	}
	e := gossip.Envelope{Kind: gossip.KindControl, Key: k.Tag(counter), Version: uint64(now.UnixMilli()), Issued: now, Expires: now.Add(signal.ControlLife), Body: body}
	v, mine, err := r.held().Control(e, signal.Measured{ClockSure: true}, now)
	if err != nil || !mine {
		r.s.t.Fatalf("control %d: mine %v, %v", counter, mine, err)
	}
	r.mu.Lock()
	changed := r.changed
	r.mu.Unlock()
	changed()
	return v.Reason
}

// order lets the running session be asked for a power, as an accepted control
// does.
func (s *scene) order(w, lo, hi int64, d time.Duration) {
	s.t.Helper()
	r := &radio{s: s, orders: map[[32]byte]signal.Set{}}
	book, err := signal.OpenBook(signal.Config{Store: s.home.env.Store, Rand: rand.Reader, Zone: "elm", Operator: markettest.Utility})
	if err != nil {
		s.t.Fatal(err)
	}
	r.book = book
	s.h().mu.Lock()
	defer s.h().mu.Unlock()
	now := s.clock.Now()
	r.orders[s.h().current.openHash()] = signal.Set{W: w, Lo: lo, Hi: hi, From: now, Until: now.Add(d)}
	s.h().signals = r
}

// certify gives the house the grid operator's certificate over its meter.
func (s *scene) certify() {
	s.t.Helper()
	cert := s.market.CertifyMeter(s.h().key.Hash(), 2, 11_000)
	if err := s.h().setCert(hex.EncodeToString(cert.Encode())); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) offers() (list []*pool.Flex) {
	s.market.Read(func() { list = append(list, s.market.Flex...) })
	return list
}

// TestCarWaitsOnInstructionAndItsDriverIsPaid is the whole thread at the home: the
// plan is offered, signed by both and taken; a control stops the car for a quarter
// of an hour, also across a restart; the own plan comes back; the meter's records
// are shown; and what the pool pays for it ends as notes in the wallet.
func TestCarWaitsOnInstructionAndItsDriverIsPaid(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	if testing.Short() {
		t.Skip("two hours of a session with a restart: 12 s")
	}
	s := newScene(t, sceneOptions{loadW: 500, speed: 600})
	var shown sync.Map
	s.market.Broken = func(op ask.Op, body []byte) ([]byte, error, bool) {
		if x, err := session.ParseSettle(body); op == ask.Settle && err == nil {
			shown.Store(x.Record.Open, x.Evidence != nil)
		}
		return nil, nil, false
	}
	r := s.listen()
	s.certify()
	s.plug(electric())
	begun := s.clock.Now()
	s.pay(wallet.Options{Band: 20, WantMWh: 22_000_000, FloorMWh: 5_000_000, Departure: begun.Add(5 * time.Hour).UnixMilli()})
	s.eventually("an offer in the pool", func() bool { return len(s.offers()) > 0 })
	f := s.offers()[0]
	if e := f.Envelopes[0]; e.BaselineW < 10_900 || int64(e.UpW) > int64(e.BaselineW) || e.UpW < 10_000 {
		t.Errorf("first slot: %+v, want full power that may be taken back", e)
	}
	s.eventually("the control line", func() bool {
		s.h().mu.Lock()
		defer s.h().mu.Unlock()
		v := s.h().current
		return v.rec.Flex != nil && v.rec.Flex.Line != nil
	})
	c := &grid.Control{Open: f.Open, From: f.From, To: f.From + 2*pool.SlotMS, SetW: -1000, Kind: grid.Discharge, Instruction: [32]byte{1}}
	if got := r.say(0, c); got != grid.Envelope {
		t.Errorf("a discharge that nobody offered: %v", got)
	}
	c.SetW, c.Kind = 0, grid.Level
	if got := r.say(1, c); got != grid.None {
		t.Fatalf("the control: %v", got)
	}
	s.eventually("the car waits", func() bool { return s.clock.Now().UnixMilli() > f.From && s.power() == 0 })
	if at := s.clock.Now().UnixMilli(); at >= c.To {
		t.Errorf("the car waits at %d, the control ended at %d", at, c.To)
	}
	s.stopNode(s.home)
	s.startHost()
	s.eventually("wallbox online", func() bool { return s.cp.Status().Online })
	if x, ok := r.At(s.clock.Now()).Sets[f.Open]; !ok || x.W != 0 {
		t.Error("after a restart the control is forgotten")
	}
	c2 := *c
	c2.SetW = 4_500
	if got := r.say(2, &c2); got != grid.None {
		t.Errorf("after a restart the next control: %v, want it accepted", got)
	}
	if got := r.say(3, &grid.Control{Open: f.Open, From: f.From, To: c.To, Kind: grid.Release}); got != grid.None {
		t.Errorf("a release: %v", got)
	}
	s.eventually("the own plan", func() bool { return s.power() > 10_000 })
	row := s.ends("paid")
	if row.KWhIn < 21.8 {
		t.Errorf("the driver has %v kWh, want all 22", row.KWhIn)
	}
	if v, ok := shown.Load(f.Open); !ok || v != true {
		t.Errorf("the meter's records: shown %v", v)
	}
	if r.held().Signals(s.clock.Now()).Sets[f.Open] != (signal.Set{}) {
		t.Error("the session is over and still controlled")
	}
	s.market.Earn(f.Open, 1_900_000, 370_000)
	s.eventually("the driver's share in notes", func() bool {
		n := s.w().Notes()
		return n.Fresh+n.Swapped == 37
	})
	id := s.w().Sessions()[0].ID
	full, _ := s.w().Session(id)
	if n := len(full.Payees); n == 0 || full.Payees[n-1].Who != wallet.PoolPayee || full.Payees[n-1].Paid != "EUR 0.37" {
		t.Errorf("how it was paid: %+v", full.Payees)
	}
}

// power is what the car takes now, W.
func (s *scene) power() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.carW
}

// TestNothingIsOfferedWithoutCertificateOrAgreement: no certificate, a driver who
// wants the car left alone, a car whose departure nobody knows.
func TestNothingIsOfferedWithoutCertificateOrAgreement(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	if testing.Short() {
		t.Skip("three sessions: 5 s")
	}
	s := newScene(t, sceneOptions{loadW: 500})
	s.listen()
	s.plug(electric())
	soon := func() int64 { return s.clock.Now().Add(3 * time.Hour).UnixMilli() }
	s.pay(wallet.Options{Band: 20, WantMWh: 5_000_000, Departure: soon()})
	s.ends("paid")
	s.leave()
	s.certify()
	for _, o := range []wallet.Options{{Band: 20, WantMWh: 5_000_000, Departure: soon(), Fixed: true}, {Band: 20, WantMWh: 5_000_000}} {
		s.plug(electric())
		s.pay(o)
		s.ends("paid")
		s.leave()
	}
	if n := len(s.offers()); n > 0 {
		t.Errorf("%d offers were taken", n)
	}
}

func TestCertificateMustFitMeterAndZone(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{})
	key := s.h().key.Hash()
	text := func(key [32]byte, zone, maxW uint32) string {
		c := s.market.CertifyMeter(key, zone, maxW)
		return hex.EncodeToString(c.Encode())
	}
	for _, c := range []struct{ name, cert, want string }{
		{"another meter", text([32]byte{1}, 2, 11_000), "another meter"},
		{"another zone", text(key, 1, 11_000), "another zone"},
		{"no power", text(key, 2, 0), "no power"},
		{"half of it", text(key, 2, 11_000)[:100], "50 bytes"},
		{"no text of ours", "certificate", "certify-meter"},
	} {
		if err := s.h().setCert(c.cert); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	s.certify()
	s.stopNode(s.home)
	s.startHost()
	if s.h().cert == nil {
		t.Error("the certificate is forgotten at a restart")
	}
	if err := s.h().setCert(""); err != nil || s.h().cert != nil {
		t.Errorf("taken back: %v", err)
	}
}

// TestEnvelopesAreWhatTheWishesLeave holds the composing of offers, without nodes.
func TestEnvelopesAreWhatTheWishesLeave(t *testing.T) {
	now := markettest.Epoch.Add(time.Minute)
	from := markettest.Epoch.Add(30 * time.Minute).UnixMilli()
	for _, c := range []struct {
		name     string
		want     want
		houseW   int64
		locked   int64
		none     bool
		base, up int64 // of the first slot
		down     int64
		min, max int64
	}{
		{name: "a car that gives what the house draws", want: want{Give: 6_000_000}, houseW: 1_000, locked: 1, base: -1_000, up: 10_000, down: 1_000, min: -5_516_667, max: 0},
		{name: "a car that gives nothing before notes are locked", want: want{Give: 6_000_000}, houseW: 1_000, base: 0, up: 11_000, min: -6_000_000, max: 0},
		{name: "a car that gives on call only", want: want{Give: 6_000_000, OnCall: true}, houseW: 1_000, locked: 1, base: 0, up: 11_000, min: -6_000_000, max: 0},
		{name: "a car that gives later", want: want{Give: 6_000_000, GiveFrom: from + pool.SlotMS/3}, houseW: 1_200, locked: 1, base: -800, up: 0, min: -6_000_000, max: 0},
		{name: "a car that charges at once", want: wantMWh(11_000_000, now.Add(5*time.Hour)), base: 11_000, up: 11_000, min: 0, max: 5_683_334},
		{name: "a car without departure", want: wantMWh(11_000_000, time.Time{}), none: true},
		{name: "a car that leaves before the gate", want: wantMWh(1_000_000, now.Add(20*time.Minute)), none: true},
		{name: "a car that has what it wants", want: want{}, none: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := quiet("ev-first")
			h.env.Config.EVSE.MaxW, h.env.Config.Meter.ConnectionLimitW, h.v2x = 11_000, 17_250, true
			h.samples.marks = []gauges{{At: now, MeterW: c.houseW}}
			h.cert = &pool.MeterCert{MaxW: 11_000}
			v := &visit{rec: record{Want: c.want}, host: new(session.Host)}
			v.s.Locked = c.locked
			if c.want.Give > 0 {
				v.rec.Agreed = &agreed{Discharge: true}
			}
			v.s.Payer, v.s.Band = ev.Guest, 20_000_000
			f, ok := h.envelope(v, now, from)
			if ok == c.none {
				t.Fatalf("offered %v", ok)
			}
			if c.none {
				return
			}
			if _, err := pool.DecodeFlex(f.Encode()); err != nil {
				t.Fatalf("the pool refuses it: %v", err)
			}
			e := f.Envelopes[0]
			if int64(e.BaselineW) != c.base || int64(e.UpW) != c.up || int64(e.DownW) != c.down || f.MinMWh != c.min || f.MaxMWh != c.max {
				t.Errorf("first slot %+v, %d to %d mWh; want %d up %d down %d, %d to %d", e, f.MinMWh, f.MaxMWh, c.base, c.up, c.down, c.min, c.max)
			}
		})
	}
}

func TestOffersAreMadeAheadOfTheirGates(t *testing.T) {
	at := func(minute int) time.Time { return markettest.Epoch.Add(time.Duration(minute) * time.Minute) }
	for _, c := range []struct {
		minute int
		spread byte
		want   []int
	}{
		{0, 0, []int{15}}, {9, 0, []int{15}}, {10, 0, []int{15, 30}}, {12, 0, []int{30}}, {15, 0, []int{30}}, {0, 7, nil}, {2, 7, []int{15}}, {14, 7, nil}, {17, 7, []int{30}},
	} {
		var got []int
		for _, from := range gatesAhead(at(c.minute), c.spread) {
			got = append(got, int(time.UnixMilli(from).Sub(markettest.Epoch)/time.Minute))
		}
		if len(got) != len(c.want) || len(got) > 0 && (got[0] != c.want[0] || got[len(got)-1] != c.want[len(c.want)-1]) {
			t.Errorf("at minute %d: %v, want %v", c.minute, got, c.want)
		}
	}
}
