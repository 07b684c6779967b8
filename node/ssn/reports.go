package ssn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/report"
	"gridveil/node/store"
)

// takeReport keeps a home's report unread and acknowledges it as held, or as
// final if the head-end has already said so.
func (s *SSN) takeReport(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
	m, err := report.DecodeMessage(req)
	if err != nil {
		return nil, err
	}
	now := s.env.Clock.Now().UnixMilli()
	key := public(from.Key)
	if report.SourceOf(key) != m.Header.Source {
		return report.RefusalFor(m.Header, report.Unreferenced, 0, 0, now, s.env.ID.Key).Encode(), nil
	}
	if final, ok := s.finalFor(m.Header); ok {
		return final.Encode(), nil
	}
	var head report.Head
	var verdict report.Verdict
	err = s.env.Store.Update(func(tx *store.Tx) error {
		if head, err = s.head(tx, m.Header); err != nil {
			return err
		}
		verdict = report.Admit(report.Known{Key: key, Head: head}, m.Header)
		if !verdict.Take && !verdict.Duplicate {
			return nil
		}
		if verdict.Take {
			head = head.Advance(m.Header)
			if err := report.SaveHead(tx, m.Header.Source, m.Header.Class, head); err != nil {
				return err
			}
		}
		return s.keepReport(tx, from, m, req)
	})
	if err != nil {
		return report.RefusalFor(m.Header, report.Busy, 0, 1000, now, s.env.ID.Key).Encode(), nil
	}
	if verdict.Refuse != 0 {
		s.mu.Lock()
		s.relayed.Refused++
		s.mu.Unlock()
		return report.RefusalFor(m.Header, verdict.Refuse, verdict.WantSeq, 0, now, s.env.ID.Key).Encode(), nil
	}
	s.mu.Lock()
	s.relayed.Reports++
	s.mu.Unlock()
	nudge(s.wake)
	return head.AckFor(m.Header.Class, m.Header.Source, report.LevelHeld, now, s.env.ID.Key).Encode(), nil
}

// head is where this relay stands in a chain. A home that comes from another
// substation continues where it is: a relay needs no history.
func (s *SSN) head(tx *store.Tx, h report.Header) (report.Head, error) {
	head, err := report.LoadHead(tx, h.Source, h.Class)
	if err == nil && h.Seq > head.Seq+1 {
		head = report.Head{Seq: h.Seq - 1, Hash: h.Prev, End: head.End}
	}
	return head, err
}

// keepReport puts the report into the outbox; the newest seal replaces an older
// one of the same report.
func (s *SSN) keepReport(tx *store.Tx, from mesh.Member, m report.Message, raw []byte) error {
	msg := store.Message{ID: messageID(m.Header), Kind: "report", To: from.Operator, Body: slices.Concat(from.Key[:], raw)}
	err := s.reports.PutTx(tx, msg)
	if errors.Is(err, store.ErrConflict) {
		if err := s.reports.DoneTx(tx, msg.ID); err != nil {
			return err
		}
		err = s.reports.PutTx(tx, msg)
	}
	return err
}

// finalFor gives the head-end's final acknowledgement that covers h.
func (s *SSN) finalFor(h report.Header) (report.Ack, bool) {
	raw, err := s.env.Store.Get(chainKey(h.Source, h.Class))
	if err != nil {
		return report.Ack{}, false
	}
	a, err := report.DecodeAck(raw)
	return a, err == nil && a.Seq >= h.Seq
}

// forwardReports offers waiting reports to the head-ends, oldest first.
func (s *SSN) forwardReports(ctx context.Context) error {
	waiting, err := s.reports.List(0, forwardBatch)
	if err != nil {
		return fmt.Errorf("waiting reports: %w", err)
	}
	stuck := map[string]bool{} // operators whose head-end does not answer
	for _, m := range waiting {
		if stuck[m.To] || ctx.Err() != nil {
			continue
		}
		done, err := s.forwardReport(ctx, m)
		if err != nil {
			return err
		}
		stuck[m.To] = !done
	}
	if len(waiting) == forwardBatch && !anyStuck(stuck) {
		nudge(s.wake)
	}
	return nil
}

func anyStuck(m map[string]bool) bool {
	for _, v := range m {
		if v {
			return true
		}
	}
	return false
}

// forwardReport sends one report and applies the answer; done says that it needs
// no further forwarding from here.
func (s *SSN) forwardReport(ctx context.Context, m store.Message) (done bool, err error) {
	gateway := member.Key(m.Body[:32])
	for _, h := range s.headends(m.To) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := s.env.Host.Call(call, h.Peer, mesh.Report, m.Body)
		cancel()
		if err != nil {
			continue // the next head-end, or later
		}
		reply, err := report.DecodeReply(answer)
		if err != nil {
			continue
		}
		return s.settle(ctx, m, reply, h, gateway, answer)
	}
	return false, nil
}

// settle keeps a final acknowledgement, drops the report and tells the home.
func (s *SSN) settle(ctx context.Context, m store.Message, r report.Reply, h mesh.Member, gateway member.Key, answer []byte) (bool, error) {
	if r.Refusal != nil && r.Refusal.Reason == report.Busy {
		return false, nil
	}
	if r.Ack != nil && (r.Ack.Level != report.LevelFinal || r.Ack.Verify(public(h.Key)) != nil) {
		return false, nil
	}
	err := s.env.Store.Update(func(tx *store.Tx) error {
		if r.Ack != nil {
			if err := tx.Set(chainKey(r.Ack.Source, r.Ack.Class), answer); err != nil {
				return err
			}
		}
		return s.reports.DoneTx(tx, m.ID)
	})
	if err != nil {
		return false, fmt.Errorf("answered report: %w", err)
	}
	s.mu.Lock()
	if r.Ack != nil {
		s.relayed.Finals++
	} else {
		s.relayed.Refused++
	}
	s.mu.Unlock()
	s.tellHome(ctx, gateway, answer)
	return true, nil
}

// tellHome passes the head-end's answer to the home if it is connected; if not,
// the home asks again with its next report.
func (s *SSN) tellHome(ctx context.Context, gateway member.Key, answer []byte) {
	id, err := gateway.Peer()
	if err != nil {
		return // it was a member's key when it was stored
	}
	if _, ok := s.env.Host.Connected(id); !ok {
		return
	}
	call, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := s.env.Host.Call(call, id, mesh.Ack, answer); err != nil {
		s.env.Log.Debug("final acknowledgement not passed on", "err", err)
	}
}
