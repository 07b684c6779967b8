package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/onion"
	"gridveil/mesh/route"
	"gridveil/node/config"
	"gridveil/node/control"
	"gridveil/node/identity"
	"gridveil/node/site"
	"gridveil/node/store"
)

// Health is what one check of `gridveil doctor` found.
type Health string

// Warning says that something limits the node or soon will; Sick that something does not work.
const (
	Well    Health = "ok"
	Limited Health = "warning"
	Sick    Health = "fault"
)

// Finding is one row of `gridveil doctor`.
type Finding struct {
	Check string `json:"check"` // stable word of what was looked at
	State Health `json:"state"`
	Text  string `json:"text"`           // what was found and what it means
	Next  string `json:"next,omitempty"` // what to do; empty when nothing
}

// Checkup is what `gridveil doctor` shows.
type Checkup struct {
	Running  bool      `json:"running"` // false: only what files and addresses tell
	Findings []Finding `json:"findings"`
}

// Sick reports whether any finding is a fault.
func (c Checkup) Sick() bool {
	return slices.ContainsFunc(c.Findings, func(f Finding) bool { return f.State == Sick })
}

const (
	probePatience = 10 * time.Second // for one neighbour to answer
	dialPatience  = 5 * time.Second  // for one address, of a node that does not run
	slowAnswer    = time.Second      // an alarm goes to the next neighbour after that
	clockDrifts   = 5 * time.Second  // more is no longer the network's delay
	budgetWarns   = 80               // percent: reports wait from there on
)

// Doctor checks the node in dir: through the running node or, if none runs, by
// its files and by dialling whom it was enrolled with. It fails only when there
// is nothing to check.
func Doctor(ctx context.Context, dir string) (Checkup, error) {
	var c Checkup
	err := control.Call(ctx, dir, "doctor", nil, &c)
	if !errors.Is(err, control.ErrNotRunning) {
		return c, err
	}
	if _, err := os.Stat(filepath.Join(dir, config.FileName)); err != nil {
		_, err := config.Load(dir) // says how to make it
		return c, err
	}
	return offline(ctx, dir), nil
}

// doctor checks the running node.
func (n *Node) doctor(ctx context.Context) Checkup {
	now, self := n.Clock.Now(), n.Host.Self()
	standing := map[string]bool{}
	for _, w := range n.Host.Warnings() {
		standing[w.Code] = true
	}
	out := []Finding{
		{Check: "node", State: Well, Text: fmt.Sprintf("Runs as %s of %s for %s.", self.Role, self.Operator, time.Since(n.started).Round(time.Second))},
		judgeClock(n.Host.Clocks(), now),
	}
	out = append(out, judgeReach(n.probe(ctx), len(n.Host.Peers()), self.Role.Leaf())...)
	out = append(out, judgeCertificate(self, now, standing), judgeDirectory(n.Onion.Status(mesh.Meter).Fresh, now, standing[mesh.WarnDirectorySplit]), judgeLists(standing[mesh.WarnStaleRevoked]))
	if self.Role.Leaf() {
		lab := n.Host.Bundle().Policy.Lab
		for _, c := range []mesh.Class{mesh.Meter, mesh.Session} {
			out = append(out, judgeClass(c, n.Onion.Status(c), lab, n.ownFloors(c)))
		}
		out = append(out, n.relayFinding(ctx)...)
		ratio, enough := n.Onion.LoopsLost()
		percent, daily := n.Host.BudgetUsed()
		out = append(out, judgeLoops(ratio, enough, standing[mesh.WarnLoopsLost]), judgeBudget(percent, daily))
	}
	if n.machine != nil {
		out = append(out, judgeCluster(n.machine.status(ctx)))
	}
	out = append(out, judgeStore(describeDamage(n.Store.Check(ctx), nil), fmt.Sprintf("Sound up to commit %d: every record was read and verified.", n.Store.Head())))
	keys, err := n.Store.DataKeys(ctx)
	out = append(out, judgeKeys(keys, err, now))
	return Checkup{Running: true, Findings: out}
}

// reached is how a neighbour answered.
type reached struct {
	who string // role and operator, or an address where it was never met
	rtt time.Duration
	err error
}

// probe asks every peer that the node keeps a connection to, all at once.
func (n *Node) probe(ctx context.Context) []reached {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	kept := n.Host.Kept()
	type answer struct {
		i   int
		rtt time.Duration
		err error
	}
	answers := make(chan answer, len(kept))
	for i, p := range kept {
		go func() { // ends with ctx; all are awaited below
			rtt, err := n.Host.RoundTrip(ctx, p.ID)
			answers <- answer{i, rtt, err}
		}()
	}
	out := make([]reached, len(kept))
	for range kept {
		a := <-answers
		out[a.i] = reached{n.nameOf(kept[a.i]), a.rtt, a.err}
	}
	return out
}

func (n *Node) nameOf(p peer.AddrInfo) string {
	if m, ok := n.Host.Connected(p.ID); ok {
		where := ""
		if m.Zone != "" {
			where = " in zone " + m.Zone
		}
		return fmt.Sprintf("The %s of %s%s", m.Role, m.Operator, where)
	}
	if len(p.Addrs) > 0 {
		return p.Addrs[0].String()
	}
	return "A neighbour without a known address"
}

// judgeClock compares this machine's clock with the middle of what neighbours
// said: one wrong neighbour alone changes nothing among three.
func judgeClock(heard []mesh.ClockSample, now time.Time) Finding {
	f := Finding{Check: "clock"}
	if len(heard) == 0 {
		f.State, f.Text = Limited, "No neighbour has told its time yet, so nobody can say whether this machine's clock is right."
		f.Next = "Wait until a neighbour answers; meanwhile see that time synchronisation (NTP) is on."
		return f
	}
	offs := make([]time.Duration, len(heard))
	for i, s := range heard {
		offs[i] = s.Off
	}
	slices.Sort(offs)
	off := offs[len(offs)/2]
	by := fmt.Sprintf("%d neighbours", len(heard))
	if len(heard) == 1 {
		by = "one neighbour"
	}
	side := "behind"
	if off < 0 {
		side = "ahead of"
	}
	ago := now.Sub(heard[0].At).Round(time.Minute)
	switch {
	case off.Abs() <= clockDrifts:
		f.State, f.Text = Well, fmt.Sprintf("Agrees with %s, last compared %v ago.", by, ago)
	case off.Abs() <= member.MaxClockOff:
		f.State, f.Text = Limited, fmt.Sprintf("%v %s %s. Beyond %v neighbours refuse this node.", off.Abs().Round(time.Second), side, by, member.MaxClockOff)
		f.Next = "Turn on time synchronisation (NTP) on this machine."
	default:
		f.State, f.Text = Sick, fmt.Sprintf("%v %s %s. Readings bear the wrong time, and relays refuse this node.", off.Abs().Round(time.Second), side, by)
		f.Next = "Turn on time synchronisation (NTP) on this machine, then start the node again."
	}
	return f
}

// judgeReach gives a row for each neighbour that the node keeps. One that does
// not answer is a fault only when none does.
func judgeReach(all []reached, peers int, leaf bool) []Finding {
	if len(all) == 0 {
		f := Finding{Check: "neighbour", State: Well, Text: fmt.Sprintf("Dials nobody by itself; %d members are connected.", peers)}
		switch {
		case leaf:
			f.State, f.Text, f.Next = Sick, "No address of a substation is known, so nothing can be sent.", "Put an address of your operator's substation into mesh.parents of "+config.FileName+"."
		case peers == 0:
			f.State, f.Text, f.Next = Limited, "Nobody is connected, and no address of anybody is known.", "Invite members with `gridveil invite`, or put an address of another operator's node into mesh.parents."
		}
		return []Finding{f}
	}
	none := !slices.ContainsFunc(all, func(r reached) bool { return r.err == nil })
	var out []Finding
	for _, r := range all {
		f := Finding{Check: "neighbour", State: Well, Text: fmt.Sprintf("%s answers after %v.", r.who, r.rtt.Round(time.Millisecond/10))}
		switch {
		case r.err != nil && none:
			f.State, f.Text = Sick, fmt.Sprintf("%s does not answer, nor does any other: %v.", r.who, r.err)
			f.Next = adviceFor(r.err)
		case r.err != nil:
			f.State, f.Text = Limited, fmt.Sprintf("%s does not answer: %v. Others do, so everything still leaves.", r.who, r.err)
			f.Next = "Nothing to do if it passes; else tell its operator."
		case r.rtt > slowAnswer:
			f.State, f.Text = Limited, fmt.Sprintf("%s needs %v to answer: alarms go to the next neighbour as well.", r.who, r.rtt.Round(time.Millisecond))
			f.Next = "See what else uses the Internet connection."
		}
		out = append(out, f)
	}
	return out
}

func adviceFor(err error) string {
	switch {
	case errors.Is(err, mesh.ErrRevoked), errors.Is(err, mesh.ErrNotMember):
		return "Ask your operator for a new code and join again in a fresh directory."
	case errors.Is(err, mesh.ErrClock):
		return "Turn on time synchronisation (NTP) on this machine."
	}
	return "Check the Internet connection, and that a firewall lets this machine dial that address."
}

func judgeCertificate(m mesh.Member, now time.Time, standing map[string]bool) Finding {
	f := Finding{Check: "certificate", State: Well}
	end, renew := m.NotAfter.Local().Format("2 Jan 2006"), m.RenewAt().Local().Format("2 Jan 2006")
	switch {
	case now.After(m.NotAfter):
		f.State, f.Text, f.Next = Sick, fmt.Sprintf("Ended on %s: no member talks to this node.", end), "Check this machine's date; if it is right, ask your operator for a new code."
	case standing[mesh.WarnRevoked]:
		f.State, f.Text, f.Next = Sick, "Your operator took it back: no member talks to this node.", "Ask your operator."
	case standing[mesh.WarnNotMember]:
		f.State, f.Text, f.Next = Sick, "A neighbour does not accept it: it is of another network, or the network's rules changed.", "Ask your operator for a new code."
	case standing[mesh.WarnRenewal] || now.After(m.RenewAt().Add(24*time.Hour)):
		f.State, f.Text, f.Next = Limited, fmt.Sprintf("Should have been renewed on %s, and nobody does; it ends on %s.", renew, end), "Tell your operator that its enrolment service does not answer."
	default:
		f.Text = fmt.Sprintf("Good until %s, renewed by itself from %s on.", end, renew)
	}
	return f
}

func judgeLists(stale bool) Finding {
	if stale {
		return Finding{Check: "revocations", State: Limited, Text: "An operator's list of revoked members is overdue: whom it took back since then would still be admitted.",
			Next: "Tell the operator that its node which certifies others is away."}
	}
	return Finding{Check: "revocations", State: Well, Text: "No operator's list of revoked members is overdue."}
}

func judgeDirectory(fresh, now time.Time, split bool) Finding {
	f := Finding{Check: "directory", State: Well}
	age := now.Sub(fresh).Round(time.Minute)
	switch {
	case fresh.IsZero():
		f.State, f.Text, f.Next = Limited, "No list of relays has arrived yet; private messages wait.", "Wait some minutes after the start; then check the Internet connection."
	case age > route.MaxStale:
		f.State, f.Text, f.Next = Sick, fmt.Sprintf("The list of relays is %v old; without a fresh one private messages wait.", age), "Check the Internet connection and the rows about neighbours."
	case split:
		f.State, f.Text, f.Next = Limited, "Two neighbours show different lists of relays: one is cut off or lies.", "Nothing to do if it passes within an hour; else tell your operator."
	default:
		f.Text = fmt.Sprintf("The list of relays is %v old.", age)
	}
	return f
}

// ownFloors says what the floors of gridveil.toml do for a class, after a space.
func (n *Node) ownFloors(c mesh.Class) string {
	policy, own := n.Host.Bundle().Policy, n.Config.Mesh
	out := site.OwnFloor("mesh.min_homes", own.MinHomes, policy.MinHomes)
	if c == mesh.Meter {
		out = strings.TrimSpace(site.OwnFloor("mesh.min_set", own.MinSet, policy.MinSet) + " " + out)
	}
	if out != "" {
		out = " " + out
	}
	return out
}

// relayFinding has a parent dial this home's address, if it is to relay for others.
func (n *Node) relayFinding(ctx context.Context) []Finding {
	if !n.Config.Mesh.Relay {
		return nil
	}
	r, err := n.Host.Reachable(ctx)
	return []Finding{judgeRelay(n.Onion.HomeRelay(), r, err)}
}

// judgeRelay says whether others can dial a home that is to relay, and what to do.
func judgeRelay(s onion.HomeRelay, r mesh.Reachability, err error) Finding {
	f := Finding{Check: "relay", State: Well}
	if errors.Is(err, mesh.ErrBusy) && !s.Asked.IsZero() { // asked a moment ago
		r, err = s.Reach, nil
	}
	if err != nil {
		f.State, f.Text, f.Next = Limited, fmt.Sprintf("No substation could be asked to dial this home: %v.", err), "See the rows about neighbours; try again in a minute."
		return f
	}
	i := slices.Index(r.Reach, mesh.ReachOK)
	switch {
	case i >= 0 && s.On:
		f.Text = fmt.Sprintf("A substation could dial %s, and this home relays for others.", r.Addresses[i])
	case i >= 0 && s.Paused:
		f.Text = fmt.Sprintf("A substation could dial %s; today's data is used as far as relaying may use it, and it goes on after midnight UTC.", r.Addresses[i])
	case i >= 0:
		f.Text = fmt.Sprintf("A substation could dial %s; this home does not relay now.", r.Addresses[i])
	case len(r.Addresses) > 0 && !slices.ContainsFunc(r.Reach, func(x mesh.Reach) bool { return x != mesh.ReachForeign }):
		f.State, f.Text = Sick, fmt.Sprintf("A substation sees this home come from %s, not from %s, so others would dial somebody else.", r.Seen, strings.Join(r.Addresses, " or "))
		f.Next = "Put the house's public address into mesh.announce of " + config.FileName + ", or a name that follows it (dynamic DNS). If the router shows another address than " + r.Seen.String() + ", the provider shares one among homes: then this home cannot relay."
	default:
		f.State, f.Text = Sick, fmt.Sprintf("No substation could dial %s, so this home relays nothing.", strings.Join(r.Addresses, " or "))
		f.Next = "In the router, forward that TCP port to this machine and the port of mesh.listen; then let the machine's firewall accept it."
	}
	return f
}

func judgeClass(c mesh.Class, st route.Status, lab bool, own string) Finding {
	f := Finding{Check: "class " + c.String(), State: Well}
	numbers := fmt.Sprintf("%d homes enrolled (at least %d)", st.Homes, st.MinHomes)
	if c == mesh.Meter {
		numbers = fmt.Sprintf("a message could come from %.1f homes (at least %d), %s", st.Set, st.MinSet, numbers)
	}
	switch {
	case st.Err != nil && lab:
		f.State, f.Text, f.Next = Limited, "This network is a trial (class lab): messages leave at once and hide little.", "Nothing to do here: your operators end the trial."
	case st.Err != nil:
		f.State, f.Text, f.Next = Limited, fmt.Sprintf("Private messages wait: %v.", st.Err), "Nothing to do: nothing is lost, and they leave as soon as they can."
	default:
		f.Text = "Private messages leave: " + numbers + "."
	}
	f.Text += own
	return f
}

func judgeLoops(ratio float64, enough, lost bool) Finding {
	f := Finding{Check: "loops", State: Well}
	switch {
	case lost:
		f.State, f.Text = Limited, fmt.Sprintf("%.0f %% of the test packets that this node sent to itself in the last hour did not come back: the path is bad, or somebody drops packets to isolate a home.", ratio*100)
		f.Next = "Check the Internet connection; messages are sent again. If it lasts, tell your operator."
	case !enough:
		f.Text = "Too few test packets came due in the last hour to say anything."
	default:
		f.Text = fmt.Sprintf("%.0f %% of the test packets of the last hour were lost.", ratio*100)
	}
	return f
}

func judgeBudget(percent, daily int64) Finding {
	f := Finding{Check: "data", State: Well, Text: fmt.Sprintf("%d %% of today's %d MB each way are used.", percent, daily>>20)}
	if percent >= budgetWarns {
		f.State, f.Text = Limited, f.Text+" Reports wait until midnight UTC; alarms never do."
		f.Next = "If the connection is not metered, raise mesh.daily_mb in " + config.FileName + "."
	}
	return f
}

func judgeStore(err error, sound string) Finding {
	if err != nil {
		text, next := splitHint(err)
		return Finding{Check: "store", State: Sick, Text: text, Next: next}
	}
	return Finding{Check: "store", State: Well, Text: sound}
}

// keysWarn is when what was deleted can be opened for longer than it should: two
// months are usual, a third for a node that was off.
const keysWarn = 92 * 24 * time.Hour

// judgeKeys says which of what was deleted can still be opened by a thief of an
// old copy and the store's key.
func judgeKeys(k store.DataKeys, err error, now time.Time) Finding {
	f := Finding{Check: "erasure", State: Well}
	if err != nil {
		f.State, f.Text, f.Next = Sick, fmt.Sprintf("Nobody can say what is erased: %v.", err), "See the row about the store."
		return f
	}
	day := func(t time.Time) string { return t.Local().Format("2 Jan 2006") }
	f.Text = fmt.Sprintf("Records are sealed with data key %d since %s (%d days). ", k.Generation, day(k.Began), int(now.Sub(k.Began)/(24*time.Hour)))
	if k.Oldest <= 1 {
		f.Text += "What is deleted now can be opened nowhere after two months at most."
	} else {
		f.Text += fmt.Sprintf("What was deleted before %s can be opened nowhere any more, not even in old copies.", day(k.Since))
	}
	if k.Waiting > 0 {
		f.Text += fmt.Sprintf(" %d records wait to be sealed anew before key %d is erased.", k.Waiting, k.Oldest)
	}
	if k.Oldest > 0 && now.Sub(k.Since) > keysWarn {
		f.State, f.Next = Limited, "Let the node run: within a few hours it catches up. If it does not, see its log for store maintenance that was put off."
	}
	return f
}

// splitHint gives an error's words and, apart, what it says to do next.
func splitHint(err error) (text, next string) {
	text, next, _ = strings.Cut(err.Error(), "\nnext: ")
	return text, next
}

// offline checks what files and addresses tell about a node that does not run.
func offline(ctx context.Context, dir string) Checkup {
	out := []Finding{{Check: "node", State: Limited, Text: "Does not run: nothing is metered, sent or relayed, and only files and addresses can be checked.",
		Next: fmt.Sprintf("Start it with `gridveil run --data %s`.", dir)}}
	fail := func(check string, err error) {
		text, next := splitHint(err)
		out = append(out, Finding{Check: check, State: Sick, Text: text, Next: next})
	}
	c, err := config.Load(dir)
	if err != nil {
		fail("config", err)
	} else {
		out = append(out, Finding{Check: "config", State: Well, Text: config.FileName + " has no mistake."})
	}
	now := time.Now()
	id, err := identity.Load(dir, now)
	switch {
	case err != nil:
		fail("certificate", err)
	case c != nil && id.Member.Role.String() != c.Role:
		fail("certificate", fmt.Errorf("it is for a %s, and %s says %q: one of them belongs to another node", id.Member.Role, config.FileName, c.Role))
	default:
		out = append(out, judgeCertificate(id.Member, now, nil))
	}
	var contacts []string
	if id != nil {
		contacts = id.Contacts
	}
	if c != nil {
		contacts = append(contacts, c.Mesh.Parents...)
	}
	if len(contacts) > 0 {
		out = append(out, judgeReach(dialAll(ctx, contacts), 0, true)...)
	}
	if _, err := os.Stat(filepath.Join(dir, "store")); err != nil {
		return Checkup{Findings: append(out, Finding{Check: "store", State: Well, Text: "Is made when the node first runs."})}
	}
	damage := CheckStore(ctx, dir)
	if out = append(out, judgeStore(damage, "Sound: every record was read and verified.")); damage == nil {
		keys, err := storedKeys(ctx, dir)
		out = append(out, judgeKeys(keys, err, now))
	}
	return Checkup{Findings: out}
}

// dialAll opens a TCP connection to each address and closes it again.
func dialAll(ctx context.Context, contacts []string) []reached {
	var out []reached
	for _, text := range contacts {
		r := reached{who: text}
		began := time.Now()
		r.err = dialTCP(ctx, text)
		r.rtt = time.Since(began)
		out = append(out, r)
	}
	return out
}

func dialTCP(ctx context.Context, text string) error {
	a, err := ma.NewMultiaddr(text)
	if err != nil {
		return fmt.Errorf("it is no address such as /ip4/192.0.2.1/tcp/4100: %w", err)
	}
	a, _ = ma.SplitFunc(a, func(c ma.Component) bool { return c.Protocol().Code == ma.P_P2P })
	network, address, err := manet.DialArgs(a)
	if err != nil {
		return err
	}
	d := net.Dialer{Timeout: dialPatience}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return errors.Unwrap(err) // the address stands in the row already
	}
	return conn.Close()
}
