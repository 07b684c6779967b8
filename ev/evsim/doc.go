// Package evsim is a simulated wallbox with a signing meter and a car, for the
// demo and for tests.
//
// It speaks OCPP 1.6J and 2.0.1 through lorenzodonini/ocpp-go, an
// implementation that is not ours, over a real websocket: the demo is not our
// codec talking to itself. The meter signs OCMF records (P-256), the car has a
// battery, charging follows the profiles that the central system sets, and a
// discharge set point (DataTransfer "gridveil/V2XSetpoint") lets the car feed
// the house.
//
// The physics has no clock of its own: the caller drives it with Step and gets
// the power that the wallbox draws or feeds. Only Run, the shell, owns
// goroutines and a socket. Everything that happens in Step is queued and sent
// by Run in order; while the socket is down the queue keeps it, as a real
// wallbox does.
//
// Faults make it behave like the stations that break central systems: no
// signed meter, forged or replayed records, mute, late, events out of order.
//
// Signs: Step returns watts from the house's view, positive while the car
// charges, negative while it discharges. Energy is int64 mWh.
package evsim
