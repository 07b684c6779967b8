package site

import (
	"context"
	"fmt"
	"io"
	"slices"

	"gridveil/ledger"
	"gridveil/node/aggregator"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/verifier"
	"gridveil/node/web"
)

// book is the ledger part of a role's pages.
type book struct{ log Operator }

// Ledger is the ledger page.
func (b book) Ledger(_ context.Context, from uint64) web.Ledger { return LedgerPage(b.log, from) }

// Entry is one entry in full.
func (b book) Entry(_ context.Context, index uint64) (web.Entry, bool) {
	return EntryPage(b.log, index)
}

// live adds the ledger's size and how much of it is final.
func (b book) live(out map[string]string) {
	l := b.log.Ledger(1) // the sizes; of the entries only the first
	out["ledger-size"], out["ledger-cosigned"] = Count(l.Size), Count(l.CosignedSize)
}

// figures of the ledger.
func (b book) figures() []web.Figure {
	l := b.log.Ledger(1)
	return []web.Figure{{Key: "ledger", Label: "Ledger entries", Value: Count(l.Size), Note: Count(l.CosignedSize) + " final"},
		{Key: "quorum", Label: "Signed by", Value: l.Quorum}}
}

// Verifier is the dashboard of an independent check of the ledger.
type Verifier struct {
	common
	book
	v *verifier.Verifier
}

// ForVerifier shows the copy that this node replayed, and its verdict.
func ForVerifier(env *role.Env, v *verifier.Verifier) *Verifier {
	return &Verifier{common{env, []string{"overview", "money", "ledger", "disputes", "mesh"}}, book{v}, v}
}

// Ledger is the ledger page.
func (s *Verifier) Ledger(ctx context.Context, from uint64) web.Ledger {
	return s.book.Ledger(ctx, from)
}

// Entry is one entry in full.
func (s *Verifier) Entry(ctx context.Context, index uint64) (web.Entry, bool) {
	return s.book.Entry(ctx, index)
}

// Money is what operators owe each other.
func (s *Verifier) Money(context.Context) web.Money { return MoneyPage(s.v, 0) }

// Disputes are the cases of the ledger, and what this seat may do.
func (s *Verifier) Disputes(context.Context) web.Disputes {
	list, err := s.v.CaseViews()
	return CasesPage(s.v, list, err)
}

// Find finds an entry by its leaf hash.
func (s *Verifier) Find(ctx context.Context, leaf string) (uint64, bool) {
	return s.book.Find(ctx, leaf)
}

// Proof writes the .tlog-proof of a final entry.
func (s *Verifier) Proof(ctx context.Context, w io.Writer, index uint64) error {
	return s.book.Proof(ctx, w, index)
}

// Overview says what was replayed.
func (s *Verifier) Overview(context.Context) web.Overview {
	var o web.Overview
	o.Nodes, o.Edges = neighbours(s.env)
	o.Headline, o.Figures = verdict(s.v.Party), s.figures()
	return o
}

// verdict says how a follower stands to the log.
func verdict(p *party.Party) string {
	st, ok := p.Status()
	switch {
	case !ok:
		return "The aggregator's ledger has not been seen yet."
	case st.Evidence != nil:
		return "The ledger shows two histories. This node signs it no more and publishes the evidence."
	case st.Objection != nil:
		return "The ledger holds an entry that breaks the rules. This node signs it no more and says which."
	case st.Err != nil:
		return "The newest checkpoint is not signed yet: " + sentence(st.Err.Error())
	}
	return fmt.Sprintf("All is well: %s replayed, signed up to entry %s.", Plural(st.Size, "entry", "entries"), Count(st.Cosigned))
}

// Party is what a neighbour can see; of this node, with its own numbers.
func (s *Verifier) Party(ctx context.Context, id string) (web.Party, bool) {
	p, ok := s.common.Party(ctx, id)
	if ok && id == "self" {
		p.Sees = VerifierSees(s.v)
	}
	return p, ok
}

// VerifierSees is what a verifier sees, in numbers.
func VerifierSees(log Log) []web.Pair {
	l := log.Ledger(1)
	return []web.Pair{
		{Name: "the ledger", Value: Plural(l.Size, "entry", "entries") + " replayed one by one, " + Count(l.CosignedSize) + " final"},
		{Name: "sessions", Value: Plural(kindCount(log, ledger.KindCDR), "hidden amount", "hidden amounts") + ", each with the driver's utility and a day"},
		{Name: "money", Value: "sums of settlements, notes issued and redeemed, balances of operators"},
	}
}

// countedEntries is how many of the newest entries are looked through for a
// count on a page.
const countedEntries = 2000

// kindCount is how many of the newest entries are of a kind.
func kindCount(log Log, k ledger.Kind) (n int) {
	size := log.Ledger(1).Size
	for i := size; i > 0 && size-i < countedEntries; i-- {
		raw, err := log.Entry(i - 1)
		if err != nil {
			break
		}
		if e, err := ledger.Parse(raw); err == nil && e.Kind() == k {
			n++
		}
	}
	return n
}

// Live keeps the pages current.
func (s *Verifier) Live(ctx context.Context) map[string]string {
	out := s.common.live(s.Overview(ctx))
	s.book.live(out)
	return out
}

// Aggregator is the dashboard of the settlement node.
type Aggregator struct {
	common
	book
	a *aggregator.Aggregator
}

// ForAggregator shows the ledger that it writes, and where sessions stand, by
// number: it knows neither drivers nor houses.
func ForAggregator(env *role.Env, a *aggregator.Aggregator) *Aggregator {
	return &Aggregator{common{env, []string{"overview", "money", "ledger", "disputes", "mesh"}}, book{a}, a}
}

// Ledger is the ledger page.
func (s *Aggregator) Ledger(ctx context.Context, from uint64) web.Ledger {
	v := s.book.Ledger(ctx, from)
	if s.env.Cluster != nil {
		v.Machines = machines(s.env.Cluster)
	}
	return v
}

// Entry is one entry in full.
func (s *Aggregator) Entry(ctx context.Context, index uint64) (web.Entry, bool) {
	return s.book.Entry(ctx, index)
}

// Money is what operators owe each other, with the payment files.
func (s *Aggregator) Money(context.Context) web.Money {
	v := MoneyPage(s.a, 0)
	AddFiles(&v, s.a)
	return v
}

// PaymentFile reads one of them.
func (s *Aggregator) PaymentFile(_ context.Context, name string) ([]byte, bool) {
	return PaymentFile(s.a, name)
}

// Disputes are the cases that this aggregator and others filed.
func (s *Aggregator) Disputes(context.Context) web.Disputes {
	list, err := s.a.Cases()
	return CasesPage(s.a, list, err)
}

// Find finds an entry by its leaf hash.
func (s *Aggregator) Find(ctx context.Context, leaf string) (uint64, bool) {
	return s.book.Find(ctx, leaf)
}

// Proof writes the .tlog-proof of a final entry.
func (s *Aggregator) Proof(ctx context.Context, w io.Writer, index uint64) error {
	return s.book.Proof(ctx, w, index)
}

// Overview counts what is open.
func (s *Aggregator) Overview(context.Context) web.Overview {
	var o web.Overview
	o.Nodes, o.Edges = neighbours(s.env)
	c := s.a.Counts()
	open := c.Queued + c.Posted + c.Proposed
	o.Headline = "All is well: every session is settled."
	if open > 0 {
		o.Headline = fmt.Sprintf("%s on the way to be settled.", Plural(open, "session is", "sessions are"))
	}
	o.Figures = append([]web.Figure{{Key: "open", Label: "Sessions not yet settled", Value: Count(open), Note: Plural(c.Held, "held by a case", "held by cases")},
		{Key: "claims", Label: "Claims to answer", Value: Count(c.Claims)}}, s.figures()...)
	for _, e := range flexEvents(s.a) {
		o.Events = append(o.Events, web.Event{At: e.From, Kind: "ledger", Text: FlexText(e), Link: "/party/self"})
	}
	return o
}

// flexEvents are the newest flexibility events, newest first.
func flexEvents(a *aggregator.Aggregator) []aggregator.EventView {
	list, err := a.Events()
	if err != nil {
		return nil // the store's warning says why
	}
	slices.Reverse(list)
	return list[:min(pageEvents, len(list))]
}

// FlexText tells a flexibility event in a sentence.
func FlexText(e aggregator.EventView) string {
	what := "take back"
	if e.W < 0 {
		what = "add"
	}
	text := fmt.Sprintf("Zone %s, %s to %s: %s to %s.", e.Zone, e.From.Format("2 Jan 15:04"), e.To.Format("15:04"), Plural(e.Sessions, "session was told", "sessions were told"), fmt.Sprintf("%s %.1f kW together", what, float64(max(e.W, -e.W)-e.Shortfall)/1e3))
	switch e.State {
	case "paid":
		return text + fmt.Sprintf(" %.2f kWh proved by their meters; the grid operator paid %s, of which %s went to drivers.", KWh(e.Delivered), Money(e.Received, Euro), Money(e.Shared, Euro))
	case "proved":
		return text + fmt.Sprintf(" %.2f kWh proved by their meters; the payment is on its way.", KWh(e.Delivered))
	case "over":
		return text + " It came to nothing: " + e.Why + "."
	}
	return text
}

// Party is what a neighbour can see; of this node, with its own numbers.
func (s *Aggregator) Party(ctx context.Context, id string) (web.Party, bool) {
	p, ok := s.common.Party(ctx, id)
	if ok && id == "self" {
		p.Sees = AggregatorSees(s.a)
	}
	return p, ok
}

// AggregatorSees is what the aggregator sees, in numbers.
func AggregatorSees(a *aggregator.Aggregator) []web.Pair {
	c := a.Counts()
	out := []web.Pair{
		{Name: "sessions", Value: fmt.Sprintf("%s on the ledger; of each the driver's utility, the host's zone, quarters of an hour, energy and amount", Plural(kindCount(a, ledger.KindCDR), "session", "sessions"))},
		{Name: "standing", Value: fmt.Sprintf("%d not yet settled, %d held by a case", c.Queued+c.Posted+c.Proposed, c.Held)},
		{Name: "claims", Value: Plural(c.Claims, "claim", "claims") + " of households and drivers to answer, each under a key of one session"},
	}
	for _, e := range flexEvents(a) {
		out = append(out, web.Pair{Name: "flexibility", Value: FlexText(e)})
	}
	return out
}

// Live keeps the pages current.
func (s *Aggregator) Live(ctx context.Context) map[string]string {
	out := s.common.live(s.Overview(ctx))
	s.book.live(out)
	return out
}
