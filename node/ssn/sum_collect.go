package ssn

import (
	"errors"
	"fmt"

	"gridveil/node/ask"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/agg"
	"gridveil/privacy/pseudo"
)

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
