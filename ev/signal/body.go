// Package signal holds the bodies of the grid's and the aggregator's signals, and judges whether a signal that is
// authentic is also plausible.
//
// Prices and the state of the network travel in signed registers of the mesh, which enforce the issuer's role, expiry
// and rising versions; a Control is sealed to one session. This package sees a body after those checks. Plausible then
// asks what a signature cannot tell: could this be meant? A refused signal leaves the last good plan in force until it
// expires, then the default, and a Refusal goes back.
//
// Encodings are fixed big-endian layouts, one byte string per body. Power is int64 W, charging positive; prices are
// millionths per kWh; time is UTC milliseconds. Start with Decode and Plausible.
package signal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrBody says that bytes are not a signal body; the text names the rule.
var ErrBody = errors.New("signal: invalid body")

// Body is a *Price, *NetState or *Control.
type Body interface {
	Encode() ([]byte, error)
	span() (from, to int64)
}

// PriceKind says what kind of prices a Price body holds.
type PriceKind uint8

// The kinds of prices.
const (
	RealTime PriceKind = iota // market price per step (RTP)
	TimeOfUse
	CriticalPeak // announced ahead of time (CPP); may jump
)

// MaxSteps is the most prices in one body: a day of 300-s steps would be 288, so a day takes two bodies.
const MaxSteps = 255

// Price tells the price of coming steps.
type Price struct {
	Currency uint16 // ISO 4217 number
	Kind     PriceKind
	From     int64    // UTC ms of the first step
	StepS    int      // s, 1..65535
	Prices   []int64  // micro/kWh, 1..MaxSteps, each within 32 bits
	Tariff   [32]byte // hash of the calendar that these prices refine
}

// State is how strained the network of a zone is.
type State uint8

// The states.
const (
	Normal State = iota
	ImportStrained
	ExportStrained
	Emergency
)

// NetState tells the limits and the measured state of one zone's network.
type NetState struct {
	Zone                  uint32
	From, To              int64 // UTC ms
	ImportMaxW            int64 // per device, W
	ExportMaxW            int64
	MilliVolt, MilliHertz int64 // as the operator measured them
	State                 State
}

// ControlKind says what a Control asks for.
type ControlKind uint8

// The kinds of controls.
const (
	Level     ControlKind = iota // charge or discharge at SetW
	Stop                         // draw nothing
	Discharge                    // give -SetW
	Release                      // the earlier control ends; SetW is 0
)

// Control asks one session for a power.
type Control struct {
	Open        [32]byte // H(Open) of the session
	From, To    int64    // UTC ms
	SetW        int64    // W; negative: discharge
	Kind        ControlKind
	Instruction [32]byte // hash of the operator's signed instruction, on the ledger
}

// ControlSize is the padded length of every Control, so that its size tells nothing.
const ControlSize = 256

const (
	controlBody  = 32 + 8 + 8 + 4 + 1 + 32
	netStateSize = 4 + 8 + 8 + 4*4 + 1
	priceHead    = 2 + 1 + 8 + 2 + 1
	maxTime      = 253_402_300_800_000 // year 10000
)

func (p *Price) span() (from, to int64) {
	return p.From, p.From + int64(len(p.Prices))*int64(p.StepS)*1000
}
func (n *NetState) span() (from, to int64) { return n.From, n.To }
func (c *Control) span() (from, to int64)  { return c.From, c.To }

// Encode returns cur:u16 kind:u8 from:u64 step_s:u16 n:u8 n x i32 tariff[32].
func (p *Price) Encode() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, priceHead+4*len(p.Prices)+32), p.Currency)
	b = binary.BigEndian.AppendUint64(append(b, byte(p.Kind)), uint64(p.From))
	b = binary.BigEndian.AppendUint16(b, uint16(p.StepS))
	b = append(b, byte(len(p.Prices)))
	for _, x := range p.Prices {
		b = binary.BigEndian.AppendUint32(b, uint32(int32(x)))
	}
	return append(b, p.Tariff[:]...), nil
}

func (p *Price) check() error {
	switch {
	case p.Currency == 0 || p.Kind > CriticalPeak:
		return fmt.Errorf("%w: price without currency or of unknown kind", ErrBody)
	case p.From < 0 || p.From > maxTime || p.StepS < 1 || p.StepS > math.MaxUint16:
		return fmt.Errorf("%w: price times", ErrBody)
	case len(p.Prices) < 1 || len(p.Prices) > MaxSteps:
		return fmt.Errorf("%w: %d prices, want 1 to %d", ErrBody, len(p.Prices), MaxSteps)
	}
	for _, x := range p.Prices {
		if !is32(x) {
			return fmt.Errorf("%w: price beyond 32 bits", ErrBody)
		}
	}
	return nil
}

// DecodePrice reads exactly what Encode writes.
func DecodePrice(b []byte) (*Price, error) {
	if len(b) < priceHead || len(b) != priceHead+4*int(b[priceHead-1])+32 {
		return nil, fmt.Errorf("%w: price of %d bytes", ErrBody, len(b))
	}
	p := &Price{Currency: binary.BigEndian.Uint16(b), Kind: PriceKind(b[2]), From: int64(binary.BigEndian.Uint64(b[3:])),
		StepS: int(binary.BigEndian.Uint16(b[11:]))}
	rest := b[priceHead:]
	for range int(b[priceHead-1]) {
		p.Prices = append(p.Prices, int64(int32(binary.BigEndian.Uint32(rest))))
		rest = rest[4:]
	}
	p.Tariff = [32]byte(rest)
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

// Encode returns zone:u32 from:u64 to:u64 importMaxW exportMaxW mV mHz:i32 state:u8.
func (n *NetState) Encode() ([]byte, error) {
	if err := n.check(); err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, netStateSize), n.Zone)
	b = binary.BigEndian.AppendUint64(b, uint64(n.From))
	b = binary.BigEndian.AppendUint64(b, uint64(n.To))
	for _, v := range []int64{n.ImportMaxW, n.ExportMaxW, n.MilliVolt, n.MilliHertz} {
		b = binary.BigEndian.AppendUint32(b, uint32(int32(v)))
	}
	return append(b, byte(n.State)), nil
}

func (n *NetState) check() error {
	switch {
	case n.From < 0 || n.To <= n.From || n.To > maxTime:
		return fmt.Errorf("%w: times of the network state", ErrBody)
	case n.State > Emergency:
		return fmt.Errorf("%w: unknown network state", ErrBody)
	}
	for _, v := range []int64{n.ImportMaxW, n.ExportMaxW, n.MilliVolt, n.MilliHertz} {
		if v < 0 || v > math.MaxInt32 {
			return fmt.Errorf("%w: limit or measurement out of range", ErrBody)
		}
	}
	return nil
}

// DecodeNetState reads exactly what Encode writes.
func DecodeNetState(b []byte) (*NetState, error) {
	if len(b) != netStateSize {
		return nil, fmt.Errorf("%w: network state of %d bytes, want %d", ErrBody, len(b), netStateSize)
	}
	i := func(at int) int64 { return int64(int32(binary.BigEndian.Uint32(b[at:]))) }
	n := &NetState{Zone: binary.BigEndian.Uint32(b), From: int64(binary.BigEndian.Uint64(b[4:])),
		To: int64(binary.BigEndian.Uint64(b[12:])), ImportMaxW: i(20), ExportMaxW: i(24), MilliVolt: i(28),
		MilliHertz: i(32), State: State(b[36])}
	if err := n.check(); err != nil {
		return nil, err
	}
	return n, nil
}

// Encode returns H(Open)[32] from:u64 to:u64 setW:i32 kind:u8 instruction[32], zero bytes up to ControlSize.
func (c *Control) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, ControlSize), c.Open[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.From))
	b = binary.BigEndian.AppendUint64(b, uint64(c.To))
	b = binary.BigEndian.AppendUint32(b, uint32(int32(c.SetW)))
	b = append(append(b, byte(c.Kind)), c.Instruction[:]...)
	return b[:ControlSize], nil
}

func (c *Control) check() error {
	wrong := c.Kind == Discharge && c.SetW >= 0 || (c.Kind == Stop || c.Kind == Release) && c.SetW != 0
	switch {
	case c.From < 0 || c.To <= c.From || c.To > maxTime:
		return fmt.Errorf("%w: times of the control", ErrBody)
	case c.Kind > Release || !is32(c.SetW) || wrong:
		return fmt.Errorf("%w: set point does not fit the control's kind", ErrBody)
	}
	return nil
}

// DecodeControl reads exactly what Encode writes; padding must be zero.
func DecodeControl(b []byte) (*Control, error) {
	if len(b) != ControlSize {
		return nil, fmt.Errorf("%w: control of %d bytes, want %d", ErrBody, len(b), ControlSize)
	}
	for _, x := range b[controlBody:] {
		if x != 0 {
			return nil, fmt.Errorf("%w: padding is not zero", ErrBody)
		}
	}
	c := &Control{Open: [32]byte(b), From: int64(binary.BigEndian.Uint64(b[32:])), To: int64(binary.BigEndian.Uint64(b[40:])),
		SetW: int64(int32(binary.BigEndian.Uint32(b[48:]))), Kind: ControlKind(b[52]), Instruction: [32]byte(b[53:])}
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}

func is32(v int64) bool { return v >= math.MinInt32 && v <= math.MaxInt32 }
