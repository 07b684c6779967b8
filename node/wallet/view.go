package wallet

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/node/wallet/purse"
	"gridveil/node/web"
	"gridveil/privacy/session"
)

// Sessions lists this driver's sessions, newest first, for the page.
func (w *Wallet) Sessions() []web.SessionRow {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []web.SessionRow
	for _, t := range w.trips {
		out = append(out, t.row())
	}
	slices.SortFunc(out, func(a, b web.SessionRow) int { return b.Begin.Compare(a.Begin) })
	return out
}

// Session is one of Sessions in full.
func (w *Wallet) Session(id string) (web.Session, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.trips {
		if t.name() == id || hex.EncodeToString(t.rec.ID[:]) == id {
			s := t.full()
			s.Claims = w.purse.Claims(hex.EncodeToString(t.rec.ID[:]))
			return s, true
		}
	}
	return web.Session{}, false
}

// Notes is what the purse holds.
func (w *Wallet) Notes() purse.Standing { return w.purse.Standing() }

// HurryNotes collects, swaps and redeems without the random delays.
func (w *Wallet) HurryNotes() error { return w.purse.Hurry() }

// kept is the record that was signed, if there is one.
func (t *trip) kept() (r session.Record, v *session.Evidence, ok bool) {
	if t.driver == nil {
		return r, nil, false
	}
	shown, signed := t.driver.Kept()
	if signed == nil {
		return r, nil, false
	}
	s, err := session.ParseSettle(signed)
	if err != nil {
		return r, nil, false
	}
	if c, err := session.ParseClose(shown); err == nil {
		v = c.Evidence
	}
	s.Record.Amounts.Fee = t.rec.Fee
	return s.Record, v, true
}

func (t *trip) row() web.SessionRow {
	r := web.SessionRow{ID: t.name(), Begin: time.UnixMilli(t.rec.Begun).UTC(), State: t.rec.State, Case: t.kase(), Refused: ""}
	if t.rec.Refused {
		r.Refused = t.rec.Reason
	}
	e, total := session.Energy{}, int64(0)
	if rec, _, ok := t.kept(); ok {
		e, total = rec.Energy, rec.Amounts.Total()
	} else if t.driver != nil {
		e, total = t.driver.Last().Energy, t.driver.Last().Cum
	}
	r.KWhIn, r.KWhOut = float64(e.In())/ev.MWhPerKWh, float64(e.Out)/ev.MWhPerKWh
	r.Total = fmt.Sprintf("EUR %d.%02d", total/currencyUnit, total/10_000%100)
	return r
}

func (t *trip) kase() string {
	switch {
	case t.rec.Refused:
		return "refused"
	case t.rec.Gift:
		return "gift"
	}
	rec, _, ok := t.kept()
	switch {
	case !ok:
		return ""
	case rec.Energy.Out > 0:
		return "v2g"
	case rec.Energy.Grid == 0:
		return "pv"
	case rec.Energy.Res == 0:
		return "grid"
	}
	return "mixed"
}

func (t *trip) full() web.Session {
	s := web.Session{SessionRow: t.row()}
	for _, x := range t.rec.Steps {
		s.Steps = append(s.Steps, web.Event{At: time.UnixMilli(x.At).UTC(), Kind: "session", Text: x.Text})
	}
	if t.driver == nil {
		return s
	}
	ref := t.driver.Ref()
	s.Ref = hex.EncodeToString(ref[:])
	if d, err := t.deal(t.offer); err == nil {
		price := func(v int64) string { return "EUR " + euros(v) + " per kWh" }
		s.Terms = []web.Pair{{Name: "own solar energy", Value: price(d.Res)}, {Name: "energy from the grid", Value: price(d.Grid)},
			{Name: "aggregator's fee", Value: price(d.Fee.PerKWhIn)}, {Name: "at most", Value: fmt.Sprintf("EUR %d", t.rec.Options.Band)}}
	}
	rec, v, ok := t.kept()
	if !ok {
		s.Payees = t.rec.Pool.payees()
		return s
	}
	s.End = time.Unix(int64(rec.T1)*900, 0).UTC()
	a := rec.Amounts
	for _, p := range []web.Payee{{Who: "the host", For: "energy into the car", Paid: money(a.Host), How: "blind notes"}, {Who: "the aggregator", For: "fee", Paid: money(a.Fee), How: "on the ledger"},
		{Who: "you", For: "energy out of the car", Paid: money(a.Driver), How: "blind notes, redeemed at your utility"},
		{Who: "your utility bills you", For: "the whole session", Paid: money(a.Total()), How: "on your ordinary bill, without place or hour"}} {
		if p.Paid != money(0) {
			s.Payees = append(s.Payees, p)
		}
	}
	s.Payees = append(s.Payees, t.rec.Pool.payees()...)
	s.OCMF = readings(v, t.code)
	s.Parties = []web.Knows{
		{Party: "the host", Learned: "authorised, energy, amount", NotLearned: "who you are", Because: "your certificate travels sealed to the aggregator"},
		{Party: "the aggregator", Learned: "your utility, zone, energy, amount", NotLearned: "who you are, which house", Because: "you show a single-use pseudonym, the house a blind-signed pass"},
		{Party: "your utility", Learned: "day, energy, amount", NotLearned: "house, zone, hour", Because: "a bill line has no field for them"},
	}
	return s
}

func money(micro int64) string {
	return fmt.Sprintf("EUR %d.%02d", micro/currencyUnit, micro/10_000%100)
}

// readings are the meter's records with the verdict over each.
func readings(v *session.Evidence, code string) (out []web.Reading) {
	if v == nil {
		return nil
	}
	key, err := ocmf.NewKey(v.MeterKey)
	if err != nil {
		return nil
	}
	hash := key.Hash()
	for _, raw := range v.Records {
		r := web.Reading{Raw: string(raw), KeyPrint: hex.EncodeToString(hash[:8])}
		rec, err := ocmf.Parse(raw)
		if err == nil {
			err = rec.Verify(key)
		}
		switch {
		case err != nil:
			r.Verdict = err.Error()
		case rec.ID != code:
			r.Verdict = "signature verifies, but the record belongs to another session"
		default:
			r.Verdict, r.OK = "signature verifies, and the record names this session", true
		}
		out = append(out, r)
	}
	return out
}
