package demo

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"gridveil/ledger"
	"gridveil/mesh/member"
	"gridveil/node/gateway"
	"gridveil/node/site"
	"gridveil/node/utility"
	"gridveil/node/wallet"
	"gridveil/node/web"
)

// sessionLook is what the hosts say of their guests.
type sessionLook struct {
	today, refused int
	rows           []web.SessionRow   // of all hosts, newest first
	driver         map[string]*Member // by session
	host           map[string]*Member
}

func (l sessionLook) note() string {
	if l.refused > 0 {
		return fmt.Sprintf("%s today, %d refused", site.Plural(l.today, "session", "sessions"), l.refused)
	}
	return site.Plural(l.today, "session", "sessions") + " today"
}

// running says whether a car stands at a wallbox in this session.
func running(r web.SessionRow) bool {
	return slices.Contains([]string{"plugged", "opened", "starting", "charging", "paused", "discharging"}, r.State)
}

// takeSessions asks hosts and drivers; both call a session by the same short
// name, which nobody but this page can put together.
func (s *Site) takeSessions(l *look) {
	l.sessions.driver, l.sessions.host = map[string]*Member{}, map[string]*Member{}
	midnight := l.now.UTC().Truncate(24 * time.Hour)
	for _, m := range s.scene.hosts() {
		g, ok := roleOf[*gateway.Gateway](m)
		if !ok {
			continue
		}
		for _, r := range g.Sessions() {
			r.Host = titleOf(m)
			l.sessions.rows = append(l.sessions.rows, r)
			l.sessions.host[r.ID] = m
			if !r.Begin.Before(midnight) {
				l.sessions.today++
				if r.Refused != "" {
					l.sessions.refused++
				}
			}
		}
	}
	slices.SortStableFunc(l.sessions.rows, func(a, b web.SessionRow) int { return b.Begin.Compare(a.Begin) })
	for _, m := range s.scene.Of(member.RoleWallet) {
		if w, ok := roleOf[*wallet.Wallet](m); ok {
			for _, r := range w.Sessions() {
				l.sessions.driver[r.ID] = m
			}
		}
	}
}

// tellSessions tells what became of sessions since the look before.
func (s *Site) tellSessions(old, l *look) {
	was := map[string]web.SessionRow{}
	for _, r := range old.sessions.rows {
		was[r.ID] = r
	}
	for _, r := range l.sessions.rows {
		if o, known := was[r.ID]; known && o.State != r.State && r.State == "paid" {
			s.log.Add(Happening{l.now, "ledger", fmt.Sprintf("%s is paid for session %s, in blind notes", r.Host, r.ID), "/sessions/" + r.ID})
		}
	}
}

// Sessions lists the sessions of all hosts.
func (s *Site) Sessions(context.Context) []web.SessionRow {
	rows := s.look().sessions.rows
	return rows[:min(pageRows, len(rows))]
}

// Session is one of them: the host's account, with what only the driver and the
// aggregator know beside it. Nobody but a demonstration's viewer sees both.
func (s *Site) Session(_ context.Context, id string) (web.Session, bool) {
	l := s.look()
	host := l.sessions.host[id]
	g, ok := roleOf[*gateway.Gateway](host)
	if !ok {
		return web.Session{}, false
	}
	v, ok := g.Session(id)
	if !ok {
		return web.Session{}, false
	}
	v.Host = titleOf(host)
	if v.Case == "gift" || v.Case == "own" {
		return v, true
	}
	s.addDriver(&v, l.sessions.driver[id])
	v.Parties = site.Knows(site.Learned{Energy: energyWords(v), Amount: v.Total, Zone: host.Zone, Utility: utilityB, Onion: !s.scene.Lab,
		Offered: v.Offered, Moved: v.Moved, Refused: v.Refused != "", Trusted: slices.ContainsFunc(v.Terms, func(p web.Pair) bool { return p.Name == "began" })})
	return v, true
}

func energyWords(v web.Session) string {
	if v.KWhOut > 0 {
		return fmt.Sprintf("%.2f kWh in and %.2f kWh out", v.KWhIn, v.KWhOut)
	}
	return fmt.Sprintf("%.2f kWh", v.KWhIn)
}

// addDriver adds the driver's account of a session, and where it stands on the
// ledger, which only driver and aggregator can tell.
func (s *Site) addDriver(v *web.Session, driver *Member) {
	w, ok := roleOf[*wallet.Wallet](driver)
	if !ok {
		return
	}
	d, ok := w.Session(v.ID)
	if !ok {
		return
	}
	v.Ref = d.Ref
	told := map[string]bool{}
	for _, e := range v.Steps {
		told[e.Text] = true
	}
	for _, e := range d.Steps {
		if !told[e.Text] { // most steps are told by both sides
			v.Steps = append(v.Steps, web.Event{At: e.At, Kind: "node", Text: titleOf(driver) + ": " + e.Text})
		}
	}
	for _, p := range d.Payees {
		if p.Who == wallet.PoolPayee {
			v.Payees = append(v.Payees, p)
		}
	}
	slices.SortStableFunc(v.Steps, func(a, b web.Event) int { return a.At.Compare(b.At) })
	if index, ok := s.entryOf(d.Ref); ok {
		v.Entry = &index
	}
}

// entryOf finds the ledger entry of a session's name on the ledger.
func (s *Site) entryOf(ref string) (index uint64, ok bool) {
	raw, err := hex.DecodeString(ref)
	log, known := s.book()
	if err != nil || len(raw) != len(ledger.Hash{}) || !known {
		return 0, false
	}
	log.Read(func(st *ledger.State) {
		i, state := st.Session(ledger.Hash(raw))
		index, ok = i, state != ledger.CDRUnknown
	})
	return index, ok
}

// driverText says where a driver is.
func (s *Site) driverText(l *look, m *Member) string {
	for _, r := range l.sessions.rows {
		if l.sessions.driver[r.ID] == m && running(r) {
			return fmt.Sprintf("Is at %s: session %s, %.2f kWh so far.", r.Host, r.ID, max(r.KWhIn, r.KWhOut))
		}
	}
	return "Is on the road or at home. No party of the network is told which."
}

// guests are the sessions that a house saw.
func (s *Site) guests(l *look, m *Member) []web.Pair {
	n := 0
	for _, host := range l.sessions.host {
		if host == m {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return []web.Pair{{Name: "its guests", Value: site.Plural(n, "session", "sessions") + ", each under keys of its own: energy, amount, hour"}}
}

// driverUtilitySees is what the drivers' utility bills from.
func (s *Site) driverUtilitySees(u *utility.Utility) []web.Pair {
	lines, total := 0, int64(0)
	example := ""
	for _, m := range s.scene.Of(member.RoleWallet) {
		n := m.peek()
		if n == nil {
			continue
		}
		b, err := u.DriverBill(n.Host.Self().Key)
		if err != nil {
			continue
		}
		lines, total = lines+len(b.Lines), total+b.Total
		for _, line := range b.Lines {
			example = fmt.Sprintf("contract %s…, %s: %.1f kWh, %s", b.Contract[:8], line.Day.Format("2 Jan"), float64(line.In)/kWh, site.Money(line.Total, site.Euro))
		}
	}
	out := []web.Pair{{Name: "drivers' bills", Value: fmt.Sprintf("%s, %s in all", site.Plural(lines, "line", "lines"), site.Money(total, site.Euro))}}
	if example != "" {
		out = append(out, web.Pair{Name: "such as", Value: example + "; no house, no zone, no hour"})
	}
	return out
}
