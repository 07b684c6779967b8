package party

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/mesh"
	"gridveil/node/role"
)

// Teller compares bank statements of an operator with the payments of the
// ledger's closes, and enters what the statements show: `paid` for what arrived,
// `failed` for what was sent back or never came. The payee signs both; failed
// ones are signed by the aggregator as well.
type Teller struct {
	Env  *role.Env
	Key  ed25519.PrivateKey // of entries; salts of the bank's references come from it
	Copy func() (Copy, bool)
	Me   func() ledger.PartyID
	// Enter puts an entry on the ledger, once per id, and says where it stands.
	Enter func(ctx context.Context, id [32]byte, body ledger.Body) (string, error)
}

// Reconciliation is what `gridveil ledger reconcile` prints.
type Reconciliation struct {
	Operator  string         `json:"operator"`
	Message   string         `json:"message"` // "camt.053.001.08"
	Day       uint64         `json:"settlement_day"`
	Rows      []ReconcileRow `json:"rows"`
	Others    int            `json:"others"`    // bookings that carry no id of ours
	Proposals int            `json:"proposals"` // rows that lead to an entry
	Entered   bool           `json:"entered"`   // they were handed to the ledger
}

// ReconcileRow is one payment, one booking, or both.
type ReconcileRow struct {
	Verdict  export.Verdict `json:"verdict"`
	Period   uint32         `json:"period,omitempty"` // of the close, 0 without a payment
	No       uint16         `json:"payment,omitempty"`
	Payer    string         `json:"payer,omitempty"`
	Payee    string         `json:"payee,omitempty"`
	Due      string         `json:"due,omitempty"`    // "EUR 6.40"
	Booked   string         `json:"booked,omitempty"` // what the statement says
	Line     int            `json:"line,omitempty"`   // of the statement
	EndToEnd string         `json:"end_to_end_id"`
	Entry    string         `json:"entry,omitempty"` // kind that is proposed
	State    string         `json:"state,omitempty"` // of the proposed entry, once handed over
	Text     string         `json:"text,omitempty"`
}

// ErrNotRegistered means that this operator is not on the ledger yet.
var ErrNotRegistered = errors.New("this operator is not on the ledger yet\nnext: wait until the aggregator has registered it; `gridveil ledger show` lists the ledger")

// Reconcile compares a statement with the ledger, and with post enters what it
// proposes; the same statement again enters nothing more. overdue proposes
// `failed` for what is due, missing in the statement and beyond its grace time.
func (t *Teller) Reconcile(ctx context.Context, s *export.BankStatement, overdue, post bool) (r Reconciliation, err error) {
	c, ok := t.Copy()
	if !ok {
		return r, ErrNoLedger
	}
	me := t.Me()
	if me == 0 {
		return r, ErrNotRegistered
	}
	all, err := c.Expected()
	if err != nil {
		return r, err
	}
	var cur []ledger.Currency
	bucket := uint64(0)
	c.Read(func(st *ledger.State) { cur, bucket = st.Currencies(), uint64(st.Bucket()) })
	names := c.names()
	r = Reconciliation{Operator: names[me], Message: s.Message, Day: bucket, Rows: []ReconcileRow{}, Others: s.Others, Entered: post}
	for _, m := range export.Reconcile(me, t.Env.Config.Ledger.IBAN, all, s, bucket) {
		row := rowOf(m, names, cur)
		if body := m.Proposal(bucket, overdue); body != nil {
			r.Proposals++
			row.Entry = body.Kind().String()
			if post {
				if row.State, err = t.enter(ctx, m, body); err != nil {
					return r, err
				}
			}
		}
		r.Rows = append(r.Rows, row)
	}
	return r, nil
}

// enter completes and enters a proposal.
func (t *Teller) enter(ctx context.Context, m export.Match, body ledger.Body) (string, error) {
	p := m.Payment
	name := fmt.Appendf(nil, "%s %d %d %d", body.Kind(), p.Cur, p.Period, p.No)
	if b, ok := body.(*ledger.Paid); ok {
		salt, err := hkdf.Key(sha256.New, t.Key.Seed(), nil, "gridveil/bank-ref/1/"+p.EndToEnd, 32)
		if err != nil {
			return "", fmt.Errorf("salt of a bank reference: %w", err)
		}
		b.BankRef = ledger.Salted(ledger.Hash(salt), []byte(m.Booking.Ref))
	}
	return t.Enter(ctx, ledger.Salted(ledger.Hash{}, name), body)
}

// rowOf puts a match into words.
func rowOf(m export.Match, names map[ledger.PartyID]string, cur []ledger.Currency) ReconcileRow {
	row := ReconcileRow{Verdict: m.Verdict, Text: m.Text}
	if p := m.Payment; p != nil {
		row.Period, row.No, row.Payer, row.Payee = p.Period, p.No, names[p.Payer], names[p.Payee]
		row.Due, row.EndToEnd = Money(p.Micro, cur[p.Cur]), p.EndToEnd
	}
	if b := m.Booking; b != nil {
		sign := "-"
		if b.Credit {
			sign = "+"
		}
		row.Line, row.EndToEnd = b.Line, b.EndToEnd
		row.Booked = b.Currency + " " + sign + ledger.Amount(b.Micro)
		for _, c := range cur {
			if c.Code() == b.Currency {
				row.Booked = b.Currency + " " + sign + Money(b.Micro, c)[len(b.Currency)+1:]
			}
		}
	}
	return row
}

// Expected lists the payments of all final closes, oldest first, with the ids
// that they carry through the banks.
func (c Copy) Expected() (out []export.Expected, err error) {
	c.Read(func(s *ledger.State) {
		for i, cur := range s.Currencies() {
			for _, p := range s.Payments(uint8(i)) {
				out = append(out, export.Expected{Payment: p, Currency: cur.Code(), Micro: int64(p.Minor) * cur.Minor()})
			}
		}
	})
	leaves := map[uint64]ledger.Hash{}
	final := out[:0]
	for _, p := range out {
		if p.Close >= c.finalEnd() {
			continue // its payment file is not written before that
		}
		leaf, known := leaves[p.Close]
		if !known {
			raw, err := c.Entry(p.Close)
			if err != nil {
				return nil, fmt.Errorf("close of entry %d: %w", p.Close, err)
			}
			leaf = ledger.LeafHash(raw)
			leaves[p.Close] = leaf
		}
		p.EndToEnd = export.EndToEnd(leaf, int(p.No))
		final = append(final, p)
	}
	return final, nil
}

// Closings are the final closes of all currencies, as an export knows them.
func (c Copy) Closings() (out []export.Closing, err error) {
	last := uint64(math.MaxUint64)
	var indexes []uint64
	c.Read(func(s *ledger.State) {
		for i := range s.Currencies() {
			for _, p := range s.Payments(uint8(i)) {
				if p.Close != last && p.Close < c.finalEnd() {
					indexes = append(indexes, p.Close)
				}
				last = p.Close
			}
		}
	})
	slices.Sort(indexes)
	for _, index := range indexes {
		raw, err := c.Entry(index)
		if err != nil {
			return nil, fmt.Errorf("close of entry %d: %w", index, err)
		}
		e, err := ledger.Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("close of entry %d: %w", index, err)
		}
		body, ok := e.Body().(*ledger.Close)
		if !ok {
			return nil, fmt.Errorf("entry %d is no close: %w", index, ledger.ErrDamaged)
		}
		out = append(out, export.Closing{Close: *body, Index: index, Leaf: e.Leaf(), Time: c.timeOf(index, index+2)})
	}
	return out, nil
}

// Command answers `gridveil ledger reconcile`.
func (t *Teller) Command(ctx context.Context, in json.RawMessage) (any, error) {
	var q struct {
		Statement *export.BankStatement `json:"statement"`
		Overdue   bool                  `json:"overdue"`
		Post      bool                  `json:"post"`
	}
	if err := json.Unmarshal(in, &q); err != nil || q.Statement == nil {
		return nil, errors.New("want {statement, overdue, post}")
	}
	return t.Reconcile(ctx, q.Statement, q.Overdue, q.Post)
}

// Teller compares this operator's bank statements with the ledger.
func (p *Party) Teller() *Teller {
	return &Teller{Env: p.env, Key: p.key, Me: p.ID, Enter: p.enterAgain,
		Copy: func() (Copy, bool) { c := p.copy(); return c, c.Size > 0 }}
}

// maxRefused is how often an entry that was refused may be tried anew.
const maxRefused = 100

// enterAgain is Post for what an operator asks for: an entry that was refused
// before may be tried again under another id.
func (p *Party) enterAgain(_ context.Context, id [32]byte, body ledger.Body) (string, error) {
	for n := range maxRefused {
		next := ledger.Salted(id, fmt.Appendf(nil, "try %d", n))
		s, known := p.Posted(next)
		switch {
		case known && s.Refused:
			continue
		case known && s.Accepted:
			return fmt.Sprintf("entry %d", s.Index), nil
		case known:
			return "waits for the ledger", nil
		}
		return "goes onto the ledger", p.Post(next, body)
	}
	return "", errors.New("the ledger refused this entry too often; `gridveil status` and the log say why")
}

// countersigned has the aggregator sign an entry that needs it beside ours. done
// means that it refused for good.
func (p *Party) countersigned(ctx context.Context, o *out) (done bool, err error) {
	e, err := ledger.Parse(o.Raw)
	if err != nil {
		return false, fmt.Errorf("stored entry: %w", err)
	}
	if _, ok := e.Body().(*ledger.Failed); !ok || len(e.Sigs()) > 1 {
		return false, nil
	}
	p.mu.Lock()
	to := p.log.Peer
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b, err := p.env.Host.Call(ctx, to, mesh.LedgerSubmit, append([]byte{OpFailed}, e.Bytes()...))
	if errors.Is(err, mesh.ErrRefused) {
		return true, p.refuse(o, e, err)
	}
	if err != nil {
		return false, errWaits
	}
	signed, err := ledger.Parse(b)
	if err != nil {
		return true, p.refuse(o, e, err)
	}
	if signed, err = Merge(e, signed); err != nil {
		return true, p.refuse(o, e, err)
	}
	o.Raw = signed.Bytes()
	return false, p.keep(o)
}

// errWaits means that another operator cannot be asked now.
var errWaits = errors.New("another operator's signature is missing")
