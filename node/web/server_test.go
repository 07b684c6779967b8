package web

import (
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

func get(t *testing.T, s *Server, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", "http://localhost:7080"+path, nil)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func server(t *testing.T, f fixture) *Server {
	t.Helper()
	s, err := New(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var everyPage = []string{"/", "/energy", "/energy?home=home-2", "/sessions", "/sessions/7F3A-92", "/sessions/0000-01", "/guests", "/guests?home=home-2", "/ledger", "/ledger?from=3", "/ledger/17", "/money", "/disputes", "/alarms", "/privacy", "/privacy?home=home-2", "/party/uta", "/mesh", "/mesh?node=home-2", "/mesh?node=ssn-elm", "/mesh?node=home-3"}

func TestEveryPageAnswersInFullAndWhenEmpty(t *testing.T) {
	for _, f := range []fixture{{}, {empty: true}} {
		s := server(t, f)
		for _, path := range everyPage {
			w := get(t, s, path)
			if f.empty && strings.HasPrefix(path, "/sessions/") {
				if w.Code != 404 {
					t.Errorf("%s of an empty site: %d", path, w.Code)
				}
				continue
			}
			if w.Code != 200 || !strings.Contains(w.Body.String(), "</html>") {
				t.Errorf("%s (empty %v): %d\n%s", path, f.empty, w.Code, w.Body)
			}
			if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'self'") {
				t.Errorf("%s: policy %q", path, csp)
			}
			for _, bad := range []string{" style=", "<script>", "onclick=", "ZgotmplZ", "javascript:"} {
				if strings.Contains(w.Body.String(), bad) {
					t.Errorf("%s contains %q", path, bad)
				}
			}
		}
	}
}

func TestMissingThingsSayWhereToLook(t *testing.T) {
	s := server(t, fixture{})
	for _, path := range []string{"/nope", "/sessions/none", "/ledger/99", "/ledger/x", "/ledger?from=abcdef01", "/ledger?from=x", "/money/files/none", "/energy?home=zz", "/privacy?home=zz", "/party/zz", "/mesh?node=zz"} {
		if w := get(t, s, path); w.Code != 404 || !strings.Contains(w.Body.String(), "To the overview") {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := get(t, s, "/ledger/3/proof"); w.Code != 409 {
		t.Errorf("proof of an entry that is not final: %d", w.Code)
	}
	if w := get(t, s, "/ledger/17/proof"); w.Code != 200 || !strings.HasPrefix(w.Body.String(), "c2sp.org/tlog-proof") {
		t.Errorf("proof: %d %s", w.Code, w.Body)
	}
}

func TestAnEntryIsFoundByItsLeafAndAPaymentFileIsServed(t *testing.T) {
	s := server(t, fixture{})
	if w := get(t, s, "/ledger?from=00FF00ff"); w.Code != 303 || w.Header().Get("Location") != "/ledger/17" {
		t.Errorf("a leaf: %d to %q", w.Code, w.Header().Get("Location"))
	}
	if w := get(t, s, "/money/files/EUR-4-4.xml"); w.Code != 200 || w.Header().Get("Content-Type") != "application/xml" || !strings.Contains(w.Header().Get("Content-Disposition"), `"EUR-4-4.xml"`) {
		t.Errorf("a payment file: %d %v", w.Code, w.Header())
	}
	if w := get(t, s, "/money?format=csv"); w.Code != 200 || !strings.Contains(w.Body.String(), "3,2,southpower,evagg,0.400000,due,GVABCDEFGHIJKLMNOQ-2,") {
		t.Errorf("payments as CSV: %d %s", w.Code, w.Body)
	}
	if w := get(t, s, "/disputes?format=csv"); w.Code != 200 || !strings.Contains(w.Body.String(), "watchdog towngrid") {
		t.Errorf("cases as CSV: %d %s", w.Code, w.Body)
	}
}

func TestForeignNamesAndOriginsAreRefused(t *testing.T) {
	s := server(t, fixture{})
	r := httptest.NewRequest("GET", "http://evil.example/", nil)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusMisdirectedRequest {
		t.Errorf("foreign name: %d", w.Code)
	}
	r = httptest.NewRequest("POST", "http://localhost/sessions", nil)
	r.Header.Set("Origin", "https://evil.example")
	w = httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusForbidden {
		t.Errorf("foreign origin: %d", w.Code)
	}
}

func TestExportsEqualTheScreen(t *testing.T) {
	s := server(t, fixture{})
	html := get(t, s, "/sessions").Body.String()
	var rows []SessionRow
	if err := json.Unmarshal(get(t, s, "/sessions?format=json").Body.Bytes(), &rows); err != nil {
		t.Fatal(err)
	}
	table, err := csv.NewReader(get(t, s, "/sessions?format=csv").Body).ReadAll()
	if err != nil || len(table) != len(rows)+1 {
		t.Fatalf("%d rows, %v", len(table), err)
	}
	for i, r := range rows {
		if !strings.Contains(html, r.ID) || table[i+1][0] != r.ID || table[i+1][7] != r.Total || !strings.Contains(html, r.Total) {
			t.Errorf("row %d differs between page, JSON and CSV", i)
		}
	}
}

func TestHostileNamesStayText(t *testing.T) {
	s := server(t, fixture{})
	w := get(t, s, "/energy?home=%3Cscript%3E")
	if strings.Contains(w.Body.String(), "<script>") {
		t.Error("a home's name became markup")
	}
}

func TestVendoredFilesAreThoseNamed(t *testing.T) {
	list, err := os.ReadFile("static/VENDOR")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(list)), "\n") {
		f := strings.Fields(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		b, err := os.ReadFile("static/" + f[0])
		if err != nil || fmt.Sprintf("%x", sha256.Sum256(b)) != f[3] {
			t.Errorf("%s is not the file that VENDOR names (%v)", f[0], err)
		}
	}
}

func TestOwnersCommandComesFromTheForm(t *testing.T) {
	s := server(t, fixture{})
	at := "/privacy/battery"
	post := func(form string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "http://localhost:7080"+at, strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	if w := post("home=home-1&do=charge&w=1500&minutes=30"); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/privacy?home=home-1" {
		t.Fatalf("charge: %d %s", w.Code, w.Header().Get("Location"))
	}
	if o := asked.Load().(BatteryOrder); o != (BatteryOrder{"charge", 1500, 30 * time.Minute}) {
		t.Errorf("asked for %+v", o)
	}
	if w := get(t, s, "/privacy?home=home-1"); !strings.Contains(w.Body.String(), "Let the mask drive again") {
		t.Error("a command that stands cannot be ended")
	}
	for _, bad := range []string{"", "home=home-1&do=charge&w=lots&minutes=30", "home=home-1&do=stop&minutes=9999", "home=home-1&do=stop&minutes=-1"} {
		if w := post(bad); w.Code != http.StatusBadRequest {
			t.Errorf("%q: %d", bad, w.Code)
		}
	}
	if w := post("home=home-2&do=stop&minutes=30"); w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "no battery") {
		t.Errorf("a home without battery: %d", w.Code)
	}
	if w := post("home=home-1&do=release"); w.Code != http.StatusSeeOther {
		t.Errorf("release: %d", w.Code)
	}
	at = "/privacy/dial"
	if w := post("home=home-1&stop=3"); w.Code != http.StatusSeeOther || dialled.Load() != 3 {
		t.Errorf("the dial: %d, stop %d", w.Code, dialled.Load())
	}
	if w := post("home=home-1&stop=far"); w.Code != http.StatusBadRequest {
		t.Errorf("a stop that is none: %d", w.Code)
	}
	if w := post("home=home-2&stop=1"); w.Code != http.StatusConflict {
		t.Errorf("the dial of a home without battery: %d", w.Code)
	}
}

// TestADeadInverterIsToldOnce: what stands above the page is not said again beside
// the mask; what does not is.
func TestADeadInverterIsToldOnce(t *testing.T) {
	for _, f := range []fixture{{}, {warned: true}} {
		body := get(t, server(t, f), "/privacy").Body.String()
		if n := strings.Count(body, "The battery cannot be used"); n != 1 {
			t.Errorf("warned %t: told %d times", f.warned, n)
		}
	}
}
