package e2e

import (
	"context"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"gridveil/battery"
	"gridveil/node/gateway"
	"gridveil/node/meter/p1"
	"gridveil/node/sunspec/sim"
)

// TestABatteryOfRealProcesses puts a gateway between a P1 meter that tells every
// second and a SunSpec inverter, kills it with SIGKILL while the battery gives, and
// starts it again: the inverter lets go by itself, and the mask takes over where it
// was.
func TestABatteryOfRealProcesses(t *testing.T) {
	if !*long {
		t.Skip("half a minute of wall clock: run with -long; node/gateway kills a house of simulated minutes by default")
	}
	house := newMeteredHouse(t)
	w := newTown(t, []citizen{
		{name: "utility-a", role: "utility", operator: "northgrid", founder: true},
		{name: "home", role: "gateway", operator: "northgrid", zone: "elm", toml: fmt.Sprintf("[meter]\nsource = \"p1\"\naddress = %q\n[battery]\ncapacity_wh = 1500\npower_w = 3000\ndriver = \"sunspec\"\naddress = %q\n",
			"tcp://"+house.meter.Addr().String(), "tcp://"+house.inverter)},
	})
	w.found()
	w.settle()
	home := w.path("home")
	status := func() gateway.BatteryStatus {
		return cliJSON[gateway.BatteryStatus](t, "battery", "status", "--json", "--data", home)
	}
	gives := func(want float64, why string) {
		t.Helper()
		eventually(t, time.Minute, func() string {
			if power, _ := house.bank.State(); math.Abs(float64(power)-want) > 30 {
				return fmt.Sprintf("%s: the battery gives %.0f W, want %.0f W", why, power, want)
			}
			return ""
		})
	}
	masked := func(why string) { // the meter shows the level of the running block
		t.Helper()
		eventually(t, time.Minute, func() string {
			s := status()
			power, _ := house.bank.State()
			if meter := house.now() - float64(power); s.Level == 0 || math.Abs(meter-s.Level) > 60 {
				return fmt.Sprintf("%s: the meter shows %.0f W, the mask wants %.0f W", why, meter, s.Level)
			}
			return ""
		})
	}
	masked("at first")
	if s := status(); !s.Simulated || s.Policy != "veil" || s.Stored < 800 {
		t.Errorf("status %+v", s)
	}
	house.set(2600)
	masked("a kettle")
	if out := cli(t, "battery", "charge", "--power", "500", "--until", "30m", "--data", home); !strings.Contains(out, "takes 500 W") {
		t.Errorf("charge: %s", out)
	}
	gives(-500, "the owner's command")
	cli(t, "battery", "release", "--data", home)
	masked("released")
	before := status()
	w.p("home").kill()
	gives(0, "a dead gateway") // by the inverter's own timer
	w.p("home").start()
	house.set(1000)
	masked("after the restart")
	after := status()
	if len(after.Log) != 1 || after.Log[0].By != "you" || after.Log[0].InWh == 0 || after.Log[0].InWh > before.Log[0].InWh+.01 {
		t.Errorf("the log of commands was %+v and is %+v", before.Log, after.Log)
	}
	if after.Report.LoadWh < before.Report.LoadWh/2 || after.Report.CommandedMins == 0 {
		t.Errorf("the account was %+v and is %+v", before.Report, after.Report)
	}
	if out := cli(t, "battery", "log", "--data", home); !strings.Contains(out, "take 500 W") {
		t.Errorf("log: %s", out)
	}
	if out := cli(t, "battery", "status", "--data", home); !strings.Contains(out, "SIMULATED") || !strings.Contains(out, "under a command") {
		t.Errorf("status: %s", out)
	}
}

// meteredHouse is a load behind a battery, with a P1 port that tells every second.
type meteredHouse struct {
	meter    net.Listener
	inverter string
	bank     *sim.Device

	mu   sync.Mutex
	load float64
	mWh  float64
}

func newMeteredHouse(t *testing.T) *meteredHouse {
	t.Helper()
	h := &meteredHouse{load: 800, mWh: 5e9, inverter: net.JoinHostPort("127.0.0.1", freePort(t))}
	var err error
	if h.meter, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	spec := battery.Reference(1500, 3000)
	spec.Lag, spec.RampPerSecond = time.Second, 1500
	if h.bank, err = sim.New(sim.Config{Listen: h.inverter, Spec: spec, Stored: 900, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := h.bank.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	all.Go(func() { h.tell(ctx) })
	t.Cleanup(func() {
		cancel()
		h.meter.Close()
		all.Wait()
	})
	return h
}

func (h *meteredHouse) set(load float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.load = load
}

func (h *meteredHouse) now() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.load
}

// tell serves one reader after the other until ctx ends.
func (h *meteredHouse) tell(ctx context.Context) {
	for {
		c, err := h.meter.Accept()
		if err != nil {
			return
		}
		for ctx.Err() == nil {
			if _, err := c.Write(h.telegram()); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		c.Close()
	}
}

func (h *meteredHouse) telegram() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	power, _ := h.bank.State()
	net := h.load - float64(power)
	h.mWh += math.Max(net, 0) * 1000 / 3600
	now := time.Now()
	return p1.Telegram{Ident: "GVL5E2E", CRC: true, Objects: []p1.Object{
		{Code: "1-3:0.2.8", Values: []string{"50"}},
		{Code: "0-0:1.0.0", Values: []string{p1.FormatTime(now, time.Hour, false)}},
		{Code: "0-0:96.1.1", Values: []string{"4532453030"}},
		{Code: "1-0:1.8.0", Values: []string{p1.FormatFixed(int64(h.mWh), 6, 3, "kWh")}},
		{Code: "1-0:2.8.0", Values: []string{p1.FormatFixed(0, 6, 3, "kWh")}},
		{Code: "1-0:1.7.0", Values: []string{p1.FormatFixed(int64(math.Max(net, 0)*1000), 2, 3, "kW")}},
		{Code: "1-0:2.7.0", Values: []string{p1.FormatFixed(int64(math.Max(-net, 0)*1000), 2, 3, "kW")}},
	}}.Encode()
}
