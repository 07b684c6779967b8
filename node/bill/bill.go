// Package bill computes a household's bill from the interval blocks that the
// head-end keeps of signed reports.
//
// Compute is pure integer arithmetic. Each slot's energy is the difference of
// two registers; it counts into the line of its direction, band and rate; each
// line is rounded once, half to even. The energies of all lines of a direction
// add up to closing minus opening register, so nothing is billed twice or lost.
//
// What cannot be billed honestly is refused with an error that names the slot:
// a gap, a rejected value, a band edge inside a slot. Estimate or edit first
// (package vee), or wait.
//
// Units: mWh, millionths of the currency unit, UTC ms. Source: doc/design.md.
package bill

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"

	"gridveil/ev/tariff"
	"gridveil/node/model"
	"gridveil/node/vee"
)

// Errors of Compute; a SlotError wraps one of them.
var (
	// ErrDisabled means the reading state forbids any bill.
	ErrDisabled = errors.New("bill: usage point is disabled, no bill")
	// ErrGap means a slot or the opening register is missing: estimate it first.
	ErrGap = errors.New("bill: reading is missing; estimate it or wait for late data")
	// ErrNotBillable means a rule rejected a raw value: edit it first.
	ErrNotBillable = errors.New("bill: value was rejected by a check; edit or estimate it")
	// ErrEpoch means a meter was swapped and its start register is not known.
	ErrEpoch = errors.New("bill: meter was changed; enter the new meter's start register")
	// ErrBandEdge means a band begins inside a slot.
	ErrBandEdge = errors.New("bill: tariff changes inside a slot; use slots that end at band edges")
	// ErrOverflow means an amount exceeds 64 bits.
	ErrOverflow = errors.New("bill: amount exceeds 64 bits")
	// ErrContract means the contract itself is unusable.
	ErrContract = errors.New("bill: invalid contract")
)

// SlotError names the slot that stops a bill.
type SlotError struct {
	Channel model.Channel
	Slot    int64
	Err     error
}

// Error names channel and slot, never the usage point.
func (e *SlotError) Error() string {
	return fmt.Sprintf("%v (%v, slot %s)", e.Err, e.Channel, time.UnixMilli(e.Slot).UTC().Format(time.RFC3339))
}

// Unwrap gives the reason.
func (e *SlotError) Unwrap() error { return e.Err }

// Start is the register with which a meter began to count for a contract.
type Start struct {
	Channel  model.Channel
	Epoch    uint16
	Register int64 // mWh
}

// Contract is what a bill is computed under.
type Contract struct {
	UsagePoint model.UsagePoint
	State      model.ReadingState
	Calendar   *tariff.Calendar
	From, To   int64 // billing period, UTC ms, half-open, on slot boundaries
	Starts     []Start
	// Flat are the rates of slots without conforming time (model.StatusClockUnset),
	// micro/kWh; nil bills them by the calendar.
	Flat *Flat
}

// Flat are rates that hold whatever the time.
type Flat struct{ Import, Export int64 }

// Line is one position of a bill.
type Line struct {
	Channel  model.Channel
	Register tariff.Register
	Energy   int64 // mWh
	Rate     int64 // micro/kWh
	Critical bool  // a critical-peak rate
	NoClock  bool  // billed at the flat rate for lack of conforming time
	Amount   int64 // micro; negative is a credit
}

// Ends are the registers at both ends of the period.
type Ends struct {
	Channel          model.Channel
	Opening, Closing int64 // mWh
}

// Bill is the result. Total is in millionths of the currency unit; negative
// means the customer gets money.
type Bill struct {
	UsagePoint model.UsagePoint
	Currency   uint16 // ISO 4217 number, the calendar's
	From, To   int64
	Ends       []Ends
	Lines      []Line
	ExcessMWh  int64    // import above the contracted power
	Slots      int      // slots billed, import and export together
	Estimated  int      // of these, estimated or edited
	Edited     []Edited // values that a person answers for, of the period and the day before it
	Total      int64
}

// Edited is a register that a check rejected and a person replaced.
type Edited struct {
	Channel       model.Channel
	Slot          int64  // start, UTC ms
	Before, After int64  // mWh
	Why           string // who answers for it, and why
}

// Compute bills contract c from blocks, which may come in any order and
// revision; the highest revision of each (channel, day) counts. Blocks of other
// usage points are refused.
func Compute(c Contract, blocks []model.IntervalBlock) (Bill, error) {
	b := Bill{UsagePoint: c.UsagePoint, From: c.From, To: c.To}
	if c.State == model.ReadDisabled {
		return b, ErrDisabled
	}
	if c.Calendar == nil || c.From >= c.To || c.From < 0 || c.State > model.ReadDisabled {
		return b, fmt.Errorf("%w: calendar or period", ErrContract)
	}
	b.Currency = c.Calendar.Currency()
	lines := map[lineKey]int64{}
	for _, ch := range []model.Channel{model.ImportTotal, model.ExportTotal} {
		if !c.State.Allows(ch) {
			continue
		}
		s, err := c.series(ch, blocks)
		if err != nil {
			return b, err
		}
		if err := c.count(&b, lines, s); err != nil {
			return b, err
		}
	}
	return b.finish(lines)
}

// series is the billable readings of one register in slot order.
type series struct {
	channel  model.Channel
	period   int64
	readings []model.IntervalReading // of the period
	before   *model.IntervalReading  // the one that ends at From, nil if absent
}

func (c Contract) series(ch model.Channel, blocks []model.IntervalBlock) (series, error) {
	newest := map[int64]model.IntervalBlock{}
	s := series{channel: ch}
	for _, b := range blocks {
		if b.UsagePoint != c.UsagePoint {
			return s, fmt.Errorf("%w: block of another usage point", ErrContract)
		}
		if b.Channel != ch {
			continue
		}
		if old, ok := newest[b.Day]; !ok || b.Revision > old.Revision {
			newest[b.Day] = b
		}
	}
	for _, b := range newest {
		ms := b.Period.Milliseconds()
		if s.period == 0 {
			s.period = ms
		}
		if ms != s.period || ms == 0 {
			return s, fmt.Errorf("%w: slots of different length in one period", ErrContract)
		}
		for i := range b.Readings {
			switch r := b.Readings[i]; {
			case r.Slot+ms == c.From:
				s.before = &r
			case r.Slot >= c.From && r.Slot+ms <= c.To:
				s.readings = append(s.readings, r)
			}
		}
	}
	slices.SortFunc(s.readings, func(a, b model.IntervalReading) int { return cmp.Compare(a.Slot, b.Slot) })
	return s, nil
}

type lineKey struct {
	channel  model.Channel
	register tariff.Register
	rate     int64
	critical bool
	noClock  bool
}

// count walks the slots of one register and adds their energy to the lines.
func (c Contract) count(b *Bill, lines map[lineKey]int64, s series) error {
	last, epoch, err := c.opening(s)
	if err != nil {
		return err
	}
	ends := Ends{Channel: s.channel, Opening: last}
	want, used := c.From, int64(0)
	for _, r := range s.readings {
		if r.Slot != want {
			return &SlotError{s.channel, want, ErrGap}
		}
		if vee.Flags(r.Flags).Rejected() && r.Quality == model.QualityRaw {
			return &SlotError{s.channel, r.Slot, ErrNotBillable}
		}
		if r.Epoch != epoch {
			if last, epoch, err = c.start(s.channel, r); err != nil {
				return err
			}
		}
		energy := r.Register - last
		if energy < 0 && vee.Flags(r.Flags)&vee.Rollover != 0 {
			energy += vee.Standard().WidthMWh
		}
		if energy < 0 {
			return &SlotError{s.channel, r.Slot, ErrNotBillable}
		}
		if err := c.price(b, lines, s, r, used, energy); err != nil {
			return err
		}
		used, last, want = used+energy, r.Register, want+s.period
		b.Slots++
		if r.Quality != model.QualityRaw && r.Quality != model.QualityValid {
			b.Estimated++
		}
	}
	if want != c.To {
		return &SlotError{s.channel, want, ErrGap}
	}
	ends.Closing = last
	b.Ends = append(b.Ends, ends)
	return nil
}

// opening is the register at From: of the slot before, else the start register
// of the first reading's meter.
func (c Contract) opening(s series) (register int64, epoch uint16, err error) {
	if s.before != nil {
		return s.before.Register, s.before.Epoch, nil
	}
	if len(s.readings) == 0 {
		return 0, 0, &SlotError{s.channel, c.From, ErrGap}
	}
	register, epoch, err = c.start(s.channel, s.readings[0])
	if err != nil {
		return 0, 0, &SlotError{s.channel, c.From - s.period, ErrGap}
	}
	return register, epoch, nil
}

func (c Contract) start(ch model.Channel, r model.IntervalReading) (int64, uint16, error) {
	for _, s := range c.Starts {
		if s.Channel == ch && s.Epoch == r.Epoch {
			return s.Register, s.Epoch, nil
		}
	}
	return 0, 0, &SlotError{ch, r.Slot, ErrEpoch}
}

// price adds one slot's energy to its line or lines.
func (c Contract) price(b *Bill, lines map[lineKey]int64, s series, r model.IntervalReading, used, energy int64) error {
	if c.Flat != nil && r.Status&model.StatusClockUnset != 0 {
		rate := c.Flat.Import
		if s.channel.IsExport() {
			rate = c.Flat.Export
		}
		lines[lineKey{channel: s.channel, rate: rate, noClock: true}] += energy
		return nil
	}
	if c.Calendar.Next(r.Slot) < r.Slot+s.period {
		return &SlotError{s.channel, r.Slot, ErrBandEdge}
	}
	if s.channel.IsExport() {
		rate, err := c.Calendar.PriceAt(r.Slot, 0)
		if err != nil {
			return &SlotError{s.channel, r.Slot, err}
		}
		lines[lineKey{channel: s.channel, register: rate.Register, rate: rate.Export, critical: rate.Critical}] += energy
		return nil
	}
	pieces, err := c.Calendar.Pieces(r.Slot, used, energy)
	if err != nil {
		return &SlotError{s.channel, r.Slot, err}
	}
	for _, p := range pieces {
		lines[lineKey{channel: s.channel, register: p.Rate.Register, rate: p.Rate.Import, critical: p.Rate.Critical}] += p.Energy
	}
	if w := pieces[0].Rate.AvailableW; w > 0 {
		b.ExcessMWh += max(0, energy-w*s.period/3600) // W x ms / 3600 = mWh
	}
	return nil
}

// finish turns the sums into sorted lines and rounds each once.
func (b Bill) finish(lines map[lineKey]int64) (Bill, error) {
	for k, energy := range lines {
		amount, err := Amount(energy, k.rate)
		if err != nil {
			return b, err
		}
		if k.channel.IsExport() {
			amount = -amount
		}
		b.Lines = append(b.Lines, Line{Channel: k.channel, Register: k.register, Energy: energy, Rate: k.rate,
			Critical: k.critical, NoClock: k.noClock, Amount: amount})
	}
	slices.SortFunc(b.Lines, func(x, y Line) int {
		return cmp.Or(cmp.Compare(x.Channel, y.Channel), cmp.Compare(x.Register, y.Register), cmp.Compare(x.Rate, y.Rate),
			boolOrder(x.Critical, y.Critical), boolOrder(x.NoClock, y.NoClock))
	})
	for _, l := range b.Lines {
		sum := b.Total + l.Amount
		if (sum > b.Total) != (l.Amount > 0) && l.Amount != 0 {
			return b, ErrOverflow
		}
		b.Total = sum
	}
	return b, nil
}

func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Amount is energy (mWh, not negative) x rate (micro/kWh) / 10^6 in micro,
// rounded half to even: the only rounding of a bill.
func Amount(energy, rate int64) (int64, error) {
	negative := rate < 0
	r := uint64(rate)
	if negative {
		r = -r
	}
	hi, lo := bits.Mul64(uint64(energy), r)
	const unit = 1_000_000
	if energy < 0 || hi >= unit {
		return 0, ErrOverflow
	}
	q, rest := bits.Div64(hi, lo, unit)
	if rest > unit/2 || rest == unit/2 && q%2 == 1 {
		q++
	}
	if q > math.MaxInt64 {
		return 0, ErrOverflow
	}
	if negative {
		return -int64(q), nil
	}
	return int64(q), nil
}
