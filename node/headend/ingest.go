package headend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
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
	h.mu.Lock()
	held := h.refs[m.Header.Source]
	h.mu.Unlock()
	if held == nil || held.Gateway != gateway {
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
		h.mu.Lock()
		day, ok := h.days[m.Day]
		h.mu.Unlock()
		if !ok {
			return refuse(report.Reseal, 0)
		}
		body, err := report.OpenReport(m, day)
		if err != nil {
			return refuse(report.BadBody, 0)
		}
		if head, err = h.commit(*held, m.Header, body, now); err != nil {
			h.env.Log.Error("report could not be stored", "err", err)
			return refuse(report.Busy, 0)
		}
		h.noteVia(m.Header.Source, from.Key)
		nudge(h.push)
	}
	return head.AckFor(m.Header.Class, m.Header.Source, report.LevelFinal, now.UnixMilli(), h.env.ID.Key).Encode(), nil
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
		if hd.Seq <= head.Seq {
			return nil // a second copy came while this one waited for the update
		}
		head = head.Advance(hd)
		if err := report.SaveHead(tx, hd.Source, hd.Class, head); err != nil {
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
			id := blockID{r.UsagePoint, rd.Channel, rd.Slot / dayMS * dayMS}
			if err := h.addToBlock(tx, r, id, hd, rd, out); err != nil {
				return err
			}
			touched[id] = true
			stored++
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
	for id := range touched {
		h.dirty[id] = true
	}
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
	return store.SpaceBlock.Key(id.up[:], store.U16(uint16(id.channel)), store.U64(uint64(id.day)))
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

// pushBlocks puts changed blocks into the outbox and sends what waits to the
// utility whose usage points they are.
func (h *Headend) pushBlocks(ctx context.Context) error {
	h.mu.Lock()
	dirty := h.dirty
	h.dirty = map[blockID]bool{}
	owner := map[model.UsagePoint]string{}
	for _, r := range h.refs {
		owner[r.UsagePoint] = r.utility
	}
	h.mu.Unlock()
	for id := range dirty {
		if err := h.queueBlock(id, owner[id.up]); err != nil {
			return err
		}
	}
	return h.drain(ctx, h.blocks, mesh.Readings, h.push)
}

// queueBlock replaces the waiting revision of a block by the newest.
func (h *Headend) queueBlock(id blockID, utility string) error {
	return h.env.Store.Update(func(tx *store.Tx) error {
		raw, err := tx.Get(blockKey(id))
		if err != nil {
			return err
		}
		msg := store.Message{ID: blockKey(id), Kind: "block", To: utility, Body: raw}
		if err := h.blocks.DoneTx(tx, msg.ID); err != nil {
			return err
		}
		return h.blocks.PutTx(tx, msg)
	})
}

// drain sends waiting messages to the utilities they are for until one cannot be
// reached.
func (h *Headend) drain(ctx context.Context, box store.Outbox, service mesh.Service, again chan struct{}) error {
	waiting, err := box.List(0, pushBatch)
	if err != nil {
		return fmt.Errorf("waiting for the utility: %w", err)
	}
	stuck := map[string]bool{}
	for _, m := range waiting {
		if stuck[m.To] || ctx.Err() != nil {
			continue
		}
		if !h.sendToUtility(ctx, m, service) {
			stuck[m.To] = true
			continue
		}
		if err := box.Done(m.ID); err != nil {
			return fmt.Errorf("delivered to the utility: %w", err)
		}
	}
	if len(waiting) == pushBatch && len(stuck) == 0 {
		nudge(again)
	}
	return nil
}

func (h *Headend) sendToUtility(ctx context.Context, m store.Message, service mesh.Service) bool {
	for _, u := range h.env.Dir.All(member.RoleUtility, m.To) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := h.env.Host.Call(call, u.Member.Peer, service, m.Body)
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
	h.mu.Lock()
	ref := h.refs[report.SourceOf(n.Source[:])]
	h.mu.Unlock()
	utility, up := from.Operator, model.UsagePoint{}
	if ref != nil {
		utility, up = ref.utility, ref.UsagePoint
	} else if n.Source != from.Key {
		return nil, errors.New("the event's source is on no list here")
	}
	_, detail, err := n.Event.Open(h.dayKey)
	if err != nil {
		detail = "the detail does not open: its key is gone"
	}
	now := h.env.Clock.Now()
	view := metering.View{UsagePoint: up, Source: n.Source, Received: now.UnixMilli(), Detail: detail, Event: n.Raw}
	id := n.Event.ID()
	fresh := false
	err = h.env.Store.Update(func(tx *store.Tx) error {
		if fresh, err = h.inbox.TakeTx(tx, n.Event, [16]byte(up)); err != nil || !fresh {
			return err
		}
		return h.alarms.PutTx(tx, store.Message{ID: id[:], Kind: "alarm", To: utility, Body: view.Encode()})
	})
	if err != nil {
		return nil, &mesh.BusyError{After: time.Second}
	}
	if fresh {
		h.mu.Lock()
		h.count.Alarms++
		h.mu.Unlock()
		nudge(h.ring)
	}
	return metering.Acknowledge(n.Event, now, h.env.ID.Key), nil
}

func (h *Headend) dayKey(day uint16) (report.DayKey, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k, ok := h.days[day]
	return k, ok
}

func (h *Headend) pushAlarms(ctx context.Context) error {
	return h.drain(ctx, h.alarms, mesh.AlarmView, h.ring)
}
