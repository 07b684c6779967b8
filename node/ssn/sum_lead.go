package ssn

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"gridveil/mesh"
	"gridveil/node/metering"
	"gridveil/node/store"
	"gridveil/privacy/agg"
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
