package gateway

import (
	"encoding/hex"
	"time"

	"gridveil/ev"
	"gridveil/node/monthly"
)

// monthAsked is what `gridveil guest statement` sends.
type monthAsked struct {
	Month  string
	Signed bool
}

// month is the statement of a month's sessions at this wallbox.
func (h *hosting) month(q monthAsked) (monthly.Statement, error) {
	s := monthly.Statement{Of: "host", Name: h.env.Config.Name, Month: q.Month}
	var err error
	if s.From, s.To, err = monthly.Span(q.Month, time.Local); err != nil {
		return s, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []monthly.Session
	for _, v := range h.visits {
		end := time.UnixMilli(v.s.EndedAt).UTC()
		if v.rec.Begun == 0 || v.s.EndedAt == 0 || end.Before(s.From) || !end.Before(s.To) {
			continue
		}
		x := h.statement(v)
		if v.kase() != "refused" && (v.s.State == ev.Receipted || v.s.State.Final()) {
			list = append(list, x)
			continue
		}
		s.Unbilled++
		if x.Papers != nil && v.s.State != ev.Receipted && v.open() {
			s.Unsettled = append(s.Unsettled, x)
		}
	}
	return monthly.Make(s, list, q.Signed), nil
}

// statement is the visit as a statement shows it.
func (h *hosting) statement(v *visit) monthly.Session {
	e, shares := h.settled(v)
	x := monthly.Session{ID: v.name(), Begin: time.UnixMilli(v.rec.Begun).UTC(), End: time.UnixMilli(v.s.EndedAt).UTC(), Case: v.kase(), InMWh: e.In(), OutMWh: e.Out,
		Paid: shares.Total, Earned: shares.Host - shares.HostOwes}
	x.Claims = h.purse.Claims(v.claim())
	x.MeterKey = hex.EncodeToString(h.key.Point)
	for _, r := range h.readings(v) {
		x.Readings = append(x.Readings, monthly.Reading{OCMF: r.Raw, OK: r.OK, Verdict: r.Verdict})
	}
	if v.host != nil && v.rec.Agreed != nil {
		if p, ok := v.host.Papers(); ok {
			x.Papers = monthly.PapersOf(h.env.Net, p, v.rec.Agreed.FeeSheet)
		}
	}
	return x
}

// Month is the statement of a month ("2026-06", of the machine's time zone) of
// the sessions at this wallbox; signed adds what the meter signed.
func (g *Gateway) Month(month string, signed bool) (monthly.Statement, error) {
	if g.hosting == nil {
		return monthly.Statement{}, ErrNoWallbox
	}
	return g.hosting.month(monthAsked{month, signed})
}
