package settle

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"

	"gridveil/ledger"
	"gridveil/privacy/commit"
	"gridveil/privacy/session"
)

// maxPerPair is the most unsettled sessions of one payer: one batch of lines.
const maxPerPair = session.MaxLines

// pairOf names the sum that a session joins. The host's utility is never part
// of it: this aggregator settles by reimbursement.
type pairOf struct {
	cur   uint8
	payer ledger.PartyID
}

func (b *booking) pair() pairOf { return pairOf{b.Cur, b.Payer} }

// planCDRs releases queued sessions as one shuffled block once there are
// enough of them or the oldest has waited long enough. Sessions of a payer who
// is just asked to sign wait, or the sum would change under its hands.
func (d *Desk) planCDRs(now time.Time, v View) error {
	asked, load := map[pairOf]bool{}, map[pairOf]int{}
	for _, o := range d.orders {
		if o.Kind == orderSettle {
			asked[pairOf{o.Settle.Cur, o.Settle.Payer}] = true
		}
	}
	var ready []*booking
	oldest := now.UnixMilli()
	for _, b := range d.bookings {
		if b.State != queued {
			load[b.pair()]++
		} else if !asked[b.pair()] {
			ready = append(ready, b)
			oldest = min(oldest, b.At)
		}
	}
	enough := d.cfg.ReleaseMin
	if enough == 0 {
		enough = int(v.Params().MinBatch)
	}
	if len(ready) == 0 || len(ready) < enough && now.UnixMilli()-oldest < d.cfg.ReleaseAfter.Milliseconds() {
		return nil
	}
	// The map's order is random but not uniformly so.
	slices.SortFunc(ready, func(a, b *booking) int { return slices.Compare(a.Session[:], b.Session[:]) })
	if err := shuffle(d.cfg.Rand, ready); err != nil {
		return err
	}
	var s step
	var list []*order
	for _, b := range ready {
		if load[b.pair()]++; load[b.pair()] > maxPerPair {
			continue
		}
		x := &b.settled
		list = append(list, &order{Kind: orderCDR, Sessions: []name{b.Session}, CDR: &ledger.CDR{Cur: b.Cur,
			Bucket: v.OpenBucket(b.Cur, b.Payer, 0), Payer: b.Payer, Ref: x.Ref, Evidence: x.Evidence, Commit: x.Commit}})
		d.move(&s, b.in(ordered))
	}
	if len(list) == 0 {
		return nil
	}
	d.open(&s, list...)
	return d.do(s)
}

// shuffle is Fisher and Yates' with uniform draws.
func shuffle[T any](rnd io.Reader, list []T) error {
	for i := len(list) - 1; i > 0; i-- {
		j, err := rand.Int(rnd, big.NewInt(int64(i+1)))
		if err != nil {
			return fmt.Errorf("shuffle: %w", err)
		}
		list[i], list[j.Int64()] = list[j.Int64()], list[i]
	}
	return nil
}

// planSettles proposes to open the sum of every payer that is large or old
// enough, and whose entries are all in the log.
func (d *Desk) planSettles(_ time.Time, v View) error {
	pairs, busy := map[pairOf][]*booking{}, map[pairOf]bool{}
	for _, b := range d.bookings {
		if b.State == posted {
			pairs[b.pair()] = append(pairs[b.pair()], b)
		}
		if b.State == ordered || b.State == proposed {
			busy[b.pair()] = true
		}
	}
	for _, o := range d.orders {
		if o.Kind == orderHold && !o.Posted {
			busy[d.bookings[o.Sessions[0]].pair()] = true
		}
	}
	keys := make([]pairOf, 0, len(pairs))
	for k := range pairs {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b pairOf) int { return cmp.Or(cmp.Compare(a.cur, b.cur), cmp.Compare(a.payer, b.payer)) })
	for _, k := range keys {
		if busy[k] {
			continue
		}
		if err := d.propose(v, k, pairs[k]); err != nil {
			return err
		}
	}
	return nil
}

// propose makes one settle order if the ledger would take it.
func (d *Desk) propose(v View, k pairOf, list []*booking) error {
	to, p := v.Bucket(), v.Params()
	list = slices.DeleteFunc(list, func(b *booking) bool {
		_, state := v.Session(b.settled.Ref)
		return b.Bucket > to || state != ledger.CDROpen // a case holds it
	})
	n, oldest, _ := v.Unsettled(k.cur, k.payer, 0, to)
	if n == 0 || n != uint64(len(list)) || n < p.MinBatch && uint64(to-oldest) < p.MaxWait {
		return nil
	}
	var sum commit.Values
	var blind [commit.Size]byte
	lines := make([]session.Line, 0, len(list))
	for i, b := range list {
		var ok bool
		if sum, ok = sum.Plus(b.settled.Values); !ok {
			return fmt.Errorf("settle: sum of %d sessions overflows", len(list))
		}
		var err error
		if blind, err = addBlind(blind, b.settled.Blind, i == 0); err != nil {
			return fmt.Errorf("settle: stored blind: %w", err)
		}
		lines = append(lines, b.settled.Line)
	}
	body := &ledger.Settle{Cur: k.cur, Payer: k.payer, To: to, N: uint32(n), Pay: sum.Pay, Earn: sum.Earn,
		GridPay: sum.GridPay, Energy: sum.Energy, Blind: blind}
	iso := d.cfg.Currencies[k.cur].ISO4217
	batch, err := session.NewBillBatch(d.cfg.Session.Net, d.cfg.Session.Key, d.cfg.Session.ID, iso, BodyHash(body), lines)
	if err != nil {
		return fmt.Errorf("settle: bill batch: %w", err)
	}
	o := &order{Kind: orderSettle, Settle: body, Batch: batch.Bytes()}
	var s step
	for _, b := range list {
		o.Sessions = append(o.Sessions, b.Session)
		d.move(&s, b.in(proposed))
	}
	slices.SortFunc(o.Sessions, func(a, b name) int { return slices.Compare(a[:], b[:]) })
	d.open(&s, o)
	return d.do(s)
}

func addBlind(sum, b [commit.Size]byte, first bool) ([commit.Size]byte, error) {
	if first {
		return b, nil
	}
	return commit.AddBlinds(sum, b)
}

// BodyHash names a settle entry before it has a number: SHA-256 over
// "gridveil/settle/v1\0" and the entry's body. It is BillBatch.Settle.
func BodyHash(s *ledger.Settle) [32]byte {
	return sum256([]byte("gridveil/settle/v1\x00"), ledger.EncodeBody(s))
}

// Countersign is the payer's side of a settle order: it checks the batch and
// that the entry opens to exactly its lines. No rejects and no error: the payer
// may sign the entry, and bills the lines once it is final. With rejects it
// signs nothing and sends them back. An error wraps session.ErrMismatch,
// ErrMalformed or ErrSignature: the proposal as a whole is refused.
//
// self is the payer's party, iso the ISO 4217 number of the entry's currency.
func Countersign(u *session.Biller, batch []byte, body *ledger.Settle, self ledger.PartyID, iso uint16) ([]session.LineReject, error) {
	b, sum, rejects, err := u.Check(batch)
	if err != nil {
		return nil, err
	}
	switch {
	case body.Payer != self || b.Currency != iso || b.Settle != BodyHash(body):
		return nil, fmt.Errorf("%w: bill lines are for another settle entry", session.ErrMismatch)
	case len(rejects) > 0:
		return rejects, nil
	case body.N != uint32(sum.Lines) || body.Pay != sum.Pay || body.Energy != sum.Energy:
		return nil, fmt.Errorf("%w: the settle entry does not open to its bill lines", session.ErrMismatch)
	}
	return nil, nil
}

// holds makes the orders that take refused sessions out of the sum: up to 8 in
// one case.
func (d *Desk) holds(o *order, refused map[name]bool) ([]*order, error) {
	var out []*order
	for _, n := range o.Sessions {
		if !refused[n] {
			continue
		}
		if len(out) == 0 || len(out[len(out)-1].Sessions) == ledger.MaxRefs {
			c := &ledger.Dispute{Asks: ledger.CaseHold, Reason: ledger.ReasonPayment, Utility: o.Settle.Payer}
			for _, field := range [][]byte{c.Case[:], c.Evidence[:]} {
				if _, err := io.ReadFull(d.cfg.Rand, field); err != nil {
					return nil, fmt.Errorf("draw case: %w", err)
				}
			}
			out = append(out, &order{Kind: orderHold, Dispute: c})
		}
		last := out[len(out)-1]
		last.Sessions = append(last.Sessions, n)
		last.Dispute.Refs = append(last.Dispute.Refs, d.bookings[n].settled.Ref)
	}
	return out, nil
}

// drop cancels held sessions and pays their households from the aggregator's
// own book: the receipt was given, the host's notes are good.
func (d *Desk) drop(s *step, o *order) {
	list := []*order{{Kind: orderDrop, End: &ledger.End{Case: o.Dispute.Case, Outcome: ledger.Cancel}}}
	for _, n := range o.Sessions {
		b := d.bookings[n]
		if b.settled.Values.Earn == 0 {
			d.move(s, b.in(borne))
			continue
		}
		list = append(list, &order{Kind: orderBear, Sessions: []name{n}, Transfer: &ledger.Transfer{From: ledger.OpenAccount(1, b.Cur),
			To: ledger.EarnedAccount(b.Cur), X: b.settled.Values.Earn, Purpose: ledger.PurposeCorrection,
			Ref: sum256(b.settled.Ref[:], o.Dispute.Case[:])}})
	}
	d.open(s, list...)
}
