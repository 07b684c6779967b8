package ssn

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/node/ask"
	"gridveil/node/identity"
	"gridveil/node/keys"
	"gridveil/node/metering"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/agg"
	"gridveil/privacy/committee"
	"gridveil/privacy/pseudo"
)

// pair is a leader and a helper of different operators, and an escrow, on real
// hosts and stores; their homes are played by the test.
type pair struct {
	t          *testing.T
	net        *meshtest.Network
	envs       map[member.Key]*role.Env
	leaderEnv  *role.Env
	helperEnv  *role.Env
	leader     *sums
	task       agg.Task
	homes      []pseudo.Pseudonym
	interval   uint32
	alerts     []error
	mu         sync.Mutex // owns what follows: the helper's handler runs on its own
	helper     *sums
	loseAnswer metering.SumStep // the helper works, and its answer to this step is lost
}

func newPair(t *testing.T, homes int) *pair {
	t.Helper()
	p := &pair{t: t, envs: map[member.Key]*role.Env{}}
	p.net = meshtest.Start(t, meshtest.Options{SSNs: 2, Operators: 2, Others: []member.Role{member.RoleUtility}, Ready: p.equip})
	p.leaderEnv, p.helperEnv = p.envs[p.net.SSNs[0].Member.Key], p.envs[p.net.SSNs[1].Member.Key]
	p.restart()
	now := p.net.Clock.Now()
	for _, n := range append(p.net.SSNs, p.net.Others...) {
		env, use := p.envs[n.Member.Key], keys.Sum
		if n.Member.Role == member.RoleUtility {
			use = keys.Escrow
		}
		sheet, err := env.Keys.Sheet(now, 1, use)
		if err != nil {
			t.Fatal(err)
		}
		if err := env.Dir.Publish(sheet, now); err != nil {
			t.Fatal(err)
		}
	}
	meshtest.Eventually(t, "leader and helper know each other and the escrow", func() bool {
		for _, env := range []*role.Env{p.leaderEnv, p.helperEnv} {
			if len(env.Dir.All(member.RoleSSN, "")) < 2 || len((ask.Operators{Env: env}).Escrows()) < 2 {
				return false
			}
		}
		return true
	})
	p.interval = agg.Interval(now) - 20 // all over, and of this day
	p.announce()
	for range homes {
		p.homes = append(p.homes, p.identity())
	}
	return p
}

// equip gives a node of the test network what a role needs of its environment.
func (p *pair) equip(n *meshtest.Node) error {
	mk, err := store.LoadOrCreateKey(p.t.TempDir() + "/key")
	if err != nil {
		return err
	}
	st, err := store.Open(p.t.TempDir(), mk, store.Options{})
	if err != nil {
		return err
	}
	p.t.Cleanup(func() { st.Close() })
	raw, err := n.Key.Raw()
	if err != nil {
		return err
	}
	env := &role.Env{Clock: n.Net.Clock, Log: slog.New(slog.DiscardHandler), Store: st, Host: n.Host, Dir: keys.Directory{Host: n.Host}, Rand: rand.Reader,
		Keys: keys.NewRing(st, rand.Reader, privacy.SuiteX25519), Net: privacy.Net(n.Net.Bundle.Tag()),
		ID: &identity.Identity{Key: raw, Member: n.Member, Bundle: n.Net.Bundle}}
	p.mu.Lock()
	p.envs[n.Member.Key] = env
	second := n.Member.Role == member.RoleSSN && len(p.substations()) == 2
	p.mu.Unlock()
	if second {
		n.Host.Handle(mesh.AggPrep, p.answer)
	}
	return nil
}

// substations lists the substations equipped so far; the caller holds mu.
func (p *pair) substations() (out []*role.Env) {
	for _, e := range p.envs {
		if e.ID.Member.Role == member.RoleSSN {
			out = append(out, e)
		}
	}
	return out
}

// answer is the helper's handler; it can lose an answer after the work is done.
func (p *pair) answer(ctx context.Context, from mesh.Member, frame []byte) ([]byte, error) {
	p.mu.Lock()
	helper, lose := p.helper, p.loseAnswer
	p.mu.Unlock()
	answer, err := helper.take(ctx, from, frame)
	if lose == metering.SumStep(frame[0]) {
		return nil, errors.New("the answer is lost")
	}
	return answer, err
}

// restart makes both servers forget what is not in their stores.
func (p *pair) restart() {
	p.t.Helper()
	alert := func(err error) { p.alerts = append(p.alerts, err) }
	var err error
	if p.leader, err = loadSums(p.leaderEnv, alert); err != nil {
		p.t.Fatal(err)
	}
	helper, err := loadSums(p.helperEnv, alert)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.helper = helper
	p.mu.Unlock()
}

func (p *pair) lose(step metering.SumStep) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loseAnswer = step
}

// announce gives both servers a task of the network's only utility.
func (p *pair) announce() {
	p.t.Helper()
	u := p.envs[p.net.Others[0].Member.Key]
	day := pseudo.Day(p.net.Clock.Now())
	p.task = agg.Task{ID: [16]byte{1}, Zone: 1, Quantity: agg.Import, Unit: 1000, Max: agg.MaxReading, MinBatch: agg.MinBatch, DSO: u.Operator(u.ID.Member.Operator),
		Leader: p.leaderEnv.ID.Member.Key, Helper: p.helperEnv.ID.Member.Key, From: day - 1, To: day + 6}
	p.task.Sign(u.Net, u.ID.Key)
	for _, s := range []*sums{p.leader, p.helper} {
		if err := s.takeTask(u.ID.Member, p.task.Bytes()); err != nil {
			p.t.Fatal(err)
		}
	}
}

// book is an escrow's memory without a memory.
type book struct{ page pseudo.Contract }

func (b book) Contract([16]byte) (pseudo.Contract, bool)           { return b.page, true }
func (book) Batch([16]byte, uint32, [16]byte) (pseudo.Batch, bool) { return pseudo.Batch{}, false }
func (book) HasBillKey([32]byte) bool                              { return false }

// identity is one home's pseudonym of the day.
func (p *pair) identity() pseudo.Pseudonym {
	p.t.Helper()
	u, now := p.envs[p.net.Others[0].Member.Key], p.net.Clock.Now()
	must := func(err error) {
		if err != nil {
			p.t.Fatal(err)
		}
	}
	lk, err := privacy.NewKey(rand.Reader)
	must(err)
	key, err := u.Keys.Signer(keys.Escrow, now)
	must(err)
	box, err := privacy.NewBoxKey(rand.Reader, privacy.SuiteX25519)
	must(err)
	pub, _, err := committee.Deal(rand.Reader)
	must(err)
	contract := pseudo.Contract{Kind: pseudo.Meter, LK: [32]byte(lk[32:]), Arg: 1, Deck: pseudo.MeterDeck, Active: true}
	issuer := pseudo.Issuer{Net: u.Net, ID: u.Operator(u.ID.Member.Operator), Key: key, Box: box, Committee: pub.Y, Book: book{contract}}
	profile := pseudo.Profile{Net: u.Net, Kind: pseudo.Meter, LK: lk, Arg: 1, Deck: pseudo.MeterDeck, Issuer: issuer.ID, IssuerKey: [32]byte(key[32:]),
		Suite: privacy.SuiteX25519, IssueBox: box.Pub}
	batch, err := pseudo.NewBatch(rand.Reader, profile, p.task.DSO, pseudo.Week(now)*7)
	must(err)
	issued, err := issuer.Issue(rand.Reader, privacy.KindMeterReq, batch.Box, now)
	must(err)
	deck, err := batch.Finish(profile, issued.Batch.Answer)
	must(err)
	me, err := deck.Take(agg.Begin(p.interval))
	must(err)
	return me
}

// report makes the report of home i: i + 1 units.
func (p *pair) report(i int) []byte {
	p.t.Helper()
	box, err := p.helperEnv.Keys.Box(keys.Sum, agg.Begin(p.interval+1))
	if err != nil {
		p.t.Fatal(err)
	}
	h := agg.Home{Net: p.leaderEnv.Net, Suite: privacy.SuiteX25519, HelperBox: box.Pub, Rand: rand.Reader}
	r, err := agg.NewReport(h, &p.task, p.interval, p.homes[i], uint64(i+1))
	if err != nil {
		p.t.Fatal(err)
	}
	return r.Bytes()
}

func (p *pair) collect(n int) (want int64) {
	p.t.Helper()
	for i := range n {
		if _, err := p.leader.report(ask.Share, p.report(i)); err != nil {
			p.t.Fatalf("report %d: %v", i, err)
		}
		want += int64(i+1) * 1000
	}
	return want
}

// attempt lets the leader try every interval that waits.
func (p *pair) attempt() {
	p.t.Helper()
	for _, r := range p.leader.due(p.net.Clock.Now().Add(48 * time.Hour)) {
		if err := p.leader.attempt(p.t.Context(), r); err != nil {
			p.t.Fatal(err)
		}
	}
}

// result is the checked sum that waits for the grid operator, if there is one.
func (p *pair) result() (mWh int64, homes int, ok bool) {
	p.t.Helper()
	id := sumID{p.task.ID, p.interval}
	if _, made := p.leader.made[id]; !made {
		return 0, 0, false
	}
	raw, err := p.leaderEnv.Store.Get(sumSpace(donePart, id.bytes()))
	if err != nil {
		p.t.Fatal(err)
	}
	d, err := parseDone(raw)
	if err != nil {
		p.t.Fatal(err)
	}
	msg, err := p.leader.delivery(id, d)
	if err != nil {
		p.t.Fatal(err)
	}
	sum, err := agg.Check(p.leaderEnv.Net, privacy.SuiteX25519, &p.task, ask.Operators{Env: p.leaderEnv}.Escrows(), &msg.Result, msg.List)
	if err != nil {
		p.t.Fatalf("the result does not check: %v", err)
	}
	return int64(sum) * int64(p.task.Unit), len(msg.List), true
}

func TestASumIsMadeOnceWhateverIsLost(t *testing.T) {
	p := newPair(t, agg.MinBatch+1)
	for name, broken := range map[string]struct {
		lose    metering.SumStep
		restart bool
	}{
		"nothing is lost":                                     {},
		"the helper's preparation is lost":                    {lose: metering.SumPrepare},
		"the preparation is lost, and both restart":           {lose: metering.SumPrepare, restart: true},
		"the signed half is lost":                             {lose: metering.SumCombine},
		"the signed half is lost, and both restart":           {lose: metering.SumCombine, restart: true},
		"nothing is lost, and both restart before the second": {restart: true},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			p.interval++
			want := p.collect(agg.MinBatch)
			p.lose(broken.lose)
			p.attempt()
			p.lose(0)
			if broken.restart {
				p.restart()
			}
			p.attempt()
			if got, n, ok := p.result(); !ok || got != want || n != agg.MinBatch {
				t.Fatalf("sum of %d homes: %d, %v, want %d", n, got, ok, want)
			}
			if _, err := p.leader.report(ask.Share, p.report(agg.MinBatch)); !errors.Is(err, agg.ErrClosed) {
				t.Errorf("a report after the sum: got %v, want ErrClosed", err)
			}
			id := sumID{p.task.ID, p.interval}
			if err := p.leader.close(id, doneRecord{}); err != nil { // as delivered
				t.Fatal(err)
			}
			delete(p.leader.made, id)
		})
	}
}

func TestASmallBatchIsAnEventAndWaitsForLateHomes(t *testing.T) {
	p := newPair(t, agg.MinBatch)
	p.collect(agg.MinBatch - 1)
	p.attempt()
	if _, _, ok := p.result(); ok {
		t.Fatal("a sum below the smallest batch")
	}
	if o := p.leader.outcomes; len(o) != 1 || !errors.Is(o[0].Err, agg.ErrSmallBatch) {
		t.Fatalf("outcomes: %+v", o)
	}
	p.restart()
	if _, err := p.leader.report(ask.Share, p.report(agg.MinBatch-1)); err != nil {
		t.Fatal(err)
	}
	p.attempt()
	if _, n, ok := p.result(); !ok || n != agg.MinBatch {
		t.Errorf("with the late home: %d homes, %v", n, ok)
	}
	if o := p.leader.outcomes; len(o) != 1 || o[0].Err != nil || o[0].Homes != agg.MinBatch {
		t.Errorf("outcomes: %+v", o)
	}
	if len(p.alerts) > 0 {
		t.Errorf("alerts: %v", p.alerts)
	}
}

func TestAHelperSignsNoSecondSum(t *testing.T) {
	p := newPair(t, agg.MinBatch+1)
	p.collect(agg.MinBatch)
	p.attempt()
	if _, _, ok := p.result(); !ok {
		t.Fatal("no sum")
	}
	// A leader that forgets its own end and tries another list.
	id := sumID{p.task.ID, p.interval}
	err := p.leaderEnv.Store.Update(func(tx *store.Tx) error { return tx.Delete(sumSpace(donePart, id.bytes())) })
	if err != nil {
		t.Fatal(err)
	}
	p.restart()
	p.collectOne(agg.MinBatch)
	p.attempt()
	if _, _, ok := p.result(); ok {
		t.Error("a second sum of one interval")
	}
	if o := p.leader.outcomes; len(o) != 1 || !errors.Is(o[0].Err, agg.ErrClosed) || len(p.alerts) == 0 {
		t.Errorf("outcomes %+v, alerts %v", o, p.alerts)
	}
}

func (p *pair) collectOne(i int) {
	p.t.Helper()
	if _, err := p.leader.report(ask.Share, p.report(i)); err != nil {
		p.t.Fatal(err)
	}
}

func TestSubstationsTakeNoTaskThatHarmsHomes(t *testing.T) {
	p := newPair(t, 0)
	u := p.envs[p.net.Others[0].Member.Key]
	for name, c := range map[string]struct {
		change func(*agg.Task)
		want   error
	}{
		"a batch below the floor":            {func(t *agg.Task) { t.MinBatch = agg.MinBatch - 1 }, agg.ErrSmallBatch},
		"another leader for the zone":        {func(t *agg.Task) { t.Leader, t.Helper = t.Helper, t.Leader }, agg.ErrTask},
		"a zone that does not exist":         {func(t *agg.Task) { t.Zone = 9 }, agg.ErrTask},
		"another grid operator":              {func(t *agg.Task) { t.DSO[0] ^= 1 }, agg.ErrTask},
		"a helper that nobody knows":         {func(t *agg.Task) { t.Helper[0] ^= 1 }, metering.ErrSumLater},
		"other terms under the same number":  {func(t *agg.Task) { t.ID = p.task.ID; t.Max-- }, agg.ErrTask},
		"no part for this substation at all": {func(t *agg.Task) { t.Leader[0] ^= 1 }, agg.ErrTask},
	} {
		task := p.task
		task.ID = [16]byte{2}
		c.change(&task)
		task.Sign(u.Net, u.ID.Key)
		if err := p.leader.takeTask(u.ID.Member, task.Bytes()); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	stranger := u.ID.Member
	stranger.Role = member.RoleHeadend
	if err := p.leader.takeTask(stranger, p.task.Bytes()); err == nil {
		t.Error("a head-end announced a task")
	}
}
