package v201

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/internal/loose"
)

// Charging profiles of ours. One default and one limit per EVSE: a new one
// replaces the old one of the same id.
const (
	defaultProfile = 1
	limitProfile   = 100 // + EVSE
	defaultStack   = 0
	limitStack     = 1 // above the default, so it wins while it lasts
)

type (
	requestStart struct {
		EVSE          int     `json:"evseId"`
		RemoteStartID int32   `json:"remoteStartId"`
		IDToken       idToken `json:"idToken"`
	}
	idToken struct {
		IDToken string `json:"idToken"`
		Type    string `json:"type"`
	}
	requestStop struct {
		TransactionID string `json:"transactionId"`
	}
	setProfile struct {
		EVSE    int             `json:"evseId"`
		Profile chargingProfile `json:"chargingProfile"`
	}
	chargingProfile struct {
		ID            int                `json:"id"`
		StackLevel    int                `json:"stackLevel"`
		Purpose       string             `json:"chargingProfilePurpose"`
		Kind          string             `json:"chargingProfileKind"`
		TransactionID string             `json:"transactionId,omitempty"`
		Schedule      []chargingSchedule `json:"chargingSchedule"`
	}
	chargingSchedule struct {
		ID       int              `json:"id"`
		Start    string           `json:"startSchedule,omitempty"`
		Duration int              `json:"duration,omitempty"`
		Unit     string           `json:"chargingRateUnit"`
		Periods  []schedulePeriod `json:"chargingSchedulePeriod"`
	}
	schedulePeriod struct {
		Start  int         `json:"startPeriod"`
		Limit  json.Number `json:"limit"`
		Phases int         `json:"numberPhases,omitempty"`
	}
	dataTransfer struct {
		VendorID  string   `json:"vendorId"`
		MessageID string   `json:"messageId"`
		Data      setpoint `json:"data"`
	}
	setpoint struct {
		EVSE  int   `json:"evse"`
		Watts int64 `json:"watts"`
	}
	named struct {
		Name string `json:"name"`
	}
	variable struct {
		AttributeValue string `json:"attributeValue,omitempty"`
		Component      named  `json:"component"`
		Variable       named  `json:"variable"`
	}
	setVariables struct {
		Data []variable `json:"setVariableData"`
	}
	getVariables struct {
		Data []variable `json:"getVariableData"`
	}
	triggerMessage struct {
		Requested string `json:"requestedMessage"`
	}
)

// Start asks for a transaction. The token is "Central": the code was made by
// the gateway and lies on no card.
func (Dialect) Start(evse int, code string, number int32) ocpp.Request {
	return ocpp.Request{Action: "RequestStartTransaction",
		Payload: requestStart{EVSE: evse, RemoteStartID: number, IDToken: idToken{code, "Central"}}}
}

// Stop asks for the end of a transaction.
func (Dialect) Stop(transaction string) (ocpp.Request, error) {
	if transaction == "" || len(transaction) > 36 {
		return ocpp.Request{}, ocpp.ErrNoTransaction
	}
	return ocpp.Request{Action: "RequestStopTransaction", Payload: requestStop{transaction}}, nil
}

// Limit builds the profile of a limit: TxProfile for a running transaction,
// else TxDefaultProfile, which a transaction that begins later takes over.
func (Dialect) Limit(l ocpp.Limit) ocpp.Request {
	p := chargingProfile{ID: limitProfile + l.EVSE, StackLevel: limitStack, Purpose: "TxDefaultProfile", Kind: "Absolute"}
	if l.Default {
		p.ID, p.StackLevel = defaultProfile, defaultStack
	} else if l.Transaction != "" {
		p.Purpose, p.TransactionID = "TxProfile", l.Transaction
	}
	s := chargingSchedule{ID: p.ID, Start: instant(l.From), Unit: "W",
		Periods: []schedulePeriod{{Limit: json.Number(strconv.FormatInt(l.Watts, 10))}}}
	if l.Traits.AmpereOnly {
		t := l.Traits.Amperes(l.Watts)
		s.Unit = "A"
		s.Periods[0] = schedulePeriod{Limit: json.Number(fmt.Sprintf("%d.%d", t/10, t%10)), Phases: int(l.Traits.PhaseCount())}
	}
	if !l.Until.IsZero() {
		s.Duration = max(1, int(l.Until.Sub(l.From)/time.Second))
	}
	p.Schedule = []chargingSchedule{s}
	return ocpp.Request{Action: "SetChargingProfile", Payload: setProfile{EVSE: l.EVSE, Profile: p}}
}

// Setpoint is our own message: 2.0.1 knows no discharge (2.1 does).
func (Dialect) Setpoint(evse int, watts int64) ocpp.Request {
	return ocpp.Request{Action: "DataTransfer",
		Payload: dataTransfer{VendorID: "gridveil", MessageID: "V2XSetpoint", Data: setpoint{evse, watts}}}
}

// Settings configures a station after boot, in messages of at most 6 variables
// as small stations take no more. Each variable is accepted or refused alone;
// where a station may not know an option, the plain form comes first.
// Source: OCPP 2.0.1 part 2, appendix "Referenced Components and Variables".
func (Dialect) Settings(s ocpp.Settings) []ocpp.Request {
	const plain = "Energy.Active.Import.Register"
	const both = plain + ",Energy.Active.Export.Register"
	const power = ",Power.Active.Import"
	set := func(kv ...[3]string) ocpp.Request {
		var m setVariables
		for _, v := range kv {
			m.Data = append(m.Data, variable{v[2], named{v[0]}, named{v[1]}})
		}
		return ocpp.Request{Action: "SetVariables", Payload: m}
	}
	const sampled, aligned = "SampledDataCtrlr", "AlignedDataCtrlr"
	return []ocpp.Request{
		{Action: "GetVariables", Payload: getVariables{[]variable{{Component: named{"SmartChargingCtrlr"}, Variable: named{"RateUnit"}}}}},
		set([3]string{"OCPPCommCtrlr", "HeartbeatInterval", strconv.Itoa(seconds(s.Heartbeat))},
			[3]string{"AuthCtrlr", "AuthorizeRemoteStart", "false"}, // the code was made for this start
			[3]string{"AuthCtrlr", "OfflineTxForUnknownIdEnabled", "true"},
			[3]string{"TxCtrlr", "StopTxOnInvalidId", "false"},
			[3]string{sampled, "SignReadings", "true"}),
		set([3]string{sampled, "TxStartedMeasurands", plain},
			[3]string{sampled, "TxUpdatedMeasurands", plain + power},
			[3]string{sampled, "TxUpdatedInterval", strconv.Itoa(seconds(s.Sample))},
			[3]string{sampled, "TxEndedMeasurands", plain},
			[3]string{aligned, "Measurands", plain},
			[3]string{aligned, "Interval", strconv.Itoa(seconds(s.Aligned))}),
		set([3]string{sampled, "TxStartedMeasurands", both},
			[3]string{sampled, "TxUpdatedMeasurands", both + power + ",Power.Active.Export"},
			[3]string{sampled, "TxEndedMeasurands", both},
			[3]string{aligned, "Measurands", both}),
		{Action: "TriggerMessage", Payload: triggerMessage{"StatusNotification"}},
	}
}

// Learn notes whether the station takes watts: RateUnit is "A", "W" or both.
func (Dialect) Learn(action string, reply json.RawMessage, t *ocpp.Traits) {
	if action != "GetVariables" {
		return
	}
	for _, r := range loose.Parse(reply).List("getVariableResult") {
		if v := r.Text("attributeValue"); r.Object("variable").Text("name") == "RateUnit" && v != "" {
			t.AmpereOnly = !strings.Contains(v, "W")
		}
	}
}

// Password sets the Basic password. Source: OCPP 2.0.1, use case A01.
func (Dialect) Password(password string) ocpp.Request {
	return ocpp.Request{Action: "SetVariables", Payload: setVariables{[]variable{
		{password, named{"SecurityCtrlr"}, named{"BasicAuthPassword"}}}}}
}

// Boot asks for a BootNotification.
func (Dialect) Boot() ocpp.Request {
	return ocpp.Request{Action: "TriggerMessage", Payload: triggerMessage{"BootNotification"}}
}
