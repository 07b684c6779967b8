package ssn

import (
	"context"
	"fmt"
	"slices"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/report"
	"gridveil/node/store"
)

const (
	maxHeldReports = 45 * 96 // of one home: 45 days of quarter hours
	busyRetryMS    = 60_000
	tellTimeout    = 5 * time.Second // wall time
	tellQueue      = 256
	tellers        = 4
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
	if !s.reserve(from.Key) {
		return report.RefusalFor(m.Header, report.Busy, 0, busyRetryMS, now, s.env.ID.Key).Encode(), nil
	}
	var head report.Head
	var verdict report.Verdict
	fresh := false
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
		fresh, err = s.keepReport(tx, from, m, req)
		return err
	})
	if err != nil || !fresh {
		s.release(from.Key)
	}
	if err != nil {
		return report.RefusalFor(m.Header, report.Busy, 0, busyRetryMS, now, s.env.ID.Key).Encode(), nil
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
// one of the same report. fresh says that no copy waited yet.
func (s *SSN) keepReport(tx *store.Tx, from mesh.Member, m report.Message, raw []byte) (fresh bool, err error) {
	msg := store.Message{ID: messageID(m.Header), Kind: "report", To: from.Operator, Body: slices.Concat(from.Key[:], raw), At: s.env.Clock.Now()}
	waits, err := s.reports.HasTx(tx, msg.ID)
	if err != nil {
		return false, err
	}
	if waits {
		if err := s.reports.DoneTx(tx, msg.ID); err != nil {
			return false, err
		}
	}
	return !waits, s.reports.PutTx(tx, msg)
}

// reserve counts a report before it is kept, and bounds what one home can make
// this node keep.
func (s *SSN) reserve(k member.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[k] >= maxHeldReports {
		return false
	}
	s.held[k]++
	return true
}

// release takes back what reserve counted, when the report left or never came.
func (s *SSN) release(k member.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[k]--; s.held[k] <= 0 {
		delete(s.held, k)
	}
}

// countHeld counts what the last run left waiting.
func (s *SSN) countHeld() error {
	return eachWaiting(context.Background(), s.reports, func(m store.Message) error {
		if len(m.Body) < 32 {
			return fmt.Errorf("%w: waiting report of %d bytes", store.ErrDamaged, len(m.Body))
		}
		s.held[member.Key(m.Body[:32])]++
		return nil
	})
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

// forwardReports offers waiting reports to the head-ends, oldest first. One
// operator's head-end that does not answer holds up nobody else's reports.
func (s *SSN) forwardReports(ctx context.Context) error {
	stuck := map[string]bool{}
	return eachWaiting(ctx, s.reports, func(m store.Message) error {
		if stuck[m.To] {
			return nil
		}
		done, err := s.forwardReport(ctx, m)
		stuck[m.To] = !done
		return err
	})
}

// eachWaiting goes once through an outbox, oldest first; fn may remove what it is
// given.
func eachWaiting(ctx context.Context, box store.Outbox, fn func(store.Message) error) error {
	for after := uint64(0); ; {
		part, err := box.List(after, forwardBatch)
		if err != nil {
			return fmt.Errorf("waiting messages: %w", err)
		}
		for _, m := range part {
			if ctx.Err() != nil {
				return nil
			}
			if err := fn(m); err != nil {
				return err
			}
			after = m.Seq
		}
		if len(part) < forwardBatch {
			return nil
		}
	}
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
	if r.Ack != nil && (r.Ack.Level != report.LevelFinal || r.Ack.Verify(public(h.Key)) != nil) || r.Refusal != nil && r.Refusal.Verify(public(h.Key)) != nil {
		return false, nil // not an answer of this head-end: the report stays
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
	s.release(gateway)
	select {
	case s.tell <- telling{gateway, answer}:
	default: // a home that is not told asks again
	}
	return true, nil
}

// telling is a head-end's answer on its way to a home.
type telling struct {
	gateway member.Key
	answer  []byte
}

// tellHomes passes answers to the homes that are connected, beside forwarding: a
// home that does not answer holds up nobody.
func (s *SSN) tellHomes(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case t := <-s.tell:
			s.tellHome(ctx, t)
		}
	}
}

func (s *SSN) tellHome(ctx context.Context, t telling) {
	id, err := t.gateway.Peer()
	if err != nil {
		return // it was a member's key when it was stored
	}
	if _, ok := s.env.Host.Connected(id); !ok {
		return
	}
	call, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	if _, err := s.env.Host.Call(call, id, mesh.Ack, t.answer); err != nil {
		s.env.Log.Debug("final acknowledgement not passed on", "err", err)
	}
}
