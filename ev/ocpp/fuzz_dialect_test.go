package ocpp_test

import (
	"encoding/json"
	"testing"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/v16"
	"gridveil/ev/ocpp/v201"
)

// FuzzReceive: whatever a station sends gives an answer that encodes, or a call
// error, and events that fold.
func FuzzReceive(f *testing.F) {
	for _, action := range []string{"StartTransaction", "StopTransaction", "MeterValues", "TransactionEvent", "StatusNotification", "NotifyEVChargingNeeds", "BootNotification"} {
		f.Add(action, []byte(`{"connectorId":1,"transactionId":2,"timestamp":"2026-03-01T10:00:00Z","meterValue":[{"timestamp":"x","sampledValue":[{"value":1}]}]}`))
		f.Add(action, []byte(`{"evse":{"id":1},"eventType":"Ended","transactionInfo":{"transactionId":"x"},"chargingNeeds":{"acChargingParameters":{"energyAmount":1e3}}}`))
	}
	f.Fuzz(func(t *testing.T, action string, payload []byte) {
		for _, d := range []ocpp.Dialect{v16.Dialect{}, v201.Dialect{}} {
			a, err := d.Receive(ocpp.Call{Station: "WB", Action: action, Payload: payload, Now: time.Unix(1, 0), Standing: ocpp.Accepted, Heartbeat: time.Minute})
			if err != nil {
				continue
			}
			if _, err := json.Marshal(a.Reply); err != nil {
				t.Fatalf("reply to %s does not encode: %v", action, err)
			}
			ev.Fold(a.Events)
			for _, e := range a.Events {
				if e.EVSE < 0 || e.Connector < 0 || e.Kind == 0 {
					t.Fatalf("%s: %+v", action, e)
				}
			}
			_ = d.Verdict(action, payload)
			var traits ocpp.Traits
			d.Learn("GetConfiguration", payload, &traits)
			d.Learn("GetVariables", payload, &traits)
		}
	})
}
