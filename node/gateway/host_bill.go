package gateway

import (
	"errors"
	"fmt"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/node/store"
)

// intakeCloses is when the bill of an ended transaction is made; zero for never.
func (h *hosting) intakeCloses(v *visit) time.Time {
	if v.s.State != ev.EndedState || v.s.Finished {
		return time.Time{}
	}
	if v.closes.heard == v.rec.Heard && !v.closes.at.IsZero() {
		return v.closes.at
	}
	evs, err := h.events(v.rec.Station, v.s.TransactionID)
	if err != nil {
		h.env.Log.Warn("events of a session not read; tried again", "err", err)
		return h.env.Clock.Now().Add(again)
	}
	tx := ev.Fold(evs)
	whole := complete(tx.Signed)
	at := time.UnixMilli(tx.ClosesAt(whole, v.rec.Heard))
	if !whole {
		at = at.Add(h.lag())
	}
	if n := len(h.samples.marks); n > 0 && h.samples.marks[n-1].At.UnixMilli() < tx.EndedAt {
		// The meter of the house has not yet told the minute of the end.
		return earlier(h.env.Clock.Now().Add(again), time.UnixMilli(tx.EndReceived).Add(3*time.Minute+h.lag()))
	}
	v.closes.heard, v.closes.at = v.rec.Heard, at
	return at
}

// complete says whether signed begin and end are there.
func complete(records [][]byte) bool {
	var begin, end bool
	for _, raw := range records {
		r, err := ocmf.Parse(raw)
		if err != nil {
			continue
		}
		for _, x := range r.RD {
			begin = begin || x.TX == 'B'
			end = end || x.TX != 'B' && x.TX != 0 && x.TX != 'C'
		}
	}
	return begin && end
}

// closeIntake makes the bill of an ended transaction, or says why there is none.
func (h *hosting) closeIntake(v *visit, now time.Time) error {
	evs, err := h.events(v.rec.Station, v.s.TransactionID)
	if err != nil {
		return err
	}
	tx := ev.Fold(evs)
	v.readings = tx.Readings
	t := h.turn(v, now)
	v.rec.Outcome.Records = tx.Signed
	signed, problem := h.verdict(v, tx)
	lots := v.rec.Lots.Clone()
	bill, err := h.bill(v, tx, signed, lots)
	switch {
	case problem == "" && err != nil:
		problem = "the registers do not make a bill: " + err.Error()
	case problem == "" && bill.Energy == (ev.Energy{}):
		problem = "no energy flowed"
	case problem == "" && v.host != nil && h.belowTicks(v, bill):
		problem = "the meter signed less than was acknowledged while charging"
	}
	if err == nil {
		v.rec.Outcome.Bill = &bill
	}
	v.rec.Outcome.Problem = problem
	if v.s.Payer != ev.Guest {
		v.rec.Outcome.Problem = ""
	}
	h.conclude(t, bill, problem)
	t.writes = append(t.writes, func(tx *store.Tx) error { return h.writeLots(tx, lots, v.s.EndedAt) })
	t.after = append(t.after, func() { h.samples.lots, h.samples.lotsAt = *lots, v.s.EndedAt })
	return t.commit()
}

// conclude tells machine and driver the result.
func (h *hosting) conclude(t *turn, bill ev.Bill, problem string) {
	v := t.v
	if v.s.Payer != ev.Guest {
		t.session(ev.Billed{Energy: bill.Energy, Shares: ev.Shares{}})
		return
	}
	if problem != "" {
		t.session(ev.Unbillable{Reason: problem})
		return
	}
	t.session(ev.Billed{Energy: bill.Energy, Shares: bill.Shares})
}

// verdict checks what the meter signed. problem says why it bills nothing.
func (h *hosting) verdict(v *visit, tx ev.Transaction) (signed ocmf.Signed, problem string) {
	signed, err := ocmf.Check(tx.Signed, h.key, v.s.Code)
	var bad *ocmf.ErrOCMF
	switch {
	case err == nil && !signed.Bound:
		return signed, "the signed record names no session: only records with this session's code are billed"
	case err == nil:
		return signed, ""
	case errors.As(err, &bad):
		return signed, refusedText(bad.Reason)
	}
	return signed, err.Error()
}

// refusedTexts say what a failed check means and what to do.
var refusedTexts = map[ocmf.Reason]string{
	ocmf.Signature:  "the meter's signature does not verify: the record was changed, or another meter signed it; compare the fingerprint with the label",
	ocmf.ForeignID:  "the signed record belongs to another session: it was sent before and pays nothing now",
	ocmf.Pagination: "the record's page number does not rise: it was sent before and pays nothing now",
	ocmf.Empty:      "the wallbox signed nothing: this session can be shown, not billed",
	ocmf.NoEnd:      "there is no signed end: this session can be shown, not billed",
	ocmf.NoBegin:    "there is no signed begin: this session can be shown, not billed",
	ocmf.Unpinned:   "no meter key is confirmed here: take it from the wallbox's label into evse.meter_key",
	ocmf.Weak:       "the meter's key is too short to bill with",
	ocmf.Algorithm:  "the record was signed another way than the label says: compare the label",
	ocmf.BareHash:   "the wallbox sent a bare hash instead of its reading: enable full records at the wallbox",
	ocmf.Status:     "the meter itself reports a fault in its reading",
	ocmf.ErrorFlag:  "the meter flagged its energy as faulty",
}

func refusedText(r ocmf.Reason) string {
	if text, ok := refusedTexts[r]; ok {
		return text
	}
	return fmt.Sprintf("the signed record cannot be billed (%s)", r)
}

// bill makes the final bill: of the signed energies, or for a session without
// them of what the registers show.
func (h *hosting) bill(v *visit, tx ev.Transaction, signed ocmf.Signed, lots *ev.Lots) (ev.Bill, error) {
	from, to := v.s.StartedAt, max(tx.EndedAt, v.s.EndedAt)
	if n := len(v.readings); n > 0 && to == 0 {
		to = v.readings[n-1].At
	}
	rs, err := ev.Align(h.series(v.readings, from, to), from, to, intervalMS)
	if err != nil {
		return ev.Bill{}, err
	}
	in, out, register := signed.ImportMWh, signed.ExportMWh, signed.StepMWh
	if !signed.HasImport && !signed.HasExport {
		in, out = 0, 0
		for _, r := range rs {
			in, out = in+r.EVIn, out+r.EVOut
		}
	}
	d, err := h.deal(v)
	if err != nil {
		return ev.Bill{}, err
	}
	return ev.NewBill(rs, in, out, register, d, lots)
}

// belowTicks says whether the driver has acknowledged more than the bill holds.
func (h *hosting) belowTicks(v *visit, b ev.Bill) bool {
	last := v.rec.Ticked
	return b.Energy.Grid < last.Grid || b.Energy.Res < last.Res || b.Energy.Out < last.Out
}
