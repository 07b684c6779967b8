package web

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// watched is a verifier's page with everything on it, or nothing.
type watched struct{ empty bool }

func (w watched) Watch() Watch {
	at := time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)
	if w.empty {
		return Watch{Now: at, Headline: "Not looked yet.", Standing: "late", Word: "not looked yet", Origin: "log.example.org/ledger", Log: "http://log.example.org:7081"}
	}
	root := strings.Repeat("0a1b", 16)
	return Watch{Now: at, Headline: "Entry 17 breaks a rule: signature does not verify.", Standing: "refused", Word: "breaks a rule", Origin: "log.example.org/ledger", Log: "http://log.example.org:7081",
		Mirror: "http://127.0.0.1:7082", Entries: 123456, Root: root, State: root, LogTime: at, Looked: at, Checked: at, Final: true,
		Cosigners: []Cosigner{{Name: "northgrid.gridveil/utility-80bfa77a", OK: true, Text: "signed"}, {Name: "<b>utb</b>", Text: "has not signed our newest checkpoint"}},
		Entry:     "Entry 17, leaf " + root + ": signature does not verify.", Evidence: []WatchFile{{"E4-17.gvx", "an entry that breaks a rule", root}},
		Peers:    []WatchPeer{{Name: "http://mirror.example.org:7082", Size: 120000, At: at, OK: true, Text: "shows the same history"}, {Name: "utb, http://utb.example.org", Text: "cannot be read: " + root}},
		Receipts: []WatchPeer{{Name: "receipt-7", Size: 7, OK: true, Text: "kept"}}, Failed: &WatchFailure{at, "breaks a rule", "Entry 17 breaks a rule."}, Key: "verifier-5f4faaad+eba83f55+" + root}
}

func (w watched) Evidence(name string) ([]byte, error) {
	if name != "E4-17.gvx" || w.empty {
		return nil, errors.New("none")
	}
	return []byte("GVX1"), nil
}

func watchServer(t *testing.T, w watched) *Server {
	t.Helper()
	s, err := NewWatch(w, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheVerifiersPageSaysWhatWasCheckedAndWhatFailed(t *testing.T) {
	s := watchServer(t, watched{})
	body := get(t, s, "/").Body.String()
	for _, want := range []string{"Entry 17 breaks a rule", "Last failure", `href="/evidence/E4-17.gvx"`, "123\u202f456", "shows the same history", "receipt-7", "&lt;b&gt;utb&lt;/b&gt;", "http://127.0.0.1:7082"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if got := get(t, s, "/evidence/E4-17.gvx"); got.Code != 200 || got.Body.String() != "GVX1" || got.Header().Get("Content-Disposition") != "attachment" {
		t.Errorf("evidence: %d %q", got.Code, got.Body)
	}
	if got := get(t, s, "/?format=json"); got.Code != 200 || !strings.Contains(got.Body.String(), `"Entries": 123456`) {
		t.Errorf("json: %d", got.Code)
	}
	for path, want := range map[string]int{"/evidence/cosigner.key": 404, "/ledger": 404, "/metrics": 404, "/livez": 200, "/readyz": 200} {
		if got := get(t, s, path); got.Code != want {
			t.Errorf("%s: %d, want %d", path, got.Code, want)
		}
	}
	if body := get(t, watchServer(t, watched{empty: true}), "/").Body.String(); !strings.Contains(body, "Nothing convicts the log") || !strings.Contains(body, "--peer") {
		t.Error("the empty page lacks its words")
	}
}

func TestTheVerifiersPageInABrowser(t *testing.T) {
	ctx := browser(t)
	srv := httptest.NewServer(watchServer(t, watched{}))
	defer srv.Close()
	defer srv.CloseClientConnections()
	look(t, ctx, srv.URL, "watch")
	if s := watchServer(t, watched{}); s.site.Live(context.Background())["watch-entries"] != "123\u202f456" {
		t.Error("live values")
	}
}
