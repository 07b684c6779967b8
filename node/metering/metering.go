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

	"golang.org/x/crypto/cryptobyte"

	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/model"
	"gridveil/node/ondemand"
	"gridveil/node/report"
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
// signed original and what proves both to outsiders.
type View struct {
	UsagePoint model.UsagePoint // zero: the substation itself
	Source     member.Key
	Received   int64 // at the head-end, UTC ms
	Detail     string
	BoxKey     *report.BoxKey // of the event's box; nil: not sealed, or its key is gone
	Chain      [][]byte       // the source's certificate, leaf first; empty: not known there
	Event      []byte
}

// Encode gives "GVW2" | usage point 16 | source 32 | received i64 | n u8 = 0 or 44 | key of the box n |
// chain | detail length u16 | detail | event. With neither key nor chain it is "GVW1" without the two.
func (v View) Encode() []byte {
	first := v.BoxKey == nil && len(v.Chain) == 0
	b := []byte("GVW2")
	if first {
		b = []byte("GVW1")
	}
	b = append(b, v.UsagePoint[:]...)
	b = append(b, v.Source[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(v.Received))
	if !first {
		if v.BoxKey == nil {
			b = append(b, 0)
		} else {
			b = append(append(b, byte(len(v.BoxKey))), v.BoxKey[:]...)
		}
		b = append(b, EncodeChain(v.Chain)...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(v.Detail)))
	b = append(b, v.Detail...)
	return append(b, v.Event...)
}

// ParseView is the inverse of Encode; it also gives the decoded event. It judges
// neither signature nor certificate.
func ParseView(b []byte) (View, alarm.Event, error) {
	var v View
	bad := func(what string) (View, alarm.Event, error) {
		return View{}, alarm.Event{}, fmt.Errorf("%w: view: %s", ErrMessage, what)
	}
	s := cryptobyte.String(b)
	var magic, key []byte
	var received uint64
	if !s.ReadBytes(&magic, 4) || string(magic) != "GVW1" && string(magic) != "GVW2" || !s.CopyBytes(v.UsagePoint[:]) || !s.CopyBytes(v.Source[:]) || !s.ReadUint64(&received) {
		return bad("head")
	}
	v.Received = int64(received)
	if string(magic) == "GVW2" {
		if !s.ReadUint8LengthPrefixed((*cryptobyte.String)(&key)) {
			return bad("key of the box")
		}
		switch len(key) {
		case 0:
		case len(report.BoxKey{}):
			k := report.BoxKey(key)
			v.BoxKey = &k
		default:
			return bad("key of the box")
		}
		var ok bool
		if v.Chain, ok = readChain(&s); !ok || v.BoxKey == nil && len(v.Chain) == 0 {
			return bad("certificate")
		}
	}
	var detail cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&detail) || len(detail) > alarm.MaxDetail {
		return bad("detail")
	}
	v.Detail, v.Event = string(detail), s
	e, err := alarm.Decode(v.Event)
	return v, e, err
}

// OrderAnswer is a gateway's answer to an order: the version in force there, and
// its certificate, leaf first, by which the head-end can prove to outsiders whose
// reports it holds.
type OrderAnswer struct {
	Version uint32
	Chain   [][]byte // empty: not told
}

// Encode gives version u32 | chain; without a chain the version alone.
func (a OrderAnswer) Encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, a.Version)
	if len(a.Chain) == 0 {
		return b
	}
	return append(b, EncodeChain(a.Chain)...)
}

// ParseOrderAnswer is the inverse of Encode. It does not judge the certificate.
func ParseOrderAnswer(b []byte) (OrderAnswer, error) {
	var a OrderAnswer
	s := cryptobyte.String(b)
	if !s.ReadUint32(&a.Version) {
		return a, fmt.Errorf("%w: answer to an order of %d bytes", ErrMessage, len(b))
	}
	if len(s) == 0 {
		return a, nil
	}
	var ok bool
	if a.Chain, ok = readChain(&s); !ok || len(s) != 0 || len(a.Chain) == 0 {
		return OrderAnswer{}, fmt.Errorf("%w: certificate in the answer to an order", ErrMessage)
	}
	return a, nil
}

// EncodeChain gives n u8 {len u16, DER}*.
func EncodeChain(chain [][]byte) []byte {
	b := []byte{byte(len(chain))}
	for _, der := range chain {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(der))), der...)
	}
	return b
}

// ParseChain is the inverse of EncodeChain. It does not judge the certificates.
func ParseChain(b []byte) ([][]byte, error) {
	s := cryptobyte.String(b)
	chain, ok := readChain(&s)
	if !ok || len(s) != 0 {
		return nil, fmt.Errorf("%w: chain of %d bytes", ErrMessage, len(b))
	}
	return chain, nil
}

func readChain(s *cryptobyte.String) (chain [][]byte, ok bool) {
	var n uint8
	if !s.ReadUint8(&n) || n > member.MaxChain {
		return nil, false
	}
	for range n {
		var der cryptobyte.String
		if !s.ReadUint16LengthPrefixed(&der) || len(der) == 0 || len(der) > member.MaxCertificate {
			return nil, false
		}
		chain = append(chain, der)
	}
	return chain, true
}

// RequestedPoint is the usage point that an on-demand request is about, for
// those who pass it on without being able to judge it.
func RequestedPoint(req []byte) (model.UsagePoint, error) {
	q, err := ondemand.Parse(req)
	return q.UsagePoint, err
}
