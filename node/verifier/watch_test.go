package verifier_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gridveil/ledger"
	"gridveil/node/verifier"
	"gridveil/node/verifier/watchtest"
)

func watch(t *testing.T, dir string, l *watchtest.Log, more ...func(*verifier.WatchConfig)) *verifier.Watch {
	t.Helper()
	cfg := verifier.WatchConfig{Dir: dir, Policy: watchtest.Policy(), Log: l.URL}
	for _, f := range more {
		f(&cfg)
	}
	w, err := verifier.OpenWatch(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func look(t *testing.T, w *verifier.Watch, want verifier.Verdict) verifier.Report {
	t.Helper()
	r, err := w.Look(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict != want {
		t.Fatalf("verdict %q (%s), want %q", r.Verdict, r.Text, want)
	}
	return r
}

// stranger is a policy file that knows the watch as a witness.
func stranger(t *testing.T, r verifier.Report) *ledger.Policy {
	t.Helper()
	k, err := ledger.ParseVerifierKey(r.Key)
	if err != nil {
		t.Fatal(err)
	}
	p := watchtest.Policy()
	p.Witnesses = append(p.Witnesses, ledger.Witness{Name: k.Name(), Key: k})
	return p
}

// convicts reads the evidence of a watch from disk and checks it as a stranger.
func convicts(t *testing.T, dir string, r verifier.Report, kind ledger.EvidenceKind, keys ...ledger.Hash) *ledger.Evidence {
	t.Helper()
	if len(r.Evidence) == 0 {
		t.Fatalf("no evidence: %+v", r)
	}
	b, err := os.ReadFile(filepath.Join(dir, "evidence", r.Evidence[0].Name))
	if err != nil {
		t.Fatal(err)
	}
	e, err := ledger.ParseEvidence(b)
	if err != nil || e.Kind != kind {
		t.Fatalf("evidence %+v, %v", e, err)
	}
	if err := e.Check(stranger(t, r), keys...); err != nil {
		t.Errorf("a stranger refuses it: %v", err)
	}
	return e
}

func TestAWatchFindsASoundLogSoundAndGoesOnFromThere(t *testing.T) {
	l := watchtest.Serve(t, watchtest.Entries(t, 700, 700))
	dir := t.TempDir()
	w := watch(t, dir, l)
	look(t, w, verifier.Away) // nothing is final yet
	l.Show(300, "uta", "utc")
	r := look(t, w, verifier.Sound)
	if r.Entries != 300 || !r.Final || len(r.Cosigned) != 2 || r.Checked.IsZero() || len(r.Evidence) != 0 || r.State == "" {
		t.Errorf("report %+v", r)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l.Show(700, "uta", "utb", "utc")
	w = watch(t, dir, l)
	if got := w.Report(); got.Key != r.Key || got.Served != 300 || got.Failed == nil || got.Failed.Verdict != verifier.Away {
		t.Errorf("after a restart: %+v", got)
	}
	if r := look(t, w, verifier.Sound); r.Entries != 700 || len(r.Cosigned) != 3 {
		t.Errorf("report %+v", r)
	}
	// The log goes away; another watch reads the same from a mirror of this copy.
	mirror := "http://" + listen(t, &http.Server{Handler: w.Mirror()})
	l.Deaf(true)
	look(t, w, verifier.Away)
	again := watch(t, t.TempDir(), l, func(cfg *verifier.WatchConfig) { cfg.Log = mirror })
	if got := look(t, again, verifier.Sound); got.Root != w.Report().Root || len(got.Cosigned) != 3 {
		t.Errorf("from the mirror: %+v", got)
	}
}

func TestWhatIsWrongWithAnEntryIsNamedWithEvidence(t *testing.T) {
	good := watchtest.Entries(t, 300, 300)
	forged := bytes.Clone(good[270])
	forged[len(forged)-3] ^= 1
	for _, c := range []struct {
		name string
		code error
		at   uint64
		log  [][]byte
	}{
		{"a signature is wrong", ledger.ErrSignature, 270, replaced(good, 270, forged)},
		{"an entry is malformed", ledger.ErrMalformed, 12, replaced(good, 12, []byte("nonsense"))},
		{"an entry stands twice", ledger.ErrExists, 8, replaced(good, 8, good[7])},
		{"an entry is missing", ledger.ErrSeqGap, 40, slices.Delete(slices.Clone(good), 40, 41)},
		{"a state hash is wrong", ledger.ErrState, 200, replaced(good, 200, watchtest.WithoutState(t, good, 200))},
		{"the first entry is none", ledger.ErrMalformed, 0, replaced(good, 0, []byte{1})},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := watchtest.Serve(t, c.log)
			l.Show(len(c.log), "uta", "utb") // even the quorum signed it
			dir := t.TempDir()
			r := look(t, watch(t, dir, l), verifier.Refused)
			if r.Entry == nil || r.Entry.Index != c.at || !errors.Is(ledger.Code(r.Entry.Code).Err(), c.code) || !strings.Contains(r.Text, "Entry ") {
				t.Errorf("report %+v", r)
			}
			e := convicts(t, dir, r, ledger.BadEntry)
			if e.Objection.Index != c.at || e.Objection.Leaf != ledger.LeafHash(c.log[c.at]) {
				t.Errorf("objection %+v", e.Objection)
			}
		})
	}
}

func replaced(log [][]byte, at int, raw []byte) [][]byte {
	out := slices.Clone(log)
	out[at] = raw
	return out
}

func TestASecondHistoryIsFoundAndConvicted(t *testing.T) {
	mine, other := watchtest.Serve(t, watchtest.Entries(t, 500, 500)), watchtest.Serve(t, watchtest.Entries(t, 500, 100))
	for name, c := range map[string]struct {
		here, there int
		kind        ledger.EvidenceKind
		peer        bool // else the log itself shows it later
	}{
		"a peer is shown another tree of the same size": {300, 300, ledger.TwoRoots, true},
		"a peer is shown a smaller one":                 {300, 200, ledger.OtherHistory, true},
		"a peer is shown a larger one":                  {300, 450, ledger.OtherHistory, true},
		"the log is rolled back and grows again":        {300, 400, ledger.OtherHistory, false},
		"the log is rolled back":                        {300, 250, ledger.OtherHistory, false},
		"the log is another of the same size":           {300, 300, ledger.TwoRoots, false},
	} {
		t.Run(name, func(t *testing.T) {
			mine.Show(c.here, "uta", "utb")
			other.Show(c.there, "utb", "utc")
			dir := t.TempDir()
			if c.peer {
				r := look(t, watch(t, dir, mine, func(cfg *verifier.WatchConfig) { cfg.Peers = []string{other.URL} }), verifier.Forked)
				convicts(t, dir, r, c.kind)
				if len(r.Peers) != 1 || r.Peers[0].OK {
					t.Errorf("peers %+v", r.Peers)
				}
				return
			}
			w := watch(t, dir, mine)
			look(t, w, verifier.Sound)
			w.Close()
			w = watch(t, dir, other)
			convicts(t, dir, look(t, w, verifier.Forked), c.kind)
			w.Close()
			// It is not forgotten, whatever the log shows then.
			r := look(t, watch(t, dir, mine), verifier.Forked)
			if r.Failed == nil || r.Failed.Verdict != verifier.Forked {
				t.Errorf("last failure %+v", r.Failed)
			}
		})
	}
}

func TestAWitnessOfThePolicyIsAsked(t *testing.T) {
	mine, other := watchtest.Serve(t, watchtest.Entries(t, 300, 300)), watchtest.Serve(t, watchtest.Entries(t, 300, 100))
	mine.Show(300, "uta", "utb")
	other.Show(300, "utc")
	// The witness serves its copy under the hash of the origin.
	prefix := http.StripPrefix("/"+originHash(), other)
	s := &http.Server{Handler: prefix}
	l := listen(t, s)
	dir := t.TempDir()
	w := watch(t, dir, mine, func(cfg *verifier.WatchConfig) { cfg.Policy.Witnesses[2].URL = "http://" + l })
	convicts(t, dir, look(t, w, verifier.Forked), ledger.TwoRoots)
	if r := w.Report(); r.Peers[0].Name != "utc" || r.Peers[0].Signed.IsZero() {
		t.Errorf("peers %+v", r.Peers)
	}
}

func TestWhatIsNotProvedIsNotCalledSound(t *testing.T) {
	l := watchtest.Serve(t, watchtest.Entries(t, 100, 100))
	dir := t.TempDir()
	w := watch(t, dir, l)
	l.Show(50, "uta")
	if r := look(t, w, verifier.Unfinal); r.Final || r.Entries != 50 {
		t.Errorf("one of three: %+v", r)
	}
	note := l.Show(60, "uta", "utb")
	at := bytes.LastIndexByte(bytes.TrimRight(note, "\n"), ' ') + 20 // in the last signature
	bad := bytes.Clone(note)
	if bad[at] != 'A' {
		bad[at] = 'A'
	} else {
		bad[at] = 'B'
	}
	l.Put(bad)
	look(t, w, verifier.Unfinal)
	stranger, err := ledger.SignCheckpoint(ledger.Checkpoint{Origin: watchtest.Origin, Size: 60}, ledger.LogSigner(watchtest.Origin, watchtest.Key(9)))
	if err != nil {
		t.Fatal(err)
	}
	l.Put(stranger)
	look(t, w, verifier.Unsigned)
	l.Put(note)
	look(t, w, verifier.Sound)
	l.Show(40, "uta", "utb")
	if r := look(t, w, verifier.Behind); r.Entries != 60 || r.Served != 60 {
		t.Errorf("behind: %+v", r)
	}
	l.Deaf(true)
	look(t, w, verifier.Away)
	l.Deaf(false)
	l.Show(100, "uta", "utb", "utc")
	look(t, w, verifier.Sound)
}

func TestAReceiptIsHeldAgainstTheLog(t *testing.T) {
	list := watchtest.Entries(t, 30, 30)
	l := watchtest.Serve(t, list)
	l.Show(20, "uta", "utb")
	pledge := func(index uint64, leaf ledger.Hash) ledger.Receipt {
		return ledger.SignReceipts(watchtest.Key(3), ledger.Receipt{Origin: ledger.OriginHash(watchtest.Origin), Index: index, Leaf: leaf})[0]
	}
	kept := []verifier.Receipt{{Name: "kept", Receipt: pledge(7, ledger.LeafHash(list[7]))}, {Name: "later", Receipt: pledge(25, ledger.Hash{1})}}
	with := func(list []verifier.Receipt) func(*verifier.WatchConfig) {
		return func(cfg *verifier.WatchConfig) { cfg.Receipts = list }
	}
	dir := t.TempDir()
	w := watch(t, dir, l, with(kept))
	if r := look(t, w, verifier.Sound); len(r.Receipts) != 2 || !r.Receipts[0].OK || r.Receipts[1].OK {
		t.Errorf("receipts %+v", r.Receipts)
	}
	l.Show(30, "uta", "utb")
	convicts(t, dir, look(t, w, verifier.Forked), ledger.BrokenPledge, watchtest.Pub(3))
}

func TestADamagedCopyIsFetchedAnew(t *testing.T) {
	l := watchtest.Serve(t, watchtest.Entries(t, 300, 300))
	l.Show(300, "uta", "utb")
	dir := t.TempDir()
	w := watch(t, dir, l)
	before := look(t, w, verifier.Sound)
	w.Close()
	if err := os.Remove(filepath.Join(dir, "ledger", "HEAD")); err != nil {
		t.Fatal(err)
	}
	after := look(t, watch(t, dir, l), verifier.Sound)
	if after.Root != before.Root || after.State != before.State || after.Key != before.Key {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func TestPlacesOfALog(t *testing.T) {
	for text, want := range map[string]string{
		"http://log.example.org:7081/":          "http://log.example.org:7081",
		"https://log.example.org/a/b":           "https://log.example.org/a/b",
		"/ip4/192.0.2.7/tcp/7081/http":          "http://192.0.2.7:7081",
		"/ip6/2001:db8::1/tcp/7081/http":        "http://[2001:db8::1]:7081",
		"/dns4/log.example.org/tcp/443/https":   "https://log.example.org:443",
		"/dns/log.example.org/tcp/443/tls/http": "https://log.example.org:443",
	} {
		if got, err := verifier.LogURL(text); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "log.example.org", "ftp://log", "http://", "http://u:p@log", "http://log?a", "/ip4/192.0.2.7/tcp/7081", "/ip4/192.0.2.7/udp/7081/quic-v1", "/ip4/192.0.2.7/http", "/nonsense"} {
		if got, err := verifier.LogURL(text); err == nil {
			t.Errorf("%q is taken as %q", text, got)
		}
	}
	mesh := watchtest.Policy()
	mesh.LogURL = "http://12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf.ledger"
	if _, err := verifier.OpenWatch(context.Background(), verifier.WatchConfig{Dir: t.TempDir(), Policy: mesh}); err == nil || !strings.Contains(err.Error(), "--log") {
		t.Errorf("a door of the mesh: %v", err)
	}
}

func originHash() string {
	h := ledger.OriginHash(watchtest.Origin)
	return hex.EncodeToString(h[:])
}

func listen(t *testing.T, s *http.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }() // waited for below
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

// TestALogThatGoesOnIsFollowedFromTheSealedOne gives a watch the export of the
// sealed log and the next one's policy; without either it says what it lacks.
func TestALogThatGoesOnIsFollowedFromTheSealedOne(t *testing.T) {
	const next = watchtest.Origin + "/2027"
	dir := filepath.Join(t.TempDir(), "export")
	sealed, goesOn := watchtest.Sealed(t, 30, next, dir)
	first := watchtest.Serve(t, sealed)
	first.Show(30, "uta", "utb")
	if r := look(t, watch(t, t.TempDir(), first), verifier.Sound); r.Sealed != next {
		t.Errorf("report %+v", r)
	}
	l := watchtest.ServeAs(t, next, goesOn)
	l.Show(2, "uta", "utb")
	as := func(after string) func(*verifier.WatchConfig) {
		return func(cfg *verifier.WatchConfig) { cfg.Policy, cfg.After = cfg.Policy.As(next), after }
	}
	data := t.TempDir()
	w := watch(t, data, l, as(dir))
	if r := look(t, w, verifier.Sound); r.Entries != 2 || r.Sealed != "" {
		t.Errorf("report %+v", r)
	}
	w.Close()
	look(t, watch(t, data, l, as(dir)), verifier.Sound) // after a restart
	if r := look(t, watch(t, t.TempDir(), l, as("")), verifier.Away); !strings.Contains(r.Text, "goes on from an earlier one that is not served there") {
		t.Errorf("without the sealed log: %+v", r)
	}
	cfg := verifier.WatchConfig{Dir: t.TempDir(), Log: l.URL, Policy: watchtest.Policy().As("another"), After: dir}
	if _, err := verifier.OpenWatch(context.Background(), cfg); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("sealed in favour of another: %v", err)
	}
}
