package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"gridveil/ev/evsim"
	"gridveil/node/clock"
	"gridveil/node/loopback"
	"gridveil/node/plant"
)

// Wallbox is a simulated charge point at a home: a real OCPP client with a
// signing meter, stepped by the house.
type Wallbox struct {
	CP *evsim.ChargePoint

	mu      sync.Mutex
	until   time.Time // stepped up to here
	watts   float64
	telling bool // to the gateway, with the clock held back
	clock   clock.Clock
	cancel  context.CancelFunc
	done    chan error
}

// Watts steps the charge point through the minute that starts at t.
func (w *Wallbox) Watts(t time.Time) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !t.Before(w.until) {
		w.watts = float64(w.CP.Step(t, plant.Step))
		w.until = t.Add(plant.Step)
		w.tell(w.until)
	}
	return w.watts
}

// Limits of how long the day waits for what a charge point has to tell.
const (
	tellWait = 2 * time.Second // in wall time: a gateway that is down is not waited for
	tellLook = time.Millisecond
)

// tell keeps the clock from running on before the gateway has heard what was
// queued until now, so that on a busy machine a car starts in the same minute. The
// caller holds mu.
func (w *Wallbox) tell(now time.Time) {
	if w.telling || !w.waiting() {
		return
	}
	w.telling = true
	pace := clock.Pace(w.clock)
	pace.Due(now)
	go func() { // ends within tellWait
		for until := time.Now().Add(tellWait); w.waiting() && time.Now().Before(until); {
			time.Sleep(tellLook)
		}
		pace.Leave()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.telling = false
	}()
}

func (w *Wallbox) waiting() bool {
	s := w.CP.Status()
	return s.Online && s.Queued > 0
}

// wallbox adds a charge point to home i and what the gateway must know of it.
func (s *Scene) wallbox(h *Home, i int, toml *strings.Builder) error {
	ocpp, err := loopback.Port()
	if err != nil {
		return err
	}
	door, err := loopback.Port()
	if err != nil {
		return err
	}
	h.OCPPListen, h.DoorListen = "127.0.0.1:"+ocpp, "127.0.0.1:"+door
	key, err := ecdsa.GenerateKey(elliptic.P256(), s.reader(fmt.Sprintf("meter-%d", i)))
	if err != nil {
		return fmt.Errorf("meter key: %w", err)
	}
	station := fmt.Sprintf("evse-%d", i+1)
	h.password = fmt.Sprintf("simulated wallbox %d", i+1)
	cp, err := evsim.New(evsim.Config{ID: station, URL: "ws://" + h.OCPPListen + "/ocpp", Version: []string{"1.6", "2.0.1"}[i%2], Password: h.password, Key: key,
		Serial: fmt.Sprintf("SIM-%03d", i+1), Phases: 3, MaxW: 11_000, V2X: true, Clock: s.Clock})
	if err != nil {
		return fmt.Errorf("wallbox: %w", err)
	}
	pub, err := cp.PublicKey()
	if err != nil {
		return fmt.Errorf("wallbox: %w", err)
	}
	h.Wallbox = &Wallbox{CP: cp, clock: s.Clock}
	fmt.Fprintf(toml, "[evse]\nlisten = %q\nmax_w = 11000\nstation = %q\nmeter_key = %q\n", h.OCPPListen, station, hex.EncodeToString(pub))
	fmt.Fprintf(toml, "[hosting]\nenabled = true\nlisten = %q\n", h.DoorListen)
	return nil
}

// Run keeps the charge point connected until Stop.
func (w *Wallbox) Run(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(ctx)
	w.done = make(chan error, 1)
	go func() { w.done <- w.CP.Run(ctx) }() // Stop waits for it
}

// Stop disconnects the charge point.
func (w *Wallbox) Stop() error {
	if w.cancel == nil {
		return nil
	}
	w.cancel()
	return <-w.done
}
