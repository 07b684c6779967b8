package signal

import (
	"encoding/binary"
	"fmt"
)

// Reason says why an authentic signal is not followed.
type Reason uint8

// The reasons, in the order in which they are tested.
const (
	None        Reason = iota
	Expired            // its time is over
	TooEarly           // it begins more than MaxAhead from now
	ClockUnsure        // our clock is not good enough for timed signals
	OtherZone          // for another zone or currency
	OtherSession
	PriceBand   // outside the band of the contract
	PriceJump   // more than five times its neighbour without being an announced critical peak
	NoNotice    // critical peak announced too late
	Envelope    // outside what the owner offered
	Oscillating // more than MaxReversals changes of direction in an hour
	FloorLost   // the owner's energy by departure or state of charge could not be kept
	AgainstGrid // asks for what our own frequency and voltage speak against
	Measurement // its measurements contradict our own
)

var reasonNames = [...]string{"none", "expired", "too early", "own clock unsure", "other zone or currency",
	"other session", "outside the contract's price band", "price jump without notice", "critical peak without notice",
	"outside the offered envelope", "oscillating", "the owner's floor would be lost", "against own frequency or voltage",
	"contradicts own measurement"}

// String gives the reason in words.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Verdict is the judgement over one signal; Reason is None if it is followed.
type Verdict struct{ Reason Reason }

// OK reports whether the signal is followed.
func (v Verdict) OK() bool { return v.Reason == None }

// Limits of plausibility.
const (
	MaxAhead     = 48 * 3_600_000 // ms: a day-ahead price, and a day to spare
	MaxJump      = 5              // times the neighbouring price
	MaxReversals = 4              // an hour: a battery or a feeder gains nothing from more
	MaxShift     = 300_000        // ms by which a start is shifted at most
	priceFloor   = 20_000         // micro/kWh: prices near zero may change sign or multiply freely
	hour         = 3_600_000

	nominalMHz = 50_000
	wideMHz    = 100 // mHz off nominal from which a control is held against it
	nominalMV  = 230_000
	wideMV     = 18_400 // mV, 8 %: EN 50160 allows 10 %
	differMHz  = 50     // the operator's and our frequency are one and the same
	differMV   = 23_000 // 10 %: along a feeder
)

// Set is a set point that was accepted before.
type Set struct {
	At int64 // UTC ms
	W  int64
}

// Own is what the gateway itself knows and measures.
type Own struct {
	Now        int64 // UTC ms
	ClockSure  bool
	Zone       uint32
	Currency   uint16
	PriceLo    int64 // band of the contract, micro/kWh
	PriceHi    int64
	HasLast    bool
	LastPrice  int64 // price of the step before the signal's first
	NoticeMS   int64 // least notice of a critical peak
	Open       [32]byte
	EnvelopeLo int64 // W that the owner offered: most discharge (negative) ...
	EnvelopeHi int64 // ... and most charging
	Recent     []Set // accepted set points, oldest first; those of the last hour count

	HasDeparture bool
	Departure    int64 // UTC ms
	NeedMWh      int64 // still wanted by then
	MaxW         int64 // charging power the wiring allows
	HasFloor     bool  // a discharge may not take the car below its floor
	SpareMWh     int64 // energy above that floor

	HasMHz, HasMV         bool
	MilliHertz, MilliVolt int64
}

// Plausible judges an authentic signal against what the gateway knows itself. It is pure; the caller appends an accepted
// Control to Recent.
func Plausible(b Body, own Own) Verdict {
	from, to := b.span()
	switch {
	case !own.ClockSure:
		return Verdict{ClockUnsure}
	case to <= own.Now:
		return Verdict{Expired}
	case from > own.Now+MaxAhead:
		return Verdict{TooEarly}
	}
	switch b := b.(type) {
	case *Price:
		return Verdict{own.price(b)}
	case *NetState:
		return Verdict{own.netState(b)}
	case *Control:
		return Verdict{own.control(b)}
	}
	return Verdict{OtherSession}
}

func (own Own) price(p *Price) Reason {
	if p.Currency != own.Currency {
		return OtherZone
	}
	if p.Kind == CriticalPeak && p.From-own.Now < own.NoticeMS {
		return NoNotice
	}
	last, has := own.LastPrice, own.HasLast
	for _, x := range p.Prices {
		if x < own.PriceLo || x > own.PriceHi {
			return PriceBand
		}
		if has && p.Kind != CriticalPeak && (jumps(last, x) || jumps(x, last)) {
			return PriceJump
		}
		last, has = x, true
	}
	return None
}

// jumps reports whether a is more than five times b, both at least priceFloor.
func jumps(a, b int64) bool {
	abs := func(v int64) int64 { return max(v, -v, priceFloor) }
	return abs(a) > MaxJump*abs(b)
}

func (own Own) netState(n *NetState) Reason {
	differs := func(has bool, theirs, ours, by int64) bool {
		return has && theirs != 0 && (theirs-ours > by || ours-theirs > by)
	}
	switch {
	case n.Zone != own.Zone:
		return OtherZone
	case differs(own.HasMHz, n.MilliHertz, own.MilliHertz, differMHz), differs(own.HasMV, n.MilliVolt, own.MilliVolt, differMV):
		return Measurement
	case n.State == ImportStrained && own.surplus(), n.State == ExportStrained && own.lack():
		return AgainstGrid
	}
	return None
}

func (own Own) control(c *Control) Reason {
	if c.Open != own.Open {
		return OtherSession
	}
	if c.Kind == Release {
		return None // ending an instruction is always safe
	}
	switch {
	case c.SetW < own.EnvelopeLo || c.SetW > own.EnvelopeHi:
		return Envelope
	case own.reversals(c) > MaxReversals:
		return Oscillating
	case !own.floorsHold(c):
		return FloorLost
	case own.surplus() && c.SetW < own.current(), own.lack() && c.SetW > own.current():
		return AgainstGrid
	}
	return None
}

// current is the set point in force, zero before the first.
func (own Own) current() int64 {
	if n := len(own.Recent); n > 0 {
		return own.Recent[n-1].W
	}
	return 0
}

// reversals counts changes of direction within the last hour if c were accepted.
func (own Own) reversals(c *Control) (n int) {
	sets := append(own.Recent[:len(own.Recent):len(own.Recent)], Set{own.Now, c.SetW})
	var direction int64
	for i := 1; i < len(sets); i++ {
		step := sets[i].W - sets[i-1].W
		if step == 0 || sets[i].At <= own.Now-hour {
			continue
		}
		if direction != 0 && (step > 0) != (direction > 0) {
			n++
		}
		direction = step
	}
	return n
}

// floorsHold asks whether the owner still gets the energy wanted if the control is followed to its end.
func (own Own) floorsHold(c *Control) bool {
	start := max(c.From, own.Now)
	if given := -c.SetW * (c.To - start) / 3600; own.HasFloor && c.SetW < 0 && given > own.SpareMWh {
		return false
	}
	if !own.HasDeparture || c.SetW >= own.MaxW {
		return true
	}
	end := min(c.To, own.Departure)
	during := c.SetW * max(end-start, 0) / 3600
	around := own.MaxW * (max(start-own.Now, 0) + max(own.Departure-end, 0)) / 3600
	return during+around >= own.NeedMWh
}

// surplus and lack read the grid's need off our own meter: high frequency or voltage means too much energy.
func (own Own) surplus() bool {
	return own.HasMHz && own.MilliHertz > nominalMHz+wideMHz || own.HasMV && own.MilliVolt > nominalMV+wideMV
}

func (own Own) lack() bool {
	return own.HasMHz && own.MilliHertz < nominalMHz-wideMHz || own.HasMV && own.MilliVolt < nominalMV-wideMV
}

// Start returns when a gateway follows a control: shifted by a random part of at most MaxShift and of half its length,
// so that one command cannot step a feeder. random is uniform and drawn once per control.
func (c *Control) Start(random uint64) int64 {
	window := min(MaxShift, (c.To-c.From)/2)
	return c.From + int64(random%uint64(window+1))
}

// Refusal is what goes back for a signal that was not followed; hpk signs it and both sides keep it.
type Refusal struct {
	Signal [32]byte // hash of the signal
	Reason Reason
	At     int64 // UTC ms
}

// RefusalSize is the length of an encoded Refusal.
const RefusalSize = 41

// Encode returns signal[32] reason:u8 at:u64.
func (r Refusal) Encode() []byte {
	b := append(make([]byte, 0, RefusalSize), r.Signal[:]...)
	return binary.BigEndian.AppendUint64(append(b, byte(r.Reason)), uint64(r.At))
}

// DecodeRefusal reads exactly what Encode writes.
func DecodeRefusal(b []byte) (Refusal, error) {
	if len(b) != RefusalSize || b[32] == 0 || int(b[32]) >= len(reasonNames) || b[33]&0x80 != 0 {
		return Refusal{}, fmt.Errorf("%w: refusal", ErrBody)
	}
	return Refusal{Signal: [32]byte(b), Reason: Reason(b[32]), At: int64(binary.BigEndian.Uint64(b[33:]))}, nil
}
