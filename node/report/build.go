package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"gridveil/node/model"
)

// Draft is a report before it has a place in a chain.
type Draft struct {
	Class  Class
	TAF    model.TAF
	Flags  Flags
	From   int64 // UTC ms, on the slot grid
	Period time.Duration
	Slots  uint16
	Roster uint32
	Rules  uint32
	Unc    uint32
	Body   Body
}

// Window is the stretch of time a report is built for.
type Window struct {
	Class  Class
	From   int64 // UTC ms, on the grid of Period
	To     int64 // exclusive, on the grid of Period
	Period time.Duration
	Rules  uint32 // version of the rules that set the flags
}

// Series is the readings of one meter in a window, in any order.
type Series struct {
	Ordinal  uint32
	Readings []model.Reading
}

// Build packs what profile p permits of the series into drafts, in time order.
//
// It splits where a meter changes epoch or reading state, and by sets of
// channels, since a report has every channel for every row; a slot that lacks a
// channel is absent. Meters outside the roster are quarantined: they are left
// out. Build returns ErrNoProfile when p does not cover the window, and no draft
// when nothing is there. rnd salts the leaves.
func Build(rnd io.Reader, p model.Profile, roster model.Roster, w Window, all []Series) ([]Draft, error) {
	if err := permits(p, w); err != nil {
		return nil, err
	}
	groups := map[string][]meterRows{}
	for _, s := range all {
		entry, listed := roster.Find(s.Ordinal)
		if !listed {
			continue
		}
		cols, rows := toRows(p, w, s)
		if len(rows) > 0 {
			key := fmt.Sprint(cols)
			groups[key] = append(groups[key], meterRows{entry.Ordinal, cols, rows})
		}
	}
	var drafts []Draft
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		more, err := packGroup(rnd, p, roster, w, groups[key])
		if err != nil {
			return nil, err
		}
		drafts = append(drafts, more...)
	}
	slices.SortStableFunc(drafts, func(a, b Draft) int { return cmp.Compare(a.From, b.From) })
	return drafts, nil
}

func permits(p model.Profile, w Window) error {
	ms := w.Period.Milliseconds()
	switch {
	case ms <= 0 || w.From%ms != 0 || w.To%ms != 0 || w.To <= w.From:
		return fmt.Errorf("%w: window is off the slot grid", ErrInvalidReport)
	case p.TAF.SharesOnly():
		return fmt.Errorf("%w: use case %d leaves a home only as private shares", ErrNoProfile, p.TAF)
	case !p.ActiveAt(w.From) || !p.ActiveAt(w.To-1):
		return fmt.Errorf("%w: the profile does not cover the whole window", ErrNoProfile)
	case w.Period < p.CapturePeriod:
		return fmt.Errorf("%w: slots of %v, the profile permits %v", ErrNoProfile, w.Period, p.CapturePeriod)
	}
	return nil
}

// fullRow is one slot with what decides about splits.
type fullRow struct {
	slot    int64
	values  []int64
	epoch   uint16
	counter uint32
	state   model.ReadingState
	status  model.StatusBits
	pq      uint16
	flags   uint32
	unc     uint32
}

type meterRows struct {
	ordinal uint32
	cols    []model.Channel
	rows    []fullRow // ascending by slot
}

// toRows turns readings per channel into rows over the channels that the
// profile permits and the meter has.
func toRows(p model.Profile, w Window, s Series) ([]model.Channel, []fullRow) {
	bySlot := map[int64]map[model.Channel]model.Reading{}
	have := map[model.Channel]bool{}
	for _, r := range s.Readings {
		if r.Slot < w.From || r.Slot >= w.To || !p.Permits(r.Channel) {
			continue
		}
		if bySlot[r.Slot] == nil {
			bySlot[r.Slot] = map[model.Channel]model.Reading{}
		}
		bySlot[r.Slot][r.Channel] = r
		have[r.Channel] = true
	}
	cols := make([]model.Channel, 0, len(have))
	for c := range have {
		cols = append(cols, c)
	}
	slices.Sort(cols)
	rows := make([]fullRow, 0, len(bySlot))
	for slot, values := range bySlot {
		if len(values) == len(cols) {
			rows = append(rows, joinRow(slot, cols, values))
		}
	}
	slices.SortFunc(rows, func(a, b fullRow) int { return cmp.Compare(a.slot, b.slot) })
	return cols, rows
}

func joinRow(slot int64, cols []model.Channel, values map[model.Channel]model.Reading) fullRow {
	row := fullRow{slot: slot, values: make([]int64, len(cols))}
	for i, c := range cols {
		r := values[c]
		row.values[i] = r.Register
		row.epoch, row.state = max(row.epoch, r.Epoch), r.State
		row.unc = max(row.unc, r.Unc)
		row.status |= r.Status
		row.pq |= r.PQ
		row.flags |= r.Flags
		if i == 0 {
			row.counter = r.Counter
		}
	}
	return row
}

// packGroup cuts the window wherever a meter changes epoch or state, or where a
// report would exceed its slots, and makes one draft per piece.
func packGroup(rnd io.Reader, p model.Profile, roster model.Roster, w Window, meters []meterRows) ([]Draft, error) {
	if len(meters) > MaxMeters || len(meters[0].cols) > MaxChannels {
		return nil, fmt.Errorf("%w: %d meters, %d channels", ErrInvalidReport, len(meters), len(meters[0].cols))
	}
	slices.SortFunc(meters, func(a, b meterRows) int { return cmp.Compare(a.ordinal, b.ordinal) })
	ms := w.Period.Milliseconds()
	cuts := []int64{w.From}
	for _, m := range meters {
		for i := 1; i < len(m.rows); i++ {
			if m.rows[i].epoch != m.rows[i-1].epoch || m.rows[i].state != m.rows[i-1].state {
				cuts = append(cuts, m.rows[i].slot)
			}
		}
	}
	for t := w.From + MaxSlots*ms; t < w.To; t += MaxSlots * ms {
		cuts = append(cuts, t)
	}
	cuts = append(cuts, w.To)
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var drafts []Draft
	for i := 1; i < len(cuts); i++ {
		d, err := packPiece(rnd, p, roster, w, meters, cuts[i-1], cuts[i])
		if err != nil {
			return nil, err
		}
		if len(d.Body.Meters) > 0 {
			drafts = append(drafts, d)
		}
	}
	return drafts, nil
}

func packPiece(rnd io.Reader, p model.Profile, roster model.Roster, w Window, meters []meterRows, from, to int64) (Draft, error) {
	ms := w.Period.Milliseconds()
	d := Draft{Class: w.Class, TAF: p.TAF, From: from, Period: w.Period, Slots: uint16((to - from) / ms),
		Roster: roster.Version, Rules: w.Rules}
	if _, err := io.ReadFull(rnd, d.Body.Seed[:]); err != nil {
		return Draft{}, fmt.Errorf("draw report salt: %w", err)
	}
	columns := make([][]int64, len(meters[0].cols))
	for _, m := range meters {
		out := Meter{Ordinal: m.ordinal}
		for _, r := range m.rows {
			if r.slot < from || r.slot >= to {
				continue
			}
			if len(out.Rows) == 0 {
				out.Epoch, out.State, out.Counter = r.epoch, r.state, r.counter
			}
			if r.status&model.StatusSimulated != 0 {
				d.Flags |= FlagSimulated
			}
			d.Unc = max(d.Unc, r.unc)
			for c, v := range r.values {
				columns[c] = append(columns[c], v)
			}
			out.Rows = append(out.Rows, Row{Slot: uint16((r.slot - from) / ms), Values: r.values, Status: r.status, PQ: r.pq, Flags: r.flags})
		}
		if len(out.Rows) > 0 {
			d.Body.Meters = append(d.Body.Meters, out)
		}
	}
	for c, ch := range meters[0].cols {
		d.Body.Columns = append(d.Body.Columns, Column{Channel: ch, Scale: ScaleOf(columns[c])})
	}
	return d, nil
}

// header fills everything but the place in the chain and the signature.
func (d Draft) header(source model.SourceID) (Header, []byte, error) {
	raw, err := d.Body.Encode(d.Slots)
	if err != nil {
		return Header{}, nil, err
	}
	root, err := d.Body.Root(d.Slots)
	if err != nil {
		return Header{}, nil, err
	}
	return Header{
		Class: d.Class, Profile: d.TAF, Flags: d.Flags, Source: source, From: d.From,
		Period: uint32(d.Period.Milliseconds()), Slots: d.Slots, Channels: uint16(len(d.Body.Columns)),
		Meters: uint32(len(d.Body.Meters)), Roster: d.Roster, Unc: d.Unc, Rules: d.Rules, Root: root,
	}, raw, nil
}

// Readings turns an opened report back into readings of one meter each, as the
// head-end checks and stores them. Quality is raw.
func Readings(h Header, b Body) map[uint32][]model.Reading {
	out := make(map[uint32][]model.Reading, len(b.Meters))
	for _, m := range b.Meters {
		list := make([]model.Reading, 0, len(m.Rows)*len(b.Columns))
		for i, r := range m.Rows {
			slot := h.From + int64(r.Slot)*int64(h.Period)
			for c, col := range b.Columns {
				list = append(list, model.Reading{Channel: col.Channel, Slot: slot, At: slot + int64(h.Period),
					Register: r.Values[c], Unc: h.Unc, Counter: m.Counter + uint32(i), Epoch: m.Epoch, State: m.State,
					Status: r.Status, PQ: r.PQ, Quality: model.QualityRaw, Flags: r.Flags})
			}
		}
		out[m.Ordinal] = list
	}
	return out
}
