package ocpp_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/v16"
	"gridveil/ev/ocpp/v201"
)

// schema loads one of the OCA's schemas, nil if the folder has none of that
// name; without the folder the test is skipped.
func schema(t *testing.T, version, name string) *jsonschema.Schema {
	t.Helper()
	root := os.Getenv("GRIDVEIL_CONFORMANCE")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "conformance")
	}
	dir := filepath.Join(root, "ocpp-schemas", version)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("OCA schemas are not at %s: what we send is not compared with them", dir)
	}
	b, err := os.ReadFile(filepath.Join(dir, name+".json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	c := jsonschema.NewCompiler()
	url := "mem:///" + version + "/" + name
	if err := c.AddResource(url, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(url)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}

// check validates a payload; it reports whether there was a schema.
func check(t *testing.T, version, name string, payload any) bool {
	t.Helper()
	s := schema(t, version, name)
	if s == nil {
		return false
	}
	b, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(doc); err != nil {
		t.Errorf("%s %s: %s\n%v", version, name, b, err)
	}
	return true
}

// orders are all requests that a dialect can build.
func orders(d ocpp.Dialect) []ocpp.Request {
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	stop, err := d.Stop("12345")
	if err != nil {
		panic(err)
	}
	list := []ocpp.Request{d.Start(1, code, 7), stop, d.Setpoint(1, -5000), d.Password(strings.Repeat("ab", 20)), d.Boot()}
	for _, l := range []ocpp.Limit{
		{EVSE: 1, Watts: 3000, From: now},
		{EVSE: 1, Watts: 0, From: now, Until: now.Add(time.Hour)},
		{EVSE: 2, Transaction: "77", Watts: 4321, From: now, Traits: ocpp.Traits{AmpereOnly: true, Phases: 1}},
		{Watts: 11_000, Default: true, From: now, Traits: ocpp.Traits{AmpereOnly: true}},
	} {
		list = append(list, d.Limit(l))
	}
	return append(list, d.Settings(ocpp.Settings{Sample: time.Minute, Aligned: 5 * time.Minute, Heartbeat: 5 * time.Minute})...)
}

func TestWhatWeSendFollowsTheSchemasOfTheOCA(t *testing.T) {
	calls := []string{"BootNotification", "Heartbeat", "Authorize", "StartTransaction", "StopTransaction", "MeterValues", "StatusNotification",
		"DataTransfer", "SignCertificate", "SecurityEventNotification", "TransactionEvent", "NotifyEVChargingNeeds"}
	for _, v := range []struct {
		folder, request string
		dialect         ocpp.Dialect
	}{{"v16", "", v16.Dialect{}}, {"v201", "Request", v201.Dialect{}}} {
		checked := 0
		for _, r := range orders(v.dialect) {
			if check(t, v.folder, r.Action+v.request, r.Payload) {
				checked++
			}
		}
		for _, action := range calls {
			for _, standing := range []ocpp.Standing{ocpp.Pending, ocpp.Accepted} {
				a, err := v.dialect.Receive(ocpp.Call{Station: "WB", Action: action, Now: time.Now(), Standing: standing, Heartbeat: time.Minute,
					Payload:   json.RawMessage(`{"idTag":"A","idToken":{"idToken":"A","type":"Central"},"eventType":"Started","transactionInfo":{"transactionId":"x"}}`),
					Authorize: func(string) bool { return standing == ocpp.Accepted }})
				if err == nil && check(t, v.folder, action+"Response", a.Reply) {
					checked++
				}
			}
		}
		t.Logf("%s: %d messages compared with a schema", v.folder, checked)
		if checked < 15 {
			t.Errorf("%s: only %d messages had a schema", v.folder, checked)
		}
	}
}

func TestAmpereLimitsRoundDown(t *testing.T) {
	for _, c := range []struct {
		watts  int64
		phases uint8
		want   int64
	}{{3000, 1, 130}, {3000, 3, 43}, {4140, 3, 60}, {4139, 3, 59}, {0, 1, 0}, {11_000, 0, 159}} {
		if got := (ocpp.Traits{Phases: c.phases}).Amperes(c.watts); got != c.want {
			t.Errorf("%d W on %d phases: got %d tenths of an ampere, want %d", c.watts, c.phases, got, c.want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		d             ocpp.Dialect
		action, reply string
		ok, bad       bool
	}{
		{v16.Dialect{}, "SetChargingProfile", `{"status":"Accepted"}`, true, false},
		{v16.Dialect{}, "ChangeConfiguration", `{"status":"RebootRequired"}`, true, false},
		{v16.Dialect{}, "SetChargingProfile", `{"status":"NotSupported"}`, false, false},
		{v16.Dialect{}, "SetChargingProfile", `{}`, false, true},
		{v16.Dialect{}, "GetConfiguration", `{"unknownKey":["x"]}`, true, false},
		{v16.Dialect{}, "GetConfiguration", `{"status":"Accepted"}`, false, true},
		{v201.Dialect{}, "SetVariables", `{"setVariableResult":[]}`, true, false},
		{v201.Dialect{}, "SetVariables", `{}`, false, true},
		{v201.Dialect{}, "RequestStopTransaction", `{"status":"Rejected"}`, false, false},
		{v201.Dialect{}, "TriggerMessage", `{"status":5}`, false, false},
	} {
		err := c.d.Verdict(c.action, json.RawMessage(c.reply))
		if (err == nil) != c.ok || errors.Is(err, ocpp.ErrBadReply) != c.bad {
			t.Errorf("%s %s %s: got %v", c.d.Version(), c.action, c.reply, err)
		}
	}
}
