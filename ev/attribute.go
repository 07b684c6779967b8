package ev

import (
	"errors"
	"fmt"
)

// Registers is what each meter of a home counted in the half-open interval [From, To), in mWh, all >= 0.
type Registers struct {
	From, To        int64 // UTC ms
	PV              int64 // from the roof
	Import, Export  int64 // at the grid meter
	BattIn, BattOut int64 // home battery charging, discharging; netted by Attribute
	EVIn, EVOut     int64 // car charging, discharging: one of them is zero
	Unsure          bool  // a mark had no sample near it
}

// Source is where energy came from.
type Source uint8

// The sources, in the order in which sinks draw on them.
const (
	FromRES      Source = iota // the roof
	FromEV                     // the car's battery
	FromBattRES                // the home battery, charged from the roof
	FromBattGrid               // the home battery, charged from anything else
	FromGrid                   // the grid meter
	FromUnknown                // meters disagree; priced as grid
	sources
)

// Sink is where energy went.
type Sink uint8

// The sinks.
const (
	ToExport Sink = iota
	ToEV
	ToHome
	ToBattery
	sinks
)

// Flow is one attributed interval, in mWh. Res + Grid is what the car took, Home + Export what it gave.
type Flow struct {
	From, To int64
	Res      int64 // roof, or battery charged from the roof, to the car
	Grid     int64 // everything else to the car
	Home     int64 // car to home or home battery
	Export   int64 // car to the grid
	By       [sources][sinks]int64
	Unsure   bool // registers disagreed: the split, not the total, is a guess
}

// ErrReversal says that the car charged and discharged in one interval: cut it where the direction changed (Align does).
var ErrReversal = errors.New("ev: car charged and discharged in one interval")

// Attribute says which source fed which sink in one interval, exactly: row and column sums of Flow.By equal the
// registers, whatever they are. lots is the memory of what filled the home battery and is updated; nil means that
// nothing is known, so battery energy counts as grid.
//
// Export is filled first and never from the grid; then car, home and battery as p says. It returns ErrRange for a
// negative or absurd register and ErrReversal; lots is unchanged then. Source: doc/design.md, attribution.
func Attribute(r Registers, p Policy, lots *Lots) (Flow, error) {
	if err := r.check(); err != nil {
		return Flow{}, err
	}
	if p > ProRata {
		return Flow{}, fmt.Errorf("%w: unknown policy %d", ErrTerms, p)
	}
	if lots == nil {
		lots = &Lots{}
	}
	battIn, battOut := max(0, r.BattIn-r.BattOut), max(0, r.BattOut-r.BattIn)
	home := r.PV + r.Import + battOut + r.EVOut - r.Export - battIn - r.EVIn
	f := Flow{From: r.From, To: r.To, Unsure: r.Unsure || home < 0}
	s := supply{flow: &f, parts: parts(r, battOut, max(0, -home), lots)}
	home = max(0, home)

	s.export(r.Export)
	switch p {
	case EVFirst:
		s.fill(ToEV, r.EVIn)
		s.fill(ToHome, home)
	case HomeFirst:
		s.fill(ToHome, home)
		s.fill(ToEV, r.EVIn)
	case ProRata:
		s.share(r.EVIn, home)
	}
	s.fill(ToBattery, battIn)

	lots.fill(f.By[FromRES][ToBattery], true)
	lots.fill(battIn-f.By[FromRES][ToBattery], false)
	lots.shrink()
	f.sum()
	return f, nil
}

func (r Registers) check() error {
	if r.From >= r.To {
		return fmt.Errorf("%w: interval [%d, %d)", ErrRange, r.From, r.To)
	}
	for _, v := range []int64{r.PV, r.Import, r.Export, r.BattIn, r.BattOut, r.EVIn, r.EVOut} {
		if v < 0 || v > maxMWh {
			return fmt.Errorf("%w: register of %d mWh in one interval", ErrRange, v)
		}
	}
	if r.EVIn > 0 && r.EVOut > 0 {
		return ErrReversal
	}
	return nil
}

// part is some energy of one source that is not used yet.
type part struct {
	from   Source
	energy int64
}

// parts lists the interval's supply in drawing order and takes the battery's share out of lots.
func parts(r Registers, battOut, unknown int64, lots *Lots) []part {
	ps := make([]part, 0, 8)
	ps = append(ps, part{FromRES, r.PV}, part{FromEV, r.EVOut})
	ps = lots.draw(ps, battOut)
	return append(ps, part{FromGrid, r.Import}, part{FromUnknown, unknown})
}

// supply hands parts out to sinks and books every transfer in flow.
type supply struct {
	flow  *Flow
	parts []part
}

func (s *supply) take(i int, to Sink, as Source, energy int64) {
	s.parts[i].energy -= energy
	s.flow.By[as][to] += energy
}

// fill draws need from the parts in order.
func (s *supply) fill(to Sink, need int64) {
	for i := range s.parts {
		n := min(need, s.parts[i].energy)
		s.take(i, to, s.parts[i].from, n)
		need -= n
	}
}

// export draws like fill, but books grid energy as unknown: nobody is paid for sending the grid's own energy back.
func (s *supply) export(need int64) {
	for i := range s.parts {
		n := min(need, s.parts[i].energy)
		as := s.parts[i].from
		if as == FromGrid {
			as = FromUnknown
		}
		s.take(i, ToExport, as, n)
		s.flow.Unsure = s.flow.Unsure || as == FromUnknown && n > 0
		need -= n
	}
}

// share gives car and home the same mix: of the parts c..c+n used so far the car has floor((c+n)E/(E+H)), so the
// margins hold without a rounding step.
func (s *supply) share(ev, home int64) {
	need := ev + home
	if need == 0 {
		return
	}
	var c int64
	for i := range s.parts {
		n := min(need-c, s.parts[i].energy)
		toEV := mulDiv(c+n, ev, need) - mulDiv(c, ev, need)
		s.take(i, ToEV, s.parts[i].from, toEV)
		s.take(i, ToHome, s.parts[i].from, n-toEV)
		c += n
	}
}

// sum fills the four billed energies from By.
func (f *Flow) sum() {
	f.Res = f.By[FromRES][ToEV] + f.By[FromBattRES][ToEV]
	f.Grid = f.By[FromBattGrid][ToEV] + f.By[FromGrid][ToEV] + f.By[FromUnknown][ToEV] + f.By[FromEV][ToEV]
	f.Home = f.By[FromEV][ToHome] + f.By[FromEV][ToBattery]
	f.Export = f.By[FromEV][ToExport]
}

// Lot is energy in the home battery that arrived together.
type Lot struct {
	Energy int64 // mWh
	RES    bool  // from the roof; false for everything else
}

// Lots is what the home battery holds, oldest first. The zero value is an empty battery of unknown size.
type Lots struct {
	Capacity int64 // usable mWh; zero means unknown: lots then hold up to a GWh
	Held     []Lot
}

// maxLots bounds the memory of a battery that flutters between roof and grid.
const maxLots = 1024

// Clone returns an independent copy: attribution of a session may be repeated from its start.
func (l *Lots) Clone() *Lots {
	return &Lots{Capacity: l.Capacity, Held: append([]Lot(nil), l.Held...)}
}

// Total returns the energy of all lots.
func (l *Lots) Total() (sum int64) {
	for _, x := range l.Held {
		sum += x.Energy
	}
	return sum
}

// draw takes energy out of the oldest lots and appends the parts; what no lot explains counts as grid.
func (l *Lots) draw(ps []part, energy int64) []part {
	for energy > 0 && len(l.Held) > 0 {
		n := min(energy, l.Held[0].Energy)
		from := FromBattGrid
		if l.Held[0].RES {
			from = FromBattRES
		}
		ps = append(ps, part{from, n})
		energy -= n
		l.drop(n)
	}
	if energy > 0 {
		ps = append(ps, part{FromBattGrid, energy})
	}
	return ps
}

// drop removes energy, at most one lot's worth, from the oldest lot.
func (l *Lots) drop(energy int64) {
	if l.Held[0].Energy -= energy; l.Held[0].Energy == 0 {
		l.Held = l.Held[1:]
	}
}

func (l *Lots) fill(energy int64, res bool) {
	if energy == 0 {
		return
	}
	if n := len(l.Held); n > 0 && l.Held[n-1].RES == res {
		l.Held[n-1].Energy += energy
		return
	}
	l.Held = append(l.Held, Lot{energy, res})
	if len(l.Held) > maxLots {
		// The two oldest become one grid lot: in doubt energy is not sold as solar.
		l.Held[1] = Lot{Energy: l.Held[0].Energy + l.Held[1].Energy}
		l.Held = l.Held[1:]
	}
}

// shrink takes losses off the oldest lots, so that they never claim more than the battery can hold.
func (l *Lots) shrink() {
	capacity := l.Capacity
	if capacity <= 0 {
		capacity = maxMWh
	}
	for over := l.Total() - capacity; over > 0; {
		n := min(over, l.Held[0].Energy)
		over -= n
		l.drop(n)
	}
}
