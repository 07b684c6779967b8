package ssn

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/keys"
	"gridveil/node/metering"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/agg"
	"gridveil/privacy/pseudo"
)

// Feeder is the meter at the zone's transformer.
type Feeder interface {
	// Energy is what flowed into the zone in [from, to), net of what flowed out,
	// mWh. ok is false when the meter does not know.
	Energy(from, to time.Time) (mWh int64, ok bool)
}

// SetFeeder connects the meter at the zone's transformer. Call it before Serve.
func (s *SSN) SetFeeder(f Feeder) { s.sums.feeder = f }

// Times of a private sum, beside the interval of 15 minutes.
const (
	sumSettle  = 15 * time.Minute // after the homes' interval of sending: P99 of class meter is half of it
	sumRetry   = 20 * time.Minute // after a failed attempt
	sumGiveUp  = 24 * time.Hour   // so long homes keep their reports
	sumWait    = 30               // days after which a result is dropped that nobody took
	sumTick    = time.Minute
	sumShow    = 25 * time.Minute // a register of the zone lives for 30
	sumLife    = 29 * time.Minute
	sumSpacing = 2 * time.Minute // gossip takes two network states a minute, and the grid limit goes first
	sheetEvery = 6 * time.Hour
)

// Limits of a substation's sums.
const (
	maxTasks    = 64  // two quantities of a zone and week, for some zones
	maxOutcomes = 256 // newest ones, for the page
	maxHelped   = 64  // intervals whose first half is done
)

// sums are the private sums that this substation leads or helps with: it sees
// one share of each reading, and the total.
type sums struct {
	env    *role.Env
	feeder Feeder // nil without; set before serve
	alert  func(error)
	join   metering.SumJoin
	wake   chan struct{}

	mu       sync.Mutex
	tasks    map[[16]byte]heldTask
	servers  map[[16]byte]*agg.Server // one per task, as long as keys stay
	rounds   map[sumID]*round         // intervals led and not yet summed
	made     map[sumID]time.Time      // results to deliver, and when to try next
	outcomes []Outcome
	results  map[agg.Quantity]agg.Result // newest, for the zone's register
	shown    map[uint64]time.Time        // registers, when last published
	last     time.Time                   // of any of them

	help   sync.Mutex // owns what follows; mu may be taken under it
	helped map[sumID]*helpRound
}

type heldTask struct {
	agg.Task
	DSO member.Key // whose signature is under it, and who gets the results
}

// sumID is one interval of one task.
type sumID struct {
	task     [16]byte
	interval uint32
}

func (id sumID) bytes() []byte {
	return binary.BigEndian.AppendUint32(id.task[:len(id.task):len(id.task)], id.interval)
}

// Outcome is what became of one interval. Err is nil for a sum; else it says why
// there is none, and wraps one of package agg's errors.
type Outcome struct {
	Zone     string
	Quantity agg.Quantity
	From     time.Time // and 15 minutes from there
	Homes    int
	MWh      int64
	Err      error
	At       time.Time
}

// openSums goes on where the last run stopped, and registers what is answered.
func openSums(env *role.Env, alert func(error)) (*sums, error) {
	s, err := loadSums(env, alert)
	if err != nil {
		return nil, err
	}
	desk := &ask.Desk{Answer: s.report}
	env.Onion.Handle(mesh.AggShare, func(_ context.Context, req []byte) ([]byte, error) { return desk.Handle(req), nil })
	env.Host.Handle(mesh.AggPrep, s.take)
	return s, nil
}

func loadSums(env *role.Env, alert func(error)) (*sums, error) {
	s := &sums{env: env, alert: alert, wake: make(chan struct{}, 1), tasks: map[[16]byte]heldTask{},
		servers: map[[16]byte]*agg.Server{}, rounds: map[sumID]*round{}, made: map[sumID]time.Time{}, results: map[agg.Quantity]agg.Result{}, shown: map[uint64]time.Time{}, helped: map[sumID]*helpRound{}}
	err := env.Store.View(func(tx *store.Tx) error {
		return tx.Each(taskKey(nil), func(_, v []byte) error {
			t, err := parseHeldTask(v)
			s.tasks[t.ID] = t
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("tasks of private sums: %w", err)
	}
	return s, s.reload()
}

// serve leads sums, delivers results and shows the zone what concerns it, until
// ctx ends.
func (s *sums) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.publishSheet(ctx) })
	g.Go(func() error { return s.lead(ctx) })
	return g.Wait()
}

// publishSheet makes the key known to which homes seal the helper's share.
func (s *sums) publishSheet(ctx context.Context) error {
	for {
		now := s.env.Clock.Now()
		sheet, err := s.env.Keys.Sheet(now, 1, keys.Sum)
		if err != nil {
			return fmt.Errorf("service keys: %w", err)
		}
		if err := s.env.Dir.Publish(sheet, now); err != nil {
			s.env.Log.Warn("key sheet not published; tried again", "err", err)
		}
		if !clock.Sleep(ctx, s.env.Clock, sheetEvery) {
			return nil
		}
	}
}

// lead works off what is due, every minute and whenever it is poked.
func (s *sums) lead(ctx context.Context) error {
	for {
		now := s.env.Clock.Now()
		for _, r := range s.due(now) {
			if err := s.attempt(ctx, r); err != nil {
				return err
			}
		}
		if err := errors.Join(s.deliver(ctx), s.forget(now)); err != nil {
			return err
		}
		s.show(now)
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-s.env.Clock.After(sumTick):
		}
	}
}

func taskKey(id []byte) []byte { return store.SpaceOrder.Key([]byte("sumtask"), id) }

func parseHeldTask(v []byte) (heldTask, error) {
	if len(v) < 32 {
		return heldTask{}, fmt.Errorf("%w: task of %d bytes", store.ErrDamaged, len(v))
	}
	t, err := agg.ParseTask(v[32:])
	return heldTask{Task: t, DSO: member.Key(v[:32])}, err
}

// takeTask keeps a task of the zone's grid operator in which this substation has
// a part. Leader and helper must be of different operators; a batch below the
// common floor is for lab networks only.
func (s *sums) takeTask(from mesh.Member, whole []byte) error {
	t, err := agg.ParseTask(whole)
	if err != nil {
		return err
	}
	if err := t.Verify(s.env.Net, from.Key); err != nil {
		return err
	}
	self := s.env.Host.Self()
	b := s.env.Host.Bundle()
	zone, known := metering.ZoneName(b, t.Zone)
	switch {
	case from.Role != member.RoleUtility || !known || !b.IsDSO(from, zone) || t.DSO != s.env.Operator(from.Operator):
		return fmt.Errorf("%w: its sender does not run the grid of the zone", agg.ErrTask)
	case t.MinBatch < agg.MinBatch && !s.env.Lab():
		return fmt.Errorf("%w: %d", agg.ErrSmallBatch, t.MinBatch)
	case t.Leader != self.Key && t.Helper != self.Key:
		return fmt.Errorf("%w: this substation has no part in it", agg.ErrTask)
	case t.Leader == self.Key && self.Zone != zone:
		return fmt.Errorf("%w: a zone's own substation leads", agg.ErrTask)
	}
	other := t.Leader
	if other == self.Key {
		other = t.Helper
	}
	m, ok := s.substation(other)
	switch {
	case !ok:
		return metering.ErrSumLater
	case m.Operator == self.Operator:
		return fmt.Errorf("%w: leader and helper are of one operator", agg.ErrTask)
	case t.Leader == m.Key && m.Zone != zone:
		return fmt.Errorf("%w: a zone's own substation leads", agg.ErrTask)
	}
	return s.keepTask(heldTask{t, from.Key})
}

func (s *sums) keepTask(t heldTask) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held, ok := s.tasks[t.ID]; ok {
		if held != t {
			return fmt.Errorf("%w: another task has its number", agg.ErrTask)
		}
		return nil
	}
	if len(s.tasks) >= maxTasks {
		return metering.ErrSumLater
	}
	if err := s.env.Store.Set(taskKey(t.ID[:]), slices.Concat(t.DSO[:], t.Bytes())); err != nil {
		return metering.ErrSumLater
	}
	s.tasks[t.ID] = t
	nudge(s.wake)
	return nil
}

// substation finds a substation by its key.
func (s *sums) substation(key [32]byte) (mesh.Member, bool) {
	for _, h := range s.env.Dir.All(member.RoleSSN, "") {
		if h.Member.Key == key {
			return h.Member, true
		}
	}
	return mesh.Member{}, false
}

// server gives this node's side of a task. It is made anew when an escrow's key
// was added; the helper's box is that of the week in which homes report.
func (s *sums) server(t agg.Task, interval uint32) (*agg.Server, error) {
	issuers := ask.Operators{Env: s.env}.Escrows()
	var box privacy.BoxKey
	if t.Helper == s.env.Host.Self().Key {
		var err error
		if box, err = s.env.Keys.BoxOf(keys.Sum, metering.SumBoxPeriod(interval)); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.servers[t.ID]
	if held == nil || !maps.Equal(held.Issuers, issuers) || string(held.Box.Pub) != string(box.Pub) {
		held = &agg.Server{Net: s.env.Net, Suite: privacy.SuiteX25519, Task: t, Key: s.env.ID.Key, Issuers: issuers, Box: box}
		s.servers[t.ID] = held
	}
	return held, nil
}

// take answers the other nodes of a sum.
func (s *sums) take(_ context.Context, from mesh.Member, frame []byte) ([]byte, error) {
	step, whole, err := s.join.Take(from.Key, frame)
	var answer []byte
	switch {
	case err != nil || whole == nil:
	case step == metering.SumTask:
		err = s.takeTask(from, whole)
	case step == metering.SumPrepare:
		answer, err = s.prepare(from, whole)
	case step == metering.SumCombine:
		answer, err = s.finish(from, whole)
	default:
		err = fmt.Errorf("%w: step %d is not for a substation", metering.ErrMessage, step)
	}
	return metering.SumAnswer(answer, err), nil
}

// forget drops expired tasks with all that was kept for them.
func (s *sums) forget(now time.Time) error {
	s.mu.Lock()
	var over []heldTask
	for _, t := range s.tasks {
		if pseudo.Day(now) > t.To+1 { // homes keep a report for a day
			over = append(over, t)
		}
	}
	s.mu.Unlock()
	for _, t := range over {
		if s.undelivered(t.ID) && pseudo.Day(now) <= t.To+sumWait {
			continue
		}
		empty, err := s.drop(t.ID)
		if err != nil {
			return err
		}
		if !empty {
			continue // the rest at the next tick
		}
		s.mu.Lock()
		delete(s.tasks, t.ID)
		delete(s.servers, t.ID)
		maps.DeleteFunc(s.rounds, func(id sumID, _ *round) bool { return id.task == t.ID })
		maps.DeleteFunc(s.made, func(id sumID, _ time.Time) bool { return id.task == t.ID })
		s.mu.Unlock()
		s.help.Lock()
		maps.DeleteFunc(s.helped, func(id sumID, _ *helpRound) bool { return id.task == t.ID })
		s.help.Unlock()
	}
	return nil
}

// maxDrop bounds one update of forget.
const maxDrop = 500

// drop deletes what is stored under a task; empty says that all of it is gone.
func (s *sums) drop(task [16]byte) (empty bool, err error) {
	err = s.env.Store.Update(func(tx *store.Tx) error {
		var gone [][]byte
		for _, part := range [][]byte{reportPart, attemptPart, donePart, helpPart} {
			err := tx.Each(sumSpace(part, task[:]), func(k, _ []byte) error {
				if gone = append(gone, k); len(gone) >= maxDrop {
					return store.ErrStop
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		if empty = len(gone) < maxDrop; empty {
			gone = append(gone, taskKey(task[:]))
		}
		for _, k := range gone {
			if err := tx.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
	return empty, err
}

// What is stored of a sum, each under task 16 | interval u32.
var (
	reportPart  = []byte("r") // + one-day key 32 -> report, until the sum is made
	attemptPart = []byte("a") // -> the helper's preparation: the list is closed
	donePart    = []byte("d") // -> nothing more is taken
	helpPart    = []byte("h") // -> helpRound
)

func sumSpace(part []byte, id ...[]byte) []byte {
	return store.SpacePrivacy.Key(append([][]byte{[]byte("sum"), part}, id...)...)
}

// show keeps the zone's registers current: tasks, so that homes report, and the
// newest results. One at a time, so that the grid's limit never waits.
func (s *sums) show(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.last) < sumSpacing {
		return
	}
	key, body := s.register(now)
	if body == nil {
		return
	}
	s.last = now
	if err := s.env.Host.Publish(gossip.KindNetState, key, body, now.Add(sumLife)); err != nil {
		s.env.Log.Debug("register of a private sum not published; tried again", "err", err)
		return
	}
	s.shown[key] = now
	for q := range s.results {
		if key == metering.SumResultKey(s.env.Host.Self().Zone, q) {
			delete(s.results, q)
		}
	}
}

// register is the next one to publish, nil for none. The caller holds mu.
func (s *sums) register(now time.Time) (key uint64, body []byte) {
	self, today := s.env.Host.Self(), pseudo.Day(now)
	for q, r := range s.results {
		return metering.SumResultKey(self.Zone, q), r.Bytes()
	}
	for _, t := range slices.SortedFunc(maps.Values(s.tasks), func(a, b heldTask) int { return slices.Compare(a.ID[:], b.ID[:]) }) {
		key := metering.SumTaskKey(self.Zone, t.Quantity)
		if t.Leader == self.Key && t.From <= today && today < t.To && now.Sub(s.shown[key]) >= sumShow {
			return key, t.Bytes()
		}
	}
	return 0, nil
}

// Sums are the newest outcomes, oldest first, for the page.
func (s *SSN) Sums() []Outcome {
	s.sums.mu.Lock()
	defer s.sums.mu.Unlock()
	return slices.Clone(s.sums.outcomes)
}
