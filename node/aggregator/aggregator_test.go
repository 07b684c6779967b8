package aggregator_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/ev/pool"
	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/node/ask"
	"gridveil/node/party"
	"gridveil/node/signal"
	"gridveil/node/utility"
	"gridveil/privacy/committee"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// TestSessionBecomesACosignedEntryAndNotes is the thinnest thread: authorised,
// settled, entered, signed by the payer, cosigned, billed, collected, swapped and
// redeemed, all between real nodes.
func TestSessionBecomesACosignedEntryAndNotes(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\n")
	x := moveIn(s)
	v := x.drive(trip{grid: 52_000_000, res: 8_000_000})
	s.eventually("a cosigned settlement", func() bool {
		l := s.evagg().Ledger(0)
		return s.kinds()[ledger.KindSettle] == 1 && l.CosignedSize == l.Size
	})
	x.mintKeys()
	earned := x.collect(v)
	if earned != 18_080_000 {
		t.Errorf("the host earns %d, want 18.08", earned)
	}
	if again := s.kinds(); again[ledger.KindCDR] != 1 || again[ledger.KindIssue] != 1 {
		t.Errorf("entries: %v", again)
	}
	reply, err := x.hand(v, v.settle)
	if err != nil || len(reply) == 0 {
		t.Errorf("a repeated record: %v", err)
	}
	s.eventually("the driver's bill", func() bool {
		b, err := s.utility("utility-b").DriverBill(x.driverKey())
		return err == nil && len(b.Lines) == 1 && b.Total == 18_080_000+900_000 && b.Lines[0].In == 60_000_000
	})
	bent := append([]byte(nil), v.settle...)
	bent[len(bent)-1] ^= 1
	service, op := route(bent)
	if _, err := s.asks("home", s.seenBy("home").Key, service, op, bent); refusedWith(err) != nil {
		t.Errorf("other bytes for a settled session: %v", err)
	}
	if err := refusedWith(lastOf(s.asks("home", s.seenBy("home").Key, mesh.EVRecord, ask.Settle, v.auth))); err != nil {
		t.Errorf("an AuthReq as record: %v", err)
	}
}

// TestNotesComeHome collects, swaps and redeems what a session earned, and finds
// it as a credit on the home's ordinary bill. A step that was spent before is
// refused.
func TestNotesComeHome(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\n")
	home := s.places["home"].node.Host.Self().Key
	if _, err := s.utility("utility-a").Open(utility.NewContract{Gateway: home}); err != nil {
		t.Fatal(err)
	}
	x := moveIn(s)
	v := x.drive(trip{grid: 90_000_000})
	x.mintKeys()
	if earned := x.collect(v); earned != 28_800_000 {
		t.Fatalf("the host earns %d, want 28.80", earned)
	}
	x.swap()
	handle := ask.Contract(s.places["home"].node.Env.ID.Bundle.Network, home)
	s.eventually("the home's utility in the directory", func() bool { _, err := s.operators("home").Utility("northgrid"); return err == nil })
	u := must(s.operators("home").Utility("northgrid"))
	b, err := s.asks("home", u.Key, mesh.Notes, ask.Account, []byte{byte(ask.Currency >> 8), byte(ask.Currency & 255)})
	s.must(err)
	account := must(ask.ParseAccount(b))
	stored := x.purse.Bytes()
	op := must(x.purse.RedeemStep(s.clock.Now(), ask.Currency, uint32(account), handle[:]))
	body := ask.RedeemBody(handle, must(x.purse.RedeemRequest(op.ID)).Bytes())
	if _, err := s.asks("home", u.Key, mesh.Notes, ask.Redeem, body); err != nil {
		t.Fatalf("redeem: %v", err)
	}
	if credit := must(s.utility("utility-a").Credits(home)); credit != 20_000_000 {
		t.Errorf("credit on the bill: %d, want 20.00", credit)
	}
	thief := must(note.OpenWallet([32]byte{3}, must(s.operators("home").Origin()), stored))
	other := must(thief.RedeemStep(s.clock.Now(), ask.Currency, uint32(account), append([]byte(nil), handle[:]...)))
	again := ask.RedeemBody(handle, must(thief.RedeemRequest(other.ID)).Bytes())
	if string(again) != string(body) {
		if err := refusedWith(lastOf(s.asks("home", u.Key, mesh.Notes, ask.Redeem, again))); err != nil {
			t.Errorf("the same notes again: %v", err)
		}
	}
	bent := append([]byte(nil), body...)
	bent[0] ^= 1
	if err := refusedWith(lastOf(s.asks("home", u.Key, mesh.Notes, ask.Redeem, bent))); err != nil {
		t.Errorf("redeem for another contract: %v", err)
	}
}

// TestExportStandsAlone verifies an export by its files, with the policy that a
// home knows.
func TestExportStandsAlone(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\nclose_every = 1\n")
	x := moveIn(s)
	x.drive(trip{grid: 30_000_000})
	s.eventually("a close", func() bool { return s.kinds()[ledger.KindClose] > 0 && s.kinds()[ledger.KindSettle] == 1 })
	s.eventually("a payment file", func() bool {
		dir := t.TempDir() + "/export"
		r, err := s.evagg().Export(dir)
		if err != nil {
			t.Logf("export: %v", err)
			return false
		}
		if _, err := export.Verify(dir, must(s.operators("home").Policy())); err != nil {
			t.Fatalf("verify: %v", err)
		}
		files, _ := filepath.Glob(dir + "/payments/*.xml")
		return r.Kinds["close"] > 0 && len(files) > 0
	})
}

func lastOf(_ []byte, err error) error { return err }

// TestDisputeOpensExactlyOneSession runs a whole case between real operators: the
// attempt is on the ledger before anything is shown, two seats open nothing, three
// name the contract to its utility alone, and the other session stays closed.
func TestDisputeOpensExactlyOneSession(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\nnotice = \"10s\"\n")
	x := moveIn(s)
	one, two := x.drive(trip{grid: 10_000_000}), x.drive(trip{grid: 20_000_000})
	s.eventually("settled sessions", func() bool { return s.kinds()[ledger.KindSettle] > 0 && s.evagg().Counts().Queued == 0 })
	id, err := s.evagg().Dispute([][32]byte{one.host.Session()}, ledger.CaseOpen, ledger.ReasonLawful)
	s.must(err)
	s.sees(one.cert.Ref(), true)
	s.sees(two.cert.Ref(), false)

	seats := []*party.Party{s.utility("utility-a").Party(), s.verifier("watchdog").Party, s.verifier("towngrid").Party}
	s.eventually("the case file at every seat", func() bool {
		for _, p := range seats {
			if _, err := p.Seat().File(id); err != nil {
				return false
			}
		}
		return true
	})
	word := committee.NewStatement(s.places["home"].node.Net, &one.me, id, false, uint16(ledger.ReasonLawful))
	if _, err := s.asks("driver", s.seenBy("driver").Key, mesh.Dispute, ask.Statement, word.Bytes()); err != nil {
		t.Errorf("the driver's word: %v", err)
	}
	s.must(seats[0].Seat().Vote(id, true))
	s.must(seats[1].Seat().Vote(id, true))
	if err := seats[0].Seat().Vote(id, false); err == nil {
		t.Error("a seat changed its vote")
	}
	s.eventually("two votes", func() bool { return len(s.caseView(id).Approvals) == 2 })
	if c := s.caseView(id); len(c.Partials) != 0 || c.Answer != "" {
		t.Errorf("two seats of three: %+v", c)
	}
	s.must(seats[2].Seat().Vote(id, true))
	s.eventually("the answer", func() bool { return s.caseView(id).Answer != "" })
	handle := ask.Contract(s.places["home"].node.Env.ID.Bundle.Network, x.driverKey())
	if got := must(s.utility("utility-b").Opened(id)); len(got) != 1 || got[0] != fmt.Sprintf("%x", handle) {
		t.Errorf("opened %v, want the driver's contract", got)
	}
	if got := must(s.utility("utility-a").Opened(id)); len(got) != 0 {
		t.Error("the host's utility learned a contract")
	}
	s.must(s.evagg().EndCase(id))
	s.eventually("the end", func() bool { return s.kinds()[ledger.KindEnd] == 1 })
	n := s.kinds()
	if n[ledger.KindDispute] != 1 || n[ledger.KindApprove] != 3 || n[ledger.KindPartial] != 3 || n[ledger.KindResult] != 1 {
		t.Errorf("entries of the case: %v", n)
	}
	if _, err := s.evagg().Dispute([][32]byte{two.host.Session()}, ledger.CaseOpen, ledger.ReasonLawful); err != nil {
		t.Error(err)
	}
	s.eventually("everything settled", func() bool { return s.kinds()[ledger.KindCDR] == 2 && s.evagg().Counts() == settle.Counts{} })
	if n := s.kinds()[ledger.KindDispute]; n != 1 {
		t.Errorf("%d disputes, the month allows one session", n)
	}
}

// sees asks for the open cases as wallets do, until ref is or is not among them.
func (s *scene) sees(ref [32]byte, want bool) {
	s.t.Helper()
	s.eventually("the wallet's look at open cases", func() bool {
		b, err := s.asks("driver", s.seenBy("driver").Key, mesh.Dispute, ask.Cases, nil)
		s.must(err)
		found := false
		for _, c := range must(ask.ParseCases(b)) {
			found = found || c.Ref == ref
		}
		return found == want
	})
}

func (s *scene) caseView(id ledger.CaseID) party.CaseView {
	for _, v := range must(s.evagg().Cases()) {
		if v.ID == fmt.Sprintf("%x", id[:]) {
			return v
		}
	}
	return party.CaseView{}
}

// TestKilledAggregatorLosesAndPaysNothingTwice stops the aggregator at several
// points of its work and starts it again.
func TestKilledAggregatorLosesAndPaysNothingTwice(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\n")
	x := moveIn(s)
	v := x.open(trip{grid: 30_000_000})
	s.restart("evagg")
	x.end(v, trip{grid: 30_000_000})
	s.restart("evagg")
	s.eventually("the settlement", func() bool { return s.kinds()[ledger.KindSettle] == 1 })
	s.restart("evagg")
	s.restart("utility-b")
	x.mintKeys()
	if earned := x.collect(v); earned != 9_600_000 {
		t.Errorf("the host earns %d, want 9.60", earned)
	}
	s.restart("evagg")
	reply, err := x.hand(v, v.settle)
	if err != nil || len(reply) == 0 {
		t.Errorf("the record again: %v", err)
	}
	w := x.drive(trip{res: 5_000_000})
	s.halt("utility-b")
	second := x.drive(trip{grid: 5_000_000})
	s.eventually("the second session waiting", func() bool { c := s.evagg().Counts(); return c.Queued+c.Posted+c.Proposed >= 1 })
	s.run("utility-b")
	s.eventually("all settled", func() bool { return s.evagg().Counts() == settle.Counts{} })
	if a, b := x.collect(w), x.collect(second); a != 900_000 || b != 1_600_000 {
		t.Errorf("later sessions earn %d and %d", a, b)
	}
	n := s.kinds()
	if n[ledger.KindGenesis] != 1 || n[ledger.KindCDR] != 3 || n[ledger.KindDenoms] != 1 || n[ledger.KindKey] != 1+2*2 || n[ledger.KindAnchor] != 2 {
		t.Errorf("entries: %v", n)
	}
	s.eventually("the driver's bill", func() bool {
		b, err := s.utility("utility-b").DriverBill(x.driverKey())
		return err == nil && len(b.Lines) == 3 && b.Total == 9_600_000+450_000+900_000+70_000+1_600_000+70_000
	})
	s.evagg().Read(func(st *ledger.State) { s.must(st.Audit()) })
}

func (s *scene) restart(name string) {
	s.t.Helper()
	s.halt(name)
	s.run(name)
}

// TestInstructionIsDispatchedProvedAndPaid lets a charging car sell a quarter of
// an hour of less power to the operator of its grid.
func TestInstructionIsDispatchedProvedAndPaid(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\n")
	x := moveIn(s)
	v := x.open(trip{grid: 1, shown: true})
	from := s.clock.Now().Add(3 * time.Minute).Truncate(15 * time.Minute).Add(15 * time.Minute)
	flex := x.flexOf(v, must(ocmf.NewKey(v.evidence.MeterKey)).Hash(), from)
	evagg := s.seenBy("home").Key
	b, err := s.asks("home", evagg, mesh.EVRecord, ask.Flex, flex.Encode())
	s.must(err)
	line := must(signal.ParseLine(b))
	forged := *flex
	forged.Envelopes[0].UpW = 3500
	if err := refusedWith(lastOf(s.asks("home", evagg, mesh.EVRecord, ask.Flex, forged.Encode()))); err != nil {
		t.Errorf("an altered offer: %v", err)
	}
	s.eventually("the anchored plans", func() bool { return s.kinds()[ledger.KindAnchor] == 2+1 }) // beside the keys of two weeks
	if bids := must(s.evagg().Bids()); len(bids) != pool.Slots || bids[0].UpW < 1000 {
		t.Errorf("bids: %+v", bids)
	}
	release := s.clock.Hold() // the event must not pass while a busy machine sends
	defer release()
	_, err = s.utility("utility-a").Instruct("elm", from, from.Add(15*time.Minute), 2000, 400_000)
	s.must(err)
	if _, err := s.utility("utility-b").Instruct("elm", from, from.Add(15*time.Minute), 2000, 400_000); err == nil {
		t.Error("an operator instructed in another one's grid")
	}
	s.eventually("the control at the home", func() bool {
		e, ok := s.places["home"].node.Host.Register(gossip.KindControl, evagg, line.Key.Tag(line.Next))
		if !ok {
			return false
		}
		c, err := line.Key.Open(line.Next, e.Body)
		return err == nil && c.SetW == 2000 && c.Open == v.host.Session()
	})
	release()
	s.eventually("the end of the event", func() bool { return s.clock.Now().After(from.Add(16 * time.Minute)) })
	v.end = s.clock.Now()
	took := v.end.Sub(v.begin).Milliseconds()
	x.end(v, trip{grid: 4000*took/3600 - 2000*900_000/3600})
	s.eventually("the pay", func() bool {
		e := must(s.evagg().Events())
		return len(e) == 1 && e[0].State == "paid"
	})
	e := must(s.evagg().Events())[0]
	if e.Delivered < 499_900 || e.Received < 390_000 || e.Received > 400_000 || e.Kept < 40_000 || e.Kept > 50_000 {
		t.Errorf("event: %+v, want everything delivered but for rounding, 0.40 received, 0.05 kept, to a cent", e)
	}
	s.evagg().Read(func(st *ledger.State) {
		s.must(st.Audit())
		if x := st.Balance(ledger.EarnedAccount(0)); x < 340_000 {
			t.Errorf("households earned %d, want 0.35 of it", x)
		}
	})
	x.collectShares(v, e.Received-e.Kept)
}

// flexOf is a session's offer behind a meter that the grid's operator certifies.
func (x *street) flexOf(v *visit, meter [32]byte, from time.Time) *pool.Flex {
	cert := must(x.s.utility("utility-a").CertifyMeter(meter, "elm", 11_000))
	flex := &pool.Flex{Open: v.host.Session(), Meter: cert, From: from.UnixMilli(), MinMWh: 1_000_000, MaxMWh: 20_000_000}
	for i := range flex.Envelopes {
		flex.Envelopes[i] = pool.Envelope{BaselineW: 4000, UpW: 3000, DownW: 1000}
	}
	net := x.s.places["home"].node.Net
	flex.SignHost(v.pass.HSK, net)
	flex.SignDriver(v.me.SSK, net)
	return flex
}

// TestRecordsOfAnotherMeterProveNothing: a home offers behind a certified meter
// that the car does not stand at.
func TestRecordsOfAnotherMeterProveNothing(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\n")
	x := moveIn(s)
	v := x.open(trip{grid: 1, shown: true})
	from := s.clock.Now().Add(3 * time.Minute).Truncate(15 * time.Minute).Add(15 * time.Minute)
	evagg := s.seenBy("home").Key
	_, err := s.asks("home", evagg, mesh.EVRecord, ask.Flex, x.flexOf(v, [32]byte{7}, from).Encode())
	s.must(err)
	s.eventually("the anchored plan", func() bool { return s.kinds()[ledger.KindAnchor] == 2+1 }) // beside the keys of two weeks
	release := s.clock.Hold()
	defer release()
	_, err = s.utility("utility-a").Instruct("elm", from, from.Add(15*time.Minute), 2000, 400_000)
	s.must(err)
	s.eventually("the dispatch", func() bool {
		e := must(s.evagg().Events())
		return len(e) == 1 && e[0].State == "sent" && e[0].Sessions == 1
	})
	if p := must(s.utility("utility-a").Purchases()); len(p) != 1 || p[0].Zone != "elm" || p[0].Offered != 400_000 || p[0].Paid != 0 {
		t.Errorf("the operator's own list: %+v", p)
	}
	release()
	s.eventually("the end of the event", func() bool { return s.clock.Now().After(from.Add(16 * time.Minute)) })
	if _, err := v.driver.AskShares(); err == nil {
		t.Error("a driver asks for shares of a session that goes on")
	}
	x.end(v, trip{grid: 1_000_000})
	s.eventually("the event to come to nothing", func() bool { e := must(s.evagg().Events())[0]; return e.State == "over" && e.Delivered == 0 })
	b, err := s.asks("driver", evagg, mesh.EVCollect, ask.Shares, must(v.driver.AskShares()))
	s.must(err)
	if got := must(v.driver.OpenShares(b)); len(got.List) != 0 {
		t.Errorf("shares of nothing: %+v", got)
	}
	strange := must(v.driver.AskShares())
	strange[2] ^= 1
	if err := refusedWith(lastOf(s.asks("driver", evagg, mesh.EVCollect, ask.Shares, strange))); err != nil {
		t.Errorf("a question in another session's name: %v", err)
	}
}

// collectShares lets the driver ask what its session earned in the pool, check
// every line against the ledger, and collect it.
func (x *street) collectShares(v *visit, want int64) {
	s := x.s
	s.t.Helper()
	evagg := s.seenBy("driver").Key
	b, err := s.asks("driver", evagg, mesh.EVCollect, ask.Shares, must(v.driver.AskShares()))
	s.must(err)
	got := must(v.driver.OpenShares(b))
	if got.Sum() != want || len(got.List) != 1 {
		s.t.Fatalf("shares %+v, want %d", got, want)
	}
	line := got.List[0]
	leaf := pool.Line{Open: v.driver.Session(), DeliveredMWh: line.Delivered, Availability: line.Permille, PaidMicro: line.Paid}.Encode()
	s.must(pool.CheckProof(line.Root, int(line.Size), int(line.Index), leaf, line.Path))
	entry := must(must(ask.ParseProven(line.Payment)).Open(must(s.operators("driver").Policy())))
	if pay, ok := entry.Body().(*ledger.Transfer); !ok || pay.Ref != ledger.Salted(line.Salt, line.Root[:]) || pay.To != ledger.EarnedAccount(0) {
		s.t.Errorf("the entry behind the share: %+v", entry.Body())
	}
	x.mintKeys()
	op := must(x.purse.Collect(x.month.Denoms, uint16(want/ev.MinorEUR)))
	rows := must(x.purse.Rows(op.ID, x.month.Denoms))
	request := must(v.driver.Collect(session.PartyPool, x.month.Denoms.Epoch, *rows[0]))
	b, err = s.asks("driver", evagg, mesh.EVCollect, ask.Collect, request)
	s.must(err)
	paid := must(v.driver.OpenCollected(b))
	s.must(settle.VerifyClaim(&paid, uint32(want/ev.MinorEUR), must(s.entryOf(paid.Issue)).Body().(*ledger.Issue)))
	s.must(x.purse.Finish(op.ID, x.month.Denoms, []*note.Row{&paid.Row}))
	again, err := s.asks("driver", evagg, mesh.EVCollect, ask.Collect, request)
	if err != nil || string(again) != string(b) {
		s.t.Errorf("the same request again: %v", err)
	}
	second := must(v.driver.Collect(session.PartyPool, x.month.Denoms.Epoch, note.Row{{1}}))
	if err := refusedWith(lastOf(s.asks("driver", evagg, mesh.EVCollect, ask.Collect, second))); err != nil {
		s.t.Errorf("another request for the same share: %v", err)
	}
}
