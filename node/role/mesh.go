package role

import (
	"slices"
	"time"

	"gridveil/mesh"
)

// settling is how long a node may look for its directory before anybody is told:
// every start begins without.
const settling = 5 * time.Minute

// meshWarnings are the standing problems of the mesh in words.
var meshWarnings = map[string]Warning{
	mesh.WarnClockOff:       {Severity: Fault, Title: "This machine's clock is wrong", Text: "Neighbours disagree with its time, so messages are refused.", Next: "Turn on time synchronisation (NTP) on this machine."},
	mesh.WarnRevoked:        {Severity: Fault, Title: "This node's certificate was taken back", Text: "No member talks to it any more. Metering and charging in the house go on.", Next: "Ask your operator for a new code and run `gridveil join CODE`."},
	mesh.WarnNotMember:      {Severity: Fault, Title: "Nobody accepts this node", Text: "Its certificate is not of this network, or has expired.", Next: "Ask your operator for a code and run `gridveil join CODE`."},
	mesh.WarnDirectorySplit: {Severity: Problem, Title: "Two neighbours show different directories", Text: "The one that feeds this node lacks relays which the other one shows: it is cut off, or hides them. This node uses all relays that either of them shows.", Next: "Nothing to do if it passes within an hour; else tell your operator."},
	mesh.WarnRenewal:        {Severity: Problem, Title: "The certificate is not being renewed", Text: "It has used up two thirds of its life.", Next: "Tell your operator: its enrolment service does not answer."},
	mesh.WarnSingleOperator: {Severity: Notice, Title: "All relays belong to one operator", Text: "Who talks to whom is hidden from others, not from that operator.", Next: "Nothing to do here: the network needs a second operator's substation."},
	mesh.WarnLoopsLost:      {Severity: Problem, Title: "Many test packets get lost", Text: "More than three in ten packets that this node sent to itself in the last hour did not come back.", Next: "Check the Internet connection; messages are sent again."},
	mesh.WarnSmallSet:       {Severity: Problem, Title: "Too few homes to hide among", Text: "Private messages wait until enough homes take part. Nothing is lost.", Next: "Nothing to do: they leave as soon as the crowd is large enough."},
	mesh.WarnDataCap:        {Severity: Notice, Title: "The day's data is nearly used", Text: "Reports wait until midnight UTC and cover traffic is slower; later sessions wait too. Alarms still go, and nothing is lost.", Next: "Raise `mesh.daily_mb` in gridveil.toml if your line allows it."},
	mesh.WarnUnreachable:    {Severity: Problem, Title: "Others cannot dial this home", Text: "It is set to relay for other homes, but no substation could reach its address. It relays nothing until one can.", Next: "Forward the port of `mesh.listen` in the router and see that `mesh.announce` is the house's public address; `gridveil doctor` shows what was found.", After: settling},
	mesh.WarnStaleRevoked:   {Severity: Problem, Title: "An operator's list of revoked members is overdue", Text: "Its node that signs the list is away. Whom it took back since then would still be admitted.", Next: "Tell the operator; on its own node, see that the one which certifies others runs."},
	mesh.WarnStaleDirectory: {Severity: Problem, Title: "The list of relays is old", Text: "Without a fresh one private messages wait.", Next: "Check the Internet connection of this node.", After: settling},
	mesh.WarnFewRelays:      {Severity: Problem, Title: "Too few relays", Text: "A private message needs three relays on its way, and fewer are known. It waits here; nothing is lost.", Next: "Nothing to do here: the network needs more substations, or waits for one that is away.", After: settling},
	mesh.WarnOff:            {Severity: Problem, Title: "Private messages are switched off", Text: "Nothing private leaves this node and it relays nothing. What should leave waits here. Metering, alarms and charging in the house go on.", Next: "`gridveil mesh on`, or the Mesh page, turns it on again."},
}

// offHides are the problems that follow from the switch.
var offHides = []string{mesh.WarnSmallSet, mesh.WarnStaleDirectory, mesh.WarnFewRelays, mesh.WarnLoopsLost}

// Warnings are what a person should know of this node at its time now: the
// board's and the mesh's standing problems, worst first. Command line, pages and
// /readyz show this list.
func (e *Env) Warnings() []Warning {
	now := e.Clock.Now()
	return withMesh(e.Warn.Standing(now), e.Host.Warnings(), now)
}

// MeshOff says whether private messages are switched off, so that nothing private
// leaves now. A part that runs without a mesh is not switched off.
func (e *Env) MeshOff() bool {
	if e.Onion == nil {
		return false
	}
	_, off := e.Onion.Off()
	return off
}

// withMesh adds the mesh's problems to a board's and orders them. A code without
// words is one that no owner of a node can act on.
func withMesh(board []Warning, ofMesh []mesh.Warning, now time.Time) []Warning {
	off := slices.ContainsFunc(ofMesh, func(w mesh.Warning) bool { return w.Code == mesh.WarnOff })
	out := slices.Clone(board)
	for _, m := range ofMesh {
		w, ok := meshWarnings[m.Code]
		if !ok || off && slices.Contains(offHides, m.Code) || now.Sub(m.Since) < w.After {
			continue
		}
		w.Code, w.Since = m.Code, m.Since
		out = append(out, w)
	}
	sortWarnings(out)
	return out
}
