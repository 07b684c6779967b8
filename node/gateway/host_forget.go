package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"gridveil/ev"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/wallet/purse"
	"gridveil/privacy/session"
)

// unpaid says whether a guest's visit waits for a settlement or for its notes.
func (h *hosting) unpaid(v *visit) bool {
	return v.rec.Host != nil && (v.open() || h.purse.Pending(v.claim()))
}

// ended says whether a visit's time is over. One without a car at the wallbox ends
// even if it was never settled: nobody could settle it any more.
func (h *hosting) ended(v *visit, now time.Time) bool {
	keep := visitKeep
	if h.unpaid(v) {
		keep = purse.SessionEnds
	}
	return v != h.current && now.Sub(time.UnixMilli(v.rec.Begun)) > keep
}

// forgetOld drops visits whose time is over, what the wallbox said about
// transactions that belong to no kept visit, and messages that do. The caller
// holds mu, or has begun nothing yet.
func (h *hosting) forgetOld(now time.Time) error {
	kept := map[string]bool{} // event spaces
	var over []*visit
	for _, v := range h.visits {
		if h.ended(v, now) {
			over = append(over, v)
		} else {
			kept[string(eventSpace(v.rec.Station, v.s.TransactionID))] = true
		}
	}
	if err := h.dropUnpaid(over, now); err != nil {
		return err
	}
	old, err := h.oldEvents(kept, now)
	if err != nil {
		return err
	}
	for _, v := range over {
		old = append(old, visitKey(v.rec.ID))
	}
	for part := range slices.Chunk(old, forgetBatch) {
		err := h.env.Store.Update(func(tx *store.Tx) error {
			for _, k := range part {
				if err := tx.Delete(k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, v := range over {
		delete(h.visits, v.rec.ID)
	}
	if err := h.dropMessages(); err != nil {
		return err
	}
	h.swept = now
	return nil
}

// dropUnpaid lets the purse end what it still waits for on behalf of visits that are
// over, each with its visit in one update.
func (h *hosting) dropUnpaid(over []*visit, now time.Time) error {
	n := 0
	for _, v := range over {
		lock := v.rec.Lock
		if !h.unpaid(v) && (lock.Op == 0 || lock.Over) {
			continue
		}
		if lock.Over {
			lock.Op = 0
		}
		t := h.turn(nil, now)
		t.writes = append(t.writes, func(tx *store.Tx) error { return tx.Delete(visitKey(v.rec.ID)) })
		err := t.purse().GiveUp(now, v.claim(), lock.Op)
		if err != nil {
			t.edit.Close(err)
			return err
		}
		if err := t.commit(); err != nil {
			return err
		}
		n++
	}
	if n > 0 {
		h.env.Log.Warn("sessions dropped that were never settled or paid", "sessions", n)
	}
	return nil
}

// oldEvents lists what the wallbox said long ago about transactions that no kept
// visit has.
func (h *hosting) oldEvents(kept map[string]bool, now time.Time) (old [][]byte, err error) {
	err = h.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(eventsSpace, func(k, b []byte) error {
			var e ev.Event
			if err := json.Unmarshal(b, &e); err != nil {
				return fmt.Errorf("stored event: %w", err)
			}
			if now.Sub(time.UnixMilli(e.Received)) > visitKeep && !kept[string(k[:len(k)-16])] {
				old = append(old, k)
			}
			return nil
		})
	})
	return old, err
}

// dropMessages takes messages of visits that are no more out of the outbox.
func (h *hosting) dropMessages() error {
	for after := uint64(0); ; {
		waiting, err := h.outbox.List(after, listOut)
		if err != nil || len(waiting) == 0 {
			return err
		}
		after = waiting[len(waiting)-1].Seq
		err = h.env.Store.Update(func(tx *store.Tx) error {
			for _, m := range waiting {
				if _, ok := h.byClaim(m.To); ok {
					continue
				}
				if err := h.outbox.DoneTx(tx, m.ID); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// warnUnsettled tells the owner of sessions that nobody has settled for a while, and
// when the oldest of them ends.
func (h *hosting) warnUnsettled(now time.Time) {
	n, first := 0, now
	for _, v := range h.visits {
		begun := time.UnixMilli(v.rec.Begun)
		if v == h.current || v.rec.Host == nil || !v.open() || v.s.State == ev.Receipted || now.Sub(begun) <= purse.UnpaidAfter {
			continue
		}
		n, first = n+1, earlier(first, begun)
	}
	h.env.Warn.Set(n > 0, role.Warning{Code: "sessions-unsettled", Severity: role.Problem, Title: "Charging sessions are not settled",
		Text: fmt.Sprintf("%d sessions are more than two weeks old, and the aggregator has no record of them or refused it. They are dropped with their keys %d days after they began, the oldest on %s; nobody pays them then.",
			n, purse.SessionEnds/(24*time.Hour), first.Add(purse.SessionEnds).Local().Format("2 January 2006")),
		Next: "Print the statements of their months with `gridveil guest statement --signed --json` and keep them: they prove what was charged. Then ask the aggregator's operator."}, now)
}

// lockBack asks for a lock whose session nobody will settle: the notes are the
// house's own. One whose record still waits for the aggregator is left alone, for
// it may yet be settled.
func (h *hosting) lockBack(v *visit) (out []deadline) {
	if v.host == nil || v.rec.Lock.Back {
		return nil
	}
	value, from := v.host.Lapse()
	phase := v.host.Phase()
	if value == 0 || phase != session.Void && phase != session.Refused && (phase != session.Settling || !v.s.Disputed) {
		return nil
	}
	return []deadline{{from.Add(time.Second), func(now time.Time) error {
		t := h.turn(v, now)
		v.rec.Lock.Back = true
		v.note(now, "nothing was settled in 60 days: the locked notes are asked back")
		t.purse().Add(purse.Claim{Session: v.claim(), Party: session.PartyChange, Minor: uint16(value / ev.MinorEUR)}, now.Add(h.jitter(collectWithin)))
		return t.commit()
	}}}
}
