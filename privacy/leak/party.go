package leak

import (
	"math"
	"time"
)

// Party is somebody who may learn about a home.
type Party byte

// Parties of a home's day.
const (
	Utility      Party = 1 // the home's own
	HeadEnd      Party = 2
	Carrier      Party = 3 // the substation
	Zone         Party = 4 // the grid operator and everybody who reads a zone's sums
	OneServer    Party = 5 // of a private sum
	BothServers  Party = 6 // of a private sum, together
	DayEscrow    Party = 7
	EVAggregator Party = 8
	GuestWallet  Party = 9
	GuestUtility Party = 10
	Verifiers    Party = 11
	Relays       Party = 12
	Keepers      Party = 13
	LineWatcher  Party = 14 // a stranger on the home's line
	CaseOpeners  Party = 15
	lastParty          = CaseOpeners
)

// String names the party as the page does.
func (p Party) String() string {
	names := [...]string{"", "your utility", "its head-end", "the substation", "grid operator and everybody in the zone", "one server of the neighbourhood's sum",
		"both servers of the sum together", "the escrow", "the EV aggregator", "the guests at your wallbox", "the guests' utilities", "verifiers of the ledger",
		"relays, each alone", "substations that keep mail", "a stranger on your line", "three openers, in a case"}
	if p >= Utility && p <= lastParty {
		return names[p]
	}
	return "unknown party"
}

// Basis is what a figure rests on.
type Basis byte

// Bases of figures.
const (
	Coded    Basis = 1 // the length of a code for what the party reads, see Curve.Bits
	Fields   Basis = 2 // the values that the fields of the day's messages can take
	Entropy  Basis = 3 // the entropy of a sum, shared by its homes, see SumBits
	NoField  Basis = 4 // no message to it has a field for it, see Table
	Tested   Basis = 5 // shown by a test to be nothing
	NoFigure Basis = 6 // nobody can give one
)

// String names the basis as the page does.
func (b Basis) String() string {
	names := [...]string{"", "a code's length", "its fields' values", "the sum's entropy over its homes", "no field for it", "a test", "no figure"}
	if b >= Coded && b <= NoFigure {
		return names[b]
	}
	return "unknown basis"
}

// Figure is how much a party learnt of one subject in a day.
type Figure struct {
	Basis  Basis
	AtMost float64 // bits; without meaning for NoFigure
	Rests  string  // what it rests on, or why there is none
	Test   string  // the test that shows it, of Tested only
	// Modelled says that Model is an estimate in bits, not above AtMost, by the model
	// that Rests names.
	Modelled bool
	Model    float64
}

// Told is what a party learnt of a home in a day. What it can conclude of either
// subject from both is at most the sum of the two figures: a car's energy is in the
// meter's curve too, and a session's price may depend on the roof. What names the
// home is not in them; it is the same every day.
type Told struct {
	Party          Party
	Load, Charging Figure
}

// Sum is a private sum that a home takes part in.
type Sum struct {
	Homes int   // fewest of a result
	Most  int64 // steps that a reading may have
	Times int   // results of the day at most
}

// SumPeriod is the interval of a private sum.
const SumPeriod = 15 * time.Minute

// Home is what the figures of a day are computed from: the home's own data, which
// stay there.
type Home struct {
	Left   View          // what left, from the journal
	Curves []Curve       // the registers
	Period time.Duration // at which they are reported; 0 where no reading may leave
	Sums   []Sum
	// Masked is what the meter's curve tells by the model of the battery's mask, with
	// what it exposed, in bits of the day; it counts where HasMask is set.
	HasMask bool
	Masked  float64
	// Covered says that the home's line carries the same whether it says anything.
	Covered bool
}

// Parties gives a figure, or says that there is none, for each party, in the order
// of the constants.
func (h Home) Parties() []Told {
	sum := h.summed()
	both := Figure{Basis: NoField, Rests: "it takes part in no sum"}
	if len(h.Sums) > 0 {
		both = Figure{Basis: Coded, AtMost: h.curve(SumPeriod), Rests: "their shares add up to your readings, under the name of one day"}
	}
	line := Figure{Basis: NoFigure, Rests: "the network has no cover traffic: who talks when can be seen"}
	if h.Covered {
		line = Figure{Basis: Tested, Rests: "the line carries the same whether you are at home or not", Test: "TestAStrangerOnTheLineCannotTellABusyHomeFromAnIdleOne"}
	}
	relays := line
	if h.Covered {
		relays = Figure{Basis: Tested, Rests: "packets of one size, sealed for each relay", Test: "TestBytesAreUniformAtEveryHopWhateverThePacketIs"}
	}
	sessions := h.sent(Settlement, Aggregator)
	return []Told{
		{Utility, h.metered(), h.fields(Charging, OwnUtility)},
		{HeadEnd, h.metered(), none},
		{Carrier, h.fields(Load, Substation), h.timing()},
		{Zone, sum, none},
		{OneServer, sum, none},
		{BothServers, both, none},
		{DayEscrow, h.fields(Load, Escrow), h.fields(Charging, Escrow)},
		{EVAggregator, h.fields(Load, Aggregator), h.fields(Charging, Aggregator)},
		{GuestWallet, h.fields(Load, Guest), h.fields(Charging, Guest)},
		{GuestUtility, none, perSession(BillLine, OwnUtility, sessions)},
		{Verifiers, none, perSession(LedgerEntry, Ledger, sessions)},
		{Relays, relays, h.timing()},
		{Keepers, h.fields(Load, Keeper), h.fields(Charging, Keeper)},
		{LineWatcher, line, h.timing()},
		{CaseOpeners, none, Figure{Basis: NoFigure, Rests: "a case opens one session in full; no message of it is in this journal"}},
	}
}

var none = Figure{Basis: NoField, Rests: "no message to it has a field for it"}

// curve is what the registers tell when they are read at a period.
func (h Home) curve(period time.Duration) (bits float64) {
	for _, c := range h.Curves {
		bits += c.Bits(period)
	}
	return bits
}

// metered is what the meter's reports tell, with faults and single readings.
func (h Home) metered() Figure {
	f := Figure{Basis: Fields, Rests: "no reading leaves without an order; faults only"}
	if h.Period > 0 {
		f = Figure{Basis: Coded, AtMost: h.curve(h.Period), Rests: "the registers' energies of each report's slots, faults and single readings"}
		if h.HasMask {
			f.Modelled, f.Model, f.Rests = true, min(h.Masked, f.AtMost), f.Rests+"; by the model of the mask, house without car and roof"
		}
	}
	b := h.read(Load, OwnUtility, MeterReport)
	f.AtMost, f.Model = f.AtMost+b, f.Model+b
	return f
}

// summed is what the published sums tell of this home.
func (h Home) summed() Figure {
	if len(h.Sums) == 0 {
		return Figure{Basis: NoField, Rests: "it takes part in no sum"}
	}
	f := Figure{Basis: Entropy, Modelled: true, Rests: "mean over the homes of a sum; by model: homes that vary alike, a sum like a bell"}
	for _, s := range h.Sums {
		f.AtMost += SumBits(s.Homes, s.Most) * float64(s.Times)
		f.Model += AlikeBits(s.Homes) * float64(s.Times)
	}
	if own := h.curve(SumPeriod); own < f.AtMost {
		f.Basis, f.AtMost, f.Rests = Coded, own, "no more than your readings themselves; by model: homes that vary alike, a sum like a bell"
	}
	f.Model = min(f.Model, f.AtMost)
	return f
}

// fields is what the day's messages to a role tell by their fields.
func (h Home) fields(s Subject, to Role) Figure {
	bits := h.read(s, to, 0)
	switch {
	case bits == 0:
		return none
	case bits == counted(0, 1):
		return Figure{Basis: Fields, AtMost: bits, Rests: "that no such message came today"}
	}
	return Figure{Basis: Fields, AtMost: bits, Rests: "every value that the fields of today's messages can take, and how many came"}
}

// read is what the day's messages to a role tell but for one kind; 0 where the
// table has no field for it.
func (h Home) read(s Subject, to Role, but Message) (bits float64) {
	tells := func(r Row) bool { return r.To == to && r.Message != but && r.About(s) > 0 }
	kinds, n := 0, 0
	for _, r := range table {
		if tells(r) {
			kinds++
		}
	}
	for _, l := range h.Left.Lines {
		if tells(l.Row) {
			bits, n = bits+l.Row.About(s)*float64(l.Messages), n+l.Messages
		}
	}
	if kinds == 0 {
		return 0
	}
	return bits + counted(n, kinds)
}

// counted is the length of a code for how many messages there are, and for which
// of so many kinds each is: none is told in one bit.
func counted(n, kinds int) float64 {
	return float64(2*octave(int64(n)+1)-1) + float64(n)*math.Log2(float64(kinds))
}

// perSession is what a message that others send tells of each session here.
func perSession(m Message, to Role, sessions int) Figure {
	row, _ := Find(m, to) // in the table, else it tells nothing
	f := Figure{Basis: Fields, AtMost: row.About(Charging)*float64(sessions) + counted(sessions, 1), Rests: "how many sessions there were, and the fields of what it is told of each; not where"}
	if sessions == 0 {
		f.Rests = "that no session was settled today"
	}
	return f
}

// timing is what it tells when a session's messages leave: they do not wait for
// the cover's turn.
func (h Home) timing() Figure {
	if !h.Covered {
		return Figure{Basis: NoFigure, Rests: "the network has no cover traffic: who talks when can be seen"}
	}
	n := 0
	for _, l := range h.Left.Lines {
		if l.Row.To == Guest || l.Row.To == Aggregator {
			n += l.Messages
		}
	}
	f := Figure{Basis: Fields, AtMost: math.Log2(second)*float64(n) + counted(n, 1), Rests: "the second at which each message of a session left"}
	if n == 0 {
		f.Rests = "that no message of a session left today"
	}
	return f
}

// sent counts a message of the day.
func (h Home) sent(m Message, to Role) int {
	for _, l := range h.Left.Lines {
		if l.Row.Message == m && l.Row.To == to {
			return l.Messages
		}
	}
	return 0
}
