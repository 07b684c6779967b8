package node_test

import (
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/node"
	"gridveil/node/verifier"
	"gridveil/node/verifier/watchtest"
)

func policyFile(t *testing.T, p *ledger.Policy) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(name, []byte(p.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
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

// TestAVerifierShowsAndServesWhatItFound runs one as `gridveil verifier` does:
// page and mirror answer while it looks, and the evidence that the page offers
// is judged by its file and the policy alone.
func TestAVerifierShowsAndServesWhatItFound(t *testing.T) {
	list := watchtest.Entries(t, 60, 60)
	list[50] = []byte("nonsense")
	l := watchtest.Serve(t, list)
	l.Show(40, "uta", "utb")
	policy := watchtest.Policy()
	o := node.WatchOptions{Dir: t.TempDir(), Log: l.URL, Policy: policyFile(t, policy), Every: 20 * time.Millisecond, Page: "127.0.0.1:0", Serve: "127.0.0.1:0"}
	ctx, stop := context.WithCancel(context.Background())
	at, told, done := make(chan [2]string, 1), make(chan verifier.Report, 1000), make(chan error, 1)
	go func() { // waited for below
		done <- node.RunWatch(ctx, o, func(page, mirror string) { at <- [2]string{page, mirror} }, func(r verifier.Report) {
			select {
			case told <- r:
			default: // more looks than this test reads
			}
		})
	}()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	until := func(want verifier.Verdict) verifier.Report {
		t.Helper()
		deadline := time.After(time.Minute)
		for {
			select {
			case r := <-told:
				if r.Verdict == want {
					return r
				}
			case <-deadline:
				t.Fatalf("no look finds the log %q", want)
			case err := <-done:
				done <- err
				t.Fatalf("ended: %v", err)
			}
		}
	}
	addr := <-at
	until(verifier.Sound)
	if status, body := fetch(t, addr[1]+"/checkpoint"); status != 200 || !strings.HasPrefix(body, watchtest.Origin+"\n40\n") {
		t.Errorf("mirror: %d %q", status, body)
	}
	if status, body := fetch(t, addr[0]); status != 200 || !strings.Contains(body, "All 40 entries obey the rules") || !strings.Contains(body, "Nothing convicts the log") {
		t.Errorf("page: %d\n%s", status, body)
	}
	l.Show(60, "uta", "utb", "utc")
	r := until(verifier.Refused)
	if r.Entry.Index != 50 {
		t.Errorf("bad entry %+v", r.Entry)
	}
	_, body := fetch(t, addr[0])
	for _, want := range []string{"breaks a rule", "Entry 50", "E4-50.gvx", "Last failure"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	status, body := fetch(t, addr[0]+"/evidence/E4-50.gvx")
	if status != 200 {
		t.Fatalf("download: %d", status)
	}
	if status, _ := fetch(t, addr[0]+"/evidence/cosigner.key"); status != 404 {
		t.Errorf("what is no evidence: %d", status)
	}
	file := filepath.Join(t.TempDir(), "E4-50.gvx")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := node.VerifyEvidence(file, o.Policy, nil); err == nil || !strings.Contains(err.Error(), "witness line") {
		t.Errorf("by a policy that does not know who objects: %v", err)
	}
	k, err := ledger.ParseVerifierKey(r.Key)
	if err != nil {
		t.Fatal(err)
	}
	policy.Witnesses = append(slices.Clone(policy.Witnesses), ledger.Witness{Name: k.Name(), Key: k})
	c, err := node.VerifyEvidence(file, policyFile(t, policy), nil)
	if err != nil || c.Kind != "E4" || c.Index == nil || *c.Index != 50 || c.By != k.Name() {
		t.Errorf("conviction %+v, %v", c, err)
	}
}

// TestEvidenceIsJudgedByFilesAlone changes every byte of evidence of each kind
// that needs nobody's word: it convicts nobody any more.
func TestEvidenceIsJudgedByFilesAlone(t *testing.T) {
	ctx := context.Background()
	list := watchtest.Entries(t, 40, 40)
	mine, other := watchtest.Serve(t, list), watchtest.Serve(t, watchtest.Entries(t, 40, 10))
	policy := policyFile(t, watchtest.Policy())
	receipt := filepath.Join(t.TempDir(), "receipt")
	pledge := ledger.SignReceipts(watchtest.Key(3), ledger.Receipt{Origin: ledger.OriginHash(watchtest.Origin), Index: 7})[0]
	if err := os.WriteFile(receipt, pledge.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	pub := watchtest.Pub(3)
	for kind, c := range map[string]struct {
		there int
		keys  []string
		set   func(*node.WatchOptions)
	}{
		"E1": {30, nil, func(o *node.WatchOptions) { o.Peers = []string{other.URL} }},
		"E2": {35, nil, func(o *node.WatchOptions) { o.Peers = []string{other.URL} }},
		"E3": {30, []string{hex.EncodeToString(pub[:])}, func(o *node.WatchOptions) { o.Receipts = []string{receipt} }},
	} {
		t.Run(kind, func(t *testing.T) {
			mine.Show(30, "uta", "utb")
			other.Show(c.there, "uta", "utb")
			o := node.WatchOptions{Dir: t.TempDir(), Log: mine.URL, Policy: policy}
			c.set(&o)
			r, err := node.WatchOnce(ctx, o)
			if err != nil || r.Verdict != verifier.Forked || len(r.Evidence) != 1 {
				t.Fatalf("report %+v, %v", r, err)
			}
			file := filepath.Join(o.Dir, "evidence", r.Evidence[0].Name)
			got, err := node.VerifyEvidence(file, policy, c.keys)
			if err != nil || got.Kind != kind || got.Log != watchtest.Origin {
				t.Fatalf("conviction %+v, %v", got, err)
			}
			if c.keys != nil {
				if _, err := node.VerifyEvidence(file, policy, nil); err == nil || !strings.Contains(err.Error(), "--receipt-key") {
					t.Errorf("without the receipt key: %v", err)
				}
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			bad := filepath.Join(t.TempDir(), "bad")
			for i := range b {
				x := slices.Clone(b)
				x[i] ^= 0x20
				if err := os.WriteFile(bad, x, 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := node.VerifyEvidence(bad, policy, c.keys); err == nil && !harmless(b, i) {
					t.Errorf("with byte %d (%q) changed it still convicts", i, b[i])
				}
			}
		})
	}
}

// harmless says whether a byte of a note belongs to a line of a witness whose
// signature is not asked for: to its name or the hash of its key.
func harmless(b []byte, i int) bool {
	line := string(b[:i+1])
	if end := strings.IndexByte(string(b[i:]), '\n'); end >= 0 {
		line = string(b[:i+end])
	}
	line = line[strings.LastIndexByte(line, '\n')+1:]
	return strings.HasPrefix(line, "\u2014 ut") || strings.Contains(line, ".test ") || strings.HasPrefix(line, "\u2014 verifier-")
}
