package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node"
	"gridveil/node/alarm"
	"gridveil/node/headend"
	"gridveil/node/keys"
	"gridveil/node/meter"
	"gridveil/node/meter/sim"
	"gridveil/node/model"
	"gridveil/node/ondemand"
	"gridveil/node/report"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/utility"
	"gridveil/node/vee"
)

// taken are the readings that a home stored before an instant.
func (st *street) taken(m *Member, before time.Time) (out []model.Reading) {
	st.t.Helper()
	err := m.Node().Store.View(func(tx *store.Tx) (err error) {
		out, err = meter.Readings(tx, "meter", 0, before.UnixMilli())
		return err
	})
	if err != nil {
		st.t.Fatal(err)
	}
	return out
}

// missing compares what a home stored with what its utility holds: one value for
// each, and the same.
func (st *street) missing(m *Member, before time.Time) (out []string) {
	st.t.Helper()
	up, ok := st.u.PointOf(m.Node().Host.Self().Key)
	if !ok {
		st.t.Fatalf("%s has no contract", m.Name)
	}
	blocks, err := st.u.Blocks(up)
	if err != nil {
		st.t.Fatal(err)
	}
	held := map[slot]int64{}
	for _, b := range blocks {
		for _, r := range b.Readings {
			s := slot{b.Channel, r.Slot}
			if _, twice := held[s]; twice {
				st.t.Errorf("%s: slot %v twice", m.Name, time.UnixMilli(r.Slot).UTC())
			}
			held[s] = r.Register
			// A generated home may draw more than its connection carries for a minute; that says nothing of the way here.
			if r.Quality == model.QualityQuestionable && r.Flags&^uint32(vee.OverLimit) != 0 {
				st.t.Errorf("%s at %v: flags %#x", m.Name, time.UnixMilli(r.Slot).UTC(), r.Flags)
			}
		}
	}
	all := st.taken(m, before)
	for _, r := range all {
		switch v, ok := held[slot{r.Channel, r.Slot}]; {
		case !ok:
			out = append(out, time.UnixMilli(r.Slot).UTC().Format("15:04"))
		case v != r.Register:
			st.t.Errorf("%s at %v: the utility holds %d, the meter showed %d", m.Name, time.UnixMilli(r.Slot).UTC(), v, r.Register)
		}
	}
	if len(all) == 0 {
		out = append(out, "everything")
	}
	return out
}

// settled waits until every reading of every running home is at the utility.
func (st *street) settled(before time.Time) {
	st.t.Helper()
	var gaps []string
	defer func() {
		if st.t.Failed() {
			st.t.Logf("missing: %v", gaps)
		}
	}()
	st.until(patience, "every reading is at the utility, once", func() bool {
		gaps = nil
		for _, m := range st.Of(member.RoleGateway) {
			if m.Node() == nil {
				continue
			}
			if g := st.missing(m, before); len(g) > 0 {
				gaps = append(gaps, fmt.Sprint(m.Name, g))
			}
		}
		return len(gaps) == 0
	})
}

// reached waits until the clock shows at least t.
func (st *street) reached(t time.Time) {
	st.t.Helper()
	st.until(patience, "the clock shows "+t.Format("15:04"), func() bool { return !st.Clock.Now().Before(t) })
}

// TestRestartsLoseAndDoubleNothing: substations and head-end go away in the
// middle, together and one by one, and so does a gateway.
func TestRestartsLoseAndDoubleNothing(t *testing.T) {
	st := newStreet(t, 6, 600, nil)
	st.reached(Start.Add(time.Hour + 10*time.Minute))
	st.restart("headend")
	st.stop("ssn-elm")
	st.reached(Start.Add(2*time.Hour + 5*time.Minute))
	st.stop("headend")
	st.start("ssn-elm")
	st.restart("ssn-oak")
	st.reached(Start.Add(3*time.Hour + 5*time.Minute))
	st.start("headend")
	st.restart("home-6")
	st.restart("utility-a")
	st.reached(Start.Add(4*time.Hour + 20*time.Minute))
	st.settled(Start.Add(4 * time.Hour))

	// What the utility has not got outlives the head-end, with nothing new coming.
	st.stop("utility-a")
	st.reached(Start.Add(5*time.Hour + 30*time.Minute))
	st.stop("ssn-elm", "ssn-oak", "ssn-mill")
	st.restart("headend")
	st.start("utility-a")
	st.settled(Start.Add(5 * time.Hour))
	wantNoNames(t, st.Scene, st.log.text())
}

// TestParentsThatDieEveryTenMinutesLoseAndDoubleNothing: homes that report each minute have one of their substations
// taken away every ten minutes, which comes back with the reports that it holds when others have long overtaken it. By
// default for an hour; with -long for a day.
func TestParentsThatDieEveryTenMinutesLoseAndDoubleNothing(t *testing.T) {
	rounds := 6
	if *long {
		rounds = 24 * 6
	}
	st := newStreet(t, 6, 600, func(st *street) {
		st.Members = slices.DeleteFunc(st.Members, func(m *Member) bool { return m.Role == member.RoleGateway && m.Name > "home-2" })
	})
	for _, m := range st.Of(member.RoleGateway) {
		if _, err := st.u.Open(utility.NewContract{Gateway: m.Node().Host.Self().Key, Read: time.Minute, Report: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	parents := []string{"ssn-elm", "ssn-oak", "ssn-mill"}
	begin := st.Clock.Now()
	down := ""
	for i := range rounds {
		if down != "" {
			st.start(down)
		}
		down = parents[i%len(parents)]
		st.stop(down)
		st.reached(begin.Add(time.Duration(i+1) * 10 * time.Minute))
	}
	st.start(down)
	count := st.Get("headend").Node().Role.(*headend.Headend).Counters()
	t.Logf("%d reports at the head-end from %d homes in %v", count.Reports, len(st.Of(member.RoleGateway)), st.Clock.Now().Sub(begin).Round(time.Minute))
	st.settled(begin.Add(time.Duration(rounds) * 10 * time.Minute))
	wantNoNames(t, st.Scene, st.log.text())
}

// TestRefusedReportsAreKept: a head-end that lost its list refuses a home's
// reports; the home says so, keeps them, and settles when it is back on the list.
func TestRefusedReportsAreKept(t *testing.T) {
	st := newStreet(t, 6, 600, nil)
	home := st.Get("home-6")
	key := home.Node().Host.Self().Key
	st.reached(Start.Add(time.Hour + 10*time.Minute))
	st.settled(Start.Add(time.Hour))
	st.stop("headend")
	forget(t, st.Get("headend"), store.SpaceOrder.Key([]byte("ref"), key[:]))
	st.start("headend")
	st.until(patience, "the home is told", func() bool {
		return slices.ContainsFunc(home.Node().Status().Warnings, func(w role.Warning) bool { return w.Code == "report-refused" })
	})
	n, err := st.home(6).Waiting()
	if err != nil || n == 0 {
		t.Fatalf("the home keeps %d reports, %v", n, err)
	}
	if _, err := st.u.Open(utility.NewContract{Gateway: key, LimitW: 17_251}); err != nil { // the contract is placed anew
		t.Fatal(err)
	}
	st.settled(Start.Add(2 * time.Hour))
	st.until(patience, "the warning ends", func() bool {
		return !slices.ContainsFunc(home.Node().Status().Warnings, func(w role.Warning) bool { return w.Code == "report-refused" })
	})
}

// forget deletes a key in the store of a stopped node.
func forget(t *testing.T, m *Member, key []byte) {
	t.Helper()
	mk, err := store.LoadOrCreateKey(filepath.Join(m.Dir, "store.key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(m.Dir, "store"), mk, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(func(tx *store.Tx) error {
		if have, err := tx.Has(key); err != nil || !have {
			return errors.Join(err, store.ErrNotFound)
		}
		return tx.Delete(key)
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestReadingOnDemand goes through utility, head-end, substation and gateway to
// the meter, and shows what the chain refuses.
func TestReadingOnDemand(t *testing.T) {
	st := newStreet(t, 6, 60, nil)
	home, ua := st.Get("home-6"), st.Get("utility-a").Node()
	up, _ := st.u.PointOf(home.Node().Host.Self().Key)
	var rows []utility.Reading
	var err error
	defer func() {
		if t.Failed() {
			t.Logf("last answer: %v", err)
		}
	}()
	st.until(patience, "a reading", func() bool { rows, err = st.u.ReadMeter(t.Context(), up); return err == nil })
	truth, _ := st.home(6).Registers()
	if len(rows) != 2 || rows[0].Register > truth || rows[0].SignedBy != "gateway" {
		t.Errorf("read %+v, the meter shows %d", rows, truth)
	}
	draft := func(by string, change func(*ondemand.Request)) []byte {
		q := ondemand.Request{UsagePoint: up, Deadline: st.Clock.Now().Add(ondemand.MaxDeadline).UnixMilli(), Channels: []model.Channel{model.ImportTotal}}
		copy(q.Nonce[:], fmt.Sprintf("%016d", time.Now().UnixNano()))
		if change != nil {
			change(&q)
		}
		q.Sign(st.Get(by).Node().ID.Key)
		return q.Encode()
	}
	nextMinute := func() { st.reached(st.Clock.Now().Add(61 * time.Second)) } // a meter is read once a minute
	ask := func(request []byte) ([]byte, error) {
		h, ok := ua.Dir.One(member.RoleHeadend, utilityA)
		if !ok {
			t.Fatal("no head-end")
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return ua.Host.Call(ctx, h.Member.Peer, mesh.ReadNow, request)
	}
	key := home.Node().Host.Self().Key
	head := st.Get("headend").Node()
	nextMinute()
	request := draft("utility-a", nil)
	first, err := ask(request)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.passDown(head, key, request); err == nil || !strings.Contains(err.Error(), "was answered before") {
		t.Errorf("a replayed request: %v", err)
	}
	if _, err := ask(draft("utility-a", nil)); err == nil || !strings.Contains(err.Error(), "within this minute") {
		t.Errorf("a second reading within the minute: %v", err)
	}
	nextMinute()
	other := draft("utility-a", nil)
	if _, err := ask(other); err != nil {
		t.Fatal(err)
	}
	box, err := ua.Keys.Box(keys.Direct, st.Clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	day, err := report.DayKeyFrom(report.DayOf(st.Clock.Now().UnixMilli()), slices.Concat(box.Pub, box.Priv))
	if err != nil {
		t.Fatal(err)
	}
	gateway := home.Node().ID.Member.Key
	if _, err := ondemand.Check(first, request, gateway[:], day); err != nil {
		t.Errorf("the answer to its own request: %v", err)
	}
	if _, err := ondemand.Check(first, other, gateway[:], day); !errors.Is(err, ondemand.ErrAnswer) {
		t.Errorf("a relay answers from its cache: got %v, want ErrAnswer", err)
	}
	neighbour := st.Get("home-5").Node().ID.Member.Key
	if _, err := ondemand.Check(first, request, neighbour[:], day); err == nil {
		t.Error("another home's signature passed")
	}
	for name, c := range map[string]struct {
		by     string
		change func(*ondemand.Request)
	}{
		"older than its":          {"utility-a", func(q *ondemand.Request) { q.Deadline = st.Clock.Now().Add(-time.Second).UnixMilli() }},
		"older than its deadline": {"utility-a", func(q *ondemand.Request) { q.Deadline = st.Clock.Now().Add(time.Hour).UnixMilli() }},
		"not signed by":           {"utility-b", nil},
		"another usage point":     {"utility-a", func(q *ondemand.Request) { q.UsagePoint[0] ^= 1 }},
		"channel that no":         {"utility-a", func(q *ondemand.Request) { q.Channels = []model.Channel{model.VoltageL1} }},
	} {
		nextMinute()
		q := draft(c.by, c.change)
		if _, err := ask(q); err == nil {
			t.Errorf("a request that is %q was answered", name)
		}
		// A head-end that passes everything on is stopped by the home itself.
		if err := st.passDown(head, key, q); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("the home about a request that is %q: %v", name, err)
		}
	}
	st.stop("home-6")
	if _, err := st.u.ReadMeter(t.Context(), up); err == nil || !strings.Contains(err.Error(), "meter_unreachable") {
		t.Errorf("a home that is off: %v", err)
	}
	wantNoNames(t, st.Scene, st.log.text())
}

// passDown hands a request to a home from the head-end, whatever it says.
func (st *street) passDown(head *node.Node, home member.Key, request []byte) (err error) {
	for _, m := range st.Of(member.RoleSSN) {
		ctx, cancel := context.WithTimeout(st.t.Context(), patience)
		_, err = head.Host.Call(ctx, m.Node().ID.Member.Peer, mesh.ReadNow, slices.Concat(home[:], request))
		cancel()
		if err == nil || !strings.Contains(err.Error(), "not connected") {
			return err
		}
	}
	return err
}

// backlog is how many reports wait when the alarms come.
const backlog = 1000

// TestAlarmOvertakesAThousandReports: every substation is gone for a day; the
// meter meters, the records wait. When one is back, alarms reach the utility
// while nearly all reports still wait, and then all of them are settled once.
func TestAlarmOvertakesAThousandReports(t *testing.T) {
	st := newStreet(t, 6, 600, func(st *street) {
		st.Members = slices.DeleteFunc(st.Members, func(m *Member) bool { return m.Role == member.RoleGateway && m.Name != "home-6" })
	})
	home := st.Get("home-6")
	if _, err := st.u.Open(utility.NewContract{Gateway: home.Node().Host.Self().Key, Read: time.Minute, Report: time.Minute}); err != nil {
		t.Fatal(err)
	}
	head := func() headend.Counters { return st.Get("headend").Node().Role.(*headend.Headend).Counters() }
	st.until(patience, "reports every minute", func() bool { return head().Reports >= 3 })
	st.stop("ssn-elm", "ssn-oak", "ssn-mill")
	st.Clock.SetSpeed(5000)
	st.until(patience, "half a backlog", func() bool {
		n, err := st.home(6).Waiting()
		return err == nil && n >= backlog/2
	})
	st.restart("home-6") // with the periods of its order, not of its file
	st.until(patience, "a backlog", func() bool {
		n, err := st.home(6).Waiting()
		return err == nil && n >= backlog
	})
	st.Clock.SetSpeed(20)
	before := head().Reports
	for _, f := range []sim.Event{{Fault: sim.VoltageLoss, Phase: 1, For: time.Hour}, {Fault: sim.FailedLogin, Count: 3}, {Fault: sim.ClockSkew, Skew: 90 * time.Second}} {
		if !st.home(6).Inject(f) {
			t.Fatal("no simulated meter")
		}
	}
	want := []alarm.Kind{alarm.VoltageAbsent, alarm.Unauthorised, alarm.ClockDeviation}
	st.until(patience, "the home knows", func() bool { return st.raised(want) })
	st.start("ssn-mill")
	began := time.Now()
	st.until(patience, "the alarms are at the utility", func() bool { return st.alarmed(want) })
	took, n := time.Since(began), head().Reports-before
	if n > backlog/2 {
		t.Errorf("%d of %d reports came before the alarms", n, backlog)
	}
	t.Logf("alarms at the utility %v after the substation was back, with %d reports before them", took, n)
	for _, d := range st.u.Alarms() {
		if d.Event.Kind == alarm.VoltageAbsent && (d.Detail == "" || d.Event.Flags&alarm.Simulated == 0) {
			t.Errorf("voltage alarm without detail or without its mark: %+v", d)
		}
	}
	st.Clock.SetSpeed(600)
	end := st.Clock.Now().Add(-time.Minute).Truncate(time.Minute)
	st.settled(end)
	st.proved(end.Add(-3*time.Hour), end)
	wantNoNames(t, st.Scene, st.log.text())
}

func (st *street) raised(want []alarm.Kind) bool {
	list, err := st.home(6).Alarms(100)
	if err != nil {
		st.t.Fatal(err)
	}
	for _, k := range want {
		if !slices.ContainsFunc(list, func(s alarm.Stored) bool { return s.Event.Kind == k }) {
			return false
		}
	}
	return true
}

func (st *street) alarmed(want []alarm.Kind) bool {
	list := st.u.Alarms()
	for _, k := range want {
		if !slices.ContainsFunc(list, func(d utility.Delivery) bool { return d.Event.Kind == k && d.UsagePoint != model.UsagePoint{} }) {
			return false
		}
	}
	return true
}
