package party

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/node/web"
)

// pageEntries is how many entries a page of the ledger lists.
const pageEntries = 50

// Copy is a copy of the ledger to show: a writer's or a follower's.
type Copy struct {
	Read   func(func(*ledger.State)) bool
	Entry  func(index uint64) ([]byte, error) // counted over all shards
	Base   uint64                             // entries of the sealed shards
	Size   uint64                             // entries of all shards
	Final  ledger.Checkpoint
	Note   []byte
	Policy *ledger.Policy // nil if unknown
	Forked int            // pieces of evidence against the log
	Shards *Shards        // nil if unknown
}

// finalEnd is the number of final entries of all shards.
func (c Copy) finalEnd() uint64 { return c.Base + c.Final.Size }

// Carried implements export.Heir.
func (c Copy) Carried() ([]byte, error) {
	if c.Shards == nil {
		return nil, export.ErrMissing
	}
	return c.Shards.Carried(c.Shards.Open().No)
}

// copy describes our copy.
func (p *Party) copy() Copy {
	c := Copy{Read: p.Read, Entry: p.Entry}
	c.Final, c.Note = p.Final()
	c.Base = p.base()
	if s, ok := p.Status(); ok {
		c.Size = c.Base + s.Size
		if s.Evidence != nil {
			c.Forked = 1
		}
	}
	p.mu.Lock()
	c.Shards = p.shards
	p.mu.Unlock()
	c.Policy, _ = p.policy() // shown without cosigners if the directory is empty
	return c
}

// Ledger is the ledger page of our copy, its entries below before, newest first;
// 0 means from the newest.
func (p *Party) Ledger(before uint64) web.Ledger { return p.copy().Page(before, p.env.Clock.Now()) }

// LedgerEntry is one entry in full.
func (p *Party) LedgerEntry(index uint64) (web.Entry, bool) { return p.copy().Full(index) }

// Page builds the ledger page.
func (c Copy) Page(before uint64, now time.Time) web.Ledger {
	v := web.Ledger{Size: c.Size, CosignedSize: c.finalEnd(), Checkpoint: string(c.Note), Equivocations: c.Forked}
	names := c.names()
	c.Read(func(s *ledger.State) {
		v.Origin = s.Origin()
		v.Balances, v.SumMicro = balances(s)
	})
	for _, x := range c.shardLines() {
		v.Shards = append(v.Shards, web.Pair{Name: x.Origin, Value: x.Text()})
	}
	c.cosigners(&v, now)
	if before == 0 || before > c.Size {
		before = c.Size
	}
	first := before - min(before, pageEntries)
	for i := before; i > first; i-- {
		raw, err := c.Entry(i - 1)
		if err != nil {
			break // the page shows what can be read
		}
		if e, err := ledger.Parse(raw); err == nil {
			v.Entries = append(v.Entries, c.row(i-1, e, names))
		}
	}
	if first > 0 {
		v.Older = &first
	}
	return v
}

func (c Copy) names() map[ledger.PartyID]string {
	names := map[ledger.PartyID]string{0: "households"}
	c.Read(func(s *ledger.State) {
		for _, p := range s.Parties() {
			names[p.Party] = p.Name
		}
	})
	return names
}

// balances lists every account that is not zero, and their sum over the first
// currency, which is zero on a sound ledger.
func balances(s *ledger.State) (list []web.Balance, sum int64) {
	for i, cur := range s.Currencies() {
		show := func(party, account string, x int64) {
			if i == 0 {
				sum += x
			}
			if x != 0 {
				list = append(list, web.Balance{Party: party, Account: account, Amount: Money(x, cur)})
			}
		}
		for _, p := range s.Parties() {
			show(p.Name, "open", s.Balance(ledger.OpenAccount(p.Party, uint8(i))))
			show(p.Name, "due", s.Balance(ledger.DueAccount(p.Party, uint8(i))))
		}
		show("households", "earned", s.Balance(ledger.EarnedAccount(uint8(i))))
		show("households", "notes", s.Balance(ledger.NotesAccount(uint8(i))))
		show("households", "unclaimed", s.Balance(ledger.UnclaimedAccount(uint8(i))))
	}
	return list, sum
}

// Money writes millionths for people: to the minor unit if it is whole ones,
// else with all places.
func Money(x int64, c ledger.Currency) string {
	text := ledger.Amount(x)
	if x%c.Minor() == 0 && c.Exp < 6 {
		text = text[:len(text)-6+int(c.Exp)]
	}
	return c.Code() + " " + text
}

// cosigners fills quorum and cosigners with the ages of their signatures.
func (c Copy) cosigners(v *web.Ledger, now time.Time) {
	if c.Policy == nil {
		return
	}
	_, n, err := ledger.OpenCheckpoint(c.Note, c.Policy.Keys()...)
	for _, w := range c.Policy.Witnesses {
		row := web.Cosigner{Name: w.Name, Text: "has not cosigned this checkpoint"}
		if err == nil {
			for _, s := range n.Sigs {
				if s.Name != w.Key.Name() || s.Hash != w.Key.KeyHash() {
					continue
				}
				if at, err := ledger.CosignedAt(s); err == nil {
					row.At, row.OK, row.Size = at, true, c.finalEnd()
					row.Text = "cosigned " + now.Sub(at).Round(time.Second).String() + " ago"
				}
			}
		}
		v.Cosigners = append(v.Cosigners, row)
	}
	good := 0
	for _, w := range v.Cosigners {
		if w.OK {
			good++
		}
	}
	v.Quorum = fmt.Sprintf("%d of %d cosigners", good, len(v.Cosigners))
}

func (c Copy) row(index uint64, e *ledger.Entry, names map[ledger.PartyID]string) web.EntryRow {
	return web.EntryRow{Index: index, Kind: e.Kind().String(), Party: names[e.Party()], Text: c.words(e, names), Final: index < c.finalEnd()}
}

// Full builds the page of one entry.
func (c Copy) Full(index uint64) (web.Entry, bool) {
	raw, err := c.Entry(index)
	if err != nil {
		return web.Entry{}, false
	}
	e, err := ledger.Parse(raw)
	if err != nil {
		return web.Entry{}, false
	}
	leaf := e.Leaf()
	v := web.Entry{EntryRow: c.row(index, e, c.names()), Leaf: hex.EncodeToString(leaf[:]), Raw: hex.EncodeToString(raw),
		Fields: []web.Pair{{Name: "author", Value: fmt.Sprintf("party %d, entry %d", e.Party(), e.Seq())},
			{Name: "signatures", Value: fmt.Sprint(len(e.Sigs()))}}}
	v.Fields = append(v.Fields, fields(e.Body())...)
	v.At = c.timeOf(index, maxBack)
	return v, true
}

// maxBack bounds the way back to the tick before an entry that is shown.
const maxBack = 4096

// timeOf is the log time of an entry: the newest tick at or before it, at most
// back entries away.
func (c Copy) timeOf(index, back uint64) time.Time {
	for i := index + 1; i > 0 && index+1-i < back; i-- {
		raw, err := c.Entry(i - 1)
		if err != nil {
			break
		}
		if e, err := ledger.Parse(raw); err == nil {
			if t, ok := e.Body().(*ledger.Tick); ok {
				return time.UnixMilli(int64(t.Ms)).UTC()
			}
		}
	}
	return time.Time{}
}

// fields are the parts of a body that a reader may want to compare.
func fields(b ledger.Body) []web.Pair {
	hash := func(h ledger.Hash) string { return hex.EncodeToString(h[:]) }
	num := func(n any) string { return fmt.Sprint(n) }
	switch b := b.(type) {
	case *ledger.CDR:
		return []web.Pair{{Name: "ref", Value: hash(b.Ref)}, {Name: "evidence", Value: hash(b.Evidence)}, {Name: "commitment", Value: hash(b.Commit)},
			{Name: "bucket", Value: num(b.Bucket)}, {Name: "payer", Value: num(b.Payer)}}
	case *ledger.Settle:
		return []web.Pair{{Name: "sessions", Value: num(b.N)}, {Name: "pay", Value: ledger.Amount(b.Pay)}, {Name: "earn", Value: ledger.Amount(b.Earn)},
			{Name: "energy, mWh", Value: num(b.Energy)}, {Name: "up to bucket", Value: num(b.To)}, {Name: "blind", Value: hash(b.Blind)}}
	case *ledger.Transfer:
		return []web.Pair{{Name: "from", Value: b.From.String()}, {Name: "to", Value: b.To.String()}, {Name: "amount", Value: ledger.Amount(b.X)},
			{Name: "purpose", Value: b.Purpose.String()}, {Name: "ref", Value: hash(b.Ref)}}
	case *ledger.Issue:
		return []web.Pair{{Name: "claims", Value: num(b.Claims)}, {Name: "root of claims", Value: hash(b.Root)}, {Name: "month", Value: num(b.Epoch)}}
	case *ledger.Redeem:
		return []web.Pair{{Name: "payee", Value: b.Payee.String()}, {Name: "notes", Value: num(len(b.Notes))}, {Name: "bound to", Value: hash(b.Bind)}}
	case *ledger.Dispute:
		list := []web.Pair{{Name: "case", Value: hex.EncodeToString(b.Case[:])}, {Name: "case file", Value: hash(b.Evidence)}}
		for _, r := range b.Refs {
			list = append(list, web.Pair{Name: "session", Value: hash(r)})
		}
		return list
	case *ledger.Partial:
		return []web.Pair{{Name: "case", Value: hex.EncodeToString(b.Case[:])}, {Name: "sealed part", Value: hash(b.CT)}}
	case *ledger.Result:
		return []web.Pair{{Name: "case", Value: hex.EncodeToString(b.Case[:])}, {Name: "sealed answer", Value: hash(b.Answer)}}
	case *ledger.Anchor:
		return []web.Pair{{Name: "commitment", Value: hash(b.Ref)}}
	}
	return nil
}

// words say what an entry did.
func (c Copy) words(e *ledger.Entry, names map[ledger.PartyID]string) string {
	var cur []ledger.Currency
	c.Read(func(s *ledger.State) { cur = slices.Clone(s.Currencies()) })
	money := func(x int64, i uint8) string {
		if int(i) < len(cur) {
			return Money(x, cur[i])
		}
		return ledger.Amount(x)
	}
	switch b := e.Body().(type) {
	case *ledger.Genesis:
		return fmt.Sprintf("The ledger is founded by %d operators; sums open from %d sessions on.", len(b.Parties), b.Params.MinBatch)
	case *ledger.Party:
		return fmt.Sprintf("%s joins as %s.", b.Name, b.Role)
	case *ledger.Key:
		return map[bool]string{true: "A key is registered.", false: "A key is revoked."}[b.Add]
	case *ledger.Denoms:
		return fmt.Sprintf("Keys for the notes of %d-%02d are published.", b.Epoch/100, b.Epoch%100)
	case *ledger.Tariff:
		return "A tariff is published."
	case *ledger.Tick:
		return "The log time moves to " + time.UnixMilli(int64(b.Ms)).UTC().Format("2006-01-02 15:04:05") + "."
	case *ledger.Anchor:
		return anchored(b.Topic)
	case *ledger.CDR:
		return fmt.Sprintf("A session is entered that %s pays; amount and energy are hidden.", names[b.Payer])
	case *ledger.Settle:
		return fmt.Sprintf("%s pays %s for %s; households earn %s.", names[b.Payer], money(b.Pay, b.Cur), count(int(b.N), "session"), money(b.Earn, b.Cur))
	case *ledger.Transfer:
		return fmt.Sprintf("%s pays %s to %s (%s).", names[b.From.Party()], money(b.X, b.From.Currency()), names[b.To.Party()], b.Purpose)
	case *ledger.Reverse:
		return fmt.Sprintf("The transfer of entry %d is taken back.", b.Target)
	case *ledger.Issue:
		return fmt.Sprintf("Notes are issued for %s.", count(int(b.Claims), "claim"))
	case *ledger.Redeem:
		to := names[b.Payee.Party()]
		if b.Payee.Party() == 0 {
			return count(len(b.Notes), "note") + " come back to be swapped or locked."
		}
		return fmt.Sprintf("%s of a household are credited by %s.", count(len(b.Notes), "note"), to)
	}
	return caseWords(e, names, money)
}

func anchored(t ledger.Topic) string {
	what := map[ledger.Topic]string{ledger.TopicKeyList: "a list of keys", ledger.TopicTask: "an aggregation task", ledger.TopicCommand: "a command",
		ledger.TopicInstruction: "a flexibility event", ledger.TopicMeterBatch: "a batch of meter reports", ledger.TopicBillRun: "a run of bills",
		ledger.TopicCheckpoint: "a checkpoint of another log"}[t]
	if what == "" {
		what = "something"
	}
	return "A commitment to " + what + " is kept."
}

// caseWords is words for closes and disputes.
func caseWords(e *ledger.Entry, names map[ledger.PartyID]string, money func(int64, uint8) string) string {
	switch b := e.Body().(type) {
	case *ledger.Lapse:
		return fmt.Sprintf("What is left of the notes of %d-%02d lapses.", b.Epoch/100, b.Epoch%100)
	case *ledger.Close:
		return fmt.Sprintf("Period %d closes with %s by bank.", b.Period, count(len(b.Pays), "payment"))
	case *ledger.Paid:
		return fmt.Sprintf("Payment %d of period %d has arrived.", b.No, b.Period)
	case *ledger.Failed:
		return fmt.Sprintf("Payment %d of period %d has not arrived and is owed again.", b.No, b.Period)
	case *ledger.Dispute:
		ask := map[ledger.CaseKind]string{ledger.CaseHold: "has %s held", ledger.CaseLink: "asks whether %s belong together", ledger.CaseOpen: "asks who is behind %s"}[b.Asks]
		return fmt.Sprintf("%s "+ask+".", names[e.Party()], count(len(b.Refs), "session"))
	case *ledger.Approve:
		return names[e.Party()] + map[bool]string{true: " approves", false: " objects to"}[b.Yes] + " a case."
	case *ledger.Partial:
		return names[e.Party()] + " gives its part of an opening, sealed."
	case *ledger.Result:
		return names[e.Party()] + " has answered a case, sealed to who asked."
	case *ledger.End:
		how := map[ledger.Outcome]string{ledger.Release: "its sessions are settled after all", ledger.Expire: "nobody opened it in time", ledger.Cancel: "its sessions are cancelled"}[b.Outcome]
		return "A case ends: " + how + "."
	}
	return e.Kind().String()
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, strings.TrimSuffix(what, "s"))
}
