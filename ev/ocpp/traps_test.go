package ocpp_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"gridveil/ev"
	"gridveil/ev/evsim"
	"gridveil/ev/ocmf"
	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/v16"
	"gridveil/ev/ocpp/v201"
)

// record is a signed text as far as the search for it cares.
const record = `OCMF|{"FV":"1.0","GS":"1","PG":"T1","RD":[{"TM":"2026-03-01T10:00:00,000+0000 S","TX":"B","RV":1.5,"RI":"1-b:1.8.0","RU":"kWh","ST":"G"}]}|{"SD":"00"}`

// TestTrapsOfRealStations keeps one message for each oddity of stations in the
// field, and what must become of it.
func TestTrapsOfRealStations(t *testing.T) {
	quoted := strings.ReplaceAll(record, `"`, `\"`)
	b64 := base64.StdEncoding.EncodeToString([]byte(record))
	nested := strings.ReplaceAll(`{"signedMeterData":"`+b64+`","encodingMethod":"OCMF"}`, `"`, `\"`)
	for _, c := range []struct {
		name    string
		d       ocpp.Dialect
		action  string
		payload string
		want    func(ev.Event) bool
	}{
		{"value as a number", v16.Dialect{}, "MeterValues", `{"connectorId":1,"transactionId":7,"meterValue":[{"timestamp":"2026-03-01T10:00:00Z","sampledValue":[{"value":1500}]}]}`,
			func(e ev.Event) bool { return reading(e).ImportMWh == 1_500_000 && e.TransactionID == "7" }},
		{"value as text", v201.Dialect{}, "TransactionEvent", `{"eventType":"Updated","timestamp":"2026-03-01T10:00:00Z","seqNo":"3","transactionInfo":{"transactionId":"x"},"meterValue":[{"timestamp":"2026-03-01T10:00:00Z","sampledValue":[{"value":"1.5","unitOfMeasure":{"unit":"kWh"}}]}]}`,
			func(e ev.Event) bool { return reading(e).ImportMWh == 1_500_000 && e.Seq == 3 }},
		{"multiplier", v201.Dialect{}, "MeterValues", `{"evseId":2,"meterValue":[{"timestamp":"2026-03-01T10:00:00Z","sampledValue":[{"value":15,"unitOfMeasure":{"unit":"Wh","multiplier":2}}]}]}`,
			func(e ev.Event) bool { return reading(e).ImportMWh == 1_500_000 && e.EVSE == 2 }},
		{"connector as text", v16.Dialect{}, "StartTransaction", `{"connectorId":"1","idTag":12345,"meterStart":"77","timestamp":"2026-03-01T10:00:00"}`,
			func(e ev.Event) bool {
				return e.EVSE == 1 && e.IDToken == "12345" && reading(e).ImportMWh == 77_000 && e.At == 1772359200000
			}},
		{"sampledValue without brackets", v16.Dialect{}, "MeterValues", `{"connectorId":1,"meterValue":{"timestamp":"2026-03-01T10:00:00Z","sampledValue":{"value":"2","unit":"kWh"}}}`,
			func(e ev.Event) bool { return reading(e).ImportMWh == 2_000_000 }},
		{"stop without a known start", v16.Dialect{}, "StopTransaction", `{"transactionId":-1,"meterStop":5,"timestamp":"2026-03-01T10:00:00Z"}`,
			func(e ev.Event) bool { return e.TransactionID == "" && e.Kind == ev.Ended }},
		{"stop by another card", v16.Dialect{}, "StopTransaction", `{"transactionId":9,"idTag":"OTHER","meterStop":5,"timestamp":"2026-03-01T10:00:00Z"}`,
			func(e ev.Event) bool { return e.IDToken == "" }},
		{"clock lost", v16.Dialect{}, "StatusNotification", `{"connectorId":1,"status":"Charging","errorCode":"NoError","timestamp":"never"}`,
			func(e ev.Event) bool { return e.At == e.Received && e.State == "Charging" }},
		{"unknown event type", v201.Dialect{}, "TransactionEvent", `{"eventType":"Paused","transactionInfo":{"transactionId":"x"}}`,
			func(e ev.Event) bool { return e.Kind == ev.Updated }},
		{"seqNo always 0", v201.Dialect{}, "TransactionEvent", `{"eventType":"Ended","seqNo":0,"triggerReason":"RemoteStop","transactionInfo":{"transactionId":"x","stoppedReason":"Remote"}}`,
			func(e ev.Event) bool { return e.Kind == ev.Ended && e.Seq == 0 && e.Reason == "Remote" }},
		{"signed data raw in a value", v16.Dialect{}, "MeterValues", `{"connectorId":1,"meterValue":[{"sampledValue":[{"format":"SignedData","value":"` + quoted + `"}]}]}`, signed},
		{"signed data in base64", v16.Dialect{}, "StopTransaction", `{"transactionId":9,"transactionData":[{"sampledValue":[{"format":"SignedData","value":"` + b64 + `"}]}]}`, signed},
		{"signed data in JSON in a value", v16.Dialect{}, "StopTransaction", `{"transactionId":9,"transactionData":[{"sampledValue":[{"format":"SignedData","value":"` + nested + `"}]}]}`, signed},
		{"signed data in Ended", v201.Dialect{}, "TransactionEvent", `{"eventType":"Ended","transactionInfo":{"transactionId":"x"},"meterValue":[{"sampledValue":[{"value":1,"signedMeterValue":{"signedMeterData":"` + b64 + `"}}]}]}`, signed},
		{"signed data without method and key", v201.Dialect{}, "MeterValues", `{"evseId":1,"meterValue":[{"sampledValue":[{"value":1,"signedMeterValue":{"signedMeterData":"` + quoted + `"}}]}]}`, signed},
		{"signed value beside format", v16.Dialect{}, "MeterValues", `{"connectorId":1,"meterValue":[{"sampledValue":[{"value":"1","signedMeterValue":"` + quoted + `"}]}]}`, signed},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := c.d.Receive(ocpp.Call{Station: "WB", Action: c.action, Payload: json.RawMessage(c.payload), Now: time.UnixMilli(1772359300000), Standing: ocpp.Accepted})
			if err != nil || len(a.Events) != 1 {
				t.Fatalf("got %d events, %v", len(a.Events), err)
			}
			if !c.want(a.Events[0]) {
				t.Errorf("got %+v, reading %+v", a.Events[0], reading(a.Events[0]))
			}
		})
	}
}

func reading(e ev.Event) ev.Reading {
	rs := ev.Fold([]ev.Event{e}).Readings
	if len(rs) == 0 {
		return ev.Reading{}
	}
	return rs[0]
}

func signed(e ev.Event) bool {
	found := ev.FindOCMF(e.Raw)
	return len(found) == 1 && string(found[0]) == record
}

func TestStationFaultsAreHarmlessOrNamed(t *testing.T) {
	for _, version := range []string{"1.6", "2.0.1"} {
		for name, c := range map[string]struct {
			faults evsim.Faults
			want   ocmf.Reason // "" for a good record
		}{
			"no signed meter":     {evsim.Faults{Unsigned: true}, ocmf.Empty},
			"forged record":       {evsim.Faults{Forged: true}, ocmf.Signature},
			"late answers":        {evsim.Faults{Late: 20 * time.Millisecond}, ""},
			"events out of order": {evsim.Faults{OutOfOrder: true}, ""},
		} {
			t.Run(version+" "+name, func(t *testing.T) {
				h := newHouse(t, nil)
				cp := h.wallbox("WB", version, func(cfg *evsim.Config) { cfg.Faults = c.faults })
				tx := charge(h, cp, "WB")
				got, err := ocmf.Check(tx.Signed, mustKey(t, cp), code)
				switch {
				case c.want == "" && (err != nil || got.ImportMWh != 872_666):
					t.Errorf("got %d mWh, %v", got.ImportMWh, err)
				case c.want != "" && fmt.Sprint(err) != fmt.Sprint(&ocmf.ErrOCMF{Reason: c.want, Record: recordOf(err)}):
					t.Errorf("got %v, want reason %s", err, c.want)
				}
			})
		}
	}
}

func recordOf(err error) int {
	if e, ok := err.(*ocmf.ErrOCMF); ok {
		return e.Record
	}
	return 0
}

func TestReplayedRecordIsForeignToTheSession(t *testing.T) {
	h := newHouse(t, nil)
	cp := h.wallbox("WB", "2.0.1", nil)
	charge(h, cp, "WB")
	cp.SetFaults(evsim.Faults{Replayed: true})
	h.time.set(h.time.Now().Add(time.Hour))
	st, _ := h.srv.Station("WB")
	from := h.time.Now()
	if err := cp.Plug(from, &evsim.Car{CapacityMWh: 60_000_000, MaxChargeW: 7360}); err != nil {
		t.Fatal(err)
	}
	const second = "SECONDSESSION234"
	if err := st.Start(ctx(t), 1, second); err != nil {
		t.Fatal(err)
	}
	cp.Step(from, time.Minute)
	cp.Unplug(from.Add(time.Minute))
	h.until("second transaction ended", func() bool {
		return h.transaction().IDToken == second && h.transaction().HasEnded && cp.Status().Queued == 0
	})
	_, err := ocmf.Check(h.transaction().Signed, mustKey(t, cp), second)
	if e, ok := err.(*ocmf.ErrOCMF); !ok || e.Reason != ocmf.ForeignID {
		t.Errorf("replayed end record: got %v, want reason %s", err, ocmf.ForeignID)
	}
}

func TestMuteWallboxCostsOnlyItself(t *testing.T) {
	h := newHouse(t, nil)
	h.wallbox("MUTE", "1.6", func(cfg *evsim.Config) { cfg.Faults = evsim.Faults{Mute: true} })
	charge(h, h.wallbox("WB", "2.0.1", nil), "WB")
}

func TestCarFeedsTheHouseBySetpoint(t *testing.T) {
	for _, version := range []string{"1.6", "2.0.1"} {
		t.Run(version, func(t *testing.T) {
			h := newHouse(t, nil)
			cp := h.wallbox("WB", version, nil)
			st := h.station(cp, "WB")
			now := h.time.Now()
			car := &evsim.Car{CapacityMWh: 60_000_000, EnergyMWh: 30_000_000, ReserveMWh: 29_000_000, MaxChargeW: 7360, MaxDischargeW: 5000}
			if err := cp.Plug(now, car); err != nil {
				t.Fatal(err)
			}
			if err := st.Start(ctx(t), 1, code); err != nil {
				t.Fatal(err)
			}
			cp.Step(now, time.Second)
			h.until("started", func() bool { return st.Info().Running[1] != "" })
			if err := st.Setpoint(ctx(t), 1, -4000); err != nil {
				t.Fatalf("Setpoint: %v", err)
			}
			now = now.Add(time.Second)
			for i := range 20 {
				w := cp.Step(now, time.Minute)
				if i < 14 && w != -4000 {
					t.Fatalf("minute %d: got %d W, want -4000", i, w)
				}
				now = now.Add(time.Minute)
			}
			if s := cp.Status(); s.PowerW != 0 || s.CarMWh < 28_999_000 {
				t.Errorf("at the reserve: got %d W with %d mWh left", s.PowerW, s.CarMWh)
			}
			if err := st.Setpoint(ctx(t), 1, 0); err != nil {
				t.Fatal(err)
			}
			if w := cp.Step(now, time.Minute); w != 7360 {
				t.Errorf("after the set point ended: got %d W, want charging again", w)
			}
		})
	}
}

func TestWallboxWithoutV2XRefusesTheSetpoint(t *testing.T) {
	h := newHouse(t, nil)
	cp := h.wallbox("WB", "2.0.1", func(cfg *evsim.Config) { cfg.V2X = false })
	st := h.station(cp, "WB")
	err := st.Setpoint(ctx(t), 1, -1000)
	if err == nil || !strings.Contains(err.Error(), "UnknownVendorId") {
		t.Errorf("got %v", err)
	}
}

func TestLimitRunsOutToTheDefaultProfile(t *testing.T) {
	h := newHouse(t, nil)
	cp := h.wallbox("WB", "1.6", nil)
	st := h.station(cp, "WB")
	now := h.time.Now()
	if err := cp.Plug(now, &evsim.Car{CapacityMWh: 60_000_000, MaxChargeW: 7360}); err != nil {
		t.Fatal(err)
	}
	if err := st.Start(ctx(t), 1, code); err != nil {
		t.Fatal(err)
	}
	cp.Step(now, time.Second)
	h.until("started", func() bool { return st.Info().Running[1] != "" })
	if err := st.Limit(ctx(t), 1, 0, now.Add(10*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := st.DefaultLimit(ctx(t), 2300); err != nil {
		t.Fatal(err)
	}
	if w := cp.Step(now.Add(5*time.Minute), time.Minute); w != 0 {
		t.Errorf("paused: got %d W", w)
	}
	if w := cp.Step(now.Add(10*time.Minute), time.Minute); w != 2300 {
		t.Errorf("a gateway that died leaves the default profile: got %d W, want 2300", w)
	}
}

func TestWallboxThatIgnoresItsLimitIsUncontrollable(t *testing.T) {
	h := newHouse(t, nil)
	r := h.raw("WB", "ocpp1.6")
	st, _ := h.srv.Station("WB")
	done := make(chan error, 1)
	go func() { done <- st.Limit(ctx(t), 1, 3000, time.Time{}) }()
	var call []json.RawMessage
	if err := json.Unmarshal([]byte(r.read()), &call); err != nil {
		t.Fatal(err)
	}
	r.send(`[3,` + string(call[1]) + `,{"status":"Accepted"}]`)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	power := func(after time.Duration, watts int) bool {
		at := h.time.Now().Add(after).Format(time.RFC3339)
		r.exchange(fmt.Sprintf(`[2,"1","MeterValues",{"connectorId":1,"meterValue":[{"timestamp":%q,"sampledValue":[{"value":"%d","measurand":"Power.Active.Import","unit":"W"}]}]}]`, at, watts))
		r.exchange(`[2,"2","Heartbeat",{}]`) // served after all that follows from the values
		return st.Info().Uncontrollable
	}
	if power(30*time.Second, 7000) {
		t.Error("a station has 60 s to follow")
	}
	if !power(61*time.Second, 7000) {
		t.Error("7 kW a minute after a limit of 3 kW must be noticed")
	}
	if power(90*time.Second, 3100) {
		t.Error("a station that follows after all is controllable again")
	}
}

func TestWallboxReconnectsAndItsQueueArrives(t *testing.T) {
	for _, version := range []string{"1.6", "2.0.1"} {
		t.Run(version, func(t *testing.T) {
			h := newHouse(t, nil)
			cp := h.wallbox("WB", version, nil)
			st := h.station(cp, "WB")
			now := h.time.Now()
			if err := cp.Plug(now, &evsim.Car{CapacityMWh: 60_000_000, MaxChargeW: 7360}); err != nil {
				t.Fatal(err)
			}
			if err := st.Start(ctx(t), 1, code); err != nil {
				t.Fatal(err)
			}
			cp.Step(now, time.Minute)
			h.until("started", func() bool { return st.Info().Running[1] != "" && cp.Status().Queued == 0 })
			h.srv.DropSockets()
			for range 10 {
				now = now.Add(time.Minute)
				cp.Step(now, time.Minute)
			}
			h.until("back online, queue empty", func() bool { return cp.Status().Online && cp.Status().Queued == 0 })
			cp.Unplug(now.Add(time.Minute))
			h.until("ended", func() bool { return h.transaction().HasEnded && cp.Status().Queued == 0 })
			got, err := ocmf.Check(h.transaction().Signed, mustKey(t, cp), code)
			if err != nil || got.ImportMWh != 7360*11*1000/60 {
				t.Errorf("after a reconnect: got %d mWh, %v", got.ImportMWh, err)
			}
		})
	}
}

func TestRestartedServerLearnsWhatRuns(t *testing.T) {
	h := newHouse(t, nil)
	r := h.raw("WB", "ocpp1.6")
	st, _ := h.srv.Station("WB")
	r.exchange(`[2,"1","MeterValues",{"connectorId":1,"transactionId":77,"meterValue":[{"sampledValue":[{"value":"1"}]}]}]`)
	r.exchange(`[2,"2","Heartbeat",{}]`)
	if got := st.Info().Running[1]; got != "77" {
		t.Errorf("running after meter values: got %q", got)
	}
	r.exchange(`[2,"3","StopTransaction",{"transactionId":77,"meterStop":5,"timestamp":"2026-03-01T10:00:00Z"}]`)
	r.exchange(`[2,"4","MeterValues",{"connectorId":1,"transactionId":77,"meterValue":[{"sampledValue":[{"value":"2"}]}]}]`)
	r.exchange(`[2,"5","Heartbeat",{}]`)
	if len(st.Info().Running) != 0 {
		t.Error("values after the end reopened the transaction")
	}
	st.Resume(2, "88", "CODE")
	if st.Info().Running[2] != "88" {
		t.Error("Resume was not taken")
	}
	if got := r.exchange(`[2,"6","Authorize",{"idTag":"CODE"}]`); !strings.Contains(got, "Accepted") {
		t.Errorf("resumed code: got %s", got)
	}
	if got := r.exchange(`[2,"7","Authorize",{"idTag":"ELSE"}]`); !strings.Contains(got, "Invalid") {
		t.Errorf("other code: got %s", got)
	}
}
