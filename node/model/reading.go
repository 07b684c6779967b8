package model

import (
	"fmt"
	"time"
)

// Integrity is how a value was protected between the meter's register and us.
type Integrity uint8

// From none to a signature by the meter itself.
const (
	IntegrityNone Integrity = iota
	IntegrityChecksum
	IntegrityTransport
	IntegritySigned
)

// String names the class.
func (i Integrity) String() string {
	return [...]string{"none", "checksum", "transport", "signed"}[min(i, IntegritySigned)]
}

// ReadingState says which registers a contract lets us bill (object 4).
type ReadingState uint8

// The four states of a usage point.
const (
	ReadImport ReadingState = iota
	ReadImportExport
	ReadExport
	ReadDisabled
)

// String names the state as the matrix does.
func (s ReadingState) String() string {
	return [...]string{"import", "import+export", "export", "disabled"}[min(s, ReadDisabled)]
}

// Allows says whether state s lets register c move.
func (s ReadingState) Allows(c Channel) bool {
	switch s {
	case ReadImport:
		return !c.IsExport()
	case ReadImportExport:
		return true
	case ReadExport:
		return c.IsExport() || !c.IsRegister()
	}
	return !c.IsRegister()
}

// StatusBits travel with every reading: what the meter or the reader said
// about the circumstances of the value.
type StatusBits uint16

// The bits.
const (
	StatusLate       StatusBits = 1 << iota // taken later than the slot's end allows
	StatusRounded                           // the meter gave finer than 1 mWh
	StatusClockUnset                        // the reader's own clock was not sure of the time
	StatusMeterClock                        // the meter's clock was off beyond its bound
	StatusPowerFail                         // a power failure began or ended in the slot
	StatusTestMode                          // the meter says it is in test mode
	StatusDisconnect                        // the disconnect element was open
	StatusEpoch                             // first value of a new epoch: swap or reset
	StatusSimulated                         // from a simulated meter
)

// Reading is one register value of one slot.
type Reading struct {
	Channel  Channel
	Slot     int64  // start of the half-open interval, UTC ms; Register is the value at its end
	At       int64  // when the value was taken, UTC ms of the node's clock
	Register int64  // in the channel's unit
	Unc      uint32 // uncertainty of At, ms
	Counter  uint32 // reading number at this source
	Epoch    uint16 // rises with each meter swap or reset
	State    ReadingState
	Status   StatusBits
	PQ       uint16 // power-quality bits of the slot
	Quality  Quality
	Flags    uint32 // bits of the rules that fired (package vee)
}

// Quality is an ESPI reading quality code.
type Quality uint8

// The codes in use. Source: NAESB ESPI, QualityOfReading.
const (
	QualityValid        Quality = 0
	QualityEdited       Quality = 7
	QualityReferenceDay Quality = 8
	QualityLinear       Quality = 9
	QualityQuestionable Quality = 10
	QualityRaw          Quality = 14
)

// SlotOf is the start of the slot of length period that holds t.
func SlotOf(t int64, period time.Duration) int64 {
	ms := period.Milliseconds()
	s := t - t%ms
	if t%ms < 0 {
		s -= ms
	}
	return s
}

// CheckPeriod refuses capture periods that do not divide a day or lie outside
// 1 s .. 1 day: slots must line up with local midnight of whole-hour zones.
func CheckPeriod(p time.Duration) error {
	if p < time.Second || p > 24*time.Hour || (24*time.Hour)%p != 0 {
		return fmt.Errorf("period %v: want a divisor of 24h between 1s and 24h, such as 15m", p)
	}
	return nil
}
