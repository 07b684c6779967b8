package ocpp_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"gridveil/ev"
	"gridveil/ev/evsim"
	"gridveil/ev/ocmf"
	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/v16"
	"gridveil/ev/ocpp/v201"
)

// simClock is the time of the simulated world; it stands still unless moved.
type simClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *simClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *simClock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

func (c *simClock) After(time.Duration) <-chan time.Time { return nil }

// house is a central system with an in-memory store.
type house struct {
	t    *testing.T
	srv  *ocpp.Server
	addr string
	time *simClock

	mu      sync.Mutex
	records map[string]ocpp.Record
	events  []ev.Event
	full    bool          // the store refuses events
	grown   chan struct{} // one token after every stored event
}

func (h *house) LoadStations() ([]ocpp.Record, error) { return nil, nil }

func (h *house) SaveStation(r ocpp.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records[r.ID] = r
	return nil
}

func (h *house) ingest(_ context.Context, _ string, e ev.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full {
		return errors.New("disk full")
	}
	h.events = append(h.events, e)
	select {
	case h.grown <- struct{}{}:
	default:
	}
	return nil
}

func (h *house) setFull(v bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.full = v
}

// newHouse serves on loopback until the test ends.
func newHouse(t *testing.T, change func(*ocpp.Config)) *house {
	t.Helper()
	h := &house{t: t, time: &simClock{now: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)}, records: map[string]ocpp.Record{}, grown: make(chan struct{}, 1)}
	cfg := ocpp.Config{Dialects: []ocpp.Dialect{v201.Dialect{}, v16.Dialect{}}, Ingest: h.ingest, Stations: h, HouseLimitW: 7360,
		Clock: h.time}
	if change != nil {
		change(&cfg)
	}
	srv, err := ocpp.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.srv, h.addr = srv, ln.Addr().String()
	runUntilEnd(t, func(ctx context.Context) error { return srv.Serve(ctx, ln) })
	return h
}

// runUntilEnd runs a shell part and waits for it when the test ends.
func runUntilEnd(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("shell part: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("shell part did not end within 10 s")
		}
	})
}

// wallbox starts a simulated charge point with a provisioned password.
func (h *house) wallbox(id, version string, change func(*evsim.Config)) *evsim.ChargePoint {
	h.t.Helper()
	password, err := h.srv.Provision(id)
	if err != nil {
		h.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	cfg := evsim.Config{ID: id, URL: "ws://" + h.addr + "/ocpp", Password: password, Version: version, Key: key,
		Serial: "SIM-" + id, ImportMWh: 1_000_000, V2X: true, Clock: h.time}
	if change != nil {
		change(&cfg)
	}
	cp, err := evsim.New(cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	runUntilEnd(h.t, cp.Run)
	return cp
}

// until waits for a condition that other goroutines bring about.
func (h *house) until(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-h.grown:
		case <-time.After(2 * time.Millisecond):
		case <-deadline:
			h.t.Fatalf("waited 10 s in vain: %s", what)
		}
	}
}

// station waits until a station is online and configured.
func (h *house) station(cp *evsim.ChargePoint, id string) *ocpp.Station {
	h.t.Helper()
	h.until("station online", func() bool { return cp.Status().Online && cp.Status().Queued == 0 })
	st, ok := h.srv.Station(id)
	if !ok {
		h.t.Fatal("station is not listed")
	}
	return st
}

// transaction folds what the store holds of the newest transaction.
func (h *house) transaction() ev.Transaction {
	h.mu.Lock()
	defer h.mu.Unlock()
	var newest string
	for _, e := range h.events {
		if e.Kind == ev.Started {
			newest = e.TransactionID
		}
	}
	var evs []ev.Event
	for _, e := range h.events {
		if newest != "" && e.TransactionID == newest {
			evs = append(evs, e)
		}
	}
	return ev.Fold(evs)
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	t.Cleanup(cancel)
	return c
}

const code = "GRIDVEILCODE2345"

// charge drives one session at 3 kW for a quarter of an hour and returns what the store
// knows of it.
func charge(h *house, cp *evsim.ChargePoint, id string) ev.Transaction {
	h.t.Helper()
	from := h.time.Now()
	st := h.station(cp, id)
	car := &evsim.Car{CapacityMWh: 60_000_000, EnergyMWh: 20_000_000, MaxChargeW: 11_000, MaxDischargeW: 10_000}
	if err := cp.Plug(from, car); err != nil {
		h.t.Fatal(err)
	}
	if err := st.Start(ctx(h.t), 1, code); err != nil {
		h.t.Fatalf("Start: %v", err)
	}
	if w := cp.Step(from, time.Minute); w != 7360 {
		h.t.Errorf("power under the default profile: got %d W, want the house limit of 7360 W", w)
	}
	h.until("transaction started", func() bool { return st.Info().Running[1] != "" && cp.Status().Queued == 0 })
	if err := st.Limit(ctx(h.t), 1, 3000, time.Time{}); err != nil {
		h.t.Fatalf("Limit: %v", err)
	}
	now := from.Add(time.Minute)
	for range 15 {
		h.time.set(now)
		if w := cp.Step(now, time.Minute); w != 3000 {
			h.t.Fatalf("power under a limit of 3 kW: got %d W", w)
		}
		now = now.Add(time.Minute)
	}
	if err := st.Stop(ctx(h.t), st.Info().Running[1]); err != nil {
		h.t.Fatalf("Stop: %v", err)
	}
	cp.Step(now, time.Minute)
	cp.Unplug(now.Add(time.Minute))
	h.until("transaction ended", func() bool { return h.transaction().HasEnded && cp.Status().Queued == 0 })
	return h.transaction()
}

func TestForeignChargePointsWorkUnmodifiedToASignedRecord(t *testing.T) {
	for _, version := range []string{"1.6", "2.0.1"} {
		t.Run(version, func(t *testing.T) {
			h := newHouse(t, nil)
			cp := h.wallbox("WB:01", version, nil)
			tx := charge(h, cp, "WB:01")
			if tx.IDToken != code || !tx.HasStarted || tx.StopReason != "Remote" {
				t.Errorf("transaction: got token %q, started %v, reason %q", tx.IDToken, tx.HasStarted, tx.StopReason)
			}
			signed, err := ocmf.Check(tx.Signed, mustKey(t, cp), code)
			if err != nil {
				t.Fatalf("Check of %d records: %v", len(tx.Signed), err)
			}
			// 7360 W for a minute, then 3 kW for 15; registers count whole mWh.
			if want := int64(750_000 + 122_666); signed.ImportMWh != want {
				t.Errorf("signed import: got %d mWh, want %d", signed.ImportMWh, want)
			}
			seen := 0
			for _, r := range tx.Readings {
				if r.HasPower && r.PowerW == 3000 {
					seen++
				}
			}
			if seen < 14 {
				t.Errorf("samples that show 3 kW: got %d, want about 15", seen)
			}
			st, _ := h.srv.Station("WB:01")
			if in := st.Info(); in.Uncontrollable || in.Version != version || in.Model != "evsim" {
				t.Errorf("info: got %+v", in)
			}
		})
	}
}

func mustKey(t *testing.T, cp *evsim.ChargePoint) ocmf.PublicKey {
	t.Helper()
	der, err := cp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ocmf.NewKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestTenWallboxesOfBothVersionsRunInOneProcess(t *testing.T) {
	h := newHouse(t, nil)
	now := h.time.Now()
	var boxes []*evsim.ChargePoint
	for i := range 10 {
		boxes = append(boxes, h.wallbox(fmt.Sprint("WB", i), []string{"1.6", "2.0.1"}[i%2], nil))
	}
	for i, cp := range boxes {
		st := h.station(cp, fmt.Sprint("WB", i))
		if err := cp.Plug(now, &evsim.Car{CapacityMWh: 60_000_000, MaxChargeW: 7360}); err != nil {
			t.Fatal(err)
		}
		if err := st.Start(ctx(t), 1, fmt.Sprint("CODE", i)); err != nil {
			t.Fatalf("wallbox %d: %v", i, err)
		}
	}
	for m := range 10 {
		for _, cp := range boxes {
			cp.Step(now.Add(time.Duration(m)*time.Minute), time.Minute)
		}
	}
	for i, cp := range boxes {
		cp.Unplug(now.Add(10 * time.Minute))
		h.until(fmt.Sprint("queue of wallbox ", i, " empty"), func() bool { return cp.Status().Queued == 0 })
	}
	byTx := map[string][]ev.Event{}
	for _, e := range h.events {
		if e.TransactionID != "" {
			byTx[e.Station] = append(byTx[e.Station], e)
		}
	}
	for i, cp := range boxes {
		tx := ev.Fold(byTx[fmt.Sprint("WB", i)])
		got, err := ocmf.Check(tx.Signed, mustKey(t, cp), fmt.Sprint("CODE", i))
		if err != nil || got.ImportMWh != 7360*10*1000/60 {
			t.Errorf("wallbox %d: %d mWh, %v", i, got.ImportMWh, err)
		}
	}
}
