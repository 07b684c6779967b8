package mesh

import (
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
)

// roleLimits names the limits of every role.
var roleLimits = []struct {
	name   string
	limits Limits
}{
	{"a home", defaultLimits(member.RoleGateway, false)},
	{"a home that relays", defaultLimits(member.RoleGateway, true)},
	{"a substation", defaultLimits(member.RoleSSN, false)},
	{"another backbone member", defaultLimits(member.RoleUtility, false)},
}

// someone gives a fresh key and its peer id.
func someone(t testing.TB) (crypto.PrivKey, peer.ID) {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, id
}

// limited makes a wire with limits that hold for loopback too.
func limited(t testing.TB, l Limits) *wire {
	t.Helper()
	l.CountLoopbackAsPeer = true
	key, _ := someone(t)
	w, err := newWire(key, l, newGater(wallClock{}), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// addressOf gives the i-th address of loopback, from 127.0.1.0.
func addressOf(i int) string { return fmt.Sprintf("127.0.%d.%d", 1+i/256, i%256) }

// fill does one thing after another until it fails, and wants limit of them to succeed and the next one to be refused.
func fill(t *testing.T, what string, limit int, one func(i int) error) {
	t.Helper()
	for i := range limit {
		if err := one(i); err != nil {
			t.Errorf("%s: number %d of %d is refused: %v", what, i+1, limit, err)
			return
		}
	}
	if err := one(limit); err == nil {
		t.Errorf("%s: number %d is taken, want at most %d", what, limit+1, limit)
	}
}

// TestEveryRolesLimitsHold fills each limit of each role in the resource manager that its host uses, and tries one more.
func TestEveryRolesLimitsHold(t *testing.T) {
	for _, r := range roleLimits {
		conn := func(w *wire, dir network.Direction, ip string) (network.ConnManagementScope, error) {
			return w.resources.OpenConnection(dir, true, ma.StringCast("/ip4/"+ip+"/tcp/4100"))
		}
		admitted := func(w *wire, dir network.Direction, ip string) error { // its key is known
			c, err := conn(w, dir, ip)
			if err == nil {
				_, id := someone(t)
				err = c.SetPeer(id)
			}
			return err
		}
		w := limited(t, r.limits)
		fill(t, r.name+", connections in", r.limits.ConnsIn, func(i int) error { return admitted(w, network.DirInbound, addressOf(i)) })
		fill(t, r.name+", connections out", r.limits.ConnsOut, func(i int) error { return admitted(w, network.DirOutbound, addressOf(i)) })

		w = limited(t, r.limits)
		dir := network.DirInbound
		if r.limits.ConnsIn == 0 {
			dir = network.DirOutbound
		}
		fill(t, r.name+", connections without a key", min(r.limits.TransientConns, max(r.limits.ConnsIn, r.limits.ConnsOut)),
			func(i int) error { _, err := conn(w, dir, addressOf(i)); return err })

		patient := r.limits
		patient.ConnBurstPerIP = 4096 // what is new at once is tried below
		w = limited(t, patient)
		if dir == network.DirInbound { // nobody dials a home
			fill(t, r.name+", connections of one address", r.limits.ConnsPerIP, func(int) error { return admitted(w, dir, "127.0.0.9") })
			if err := admitted(w, dir, "127.0.0.10"); err != nil {
				t.Errorf("%s: another address is refused too: %v", r.name, err)
			}
		}

		w = limited(t, r.limits)
		_, id := someone(t)
		stream := func(id peer.ID, agreed bool) error {
			s, err := w.resources.OpenStream(id, network.DirInbound)
			if err == nil && agreed {
				err = s.SetProtocol(protoLane)
			}
			return err
		}
		fill(t, r.name+", streams of one neighbour", r.limits.StreamsPerPeer, func(int) error { return stream(id, true) })
		w = limited(t, r.limits)
		var few peer.ID
		fill(t, r.name+", streams without a protocol", r.limits.TransientStreams, func(i int) error {
			if i%8 == 0 {
				_, few = someone(t)
			}
			return stream(few, false)
		})

		w = limited(t, r.limits)
		var scope network.ResourceScope
		if err := w.resources.ViewSystem(func(s network.ResourceScope) error { scope = s; return nil }); err != nil {
			t.Fatal(err)
		}
		span, err := scope.BeginSpan()
		if err != nil {
			t.Fatal(err)
		}
		const parts = 16 // the library keeps a reserve at lower priorities only
		fill(t, r.name+", memory", parts, func(int) error {
			return span.ReserveMemory(int(r.limits.MemoryBytes)/parts, network.ReservationPriorityAlways)
		})
	}
}

// TestNewConnectionsOfOneAddressComeInABurstAndThenSlowly opens and closes connections of one address: so many pass at
// once, and from then on what a minute brings back.
func TestNewConnectionsOfOneAddressComeInABurstAndThenSlowly(t *testing.T) {
	for _, r := range roleLimits[1:] { // nobody dials a home
		w := limited(t, r.limits)
		began, passed := time.Now(), 0
		for {
			c, err := w.resources.OpenConnection(network.DirInbound, true, ma.StringCast("/ip4/127.0.0.9/tcp/4100"))
			if err != nil {
				break
			}
			passed++
			c.Done()
		}
		burst := r.limits.ConnBurstPerIP
		if most := burst + 1 + int(time.Since(began).Minutes()*float64(burst)); passed < burst || passed > most {
			t.Errorf("%s: %d new connections of one address pass at once, want %d to %d", r.name, passed, burst, most)
		}
		if _, err := w.resources.OpenConnection(network.DirInbound, true, ma.StringCast("/ip4/127.0.0.10/tcp/4100")); err != nil {
			t.Errorf("%s: another address is refused too: %v", r.name, err)
		}
	}
}

// quiet is a host that is not served: it has state, but no neighbours.
func quiet(t *testing.T) (*Host, *stepClock) {
	t.Helper()
	c := &stepClock{time.UnixMilli(1_700_000_000_000)}
	return &Host{clock: c, wire: limited(t, leafLimits), self: Member{Role: member.RoleGateway}, failures: map[peer.ID]failure{},
		warnings: map[string]time.Time{}, store: nothing{}, keepers: map[peer.ID]*keeper{}}, c
}

func TestALeafHasEightParentsAndNoMore(t *testing.T) {
	h, _ := quiet(t)
	h.regs = &registers{h: h, wake: make(chan struct{}, 1)}
	var parents []peer.AddrInfo
	for range maxParents + 1 {
		_, id := someone(t)
		parents = append(parents, peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.1/tcp/4100")}})
	}
	for _, tc := range []struct{ given, kept int }{{maxParents, maxParents}, {maxParents + 1, maxParents}} {
		if err := h.SetParents(parents[:tc.given]); err != nil {
			t.Fatal(err)
		}
		if got := h.Parents(); len(got) != tc.kept || got[tc.kept-1].ID != parents[tc.kept-1].ID {
			t.Errorf("of %d parents %d are kept, want the first %d", tc.given, len(got), tc.kept)
		}
	}
}

func TestSoManyFailedDialsAreRemembered(t *testing.T) {
	h, _ := quiet(t)
	fail := func(i int) { _ = h.failed(t.Context(), peer.ID(fmt.Sprint("peer ", i)), ErrOffline) }
	for i := range maxFailures {
		fail(i)
	}
	fail(0) // is remembered already, and costs nobody a place
	if len(h.failures) != maxFailures {
		t.Errorf("%d failures are remembered, want %d", len(h.failures), maxFailures)
	}
	fail(maxFailures)
	if _, newest := h.failures[peer.ID(fmt.Sprint("peer ", maxFailures))]; len(h.failures) > maxFailures || !newest {
		t.Errorf("with one more %d are remembered, the newest %v", len(h.failures), newest)
	}
}

func TestHomesMayMakeAParentDialSoOftenAndNoMore(t *testing.T) {
	var d dialBacks
	now := time.UnixMilli(1_700_000_000_000)
	home := func(i int) peer.ID { return peer.ID(fmt.Sprint("home ", i)) }
	for i := range dialBacksAtOnce + 1 {
		if d.begin(home(i), now) != (i < dialBacksAtOnce) {
			t.Errorf("question %d at once: want at most %d", i+1, dialBacksAtOnce)
		}
	}
	d.end()
	if d.begin(home(0), now.Add(dialBackEvery-time.Millisecond)) || !d.begin(home(0), now.Add(dialBackEvery)) {
		t.Errorf("a home may ask again after %v, not sooner", dialBackEvery)
	}
	d = dialBacks{}
	ask := func(i int) {
		if !d.begin(home(i), now) {
			t.Fatalf("home %d may not ask", i+1)
		}
		d.end()
	}
	for i := range maxDialBacks {
		ask(i)
	}
	if d.begin(home(0), now) || len(d.last) != maxDialBacks {
		t.Errorf("of %d homes %d are remembered", maxDialBacks, len(d.last))
	}
	if ask(maxDialBacks); len(d.last) > maxDialBacks {
		t.Errorf("%d homes are remembered, want at most %d", len(d.last), maxDialBacks)
	}
}

func TestSoManyRegistersWaitForALeaf(t *testing.T) {
	h, _ := quiet(t)
	f := &fed{zone: "z1", queue: make(chan *Envelope, fedQueue)}
	r := &registers{h: h, fed: map[peer.ID]*fed{"leaf": f}}
	lost := func() uint64 { return h.stats.snapshot().Drops[DropFeedQueue] }
	for i := range fedQueue {
		r.spread(Envelope{Kind: gossip.KindDirectory, Key: uint64(i)})
	}
	if len(f.queue) != fedQueue || lost() != 0 {
		t.Fatalf("of %d registers %d wait and %d are lost", fedQueue, len(f.queue), lost())
	}
	r.spread(Envelope{Kind: gossip.KindDirectory, Key: fedQueue})
	if len(f.queue) != fedQueue || lost() != 1 {
		t.Errorf("with one more %d wait and %d are lost", len(f.queue), lost())
	}
}

func TestClockSamplesAreBounded(t *testing.T) {
	var b clockBook
	at := time.UnixMilli(1_700_000_000_000)
	note := func(i int) {
		b.note(peer.ID(fmt.Sprint("relay ", i)), ClockSample{At: at.Add(time.Duration(i) * time.Second)})
	}
	for i := range maxClockSamples {
		note(i)
	}
	if _, oldest := b.all["relay 0"]; len(b.all) != maxClockSamples || !oldest {
		t.Fatalf("%d samples are kept, want %d", len(b.all), maxClockSamples)
	}
	note(maxClockSamples)
	if _, oldest := b.all["relay 0"]; len(b.all) != maxClockSamples || oldest {
		t.Errorf("with one more %d are kept, the oldest %v", len(b.all), oldest)
	}
}

func TestStrangersEnrolEightAtOnce(t *testing.T) {
	h, _ := quiet(t)
	fill(t, "strangers", member.MaxEnrolments, func(int) error {
		if !h.beginEnrol(&link{}) {
			return ErrBusy
		}
		return nil
	})
	h.endEnrol()
	if !h.beginEnrol(&link{}) {
		t.Error("a stranger's place is not free again")
	}
}

func TestADoorsNameHasALongestForm(t *testing.T) {
	h, _ := quiet(t)
	for over := range 2 {
		_, err := h.Dial(t.Context(), "nobody", string(make([]byte, maxDoorName+over)))
		if errors.Is(err, ErrOffline) != (over == 0) {
			t.Errorf("a name of %d bytes: %v", maxDoorName+over, err)
		}
	}
}
