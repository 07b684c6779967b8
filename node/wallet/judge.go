package wallet

import (
	"fmt"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/privacy/session"
)

const currencyUnit = 1_000_000 // millionths

// split prices energies twice: all discharge used at the house, and all of it
// fed in. The truth lies between; a Tick does not say where.
func (t *trip) split(o session.Offer, e session.Energy) (home, export ev.Shares, err error) {
	d, err := t.deal(o)
	if err != nil {
		return home, export, err
	}
	f := ev.Flow{From: 0, To: 1, Grid: e.Grid, Res: e.Res, Home: e.Out}
	if home, err = ev.Split([]ev.Flow{f}, d); err != nil {
		return home, export, err
	}
	f.Home, f.Export = 0, e.Out
	export, err = ev.Split([]ev.Flow{f}, d)
	return home, export, err
}

// fair judges a Tick: its sum may not be above what its energies cost, and what
// the host owes by then is at least the lower of its two prices.
func (t *trip) fair(tick session.Tick) (owed int64, err error) {
	home, export, err := t.split(t.offer, tick.Energy)
	if err != nil {
		return 0, err
	}
	if tick.Cum > max(home.Total, export.Total) {
		return 0, fmt.Errorf("%w: the tick asks for %d millionths, the energy costs %d", session.ErrAmount, tick.Cum, max(home.Total, export.Total))
	}
	return min(home.HostOwes, export.HostOwes), nil
}

// audit checks a final record: the meter's signatures over this session's code,
// that the energies are those that it signed, and that the amounts follow.
func (t *trip) audit(o session.Offer, r session.Record, v *session.Evidence) (fee int64, err error) {
	if v == nil {
		return 0, fmt.Errorf("%w: the host showed no signed record", session.ErrEvidence)
	}
	key, err := ocmf.NewKey(v.MeterKey)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", session.ErrEvidence, err)
	}
	signed, err := ocmf.Check(v.Records, key, t.code)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", session.ErrEvidence, err)
	}
	if !signed.Bound || r.Energy.In() != signed.ImportMWh || r.Energy.Out != signed.ExportMWh {
		return 0, fmt.Errorf("%w: the record's energy is not what the meter signed for this session", session.ErrEvidence)
	}
	d, err := t.deal(o)
	if err != nil {
		return 0, err
	}
	home, _, err := t.split(o, r.Energy)
	if err != nil {
		return 0, err
	}
	a := r.Amounts
	s := ev.Shares{Host: a.Host, HostOwes: a.Owed, Driver: a.Driver, Grid: a.Grid, Fee: home.Fee, Total: a.Host + max(a.Grid, 0) + home.Fee}
	e := ev.Energy{Grid: r.Energy.Grid, Res: r.Energy.Res, Out: r.Energy.Out}
	if err := ev.CheckShares(e, s, d, t.cap(), t.rec.Locked); err != nil {
		return 0, fmt.Errorf("%w: %w", session.ErrAmount, err)
	}
	t.rec.Fee = home.Fee
	return home.Fee, nil
}

// cap is the most the session may cost now, millionths.
func (t *trip) cap() int64 {
	if t.driver != nil && t.driver.Fee() == (session.FeeTerms{}) && t.driver.Trust() > 0 {
		return int64(t.driver.Trust()) * currencyUnit
	}
	return int64(t.rec.Options.Band) * currencyUnit
}
