package aggregator

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/store"
	"gridveil/ledger/writer"
	"gridveil/node/verifier"
	"gridveil/node/verifier/watchtest"
)

// outside is an aggregator of which only the door for outsiders stands, over a
// log of n entries.
func outside(t *testing.T, n int) (*Aggregator, string) {
	t.Helper()
	policy := ledger.NewPolicy(ledger.LogKey(watchtest.Origin, watchtest.Pub(2)))
	policy.LogURL = "http://12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf.ledger"
	w, err := writer.Open(writer.Config{Dir: t.TempDir(), Store: store.Options{MemTableBytes: 1 << 20, SegmentBytes: 1 << 20, MinFree: -1}, Machine: ledger.NewMoney(watchtest.Origin),
		LogKey: watchtest.Key(2), ReceiptKey: watchtest.Key(3), CheckpointEvery: time.Millisecond, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx) }() // waited for below
	t.Cleanup(func() { cancel(); <-done; w.Close() })
	for _, raw := range watchtest.Entries(t, n, n) { // each stands on the one before
		if r := w.Submit(ctx, [][]byte{raw})[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if err := w.WaitFinal(ctx, uint64(n)); err != nil {
		t.Fatal(err)
	}
	a := &Aggregator{origin: watchtest.Origin, w: w, policy: policy}
	a.door.Open(w.Handler())
	s := httptest.NewServer(a.readingDoor())
	t.Cleanup(s.Close)
	return a, s.URL
}

func body(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestOutsidersReadTheLogAndMirrorIt reads an aggregator's log over plain HTTP
// as `gridveil verifier` does, and lets the aggregator find its mirror.
func TestOutsidersReadTheLogAndMirrorIt(t *testing.T) {
	a, at := outside(t, 40)
	for path, want := range map[string]int{"/checkpoint": 200, "/tile/0/000.p/40": 200, "/tile/entries/000.p/40": 200, "/proof/7": 200, "/nothing": 404} {
		if status, _ := body(t, http.MethodGet, at+path); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	for _, path := range []string{"/entries", "/checkpoint", "/policy"} {
		if status, _ := body(t, http.MethodPost, at+path); status != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: status %d", path, status)
		}
	}
	_, text := body(t, http.MethodGet, at+"/policy")
	policy, err := ledger.ParsePolicy([]byte(text))
	if err != nil || policy.Log.Name() != watchtest.Origin || policy.LogURL != "" || !strings.HasPrefix(text, "#") {
		t.Fatalf("policy %q: %v", text, err)
	}
	ctx := context.Background()
	w, err := verifier.OpenWatch(ctx, verifier.WatchConfig{Dir: t.TempDir(), Log: at, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	r, err := w.Look(ctx)
	if err != nil || r.Verdict != verifier.Sound || r.Entries != 40 {
		t.Fatalf("report %+v, %v", r, err)
	}
	copied := httptest.NewServer(w.Mirror())
	t.Cleanup(copied.Close)
	key, err := ledger.ParseVerifierKey(r.Key)
	if err != nil {
		t.Fatal(err)
	}
	good := mirror{key: key, url: copied.URL}
	other := mirror{key: ledger.WitnessKey("other", watchtest.Pub(9)), url: copied.URL}
	gone := mirror{key: key, url: "http://127.0.0.1:1"}
	for _, m := range []*mirror{&good, &other, &gone} {
		a.lookAtMirror(ctx, http.DefaultClient, m)
	}
	if good.err != nil || good.size != 40 || time.Since(good.signed) > time.Hour {
		t.Errorf("mirror %+v", good)
	}
	if other.err == nil || gone.err == nil {
		t.Errorf("a mirror that did not sign: %v; one that is away: %v", other.err, gone.err)
	}
	if size, fresh := mirrored([]mirror{gone, good}); size != 40 || !fresh {
		t.Errorf("mirrored %d, %v", size, fresh)
	}
	good.signed = good.signed.Add(-2 * mirrorLate)
	if size, fresh := mirrored([]mirror{good}); size != 40 || fresh {
		t.Errorf("with an old signature: %d, %v", size, fresh)
	}
	a.mirrors.set([]mirror{good, gone})
	facts := a.mirrorFacts()
	if len(facts) != 3 || facts[0].Value != "40 entries" || !strings.Contains(facts[1].Value, "signed 2h") {
		t.Errorf("facts %+v", facts)
	}
}

// TestAMirrorOfAnotherLogIsNoMirror shows the aggregator a copy with another
// root, signed by the mirror.
func TestAMirrorOfAnotherLogIsNoMirror(t *testing.T) {
	a, _ := outside(t, 20)
	other := watchtest.Serve(t, watchtest.Entries(t, 20, 5))
	other.Show(20, "uta")
	m := mirror{key: watchtest.Policy().Witnesses[0].Key, url: other.URL}
	if a.lookAtMirror(context.Background(), http.DefaultClient, &m); m.err == nil {
		t.Errorf("taken as a mirror: %+v", m)
	}
}
