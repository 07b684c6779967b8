package sim

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"gridveil/battery"
	"gridveil/node/loopback"
	"gridveil/node/sunspec"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// run serves a device until the test ends and gives a driver on a line to it.
func run(t *testing.T, c Config) (*Device, *sunspec.Battery) {
	t.Helper()
	port, err := loopback.Port()
	if err != nil {
		t.Fatal(err)
	}
	c.Listen = net.JoinHostPort("127.0.0.1", port)
	d, err := New(c)
	if err != nil {
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
	return d, driver(t, c.Listen)
}

func driver(t *testing.T, address string) *sunspec.Battery {
	t.Helper()
	line, err := sunspec.Dial("tcp://" + address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(line.Close)
	b := sunspec.NewBattery(line, 1)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // until it listens
		if _, err := b.Read(); err == nil {
			return b
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func slow() battery.Spec {
	s := battery.Reference(5000, 3000)
	s.Lag, s.RampPerSecond = 2*time.Second, 500
	return s
}

// follow moves the device's clock to d after noon.
func follow(t *testing.T, b *sunspec.Battery, d time.Duration) sunspec.Reading {
	t.Helper()
	if ok, err := b.Follow(noon.Add(d)); err != nil || !ok {
		t.Fatalf("follow: %v %v", ok, err)
	}
	r, err := b.Read()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPowerComesAfterDeadTimeAndRamp(t *testing.T) {
	d, b := run(t, Config{Spec: slow(), Stored: 2500})
	follow(t, b, 0)
	if err := b.Set(2000, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		after time.Duration
		want  battery.Watts
	}{{2 * time.Second, 0}, {3 * time.Second, 500}, {5 * time.Second, 1500}, {8 * time.Second, 2000}, {11 * time.Second, 1500}, {14 * time.Second, 0}} {
		r := follow(t, b, tc.after)
		if got, _ := d.State(); math.Abs(float64(got-tc.want)) > 1 || !r.HasPower || math.Abs(float64(r.Power*.95-got)) > 20 {
			t.Errorf("after %v: %.0f W and told %.0f W inside, want %.0f W", tc.after, got, r.Power, tc.want)
		}
	}
	in, out := d.Flown()
	if r := follow(t, b, 15*time.Second); !r.HasFlown || r.Flown.In != in || r.Flown.Out != out || out < 3000 {
		t.Errorf("counters %+v, want %d and %d mWh", r.Flown, in, out)
	}
}

func TestCommandEndsWithItsTimeAndAtTheBatterysLimits(t *testing.T) {
	d, b := run(t, Config{Spec: battery.Reference(5000, 3000), Stored: 4990})
	follow(t, b, 0)
	if err := b.Set(-3000, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	follow(t, b, 29*time.Second)
	if _, e := d.State(); e > 5000.001 || e < 4999 {
		t.Errorf("charged to %.3f Wh of 5000", e)
	}
	if err := b.Set(1500, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	follow(t, b, 35*time.Second)
	if w, _ := d.State(); w != 1500 {
		t.Errorf("%.0f W while the command holds", w)
	}
	follow(t, b, 40*time.Second)
	if w, _ := d.State(); w != 0 {
		t.Errorf("%.0f W after the command has ended", w)
	}
	if err := b.Set(1500, time.Minute); err != nil {
		t.Fatal(err)
	}
	if follow(t, b, 10*time.Hour); d.power != 0 {
		t.Errorf("%.0f W after a night without a word", d.power)
	}
}

func TestFaultsAreErrorsAndHeal(t *testing.T) {
	d, b := run(t, Config{Spec: battery.Reference(5000, 3000), Stored: 2500})
	follow(t, b, 0)
	for _, tc := range []struct {
		fault Fault
		want  error // nil: any
	}{{Refusing, nil}, {BadScale, sunspec.ErrMissing}, {BadCharge, sunspec.ErrAbsurd}, {BadPower, sunspec.ErrAbsurd}, {OutOfOrder, sunspec.ErrFault}, {Silent, nil}} {
		d.Inject(tc.fault)
		_, err := b.Read()
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("fault %d: got %v, want %v", tc.fault, err, tc.want)
		}
		if err := b.Set(500, time.Minute); !errors.Is(err, sunspec.ErrUnread) {
			t.Errorf("fault %d: commanded blindly: %v", tc.fault, err)
		}
		d.Inject(Sound)
		eventually(t, func() bool { _, err := b.Read(); return err == nil })
		if err := b.Set(500, time.Minute); err != nil {
			t.Errorf("after fault %d: %v", tc.fault, err)
		}
	}
	d.Inject(LocalOnly)
	if r, err := b.Read(); err != nil || !r.Local {
		t.Errorf("local control: %+v %v", r, err)
	}
}

func TestADeviceOfModel124AloneIsDriven(t *testing.T) {
	now := noon
	d, b := run(t, Config{Spec: battery.Reference(5000, 3000), Stored: 2500, Models: []uint16{124}, Now: func() time.Time { return now }})
	r, err := b.Read()
	g, ok := b.Rating()
	if err != nil || r.HasPower || r.Charge != .5 || !ok || g.Capacity != 0 || g.MaxCharge != 3000 || !g.Simulated || !g.Reverts {
		t.Errorf("got %+v, %+v, %v", r, g, err)
	}
	if err := b.Set(-900, time.Minute); err != nil {
		t.Fatal(err)
	}
	now = now.Add(5 * time.Second)
	if w, _ := d.State(); w != -900 {
		t.Errorf("%.0f W, want -900", w)
	}
}

func TestADeviceWithoutControlIsRefused(t *testing.T) {
	port, err := loopback.Port()
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Listen: net.JoinHostPort("127.0.0.1", port), Spec: battery.Reference(5000, 3000), Models: []uint16{802}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx) }()
	defer func() { cancel(); <-done }()
	line, err := sunspec.Dial("tcp://127.0.0.1:" + port)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	b := sunspec.NewBattery(line, 1)
	eventually(t, func() bool { _, err := b.Read(); return errors.Is(err, sunspec.ErrNoControl) })
}

// TestForeignBytesNeverPanic talks to servers that answer rubbish of all kinds.
func TestForeignBytesNeverPanic(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends with l
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 64)
			if n, err := c.Read(b); err == nil {
				answer := append([]byte(nil), b[:min(n, 7)]...)
				for range r.IntN(40) {
					answer = append(answer, byte(r.Uint32()))
				}
				if r.IntN(2) == 0 {
					answer[r.IntN(len(answer))] ^= byte(r.Uint32())
				}
				_, _ = c.Write(answer) // the driver may have hung up
			}
			c.Close()
		}
	}()
	for range 60 {
		line, err := sunspec.Dial("tcp://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sunspec.NewBattery(line, 1).Read(); err == nil {
			t.Error("rubbish was taken for a battery")
		}
		line.Close()
	}
}

func TestImpossibleDevicesAreRefused(t *testing.T) {
	bad := battery.Reference(5000, 3000)
	bad.EtaCharge, bad.SoCMin = 2, 1
	if _, err := New(Config{Spec: bad}); !errors.Is(err, battery.ErrInvalidSpec) {
		t.Errorf("got %v", err)
	}
	if _, err := New(Config{Spec: battery.Reference(1e9, 3000)}); err == nil {
		t.Error("a gigawatt-hour")
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 30 s")
		}
	}
}
