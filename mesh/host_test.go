package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh"
	"gridveil/mesh/lane"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// collect makes substations acknowledge alarms and reports by handing them to take.
func collect(take func(s mesh.Service, req []byte)) func(*meshtest.Node) error {
	return func(d *meshtest.Node) error {
		for _, s := range []mesh.Service{mesh.Alarm, mesh.Report} {
			if d.Member.Role == member.RoleSSN {
				d.Host.Handle(s, func(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
					take(s, req)
					return []byte(from.Role.String() + " in " + from.Zone), nil
				})
			}
		}
		return nil
	}
}

func TestAHostThatCannotCloseSaysSoAndReturns(t *testing.T) {
	n := meshtest.Found(t, meshtest.Options{SSNs: 1})
	key, chain := n.Issue(member.RoleGateway, "z1")
	h, err := mesh.New(mesh.Config{Clock: n.Clock, Bundle: n.Bundle, Sig: n.Sig, Chain: chain}, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.SetPatience(100 * time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx) }()
	release := make(chan struct{})
	defer close(release)
	meshtest.Eventually(t, "something runs that does not end with its context", func() bool {
		return h.Go(func(context.Context) { <-release })
	})
	cancel()
	select {
	case err := <-served:
		if !errors.Is(err, mesh.ErrHangs) {
			t.Errorf("got %v, want ErrHangs", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the host hangs with what it runs")
	}
	if err := h.Close(); err != nil {
		t.Errorf("a second close: %v", err)
	}
}

func TestTwoMembersMeetAndCall(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Ready: collect(func(mesh.Service, []byte) {})})
	home, ssn := n.Homes[0], n.SSNs[0]
	got, err := home.Host.Call(t.Context(), ssn.Member.Peer, mesh.Alarm, []byte("voltage lost"))
	if err != nil || string(got) != "gateway in z1" {
		t.Fatalf("alarm: got %q, %v", got, err)
	}
	if got, err := ssn.Host.Call(t.Context(), home.Member.Peer, mesh.Probe, []byte("hi")); err != nil || string(got) != "hi" {
		t.Fatalf("probe towards the home: got %q, %v", got, err)
	}
	if _, err := home.Host.Call(t.Context(), ssn.Member.Peer, mesh.Backfill, nil); !errors.Is(err, mesh.ErrRefused) {
		t.Errorf("a service that nobody handles: got %v, want ErrRefused", err)
	}
	if _, err := home.Host.Call(t.Context(), ssn.Member.Peer, mesh.Alarm, make([]byte, lane.MaxAlarmBody+1)); !errors.Is(err, mesh.ErrTooLarge) {
		t.Errorf("an alarm above 8 KiB: got %v, want ErrTooLarge", err)
	}
}

func TestRolesThatDoNotFitAServiceAreRefusedOnBothSides(t *testing.T) {
	all := []member.Role{member.RoleGateway, member.RoleSSN, member.RoleHeadend, member.RoleUtility, member.RoleAggregator, member.RoleWallet, member.RoleVerifier}
	allowed := map[string]bool{}
	for _, c := range []struct {
		s        mesh.Service
		from, to member.Role
	}{
		{mesh.Alarm, member.RoleGateway, member.RoleSSN}, {mesh.Alarm, member.RoleSSN, member.RoleHeadend},
		{mesh.ReadNow, member.RoleUtility, member.RoleHeadend}, {mesh.ReadNow, member.RoleHeadend, member.RoleSSN},
		{mesh.ReadNow, member.RoleSSN, member.RoleGateway}, {mesh.Lines, member.RoleAggregator, member.RoleUtility},
		{mesh.Report, member.RoleGateway, member.RoleSSN}, {mesh.Report, member.RoleSSN, member.RoleHeadend},
	} {
		allowed[fmt.Sprint(c.s, c.from, c.to)] = true
	}
	for _, s := range []mesh.Service{mesh.Alarm, mesh.ReadNow, mesh.Lines, mesh.Report, mesh.Service(99)} {
		for _, from := range all {
			for _, to := range all {
				if got, want := s.Allowed(from, to), allowed[fmt.Sprint(s, from, to)]; got != want {
					t.Errorf("%v from %v to %v: allowed %t, want %t", s, from, to, got, want)
				}
			}
		}
	}
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1})
	if _, err := n.Homes[0].Host.Call(t.Context(), n.SSNs[0].Member.Peer, mesh.Cosign, nil); !errors.Is(err, mesh.ErrNotAllowed) {
		t.Errorf("a home asks for a cosignature: got %v, want ErrNotAllowed", err)
	}
}

func TestANodeWhoseRemotesAreAllDownStartsAndSaysOffline(t *testing.T) {
	n := meshtest.Found(t, meshtest.Options{SSNs: 1, Config: func(d *meshtest.Node, c *mesh.Config) {
		if d.Member.Role.Leaf() {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ln.Close() // an address where nobody listens
			key, _ := d.Net.Issue(member.RoleSSN, "z1")
			id, _ := peer.IDFromPrivateKey(key)
			c.Parents = []peer.AddrInfo{{ID: id, Addrs: []ma.Multiaddr{ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", ln.Addr().(*net.TCPAddr).Port))}}}
			d.Addrs = nil
		}
	}})
	began := time.Now()
	home := n.Add(member.RoleGateway, "z1")
	var down peer.ID
	for _, d := range n.Parents(home.Member) {
		down = d.ID
	}
	_, err := home.Host.Call(t.Context(), down, mesh.Alarm, nil)
	if !errors.Is(err, mesh.ErrOffline) {
		t.Errorf("got %v, want ErrOffline", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("start and failed call took %v", took)
	}
}

func TestACutLinkLosesNoRecord(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	var proxy *meshtest.Proxy
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Ready: collect(func(_ mesh.Service, req []byte) {
		mu.Lock()
		defer mu.Unlock()
		seen[string(req)]++
	}), Config: func(d *meshtest.Node, c *mesh.Config) {
		if d.Member.Role.Leaf() {
			c.Parents[0].Addrs = []ma.Multiaddr{proxy.Addr}
		}
	}})
	ssn := n.SSNs[0]
	proxy = meshtest.NewProxy(t, ssn.Addrs[0], 0)
	home := n.Add(member.RoleGateway, "z1")
	for i := range 200 {
		if i%40 == 20 {
			proxy.Cut()
		}
		record := fmt.Sprintf("record %d", i)
		meshtest.Eventually(t, record+" is acknowledged", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, err := home.Host.Call(ctx, ssn.Member.Peer, mesh.Report, []byte(record))
			if err != nil {
				proxy.Mend()
			}
			return err == nil
		})
	}
	if len(seen) != 200 {
		t.Errorf("%d of 200 records arrived", len(seen))
	}
}

func TestAParentThatRestartsIsFoundAgainAndAnotherServesMeanwhile(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 2, Homes: 2, Ready: collect(func(mesh.Service, []byte) {})})
	home := n.Homes[0].Host
	for range 5 {
		n.SSNs[0].Stop()
		if _, err := home.Call(t.Context(), n.SSNs[1].Member.Peer, mesh.Alarm, nil); err != nil {
			t.Errorf("second parent: %v", err)
		}
		if err := n.SSNs[0].Start(); err != nil {
			t.Fatal(err)
		}
		meshtest.Eventually(t, "the first parent takes alarms again", func() bool {
			_, err := home.Call(t.Context(), n.SSNs[0].Member.Peer, mesh.Alarm, nil)
			return err == nil
		})
	}
}

func TestAnAlarmIsReroutedWhenItsParentSaysNothing(t *testing.T) {
	hold := make(chan struct{})
	n := meshtest.Start(t, meshtest.Options{SSNs: 3, Homes: 1, Speed: 5, Ready: func(d *meshtest.Node) error {
		if d.Member.Role == member.RoleSSN {
			d.Host.Handle(mesh.Alarm, func(ctx context.Context, from mesh.Member, _ []byte) ([]byte, error) {
				if d.Member.Zone == from.Zone {
					select {
					case <-hold:
					case <-ctx.Done():
					}
				}
				return []byte(d.Member.Zone), nil
			})
		}
		return nil
	}})
	defer close(hold)
	began := n.Clock.Now()
	got, err := n.Homes[0].Host.CallParents(t.Context(), mesh.Alarm, []byte("voltage lost"))
	if took := n.Clock.Now().Sub(began); err != nil || string(got) != "z2" || took > 5*time.Second {
		t.Errorf("got %q, %v after %v, want the second parent's answer within 5s", got, err, took)
	}
	for _, s := range n.SSNs {
		s.Stop()
	}
	meshtest.Eventually(t, "with all parents down it is offline", func() bool {
		_, err := n.Homes[0].Host.CallParents(t.Context(), mesh.Alarm, nil)
		return errors.Is(err, mesh.ErrOffline)
	})
}

func TestAnAlarmOvertakesReportsOnASlowUplink(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("five seconds of real time on a shaped link: left out with -short")
	}
	const uplink = 1_000_000 // bit/s
	var proxy *meshtest.Proxy
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Speed: 1, Ready: collect(func(mesh.Service, []byte) {}),
		Config: func(d *meshtest.Node, c *mesh.Config) {
			if d.Member.Role.Leaf() {
				c.Parents[0].Addrs = []ma.Multiaddr{proxy.Addr}
				c.DailyMB = 1000
			}
		}})
	ssn := n.SSNs[0]
	proxy = meshtest.NewProxy(t, ssn.Addrs[0], uplink)
	home := n.Add(member.RoleGateway, "z1").Host
	meshtest.Eventually(t, "the home is connected", func() bool { _, up := home.Connected(ssn.Member.Peer); return up })

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var done sync.Map
	for w := range 64 { // what a lane lets one caller have open; the outbox holds the other 10^4
		wg.Go(func() {
			for i := w; i < 10_000 && ctx.Err() == nil; i += 64 {
				if _, err := home.Call(ctx, ssn.Member.Peer, mesh.Report, make([]byte, 700)); err == nil {
					done.Store(i, true)
				}
			}
		})
	}
	time.Sleep(time.Second)
	var took []time.Duration
	for range 12 {
		began := time.Now()
		if _, err := home.Call(t.Context(), ssn.Member.Peer, mesh.Alarm, make([]byte, 300)); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
		time.Sleep(150 * time.Millisecond)
	}
	cancel()
	wg.Wait()
	reports := 0
	done.Range(func(any, any) bool { reports++; return true })
	slices.Sort(took)
	t.Logf("alarms: median %v, slowest %v; %d reports acknowledged meanwhile", took[len(took)/2], took[len(took)-1], reports)
	if worst := took[len(took)-1]; worst > time.Second {
		t.Errorf("slowest of 12 alarms took %v, want at most 1s", worst)
	}
	if reports == 0 || reports == 10_000 {
		t.Errorf("%d reports got through, want some and a backlog", reports)
	}
}

func TestHTTPRunsBetweenBackboneMembers(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Others: []member.Role{member.RoleAggregator, member.RoleUtility}})
	agg, utility := n.Others[0].Host, n.Others[1].Host
	ln := agg.Listener("ledger")
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "tile for %s", r.RemoteAddr)
		}),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	meshtest.Eventually(t, "the utility knows the aggregator", func() bool { utility.Learn(agg.AddrInfo()); return true })
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return utility.Dial(ctx, agg.ID(), "ledger")
	}}}
	resp, err := client.Get("http://aggregator/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "tile for "+utility.ID().String() {
		t.Errorf("got %q", body)
	}
	client.CloseIdleConnections()
	if _, err := utility.Dial(t.Context(), agg.ID(), "nothing"); !errors.Is(err, mesh.ErrRefused) {
		t.Errorf("no such listener: got %v, want ErrRefused", err)
	}
	if _, err := n.Homes[0].Host.Dial(t.Context(), n.SSNs[0].Member.Peer, "ledger"); !errors.Is(err, mesh.ErrNotAllowed) {
		t.Errorf("a home dials: got %v, want ErrNotAllowed", err)
	}
	srv.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("server ended with %v", err)
	}
}

func TestOneAddressMayNotTakeAllConnections(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Config: func(d *meshtest.Node, c *mesh.Config) {
		if d.Member.Role == member.RoleSSN {
			c.Limits = mesh.Limits{ConnsIn: 100, ConnsOut: 2, ConnsPerIP: 3, ConnBurstPerIP: 50, CountLoopbackAsPeer: true}
		}
	}})
	ssn := n.SSNs[0].Host
	var homes []*meshtest.Node
	for range 4 {
		homes = append(homes, n.Add(member.RoleGateway, "z1"))
	}
	meshtest.Eventually(t, "three homes are in", func() bool { return len(ssn.Peers()) == 3 })
	refused := 0
	for _, h := range homes {
		if _, err := h.Host.Call(t.Context(), ssn.ID(), mesh.Probe, nil); errors.Is(err, mesh.ErrOffline) {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("%d homes of one address were refused, want the fourth", refused)
	}
	for _, h := range homes {
		if _, up := h.Host.Connected(ssn.ID()); up {
			h.Stop()
			break
		}
	}
	meshtest.Eventually(t, "its place is taken", func() bool { return len(ssn.Peers()) == 3 })
}

func TestALeafStopsBulkWhenTheDaysDataIsNearlyUsed(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Speed: 1, Ready: collect(func(mesh.Service, []byte) {}),
		Config: func(d *meshtest.Node, c *mesh.Config) { c.DailyMB = 1 }})
	home, to := n.Homes[0].Host, n.SSNs[0].Member.Peer
	if home.Self().Role.Backbone() {
		home, to = n.SSNs[0].Host, n.Homes[0].Member.Peer
	}
	var err error
	for range 40 {
		if _, err = home.Call(t.Context(), to, mesh.Report, bytes.Repeat([]byte("r"), 30<<10)); err != nil {
			break
		}
	}
	var busy *mesh.BusyError
	if !errors.As(err, &busy) || busy.After <= 0 || busy.After > 24*time.Hour {
		t.Errorf("bulk beyond the budget: got %v, want ErrBusy until midnight", err)
	}
	if _, err := home.Call(t.Context(), to, mesh.Alarm, nil); err != nil {
		t.Errorf("an alarm beyond the budget: %v", err)
	}
	n.Clock.Jump(24 * time.Hour)
	if _, err := home.Call(t.Context(), to, mesh.Report, []byte("r")); err != nil {
		t.Errorf("the next day: %v", err)
	}
}

func TestABackboneMemberFindsOthersBesideItsSeed(t *testing.T) {
	n := meshtest.Found(t, meshtest.Options{SSNs: 3, Onion: true, Speed: 500,
		Config: func(d *meshtest.Node, c *mesh.Config) {
			if d.Member.Role == member.RoleUtility {
				c.Parents = c.Parents[:1]
			}
		}})
	for i := range 3 {
		n.SSNs = append(n.SSNs, n.Add(member.RoleSSN, fmt.Sprintf("z%d", i+1)))
	}
	utility := n.Add(member.RoleUtility, "")
	meshtest.Eventually(t, "the utility is connected to all substations", func() bool { return len(utility.Host.Peers()) == 3 })
}
