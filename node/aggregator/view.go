package aggregator

import (
	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/node/party"
	"gridveil/node/web"
)

// copy is the ledger as its writer shows it.
func (a *Aggregator) copy() (party.Copy, bool) {
	w := a.book()
	if w == nil || w.Size() == 0 {
		return party.Copy{}, false
	}
	a.bookMu.RLock()
	policy := a.policy
	a.bookMu.RUnlock()
	base := baseOf(w)
	c := party.Copy{Read: a.Read, Entry: a.Entry, Base: base, Size: base + w.Size(), Policy: policy, Shards: a.shards}
	c.Final, c.Note = w.Final()
	return c, true
}

// Ledger is the ledger page, its entries below before, newest first; 0 means
// from the newest.
func (a *Aggregator) Ledger(before uint64) web.Ledger {
	c, ok := a.copy()
	if !ok {
		return web.Ledger{Origin: a.origin}
	}
	v := c.Page(before, a.env.Clock.Now())
	v.Facts = append(v.Facts, a.mirrorFacts()...)
	return v
}

// LedgerEntry is one entry in full.
func (a *Aggregator) LedgerEntry(index uint64) (web.Entry, bool) {
	c, ok := a.copy()
	if !ok {
		return web.Entry{}, false
	}
	return c.Full(index)
}

// Proof is the .tlog-proof of a final entry, counted over all shards; the proof
// counts in its own log.
func (a *Aggregator) Proof(index uint64) (*ledger.Proof, error) {
	w := a.book()
	if w == nil {
		return nil, errNoBook
	}
	base, end := baseOf(w), finalEnd(w)
	switch {
	case index < base:
		return a.shards.Proof(index)
	case index >= end:
		return nil, &party.NotFinalError{Index: index, Final: end}
	}
	return w.Proof(index - base)
}

// Notes sums up the notes of all months, millionths: signed, seen again (redeemed
// at utilities, swapped or locked), and still out.
func (a *Aggregator) Notes() (issued, returned, outstanding int64) {
	a.Read(func(s *ledger.State) {
		for _, epoch := range a.mints.known() {
			d, _, out, back, ok := s.Denoms(0, epoch)
			if !ok {
				continue
			}
			for i, k := range d.Keys {
				unit := int64(k.Minor) * s.Currencies()[0].Minor()
				issued += int64(out[i]) * unit
				returned += int64(back[i]) * unit
			}
		}
		outstanding = s.Balance(ledger.NotesAccount(0))
	})
	return issued, returned, outstanding
}

// Counts tells where sessions and claims stand.
func (a *Aggregator) Counts() (c settle.Counts) {
	_ = a.withDesk(func(d *settle.Desk) error { c = d.Counts(); return nil }) // it cannot fail
	return c
}

// Entry reads one durable entry, counted over all shards.
func (a *Aggregator) Entry(index uint64) ([]byte, error) {
	w := a.book()
	if w == nil {
		return nil, errNoBook
	}
	if base := baseOf(w); index >= base {
		return w.Entry(index - base)
	}
	return a.shards.Entry(index)
}
