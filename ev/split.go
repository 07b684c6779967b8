package ev

import "fmt"

// Shares says who pays whom for one session, in millionths and whole minor units.
//
// Total + HostOwes + max(0, -Grid) = Host + Driver + Fee + max(0, Grid).
type Shares struct {
	Host     int64 // the host earns, as notes
	HostOwes int64 // the host pays the driver, out of notes locked before the discharge
	Driver   int64 // the driver earns, as notes: HostOwes plus what the host's utility pays in direct mode
	Grid     int64 // direct mode: the host's utility earns (+) or pays the driver (-); 0 when the host is reimbursed
	Fee      int64 // the aggregator earns
	Total    int64 // the driver's utility is charged: Host + max(0, Grid) + Fee
}

// Balanced reports whether money is conserved.
func (s Shares) Balanced() bool {
	return s.Total+s.HostOwes+max(0, -s.Grid) == s.Host+s.Driver+s.Fee+max(0, s.Grid)
}

// Cap returns the shares with what may not be billed left out: more than the band in total, and more than the notes that
// the host locked. The host bears the first, since its gateway should have paused the car; what is left over comes off
// its utility. The driver bears the second.
func (s Shares) Cap(band, locked int64) Shares {
	over := max(0, s.Total-band)
	host := min(over, s.Host)
	grid := min(over-host, max(0, s.Grid))
	owed := max(0, s.HostOwes-locked)
	s.Host, s.Grid, s.Total = s.Host-host, s.Grid-grid, s.Total-host-grid
	s.HostOwes, s.Driver = s.HostOwes-owed, s.Driver-owed
	return s
}

// Split prices the flows of one session. Each payee's sum is kept exactly and rounded down once. What the host earns
// and owes is netted first, and so is what the host's utility earns and owes in direct mode. The fee is the driver's
// in both directions. A FlatFee session pays Terms.Flat and the fee per session, whatever flowed.
//
// It returns an error wrapping ErrTerms for a deal that does not hold together, tariff.ErrNoPrice, or ErrRange. The
// order of the flows does not matter. Source: doc/design.md, who pays whom.
func Split(fs []Flow, d Deal) (Shares, error) {
	if err := d.Check(); err != nil {
		return Shares{}, err
	}
	claims, err := claim(fs, d)
	if err != nil {
		return Shares{}, err
	}
	host, hostOwes, err := net(claims.host, claims.hostOwes, d.Minor)
	if err != nil {
		return Shares{}, err
	}
	grid, gridOwes, err := net(claims.grid, claims.gridOwes, d.Minor)
	if err != nil {
		return Shares{}, err
	}
	fee, err := claims.fee.Floor(d.Minor)
	if err != nil {
		return Shares{}, err
	}
	return Shares{Host: host, HostOwes: hostOwes, Driver: hostOwes + gridOwes, Grid: grid - gridOwes, Fee: fee,
		Total: host + grid + fee}, nil
}

// claims are the exact sums of a session before netting and rounding.
type claims struct{ host, hostOwes, grid, gridOwes, fee Exact }

func claim(fs []Flow, d Deal) (c claims, err error) {
	add := func(to *Exact, energy, price int64) {
		if err == nil {
			*to, err = to.Add(energy, price)
		}
	}
	add(&c.fee, MWhPerKWh, d.Fee.PerSession)
	if d.Terms.Kind == FlatFee {
		add(&c.host, MWhPerKWh, d.Terms.Flat)
		return c, err
	}
	gridPayee, exportPayer := &c.host, &c.hostOwes
	if d.Direct {
		gridPayee, exportPayer = &c.grid, &c.gridOwes
	}
	for _, f := range fs {
		grid, export, perr := d.gridPrices(f.From)
		if perr != nil {
			return c, fmt.Errorf("price the interval at %d: %w", f.From, perr)
		}
		add(&c.host, f.Res, d.Res)
		add(gridPayee, f.Grid, grid)
		add(&c.hostOwes, f.Home, d.Out)
		add(exportPayer, f.Export, export)
		add(&c.fee, f.Res, d.Fee.PerKWhIn)
		add(&c.fee, f.Grid, d.Fee.PerKWhIn)
		add(&c.fee, f.Home, d.Fee.PerKWhOut)
		add(&c.fee, f.Export, d.Fee.PerKWhOut)
	}
	return c, err
}

// gridPrices returns the prices of grid import and export at an instant. A negative market price counts as zero: the
// claims of a session are never negative.
func (d Deal) gridPrices(at int64) (grid, export int64, err error) {
	if d.Calendar == nil {
		return d.Grid, d.Terms.PExport, nil
	}
	r, err := d.Calendar.PriceAt(at, 0)
	return max(0, r.Import), max(0, r.Export), err
}

// net returns what is left of earns and owes, one of them zero, rounded down.
func net(earns, owes Exact, minor int64) (plus, minus int64, err error) {
	if earns.Less(owes) {
		rest, err := owes.Minus(earns)
		if err != nil {
			return 0, 0, err
		}
		minus, err = rest.Floor(minor)
		return 0, minus, err
	}
	rest, err := earns.Minus(owes)
	if err != nil {
		return 0, 0, err
	}
	plus, err = rest.Floor(minor)
	return plus, 0, err
}
