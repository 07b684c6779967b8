package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/ev"
	"gridveil/ev/guest"
	"gridveil/ev/pool"
	"gridveil/ev/sched"
	grid "gridveil/ev/signal"
	wire "gridveil/node/metering"
	"gridveil/node/signal"
	"gridveil/node/store"
	"gridveil/privacy/leak"
	"gridveil/privacy/session"
)

// A guest's session can be moved in time, and the grid operator may pay for that.
// Every quarter of an hour the house offers the aggregator's pool an envelope
// around the session's own plan:
//
//	own plan -> envelope, signed -> driver signs -> ev.record, before the gate -> control line -> controls -> the plan follows
//
// What it offers is within wiring and fuse, the owner's floor, and what the driver
// wants to give or take. It needs the operator's certificate over the meter.

// outside is what the house follows of others: prices, limits and controls.
// *signals is it.
type outside interface {
	At(now time.Time) signal.Signals
	OnChange(fn func())
	// ExpectControl may call what OnChange was given: not to be called under mu.
	ExpectControl(signal.Session) error
	ForgetControl(open [32]byte) error
}

// flexState is what a visit has offered to the pool.
type flexState struct {
	Offers   []flexOffer // oldest first
	Line     []byte      // signal.Line, from the first answer to the session's end
	Followed bool        // a control was followed: the meter's records go to the aggregator
}

// flexOffer is one offer.
type flexOffer struct {
	Body  []byte // pool.Flex
	State flexStep
}

type flexStep string

// Steps of an offer.
const (
	flexAsked   flexStep = "asked"   // the driver is to sign
	flexSent    flexStep = "sent"    // in the outbox
	flexTaken   flexStep = "taken"   // by the aggregator
	flexRefused flexStep = "refused" // by the aggregator, or it came too late
)

const (
	flexLead   = 3 * time.Minute  // a gate closes one minute before its slots; less than two more is not worth a try
	flexAhead  = 20 * time.Minute // later a forecast is better, earlier an answer surer; the aggregator takes the next two gates
	flexSpread = 8                // minutes over which houses spread their offers, so that they do not all come at once
	keptOffers = pool.Slots + 2   // whose slots may still count
	slotW      = pool.SlotMS / 3600
	flexLook   = 20 * time.Minute // over which the house's draw is averaged for its forecast
)

var certKey = store.SpaceSettings.Key([]byte("meter-cert"))

func (h *hosting) loadCert() error {
	b, err := h.env.Store.Get(certKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := pool.DecodeMeterCert(b)
	if err != nil {
		return fmt.Errorf("stored meter certificate: %w", err)
	}
	h.cert = &c
	return nil
}

// setCert keeps the grid operator's certificate over the pinned meter: from now on
// guests' sessions are offered to the pool. Empty text takes it back.
func (h *hosting) setCert(text string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if text == "" {
		h.cert = nil
		return h.env.Store.Update(func(tx *store.Tx) error { return tx.Delete(certKey) })
	}
	b, err := hex.DecodeString(text)
	if err != nil {
		return errors.New("meter certificate: want the hexadecimal text that `gridveil flexibility certify-meter` printed")
	}
	c, err := pool.DecodeMeterCert(b)
	if err != nil {
		return err
	}
	zone, known := wire.ZoneNumber(h.env.ID.Bundle, h.env.ID.Member.Zone)
	switch {
	case h.key.IsZero():
		return errors.New("no meter key is pinned here: take it from the wallbox's label into evse.meter_key")
	case c.Key != h.key.Hash():
		return errors.New("the certificate is over another meter than the one that evse.meter_key names")
	case !known || c.Zone != uint32(zone):
		return errors.New("the certificate is for another zone than this home's")
	case c.MaxW == 0:
		return errors.New("the certificate allows no power")
	}
	if err := h.env.Store.Set(certKey, b); err != nil {
		return err
	}
	h.cert = &c
	return nil
}

// flexible says whether a visit can be offered now.
func (h *hosting) flexible(v *visit) bool {
	return h.cert != nil && h.signals != nil && v.s.Payer == ev.Guest && v.s.State.Running() && v.host != nil && v.host.Phase() == session.Running &&
		!v.s.Offline && !v.host.Trusted() && v.line != nil
}

// offerFlex offers the next gates that were not offered yet, and asks a driver who
// was away again.
func (h *hosting) offerFlex(t *turn) {
	v := t.v
	if !h.flexible(v) {
		return
	}
	if v.rec.Flex == nil {
		v.rec.Flex = &flexState{}
	}
	f := v.rec.Flex
	for i := range f.Offers {
		if x, err := pool.DecodeFlex(f.Offers[i].Body); err == nil && f.Offers[i].State == flexAsked && v.asked != v.line && h.inTime(x, t.now) {
			t.sends = append(t.sends, guest.FlexMessage(x))
		}
	}
	v.asked = v.line
	for _, from := range gatesAhead(t.now, v.rec.ID[0]) {
		if slices.ContainsFunc(f.Offers, func(o flexOffer) bool { return o.from() == from }) {
			continue
		}
		x, ok := h.envelope(v, t.now, from)
		if !ok {
			continue
		}
		x.SignHost(v.host.Key(), [8]byte(h.env.Net))
		f.Offers = append(f.Offers, flexOffer{Body: x.Encode(), State: flexAsked})
		f.Offers = f.Offers[max(0, len(f.Offers)-keptOffers):]
		t.sends = append(t.sends, guest.FlexMessage(x))
		t.writes = append(t.writes, h.left(leak.Flex, leak.Guest, v.host.Offer().HPK, pool.FlexSize))
	}
}

func (o flexOffer) from() int64 {
	x, err := pool.DecodeFlex(o.Body)
	if err != nil {
		return -1 // own bytes: they were encoded here
	}
	return x.From
}

// ends is when the last slot of an offer is over.
func (o flexOffer) ends() time.Time { return time.UnixMilli(o.from() + pool.Slots*pool.SlotMS) }

func (h *hosting) inTime(x *pool.Flex, now time.Time) bool {
	return now.Add(flexLead-time.Minute).UnixMilli() < x.From
}

// gatesAhead are the first slots, UTC ms, of the gates that an offer is due for.
func gatesAhead(now time.Time, spread byte) (list []int64) {
	first := (now.Add(flexLead).UnixMilli()/pool.SlotMS + 1) * pool.SlotMS
	last := now.Add(flexAhead - time.Duration(spread%flexSpread)*time.Minute).UnixMilli()
	for from := first; from <= last; from += pool.SlotMS {
		list = append(list, from)
	}
	return list
}

// envelope is the offer for the slots from from: the own plan of each slot, and
// how far it may be moved; ok is false if it may not be moved at all.
func (h *hosting) envelope(v *visit, now time.Time, from int64) (x *pool.Flex, ok bool) {
	p, ok := h.ownPlan(v, now, from)
	if !ok {
		return nil, false
	}
	x = &pool.Flex{Open: v.host.Session(), Meter: *h.cert, From: from}
	for k := range x.Envelopes {
		x.Envelopes[k].BaselineW = int32(p.slots[k])
	}
	w, energy := v.rec.Want, x.EnergyMWh()
	leaves := w.Departure
	if leaves == 0 {
		leaves = from + pool.Slots*pool.SlotMS
	}
	low, high := int64(0), int64(0)
	if p.gives {
		low, x.MinMWh = -p.maxW, -p.give
	} else {
		end := from + pool.Slots*pool.SlotMS
		high = p.chargeW
		x.MinMWh = max(0, w.Floor-p.in-p.chargeW*max(0, leaves-end)/3600)
		x.MaxMWh = min(w.Want-p.in, p.chargeW*max(0, min(end, leaves)-from)/3600, h.affordable(v))
		if energy > x.MaxMWh+pool.Slots*slotW { // beyond rounding
			return nil, false
		}
	}
	x.MinMWh, x.MaxMWh = min(x.MinMWh, energy), max(x.MaxMWh, energy)
	for k := range x.Envelopes {
		e := &x.Envelopes[k]
		if at := from + int64(k)*pool.SlotMS; at >= leaves || p.gives && at < w.GiveFrom {
			continue
		}
		b := int64(e.BaselineW)
		e.UpW = uint32(max(0, min(b-low, (energy-x.MinMWh)/slotW)))
		e.DownW = uint32(max(0, min(high-b, (x.MaxMWh-energy)/slotW)))
	}
	return x, slices.ContainsFunc(x.Envelopes[:], func(e pool.Envelope) bool { return e.UpW+e.DownW > 0 })
}

// planned is a session's own plan from a gate on.
type planned struct {
	slots   [pool.Slots]int64 // W, charging positive
	in      int64             // mWh in the car, since the session began, at the gate
	give    int64             // mWh that may still be taken out at the gate
	gives   bool              // the car discharges; else it charges
	maxW    int64
	chargeW int64 // what wiring and fuse leave for charging
}

// ownPlan is what the session does without controls: the cheapest plan until its
// driver has what was wanted, or what the house itself draws out of the car.
func (h *hosting) ownPlan(v *visit, now time.Time, from int64) (p planned, ok bool) {
	w, e := v.rec.Want, v.s.Energy
	house := h.houseW(now)
	draws := max(0, house) // what the car gives to the house: nothing before notes are behind it
	if v.s.Locked == 0 || w.OnCall {
		draws = 0
	}
	p.maxW = min(int64(h.env.Config.EVSE.MaxW), int64(h.cert.MaxW))
	ampere := int64(volt * h.phases())
	p.chargeW = min(p.maxW, max(0, int64(h.env.Config.Meter.ConnectionLimitW)-max(0, house))/ampere*ampere)
	need := max(0, w.Want-e.In())
	p.in, p.give = e.In(), max(0, w.Give-e.Out)
	p.gives = need == 0 && p.give > 0 && h.mayDischarge(v)
	if n := len(v.readings); n > 0 && v.readings[n-1].HasSoC && v.readings[n-1].SoCPermille <= socFloor {
		p.gives = false
	}
	var shares []sched.Share
	switch {
	case p.gives:
	case need == 0 || w.Departure == 0 || p.chargeW == 0 || w.Departure <= from:
		return p, false
	default:
		slots := h.slots(now, time.UnixMilli(w.Departure), p.chargeW, -house)
		plan, err := sched.Make(slots, need)
		if err != nil || plan.Check(slots, need) != nil {
			return p, false
		}
		shares = plan.Shares
	}
	this := now.UnixMilli() / pool.SlotMS
	first, give := from/pool.SlotMS, p.give
	for i := range first + pool.Slots - this {
		energy := int64(0) // into the car
		switch at := max(now.UnixMilli(), (this+i)*pool.SlotMS); {
		case w.Departure > 0 && at >= w.Departure:
		case p.gives:
			energy = -min(give, min(draws, p.maxW)*max(0, (this+i+1)*pool.SlotMS-max(at, w.GiveFrom))/3600)
		case i < int64(len(shares)):
			energy = shares[i].Res + shares[i].Grid
		}
		give += min(0, energy)
		if k := this + i - first; k >= 0 {
			p.slots[k] = energy / slotW
			continue
		}
		p.in, p.give = p.in+max(0, energy), give
	}
	return p, true
}

// houseW is what the house draws without the car: the mean of the last minutes, as
// a forecast.
func (h *hosting) houseW(now time.Time) int64 {
	sum, n := int64(0), int64(0)
	for _, g := range slices.Backward(h.samples.marks) {
		if now.Sub(g.At) > flexLook {
			break
		}
		sum, n = sum+g.MeterW-g.CarW, n+1
	}
	if n == 0 {
		return 0
	}
	return sum / n
}

// affordable is the energy that the driver's band still pays at the dearest price,
// mWh.
func (h *hosting) affordable(v *visit) int64 {
	d, err := h.deal(v)
	price := max(d.Grid, d.Res) + d.Fee.PerKWhIn
	switch {
	case err != nil:
		return 0
	case price <= 0:
		return session.MaxEnergy // it costs nothing
	}
	return max(0, v.s.Band-v.s.Shares.Total) * 1000 / price * 1000
}

// assented takes the driver's signature under an offer: it may leave.
func (h *hosting) assented(line *guestLine, body []byte) error {
	a, err := guest.ParseAssent(body)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.visits {
		if v.line != line || v.host == nil || v.rec.Flex == nil {
			continue
		}
		for i := range v.rec.Flex.Offers {
			o := &v.rec.Flex.Offers[i]
			x, err := pool.DecodeFlex(o.Body)
			if err != nil || x.From != a.From || o.State != flexAsked {
				continue
			}
			x.DriverSig = a.Sig
			guestKey := v.host.Guest()
			if err := x.VerifyDriver(guestKey[:], [8]byte(h.env.Net)); err != nil {
				return err
			}
			t := h.turn(v, h.env.Clock.Now())
			o.Body, o.State = x.Encode(), flexSent
			id := sha256.Sum256(o.Body)
			t.puts = append(t.puts, store.Message{ID: id[:], Kind: flexKind.name, To: v.claim(), Body: o.Body})
			return t.commit()
		}
	}
	return fmt.Errorf("%w: no offer to the pool waits for this signature", session.ErrOrder)
}

// flexOf finds the offer of a waiting message. The caller holds mu.
func (h *hosting) flexOf(m store.Message) (*visit, *flexOffer) {
	v, ok := h.byClaim(m.To)
	if !ok || v.rec.Flex == nil {
		return nil, nil
	}
	for i := range v.rec.Flex.Offers {
		if string(v.rec.Flex.Offers[i].Body) == string(m.Body) {
			return v, &v.rec.Flex.Offers[i]
		}
	}
	return v, nil
}

// flexAnswered takes the aggregator's answer to an offer: the session's control
// line. It looks out for controls from here on.
func (h *hosting) flexAnswered(m store.Message, answer []byte, now time.Time) (over bool) {
	if _, err := signal.ParseLine(answer); err != nil {
		h.env.Log.Warn("answer of the aggregator refused", "kind", m.Kind, "err", err)
		return false
	}
	h.mu.Lock()
	v, o := h.flexOf(m)
	t := h.turn(v, now)
	t.writes = append(t.writes, func(tx *store.Tx) error { return h.outbox.DoneTx(tx, m.ID) })
	if o != nil {
		o.State = flexTaken
	}
	if v != nil && v.s.State.Running() {
		v.rec.Flex.Line = answer
		v.note(now, "the aggregator's pool has the session's plan: the grid operator may pay for moving it")
	}
	err := t.commit()
	x, expect := h.expected(v)
	h.mu.Unlock()
	if err != nil {
		h.env.Log.Warn("control line not stored; the offer is sent again", "err", err)
		return false
	}
	if expect {
		h.expect(x)
	}
	return true
}

// flexRefusedBy notes that an offer was not taken: the next one may be.
func (h *hosting) flexRefusedBy(t *turn, m store.Message, reason string) {
	if _, o := h.flexOf(m); o != nil {
		o.State = flexRefused
		t.v.note(t.now, "an offer to the aggregator's pool was not taken: "+reason)
	}
}

// expected is what controls of a visit are looked out for with. The caller holds
// mu.
func (h *hosting) expected(v *visit) (x signal.Session, ok bool) {
	if v == nil || v.host == nil || v.rec.Flex == nil || !v.s.State.Running() {
		return x, false
	}
	line, err := signal.ParseLine(v.rec.Flex.Line)
	if err != nil {
		return x, false
	}
	open := v.host.Session()
	return signal.Session{Open: open, Line: line, Own: func() grid.Own { return h.own(open) }}, true
}

func (h *hosting) expect(x signal.Session) {
	if err := h.signals.ExpectControl(x); err != nil {
		h.env.Log.Warn("controls of a session are not looked out for; the next offer tries again", "err", err)
	}
}

// own is what a control of a session must respect, at the moment of judging it: no
// power but what was offered, and the owner's and driver's floors.
func (h *hosting) own(open [32]byte) grid.Own {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.env.Clock.Now()
	for _, v := range h.visits {
		if v.host == nil || v.rec.Flex == nil || !v.s.State.Running() || v.host.Session() != open {
			continue
		}
		w, e := v.rec.Want, v.s.Energy
		o := grid.Own{MaxW: int64(h.env.Config.EVSE.MaxW)}
		o.EnvelopeLo, o.EnvelopeHi = v.rec.Flex.bounds(now.UnixMilli())
		if w.Departure > 0 {
			o.HasDeparture, o.Departure, o.NeedMWh = true, w.Departure, max(0, w.Floor-e.In())
		}
		if h.mayDischarge(v) {
			o.HasFloor, o.SpareMWh = true, max(0, w.Give-e.Out)
		}
		return o
	}
	return grid.Own{EnvelopeLo: 1} // nothing is offered: every power is outside
}

// bounds are the least and most power of all slots that the aggregator holds and
// that are not over; an empty range if there are none.
func (f *flexState) bounds(now int64) (lo, hi int64) {
	lo, hi = 1, 0
	for _, o := range f.Offers {
		x, err := pool.DecodeFlex(o.Body)
		if err != nil || o.State != flexTaken && o.State != flexSent {
			continue
		}
		for k, e := range x.Envelopes {
			if x.From+int64(k+1)*pool.SlotMS <= now {
				continue
			}
			low, high := int64(e.BaselineW)-int64(e.UpW), int64(e.BaselineW)+int64(e.DownW)
			if lo > hi {
				lo, hi = low, high
			}
			lo, hi = min(lo, low), max(hi, high)
		}
	}
	return lo, hi
}

// followed notes that a control of the pool decides: the meter's signed records
// will be shown, since they prove what is paid for.
func (h *hosting) followed(t *turn, d ev.Demand) {
	v := t.v
	if !d.HasControl || v.rec.Flex == nil || v.rec.Flex.Followed {
		return
	}
	v.rec.Flex.Followed = true
	v.note(t.now, fmt.Sprintf("on the grid operator's instruction: %d W", d.ControlW))
	if err := h.refresh(v); err != nil {
		h.env.Log.Warn("session not loaded anew; its meter's records may stay here", "err", err)
	}
}

// endFlex ends a session's controls with the session. It is called before the
// turn's commit.
func (t *turn) endFlex() {
	v, s := t.v, t.h.signals
	if v.host == nil || v.rec.Flex == nil || v.rec.Flex.Line == nil {
		return
	}
	v.rec.Flex.Line = nil
	open := v.host.Session()
	t.after = append(t.after, func() {
		if s == nil {
			return
		}
		if err := s.ForgetControl(open); err != nil {
			t.h.env.Log.Warn("controls of a session that is over not forgotten; the next start does", "err", err)
		}
	})
}

// heed makes the plan follow signals, at once when one is accepted; it goes on
// with the controls of a session that runs, and ends those of sessions that ended
// when nobody was there to forget them.
func (h *hosting) heed(s outside) {
	h.signals = s
	s.OnChange(h.replan)
	var list []signal.Session
	h.mu.Lock()
	for _, v := range h.visits {
		if x, ok := h.expected(v); ok {
			list = append(list, x)
		} else if v.host != nil && v.rec.Flex != nil {
			if err := s.ForgetControl(v.host.Session()); err != nil {
				h.env.Log.Warn("controls of a session that is over not forgotten; the next start does", "err", err)
			}
		}
	}
	h.mu.Unlock()
	for _, x := range list {
		h.expect(x)
	}
}
