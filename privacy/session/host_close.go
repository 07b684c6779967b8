package session

import (
	"bytes"
	"fmt"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/note"
)

// Lock puts notes behind what the host may come to owe, before the car
// discharges: no lock, no sale. Until its Receipt came, Locked stays 0.
//
// p spends notes worth value to the aggregator, with Session as purpose.
func (h *Host) Lock(value int64, p note.Payment) (Out, error) {
	if h.phase != Running || h.answer == nil || h.lock != nil || h.offer.Mode&ModeDischarge == 0 {
		return Out{}, fmt.Errorf("lock: %w", ErrOrder)
	}
	if value <= 0 || value > MaxAmount || value%cent != 0 {
		return Out{}, fmt.Errorf("lock: %w", ErrNotWholeCents)
	}
	if n := len(p.Notes); n < 1 || n > MaxLocked {
		return Out{}, fmt.Errorf("lock: %w: %d notes, want 1 to %d", ErrAmount, n, MaxLocked)
	}
	l := Lock{Session: h.Session(), Value: value, Currency: h.offer.Currency, Payment: p}
	l.Sig = privacy.Sign(h.key, privacy.KindLock, h.cfg.Net, l.body())
	h.lock = l.Bytes()
	return h.out(Stay, Send{ToAggregator, h.lock}), nil
}

// End closes the session once the transaction is over and its signed records
// are in. With the driver present the record goes to the driver; after the
// driver left, the last acknowledged Tick (or, unattended, the meter's word)
// is settled at once.
func (h *Host) End(now time.Time, end Ending) (Out, error) {
	if h.phase != Running && h.phase != Left {
		return Out{}, fmt.Errorf("end: %w", ErrOrder)
	}
	if err := h.checkEnding(&end); err != nil {
		return Out{}, err
	}
	h.ending = &end
	if h.phase == Left || h.cfg.Unattended && h.waiting() {
		return h.settleAlone()
	}
	h.record = h.recordOf(Both, end.Energy, end.Amounts)
	h.phase, h.since = Closing, millis(now)
	c := Close{Record: h.record, Evidence: end.Evidence}
	return h.out(Stay, Send{ToDriver, c.Bytes()}), nil
}

func (h *Host) checkEnding(end *Ending) error {
	if err := end.Amounts.Check(h.offer.Mode); err != nil {
		return fmt.Errorf("end: %w", err)
	}
	if end.Amounts.Total() > int64(h.band)*unit {
		return fmt.Errorf("end: %w", ErrBand)
	}
	if end.Amounts.Owed > h.locked {
		return fmt.Errorf("end: %w", ErrNoLock)
	}
	if end.End.Before(end.Begin) || !end.Energy.valid() {
		return fmt.Errorf("end: %w: times or energies out of range", ErrAmount)
	}
	if end.Evidence == nil {
		return nil
	}
	if err := end.Evidence.check(); err != nil {
		return fmt.Errorf("end: %w", err)
	}
	return end.Evidence.opens(&h.offer, &Record{Evidence: end.Evidence.Hash()})
}

func (h *Host) recordOf(f Form, e Energy, a Amounts) Record {
	r := Record{Offer: h.open.Offer, Open: h.Session(), Energy: e, Amounts: a, Currency: h.offer.Currency, Form: f}
	r.T0 = uint32(h.ending.Begin.Unix() / slotSeconds)
	r.T1 = uint32((h.ending.End.Unix() + slotSeconds - 1) / slotSeconds)
	if h.acked.tick.Seq > 0 {
		r.LastTick = h.acked.tick.Hash(h.cfg.Net)
	}
	if h.ending.Evidence != nil {
		r.Evidence = h.ending.Evidence.Hash()
	}
	r.SignHost(h.cfg.Net, h.key)
	return r
}

// settleAlone settles without the driver's signature under the record.
func (h *Host) settleAlone() (Out, error) {
	s := Settle{}
	switch {
	case h.cfg.Unattended && h.ending.Evidence != nil:
		s.Record = h.recordOf(Unattended, h.ending.Energy, h.ending.Amounts)
		s.Evidence = h.ending.Evidence
	case h.acked.tick.Seq > 0:
		s.Record = h.recordOf(Cut, h.acked.tick.Energy, h.acked.amounts)
		s.Tick, s.Ack = &h.acked.tick, &h.ack
		if h.shows() || h.acked.tick.Energy.Out > 0 {
			s.Evidence = h.ending.Evidence
		}
	default:
		h.phase = Void
		return h.out(Stay), nil
	}
	return h.toSettle(s)
}

// shows says whether the aggregator gets what the meter signed.
func (h *Host) shows() bool { return h.offer.Mode&ModeShown != 0 || h.cfg.Shown }

func (h *Host) toSettle(s Settle) (Out, error) {
	h.record, h.settle, h.phase = s.Record, s.Bytes(), Settling
	return h.out(Stay, h.Outbox()...), nil
}

// onClosed takes the driver's signature under the record, with its stub.
func (h *Host) onClosed(msg []byte) (Out, error) {
	s, err := ParseSettle(msg)
	if err != nil {
		return Out{}, err
	}
	if h.phase != Closing {
		return Out{}, fmt.Errorf("closed: %w", ErrOrder)
	}
	if s.Record.Form != Both || s.Evidence != nil || !bytes.Equal(s.Record.body(), h.record.body()) || s.Record.HostSig != h.record.HostSig {
		return Out{}, fmt.Errorf("closed: %w", ErrMismatch)
	}
	if err := s.Record.verifyDriver(h.cfg.Net, h.open.SPK); err != nil {
		return Out{}, err
	}
	if h.shows() {
		s.Evidence = h.ending.Evidence
	}
	return h.toSettle(s)
}

func (h *Host) onReceipt(msg []byte) (Out, error) {
	r, err := ParseReceipt(msg)
	if err != nil {
		return Out{}, err
	}
	if r.Session != h.Session() {
		return Out{}, fmt.Errorf("receipt: %w", ErrMismatch)
	}
	if err := r.Verify(h.cfg.Net, h.cfg.EVAGGKey); err != nil {
		return Out{}, err
	}
	if r.Taken == TakenLock {
		return h.onLocked(&r, msg)
	}
	if h.phase != Settling {
		return Out{}, fmt.Errorf("receipt: %w", ErrOrder)
	}
	if r.What != h.record.Hash(h.cfg.Net) || r.Value != h.record.Amounts.Host {
		return Out{}, fmt.Errorf("receipt: %w", ErrMismatch)
	}
	h.receipt, h.phase = bytes.Clone(msg), Done
	return h.out(Stay, Send{ToDriver, msg}), nil
}

func (h *Host) onLocked(r *Receipt, msg []byte) (Out, error) {
	if h.lock == nil || h.locked != 0 {
		return Out{}, fmt.Errorf("lock receipt: %w", ErrOrder)
	}
	l, err := ParseLock(h.lock)
	if err != nil {
		return Out{}, err
	}
	if r.What != l.Hash(h.cfg.Net) || r.Value != l.Value {
		return Out{}, fmt.Errorf("lock receipt: %w", ErrMismatch)
	}
	h.locked = r.Value
	return h.out(Stay, Send{ToDriver, msg}), nil
}

// Due is what the host may collect, millionths: as PartyHost its earnings, as
// PartyChange what is left of its lock. Zero until the receipt is there.
func (h *Host) Due(p Party) int64 {
	switch {
	case h.phase != Done:
		return 0
	case p == PartyHost:
		return h.record.Amounts.Host
	case p == PartyChange:
		return h.locked - h.record.Amounts.Owed
	}
	return 0
}

// Lapse is the lock of a session that was never settled, millionths, and from
// when it may be collected whole, as PartyChange. It is zero without a confirmed
// lock, and once the receipt is here.
func (h *Host) Lapse() (value int64, from time.Time) {
	if h.phase == Done || h.locked == 0 {
		return 0, time.Time{}
	}
	a, err := ParseAnswer(h.answer)
	if err != nil { // no lock is confirmed before the answer
		return 0, time.Time{}
	}
	return h.locked, time.Unix(int64(a.Expires), 0).Add(LateFor)
}

// Collect signs a request for notes: row is blinded for Due(p), or for a lapsed
// lock, in the keys of month epoch. It returns ErrNotDue for what is neither; a
// lock that has not lapsed yet the aggregator refuses.
func (h *Host) Collect(p Party, epoch uint32, row note.Row) (Collect, error) {
	lapse, _ := h.Lapse()
	if h.Due(p) == 0 && (p != PartyChange || lapse == 0) {
		return Collect{}, ErrNotDue
	}
	c := Collect{Session: h.Session(), Party: p, Epoch: epoch, Row: row}
	c.Sign(h.cfg.Net, h.key)
	return c, nil
}

// valid says whether every register is within 0..MaxEnergy.
func (e Energy) valid() bool {
	ok := func(v int64) bool { return v >= 0 && v <= MaxEnergy }
	return ok(e.Grid) && ok(e.Res) && ok(e.Out)
}
