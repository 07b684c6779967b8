package e2e

import (
	"os"
	"path/filepath"
	"strings"
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
}
