package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/mesh/member"
	"gridveil/node/aggregator"
	"gridveil/node/clock"
	"gridveil/node/verifier"
	"gridveil/node/wallet"
	"gridveil/node/web"
)

// settleWait bounds, in wall time, how long the day's money may take.
const settleWait = 90 * time.Second

// equipped says whether every driver has pseudonyms and every host can offer.
func (st *Story) equipped() bool {
	for _, m := range st.s.Of(member.RoleWallet) {
		if len(m.Node().Role.(*wallet.Wallet).Decks()) == 0 { // the cast gives drivers this role
			return false
		}
	}
	for _, m := range st.s.hosts() {
		if !st.s.gateway(m).CanHost() {
			return false
		}
	}
	return true
}

func (s *Scene) aggregator() (*aggregator.Aggregator, error) {
	n := s.Get("evagg").Node()
	if n == nil {
		return nil, errors.New("the aggregator is stopped")
	}
	return n.Role.(*aggregator.Aggregator), nil // the cast gives this name this role
}

// Settle waits until every session of the days is paid, or the wait is over.
func (st *Story) Settle(ctx context.Context) error {
	for until := time.Now().Add(settleWait); time.Now().Before(until); {
		if len(st.unpaid()) == 0 {
			break
		}
		if !clock.Sleep(ctx, clock.Wall{}, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// unpaid names the sessions that somebody still owes something for.
func (st *Story) unpaid() (names []string) {
	for _, p := range st.visits() {
		v, ok := st.s.gateway(st.s.Get(fmt.Sprintf("home-%d", p.home))).Session(p.session)
		switch {
		case !ok:
			names = append(names, p.name+": no session")
		case v.State != "paid" && v.State != "gift" && v.State != "informational":
			names = append(names, p.name+": "+v.State)
		}
	}
	if st.bought() {
		_, _, _, _, _, pending := st.ancillary()
		names = append(names, pending...)
	}
	return names
}

// quietWait bounds, in wall time, how long the ledger may take to come to rest.
const quietWait = 60 * time.Second

// quiet gives the ledger at a moment when the verifiers have signed all of it and
// the watchdog's copy has it. The clock must be held, so that it comes to rest;
// else the judgement says what is missing.
func (st *Story) quiet(ctx context.Context, a *aggregator.Aggregator) web.Ledger {
	l := a.Ledger(0)
	for until := time.Now().Add(quietWait); time.Now().Before(until); l = a.Ledger(0) {
		if l.Size > 0 && l.Size == l.CosignedSize && st.copied() >= l.Size {
			break
		}
		if !clock.Sleep(ctx, clock.Wall{}, 100*time.Millisecond) {
			break
		}
	}
	return l
}

// copied is how many entries the watchdog's own copy has.
func (st *Story) copied() uint64 {
	n := st.s.Get("watchdog").Node()
	if n == nil {
		return 0
	}
	v, ok := n.Role.(*verifier.Verifier)
	if !ok {
		return 0
	}
	return v.Ledger(0).Size
}

// judgeSessions counts sessions, ledger and notes.
func (st *Story) judgeSessions(ctx context.Context, sum *Summary) error {
	st.countSessions(sum)
	a, err := st.s.aggregator()
	if err != nil {
		return err
	}
	if err := st.payOut(ctx); err != nil {
		return err
	}
	defer clock.Hold(st.s.Clock)()
	l := st.quiet(ctx, a)
	st.judgePayments(sum)
	sum.Ledger.Entries, sum.Ledger.TreeSize = l.Size, l.Size
	sum.Ledger.CosignedSize, sum.Ledger.Equivocations, sum.Ledger.SumMicro = l.CosignedSize, l.Equivocations, l.SumMicro
	sum.Verifiers = len(l.Cosigners)
	for _, c := range l.Cosigners {
		if c.OK {
			sum.Ledger.Quorum++
		}
	}
	a.Read(func(s *ledger.State) { countNotes(s, sum) })
	same(sum, "all accounts sum to zero", l.SumMicro, 0)
	same(sum, "the verifiers signed the whole log", int64(l.CosignedSize), int64(l.Size))
	same(sum, "nobody saw two histories", int64(l.Equivocations), 0)
	same(sum, "notes issued are redeemed or outstanding", sum.Notes.Issued, sum.Notes.Redeemed+sum.Notes.Outstanding)
	st.judgeDispute(sum)
	if err := st.judgeCopies(sum, l.Size); err != nil {
		return err
	}
	if err := st.export(a, sum); err != nil {
		return err
	}
	return st.judgeFlexibility(sum)
}

// export writes the ledger where `gridveil verify` reads it, and verifies it
// from those files alone.
func (st *Story) export(a *aggregator.Aggregator, sum *Summary) error {
	dir := filepath.Join(st.s.Dir, "export")
	if _, err := a.Export(dir); err != nil {
		sum.hold("gridveil verify accepts the export", err.Error())
		return nil
	}
	r, err := export.Verify(dir, nil)
	switch {
	case err != nil:
		sum.hold("gridveil verify accepts the export", err.Error())
	case r.Entries < sum.Ledger.TreeSize:
		sum.hold("gridveil verify accepts the export", fmt.Sprintf("%d entries of %d", r.Entries, sum.Ledger.TreeSize))
	default:
		sum.hold("gridveil verify accepts the export")
	}
	return nil
}

// months that notes of a demonstration can belong to: the running one and those
// beside it.
const noteMonths = 3

// countNotes adds up what was issued and redeemed in the first currency.
func countNotes(s *ledger.State, sum *Summary) {
	sum.Notes.Outstanding = s.Balance(ledger.NotesAccount(0))
	for i := range noteMonths {
		at := s.LogTime().AddDate(0, i-1, 0)
		d, _, issued, redeemed, ok := s.Denoms(0, uint32(at.Year()*100+int(at.Month())))
		if !ok {
			continue
		}
		for k, key := range d.Keys {
			value := int64(key.Minor) * 10_000
			sum.Notes.Issued += int64(issued[k]) * value
			sum.Notes.Redeemed += int64(redeemed[k]) * value
		}
	}
}

func same(sum *Summary, name string, got, want int64) {
	if got != want {
		sum.hold(name, fmt.Sprintf("%d, want %d", got, want))
		return
	}
	sum.hold(name)
}

// judgeCopies compares the verifier's own copy with the log.
func (st *Story) judgeCopies(sum *Summary, size uint64) error {
	v, ok := st.s.Get("watchdog").Node().Role.(*verifier.Verifier)
	if !ok {
		return errors.New("the verifier is stopped")
	}
	l := v.Ledger(0)
	same(sum, "the verifier's own copy has every entry", int64(min(l.Size, size)), int64(size))
	same(sum, "and its accounts sum to zero", l.SumMicro, 0)
	return nil
}

// countSessions compares what the hosts show with what the plan meant.
func (st *Story) countSessions(sum *Summary) {
	var off []string
	x := &sum.Sessions
	for _, p := range st.visits() {
		v, ok := st.s.gateway(st.s.Get(fmt.Sprintf("home-%d", p.home))).Session(p.session)
		if !ok {
			off = append(off, fmt.Sprintf("%s: no session (%v)", p.name, p.err))
			continue
		}
		meant := p.kind
		if p.kind == "forged" || p.kind == "replayed" {
			meant = "refused"
		}
		if v.Case != meant {
			off = append(off, fmt.Sprintf("%s: %s (%s %s), meant to be %s", p.name, v.Case, v.State, v.Refused, meant))
		}
		switch v.Case {
		case "refused":
			x.Refused++
			continue
		case "gift":
			x.Gift++
			continue
		case "pv":
			x.PV++
		case "grid":
			x.Grid++
		case "mixed":
			x.Mixed++
		case "v2g-house":
			x.V2GHouse++
		case "v2g-grid":
			x.V2GGrid++
		}
		if v.State == "paid" || v.State == "receipted" {
			x.Settled++
		}
	}
	sum.hold("every visit became the case it was", off...)
	sum.hold("everybody is paid", st.unpaid()...)
}
