package ledger

import (
	"math/bits"
	"sort"
)

// Net gives the payments that a Close of the currency must carry now.
func (s *State) Net(cur uint8) []Pay {
	if s.currency(cur) != nil {
		return nil
	}
	return Net(s.books[cur].open, s.currencies[cur].Minor())
}

// Net is the netting rule prorata-1. open[i] is the open balance of party i+1
// in millionths, minor the minor unit. Creditors are paid what they are owed in
// whole minor units; debtors share the sum in proportion to their debt, missing
// units going one each by largest remainder, then lower party number; payers
// and payees are matched in party order. At most payers + payees - 1 payments
// result, and every residue is below one minor unit. Debts must cover credits,
// which the invariants ensure. Source: design/ledger.md, 4.6.
func Net(open []int64, minor int64) []Pay {
	var credits, debts []share
	var owed, debt uint64 // K minor units and D millionths; post keeps D below 2^63
	for i, v := range open {
		switch {
		case v >= minor:
			credits = append(credits, share{PartyID(i + 1), uint64(v / minor), 0})
			owed += uint64(v / minor)
		case v < 0:
			debts = append(debts, share{PartyID(i + 1), uint64(-(v + 1)) + 1, 0})
			debt += uint64(-(v + 1)) + 1
		}
	}
	if owed == 0 {
		return nil
	}
	prorate(debts, owed, debt)
	return match(debts, credits)
}

// share is a party's part: of the debts in millionths, or what it pays or
// receives in minor units.
type share struct {
	party PartyID
	units uint64
	rest  uint64 // remainder of the division, for the missing units
}

// prorate turns debts in millionths into payments in minor units that sum to
// owed: floor(owed x debt_p / debt) each, then the largest remainders.
func prorate(debts []share, owed, debt uint64) {
	var given uint64
	for i := range debts {
		hi, lo := bits.Mul64(owed, debts[i].units)
		debts[i].units, debts[i].rest = bits.Div64(hi, lo, debt) // quotient <= owed, so hi < debt
		given += debts[i].units
	}
	order := make([]int, len(debts))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return debts[order[a]].rest > debts[order[b]].rest })
	for _, i := range order {
		if given == owed {
			break
		}
		debts[i].units++
		given++
	}
}

// match walks payers and payees in party order with two pointers.
func match(payers, payees []share) []Pay {
	var pays []Pay
	for i, j := 0, 0; i < len(payers) && j < len(payees); {
		x := min(payers[i].units, payees[j].units)
		if x > 0 {
			pays = append(pays, Pay{payers[i].party, payees[j].party, x})
		}
		payers[i].units -= x
		payees[j].units -= x
		if payers[i].units == 0 {
			i++
		} else {
			j++
		}
	}
	return pays
}
