package utility

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gridveil/node/bill"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/store"
	"gridveil/node/vee"
)

// EditAsked is what a person answers for: the register that the meter itself showed
// in the place of a value that a check rejected.
type EditAsked struct {
	UsagePoint string
	Channel    model.Channel
	Slot       int64  // its start, UTC ms
	Register   int64  // at its end, mWh
	By, Why    string // who read the meter, and why the value is edited; printable
}

func editKey(up model.UsagePoint, c model.Channel, slot int64) []byte {
	return store.SpaceOrder.Key([]byte("edit"), up[:], store.U16(uint16(c)), store.U64(uint64(slot)))
}

// Edits are the signed edits of a usage point's readings, by channel and slot.
func (u *Utility) Edits(up model.UsagePoint) (out []vee.Edit, err error) {
	pub := u.env.ID.Key.Public().(ed25519.PublicKey)
	err = u.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceOrder.Key([]byte("edit"), up[:]), func(_, v []byte) error {
			e, err := vee.DecodeEdit(v)
			if err == nil {
				err = e.Verify(pub)
			}
			out = append(out, e)
			return err
		})
	})
	return out, err
}

// EditReading signs and keeps an edit. The reading stays as it is; bills take the
// edit in its place as long as the head-end pushes no other value. It is refused for
// a value that no check rejected, and for one that the sound registers around it
// exclude.
func (u *Utility) EditReading(up model.UsagePoint, q EditAsked, now time.Time) (e vee.Edit, err error) {
	blocks, err := u.Blocks(up)
	if err != nil {
		return e, err
	}
	before, err := editable(blocks, q)
	if err != nil {
		return e, err
	}
	if q.By == "" || q.Why == "" {
		return e, errors.New("an edit names who answers for it and why: --by and --why")
	}
	key := u.env.ID.Key
	e = vee.Edit{UsagePoint: up, Channel: q.Channel, Slot: q.Slot, Who: report.SourceOf(key.Public().(ed25519.PublicKey)), At: now.UnixMilli(),
		Rules: vee.Standard().Version(), Before: before, After: q.Register, Why: q.By + ": " + q.Why}
	if err := e.Sign(key); err != nil {
		return e, err
	}
	b, err := e.Encode()
	if err != nil {
		return e, err
	}
	return e, u.env.Store.Set(editKey(up, q.Channel, q.Slot), b)
}

// editable gives the register of the rejected reading that q is about.
func editable(blocks []model.IntervalBlock, q EditAsked) (register int64, err error) {
	var at *model.IntervalReading
	for _, b := range blocks {
		for i := range b.Readings {
			if r := &b.Readings[i]; b.Channel == q.Channel && r.Slot == q.Slot {
				at = r
			}
		}
	}
	if at == nil {
		return 0, errors.New("no reading of this slot and register is held: a gap is estimated, `gridveil contract bill --estimate`")
	}
	if !rejected(*at) {
		return 0, errors.New("no check rejected this reading, so it is billed as the meter signed it")
	}
	for _, b := range blocks {
		for _, r := range b.Readings {
			if b.Channel != q.Channel || r.Epoch != at.Epoch || rejected(r) {
				continue
			}
			if r.Slot < q.Slot && r.Register > q.Register || r.Slot > q.Slot && r.Register < q.Register {
				return 0, fmt.Errorf("the sound register of %s is %d Wh, so it cannot have been %d Wh here", time.UnixMilli(r.Slot).UTC().Format(time.RFC3339), r.Register/1000, q.Register/1000)
			}
		}
	}
	return at.Register, nil
}

// edited applies edits to blocks, and gives those that were applied. One whose
// reading was replaced since is left out.
func edited(blocks []model.IntervalBlock, edits []vee.Edit) (applied []bill.Edited) {
	type place struct {
		channel model.Channel
		slot    int64
	}
	at := map[place]vee.Edit{}
	for _, e := range edits {
		at[place{e.Channel, e.Slot}] = e
	}
	for _, b := range blocks {
		for i := range b.Readings {
			r := &b.Readings[i]
			e, ok := at[place{b.Channel, r.Slot}]
			if !ok || !rejected(*r) || r.Register != e.Before {
				continue
			}
			r.Register, r.Quality, r.Flags = e.After, model.QualityEdited, r.Flags&^uint32(vee.Rejecting)
			applied = append(applied, bill.Edited{Channel: e.Channel, Slot: e.Slot, Before: e.Before, After: e.After, Why: e.Why})
		}
	}
	return applied
}

// handleEdit answers `gridveil contract edit`.
func (u *Utility) handleEdit() {
	u.env.Control.Handle("edit-reading", func(_ context.Context, in json.RawMessage) (any, error) {
		var q EditAsked
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {usage point, channel, slot, register, by, why}")
		}
		c, err := u.find(q.UsagePoint)
		if err != nil {
			return nil, err
		}
		return u.EditReading(c.UsagePoint, q, u.env.Clock.Now())
	})
}
