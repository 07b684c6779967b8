package evidence

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"gridveil/node/alarm"
	"gridveil/node/report"
)

// Reading is what one report says of one meter.
type Reading struct {
	Number    uint64    `json:"number"` // in the gateway's chain of this class
	Class     uint8     `json:"class"`  // report.Class
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Unc       uint32    `json:"clock_uncertainty_ms"`
	Restarted bool      `json:"restarted,omitempty"` // begins a new chain: what was before is lost or stands elsewhere
	Simulated bool      `json:"simulated,omitempty"`
	Meter     uint32    `json:"meter"` // of the gateway's meters, from 1
	Epoch     uint16    `json:"epoch"` // rises with each meter swap or reset
	State     string    `json:"state"` // which registers count
	Values    []Value   `json:"values"`
}

// Value is one register at the end of one slot.
type Value struct {
	At      time.Time `json:"at"`
	Channel string    `json:"channel"` // OBIS code
	Value   int64     `json:"value"`
	Unit    string    `json:"unit,omitempty"`
	Status  uint16    `json:"status,omitempty"`  // model.StatusBits
	Quality uint16    `json:"quality,omitempty"` // power-quality bits
	Flags   uint32    `json:"flags,omitempty"`   // checks that fired at the meter
}

// Raise is what one event says.
type Raise struct {
	ID        string    `json:"id"`
	At        time.Time `json:"at"` // by the device's clock
	Unc       uint32    `json:"clock_uncertainty_ms"`
	Number    uint64    `json:"number"` // of the device's events
	Kind      string    `json:"kind"`
	Priority  int       `json:"priority"` // 0 is the most urgent
	Profile   uint8     `json:"code_profile"`
	Log       uint8     `json:"code_log"`
	Code      uint16    `json:"code"`
	Restored  bool      `json:"restored,omitempty"`
	Warning   bool      `json:"warning,omitempty"`
	Simulated bool      `json:"simulated,omitempty"`
	Count     uint32    `json:"count"`            // of events that it stands for
	Meters    int       `json:"meters,omitempty"` // concerned, of an event that stands for several
	Cause     string    `json:"cause,omitempty"`  // id of the event that led to it
	Sealed    bool      `json:"sealed,omitempty"` // device and detail lie in a box that this file does not open
	Device    string    `json:"device,omitempty"` // the device's own name for the part of it
	Detail    string    `json:"detail,omitempty"`
}

// readingOf says what evidence of a report shows.
func readingOf(e report.Evidence) (Reading, error) {
	b, err := e.Body()
	if err != nil {
		return Reading{}, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	h, m := e.Header, b.Meters[0]
	r := Reading{Number: h.Seq, Class: uint8(h.Class), From: utc(h.From), To: utc(h.End()), Unc: h.Unc, Restarted: h.Flags&report.FlagRestart != 0,
		Simulated: h.Flags&report.FlagSimulated != 0, Meter: m.Ordinal, Epoch: m.Epoch, State: m.State.String(), Values: []Value{}}
	for _, v := range report.Readings(h, b)[m.Ordinal] {
		unit := ""
		if i, ok := v.Channel.Info(); ok {
			unit = i.Unit.String()
		}
		r.Values = append(r.Values, Value{At: utc(v.At), Channel: v.Channel.String(), Value: v.Register, Unit: unit, Status: uint16(v.Status), Quality: v.PQ, Flags: v.Flags})
	}
	return r, nil
}

// says decodes a signed event and opens its box where there is a key for it.
func (e *Event) says() (Raise, error) {
	a, err := alarm.Decode(e.Signed)
	if err != nil {
		return Raise{}, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	id := a.ID()
	r := Raise{ID: hex.EncodeToString(id[:]), At: utc(a.At), Unc: a.Unc, Number: a.Seq, Kind: a.Kind.String(), Priority: int(a.Priority),
		Profile: a.Key.Profile, Log: a.Key.Log, Code: a.Key.Code, Restored: a.Flags&alarm.Restored != 0, Warning: a.Flags&alarm.Warning != 0,
		Simulated: a.Flags&alarm.Simulated != 0, Count: a.Count, Meters: a.Ordinals.Count(), Sealed: a.Flags&alarm.Sealed != 0}
	if a.Cause != (alarm.ID{}) {
		r.Cause = hex.EncodeToString(a.Cause[:])
	}
	device, detail := a.Device, ""
	switch {
	case !r.Sealed && len(e.BoxKey) > 0:
		return r, fmt.Errorf("%w: the event is not sealed, and there is the key of a box", ErrEvidence)
	case !r.Sealed:
		detail = string(a.Detail)
	case len(e.BoxKey) > 0:
		if len(e.BoxKey) != len(report.BoxKey{}) {
			return r, fmt.Errorf("%w: the key of the event's box has %d bytes", ErrEvidence, len(e.BoxKey))
		}
		if device, detail, err = a.OpenWith(report.BoxKey(e.BoxKey)); err != nil {
			return r, fmt.Errorf("%w: the key of the event's box does not open it", ErrEvidence)
		}
		r.Sealed = false
	}
	if r.Detail = detail; device != [16]byte{} {
		r.Device = hex.EncodeToString(device[:])
	}
	return r, nil
}

// inOrder decodes evidence and puts it in the order of numbers.
func inOrder(all [][]byte) (out []report.Evidence, err error) {
	for _, raw := range all {
		e, err := report.DecodeEvidence(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b report.Evidence) int {
		return cmp.Or(cmp.Compare(a.Header.Class, b.Header.Class), cmp.Compare(a.Header.Seq, b.Header.Seq), cmp.Compare(a.Header.From, b.Header.From))
	})
	return out, nil
}

func utc(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
