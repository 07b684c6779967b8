package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/node/aggregator"
	"gridveil/node/party"
)

// seal runs `gridveil ledger seal` on the machine that leads.
func (a *aggregators) seal() (p aggregator.SealPlan) {
	a.t.Helper()
	began := time.Now()
	p = cliJSON[aggregator.SealPlan](a.t, "ledger", "seal", "--yes", "--json", "--data", a.path(a.leader()))
	if !p.Sealed || !p.Begun || p.Machines != 3 {
		a.t.Fatalf("sealed: %+v", p)
	}
	a.t.Logf("%s goes on as %s after %v", p.Origin, p.Next, time.Since(began).Round(time.Millisecond))
	return p
}

// turn makes the author one of the next shard.
func (a *author) turn(origin string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shard, a.receipts = origin, map[uint64]ledger.Hash{}
}

// archived waits until a machine has the sealed shard as flat files alone.
func (a *aggregators) archived(name, no string) {
	a.t.Helper()
	store := map[string]string{"1": "ledger", "2": "ledger-2"}[no]
	eventually(a.t, time.Minute, func() string {
		if _, err := os.Stat(filepath.Join(a.path(name), "ledger-sealed", no, "manifest")); err != nil {
			return name + ": " + err.Error()
		}
		if _, err := os.Stat(filepath.Join(a.path(name), store)); !os.IsNotExist(err) {
			return name + " still has the store of the sealed shard"
		}
		return ""
	})
}

// TestThreeMachinesSealTheirLedger seals the log of a cluster while a machine is
// away, seals it again and kills the leader in the middle, and wants one history
// on all machines.
func TestThreeMachinesSealTheirLedger(t *testing.T) {
	if !*long {
		t.Skip("real processes for minutes: with -long; ledger/cluster crosses borders in one process")
	}
	w, author := alone(t)
	author.send(t.Context(), 100)
	a := w.split("evagg", "evagg-b", "evagg-c")
	a.leader()
	a.whole(3)
	author.send(t.Context(), 100)
	leads := a.leader()
	away, other := "evagg-b", "evagg-c"
	if leads == away {
		away = "evagg"
	} else if leads == other {
		other = "evagg"
	}
	if _, err := tryCLI(t, "ledger", "seal", "--yes", "--data", a.path(other)); err == nil || !strings.Contains(err.Error(), "only the machine that leads seals the ledger") {
		t.Errorf("a machine that stands by seals: %v", err)
	}
	_, page, _ := beside(t, author, a.log[other])
	shows(t, page, "entries obey the rules")
	a.p(away).kill()
	before := author.receipts
	first := a.seal()
	author.turn(first.Next)
	author.send(t.Context(), 100)
	a.p(away).start()
	a.whole(3)
	for name := range a.key {
		author.has(a.log[name])
		a.archived(name, "1")
		dir := filepath.Join(a.path(name), "ledger-sealed", "1")
		if r, err := export.Verify(dir, author.policy(a.log[name]).As(first.Origin)); err != nil || r.Sealed != first.Next || !r.Trusted {
			t.Errorf("the sealed log of %s: %+v, %v", name, r, err)
		}
		for index, leaf := range before {
			if raw, err := export.Dir(dir).Entry(index); err != nil || ledger.LeafHash(raw) != leaf {
				t.Errorf("%s lacks entry %d of the sealed log, which has a receipt: %v", name, index, err)
			}
		}
	}

	// The leader dies in the middle of the next seal.
	leads = a.leader()
	done := make(chan error, 1)
	go func() { _, err := tryCLI(t, "ledger", "seal", "--yes", "--json", "--data", a.path(leads)); done <- err }() // awaited below
	time.Sleep(300 * time.Millisecond)                                                                             // somewhere in the seal; nothing is proved by it
	a.p(leads).kill()
	a.leader(leads)
	t.Logf("the seal that lost its leader says: %v", <-done)
	a.p(leads).start()
	a.whole(3)
	var second party.LedgerStatus
	eventually(t, time.Minute, func() string { // whoever leads now began anew at the border, if it was crossed
		out, err := tryCLI(t, "ledger", "status", "--json", "--data", a.path(a.leader()))
		if err != nil {
			return err.Error()
		}
		decodeInto(t, out, &second)
		return ""
	})
	if n := len(second.Shards); n == 2 {
		next := a.seal()
		author.turn(next.Next)
	} else {
		author.turn(second.Shards[n-1].Origin)
	}
	author.send(t.Context(), 50)
	a.whole(3)
	for name := range a.key {
		author.has(a.log[name])
		a.archived(name, "2")
	}
	shows(t, page, first.Origin, first.Next, author.shard, "✓ <span data-live=\"watch-word\">sound")
}

// beside starts `gridveil verifier` on a log that is read over HTTP, under the
// policy that is stated there now; it gives the policy's file and the page's URL.
func beside(t *testing.T, author *author, log string) (policy, page, dir string) {
	t.Helper()
	dir = t.TempDir()
	policy = filepath.Join(dir, "policy")
	if err := os.WriteFile(policy, []byte(author.policy(log).String()), 0o600); err != nil {
		t.Fatal(err)
	}
	at := "127.0.0.1:" + freePort(t)
	c := exec.Command(binary, "verifier", "--log", "http://"+log, "--policy", policy, "--every", "1s", "--page", at, "--data", filepath.Join(dir, "v"))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return policy, "http://" + at, dir
}

// shows waits until a page holds every text.
func shows(t *testing.T, page string, want ...string) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		resp, err := http.Get(page)
		if err != nil {
			return err.Error()
		}
		b, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return err.Error()
		}
		for _, x := range want {
			if !strings.Contains(string(b), x) {
				return fmt.Sprintf("the page does not show %q:\n%s", x, b)
			}
		}
		return ""
	})
}

// TestASealAsItsUserSeesIt seals the log of one running aggregator by command, with
// a verifier beside it, and asks status, verify and proof before and after.
func TestASealAsItsUserSeesIt(t *testing.T) {
	if !*long {
		t.Skip("real processes for a minute: with -long")
	}
	w, author := alone(t)
	log := "127.0.0.1:" + freePort(t)
	w.p("evagg").stop()
	file := filepath.Join(w.path("evagg"), "gridveil.toml")
	b, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, append(b, fmt.Sprintf("http = %q\n", log)...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.p("evagg").start()
	author.send(t.Context(), 100)
	eventually(t, time.Minute, func() string {
		_, err := tryCLI(t, "ledger", "proof", "90", "--data", w.path("evagg"))
		if err != nil {
			return err.Error()
		}
		return ""
	})
	policy, page, dir := beside(t, author, log)
	shows(t, page, "entries obey the rules")
	ask := func(origin, status string) {
		t.Helper()
		for _, name := range []string{"evagg", "watchdog", "utility-a"} {
			for _, x := range []struct{ command, want string }{{"status", status}, {"verify", "verified " + origin + ": "}, {"proof 3", "index 3\n"}} {
				eventually(t, time.Minute, func() string {
					out, err := tryCLI(t, append(append([]string{"ledger"}, strings.Fields(x.command)...), "--data", w.path(name))...)
					if err != nil || !strings.Contains(out, x.want) {
						return fmt.Sprintf("%s of %s does not say %q: %s, %v", x.command, name, x.want, out, err)
					}
					return ""
				})
			}
			if _, err := tryCLI(t, "ledger", "proof", "100000", "--data", w.path(name)); err == nil || !strings.Contains(err.Error(), "entry 100000 is not final") {
				t.Errorf("a proof beyond the ledger of %s: %v", name, err)
			}
		}
	}
	ask(author.shard, "open, ")
	p := cliJSON[aggregator.SealPlan](t, "ledger", "seal", "--yes", "--json", "--data", w.path("evagg"))
	if !p.Begun || p.Machines != 1 {
		t.Fatalf("sealed: %+v", p)
	}
	author.turn(p.Next)
	author.send(t.Context(), 100)
	shows(t, page, "Logs of this ledger", p.Origin, p.Next, "sealed, sound to its end", fmt.Sprintf(`data-label="Entries">%d<`, p.Entries+1), "✓ <span data-live=\"watch-word\">sound")
	author.has(log)
	ask(p.Next, p.Origin+": sealed, ")
	// Who comes after the seal has the policy of the next log, and ends the same way.
	late, code := once(t, "--log", "http://"+log, "--policy", policy, "--data", filepath.Join(dir, "late"))
	if code != 0 || len(late.Shards) != 1 || late.Origin != p.Next {
		t.Errorf("a verifier with the first log's policy: exit %d, %+v", code, late)
	}
	if err := os.WriteFile(policy, []byte(author.policy(log).String()), 0o600); err != nil {
		t.Fatal(err)
	}
	late, code = once(t, "--log", "http://"+log, "--policy", policy, "--data", filepath.Join(dir, "later"))
	if code != 0 || len(late.Shards) != 1 || late.Origin != p.Next {
		t.Errorf("a verifier with the next log's policy: exit %d, %+v", code, late)
	}
	out := cli(t, "verifier", "--once", "--log", "http://"+log, "--policy", policy, "--data", filepath.Join(dir, "later"))
	if !strings.Contains(out, "before    "+p.Origin+": sealed, ") {
		t.Errorf("it does not name the sealed log:\n%s", out)
	}
	if _, err := tryCLI(t, "ledger", "proof", "100000", "--archive", filepath.Join(w.path("evagg"), "ledger-sealed", "1")); err == nil || !strings.Contains(err.Error(), "gridveil ledger export") {
		t.Errorf("a proof beyond an export: %v", err)
	}
}
