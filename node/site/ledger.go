package site

import (
	"fmt"
	"strings"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/cluster"
	"gridveil/node/web"
)

// Log is a copy of the ledger that a role keeps: the writer's own, or a
// follower's.
type Log interface {
	// Ledger lists the entries below before, newest first; 0 means the newest.
	Ledger(before uint64) web.Ledger
	LedgerEntry(index uint64) (web.Entry, bool)
	// Read calls f with the newest state; false while there is none.
	Read(f func(*ledger.State)) bool
	Entry(index uint64) ([]byte, error)
}

// pageEntries is how far a step to newer entries goes; a Log lists as many.
const pageEntries = 50

// LedgerPage is the ledger page from entry from downwards.
func LedgerPage(log Log, from uint64) web.Ledger {
	v := log.Ledger(from + 1) // beyond the newest means the newest
	log.Read(func(s *ledger.State) { v.Facts = facts(s) })
	for i := range v.Cosigners {
		c := &v.Cosigners[i]
		c.Operator, _, _ = strings.Cut(c.Name, ".")
		if c.OK {
			c.Text = "replayed and signed"
		}
	}
	if v.Older != nil { // a Log names the first entry that it left out as "below"
		older := *v.Older - 1
		v.Older = &older
	}
	if from+1 < v.Size {
		newer := min(from+pageEntries, v.Size-1)
		v.Newer = &newer
	}
	return v
}

// EntryPage is one entry in full, with the money that it moves.
func EntryPage(log Log, index uint64) (web.Entry, bool) {
	v, ok := log.LedgerEntry(index)
	if !ok {
		return v, false
	}
	raw, err := log.Entry(index)
	if err != nil {
		return v, true
	}
	if e, err := ledger.Parse(raw); err == nil {
		log.Read(func(s *ledger.State) { v.Postings = postings(s, e.Body()) })
	}
	return v, true
}

// MachineWords say how a machine of an aggregator on several machines does, which is
// behind by so many entries and changes.
func MachineWords(s cluster.Standing, behind uint64) string {
	switch {
	case !s.Answers && s.Heard.IsZero():
		return "does not answer, and never did since this machine started"
	case !s.Answers:
		return fmt.Sprintf("does not answer; it did %v ago", time.Since(s.Heard).Round(time.Second))
	case s.Leads:
		return "leads"
	case !s.InStep:
		return "takes over what the others have"
	case behind > 0:
		return fmt.Sprintf("stands by, %d behind", behind)
	}
	return "stands by, has everything"
}

// machines are the machines of an aggregator and how each does, as last heard.
func machines(n *cluster.Node) (out []web.Pair) {
	list := n.Known()
	for _, s := range list {
		out = append(out, web.Pair{Name: s.Address, Value: MachineWords(s, cluster.Behind(list, s))})
	}
	return out
}

// facts are the numbers that a reader wants next to the balances.
func facts(s *ledger.State) []web.Pair {
	var waiting uint64
	for _, p := range s.Pairs() {
		n, _, _ := s.Unsettled(p.Cur, p.Payer, p.Grid, p.To)
		waiting += n
	}
	out := []web.Pair{{Name: "sessions waiting to be settled:", Value: Count(waiting)}, {Name: "a sum opens from", Value: Plural(s.Params().MinBatch, "session", "sessions")}}
	if at := s.LogTime(); !at.IsZero() {
		out = append(out, web.Pair{Name: "log time", Value: at.UTC().Format("2 Jan 15:04:05")})
	}
	return out
}

// postings are the money that an entry moves, as far as the entry itself says.
func postings(s *ledger.State, body ledger.Body) []web.Balance {
	line := func(party, account string, v int64, cur uint8) web.Balance {
		return web.Balance{Party: party, Account: account, Amount: Money(v, code(s, cur)), Exact: ledger.Amount(v)}
	}
	switch b := body.(type) {
	case *ledger.Settle:
		out := []web.Balance{line(partyName(s, b.Payer), "open", -b.Pay, b.Cur), line("households", "earned", b.Earn, b.Cur)}
		if b.GridPay != 0 {
			out = append(out, line(partyName(s, b.Grid), "open", b.GridPay, b.Cur))
		}
		if fee := b.Pay - b.Earn - b.GridPay; fee != 0 {
			out = append(out, line(partyName(s, 1), "open", fee, b.Cur))
		}
		return out
	case *ledger.Transfer:
		cur := b.From.Currency()
		return []web.Balance{line(partyName(s, b.From.Party()), "open", -b.X, cur), line(partyName(s, b.To.Party()), "open", b.X, cur)}
	case *ledger.Issue:
		v := issued(s, b)
		return []web.Balance{line("households", "earned", -v, b.Cur), line("households", "notes", v, b.Cur)}
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

func partyName(s *ledger.State, p ledger.PartyID) string {
	if p == 0 {
		return "households"
	}
	for _, known := range s.Parties() {
		if known.Party == p {
			return known.Name
		}
	}
	return fmt.Sprintf("party %d", p)
}

func code(s *ledger.State, cur uint8) string {
	if all := s.Currencies(); int(cur) < len(all) {
		return all[cur].Code()
	}
	return fmt.Sprintf("currency %d", cur)
}

func minor(s *ledger.State, cur uint8) int64 {
	if all := s.Currencies(); int(cur) < len(all) {
		return all[cur].Minor()
	}
	return 0
}
