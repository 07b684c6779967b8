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

	mu     sync.Mutex
	until  time.Time // stepped up to here
	watts  float64
	cancel context.CancelFunc
	done   chan error
}

// Watts steps the charge point through the minute that starts at t.
func (w *Wallbox) Watts(t time.Time) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !t.Before(w.until) {
		w.watts = float64(w.CP.Step(t, plant.Step))
		w.until = t.Add(plant.Step)
	}
	return w.watts
}

// Limits of how long a house waits for what its charge point has to tell.
const (
	tellWait = 2 * time.Second // in wall time: a gateway that hangs is not waited for
	tellLook = time.Millisecond
)

// Told waits until the gateway has heard what the charge point had to tell, so that
// on a busy machine too it knows of a minute before it plans the next one.
func (w *Wallbox) Told(ctx context.Context) {
	for until := time.Now().Add(tellWait); w.waiting() && time.Now().Before(until); {
		if !clock.Sleep(ctx, clock.Wall{}, tellLook) {
			return
		}
	}
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
	h.Wallbox = &Wallbox{CP: cp}
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
