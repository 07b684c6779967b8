package node

import (
	"context"
	"fmt"
	"io"
	"time"

	"gridveil/battery"
	"gridveil/node/sunspec/sim"
)

// BatteryDevice is a simulated battery with a SunSpec inverter, on the wall clock.
type BatteryDevice struct {
	Listen   string
	Capacity float64 // Wh
	Power    float64 // W, both ways
	Charge   float64 // percent, at the start
	Lag      time.Duration
	Ramp     float64   // W/s; 0: at once
	Control  string    // the SunSpec model that it is commanded by: "124" or "704"
	Out      io.Writer // is told every command, and that it is simulated
}

// Run serves the device until ctx ends.
func (b BatteryDevice) Run(ctx context.Context) error {
	models, named := sim.Storage, "124, 713, 802"
	switch b.Control {
	case "124":
	case "704":
		models, named = sim.Active, "702, 704, 713, 714, 715"
	default:
		return fmt.Errorf("control %q: want 124 (storage) or 704 (active power)", b.Control)
	}
	spec := battery.Reference(battery.WattHours(b.Capacity), battery.Watts(b.Power))
	spec.Lag, spec.RampPerSecond = b.Lag, battery.Watts(b.Ramp)
	said := make(chan string, 16)
	last := battery.Watts(0)
	d, err := sim.New(sim.Config{Listen: b.Listen, Spec: spec, Stored: spec.Capacity * battery.WattHours(b.Charge/100), Now: time.Now, Models: models,
		Said: func(w battery.Watts, keep time.Duration) {
			if w > last-50 && w < last+50 {
				return
			}
			last = w
			select {
			case said <- fmt.Sprintf("%.0f W for %v", float64(w), keep):
			default: // a line less on the screen
			}
		}})
	if err != nil {
		return err
	}
	fmt.Fprintf(b.Out, "SIMULATED battery of %.0f Wh and %.0f W: a model, no hardware.\nSunSpec models 1, %s over Modbus TCP at tcp://%s, unit 1\n", b.Capacity, b.Power, named, b.Listen)
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx) }() // waited for below
	for {
		select {
		case err := <-done:
			return err
		case line := <-said:
			_, stored := d.State()
			fmt.Fprintf(b.Out, "%s  asked for %s, holds %.2f kWh\n", time.Now().Format("15:04:05"), line, float64(stored)/1000)
		}
	}
}
