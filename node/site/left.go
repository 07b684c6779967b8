package site

import (
	"fmt"
	"time"

	"gridveil/node/gateway"
	"gridveil/node/web"
	"gridveil/privacy/leak"
)

// recipients are the words of the page; a Names may know the operator besides.
var recipients = map[leak.Role]string{
	leak.Guest: "the guest at your wallbox", leak.HostHome: "the house you charge at", leak.Aggregator: "the aggregator",
	leak.OwnUtility: "your utility", leak.GridOp: "the grid operator", leak.SumLeader: "the sum's first server",
	leak.SumHelper: "the sum's second server", leak.Escrow: "the escrow", leak.Relay: "relays, each alone", leak.Ledger: "everybody",
	leak.Substation: "the substation", leak.Openers: "the openers of a case",
	leak.Keeper: "substations that keep mail, without knowing whose",
}

// Names gives the operator behind a recipient, "" where it is nobody in
// particular.
type Names func(leak.Role) string

// Left tells what left the house of g on the day of now, from its own journal.
func Left(ref web.HomeRef, g *gateway.Gateway, now time.Time, names Names, stays []string) web.Left {
	view, entries := g.Left(now)
	l := LeftView(ref, view, entries, names, stays)
	told, err := g.Told(now)
	if err != nil {
		l.NotTold = "The figures need the readings of the last days, and the store did not give them: " + err.Error() + "."
		return l
	}
	tell(&l, view, told)
	return l
}

// LeftView is Left of a journal's day; entries may be missing, then no line says
// when its last message left.
func LeftView(ref web.HomeRef, view leak.View, entries []leak.Entry, names Names, stays []string) web.Left {
	type pair struct {
		m  leak.Message
		to leak.Role
	}
	last := map[pair]leak.Entry{}
	for _, e := range entries {
		last[pair{e.Message, e.To}] = e
	}
	out := web.Left{Home: ref, Day: view.Day.Format("2 January 2006"), Stays: stays}
	for _, l := range view.Lines {
		e := last[pair{l.Row.Message, l.Row.To}]
		out.Lines = append(out.Lines, web.LeftLine{What: l.Row.Message.String(), Why: l.Row.Why, To: recipient(l.Row.To, names), As: alias(l, e),
			Count: l.Messages, Bytes: l.Bytes, Learns: learns(l.Row), Bits: l.Bits, Last: e.At})
		out.Bytes += l.Bytes
		out.Messages += l.Messages
	}
	return out
}

func recipient(r leak.Role, names Names) string {
	if names != nil {
		if n := names(r); n != "" {
			return recipients[r] + " (" + n + ")"
		}
	}
	return recipients[r]
}

// alias is the name a line's messages went out under.
func alias(l leak.Line, last leak.Entry) string {
	switch {
	case l.Pseudonyms > 1:
		return fmt.Sprintf("%d one-time names", l.Pseudonyms)
	case last.As == [8]byte{}:
		return "no name"
	}
	return ShortID(last.As[:])
}

// learns names the fields that tell something; what is random or equal for
// everybody tells nothing.
func learns(r leak.Row) string {
	var told []string
	for _, f := range r.Fields {
		if f.Values > 1 {
			told = append(told, f.Name)
		}
	}
	if len(told) == 0 {
		return "nothing about you: it is sealed or random"
	}
	return list(told)
}

// Stays says what never leaves a house, with what its own equipment can do.
func Stays(h House) []string {
	out := []string{
		fmt.Sprintf("The load of any minute: registers are read every %s and sent every %s.", Span(h.ReadPeriod), Span(h.ReportPeriod)),
		"Your name, your address, your devices: no message has a field for them.",
	}
	if h.BatteryWh > 0 {
		out = append(out, "When you cook, wash or are away, as far as the battery carries it: the meter measures the mask, not the house.")
	} else {
		out = append(out, "Not hidden here: without a battery the registers show the true consumption of every read period.")
	}
	if h.Hosts {
		out = append(out, "Who charged here: guests come under one-time keys, and even you are not told their utility.")
	}
	return append(out, "Your reading in the grid's sum: it leaves in two random halves, to two operators, under the identity of one day.")
}
