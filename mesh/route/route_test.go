package route

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

// seeded gives reproducible randomness for tests.
func seeded(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

const epoch = 20 * time.Minute

var start = time.UnixMilli(1_700_000_000_000).UTC()

// town is a directory with rings of keys behind it.
type town struct {
	dir   *Directory
	rings map[packet.NodeKey]*mix.Keyring
	rnd   *rand.ChaCha8
}

func newTown() *town {
	return &town{NewDirectory(epoch), map[packet.NodeKey]*mix.Keyring{}, seeded(1)}
}

// node adds a backbone member; name's first byte is its key.
func (w *town) node(t testing.TB, key byte, role member.Role, operator string, flags uint8, leaves, frames int) packet.NodeKey {
	t.Helper()
	m := member.Member{Key: member.Key{key}, Role: role, Operator: operator}
	ring := mix.NewKeyring(epoch, mix.LeafTags)
	if _, err := ring.Advance(start, w.rnd); err != nil {
		t.Fatal(err)
	}
	k := Keys{Flags: flags, Leaves: FloorLeaves(leaves), LeafFrames: uint32(frames), Addresses: []string{"/ip4/192.0.2.1/tcp/4100"}}
	k.Epoch, k.Keys = ring.Public(start)
	body, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.dir.PutKeys(m, body, start, start.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if flags&FlagRecipient != 0 {
		if err := w.dir.PutSeal(m, make([]byte, packet.SealKeySize), start.Add(24*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	w.rings[m.Key] = ring
	return m.Key
}

// ssns adds n substations; operators cycles.
func (w *town) ssns(t testing.TB, n int, operators ...string) []packet.NodeKey {
	t.Helper()
	var keys []packet.NodeKey
	for i := range n {
		keys = append(keys, w.node(t, byte(i+1), member.RoleSSN, operators[i%len(operators)], FlagRelay|FlagRecipient, 20, 1000))
	}
	return keys
}

func (w *town) chooser() *Chooser {
	return &Chooser{Snapshot: w.dir.Snapshot(start), HopMean: 30 * time.Second}
}

func operatorOf(s *Snapshot, key packet.NodeKey) string {
	n, _ := s.Node(key)
	return n.Member.Operator
}

func TestRoutesHaveThreeDistinctRelaysAndFollowTheOperatorRules(t *testing.T) {
	for _, tc := range []struct {
		fact      string
		ssns      int
		operators []string
	}{
		{"three substations of one operator", 3, []string{"a"}},
		{"three substations of three", 3, []string{"a", "b", "c"}},
		{"four substations of two", 4, []string{"a", "b"}},
		{"nine substations of three", 9, []string{"a", "b", "c"}},
		{"twelve substations of four", 12, []string{"a", "b", "c", "d"}},
	} {
		t.Run(tc.fact, func(t *testing.T) {
			w := newTown()
			relays := w.ssns(t, tc.ssns, tc.operators...)
			aggregator := w.node(t, 200, member.RoleAggregator, "evagg", FlagRecipient, 0, 0)
			c := w.chooser()
			for range 300 {
				r, err := c.To(aggregator, relays[:2], start, w.rnd)
				if err != nil {
					t.Fatal(err)
				}
				checkRelays(t, c.Snapshot, r, aggregator)
				if r.First() != relays[0] && r.First() != relays[1] {
					t.Fatal("the first hop is no guard")
				}
			}
		})
	}
}

func checkRelays(t *testing.T, s *Snapshot, r *Route, recipient packet.NodeKey) {
	t.Helper()
	path := r.Relays()
	if len(path) != 3 || path[0] == path[1] || path[1] == path[2] || path[0] == path[2] {
		t.Fatalf("relays are not three distinct ones")
	}
	if path[0] == recipient || path[2] == recipient {
		t.Fatal("the recipient is guard or exit")
	}
	g, m, e := operatorOf(s, path[0]), operatorOf(s, path[1]), operatorOf(s, path[2])
	ops := s.Operators()
	if ops >= 2 && g == e || ops >= 3 && (g == m || m == e) {
		t.Fatalf("operators %s %s %s of %d", g, m, e, ops)
	}
	if r.SingleOperator != (ops == 1) {
		t.Fatal("single-operator is wrong")
	}
}

func TestTheRecipientsOperatorIsAvoidedWherePossible(t *testing.T) {
	w := newTown()
	relays := w.ssns(t, 9, "a", "b", "c")
	utility := w.node(t, 200, member.RoleUtility, "a", FlagRecipient, 0, 0)
	c := w.chooser()
	for range 300 {
		// relays[0] and relays[3] are of a, relays[1] of b: the third guard must be taken.
		r, err := c.To(utility, []packet.NodeKey{relays[0], relays[3], relays[1]}, start, w.rnd)
		if err != nil {
			t.Fatal(err)
		}
		path := r.Relays()
		if operatorOf(c.Snapshot, path[0]) == "a" || operatorOf(c.Snapshot, path[2]) == "a" {
			t.Fatal("guard or exit belong to the recipient's operator although others exist")
		}
	}
	r, err := c.To(utility, relays[:1], start, w.rnd)
	if err != nil || r.First() != relays[0] {
		t.Fatalf("with no other guard the recipient's operator is accepted: %v", err)
	}
	if operatorOf(c.Snapshot, r.Relays()[2]) == "a" {
		t.Error("the exit is not avoided although the guard could not be")
	}
}

func TestASubstationAsRecipientIsMiddleOnlyAmongFewerThanFour(t *testing.T) {
	for _, n := range []int{3, 4, 6} {
		w := newTown()
		relays := w.ssns(t, n, "a")
		c := w.chooser()
		middle := 0
		for range 200 {
			r, err := c.To(relays[0], relays[:2], start, w.rnd)
			if err != nil {
				t.Fatalf("%d substations: %v", n, err)
			}
			checkRelays(t, c.Snapshot, r, relays[0])
			if r.Relays()[1] == relays[0] {
				middle++
			}
		}
		if n >= 4 && middle > 0 || n == 3 && middle != 200 {
			t.Errorf("%d substations: the recipient is middle in %d of 200 routes", n, middle)
		}
	}
}

func TestExitAndMiddleAreDrawnUniformly(t *testing.T) {
	w := newTown()
	relays := w.ssns(t, 11, "a")
	aggregator := w.node(t, 200, member.RoleAggregator, "evagg", FlagRecipient, 0, 0)
	c := w.chooser()
	var counts [2]map[packet.NodeKey]int
	counts[0], counts[1] = map[packet.NodeKey]int{}, map[packet.NodeKey]int{}
	const rounds = 10_000
	for range rounds {
		r, err := c.To(aggregator, relays[:1], start, w.rnd)
		if err != nil {
			t.Fatal(err)
		}
		counts[0][r.Relays()[1]]++
		counts[1][r.Relays()[2]]++
	}
	for place, count := range counts {
		chi := 0.0
		for _, key := range relays[1:] {
			d := float64(count[key]) - rounds/10
			chi += d * d / (rounds / 10)
		}
		if chi > 40 { // 9 degrees of freedom: 1 - 1e-5 quantile is 40
			t.Errorf("place %d: chi-square %.1f", place, chi)
		}
	}
}

func TestAPacketOverAChosenRouteOpensAtEveryHop(t *testing.T) {
	w := newTown()
	relays := w.ssns(t, 5, "a", "b")
	aggregator := w.node(t, 200, member.RoleAggregator, "evagg", FlagRecipient, 0, 0)
	c := w.chooser()
	user := make([]byte, packet.UserSize)
	for range 50 {
		r, err := c.To(aggregator, relays[:2], start.Add(15*time.Minute), w.rnd)
		if err != nil {
			t.Fatal(err)
		}
		var p packet.Packet
		if err := packet.Build(&p, r.Hops, packet.FlagDeliver, user, w.rnd); err != nil {
			t.Fatal(err)
		}
		now := start.Add(15 * time.Minute)
		for i, hop := range r.Hops {
			key, seen, err := w.rings[hop.Node].Find(p.KeyID(), now)
			if err != nil {
				t.Fatalf("hop %d at %s: %v", i+1, now.Sub(start), err)
			}
			step, err := packet.Unwrap(&p, key, seen)
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(step.Delay)
		}
		if !now.Equal(r.Arrival) {
			t.Errorf("arrival %s, computed %s", now.Sub(start), r.Arrival.Sub(start))
		}
	}
}

func TestLoopsAndAnswersEndAtTheirCreator(t *testing.T) {
	w := newTown()
	relays := w.ssns(t, 5, "a", "b")
	aggregator := w.node(t, 200, member.RoleAggregator, "evagg", FlagRecipient, 0, 0)
	own := mix.NewKeyring(epoch, mix.LeafTags)
	if _, err := own.Advance(start, w.rnd); err != nil {
		t.Fatal(err)
	}
	self, c := Self{packet.NodeKey{99}, own.At}, w.chooser()
	for range 50 {
		loop, err := c.Loop(self, relays[:2], relays[:2], start, w.rnd)
		if err != nil {
			t.Fatal(err)
		}
		if path := loop.Relays(); path[0] != relays[0] || path[2] != relays[1] || path[1] == path[0] || path[1] == path[2] {
			t.Fatal("a loop is not guard, middle, other guard")
		}
		back, err := c.Back(self, aggregator, relays[:2], start, w.rnd)
		if err != nil {
			t.Fatal(err)
		}
		if path := back.Relays(); path[2] != relays[0] || back.Hops[3].Node != self.Node {
			t.Fatal("an answer does not come by the guard")
		}
	}
	one, err := c.Loop(self, relays[:1], relays[:1], start, w.rnd)
	if err != nil || one.First() != relays[0] {
		t.Errorf("with one guard: %v", err)
	}
}

// A guard that knows who runs which relay must not tell a loop from a call by the hops that follow.
func TestLoopsFollowTheOperatorRulesOfCalls(t *testing.T) {
	for _, tc := range []struct {
		fact      string
		ssns      int
		operators []string
		guards    []int
		ends      []int
		guardOnly bool // the ends are of fewer operators than the exits: compare what the guard sees
	}{
		{"one operator", 5, []string{"a"}, []int{0, 1}, []int{0, 1, 2}, false},
		{"two operators, a guard of each", 6, []string{"a", "b"}, []int{0, 1}, []int{0, 1, 2}, false},
		{"two operators, both guards of one", 6, []string{"a", "b"}, []int{0, 2}, []int{0, 2, 3}, false},
		{"three operators", 9, []string{"a", "b", "c"}, []int{0, 1}, []int{0, 1, 2}, false},
		{"three operators, both guards of one", 9, []string{"a", "b", "c"}, []int{0, 3}, []int{0, 3, 4, 5}, false},
		{"four operators", 12, []string{"a", "b", "c", "d"}, []int{0, 1}, []int{0, 1, 2}, true},
	} {
		t.Run(tc.fact, func(t *testing.T) {
			w := newTown()
			relays := w.ssns(t, tc.ssns, tc.operators...)
			aggregator := w.node(t, 200, member.RoleAggregator, "evagg", FlagRecipient, 0, 0)
			own := mix.NewKeyring(epoch, mix.LeafTags)
			if _, err := own.Advance(start, w.rnd); err != nil {
				t.Fatal(err)
			}
			self, c := Self{packet.NodeKey{99}, own.At}, w.chooser()
			pickOf := func(at []int) (keys []packet.NodeKey) {
				for _, i := range at {
					keys = append(keys, relays[i])
				}
				return keys
			}
			seen := func(r *Route, err error) string {
				if err != nil {
					t.Fatal(err)
				}
				var ops []string
				for _, hop := range r.Relays() {
					ops = append(ops, operatorOf(c.Snapshot, hop))
				}
				if tc.guardOnly {
					ops = ops[:2]
				}
				return strings.Join(ops, " ")
			}
			guards := pickOf(tc.guards)
			calls, loops := map[string]bool{}, map[string]bool{}
			for range 1000 {
				calls[seen(c.To(aggregator, guards, start, w.rnd))] = true
				loops[seen(c.Loop(self, guards, pickOf(tc.ends), start, w.rnd))] = true
				slices.Reverse(guards)
			}
			if !maps.Equal(calls, loops) {
				t.Errorf("calls run over %v, loops over %v", calls, loops)
			}
		})
	}
}

func TestALoopKeepsTheMiddleApartWhenOnlyTheGuardsOperatorReachesUs(t *testing.T) {
	w := newTown()
	relays := w.ssns(t, 9, "a", "b", "c")
	own := mix.NewKeyring(epoch, mix.LeafTags)
	if _, err := own.Advance(start, w.rnd); err != nil {
		t.Fatal(err)
	}
	self, c := Self{packet.NodeKey{99}, own.At}, w.chooser()
	both := []packet.NodeKey{relays[0], relays[3]} // of a
	for range 200 {
		r, err := c.Loop(self, both, both, start, w.rnd)
		if err != nil {
			t.Fatal(err)
		}
		if path := r.Relays(); path[2] != relays[3] || operatorOf(c.Snapshot, path[1]) == "a" {
			t.Fatalf("the loop comes back by %x, its middle is of operator %s", path[2][:1], operatorOf(c.Snapshot, path[1]))
		}
	}
}

func TestUnusableRelaysAreExplained(t *testing.T) {
	w := newTown()
	relays := w.ssns(t, 3, "a")
	aggregator := w.node(t, 200, member.RoleAggregator, "evagg", FlagRecipient, 0, 0)
	mute := w.node(t, 201, member.RoleVerifier, "v", 0, 0, 0)
	c := w.chooser()
	var few *FewRelaysError
	if _, err := c.To(aggregator, nil, start, w.rnd); !errors.As(err, &few) || !strings.Contains(err.Error(), "no guard is connected") {
		t.Errorf("no guard: %v", err)
	}
	c.Skip = func(k packet.NodeKey) bool { return k == relays[2] }
	if _, err := c.To(aggregator, relays[:2], start, w.rnd); !errors.Is(err, ErrFewRelays) || !errors.As(err, &few) || few.Relays != 2 {
		t.Errorf("one skipped of three: %v", err)
	}
	c.Skip = nil
	if _, err := c.To(mute, relays, start, w.rnd); !errors.Is(err, packet.ErrRoute) {
		t.Errorf("no recipient: %v", err)
	}
	if _, err := c.To(aggregator, relays, start.Add(3*time.Hour), w.rnd); !errors.Is(err, ErrStaleDirectory) {
		t.Errorf("no keys for that time: %v", err)
	}
}

// seededUsable orders the guards in tests.
var seededUsable = seeded(77)

// BenchmarkFirstMessage measures a first packet from a snapshot of 128 relays:
// route and build. The yardstick, in turn with it, is the build alone; ratio is
// the quotient of the medians.
func BenchmarkFirstMessage(b *testing.B) {
	w := newTown()
	relays := w.ssns(b, 128, "a", "b", "c")
	aggregator := w.node(b, 200, member.RoleAggregator, "evagg", FlagRecipient, 0, 0)
	c, user, p := w.chooser(), make([]byte, packet.UserSize), new(packet.Packet)
	build := func(r *Route) {
		if err := packet.Build(p, r.Hops, packet.FlagDeliver, user, w.rnd); err != nil {
			b.Fatal(err)
		}
	}
	const samples = 4096
	first, alone := make([]time.Duration, samples), make([]time.Duration, samples)
	n := 0
	for b.Loop() {
		begin := time.Now()
		r, err := c.To(aggregator, relays[:2], start, w.rnd)
		if err != nil {
			b.Fatal(err)
		}
		build(r)
		between := time.Now()
		build(r)
		first[n%samples], alone[n%samples] = between.Sub(begin), time.Since(between)
		n++
	}
	median := func(d []time.Duration) float64 {
		d = d[:min(n, samples)]
		slices.Sort(d)
		return float64(d[len(d)/2].Nanoseconds())
	}
	b.ReportMetric(median(first), "ns/op")
	b.ReportMetric(median(first)/median(alone), "ratio")
}
