package site

import (
	"context"
	"fmt"

	"gridveil/node/role"
	"gridveil/node/wallet"
	"gridveil/node/web"
	"gridveil/privacy/leak"
)

// Wallet is the dashboard of a driver.
type Wallet struct {
	common
	w *wallet.Wallet
}

// ForWallet shows a driver the own sessions, notes, and what left the wallet.
func ForWallet(env *role.Env, w *wallet.Wallet) *Wallet {
	return &Wallet{common{env, []string{"overview", "sessions", "privacy", "mesh"}}, w}
}

// Sessions are the driver's own.
func (s *Wallet) Sessions(context.Context) []web.SessionRow { return s.w.Sessions() }

// Session is one of them in full.
func (s *Wallet) Session(_ context.Context, id string) (web.Session, bool) { return s.w.Session(id) }

func (s *Wallet) ref() web.HomeRef { return web.HomeRef{ID: "wallet", Name: s.env.Config.Name} }

// Homes is the wallet itself: the privacy page asks for its journal.
func (s *Wallet) Homes(context.Context) []web.HomeRef { return []web.HomeRef{s.ref()} }

// Left is what left the wallet today.
func (s *Wallet) Left(_ context.Context, id string) (web.Left, bool) {
	view, err := s.w.Left(s.env.Clock.Now())
	if id != "wallet" || err != nil {
		return web.Left{}, false
	}
	operator := s.env.Host.Self().Operator
	names := func(r leak.Role) string {
		if r == leak.OwnUtility {
			return operator
		}
		return ""
	}
	return LeftView(s.ref(), view, nil, names, []string{
		"Your name, your number plate, your phone: no message has a field for them.",
		"Where you charge: your utility gets day, energy and amount, and nothing else.",
		"That two sessions are yours: each uses keys that were never used before.",
	}), true
}

// Overview tells what the driver holds.
func (s *Wallet) Overview(context.Context) web.Overview {
	var o web.Overview
	o.Nodes, o.Edges = neighbours(s.env)
	rows := s.w.Sessions()
	o.Headline = "No session is running."
	for _, r := range rows {
		if running(r.State) {
			o.Headline = fmt.Sprintf("Session %s is running: %.2f kWh, %s so far.", r.ID, r.KWhIn, r.Total)
		}
	}
	o.Figures = []web.Figure{{Key: "sessions", Label: "Sessions", Value: Count(len(rows))}, {Key: "pseudonyms", Label: "One-time certificates", Value: Count(certificates(s.w)), Note: "left for this and next week"},
		{Key: "notes", Label: "Credit notes", Value: minorUnits(s.w), Note: "redeemed at your utility by and by"}}
	return o
}

// running says whether a wallet's session is under way, by its own word.
func running(state string) bool { return state == "opened" || state == "charging" }

func certificates(w *wallet.Wallet) (n int) {
	for _, d := range w.Decks() {
		n += d.Left
	}
	return n
}

func minorUnits(w *wallet.Wallet) string {
	n := w.Notes()
	return Money(int64(n.Fresh+n.Swapped+n.Leaving)*microPerCent, Euro)
}

// WalletSees is what a driver's wallet holds, in numbers.
func WalletSees(w *wallet.Wallet) []web.Pair {
	return []web.Pair{
		{Name: "sessions", Value: Plural(len(w.Sessions()), "session", "sessions") + ", with prices, ticks and the meter's signed record"},
		{Name: "certificates", Value: Plural(certificates(w), "one-time certificate", "one-time certificates") + " left"},
		{Name: "notes", Value: minorUnits(w) + " in blind notes"},
	}
}

// Live keeps the pages current.
func (s *Wallet) Live(ctx context.Context) map[string]string { return s.live(s.Overview(ctx)) }
