// Package sched plans the charging of one car, and checks plans that others made.
//
// The plan is the cheapest one: cut each slot into segments of constant price (surplus of the roof at the feed-in price
// that is lost, then grid energy), fill the cheapest first until the need is met. The certificate of a plan is the price
// of its last segment: all cheaper segments are full, all dearer ones empty. Anybody can check that in one pass, so a
// plan computed elsewhere is used only if its certificate holds for the owner's own prices and limits.
//
// A car draws nothing or at least 6 A; Resolve of package ev applies that to each slot when its time comes. This plan
// ignores it, and is a lower bound of the cost.
//
// Energy is int64 mWh, prices are micro/kWh. The package is pure. Start with Make; check foreign plans with Check.
package sched

import (
	"errors"
	"fmt"
)

// Slot is one step of the horizon.
type Slot struct {
	MaxMWh     int64 // energy that limits and wiring allow in this slot
	SurplusMWh int64 // roof energy that would be exported otherwise
	FeedIn     int64 // what that energy would earn, micro/kWh
	Grid       int64 // price of grid energy, micro/kWh
}

// Share is the energy of one slot.
type Share struct {
	Res, Grid int64 // mWh
}

// Plan is the energy per slot and what proves it the cheapest.
type Plan struct {
	Shares []Share
	Lambda int64 // price of the dearest segment used, micro/kWh
	Short  int64 // mWh that do not fit before departure
}

// Limits of the input.
const (
	MaxSlots  = 2880 // 30 days of 15 minutes
	maxEnergy = 1_000_000_000_000
	maxPrice  = 1 << 31
)

// Errors.
var (
	// ErrInput says that slots or need are out of range.
	ErrInput = errors.New("sched: slots or need out of range")
	// ErrCertificate says that a plan is not the cheapest for these slots: do not use it.
	ErrCertificate = errors.New("sched: the plan is not the cheapest one")
)

// segment is a part of a slot's energy that has one price.
type segment struct{ energy, price int64 }

// segments returns the slot's two segments, the cheaper first. Surplus is always used before the grid, for both flow
// through one connection point. Where grid energy is cheaper than the lost feed-in, that would reward a car for taking
// both or nothing, so there the slot counts as one segment at its mean price, rounded up.
func (s *Slot) segments() (res, grid segment) {
	res = segment{min(s.SurplusMWh, s.MaxMWh), s.FeedIn}
	grid = segment{s.MaxMWh - res.energy, s.Grid}
	if s.FeedIn > s.Grid && res.energy > 0 && grid.energy > 0 {
		mean := s.Grid + mulDivUp(s.FeedIn-s.Grid, res.energy, s.MaxMWh)
		res.price, grid.price = mean, mean
	}
	return res, grid
}

// Make returns the cheapest plan for need mWh. Equal prices are used earlier slots first, and the roof before the grid.
func Make(slots []Slot, need int64) (Plan, error) {
	if err := check(slots, need); err != nil {
		return Plan{}, err
	}
	p := Plan{Shares: make([]Share, len(slots))}
	var small [2 * 96]segment // a day of quarter hours needs no allocation
	segs := small[:0]
	var capacity int64
	for i := range slots {
		res, grid := slots[i].segments()
		capacity += res.energy + grid.energy
		if res.energy > 0 {
			segs = append(segs, res)
		}
		if grid.energy > 0 {
			segs = append(segs, grid)
		}
	}
	p.Short = max(0, need-capacity)
	if len(segs) == 0 {
		return p, nil
	}
	left := need - p.Short
	price, below := lambda(segs, max(left, 1)) // a plan of nothing has the lowest price
	p.Lambda = price
	left -= below // for segments of exactly this price
	for i := range slots {
		res, grid := slots[i].segments()
		p.Shares[i] = Share{Res: res.take(price, &left), Grid: grid.take(price, &left)}
	}
	return p, nil
}

// take returns all of a segment cheaper than lambda, and of one at lambda what is left.
func (s segment) take(lambda int64, left *int64) int64 {
	switch {
	case s.price < lambda:
		return s.energy
	case s.price > lambda:
		return 0
	}
	n := min(s.energy, *left)
	*left -= n
	return n
}

func check(slots []Slot, need int64) error {
	if len(slots) == 0 || len(slots) > MaxSlots || need < 0 || need > maxEnergy {
		return fmt.Errorf("%w: %d slots, need %d mWh", ErrInput, len(slots), need)
	}
	for i, s := range slots {
		if s.MaxMWh < 0 || s.MaxMWh > maxEnergy/MaxSlots || s.SurplusMWh < 0 || s.SurplusMWh > maxEnergy ||
			s.FeedIn < -maxPrice || s.FeedIn > maxPrice || s.Grid < -maxPrice || s.Grid > maxPrice {
			return fmt.Errorf("%w: slot %d", ErrInput, i)
		}
	}
	return nil
}

// lambda returns the price at which the cheapest segments reach need, and the energy of all cheaper ones. It is the
// weighted selection of quickselect, which needs no order among what is cheaper or dearer. need is positive and at most
// the sum; segs is reordered.
func lambda(segs []segment, need int64) (price, cheaper int64) {
	for {
		pivot := median(segs[0].price, segs[len(segs)/2].price, segs[len(segs)-1].price)
		var below, equal int64
		lo, mid := 0, 0
		for i, x := range segs { // three-way partition: [0,lo) below, [lo,mid) equal, rest above
			switch {
			case x.price < pivot:
				below += x.energy
				segs[i], segs[mid] = segs[mid], segs[lo]
				segs[lo] = x
				lo, mid = lo+1, mid+1
			case x.price == pivot:
				equal += x.energy
				segs[i], segs[mid] = segs[mid], x
				mid++
			}
		}
		switch {
		case need <= below:
			segs = segs[:lo]
		case need <= below+equal:
			return pivot, cheaper + below
		default:
			need -= below + equal
			cheaper += below + equal
			segs = segs[mid:]
		}
	}
}

func median(a, b, c int64) int64 { return max(min(a, b), min(max(a, b), c)) }
