package settle_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/privacy/session"
)

// The sessions of the table in the ev design, 4.5.
var (
	sunny = plan{res: 7_345_000}
	night = plan{in: 7_345_000}
	mixed = plan{in: 2_732_663, res: 4_612_337}
	house = plan{home: 5_200_000, lock: 2_560_000}
	grid  = plan{export: 5_200_000, lock: 1_280_000}
)

func TestTableOfWhoPaysWhomOnARealLedger(t *testing.T) {
	s := newScene(t, 1)
	want := func(row string, w [5]int64) {
		t.Helper()
		if got := s.balances(); got != w {
			t.Errorf("%s: utb, uta, evagg, earned, notes = %v, want %v", row, got, w)
		}
		s.must(s.state.Audit())
	}
	g1, g2, g3 := s.run(sunny), s.run(night), s.run(mixed)
	s.sync()
	want("settle of cases 1, 2, 3", [5]int64{-1_430_000 - 2_460_000 - 1_810_000, 0, 330_000, 5_370_000, 0})
	for i, g := range []visitor{g1, g2, g3} {
		if got, want := s.collect(g, session.PartyHost), []int64{1_320_000, 2_350_000, 1_700_000}[i]; got != want {
			t.Errorf("case %d earns %d, want %d", i+1, got, want)
		}
		s.pass(bucket)
	}
	want("issue of cases 1, 2, 3", [5]int64{-5_700_000, 0, 330_000, 0, 5_370_000})

	s.swap(256)
	g4 := s.run(house)
	want("case 4, locked", [5]int64{-5_700_000, 0, 330_000, 2_560_000, 2_810_000})
	s.swap(128)
	g5 := s.run(grid)
	s.pass(bucket)
	s.sync()
	want("case 4 and 5, settled", [5]int64{-5_840_000, 0, 470_000, 3_840_000, 1_530_000})
	paid := map[string]int64{}
	for _, c := range []struct {
		who   string
		g     visitor
		party session.Party
	}{{"4 Ub", g4, session.PartyDriver}, {"4 change", g4, session.PartyChange}, {"5 Ub", g5, session.PartyDriver}, {"5 change", g5, session.PartyChange}} {
		paid[c.who] = s.collect(c.g, c.party)
		s.pass(bucket)
	}
	for who, amount := range map[string]int64{"4 Ub": 1_350_000, "4 change": 1_210_000, "5 Ub": 410_000, "5 change": 870_000} {
		if paid[who] != amount {
			t.Errorf("case %s: got %d, want %d", who, paid[who], amount)
		}
	}
	want("everything issued", [5]int64{-5_840_000, 0, 470_000, 0, 5_370_000})
	if c := s.desk.Counts(); c != (settle.Counts{}) {
		t.Errorf("left over: %+v", c)
	}
}

func TestRepeatedMessagesCountOnce(t *testing.T) {
	s := newScene(t, 2)
	g := s.run(sunny)
	s.run(night)
	receipt, err := s.desk.Take(s.now, g.settle)
	s.must(err)
	s.restart()
	again, err := s.desk.Take(s.now, g.settle)
	if err != nil || !bytes.Equal(receipt, again) {
		t.Errorf("settle after a restart: %v", err)
	}
	other := bytes.Clone(g.settle)
	other[len(other)-1] ^= 1
	if _, err := s.desk.Take(s.now, other); err == nil {
		t.Error("other bytes for the same session were accepted")
	}
	s.sync()
	s.restart()
	s.sync()
	if n := s.total[ledger.KindCDR]; n != 2 {
		t.Errorf("cdr entries: got %d, want 2", n)
	}
	if n := s.total[ledger.KindSettle]; n != 1 {
		t.Errorf("settle entries: got %d, want 1", n)
	}
}

func TestCrashAtEveryCommitPostsAndPaysOnce(t *testing.T) {
	var want [5]int64
	for at := 0; ; at++ {
		s := newScene(t, 3)
		g, h := s.run(sunny), s.run(night)
		s.store.failAt = at
		crashed := false
		for range 30 {
			err := step(s, g, h)
			if errors.Is(err, errCrash) {
				crashed = true
				s.restart()
				continue
			}
			if err != nil && !errors.Is(err, settle.ErrWait) {
				t.Fatalf("crash at commit %d: %v", at, err)
			}
		}
		if s.total[ledger.KindCDR] != 2 || s.total[ledger.KindSettle] != 1 {
			t.Fatalf("crash at commit %d: %v entries", at, s.total)
		}
		s.must(s.state.Audit())
		if at == 0 {
			want = s.balances()
		} else if got := s.balances(); got != want {
			t.Fatalf("crash at commit %d: balances %v, want %v", at, got, want)
		}
		if at > 0 && !crashed {
			t.Logf("%d commits", at-1)
			return
		}
	}
}

// step is one round of everything that goes on between desk, ledger and host.
func step(s *scene, guests ...visitor) error {
	orders, err := s.desk.Plan(s.now, s.state)
	if err != nil {
		return err
	}
	for _, o := range orders {
		index, done := s.sent[o.ID]
		if !done {
			signers := s.keys[evagg]
			if o.Payer != 0 {
				index, err = s.try(o.Body, signers, s.keys[utb])
			} else {
				index, err = s.try(o.Body, signers)
			}
			if err != nil {
				if err := s.desk.Refused(o.ID, err); err != nil {
					return err
				}
				continue
			}
			s.sent[o.ID] = index
		}
		if err := s.desk.Posted(o.ID, index); err != nil {
			return err
		}
	}
	if err := s.desk.Final(s.now, s.state.Size()); err != nil {
		return err
	}
	for _, g := range guests {
		if _, err := s.desk.Take(s.now, g.settle); err != nil {
			return err
		}
	}
	return nil
}

func TestSmallSumsAreNotOpenedBeforeTheirTime(t *testing.T) {
	s := newScene(t, 4)
	s.run(sunny)
	s.sync()
	if n := s.total[ledger.KindCDR]; n != 0 {
		t.Errorf("one session of two was released: %d cdr entries", n)
	}
	s.pass(bucket)
	s.sync()
	if n := s.total[ledger.KindCDR]; n != 1 {
		t.Errorf("after a day: got %d cdr entries, want 1", n)
	}
	if s.total[ledger.KindSettle] != 0 {
		t.Error("the sum of one session was opened on the first day")
	}
	for range 3 {
		s.pass(bucket)
		s.sync()
	}
	if s.total[ledger.KindSettle] != 1 {
		t.Error("after max_wait the sum must be opened, so that the host is paid")
	}
}

func TestRefusedLineIsBorneByTheAggregator(t *testing.T) {
	s := newScene(t, 5)
	g1, g2 := s.run(sunny), s.run(night)
	s.run(mixed)
	bad := true
	s.reject = func(l session.Line) session.RejectCode {
		if bad {
			bad = false
			s.reject = only(l.BPK)
			return session.RejectBilled
		}
		return 0
	}
	s.sync()
	s.pass(bucket)
	s.sync()
	if s.total[ledger.KindDispute] != 1 || s.total[ledger.KindEnd] != 1 || s.total[ledger.KindTransfer] != 1 || s.total[ledger.KindSettle] != 1 {
		t.Errorf("entries: got %v, want one hold, end, transfer and settle", s.total)
	}
	s.must(s.state.Audit())
	for _, g := range []visitor{g1, g2} {
		if s.collect(g, session.PartyHost) == 0 {
			t.Error("a host was not paid")
		}
		s.pass(bucket)
	}
}

func only(bpk [32]byte) func(session.Line) session.RejectCode {
	return func(l session.Line) session.RejectCode {
		if l.BPK == bpk {
			return session.RejectBilled
		}
		return 0
	}
}

func TestShownEvidenceIsChecked(t *testing.T) {
	s := newScene(t, 6)
	s.run(plan{in: 2_732_663, res: 4_612_337, shown: true})
	var reuse [][]byte
	for name, c := range map[string]struct {
		p    plan
		want error
	}{
		"records of another energy": {plan{in: 1_000_000, spoil: func(v *session.Evidence) { v.Records = s.sign("CODE", session.Energy{Grid: 2_000_000}, s.now) }}, session.ErrEvidence},
		"a flipped byte":            {plan{in: 1_000_000, spoil: func(v *session.Evidence) { v.Records[1][40] ^= 1 }}, session.ErrEvidence},
		"no end record":             {plan{in: 1_000_000, spoil: func(v *session.Evidence) { v.Records = v.Records[:1] }}, session.ErrEvidence},
		"records of two codes":      {plan{in: 1_000_000, spoil: func(v *session.Evidence) { v.Records[1] = s.sign("OTHER", session.Energy{Grid: 1_000_000}, s.now)[1] }}, session.ErrEvidence},
	} {
		c.p.shown = true
		if _, err := s.tryRun(c.p); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	s.run(plan{in: 1_000_000, shown: true, spoil: func(v *session.Evidence) { reuse = v.Records }})
	var reused *settle.ReusedError
	if _, err := s.tryRun(plan{in: 1_000_000, shown: true, spoil: func(v *session.Evidence) { v.Records = reuse }}); !errors.As(err, &reused) {
		t.Errorf("records paid before: got %v, want ReusedError", err)
	}
}

func TestQuotaStopsAFloodAndRefills(t *testing.T) {
	s := newScene(t, 7)
	g := s.run(sunny)
	busy := 0
	for range 100 {
		if _, err := s.desk.Take(s.now, g.settle); errors.Is(err, settle.ErrBusy) {
			busy++
		}
	}
	if busy < 30 || busy > 60 {
		t.Errorf("of 100 repetitions %d were refused, want about 40", busy)
	}
	if _, err := s.desk.Take(s.now.Add(time.Minute), g.settle); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

func TestCountersignRefusesASumThatIsNotItsLines(t *testing.T) {
	s := newScene(t, 8)
	s.run(sunny)
	s.run(night)
	orders, err := s.desk.Plan(s.now, s.state)
	s.must(err)
	for _, o := range orders {
		s.carry(o)
	}
	orders, err = s.desk.Plan(s.now, s.state)
	s.must(err)
	if len(orders) != 1 || orders[0].Payer != utb {
		t.Fatalf("orders: got %d, want one settle", len(orders))
	}
	body := *orders[0].Body.(*ledger.Settle)
	for name, bend := range map[string]func(*ledger.Settle){
		"another sum":    func(b *ledger.Settle) { b.Pay += 10_000 },
		"another energy": func(b *ledger.Settle) { b.Energy++ },
		"another payer":  func(b *ledger.Settle) { b.Payer = uta },
	} {
		bent := body
		bend(&bent)
		if _, err := settle.Countersign(s.biller(), orders[0].Batch, &bent, utb, euro); !errors.Is(err, session.ErrMismatch) {
			t.Errorf("%s: got %v, want ErrMismatch", name, err)
		}
	}
	if rejects, err := settle.Countersign(s.biller(), orders[0].Batch, &body, utb, euro); err != nil || len(rejects) != 0 {
		t.Errorf("the true entry: %d rejects, %v", len(rejects), err)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	s := newScene(t, 9)
	for _, msg := range [][]byte{nil, {0}, {255, 1}, bytes.Repeat([]byte{7}, 2000)} {
		if _, err := s.desk.Take(s.now, msg); err == nil {
			t.Errorf("%d bytes were taken", len(msg))
		}
	}
	if err := s.desk.Posted([32]byte{1}, 5); !errors.Is(err, settle.ErrOrder) {
		t.Errorf("Posted of nothing: got %v", err)
	}
}
