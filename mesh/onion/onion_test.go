package onion_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/onion"
	"gridveil/mesh/packet"
	"gridveil/mesh/route"
)

// market handles the services of an aggregator by saying what it saw.
func market(d *meshtest.Node) error {
	if d.Member.Role != member.RoleAggregator {
		return nil
	}
	for _, s := range []mesh.Service{mesh.EVAuth, mesh.EVRecord, mesh.Notes} {
		d.Onion.Handle(s, func(_ context.Context, body []byte) ([]byte, error) {
			if string(body) == "fail" {
				return nil, errors.New("record 9 is unknown")
			}
			return append([]byte("seen: "), body...), nil
		})
	}
	return nil
}

// lab starts three substations, an aggregator and homes on a network that allows class lab.
func lab(t testing.TB, homes int, o meshtest.Options) (*meshtest.Network, *meshtest.Node) {
	t.Helper()
	o.SSNs, o.Homes, o.Onion = 3, homes, true
	o.Others = append([]member.Role{member.RoleAggregator}, o.Others...)
	o.Policy.Lab = true
	if o.Ready == nil {
		o.Ready = market
	}
	n := meshtest.Start(t, o)
	n.AwaitDirectory()
	return n, n.Others[0]
}

func TestALeafAsksAnAggregatorOverThreeRelays(t *testing.T) {
	n, agg := lab(t, 1, meshtest.Options{})
	home := n.Homes[0].Onion
	for _, size := range []int{0, 1, 2000, 4000} {
		body := bytes.Repeat([]byte("x"), size)
		got, err := home.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, body)
		if err != nil || string(got) != "seen: "+string(body) {
			t.Fatalf("%d bytes: got %d bytes, %v", size, len(got), err)
		}
	}
	for i, s := range n.SSNs {
		if s.Onion.Stats().Relayed == 0 {
			t.Errorf("substation %d relayed nothing", i+1)
		}
	}
}

func TestHowACallCanEnd(t *testing.T) {
	n, agg := lab(t, 1, meshtest.Options{Others: []member.Role{member.RoleVerifier}})
	home := n.Homes[0].Onion
	var remote *mesh.RemoteError
	cases := []struct {
		name    string
		to      member.Key
		class   mesh.Class
		service mesh.Service
		body    []byte
		want    error
	}{
		{"a service that nobody handles there", agg.Member.Key, mesh.Lab, mesh.EVCollect, nil, mesh.ErrRefused},
		{"a recipient of the wrong role", n.Others[1].Member.Key, mesh.Lab, mesh.EVRecord, nil, mesh.ErrNotAllowed},
		{"a recipient that nobody knows", member.Key{1}, mesh.Lab, mesh.EVRecord, nil, mesh.ErrOffline},
		{"a direct service", agg.Member.Key, mesh.Lab, mesh.Alarm, nil, mesh.ErrNotAllowed},
		{"another class than the service's", agg.Member.Key, mesh.Session, mesh.EVRecord, nil, mesh.ErrNotAllowed},
		{"too few homes for a private class", agg.Member.Key, mesh.Session, mesh.EVAuth, nil, mesh.ErrSmallSet},
		{"too few homes in class meter", agg.Member.Key, mesh.Meter, mesh.EVRecord, nil, mesh.ErrSmallSet},
		{"a body above the limit", agg.Member.Key, mesh.Lab, mesh.EVRecord, make([]byte, packet.MaxBody+1), mesh.ErrTooLarge},
	}
	for _, c := range cases {
		if _, err := home.Call(t.Context(), c.to, c.class, c.service, c.body); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := home.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.EVRecord, []byte("fail")); !errors.As(err, &remote) || remote.Text != "record 9 is unknown" {
		t.Errorf("a failing handler: got %v", err)
	}
}

// TestWhatComesBackForAnAnsweredCallIsNoLoss calls until the cover that fills an answer comes after the answer, and then
// gives calls up until an answer comes too late.
func TestWhatComesBackForAnAnsweredCallIsNoLoss(t *testing.T) {
	n, agg := lab(t, 1, meshtest.Options{Policy: member.Policy{SlotMS: 10_000, HopMS: 10_000}})
	home := n.Homes[0].Onion
	ask := func(ctx context.Context) error {
		_, err := home.CallBelowFloor(ctx, agg.Member.Key, mesh.EVRecord, []byte("x"))
		return err
	}
	lost := func() uint64 { return home.Stats().Dropped[onion.DropLate] }
	meshtest.EventuallyWithin(t, time.Minute, "cover of an answer comes after it", func() bool {
		if err := ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		return home.Stats().Late > 0
	})
	if lost() > 0 {
		t.Errorf("%d packets of answered calls count as lost", lost())
	}
	meshtest.EventuallyWithin(t, time.Minute, "an answer comes for a call that ended without one", func() bool {
		ctx, giveUp := context.WithCancel(t.Context())
		ended, sent := make(chan error, 1), home.Stats().Sent
		go func() { ended <- ask(ctx) }()
		meshtest.Eventually(t, "the request leaves", func() bool { return home.Stats().Sent >= sent+2 || len(ended) > 0 })
		giveUp()
		<-ended
		return lost() > 0
	})
}

func TestBelowTheFloorThePageHasTheNumbersAndLoopsGoOn(t *testing.T) {
	n, _ := lab(t, 2, meshtest.Options{Policy: member.Policy{HomesEnrolled: 2}})
	home := n.Homes[0]
	st := home.Onion.Status(mesh.Meter)
	var small *route.SmallSetError
	if !errors.As(st.Err, &small) || small.Homes != 2 || small.MinHomes != 20 || st.Relays != 3 {
		t.Errorf("status: %+v", st)
	}
	warned := map[string]bool{}
	meshtest.Eventually(t, "loops come back", func() bool { return home.Onion.Stats().LoopsReturned > 3 })
	for _, w := range home.Host.Warnings() {
		warned[w.Code] = true
	}
	if !warned[mesh.WarnSmallSet] || !warned[mesh.WarnLab] {
		t.Errorf("warnings %v, want small-set and lab", warned)
	}
}

func TestLabIsRefusedWhereTheNetworkDoesNotAllowIt(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 3, Homes: 1, Onion: true, Others: []member.Role{member.RoleAggregator}, Ready: market})
	n.AwaitDirectory()
	if _, err := n.Homes[0].Onion.Call(t.Context(), n.Others[0].Member.Key, mesh.Lab, mesh.EVAuth, nil); !errors.Is(err, route.ErrLabClass) {
		t.Errorf("got %v, want ErrLabClass", err)
	}
}

func TestAGuestsRequestIsCarriedWithoutTheCarrierReadingIt(t *testing.T) {
	n, agg := lab(t, 1, meshtest.Options{})
	host := n.Homes[0].Onion
	sealKey, ok := host.SealKey(agg.Member.Key)
	if !ok {
		t.Fatal("no sealing key in the directory")
	}
	sealed, key, err := onion.SealGuest(sealKey, mesh.EVAuth, []byte("I am a driver"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := host.Carry(t.Context(), agg.Member.Key, mesh.Lab, sealed)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("driver")) || bytes.Contains(answer, []byte("driver")) {
		t.Error("the carrier can read the guest's words")
	}
	if got, err := key.Open(answer); err != nil || string(got) != "seen: I am a driver" {
		t.Errorf("guest: got %q, %v", got, err)
	}
	if _, err := key.Open(append([]byte{answer[0] ^ 1}, answer[1:]...)); err == nil {
		t.Error("a changed answer was accepted")
	}
}

// sightings records what each node unwraps.
type sightings struct {
	mu   sync.Mutex
	seen map[packet.NodeKey][]sighting
}

type sighting struct {
	from  packet.NodeKey
	r     packet.Routing
	bytes []byte // before and after
}

func (s *sightings) watch(d *meshtest.Node, see func() bool) {
	key := packet.NodeKey(d.Member.Key)
	d.Onion.Witness(func(from packet.NodeKey, r packet.Routing, before, after *packet.Packet) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.seen[key] = append(s.seen[key], sighting{from, r, append(bytes.Clone(before[:]), after[:]...)})
		return see == nil || see()
	})
}

func TestNoStageSeesMoreThanItsPart(t *testing.T) {
	s := &sightings{seen: map[packet.NodeKey][]sighting{}}
	n, agg := lab(t, 1, meshtest.Options{Policy: member.Policy{SlotMS: 600_000}, Ready: func(d *meshtest.Node) error {
		s.watch(d, nil)
		return market(d)
	}})
	home := n.Homes[0]
	marker := []byte("body-marker-17")
	if _, err := home.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.EVRecord, marker); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	homeKey, aggKey := packet.NodeKey(home.Member.Key), packet.NodeKey(agg.Member.Key)
	for i, d := range n.SSNs { // guard, middle and exit of three are all of them, for the request and for its answer
		seen := s.seen[packet.NodeKey(d.Member.Key)]
		if len(seen) < 2 {
			t.Errorf("substation %d saw %d packets, want request and answer", i+1, len(seen))
		}
		for _, see := range seen {
			if see.from == homeKey && see.r.Next == aggKey || see.from == aggKey && see.r.Next == homeKey {
				t.Error("one relay knows both ends")
			}
			for name, secret := range map[string][]byte{"the body": marker, "the home's key": homeKey[:], "its zone": []byte("/z1/"), "the recipient's key": aggKey[:]} {
				if bytes.Contains(see.bytes, secret) {
					t.Errorf("a relay's packet holds %s", name)
				}
			}
		}
	}
	if len(s.seen[aggKey]) == 0 || len(s.seen[homeKey]) == 0 {
		t.Error("the recipient saw no request, or the home no answer")
	}
	for _, see := range s.seen[aggKey] {
		if see.from == homeKey || bytes.Contains(see.bytes, homeKey[:]) {
			t.Error("the recipient learns the home")
		}
	}
}

func TestARecordedPacketIsRefusedAtOnceAndAfterARestart(t *testing.T) {
	var mu sync.Mutex
	var recorded []packet.Packet
	n, agg := lab(t, 1, meshtest.Options{Ready: func(d *meshtest.Node) error {
		if d.Member.Zone == "z1" && d.Member.Role == member.RoleSSN {
			d.Onion.Witness(func(_ packet.NodeKey, _ packet.Routing, before, _ *packet.Packet) bool {
				mu.Lock()
				defer mu.Unlock()
				recorded = append(recorded, *before)
				return true
			})
		}
		return market(d)
	}})
	ssn, home := n.SSNs[0], n.Homes[0]
	for range 3 {
		if _, err := home.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.EVRecord, nil); err != nil {
			t.Fatal(err)
		}
	}
	replay := func() (relayed uint64) {
		mu.Lock()
		old := recorded
		recorded = nil
		mu.Unlock()
		for range 20 {
			for i := range old {
				p := old[i]
				ssn.Onion.Inject(agg.Member, &p)
			}
			time.Sleep(time.Millisecond)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, again := range recorded {
			for i := range old {
				if again == old[i] {
					relayed++
				}
			}
		}
		recorded = append(recorded, old...)
		return relayed
	}
	if again := replay(); again > 0 {
		t.Errorf("%d recorded packets were accepted again", again)
	}
	meshtest.Eventually(t, "replays are counted", func() bool { return ssn.Onion.Stats().Dropped[onion.DropReplay] > 0 })
	ssn.Restart()
	if again := replay(); again > 0 {
		t.Errorf("%d recorded packets were accepted after a restart", again)
	}
	meshtest.Eventually(t, "their keys are gone", func() bool { return ssn.Onion.Stats().Dropped[onion.DropKey] > 0 })
}

func TestEveryCallIsAcknowledgedOrEndsInAnErrorAndNothingIsDoneTwice(t *testing.T) {
	t.Parallel() // mostly waits
	const seed = 4711
	rnd := mathrand.New(mathrand.NewPCG(seed, seed))
	var rmu, dmu sync.Mutex
	lose := func() bool { // one packet in thirty at every hop: every fourth try is lost
		rmu.Lock()
		defer rmu.Unlock()
		return rnd.IntN(30) > 0
	}
	done := map[string]int{}
	s := &sightings{seen: map[packet.NodeKey][]sighting{}}
	n, agg := lab(t, 3, meshtest.Options{Speed: 100, Ready: func(d *meshtest.Node) error {
		s.watch(d, lose)
		if d.Member.Role == member.RoleAggregator {
			d.Onion.Handle(mesh.EVRecord, func(_ context.Context, body []byte) ([]byte, error) {
				dmu.Lock()
				defer dmu.Unlock()
				done[string(body)]++
				return []byte("ok"), nil
			})
		}
		return nil
	}})
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	var acked, unacked sync.Map
	for i, h := range n.Homes {
		for k := range 10 {
			wg.Go(func() {
				record := fmt.Sprintf("record %d of home %d", k, i)
				switch _, err := h.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.EVRecord, []byte(record)); {
				case err == nil:
					acked.Store(record, true)
				case errors.Is(err, mesh.ErrUnacked):
					unacked.Store(record, true)
				default:
					t.Errorf("%s: %v", record, err)
				}
			})
		}
	}
	time.Sleep(200 * time.Millisecond)
	n.SSNs[1].Restart()
	wg.Wait()
	dmu.Lock()
	defer dmu.Unlock()
	good, unknown := 0, 0
	acked.Range(func(r, _ any) bool {
		good++
		if done[r.(string)] != 1 {
			t.Errorf("%v is acknowledged and was done %d times", r, done[r.(string)])
		}
		return true
	})
	unacked.Range(func(any, any) bool { unknown++; return true })
	for r, times := range done {
		if times > 1 {
			t.Errorf("%s was done %d times", r, times)
		}
	}
	t.Logf("%d acknowledged, %d with unknown outcome, %d retries", good, unknown, n.Homes[0].Onion.Stats().Retries+n.Homes[1].Onion.Stats().Retries+n.Homes[2].Onion.Stats().Retries)
	if good+unknown != 30 || good == 0 {
		t.Errorf("%d acknowledged and %d unknown of 30 calls", good, unknown)
	}
}

func TestARevokedRelayLeavesTheRoutesWithItsList(t *testing.T) {
	n, _ := lab(t, 2, meshtest.Options{})
	bad, home := n.SSNs[1], n.Homes[0]
	knows := func() bool {
		return slices.ContainsFunc(home.Onion.Recipients(member.RoleSSN), func(m mesh.Member) bool { return m.Key == bad.Member.Key })
	}
	guards := func() bool { return slices.Contains(home.Onion.Guards(), bad.Member.Peer) }
	if !knows() {
		t.Fatal("the home does not know the relay before")
	}
	crl, err := n.CAs[bad.Member.Operator].Revoke([]string{bad.Member.Serial}, 1, n.Clock.Now(), n.Clock.Now().Add(24*time.Hour), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	began := n.Clock.Now()
	if err := n.Others[0].Host.PublishCRL(crl); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "the relay is out of directory and guards", func() bool { return !knows() && !guards() })
	t.Logf("gone after %v", n.Clock.Now().Sub(began))
	home.Restart()
	if knows() || guards() {
		t.Error("after a restart the revoked relay is back")
	}
}

func TestGuardsAreDrawnFromAllRelaysNotFromTheFirst(t *testing.T) {
	n, _ := lab(t, 12, meshtest.Options{})
	leaves := map[packet.NodeKey]int{}
	for _, h := range n.Homes {
		for _, id := range h.Onion.Guards() {
			for _, s := range n.SSNs {
				if s.Member.Peer == id {
					leaves[packet.NodeKey(s.Member.Key)]++
				}
			}
		}
	}
	for _, s := range n.SSNs { // by chance none of 12 homes draws one of 3 in 3^-12
		if leaves[packet.NodeKey(s.Member.Key)] == 0 {
			t.Errorf("a substation is no home's guard; the others are of %v", leaves)
		}
	}
}

func TestGuardsSurviveARestart(t *testing.T) {
	n, _ := lab(t, 1, meshtest.Options{})
	home := n.Homes[0]
	before, _ := home.Store.LoadState("onion-guards")
	home.Restart()
	n.AwaitDirectory()
	after, _ := home.Store.LoadState("onion-guards")
	if len(before) != 80 || !bytes.Equal(before, after) {
		t.Errorf("guards %x became %x", before, after)
	}
}
