package site

import (
	"context"
	"fmt"
	"io"
	"slices"

	"gridveil/node/model"
	"gridveil/node/role"
	"gridveil/node/utility"
	"gridveil/node/web"
)

// Utility is the dashboard of a utility.
type Utility struct {
	common
	book
	u *utility.Utility
}

// ForUtility shows contracts by usage point, what the meters reported, bills,
// alarms, and the ledger as this utility replayed it.
func ForUtility(env *role.Env, u *utility.Utility) *Utility {
	return &Utility{common{env, []string{"overview", "energy", "money", "ledger", "disputes", "alarms", "mesh"}}, book{u.Party()}, u}
}

// Homes are the usage points under contract.
func (s *Utility) Homes(context.Context) (out []web.HomeRef) {
	for _, c := range s.u.Contracts() {
		out = append(out, web.HomeRef{ID: ShortID(c.UsagePoint[:]), Name: "usage point " + ShortID(c.UsagePoint[:])})
	}
	return out
}

func (s *Utility) contract(id string) (utility.Contract, bool) {
	for _, c := range s.u.Contracts() {
		if ShortID(c.UsagePoint[:]) == id {
			return c, true
		}
	}
	return utility.Contract{}, false
}

// Energy is what a meter reported, with the bill; nothing else is known here.
func (s *Utility) Energy(_ context.Context, home string) (web.Energy, bool) {
	c, ok := s.contract(home)
	if !ok {
		return web.Energy{}, false
	}
	e := web.Energy{Home: web.HomeRef{ID: home, Name: "usage point " + home}}
	blocks, err := s.u.Blocks(c.UsagePoint)
	if err != nil {
		return e, true // the page says that there is no reading; the store's warning says why
	}
	e.Times, e.Metered, e.MeterKWh, e.ExportKWh = Metered(blocks)
	AddBill(&e, s.u, c.UsagePoint)
	return e, true
}

// AddBill adds the bill of everything that a usage point's readings cover.
func AddBill(e *web.Energy, u *utility.Utility, up model.UsagePoint) {
	from, to, err := u.Covered(up)
	if err != nil {
		return // no two readings yet: the page says so
	}
	if b, err := u.Bill(up, from, to); err == nil {
		Bill(e, b)
	} else {
		e.BillNote = sentence(err.Error())
	}
}

// maxSlots bounds a chart of reported slots.
const maxSlots = 1500

// Metered turns blocks of registers into a curve of mean powers, export
// negative, and the energies in between.
func Metered(blocks []model.IntervalBlock) (times []int64, watts []float64, imported, exported float64) {
	sum := map[int64]float64{}
	for _, ch := range []model.Channel{model.ImportTotal, model.ExportTotal} {
		readings, hours := series(blocks, ch)
		for i := 1; i < len(readings); i++ {
			kwh := KWh(readings[i].Register - readings[i-1].Register)
			if ch.IsExport() {
				kwh, exported = -kwh, exported+kwh
			} else {
				imported += kwh
			}
			sum[readings[i].Slot/1000] += kwh / hours * 1000
		}
	}
	for t := range sum {
		times = append(times, t)
	}
	slices.Sort(times)
	times = times[max(0, len(times)-maxSlots):]
	for _, t := range times {
		watts = append(watts, sum[t])
	}
	return times, watts, imported, exported
}

// series are the readings of a channel in the order of their slots, and the
// length of a slot in hours.
func series(blocks []model.IntervalBlock, ch model.Channel) (out []model.IntervalReading, hours float64) {
	hours = 1
	newest := map[int64]model.IntervalBlock{}
	for _, b := range blocks {
		if old, ok := newest[b.Day]; b.Channel == ch && (!ok || b.Revision > old.Revision) {
			newest[b.Day] = b
		}
	}
	for _, b := range newest {
		out, hours = append(out, b.Readings...), b.Period.Hours()
	}
	slices.SortFunc(out, func(a, b model.IntervalReading) int { return int(a.Slot/1000 - b.Slot/1000) })
	return out, hours
}

// Alarms are what reached this utility, newest first.
func (s *Utility) Alarms(context.Context) (out []web.AlarmRow) {
	for _, d := range s.u.Alarms() {
		if out = append(out, Delivered(d, "usage point "+ShortID(d.UsagePoint[:]))); len(out) == pageAlarms {
			break
		}
	}
	return out
}

// Overview counts contracts, bills and alarms.
func (s *Utility) Overview(ctx context.Context) web.Overview {
	var o web.Overview
	o.Nodes, o.Edges = neighbours(s.env)
	contracts, alarms := s.u.Contracts(), s.Alarms(ctx)
	placed := 0
	for _, c := range contracts {
		if c.Placed {
			placed++
		}
	}
	o.Headline = fmt.Sprintf("%s, all known to the head-end.", Plural(len(contracts), "contract", "contracts"))
	switch {
	case len(contracts) == 0:
		o.Headline = "No contract yet: `gridveil contract open` makes one for an enrolled home."
	case placed < len(contracts):
		o.Headline = fmt.Sprintf("%d of %s known to the head-end; the others are tried again each minute.", placed, Plural(len(contracts), "contract", "contracts"))
	}
	o.Figures = []web.Figure{{Key: "contracts", Label: "Contracts", Value: Count(len(contracts))}, {Key: "alarms", Label: "Alarms", Value: Count(len(alarms))}}
	o.Figures = append(o.Figures, s.figures()...)
	for _, a := range alarms[:min(pageEvents, len(alarms))] {
		o.Events = append(o.Events, web.Event{At: a.At, Kind: "alarm", Text: title(a.Kind) + " at " + a.Device + ": " + a.Text, Link: "/alarms"})
	}
	return o
}

// Ledger is the ledger page.
func (s *Utility) Ledger(ctx context.Context, from uint64) web.Ledger {
	return s.book.Ledger(ctx, from)
}

// Entry is one entry in full.
func (s *Utility) Entry(ctx context.Context, index uint64) (web.Entry, bool) {
	return s.book.Entry(ctx, index)
}

// Money is what this utility owes and is owed.
func (s *Utility) Money(context.Context) web.Money { return MoneyPage(s.u.Party(), s.u.Party().ID()) }

// Disputes are the cases of the ledger, and what this seat may do.
func (s *Utility) Disputes(context.Context) web.Disputes {
	list, err := s.u.Party().CaseViews()
	return CasesPage(s.u.Party(), list, err)
}

// Find finds an entry by its leaf hash.
func (s *Utility) Find(ctx context.Context, leaf string) (uint64, bool) {
	return s.book.Find(ctx, leaf)
}

// Proof writes the .tlog-proof of a final entry.
func (s *Utility) Proof(ctx context.Context, w io.Writer, index uint64) error {
	return s.book.Proof(ctx, w, index)
}

// Live keeps the pages current.
func (s *Utility) Live(ctx context.Context) map[string]string {
	out := s.common.live(s.Overview(ctx))
	s.book.live(out)
	return out
}
