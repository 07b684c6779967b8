package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"gridveil/battery"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/identity"
	"gridveil/node/loopback"
	"gridveil/node/plant"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/sunspec/sim"
)

var midsummer = time.Date(2026, 6, 15, 0, 0, 0, 0, time.UTC)

// device is a simulated battery whose clock the house moves, on a real port.
func device(t *testing.T, spec battery.Spec, stored battery.WattHours) (d *sim.Device, address string) {
	t.Helper()
	return deviceOf(t, sim.Storage, spec, stored)
}

// deviceOf is a device of other models.
func deviceOf(t *testing.T, models []uint16, spec battery.Spec, stored battery.WattHours) (d *sim.Device, address string) {
	t.Helper()
	port, err := loopback.Port()
	if err != nil {
		t.Fatal(err)
	}
	listen := net.JoinHostPort("127.0.0.1", port)
	if d, err = sim.New(sim.Config{Listen: listen, Spec: spec, Stored: stored, Models: models}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", listen)
		if err == nil {
			c.Close()
			return d, "tcp://" + listen
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// minutes is a clock that stands until it is moved.
type minutes struct {
	clock.Wall
	now *time.Time
}

func (m minutes) Now() time.Time { return *m.now }

// smallWh is a battery whose kernels are solved in less than a second.
const smallWh = 1500

// bankHouse is a simulated house with its mask before a battery at address, its
// store in dir.
func bankHouse(dir, address, policy string, load plant.Load, now *time.Time) (*house, *store.Store, error) {
	key, err := store.LoadOrCreateKey(filepath.Join(dir, "key"))
	if err != nil {
		return nil, nil, err
	}
	st, err := store.Open(filepath.Join(dir, "store"), key, store.Options{})
	if err != nil {
		return nil, nil, err
	}
	c := &config.Config{Meter: config.Meter{Zone: "Europe/Amsterdam"}, Hosting: config.Hosting{PGrid: 300_000},
		Battery: config.Battery{CapacityWh: smallWh, PowerW: 3000, Policy: policy, Driver: "sunspec", Address: address, Unit: 1}}
	env := &role.Env{Store: st, Clock: minutes{now: now}, ID: &identity.Identity{}, Config: c, Rand: mrand.NewChaCha8([32]byte{7}), Warn: role.NewBoard()}
	h, err := newHouse(env, Hardware{Load: load}, nil)
	if err != nil {
		return nil, nil, err
	}
	h.readPeriod, h.watched = func() time.Duration { return 15 * time.Minute }, func() bool { return false }
	spec, _ := batterySpec(c.Battery)
	m, err := newMask(context.Background(), env, spec, sharedPrior)
	if err != nil {
		return nil, nil, err
	}
	if m.bank, err = openBank(env, spec); err != nil {
		return nil, nil, err
	}
	h.regulate(m)
	return h, st, nil
}

// childDay is the environment variable that makes this test's binary a gateway.
const childDay = "GRIDVEIL_TEST_DAY"

// dayLine is what the child tells of each minute.
type dayLine struct {
	Minute       int
	Meter, Level float64
	Now          float64 // level after the minute
	Today        battery.Report
	Blocks       int
}

// dayOrder is what the child is told.
type dayOrder struct {
	Dir, Address string
	From, To     int // minutes after midsummer
}

// TestAHouseOnSunSpecIsMasked lives a day of a house whose battery is a simulated
// SunSpec device behind real Modbus TCP, in a process of its own that is killed at
// noon and started again three minutes later.
func TestAHouseOnSunSpecIsMasked(t *testing.T) {
	if order := os.Getenv(childDay); order != "" {
		if err := liveADay(order); err != nil {
			t.Fatal(err)
		}
		return
	}
	spec := battery.Reference(smallWh, 3000)
	spec.Lag = 3 * time.Second
	d, address := device(t, spec, smallWh/2)
	o := dayOrder{Dir: t.TempDir(), Address: address, From: 121, To: 121 + 1440} // from account to account
	prepareDemand(t, o.Dir)
	const cut = 720 // a block begins
	first := child(t, o, cut)
	last := first[len(first)-1]
	o.From = last.Minute + 3
	second := child(t, o, 0)
	again := second[0]
	if again.Level != last.Now || again.Minute/5 != last.Minute/5 {
		t.Errorf("the block's level was %.1f W after minute %d and is %.1f W in minute %d", last.Now, last.Minute, again.Level, again.Minute)
	}
	kept := first[len(first)-3].Today // of the block before
	if again.Today.LoadWh < kept.LoadWh || again.Today.MeterWh < kept.MeterWh || again.Today.ExposedMins < kept.ExposedMins || again.Today.LoadWh > last.Today.LoadWh+200 {
		t.Errorf("the account fell: %+v, then %+v", kept, again.Today)
	}
	if math.Abs(again.Today.BoundBits-last.Today.BoundBits) > 1e-3 || again.Today.BoundBits == 0 {
		t.Errorf("another kernel: %.4f bits a day, then %.4f", last.Today.BoundBits, again.Today.BoundBits)
	}
	end := second[len(second)-1]
	if want := 4*288 + 288 - 5; end.Blocks < want || end.Minute != o.To-1 {
		t.Errorf("%d blocks of demand remembered in minute %d, want %d", end.Blocks, end.Minute, want)
	}
	shown := 0
	for _, l := range append(first, second...) {
		if math.Abs(l.Meter-l.Level) <= 200 { // 3 s of dead time show a sixtieth and more of an edge
			shown++
		}
	}
	share := float64(shown) / float64(len(first)+len(second))
	t.Logf("the meter within 200 W of the mask's level in %.1f %% of %d minutes", 100*share, len(first)+len(second))
	if share < .9 {
		t.Errorf("the meter showed the mask's level in %.0f %% of the minutes", 100*share)
	}
	if in, out := d.Flown(); in < 1e6 || out < 1e6 {
		t.Errorf("the battery hardly moved: %d and %d mWh", in, out)
	}
}

// prepareDemand gives a home four days of its own past, and a kernel learned from it.
func prepareDemand(t *testing.T, dir string) {
	t.Helper()
	key, err := store.LoadOrCreateKey(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(dir, "store"), key, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	load := plant.NewHousehold(11)
	for day := -4; day < 0; day++ {
		k := kept{since: accountBegan(midsummer), orders: orders{winner: parties}, day: midsummer.AddDate(0, 0, day)}
		for b := range 288 {
			wh := 0.0
			for m := range 5 {
				wh += load.Watts(k.day.Add(time.Duration(5*b+m)*time.Minute)) / 60
			}
			k.blocks = append(k.blocks, block{k.day.Add(time.Duration(5*b) * time.Minute), wh})
			k.demand = appendBlock(k.demand, uint16(5*b), wh)
		}
		if err := st.Update(k.put); err != nil {
			t.Fatal(err)
		}
	}
	if err := (lesson{Until: midsummer}).save(st); err != nil {
		t.Fatal(err)
	}
}

// child runs this binary as a gateway. It kills the process, as a power cut would,
// once it told of minute cut; 0 lets it live the day to its end.
func child(t *testing.T, o dayOrder, cut int) (lines []dayLine) {
	t.Helper()
	order, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestAHouseOnSunSpecIsMasked$", "-test.v")
	c.Env = append(os.Environ(), childDay+"="+string(order))
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	for s := bufio.NewScanner(out); s.Scan(); {
		var l dayLine
		if json.Unmarshal(s.Bytes(), &l) != nil {
			said = append(said, s.Text())
			continue
		}
		lines = append(lines, l)
		if cut > 0 && l.Minute >= cut {
			_ = c.Process.Kill() // Wait tells
			break
		}
	}
	err = c.Wait()
	if len(lines) == 0 || cut == 0 && err != nil {
		t.Fatalf("the gateway ended with %v after %d minutes: %v", err, len(lines), said)
	}
	return lines
}

// liveADay is the child's life.
func liveADay(order string) error {
	var o dayOrder
	if err := json.Unmarshal([]byte(order), &o); err != nil {
		return err
	}
	now := midsummer.Add(time.Duration(o.From) * time.Minute)
	h, st, err := bankHouse(o.Dir, o.Address, "veil", plant.NewHousehold(11), &now)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := h.mask.relearn(context.Background()); err != nil {
		return err
	}
	before := h.last
	for m := o.From; m < o.To; m++ {
		now = midsummer.Add(time.Duration(m+1) * time.Minute)
		level, _ := h.mask.ctl.Base() // of the minute that is over
		if m == o.From {
			level = h.mask.ctl.State().Base
		}
		if err := h.step(context.Background(), now); err != nil {
			return err
		}
		drawn, _ := h.mask.ctl.Base()
		b, err := json.Marshal(dayLine{m, h.last.MeterW, float64(level), float64(drawn), h.mask.today(), len(h.mask.ctl.Snapshot())})
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	net := float64(h.last.BattOut-before.BattOut) - float64(h.last.BattIn-before.BattIn)
	if d := math.Abs(net - h.mask.bank.out + h.mask.bank.in); d > 2 {
		return fmt.Errorf("the house's register and the inverter's counter differ by %s mWh", strconv.FormatFloat(d, 'f', 1, 64))
	}
	return nil
}
