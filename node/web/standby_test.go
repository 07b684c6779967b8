package web

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/chromedp"
)

// byStander is a machine that stands by, with everything on its page or just
// started.
type byStander struct{ empty bool }

func (b byStander) Warnings(context.Context) []Warning {
	if b.empty {
		return []Warning{{Severity: "fault", Title: "No machine of the cluster leads", Text: "Sessions and records wait at the homes.", Next: "Start the others.", Since: noon}}
	}
	return nil
}

func (b byStander) Standby(context.Context) Standby {
	v := Standby{Title: "evagg", Now: noon, Commands: []Pair{{"gridveil ledger cluster status", "asks every machine how it does"}, {"gridveil ledger cluster remove ADDRESS", "takes out a lost one, on the one that leads"}}}
	if b.empty {
		v.Headline, v.Standing, v.Word, v.Applied, v.Behind, v.Took, v.Entry, v.Disk = "This machine stands by; no machine leads yet.", "late", "asks the others", "0 entries, 0 changes", "not known yet", "nothing", "none", -1
		return v
	}
	v.Headline, v.Standing, v.Word, v.Leader = "This machine stands by; the machine at a.charging.example.org:7090 leads, term 7.", "late", "catches up", "a.charging.example.org:7090"
	v.Applied, v.Behind, v.Took, v.Entry, v.Disk = "1 204 118 entries, 3 118 402 changes", "<b>40</b> entries and changes", "2 s ago", "31 s ago", 84<<30
	v.Machines = []StandbyMachine{{Key: "5f4faaad", Address: "a.charging.example.org:7090", Leads: true, Answers: true, Text: "leads", Heard: "3 s ago", Entries: 1204158, Changes: 3118402},
		{Key: "eba83f55", Address: "b.charging.example.org:7090", This: true, Answers: true, Text: "stands by, 40 behind", Heard: "0 s ago", Entries: 1204118, Changes: 3118402},
		{Key: "80bfa77a", Address: "c.charging.example.org:7090", Text: "does not answer, and never did since this machine started", Heard: "never"}}
	return v
}

func standbyServer(t *testing.T, b byStander) *Server {
	t.Helper()
	s, err := NewStandby(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAMachineThatStandsBySaysWhoLeadsAndWhereItIs(t *testing.T) {
	s := standbyServer(t, byStander{})
	body := get(t, s, "/").Body.String()
	for _, want := range []string{"the machine at a.charging.example.org:7090 leads", "1 204 118 entries", "&lt;b&gt;40&lt;/b&gt;", "31 s ago", "84.0 GiB", "this machine", "never did since this machine started",
		"gridveil ledger cluster remove ADDRESS", "1\u202f204\u202f158"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	var v Standby
	if err := json.Unmarshal(get(t, s, "/?format=json").Body.Bytes(), &v); err != nil || v.Leader != "a.charging.example.org:7090" || len(v.Machines) != 3 {
		t.Errorf("json: %+v %v", v, err)
	}
	live := s.site.Live(t.Context())
	for key, want := range map[string]string{"standby-word": "! catches up", "machine-eba83f55": "✓ stands by, 40 behind", "machine-80bfa77a-standing": "late", "machine-80bfa77a-entries": "–", "machine-5f4faaad-heard": "3 s ago", "standby-disk": "84.0 GiB"} {
		if live[key] != want || !strings.Contains(body, `="`+key+`"`) {
			t.Errorf("live value %s: %q, want %q on the page", key, live[key], want)
		}
	}
	for path, want := range map[string]int{"/nope": 404, "/metrics": 404, "/livez": 200, "/readyz": 200} {
		if got := get(t, s, path); got.Code != want {
			t.Errorf("%s: %d, want %d", path, got.Code, want)
		}
	}
}

func TestPagesOfTheMachineThatLeadsAreNotServedByOneThatStandsBy(t *testing.T) {
	for _, b := range []byStander{{}, {empty: true}} {
		s := standbyServer(t, b)
		want := "The machine at a.charging.example.org:7090 leads"
		if b.empty {
			want = "No machine of the cluster leads now"
		}
		for _, path := range everyPage {
			if path == "/" || strings.HasPrefix(path, "/party/") {
				continue
			}
			if got := get(t, s, path); got.Code != 503 || !strings.Contains(got.Body.String(), want) {
				t.Errorf("%s: %d %s", path, got.Code, got.Body)
			}
		}
	}
}

func TestAMachineWithoutALeaderIsNotReady(t *testing.T) {
	s := standbyServer(t, byStander{empty: true})
	if got := get(t, s, "/readyz"); got.Code != 503 || !strings.Contains(got.Body.String(), "No machine of the cluster leads") {
		t.Errorf("/readyz: %d %s", got.Code, got.Body)
	}
	if body := get(t, s, "/").Body.String(); !strings.Contains(body, "are being asked") || !strings.Contains(body, "not known") {
		t.Error("the page of a machine that has just started lacks its words")
	}
}

func TestTheStandbysPageInABrowser(t *testing.T) {
	ctx := browser(t)
	srv := httptest.NewServer(standbyServer(t, byStander{}))
	defer srv.Close()
	defer srv.CloseClientConnections()
	look(t, ctx, srv.URL, "standby")
}

// TestAnOpenPageFollowsTheLead: the machine whose page is open begins to lead.
func TestAnOpenPageFollowsTheLead(t *testing.T) {
	ctx := browser(t)
	var now atomic.Pointer[Server]
	now.Store(standbyServer(t, byStander{}))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().ServeHTTP(w, r) }))
	defer srv.Close()
	defer srv.CloseClientConnections()
	if err := chromedp.Run(ctx, chromedp.Navigate(srv.URL+"/ledger"), chromedp.WaitReady("body[data-live=on]")); err != nil {
		t.Fatal(err)
	}
	now.Store(server(t, fixture{}))
	srv.CloseClientConnections()
	if err := chromedp.Run(ctx, chromedp.WaitReady(`main[data-ready=ledger] [data-live="ledger-size"]`)); err != nil {
		t.Errorf("the ledger's page: %v", err)
	}
}
