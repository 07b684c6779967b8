package utility

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/bill"
	"gridveil/node/keys"
	"gridveil/node/model"
	"gridveil/node/ondemand"
	"gridveil/node/report"
	"gridveil/node/store"
)

// takeBlock keeps a day block that a head-end of this operator pushes; an older
// revision than the one held changes nothing.
func (u *Utility) takeBlock(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
	if from.Operator != u.env.Host.Self().Operator {
		return nil, errors.New("readings are taken from the own operator's head-end only")
	}
	b, err := model.DecodeBlock(req)
	if err != nil {
		return nil, err
	}
	if _, ok := u.contractOf(b.UsagePoint); !ok {
		return nil, errors.New("no contract for this usage point")
	}
	key := blockKey(&b)
	return nil, u.env.Store.Update(func(tx *store.Tx) error {
		raw, err := tx.Get(key)
		if err == nil {
			held, err := model.DecodeBlock(raw)
			if err != nil {
				return err
			}
			if held.Revision >= b.Revision {
				return nil
			}
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return tx.Set(key, req)
	})
}

// blockKey: a changed read period begins another block of the day.
func blockKey(b *model.IntervalBlock) []byte {
	period := binary.BigEndian.AppendUint32(nil, uint32(b.Period.Milliseconds()))
	return store.SpaceBlock.Key(b.UsagePoint[:], store.U16(uint16(b.Channel)), store.U64(uint64(b.Day)), period)
}

// Blocks are the day blocks held of a usage point, by channel, day and period.
func (u *Utility) Blocks(up model.UsagePoint) (out []model.IntervalBlock, err error) {
	err = u.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceBlock.Key(up[:]), func(_, v []byte) error {
			b, err := model.DecodeBlock(v)
			out = append(out, b)
			return err
		})
	})
	return out, err
}

// Bill bills a usage point from..to from signed registers alone. The period is
// cut to the slots that both registers are held for; the error says what is
// missing.
func (u *Utility) Bill(up model.UsagePoint, from, to time.Time) (bill.Bill, error) {
	return u.bill(up, from, to, func(blocks []model.IntervalBlock) []model.IntervalBlock {
		return uniform(within(blocks, from, to))
	})
}

// EstimatedBill is Bill with estimates for what is missing between two registers
// (package vee). The registers at its ends are those of the meter; Bill.Estimated
// says for how many slots the way between them is assumed.
func (u *Utility) EstimatedBill(up model.UsagePoint, from, to time.Time) (bill.Bill, error) {
	return u.bill(up, from, to, func(blocks []model.IntervalBlock) []model.IntervalBlock {
		return estimated(blocks, from, to)
	})
}

// within leaves the blocks of the days of a period, and of the day before it.
func within(blocks []model.IntervalBlock, from, to time.Time) (days []model.IntervalBlock) {
	for _, b := range blocks {
		if b.Day+dayMS >= from.UnixMilli() && b.Day < to.UnixMilli() {
			days = append(days, b)
		}
	}
	return days
}

// bill bills what choose takes of the blocks that are held.
func (u *Utility) bill(up model.UsagePoint, from, to time.Time, choose func([]model.IntervalBlock) []model.IntervalBlock) (bill.Bill, error) {
	c, ok := u.contractOf(up)
	if !ok {
		return bill.Bill{}, errors.New("no contract for this usage point")
	}
	cal, err := u.calendar(c.Plan)
	if err != nil {
		return bill.Bill{}, err
	}
	blocks, err := u.Blocks(up)
	if err != nil {
		return bill.Bill{}, fmt.Errorf("readings: %w", err)
	}
	edits, err := u.Edits(up)
	if err != nil {
		return bill.Bill{}, fmt.Errorf("edits of readings: %w", err)
	}
	applied := edited(blocks, edits)
	b, err := bill.Compute(bill.Contract{UsagePoint: up, State: c.State, Calendar: cal, From: from.UnixMilli(), To: to.UnixMilli()}, choose(blocks))
	for _, x := range applied {
		if x.Slot >= from.UnixMilli()-dayMS && x.Slot < to.UnixMilli() {
			b.Edited = append(b.Edited, x)
		}
	}
	return b, err
}

const dayMS = 86_400_000

// uniform gives one block for each channel and day, all of one period: the
// shortest that every given period divides. Registers are cumulative, so the
// readings at its slots' ends hold all the energy between.
func uniform(blocks []model.IntervalBlock) []model.IntervalBlock {
	period := int64(1)
	for _, b := range blocks {
		ms := b.Period.Milliseconds()
		period = period / gcd(period, ms) * ms
	}
	type key struct {
		channel model.Channel
		day     int64
	}
	days := map[key]*model.IntervalBlock{}
	for _, b := range blocks {
		k := key{b.Channel, b.Day}
		d := days[k]
		if d == nil {
			c := b
			c.Period, c.Readings = time.Duration(period)*time.Millisecond, nil
			d = &c
			days[k] = d
		}
		d.Readings = append(d.Readings, coarse(b, period)...)
	}
	var out []model.IntervalBlock
	for _, d := range days {
		slices.SortFunc(d.Readings, func(a, b model.IntervalReading) int { return cmp.Compare(a.Slot, b.Slot) })
		d.Readings = slices.CompactFunc(d.Readings, func(a, b model.IntervalReading) bool { return a.Slot == b.Slot })
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b model.IntervalBlock) int {
		return cmp.Or(cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Day, b.Day))
	})
	return out
}

// coarse gives the readings at the ends of longer slots, with the flags and the
// worst quality of what lies in each.
func coarse(b model.IntervalBlock, period int64) (out []model.IntervalReading) {
	ms := b.Period.Milliseconds()
	var flags uint32
	worst := model.QualityValid
	for _, r := range b.Readings {
		flags |= r.Flags
		if r.Quality != model.QualityValid {
			worst = r.Quality
		}
		end := r.Slot + ms
		if end%period != 0 {
			continue
		}
		r.Slot, r.Flags, r.Quality = end-period, flags, worst
		out = append(out, r)
		flags, worst = 0, model.QualityValid
	}
	return out
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Covered is the longest stretch, from the first reading on, that a bill can be
// computed for: every slot of import and export is there.
func (u *Utility) Covered(up model.UsagePoint) (from, to time.Time, err error) {
	blocks, err := u.Blocks(up)
	if err != nil {
		return from, to, err
	}
	var lo, hi [2]int64
	for _, b := range uniform(blocks) {
		i := 0
		if b.Channel.IsExport() {
			i = 1
		}
		for _, r := range b.Readings {
			end := r.Slot + b.Period.Milliseconds()
			switch {
			case lo[i] == 0:
				lo[i], hi[i] = end, end // the first register opens the bill
			case r.Slot == hi[i]:
				hi[i] = end
			}
		}
	}
	start, end := max(lo[0], lo[1]), min(hi[0], hi[1])
	if start == 0 || end <= start {
		return from, to, bill.ErrGap
	}
	return time.UnixMilli(start).UTC(), time.UnixMilli(end).UTC(), nil
}

// Reading is one register read on demand.
type Reading struct {
	Channel  string    `json:"channel"`
	Register int64     `json:"register_mwh"`
	At       time.Time `json:"at"`
	Took     string    `json:"took"`
	SignedBy string    `json:"signed_by"`
}

// onDemandDeadline is how long a reading on demand may take.
const onDemandDeadline = 30 * time.Second

// ReadMeter reads a meter now, through head-end, substation and gateway. The
// answer is signed by the gateway and sealed to this utility.
func (u *Utility) ReadMeter(ctx context.Context, up model.UsagePoint) ([]Reading, error) {
	c, ok := u.contractOf(up)
	if !ok {
		return nil, errors.New("no contract for this usage point")
	}
	began := time.Now()
	now := u.env.Clock.Now()
	q := ondemand.Request{UsagePoint: up, Deadline: now.Add(ondemand.MaxDeadline).UnixMilli(), Channels: []model.Channel{model.ImportTotal, model.ExportTotal}}
	if _, err := io.ReadFull(u.env.Rand, q.Nonce[:]); err != nil {
		return nil, fmt.Errorf("draw nonce: %w", err)
	}
	q.Sign(u.env.ID.Key)
	request := q.Encode()
	ctx, cancel := context.WithTimeout(ctx, onDemandDeadline)
	defer cancel()
	box, err := u.env.Keys.Box(keys.Direct, now)
	if err != nil {
		return nil, err
	}
	day, err := report.DayKeyFrom(report.DayOf(now.UnixMilli()), append(append([]byte(nil), box.Pub...), box.Priv...))
	if err != nil {
		return nil, err
	}
	last := errors.New("no head-end of this operator is connected")
	for _, h := range u.env.Dir.All(member.RoleHeadend, u.env.Host.Self().Operator) {
		answer, err := u.env.Host.Call(ctx, h.Member.Peer, mesh.ReadNow, request)
		if err != nil {
			last = err
			continue
		}
		rows, err := ondemand.Check(answer, request, c.Gateway[:], day)
		if err != nil {
			return nil, err
		}
		var out []Reading
		for _, r := range rows {
			out = append(out, Reading{Channel: r.Channel.String(), Register: r.Register, At: time.UnixMilli(r.Slot).UTC(), Took: time.Since(began).Round(time.Millisecond).String(), SignedBy: "gateway"})
		}
		return out, nil
	}
	return nil, fmt.Errorf("meter_unreachable: %w", last)
}
