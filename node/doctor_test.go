package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/onion"
	"gridveil/mesh/route"
	"gridveil/node/store"
)

var noon = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

func clocks(offs ...time.Duration) (out []mesh.ClockSample) {
	for _, o := range offs {
		out = append(out, mesh.ClockSample{Off: o, At: noon.Add(-time.Hour)})
	}
	return out
}

// found is what a substation said about one address.
func found(r ...mesh.Reach) mesh.Reachability {
	return mesh.Reachability{Seen: netip.MustParseAddr("203.0.113.9"), Addresses: []string{"/ip4/198.51.100.7/tcp/4100"}, Reach: r}
}

func TestDoctorJudgesEachRow(t *testing.T) {
	good := mesh.Member{NotAfter: noon.Add(member.MemberLife)}
	late := mesh.Member{NotAfter: noon.Add(24 * time.Hour)}
	over := mesh.Member{NotAfter: noon.Add(-time.Hour)}
	on := func(code string) map[string]bool { return map[string]bool{code: true} }
	small := route.Status{Homes: 3, MinHomes: 20, Err: &route.SmallSetError{Homes: 3, MinHomes: 20}}
	for _, c := range []struct {
		name  string
		got   Finding
		state Health
		words string // in text or next
	}{
		{"a clock nobody has compared", judgeClock(nil, noon), Limited, "No neighbour"},
		{"a clock that agrees", judgeClock(clocks(0, time.Second, 0), noon), Well, "Agrees with 3 neighbours, last compared 1h0m0s ago"},
		{"one neighbour that is wrong among three", judgeClock(clocks(0, time.Hour, 0), noon), Well, "Agrees"},
		{"a clock that drifts", judgeClock(clocks(12*time.Second), noon), Limited, "12s behind one neighbour"},
		{"a clock that is wrong", judgeClock(clocks(-time.Hour, -time.Hour), noon), Sick, "1h0m0s ahead of 2 neighbours"},

		{"a certificate", judgeCertificate(good, noon, nil), Well, "Good until"},
		{"a certificate that is due, within the day", judgeCertificate(mesh.Member{NotAfter: noon.Add(member.MemberLife/3 - time.Hour)}, noon, nil), Well, "renewed by itself"},
		{"a certificate that nobody renews", judgeCertificate(late, noon, on(mesh.WarnRenewal)), Limited, "nobody does"},
		{"a certificate that should have been renewed while the node was off", judgeCertificate(late, noon, nil), Limited, "Should have been renewed"},
		{"a certificate that ended", judgeCertificate(over, noon, on(mesh.WarnRenewal)), Sick, "Ended on"},
		{"a certificate taken back", judgeCertificate(good, noon, on(mesh.WarnRevoked)), Sick, "took it back"},
		{"a certificate that nobody accepts", judgeCertificate(good, noon, on(mesh.WarnNotMember)), Sick, "does not accept"},

		{"no directory", judgeDirectory(time.Time{}, noon, false), Limited, "No list of relays"},
		{"a fresh directory", judgeDirectory(noon.Add(-10*time.Minute), noon, false), Well, "10m0s old"},
		{"an old directory", judgeDirectory(noon.Add(-route.MaxStale-time.Minute), noon, false), Sick, "2h1m0s old"},
		{"two directories", judgeDirectory(noon, noon, true), Limited, "different lists"},

		{"lists of revoked members", judgeLists(false), Well, "No operator"},
		{"an overdue list", judgeLists(true), Limited, "overdue"},

		{"a crowd", judgeClass(mesh.Meter, route.Status{Set: 9.25, MinSet: 8, Homes: 25, MinHomes: 20}, false, ""), Well, "from 9.2 homes (at least 8), 25 homes enrolled (at least 20)"},
		{"class session asks for no Set", judgeClass(mesh.Session, route.Status{Homes: 25, MinHomes: 20}, false, ""), Well, "Private messages leave: 25 homes enrolled"},
		{"too few homes", judgeClass(mesh.Meter, small, false, ""), Limited, "3 of at least 20 enrolled"},
		{"a trial", judgeClass(mesh.Meter, small, true, ""), Limited, "class lab"},

		{"a floor of its own", judgeClass(mesh.Meter, route.Status{Set: 20, MinSet: 12, Homes: 25, MinHomes: 20}, false, " mesh.min_set raises the network's floor of 8 to 12."), Well, "floor of 8 to 12"},

		{"a home that relays", judgeRelay(onion.HomeRelay{On: true}, found(mesh.ReachOK), nil), Well, "could dial /ip4/198.51.100.7/tcp/4100, and this home relays"},
		{"a home that used its data", judgeRelay(onion.HomeRelay{Paused: true}, found(mesh.ReachOK), nil), Well, "after midnight UTC"},
		{"a port that is not forwarded", judgeRelay(onion.HomeRelay{}, found(mesh.ReachNone), nil), Sick, "forward that TCP port"},
		{"an address of somebody else", judgeRelay(onion.HomeRelay{}, found(mesh.ReachForeign), nil), Sick, "sees this home come from 203.0.113.9, not from /ip4/198.51.100.7/tcp/4100"},
		{"no substation to ask", judgeRelay(onion.HomeRelay{}, found(), mesh.ErrOffline), Limited, "could be asked"},
		{"asked a moment ago", judgeRelay(onion.HomeRelay{On: true, Asked: noon, Reach: found(mesh.ReachOK)}, found(), &mesh.BusyError{}), Well, "relays for others"},

		{"too few loops", judgeLoops(0, false, false), Well, "Too few"},
		{"loops that return", judgeLoops(.04, true, false), Well, "4 %"},
		{"loops that get lost", judgeLoops(.42, true, true), Limited, "42 %"},

		{"data to spare", judgeBudget(12, 30<<20), Well, "12 % of today's 30 MB"},
		{"data nearly used", judgeBudget(80, 30<<20), Limited, "mesh.daily_mb"},

		{"a sound store", judgeStore(nil, "Sound."), Well, "Sound."},
		{"keys of a new store", judgeKeys(store.DataKeys{Generation: 1, Oldest: 1, Began: noon.AddDate(0, 0, -3), Since: noon.AddDate(0, 0, -3)}, nil, noon), Well, "(3 days). What is deleted now"},
		{"keys of months", judgeKeys(store.DataKeys{Generation: 5, Oldest: 4, Began: noon.AddDate(0, 0, -3), Since: noon.AddDate(0, 0, -33)}, nil, noon), Well, "deleted before 13 May 2026"},
		{"a key that waits", judgeKeys(store.DataKeys{Generation: 5, Oldest: 3, Since: noon.AddDate(0, 0, -63), Waiting: 7}, nil, noon), Well, "7 records wait to be sealed anew before key 3"},
		{"a key that waits for long", judgeKeys(store.DataKeys{Generation: 5, Oldest: 3, Since: noon.AddDate(0, -4, 0), Waiting: 7}, nil, noon), Limited, "Let the node run"},
		{"keys nobody could look at", judgeKeys(store.DataKeys{}, store.ErrClosed, noon), Sick, "row about the store"},
		{"a damaged store", judgeStore(errors.New("store: committed value altered\nnext: refetch it"), ""), Sick, "refetch it"},
	} {
		if c.got.State != c.state || !strings.Contains(c.got.Text+" "+c.got.Next, c.words) {
			t.Errorf("%s: got %+v, want %s with %q", c.name, c.got, c.state, c.words)
		}
		if (c.got.State == Well) != (c.got.Next == "") {
			t.Errorf("%s: a row that is not ok says what to do, and no other: got %+v", c.name, c.got)
		}
	}
}

func TestDoctorJudgesNeighboursTogether(t *testing.T) {
	down := reached{who: "B", err: mesh.ErrOffline}
	for _, c := range []struct {
		name  string
		got   []Finding
		want  []Health
		words string
	}{
		{"all answer", judgeReach([]reached{{who: "A", rtt: 1200 * time.Microsecond}}, 1, true), []Health{Well}, "A answers after 1.2ms"},
		{"one is slow", judgeReach([]reached{{who: "A", rtt: 3 * time.Second}}, 1, true), []Health{Limited}, "needs 3s"},
		{"one of two is away", judgeReach([]reached{{who: "A"}, down}, 1, true), []Health{Well, Limited}, "Others do"},
		{"all are away", judgeReach([]reached{down, down}, 0, true), []Health{Sick, Sick}, "Internet connection"},
		{"this node was revoked", judgeReach([]reached{{who: "A", err: mesh.ErrRevoked}}, 0, true), []Health{Sick}, "new code"},
		{"this node's clock is refused", judgeReach([]reached{{who: "A", err: mesh.ErrClock}}, 0, true), []Health{Sick}, "NTP"},
		{"a home that knows nobody", judgeReach(nil, 0, true), []Health{Sick}, "mesh.parents"},
		{"the first node of a network", judgeReach(nil, 0, false), []Health{Limited}, "gridveil invite"},
		{"a node that others dial", judgeReach(nil, 3, false), []Health{Well}, "3 members"},
	} {
		text := ""
		for i, f := range c.got {
			if i >= len(c.want) || f.State != c.want[i] {
				t.Errorf("%s: row %d is %+v, want %v", c.name, i, f, c.want)
			}
			text += f.Text + " " + f.Next
		}
		if len(c.got) != len(c.want) || !strings.Contains(text, c.words) {
			t.Errorf("%s: got %q, want %d rows with %q", c.name, text, len(c.want), c.words)
		}
	}
}

func TestDoctorDialsContactsOfAStoppedNode(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	const id = "/p2p/12D3KooWGRUQkUJPWqS7sGVAxCxnFQ1bNoxXR6fVnqyjtpQLhFGP"
	got := dialAll(context.Background(), []string{"/ip4/127.0.0.1/tcp/" + port + id, "/ip4/127.0.0.1/tcp/1" + id, "127.0.0.1:4100"})
	if got[0].err != nil {
		t.Errorf("an address that answers: got %v", got[0].err)
	}
	if got[1].err == nil {
		t.Error("an address where nobody listens answered")
	}
	if got[2].err == nil || !strings.Contains(got[2].err.Error(), "/ip4/192.0.2.1/tcp/4100") {
		t.Errorf("what is no address: got %v", got[2].err)
	}
}
