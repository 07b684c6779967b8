package aggregator_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/mesh"
	"gridveil/node/aggregator"
	"gridveil/node/ask"
	"gridveil/node/party"
	"gridveil/node/utility"
)

// sealNow runs what `gridveil ledger seal --yes` runs.
func (s *scene) sealNow() (p aggregator.SealPlan) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	p = must(s.evagg().Seal(ctx, ""))
	if p.Sealed || p.Begun || p.Origin == p.Next || p.Entries == 0 {
		s.t.Fatalf("plan: %+v", p)
	}
	return must(s.evagg().Seal(ctx, p.Next))
}

// get fetches what the aggregator serves to everybody.
func (s *scene) get(path string) (int, []byte) {
	s.t.Helper()
	resp, err := http.Get(s.evagg().Outside() + path)
	s.must(err)
	b, err := io.ReadAll(resp.Body)
	s.must(err)
	s.must(resp.Body.Close())
	return resp.StatusCode, b
}

// TestALedgerGoesOnWithOpenBusiness seals the log while a utility is away, a
// session runs, another is not settled, a case is open, notes are out and a
// payment is on its way. All of it ends in the next shard, every cosigner
// follows, and both logs are judged by their files.
func TestALedgerGoesOnWithOpenBusiness(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\nclose_every = 1\nhttp = \"127.0.0.1:0\"\n")
	home := s.places["home"].node.Host.Self().Key
	if _, err := s.utility("utility-a").Open(utility.NewContract{Gateway: home}); err != nil {
		t.Fatal(err)
	}
	x := moveIn(s)
	paid := x.drive(trip{grid: 90_000_000})
	x.mintKeys()
	if earned := x.collect(paid); earned != 28_800_000 {
		t.Fatalf("the host earns %d, want 28.80", earned)
	}
	first := must(s.operators("home").Policy())
	s.eventually("a close", func() bool { return s.kinds()[ledger.KindClose] > 0 })
	due := s.due()
	s.halt("utility-b")
	waits := x.drive(trip{grid: 5_000_000})
	s.eventually("a session that waits for its payer", func() bool { c := s.evagg().Counts(); return c.Posted+c.Proposed == 1 })
	id, err := s.evagg().Dispute([][32]byte{paid.host.Session()}, ledger.CaseHold, ledger.ReasonBilling)
	s.must(err)
	s.eventually("an open case", func() bool { return s.kinds()[ledger.KindDispute] == 1 })
	running := x.open(trip{grid: 30_000_000})

	plan := s.sealNow()
	if !plan.Begun || plan.Waiting != 1 || plan.Cases != 1 || plan.Payments < len(due) {
		t.Errorf("sealed: %+v, %d payments due", plan, len(due))
	}
	for _, name := range []string{"utility-a", "watchdog", "towngrid"} {
		s.eventually(name+" follows", func() bool { return s.copyOf(name) == plan.Next })
	}

	// What was open ends in the next shard.
	s.run("utility-b")
	s.eventually("the utility that was away follows", func() bool { return s.copyOf("utility-b") == plan.Next })
	s.eventually("the case as the next shard knows it", func() bool { return s.caseView(id).Opened != time.Time{} })
	s.must(s.evagg().EndCase(id))
	x.end(running, trip{grid: 30_000_000})
	s.eventually("all settled", func() bool { return s.evagg().Counts() == settle.Counts{} })
	x.redeemAtHome(home)
	s.eventually("the home hears where the ledger goes on", func() bool {
		p, err := s.operators("home").Policy()
		return err == nil && len(p.Shards) == 1
	})
	for v, want := range map[*visit]int64{waits: 1_600_000, running: 9_600_000} {
		if got := x.collect(v); got != want {
			t.Errorf("a session earns %d, want %d", got, want)
		}
	}
	if len(due) > 0 {
		p := s.utility("utility-a").Party()
		d := due[0]
		s.must(p.Post(sha256.Sum256([]byte("paid")), &ledger.Paid{Period: d.Period, Cur: d.Cur, No: d.No, BankRef: ledger.Hash{1}}))
	}
	s.evagg().Read(func(st *ledger.State) { s.must(st.Audit()) })

	// The sealed log is flat files, served as before.
	one := filepath.Join(s.places["evagg"].dir, "ledger-sealed", "1")
	for _, name := range []string{"evagg", "watchdog", "utility-b"} {
		dir := s.places[name].dir
		s.eventually("flat files and no store at "+name, func() bool {
			_, files := os.Stat(filepath.Join(dir, "ledger-sealed", "1", "manifest"))
			_, store := os.Stat(filepath.Join(dir, "ledger"))
			return files == nil && os.IsNotExist(store)
		})
	}
	if l := s.evagg().Ledger(0); len(l.Shards) != 2 || l.Shards[0].Value != fmt.Sprintf("sealed, %d entries from number 0 on, flat files in %s", list0(s), one) {
		t.Errorf("the page says: %+v", l.Shards)
	}
	hash := ledger.OriginHash(plan.Origin)
	for _, path := range []string{"checkpoint", "tile/entries/000.p/1", "tile/0/000.p/3", "proof/0"} {
		if code, b := s.get(fmt.Sprintf("/%x/%s", hash, path)); code != http.StatusOK || len(b) == 0 {
			t.Errorf("%s of the sealed log: status %d, %d bytes", path, code, len(b))
		}
	}
	if code, _ := s.get(fmt.Sprintf("/%x/proof/%d", hash, plan.Entries+9)); code != http.StatusNotFound {
		t.Errorf("proof beyond the sealed log: status %d", code)
	}
	var early *party.NotFinalError
	if _, err := s.evagg().Proof(1 << 40); !errors.As(err, &early) || early.Final <= plan.Entries || !strings.Contains(err.Error(), "gridveil ledger status") {
		t.Errorf("proof beyond the ledger: %v", err)
	}
	two := filepath.Join(t.TempDir(), "export")
	s.eventually("an export of the next shard", func() bool { _, err := s.evagg().Export(two); return err == nil })
	list, err := export.VerifyShards([]string{one, two}, first)
	if err != nil || len(list) != 2 || list[0].Sealed != plan.Next || list[1].After != plan.Origin {
		t.Fatalf("archives: %+v, %v", list, err)
	}
	s.restart("evagg")
	s.restart("watchdog")
	s.eventually("the next shard after a restart", func() bool { return s.copyOf("watchdog") == plan.Next && s.evagg().Ledger(0).Origin == plan.Next })
}

// list0 is the size of the sealed log.
func list0(s *scene) (n uint64) {
	s.evagg().Read(func(st *ledger.State) { n = st.Base() })
	return n
}

// due lists payments that are on their way to utility-a.
func (s *scene) due() (list []ledger.Payment) {
	s.evagg().Read(func(st *ledger.State) {
		for _, p := range st.Payments(0) {
			if p.State == ledger.PayDue && p.Payee == s.utility("utility-a").Party().ID() {
				list = append(list, p)
			}
		}
	})
	return list
}

// copyOf is the log that an operator follows, once part of it is final there.
func (s *scene) copyOf(name string) (origin string) {
	switch r := s.places[name].node.Role.(type) {
	case *utility.Utility:
		if l := r.Party().Ledger(0); l.Checkpoint != "" {
			return l.Origin
		}
	default:
		if l := s.verifier(name).Ledger(0); l.Checkpoint != "" {
			return l.Origin
		}
	}
	return ""
}

// redeemAtHome brings a step of notes home to the bill of a contract.
func (x *street) redeemAtHome(home [32]byte) {
	s := x.s
	s.t.Helper()
	x.swap()
	handle := ask.Contract(s.places["home"].node.Env.ID.Bundle.Network, home)
	s.eventually("the home's utility in the directory", func() bool { _, err := s.operators("home").Utility("northgrid"); return err == nil })
	u := must(s.operators("home").Utility("northgrid"))
	b, err := s.asks("home", u.Key, mesh.Notes, ask.Account, []byte{byte(ask.Currency >> 8), byte(ask.Currency & 255)})
	s.must(err)
	op := must(x.purse.RedeemStep(s.clock.Now(), ask.Currency, uint32(must(ask.ParseAccount(b))), handle[:]))
	if _, err := s.asks("home", u.Key, mesh.Notes, ask.Redeem, ask.RedeemBody(handle, must(x.purse.RedeemRequest(op.ID)).Bytes())); err != nil {
		s.t.Fatalf("redeem: %v", err)
	}
	if credit := must(s.utility("utility-a").Credits(home)); credit != 20_000_000 {
		s.t.Errorf("credit on the bill: %d, want 20.00", credit)
	}
}
