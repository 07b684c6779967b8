// Package signal is the way of prices, network states and controls through a
// node: how they are named and checked as registers of the mesh, how the
// aggregator seals a control to one session ([Sender]), and what a home makes of
// all that ([Book]).
//
// The mesh has already refused what is forged, of the wrong role or zone,
// replayed or expired. [Guard] adds, on every node, what the body alone tells:
// layout, bounds, times. A home's Book then judges whether an authentic signal is
// plausible (ev/signal), keeps the accepted ones durably, and keeps a refusal with
// its reason for the others. Nothing here can raise a limit of the house: a Book
// fills rows 2 and 4 of ev.Resolve, whose row 1 and 3 are the home's own.
//
// A home publishes nothing. Its refusals stay here, for its own page.
//
// Power is int64 W, import and charging positive; prices are millionths per kWh.
// Source: doc/design.md, signals.
package signal

import (
	"time"

	grid "gridveil/ev/signal"
	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
)

// Tariff numbers the household tariffs of one utility in register keys.
type Tariff uint16

// The tariffs of this version.
const (
	Flat     Tariff = 1
	DayNight Tariff = 2
)

const (
	criticalPeak = 1 << 16 // in a price's register key: a critical peak beside the day-ahead prices
	stateOfZone  = 1       // quantity of a network state's register key
)

// PriceKey names the register of a zone's prices: day-ahead prices and an
// announced critical peak stand beside each other, for the second must not
// replace the first.
func PriceKey(zone string, t Tariff, critical bool) uint64 {
	low := uint32(t)
	if critical {
		low |= criticalPeak
	}
	return gossip.ZoneKey(zone, low)
}

// NetStateKey names the register of a zone's network state.
func NetStateKey(zone string) uint64 { return gossip.ZoneKey(zone, stateOfZone) }

// ZoneNumber is a zone's name inside a network state's body.
func ZoneNumber(zone string) uint32 { return uint32(NetStateKey(zone) >> 32) }

// Unlimited is how a network state says that the grid sets no limit.
const Unlimited = 1 << 30

// Lives of the registers, from issue to expiry.
const (
	PriceLife    = 47 * time.Hour   // below what gossip allows: clocks differ
	NetStateLife = 29 * time.Minute // so; it is renewed every NetStatePeriod
	ControlLife  = 14 * time.Minute // so

	NetStatePeriod = 15 * time.Minute
)

// Reasons of the body check, beside those of package gossip.
const (
	ReasonBody   gossip.Reason = "body"   // no body of this kind
	ReasonBounds gossip.Reason = "bounds" // a price outside the network's bounds
	ReasonTimes  gossip.Reason = "times"  // over before it was issued, or longer than it can be meant
	ReasonZone   gossip.Reason = "zone"   // body and register speak of different zones
)

// maxSpan is the longest time that one price vector may cover; see gossip's life
// of a price register.
const maxSpan = 48 * time.Hour

// Check is the body check of a kind: it needs no knowledge of the node. A price
// must lie within the bounds of the network's policy.
func Check(k gossip.Kind, p member.Policy) func(gossip.Envelope) gossip.Verdict {
	switch k {
	case gossip.KindPrice:
		return func(e gossip.Envelope) gossip.Verdict { return checkPrice(e, p) }
	case gossip.KindNetState:
		return checkNetState
	case gossip.KindControl:
		return checkControl
	}
	return nil
}

// kinds that have a body check here.
var kinds = []gossip.Kind{gossip.KindPrice, gossip.KindNetState, gossip.KindControl}

// Guard sets the body checks of prices, network states and controls on a node, so
// that what cannot be meant is not even passed on. Call it before the host serves.
func Guard(h *mesh.Host) {
	for _, k := range kinds {
		h.Follow(k, Check(k, h.Bundle().Policy), nil)
	}
}

func ignore(r gossip.Reason) gossip.Verdict { return gossip.Verdict{Action: gossip.Ignore, Reason: r} }

func checkPrice(e gossip.Envelope, p member.Policy) gossip.Verdict {
	b, err := grid.DecodePrice(e.Body)
	if err != nil {
		return ignore(ReasonBody)
	}
	span := time.Duration(len(b.Prices)) * time.Duration(b.StepS) * time.Second
	if end := time.UnixMilli(b.From).Add(span); span > maxSpan || !end.After(e.Issued) {
		return ignore(ReasonTimes)
	}
	critical := uint32(e.Key)&criticalPeak != 0
	if critical != (b.Kind == grid.CriticalPeak) {
		return ignore(ReasonBody)
	}
	for _, x := range b.Prices {
		if x < p.PriceMinMicro || x > p.PriceMaxMicro {
			return ignore(ReasonBounds)
		}
	}
	return gossip.Verdict{}
}

// checkNetState judges the state of the network; what other quantities of a zone
// say (the task and result of a private sum) is judged by those who read them.
func checkNetState(e gossip.Envelope) gossip.Verdict {
	if uint32(e.Key) != stateOfZone {
		return gossip.Verdict{}
	}
	b, err := grid.DecodeNetState(e.Body)
	switch {
	case err != nil:
		return ignore(ReasonBody)
	case b.Zone != uint32(e.Key>>32):
		return ignore(ReasonZone)
	case b.To <= e.Issued.UnixMilli() || b.From > e.Expires.UnixMilli():
		return ignore(ReasonTimes)
	}
	return gossip.Verdict{}
}

// checkControl can only look at the size: the body is sealed to one session.
func checkControl(e gossip.Envelope) gossip.Verdict {
	if len(e.Body) != SealedSize {
		return ignore(ReasonBody)
	}
	return gossip.Verdict{}
}
