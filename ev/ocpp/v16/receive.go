// Package v16 is OCPP 1.6J (edition 2 with the security extension) as spoken
// by a home's central system: Core, RemoteTrigger, SmartCharging and
// DataTransfer "gridveil/V2XSetpoint". It is pure; package ocpp drives it.
//
// Signed meter values are not decoded here: the raw payload is kept in every
// event, and ev.FindOCMF searches all of it, wherever a station puts them.
// Source: OCPP 1.6 edition 2; OCA "Signed Meter Values in OCPP".
package v16

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/internal/loose"
)

// Dialect implements ocpp.Dialect. It has no state.
type Dialect struct{}

var _ ocpp.Dialect = Dialect{}

// Subprotocol is the name of OCPP-J 1.6 in the websocket handshake.
func (Dialect) Subprotocol() string { return "ocpp1.6" }

// Version is the protocol version shown to people.
func (Dialect) Version() string { return "1.6" }

// MalformedCode answers a frame that is not OCPP-J. Source: OCPP-J 1.6, 4.2.3.
func (Dialect) MalformedCode() string { return "FormationViolation" }

// Receive decodes a CALL of a station.
func (Dialect) Receive(c ocpp.Call) (ocpp.Answer, error) {
	in := loose.Parse(c.Payload)
	switch c.Action {
	case "BootNotification":
		return boot(c, in), nil
	case "Heartbeat":
		return ocpp.Answer{Reply: heartbeatReply{instant(c.Now)}}, nil
	case "Authorize":
		return ocpp.Answer{Reply: authorizeReply{tagInfo(c, in.Text("idTag"))}}, nil
	case "StartTransaction":
		return start(c, in), nil
	case "StopTransaction":
		return stop(c, in), nil
	case "MeterValues":
		return values(c, in), nil
	case "StatusNotification":
		return status(c, in), nil
	case "DataTransfer":
		return ocpp.Answer{Reply: statusReply{"UnknownVendorId"}}, nil
	case "SignCertificate":
		return ocpp.Answer{Reply: statusReply{"Rejected"}}, nil
	case "SecurityEventNotification", "FirmwareStatusNotification", "DiagnosticsStatusNotification",
		"LogStatusNotification", "SignedFirmwareStatusNotification":
		return ocpp.Answer{Reply: struct{}{}}, nil
	}
	return ocpp.Answer{}, &ocpp.CallError{Code: ocpp.CodeNotImplemented, Description: "action is not known here"}
}

func boot(c ocpp.Call, in loose.Object) ocpp.Answer {
	status := "Pending"
	if c.Standing == ocpp.Accepted {
		status = "Accepted"
	}
	return ocpp.Answer{
		Reply: bootReply{Status: status, CurrentTime: instant(c.Now), Interval: seconds(c.Heartbeat)},
		Boot:  &ocpp.Boot{Vendor: in.Text("chargePointVendor"), Model: in.Text("chargePointModel")},
	}
}

func start(c ocpp.Call, in loose.Object) ocpp.Answer {
	id := transactionID(c.Station, in)
	e := event(c, ev.Started, in)
	e.TransactionID = strconv.Itoa(int(id))
	e.IDToken = in.Text("idTag")
	e.Samples = register(in, "meterStart", "Transaction.Begin")
	return ocpp.Answer{Events: []ev.Event{e}, Reply: startReply{TransactionID: id, Info: tagInfo(c, e.IDToken)}}
}

func stop(c ocpp.Call, in loose.Object) ocpp.Answer {
	e := event(c, ev.Ended, in)
	e.TransactionID = transaction(in)
	e.IDToken = "" // the tag that stops may be another one than the tag that started
	e.Reason = in.Text("reason")
	e.Samples = append(register(in, "meterStop", "Transaction.End"), samples(in.List("transactionData"))...)
	out := ocpp.Answer{Events: []ev.Event{e}, Reply: struct{}{}}
	if tag := in.Text("idTag"); tag != "" {
		out.Reply = authorizeReply{tagInfo(c, tag)}
	}
	return out
}

func values(c ocpp.Call, in loose.Object) ocpp.Answer {
	e := event(c, ev.Values, in)
	e.TransactionID = transaction(in)
	e.Samples = samples(in.List("meterValue"))
	if len(e.Samples) > 0 {
		e.At = e.Samples[0].At
	}
	return ocpp.Answer{Events: []ev.Event{e}, Reply: struct{}{}}
}

func status(c ocpp.Call, in loose.Object) ocpp.Answer {
	e := event(c, ev.Status, in)
	e.State = in.Text("status")
	e.Reason = in.Text("errorCode")
	return ocpp.Answer{Events: []ev.Event{e}, Reply: struct{}{}}
}

// event fills what every message has. A time that cannot be read becomes the
// time of arrival.
func event(c ocpp.Call, kind ev.EventKind, in loose.Object) ev.Event {
	now := c.Now.UnixMilli()
	e := ev.Event{Kind: kind, At: in.Millis("timestamp"), Received: now, Station: c.Station, Raw: c.Payload}
	if e.At == 0 {
		e.At = now
	}
	e.Connector = max(0, in.IntOr("connectorId", 0))
	e.EVSE = e.Connector // 1.6 has no EVSEs: a connector charges one car at a time
	return e
}

// transaction returns the id of a message as text, "" if the station has none:
// zero and -1 are what stations send for a start that was never answered.
func transaction(in loose.Object) string {
	if n, ok := in.Int("transactionId"); ok && n > 0 {
		return strconv.Itoa(n)
	}
	return ""
}

// transactionID derives the id of a transaction from what makes it unique, so
// that a repeated StartTransaction gets the same one, also after a restart.
// 31 bits: a thousand transactions of one station collide with chance 2e-4.
func transactionID(station string, in loose.Object) int32 {
	h := sha256.New()
	fmt.Fprintf(h, "%q %d %q %s %d", station, in.IntOr("connectorId", 0), in.Text("idTag"), in.Text("meterStart"), in.Millis("timestamp"))
	n := int32(binary.BigEndian.Uint32(h.Sum(nil)) >> 1)
	return max(n, 1) // 0 means "none" in practice
}

// register turns meterStart or meterStop (Wh) into a sample.
func register(in loose.Object, key, context string) []ev.Sample {
	v := in.Text(key)
	if v == "" {
		return nil
	}
	return []ev.Sample{{At: in.Millis("timestamp"), Value: v, Context: context, Unit: "Wh"}}
}

// samples flattens meter values. Signed data is left to the raw payload.
func samples(list []loose.Object) []ev.Sample {
	var out []ev.Sample
	for _, mv := range list {
		at := mv.Millis("timestamp")
		for _, s := range mv.List("sampledValue") {
			if s.Text("format") == "SignedData" {
				continue
			}
			out = append(out, ev.Sample{At: at, Value: s.Text("value"), Measurand: s.Text("measurand"), Context: s.Text("context"),
				Unit: s.Text("unit"), Phase: s.Text("phase"), Location: s.Text("location")})
		}
	}
	return out
}

// tagInfo says whether an idTag may charge. The transaction itself is recorded
// either way.
func tagInfo(c ocpp.Call, tag string) idTagInfo {
	if c.Authorize != nil && c.Authorize(tag) {
		return idTagInfo{"Accepted"}
	}
	return idTagInfo{"Invalid"}
}

type (
	idTagInfo struct {
		Status string `json:"status"`
	}
	authorizeReply struct {
		Info idTagInfo `json:"idTagInfo"`
	}
	startReply struct {
		TransactionID int32     `json:"transactionId"`
		Info          idTagInfo `json:"idTagInfo"`
	}
	heartbeatReply struct {
		CurrentTime string `json:"currentTime"`
	}
	bootReply struct {
		Status      string `json:"status"`
		CurrentTime string `json:"currentTime"`
		Interval    int    `json:"interval"`
	}
	statusReply struct {
		Status string `json:"status"`
	}
)

func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func seconds(d time.Duration) int { return max(1, int(d/time.Second)) }

// Verdict reads the status of an answer. Source: OCPP 1.6, section 7.
func (Dialect) Verdict(action string, reply json.RawMessage) error {
	in := loose.Parse(reply)
	if action == "GetConfiguration" {
		if !in.Has("configurationKey") && !in.Has("unknownKey") {
			return ocpp.ErrBadReply
		}
		return nil
	}
	switch status := in.Text("status"); status {
	case "":
		return ocpp.ErrBadReply
	case "Accepted", "RebootRequired":
		return nil
	default:
		return &ocpp.RefusedError{Action: action, Status: status}
	}
}
