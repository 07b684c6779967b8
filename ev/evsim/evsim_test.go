package evsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	"pgregory.net/rapid"

	"gridveil/ev/ocmf"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func mustNew(t *testing.T, change func(*Config)) *ChargePoint {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{ID: "WB", URL: "ws://127.0.0.1:1/ocpp", Version: "2.0.1", Key: key, Serial: "1", V2X: true}
	if change != nil {
		change(&cfg)
	}
	cp, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// running is a wallbox with a car and a transaction.
func running(t *testing.T, car *Car, change func(*Config)) *ChargePoint {
	t.Helper()
	cp := mustNew(t, change)
	if err := cp.Plug(noon, car); err != nil {
		t.Fatal(err)
	}
	if !cp.onStart(1, "CODE", 1) {
		t.Fatal("start refused")
	}
	return cp
}

func TestBadConfigIsRefused(t *testing.T) {
	for name, cfg := range map[string]Config{
		"nothing": {}, "version": {ID: "A", URL: "ws://x", Version: "1.5"}, "phases": {ID: "A", URL: "ws://x", Version: "1.6", Phases: 2},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRegistersHoldExactlyWhatFlowed(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := meter{}
		var in, out int64 // W·ms
		for _, w := range rapid.SliceOfN(rapid.Int64Range(-11_000, 11_000), 1, 50).Draw(r, "watts") {
			ms := rapid.Int64Range(1, 600_000).Draw(r, "ms")
			m.run(w, ms)
			in, out = in+max(w, 0)*ms, out+max(-w, 0)*ms
		}
		if m.importMWh != in/3600 || m.exportMWh != out/3600 {
			t.Fatalf("registers %d, %d; flowed %d, %d", m.importMWh, m.exportMWh, in/3600, out/3600)
		}
	})
}

func TestCarNeverLeavesItsLimits(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		car := &Car{CapacityMWh: 50_000_000, EnergyMWh: rapid.Int64Range(10_000_000, 50_000_000).Draw(r, "energy"), ReserveMWh: 10_000_000,
			MaxChargeW: 11_000, MaxDischargeW: 11_000, LossPermille: rapid.Int64Range(0, 150).Draw(r, "loss")}
		cp := running(t, car, nil)
		cp.Step(noon, time.Millisecond)
		now := noon
		for range 200 {
			w := rapid.Int64Range(-11_000, 7360).Draw(r, "setpoint")
			cp.onSetpoint(1, w)
			got := cp.Step(now, 5*time.Minute)
			if got > max(w, 0) && w != 0 || got < min(w, 0) {
				t.Fatalf("set point %d W, power %d W", w, got)
			}
			if car.EnergyMWh > car.CapacityMWh || car.EnergyMWh < car.ReserveMWh-1000 {
				t.Fatalf("battery holds %d mWh", car.EnergyMWh)
			}
			now = now.Add(5 * time.Minute)
		}
	})
}

func TestProfilesRankAsOCPPSays(t *testing.T) {
	p := func(id int, purpose string, stack int, limit float64) profile {
		return profile{id: id, purpose: purpose, stack: stack, transaction: "T", start: noon, periods: []period{{limit: limit}}}
	}
	ps := profiles{}
	want := func(what string, w int64) {
		t.Helper()
		if got := ps.limit(noon.Add(time.Minute), noon, "T", 11_000, 3); got != w {
			t.Errorf("%s: got %d W, want %d", what, got, w)
		}
	}
	want("no profile", 11_000)
	ps[1] = p(1, "TxDefaultProfile", 0, 9000)
	want("default", 9000)
	ps[2] = p(2, "TxDefaultProfile", 1, 9500)
	want("higher stack", 9500)
	ps[3] = p(3, "TxProfile", 0, 10_000)
	want("of the transaction", 10_000)
	ps[4] = p(4, "ChargePointMaxProfile", 0, 5000)
	want("maximum", 5000)
	delete(ps, 4)
	ps[3] = profile{id: 3, purpose: "TxProfile", transaction: "T", start: noon, amperes: true, periods: []period{{limit: 6.5, phases: 1}}}
	want("amperes on one phase", 1495)
	ps[3] = profile{id: 3, purpose: "TxProfile", transaction: "T", start: noon, duration: 30 * time.Second, periods: []period{{limit: 0}}}
	want("run out", 9500)
	ps[3] = profile{id: 3, purpose: "TxProfile", transaction: "T", relative: true, periods: []period{{limit: 1}, {from: time.Minute, limit: 4000}, {from: time.Hour, limit: 2}}}
	want("second period", 4000)
	ps.forget("T")
	want("after the transaction", 9500)
}

func TestBelowSixAmperesACarPauses(t *testing.T) {
	for _, c := range []struct {
		phases, limit, want int64
	}{{1, 1380, 1380}, {1, 1379, 0}, {3, 4140, 4140}, {3, 4139, 0}} {
		cp := running(t, &Car{CapacityMWh: 50_000_000, MaxChargeW: 22_000}, func(cfg *Config) { cfg.Phases = c.phases })
		cp.onProfile(profile{id: 1, purpose: "TxDefaultProfile", start: noon, periods: []period{{limit: float64(c.limit)}}})
		if got := cp.Step(noon, time.Minute); got != c.want {
			t.Errorf("%d W on %d phases: got %d, want %d", c.limit, c.phases, got, c.want)
		}
	}
}

func TestSamplesFallOnRoundTimesWhateverTheStep(t *testing.T) {
	cp := running(t, &Car{CapacityMWh: 50_000_000, MaxChargeW: 6000}, nil)
	now := noon
	for _, d := range []time.Duration{7 * time.Second, 3 * time.Minute, 53 * time.Second} {
		cp.Step(now, d)
		now = now.Add(d)
	}
	var at []time.Time
	for _, r := range cp.outbox {
		if r.kind == reportSample {
			at = append(at, r.at)
			if want := int64(r.at.Sub(noon).Milliseconds()) * 6000 / 3600; r.importMWh != want {
				t.Errorf("register at %v: got %d, want %d", r.at, r.importMWh, want)
			}
		}
	}
	if len(at) != 4 || !at[0].Equal(noon.Add(time.Minute)) || !at[3].Equal(noon.Add(4*time.Minute)) {
		t.Errorf("samples: got %v", at)
	}
}

func TestMeterSignsWhatCheckAccepts(t *testing.T) {
	cp := running(t, &Car{CapacityMWh: 50_000_000, MaxChargeW: 6000}, nil)
	cp.Step(noon, time.Hour)
	cp.Unplug(noon.Add(time.Hour))
	var records [][]byte
	for _, r := range cp.outbox {
		if r.signed != nil {
			records = append(records, r.signed)
		}
	}
	der, err := cp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ocmf.NewKey(der)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ocmf.Check(records, key, "CODE")
	if err != nil || got.ImportMWh != 6_000_000 || !got.TimeOK {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestFullOutboxDropsSamplesAndNothingElse(t *testing.T) {
	cp := running(t, &Car{CapacityMWh: 1 << 50, MaxChargeW: 6000}, nil)
	cp.Step(noon, (maxOutbox+100)*time.Minute)
	cp.Unplug(noon.Add((maxOutbox + 100) * time.Minute))
	stop := cp.outbox[len(cp.outbox)-3] // before Finishing and Available
	if cp.dropped == 0 || stop.kind != reportStop || stop.signed == nil {
		t.Errorf("dropped %d samples; third last report %+v", cp.dropped, stop)
	}
}
