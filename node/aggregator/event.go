package aggregator

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/ev/pool"
	"gridveil/ledger"
	"gridveil/ledger/writer"
	"gridveil/mesh"
	"gridveil/node/metering"
	"gridveil/node/party"
	"gridveil/node/signal"
	"gridveil/node/store"
	"gridveil/privacy/session"
)

// proofsAfter is how long after an event its sessions may hand in what their
// meters signed; what has not come by then has delivered nothing.
const proofsAfter = 24 * time.Hour

type eventState string

// States of an event, in order.
const (
	eventTaken    eventState = "taken"    // the instruction is durable
	eventShared   eventState = "shared"   // parts are decided
	eventAnchored eventState = "anchored" // instruction and controls stand on the ledger
	eventSent     eventState = "sent"     // the sessions were told
	eventProved   eventState = "proved"   // delivery is known and claimed from the operator
	eventPaid     eventState = "paid"     // received and shared out
	eventOver     eventState = "over"     // nothing to do; Cause says why
)

// event is one instruction from its arrival to its payment.
type event struct {
	Hash        [32]byte
	Instruction []byte
	Operator    string
	State       eventState
	Cause       string
	Parts       []eventPart
	Shortfall   int64
	Delivered   int64 // mWh
	Instructed  int64 // mWh
	Received    int64 // millionths
	Lines       []pool.Line
	Kept        int64
	PayIndex    uint64 // the ledger's entry that pays the lines, if they hold anything
}

type eventPart struct {
	Open    [32]byte
	W, SetW int64
}

func eventKey(hash [32]byte) []byte { return store.SpaceOrder.Key([]byte("event"), hash[:]) }

func putEvent(tx *store.Tx, e *event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return tx.Set(eventKey(e.Hash), b)
}

func (a *Aggregator) keepEvent(e *event) error {
	return a.env.Store.Update(func(tx *store.Tx) error { return putEvent(tx, e) })
}

func (a *Aggregator) events() (list []*event, err error) {
	err = a.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceOrder.Key([]byte("event")), func(_, v []byte) error {
			e := new(event)
			if err := json.Unmarshal(v, e); err != nil {
				return fmt.Errorf("stored event: %w", err)
			}
			list = append(list, e)
			return nil
		})
	})
	return list, err
}

// runEvents brings every event forward by as many steps as it can take now.
func (a *Aggregator) runEvents(ctx context.Context, w *writer.Writer) error {
	list, err := a.events()
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range list {
		if e.State == eventPaid || e.State == eventOver {
			continue
		}
		if err := a.runEvent(ctx, w, e); err != nil {
			errs = append(errs, fmt.Errorf("flexibility event: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (a *Aggregator) runEvent(ctx context.Context, w *writer.Writer, e *event) error {
	x, err := pool.DecodeInstruction(e.Instruction)
	if err != nil {
		return err
	}
	steps := map[eventState]func(context.Context, *writer.Writer, *event, *pool.Instruction) error{
		eventTaken: a.share, eventShared: a.anchor, eventAnchored: a.send, eventSent: a.prove, eventProved: a.payOut}
	for steps[e.State] != nil {
		before := e.State
		if err := steps[before](ctx, w, e, x); err != nil || e.State == before {
			return err
		}
		if err := a.keepEvent(e); err != nil {
			return err
		}
	}
	return nil
}

// share decides who gives how much.
func (a *Aggregator) share(_ context.Context, _ *writer.Writer, e *event, x *pool.Instruction) error {
	if err := a.dispatch(e, x); err != nil || e.State == eventOver {
		return err
	}
	e.State = eventShared
	if len(e.Parts) == 0 {
		e.State, e.Cause = eventOver, "no session can follow this instruction"
	}
	return nil
}

// anchor enters the instruction and the root of the controls before they leave.
func (a *Aggregator) anchor(ctx context.Context, w *writer.Writer, e *event, x *pool.Instruction) error {
	_, tree, err := e.controls(x)
	if err != nil {
		return err
	}
	root := tree.Root()
	for what, value := range map[string][]byte{"instruction": e.Hash[:], "controls": root[:]} {
		id := ledger.Salted(e.Hash, []byte(what))
		salt := ledger.Salted(ledger.Hash(a.flex.secret), id[:])
		if _, err := a.enterOne(ctx, w, id, &ledger.Anchor{Topic: ledger.TopicInstruction, Ref: ledger.Salted(salt, value)}, nil); err != nil {
			return err
		}
	}
	e.State = eventAnchored
	return nil
}

// send tells every session its part. After a crash some are told twice, which
// changes nothing.
func (a *Aggregator) send(_ context.Context, _ *writer.Writer, e *event, x *pool.Instruction) error {
	now := a.env.Clock.Now()
	if now.UnixMilli() >= x.To {
		e.State, e.Cause = eventOver, "the instruction was over before its controls could leave"
		return nil
	}
	list, _, err := e.controls(x)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := a.flex.sender.Send(signal.SessionKey(a.flex.secret, c.Open), c, now); err != nil {
			return err
		}
	}
	a.env.Log.Info("instruction dispatched", "sessions", len(list), "shortfall_w", e.Shortfall)
	e.State = eventSent
	return nil
}

// prove waits until every session of the event has handed in its signed records,
// or its time is over, and says what was delivered.
func (a *Aggregator) prove(ctx context.Context, w *writer.Writer, e *event, x *pool.Instruction) error {
	late := a.env.Clock.Now().After(time.UnixMilli(x.To).Add(proofsAfter))
	if a.env.Clock.Now().UnixMilli() < x.To {
		return nil
	}
	gates, err := a.flex.gates(x.Zone)
	if err != nil {
		return err
	}
	e.Delivered, e.Instructed, e.Lines = 0, 0, nil
	for _, p := range e.Parts {
		e.Instructed += p.W * (x.To - x.From) / 3600
		line, known, err := a.lineOf(p, x, gates)
		if err != nil {
			a.env.Log.Warn("delivery of a session cannot be judged", "err", err)
			known, line = true, pool.Line{Open: p.Open}
		}
		if !known && !late {
			return nil // its records come with its settlement
		}
		e.Delivered += line.DeliveredMWh
		e.Lines = append(e.Lines, line)
	}
	slices.SortFunc(e.Lines, func(a, b pool.Line) int { return slices.Compare(a.Open[:], b.Open[:]) })
	pay, err := a.claimPay(ctx, e)
	if err != nil {
		return err
	}
	if pay == 0 {
		e.State, e.Cause = eventOver, "nothing was delivered"
		return nil
	}
	e.Received, e.State = pay, eventProved
	return nil
}

// lineOf is what one session delivered, known once its records are here.
func (a *Aggregator) lineOf(p eventPart, x *pool.Instruction, gates []gate) (line pool.Line, known bool, err error) {
	line.Open = p.Open
	b, err := a.env.Store.Get(proofKey(p.Open))
	if errors.Is(err, store.ErrNotFound) {
		return line, false, nil
	}
	if err != nil {
		return line, false, err
	}
	var kept proof
	if err := json.Unmarshal(b, &kept); err != nil {
		return line, false, fmt.Errorf("stored proof: %w", err)
	}
	if kept.Signed == nil {
		return line, true, nil // it showed nothing, so it delivered nothing
	}
	is, rest, err := intervalOf(*kept.Signed, p, x, gates)
	if err != nil {
		return line, true, err
	}
	if line.DeliveredMWh, err = pool.Delivered([]pool.Interval{is}, x.W > 0); err != nil {
		return line, true, err
	}
	if x.W > 0 {
		rest.MeteredMWh += line.DeliveredMWh
	} else {
		rest.MeteredMWh -= line.DeliveredMWh
	}
	line.Availability = pool.Availability([]pool.Interval{rest})
	return line, true, nil
}

// intervalOf makes the one interval that a meter proves which signs begin and end
// only: the whole session against the whole plan. A session that began between
// two gates has the plan of the first gate that it met. See decision 0523.
func intervalOf(s ocmf.Signed, p eventPart, x *pool.Instruction, gates []gate) (is, rest pool.Interval, err error) {
	if !s.TimeOK || s.End <= s.Begin {
		return is, rest, fmt.Errorf("%w: signed times cannot be trusted", session.ErrEvidence)
	}
	base := int64(0) // W ms, divided once: a session lasts days at most, so 2^63 is far
	for at := s.Begin; at < s.End; {
		next := min((at/pool.SlotMS+1)*pool.SlotMS, s.End)
		w, ok, err := baselineAt(gates, p.Open, at)
		if err != nil {
			return is, rest, err
		}
		if !ok {
			return is, rest, fmt.Errorf("%w: no anchored plan of this session", session.ErrEvidence)
		}
		base += w * (next - at)
		at = next
	}
	base /= 3600
	metered := s.ImportMWh - s.ExportMWh
	from, to := max(x.From, s.Begin), min(x.To, s.End)
	instructed := p.W * max(0, to-from) / 3600
	return pool.Interval{BaselineMWh: base, MeteredMWh: metered, InstructedMWh: instructed}, pool.Interval{BaselineMWh: base, MeteredMWh: metered}, nil
}

// baselineAt is a session's anchored plan at a time, W; before its first offer
// and after its last the nearest slot holds.
func baselineAt(gates []gate, open [32]byte, at int64) (w int64, ok bool, err error) {
	best := int64(-1)
	for _, g := range gates {
		for _, raw := range g.Offers {
			f, err := pool.DecodeFlex(raw)
			if err != nil {
				return 0, false, fmt.Errorf("stored offer: %w", err)
			}
			if f.Open != open {
				continue
			}
			slot := (at - g.From) / pool.SlotMS
			distance := int64(0)
			if at < g.From {
				slot, distance = 0, g.From-at
			} else if slot >= pool.Slots {
				slot, distance = pool.Slots-1, at-g.From-pool.Slots*pool.SlotMS+1
			}
			if best < 0 || distance <= best { // of two that cover it the newer gate holds
				w, best = int64(f.Envelopes[slot].BaselineW), distance
			}
		}
	}
	return w, best >= 0, nil
}

// claimPay asks the operator to pay for what was delivered and learns how much it
// will transfer.
func (a *Aggregator) claimPay(ctx context.Context, e *event) (int64, error) {
	var payer ledger.PartyID
	a.Read(func(s *ledger.State) {
		for _, p := range s.Parties() {
			if p.Name == e.Operator {
				payer = p.Party
			}
		}
	})
	h, _, err := a.payer(payer)
	if err != nil {
		return 0, err
	}
	req := append([]byte{}, e.Hash[:]...)
	req = binary.BigEndian.AppendUint64(req, uint64(e.Delivered))
	req = binary.BigEndian.AppendUint64(req, uint64(e.Instructed))
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b, err := party.Call(call, a.env.Host, h.Member.Peer, mesh.Lines, party.OpDelivered, req)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, party.ErrCall
	}
	pay := int64(binary.BigEndian.Uint64(b))
	x, err := pool.DecodeInstruction(e.Instruction)
	if err != nil {
		return 0, err
	}
	if pay < 0 || pay > x.PayMicro {
		return 0, errors.New("the operator names another pay than was agreed")
	}
	return pay, nil
}

// payOut shares what was received among the sessions once the operator's transfer
// is final: the rest of it is the aggregator's.
func (a *Aggregator) payOut(ctx context.Context, w *writer.Writer, e *event, _ *pool.Instruction) error {
	if _, err := a.env.Store.Get(receivedKey(e.Hash)); errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	paid, kept, err := pool.Pay(e.Lines, e.Received, poolFee, ev.MinorEUR)
	if err != nil {
		return err
	}
	e.Kept = kept
	if paid > 0 {
		root := e.tree().Root()
		id, salt := a.shareNames(e)
		body := &ledger.Transfer{From: ledger.OpenAccount(1, 0), To: ledger.EarnedAccount(0), X: paid, Purpose: ledger.PurposeHousehold, Ref: ledger.Salted(salt, root[:])}
		r, err := a.enterOne(ctx, w, id, body, nil)
		if err != nil {
			return err
		}
		e.PayIndex = r.index
	}
	e.State = eventPaid
	return nil
}

func receivedKey(hash [32]byte) []byte { return store.SpaceOrder.Key([]byte("received"), hash[:]) }

// takeTransfer notes a final transfer that pays for an event.
func (a *Aggregator) takeTransfer(t *ledger.Transfer) error {
	if t.To != ledger.OpenAccount(1, 0) || t.Purpose != ledger.PurposeFlexibility {
		return nil
	}
	b, err := a.env.Store.Get(eventKey(t.Ref))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	e := new(event)
	if err := json.Unmarshal(b, e); err != nil {
		return fmt.Errorf("stored event: %w", err)
	}
	if t.X < e.Received {
		return nil // less than was agreed: the event stays open and shows it
	}
	return a.env.Store.Set(receivedKey(t.Ref), store.U64(uint64(t.X)))
}

// proof is what a session's meter proves; nil if nothing was shown.
type proof struct{ Signed *ocmf.Signed }

// keepProof keeps what a settled session's meter proves, if it offered
// flexibility: from here on no instruction binds it. Records of another meter than
// was offered prove nothing.
func (a *Aggregator) keepProof(msg []byte) error {
	x, err := session.ParseSettle(msg)
	if err != nil {
		return err
	}
	offered, err := a.env.Store.Get(offeredKey(x.Record.Open))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil || len(offered) != 40 {
		return errors.Join(errors.New("stored offer of a meter"), err)
	}
	var p proof
	if x.Evidence != nil {
		key, err := ocmf.NewKey(x.Evidence.MeterKey)
		if err != nil {
			return err
		}
		signed, err := ocmf.Check(x.Evidence.Records, key, "")
		if err != nil {
			return err
		}
		if key.Hash() == [32]byte(offered) {
			p.Signed = &signed
		}
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	a.nudge()
	return a.env.Store.Set(proofKey(x.Record.Open), b)
}

// delivery sums what was delivered and instructed in all events that were proved.
func (a *Aggregator) delivery() (delivered, instructed int64) {
	list, err := a.events()
	if err != nil {
		return 0, 0 // then the reserve is the cautious one
	}
	for _, e := range list {
		sum, carry := bits.Add64(uint64(instructed), uint64(e.Instructed), 0)
		if carry == 0 && sum < 1<<62 && (e.State == eventProved || e.State == eventPaid) {
			delivered, instructed = delivered+e.Delivered, int64(sum)
		}
	}
	return delivered, instructed
}

// EventView is a flexibility event as pages and `gridveil flexibility` show it.
type EventView struct {
	Instruction string    `json:"instruction"` // its hash
	Zone        string    `json:"zone"`
	From        time.Time `json:"from"`
	To          time.Time `json:"to"`
	W           int64     `json:"w"` // positive: consumption taken back
	Sessions    int       `json:"sessions"`
	Shortfall   int64     `json:"shortfall_w"`
	Delivered   int64     `json:"delivered_mwh"`
	Instructed  int64     `json:"instructed_mwh"`
	Received    int64     `json:"paid_micro"` // by the grid operator
	Shared      int64     `json:"shared_micro"`
	Kept        int64     `json:"kept_micro"`
	State       string    `json:"state"`
	Why         string    `json:"why,omitempty"` // it came to nothing
}

// Events are the flexibility events, oldest first.
func (a *Aggregator) Events() ([]EventView, error) {
	list, err := a.events()
	if err != nil {
		return nil, err
	}
	var out []EventView
	for _, e := range list {
		x, err := pool.DecodeInstruction(e.Instruction)
		if err != nil {
			return nil, err
		}
		zone, _ := metering.ZoneName(a.env.Host.Bundle(), uint16(x.Zone)) // dispatch refuses others
		v := EventView{Instruction: hex.EncodeToString(e.Hash[:]), Zone: zone, From: time.UnixMilli(x.From).UTC(), To: time.UnixMilli(x.To).UTC(), W: x.W,
			Sessions: len(e.Parts), Shortfall: e.Shortfall, Delivered: e.Delivered, Instructed: e.Instructed, Received: e.Received, Kept: e.Kept,
			State: string(e.State), Why: e.Cause}
		for _, l := range e.Lines {
			v.Shared += l.PaidMicro
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b EventView) int { return a.From.Compare(b.From) })
	return out, nil
}
