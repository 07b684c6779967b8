package headend

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/evidence"
	"gridveil/node/metering"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/store"
	"gridveil/node/vee"
)

// takeReport admits, opens, checks and stores a report that a substation brings:
// gateway's key 32 | message. The final acknowledgement leaves after the commit.
func (h *Headend) takeReport(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
	if len(req) < 32 {
		return nil, report.ErrInvalidReport
	}
	gateway := member.Key(req[:32])
	m, err := report.DecodeMessage(req[32:])
	if err != nil {
		return nil, err
	}
	now := h.env.Clock.Now()
	refuse := func(reason report.Reason, want uint64) ([]byte, error) {
		h.mu.Lock()
		h.count.Refused++
		h.mu.Unlock()
		return report.RefusalFor(m.Header, reason, want, 1000, now.UnixMilli(), h.env.ID.Key).Encode(), nil
	}
	ref, ok := h.referenced(m.Header.Source)
	if !ok || ref.Gateway != gateway {
		h.tellUnreferenced(m.Header.Source, now)
		return refuse(report.Unreferenced, 0)
	}
	var head report.Head
	verdict, err := h.admit(m.Header, gateway, &head)
	if err != nil {
		return refuse(report.Busy, 0)
	}
	if verdict.Refuse != 0 {
		return refuse(verdict.Refuse, verdict.WantSeq)
	}
	if verdict.Take {
		day, ok := h.dayKey(m.Day)
		if !ok {
			return refuse(report.Reseal, 0)
		}
		body, err := report.OpenReport(m, day)
		if err != nil {
			return refuse(report.BadBody, 0)
		}
		if head, err = h.commit(ref, m.Header, body, now); err != nil {
			h.env.Log.Error("report could not be stored", "err", err)
			return refuse(report.Busy, 0)
		}
		h.noteVia(m.Header.Source, from.Key)
		if verdict.Gap {
			h.tellGap(ref, verdict.GapFrom, m.Header.From, now)
		}
		nudge(h.push)
	}
	return head.AckFor(m.Header.Class, m.Header.Source, report.LevelFinal, now.UnixMilli(), h.env.ID.Key).Encode(), nil
}

// referenced gives a copy of a gateway's place on the list.
func (h *Headend) referenced(source model.SourceID) (reference, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.refs[source]
	if r == nil {
		return reference{}, false
	}
	return *r, true
}

func (h *Headend) noteVia(source model.SourceID, ssn member.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.refs[source]; r != nil {
		r.via = ssn // a hint only: not worth a write
	}
}

func (h *Headend) admit(hd report.Header, gateway member.Key, head *report.Head) (v report.Verdict, err error) {
	err = h.env.Store.View(func(tx *store.Tx) error {
		if *head, err = report.LoadHead(tx, hd.Source, hd.Class); err != nil {
			return err
		}
		v = report.Admit(report.Known{Key: gateway[:], HasRoster: func(version uint32) bool { return version == 1 }, Head: *head}, hd)
		return nil
	})
	return v, err
}

// commit runs the second check and stores readings, states and chain head in one
// update.
func (h *Headend) commit(r reference, hd report.Header, body report.Body, now time.Time) (head report.Head, err error) {
	readings := report.Readings(hd, body)[1]
	var stored, flagged uint64
	touched := map[blockID]bool{}
	err = h.env.Store.Update(func(tx *store.Tx) error {
		stored, flagged = 0, 0
		if head, err = report.LoadHead(tx, hd.Source, hd.Class); err != nil {
			return err
		}
		if hd.Seq != head.Seq+1 {
			return nil // another copy, or another report, came while this one waited for the update
		}
		head = head.Advance(hd)
		if err := report.SaveHead(tx, hd.Source, hd.Class, head); err != nil {
			return err
		}
		if err := evidence.Keep(tx, r.UsagePoint, hd, body, 1); err != nil {
			return err
		}
		for _, rd := range readings {
			out, err := h.check(tx, r, rd, hd, now)
			if err != nil {
				return err
			}
			if out.Drop {
				continue
			}
			if out.Flags.Rejected() {
				flagged++
			}
			id := blockID{r.UsagePoint, rd.Channel, rd.Slot / dayMS * dayMS, hd.Period}
			if err := h.addToBlock(tx, r, id, hd, rd, out); err != nil {
				return err
			}
			touched[id] = true
			stored++
		}
		for id := range touched {
			if err := h.oweBlock(tx, id, r.utility); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return head, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count.Reports++
	h.count.Readings += stored
	h.count.Flagged += flagged
	return head, nil
}

const dayMS = int64(24 * time.Hour / time.Millisecond)

// check is the second application of the rules: the same as at the meter. What
// the meter's side flagged is kept too.
func (h *Headend) check(tx *store.Tx, r reference, rd model.Reading, hd report.Header, now time.Time) (vee.Outcome, error) {
	key := store.SpaceReading.Key([]byte("vee"), r.UsagePoint[:], store.U16(uint16(rd.Channel)))
	var state vee.State
	b, err := tx.Get(key)
	if err == nil {
		state, err = vee.DecodeState(b)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return vee.Outcome{}, fmt.Errorf("check state: %w", err)
	}
	out := h.rules.Check(&state, vee.Meter{Period: int64(hd.Period), LimitMW: r.LimitMW, Masked: r.Masked, Known: true, Now: now.UnixMilli(), Zone: time.UTC}, rd)
	out.Flags |= vee.Flags(rd.Flags)
	enc := state.Encode()
	return out, tx.Set(key, enc[:])
}

func blockKey(id blockID) []byte {
	return store.SpaceBlock.Key(id.up[:], store.U16(uint16(id.channel)), store.U64(uint64(id.day)), binary.BigEndian.AppendUint32(nil, id.period))
}

// addToBlock appends a reading to the day's block, as a new revision.
func (h *Headend) addToBlock(tx *store.Tx, r reference, id blockID, hd report.Header, rd model.Reading, out vee.Outcome) error {
	b := model.IntervalBlock{UsagePoint: id.up, Source: hd.Source, Channel: id.channel, State: rd.State, Day: id.day, Period: time.Duration(hd.Period) * time.Millisecond}
	raw, err := tx.Get(blockKey(id))
	if err == nil {
		b, err = model.DecodeBlock(raw)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("day block: %w", err)
	}
	b.Revision++
	quality := model.QualityValid
	if out.Flags.Rejected() {
		quality = model.QualityQuestionable
	}
	b.Readings = insert(b.Readings, model.IntervalReading{Slot: rd.Slot, Register: rd.Register, Epoch: rd.Epoch, Status: rd.Status, Quality: quality, Flags: uint32(out.Flags), Unc: rd.Unc, Report: hd.Seq})
	if raw, err = b.Encode(); err != nil {
		return err
	}
	return tx.Set(blockKey(id), raw)
}

// insert keeps slots ascending and the first value of each.
func insert(list []model.IntervalReading, r model.IntervalReading) []model.IntervalReading {
	for i := len(list); i > 0; i-- {
		switch {
		case list[i-1].Slot == r.Slot:
			return list
		case list[i-1].Slot < r.Slot:
			return append(list[:i:i], append([]model.IntervalReading{r}, list[i:]...)...)
		}
	}
	return append([]model.IntervalReading{r}, list...)
}

// oweBlock notes, in the update that changed a block, that the utility has not
// got its newest revision.
func (h *Headend) oweBlock(tx *store.Tx, id blockID, utility string) error {
	m := store.Message{ID: blockKey(id), Kind: "block", To: utility, At: h.env.Clock.Now()}
	err := h.blocks.PutTx(tx, m)
	if errors.Is(err, store.ErrConflict) { // owed to another utility before
		err = errors.Join(h.blocks.DoneTx(tx, m.ID), h.blocks.PutTx(tx, m))
	}
	return err
}

// pushBlocks sends the newest revision of every block that is owed.
func (h *Headend) pushBlocks(ctx context.Context) error {
	return h.drain(ctx, h.blocks, func(m store.Message) (bool, error) {
		raw, err := h.env.Store.Get(m.ID)
		if err != nil {
			return false, fmt.Errorf("day block: %w", err)
		}
		if !h.sendToUtility(ctx, m.To, mesh.Readings, raw) {
			return false, nil
		}
		return true, h.env.Store.Update(func(tx *store.Tx) error {
			if now, err := tx.Get(m.ID); err != nil || !bytes.Equal(now, raw) {
				return err // changed meanwhile: the newer revision is still owed
			}
			return h.blocks.DoneTx(tx, m.ID)
		})
	})
}

func (h *Headend) pushAlarms(ctx context.Context) error {
	return h.drain(ctx, h.alarms, func(m store.Message) (bool, error) {
		if !h.sendToUtility(ctx, m.To, mesh.AlarmView, m.Body) {
			return false, nil
		}
		return true, h.alarms.Done(m.ID)
	})
}

// drain goes once through an outbox; a utility that cannot be reached holds up
// no other.
func (h *Headend) drain(ctx context.Context, box store.Outbox, send func(store.Message) (sent bool, err error)) error {
	stuck := map[string]bool{}
	for after := uint64(0); ; {
		waiting, err := box.List(after, pushBatch)
		if err != nil {
			return fmt.Errorf("waiting for the utility: %w", err)
		}
		for _, m := range waiting {
			after = m.Seq
			if stuck[m.To] || ctx.Err() != nil {
				continue
			}
			sent, err := send(m)
			if err != nil {
				return err
			}
			stuck[m.To] = !sent
		}
		if len(waiting) < pushBatch {
			return nil
		}
	}
}

func (h *Headend) sendToUtility(ctx context.Context, operator string, service mesh.Service, body []byte) bool {
	for _, u := range h.env.Dir.All(member.RoleUtility, operator) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := h.env.Host.Call(call, u.Member.Peer, service, body)
		cancel()
		if err == nil {
			return true
		}
	}
	return false
}

// takeAlarm stores an event that a substation brings, acknowledges it, and lets
// it go on to the utility: gateway's key 32 | event.
func (h *Headend) takeAlarm(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
	n, err := metering.ParseNotice(req)
	if err != nil {
		return nil, err
	}
	if err := n.Event.Verify(n.Source[:]); err != nil {
		return nil, err
	}
	ref, known := h.referenced(report.SourceOf(n.Source[:]))
	if !known && n.Source != from.Key {
		return nil, errors.New("the event's source is on no list here")
	}
	if !known { // the substation's own: for whoever runs this head-end
		ref.utility = h.env.Host.Self().Operator
	}
	now := h.env.Clock.Now()
	view := metering.View{UsagePoint: ref.UsagePoint, Source: n.Source, Received: now.UnixMilli(), Chain: h.chainOf(n.Source, n.Event.At), Event: n.Raw}
	if _, view.Detail, err = n.Event.Open(h.dayKey); err != nil {
		view.Detail = "the detail does not open: its key is gone"
	} else if key, err := n.Event.BoxKey(h.dayKey); err == nil {
		view.BoxKey = &key
	}
	if err := h.keepAlarm(n.Event, view, ref.utility); err != nil {
		return nil, &mesh.BusyError{After: time.Second}
	}
	return metering.Acknowledge(n.Event, now, h.env.ID.Key), nil
}

// keepAlarm makes an event durable, once, here and for the utility.
func (h *Headend) keepAlarm(e alarm.Event, view metering.View, utility string) error {
	id, fresh := e.ID(), false
	err := h.env.Store.Update(func(tx *store.Tx) (err error) {
		if fresh, err = h.inbox.TakeTx(tx, e, [16]byte(view.UsagePoint)); err != nil || !fresh {
			return err
		}
		if err := tx.Set(viewKey(id), view.Encode()); err != nil {
			return err
		}
		return h.alarms.PutTx(tx, store.Message{ID: id[:], Kind: "alarm", To: utility, Body: view.Encode(), At: h.env.Clock.Now()})
	})
	if err != nil || !fresh {
		return err
	}
	h.mu.Lock()
	h.count.Alarms++
	h.mu.Unlock()
	nudge(h.ring)
	return nil
}

// unreferencedEvery is how often one unlisted source is told of.
const unreferencedEvery = time.Hour

// maxTold bounds the memory of sources that were told of.
const maxTold = 1024

// tellUnreferenced raises an event for a source that reports and is on no list.
func (h *Headend) tellUnreferenced(source model.SourceID, now time.Time) {
	h.mu.Lock()
	last, known := h.told[source]
	if known && now.Sub(last) < unreferencedEvery || !known && len(h.told) >= maxTold {
		h.mu.Unlock()
		return
	}
	h.told[source] = now
	h.mu.Unlock()
	h.raise(alarm.Event{Priority: alarm.Unauthorised.DefaultPriority(), Kind: alarm.Unauthorised, Key: alarm.Key{Profile: 2, Code: alarm.CodeForeign},
		Detail: []byte("a gateway reports that is on no list here")}, model.UsagePoint{}, h.env.Host.Self().Operator, now)
}

// tellGap names the readings that a gateway lost before it began a new chain.
func (h *Headend) tellGap(r reference, from, to int64, now time.Time) {
	at := func(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04") }
	h.raise(alarm.Event{Priority: alarm.P1, Kind: alarm.Malfunction, Key: alarm.Key{Profile: 2, Code: alarm.CodeStore},
		Detail: fmt.Appendf(nil, "a gateway began a new chain of reports; none from %s to %s", at(from), at(to))}, r.UsagePoint, r.utility, now)
}

// raise signs and keeps an event of the head-end itself.
func (h *Headend) raise(e alarm.Event, up model.UsagePoint, utility string, now time.Time) {
	h.mu.Lock()
	h.seq++
	e.Seq = h.seq
	h.mu.Unlock()
	e.At, e.Count = now.UnixMilli(), 1
	err := h.env.Store.Set(seqKey, store.U64(e.Seq))
	if err == nil {
		err = e.Sign(h.env.ID.Key)
	}
	raw, eerr := e.Encode()
	if err = errors.Join(err, eerr); err == nil {
		err = h.keepAlarm(e, metering.View{UsagePoint: up, Source: h.env.Host.Self().Key, Received: e.At, Detail: string(e.Detail), Chain: h.env.Host.Chain(), Event: raw}, utility)
	}
	if err != nil {
		h.env.Log.Error("event could not be stored", "err", err)
	}
}

func (h *Headend) dayKey(day uint16) (report.DayKey, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k, ok := h.days[day]
	return k, ok
}
