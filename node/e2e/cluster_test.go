package e2e

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/writer"
	"gridveil/node"
	"gridveil/node/ask"
	"gridveil/node/identity"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/store"
	"gridveil/privacy"
)

// aggregators are the machines that are one aggregator.
type aggregators struct {
	*town
	pristine string            // the folder as it was when the node stopped being alone
	address  map[string]string // of each machine's listener
	log      map[string]string // where each machine serves the log
	page     map[string]string // where each machine serves its pages
	key      map[string]string
}

// split turns the node of one machine into one of several: it is stopped, its
// folder is copied, and each machine gets a key.
func (w *town) split(name string, others ...string) *aggregators {
	w.p(name).stop()
	a := &aggregators{town: w, pristine: w.path("pristine"), address: map[string]string{}, log: map[string]string{}, page: map[string]string{}, key: map[string]string{}}
	a.copyTo(w.path(name), a.pristine)
	machines := append([]string{name}, others...)
	for _, m := range machines {
		a.prepare(m)
	}
	for _, m := range machines {
		a.configure(m, machines)
		w.running[m].start()
	}
	return a
}

func (a *aggregators) copyTo(from, to string) {
	a.t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if !d.Type().IsRegular() || rel == "log" || rel == identity.MachineFile {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		a.t.Fatal(err)
	}
}

// prepare makes a machine's folder and key.
func (a *aggregators) prepare(name string) {
	if _, err := os.Stat(a.path(name)); errors.Is(err, fs.ErrNotExist) {
		a.copyTo(a.pristine, a.path(name))
		a.cast = append(a.cast, citizen{name: name})
	}
	a.key[name] = cli(a.t, "ledger", "cluster", "key", "--data", a.path(name))
	for _, at := range []map[string]string{a.address, a.log, a.page} {
		at[name] = "127.0.0.1:" + freePort(a.t)
	}
	a.running[name] = &process{t: a.t, name: name, dir: a.path(name)}
}

// configure writes what a machine has to know beyond the copied file.
func (a *aggregators) configure(name string, founders []string) {
	file := filepath.Join(a.path(name), "gridveil.toml")
	b, err := os.ReadFile(filepath.Join(a.pristine, "gridveil.toml"))
	if err != nil {
		a.t.Fatal(err)
	}
	var members []string
	for _, m := range founders {
		members = append(members, fmt.Sprintf("%q", a.key[m]+" "+a.address[m]))
	}
	text := strings.Replace(string(b), `listen = "off"`, fmt.Sprintf("listen = %q", a.page[name]), 1)
	at := strings.Index(text, "listen = [\"/ip4")
	end := at + strings.Index(text[at:], "\n")
	text = text[:at] + fmt.Sprintf("listen = [\"/ip4/127.0.0.1/tcp/%s\"]", freePort(a.t)) + text[end:] +
		fmt.Sprintf("http = %q\n[ledger.cluster]\naddress = %q\nmembers = [%s]\nelection = \"1s\"\n", a.log[name], a.address[name], strings.Join(members, ", "))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	cli(a.t, "config", "check", "--data", a.path(name))
}

// status is how a machine sees the cluster.
func (a *aggregators) status(name string) (s node.ClusterStatus, err error) {
	err = node.AskCluster(a.t.Context(), a.path(name), "cluster-status", nil, &s)
	return s, err
}

// leader waits for the machine that leads, none of those given.
func (a *aggregators) leader(not ...string) (found string) {
	a.t.Helper()
	eventually(a.t, time.Minute, func() string {
		for name, key := range a.key {
			if slices.Contains(not, name) || a.running[name].cmd == nil {
				continue
			}
			if s, err := a.status(name); err == nil && s.Leader == key {
				found = name
				return ""
			}
		}
		return "nobody leads"
	})
	return found
}

// whole waits until the leader sees n machines that all have everything.
func (a *aggregators) whole(n int) {
	a.t.Helper()
	eventually(a.t, time.Minute, func() string {
		s, err := a.status(a.leader())
		if err != nil {
			return err.Error()
		}
		for _, m := range s.Members {
			// What is decided while the machines are asked one of them may lack.
			if !m.Answers || !m.Leads && m.Behind > 20 || strings.Contains(m.Standing, "takes over") {
				return fmt.Sprintf("%+v", m)
			}
		}
		if len(s.Members) != n {
			return fmt.Sprintf("%d members, want %d", len(s.Members), n)
		}
		return ""
	})
}

// author is an operator that enters transfers from inside the test.
type author struct {
	t      *testing.T
	key    ed25519.PrivateKey
	origin string // of the ledger
	shard  string // log that takes entries now
	client writer.Client
	party  ledger.PartyID
	pub    ledger.Hash // what receipts are signed with

	mu       sync.Mutex
	seq      uint64
	batch    int
	refused  error // the newest refusal
	receipts map[uint64]ledger.Hash
	longest  time.Duration // between two receipts
}

// authorOf makes a stopped operator's node one inside the test.
func (w *town) authorOf(name, aggregator string, p ledger.PartyID) *author {
	w.t.Helper()
	mk, err := store.LoadKey(filepath.Join(w.path(name), "store.key"))
	if err != nil {
		w.t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(w.path(name), "store"), mk, store.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	a := &author{t: w.t, party: p, seq: 1, batch: 8, receipts: map[uint64]ledger.Hash{}}
	if a.key, err = keys.NewRing(st, nil, privacy.SuiteX25519).Signer(keys.Entry, time.Now()); err != nil {
		w.t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		w.t.Fatal(err)
	}
	agg, err := identity.Load(w.path(aggregator), time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	g := w.join(name, nil)
	a.origin = ask.LedgerOrigin(agg.Bundle.Network, agg.Member.Operator)
	a.shard = a.origin
	tr := party.Transport(g.host)
	w.t.Cleanup(tr.CloseIdleConnections)
	a.client = writer.Client{URL: party.URL(agg.Member, party.LogDoor), HTTP: &http.Client{Transport: tr, Timeout: 10 * time.Second}}
	eventually(w.t, time.Minute, func() string {
		for _, h := range (keys.Directory{Host: g.host}).All(agg.Member.Role, "") {
			if pub, ok := h.Sheet.Find(keys.Receipt, 0); ok {
				a.pub = ledger.Hash(pub)
				return ""
			}
		}
		return "the aggregator's keys are not known"
	})
	return a
}

// send enters n transfers, the same bytes until each has its receipt.
func (a *author) send(ctx context.Context, n int) {
	for n > 0 && ctx.Err() == nil {
		raw := a.next(min(n, a.batch))
		began := time.Now()
		for len(raw) > 0 && ctx.Err() == nil {
			if time.Since(began) > time.Minute {
				a.t.Errorf("no receipts for a minute: %v", a.refused)
				return
			}
			results, err := a.client.Submit(ctx, raw)
			if err != nil {
				a.mu.Lock()
				a.refused = err
				a.mu.Unlock()
				time.Sleep(20 * time.Millisecond) // the service is away: the same bytes again
				continue
			}
			left := a.count(raw, results)
			n -= len(raw) - len(left)
			if len(left) > 0 && len(left) == len(raw) {
				time.Sleep(20 * time.Millisecond)
			}
			raw = left
		}
		a.longest = max(a.longest, time.Since(began))
	}
}

func (a *author) next(n int) (raw [][]byte) {
	for i := range uint64(n) {
		e, err := ledger.NewEntry(a.party, a.seq+i, &ledger.Transfer{From: ledger.OpenAccount(a.party, 0), To: ledger.OpenAccount(2, 0), X: 1, Purpose: ledger.PurposeFee})
		if err == nil {
			err = ledger.Sign(e, a.origin, a.key)
		}
		if err != nil {
			a.t.Error(err)
			return nil
		}
		raw = append(raw, e.Bytes())
	}
	return raw
}

// count keeps the receipts and gives what has none.
func (a *author) count(raw [][]byte, results []writer.Result) (left [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, r := range results {
		var gap *ledger.SeqGapError
		switch {
		case r.Err == nil:
			if err := r.Receipt.Verify(a.shard, a.pub); err != nil {
				a.t.Errorf("receipt: %v", err)
			}
			leaf := ledger.LeafHash(raw[i])
			if was, known := a.receipts[r.Receipt.Index]; known && was != leaf || r.Receipt.Leaf != leaf {
				a.t.Errorf("two entries have a receipt for index %d", r.Receipt.Index)
			}
			a.receipts[r.Receipt.Index] = leaf
			a.seq++
		case errors.As(r.Err, &gap) && len(a.receipts) == 0:
			a.seq = gap.Want // what this operator entered before
			return nil
		case errors.Is(r.Err, ledger.ErrSeqOld) || errors.As(r.Err, new(*ledger.SeqConflictError)):
			if len(a.receipts) > 0 {
				a.t.Errorf("the number of an own entry is taken: %v", r.Err)
			}
			a.seq++
			return nil
		default:
			a.refused = r.Err
			left = append(left, raw[i])
		}
	}
	return left
}

// policy is what a machine states at its log's door.
func (a *author) policy(log string) *ledger.Policy {
	a.t.Helper()
	resp, err := http.Get("http://" + log + "/policy")
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	text := new(strings.Builder)
	if err := resp.Write(text); err != nil {
		a.t.Fatal(err)
	}
	_, body, _ := strings.Cut(text.String(), "\r\n\r\n")
	policy, err := ledger.ParsePolicy([]byte(body))
	if err != nil {
		a.t.Fatalf("policy of %s: %v\n%s", log, err, body)
	}
	return policy
}

// has wants every receipt's entry in the final log that a machine serves.
func (a *author) has(log string) {
	a.t.Helper()
	policy := a.policy(log)
	c := writer.Client{URL: "http://" + log}
	for index, leaf := range a.receipts {
		eventually(a.t, time.Minute, func() string {
			p, err := c.Proof(a.t.Context(), index)
			if err == nil {
				_, err = p.Verify(policy, leaf)
			}
			if err != nil {
				return fmt.Sprintf("entry %d, which has a receipt, at %s: %v", index, log, err)
			}
			return ""
		})
	}
}

// alone is a town with an aggregator on one machine, and an author of entries.
func alone(t *testing.T) (*town, *author) {
	w := newTown(t, []citizen{
		{name: "utility-a", role: "utility", operator: "northgrid", founder: true},
		{name: "utility-b", role: "utility", operator: "southpower", founder: true},
		{name: "evagg", role: "aggregator", operator: "evagg", founder: true, toml: "[ledger]\nbucket = \"1m\"\nfounders = [\"northgrid\", \"southpower\", \"watchdog\"]\n"},
		{name: "watchdog", role: "verifier", operator: "watchdog", founder: true},
		{name: "ssn-mill", role: "ssn", operator: "towngrid", zone: "mill", founder: true},
	})
	w.found()
	w.settle()
	(&day{town: w}).ledgerFounded()
	w.p("utility-b").stop()
	return w, w.authorOf("utility-b", "evagg", 3)
}

// TestReceiptsOfThreeMachinesAgainstOne is the price of the cluster, with all of
// it on this machine.
func TestReceiptsOfThreeMachinesAgainstOne(t *testing.T) {
	if !*long {
		t.Skip("a measurement: with -long")
	}
	w, author := alone(t)
	sizes := []int{64, 512}
	rates := func() (out []float64) {
		author.send(t.Context(), 64) // connected, and numbered
		for _, n := range sizes {
			author.batch = n
			began := time.Now()
			author.send(t.Context(), 4096)
			out = append(out, 4096/time.Since(began).Seconds())
		}
		return out
	}
	one := rates()
	w.split("evagg", "evagg-b", "evagg-c").whole(3)
	for i, rate := range rates() {
		t.Logf("batches of %d: three machines give %.2f of the receipts a second of one (%.0f, %.0f)", sizes[i], rate/one[i], rate, one[i])
	}
}

// shown checks what people see of a cluster: on the pages, and by command.
func (a *aggregators) shown(leads, other string) {
	a.t.Helper()
	page := func(name, path string) string {
		resp, err := http.Get("http://" + a.page[name] + path)
		if err != nil {
			a.t.Fatal(err)
		}
		text := new(strings.Builder)
		if err := errors.Join(resp.Write(text), resp.Body.Close()); err != nil {
			a.t.Fatal(err)
		}
		return text.String()
	}
	for name, want := range map[string]string{leads: "Machines of this aggregator", other: "The machine at " + a.address[leads] + " leads"} {
		if text := page(name, "/ledger"); !strings.Contains(text, want) {
			a.t.Errorf("the page of %s does not say %q:\n%s", name, want, text)
		}
	}
	eventually(a.t, time.Minute, func() string {
		text := page(other, "/")
		for _, want := range []string{"stands by; the machine at " + a.address[leads] + " leads", "✓ has everything", a.address[other], "this machine"} {
			if !strings.Contains(text, want) {
				return fmt.Sprintf("the page of a machine that stands by does not say %q:\n%s", want, text)
			}
		}
		return ""
	})
	if out := cli(a.t, "status", "--data", a.path(other)); !strings.Contains(out, "this machine stands by") {
		a.t.Errorf("status of a machine that stands by:\n%s", out)
	}
	if out := cli(a.t, "doctor", "--data", a.path(other)); !strings.Contains(out, "ok       cluster") {
		a.t.Errorf("doctor of a machine that stands by:\n%s", out)
	}
	if out := cli(a.t, "ledger", "cluster", "status", "--data", a.path(leads)); !strings.Contains(out, "leads (this machine)") {
		a.t.Errorf("status of the cluster:\n%s", out)
	}
}

// TestThreeMachinesAreOneAggregator kills the machine that leads under load, and
// replaces one by command.
func TestThreeMachinesAreOneAggregator(t *testing.T) {
	if testing.Short() {
		t.Skip("real processes for half a minute: left out with -short")
	}
	kills, each := 1, 200
	if *long {
		kills, each = 20, 600
	}
	w, author := alone(t)
	author.send(t.Context(), each/2) // what one machine took, the others take over
	a := w.split("evagg", "evagg-b", "evagg-c")
	if got := a.leader(); got != "evagg" {
		t.Errorf("%s leads first, not the machine that founded the cluster", got)
	}
	a.whole(3)
	a.shown("evagg", "evagg-b")
	author.send(t.Context(), each/2)
	var back []time.Duration
	for i := range kills {
		done := make(chan struct{})
		go func() { // awaited below
			defer close(done)
			author.send(t.Context(), each)
		}()
		time.Sleep(time.Duration(i*37%500) * time.Millisecond) // somewhere in the load; nothing is proved by it
		gone := a.leader()
		began := time.Now()
		a.p(gone).kill()
		now := a.leader(gone)
		<-done
		back = append(back, time.Since(began))
		t.Logf("%s was killed, %s leads", gone, now)
		a.p(gone).start()
		a.whole(3)
	}
	// A machine is replaced.
	a.prepare("evagg-d")
	a.configure("evagg-d", []string{"evagg", "evagg-b", "evagg-c"})
	a.p("evagg-d").start()
	leads := a.leader()
	cli(t, "ledger", "cluster", "add", a.key["evagg-d"], a.address["evagg-d"], "--data", a.path(leads))
	a.whole(4)
	gone := "evagg-c"
	if leads == gone {
		gone = "evagg-b"
	}
	if _, err := tryCLI(t, "ledger", "cluster", "remove", a.address[gone], "--data", a.path(gone)); err == nil || !strings.Contains(err.Error(), "only the machine that leads") {
		t.Errorf("a machine that stands by changes the cluster: %v", err)
	}
	cli(t, "ledger", "cluster", "remove", a.address[gone], "--data", a.path(leads))
	a.p(gone).kill()
	delete(a.key, gone)
	author.send(t.Context(), each/2)
	a.whole(3)
	for name := range a.key {
		author.has(a.log[name])
	}
	for _, name := range []string{"utility-a", "watchdog"} { // they follow whoever leads
		eventually(t, time.Minute, func() string {
			l, err := (&day{town: a.town}).ledgerOf(name)
			if err != nil {
				return err.Error()
			}
			if l.Equivocations != 0 {
				t.Errorf("%s sees %d contradictions", name, l.Equivocations)
			}
			if max := slices.Max(receiptsOf(author)); l.CosignedSize <= max {
				return fmt.Sprintf("%s has %d final entries, the last receipt is for %d", name, l.CosignedSize, max)
			}
			return ""
		})
	}
	t.Logf("%d receipts, none lost; load through each of %d kills took %v, the longest wait for receipts %v", len(author.receipts), kills, back, author.longest.Round(time.Millisecond))
}

func receiptsOf(a *author) (list []uint64) {
	for i := range a.receipts {
		list = append(list, i)
	}
	return list
}
