// Package metering holds the small messages between utility, head-end and
// substation that no other package has: who is on the list, what an alarm looks
// like to the utility.
package metering

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/model"
	"gridveil/node/ondemand"
)

// ErrMessage means that bytes are none of this package's messages.
var ErrMessage = errors.New("metering message is malformed")

// Reference puts a gateway on a head-end's list for a utility.
type Reference struct {
	Gateway      member.Key
	UsagePoint   model.UsagePoint
	State        model.ReadingState
	Masked       bool
	LimitMW      int64
	ReadPeriod   time.Duration
	ReportPeriod time.Duration
}

const referenceSize = 4 + 32 + 16 + 1 + 1 + 8 + 4 + 4

// Encode gives "GVF1" | gateway 32 | usage point 16 | state u8 | masked u8 | limit i64 mW | read period s u32 | report period s u32.
func (r Reference) Encode() []byte {
	b := append([]byte("GVF1"), r.Gateway[:]...)
	b = append(b, r.UsagePoint[:]...)
	b = append(b, byte(r.State), 0)
	if r.Masked {
		b[len(b)-1] = 1
	}
	b = binary.BigEndian.AppendUint64(b, uint64(r.LimitMW))
	b = binary.BigEndian.AppendUint32(b, uint32(r.ReadPeriod/time.Second))
	return binary.BigEndian.AppendUint32(b, uint32(r.ReportPeriod/time.Second))
}

// ParseReference is the inverse of Encode.
func ParseReference(b []byte) (Reference, error) {
	var r Reference
	if len(b) != referenceSize || string(b[:4]) != "GVF1" || b[53] > 1 || model.ReadingState(b[52]) > model.ReadDisabled {
		return r, fmt.Errorf("%w: reference of %d bytes", ErrMessage, len(b))
	}
	copy(r.Gateway[:], b[4:])
	copy(r.UsagePoint[:], b[36:])
	r.State, r.Masked = model.ReadingState(b[52]), b[53] == 1
	r.LimitMW = int64(binary.BigEndian.Uint64(b[54:]))
	r.ReadPeriod = time.Duration(binary.BigEndian.Uint32(b[62:])) * time.Second
	r.ReportPeriod = time.Duration(binary.BigEndian.Uint32(b[66:])) * time.Second
	if model.CheckPeriod(r.ReadPeriod) != nil || r.ReportPeriod < r.ReadPeriod || r.ReportPeriod%r.ReadPeriod != 0 || r.LimitMW < 0 {
		return Reference{}, fmt.Errorf("%w: periods or limit out of range", ErrMessage)
	}
	return r, nil
}

// Notice is an event on its way from a substation to a head-end.
type Notice struct {
	Source member.Key
	Event  alarm.Event
	Raw    []byte // the event, byte for byte
}

// ParseNotice reads source's key 32 | event.
func ParseNotice(b []byte) (Notice, error) {
	if len(b) < 32 {
		return Notice{}, fmt.Errorf("%w: notice of %d bytes", ErrMessage, len(b))
	}
	n := Notice{Source: member.Key(b[:32]), Raw: b[32:]}
	var err error
	n.Event, err = alarm.Decode(n.Raw)
	return n, err
}

// Acknowledge signs that an event is durable here.
func Acknowledge(e alarm.Event, now time.Time, key ed25519.PrivateKey) []byte {
	return alarm.NewAck(e.ID(), now, key).Encode()
}

// View is an event as the head-end shows it to the utility: opened, with its
// signed original.
type View struct {
	UsagePoint model.UsagePoint // zero: the substation itself
	Source     member.Key
	Received   int64 // at the head-end, UTC ms
	Detail     string
	Event      []byte
}

// Encode gives "GVW1" | usage point 16 | source 32 | received i64 | detail length u16 | detail | event.
func (v View) Encode() []byte {
	b := append([]byte("GVW1"), v.UsagePoint[:]...)
	b = append(b, v.Source[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(v.Received))
	b = binary.BigEndian.AppendUint16(b, uint16(len(v.Detail)))
	b = append(b, v.Detail...)
	return append(b, v.Event...)
}

const viewFixed = 4 + 16 + 32 + 8 + 2

// ParseView is the inverse of Encode; it also gives the decoded event.
func ParseView(b []byte) (View, alarm.Event, error) {
	var v View
	if len(b) < viewFixed || string(b[:4]) != "GVW1" {
		return v, alarm.Event{}, fmt.Errorf("%w: view of %d bytes", ErrMessage, len(b))
	}
	copy(v.UsagePoint[:], b[4:])
	copy(v.Source[:], b[20:])
	v.Received = int64(binary.BigEndian.Uint64(b[52:]))
	n := int(binary.BigEndian.Uint16(b[60:]))
	if n > alarm.MaxDetail || len(b) < viewFixed+n {
		return v, alarm.Event{}, fmt.Errorf("%w: detail of %d bytes", ErrMessage, n)
	}
	v.Detail, v.Event = string(b[viewFixed:viewFixed+n]), b[viewFixed+n:]
	e, err := alarm.Decode(v.Event)
	return v, e, err
}

// RequestedPoint is the usage point that an on-demand request is about, for
// those who pass it on without being able to judge it.
func RequestedPoint(req []byte) (model.UsagePoint, error) {
	q, err := ondemand.Parse(req)
	return q.UsagePoint, err
}
