package gateway

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"gridveil/ev"
	"gridveil/ev/evsim"
	"gridveil/ev/pool"
	"gridveil/ev/sched"
	"gridveil/node/wallet"
	"gridveil/node/wallet/markettest"
	"gridveil/node/web"
)

// shower lets the house ask for nine kilowatts for some minutes, six more than its
// battery gives.
func (s *scene) shower(minutes int) {
	s.t.Helper()
	s.weather(9_000, 0)
	end := s.clock.Now().Add(time.Duration(minutes) * time.Minute)
	s.eventually("the end of the shower", func() bool { return s.clock.Now().After(end) })
	s.weather(500, 0)
}

// charging waits until the car has drawn its full power for a few minutes.
func (s *scene) charging() {
	s.t.Helper()
	s.eventually("the car charges", func() bool {
		s.h().mu.Lock()
		defer s.h().mu.Unlock()
		return s.h().current.most() > 10_000 && s.h().mask.standing().why == carFree
	})
}

// standing is what the hosting half said last of the car.
func (m *mask) standing() carPlan {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plan
}

// TestACarStandsInForTheBattery: over a real OCPP socket, with -long in both
// versions, a guest's
// car takes less while the house asks for more than its battery gives, catches up, and
// leaves with all that was agreed; the books of the session are those of any other.
func TestACarStandsInForTheBattery(t *testing.T) {
	t.Parallel()
	versions := []string{"2.0.1"}
	if *long {
		versions = append(versions, "1.6")
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, sceneOptions{loadW: 500, batteryWh: 5000, version: version})
			s.plug(electric())
			const want = 6_000_000
			s.pay(wallet.Options{WantMWh: want, Departure: s.clock.Now().Add(6 * time.Hour).UnixMilli()})
			s.charging()
			s.mu.Lock()
			s.metered = nil
			s.mu.Unlock()
			s.shower(10)
			s.mu.Lock()
			high := 0
			for _, w := range s.metered {
				if w > 15_000 { // 9 kW of house and 11 of car, less 3 of the battery: 17
					high++
				}
			}
			minutes := len(s.metered)
			s.mu.Unlock()
			if high > minutes/2 {
				t.Errorf("the peak stood in the meter for %d of %d minutes", high, minutes)
			}
			row := s.ends("paid")
			if row.KWhIn < want/1e6-.02 {
				t.Errorf("the driver left with %.2f kWh, want %.2f", row.KWhIn, want/1e6)
			}
			x, _ := s.h().Session(row.ID)
			if x.Masked.Times == 0 || x.Masked.Minutes < 3 {
				t.Errorf("the mask moved the car: %+v", x.Masked)
			}
			if !strings.Contains(storyOf(x.Steps), "the mask moves the car") {
				t.Errorf("the story does not tell:\n%s", storyOf(x.Steps))
			}
			if !slices.ContainsFunc(x.Parties, func(k web.Knows) bool { return k.Party == "the driver" }) {
				t.Errorf("nothing is said of what the driver feels: %+v", x.Parties)
			}
			s.statements(x)
			s.books(1)
		})
	}
}

// TestASlowWallboxIsLeftAlone: a wallbox that does not answer any more ends the moves,
// and the car still gets all that was agreed.
func TestASlowWallboxIsLeftAlone(t *testing.T) {
	if !*long {
		t.Skip("waits for sockets that do not answer: run with -long; TestOnlySlackMovesACar has the rules")
	}
	s := newScene(t, sceneOptions{loadW: 500, batteryWh: 5000})
	s.market.Late = 0 // deadlines are those of a house
	s.plug(electric())
	s.pay(wallet.Options{WantMWh: 5_000_000, Departure: s.clock.Now().Add(6 * time.Hour).UnixMilli()})
	s.charging()
	s.weather(9_000, 0)
	s.eventually("the mask moves the car", func() bool { return s.moves().Times > 0 })
	s.cp.SetFaults(evsim.Faults{Mute: true})
	s.weather(500, 0)
	s.eventually("the car is left alone", func() bool { return s.h().mask.standing().why == carSlow })
	s.cp.SetFaults(evsim.Faults{})
	row := s.ends("paid")
	if row.KWhIn < 4.98 {
		t.Errorf("the driver left with %.2f kWh, want 5", row.KWhIn)
	}
	if x, _ := s.h().Session(row.ID); !strings.Contains(storyOf(x.Steps), "leaves the car alone") {
		t.Errorf("the story does not tell:\n%s", storyOf(x.Steps))
	}
}

// TestOnlySlackMovesACar: the mask may move a car only where its driver named energy
// and departure, nobody commands it, nothing is promised, time is left, and it costs
// nothing.
func TestOnlySlackMovesACar(t *testing.T) {
	now := markettest.Epoch
	for _, c := range []struct {
		name string
		edit func(h *hosting, v *visit, d *ev.Demand)
		why  string
	}{
		{"free", func(*hosting, *visit, *ev.Demand) {}, carFree},
		{"its owner turned it off", func(h *hosting, _ *visit, _ *ev.Demand) { h.env.Config.Battery.LeaveCar = true }, carKept},
		{"no departure", func(_ *hosting, v *visit, _ *ev.Demand) { v.rec.Want.Departure = 0 }, carNoWish},
		{"the car gives energy", func(_ *hosting, v *visit, _ *ev.Demand) { v.rec.Want.Give = 1 }, carNoWish},
		{"an instruction", func(_ *hosting, _ *visit, d *ev.Demand) { d.HasControl = true }, carPool},
		{"an offer to the pool", func(_ *hosting, v *visit, _ *ev.Demand) {
			x := &pool.Flex{From: now.UnixMilli()}
			v.rec.Flex = &flexState{Offers: []flexOffer{{Body: x.Encode(), State: flexTaken}}}
		}, carPool},
		{"an offer that is over", func(_ *hosting, v *visit, _ *ev.Demand) {
			x := &pool.Flex{From: now.UnixMilli() - pool.Slots*pool.SlotMS}
			v.rec.Flex = &flexState{Offers: []flexOffer{{Body: x.Encode(), State: flexTaken}}}
		}, carFree},
		{"the wallet is silent", func(_ *hosting, v *visit, _ *ev.Demand) { v.s.Hold = ev.HoldAck }, carIdle},
		{"a small car that needs all its time", func(_ *hosting, v *visit, _ *ev.Demand) {
			v.readings[0].PowerW, v.s.PowerW, v.rec.Want.Want = 4_500, 4_500, 16_000_000
		}, carTight},
		{"the sun covers half of it", func(h *hosting, _ *visit, _ *ev.Demand) { h.samples.marks = []gauges{{MeterW: 6_000, CarW: 11_000}} }, carFree},
		{"a small car with time", func(_ *hosting, v *visit, _ *ev.Demand) { v.readings[0].PowerW, v.s.PowerW = 7_400, 7_400 }, carFree},
		{"the car takes less than its limit", func(h *hosting, v *visit, _ *ev.Demand) { v.s.PowerW = 7_000 }, carLimits},
		{"the wallbox is silent", func(_ *hosting, v *visit, _ *ev.Demand) { v.heard = now.Add(-moveSilent - time.Second) }, carSlow},
		{"a limit hangs", func(h *hosting, v *visit, _ *ev.Demand) {
			h.orders = []order{{kind: orderPower, since: now.Add(-moveTakes - time.Second)}}
		}, carSlow},
		{"the car stays at full power", func(h *hosting, _ *visit, _ *ev.Demand) { h.took.watts, h.took.moved = 6_000, true }, carSlow},
		{"nothing is known of it", func(_ *hosting, v *visit, _ *ev.Demand) { v.readings, v.heard = nil, time.Time{} }, carNoRating},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, v, d := charged(now)
			c.edit(h, v, &d)
			plan := min(11_000, max(v.most(), v.s.PowerW))
			lo, hi, why := h.slack(h.turn(v, now), d, plan)
			if why != c.why || (why == carFree) != (lo < hi) || lo > plan || hi < plan {
				t.Errorf("slack: %d to %d W, %q, want %q", lo, hi, why, c.why)
			}
			if least := max(4_140, -h.houseNow()); why == carFree && lo != least {
				t.Errorf("the car may be throttled to %d W, want %d", lo, least)
			}
		})
	}
}

// charged is a house whose guest charges with 11 kW and has four hours for 8 kWh.
func charged(now time.Time) (*hosting, *visit, ev.Demand) {
	h := quiet("ev-first")
	h.ops = new(markettest.Market)
	h.env.Config.EVSE.MaxW, h.env.Config.Meter.ConnectionLimitW = 11_000, 17_250
	h.took = limitTaken{watts: 11_000, at: now.Add(-10 * time.Minute)}
	v := &visit{rec: record{Want: wantMWh(8_000_000, now.Add(4*time.Hour))}, heard: now, readings: []ev.Reading{{At: now.UnixMilli(), HasPower: true, PowerW: 11_000}}}
	v.s.Payer, v.s.State, v.s.PowerW = ev.Guest, ev.Charging, 11_000
	return h, v, h.demand(v, now)
}

func TestNoMoveCostsMore(t *testing.T) {
	slot := func(price, surplus int64) sched.Slot {
		return sched.Slot{MaxMWh: 2_750_000, Grid: price, FeedIn: 80_000, SurplusMWh: surplus}
	}
	for _, c := range []struct {
		name  string
		slots []sched.Slot
		w     int64
		want  bool
	}{
		{"one price, less now", []sched.Slot{slot(300_000, 0), slot(300_000, 0), slot(300_000, 0)}, 4_140, true},
		{"one price, no room later", []sched.Slot{slot(300_000, 0), slot(300_000, 0)}, 4_140, false},
		{"dearer later", []sched.Slot{slot(200_000, 0), slot(300_000, 0), slot(300_000, 0)}, 4_140, false},
		{"the sun shines now", []sched.Slot{slot(300_000, 2_000_000), slot(300_000, 0), slot(300_000, 0)}, 4_140, false},
		{"more now, as dear as later", []sched.Slot{slot(300_000, 0), slot(300_000, 0), slot(300_000, 0)}, 11_000, true},
		{"more now, cheaper later", []sched.Slot{slot(300_000, 0), slot(200_000, 0), slot(200_000, 0)}, 11_000, false},
		{"the last slot", []sched.Slot{slot(300_000, 0)}, 4_140, false},
	} {
		if got := noDearer(c.slots, 5_000_000, c.w, 11_000); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestMovesLeaveTheBillAlone: without a roof, a car that is moved about pays to the
// last millionth what it pays when it is not, whatever the house and its battery do.
func TestMovesLeaveTheBillAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := quiet(rapid.SampledFrom([]string{"ev-first", "home-first", "pro-rata"}).Draw(t, "policy"))
		minutes := 4 * rapid.IntRange(5, 30).Draw(t, "minutes")
		battery := rapid.SliceOfN(rapid.Int64Range(-50_000, 50_000), minutes, minutes).Draw(t, "battery")
		load := rapid.SliceOfN(rapid.Int64Range(50_000, 100_000), minutes, minutes).Draw(t, "load")
		moved := rapid.SliceOfN(rapid.Int64Range(-90_000, 90_000), minutes/2, minutes/2).Draw(t, "moved")
		bill := func(moves bool) ev.Bill {
			h.samples.marks = nil
			v, g, in := &visit{}, gauges{At: markettest.Epoch, HasInverter: true}, int64(0)
			v.s.StartedAt = g.At.UnixMilli()
			for m := range minutes + 1 {
				g.At = markettest.Epoch.Add(time.Duration(m) * time.Minute)
				h.samples.marks = append(h.samples.marks, g)
				v.readings = append(v.readings, ev.Reading{At: g.At.UnixMilli(), ImportMWh: in, HasImport: true})
				if m == minutes {
					break
				}
				car := int64(100_000)
				if moves { // what is missed is made up for in the second half
					car += []int64{1, -1}[m*2/minutes] * moved[m%(minutes/2)]
				}
				b := battery[m]
				in += car
				g.BattOut, g.BattIn = g.BattOut+max(b, 0), g.BattIn+max(-b, 0)
				g.Import += max(load[m]+car-b, 0)
				g.Export += max(b-load[m]-car, 0)
			}
			last := v.readings[len(v.readings)-1]
			rs, err := ev.Align(h.series(v.readings, v.s.StartedAt, last.At), v.s.StartedAt, last.At, intervalMS)
			if err != nil {
				t.Fatal(err)
			}
			d, err := h.ownDeal()
			if err != nil {
				t.Fatal(err)
			}
			b, err := ev.NewBill(rs, last.ImportMWh, 0, 1_000, d, &ev.Lots{Capacity: 10_000_000})
			if err != nil {
				t.Fatal(err)
			}
			if b.Energy.Res != 0 || !b.Shares.Balanced() {
				t.Fatalf("masking energy is billed as solar: %+v", b.Energy)
			}
			return b
		}
		if a, b := bill(false), bill(true); a.Energy != b.Energy || a.Shares != b.Shares {
			t.Errorf("at rest %+v %+v, moved %+v %+v", a.Energy, a.Shares, b.Energy, b.Shares)
		}
	})
}

// moves is what the mask did with the newest visit's car.
func (s *scene) moves() web.CarMoves {
	x, _ := s.h().Session(s.newest().ID)
	return x.Masked
}

func storyOf(steps []web.Event) (text string) {
	for _, st := range steps {
		text += st.At.Format("15:04 ") + st.Text + "\n"
	}
	return text
}
