package vee

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"gridveil/node/model"
)

// Flags has bit n set when rule n fired.
type Flags uint32

// The rules of this version; numbers are those of doc/design.md.
const (
	Future     Flags = 1 << iota // 0 R: in the future beyond uncertainty, or off the slot grid
	Unknown                      // 1 R: unknown, quarantined or another meter
	Gap                          // 2 F: slots are missing before this one
	Duplicate                    // 3 R: same slot, different value
	Decrease                     // 4 R: register fell without a new epoch
	Rollover                     // 5 I: register passed its width
	SumDiffers                   // 6 R: register difference is not the sum of its parts
	OverLimit                    // 7 R: more than the connection can carry
	Spike                        // 8 F: far above the running mean
	OddDay                       // 9 F: day far from the same weekday before
	Zeros                        // 10 F: a day without any energy
	Stuck                        // 11 F: the same energy again and again
	Forbidden                    // 12 R: a register that the reading state forbids moved
	WhileOpen                    // 13 F: energy with an open disconnect element
	MeterState                   // 14 F: the meter reports test mode, clock or power failure
)

// Rejecting are the rules that make a value not billable until it is edited.
const Rejecting = Future | Unknown | Duplicate | Decrease | SumDiffers | OverLimit | Forbidden

// Informing are the rules that only inform.
const Informing = Rollover

var ruleNames = [...]string{"future", "unknown", "gap", "duplicate", "decrease", "rollover", "sum differs", "over limit",
	"spike", "odd day", "zeros", "stuck", "forbidden", "while open", "meter state"}

// Rejected says whether a value with flags f must not be billed as it is.
func (f Flags) Rejected() bool { return f&Rejecting != 0 }

// String lists the names of the rules that fired.
func (f Flags) String() string {
	if f == 0 {
		return "valid"
	}
	var names []string
	for rest := uint32(f); rest != 0; rest &= rest - 1 {
		if n := bits.TrailingZeros32(rest); n < len(ruleNames) {
			names = append(names, ruleNames[n])
		} else {
			names = append(names, fmt.Sprintf("rule %d", n))
		}
	}
	return strings.Join(names, ", ")
}

// Params are the numbers in the rules. Their hash is the rules version that
// reports and orders name.
type Params struct {
	WidthMWh      int64         // register width: values run from 0 to WidthMWh-1
	LimitMW       int64         // connection limit where the roster gives none
	LimitPercent  int64         // tolerance over the limit
	SpikeFactor   int64         // times the running mean
	SpikeMWh      int64         // plus this, per quarter hour
	SpikeAfter    int64         // slots before rule 8 speaks
	DayFactor     int64         // day outside 1/DayFactor..DayFactor of its weekday mean
	DayWeeks      int64         // weeks before rule 9 speaks
	ZeroSpan      time.Duration // longest time without energy
	EqualSlots    int64         // longest run of equal non-zero energy
	SumTolerance  int64         // mWh by which parts may miss the total (rounding)
	FutureSlackMS int64         // beyond the stated uncertainty
}

// Standard returns the parameters of doc/design.md.
func Standard() Params {
	return Params{
		WidthMWh: 1e12, LimitMW: 43_470_000, LimitPercent: 110, SpikeFactor: 8, SpikeMWh: 200_000, SpikeAfter: 96,
		DayFactor: 4, DayWeeks: 4, ZeroSpan: 24 * time.Hour, EqualSlots: 8, SumTolerance: 3_000, FutureSlackMS: 0,
	}
}

// Version is SHA-256 of the parameters, first four bytes.
func (p Params) Version() uint32 {
	b := []byte("gridveil/vee/v1\x00")
	for _, v := range []int64{p.WidthMWh, p.LimitMW, p.LimitPercent, p.SpikeFactor, p.SpikeMWh, p.SpikeAfter, p.DayFactor,
		p.DayWeeks, int64(p.ZeroSpan), p.EqualSlots, p.SumTolerance, p.FutureSlackMS} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint32(sum[:])
}

// Meter is what the rules have to know about a usage point.
type Meter struct {
	Period  int64 // slot length, ms
	LimitMW int64 // connection limit, mW; 0 = Params.LimitMW
	Masked  bool  // a battery masks the load: skip 8, 9, 11
	Known   bool  // in the roster, right device
	Now     int64 // UTC ms
	Zone    *time.Location
}

// State is what the rules remember of one (meter, channel): 48 bytes, so that a
// million meters fit in 48 MB.
type State struct {
	last    int64    // register of the last accepted reading
	suspect int64    // register of the last rejected one, when suspected
	slot    uint32   // start of the newest slot seen, s
	ewma    uint32   // running mean of the energy per slot, mWh
	delta   uint32   // energy of the last slot, mWh, saturated
	day     uint32   // energy of the day so far, Wh
	epoch   uint16   // of the last accepted reading
	run     uint16   // slots of equal energy in a row
	behind  uint16   // slots since the last accepted reading, 1 when it was the newest
	seen    uint8    // accepted slots / 4, saturated: rule 8 starts at SpikeAfter
	weeks   uint8    // complete days seen, saturated
	week    [7]uint8 // mean energy per weekday, logarithmic
	mark    uint8    // bit 0: has a reading; bit 1: suspect is set
}

const (
	markStarted = 1 << iota
	markSuspect
)

// Outcome is what Check says about a reading.
type Outcome struct {
	Flags  Flags
	Energy int64 // since the last accepted reading, mWh; 0 for the first
	Drop   bool  // an equal duplicate: store nothing
}

// Check applies rules 0..5 and 7..14 to the next reading of a register, and
// moves the state on. Rule 6 needs several registers: see CheckSum.
func (p *Params) Check(s *State, m Meter, r model.Reading) Outcome {
	out := Outcome{Flags: p.frame(&m, &r)}
	if out.Flags&(Future|Unknown) != 0 {
		return out // says nothing about the meter's own course
	}
	out.Flags |= meterState(&r)
	slot := uint32(r.Slot / 1000)
	if s.mark&markStarted == 0 {
		*s = State{last: r.Register, slot: slot, epoch: r.Epoch, mark: markStarted}
		return out
	}
	if slot <= s.slot {
		return p.repeated(s, &r, slot, out)
	}
	steps := int64(slot-s.slot) * 1000 / m.Period
	if steps > 1 {
		out.Flags |= Gap
	}
	span := steps + int64(s.behind) // slots since the last accepted reading
	s.slot = slot
	energy, flags := p.course(s, &m, &r, span, steps)
	out.Flags |= flags
	if flags&(Decrease|OverLimit) != 0 {
		s.suspect, s.behind = r.Register, saturate16(span)
		s.mark |= markSuspect
		return out
	}
	out.Energy = energy
	out.Flags |= p.habits(s, &m, &r, energy, steps)
	s.last, s.epoch, s.behind = r.Register, r.Epoch, 0
	s.mark &^= markSuspect
	return out
}

// frame is rules 0 and 1: they look at the reading alone.
func (p *Params) frame(m *Meter, r *model.Reading) (f Flags) {
	if r.Slot < 0 || r.Slot%m.Period != 0 || r.Slot+m.Period > m.Now+int64(r.Unc)+p.FutureSlackMS {
		f |= Future
	}
	if !m.Known {
		f |= Unknown
	}
	return f
}

// meterState is rule 14.
func meterState(r *model.Reading) Flags {
	if r.Status&(model.StatusTestMode|model.StatusMeterClock|model.StatusPowerFail) != 0 {
		return MeterState
	}
	return 0
}

// repeated is rule 3: a slot that was seen already.
func (p *Params) repeated(s *State, r *model.Reading, slot uint32, out Outcome) Outcome {
	if slot == s.slot && (r.Register == s.last && s.behind == 0 || s.mark&markSuspect != 0 && r.Register == s.suspect) {
		out.Drop = true
		return out
	}
	out.Flags |= Duplicate
	return out
}

// course is rules 4, 5 and 7: where the register went. A reading that fits the
// last rejected one confirms a new level.
func (p *Params) course(s *State, m *Meter, r *model.Reading, span, steps int64) (energy int64, f Flags) {
	if r.Epoch != s.epoch {
		s.run = 0
		return 0, 0 // another meter or a reset: nothing to compare with
	}
	energy, f = p.step(s.last, r.Register, m, span)
	if f&(Decrease|OverLimit) == 0 || s.mark&markSuspect == 0 {
		return energy, f
	}
	if again, g := p.step(s.suspect, r.Register, m, steps); g&(Decrease|OverLimit) == 0 {
		return again, g
	}
	return energy, f
}

func (p *Params) step(from, to int64, m *Meter, slots int64) (energy int64, f Flags) {
	energy = to - from
	if energy < 0 {
		if from*10 <= p.WidthMWh*9 || to*10 >= p.WidthMWh {
			return 0, Decrease
		}
		energy += p.WidthMWh
		f |= Rollover
	}
	limit := m.LimitMW
	if limit == 0 {
		limit = p.LimitMW
	}
	// mW x ms / 3,600,000 = mWh; a limit of 2^40 mW over 2^16 slots of a day fits in 128 bits only.
	hi, lo := bits.Mul64(uint64(limit), uint64(m.Period))
	if hi == 0 {
		hi, lo = bits.Mul64(lo/3_600_000, uint64(slots*p.LimitPercent))
	}
	if hi == 0 && uint64(energy)*100 > lo && uint64(energy) < 1<<56 || uint64(energy) >= 1<<56 {
		f |= OverLimit
	}
	return energy, f
}

// habits is rules 8 to 13, and learns from the accepted reading.
func (p *Params) habits(s *State, m *Meter, r *model.Reading, energy, steps int64) (f Flags) {
	each := energy / max(steps, 1)
	if !m.Masked && int64(s.seen)*4 >= p.SpikeAfter && each > p.SpikeFactor*int64(s.ewma)+p.SpikeMWh*m.Period/900_000 {
		f |= Spike
	}
	f |= p.runs(s, m, each, steps)
	f |= p.days(s, m, r, energy)
	if energy > 0 {
		if !r.State.Allows(r.Channel) {
			f |= Forbidden
		}
		if r.Status&model.StatusDisconnect != 0 {
			f |= WhileOpen
		}
	}
	learn := saturate32(each)
	if s.seen == 0 {
		s.ewma = learn
	}
	// The mean moves by a sixteenth: about four hours of quarter hours.
	s.ewma = uint32((int64(s.ewma)*15 + int64(learn)) / 16)
	if s.seen < 255 && (r.Slot/m.Period)%4 == 0 {
		s.seen++
	}
	return f
}

// runs is rules 10 and 11.
func (p *Params) runs(s *State, m *Meter, each, steps int64) (f Flags) {
	d := saturate32(each)
	if d == s.delta && steps == 1 {
		s.run = saturate16(int64(s.run) + 1)
	} else {
		s.run = 1
	}
	s.delta = d
	if d == 0 && int64(s.run)*m.Period > p.ZeroSpan.Milliseconds() {
		f |= Zeros
	}
	if d != 0 && int64(s.run) > p.EqualSlots && !m.Masked {
		f |= Stuck
	}
	return f
}

// days is rule 9: when a local day ends, its energy is compared with the mean
// of its weekday. The flag stands at the first reading of the next day.
func (p *Params) days(s *State, m *Meter, r *model.Reading, energy int64) (f Flags) {
	today, ended := localDay(r.Slot, m.Zone), localDay(r.Slot-m.Period, m.Zone)
	if today != ended {
		w := (ended + 4) % 7 // 1970-01-01 was a Thursday
		if int64(s.weeks) >= 7*p.DayWeeks && !m.Masked && p.oddDay(int64(s.day), fromLog(s.week[w])) {
			f |= OddDay
		}
		s.learnDay(w, int64(s.day))
		s.day = 0
	}
	s.day = saturate32(int64(s.day) + energy/1000)
	return f
}

// localDay counts the days since 1970-01-01 of the zone's calendar.
func localDay(ms int64, zone *time.Location) int64 {
	if zone != nil && zone != time.UTC {
		_, offset := time.UnixMilli(ms).In(zone).Zone()
		ms += int64(offset) * 1000
	}
	return ms / 86_400_000
}

func (p *Params) oddDay(day, mean int64) bool {
	return day*p.DayFactor < mean || day > mean*p.DayFactor
}

func (s *State) learnDay(w, wh int64) {
	mean := fromLog(s.week[w])
	if s.weeks < 7 {
		mean = wh
	}
	s.week[w] = toLog((mean*3 + wh) / 4)
	if s.weeks < 255 {
		s.weeks++
	}
}

// toLog keeps a Wh value in 8 bits: 5 bits of exponent, 3 of mantissa, so that
// the error of 1/16 is far inside a factor of four.
func toLog(wh int64) uint8 {
	if wh < 8 {
		return uint8(max(wh, 0))
	}
	e := bits.Len64(uint64(wh)) - 4
	if e > 30 {
		return 255
	}
	return uint8((e+1)<<3 | int(wh>>e)&7)
}

func fromLog(x uint8) int64 {
	if x < 8 {
		return int64(x)
	}
	return (8 | int64(x&7)) << (x>>3 - 1)
}

func saturate16(v int64) uint16 { return uint16(min(max(v, 0), 1<<16-1)) }
func saturate32(v int64) uint32 { return uint32(min(max(v, 0), 1<<32-1)) }

// CheckSum is rule 6: the energy of a total register against the sum of its
// parts in the same slot (bands, or intervals of a load profile).
func (p *Params) CheckSum(total int64, parts []int64) Flags {
	sum := int64(0)
	for _, v := range parts {
		sum += v
	}
	if diff := total - sum; diff > p.SumTolerance || diff < -p.SumTolerance {
		return SumDiffers
	}
	return 0
}

// Missing are the flags that the head-end found and the first stage did not
// report: a check was skipped there (an event of kind 1). Flags of rules that
// depend on the time of arrival are not compared.
func Missing(first, here Flags) Flags { return here &^ first &^ (Future | Gap | Duplicate) }

// bands lists the parts of each total register.
var bands = map[model.Channel][]model.Channel{
	model.ImportTotal: {model.ImportT1, model.ImportT2, model.ImportT3},
	model.ExportTotal: {model.ExportT1, model.ExportT2, model.ExportT3},
}

// CheckBands is rule 6 within one slot of one meter: where a total and at least
// two of its band registers moved, they must agree.
func (p *Params) CheckBands(energy map[model.Channel]int64) (f Flags) {
	for total, parts := range bands {
		whole, ok := energy[total]
		if !ok {
			continue
		}
		var have []int64
		for _, c := range parts {
			if e, ok := energy[c]; ok {
				have = append(have, e)
			}
		}
		if len(have) >= 2 {
			f |= p.CheckSum(whole, have)
		}
	}
	return f
}
