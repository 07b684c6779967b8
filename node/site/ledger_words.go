package site

import (
	"encoding/hex"
	"fmt"
	"time"

	"gridveil/ledger"
	"gridveil/node/web"
)

// entryWords says in a sentence what an entry does.
func entryWords(s *ledger.State, body ledger.Body) string {
	name := func(p ledger.PartyID) string { return partyName(s, p) }
	switch b := body.(type) {
	case *ledger.Genesis:
		return fmt.Sprintf("the log begins, with %s", Plural(len(b.Parties), "operator", "operators"))
	case *ledger.Party:
		return fmt.Sprintf("%s joins as %s", b.Name, b.Role)
	case *ledger.Key:
		if b.Add {
			return "a new key"
		}
		return "a key is withdrawn"
	case *ledger.Denoms:
		return fmt.Sprintf("the mint keys of %s", month(b.Epoch))
	case *ledger.Tariff:
		return "a tariff is fixed before sessions use it"
	case *ledger.Tick:
		return "the log's clock: " + time.UnixMilli(int64(b.Ms)).UTC().Format("15:04:05")
	case *ledger.Anchor:
		return "the fingerprint of something kept elsewhere"
	case *ledger.CDR:
		return fmt.Sprintf("a session of a customer of %s, its amount hidden", name(b.Payer))
	case *ledger.Settle:
		return fmt.Sprintf("%s opened as one sum: %s pays %s, households earn %s", Plural(b.N, "session", "sessions"), name(b.Payer), Money(b.Pay, code(s, b.Cur)), Money(b.Earn, code(s, b.Cur)))
	case *ledger.Transfer:
		return fmt.Sprintf("%s for %s to %s", Money(b.X, code(s, b.From.Currency())), b.Purpose, owner(s, b.To))
	case *ledger.Reverse:
		return fmt.Sprintf("takes back entry %d", b.Target)
	case *ledger.Issue:
		return fmt.Sprintf("%s in blind notes for %s", Money(issued(s, b), code(s, b.Cur)), Plural(b.Claims, "household or driver", "households and drivers"))
	case *ledger.Redeem:
		return fmt.Sprintf("%s come home to %s", Plural(len(b.Notes), "note", "notes"), owner(s, b.Payee))
	}
	return laterWords(s, body)
}

func laterWords(s *ledger.State, body ledger.Body) string {
	switch b := body.(type) {
	case *ledger.Lapse:
		return "notes of " + month(b.Epoch) + " lapse"
	case *ledger.Close:
		return fmt.Sprintf("period %d is netted into %s", b.Period, Plural(len(b.Pays), "bank payment", "bank payments"))
	case *ledger.Paid:
		return fmt.Sprintf("payment %d of period %d arrived", b.No, b.Period)
	case *ledger.Failed:
		return fmt.Sprintf("payment %d of period %d did not arrive", b.No, b.Period)
	case *ledger.Dispute:
		return fmt.Sprintf("a case about %s: %s", Plural(len(b.Refs), "session", "sessions"), caseWords[b.Asks])
	case *ledger.Approve:
		if b.Yes {
			return "an opener approves the case"
		}
		return "an opener declines the case"
	case *ledger.Partial:
		return "an opener hands in its share, sealed to the utility"
	case *ledger.Result:
		return "the utility answers the case, sealed to the requester"
	case *ledger.End:
		return "the case ends: " + outcomes[b.Outcome]
	}
	return "an entry of kind " + body.Kind().String()
}

var caseWords = map[ledger.CaseKind]string{
	ledger.CaseHold: "freeze the money, reveal nothing", ledger.CaseLink: "do they belong to one contract?", ledger.CaseOpen: "which contract is it?",
}

var outcomes = map[ledger.Outcome]string{
	ledger.Release: "the sessions are settled after all", ledger.Expire: "it expired, the sessions are settled", ledger.Cancel: "the sessions are cancelled",
}

func owner(s *ledger.State, a ledger.Account) string {
	if a.Party() == 0 {
		return "households"
	}
	return partyName(s, a.Party())
}

// issued is what the notes of an issue are worth.
func issued(s *ledger.State, b *ledger.Issue) (micro int64) {
	d, _, _, _, ok := s.Denoms(b.Cur, b.Epoch)
	if !ok {
		return 0
	}
	for i, n := range b.Counts {
		if i < len(d.Keys) {
			micro += int64(n) * int64(d.Keys[i].Minor) * minor(s, b.Cur)
		}
	}
	return micro
}

func month(epoch uint32) string {
	return time.Month(epoch%100).String() + fmt.Sprintf(" %d", epoch/100)
}

// fields shows what stands in an entry.
func fields(s *ledger.State, body ledger.Body) []web.Pair {
	name := func(p ledger.PartyID) string { return partyName(s, p) }
	at := func(ms uint64) string { return time.UnixMilli(int64(ms)).UTC().Format("2 Jan 2006 15:04:05") }
	switch b := body.(type) {
	case *ledger.Genesis:
		return []web.Pair{{Name: "origin", Value: b.Origin}, {Name: "network", Value: b.Network}, {Name: "least sessions in a sum", Value: fmt.Sprint(b.Params.MinBatch)},
			{Name: "approvals of a case", Value: fmt.Sprint(b.Params.K)}, {Name: "step of redeems", Value: Money(int64(b.Params.RedeemStep)*minor(s, 0), code(s, 0))}}
	case *ledger.Party:
		return []web.Pair{{Name: "name", Value: b.Name}, {Name: "role", Value: b.Role.String()}, {Name: "may owe at most", Value: Money(b.Limit, code(s, 0))}, {Name: "key", Value: hex32(b.Pub)}}
	case *ledger.Key:
		return []web.Pair{{Name: "use", Value: fmt.Sprintf("%v", b.Use)}, {Name: "key", Value: hex32(b.Pub)}}
	case *ledger.Denoms:
		return []web.Pair{{Name: "currency", Value: code(s, b.Cur)}, {Name: "values", Value: Plural(len(b.Keys), "note value", "note values")}, {Name: "issued until", Value: at(b.IssueTo)}, {Name: "redeemed until", Value: at(b.RedeemTo)}}
	case *ledger.Tick:
		return []web.Pair{{Name: "log time", Value: at(b.Ms)}, {Name: "state before it", Value: hex32(b.State)}}
	case *ledger.CDR:
		return []web.Pair{{Name: "payer", Value: name(b.Payer)}, {Name: "home's side", Value: gridName(s, b.Grid)}, {Name: "session", Value: hex32(b.Ref)}, {Name: "evidence", Value: hex32(b.Evidence)},
			{Name: "hidden amounts", Value: hex32(b.Commit)}, {Name: "day", Value: fmt.Sprint(b.Bucket)}}
	case *ledger.Settle:
		return []web.Pair{{Name: "payer", Value: name(b.Payer)}, {Name: "home's side", Value: gridName(s, b.Grid)}, {Name: "sessions", Value: fmt.Sprint(b.N)}, {Name: "energy", Value: Energy(b.Energy)},
			{Name: "paid", Value: ledger.Amount(b.Pay)}, {Name: "earned by households", Value: ledger.Amount(b.Earn)}, {Name: "to the grid's side", Value: ledger.Amount(b.GridPay)}, {Name: "opening of the sum", Value: hex32(b.Blind)}}
	case *ledger.Issue:
		return []web.Pair{{Name: "month", Value: month(b.Epoch)}, {Name: "claims", Value: fmt.Sprint(b.Claims)}, {Name: "root over the claims", Value: hex32(b.Root)}, {Name: "notes by value", Value: fmt.Sprint(b.Counts)}}
	case *ledger.Redeem:
		return []web.Pair{{Name: "credited to", Value: owner(s, b.Payee)}, {Name: "notes", Value: fmt.Sprint(len(b.Notes))}, {Name: "bound to", Value: hex32(b.Bind)}}
	case *ledger.Dispute:
		return []web.Pair{{Name: "case", Value: hex.EncodeToString(b.Case[:])}, {Name: "asks", Value: caseWords[b.Asks]}, {Name: "utility that answers", Value: name(b.Utility)}, {Name: "evidence", Value: hex32(b.Evidence)}}
	}
	return nil
}

func gridName(s *ledger.State, p ledger.PartyID) string {
	if p == 0 {
		return "none: the house is reimbursed"
	}
	return partyName(s, p)
}

// postings are the money that an entry moves, as far as the entry itself says.
func postings(s *ledger.State, body ledger.Body) []web.Balance {
	line := func(party, account string, v int64, cur uint8) web.Balance {
		return web.Balance{Party: party, Account: account, Amount: Money(v, code(s, cur)), Exact: ledger.Amount(v)}
	}
	switch b := body.(type) {
	case *ledger.Settle:
		out := []web.Balance{line(partyName(s, b.Payer), "owed or owes", -b.Pay, b.Cur), line("households", "earned", b.Earn, b.Cur)}
		if b.GridPay != 0 {
			out = append(out, line(partyName(s, b.Grid), "owed or owes", b.GridPay, b.Cur))
		}
		if fee := b.Pay - b.Earn - b.GridPay; fee != 0 {
			out = append(out, line(partyName(s, 1), "owed or owes", fee, b.Cur))
		}
		return out
	case *ledger.Transfer:
		cur := b.From.Currency()
		return []web.Balance{line(owner(s, b.From), "owed or owes", -b.X, cur), line(owner(s, b.To), "owed or owes", b.X, cur)}
	case *ledger.Issue:
		v := issued(s, b)
		return []web.Balance{line("households", "earned", -v, b.Cur), line("households", "notes in circulation", v, b.Cur)}
	case *ledger.Close:
		var out []web.Balance
		for _, p := range b.Pays {
			v := int64(p.Minor) * minor(s, b.Cur)
			out = append(out, line(partyName(s, p.Payer), "pays", -v, b.Cur), line(partyName(s, p.Payee), "is paid", v, b.Cur))
		}
		return out
	}
	return nil
}
