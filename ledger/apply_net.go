package ledger

// closeKey names one close.
type closeKey struct {
	cur    uint8
	period uint32
}

// closeMark is the last close of a currency.
type closeMark struct {
	period uint32
	bucket uint32
}

// closeRecord holds the payments of a close until each is paid or failed, and
// after, so that none is confirmed twice.
type closeRecord struct {
	index  uint64
	bucket uint32
	pays   []payRecord
}

type payRecord struct {
	Pay
	state PayState
	index uint64 // entry that ended it
}

// PayState says how a payment of a close stands.
type PayState uint8

// States of a payment. Only a payment that is due can be confirmed or put back.
const (
	PayDue    PayState = iota // instructed, not confirmed
	PayPaid                   // the payee confirmed that it arrived
	PayFailed                 // back on the open books
)

// String is the word of a list.
func (p PayState) String() string {
	switch p {
	case PayDue:
		return "due"
	case PayPaid:
		return "paid"
	case PayFailed:
		return "failed"
	}
	return "unknown"
}

func (s *State) applyTransfer(e *Entry, t *Transfer) ([]Posting, error) {
	if t.To == t.From || t.To.Currency() != t.From.Currency() {
		return nil, refuse(ErrMalformed, "transfer from %v to %v", t.From, t.To)
	}
	if t.To.Book() != Open { // Open and Earned share the code
		return nil, refuse(ErrRole, "money goes to an open book or to earned, not to %v", t.To)
	}
	postings := []Posting{{t.From, -t.X}, {t.To, t.X}}
	if err := s.post(postings...); err != nil {
		return nil, err
	}
	s.transfers[s.size] = &transferRecord{from: t.From, to: t.To, x: t.X, leaf: e.Leaf()}
	return postings, nil
}

func (s *State) applyReverse(b *Reverse) ([]Posting, error) {
	t, ok := s.transfers[b.Target]
	switch {
	case !ok:
		return nil, refuse(ErrWindow, "entry %d is no transfer since the last close", b.Target)
	case t.leaf != b.Leaf:
		return nil, refuse(ErrMalformed, "entry %d has another leaf hash", b.Target)
	case t.reversed != 0:
		return nil, &DuplicateError{What: "transfer", Index: t.reversed}
	}
	postings := []Posting{{t.to, -t.x}, {t.from, t.x}}
	if err := s.post(postings...); err != nil {
		return nil, err
	}
	t.reversed = s.size
	return postings, nil
}

func (s *State) applyClose(c *Close) ([]Posting, error) {
	if err := s.currency(c.Cur); err != nil {
		return nil, err
	}
	last := &s.lastClose[c.Cur]
	now := s.Bucket()
	switch {
	case c.Period != last.period+1:
		return nil, refuse(ErrWindow, "close of period %d, the next is %d", c.Period, last.period+1)
	case !s.ticked || uint64(now-last.bucket) < s.params.CloseEvery:
		return nil, refuse(ErrWindow, "the next close is due in bucket %d, now is %d", uint64(last.bucket)+s.params.CloseEvery, now)
	}
	want := s.Net(c.Cur)
	if !samePays(want, c.Pays) {
		return nil, refuse(ErrNetting, "%d payments, the state nets to %d", len(c.Pays), len(want))
	}
	record := &closeRecord{index: s.size, bucket: now}
	var postings []Posting
	for _, p := range c.Pays {
		postings = append(postings, s.instruct(c.Cur, p)...)
		record.pays = append(record.pays, payRecord{Pay: p})
	}
	if err := s.post(postings...); err != nil {
		return nil, err
	}
	s.closes[closeKey{c.Cur, c.Period}] = record
	*last = closeMark{c.Period, now}
	for i, t := range s.transfers {
		if t.from.Currency() == c.Cur {
			delete(s.transfers, i)
		}
	}
	return postings, nil
}

// instruct moves a payment from the open to the due books.
func (s *State) instruct(cur uint8, p Pay) []Posting {
	x := s.minorAmount(cur, p.Minor)
	return []Posting{{OpenAccount(p.Payer, cur), x}, {DueAccount(p.Payer, cur), -x},
		{OpenAccount(p.Payee, cur), -x}, {DueAccount(p.Payee, cur), x}}
}

// minorAmount is n minor units in millionths; payments come from Net, which
// divided an int64 by the same unit.
func (s *State) minorAmount(cur uint8, n uint64) int64 { return int64(n) * s.currencies[cur].Minor() }

func samePays(a, b []Pay) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// payment finds payment no (from 1) of a close.
func (s *State) payment(cur uint8, period uint32, no uint16) (*payRecord, error) {
	c, ok := s.closes[closeKey{cur, period}]
	if !ok || no < 1 || int(no) > len(c.pays) {
		return &payRecord{}, refuse(ErrMalformed, "no payment %d in close %d of currency %d", no, period, cur)
	}
	return &c.pays[no-1], nil
}

func (s *State) applyPaid(b *Paid) ([]Posting, error) {
	p, err := s.payment(b.Cur, b.Period, b.No)
	if err != nil {
		return nil, err
	}
	if p.state != PayDue {
		return nil, &DuplicateError{What: "payment", Index: p.index}
	}
	x := s.minorAmount(b.Cur, p.Minor)
	postings := []Posting{{DueAccount(p.Payer, b.Cur), x}, {DueAccount(p.Payee, b.Cur), -x}}
	if err := s.post(postings...); err != nil {
		return nil, err
	}
	p.state, p.index = PayPaid, s.size
	return postings, nil
}

func (s *State) applyFailed(b *Failed) ([]Posting, error) {
	p, err := s.payment(b.Cur, b.Period, b.No)
	if err != nil {
		return nil, err
	}
	c := s.closes[closeKey{b.Cur, b.Period}]
	switch {
	case p.state != PayDue:
		return nil, &DuplicateError{What: "payment", Index: p.index}
	case uint64(s.Bucket()-c.bucket) < s.params.Grace:
		return nil, refuse(ErrWindow, "payment may still arrive until bucket %d", uint64(c.bucket)+s.params.Grace)
	}
	postings := s.instruct(b.Cur, p.Pay)
	for i := range postings {
		postings[i].Amount = -postings[i].Amount
	}
	if err := s.post(postings...); err != nil {
		return nil, err
	}
	p.state, p.index = PayFailed, s.size
	return postings, nil
}

// LastClose is the period of the last close of a currency (0 if none) and the
// bucket in which the next one is due.
func (s *State) LastClose(cur uint8) (period uint32, due uint64) {
	if int(cur) >= len(s.lastClose) {
		return 0, 0
	}
	m := s.lastClose[cur]
	return m.period, uint64(m.bucket) + s.params.CloseEvery
}

// Payment is one payment of a close and how it stands.
type Payment struct {
	Pay
	Cur    uint8
	Period uint32
	No     uint16 // in its close, from 1
	Close  uint64 // index of the close
	Grace  uint64 // first bucket in which it may be entered as failed
	State  PayState
	Ended  uint64 // index of the entry that confirmed it or put it back; 0 while due
}

// Payments lists the payments of all closes of a currency in order.
func (s *State) Payments(cur uint8) []Payment {
	period, _ := s.LastClose(cur)
	var out []Payment
	for n := uint32(1); n <= period; n++ {
		c, ok := s.closes[closeKey{cur, n}]
		if !ok {
			continue // a snapshot of another program; its entries still judge it
		}
		for i, p := range c.pays {
			out = append(out, Payment{Pay: p.Pay, Cur: cur, Period: n, No: uint16(i + 1), Close: c.index,
				Grace: uint64(c.bucket) + s.params.Grace, State: p.state, Ended: p.index})
		}
	}
	return out
}

// Payment tells how payment no (from 1) of a close stands.
func (s *State) Payment(cur uint8, period uint32, no uint16) (p Pay, state PayState, err error) {
	r, err := s.payment(cur, period, no)
	return r.Pay, r.state, err
}
