package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"gridveil/battery"
	"gridveil/node/plant"
	"gridveil/node/store"
	"gridveil/node/sunspec/sim"
)

// lines collects what is logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestNothingLeavesBattery lives six hours of a masked house, with faults, commands
// and a night's lesson, and reads everything that was logged, warned of and stored:
// no log and no warning holds load, charge, level or kernel, and the seed is nowhere.
func TestNothingLeavesBattery(t *testing.T) {
	now := midsummer
	d, address := device(t, battery.Reference(smallWh, 3000), smallWh/2)
	dir := t.TempDir()
	prepareDemand(t, dir)
	h, st, err := bankHouse(dir, address, "veil", plant.NewHousehold(11), &now)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	log := new(lines)
	h.env.Log = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	secrets := map[string]string{}
	tell := func(what string, v float64) {
		if v > 20 || v < -20 {
			secrets[what] = fmt.Sprintf("%.3f", v)
		}
	}
	var said strings.Builder
	exposed := 0.
	for m := range 360 {
		now = midsummer.Add(time.Duration(m+1) * time.Minute)
		switch m {
		case 60:
			d.Inject(sim.BadCharge)
		case 90:
			d.Inject(sim.Sound)
		case 120:
			if err := h.mask.order(-700, now.Add(10*time.Minute)); err != nil {
				t.Fatal(err)
			}
		case 150:
			if err := h.mask.night(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.step(context.Background(), now); err != nil {
			t.Fatal(err)
		}
		exposed = max(exposed, h.mask.today().ExposedMins)
		tell(fmt.Sprintf("load of minute %d", m), h.last.LoadW)
		tell(fmt.Sprintf("charge in minute %d", m), float64(h.mask.bank.store.E))
		level, _ := h.mask.ctl.Base()
		tell(fmt.Sprintf("level in minute %d", m), float64(level))
		b, err := json.Marshal(h.env.Warn.Standing(now))
		if err != nil {
			t.Fatal(err)
		}
		said.Write(b)
	}
	if exposed == 0 || !strings.Contains(said.String(), "battery-silent") || len(secrets) < 500 {
		t.Fatalf("the hours were not lived: %.0f minutes exposed, %d secrets", exposed, len(secrets))
	}
	h.env.Log.Debug("end of the run")
	for what, text := range secrets {
		for where, all := range map[string]string{"log": log.String(), "warnings": said.String()} {
			if strings.Contains(all, text) {
				t.Errorf("the %s holds the %s: %s", where, what, text)
			}
		}
	}
	var seed [32]byte
	if _, err := mrand.NewChaCha8([32]byte{7}).Read(seed[:]); err != nil {
		t.Fatal(err)
	}
	stored := dump(t, st)
	for _, form := range [][]byte{seed[:8], []byte(hex.EncodeToString(seed[:8])), []byte(base64.StdEncoding.EncodeToString(seed[:9])), []byte(fmt.Sprint(seed[:8]))} {
		for where, all := range map[string][]byte{"log": []byte(log.String()), "warnings": []byte(said.String()), "store": stored} {
			if bytes.Contains(all, form) {
				t.Errorf("the %s holds the seed as %x", where, form)
			}
		}
	}
}

// dump is every value of a store.
func dump(t *testing.T, st *store.Store) (all []byte) {
	t.Helper()
	err := st.View(func(tx *store.Tx) error {
		return tx.Each([]byte{byte(store.SpaceBattery)}, func(k, v []byte) error {
			all = append(append(all, k...), v...)
			return nil
		})
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("nothing is stored: %v", err)
	}
	return all
}
