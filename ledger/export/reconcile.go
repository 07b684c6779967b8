package export

import (
	"encoding/base32"
	"fmt"
	"slices"
	"strings"

	"gridveil/ledger"
)

// EndToEnd is the id that payment no (from 1) of a close carries through the
// banks; leaf is that of the close.
func EndToEnd(leaf ledger.Hash, no int) string {
	return fmt.Sprintf("GV%s-%d", base32.StdEncoding.EncodeToString(leaf[:])[:16], no)
}

// Ours says whether an EndToEndId has the form of ours.
func Ours(id string) bool {
	leaf, no, ok := strings.Cut(strings.TrimPrefix(id, "GV"), "-")
	if !strings.HasPrefix(id, "GV") || !ok || len(leaf) != 16 || len(no) < 1 || len(no) > 5 {
		return false
	}
	return strings.Trim(leaf, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == "" && strings.Trim(no, "0123456789") == ""
}

// Expected is a payment of a close as a bank statement must show it.
type Expected struct {
	ledger.Payment
	EndToEnd string
	Currency string // ISO 4217
	Micro    int64
}

// Verdict is what comes of a payment or a booking.
type Verdict string

// Verdicts of a reconciliation.
const (
	VerdictPaid     Verdict = "arrived"        // to be entered as paid
	VerdictKnown    Verdict = "known"          // the ledger has it already
	VerdictReturned Verdict = "sent back"      // to be entered as failed, once the grace time is over
	VerdictAmount   Verdict = "amount differs" // an operator decides
	VerdictTwice    Verdict = "arrived twice"  // an operator sends one back
	VerdictUnknown  Verdict = "unmatched"      // no payment of this ledger
	VerdictOut      Verdict = "sent by us"     // the payee confirms it
	VerdictOutBack  Verdict = "came back"      // the payee enters it as failed
	VerdictMissing  Verdict = "not there"      // due, and not in this statement
	VerdictOverdue  Verdict = "overdue"        // due, not in this statement, and the grace time is over
)

// Match is one line of a reconciliation. Payment or Booking may be nil.
type Match struct {
	Verdict Verdict
	Payment *Expected
	Booking *Booking
	Text    string
}

// Proposal is the entry that a match leads to, nil if to none now. bucket is the
// ledger's; overdue payments are proposed as failed if asked for.
func (m Match) Proposal(bucket uint64, overdue bool) ledger.Body {
	p := m.Payment
	switch {
	case p == nil || p.State != ledger.PayDue:
		return nil
	case m.Verdict == VerdictPaid:
		return &ledger.Paid{Period: p.Period, Cur: p.Cur, No: p.No}
	case bucket < p.Grace:
		return nil
	case m.Verdict == VerdictReturned:
		return &ledger.Failed{Period: p.Period, Cur: p.Cur, No: p.No, Reason: ledger.FailReturned}
	case m.Verdict == VerdictOverdue && overdue:
		return &ledger.Failed{Period: p.Period, Cur: p.Cur, No: p.No, Reason: ledger.FailOverdue}
	}
	return nil
}

// Reconcile compares a bank statement of party me with the payments of all
// closes, in the order of the statement, then what is due to me and not there.
// Only bookings on account count if it is not empty. bucket is the ledger's. It
// changes nothing, and the same input gives the same lines.
func Reconcile(me ledger.PartyID, account string, all []Expected, s *BankStatement, bucket uint64) []Match {
	known := map[string]*Expected{}
	for i := range all {
		known[all[i].EndToEnd] = &all[i]
	}
	back := map[string]bool{} // what was sent back again
	for _, b := range s.Bookings {
		if b.Returned && (account == "" || b.Account == account) {
			back[b.EndToEnd] = true
		}
	}
	seen := map[string]bool{}
	var out []Match
	for i := range s.Bookings {
		b := &s.Bookings[i]
		p := known[b.EndToEnd]
		m := Match{Payment: p, Booking: b}
		switch {
		case account != "" && b.Account != account:
			m.Verdict, m.Payment, m.Text = VerdictUnknown, nil, "a booking on an account that is not this operator's"
		case p == nil:
			m.Verdict, m.Text = VerdictUnknown, "no final payment of this ledger has this id"
		case p.Payer == me:
			m.Verdict, m.Text = outgoing(p, b)
		case p.Payee != me:
			m.Verdict, m.Payment, m.Text = VerdictUnknown, nil, "a payment between other operators"
		default:
			m.Verdict, m.Text = incoming(p, b, back[b.EndToEnd], seen[b.EndToEnd])
			seen[b.EndToEnd] = seen[b.EndToEnd] || m.Verdict == VerdictPaid || m.Verdict == VerdictKnown
		}
		out = append(out, m)
	}
	for i := range all {
		p := &all[i]
		touched := slices.ContainsFunc(out, func(m Match) bool { return m.Payment == p })
		if p.Payee != me || p.State != ledger.PayDue || touched {
			continue
		}
		m := Match{Verdict: VerdictMissing, Payment: p, Text: fmt.Sprintf("may still arrive until settlement day %d", p.Grace)}
		if bucket >= p.Grace {
			m.Verdict, m.Text = VerdictOverdue, "look into the other statements, then enter it as failed with --overdue"
		}
		out = append(out, m)
	}
	return out
}

// outgoing judges a booking on the payer's account.
func outgoing(p *Expected, b *Booking) (Verdict, string) {
	if b.Credit && b.Returned {
		return VerdictOutBack, "the payee enters it as failed; correct the payment and wait for the next close"
	}
	return VerdictOut, "the payee confirms what arrives"
}

// incoming judges a booking on the payee's account.
func incoming(p *Expected, b *Booking, back, seen bool) (Verdict, string) {
	switch {
	case b.Returned && p.State == ledger.PayPaid:
		return VerdictReturned, fmt.Sprintf("was confirmed by entry %d; agree with the payer on a transfer that puts it right", p.Ended)
	case seen && !b.Returned && !back:
		return VerdictTwice, "send the second one back"
	case p.State != ledger.PayDue:
		return VerdictKnown, fmt.Sprintf("entered as %s by entry %d", p.State, p.Ended)
	case b.Returned || back:
		return VerdictReturned, fmt.Sprintf("may be entered as failed from settlement day %d", p.Grace)
	case !b.Credit:
		return VerdictUnknown, "a debit with the id of a payment to this operator"
	case b.Currency != p.Currency || b.Micro != p.Micro:
		return VerdictAmount, fmt.Sprintf("%s %s is due", p.Currency, ledger.Amount(p.Micro))
	}
	return VerdictPaid, ""
}
