package gateway

import (
	"log/slog"
	"testing"
	"time"

	"pgregory.net/rapid"

	"gridveil/ev"
	"gridveil/node/config"
	"gridveil/node/role"
	"gridveil/node/wallet/markettest"
)

// quiet is a hosting with an empty house, for its arithmetic alone.
func quiet(policy string) *hosting {
	c := &config.Config{}
	c.Hosting = config.Hosting{PRes: 180_000, PGrid: 320_000, POut: 260_000, PExport: 80_000, Policy: policy}
	return &hosting{env: &role.Env{Config: c, Log: slog.New(slog.DiscardHandler)}, visits: map[visitID]*visit{}}
}

// drawHouse fills a house with random minutes and gives a visit over all of it.
func drawHouse(t *rapid.T, h *hosting, out bool) *visit {
	begin := markettest.Epoch.Add(time.Duration(rapid.IntRange(0, 299).Draw(t, "offset")) * time.Second).Truncate(time.Minute)
	v := &visit{}
	v.s.StartedAt = begin.UnixMilli()
	g := gauges{At: begin, HasInverter: true}
	var in, exp int64
	for m := range rapid.IntRange(6, 90).Draw(t, "minutes") {
		g.At = begin.Add(time.Duration(m) * time.Minute)
		h.samples.marks = append(h.samples.marks, g)
		v.readings = append(v.readings, ev.Reading{At: g.At.UnixMilli(), ImportMWh: in, ExportMWh: exp, HasImport: true, HasExport: true})
		load, pv := rapid.Int64Range(0, 100_000).Draw(t, "load"), rapid.Int64Range(0, 150_000).Draw(t, "pv")
		car := rapid.Int64Range(0, 183_333).Draw(t, "car")
		net := load - pv
		if out {
			exp, net = exp+car, net-car
		} else {
			in, net = in+car, net+car
		}
		g.PV += pv
		g.Import, g.Export = g.Import+max(net, 0), g.Export+max(-net, 0)
	}
	return v
}

func TestNoTickSaysMoreThanTheFinalBill(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := quiet(rapid.SampledFrom([]string{"ev-first", "home-first", "pro-rata"}).Draw(t, "policy"))
		v := drawHouse(t, h, rapid.Bool().Draw(t, "discharge"))
		var told []ev.Energy
		all := v.readings
		for n := 2; n <= len(all); n++ {
			v.readings = all[:n]
			e, s, err := h.certain(v)
			if err != nil {
				t.Fatal(err)
			}
			if !s.Balanced() {
				t.Fatalf("shares of a tick: %+v", s)
			}
			told = append(told, e)
		}
		last := all[len(all)-1]
		rs, err := ev.Align(h.series(all, v.s.StartedAt, last.At), v.s.StartedAt, last.At, intervalMS)
		if err != nil {
			t.Fatal(err)
		}
		// The meter may sign up to 1 % less than its registers showed.
		signed := func(mwh int64) int64 {
			return mwh - mwh*int64(rapid.IntRange(0, 99).Draw(t, "off"))/10_000
		}
		d, err := h.ownDeal()
		if err != nil {
			t.Fatal(err)
		}
		b, err := ev.NewBill(rs, signed(last.ImportMWh), signed(last.ExportMWh), 1_000, d, v.rec.Lots.Clone())
		if err != nil {
			t.Fatal(err)
		}
		var before ev.Energy
		for i, e := range told {
			if e.Grid < before.Grid || e.Res < before.Res || e.Out < before.Out {
				t.Fatalf("tick %d goes back from %+v to %+v", i, before, e)
			}
			if e.Grid > b.Energy.Grid || e.Res > b.Energy.Res || e.Out > b.Energy.Out {
				t.Fatalf("tick %d says %+v, the bill %+v", i, e, b.Energy)
			}
			before = e
		}
	})
}

func TestBatteryRemembersWhatFilledIt(t *testing.T) {
	h := quiet("ev-first")
	at := markettest.Epoch
	g := gauges{At: at, HasInverter: true}
	for m := range 61 {
		g.At = at.Add(time.Duration(m) * time.Minute)
		h.samples.marks = append(h.samples.marks, g)
		if m < 30 { // half an hour of roof into the battery, then of grid
			g.PV, g.BattIn = g.PV+50_000, g.BattIn+50_000
		} else {
			g.Import, g.BattIn = g.Import+30_000, g.BattIn+30_000
		}
	}
	lots := &ev.Lots{}
	h.advance(lots, at.UnixMilli(), at.Add(time.Hour).UnixMilli())
	want := []ev.Lot{{Energy: 1_500_000, RES: true}, {Energy: 900_000}}
	if len(lots.Held) != 2 || lots.Held[0] != want[0] || lots.Held[1] != want[1] {
		t.Errorf("lots: %+v, want %+v", lots.Held, want)
	}
}

func TestWishesDecideThePower(t *testing.T) {
	now := markettest.Epoch
	for _, c := range []struct {
		name   string
		want   want
		energy ev.Energy
		meterW int64
		lo, hi int64
	}{
		{"as much as fits", want{}, ev.Energy{}, 500, 10_900, 11_000},
		{"nothing but giving", want{Give: 1_000_000}, ev.Energy{}, 4_000, -4_000, -4_000},
		{"giving later", want{Give: 1_000_000, GiveFrom: now.UnixMilli() + 1}, ev.Energy{}, 4_000, 0, 0},
		{"giving from now on", want{Give: 1_000_000, GiveFrom: now.UnixMilli()}, ev.Energy{}, 4_000, -4_000, -4_000},
		{"giving when asked", want{Give: 1_000_000, OnCall: true}, ev.Energy{}, 4_000, 0, 0},
		{"no more than asked", wantMWh(1_000_000, time.Time{}), ev.Energy{Grid: 1_000_000}, 500, 0, 0},
		{"in time", wantMWh(10_000_000, now.Add(time.Hour)), ev.Energy{}, 500, 9_900, 11_000},
		{"a small rest", wantMWh(10_000_000, now.Add(2*time.Hour)), ev.Energy{Grid: 9_990_000}, 500, 4_140, 4_140},
		{"the fuse", want{}, ev.Energy{}, 14_000, 0, 4_100},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := quiet("ev-first")
			h.env.Config.EVSE.MaxW, h.env.Config.Meter.ConnectionLimitW, h.v2x = 11_000, 17_250, true
			h.samples.marks = []gauges{{At: now, MeterW: c.meterW}}
			v := &visit{rec: record{Want: c.want, Agreed: &agreed{Discharge: true}}}
			v.s.Payer, v.s.Energy = ev.Guest, c.energy
			if w := h.coarse(ev.Resolve(h.demand(v, now)).W); w < c.lo || w > c.hi {
				t.Errorf("power: %d W, want %d to %d", w, c.lo, c.hi)
			}
		})
	}
}

func wantMWh(mwh int64, departure time.Time) (w want) {
	w.Want = mwh
	if !departure.IsZero() {
		w.Departure = departure.UnixMilli()
	}
	return w
}
