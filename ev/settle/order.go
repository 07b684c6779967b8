package settle

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/ledger"
	"gridveil/privacy/commit"
	"gridveil/privacy/session"
)

// View is what the desk reads of the ledger's newest accepted state;
// *ledger.State has all of it.
type View interface {
	Bucket() uint32
	OpenBucket(cur uint8, payer, grid ledger.PartyID) uint32
	Unsettled(cur uint8, payer, grid ledger.PartyID, to uint32) (n uint64, oldest uint32, sum commit.Sum)
	Session(ref ledger.Hash) (index uint64, state ledger.CDRState)
	Params() ledger.Params
}

// Order is an entry that the aggregator has to post. Post each ID once: store
// the signed entry under the ID before it is sent, and send those bytes again
// after a crash.
type Order struct {
	ID   [32]byte
	Body ledger.Body
	// Payer, if not 0, must sign besides the aggregator. It is shown Batch, the
	// bill lines behind the sum, sealed to its bill key.
	Payer ledger.PartyID
	Batch []byte
}

// ErrOrder says that the desk has no open order with this id.
var ErrOrder = errors.New("no such order; plan again")

// orderKind says what an order is for.
type orderKind string

const (
	orderCDR    orderKind = "cdr"
	orderSettle orderKind = "settle"
	orderLock   orderKind = "lock"  // redeem of a host's locked notes
	orderSwap   orderKind = "swap"  // redeem of swapped notes
	orderIssue  orderKind = "issue" // notes for collects and swaps
	orderHold   orderKind = "hold"  // a refused line's session leaves the sum
	orderDrop   orderKind = "drop"  // and is cancelled
	orderBear   orderKind = "bear"  // the aggregator pays the household instead
)

// order is an Order from Plan until its entry is final.
type order struct {
	ID     name
	No     uint64 // place in the sequence in which orders are handed out
	Kind   orderKind
	Posted bool
	Index  uint64

	CDR      *ledger.CDR      `json:",omitempty"`
	Settle   *ledger.Settle   `json:",omitempty"`
	Issue    *ledger.Issue    `json:",omitempty"`
	Redeem   *ledger.Redeem   `json:",omitempty"`
	Dispute  *ledger.Dispute  `json:",omitempty"`
	End      *ledger.End      `json:",omitempty"`
	Transfer *ledger.Transfer `json:",omitempty"`

	Sessions []name   `json:",omitempty"` // that the entry concerns
	Claims   []string `json:",omitempty"` // of an issue, in the order of its leaves
	Salts    []name   `json:",omitempty"` // of those leaves
	Batch    []byte   `json:",omitempty"`
}

func (o *order) body() ledger.Body {
	switch o.Kind {
	case orderCDR:
		return o.CDR
	case orderSettle:
		return o.Settle
	case orderLock, orderSwap:
		return o.Redeem
	case orderIssue:
		return o.Issue
	case orderHold:
		return o.Dispute
	case orderDrop:
		return o.End
	}
	return o.Transfer
}

func (o *order) write() Write { return Write{Key: under(keyOrder, o.ID[:]), Value: encode(o)} }

func (o *order) remove() Write { return Write{Key: under(keyOrder, o.ID[:])} }

// number completes new orders; meta must be committed with them.
func (d *Desk) number(m *meta, list ...*order) {
	for _, o := range list {
		m.Orders++
		o.No = m.Orders
		o.ID = sum256([]byte("gridveil/order/v1\x00"), binary.BigEndian.AppendUint64(nil, o.No), []byte(o.Kind), ledger.EncodeBody(o.body()))
	}
}

// Plan decides what has to be posted now and returns every order that is not
// posted yet, oldest first. Calling it again changes nothing by itself.
func (d *Desk) Plan(now time.Time, v View) ([]Order, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, plan := range []func(time.Time, View) error{d.planCDRs, d.planSettles, d.planIssues} {
		if err := plan(now, v); err != nil {
			return nil, err
		}
	}
	open := make([]*order, 0, len(d.orders))
	for _, o := range d.orders {
		if !o.Posted {
			open = append(open, o)
		}
	}
	slices.SortFunc(open, func(a, b *order) int { return cmp.Compare(a.No, b.No) })
	out := make([]Order, 0, len(open))
	for _, o := range open {
		x := Order{ID: o.ID, Body: o.body(), Batch: o.Batch}
		if o.Kind == orderSettle {
			x.Payer = o.Settle.Payer
		}
		out = append(out, x)
	}
	return out, nil
}

// step collects writes and the changes of memory that follow their commit.
type step struct {
	writes []Write
	then   []func()
}

func (s *step) add(w Write, then func()) {
	s.writes = append(s.writes, w)
	s.then = append(s.then, then)
}

// do commits a step, then changes memory.
func (d *Desk) do(s step) error {
	if err := d.commit(s.writes); err != nil {
		return err
	}
	for _, f := range s.then {
		f()
	}
	return nil
}

// open adds new orders to a step.
func (d *Desk) open(s *step, list ...*order) {
	m := meta{Orders: d.meta.Orders, Issued: d.meta.Issued}
	d.number(&m, list...)
	for _, o := range list {
		s.add(o.write(), func() { d.orders[o.ID] = o })
	}
	s.add(m.write(), func() { d.meta = m })
}

// move adds a booking's new state to a step.
func (d *Desk) move(s *step, b *booking) {
	s.add(b.write(), func() {
		if b.State == settled || b.State == borne {
			delete(d.bookings, b.Session)
			return
		}
		d.bookings[b.Session] = b
	})
}

// close removes an order in a step.
func (d *Desk) close(s *step, o *order) {
	s.add(o.remove(), func() { delete(d.orders, o.ID) })
}

func (d *Desk) find(id [32]byte) (*order, error) {
	o, ok := d.orders[id]
	if !ok {
		return nil, ErrOrder
	}
	return o, nil
}

// Posted says that the ledger has accepted an order's entry at index. Saying it
// again changes nothing.
func (d *Desk) Posted(id [32]byte, index uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, err := d.find(id)
	if err != nil || o.Posted {
		return err
	}
	c := *o
	c.Posted, c.Index = true, index
	var s step
	s.add(c.write(), func() { d.orders[c.ID] = &c })
	switch o.Kind {
	case orderCDR:
		b := d.bookings[o.Sessions[0]].in(posted)
		b.Bucket, b.Index = o.CDR.Bucket, index
		d.move(&s, b)
		d.close(&s, &c) // nothing waits for a cdr entry to be final
	case orderHold:
		for _, n := range o.Sessions {
			d.move(&s, d.bookings[n].in(held))
		}
	}
	return d.do(s)
}

// Refused says that the ledger refused an order's entry for good (retry after
// ledger.ErrBusy and the like instead). What it was for is planned anew or
// given up, whichever the cause allows.
func (d *Desk) Refused(id [32]byte, cause error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, err := d.find(id)
	if err != nil {
		return err
	}
	if o.Posted {
		return fmt.Errorf("%w: it was posted", ErrOrder)
	}
	var s step
	switch o.Kind {
	case orderCDR:
		var dup *ledger.DuplicateError
		if errors.As(cause, &dup) { // its entry is in the log already
			b := d.bookings[o.Sessions[0]].in(posted)
			b.Bucket, b.Index = o.CDR.Bucket, dup.Index
			d.move(&s, b)
		} else {
			d.move(&s, d.bookings[o.Sessions[0]].in(queued))
		}
	case orderSettle:
		for _, n := range o.Sessions {
			d.move(&s, d.bookings[n].in(posted))
		}
	case orderLock:
		d.refuseLock(&s, o)
	case orderSwap:
		d.loseSwap(&s, o)
	case orderIssue:
		d.regroup(&s, o)
	default:
		return fmt.Errorf("settle: %s entry refused, an operator must act: %w", o.Kind, cause)
	}
	d.close(&s, o)
	return d.do(s)
}

// Final says that every entry below size is final. Locks are confirmed, notes
// signed and answers made ready; they go out when their request comes again.
func (d *Desk) Final(now time.Time, size uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var due []*order
	for _, o := range d.orders {
		if o.Posted && o.Index < size {
			due = append(due, o)
		}
	}
	slices.SortFunc(due, func(a, b *order) int { return cmp.Compare(a.No, b.No) })
	for _, o := range due {
		if err := d.finish(now, o); err != nil {
			return fmt.Errorf("settle: finish %s of entry %d: %w", o.Kind, o.Index, err)
		}
	}
	return nil
}

// finish does what an entry's finality allows.
func (d *Desk) finish(now time.Time, o *order) error {
	var s step
	switch o.Kind {
	case orderSettle:
		for _, n := range o.Sessions {
			d.move(&s, d.bookings[n].in(settled))
		}
	case orderLock:
		if err := d.confirmLock(&s, now, o); err != nil {
			return err
		}
	case orderSwap:
		d.fundSwap(&s, o)
	case orderIssue:
		if err := d.answer(&s, now, o); err != nil {
			return err
		}
	case orderHold:
		d.drop(&s, o)
	case orderBear:
		for _, n := range o.Sessions {
			d.move(&s, d.bookings[n].in(borne))
		}
	}
	d.close(&s, o)
	return d.do(s)
}

// Rejected takes the refusals that a payer sent for a settle order, instead of
// its signature. Each is verified under the payer's key. The sessions behind
// the lines leave the payer's sum and are cancelled, their household is paid
// by the aggregator, and the rest is proposed again.
func (d *Desk) Rejected(id [32]byte, payerKey [32]byte, list []session.LineReject) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, err := d.find(id)
	if err != nil {
		return err
	}
	if o.Kind != orderSettle || o.Posted || len(list) == 0 {
		return fmt.Errorf("%w: not an open proposal", ErrOrder)
	}
	refused := map[name]bool{}
	for i := range list {
		if err := list[i].Verify(d.cfg.Session.Net, payerKey); err != nil {
			return err
		}
		n, ok := d.sessionOf(o, list[i].Line)
		if !ok {
			return fmt.Errorf("%w: refused line is not in the proposal", session.ErrMismatch)
		}
		refused[n] = true
	}
	var s step
	holds, err := d.holds(o, refused)
	if err != nil {
		return err
	}
	for _, n := range o.Sessions {
		if !refused[n] {
			d.move(&s, d.bookings[n].in(posted))
		}
	}
	d.open(&s, holds...)
	d.close(&s, o)
	return d.do(s)
}

func (d *Desk) sessionOf(o *order, line [32]byte) (name, bool) {
	for _, n := range o.Sessions {
		if d.bookings[n].settled.Line.Hash() == line {
			return n, true
		}
	}
	return name{}, false
}
