package ssn

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/metering"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/agg"
	"gridveil/privacy/pseudo"
)

// round is one interval that this substation leads: its reports wait in the
// store until the sum is made, or homes would no longer resend them.
//
//	collect -> Start -> helper prepares -> store its answer -> Combine -> helper signs -> Publish -> deliver
//
// With the helper's answer the list is closed: from then on the helper may have
// signed, and only the same Combine may be sent again.
type round struct {
	id   sumID
	task heldTask

	next time.Time // of the next attempt; owned by sums.mu

	mu       sync.Mutex
	leader   *agg.Leader // nil until needed, or when the store knows better
	server   *agg.Server // of leader
	prepared []byte      // stored
	busy     bool        // an attempt is under way
}

// sumDue is when an interval's reports should all be here: homes send in the
// interval that follows it.
func (s *sums) sumDue(interval uint32) time.Time {
	return agg.Begin(interval + 2).Add(sumSettle + s.env.Host.Lag())
}

// reload finds the intervals that the last run left behind.
func (s *sums) reload() error {
	return s.env.Store.View(func(tx *store.Tx) error {
		for id := range s.tasks {
			err := tx.Each(sumSpace(reportPart, id[:]), func(k, _ []byte) error {
				x := sumID{id, binary.BigEndian.Uint32(k[len(sumSpace(reportPart))+16:])}
				if s.rounds[x] == nil {
					s.rounds[x] = &round{id: x, task: s.tasks[id], next: s.sumDue(x.interval)}
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("reports of private sums: %w", err)
			}
			err = tx.Each(sumSpace(donePart, id[:]), func(k, v []byte) error {
				x := sumID{id, binary.BigEndian.Uint32(k[len(sumSpace(donePart))+16:])}
				delete(s.rounds, x)
				d, err := parseDone(v)
				if err == nil && d.deliver {
					s.made[x] = time.Time{}
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("results of private sums: %w", err)
			}
		}
		return nil
	})
}

// report takes a home's report by onion: it is durable before it is
// acknowledged. Whose it is nobody here can know.
func (s *sums) report(op ask.Op, body []byte) ([]byte, error) {
	if op != ask.Share {
		return nil, &ask.RefusedError{Reason: "operation is not offered here"}
	}
	r, err := agg.ParseReport(body, privacy.SuiteX25519)
	if err != nil {
		return nil, err
	}
	now, ends := s.env.Clock.Now(), agg.Begin(r.Interval+1)
	switch {
	case now.Before(ends):
		return nil, &ask.NotYetError{After: ends.Sub(now)}
	case now.After(ends.Add(sumGiveUp)):
		return nil, agg.ErrClosed
	}
	rd, err := s.round(sumID{r.Task, r.Interval})
	if err != nil {
		return nil, err
	}
	return nil, rd.take(s, body, r)
}

// round finds or begins an interval; a day of a task has 96.
func (s *sums) round(id sumID) (*round, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tasks[id.task]
	if !ok || t.Leader != s.env.Host.Self().Key {
		return nil, &ask.NotYetError{After: sumRetry} // the task may be on its way
	}
	if r := s.rounds[id]; r != nil {
		return r, nil
	}
	_, err := s.env.Store.Get(sumSpace(donePart, id.bytes()))
	switch {
	case err == nil:
		return nil, agg.ErrClosed
	case !errors.Is(err, store.ErrNotFound):
		return nil, &ask.NotYetError{After: sumRetry}
	}
	r := &round{id: id, task: t, next: s.sumDue(id.interval)}
	s.rounds[id] = r
	return r, nil
}

// take adds a report to the round and the store.
func (r *round) take(s *sums, body []byte, p *agg.Report) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.open(s); err != nil || r.busy {
		return &ask.NotYetError{After: sumRetry}
	}
	if r.prepared != nil {
		return agg.ErrClosed
	}
	stored, err := r.leader.Add(body)
	switch {
	case errors.Is(err, pseudo.ErrIssuer):
		if now, err := s.server(r.task.Task, r.id.interval); err == nil && now != r.server {
			r.leader = nil // an escrow's key has come since
		}
		return &ask.NotYetError{After: sumRetry}
	case err != nil || stored == nil:
		return err
	}
	hk := p.Cert.SPK()
	if err := s.env.Store.Set(sumSpace(reportPart, r.id.bytes(), hk[:]), stored); err != nil {
		r.leader = nil // it holds what the store does not
		return &ask.NotYetError{After: sumRetry}
	}
	return nil
}

// open makes the leader from what is stored. The caller holds mu.
func (r *round) open(s *sums) error {
	if r.leader != nil {
		return nil
	}
	server, err := s.server(r.task.Task, r.id.interval)
	if err != nil {
		return err
	}
	l, err := agg.NewLeader(server, r.id.interval)
	if err != nil {
		return err
	}
	var prepared []byte
	err = s.env.Store.View(func(tx *store.Tx) error {
		prepared, err = tx.Get(sumSpace(attemptPart, r.id.bytes()))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return tx.Each(sumSpace(reportPart, r.id.bytes()), func(_, v []byte) error {
			_, err := l.Add(v)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("stored reports of a private sum: %w", err)
	}
	r.leader, r.server, r.prepared = l, server, prepared
	return nil
}

// due lists the rounds to sum now.
func (s *sums) due(now time.Time) (out []*round) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rounds {
		if !now.Before(r.next) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *round) int { return int(a.id.interval) - int(b.id.interval) })
	return out
}

// attempt tries to make one sum. Only a broken store is an error: a sum that
// cannot be made now is tried again while homes keep their reports.
func (s *sums) attempt(ctx context.Context, r *round) error {
	res, list, err := s.sum(ctx, r)
	r.mu.Lock()
	r.busy = false
	r.mu.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	now := s.env.Clock.Now()
	if err == nil {
		return s.keep(r, res, list)
	}
	s.note(r, Outcome{Err: err})
	final := errors.Is(err, agg.ErrClosed) || errors.Is(err, agg.ErrVerifyKey) || errors.Is(err, agg.ErrTask)
	if final || errors.Is(err, agg.ErrCommitment) || errors.Is(err, agg.ErrSplit) {
		s.alert(err)
	}
	if final || now.After(agg.Begin(r.id.interval+1).Add(sumGiveUp)) {
		return s.close(r.id, doneRecord{})
	}
	s.mu.Lock()
	r.next = now.Add(sumRetry)
	s.mu.Unlock()
	return nil
}

// sum runs the exchange with the helper.
func (s *sums) sum(ctx context.Context, r *round) (agg.Result, [][]byte, error) {
	start, prepared, err := r.start(s)
	if err != nil {
		return agg.Result{}, nil, err
	}
	if prepared == nil {
		prepared, err = s.ask(ctx, r, metering.SumPrepare, start)
		if err == nil {
			err = s.env.Store.Set(sumSpace(attemptPart, r.id.bytes()), prepared)
		}
		if err != nil {
			return agg.Result{}, nil, r.reopen(s, err)
		}
		r.mu.Lock()
		r.prepared = prepared
		r.mu.Unlock()
	}
	r.mu.Lock()
	combine, err := r.leader.Combine(prepared)
	r.mu.Unlock()
	if err != nil {
		return agg.Result{}, nil, r.reopen(s, err)
	}
	half, err := s.ask(ctx, r, metering.SumCombine, combine)
	for _, unsigned := range []error{agg.ErrOrder, agg.ErrSmallBatch, agg.ErrSplit, agg.ErrCommitment} {
		if errors.Is(err, unsigned) {
			return agg.Result{}, nil, r.reopen(s, err)
		}
	}
	if err != nil {
		return agg.Result{}, nil, err // it may have signed: the same Combine again
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leader.Publish(half)
}

// start begins an attempt, or goes on with the one whose preparation is stored.
func (r *round) start(s *sums) (start, prepared []byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.open(s); err != nil {
		return nil, nil, err
	}
	start, err = r.leader.Start()
	r.busy = err == nil
	return start, r.prepared, err
}

// reopen lets late reports join: the helper has signed nothing. It returns why.
func (r *round) reopen(s *sums, why error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.prepared != nil {
		if err := s.env.Store.Update(func(tx *store.Tx) error { return tx.Delete(sumSpace(attemptPart, r.id.bytes())) }); err != nil {
			return err
		}
	}
	r.prepared = nil
	r.leader.Reopen()
	return why
}

// ask calls the helper.
func (s *sums) ask(ctx context.Context, r *round, step metering.SumStep, msg []byte) ([]byte, error) {
	m, ok := s.substation(r.task.Helper)
	if !ok {
		return nil, metering.ErrSumLater
	}
	return metering.SendSum(ctx, func(ctx context.Context, b []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return s.env.Host.Call(ctx, m.Peer, mesh.AggPrep, b)
	}, step, msg)
}

// keep holds a result until the grid operator has it.
func (s *sums) keep(r *round, res agg.Result, list [][]byte) error {
	d := doneRecord{deliver: true, result: res.Bytes()}
	from := agg.Begin(r.id.interval)
	if s.feeder != nil {
		if v, ok := s.feeder.Energy(from, from.Add(agg.IntervalLen)); ok {
			d.feeder = &v
		}
	}
	all, err := s.stored(r.id)
	if err != nil {
		return err
	}
	counted := make(map[string]bool, len(list))
	for _, p := range list {
		counted[string(p)] = true
	}
	d.counted = make([]byte, (len(all)+7)/8)
	for i, rep := range all {
		if counted[string(rep.Public())] {
			d.counted[i/8] |= 1 << (i % 8)
		}
	}
	if err := s.close(r.id, d); err != nil {
		return err
	}
	total, err := res.Signed(s.env.Net, &r.task.Task)
	if err != nil {
		return fmt.Errorf("own result: %w", err)
	}
	s.note(r, Outcome{Homes: int(res.N), MWh: int64(total) * int64(r.task.Unit)})
	s.mu.Lock()
	s.results[r.task.Quantity] = res
	s.made[r.id] = time.Time{}
	s.mu.Unlock()
	return nil
}

// stored are an interval's reports in the order of their one-day keys.
func (s *sums) stored(id sumID) (out []*agg.Report, err error) {
	err = s.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(sumSpace(reportPart, id.bytes()), func(_, v []byte) error {
			r, err := agg.ParseReport(v, privacy.SuiteX25519)
			out = append(out, r)
			return err
		})
	})
	return out, err
}

// doneRecord ends an interval: nothing more is taken for it.
type doneRecord struct {
	deliver bool // the grid operator has not got it
	feeder  *int64
	result  []byte // empty: no sum was possible
	counted []byte // bit i: the i-th stored report is in the sum
}

// encode gives deliver u8 | has feeder u8 | feeder i64 | result length u16 | result | counted.
func (d doneRecord) encode() []byte {
	b := []byte{0, 0}
	v := int64(0)
	if d.deliver {
		b[0] = 1
	}
	if d.feeder != nil {
		b[1], v = 1, *d.feeder
	}
	b = binary.BigEndian.AppendUint64(b, uint64(v))
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.result)))
	return append(append(b, d.result...), d.counted...)
}

func parseDone(b []byte) (d doneRecord, err error) {
	if len(b) < 12 || len(b) < 12+int(binary.BigEndian.Uint16(b[10:])) {
		return d, fmt.Errorf("%w: result of %d bytes", store.ErrDamaged, len(b))
	}
	n := 12 + int(binary.BigEndian.Uint16(b[10:]))
	d = doneRecord{deliver: b[0] == 1, result: b[12:n], counted: b[n:]}
	if b[1] == 1 {
		v := int64(binary.BigEndian.Uint64(b[2:]))
		d.feeder = &v
	}
	return d, nil
}

// close makes the end of an interval durable; without a result its reports go.
func (s *sums) close(id sumID, d doneRecord) error {
	err := s.env.Store.Update(func(tx *store.Tx) error {
		return errors.Join(tx.Set(sumSpace(donePart, id.bytes()), d.encode()), tx.Delete(sumSpace(attemptPart, id.bytes())))
	})
	if err != nil {
		return fmt.Errorf("end of a private sum: %w", err)
	}
	s.mu.Lock()
	delete(s.rounds, id)
	s.mu.Unlock()
	if d.deliver {
		return nil
	}
	return s.clear(id)
}

// clear deletes an interval's reports.
func (s *sums) clear(id sumID) error {
	for {
		n := 0
		err := s.env.Store.Update(func(tx *store.Tx) error {
			var gone [][]byte
			err := tx.Each(sumSpace(reportPart, id.bytes()), func(k, _ []byte) error {
				if gone = append(gone, k); len(gone) == maxDrop {
					return store.ErrStop
				}
				return nil
			})
			n = len(gone)
			for _, k := range gone {
				err = errors.Join(err, tx.Delete(k))
			}
			return err
		})
		if err != nil || n < maxDrop {
			return err
		}
	}
}

func (s *sums) undelivered(task [16]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.made {
		if id.task == task {
			return true
		}
	}
	return false
}

// deliver sends results to the grid operator until it has them.
func (s *sums) deliver(ctx context.Context) error {
	now := s.env.Clock.Now()
	s.mu.Lock()
	waiting := maps.Clone(s.made)
	s.mu.Unlock()
	for id, next := range waiting {
		if now.Before(next) || ctx.Err() != nil {
			continue
		}
		raw, err := s.env.Store.Get(sumSpace(donePart, id.bytes()))
		if err != nil {
			return fmt.Errorf("result to deliver: %w", err)
		}
		d, err := parseDone(raw)
		if err != nil {
			return err
		}
		if err := s.deliverOne(ctx, id, d); err != nil {
			return err
		}
	}
	return nil
}

func (s *sums) deliverOne(ctx context.Context, id sumID, d doneRecord) error {
	s.mu.Lock()
	dso := s.tasks[id.task].DSO
	s.mu.Unlock()
	msg, err := s.delivery(id, d)
	if err != nil {
		return err
	}
	peer, err := dso.Peer()
	if err != nil {
		return fmt.Errorf("grid operator of a task: %w", err)
	}
	_, err = metering.SendSum(ctx, func(ctx context.Context, b []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return s.env.Host.Call(ctx, peer, mesh.AggPrep, b)
	}, metering.SumDeliver, msg.Bytes())
	refused := errors.Is(err, agg.ErrTask) || errors.Is(err, agg.ErrSplit) || errors.Is(err, agg.ErrCommitment) || errors.Is(err, metering.ErrMessage)
	s.mu.Lock()
	if err == nil || refused {
		delete(s.made, id)
	} else {
		s.made[id] = s.env.Clock.Now().Add(sumSpacing)
	}
	s.mu.Unlock()
	switch {
	case refused:
		s.alert(err)
	case err != nil:
		return nil // later
	}
	d.deliver = false
	return s.close(id, d)
}

// delivery is a result with the list of the reports that it counts, in the order
// of their ids.
func (s *sums) delivery(id sumID, d doneRecord) (msg metering.SumDelivery, err error) {
	if msg.Result, err = agg.ParseResult(d.result); err != nil {
		return msg, err
	}
	all, err := s.stored(id)
	if err != nil {
		return msg, err
	}
	msg.Feeder = d.feeder
	counted := map[[32]byte][]byte{}
	for i, r := range all {
		if i/8 < len(d.counted) && d.counted[i/8]>>(i%8)&1 == 1 {
			counted[r.ID(s.env.Net)] = r.Public()
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(counted), func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) }) {
		msg.List = append(msg.List, counted[id])
	}
	return msg, nil
}

// note keeps what became of an interval, the newest word on it.
func (s *sums) note(r *round, o Outcome) {
	o.Zone, o.Quantity, o.From, o.At = s.env.Host.Self().Zone, r.task.Quantity, agg.Begin(r.id.interval), s.env.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.outcomes {
		if old := &s.outcomes[i]; old.From.Equal(o.From) && old.Quantity == o.Quantity {
			*old = o
			return
		}
	}
	s.outcomes = append(s.outcomes, o)
	s.outcomes = s.outcomes[max(0, len(s.outcomes)-maxOutcomes):]
}
