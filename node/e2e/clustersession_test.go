package e2e

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/node/monthly"
	"gridveil/node/web"
)

// look reads a page of a machine as JSON.
func look[T any](a *aggregators, machine, path string) (v T, err error) {
	resp, err := http.Get("http://" + a.page[machine] + path)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return v, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return v, json.NewDecoder(resp.Body).Decode(&v)
}

// entries lists what the leader's pages show of the ledger, newest first.
func (a *aggregators) entries() (list []web.EntryRow, err error) {
	machine, path := a.leader(), "/ledger?format=json"
	for {
		v, err := look[web.Ledger](a, machine, path)
		if err != nil {
			return nil, err
		}
		list = append(list, v.Entries...)
		if v.Older == nil {
			return list, nil
		}
		path = fmt.Sprintf("/ledger?from=%d&format=json", *v.Older)
	}
}

// killLeader kills the machine that leads as a power cut would, waits for another
// one, and starts the first one again.
func (a *aggregators) killLeader(when string) {
	a.t.Helper()
	gone := a.leader()
	a.p(gone).kill()
	a.t.Logf("%s was killed %s, %s leads", gone, when, a.leader(gone))
	a.p(gone).start()
	a.whole(3)
}

// reaches waits until the newest session at the home is in one of these states,
// and gives it.
func (d *day) reaches(states ...string) (found string) {
	d.t.Helper()
	eventually(d.t, 4*time.Minute, func() string {
		host := d.sessions("home")
		for _, s := range states {
			if len(host) > 0 && host[0].State == s {
				found = s
				return ""
			}
		}
		return fmt.Sprintf("host %+v, driver %+v", host, d.sessions("driver"))
	})
	return found
}

// statements are the month of the host and that of the driver.
func (d *day) statements(month string) (host, driver monthly.Statement) {
	return cliJSON[monthly.Statement](d.t, "guest", "statement", "--month", month, "--json", "--data", d.path("home")),
		cliJSON[monthly.Statement](d.t, "wallet", "statement", "--month", month, "--json", "--data", d.path("driver"))
}

// agree holds both sides' statements against each other, n sessions each.
func (d *day) agree(n int, month string) {
	d.t.Helper()
	host, driver := d.statements(month)
	if len(host.Sessions) != n || len(driver.Sessions) != n || host.Unbilled != 0 || driver.Unbilled != 0 {
		d.t.Fatalf("%d sessions on the host's statement, %d on the driver's, %d and %d left out; want %d each", len(host.Sessions), len(driver.Sessions), host.Unbilled, driver.Unbilled, n)
	}
	type amounts struct{ in, out, paid int64 }
	of := map[string]amounts{}
	for _, s := range host.Sessions {
		of[s.ID] = amounts{s.InMWh, s.OutMWh, s.Paid}
	}
	for _, s := range driver.Sessions {
		if got := (amounts{s.InMWh, s.OutMWh, s.Paid}); of[s.ID] != got || got.paid == 0 {
			d.t.Errorf("session %s: the host's statement has %+v, the driver's %+v", s.ID, of[s.ID], got)
		}
	}
	d.t.Logf("both statements: %d sessions, %d mWh, %d millionths paid", n, driver.InMWh, driver.Paid)
}

// settled waits until n sessions are settled in final entries, and wants each once:
// one sealed record for each, and one history on all machines.
func (a *aggregators) settled(d *day, n int) {
	a.t.Helper()
	var list []web.EntryRow
	eventually(a.t, 4*time.Minute, func() (missing string) {
		var err error
		if list, err = a.entries(); err != nil {
			return err.Error()
		}
		count := map[string]int{}
		for _, e := range list {
			if e.Final {
				count[e.Kind]++
			}
		}
		if count["cdr"] > n || count["settle"] > n {
			a.t.Fatalf("%v entries for %d sessions", count, n)
		}
		if count["cdr"] < n || count["settle"] == 0 {
			return fmt.Sprintf("%v final entries for %d sessions", count, n)
		}
		l, err := look[web.Ledger](a, a.leader(), "/ledger?format=json")
		if err != nil {
			return err.Error()
		}
		for _, f := range l.Facts {
			if f.Name == "sessions waiting to be settled:" && f.Value == "0" && l.CosignedSize == l.Size {
				return ""
			}
		}
		return fmt.Sprintf("%d of %d entries final, %+v", l.CosignedSize, l.Size, l.Facts)
	})
	history := &author{t: a.t, receipts: map[uint64]ledger.Hash{}}
	for _, e := range list {
		if e.Kind != "cdr" && e.Kind != "settle" {
			continue
		}
		full, err := look[web.Entry](a, a.leader(), fmt.Sprintf("/ledger/%d?format=json", e.Index))
		leaf, bad := hex.DecodeString(full.Leaf)
		if err != nil || bad != nil || len(leaf) != len(ledger.Hash{}) {
			a.t.Fatalf("entry %d: %v, leaf %q", e.Index, err, full.Leaf)
		}
		history.receipts[e.Index] = ledger.Hash(leaf)
	}
	for name := range a.key {
		history.has(a.log[name])
	}
	for _, name := range []string{a.leader(), "watchdog", "utility-a", "utility-b"} {
		l, err := d.ledgerOf(name)
		if err != nil || l.Equivocations != 0 || l.SumMicro != 0 {
			a.t.Errorf("%s: %v, %d contradictions, the accounts sum to %d", name, err, l.Equivocations, l.SumMicro)
		}
	}
}

// TestASessionOutlivesTheLeader kills the machine that leads while a guest's car
// charges, and again while the record of the session is exchanged, held and
// settled: each session is settled once, on one history, and both sides agree.
func TestASessionOutlivesTheLeader(t *testing.T) {
	if !*long {
		t.Skip("real sessions through five losses of the leader, some minutes: with -long")
	}
	box, toml := newWallbox(t)
	d := &day{town: newTown(t, folk(toml)), box: box}
	d.found()
	d.settle()
	d.givePassword()
	d.connected()
	d.prices()
	d.ledgerFounded()
	a := d.split("evagg", "evagg-b", "evagg-c")
	a.whole(3)
	d.customer()
	month := time.Now().Format("2006-01")
	// The states in which the leader goes, once the car has left.
	rounds := [][]string{{"ended", "signed", "receipted"}, {"signed", "receipted"}, {"receipted"}}
	for n, states := range rounds {
		d.session, d.car = "", nil
		d.pay()
		if n == 0 {
			a.killLeader("while the car charges")
			d.reaches("charging")
		}
		eventually(t, time.Minute, func() string { // enough that it costs something
			if host := d.sessions("home"); host[0].KWhIn < .04 {
				return fmt.Sprintf("%+v", host[0])
			}
			return ""
		})
		d.box.cp.Unplug(time.Now())
		if n == 1 {
			a.killLeader("as the car left")
		}
		a.killLeader("while the session was " + d.reaches(append(states, "paid")...))
		d.reaches("receipted", "paid")
		a.settled(d, n+1)
		d.agree(n+1, month)
	}
}
