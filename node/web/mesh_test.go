package web

import (
	"encoding/csv"
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// submit posts the switch's form, with headers as pairs.
func submit(s *Server, form url.Values, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "http://localhost:7080/mesh", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestTheSwitchIsMovedByTheOwnPageOnly(t *testing.T) {
	s := server(t, fixture{})
	off := url.Values{"node": {"home-1"}, "switch": {"off"}}
	for _, c := range []struct {
		fact    string
		form    url.Values
		headers []string
		code    int
		moved   string
	}{
		{"the page's own form", off, []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://localhost:7080"}, 303, "home-1false"},
		{"an old browser's own form", off, []string{"Origin", "http://localhost:7080"}, 303, "home-1false"},
		{"a page elsewhere", off, []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403, ""},
		{"another local page", off, []string{"Sec-Fetch-Site", "same-site", "Origin", "http://localhost:9999"}, 403, ""},
		{"an old browser elsewhere", off, []string{"Origin", "https://evil.example"}, 403, ""},
		{"no choice", url.Values{"node": {"home-1"}}, nil, 400, ""},
		{"a choice that is none", url.Values{"node": {"home-1"}, "switch": {"maybe"}}, nil, 400, ""},
		{"a node that cannot", url.Values{"node": {"home-3"}, "switch": {"on"}}, nil, 409, ""},
		{"a form without end", url.Values{"node": {strings.Repeat("x", 2*maxForm)}, "switch": {"on"}}, nil, 400, ""},
	} {
		switched.Store("")
		if w := submit(s, c.form, c.headers...); w.Code != c.code || switched.Load() != c.moved {
			t.Errorf("%s: %d and %q, want %d and %q", c.fact, w.Code, switched.Load(), c.code, c.moved)
		}
	}
	switched.Store("")
	if get(t, s, "/mesh?node=home-1&switch=off"); switched.Load() != "" {
		t.Error("reading the page moved the switch")
	}
	if w := submit(s, off); w.Header().Get("Location") != "/mesh?node=home-1" {
		t.Errorf("leads to %q", w.Header().Get("Location"))
	}
}

func TestTheMeshPageSaysWhatIsMissing(t *testing.T) {
	s := server(t, fixture{})
	for path, wants := range map[string][]string{
		"/mesh": {"there must be 20", "Nothing to do here", "Stop private messages and relaying", "30 % of the", "1 % of all", "12 ms", "not known", "changes nothing: the network asks for 20", "Relays for others", "✓ yes", "4\u202f321", "Everybody in the network can see that this home is a member",
			"Decoys <small>experimental</small>", "23 since the start", "To end it, remove <span class=\"mono\">mesh.decoys</span>"},
		"/mesh?node=home-2":  {"switched off since", "Turn private messages on", "A home passes on nothing for others", "could then see that it is a member", "set <span class=\"mono\">mesh.decoys = true</span>"},
		"/mesh?node=ssn-elm": {"passes packets on without learning"},
		"/mesh?node=home-3":  {"is offline"},
	} {
		html := get(t, s, path).Body.String()
		for _, want := range wants {
			if !strings.Contains(html, want) {
				t.Errorf("%s does not say %q", path, want)
			}
		}
	}
	if html := get(t, s, "/mesh?node=ssn-elm").Body.String(); strings.Contains(html, "ecoys") {
		t.Error("a substation is told of decoys, which leaves send")
	}
	if html := get(t, s, "/mesh?node=home-3").Body.String(); strings.Contains(html, "method=\"post\"") {
		t.Error("a node that does not run has a switch")
	}
	empty := get(t, server(t, fixture{empty: true}), "/mesh").Body.String()
	for _, want := range []string{"Nothing waits", "This node keeps trying"} {
		if !strings.Contains(empty, want) {
			t.Errorf("a node alone is not told %q", want)
		}
	}
}

func TestPeersOnPageAndInExportsAreTheSame(t *testing.T) {
	s := server(t, fixture{})
	var v Mesh
	if err := json.Unmarshal(get(t, s, "/mesh?format=json").Body.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	table, err := csv.NewReader(get(t, s, "/mesh?node=home-1&format=csv").Body).ReadAll()
	if err != nil || len(table) != len(v.Peers)+1 || len(v.Peers) != 3 {
		t.Fatalf("%d rows for %d peers, %v", len(table), len(v.Peers), err)
	}
	if got := strings.Join(table[1], " "); got != "substation northgrid true 2026-06-01T12:00:00Z 12" {
		t.Errorf("row 1: %q", got)
	}
	if table[2][4] != "" {
		t.Errorf("an unknown round trip is %q, want nothing", table[2][4])
	}
}

func TestMetricsAreServedBesideThePages(t *testing.T) {
	w := get(t, server(t, fixture{}), "/metrics")
	if w.Code != 200 || !strings.Contains(w.Body.String(), "\ngridveil_mesh_rcmgr_blocked_total 0\n") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := get(t, server(t, fixture{empty: true}), "/metrics"); w.Code != 404 {
		t.Errorf("a scene: %d", w.Code)
	}
}
