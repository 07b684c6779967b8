package gateway

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"gridveil/ev"
	"gridveil/ev/guest"
	"gridveil/node/store"
	"gridveil/node/wallet/purse"
	"gridveil/privacy"
	"gridveil/privacy/leak"
	"gridveil/privacy/session"
)

// turn is what one event leads to: everything is stored in one update first,
// and only then sent and ordered.
type turn struct {
	h      *hosting
	v      *visit
	now    time.Time
	sends  []guest.Message
	orders []order
	puts   []store.Message
	writes []func(*store.Tx) error
	edit   *purse.Edit
	after  []func()
}

// turn begins one for a visit. The caller holds mu.
func (h *hosting) turn(v *visit, now time.Time) *turn { return &turn{h: h, v: v, now: now} }

// commit stores, then acts. After an error nothing of the turn happened.
func (t *turn) commit() error {
	err := t.h.env.Store.Update(func(tx *store.Tx) error {
		for _, m := range t.puts {
			m.At = t.now
			if err := t.h.outbox.PutTx(tx, m); err != nil {
				return err
			}
		}
		for _, w := range t.writes {
			if err := w(tx); err != nil {
				return err
			}
		}
		if t.edit != nil {
			if err := t.edit.Write(tx); err != nil {
				return err
			}
		}
		if t.v == nil || t.v.rec.Begun == 0 {
			return nil
		}
		return t.v.write(tx)
	})
	if t.edit != nil {
		t.edit.Close(err)
	}
	if err == nil && t.h.crash != nil {
		err = t.h.crash()
	}
	if err != nil {
		if t.v != nil {
			err = errors.Join(err, t.h.reload(t.v))
		}
		return err
	}
	t.act()
	return nil
}

func (t *turn) act() {
	for _, f := range t.after {
		f()
	}
	if t.v != nil && t.v.line != nil {
		for _, m := range t.sends {
			t.v.line.send(m)
		}
	}
	for _, o := range t.orders {
		t.h.addOrder(o)
	}
	if len(t.puts) > 0 {
		poke(t.h.send)
	}
	t.h.hold(t.now)
	poke(t.h.kick)
}

// purse begins a change of the notes that becomes durable with the turn.
func (t *turn) purse() *purse.Edit {
	if t.edit == nil {
		t.edit = t.h.purse.Edit()
	}
	return t.edit
}

// session steps the visit's machine.
func (t *turn) session(in ev.Input) {
	before := t.v.s
	s, outs := ev.Step(t.v.s, in, t.now.UnixMilli())
	if len(outs) == 0 {
		return
	}
	t.v.s = s
	if before.State.Running() && !s.State.Running() {
		t.endFlex()
	}
	t.narrate(before, s)
	for _, o := range outs {
		t.output(o)
	}
	if t.v.host != nil && (s.State == ev.Plugged || s.State == ev.Idle) {
		t.detach()
	}
}

// detach ends a visit that was declined before anything flowed. It is kept for
// the page; the car may be opened anew.
func (t *turn) detach() {
	h, v := t.h, t.v
	v.rec.Outcome.Problem = v.s.Reason
	plugged := v.s.Plugged
	v.s.State, v.s.Payer = ev.Informational, ev.Guest
	t.after = append(t.after, func() {
		if h.current == v {
			h.current = h.blank(plugged)
		}
	})
}

// output does what the machine asks for; Store is the commit of the turn.
func (t *turn) output(o ev.Output) {
	v := t.v
	switch o := o.(type) {
	case ev.StartTransaction:
		t.orders = append(t.orders, order{visit: v.rec.ID, kind: orderStart, code: o.Code, watts: t.h.firstPower(v, t.now)})
	case ev.StopTransaction:
		t.orders = append(t.orders, order{visit: v.rec.ID, kind: orderStop, transaction: o.TransactionID})
	case ev.SetPower:
		t.orders = append(t.orders, order{visit: v.rec.ID, kind: orderPower, watts: o.W, moved: v.away})
	case ev.Report:
		t.report()
	case ev.Finish:
		t.finish(o)
	case ev.Refuse:
		t.notice(o.Reason)
	}
}

// report passes the running bill to the driver. What it says must still hold at
// the end, so it counts closed intervals only, and of them what scaling to the
// signed total cannot take away.
func (t *turn) report() {
	v := t.v
	if v.host == nil || v.host.Phase() != session.Running {
		return
	}
	e, s, err := t.h.certain(v)
	if err != nil {
		return // the next reading tries again
	}
	s = s.Cap(v.s.Band, v.s.Locked)
	err = t.protocol(fromMeter, func(p *session.Host) (session.Out, error) {
		out, err := p.Meter(t.now, energyOf(e), amountsOf(s))
		if len(out.Send) > 0 {
			v.rec.Ticked = e
		}
		return out, err
	})
	if err != nil {
		t.h.env.Log.Warn("running bill not told to the guest", "err", err)
	}
}

func energyOf(e ev.Energy) session.Energy {
	return session.Energy{Grid: e.Grid, Res: e.Res, Out: e.Out}
}

func amountsOf(s ev.Shares) session.Amounts {
	return session.Amounts{Host: s.Host, Owed: s.HostOwes, Grid: s.Grid, Driver: s.Driver, Fee: s.Fee}
}

// finish closes the protocol side with the final bill.
func (t *turn) finish(o ev.Finish) {
	v := t.v
	if v.host == nil {
		return
	}
	if o.Shares == (ev.Shares{}) && o.Energy == (ev.Energy{}) {
		t.notice(v.s.Reason)
		return // nothing is billable: no record is made, and the driver's pseudonym simply stays unused
	}
	end := session.Ending{Energy: energyOf(o.Energy), Amounts: amountsOf(o.Shares), Begin: time.UnixMilli(v.s.StartedAt),
		End: time.UnixMilli(max(v.s.EndedAt, v.s.StartedAt)), Evidence: v.evidence(t.h)}
	if v.s.EndedAt == 0 { // cut while the car goes on as a gift
		end.End = t.now
	}
	err := t.protocol(fromMeter, func(p *session.Host) (session.Out, error) { return p.End(t.now, end) })
	if err != nil && !errors.Is(err, session.ErrOrder) { // ErrOrder: it was closed before
		t.h.env.Log.Warn("session cannot be closed", "err", err)
		t.session(ev.Unbillable{Reason: "the bill does not hold: " + err.Error()})
	}
}

// evidence is what the meter signed, with what opens the commitments; nil while
// there are no records.
func (v *visit) evidence(h *hosting) *session.Evidence {
	a := v.rec.Agreed
	if a == nil || len(v.rec.Outcome.Records) == 0 {
		return nil
	}
	return &session.Evidence{Salt: a.Salt, MeterSalt: a.MeterSalt, MeterKey: h.key.Point, Terms: a.Terms, Records: v.rec.Outcome.Records}
}

// cause says what made the protocol side move, for its orders.
type cause int

const (
	fromMessage cause = iota // bytes of driver or aggregator
	fromTime
	fromMeter
)

// protocol steps the protocol side and turns its orders and phases into inputs
// of the visit's machine.
func (t *turn) protocol(c cause, f func(*session.Host) (session.Out, error)) error {
	v := t.v
	before := v.host.Phase()
	out, err := f(v.host)
	if out.Persist != nil && err == nil {
		v.rec.Host = out.Persist
	}
	for _, s := range out.Send {
		switch s.To {
		case session.ToDriver:
			t.toDriver(s.Msg)
		case session.ToAggregator:
			t.toAggregator(s.Msg)
		}
	}
	t.obey(c, out.Order)
	if err != nil {
		return err
	}
	t.phase(before, v.host.Phase())
	return nil
}

func (t *turn) obey(c cause, o session.Order) {
	v := t.v
	switch {
	case o == session.Start:
		t.session(ev.Authorised{Band: int64(v.host.Band()) * currencyUnit, Trusted: v.host.Trusted()})
	case o == session.Pause && c == fromTime:
		t.session(ev.GuestSilent{})
	case o == session.Resume:
		t.session(ev.GuestBack{})
	case o == session.Stop && c == fromTime:
		t.session(ev.GuestLeft{})
	}
}

const currencyUnit = 1_000_000 // millionths

// phase tells the visit's machine how far the protocol has come.
func (t *turn) phase(before, after session.Phase) {
	v := t.v
	if before == after {
		return
	}
	switch after {
	case session.Settling:
		r, _, _ := v.host.Last()
		t.session(ev.Recorded{Form: formOf(r.Form)})
	case session.Void:
		t.session(ev.Unbillable{Reason: "the driver acknowledged nothing, so nothing can be billed"})
	case session.Refused:
		t.session(ev.Declined{Reason: "the aggregator did not authorise this session: the driver sees why in the wallet"})
		if v.s.State >= ev.EndedState {
			v.rec.Outcome.Problem = "not authorised after a session on trust: certificate, Open and record prove the claim in a dispute"
			t.session(ev.Contested{})
		}
	case session.Done:
		t.mailReceipt()
		t.session(ev.Receipt{})
		t.claimNotes()
	}
}

func formOf(f session.Form) ev.State {
	switch f {
	case session.Cut:
		return ev.Cut
	case session.Unattended:
		return ev.UnattendedEnd
	}
	return ev.Signed
}

// leaksTo names what a message to the guest is in the leak table.
var leaksTo = map[privacy.Kind]leak.Message{privacy.KindOffer: leak.Offer, privacy.KindTick: leak.Tick, closeKind: leak.Close}

// closeKind is the first byte of a session.Close, which stays on the guest link.
var closeKind = privacy.Kind((&session.Close{}).Bytes()[0])

// toDriver queues a protocol message for the wallet. A wallet that is away gets
// it when it comes back.
func (t *turn) toDriver(msg []byte) {
	if t.v.line == nil {
		return
	}
	t.sends = append(t.sends, guest.SessionMessage(msg))
	if m, known := leaksTo[privacy.Kind(msg[0])]; known {
		t.writes = append(t.writes, t.h.left(m, leak.Guest, t.v.host.Offer().HPK, len(msg)))
	}
}

// toAggregator puts a message into the outbox, where it stays until its answer.
func (t *turn) toAggregator(msg []byte) {
	id := sha256.Sum256(msg)
	t.puts = append(t.puts, store.Message{ID: id[:], Kind: outKinds[privacy.Kind(msg[0])].name, To: t.v.claim(), Body: msg})
}

// notice tells the wallet where things stand.
func (t *turn) notice(text string) {
	t.sends = append(t.sends, guest.Note{State: uint8(t.v.s.State), PowerW: int32(t.v.s.PowerW), Text: text}.Message())
}

// narrate keeps the story of the visit, and tells the wallet.
func (t *turn) narrate(before, now ev.Session) {
	if before.State == now.State && before.Reason == now.Reason {
		return
	}
	v := t.v
	text := stateTexts[now.State]
	if now.Reason != "" && now.Reason != before.Reason {
		text = now.Reason
	}
	if text == "" {
		return
	}
	kind := "session"
	if now.State == ev.Informational && v.rec.Outcome.Problem != "" {
		kind = "refused"
	}
	if before.State.Running() && now.State.Running() && now.Reason == before.Reason {
		t.notice(text) // back and forth of the power is not part of the story
		for _, s := range v.rec.Steps {
			if s.Text == text {
				return
			}
		}
	}
	v.tell(t.now, kind, text)
	t.notice(text)
}

var stateTexts = map[ev.State]string{
	ev.Plugged: "car plugged in", ev.Opened: "a guest accepted the offer; the aggregator is asked", ev.Starting: "the wallbox is told to start",
	ev.Charging: "charging", ev.Paused: "ready, no power flows", ev.Discharging: "the car feeds the house", ev.EndedState: "transaction ended; signed records are collected",
	ev.Signed: "both sides signed the record", ev.Cut: "the wallet stayed away; the last acknowledged reading is settled",
	ev.UnattendedEnd: "settled on the meter's signature, as agreed", ev.Receipted: "the aggregator holds the record", ev.Paid: "paid",
	ev.GiftEnd: "a gift: nobody pays", ev.Informational: "over; shown here, not billed",
}

// wake does what time alone asks of the protocol side.
func (t *turn) wake() error {
	return t.protocol(fromTime, func(p *session.Host) (session.Out, error) { return p.Wake(t.now) })
}

// deadline is something that becomes due.
type deadline struct {
	at  time.Time
	act func(now time.Time) error
}

// deadlines lists what a visit waits for. The caller holds mu.
func (h *hosting) deadlines(v *visit) []deadline {
	out := h.lockBack(v)
	if !v.open() {
		return out
	}
	late := h.lag()
	if v.opening() {
		late = h.heldLag()
	}
	if v.host != nil {
		if at := v.host.Deadline(); !at.IsZero() {
			out = append(out, deadline{at.Add(late), func(now time.Time) error {
				t := h.turn(v, now)
				return errors.Join(t.wake(), t.commit())
			}})
		}
	}
	if v.s.Until != 0 {
		out = append(out, deadline{time.UnixMilli(v.s.Until).Add(late), func(now time.Time) error {
			t := h.turn(v, now)
			t.session(ev.Timer{})
			return t.commit()
		}})
	}
	if v.s.State == ev.Opened && v.s.Payer == ev.Guest && v.s.Until == 0 {
		out = append(out, deadline{time.UnixMilli(v.rec.Begun).Add(offerLife).Add(late), func(now time.Time) error {
			t := h.turn(v, now)
			t.session(ev.Declined{Reason: "nothing was charged within the time of the offer: ask for a new one"})
			return t.commit()
		}})
	}
	if at := h.intakeCloses(v); !at.IsZero() {
		out = append(out, deadline{at, func(now time.Time) error {
			if err := h.closeIntake(v, now); err != nil {
				return fmt.Errorf("bill of session %s: %w", v.name(), err)
			}
			return nil
		}})
	}
	return out
}
