package ledger

import (
	"cmp"
	"fmt"
)

// Balance is the balance of an account, 0 for one that does not exist.
func (s *State) Balance(a Account) int64 {
	if p := s.balance(a); p != nil {
		return *p
	}
	return 0
}

// Total is open plus due of an operator: what falls only under its signature.
func (s *State) Total(p PartyID, cur uint8) int64 {
	return s.Balance(OpenAccount(p, cur)) + s.Balance(DueAccount(p, cur))
}

// balance finds the cell of an account, nil if there is none.
func (s *State) balance(a Account) *int64 {
	cur, p, b := int(a.Currency()), int(a.Party()), a.Book()
	switch {
	case cur >= len(s.books) || p > len(s.parties):
		return nil
	case p == 0 && b <= Unclaimed:
		return &s.books[cur].common[b]
	case p > 0 && b == Open:
		return &s.books[cur].open[p-1]
	case p > 0 && b == Due:
		return &s.books[cur].due[p-1]
	}
	return nil
}

// post books the postings of one currency, all or none. It returns ErrOverflow,
// ErrNotBacked if a common book would fall below zero, ErrLimit if an operator's
// total would fall below its limit, ErrMalformed for an account that does not
// exist. That they sum to zero is for the caller to see to and for
// assertBalances to prove.
func (s *State) post(postings ...Posting) error {
	for i, p := range postings {
		cell := s.balance(p.Account)
		if cell == nil {
			s.unpost(postings[:i])
			return refuse(ErrMalformed, "account %v does not exist", p.Account)
		}
		sum, ok := addAmount(*cell, p.Amount)
		if !ok {
			s.unpost(postings[:i])
			return refuse(ErrOverflow, "account %v", p.Account)
		}
		*cell = sum
	}
	err := s.withinLimits(postings)
	if err == nil && len(postings) > 0 {
		err = s.debtFits(postings[0].Account.Currency())
	}
	if err != nil {
		s.unpost(postings)
	}
	return err
}

// debtFits keeps the sum of all debts of a currency, and with it every other
// sum of its balances, within an int64.
func (s *State) debtFits(cur uint8) error {
	var debt int64
	for _, v := range s.books[cur].open {
		if v < 0 {
			var ok bool
			if debt, ok = addAmount(debt, v); !ok {
				return refuse(ErrOverflow, "sum of the debts in currency %d", cur)
			}
		}
	}
	return nil
}

func (s *State) unpost(postings []Posting) {
	for _, p := range postings {
		*s.balance(p.Account) -= p.Amount
	}
}

// withinLimits looks at the accounts after they were booked.
func (s *State) withinLimits(postings []Posting) error {
	for _, p := range postings {
		owner, cur := p.Account.Party(), p.Account.Currency()
		if owner == 0 {
			if s.Balance(p.Account) < 0 {
				return refuse(ErrNotBacked, "account %v would fall to %d", p.Account, s.Balance(p.Account))
			}
			continue
		}
		total, ok := addAmount(s.Balance(OpenAccount(owner, cur)), s.Balance(DueAccount(owner, cur)))
		if !ok {
			return refuse(ErrOverflow, "total of party %d", owner)
		}
		falls := p.Amount < 0 && p.Account.Book() == Open && change(postings, owner) < 0
		if falls && total < -s.parties[owner-1].Limit {
			return refuse(ErrLimit, "party %d would owe %d, its limit is %d", owner, -total, s.parties[owner-1].Limit)
		}
	}
	return nil
}

// change is the sign of what the postings do to the total of a party. Between its
// two books nothing falls: a payment is instructed or comes back at any total.
func change(postings []Posting, owner PartyID) int {
	var in, out uint64
	for _, p := range postings {
		switch {
		case p.Account.Party() != owner:
		case p.Amount < 0:
			out += uint64(-p.Amount)
		default:
			in += uint64(p.Amount)
		}
	}
	return cmp.Compare(in, out)
}

// assertBalances proves the balance invariants of every currency touched.
// Source: design/ledger.md, 4.3.
func (s *State) assertBalances(postings []Posting) error {
	var seen [MaxCurrencies]bool
	for _, p := range postings {
		cur := p.Account.Currency()
		if seen[cur] {
			continue
		}
		seen[cur] = true
		if err := s.audit(cur); err != nil {
			return err
		}
	}
	return nil
}

// audit recomputes the sums of one currency from its accounts.
func (s *State) audit(cur uint8) error {
	b := &s.books[cur]
	var all, due wideSum
	for i := range b.open {
		all.add(b.open[i])
		all.add(b.due[i])
		due.add(b.due[i])
	}
	for _, v := range b.common {
		all.add(v)
		if v < 0 {
			return fmt.Errorf("%w: a common book of currency %d is negative", errBroken, cur)
		}
	}
	switch {
	case all != wideSum{}:
		return fmt.Errorf("%w: currency %d does not sum to zero", errBroken, cur)
	case due != wideSum{}:
		return fmt.Errorf("%w: due of currency %d does not sum to zero", errBroken, cur)
	case b.common[Notes] != b.circulation:
		return fmt.Errorf("%w: notes book of currency %d is %d, mint keys say %d", errBroken, cur, b.common[Notes], b.circulation)
	}
	return nil
}

// Audit checks the balance invariants of all currencies; Apply checks those an
// entry touched. An error means the state must be reloaded.
func (s *State) Audit() error {
	for cur := range s.books {
		if err := s.audit(uint8(cur)); err != nil {
			return err
		}
		if got := s.countCirculation(uint8(cur)); got != s.books[cur].circulation {
			return fmt.Errorf("%w: mint keys of currency %d hold %d, running count %d", errBroken, cur, got, s.books[cur].circulation)
		}
	}
	return nil
}
