// Package evidence makes and judges files by which an outsider sees what a meter's
// gateway reported, or that a device raised an event: what was signed, the key that
// signed it and the network's certificate of that key.
//
// A file needs no node and no network to be judged. Each byte of it is signed,
// follows from what is signed, or stands under "unsigned": what whoever made the file
// says beside it. Start with [Reported.File] or [Raised.File], and [Judge].
//
// What a file cannot prove: that a certificate was not revoked, that no further
// report exists, and which usage point a gateway's meter is.
//
// Source: doc/wire.md (report evidence, alarm event), doc/decisions/0281.
package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gridveil/node/metering"
	"gridveil/node/report"
)

// ErrEvidence says that a file proves nothing.
var ErrEvidence = errors.New("evidence does not hold")

// MaxFile is the most that a file may have, bytes: a year of hourly reports of quarter
// hours has 17 MB.
const MaxFile = 32 << 20

// Kinds of files.
const (
	KindReports = "meter reports"
	KindEvent   = "event"
)

const version = 1

// File is the JSON form; bytes are base64. Its text is the only one with its content.
type File struct {
	Evidence    string   `json:"evidence"` // a kind
	Version     int      `json:"version"`  // 1
	Key         string   `json:"key"`      // of who signed, 64 hex digits
	Certificate [][]byte `json:"certificate,omitempty"`
	Unsigned    Unsigned `json:"unsigned"`
	Reports     []Report `json:"reports,omitempty"`
	Event       *Event   `json:"event,omitempty"`
}

// Unsigned is what the maker of a file says, and nobody signed.
type Unsigned struct {
	UsagePoint string     `json:"usage_point,omitempty"` // 32 hex digits
	Detail     string     `json:"detail,omitempty"`      // of a sealed event, where its box cannot be opened
	Received   *time.Time `json:"received,omitempty"`    // of an event, at the head-end
}

// Report is one signed report's part about one meter, and what it says.
type Report struct {
	Signed []byte  `json:"signed"` // report evidence of doc/wire.md
	Shows  Reading `json:"shows"`
}

// Event is a signed event, and what it says.
type Event struct {
	Signed []byte `json:"signed"`            // alarm event of doc/wire.md
	BoxKey []byte `json:"box_key,omitempty"` // key 32, nonce 12 of the event's box
	Shows  Raise  `json:"shows"`
}

// Query asks a node for the reports of a meter in a span; it is what
// `gridveil meter evidence` sends.
type Query struct {
	UsagePoint string    `json:"usage_point"` // or the beginning of it; empty at a gateway
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`
}

// Reported is what a node holds about the reports of one meter.
type Reported struct {
	Key        []byte   `json:"key"` // of the gateway
	Chain      [][]byte `json:"certificate,omitempty"`
	UsagePoint []byte   `json:"usage_point"`
	Reports    [][]byte `json:"reports"` // report.Evidence, encoded
}

// Raised is what a node holds about one event.
type Raised struct {
	Key        []byte         `json:"key"` // of the device
	Chain      [][]byte       `json:"certificate,omitempty"`
	UsagePoint []byte         `json:"usage_point,omitempty"`
	Received   *time.Time     `json:"received,omitempty"` // at the head-end
	Detail     string         `json:"detail,omitempty"`   // as the head-end opened it
	BoxKey     *report.BoxKey `json:"box_key,omitempty"`
	Event      []byte         `json:"event"`
}

// RaisedFrom is what a head-end's view of an event proves.
func RaisedFrom(v metering.View) Raised {
	at := time.UnixMilli(v.Received).UTC()
	r := Raised{Key: v.Source[:], Chain: v.Chain, Received: &at, Detail: v.Detail, BoxKey: v.BoxKey, Event: v.Event}
	if v.UsagePoint != [16]byte{} {
		r.UsagePoint = v.UsagePoint[:]
	}
	return r
}

// File makes the file of reports, in the order of their numbers, and judges it
// once. It wraps ErrEvidence when what is held would not convince anybody, and returns
// ErrLong when it would not fit.
func (r Reported) File() ([]byte, Judgement, error) {
	f := File{Evidence: KindReports, Version: version, Key: fmt.Sprintf("%x", r.Key), Certificate: r.Chain, Unsigned: Unsigned{UsagePoint: fmt.Sprintf("%x", r.UsagePoint)}}
	list, err := inOrder(r.Reports)
	if err != nil {
		return nil, Judgement{}, err
	}
	for _, e := range list {
		shows, err := readingOf(e)
		if err != nil {
			return nil, Judgement{}, err
		}
		f.Reports = append(f.Reports, Report{Signed: e.Encode(), Shows: shows})
	}
	return f.judged()
}

// File makes the file of an event and judges it once. It wraps ErrEvidence when
// what is held would not convince anybody.
func (r Raised) File() ([]byte, Judgement, error) {
	f := File{Evidence: KindEvent, Version: version, Key: fmt.Sprintf("%x", r.Key), Certificate: r.Chain, Unsigned: Unsigned{Received: r.Received}, Event: &Event{Signed: r.Event}}
	if len(r.UsagePoint) > 0 {
		f.Unsigned.UsagePoint = fmt.Sprintf("%x", r.UsagePoint)
	}
	if r.BoxKey != nil {
		f.Event.BoxKey = r.BoxKey[:]
	}
	shows, err := f.Event.says()
	if err != nil {
		return nil, Judgement{}, err
	}
	if f.Event.Shows = shows; shows.Sealed {
		f.Unsigned.Detail = r.Detail
	}
	return f.judged()
}

func (f File) judged() ([]byte, Judgement, error) {
	raw, err := f.encode()
	if err == nil && len(raw) > MaxFile {
		err = ErrLong
	}
	if err != nil {
		return nil, Judgement{}, err
	}
	j, err := Judge(bytes.NewReader(raw), nil)
	return raw, j, err
}

func (f File) encode() ([]byte, error) {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	return append(b, '\n'), nil
}

// Is says whether a file begins as one of this package does.
func Is(head []byte) bool {
	return bytes.HasPrefix(head, []byte("{\n  \"evidence\": ")) // as every file begins
}
