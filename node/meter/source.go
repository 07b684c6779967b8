package meter

import (
	"context"
	"errors"
	"time"

	"gridveil/node/model"
)

// ErrInvalidFrame is wrapped by every decoder's refusal of foreign bytes.
var ErrInvalidFrame = errors.New("meter: invalid frame")

// Clock is the time a collector lives in; nil in a Config means wall clock.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Value is one channel of a frame, in the channel's unit.
type Value struct {
	Channel model.Channel
	N       int64
}

// Device tells two meters apart without naming them: SHA-256(serial)[:8], zero
// when the meter gave no serial number.
type Device [8]byte

// Frame is what a meter said at one instant.
type Frame struct {
	At        int64  // UTC ms of the node's clock; 0 lets the collector stamp it
	MeterTime int64  // UTC ms of the meter's clock, 0 when it gave none
	Unc       uint32 // uncertainty of At, ms
	Device    Device
	Firmware  string // what the meter calls its model and version
	Values    []Value
	Status    model.StatusBits
	Integrity model.Integrity
	Raw       []byte // kept only if the meter signed it
}

// Get returns the value of c.
func (f Frame) Get(c model.Channel) (int64, bool) {
	for _, v := range f.Values {
		if v.Channel == c {
			return v.N, true
		}
	}
	return 0, false
}

// Info describes a source.
type Info struct {
	Kind           string // "p1", "replay", "sim"
	Model          string
	Firmware       string
	Integrity      model.Integrity
	ShortestPeriod time.Duration // how often it can deliver
	Simulated      bool
	// KeepsTime says that frames carry At themselves. Slots then close by frames
	// alone: a paused or accelerated simulation makes no false gaps.
	KeepsTime bool
}

// Source is a meter. Run delivers frames until ctx ends or the device is lost;
// emit returns once the frame is dealt with, and its error ends Run. Run starts
// no goroutine that outlives it.
type Source interface {
	Info() Info
	Run(ctx context.Context, emit func(Frame) error) error
}

// Reader is a source that answers on demand.
type Reader interface {
	Read(ctx context.Context, ch []model.Channel) (Frame, error)
}

// Link counts what came over the line, for the link gauge on the local page.
type Link struct {
	Good, Bad uint64 // frames; up to 10 % bad occur on sound cables
}

// Gauge is a source that counts its frames.
type Gauge interface{ Link() Link }
