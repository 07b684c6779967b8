package verifier_test

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/node/verifier"
	"gridveil/node/verifier/watchtest"
	"gridveil/node/web"
)

const nextLog = watchtest.Origin + "/2027"

// sealedDoor is a ledger of 30 entries that is sealed, and what goes on from it.
func sealedDoor(t *testing.T) (d *watchtest.Door, goesOn [][]byte) {
	t.Helper()
	sealed, goesOn := watchtest.Sealed(t, 30, nextLog, filepath.Join(t.TempDir(), "export"))
	first := watchtest.Serve(t, sealed)
	first.Show(30, "uta", "utb")
	return watchtest.NewDoor(t, first), goesOn
}

func at(url string) func(*verifier.WatchConfig) {
	return func(cfg *verifier.WatchConfig) { cfg.Log = url }
}

// TestAWatchGoesOnToTheNextLog follows a log to its seal and beyond: the end of
// the sealed one stays in report and page, both are served, and the sealed one
// becomes flat files. It does so again from what is on disk.
func TestAWatchGoesOnToTheNextLog(t *testing.T) {
	d, goesOn := sealedDoor(t)
	dir := t.TempDir()
	w := watch(t, dir, &watchtest.Log{}, at(d.URL))
	r := look(t, w, verifier.Sound)
	if r.Sealed != nextLog || len(r.Shards) != 0 || !strings.Contains(r.Text, nextLog+", which goes on from it, is not served yet") {
		t.Errorf("before the next log begins: %+v", r)
	}
	l := watchtest.ServeAs(t, nextLog, goesOn)
	l.Show(1, "uta", "utb")
	d.Add(l)
	mirror := httptest.NewServer(w.Mirror())
	t.Cleanup(mirror.Close)
	check := func(r verifier.Report, entries uint64) {
		t.Helper()
		if r.Origin != nextLog || r.Entries != entries || !r.Final || len(r.Shards) != 1 || r.Shards[0].Origin != watchtest.Origin || r.Shards[0].Entries != 30 || r.Shards[0].Root == "" {
			t.Errorf("beyond the border: %+v", r)
		}
		if !strings.Contains(r.Text, "So did all 30 entries of the sealed logs before it") {
			t.Errorf("it says %q", r.Text)
		}
	}
	r = look(t, w, verifier.Sound)
	check(r, 1)
	if r.Shards[0].Checked.IsZero() {
		t.Error("it is not said when the sealed log was checked")
	}
	l.Show(2, "uta", "utb")
	check(look(t, w, verifier.Sound), 2)
	if err := w.SettleAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, err := export.Verify(filepath.Join(dir, "ledger-sealed", "1"), watchtest.Policy()); err != nil || f.Sealed != nextLog {
		t.Errorf("flat files: %+v, %v", f, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ledger")); !os.IsNotExist(err) {
		t.Errorf("the sealed log's store is still there: %v", err)
	}
	// A mirror serves both, so that another watch follows it the same way.
	other := watch(t, t.TempDir(), &watchtest.Log{}, at(mirror.URL))
	check(look(t, other, verifier.Sound), 2)
	// Who has the policy of the later log finds the first one.
	later := func(cfg *verifier.WatchConfig) { cfg.Policy = cfg.Policy.As(nextLog) }
	late := t.TempDir()
	v := watch(t, late, &watchtest.Log{}, at(d.URL), later)
	check(look(t, v, verifier.Sound), 2)
	v.Close()
	check(look(t, watch(t, late, &watchtest.Log{}, at(d.URL), later), verifier.Sound), 2)
	elsewhere := func(cfg *verifier.WatchConfig) { cfg.Policy = cfg.Policy.As("elsewhere") }
	if r := look(t, watch(t, t.TempDir(), &watchtest.Log{}, at(d.URL), elsewhere), verifier.Away); !strings.Contains(r.Text, "does not lead to the log of the policy") {
		t.Errorf("the policy of another log: %+v", r)
	}

	page, err := web.NewWatch(verifier.Page(w, mirror.URL), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(page)
	t.Cleanup(s.Close)
	for _, want := range []string{watchtest.Origin, nextLog, "✓ sealed, sound to its end", `data-label="Entries">30<`, `data-label="Checked, UTC">` + r.Shards[0].Checked.UTC().Format("2 Jan 2006 15:04"), "✓ open, sound", "Logs of this ledger", r.Shards[0].Root} {
		if _, body := watchtest.Fetch(t, "GET", s.URL); !strings.Contains(body, want) {
			t.Errorf("the page does not show %q", want)
		}
	}

	w.Close()
	again := watch(t, dir, &watchtest.Log{}, at(d.URL+"/"+originHash())) // named by the sealed log, it is the same server
	got := look(t, again, verifier.Sound)
	check(got, 2)
	if !got.Shards[0].Checked.Equal(r.Shards[0].Checked) {
		t.Error("after a restart it does not know when the sealed log was checked")
	}
	again.Close()
	if err := os.Remove(filepath.Join(dir, "report.json")); err != nil {
		t.Fatal(err)
	}
	check(look(t, watch(t, dir, &watchtest.Log{}, at(d.URL)), verifier.Sound), 2)
}

// TestANextLogThatDoesNotFitIsRefused shows a watch a next log that begins with
// another end than the one it checked, and one whose first entry is no shard: there
// is evidence of its first entry, and nothing of it is signed here.
func TestANextLogThatDoesNotFitIsRefused(t *testing.T) {
	_, otherEnd := watchtest.Sealed(t, 29, nextLog, filepath.Join(t.TempDir(), "export"))
	for what, list := range map[string][][]byte{"another end": otherEnd, "a genesis": watchtest.Entries(t, 2, 2)} {
		t.Run(what, func(t *testing.T) {
			d, _ := sealedDoor(t)
			dir := t.TempDir()
			w := watch(t, dir, &watchtest.Log{}, at(d.URL))
			look(t, w, verifier.Sound)
			l := watchtest.ServeAs(t, nextLog, list)
			l.Show(2, "uta", "utb")
			d.Add(l)
			r := look(t, w, verifier.Refused)
			if r.Entry == nil || r.Entry.Index != 0 || r.Origin != nextLog || r.Entries != 0 || len(r.Shards) != 1 || len(r.Evidence) != 1 {
				t.Fatalf("report %+v", r)
			}
			b, err := w.Evidence(r.Evidence[0].Name)
			if err != nil {
				t.Fatal(err)
			}
			e, err := ledger.ParseEvidence(b)
			if err == nil {
				err = e.Check(stranger(t, r).As(nextLog))
			}
			if err != nil {
				t.Errorf("evidence: %v", err)
			}
			w.Close()
			if again := look(t, watch(t, dir, &watchtest.Log{}, at(d.URL)), verifier.Refused); again.Entry.Index != 0 {
				t.Errorf("after a restart: %+v", again)
			}
		})
	}
}

// TestReceiptsOfASealedLogAreStillCompared holds a watch that is beyond a border to
// a receipt of the log before, and takes no forged one for a broken promise.
func TestReceiptsOfASealedLogAreStillCompared(t *testing.T) {
	d, goesOn := sealedDoor(t)
	l := watchtest.ServeAs(t, nextLog, goesOn)
	l.Show(2, "uta", "utb")
	d.Add(l)
	dir := t.TempDir()
	w := watch(t, dir, &watchtest.Log{}, at(d.URL))
	look(t, w, verifier.Sound)
	if err := w.SettleAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := export.Dir(filepath.Join(dir, "ledger-sealed", "1")).Entry(3)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	receipt := func(leaf ledger.Hash, index uint64, key byte) verifier.Receipt {
		r := ledger.Receipt{Origin: ledger.OriginHash(watchtest.Origin), Index: index, Leaf: leaf, Party: 1, Seq: index + 1, Ms: watchtest.Start}
		return verifier.Receipt{Name: "r", Receipt: ledger.SignReceipts(watchtest.Key(key), r)[0]}
	}
	for _, tc := range []struct {
		r    verifier.Receipt
		want verifier.Verdict
		text string
	}{
		{receipt(ledger.LeafHash(raw), 3, 3), verifier.Sound, "kept, in the sealed"},
		{receipt(ledger.Hash{1}, 3, 3), verifier.Forked, "broken: the sealed log holds another entry there"},
		{receipt(ledger.Hash{1}, 30, 3), verifier.Forked, "broken: " + watchtest.Origin + " was sealed with 30 entries"},
		{receipt(ledger.Hash{1}, 3, 9), verifier.Sound, "no receipt key on the log"},
	} {
		w := watch(t, dir, &watchtest.Log{}, at(d.URL), func(cfg *verifier.WatchConfig) { cfg.Receipts = []verifier.Receipt{tc.r} })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		reports := make(chan verifier.Report, 1)
		go func() { // waited for below
			done <- w.Serve(ctx, func(r verifier.Report) {
				if slices.ContainsFunc(r.Receipts, func(p verifier.Pledge) bool { return !strings.Contains(p.Text, "being moved") }) {
					select {
					case reports <- r:
					default:
					}
				}
			})
		}()
		r := <-reports
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if r.Verdict != tc.want || len(r.Receipts) != 1 || !strings.Contains(r.Receipts[0].Text, tc.text) {
			t.Errorf("want %q: %q, %+v", tc.text, r.Verdict, r.Receipts)
		}
		w.Close()
	}
}
