package gateway

import (
	"errors"
	"flag"
	"math"
	"path/filepath"
	"testing"
	"time"

	"gridveil/node/plant"
	"gridveil/node/signal"
	"gridveil/node/store"
)

var long = flag.Bool("long", false, "run the tests of the whole dial and of a wallbox that hangs")

// TestWithOnePriceTheDialHasNothingToSell: every stop is the private one, and what
// leaks is rated.
func TestWithOnePriceTheDialHasNothingToSell(t *testing.T) {
	dir, now := t.TempDir(), midsummer.Add(nightly)
	prepareDemand(t, dir)
	h, st, err := bankHouse(dir, "tcp://127.0.0.1:1", "veil", plant.NewHousehold(11), &now)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := h.mask.teach(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	in, stop, ok := (&Gateway{env: h.env, mask: h.mask}).Insight()
	if !ok || stop != 0 || !in.Flat || len(in.Stops) != 1 || in.Leak.Masked <= 0 || in.Leak.Floor <= 0 || in.Stops[0].Cost <= 0 || in.Stops[0].Cycles <= 0 {
		t.Errorf("stop %d, %+v", stop, in)
	}
	if runs := h.mask.today().BoundBits; math.Abs(runs-in.Stops[0].Bits) > 1e-6 {
		t.Errorf("the mask runs at %.3f bits a day, the page says %.3f", runs, in.Stops[0].Bits)
	}
}

// TestTheDialSaysWhatItCosts: with prices that differ a thriftier stop tells more
// and costs less, its kernel runs, and it is made again after a restart.
func TestTheDialSaysWhatItCosts(t *testing.T) {
	if !*long {
		t.Skip("solves a kernel of 96 slots for each stop, a minute or two: run with -long")
	}
	dir, now := t.TempDir(), midsummer.Add(nightly)
	prepareDemand(t, dir)
	h, st, err := bankHouse(dir, "tcp://127.0.0.1:1", "veil", plant.NewHousehold(11), &now)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	m := h.mask
	m.heard = func(at time.Time) signal.Signals {
		s := signal.Signals{At: at}
		for q := range 3 * quarters {
			from := midsummer.Add(time.Duration(q) * 15 * time.Minute)
			micro := int64(280_000)
			switch hour := from.Hour(); {
			case hour < 5:
				micro = 140_000
			case hour >= 16 && hour < 19:
				micro = 400_000
			}
			s.Prices = append(s.Prices, signal.Price{From: from, To: from.Add(15 * time.Minute), MicroPerKWh: micro})
		}
		return s
	}
	if err := m.setDial(3); err != nil {
		t.Fatal(err)
	}
	if err := m.teach(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	g := &Gateway{env: m.env, mask: m}
	in, stop, ok := g.Insight()
	if !ok || stop != 3 || in.Flat || len(in.Stops) != 5 || in.Leak.Masked <= 0 || in.Leak.Floor <= 0 {
		t.Fatalf("stop %d, %+v", stop, in)
	}
	private, dear := in.Stops[1], in.Stops[4]
	if dear.Bits < private.Bits || dear.Cost >= private.Cost || private.Cycles <= 0 || private.Loss <= 0 {
		t.Errorf("near private %+v, thrifty %+v", private, dear)
	}
	runs := m.today().BoundBits
	if d := runs - in.Stops[3].Bits; d > 1e-6 || d < -1e-6 {
		t.Errorf("the mask runs at %.3f bits a day, stop 3 has %.3f", runs, in.Stops[3].Bits)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	again, st, err := bankHouse(dir, "tcp://127.0.0.1:1", "veil", plant.NewHousehold(11), &now)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := again.mask.relearn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := again.mask.today().BoundBits - runs; d > 1e-3 || d < -1e-3 {
		t.Errorf("after a restart %.3f bits a day, before %.3f", again.mask.today().BoundBits, runs)
	}
}

func TestTheDialHasFiveStops(t *testing.T) {
	now := midsummer
	m := realMask(t, "none", "tcp://127.0.0.1:1", &now)
	for _, bad := range []int{-1, 5, 255} {
		if err := m.setDial(bad); !errors.Is(err, errStop) {
			t.Errorf("stop %d: %v", bad, err)
		}
	}
	if stop, err := m.stop(); stop != 0 || err != nil {
		t.Errorf("at first %d, %v", stop, err)
	}
	d, err := m.dial(now)
	if err != nil || !flat(d.Prices) || d.Prices[0] != .3 {
		t.Errorf("without signals %+v, %v", d.Prices[:2], err)
	}
}

// TestStoredRubbishIsNoMemory: a memory that does not decode is an error that says
// what it is, not a mask without a past.
func TestStoredRubbishIsNoMemory(t *testing.T) {
	key, err := store.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.TempDir(), key, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if k, err := new(memory).load(st); err != nil || len(k.blocks) != 0 || k.orders.Own != nil {
		t.Errorf("an empty store: %+v, %v", k, err)
	}
	for _, key := range [][]byte{maskKey, lessonKey} {
		if err := st.Set(key, []byte("{")); err != nil {
			t.Fatal(err)
		}
		if _, err := new(memory).load(st); err == nil {
			t.Errorf("rubbish under %q was taken", key)
		}
		if err := st.Set(key, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
}
