package ocpp_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"gridveil/ev"
	"gridveil/ev/ocpp"
)

// dial opens a raw websocket to the house.
func (h *house) dial(path, user, password string, protocols ...string) (*websocket.Conn, *http.Response, error) {
	header := http.Header{}
	if user != "" {
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	}
	return websocket.Dial(ctx(h.t), "ws://"+h.addr+path, &websocket.DialOptions{Subprotocols: protocols, HTTPHeader: header})
}

// raw is a hand-made station that is accepted and connected.
type raw struct {
	h    *house
	ws   *websocket.Conn
	id   string
	pass string
}

func (h *house) raw(id, protocol string) *raw {
	h.t.Helper()
	password, err := h.srv.Provision(id)
	if err != nil {
		h.t.Fatal(err)
	}
	r := &raw{h: h, id: id, pass: password}
	r.connect(protocol)
	return r
}

func (r *raw) connect(protocol string) {
	r.h.t.Helper()
	ws, _, err := r.h.dial("/ocpp/"+r.id, r.id, r.pass, protocol)
	if err != nil {
		r.h.t.Fatal(err)
	}
	ws.SetReadLimit(1 << 20)
	r.ws = ws
	r.h.t.Cleanup(func() { ws.CloseNow() })
	r.h.until("station online", func() bool {
		st, ok := r.h.srv.Station(r.id)
		return ok && st.Online()
	})
}

func (r *raw) send(frame string) {
	r.h.t.Helper()
	if err := r.ws.Write(ctx(r.h.t), websocket.MessageText, []byte(frame)); err != nil {
		r.h.t.Fatal(err)
	}
}

func (r *raw) read() string {
	r.h.t.Helper()
	_, b, err := r.ws.Read(ctx(r.h.t))
	if err != nil {
		r.h.t.Fatal(err)
	}
	return string(b)
}

// exchange sends a frame and returns the answer to it.
func (r *raw) exchange(frame string) string {
	r.h.t.Helper()
	r.send(frame)
	return r.read()
}

func TestHandshakeIsRefusedForAReason(t *testing.T) {
	h := newHouse(t, nil)
	password, err := h.srv.Provision("WB:01")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path, user, password string
		want                       int
	}{
		{"wrong password", "/ocpp/WB:01", "WB:01", strings.Repeat("0", 40), 401},
		{"no password", "/ocpp/WB:01", "", "", 401},
		{"user is another id", "/ocpp/WB:01", "WB:02", password, 401},
		{"wrong path", "/steve/WB:01", "WB:01", password, 404},
		{"no id", "/ocpp/", "WB:01", password, 404},
		{"id with a space", "/ocpp/WB%2001", "WB 01", password, 404},
		{"id of 49 characters", "/ocpp/" + strings.Repeat("a", 49), "", "", 404},
		{"id with a path inside", "/ocpp/WB:01/x", "WB:01", password, 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, resp, err := h.dial(tt.path, tt.user, tt.password, "ocpp1.6")
			if err == nil {
				t.Fatal("connected")
			}
			if resp.StatusCode != tt.want {
				t.Errorf("status: got %d, want %d", resp.StatusCode, tt.want)
			}
		})
	}
}

func TestUnknownSubprotocolIsClosedWith1002(t *testing.T) {
	h := newHouse(t, nil)
	password, _ := h.srv.Provision("WB:01")
	for _, protocols := range [][]string{{"ocpp1.5"}, {"ocpp2.1"}, {}} {
		ws, _, err := h.dial("/ocpp/WB:01", "WB:01", password, protocols...)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = ws.Read(ctx(t)); websocket.CloseStatus(err) != websocket.StatusProtocolError {
			t.Errorf("protocols %v: got %v, want close 1002", protocols, err)
		}
	}
}

func TestNewestVersionThatTheStationOffersIsChosen(t *testing.T) {
	h := newHouse(t, nil)
	password, _ := h.srv.Provision("WB:01")
	ws, _, err := h.dial("/ocpp/WB:01", "WB:01", password, "ocpp1.6", "ocpp2.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if ws.Subprotocol() != "ocpp2.0.1" {
		t.Errorf("subprotocol: got %q", ws.Subprotocol())
	}
}

func TestPasswordMayBeSentAsTextOrAsBytes(t *testing.T) {
	h := newHouse(t, nil)
	password, _ := h.srv.Provision("a:b") // an id with ':' must not be cut there
	rawBytes := make([]byte, 20)
	fmt.Sscanf(password, "%x", &rawBytes)
	for name, sent := range map[string]string{"text": password, "upper case": strings.ToUpper(password), "bytes": string(rawBytes)} {
		ws, _, err := h.dial("/ocpp/a:b", "a:b", sent, "ocpp1.6")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		ws.CloseNow()
	}
}

func TestStoredRecordHoldsNoPassword(t *testing.T) {
	h := newHouse(t, nil)
	password, _ := h.srv.Provision("WB:01")
	b, err := json.Marshal(h.records["WB:01"])
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), password) {
		t.Error("the record holds the password in clear")
	}
}

func TestUnknownStationWaitsUntilTheOwnerAccepts(t *testing.T) {
	h := newHouse(t, nil)
	ws, _, err := h.dial("/ocpp/NEW", "", "", "ocpp1.6")
	if err != nil {
		t.Fatal(err)
	}
	r := &raw{h: h, ws: ws}
	boot := `[2,"1","BootNotification",{"chargePointVendor":"V","chargePointModel":"M"}]`
	if got := r.exchange(boot); !strings.Contains(got, `"status":"Pending"`) {
		t.Errorf("boot of a stranger: got %s", got)
	}
	if got := r.exchange(`[2,"2","StartTransaction",{"connectorId":1}]`); !strings.HasPrefix(got, `[4,"2","SecurityError"`) {
		t.Errorf("transaction of a stranger: got %s", got)
	}
	if l := h.srv.List(); len(l) != 1 || l[0].Standing != ocpp.Pending || l[0].Vendor != "V" {
		t.Fatalf("list: got %+v", l)
	}
	if _, stored := h.records["NEW"]; stored {
		t.Error("a stranger was stored")
	}
	accepted := make(chan string)
	go func() {
		password, err := h.srv.Accept(ctx(t), "NEW")
		if err != nil {
			t.Error(err)
		}
		accepted <- password
	}()
	set := r.read()
	var call []json.RawMessage
	if json.Unmarshal([]byte(set), &call) != nil || !strings.Contains(set, `"AuthorizationKey"`) {
		t.Fatalf("want the new password first, got %s", set)
	}
	r.send(`[3,` + string(call[1]) + `,{"status":"Accepted"}]`)
	trigger := r.read()
	if json.Unmarshal([]byte(trigger), &call) != nil || !strings.Contains(trigger, `"BootNotification"`) {
		t.Fatalf("want a trigger to boot, got %s", trigger)
	}
	r.send(`[3,` + string(call[1]) + `,{"status":"Accepted"}]`)
	password := <-accepted
	if got := r.exchange(boot); !strings.Contains(got, `"status":"Accepted"`) {
		t.Errorf("boot after acceptance: got %s", got)
	}
	if !strings.Contains(set, password) {
		t.Error("the station was given another password than the owner")
	}
	ws.CloseNow()
	if _, resp, err := h.dial("/ocpp/NEW", "", "", "ocpp1.6"); err == nil || resp.StatusCode != 401 {
		t.Errorf("without its password the accepted station must be refused, got %v", err)
	}
	if ws, _, err := h.dial("/ocpp/NEW", "NEW", password, "ocpp1.6"); err != nil {
		t.Errorf("with its password: %v", err)
	} else {
		ws.CloseNow()
	}
}

func TestRefusedStationIsTurnedAway(t *testing.T) {
	h := newHouse(t, nil)
	ws, _, err := h.dial("/ocpp/NEW", "", "", "ocpp2.0.1")
	if err != nil {
		t.Fatal(err)
	}
	h.until("listed", func() bool { _, ok := h.srv.Station("NEW"); return ok })
	if err := h.srv.Refuse("NEW"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(ctx(t)); err == nil {
		t.Error("the socket stayed open")
	}
	if _, resp, err := h.dial("/ocpp/NEW", "", "", "ocpp2.0.1"); err == nil || resp.StatusCode != 403 {
		t.Errorf("refused station: got %v, want 403", err)
	}
	if err := h.srv.Refuse("ELSE"); !errors.Is(err, ocpp.ErrUnknownStation) {
		t.Errorf("Refuse of nobody: got %v", err)
	}
}

func TestAtMost64StrangersAnd16PerAddressWait(t *testing.T) {
	h := newHouse(t, nil)
	for i := range 16 {
		ws, _, err := h.dial(fmt.Sprintf("/ocpp/X%d", i), "", "", "ocpp1.6")
		if err != nil {
			t.Fatalf("stranger %d: %v", i, err)
		}
		defer ws.CloseNow()
	}
	if _, resp, err := h.dial("/ocpp/X16", "", "", "ocpp1.6"); err == nil || resp.StatusCode != 503 {
		t.Errorf("stranger 17 of one address: got %v, want 503", err)
	}
	if n := len(h.srv.List()); n != 16 {
		t.Errorf("listed: got %d, want 16", n)
	}
	known := h.raw("KNOWN", "ocpp1.6")
	if got := known.exchange(`[2,"1","Heartbeat",{}]`); !strings.HasPrefix(got, `[3,"1",`) {
		t.Errorf("a known station must still be served, got %s", got)
	}
}

func TestMalformedFramesAreAnsweredAndThenEndTheSocket(t *testing.T) {
	h := newHouse(t, nil)
	tests := map[string]struct{ protocol, send, want string }{
		"1.6 not JSON":         {"ocpp1.6", `{`, `[4,"-1","FormationViolation"`},
		"2.0.1 not JSON":       {"ocpp2.0.1", `hello`, `[4,"-1","RpcFrameworkError"`},
		"readable id":          {"ocpp1.6", `[2,"7"]`, `[4,"7","FormationViolation"`},
		"payload is a list":    {"ocpp1.6", `[2,"7","Heartbeat",[]]`, `[4,"7","FormationViolation"`},
		"unknown type":         {"ocpp2.0.1", `[9,"7","Heartbeat",{}]`, `[4,"7","RpcFrameworkError"`},
		"id is a number":       {"ocpp2.0.1", `[2,7,"Heartbeat",{}]`, `[4,"-1","RpcFrameworkError"`},
		"unknown action 1.6":   {"ocpp1.6", `[2,"7","Fly",{}]`, `[4,"7","NotImplemented"`},
		"unknown action 2.0.1": {"ocpp2.0.1", `[2,"7","Fly",{}]`, `[4,"7","NotImplemented"`},
		"null payload is fine": {"ocpp1.6", `[2,"7","Heartbeat",null]`, `[3,"7",{"currentTime":`},
		"no payload is fine":   {"ocpp1.6", `[2,"7","Heartbeat"]`, `[3,"7",{"currentTime":`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h.t = t
			if got := h.raw("WB", tt.protocol).exchange(tt.send); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %s, want %s…", got, tt.want)
			}
		})
	}
	h.t = t
	r := h.raw("WB", "ocpp1.6")
	for range 21 {
		r.send(`{`)
	}
	for {
		_, _, err := r.ws.Read(ctx(t))
		if err == nil {
			continue
		}
		if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
			t.Errorf("after 21 bad frames: got %v, want close 1008", err)
		}
		break
	}
}

func TestFrameAbove256KiBIsClosedWith1009(t *testing.T) {
	h := newHouse(t, nil)
	r := h.raw("WB", "ocpp1.6")
	fits := fmt.Sprintf(`[2,"1","DataTransfer",{"vendorId":"v","data":%q}]`, strings.Repeat("x", 200<<10))
	if got := r.exchange(fits); !strings.HasPrefix(got, `[3,"1",`) {
		t.Errorf("200 KiB: got %.80s", got)
	}
	r.send(fmt.Sprintf(`[2,"2","DataTransfer",{"vendorId":"v","data":%q}]`, strings.Repeat("x", 257<<10)))
	if _, _, err := r.ws.Read(ctx(t)); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Errorf("257 KiB: got %v, want close 1009", err)
	}
}

func TestStationIsAnsweredOnlyOnceItsEventIsDurable(t *testing.T) {
	h := newHouse(t, nil)
	h.setFull(true)
	r := h.raw("WB", "ocpp1.6")
	r.send(`[2,"1","StopTransaction",{"transactionId":5,"meterStop":1000,"timestamp":"2026-03-01T10:00:00Z"}]`)
	answer := make(chan string, 1)
	go func() {
		_, b, _ := r.ws.Read(context.Background())
		answer <- string(b)
	}()
	select {
	case got := <-answer:
		t.Fatalf("answered while the store was full: %s", got)
	case <-time.After(100 * time.Millisecond):
	}
	h.setFull(false)
	select {
	case got := <-answer:
		if got != `[3,"1",{}]` || len(h.events) != 1 {
			t.Errorf("got %s and %d events", got, len(h.events))
		}
	case <-time.After(5 * time.Second):
		t.Fatal("not answered after the store recovered")
	}
}

func TestTransactionMessagesAlwaysSucceed(t *testing.T) {
	h := newHouse(t, nil)
	r := h.raw("WB", "ocpp1.6")
	for _, frame := range []string{
		`[2,"1","StopTransaction",{"transactionId":-1}]`,
		`[2,"1","StopTransaction",{"transactionId":"no number","meterStop":"x","timestamp":"yesterday"}]`,
		`[2,"1","StartTransaction",{}]`,
		`[2,"1","MeterValues",{"connectorId":1,"meterValue":[{"sampledValue":{"value":12.5}}]}]`,
		`[2,"1","MeterValues",{"connectorId":"1","meterValue":7}]`,
	} {
		if got := r.exchange(frame); !strings.HasPrefix(got, `[3,"1",`) {
			t.Errorf("%s: got %s", frame, got)
		}
	}
	if h.events[0].TransactionID != "" || h.events[0].Kind != ev.Ended {
		t.Errorf("senseless stop: got %+v, want it kept without a transaction", h.events[0])
	}
}

func TestStartTransactionIsIdempotentAlsoAfterARestart(t *testing.T) {
	start := `[2,"1","StartTransaction",{"connectorId":1,"idTag":"A","meterStart":7,"timestamp":"2026-03-01T10:00:00Z"}]`
	other := strings.Replace(start, `"meterStart":7`, `"meterStart":8`, 1)
	first := newHouse(t, nil).raw("WB", "ocpp1.6").exchange(start)
	again := newHouse(t, nil).raw("WB", "ocpp1.6")
	if got := again.exchange(start); got != first {
		t.Errorf("repeated start: got %s, want %s", got, first)
	}
	if got := again.exchange(other); got == first {
		t.Error("another start got the same transaction id")
	}
}

func TestNewestConnectionWins(t *testing.T) {
	h := newHouse(t, nil)
	r := h.raw("WB", "ocpp1.6")
	old := r.ws
	r.connect("ocpp1.6")
	if _, _, err := old.Read(ctx(t)); err == nil {
		t.Error("the old socket stayed open")
	}
	if got := r.exchange(`[2,"1","Heartbeat",{}]`); !strings.HasPrefix(got, `[3,"1",`) {
		t.Errorf("new socket: got %s", got)
	}
	st, _ := h.srv.Station("WB")
	if !st.Online() {
		t.Error("station is offline although its new socket works")
	}
}

func TestCallsToAStationEndInAClearError(t *testing.T) {
	h := newHouse(t, nil)
	r := h.raw("WB", "ocpp1.6")
	st, _ := h.srv.Station("WB")
	reply := func(frame string) error {
		done := make(chan error, 1)
		go func() { done <- st.Stop(ctx(t), "5") }()
		var call []json.RawMessage
		if err := json.Unmarshal([]byte(r.read()), &call); err != nil {
			t.Fatal(err)
		}
		r.send(strings.Replace(frame, "ID", string(call[1]), 1))
		return <-done
	}
	if err := reply(`[3,ID,{"status":"Accepted"}]`); err != nil {
		t.Errorf("accepted: got %v", err)
	}
	var refused *ocpp.RefusedError
	if err := reply(`[3,ID,{"status":"Rejected"}]`); !errors.As(err, &refused) || refused.Status != "Rejected" {
		t.Errorf("rejected: got %v", err)
	}
	var ce *ocpp.CallError
	if err := reply(`[4,ID,"NotSupported","no",{}]`); !errors.As(err, &ce) || ce.Code != "NotSupported" {
		t.Errorf("call error: got %v", err)
	}
	for _, bad := range []string{`[3,ID,{}]`, `[3,ID,[1]]`, `[3,ID,"x"]`} {
		if err := reply(bad); !errors.Is(err, ocpp.ErrBadReply) {
			t.Errorf("%s: got %v, want ErrBadReply", bad, err)
		}
	}
	r.send(`[3,"nobody asked",{}]`)
	r.exchange(`[2,"1","Heartbeat",{}]`)
	if n := h.srv.Stats().LateAnswers; n != 1 {
		t.Errorf("late answers: got %d, want 1", n)
	}
	r.ws.CloseNow()
	h.until("offline", func() bool { return !st.Online() })
	if err := st.Stop(ctx(t), "5"); !errors.Is(err, ocpp.ErrOffline) {
		t.Errorf("offline: got %v", err)
	}
	if err := st.Stop(ctx(t), "not a number"); err == nil {
		t.Error("a transaction id that 1.6 cannot express was accepted")
	}
}

func TestAtMost32CallsWaitForOneStation(t *testing.T) {
	h := newHouse(t, nil)
	h.raw("WB", "ocpp1.6") // never answers
	st, _ := h.srv.Station("WB")
	c, cancel := context.WithCancel(ctx(t))
	defer cancel()
	results := make(chan error, 40)
	for range 40 {
		go func() { results <- st.Stop(c, "5") }()
	}
	for range 7 { // 40 minus 1 in flight minus 32 waiting
		if err := <-results; !errors.Is(err, ocpp.ErrBusy) {
			t.Fatalf("got %v, want ErrBusy", err)
		}
	}
	cancel()
	for range 33 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("waiting call: got %v", err)
		}
	}
}

func TestTwoHundredMuteStationsDelayNobody(t *testing.T) {
	h := newHouse(t, nil)
	for i := range 200 {
		id := fmt.Sprintf("MUTE%d", i)
		h.raw(id, "ocpp1.6")
		st, _ := h.srv.Station(id)
		c, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		go st.Stop(c, "5") // nobody will answer
	}
	r := h.raw("LIVELY", "ocpp1.6")
	began := time.Now()
	for i := range 100 {
		if got := r.exchange(`[2,"1","MeterValues",{"connectorId":1,"meterValue":[]}]`); got != `[3,"1",{}]` {
			t.Fatalf("exchange %d: got %s", i, got)
		}
	}
	// 100 exchanges are above 50 frames/s, so the pacer holds them for about a second.
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("100 exchanges beside 200 mute stations took %v", d)
	}
}

func TestFloodIsReadSlowerAndNothingIsDropped(t *testing.T) {
	h := newHouse(t, nil)
	r := h.raw("WB", "ocpp1.6")
	began := time.Now()
	for i := range 100 {
		r.send(fmt.Sprintf(`[2,"%d","MeterValues",{"connectorId":1,"meterValue":[],"n":%d}]`, i, i))
	}
	for i := range 100 {
		if want, got := fmt.Sprintf(`[3,"%d",{}]`, i), r.read(); got != want {
			t.Fatalf("answer %d: got %s", i, got)
		}
	}
	if d := time.Since(began); d < 800*time.Millisecond {
		t.Errorf("100 frames were taken in %v, want about a second at 50 a second", d)
	}
	if len(h.events) != 100 {
		t.Errorf("events: got %d, want 100", len(h.events))
	}
}
