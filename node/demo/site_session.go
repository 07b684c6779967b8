package demo

import (
	"context"
	"fmt"

	"gridveil/ledger"
	"gridveil/node/site"
	"gridveil/node/utility"
	"gridveil/node/web"
)

// sessionLook is what the hosts say of their guests.
type sessionLook struct{ today, refused int }

func (l sessionLook) note() string {
	if l.refused > 0 {
		return fmt.Sprintf("%s today, %d refused", site.Plural(l.today, "session", "sessions"), l.refused)
	}
	return site.Plural(l.today, "session", "sessions") + " today"
}

func (s *Site) takeSessions(l *look) {}

// Sessions lists the sessions of all hosts.
func (s *Site) Sessions(context.Context) []web.SessionRow { return nil }

// Session is one of them.
func (s *Site) Session(context.Context, string) (web.Session, bool) { return web.Session{}, false }

func (s *Site) driverText(l *look, m *Member) string { return "Drives, or is parked at home." }

func (s *Site) guests(m *Member) []web.Pair                     { return nil }
func (s *Site) aggregatorSees(l *look) []web.Pair               { return nil }
func (s *Site) verifierSees(l *look) []web.Pair                 { return nil }
func (s *Site) walletSees(l *look, m *Member) []web.Pair        { return nil }
func (s *Site) driverUtilitySees(u *utility.Utility) []web.Pair { return nil }
func (s *Site) takeLedger(l *look)                              {}
func (s *Site) book() (site.Book, bool)                         { return site.Book{}, false }
func (s *Site) prover() (p interface {
	Proof(uint64) (*ledger.Proof, error)
}, ok bool) {
	return nil, false
}
func (l *look) cosigning(v string) int { return 0 }
