// Package v201 is OCPP 2.0.1 as spoken by a home's central system. It is pure;
// package ocpp drives it.
//
// Spoken: BootNotification, Heartbeat, StatusNotification, Authorize,
// TransactionEvent, MeterValues, NotifyEVChargingNeeds, NotifyReport,
// DataTransfer "gridveil/V2XSetpoint"; RequestStartTransaction,
// RequestStopTransaction, SetChargingProfile, SetVariables, GetVariables,
// TriggerMessage. Other notifications are acknowledged and dropped.
// Source: OCPP 2.0.1 edition 3, part 2.
package v201

import (
	"encoding/json"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/internal/loose"
)

// Dialect implements ocpp.Dialect. It has no state.
type Dialect struct{}

var _ ocpp.Dialect = Dialect{}

// Subprotocol is the name of OCPP-J 2.0.1 in the websocket handshake.
func (Dialect) Subprotocol() string { return "ocpp2.0.1" }

// Version is the protocol version shown to people.
func (Dialect) Version() string { return "2.0.1" }

// MalformedCode answers a frame that is not OCPP-J. Source: part 4, 4.3.
func (Dialect) MalformedCode() string { return "RpcFrameworkError" }

// Receive decodes a CALL of a station.
func (Dialect) Receive(c ocpp.Call) (ocpp.Answer, error) {
	in := loose.Parse(c.Payload)
	switch c.Action {
	case "BootNotification":
		return boot(c, in), nil
	case "Heartbeat":
		return ocpp.Answer{Reply: heartbeatReply{instant(c.Now)}}, nil
	case "Authorize":
		return ocpp.Answer{Reply: authorizeReply{tokenInfo(c, in.Object("idToken"))}}, nil
	case "TransactionEvent":
		return transactionEvent(c, in), nil
	case "MeterValues":
		return values(c, in), nil
	case "StatusNotification":
		return status(c, in), nil
	case "NotifyEVChargingNeeds":
		return needs(in), nil
	case "DataTransfer":
		return ocpp.Answer{Reply: statusReply{"UnknownVendorId"}}, nil
	case "SignCertificate":
		return ocpp.Answer{Reply: statusReply{"Rejected"}}, nil
	case "NotifyReport", "NotifyEvent", "NotifyMonitoringReport", "NotifyChargingLimit", "ClearedChargingLimit",
		"ReportChargingProfiles", "SecurityEventNotification", "FirmwareStatusNotification", "LogStatusNotification",
		"NotifyCustomerInformation", "NotifyDisplayMessages", "PublishFirmwareStatusNotification", "ReservationStatusUpdate":
		return ocpp.Answer{Reply: struct{}{}}, nil
	}
	return ocpp.Answer{}, &ocpp.CallError{Code: ocpp.CodeNotImplemented, Description: "action is not known here"}
}

func boot(c ocpp.Call, in loose.Object) ocpp.Answer {
	status := "Pending"
	if c.Standing == ocpp.Accepted {
		status = "Accepted"
	}
	station := in.Object("chargingStation")
	return ocpp.Answer{
		Reply: bootReply{Status: status, CurrentTime: instant(c.Now), Interval: seconds(c.Heartbeat)},
		Boot:  &ocpp.Boot{Vendor: station.Text("vendorName"), Model: station.Text("model")},
	}
}

// kinds of TransactionEvent; an unknown eventType is kept as an update, which
// opens and closes nothing.
var kinds = map[string]ev.EventKind{"Started": ev.Started, "Updated": ev.Updated, "Ended": ev.Ended}

func transactionEvent(c ocpp.Call, in loose.Object) ocpp.Answer {
	kind := kinds[in.Text("eventType")]
	if kind == 0 {
		kind = ev.Updated
	}
	info := in.Object("transactionInfo")
	e := event(c, kind, in)
	e.Seq = in.IntOr("seqNo", 0)
	e.Offline = in.Bool("offline")
	e.TransactionID = info.Text("transactionId")
	e.State = info.Text("chargingState")
	e.Reason = in.Text("triggerReason")
	if kind == ev.Ended && info.Text("stoppedReason") != "" {
		e.Reason = info.Text("stoppedReason")
	}
	e.Samples = samples(in.List("meterValue"))
	out := ocpp.Answer{Reply: struct{}{}}
	if token := in.Object("idToken"); token != nil {
		if kind != ev.Ended { // the token that stops may be another one
			e.IDToken = token.Text("idToken")
		}
		out.Reply = transactionReply{tokenInfo(c, token)}
	}
	out.Events = []ev.Event{e}
	return out
}

func values(c ocpp.Call, in loose.Object) ocpp.Answer {
	e := event(c, ev.Values, in)
	e.EVSE = max(0, in.IntOr("evseId", 0))
	e.Samples = samples(in.List("meterValue"))
	if len(e.Samples) > 0 && e.Samples[0].At != 0 {
		e.At = e.Samples[0].At
	}
	return ocpp.Answer{Events: []ev.Event{e}, Reply: struct{}{}}
}

func status(c ocpp.Call, in loose.Object) ocpp.Answer {
	e := event(c, ev.Status, in)
	e.EVSE, e.Connector = max(0, in.IntOr("evseId", 0)), max(0, in.IntOr("connectorId", 0))
	e.State = in.Text("connectorStatus")
	return ocpp.Answer{Events: []ev.Event{e}, Reply: struct{}{}}
}

// needs reads what the car told the station about its plans. Power limits of
// the car are not used: the plan only needs energy and time.
func needs(in loose.Object) ocpp.Answer {
	cn := in.Object("chargingNeeds")
	n := ocpp.Needs{EVSE: max(0, in.IntOr("evseId", 0)), Departure: cn.Millis("departureTime")}
	for _, key := range []string{"acChargingParameters", "dcChargingParameters"} {
		if wh, ok := cn.Object(key).Int("energyAmount"); ok && wh > 0 && wh < 1_000_000 {
			n.EnergyMWh = int64(wh) * 1000
		}
	}
	return ocpp.Answer{Needs: &n, Reply: statusReply{"Processing"}}
}

// event fills what every message has. A time that cannot be read becomes the
// time of arrival.
func event(c ocpp.Call, kind ev.EventKind, in loose.Object) ev.Event {
	now := c.Now.UnixMilli()
	evse := in.Object("evse")
	e := ev.Event{Kind: kind, At: in.Millis("timestamp"), Received: now, Station: c.Station, Raw: c.Payload,
		EVSE: max(0, evse.IntOr("id", 0)), Connector: max(0, evse.IntOr("connectorId", 0))}
	if e.At == 0 {
		e.At = now
	}
	return e
}

// samples flattens meter values. Signed data is left to the raw payload.
func samples(list []loose.Object) []ev.Sample {
	var out []ev.Sample
	for _, mv := range list {
		at := mv.Millis("timestamp")
		for _, s := range mv.List("sampledValue") {
			unit := s.Object("unitOfMeasure")
			out = append(out, ev.Sample{At: at, Value: s.Text("value"), Measurand: s.Text("measurand"), Context: s.Text("context"),
				Unit: unit.Text("unit"), Multiplier: unit.IntOr("multiplier", 0), Phase: s.Text("phase"), Location: s.Text("location")})
		}
	}
	return out
}

// tokenInfo says whether a token may charge. The transaction itself is
// recorded either way.
func tokenInfo(c ocpp.Call, token loose.Object) idTokenInfo {
	if c.Authorize != nil && c.Authorize(token.Text("idToken")) {
		return idTokenInfo{"Accepted"}
	}
	return idTokenInfo{"Invalid"}
}

type (
	idTokenInfo struct {
		Status string `json:"status"`
	}
	authorizeReply struct {
		Info idTokenInfo `json:"idTokenInfo"`
	}
	transactionReply struct {
		Info idTokenInfo `json:"idTokenInfo"`
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

// Verdict reads the status of an answer.
func (Dialect) Verdict(action string, reply json.RawMessage) error {
	in := loose.Parse(reply)
	results := map[string]string{"SetVariables": "setVariableResult", "GetVariables": "getVariableResult"}
	if list, ok := results[action]; ok { // each variable has a status of its own
		if !in.Has(list) {
			return ocpp.ErrBadReply
		}
		return nil
	}
	switch status := in.Text("status"); status {
	case "":
		return ocpp.ErrBadReply
	case "Accepted":
		return nil
	default:
		return &ocpp.RefusedError{Action: action, Status: status}
	}
}
