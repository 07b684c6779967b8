package demo

import (
	"strings"
	"time"

	"gridveil/ledger"
	"gridveil/mesh/member"
	"gridveil/node/aggregator"
	"gridveil/node/site"
	"gridveil/node/verifier"
)

// ledgerLook is the ledger's size, how far it is final, and who signed when.
type ledgerLook struct {
	size, final uint64
	sum         int64
	notes       int64 // in circulation, millionths
	known       bool
	signed      map[string]time.Time // by operator
}

// takeLedger reads the ledger's standing; of its entries only the first.
func (s *Site) takeLedger(l *look) {
	log, ok := s.book()
	if !ok {
		return
	}
	v := log.Ledger(1)
	l.ledger = ledgerLook{size: v.Size, final: v.CosignedSize, sum: v.SumMicro, known: v.Size > 0, signed: map[string]time.Time{}}
	for _, c := range v.Cosigners {
		operator, _, _ := strings.Cut(c.Name, ".")
		l.ledger.signed[operator] = c.At
	}
	log.Read(func(st *ledger.State) { l.ledger.notes = st.Balance(ledger.NotesAccount(0)) })
}

// book is the ledger as its writer has it, or, while that is away, as its
// followers do.
func (s *Site) book() (site.Log, bool) {
	if a, ok := roleOf[*aggregator.Aggregator](s.scene.Get("evagg")); ok && a.Ledger(1).Size > 0 {
		return a, true
	}
	for _, m := range s.scene.Of(member.RoleVerifier) {
		if v, ok := roleOf[*verifier.Verifier](m); ok {
			return v, true
		}
	}
	return nil, false
}

// cosigning is the level of the edge to a verifier: up when it signed since the
// look before.
func (l *look) cosigning(old *look, operator string) int {
	if old != nil && !l.ledger.signed[operator].Equal(old.ledger.signed[operator]) {
		return 3
	}
	return 0
}
