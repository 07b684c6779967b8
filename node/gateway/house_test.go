package gateway

import (
	"context"
	"testing"
	"time"

	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/identity"
	"gridveil/node/meter"
	"gridveil/node/model"
	"gridveil/node/plant"
	"gridveil/node/role"
	"gridveil/node/store/storetest"
)

// steady is a power that never changes.
type steady float64

func (s steady) Watts(time.Time) float64 { return float64(s) }

// TestNoRegisterFallsOverARestartWhileACarIsThere: a session keeps every minute's
// registers, of the roof too, so the house must not show less after a power cut.
func TestNoRegisterFallsOverARestartWhileACarIsThere(t *testing.T) {
	env := &role.Env{Store: storetest.Open(t), Clock: clock.Wall{}, ID: &identity.Identity{}, Config: &config.Config{}}
	env.Config.Meter.Zone = "Europe/Amsterdam"
	open := func(car bool) *house {
		h, err := newHouse(env, Hardware{Load: steady(600), Roof: steady(3600)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		h.readPeriod = func() time.Duration { return 15 * time.Minute }
		h.watched = func() bool { return car }
		return h
	}
	at := time.Date(2026, 6, 16, 12, 0, 0, 0, time.UTC)
	run := func(h *house, minutes int) plant.Registers {
		for range minutes {
			at = at.Add(time.Minute)
			if err := h.step(t.Context(), at); err != nil {
				t.Fatal(err)
			}
		}
		return h.last
	}
	cut := run(open(true), 22) // not a reading's minute
	if cut.PV == 0 || cut.Export == 0 {
		t.Fatalf("nothing flowed: %+v", cut)
	}
	if after := run(open(true), 1); after.PV <= cut.PV || after.Export <= cut.Export || after.Load <= cut.Load {
		t.Errorf("registers fell: %+v, then %+v", cut, after)
	}
	saved := open(false).last
	run(open(false), 3) // without a car only readings are kept, and nobody sees the minutes between
	if again := open(false).last; again != saved {
		t.Errorf("minutes were kept that nobody watches: %+v, then %+v", saved, again)
	}
}

// TestWhatTheMeterShowedIsOnTheDisk: when a frame leaves the meter, its registers (where
// a reading keeps them) and the level that made it are durable, so that a power cut
// neither takes a register back nor draws a level twice. That costs one write a block and one a reading.
func TestWhatTheMeterShowedIsOnTheDisk(t *testing.T) {
	h := maskedHouse(t, plant.NewHousehold(11))
	period := 15 * time.Minute
	h.readPeriod = func() time.Duration { return period }
	seen := 0
	c, err := meter.New(meter.Config{Name: meterName, Source: h.meter, Store: h.env.Store, ReadPeriod: period, ReportPeriod: time.Hour,
		Channels: []model.Channel{model.ImportTotal, model.ExportTotal}, With: h.stage, OnFrame: func(f meter.Frame) {
			seen++
			kept, err := new(memory).load(h.env.Store)
			if err != nil {
				t.Error(err)
			}
			shown := h.mask.ctl.State() // nobody steps the house while its meter tells
			if kept.state.Base != shown.Base || !kept.state.Block.Equal(shown.Block) {
				t.Errorf("frame %d shows a level of %.0f W, the disk holds %.0f W", seen, shown.Base, kept.state.Base)
			}
			if !time.UnixMilli(f.At).Truncate(period).Equal(time.UnixMilli(f.At)) {
				return
			}
			var again house
			again.env = h.env
			if r, err := again.restore(); err != nil || r.Import != h.last.Import || r.Export != h.last.Export {
				t.Errorf("frame %d shows %d and %d mWh, the disk holds %d and %d, %v", seen, h.last.Import, h.last.Export, r.Import, r.Export, err)
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx) }()
	defer func() { cancel(); <-done }()
	for deadline := time.Now().Add(30 * time.Second); !h.meter.Connected(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody reads the meter")
		}
	}
	begin := time.Date(2026, 6, 15, 0, 0, 0, 0, time.UTC)
	live := func(from, to int) {
		for m := from; m < to; m++ {
			if err := h.step(ctx, begin.Add(time.Duration(m+1)*time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
	}
	live(0, 60) // the first level is drawn, and the first slot has no beginning
	before := h.env.Store.Head()
	live(60, 120)
	const blocks, readings = 12, 4
	if got := h.env.Store.Head() - before; seen != 120 || got != blocks+readings {
		t.Errorf("%d frames, %d writes in an hour of %d blocks and %d readings", seen, got, blocks, readings)
	}
}
