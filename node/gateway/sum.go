package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/meter"
	wire "gridveil/node/metering"
	"gridveil/node/model"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/agg"
	"gridveil/privacy/leak"
	"gridveil/privacy/pseudo"
)

// Times of a home's part in the sum of its zone.
const (
	sumTick    = time.Minute
	sumPatient = 2 * time.Hour  // a reading or identity that comes later is too late for its interval
	sumKept    = 24 * time.Hour // so long a report is sent again
	sumAgain   = 10 * time.Minute
)

// Limits.
const (
	sumsInFlight = 4  // reports under way at once
	maxMaking    = 16 // reports made in one go: a home that was off catches up two hours
)

// sums is the home's part in the private sums of its zone. Each quarter hour the
// energy is split in two shares under an identity of one day that nobody can
// trace to the home, and leaves by onion at a random second.
type sums struct {
	env     *role.Env
	journal *journal
	ops     ask.Operators
	period  func() time.Duration // of the readings
	wake    chan struct{}

	mu      sync.Mutex
	tasks   map[[16]byte]agg.Task
	flying  map[string]bool // store keys of reports under way
	asking  bool            // for a deck
	calm    time.Time       // no report is due before; zero means unknown
	results map[agg.Quantity]agg.Result
}

// What is kept under SpacePrivacy, "sum" and:
var (
	sumTasks   = []byte("t") // + task 16 -> agg.Task
	sumCursors = []byte("c") // + task 16 -> u32, the next interval to report
	sumReports = []byte("r") // + interval u32 | task 16 -> sumRecord
	sumDecks   = []byte("d") // + week u32 -> pseudo.Deck
	sumPending = []byte("p") // + week u32 -> pendingDeck
	sumDays    = []byte("h") // + day u32 -> pseudo.Pseudonym
)

func sumSpace(part []byte, id ...[]byte) []byte {
	return store.SpacePrivacy.Key(append([][]byte{[]byte("sum"), part}, id...)...)
}

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func openSums(env *role.Env, j *journal, period func() time.Duration) (*sums, error) {
	s := &sums{env: env, journal: j, ops: ask.Operators{Env: env}, period: period, wake: make(chan struct{}, 1), tasks: map[[16]byte]agg.Task{},
		flying: map[string]bool{}, results: map[agg.Quantity]agg.Result{}}
	err := env.Store.View(func(tx *store.Tx) error {
		return tx.Each(sumSpace(sumTasks), func(_, v []byte) error {
			t, err := agg.ParseTask(v)
			s.tasks[t.ID] = t
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("tasks of private sums: %w", err)
	}
	env.Host.Follow(gossip.KindNetState, nil, func(mesh.Envelope) { s.poke() })
	return s, nil
}

func (s *sums) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // one poke is enough
	}
}

// serve takes part until ctx ends, and waits for what is under way.
func (s *sums) serve(ctx context.Context) error {
	var under sync.WaitGroup
	defer under.Wait()
	for {
		now := s.env.Clock.Now()
		s.look()
		if err := errors.Join(s.keepDecks(ctx, &under, now), s.make(now), s.sendDue(ctx, &under, now), s.forget(now)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-s.env.Clock.After(sumTick):
		}
	}
}

// look reads the zone's registers: tasks and results.
func (s *sums) look() {
	zone := s.env.Host.Self().Zone
	for _, e := range s.env.Host.Registers(gossip.KindNetState) {
		for _, q := range []agg.Quantity{agg.Import, agg.Export} {
			var err error
			switch e.Key {
			case wire.SumTaskKey(zone, q):
				err = s.adopt(q, e.Body)
			case wire.SumResultKey(zone, q):
				err = s.learn(q, e.Body)
			}
			if err != nil {
				s.env.Log.Debug("register of a private sum not taken", "err", err)
			}
		}
	}
}

// adopt takes part in a task if it is what it must be for the home's sake: of the
// zone's grid operator, over a batch that hides the home, with two servers of
// different operators, and the only one for its quantity and days.
func (s *sums) adopt(q agg.Quantity, body []byte) error {
	t, err := agg.ParseTask(body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	_, have := s.tasks[t.ID]
	s.mu.Unlock()
	if have {
		return nil
	}
	if err := s.judge(q, &t); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.tasks {
		if o.Quantity == q && o.From < t.To && t.From < o.To {
			return fmt.Errorf("%w: a second one for the same days", agg.ErrTask)
		}
	}
	if err := s.env.Store.Set(sumSpace(sumTasks, t.ID[:]), t.Bytes()); err != nil {
		return err
	}
	s.tasks[t.ID] = t
	return nil
}

func (s *sums) judge(q agg.Quantity, t *agg.Task) error {
	self, b := s.env.Host.Self(), s.env.Host.Bundle()
	zone, _ := wire.ZoneNumber(b, self.Zone)
	grid, known := wire.GridOperator(b, self.Zone)
	switch {
	case t.Quantity != q || t.Zone != zone || !known || t.DSO != s.env.Operator(grid):
		return fmt.Errorf("%w: it is for another zone or quantity", agg.ErrTask)
	case t.MinBatch < agg.MinBatch && !s.env.Lab():
		return fmt.Errorf("%w: %d homes", agg.ErrSmallBatch, t.MinBatch)
	}
	signed := slices.ContainsFunc(s.env.Dir.All(member.RoleUtility, grid), func(h keys.Holder) bool { return t.Verify(s.env.Net, h.Member.Key) == nil })
	if !signed {
		return fmt.Errorf("task: %w", agg.ErrSignature)
	}
	leader, ok1 := s.server(t.Leader)
	helper, ok2 := s.server(t.Helper)
	if !ok1 || !ok2 || leader.Member.Operator == helper.Member.Operator {
		return fmt.Errorf("%w: its servers are not two operators' substations", agg.ErrTask)
	}
	return nil
}

func (s *sums) server(key [32]byte) (keys.Holder, bool) {
	for _, h := range s.env.Dir.All(member.RoleSSN, "") {
		if h.Member.Key == key {
			return h, true
		}
	}
	return keys.Holder{}, false
}

// learn keeps the newest result of a task that this home knows.
func (s *sums) learn(q agg.Quantity, body []byte) error {
	r, err := agg.ParseResult(body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tasks[r.Task]
	if old, have := s.results[q]; !ok || t.Quantity != q || have && old.Interval >= r.Interval {
		return nil
	}
	if _, err := r.Signed(s.env.Net, &t); err != nil {
		return err
	}
	s.results[q] = r
	return nil
}

func (s *sums) list() []agg.Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.tasks), func(a, b agg.Task) int { return slices.Compare(a.ID[:], b.ID[:]) })
}

// make makes the reports of the intervals that are over.
func (s *sums) make(now time.Time) error {
	for _, t := range s.list() {
		next, err := s.cursor(t, now)
		if err != nil {
			return err
		}
		for n := 0; n < maxMaking && agg.Begin(next+1).Before(now); n++ {
			if pseudo.Day(agg.Begin(next)) >= t.To {
				break
			}
			record, err := s.record(&t, next, now)
			if errors.Is(err, errWait) {
				break
			}
			if err != nil {
				return err
			}
			next++
			err = s.env.Store.Update(func(tx *store.Tx) error {
				if err := tx.Set(sumSpace(sumCursors, t.ID[:]), u32(next)); err != nil || record == nil {
					return err
				}
				return tx.Set(sumSpace(sumReports, u32(next-1), t.ID[:]), record.encode())
			})
			if err != nil {
				return fmt.Errorf("keep report of a private sum: %w", err)
			}
			s.mu.Lock()
			s.calm = time.Time{}
			s.mu.Unlock()
		}
	}
	return nil
}

// cursor is the next interval of a task; a home that was off too long leaves a gap.
func (s *sums) cursor(t agg.Task, now time.Time) (uint32, error) {
	next := max(agg.Interval(now.Add(-sumPatient)), agg.Interval(dayBegin(t.From)))
	key := sumSpace(sumCursors, t.ID[:])
	raw, err := s.env.Store.Get(key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		next = max(next, agg.Interval(now)) // from when the task is known
		return next, s.env.Store.Set(key, u32(next))
	case err != nil || len(raw) != 4:
		return 0, fmt.Errorf("cursor of a private sum: %d bytes: %w", len(raw), err)
	}
	return max(next, binary.BigEndian.Uint32(raw)), nil
}

func dayBegin(day uint32) time.Time {
	from, _ := pseudo.Window(pseudo.Meter, day)
	return from
}

// errWait says that an interval cannot be reported yet.
var errWait = errors.New("not yet")

// record makes one report, nil when the interval has none: no reading, no
// identity, or more than the task counts.
func (s *sums) record(t *agg.Task, interval uint32, now time.Time) (*sumRecord, error) {
	late := now.Sub(agg.Begin(interval+1)) > sumPatient
	skip := func() (*sumRecord, error) {
		if late {
			return nil, nil
		}
		return nil, errWait
	}
	mWh, state, err := s.energy(t.Quantity, interval, int64(t.Unit))
	if err != nil || state != readingThere {
		if err == nil && state == readingWrong {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return skip()
	}
	helper, ok := s.server(t.Helper)
	box, found := helper.Sheet.Find(keys.Sum, wire.SumBoxPeriod(interval))
	if !ok || !found {
		return skip()
	}
	me, err := s.identity(interval)
	if errors.Is(err, pseudo.ErrNoPseudonym) {
		return skip()
	}
	if err != nil {
		return nil, err
	}
	h := agg.Home{Net: s.env.Net, Suite: privacy.SuiteX25519, HelperBox: box, Rand: s.env.Rand}
	rep, err := agg.NewReport(h, t, interval, me, uint64(mWh))
	if err != nil {
		s.env.Log.Warn("no report for the private sum", "err", err)
		return nil, nil
	}
	wait, err := s.random(agg.IntervalLen)
	if err != nil {
		return nil, err
	}
	begin := agg.Begin(interval + 1)
	if now.After(begin.Add(wait)) {
		begin = now // made late: still at a random second, but soon
		wait /= 3
	}
	return &sumRecord{state: sumWaiting, next: begin.Add(wait), report: rep.Bytes()}, nil
}

// random is a time below d, uniform in milliseconds.
func (s *sums) random(d time.Duration) (time.Duration, error) {
	var b [8]byte
	if _, err := io.ReadFull(s.env.Rand, b[:]); err != nil {
		return 0, fmt.Errorf("draw time: %w", err)
	}
	return time.Duration(binary.BigEndian.Uint64(b[:])%uint64(d.Milliseconds())) * time.Millisecond, nil
}

// readingState says whether an interval has both of its registers.
type readingState int

const (
	readingMissing readingState = iota
	readingThere
	readingWrong // another meter, a step back: no sum may count it
)

// energy is an interval's energy in whole units: the difference of the rounded
// registers, so that rounding never adds up.
func (s *sums) energy(q agg.Quantity, interval uint32, unit int64) (units int64, state readingState, err error) {
	ch, p := model.ImportTotal, s.period()
	if q == agg.Export {
		ch = model.ExportTotal
	}
	if p <= 0 || agg.IntervalLen%p != 0 {
		return 0, readingWrong, nil // read too seldom for a quarter hour
	}
	var at [2]*model.Reading
	err = s.env.Store.View(func(tx *store.Tx) error {
		for i := range at {
			slot := agg.Begin(interval + uint32(i)).Add(-p).UnixMilli()
			rows, err := meter.Readings(tx, meterName, slot, slot+1)
			if err != nil {
				return err
			}
			for _, r := range rows {
				if r.Channel == ch {
					at[i] = &r
				}
			}
		}
		return nil
	})
	if err != nil || at[0] == nil || at[1] == nil {
		return 0, readingMissing, err
	}
	if at[0].Epoch != at[1].Epoch || at[1].Register < at[0].Register {
		return 0, readingWrong, nil
	}
	return at[1].Register/unit - at[0].Register/unit, readingThere, nil
}

// States of a report.
const (
	sumWaiting byte = 0
	sumSent    byte = 1 // noted in the journal, and not acknowledged
	sumTaken   byte = 2
	sumRefused byte = 3
)

// sumRecord is a report on its way: state u8 | next try i64 | report.
type sumRecord struct {
	state  byte
	next   time.Time
	report []byte // dropped once it was answered
}

func (r sumRecord) encode() []byte {
	return append(binary.BigEndian.AppendUint64([]byte{r.state}, uint64(r.next.UnixMilli())), r.report...)
}

func parseSumRecord(b []byte) (sumRecord, error) {
	if len(b) < 9 || b[0] > sumRefused {
		return sumRecord{}, fmt.Errorf("%w: report of %d bytes", store.ErrDamaged, len(b))
	}
	return sumRecord{b[0], time.UnixMilli(int64(binary.BigEndian.Uint64(b[1:]))).UTC(), b[9:]}, nil
}

// due lists reports to send, at most so many as may fly.
func (s *sums) due(now time.Time) (out map[string]sumRecord, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.calm) {
		return nil, nil
	}
	out = map[string]sumRecord{}
	calm := now.Add(sumKept)
	err = s.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(sumSpace(sumReports), func(k, v []byte) error {
			r, err := parseSumRecord(v)
			if err != nil || r.state > sumSent || s.flying[string(k)] {
				return err
			}
			if len(s.flying)+len(out) >= sumsInFlight {
				calm = now
				return store.ErrStop
			}
			if now.Before(r.next) {
				if r.next.Before(calm) {
					calm = r.next
				}
				return nil
			}
			out[string(k)] = r
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	s.calm = calm
	for k := range out {
		s.flying[k] = true
	}
	return out, nil
}

// sendDue lets reports leave whose time has come. Each call takes minutes in
// class meter; serve waits for them.
func (s *sums) sendDue(ctx context.Context, under *sync.WaitGroup, now time.Time) error {
	due, err := s.due(now)
	if err != nil {
		return fmt.Errorf("reports of private sums: %w", err)
	}
	for k, r := range due {
		under.Go(func() {
			if err := s.send(ctx, []byte(k), r); err != nil {
				s.env.Log.Error("report of a private sum not kept", "err", err)
			}
			s.mu.Lock()
			delete(s.flying, k)
			s.calm = time.Time{}
			s.mu.Unlock()
			s.poke()
		})
	}
	return nil
}

// send offers one report to the leader and applies the answer.
func (s *sums) send(ctx context.Context, key []byte, r sumRecord) error {
	rep, err := agg.ParseReport(r.report, privacy.SuiteX25519)
	if err != nil {
		return err
	}
	s.mu.Lock()
	t, ok := s.tasks[rep.Task]
	s.mu.Unlock()
	if !ok {
		return s.env.Store.Update(func(tx *store.Tx) error { return tx.Delete(key) })
	}
	if r.state == sumWaiting {
		r.state = sumSent
		if err := s.noteReport(key, r, rep); err != nil {
			return err
		}
	}
	_, err = s.ops.Ask(ctx, member.Key(t.Leader), mesh.AggShare, ask.Share, r.report)
	if ctx.Err() != nil {
		return nil // it stays
	}
	var later *ask.NotYetError
	var no *ask.RefusedError
	wait := sumAgain
	switch {
	case err == nil:
		r.state, r.report = sumTaken, nil
	case errors.As(err, &no):
		r.state, r.report = sumRefused, nil
		s.env.Log.Debug("report of a private sum refused", "reason", no.Reason)
	case errors.As(err, &later):
		wait = max(later.After, time.Minute)
	}
	jitter, err := s.random(sumAgain)
	if err != nil {
		return err
	}
	r.next = s.env.Clock.Now().Add(wait + jitter)
	return s.env.Store.Set(key, r.encode())
}

// noteReport writes down who learns what of a report, before it leaves.
func (s *sums) noteReport(key []byte, r sumRecord, rep *agg.Report) error {
	now := s.env.Clock.Now()
	hk := rep.Cert.SPK()
	return s.env.Store.Update(func(tx *store.Tx) error {
		for _, to := range []leak.Role{leak.SumLeader, leak.SumHelper, leak.GridOp} {
			e := leak.Entry{Message: leak.SumReport, To: to, As: [8]byte(hk[:]), Bytes: uint32(len(r.report)), At: now}
			if err := s.journal.record(tx, e); err != nil {
				return err
			}
		}
		return tx.Set(key, r.encode())
	})
}

// forget drops what is over: reports of yesterday, tasks and identities of last
// week.
func (s *sums) forget(now time.Time) error {
	today := pseudo.Day(now)
	var gone [][]byte
	err := s.env.Store.View(func(tx *store.Tx) error {
		drop := func(part []byte, until uint32) error {
			prefix := sumSpace(part)
			return tx.Each(prefix, func(k, _ []byte) error {
				if len(k) < len(prefix)+4 || binary.BigEndian.Uint32(k[len(prefix):]) >= until {
					return store.ErrStop
				}
				gone = append(gone, k)
				return nil
			})
		}
		old := agg.Interval(now.Add(-sumKept - agg.IntervalLen))
		return errors.Join(drop(sumReports, old), drop(sumDays, today-1), drop(sumDecks, today/7), drop(sumPending, today/7))
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, t := range s.tasks {
		if today > t.To+1 {
			gone = append(gone, sumSpace(sumTasks, id[:]), sumSpace(sumCursors, id[:]))
			delete(s.tasks, id)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return s.env.Store.Update(func(tx *store.Tx) error {
		for _, k := range gone[:min(len(gone), 500)] {
			if err := tx.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}
