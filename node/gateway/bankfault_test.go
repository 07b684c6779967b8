package gateway

import (
	"context"
	"math"
	mrand "math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gridveil/battery"
	grid "gridveil/ev/signal"
	"gridveil/node/config"
	"gridveil/node/identity"
	"gridveil/node/plant"
	"gridveil/node/role"
	"gridveil/node/signal"
	"gridveil/node/store"
	"gridveil/node/sunspec/sim"
)

// realMask is the mask of a house with a real meter, before a simulated inverter.
func realMask(t *testing.T, policy, address string, now *time.Time) *mask {
	t.Helper()
	key, err := store.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.TempDir(), key, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	c := &config.Config{Hosting: config.Hosting{PGrid: 300_000}, Battery: config.Battery{CapacityWh: 5000, PowerW: 3000, Policy: policy, Driver: "sunspec", Address: address, Unit: 1}}
	env := &role.Env{Store: st, Clock: minutes{now: now}, ID: &identity.Identity{}, Config: c, Rand: mrand.NewChaCha8([32]byte{7}), Warn: role.NewBoard()}
	spec, _ := batterySpec(c.Battery)
	m, err := newMask(t.Context(), env, spec, sharedPrior)
	if err != nil {
		t.Fatal(err)
	}
	if m.bank, err = openBank(env, spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.bank.line.Close)
	m.car = func() float64 { return 0 }
	return m
}

// second lets a second of a real house pass: its load shows at the meter, the mask decides.
func second(t *testing.T, m *mask, now *time.Time, load battery.Watts) {
	t.Helper()
	*now = now.Add(time.Second)
	m.bank.observe(*now)
	h, _, _ := m.bank.house()
	m.frame(load - h.BattWatts)
	if err := m.turn(*now); err != nil {
		t.Fatal(err)
	}
}

func warned(m *mask, now time.Time) (codes []string) {
	for _, w := range m.env.Warn.Standing(now) {
		if w.Next == "" || w.Text == "" {
			codes = append(codes, "a warning without words")
		}
		codes = append(codes, w.Code)
	}
	return codes
}

func TestARealHousesMeterStaysWhereItIs(t *testing.T) {
	for name, models := range map[string][]uint16{"by model 124": sim.Storage, "by model 704": sim.Active} {
		t.Run(name, func(t *testing.T) {
			now := midsummer
			d, address := deviceOf(t, models, battery.Reference(5000, 3000), 2500)
			m := realMask(t, "hold", address, &now)
			for range 5 {
				second(t, m, &now, 800)
			}
			for range 20 { // a kettle
				second(t, m, &now, 2600)
			}
			h, _, ok := m.bank.house()
			if w, _ := d.State(); !ok || math.Abs(float64(w-1800)) > 20 || math.Abs(float64(h.BattWatts-w)) > 20 {
				t.Errorf("the battery gives %.0f W and says %.0f W, want the kettle's 1800 W", w, h.BattWatts)
			}
			if r := m.today(); r.LoadWh < 10 || r.MeterWh < 5 || r.StaleMins > .1 {
				t.Errorf("account %+v", r)
			}
			if codes := warned(m, now); len(codes) > 0 {
				t.Errorf("warned of %v", codes)
			}
		})
	}
}

// TestWhatModel704CannotDoIsSaid: a roof on the same inverter, and a timer that ends
// nothing.
func TestWhatModel704CannotDoIsSaid(t *testing.T) {
	now := midsummer
	d, address := deviceOf(t, sim.Active, battery.Reference(5000, 3000), 2500)
	m := realMask(t, "hold", address, &now)
	for range 5 {
		second(t, m, &now, 800)
	}
	d.Inject(sim.Clinging)
	now = now.Add(time.Minute) // nobody renewed the command
	second(t, m, &now, 800)
	if codes := warned(m, now); !slices.Contains(codes, "battery-clings") {
		t.Errorf("a command that clings: warned of %v", codes)
	}
	d.Inject(sim.WithRoof)
	for range 2 * int(bankSilent/time.Second) {
		second(t, m, &now, 800)
	}
	texts := ""
	for _, w := range m.env.Warn.Standing(now) {
		texts += w.Text
	}
	if !strings.Contains(texts, "Panels stand on the same inverter") {
		t.Errorf("a roof: warned of %v, %s", warned(m, now), texts)
	}
}

// TestASilentMeterLetsTheBatteryRest: the last power is held for ten seconds.
func TestASilentMeterLetsTheBatteryRest(t *testing.T) {
	now := midsummer
	d, address := device(t, battery.Reference(5000, 3000), 2500)
	m := realMask(t, "hold", address, &now)
	for range 5 {
		second(t, m, &now, 800)
	}
	second(t, m, &now, 2800)
	before := m.today().ExposedMins
	for range 10 {
		now = now.Add(5 * time.Second)
		if err := m.turn(now); err != nil {
			t.Fatal(err)
		}
	}
	if w, _ := d.State(); w != 0 {
		t.Errorf("after 50 s without a reading the battery gives %.0f W", w)
	}
	if r := m.today(); r.StaleMins < .5 || r.ExposedMins <= before {
		t.Errorf("account %+v", r)
	}
}

// TestWithoutAStepTheWatchdogLetsTheBatteryRest: first the gateway's, and where the
// gateway is dead the inverter's own.
func TestWithoutAStepTheWatchdogLetsTheBatteryRest(t *testing.T) {
	for _, dead := range []bool{false, true} {
		now := midsummer
		d, address := device(t, battery.Reference(5000, 3000), 2500)
		m := realMask(t, "hold", address, &now)
		for range 5 {
			second(t, m, &now, 800)
		}
		second(t, m, &now, 2800)
		second(t, m, &now, 2800)
		if w, _ := d.State(); w < 1500 {
			t.Fatalf("the battery gives %.0f W before", w)
		}
		now = now.Add(bankHolds)
		if !dead {
			m.bank.watch(now)
			now = now.Add(time.Second)
		}
		m.bank.observe(now.Add(time.Second)) // moves the device's clock
		if w, _ := d.State(); w != 0 {
			t.Errorf("gateway dead: %v: the battery still gives %.0f W", dead, w)
		}
	}
}

// TestAnInverterThatFailsEndsInRestAndWords: whatever it does, the mask decides on,
// nothing is commanded blindly, a person is told what to do, and it heals.
func TestAnInverterThatFailsEndsInRestAndWords(t *testing.T) {
	now := midsummer
	d, address := device(t, battery.Reference(5000, 3000), 2500)
	m := realMask(t, "hold", address, &now)
	for range 3 {
		second(t, m, &now, 800)
	}
	for _, tc := range []struct {
		fault sim.Fault
		code  string
	}{{sim.Refusing, "battery-silent"}, {sim.BadScale, "battery-silent"}, {sim.BadCharge, "battery-silent"}, {sim.BadPower, "battery-silent"}, {sim.OutOfOrder, "battery-silent"},
		{sim.LocalOnly, "battery-local"}, {sim.Deaf, "battery-off-target"}} {
		d.Inject(tc.fault)
		for i := range 45 {
			second(t, m, &now, battery.Watts(800+1500*(i%2)))
		}
		if tc.fault == sim.Deaf { // it must be asked for something
			if err := m.order(1000, now.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			for range 40 {
				second(t, m, &now, 2000)
			}
			if err := m.setOwn(nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(warned(m, now), " "); !strings.Contains(got, tc.code) || strings.Contains(got, "without words") {
			t.Errorf("fault %d: warnings %q, want %s", tc.fault, got, tc.code)
		}
		d.Inject(sim.Sound)
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) { // a line that was cut waits a moment
			second(t, m, &now, 800)
			if len(warned(m, now)) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("fault %d did not heal: %v", tc.fault, warned(m, now))
			}
		}
	}
}

// TestNobodyAtTheAddressIsSaidSo: where nothing answers at all, a person is not told to
// look for SunSpec in the settings of an inverter that is off.
func TestNobodyAtTheAddressIsSaidSo(t *testing.T) {
	now := midsummer
	m := realMask(t, "hold", "tcp://"+freeAddress(t), &now)
	for range 40 {
		second(t, m, &now, 800)
	}
	g := &Gateway{env: m.env, mask: m}
	s, ok := g.BatteryStatus()
	if !ok || s.Known || len(s.Trouble) != 1 || !strings.Contains(s.Trouble[0].Text, "does not answer") {
		t.Errorf("status: %+v", s)
	}
	now = now.Add(time.Minute)
	if s, _ = g.BatteryStatus(); len(s.Trouble) != 2 || s.Trouble[1].Title != "The meter is silent" {
		t.Errorf("a minute without meter: %+v", s.Trouble)
	}
}

// TestADeadInverterCostsNoMeter: nothing answers at all; every turn ends, and the
// battery counts as unknown.
func TestADeadInverterCostsNoMeter(t *testing.T) {
	now := midsummer
	m := realMask(t, "hold", "tcp://127.0.0.1:1", &now)
	for range 50 {
		second(t, m, &now, 800)
	}
	if got := warned(m, now); len(got) != 1 || got[0] != "battery-silent" {
		t.Errorf("warnings %v", got)
	}
	if r := m.today(); r.StaleMins < .5 {
		t.Errorf("account %+v", r)
	}
}

func TestASimulatedHouseGoesOnWithoutItsInverter(t *testing.T) {
	now := midsummer
	d, address := device(t, battery.Reference(smallWh, 3000), smallWh/2)
	h, st, err := bankHouse(t.TempDir(), address, "hold", plant.NewHousehold(3), &now)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for m := range 60 {
		if m == 20 {
			d.Inject(sim.Refusing)
		}
		now = midsummer.Add(time.Duration(m+1) * time.Minute)
		if err := h.step(context.Background(), now); err != nil {
			t.Fatal(err)
		}
	}
	if h.last.Import == 0 || math.Abs(h.last.MeterW-h.last.LoadW) > 1e-6 {
		t.Errorf("an hour later the meter shows %.0f W of %.0f W", h.last.MeterW, h.last.LoadW)
	}
}

// TestCommandsAreObeyedInOrder: the grid operator before the aggregator before the
// owner before the mask, each with its minutes, energy and cost.
func TestCommandsAreObeyedInOrder(t *testing.T) {
	now := midsummer
	_, address := device(t, battery.Reference(5000, 3000), 2500)
	m := realMask(t, "none", address, &now)
	var heard signal.Signals
	m.heard = func(time.Time) signal.Signals { return heard }
	run := func(seconds int) battery.Watts {
		for range seconds {
			second(t, m, &now, 1000)
		}
		return m.bank.asked
	}
	run(5)
	if err := m.order(-2000, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if w := run(20); math.Abs(float64(w+2000)) > 1e-6 {
		t.Errorf("the owner's 2 kW of charging: %.0f W", w)
	}
	heard.Sets = map[[32]byte]signal.Set{{1}: {W: 700}} // more than the car takes, which is nothing
	if w := run(10); math.Abs(float64(w+700)) > 1e-6 {
		t.Errorf("the aggregator before the owner: %.0f W, want -700", w)
	}
	heard.Limit = &signal.Limit{ImportMaxW: 0, ExportMaxW: signal.Unlimited, State: grid.State(1)}
	if w := run(10); math.Abs(float64(w)) > 1e-6 {
		t.Errorf("the grid operator before both: %.0f W, want no charging", w)
	}
	heard = signal.Signals{}
	if w := run(10); math.Abs(float64(w+2000)) > 1e-6 {
		t.Errorf("the owner again: %.0f W", w)
	}
	if w := run(15); math.Abs(float64(w)) > 1e-6 {
		t.Errorf("after its end: %.0f W, want what the mask does", w)
	}
	log := m.orders.Log
	if len(log) != 3 || log[0].By != "you" || log[1].By != "aggregator" || log[2].By != "grid operator" {
		t.Fatalf("log %+v", log)
	}
	own, agg, op := log[0], log[1], log[2]
	if !own.Over || math.Abs(own.Decided-.65) > .1 || own.Minutes < .8 || own.InWh < 13 || own.OutWh != 0 || math.Abs(own.Cost-own.InWh*.0003) > 1e-6 || own.Winner == "" {
		t.Errorf("the owner's line %+v", own)
	}
	if agg.InWh < 1 || agg.Winner != "grid operator" || agg.Decided < .1 || op.Decided < .1 || op.InWh > .7 {
		t.Errorf("the aggregator's line %+v, the operator's %+v", agg, op)
	}
	if r := m.today(); r.CommandedMins < .5 || r.ExposedMins < r.CommandedMins {
		t.Errorf("account %+v", r)
	}
	if k, err := new(memory).load(m.env.Store); err != nil || len(k.orders.Log) != 3 {
		t.Errorf("after a restart: %+v, %v", k.orders, err)
	}
}

func TestOwnersCommandIsChecked(t *testing.T) {
	now := midsummer
	m := realMask(t, "none", "tcp://127.0.0.1:1", &now)
	for _, tc := range []struct {
		w     battery.Watts
		until time.Duration
		want  error
	}{{3001, time.Hour, errOrderPower}, {battery.Watts(math.NaN()), time.Hour, errOrderPower}, {500, 0, errOrderUntil}, {500, -time.Hour, errOrderUntil}, {500, 25 * time.Hour, errOrderUntil}} {
		if err := m.order(tc.w, now.Add(tc.until)); err == nil || !strings.Contains(err.Error(), strings.SplitN(tc.want.Error(), ":", 2)[0]) {
			t.Errorf("%v W for %v: %v", tc.w, tc.until, err)
		}
	}
	if (&Gateway{}).Order(1, now) == nil || (&Gateway{}).Release() == nil {
		t.Error("a command without a battery")
	}
}

func TestTheLogOfCommandsIsBounded(t *testing.T) {
	o := orders{winner: parties}
	for i := range 3 * maxOrderLines {
		o.stand(byOwner, true, battery.Watts(1000*(i%2)), midsummer)
		o.stand(byGrid, i%7 == 0, 0, midsummer)
	}
	if len(o.Log) > maxOrderLines {
		t.Errorf("%d lines", len(o.Log))
	}
	for p, i := range o.Open {
		if i > 0 && (o.Log[i-1].By != partyNames[p] || o.Log[i-1].Over) {
			t.Errorf("party %d stands at line %d: %+v", p, i, o.Log[i-1])
		}
	}
}
