package v16

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/internal/loose"
)

// Charging profiles of ours. One default and one limit per connector: a new
// one replaces the old one of the same id.
const (
	defaultProfile = 1
	limitProfile   = 100 // + connector
	defaultStack   = 0
	limitStack     = 1 // above the default, so it wins while it lasts
)

type (
	remoteStart struct {
		ConnectorID int    `json:"connectorId"`
		IDTag       string `json:"idTag"`
	}
	remoteStop struct {
		TransactionID int `json:"transactionId"`
	}
	setProfile struct {
		ConnectorID int             `json:"connectorId"`
		Profile     chargingProfile `json:"csChargingProfiles"`
	}
	chargingProfile struct {
		ID            int              `json:"chargingProfileId"`
		TransactionID int              `json:"transactionId,omitempty"`
		StackLevel    int              `json:"stackLevel"`
		Purpose       string           `json:"chargingProfilePurpose"`
		Kind          string           `json:"chargingProfileKind"`
		Schedule      chargingSchedule `json:"chargingSchedule"`
	}
	chargingSchedule struct {
		Duration int              `json:"duration,omitempty"`
		Start    string           `json:"startSchedule,omitempty"`
		Unit     string           `json:"chargingRateUnit"`
		Periods  []schedulePeriod `json:"chargingSchedulePeriod"`
	}
	schedulePeriod struct {
		Start  int         `json:"startPeriod"`
		Limit  json.Number `json:"limit"`
		Phases int         `json:"numberPhases,omitempty"`
	}
	dataTransfer struct {
		VendorID  string `json:"vendorId"`
		MessageID string `json:"messageId"`
		Data      string `json:"data"`
	}
	getConfiguration struct {
		Key []string `json:"key"`
	}
	changeConfiguration struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	triggerMessage struct {
		Requested string `json:"requestedMessage"`
	}
)

// Start asks for a transaction. 1.6 has no number for it: the idTag names it.
func (Dialect) Start(evse int, code string, _ int32) ocpp.Request {
	return ocpp.Request{Action: "RemoteStartTransaction", Payload: remoteStart{ConnectorID: evse, IDTag: code}}
}

// Stop asks for the end of a transaction.
func (Dialect) Stop(transaction string) (ocpp.Request, error) {
	n, err := strconv.ParseInt(transaction, 10, 32)
	if err != nil {
		return ocpp.Request{}, ocpp.ErrNoTransaction
	}
	return ocpp.Request{Action: "RemoteStopTransaction", Payload: remoteStop{int(n)}}, nil
}

// Limit builds the profile of a limit: TxProfile for a running transaction,
// else TxDefaultProfile, which a transaction that begins later takes over.
func (Dialect) Limit(l ocpp.Limit) ocpp.Request {
	p := chargingProfile{ID: limitProfile + l.EVSE, StackLevel: limitStack, Purpose: "TxDefaultProfile", Kind: "Absolute"}
	if l.Default {
		p.ID, p.StackLevel = defaultProfile, defaultStack
	} else if n, err := strconv.Atoi(l.Transaction); err == nil {
		p.Purpose, p.TransactionID = "TxProfile", n
	}
	p.Schedule = chargingSchedule{Start: instant(l.From), Unit: "W",
		Periods: []schedulePeriod{{Limit: json.Number(strconv.FormatInt(l.Watts, 10))}}}
	if l.Traits.AmpereOnly {
		t := l.Traits.Amperes(l.Watts)
		p.Schedule.Unit = "A"
		p.Schedule.Periods[0] = schedulePeriod{Limit: json.Number(fmt.Sprintf("%d.%d", t/10, t%10)), Phases: int(l.Traits.PhaseCount())}
	}
	if !l.Until.IsZero() {
		p.Schedule.Duration = max(1, int(l.Until.Sub(l.From)/time.Second))
	}
	return ocpp.Request{Action: "SetChargingProfile", Payload: setProfile{ConnectorID: l.EVSE, Profile: p}}
}

// Setpoint is our own message: 1.6 knows no discharge.
func (Dialect) Setpoint(evse int, watts int64) ocpp.Request {
	return ocpp.Request{Action: "DataTransfer", Payload: dataTransfer{VendorID: "gridveil", MessageID: "V2XSetpoint",
		Data: fmt.Sprintf(`{"evse":%d,"watts":%d}`, evse, watts)}}
}

// Settings configures a station after boot. Where a station may not know an
// option, the plain form comes first, so that it stays if the better one is
// refused.
func (Dialect) Settings(s ocpp.Settings) []ocpp.Request {
	const plain = "Energy.Active.Import.Register,Power.Active.Import"
	const both = plain + ",Energy.Active.Export.Register,Power.Active.Export"
	out := []ocpp.Request{{Action: "GetConfiguration", Payload: getConfiguration{[]string{rateUnitKey}}}}
	for _, kv := range [][2]string{
		{"HeartbeatInterval", strconv.Itoa(seconds(s.Heartbeat))},
		{"MeterValuesSampledData", plain},
		{"MeterValuesSampledData", both},
		{"MeterValueSampleInterval", strconv.Itoa(seconds(s.Sample))},
		{"MeterValuesAlignedData", "Energy.Active.Import.Register"},
		{"MeterValuesAlignedData", "Energy.Active.Import.Register,Energy.Active.Export.Register"},
		{"ClockAlignedDataInterval", strconv.Itoa(seconds(s.Aligned))},
		{"StopTxnSampledData", "Energy.Active.Import.Register"},
		{"StartTxnSampledData", "Energy.Active.Import.Register"},
		{"SampledDataSignReadings", "true"}, // OCA signed meter values, 3.4: sign begin and end
		{"SampledDataSignStartedReadings", "true"},
		{"AuthorizeRemoteTxRequests", "false"}, // the code was made for this start
		{"StopTransactionOnInvalidId", "false"},
		{"AllowOfflineTxForUnknownId", "true"}, // a dead gateway must not stop the owner's car
	} {
		out = append(out, ocpp.Request{Action: "ChangeConfiguration", Payload: changeConfiguration{kv[0], kv[1]}})
	}
	return append(out, ocpp.Request{Action: "TriggerMessage", Payload: triggerMessage{"StatusNotification"}})
}

const rateUnitKey = "ChargingScheduleAllowedChargingRateUnit"

// Learn notes whether the station takes watts: "Current", "Power" or both.
func (Dialect) Learn(action string, reply json.RawMessage, t *ocpp.Traits) {
	if action != "GetConfiguration" {
		return
	}
	for _, kv := range loose.Parse(reply).List("configurationKey") {
		if v := kv.Text("value"); kv.Text("key") == rateUnitKey && v != "" {
			t.AmpereOnly = !strings.Contains(strings.ToLower(v), "power") && !strings.Contains(v, "W")
		}
	}
}

// Password sets the Basic password. Source: OCPP 1.6 security, profile 1.
func (Dialect) Password(password string) ocpp.Request {
	return ocpp.Request{Action: "ChangeConfiguration", Payload: changeConfiguration{"AuthorizationKey", password}}
}

// Boot asks for a BootNotification.
func (Dialect) Boot() ocpp.Request {
	return ocpp.Request{Action: "TriggerMessage", Payload: triggerMessage{"BootNotification"}}
}
