package ssn

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"gridveil/mesh"
	"gridveil/node/metering"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/agg"
)

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
