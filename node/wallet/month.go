package wallet

import (
	"encoding/hex"
	"time"

	"gridveil/node/ask"
	"gridveil/node/monthly"
)

// Month is the statement of a month ("2026-06", of the machine's time zone) of
// this driver's sessions; signed adds what the meters signed, by which a reader
// can tell the wallboxes apart.
func (w *Wallet) Month(month string, signed bool) (monthly.Statement, error) {
	s := monthly.Statement{Of: "driver", Name: w.env.Config.Name, Month: month}
	var err error
	if s.From, s.To, err = monthly.Span(month, time.Local); err != nil {
		return s, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []monthly.Session
	for _, t := range w.trips {
		x, ok := t.statement()
		if ok {
			x.Claims = w.purse.Claims(hex.EncodeToString(t.rec.ID[:]))
			if t.driver != nil {
				if p, ok := t.driver.Papers(); ok {
					x.Papers = monthly.PapersOf(w.env.Net, p, t.rec.Fees)
					x.Papers.Booked = t.booked()
				}
			}
			list = append(list, x)
		} else if begun := time.UnixMilli(t.rec.Begun); t.rec.Over && !begun.Before(s.From) && begun.Before(s.To) {
			s.Unbilled++
		}
	}
	return monthly.Make(s, list, signed), nil
}

// booked is the ledger's entry of the session, nil before it was compared.
func (t *trip) booked() *monthly.Booked {
	o := t.driver.Opened()
	proven, err := ask.ParseProven(t.rec.Shown)
	if o == nil || err != nil { // err: nothing is stored yet
		return nil
	}
	return &monthly.Booked{Salt: o.Salt[:], Entry: proven.Entry, EntryProof: string(proven.Proof)}
}

// statement is the trip as a statement shows it; ok is false for one that is
// refused or not signed yet.
func (t *trip) statement() (x monthly.Session, ok bool) {
	x = monthly.Session{ID: t.name(), Begin: time.UnixMilli(t.rec.Begun).UTC(), Case: t.kase()}
	if n := len(t.rec.Steps); n > 0 {
		x.End = time.UnixMilli(t.rec.Steps[n-1].At).UTC()
	}
	if t.rec.Refused {
		return x, false
	}
	if t.rec.Gift && t.driver != nil {
		e := t.driver.Last().Energy
		x.InMWh, x.OutMWh = e.In(), e.Out
		return x, true
	}
	rec, evidence, ok := t.kept()
	if !ok {
		return x, false
	}
	x.End = time.Unix(int64(rec.T1)*900, 0).UTC()
	x.InMWh, x.OutMWh = rec.Energy.In(), rec.Energy.Out
	x.Paid, x.Earned = rec.Amounts.Total(), rec.Amounts.Driver
	for _, p := range t.rec.Pool.Earned {
		x.Earned += p.Paid
	}
	if evidence != nil {
		x.MeterKey = hex.EncodeToString(evidence.MeterKey)
	}
	for _, r := range readings(evidence, t.code) {
		x.Readings = append(x.Readings, monthly.Reading{OCMF: r.Raw, OK: r.OK, Verdict: r.Verdict})
	}
	return x, true
}
