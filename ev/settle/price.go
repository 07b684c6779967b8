package settle

import (
	"encoding/json"
	"errors"
	"fmt"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/privacy/session"
)

// ErrDirect says that an offer wants the host's utility to be paid directly;
// this aggregator settles by reimbursement only.
var ErrDirect = errors.New("direct payment of the host's utility is not offered; use an offer without it")

// Pricer judges finished sessions: the aggregator's fee and, where the meter's
// records are shown, whether energy and amounts follow from them.
type Pricer struct {
	Fees  ev.FeeSheet
	Minor int64 // millionths in a minor unit; zero means cents
}

// ReusedError says that the signed records were paid in another session.
type ReusedError struct{ Session [32]byte }

func (e *ReusedError) Error() string {
	return fmt.Sprintf("signed meter records were already paid in session %x", e.Session[:4])
}

// Is makes errors.Is(err, session.ErrEvidence) true.
func (e *ReusedError) Is(target error) bool { return target == session.ErrEvidence }

// maxRanges bounds what is kept per meter; older pages lie below the oldest
// range and are refused as a whole.
const maxRanges = 512

// Fee is what the aggregator takes for energy into and out of the car, rounded
// down once. A session without meter (flat) pays the fee per session only.
func (p Pricer) Fee(e session.Energy, metered bool) (int64, error) {
	x, err := ev.Exact{}.Add(ev.MWhPerKWh, p.Fees.PerSession)
	if err == nil && metered {
		x, err = x.Add(e.In(), p.Fees.PerKWhIn)
	}
	if err == nil && metered {
		x, err = x.Add(e.Out, p.Fees.PerKWhOut)
	}
	if err != nil {
		return 0, err
	}
	return x.Floor(p.minor())
}

func (p Pricer) minor() int64 {
	if p.Minor == 0 {
		return ev.MinorEUR
	}
	return p.Minor
}

// Price returns the fee of a session and, if its records are shown, what they
// prove. Held evidence is left to the two parties, who both signed the record;
// where only the host signed and the car sold energy, it must be shown. locked
// is the value behind what the host may owe, millionths.
func (p Pricer) Price(c session.Case, locked int64) (fee int64, proof *ocmf.Signed, err error) {
	if c.Offer.Mode&session.ModeDirect != 0 {
		return 0, nil, ErrDirect
	}
	if c.Offer.Currency != p.Fees.Currency {
		return 0, nil, fmt.Errorf("%w: currency %03d has no fee sheet", session.ErrMismatch, c.Offer.Currency)
	}
	if c.Evidence == nil && c.Record.Form == session.Cut && c.Record.Energy.Out > 0 {
		return 0, nil, fmt.Errorf("%w: the driver left a sale of energy unsigned, so it must be shown", session.ErrEvidence)
	}
	fee, err = p.Fee(c.Record.Energy, c.Offer.MeterCommit != [32]byte{})
	if err != nil || c.Evidence == nil {
		return fee, nil, err
	}
	proof, err = p.prove(c, fee, locked)
	return fee, proof, err
}

// prove checks shown evidence: terms, meter signatures, energies, amounts.
func (p Pricer) prove(c session.Case, fee, locked int64) (*ocmf.Signed, error) {
	terms, err := ev.DecodeTerms(c.Evidence.Terms)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrEvidence, err)
	}
	key, err := ocmf.NewKey(c.Evidence.MeterKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrEvidence, err)
	}
	proof, err := ocmf.Check(c.Evidence.Records, key, "")
	if err == nil {
		err = oneID(c.Evidence.Records)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrEvidence, err)
	}
	e := c.Record.Energy
	whole := e.In() == proof.ImportMWh && e.Out == proof.ExportMWh
	part := e.In() <= proof.ImportMWh && e.Out <= proof.ExportMWh
	if !whole && !(part && c.Record.Form == session.Cut) {
		return nil, fmt.Errorf("%w: the meter signed other energies than the record says", session.ErrEvidence)
	}
	deal := ev.Deal{Terms: terms, Grid: int64(c.Offer.PGrid), Res: int64(c.Offer.PRes), Out: int64(c.Offer.POut),
		Fee: p.Fees, Minor: p.minor()}
	if terms.Price == ev.CalendarPrice {
		return nil, fmt.Errorf("%w: calendar prices cannot be checked from the sums of a record", session.ErrEvidence)
	}
	a := c.Record.Amounts
	shares := ev.Shares{Host: a.Host, HostOwes: a.Owed, Driver: a.Driver, Grid: a.Grid, Fee: fee, Total: a.Host + max(a.Grid, 0) + fee}
	err = ev.CheckShares(ev.Energy{Grid: e.Grid, Res: e.Res, Out: e.Out}, shares, deal, int64(c.Band)*bandUnit, locked)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrAmount, err)
	}
	return &proof, nil
}

// bandUnit is one currency unit in millionths: bands are in units.
const bandUnit = 1_000_000

// price is session.SettlerConfig.Price: it adds that records are paid once.
func (d *Desk) price(c session.Case) (int64, error) {
	locked, err := d.lockedFor(c.Record.Open)
	if err != nil {
		return 0, err
	}
	fee, proof, err := d.cfg.Pricer.Price(c, locked)
	if err != nil || proof == nil {
		return fee, err
	}
	w, err := d.claimPages(c.Record.Open, proof)
	d.pages = w
	return fee, err
}

// lockedFor is the value of a session's lock, 0 if it has none. That its notes
// are redeemed is for session.Settler to see.
func (d *Desk) lockedFor(s [32]byte) (int64, error) {
	if d.cfg.Store.Get(under(keyLock, s[:])) == nil {
		return 0, nil
	}
	job, err := d.lockJob(s)
	if err != nil || job.Refused {
		return 0, err
	}
	l, err := session.ParseLock(job.Msg)
	return l.Value, err
}

// pageRange is a session's signed pages of one meter.
type pageRange struct {
	First, Last uint64
	Session     name
}

// claimPages refuses records whose pages overlap those of another session with
// the same meter key, and returns the write that remembers them.
func (d *Desk) claimPages(s [32]byte, proof *ocmf.Signed) ([]Write, error) {
	key := under(keyPages, proof.Key[:])
	var list []pageRange
	if b := d.cfg.Store.Get(key); b != nil {
		if err := json.Unmarshal(b, &list); err != nil {
			return nil, fmt.Errorf("stored pages: %w", err)
		}
	}
	mine := pageRange{proof.First.Number, proof.Last.Number, s}
	for _, r := range list {
		if mine.First <= r.Last && r.First <= mine.Last && r.Session != mine.Session {
			return nil, &ReusedError{r.Session}
		}
	}
	if len(list) >= maxRanges {
		if mine.Last < list[0].First {
			return nil, fmt.Errorf("%w: records are older than what is remembered of this meter", session.ErrEvidence)
		}
		list = list[1:]
	}
	return []Write{{Key: key, Value: encode(append(list, mine))}}, nil
}

// oneID refuses records of different sessions of one meter in one proof. The
// session's own code is not known here (session.Case does not carry it), so
// foreign records are kept out by their pages, which are paid once.
func oneID(records [][]byte) error {
	var id string
	for i, raw := range records {
		r, err := ocmf.Parse(raw)
		if err != nil {
			return err
		}
		if i > 0 && r.ID != id {
			return &ocmf.ErrOCMF{Reason: ocmf.ForeignID, Record: i}
		}
		id = r.ID
	}
	return nil
}
