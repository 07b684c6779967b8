package ev

import (
	"errors"
	"fmt"
)

// Energy is what a session moved, by billed source, in mWh. In() and Out are signed by the meter.
type Energy struct {
	Grid, Res int64 // into the car
	Out       int64 // out of the car
}

// In returns all energy into the car.
func (e Energy) In() int64 { return e.Grid + e.Res }

// Bill is the result of a session: the same on both sides, for it depends on signed facts and registers alone.
type Bill struct {
	Flows  []Flow
	Energy Energy
	Shares Shares
	Unsure bool // signed total and registers differ, or meters disagreed: the split is a guess, the total is not
}

// NewBill makes the bill of one session: scale, attribute, price. rs are the intervals of Align, signedIn, signedOut
// and stepMWh come from ocmf.Check, lots is the home battery at the begin and is changed to that at the end.
//
// Signed energy that the EVSE's registers missed is added to the last interval at the lowest price of the deal. The
// energy of the bill is exactly the signed one. Errors are those of ScaleEV, Attribute and Split. For a FlatFee deal
// the signed energies are what the station claims; they move no money.
func NewBill(rs []Registers, signedIn, signedOut, stepMWh int64, d Deal, lots *Lots) (Bill, error) {
	if len(rs) == 0 {
		return Bill{}, fmt.Errorf("%w: a bill needs at least one interval", ErrRange)
	}
	scaled, gap, err := ScaleEV(rs, signedIn, signedOut, stepMWh)
	if err != nil {
		return Bill{}, err
	}
	b := Bill{Unsure: gap.Unsure}
	for _, r := range scaled {
		f, err := Attribute(r, d.Terms.Policy, lots)
		if err != nil {
			return Bill{}, fmt.Errorf("attribute the interval at %d: %w", r.From, err)
		}
		b.Flows = append(b.Flows, f)
	}
	if err := d.addGap(&b.Flows[len(b.Flows)-1], gap); err != nil {
		return Bill{}, err
	}
	for _, f := range b.Flows {
		b.Energy.Grid += f.Grid
		b.Energy.Res += f.Res
		b.Energy.Out += f.Home + f.Export
		b.Unsure = b.Unsure || f.Unsure
	}
	b.Shares, err = Split(b.Flows, d)
	return b, err
}

// addGap puts unexplained energy where it costs the payer least. Flow.By keeps what the registers showed.
func (d Deal) addGap(f *Flow, gap Gap) error {
	grid, export, err := d.gridPrices(f.From)
	if err != nil {
		return fmt.Errorf("price the interval at %d: %w", f.From, err)
	}
	if d.Res < grid {
		f.Res += gap.In
	} else {
		f.Grid += gap.In
	}
	if d.Out < export {
		f.Home += gap.Out
	} else {
		f.Export += gap.Out
	}
	f.Unsure = f.Unsure || gap.Unsure
	return nil
}

// ErrShares says that amounts do not follow from energies and deal: do not sign them.
var ErrShares = errors.New("ev: amounts do not follow from energy and prices")

// CheckShares is the driver's check of a record: do the shares follow from the energies and the deal? The record does
// not say how much discharge stayed in the house; the shares pass if some split of Out explains them, so the driver
// gets at least the lower of the two prices. A deal with calendar prices cannot be checked from sums: check with Split.
//
// band and locked cap the amounts as in Shares.Cap.
func CheckShares(e Energy, s Shares, d Deal, band, locked int64) error {
	if d.Terms.Price == CalendarPrice {
		return fmt.Errorf("%w: calendar prices are checked by interval", ErrTerms)
	}
	if e.Grid < 0 || e.Res < 0 || e.Out < 0 || e.Out > maxMWh {
		return fmt.Errorf("%w: energy of the record", ErrRange)
	}
	var err error
	at := func(home int64) (got Shares) {
		f := Flow{From: 0, To: 1, Grid: e.Grid, Res: e.Res, Home: home, Export: e.Out - home}
		if !d.Direct && d.Out < d.Terms.PExport {
			f.Home, f.Export = f.Export, f.Home
		}
		got, e := Split([]Flow{f}, d)
		err = errors.Join(err, e)
		return got.Cap(band, locked)
	}
	// With home (or what is dearer for the host) both balances only rise: what the host has to pay, and what is left to
	// its utility. So the first home that reaches both is the only candidate.
	reaches := func(home int64) bool {
		x := at(home)
		return x.HostOwes-x.Host >= s.HostOwes-s.Host && x.Grid >= s.Grid
	}
	home, high := int64(0), e.Out
	for home < high {
		if middle := home + (high-home)/2; reaches(middle) {
			high = middle
		} else {
			home = middle + 1
		}
	}
	if got := at(home); err != nil {
		return err
	} else if got != s {
		return fmt.Errorf("%w: want a total of %d, got %d", ErrShares, got.Total, s.Total)
	}
	return nil
}
