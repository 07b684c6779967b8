package demo

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"gridveil/ev/ocmf"
	"gridveil/ev/pool"
	"gridveil/ledger"
	"gridveil/mesh/member"
	"gridveil/node/clock"
	"gridveil/node/wallet"
)

// The flexibility that the story's grid operator buys: how long before it begins
// the operator looks at the pool's bids and until when it waits for them, what it
// buys, and what it pays for full delivery.
const (
	flexLook   = 35 * time.Minute
	flexLast   = 15 * time.Minute
	flexFor    = 30 * time.Minute
	flexWatts  = 4000
	flexPay    = 800_000
	certifiedW = 11_000
	handOver   = 15 * time.Second // wall time for the order to reach the cars
)

// certifyMeters has the grid's operator certify the meters of all wallboxes, so
// that the homes can offer what their guests' cars could shift. The home of the shower
// takes no part: there the mask may move a car, which none may whose power is promised.
func (s *Scene) certifyMeters() error {
	for i, m := range s.hosts() {
		if i == showers-1 {
			continue
		}
		raw, err := m.Home.Wallbox.CP.PublicKey()
		if err != nil {
			return fmt.Errorf("meter of %s: %w", m.Name, err)
		}
		key, err := ocmf.NewKey(raw)
		if err != nil {
			return fmt.Errorf("meter of %s: %w", m.Name, err)
		}
		cert, err := s.utility("utility-a").CertifyMeter(key.Hash(), m.Zone, certifiedW)
		if err != nil {
			return fmt.Errorf("certify the meter of %s: %w", m.Name, err)
		}
		if err := s.gateway(m).SetMeterCert(hex.EncodeToString(cert.Encode())); err != nil {
			return fmt.Errorf("certificate at %s: %w", m.Name, err)
		}
	}
	return nil
}

// buy lets the grid's operator buy flexibility in a zone from a moment on, once the
// pool offers some. The moment is the story's, so that a seed repeats what is
// delivered.
func (st *Story) buy(ctx context.Context, zone string, from time.Time) error {
	if !clock.Until(ctx, st.s.Clock, from.Add(-flexLook)) {
		return nil
	}
	release := func() {}
	defer func() { release() }()
	for !st.offered(zone, from) {
		if st.s.Clock.Now().After(from.Add(-flexLast)) {
			st.tell("refused", "/party/evagg", "the grid operator finds no flexibility to buy in zone %s", zone)
			return nil // the day's judgement says that it is missing
		}
		if !clock.Sleep(ctx, st.s.Clock, time.Minute) {
			return nil
		}
	}
	release = clock.Hold(st.s.Clock)
	if _, err := st.s.utility("utility-a").Instruct(zone, from, from.Add(flexFor), flexWatts, flexPay); err != nil {
		return fmt.Errorf("buy flexibility: %w", err)
	}
	st.tell("session", "/party/evagg", "the grid operator buys %.0f kW in zone %s from %s to %s", flexWatts/1e3, zone, from.Format("15:04"), from.Add(flexFor).Format("15:04"))
	for until := time.Now().Add(handOver); time.Now().Before(until) && ctx.Err() == nil && !st.handedOver(); {
		clock.Sleep(ctx, clock.Wall{}, 20*time.Millisecond)
	}
	return nil
}

// offered says whether the pool bids in a zone for all that is bought from a moment
// on.
func (st *Story) offered(zone string, from time.Time) bool {
	a, err := st.s.aggregator()
	if err != nil {
		return false
	}
	bids, err := a.Bids()
	if err != nil {
		return false
	}
	slots := 0
	for _, b := range bids {
		if b.Zone == zone && b.UpW >= flexWatts && !b.From.Before(from) && b.From.Before(from.Add(flexFor)) {
			slots++
		}
	}
	return slots >= int(flexFor/(pool.SlotMS*time.Millisecond))
}

// handedOver says whether every event has left the aggregator.
func (st *Story) handedOver() bool {
	a, err := st.s.aggregator()
	if err != nil {
		return false
	}
	events, err := a.Events()
	if err != nil || len(events) == 0 {
		return false
	}
	for _, e := range events {
		if e.State == "taken" || e.State == "shared" || e.State == "anchored" {
			return false
		}
	}
	return true
}

// ancillary sums up the pool's pay: what operators paid, what drivers are to get
// of it and what they hold in notes, millionths; pending says what is missing.
func (st *Story) ancillary() (events int, delivered, received, shared, held int64, pending []string) {
	a, err := st.s.aggregator()
	if err != nil {
		return 0, 0, 0, 0, 0, []string{err.Error()}
	}
	list, err := a.Events()
	if err != nil {
		return 0, 0, 0, 0, 0, []string{err.Error()}
	}
	for _, e := range list {
		events, delivered, received, shared = events+1, delivered+e.Delivered, received+e.Received, shared+e.Shared
		if e.State != "paid" {
			pending = append(pending, fmt.Sprintf("flexibility from %s: %s %s", e.From.Format("15:04"), e.State, e.Why))
		}
	}
	for _, m := range st.s.Of(member.RoleWallet) {
		due, collected := m.Node().Role.(*wallet.Wallet).PoolPay() // the cast gives drivers this role
		if held += collected; collected < due {
			pending = append(pending, m.Name+" waits for its share")
		}
	}
	if len(pending) == 0 && held != shared {
		pending = append(pending, fmt.Sprintf("drivers hold %s of %s", euros(held), euros(shared)))
	}
	return events, delivered, received, shared, held, pending
}

// bought says whether the story lets the operator buy flexibility in the days that
// were played.
func (st *Story) bought() bool {
	for _, p := range st.visits() {
		if p.flex > 0 {
			return true
		}
	}
	return false
}

// judgeFlexibility follows the money of the day's instruction: anchored before it
// was dispatched, paid by the grid's operator, shared out, and held in notes by the
// drivers.
func (st *Story) judgeFlexibility(sum *Summary) error {
	if !st.bought() {
		return nil
	}
	x := &sum.Flexibility
	var off []string
	x.Events, x.DeliveredMWh, x.PaidMicro, x.SharedMicro, x.HeldMicro, off = st.ancillary()
	if x.Events == 0 || x.DeliveredMWh == 0 || x.PaidMicro == 0 || x.SharedMicro == 0 {
		off = append(off, fmt.Sprintf("%d events, %d mWh delivered, %d paid, %d shared", x.Events, x.DeliveredMWh, x.PaidMicro, x.SharedMicro))
	}
	sum.hold("what the grid operator bought was delivered and paid, and drivers hold their share in notes", off...)
	a, err := st.s.aggregator()
	if err != nil {
		return err
	}
	var size uint64
	a.Read(func(s *ledger.State) { size = s.Size() })
	anchored := 0
	var early []string
	var paid, shared int64
	for i := range size {
		raw, err := a.Entry(i)
		if err != nil {
			return err
		}
		e, err := ledger.Parse(raw)
		if err != nil {
			return err
		}
		switch b := e.Body().(type) {
		case *ledger.Anchor:
			if b.Topic == ledger.TopicInstruction {
				anchored++
			}
		case *ledger.Transfer:
			switch b.Purpose {
			case ledger.PurposeFlexibility:
				paid += b.X
				if anchored < 3 { // the offers of a gate, the instruction, its controls
					early = append(early, "paid before anything was anchored")
				}
			case ledger.PurposeHousehold:
				shared += b.X
			}
		}
	}
	same(sum, "the ledger shows the grid operator's transfer", paid, x.PaidMicro)
	same(sum, "and the drivers' shares of it", shared, x.SharedMicro)
	sum.hold("offers, instruction and controls were anchored before", early...)
	return nil
}
