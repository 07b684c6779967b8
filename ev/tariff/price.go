package tariff

import (
	"sort"
	"time"
)

// Rate is what holds at one instant.
type Rate struct {
	Import, Export int64    // micro/kWh
	Register       Register // register of the contract that energy counts into
	AvailableW     int64    // contracted power in W; zero means no limit
	Critical       bool     // an overlay set the rates
	Left           int64    // mWh of import until the next block begins; MaxEnergy where no block ends
}

// PriceAt returns the rates at the instant at (UTC ms) when cumulative mWh were imported since the start of
// the billing period. It returns ErrNoPrice before Spec.From and where no layer covers the instant.
func (c *Calendar) PriceAt(at, cumulative int64) (Rate, error) {
	if at < c.spec.From || at >= maxTime {
		return Rate{}, ErrNoPrice
	}
	band, found := c.band(time.UnixMilli(at).In(c.loc))
	r := Rate{Import: band.Import, Export: band.Export, Register: band.Register, AvailableW: band.AvailableW, Left: MaxEnergy}
	if o, ok := c.overlay(at); ok {
		r.Import, r.Export, r.Critical = o.Import, o.Export, true
		return r, nil
	}
	if i, ok := c.step(at); ok {
		r.Import, r.Export = c.spec.Vector.Import[i], c.spec.Vector.Export[i]
		return r, nil
	}
	if !found {
		return Rate{}, ErrNoPrice
	}
	if len(c.spec.Blocks) > 0 {
		i := sort.Search(len(c.spec.Blocks)-1, func(i int) bool { return c.spec.Blocks[i].UpTo > cumulative })
		r.Import = c.spec.Blocks[i].Import
		if b := c.spec.Blocks[i]; b.UpTo != MaxEnergy {
			r.Left = b.UpTo - max(cumulative, 0)
		}
	}
	return r, nil
}

// Piece is a part of an interval's import that has one rate.
type Piece struct {
	Rate   Rate
	Energy int64 // mWh
}

// Pieces cuts energy mWh imported in the slot that begins at at where blocks end, so that each piece has one
// rate. A slot without blocks gives one piece, also for zero energy. The error is that of PriceAt.
func (c *Calendar) Pieces(at, cumulative, energy int64) ([]Piece, error) {
	var out []Piece
	for {
		r, err := c.PriceAt(at, cumulative)
		if err != nil {
			return nil, err
		}
		part := min(energy, r.Left)
		out = append(out, Piece{Rate: r, Energy: part})
		if energy -= part; energy <= 0 {
			return out, nil
		}
		cumulative += part
	}
}

// Next returns the first instant after at, in UTC ms, at which PriceAt may change for constant cumulative. It
// never lies beyond the next change of the local offset.
func (c *Calendar) Next(at int64) int64 {
	next := at + 86_400_000
	earlier := func(t int64) {
		if t > at && t < next {
			next = t
		}
	}
	earlier(c.spec.From)
	local := time.UnixMilli(at).In(c.loc)
	if _, end := local.ZoneBounds(); !end.IsZero() {
		earlier(end.UnixMilli())
	}
	edge := minutesADay
	if b, ok := c.band(local); ok {
		edge = b.ToMin
	}
	// Up to the next offset change, checked above, wall clock and UTC run in step.
	minute := local.Hour()*60 + local.Minute()
	earlier(at + int64(edge-minute)*60_000 - int64(local.Second())*1000 - int64(local.Nanosecond()/1e6))
	for _, o := range c.spec.Overlays {
		earlier(o.From)
		earlier(o.To)
	}
	if v := c.spec.Vector; v != nil {
		earlier(v.From)
		if i, ok := c.step(at); ok {
			earlier(v.From + int64(i+1)*int64(v.StepS)*1000)
		}
	}
	return next
}

func (c *Calendar) overlay(at int64) (Overlay, bool) {
	os := c.spec.Overlays
	i := sort.Search(len(os), func(i int) bool { return os[i].To > at })
	if i == len(os) || os[i].From > at {
		return Overlay{}, false
	}
	return os[i], true
}

func (c *Calendar) step(at int64) (int, bool) {
	v := c.spec.Vector
	if v == nil || at < v.From {
		return 0, false
	}
	i := (at - v.From) / (int64(v.StepS) * 1000)
	return int(i), i < int64(len(v.Import))
}
