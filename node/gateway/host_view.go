package gateway

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/ev/settle"
	"gridveil/node/web"
	"gridveil/privacy/pseudo"
)

// Sessions lists the cars at this house, newest first, for the page.
func (h *hosting) Sessions() []web.SessionRow {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []web.SessionRow
	for _, v := range h.visits {
		if v.rec.Begun != 0 && v.s.State != ev.Idle {
			out = append(out, h.row(v))
		}
	}
	slices.SortFunc(out, func(a, b web.SessionRow) int { return b.Begin.Compare(a.Begin) })
	return out
}

// Session is one of Sessions in full.
func (h *hosting) Session(id string) (web.Session, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.visits {
		if v.name() == id || v.claim() == id {
			return h.full(v), true
		}
	}
	return web.Session{}, false
}

func (h *hosting) row(v *visit) web.SessionRow {
	e := v.s.Energy
	if b := v.rec.Outcome.Bill; b != nil {
		e = b.Energy
	}
	_, s := h.settled(v)
	r := web.SessionRow{ID: v.name(), Begin: time.UnixMilli(v.rec.Begun).UTC(), Host: h.env.Config.Name, State: v.s.State.String(), Case: v.kase(),
		KWhIn: kwh(e.In()), KWhOut: kwh(e.Out), Total: "EUR " + euros(s.Total)}
	if v.s.Payer != ev.Guest {
		r.Total = ""
	}
	if r.Case == "refused" {
		r.Refused = firstOf(v.rec.Outcome.Problem, v.s.Reason)
	}
	return r
}

// settled are the energy and the shares that count: the bill's, except where the
// driver left. There it is what was acknowledged, and the house bears the rest.
func (h *hosting) settled(v *visit) (e ev.Energy, s ev.Shares) {
	e, s = v.s.Energy, v.s.Shares
	if b := v.rec.Outcome.Bill; b != nil {
		e = b.Energy
	}
	if v.host == nil || v.s.Form != ev.Cut {
		return e, s
	}
	r, _, ok := v.host.Last()
	d, err := h.deal(v)
	if !ok || err != nil {
		return e, s
	}
	fee, err := settle.Pricer{Fees: d.Fee, Minor: d.Minor}.Fee(r.Energy, true)
	if err != nil {
		h.env.Log.Warn("fee of a session cannot be told", "err", err)
	}
	a := r.Amounts
	return ev.Energy{Grid: r.Energy.Grid, Res: r.Energy.Res, Out: r.Energy.Out},
		ev.Shares{Host: a.Host, HostOwes: a.Owed, Grid: a.Grid, Driver: a.Driver, Fee: fee, Total: a.Host + max(a.Grid, 0) + fee}
}

// kase names what a session was: pv, grid, mixed, v2g-house, v2g-grid, gift, own
// or refused.
func (v *visit) kase() string {
	b := v.rec.Outcome.Bill
	switch {
	case v.rec.Outcome.Problem != "" || v.s.State == ev.Informational && v.s.Payer == ev.Guest:
		return "refused"
	case v.s.Payer == ev.Gift:
		return "gift"
	case v.s.Payer == ev.Own:
		return "own"
	}
	var home, export int64
	e := v.s.Energy
	if b != nil {
		e = b.Energy
		for _, f := range b.Flows {
			home, export = home+f.Home, export+f.Export
		}
	}
	switch {
	case e.Out > 0 && export > home:
		return "v2g-grid"
	case e.Out > 0:
		return "v2g-house"
	case e.Grid == 0 && e.Res > 0:
		return "pv"
	case e.Res == 0 && e.Grid > 0:
		return "grid"
	case e.In() > 0:
		return "mixed"
	}
	return ""
}

func kwh(mwh int64) float64 { return float64(mwh) / ev.MWhPerKWh }

// euros is an amount in millionths as people read it.
func euros(micro int64) string { return fmt.Sprintf("%d.%02d", micro/1_000_000, micro/10_000%100) }

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

func (h *hosting) full(v *visit) web.Session {
	s := web.Session{SessionRow: h.row(v), Terms: h.termsView(v), Payees: h.payees(v), Claims: h.purse.Claims(v.claim()), OCMF: h.readings(v), Parties: h.knows(v)}
	if v.s.EndedAt != 0 {
		s.End = time.UnixMilli(v.s.EndedAt).UTC()
	}
	for _, st := range v.rec.Steps {
		s.Steps = append(s.Steps, web.Event{At: time.UnixMilli(st.At).UTC(), Kind: st.Kind, Text: st.Text})
	}
	s.Intervals = h.intervals(v)
	s.Masked = web.CarMoves{Times: v.rec.Moves.Times, Minutes: v.rec.Moves.Mins}
	if f := v.rec.Flex; f != nil {
		s.Offered, s.Moved = f.Line != nil || slices.ContainsFunc(f.Offers, func(o flexOffer) bool { return o.State == flexTaken }), f.Followed
	}
	if v.rec.Outcome.Issue != 0 {
		issue := v.rec.Outcome.Issue
		s.Entry = &issue
	}
	return s
}

// intervals are the five-minute splits with what each came to.
func (h *hosting) intervals(v *visit) (out []web.Interval) {
	flows, d, err := h.viewFlows(v)
	if err != nil {
		return nil
	}
	for _, f := range flows {
		i := web.Interval{Start: time.UnixMilli(f.From).UTC(), FromPV: kwh(f.By[ev.FromRES][ev.ToEV]), FromHouse: kwh(f.By[ev.FromBattRES][ev.ToEV] + f.By[ev.FromBattGrid][ev.ToEV]),
			FromGrid: kwh(f.By[ev.FromGrid][ev.ToEV] + f.By[ev.FromUnknown][ev.ToEV]), ToHouse: kwh(f.Home), ToGrid: kwh(f.Export)}
		if v.s.Payer == ev.Guest {
			i.Amount = "EUR " + exact(f.Res, d.Res, f.Grid, d.Grid, -f.Home, d.Out, -f.Export, d.Terms.PExport)
		}
		out = append(out, i)
	}
	return out
}

func (h *hosting) viewFlows(v *visit) ([]ev.Flow, ev.Deal, error) {
	d, err := h.deal(v)
	if err != nil {
		return nil, d, err
	}
	if b := v.rec.Outcome.Bill; b != nil {
		return b.Flows, d, nil
	}
	fs, err := h.flows(v, h.seenTo(v))
	return fs, d, err
}

// exact sums energy x price pairs and writes them with six decimals.
func exact(pairs ...int64) string {
	var plus, minus ev.Exact
	for i := 0; i+1 < len(pairs); i += 2 {
		to, n := &plus, pairs[i]
		if n < 0 {
			to, n = &minus, -n
		}
		if sum, err := to.Add(n, pairs[i+1]); err == nil {
			*to = sum
		}
	}
	sign := ""
	rest, err := plus.Minus(minus)
	if plus.Less(minus) {
		sign = "-"
		rest, err = minus.Minus(plus)
	}
	micro, ferr := rest.Floor(1)
	if err != nil || ferr != nil {
		return "?"
	}
	return fmt.Sprintf("%s%d.%06d", sign, micro/1_000_000, micro%1_000_000)
}

func (h *hosting) termsView(v *visit) []web.Pair {
	d, err := h.deal(v)
	if err != nil || v.s.Payer != ev.Guest {
		return nil
	}
	policy := map[ev.Policy]string{ev.EVFirst: "the car first", ev.HomeFirst: "the home first", ev.ProRata: "car and home alike"}[d.Terms.Policy]
	out := []web.Pair{{Name: "own solar energy", Value: rate(d.Res)}, {Name: "energy from the grid", Value: rate(d.Grid)}, {Name: "aggregator's fee", Value: rate(d.Fee.PerKWhIn)},
		{Name: "solar energy goes to", Value: policy}, {Name: "at most", Value: "EUR " + euros(v.s.Band)}}
	if v.rec.Agreed != nil && v.rec.Agreed.Discharge {
		out = append(out, web.Pair{Name: "energy from the car, used here", Value: rate(d.Out)}, web.Pair{Name: "energy from the car, fed in", Value: rate(d.Terms.PExport)},
			web.Pair{Name: "notes locked", Value: "EUR " + euros(v.s.Locked)})
	}
	if v.s.Offline {
		out = append(out, web.Pair{Name: "began", Value: "on trust, without the aggregator"})
	}
	return out
}

func rate(micro int64) string {
	return fmt.Sprintf("EUR %d.%04d per kWh", micro/1_000_000, micro/100%10_000)
}

// payees say how each cent was paid.
func (h *hosting) payees(v *visit) []web.Payee {
	if v.s.Payer != ev.Guest {
		return []web.Payee{{Who: "nobody", For: "own or gift session", Paid: "EUR 0.00", How: "the house bears the energy"}}
	}
	signed, s := h.settled(v)
	fs, d, err := h.viewFlows(v)
	if err != nil {
		return nil
	}
	if v.s.Form == ev.Cut {
		fs = []ev.Flow{{Res: signed.Res, Grid: signed.Grid, Home: signed.Out}}
	}
	var e ev.Flow
	for _, f := range fs {
		e.Res, e.Grid, e.Home, e.Export = e.Res+f.Res, e.Grid+f.Grid, e.Home+f.Home, e.Export+f.Export
	}
	var out []web.Payee
	add := func(who, what, exact string, paid int64, how string) {
		if paid != 0 {
			out = append(out, web.Payee{Who: who, For: what, Exact: exact, Paid: "EUR " + euros(paid), How: how})
		}
	}
	earned := exact(e.Res, d.Res, e.Grid, d.Grid, -e.Home, d.Out, -e.Export, d.Terms.PExport)
	add("this house", "energy into the car", earned, s.Host, "blind notes, redeemed against the house's ordinary bill")
	add("the driver", "energy out of the car", earned, s.HostOwes, "blind notes, from those that this house locked")
	add("the aggregator", "fee", exact(e.Res+e.Grid, d.Fee.PerKWhIn, e.Home+e.Export, d.Fee.PerKWhOut), s.Fee, "on the ledger")
	add("the driver's utility pays", "the whole session", "", s.Total, "on the driver's ordinary bill; it learns neither house nor hour")
	return out
}

// readings show the meter's records with the verdict over each.
func (h *hosting) readings(v *visit) (out []web.Reading) {
	hash := h.key.Hash()
	fingerprint := hex.EncodeToString(hash[:8])
	for _, raw := range v.rec.Outcome.Records {
		r := web.Reading{Raw: string(raw), KeyPrint: fingerprint}
		rec, err := ocmf.Parse(raw)
		if err == nil {
			err = rec.Verify(h.key)
		}
		switch {
		case err != nil:
			r.Verdict = err.Error()
		case rec.ID != v.s.Code:
			r.Verdict = "signature verifies, but the record belongs to another session"
		default:
			r.Verdict, r.OK = "signature verifies, and the record names this session", true
		}
		out = append(out, r)
	}
	return out
}

// knows says who learned what of a session.
func (h *hosting) knows(v *visit) []web.Knows {
	if v.s.Payer != ev.Guest {
		return []web.Knows{{Party: "nobody outside", Learned: "nothing", NotLearned: "that a car was here", Because: "own and gift sessions send nothing"}}
	}
	driver := "who the driver is, and which utility"
	if v.host != nil && v.host.Trusted() {
		driver = "who the driver is (the utility was shown, for this session ran on trust)"
	}
	aggregator := web.Knows{Party: "the aggregator", Learned: "the driver's utility, zone, energy, amount", NotLearned: "which house, which driver", Because: "the house shows a blind-signed pass, the driver a single-use pseudonym"}
	if f := v.rec.Flex; f != nil && len(f.Offers) > 0 {
		aggregator.Learned += ", the meter's key and the session's plan, since it was offered to the pool"
		aggregator.NotLearned, aggregator.Because = "which driver", "the driver shows a single-use pseudonym; the meter's key links sessions that are offered, and only those"
	}
	if f := v.rec.Flex; f != nil && f.Followed {
		aggregator.Learned += ", the meter's signed record, since it proves what the grid operator paid for"
	}
	list := []web.Knows{
		{Party: "this house", Learned: "authorised, energy, amount", NotLearned: driver, Because: "the certificate travels sealed to the aggregator"},
		aggregator,
		{Party: "the driver's utility", Learned: "contract, day, energy, amount", NotLearned: "house, zone, hour", Because: "a bill line has no field for them"},
		{Party: "this house's utility", Learned: "nothing of this session", NotLearned: "that a guest was here", Because: "the house is paid in blind notes"},
		{Party: "the ledger", Learned: "one hidden amount of one utility's day", NotLearned: "everything else", Because: "the entry is a commitment"},
	}
	if v.rec.Moves.Times > 0 {
		list = append(list, web.Knows{Party: "the driver", Learned: "at which moments the car charged slower or faster: the house asked for more than its battery gives, or for less than it takes", NotLearned: "what for", Because: "the car feels its power change; battery.leave_car turns that off"})
	}
	return list
}

// Counts are the sessions by outcome, for the demonstration's summary.
type Counts struct{ Settled, Refused, Waiting int }

func (h *hosting) counts() (c Counts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.visits {
		switch {
		case v.kase() == "refused" && v.s.State >= ev.EndedState:
			c.Refused++
		case v.s.State == ev.Receipted || v.s.State == ev.Paid:
			c.Settled++
		case v.s.Payer == ev.Guest && v.s.State >= ev.EndedState && v.open():
			c.Waiting++
		}
	}
	return c
}

// Sessions lists the cars at this house, newest first; none without a wallbox.
func (g *Gateway) Sessions() []web.SessionRow {
	if g.hosting == nil {
		return nil
	}
	return g.hosting.Sessions()
}

// Session is one car's visit in full.
func (g *Gateway) Session(id string) (web.Session, bool) {
	if g.hosting == nil {
		return web.Session{}, false
	}
	return g.hosting.Session(id)
}

// SessionCounts are this house's sessions by outcome.
func (g *Gateway) SessionCounts() Counts {
	if g.hosting == nil {
		return Counts{}
	}
	return g.hosting.counts()
}

// occupied says whether a car is at the wallbox.
func (h *hosting) occupied() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current.s.Plugged || h.current.s.State.Running()
}

// carWatts is what the wallbox reports now, for a simulated house.
func (g *Gateway) carWatts() float64 {
	if g.hosting == nil {
		return 0
	}
	g.hosting.mu.Lock()
	defer g.hosting.mu.Unlock()
	return float64(g.hosting.current.s.PowerW)
}

// errNoWallbox is the answer of a gateway that hosts no cars.
// carDrawn is what the car draws now, for the mask of a real house.
func (g *Gateway) carDrawn() float64 {
	if g.hosting == nil {
		return 0
	}
	g.hosting.mu.Lock()
	defer g.hosting.mu.Unlock()
	return float64(g.hosting.drawn())
}

var errNoWallbox = errors.New("this gateway has no wallbox: set evse.listen in the configuration")

// GuestLink is today's link for guests, see hosting.guestLink.
func (g *Gateway) GuestLink(gateway string) (string, error) {
	if g.hosting == nil {
		return "", errNoWallbox
	}
	return g.hosting.guestLink(gateway)
}

// CanHost says whether a paying guest can be taken now: the house has passes of
// this week left.
func (g *Gateway) CanHost() bool {
	return g.hosting != nil && g.hosting.canHost(pseudo.Week(g.env.Clock.Now()))
}

// Charge starts a session at the house's cost: of the own car, or a gift.
func (g *Gateway) Charge(gift bool) error {
	if g.hosting == nil {
		return errNoWallbox
	}
	g.hosting.mu.Lock()
	defer g.hosting.mu.Unlock()
	return g.hosting.startOwn(g.env.Clock.Now(), gift)
}

// SetMeterCert keeps the grid operator's certificate over the wallbox's meter, in
// hexadecimal: from now on guests' sessions are offered to the aggregator's pool.
// Empty takes it back.
func (g *Gateway) SetMeterCert(cert string) error {
	if g.hosting == nil {
		return errNoWallbox
	}
	return g.hosting.setCert(cert)
}

// HurryNotes collects, swaps and redeems without the random delays.
func (g *Gateway) HurryNotes() error {
	if g.hosting == nil {
		return errNoWallbox
	}
	return g.hosting.purse.Hurry()
}
