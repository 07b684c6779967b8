package utility

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/session"
)

// rowsKept is how long rows outlive their epoch: records come up to 60 days late.
const rowsKept = 62 * 24 * time.Hour

// proposal is a settle entry that an aggregator asked us to sign.
type proposal struct {
	State proposalState
	Seq   uint64         // the aggregator's number in the entry that we signed, 0 if none may still be entered
	Lines []session.Line // checked against our rows
	Body  *ledger.Settle // that opens to them
	At    int64          // UTC ms
}

type proposalState string

const (
	proposed proposalState = "proposed" // checked, not signed
	signed   proposalState = "signed"   // our signature is out: its rows may be in no other
	billed   proposalState = "billed"   // final, and on the drivers' bills
)

func proposalKey(h [32]byte) []byte { return store.SpaceBill.Key([]byte("prop"), h[:]) }

// Lines of a full batch exceed one value, so they are kept in parts.
const linesPerPart = 500

func linesKey(h [32]byte, part uint16) []byte {
	return store.SpaceBill.Key([]byte("pline"), h[:], store.U16(part))
}

func (s *settlement) loadProposals() error {
	prefix := store.SpaceBill.Key([]byte("prop"))
	return s.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(prefix, func(k, v []byte) error {
			var p proposal
			if err := json.Unmarshal(v, &p); err != nil || len(k) != len(prefix)+32 {
				return fmt.Errorf("stored proposal: %w", err)
			}
			if p.State == signed && p.Seq != 0 {
				s.bind(p.Seq, [32]byte(k[len(prefix):]))
			}
			return nil
		})
	})
}

// getProposal reads a proposal, with its lines.
func getProposal(tx *store.Tx, h [32]byte) (p proposal, err error) {
	b, err := tx.Get(proposalKey(h))
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("stored proposal: %w", err)
	}
	err = tx.Each(store.SpaceBill.Key([]byte("pline"), h[:]), func(_, v []byte) error {
		for ; len(v) >= session.LineSize; v = v[session.LineSize:] {
			l, err := session.ParseLine(v[:session.LineSize])
			if err != nil {
				return fmt.Errorf("stored line: %w", err)
			}
			p.Lines = append(p.Lines, l)
		}
		return nil
	})
	return p, err
}

// putProposal writes a proposal; its lines only when it is new.
func putProposal(tx *store.Tx, h [32]byte, p proposal, lines bool) error {
	all := p.Lines
	p.Lines = nil
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := tx.Set(proposalKey(h), b); err != nil || !lines {
		return err
	}
	for part := uint16(0); len(all) > 0; part++ {
		n := min(len(all), linesPerPart)
		var v []byte
		for i := range all[:n] {
			v = append(v, all[i].Bytes()...)
		}
		if err := tx.Set(linesKey(h, part), v); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// lines answers an aggregator's settlement calls.
func (s *settlement) lines(_ context.Context, from mesh.Member, op byte, body []byte) ([]byte, error) {
	switch op {
	case party.OpPropose:
		return s.propose(from, body)
	case party.OpCosign:
		return s.cosign(body)
	case party.OpDelivered:
		return s.delivered(from, body)
	}
	return nil, party.ErrCall
}

// propose checks a batch of lines and the sum behind it.
func (s *settlement) propose(from mesh.Member, b []byte) ([]byte, error) {
	body, box, err := party.ParseProposal(b)
	if err != nil {
		return nil, err
	}
	batch, err := s.openBatch(box)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	biller, err := s.biller(from)
	if err != nil {
		return nil, err
	}
	rejects, err := settle.Countersign(biller, batch, body, s.party.ID(), ask.Currency)
	if err != nil {
		return nil, err
	}
	if len(rejects) > 0 {
		s.env.Log.Warn("bill lines refused", "lines", len(rejects))
		return party.Verdict(rejects), nil
	}
	parsed, err := session.ParseBillBatch(batch)
	if err != nil {
		return nil, err
	}
	h := settle.BodyHash(body)
	return party.Verdict(nil), s.env.Store.Update(func(tx *store.Tx) error {
		known, err := tx.Has(proposalKey(h))
		if err != nil || known {
			return err // the same proposal again
		}
		return putProposal(tx, h, proposal{State: proposed, Lines: parsed.Lines, Body: body, At: s.env.Clock.Now().UnixMilli()}, true)
	})
}

// openBatch opens a batch sealed to this month's bill key or the last one's.
func (s *settlement) openBatch(box []byte) ([]byte, error) {
	now := s.env.Clock.Now()
	key, err := s.env.Keys.Box(keys.Bill, now)
	if err != nil {
		return nil, err
	}
	batch, _, err := privacy.Open(key, privacy.KindBillBatch, s.env.Net, box)
	if !errors.Is(err, privacy.ErrOpen) {
		return batch, err
	}
	if key, err = s.env.Keys.BoxOf(keys.Bill, keys.Bill.Period(now)-1); err != nil {
		return nil, fmt.Errorf("bill batch: %w", privacy.ErrOpen)
	}
	batch, _, err = privacy.Open(key, privacy.KindBillBatch, s.env.Net, box)
	return batch, err
}

// biller checks lines against our rows. A row that we signed for and that is not
// billed yet counts as billed in any other proposal. The caller holds mu.
func (s *settlement) biller(from mesh.Member) (*session.Biller, error) {
	h, ok := s.env.Dir.One(member.RoleAggregator, from.Operator)
	if !ok {
		return nil, ask.ErrNoOperator
	}
	record, ok := h.Sheet.At(keys.Record, s.env.Clock.Now())
	if !ok || len(record) != 32 {
		return nil, ask.ErrNoOperator
	}
	key, err := s.env.Keys.Signer(keys.Entry, s.env.Clock.Now())
	if err != nil {
		return nil, err
	}
	return &session.Biller{Net: s.env.Net, EVAGG: s.env.Operator(from.Operator), Key: [32]byte(record), Sign: key, Row: func(bpk [32]byte) (r session.Row, ok bool) {
		err := s.env.Store.View(func(tx *store.Tx) error {
			x, err := getRow(tx, bpk)
			if err != nil {
				return err
			}
			r = session.Row{Epoch: x.Epoch, Limit: x.Limit, Billed: x.Billed}
			return nil
		})
		return r, err == nil
	}}, nil
}

// cosign signs a settle entry that opens to lines which we checked. Its rows are
// pledged to it before the signature leaves; while it may still be entered they
// stand in no other, nor is the same sum signed under another number.
func (s *settlement) cosign(b []byte) ([]byte, error) {
	e, err := ledger.Parse(b)
	if err != nil {
		return nil, err
	}
	body, ok := e.Body().(*ledger.Settle)
	if !ok || e.Party() != 1 || body.Payer != s.party.ID() || body.Payer == 0 {
		return nil, errNotHere
	}
	key, err := s.env.Keys.Signer(keys.Entry, s.env.Clock.Now())
	if err != nil {
		return nil, err
	}
	origin := ""
	s.party.Read(func(st *ledger.State) { origin = st.Ledger() })
	s.mu.Lock()
	defer s.mu.Unlock()
	h := settle.BodyHash(body)
	err = s.env.Store.Update(func(tx *store.Tx) error { return s.pledge(tx, h, e.Seq()) })
	if err != nil {
		return nil, err
	}
	s.bind(e.Seq(), h)
	if err := ledger.Sign(e, origin, key); err != nil {
		return nil, err
	}
	return e.Bytes(), nil
}

func (s *settlement) pledge(tx *store.Tx, h [32]byte, seq uint64) error {
	p, err := getProposal(tx, h)
	if errors.Is(err, store.ErrNotFound) {
		return errors.New("the lines behind this entry were not shown; propose them first")
	}
	if err != nil {
		return err
	}
	switch {
	case p.State == billed:
		return errors.New("this sum is settled already")
	case p.State == signed && p.Seq != seq && p.Seq != 0:
		return &mesh.BusyError{After: again} // until the ledger shows who has that number
	case p.State == signed && p.Seq == seq:
		return nil
	}
	for i := range p.Lines {
		r, err := getRow(tx, p.Lines[i].BPK)
		if err != nil {
			return err
		}
		if r.Billed || r.Pledged != [32]byte{} && r.Pledged != h {
			return errors.New("a line of this sum stands in another one")
		}
		if r.Pledged == h {
			continue
		}
		r.Pledged = h
		if err := putRow(tx, p.Lines[i].BPK, r); err != nil {
			return err
		}
	}
	p.State, p.Seq = signed, seq
	return putProposal(tx, h, p, false)
}

// bind remembers under which number a sum is signed. The caller holds mu.
func (s *settlement) bind(seq uint64, h [32]byte) {
	if !slices.Contains(s.signed[seq], h) {
		s.signed[seq] = append(s.signed[seq], h)
	}
}

// superseded frees the rows of sums whose number the aggregator used for another
// entry: what we signed can never be entered. The log is read in order, so that
// lower numbers than e's are used up as well; a sum may have been signed after
// its number had passed here. The caller holds mu.
func (s *settlement) superseded(e *ledger.Entry) error {
	var own [32]byte // of the sum that e enters
	if b, ok := e.Body().(*ledger.Settle); ok {
		own = settle.BodyHash(b)
	}
	for seq, list := range s.signed {
		if seq > e.Seq() {
			continue
		}
		entered := seq == e.Seq() && slices.Contains(list, own) // to be billed next
		for _, h := range list {
			if entered && h == own {
				continue
			}
			if err := s.release(h, seq); err != nil {
				return err
			}
		}
		if entered {
			s.signed[seq] = [][32]byte{own}
		} else {
			delete(s.signed, seq)
		}
	}
	return nil
}

// release makes a sum that was signed under seq a mere proposal again.
func (s *settlement) release(h [32]byte, seq uint64) error {
	return s.env.Store.Update(func(tx *store.Tx) error {
		p, err := getProposal(tx, h)
		if errors.Is(err, store.ErrNotFound) || err == nil && (p.State != signed || p.Seq != seq) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range p.Lines {
			r, err := getRow(tx, p.Lines[i].BPK)
			if err != nil {
				return err
			}
			if r.Pledged != h {
				continue
			}
			r.Pledged = [32]byte{}
			if err := putRow(tx, p.Lines[i].BPK, r); err != nil {
				return err
			}
		}
		p.State, p.Seq = proposed, 0
		return putProposal(tx, h, p, false)
	})
}

// billLine is one session on a driver's bill: nothing but day, energy, amount.
type billLine struct {
	Day      int64 // UTC ms, begin of the settlement day
	In, Out  int64 // mWh
	Total    int64 // millionths
	Currency uint16
}

func billKey(handle [16]byte, bpk [32]byte) []byte {
	return store.SpaceBill.Key([]byte("line"), handle[:], bpk[:])
}

// bill puts the lines of a final settle entry on the drivers' bills, once. The
// caller holds mu.
func (s *settlement) bill(body *ledger.Settle) error {
	h := settle.BodyHash(body)
	day := s.day()
	n, unknown := 0, false
	err := s.env.Store.Update(func(tx *store.Tx) error {
		p, err := getProposal(tx, h)
		if errors.Is(err, store.ErrNotFound) {
			unknown = true
			return nil
		}
		if err != nil || p.State == billed {
			return err
		}
		for i := range p.Lines {
			if err := s.billOne(tx, &p.Lines[i], day); err != nil {
				return err
			}
		}
		n = len(p.Lines)
		p.State = billed
		return putProposal(tx, h, p, false)
	})
	if err == nil && n > 0 {
		s.env.Log.Info("sessions billed", "lines", n)
	}
	if unknown {
		s.env.Warn.Raise(role.Warning{Code: "settlement-unknown", Severity: role.Problem, Title: "A settlement is final that this node does not know",
			Text: "This utility's signature stands under a sum on the ledger, but the lines behind it are not in this node's store: drivers cannot be billed for it.",
			Next: "This happens after a store was lost. Restore it from the last copy, or ask the aggregator for the lines."}, s.env.Clock.Now())
	}
	return err
}

func (s *settlement) billOne(tx *store.Tx, l *session.Line, day int64) error {
	r, err := getRow(tx, l.BPK)
	if err != nil {
		return fmt.Errorf("row of a settled line: %w", err) // cosign has read it, and rows outlive what may be settled
	}
	if r.Billed {
		return nil
	}
	r.Billed, r.Pledged = true, [32]byte{}
	if err := putRow(tx, l.BPK, r); err != nil {
		return err
	}
	b, err := json.Marshal(billLine{Day: day, In: l.In, Out: l.Out, Total: l.Total, Currency: l.Currency})
	if err != nil {
		return err
	}
	return tx.Set(billKey(r.Contract, l.BPK), b)
}

// day is the beginning of the log's settlement day.
func (s *settlement) day() (ms int64) {
	s.party.Read(func(st *ledger.State) { ms = int64(uint64(st.Bucket()) * st.Params().BucketMs) })
	return ms
}

// DriverLine is one session as a driver's bill shows it.
type DriverLine struct {
	Day   time.Time `json:"day"`
	In    int64     `json:"in_mwh"`
	Out   int64     `json:"out_mwh"`
	Total int64     `json:"total_micro"`
}

// DriverBill is a driver's bill: days, energies and amounts; no place, no hour,
// no host.
type DriverBill struct {
	Contract string       `json:"contract"`
	Lines    []DriverLine `json:"lines"`
	Total    int64        `json:"total_micro"`
	Credits  int64        `json:"credits_micro"` // notes redeemed
}

// DriverBill sums up a driver's contract. Lines of one day come in random order.
func (u *Utility) DriverBill(lk member.Key) (DriverBill, error) {
	s := u.settlement
	handle := s.handle(lk)
	s.mu.Lock()
	_, known := s.drivers[handle]
	s.mu.Unlock()
	if !known {
		return DriverBill{}, errors.New("no such contract")
	}
	b := DriverBill{Contract: fmt.Sprintf("%x", handle)}
	err := s.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceBill.Key([]byte("line"), handle[:]), func(_, v []byte) error {
			var l billLine
			if err := json.Unmarshal(v, &l); err != nil {
				return fmt.Errorf("stored line: %w", err)
			}
			b.Lines = append(b.Lines, DriverLine{Day: time.UnixMilli(l.Day).UTC(), In: l.In, Out: l.Out, Total: l.Total})
			b.Total += l.Total
			return nil
		})
	})
	if err != nil {
		return b, err
	}
	b.Credits, err = s.creditsOf(handle)
	return b, err
}
