package aggregator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"gridveil/ev/pool"
	"gridveil/ev/settle"
	grid "gridveil/ev/signal"
	"gridveil/ledger"
	"gridveil/ledger/writer"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/metering"
	"gridveil/node/signal"
	"gridveil/node/store"
	"gridveil/privacy/session"
)

const (
	gateLead     = time.Minute               // a gate closes that long before its first slot, so that the root stands on the ledger by then
	gateAhead    = 31 * time.Minute          // offers are taken for the next two gates
	gateKeeps    = proofsAfter + 3*time.Hour // plans are needed until the last session has handed in what its meter signed
	offeredKeeps = session.LateFor + session.KeepFor
	flexTries    = 12   // offers that replace each other, per session and gate
	flexPerZone  = 5000 // sessions of a zone and gate; each costs three signatures
	minBidW      = 1000 // the least that a grid operator buys
	poolFee      = 125  // permille of what operators pay that stays here; ev design 4.5, case 6
	fullWeight   = 1000 // fairness of a session that has not given lately
)

// gateName is one gate closure: a zone's offers for the slots from From.
type gateName struct {
	From int64
	Zone uint32
}

// gate is a closed book of offers.
type gate struct {
	gateName
	Salt   [32]byte
	Offers [][]byte // in the order of the anchored tree
}

// flexibility is the pool's state; offers and gates are durable before they
// count.
type flexibility struct {
	st     *store.Store
	secret [32]byte // of the control lines
	sender *signal.Sender

	mu    sync.Mutex
	books map[gateName]*pool.Book // gates that are open
}

func offerKey(g gateName, open [32]byte) []byte {
	return store.SpaceOrder.Key([]byte("flex"), store.U64(uint64(g.From)), store.U64(uint64(g.Zone)), open[:])
}

func gateKey(g gateName) []byte {
	return store.SpaceOrder.Key([]byte("gate"), store.U64(uint64(g.From)), store.U64(uint64(g.Zone)))
}

func proofKey(open [32]byte) []byte { return store.SpaceOrder.Key([]byte("meter-proof"), open[:]) }

// offeredKey leads to the meter that a session offers: its key's hash 32, and the
// begin of the newest offer u64.
func offeredKey(open [32]byte) []byte { return store.SpaceOrder.Key([]byte("offered"), open[:]) }

var controlSecretKey = store.SpaceSettings.Key([]byte("control-secret"))

// openPool loads the pool's secret and the offers of gates that are still open.
func (a *Aggregator) openPool() error {
	f := &a.flex
	f.st, f.books = a.env.Store, map[gateName]*pool.Book{}
	f.sender = &signal.Sender{Host: a.env.Host, Store: a.env.Store, Rand: a.env.Rand}
	b, err := f.st.Get(controlSecretKey)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if _, err := io.ReadFull(a.env.Rand, f.secret[:]); err != nil {
			return fmt.Errorf("draw control secret: %w", err)
		}
		return f.st.Set(controlSecretKey, f.secret[:])
	case err != nil:
		return err
	case len(b) != len(f.secret):
		return errors.New("stored control secret is damaged")
	}
	copy(f.secret[:], b)
	return nil
}

// takeFlex admits a session's offer of flexibility and answers with its control
// line.
func (a *Aggregator) takeFlex(body []byte) ([]byte, error) {
	x, err := pool.DecodeFlex(body)
	if err != nil {
		return nil, err
	}
	now := a.env.Clock.Now()
	from := time.UnixMilli(x.From)
	if now.Add(gateLead).After(from) || from.Sub(now) > gateAhead+a.env.Host.Lag() {
		return nil, &ask.RefusedError{Reason: "offers are taken for the next two quarters of an hour"}
	}
	s, err := a.poolSession(x.Open)
	if err != nil {
		return nil, err
	}
	g := gateName{x.From, x.Meter.Zone}
	f := &a.flex
	f.mu.Lock()
	defer f.mu.Unlock()
	book, err := a.openGate(g)
	if err != nil {
		return nil, err
	}
	if err := book.Admit(body, s, now.UnixMilli()); err != nil {
		return nil, err
	}
	err = f.st.Update(func(tx *store.Tx) error {
		return errors.Join(tx.Set(offerKey(g, x.Open), body), tx.Set(offeredKey(x.Open), append(x.Meter.Key[:], store.U64(uint64(x.From))...)))
	})
	if err != nil {
		return nil, &ask.NotYetError{After: again}
	}
	line, err := f.sender.Line(signal.SessionKey(f.secret, x.Open), x.Open)
	if err != nil {
		return nil, &ask.NotYetError{After: again}
	}
	return line.Bytes(), nil
}

// poolSession is what is known of an authorised session.
func (a *Aggregator) poolSession(open [32]byte) (s pool.Session, err error) {
	err = a.withDesk(func(d *settle.Desk) error {
		f, err := d.File(open)
		if err != nil {
			return err
		}
		spk := f.Cert.SPK()
		s = pool.Session{Open: open, Hpk: f.Offer.HPK[:], Spk: spk[:]}
		return nil
	})
	return s, err
}

// openGate finds or makes the book of a gate; after a restart the offers that
// were taken are admitted again. The caller holds flex.mu.
func (a *Aggregator) openGate(g gateName) (*pool.Book, error) {
	f := &a.flex
	if b := f.books[g]; b != nil {
		return b, nil
	}
	operator, err := a.gridKey(g.Zone)
	if err != nil {
		return nil, err
	}
	closes := g.From - gateLead.Milliseconds()
	b := pool.NewBook(a.env.Net, operator, g.From, closes, pool.Quotas{PerSession: flexTries, PerZone: flexPerZone})
	list, err := f.offers(g)
	if err != nil {
		return nil, &ask.NotYetError{After: again}
	}
	for _, raw := range list {
		x, err := pool.DecodeFlex(raw)
		if err != nil {
			return nil, fmt.Errorf("stored offer: %w", err)
		}
		if s, err := a.poolSession(x.Open); err == nil {
			if err := b.Admit(raw, s, closes-1); err != nil {
				return nil, fmt.Errorf("stored offer: %w", err)
			}
		}
	}
	f.books[g] = b
	return b, nil
}

func (f *flexibility) offers(g gateName) (list [][]byte, err error) {
	prefix := store.SpaceOrder.Key([]byte("flex"), store.U64(uint64(g.From)), store.U64(uint64(g.Zone)))
	err = f.st.View(func(tx *store.Tx) error {
		return tx.Each(prefix, func(_, v []byte) error {
			list = append(list, v)
			return nil
		})
	})
	return list, err
}

// gridKey is the key of the operator that runs a zone's grid: it certifies meters
// and signs instructions.
func (a *Aggregator) gridKey(zone uint32) ([]byte, error) {
	b := a.env.Host.Bundle()
	name, ok := metering.ZoneName(b, uint16(zone))
	if !ok || zone > 1<<16-1 {
		return nil, &ask.RefusedError{Reason: "this network has no such zone"}
	}
	operator, ok := metering.GridOperator(b, name)
	if !ok {
		return nil, &ask.RefusedError{Reason: "nobody runs the grid of this zone"}
	}
	h, ok := a.env.Dir.One(member.RoleUtility, operator)
	if !ok {
		return nil, &ask.NotYetError{After: again}
	}
	key, ok := h.Sheet.Find(keys.Entry, 0)
	if !ok {
		return nil, &ask.NotYetError{After: again}
	}
	return key, nil
}

// closeGates anchors the offers of every gate whose time has come.
func (a *Aggregator) closeGates(ctx context.Context, w *writer.Writer) error {
	now := a.env.Clock.Now().UnixMilli()
	names, err := a.flex.due(now)
	if err != nil {
		return err
	}
	for _, g := range names {
		if err := a.closeGate(ctx, w, g); err != nil {
			return fmt.Errorf("close a gate: %w", err)
		}
	}
	return nil
}

// due lists gates with offers whose time has come and that are not anchored.
func (f *flexibility) due(now int64) (list []gateName, err error) {
	prefix := store.SpaceOrder.Key([]byte("flex"))
	err = f.st.View(func(tx *store.Tx) error {
		return tx.Each(prefix, func(k, _ []byte) error {
			from, ok1 := store.GetU64(k[len(prefix) : len(prefix)+8])
			zone, ok2 := store.GetU64(k[len(prefix)+8 : len(prefix)+16])
			g := gateName{int64(from), uint32(zone)}
			if !ok1 || !ok2 || g.From-gateLead.Milliseconds() > now || slices.Contains(list, g) {
				return nil
			}
			done, err := tx.Has(gateKey(g))
			if err == nil && !done {
				list = append(list, g)
			}
			return err
		})
	})
	return list, err
}

// closeGate makes the book durable and enters the salted root of its offers.
func (a *Aggregator) closeGate(ctx context.Context, w *writer.Writer, name gateName) error {
	f := &a.flex
	f.mu.Lock()
	book, err := a.openGate(name)
	if err != nil {
		f.mu.Unlock()
		return err
	}
	offers, tree := book.Close()
	f.mu.Unlock()
	g := gate{gateName: name}
	id := ledger.Salted(ledger.Hash{}, fmt.Appendf(nil, "gate %d %d", name.From, name.Zone))
	salt := ledger.Salted(ledger.Hash(f.secret), id[:]) // the same after a crash, and nobody else's
	g.Salt = salt
	for _, x := range offers {
		g.Offers = append(g.Offers, x.Encode())
	}
	root := tree.Root()
	if _, err := a.enterOne(ctx, w, id, &ledger.Anchor{Topic: ledger.TopicInstruction, Ref: ledger.Salted(salt, root[:])}, nil); err != nil {
		return err
	}
	b, err := json.Marshal(g)
	if err != nil {
		return err
	}
	if err := f.st.Set(gateKey(name), b); err != nil {
		return err
	}
	f.mu.Lock()
	delete(f.books, name)
	f.mu.Unlock()
	if err := f.dropOffers(name); err != nil {
		return err
	}
	a.env.Log.Info("offers of flexibility anchored", "offers", len(offers))
	return nil
}

// dropOffers deletes the single offers of a gate that holds them all.
func (f *flexibility) dropOffers(g gateName) error {
	prefix := store.SpaceOrder.Key([]byte("flex"), store.U64(uint64(g.From)), store.U64(uint64(g.Zone)))
	for more := true; more; {
		more = false
		err := f.st.Update(func(tx *store.Tx) error {
			n := 0
			return tx.Each(prefix, func(k, _ []byte) error {
				if n++; n > forgetBatch {
					more = true
					return store.ErrStop
				}
				return tx.Delete(k)
			})
		})
		if err != nil {
			return fmt.Errorf("drop offers of a closed gate: %w", err)
		}
	}
	return nil
}

// forget drops offers and gates that no event can need any more.
func (f *flexibility) forget(now int64) error {
	limit := now - gateKeeps.Milliseconds()
	return f.st.Update(func(tx *store.Tx) error {
		if err := forgetOffered(tx, now-offeredKeeps.Milliseconds()); err != nil {
			return err
		}
		for _, name := range []string{"flex", "gate"} {
			prefix := store.SpaceOrder.Key([]byte(name))
			n := 0
			err := tx.Each(prefix, func(k, _ []byte) error {
				from, ok := store.GetU64(k[len(prefix) : len(prefix)+8])
				if n++; !ok || int64(from) > limit || n > forgetBatch {
					return store.ErrStop
				}
				return tx.Delete(k)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// forgetOffered drops sessions, with what their meters proved, that can neither be
// handed in nor collected any more.
func forgetOffered(tx *store.Tx, limit int64) error {
	prefix := store.SpaceOrder.Key([]byte("offered"))
	n := 0
	return tx.Each(prefix, func(k, v []byte) error {
		from, ok := store.GetU64(v[min(32, len(v)):])
		if ok && int64(from) > limit {
			return nil
		}
		if n++; n > forgetBatch {
			return store.ErrStop
		}
		return errors.Join(tx.Delete(k), tx.Delete(proofKey([32]byte(k[len(prefix):]))))
	})
}

// gates reads the anchored gates of a zone, oldest first.
func (f *flexibility) gates(zone uint32) (list []gate, err error) {
	err = f.st.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceOrder.Key([]byte("gate")), func(_, v []byte) error {
			var g gate
			if err := json.Unmarshal(v, &g); err != nil {
				return fmt.Errorf("stored gate: %w", err)
			}
			if g.Zone == zone {
				list = append(list, g)
			}
			return nil
		})
	})
	return list, err
}

// covering is the newest gate of a zone that covers a time, UTC ms.
func covering(list []gate, at int64) (gate, bool) {
	for _, g := range slices.Backward(list) {
		if g.From <= at && at < g.From+pool.Slots*pool.SlotMS {
			return g, true
		}
	}
	return gate{}, false
}

// Bid is what the pool offers a grid operator for one slot of a zone.
type Bid struct {
	Zone  string    `json:"zone"`
	From  time.Time `json:"from"`
	UpW   int64     `json:"up_w"`   // power it can take back
	DownW int64     `json:"down_w"` // power it can add
}

// Bids are the offers of the newest gate of each zone, less a reserve from what
// was delivered before.
func (a *Aggregator) Bids() (out []Bid, err error) {
	b := a.env.Host.Bundle()
	reserve := pool.ReserveOf(a.delivery())
	for i, z := range b.Zones {
		list, err := a.flex.gates(uint32(i + 1))
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			continue
		}
		g := list[len(list)-1]
		offers, err := g.decode()
		if err != nil {
			return nil, err
		}
		for slot := range pool.Slots {
			if x, ok := pool.MakeBid(offers, g.Zone, slot, reserve, minBidW); ok {
				out = append(out, Bid{Zone: z.Name, From: time.UnixMilli(g.From + int64(slot)*pool.SlotMS).UTC(), UpW: x.UpW, DownW: x.DownW})
			}
		}
	}
	return out, nil
}

func (g gate) decode() ([]*pool.Flex, error) {
	out := make([]*pool.Flex, 0, len(g.Offers))
	for _, raw := range g.Offers {
		x, err := pool.DecodeFlex(raw)
		if err != nil {
			return nil, fmt.Errorf("stored offer: %w", err)
		}
		out = append(out, x)
	}
	return out, nil
}

// takeInstruction takes a grid operator's order; the same bytes again change
// nothing.
func (a *Aggregator) takeInstruction(from mesh.Member, body []byte) ([]byte, error) {
	x, err := pool.DecodeInstruction(body)
	if err != nil {
		return nil, err
	}
	key, err := a.gridKey(x.Zone)
	if err != nil {
		return nil, err
	}
	name, _ := metering.ZoneName(a.env.Host.Bundle(), uint16(x.Zone))
	if operator, _ := metering.GridOperator(a.env.Host.Bundle(), name); operator != from.Operator {
		return nil, errors.New("instructions come from the operator of the zone's grid")
	}
	if err := x.Verify(key, a.env.Net); err != nil {
		return nil, err
	}
	if x.Currency != ask.Currency || a.env.Clock.Now().UnixMilli() >= x.To {
		return nil, errors.New("instruction is in another currency or over")
	}
	err = a.env.Store.Update(func(tx *store.Tx) error {
		if known, err := tx.Has(eventKey(x.Hash())); err != nil || known {
			return err
		}
		return putEvent(tx, &event{Hash: x.Hash(), Instruction: body, Operator: from.Operator, State: eventTaken})
	})
	a.nudge()
	return nil, err
}

// dispatch shares an instruction out among the sessions of the gate that covers
// it: the newest whose baselines are anchored.
func (a *Aggregator) dispatch(e *event, x *pool.Instruction) error {
	list, err := a.flex.gates(x.Zone)
	if err != nil {
		return err
	}
	g, ok := covering(list, x.From)
	if !ok || x.To > g.From+pool.Slots*pool.SlotMS {
		e.State, e.Cause = eventOver, "no anchored offers cover the time of this instruction"
		return nil
	}
	offers, err := g.decode()
	if err != nil {
		return err
	}
	others, err := a.events()
	if err != nil {
		return err
	}
	first := (x.From - g.From) / pool.SlotMS
	last := (x.To - 1 - g.From) / pool.SlotMS
	members := make([]pool.Member, len(offers))
	for i, o := range offers {
		m := pool.Member{Weight: 1}
		over, err := a.flex.settled(o.Open)
		if err != nil {
			return err
		}
		if !over && bindBefore(o, e, x, g, others) {
			m.CapW = o.CapW(int(first), int(last), x.W > 0)
			m.Weight = pool.WeightOf(m.CapW, fullWeight)
		}
		members[i] = m
	}
	parts, shortfall, err := pool.Dispatch(max(x.W, -x.W), members)
	if err != nil {
		return err
	}
	e.Shortfall = shortfall
	for i, o := range offers {
		if parts[i] == 0 {
			continue
		}
		set := int64(o.Envelopes[first].BaselineW) - parts[i]
		if x.W < 0 {
			set = int64(o.Envelopes[first].BaselineW) + parts[i]
		}
		e.Parts = append(e.Parts, eventPart{Open: o.Open, W: parts[i], SetW: set})
	}
	return nil
}

// settled says whether a session is over: nothing can be asked of it any more,
// and what it earned is decided by the events that it was part of.
func (f *flexibility) settled(open [32]byte) (over bool, err error) {
	err = f.st.View(func(tx *store.Tx) (err error) {
		over, err = tx.Has(proofKey(open))
		return err
	})
	return over, err
}

// bindBefore takes what other instructions have bought from a session out of its
// offer; false says that it is bound at the same time, or has had its share of
// events.
func bindBefore(o *pool.Flex, e *event, x *pool.Instruction, g gate, others []*event) bool {
	n := 0
	for _, other := range others {
		i := slices.IndexFunc(other.Parts, func(p eventPart) bool { return p.Open == o.Open })
		if i < 0 || other.Hash == e.Hash {
			continue
		}
		y, err := pool.DecodeInstruction(other.Instruction)
		if n++; err != nil || n >= session.MaxShares || y.From < x.To && x.From < y.To {
			return false
		}
		from, to := max(y.From, g.From), min(y.To, g.From+pool.Slots*pool.SlotMS)
		bought := other.Parts[i].W * max(0, to-from) / 3600
		if y.W > 0 {
			o.MinMWh += bought
		} else {
			o.MaxMWh -= bought
		}
	}
	return true
}

// controls are what an event's sessions are told, leaves of one anchored root.
func (e *event) controls(x *pool.Instruction) ([]*grid.Control, *pool.Tree, error) {
	var list []*grid.Control
	var leaves [][]byte
	for _, p := range e.Parts {
		c := &grid.Control{Open: p.Open, From: x.From, To: x.To, SetW: p.SetW, Kind: grid.Level, Instruction: e.Hash}
		if p.SetW < 0 {
			c.Kind = grid.Discharge
		}
		leaf, err := c.Encode()
		if err != nil {
			return nil, nil, err
		}
		list, leaves = append(list, c), append(leaves, leaf)
	}
	return list, pool.NewTree(leaves), nil
}
