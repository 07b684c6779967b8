package route

import (
	"bytes"
	"errors"
	"fmt"
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

func TestGuardsStayForWeeksAndShareThePacketsByChance(t *testing.T) {
	w := newTown()
	w.ssns(t, 6, "a", "b")
	w.node(t, 200, member.RoleAggregator, "evagg", FlagRelay, 0, 0)
	s := w.dir.Snapshot(start)
	up := func(packet.NodeKey) bool { return true }
	g := &Guards{}
	changed, err := g.Refresh(s, Floor{}, up, start, w.rnd)
	if err != nil || !changed || len(g.List()) != GuardCount {
		t.Fatalf("Refresh: %v, %v, %d guards", changed, err, len(g.List()))
	}
	first := g.List()
	for _, x := range first {
		if n, _ := s.Node(x.Node); n.Member.Role != member.RoleSSN {
			t.Error("a guard is no substation")
		}
		if life := x.Until.Sub(start); life < 23*24*time.Hour || life > 37*24*time.Hour {
			t.Errorf("a guard is kept %s", life)
		}
	}
	if changed, err := g.Refresh(s, Floor{}, up, start.Add(20*24*time.Hour), w.rnd); changed || err != nil {
		t.Errorf("guards change after 20 days: %v", err)
	}
	leads := map[packet.NodeKey]int{}
	for range 200 {
		list := usableOf(t, g, up)
		if len(list) != 2 {
			t.Fatalf("%d of two guards are usable", len(list))
		}
		leads[list[0]]++
	}
	for _, x := range first {
		if n := leads[x.Node]; n < 60 || n > 140 { // 5.7 deviations
			t.Errorf("a guard comes first for %d of 200 packets, want about half", n)
		}
	}
	if changed, err := g.Refresh(s, Floor{}, up, start.Add(40*24*time.Hour), w.rnd); !changed || err != nil || len(g.List()) != GuardCount {
		t.Errorf("guards live forever: %v", err)
	}
}

func usableOf(t *testing.T, g *Guards, up func(packet.NodeKey) bool) []packet.NodeKey {
	t.Helper()
	list, err := g.Usable(up, seededUsable)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// seededUsable orders the guards in tests.
var seededUsable = seeded(77)

func TestTheSecondGuardIsOfAnotherOperatorWhereThereIsOne(t *testing.T) {
	for seed := range byte(50) {
		w := newTown()
		w.ssns(t, 6, "a", "a", "b")
		g, s := &Guards{}, w.dir.Snapshot(start)
		if _, err := g.Refresh(s, Floor{}, func(packet.NodeKey) bool { return true }, start, seeded(seed)); err != nil {
			t.Fatal(err)
		}
		two := g.List()
		if len(two) != GuardCount || operatorOf(s, two[0].Node) == operatorOf(s, two[1].Node) {
			t.Fatalf("seed %d: %d guards, both of one operator", seed, len(two))
		}
		w = newTown()
		relays := w.ssns(t, 3, "a")
		g = &Guards{}
		if _, err := g.Refresh(w.dir.Snapshot(start), Floor{}, func(packet.NodeKey) bool { return true }, start, seeded(seed)); err != nil || len(g.List()) != GuardCount {
			t.Fatalf("seed %d: %d of %d relays of one operator are guards, %v", seed, len(g.List()), len(relays), err)
		}
	}
}

func TestAThirdGuardStepsInOnlyWhileBothAreDown(t *testing.T) {
	w := newTown()
	w.ssns(t, 6, "a")
	s := w.dir.Snapshot(start)
	down := map[packet.NodeKey]bool{}
	up := func(k packet.NodeKey) bool { return !down[k] }
	g := &Guards{}
	refresh := func() {
		t.Helper()
		if _, err := g.Refresh(s, Floor{}, up, start, w.rnd); err != nil {
			t.Fatal(err)
		}
	}
	refresh()
	standing := g.List()
	down[standing[0].Node] = true
	refresh()
	if got := usableOf(t, g, up); len(got) != 1 || got[0] != standing[1].Node {
		t.Errorf("with one guard down %d guards are usable", len(got))
	}
	down[standing[1].Node] = true
	refresh()
	if got := usableOf(t, g, up); len(got) != 1 || down[got[0]] {
		t.Errorf("with both down %d guards are usable", len(got))
	}
	down = map[packet.NodeKey]bool{}
	refresh()
	if got := usableOf(t, g, up); len(got) != 2 {
		t.Errorf("after the return %d guards are usable", len(got))
	}
	if g.List()[0] != standing[0] || g.List()[1] != standing[1] {
		t.Error("the standing guards changed")
	}
}

func TestGuardsAreDrawnWhereTheCrowdMeetsTheFloor(t *testing.T) {
	floor := Floor{Policy: member.Policy{HomesEnrolled: 60, MinSet: 8, HopMS: 30_000}}
	up := func(packet.NodeKey) bool { return true }
	for seed := range byte(20) {
		w := newTown()
		w.ssns(t, 2, "a")
		large := w.node(t, 10, member.RoleSSN, "b", FlagRelay, 20, 1000)
		w.node(t, 11, member.RoleSSN, "b", FlagRelay, 5, 200)
		w.node(t, 12, member.RoleSSN, "c", FlagRelay, 0, 0)
		g := &Guards{}
		if _, err := g.Refresh(w.dir.Snapshot(start), floor, up, start, seeded(seed)); err != nil {
			t.Fatal(err)
		}
		for _, x := range g.List() {
			if x.Node != large && x.Node[0] > 2 {
				t.Errorf("seed %d: a guard with too few leaves was drawn although three had enough", seed)
			}
		}
	}
}

func TestAGuardWithoutACrowdIsReplacedAfterTwoHours(t *testing.T) {
	floor := Floor{Policy: member.Policy{HomesEnrolled: 60, MinSet: 8, HopMS: 30_000}}
	up := func(packet.NodeKey) bool { return true }
	g := &Guards{}
	refresh := func(after time.Duration, lonely ...packet.NodeKey) (changed bool) {
		t.Helper()
		w := newTown()
		for key := range byte(4) {
			leaves, frames := 20, 1000
			if slices.Contains(lonely, packet.NodeKey{key + 1}) {
				leaves, frames = 5, 200
			}
			w.node(t, key+1, member.RoleSSN, "a", FlagRelay, leaves, frames)
		}
		changed, err := g.Refresh(w.dir.Snapshot(start), floor, up, start.Add(after), w.rnd)
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	all := []packet.NodeKey{{1}, {2}, {3}, {4}}
	refresh(0, all...)
	refresh(time.Minute, all...)
	if refresh(3*time.Hour, all...) {
		t.Error("a guard was replaced although no other one has a crowd")
	}
	kept, lonely := g.List()[0].Node, g.List()[1].Node
	refresh(3*time.Hour+time.Minute, lonely)
	if g.has(lonely) || !g.has(kept) || len(g.List()) != GuardCount {
		t.Error("of two guards, not the one without a crowd was replaced")
	}
	refresh(4*time.Hour, kept)
	if refresh(5*time.Hour+59*time.Minute, kept) || !g.has(kept) {
		t.Error("a guard was replaced within two hours")
	}
	refresh(6 * time.Hour)
	if refresh(6*time.Hour+time.Minute, kept) || !g.has(kept) {
		t.Error("a guard whose crowd had come back was replaced")
	}
}

func TestGuardsSurviveARestart(t *testing.T) {
	w := newTown()
	w.ssns(t, 4, "a")
	g := &Guards{}
	if _, err := g.Refresh(w.dir.Snapshot(start), Floor{}, func(packet.NodeKey) bool { return true }, start, w.rnd); err != nil {
		t.Fatal(err)
	}
	again, err := ParseGuards(g.Encode())
	if err != nil || len(again.list) != 2 || again.list[0] != g.list[0] || again.list[1] != g.list[1] {
		t.Errorf("ParseGuards: %v", err)
	}
	for _, bad := range [][]byte{make([]byte, 39), make([]byte, 160), bytes.Repeat([]byte{255}, 40)} {
		if _, err := ParseGuards(bad); !errors.Is(err, ErrGuards) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

func TestABrokenMiddleIsFoundAndItsNeighboursAreNot(t *testing.T) {
	var h Health
	g1, g2, bad, good := packet.NodeKey{1}, packet.NodeKey{2}, packet.NodeKey{3}, packet.NodeKey{4}
	h.Judge([]packet.NodeKey{g1, bad, g2}, true, start)
	h.Judge([]packet.NodeKey{g1, bad, g2}, true, start) // the same route again says nothing new
	h.Judge([]packet.NodeKey{g2, bad, g1}, true, start)
	h.Judge([]packet.NodeKey{g1, good, g2}, false, start)
	if h.Skipped(bad, start) {
		t.Error("two routes are enough")
	}
	h.Judge([]packet.NodeKey{g1, bad, good}, true, start)
	if !h.Skipped(bad, start.Add(healthSkip-1)) || h.Skipped(bad, start.Add(healthSkip)) {
		t.Error("the broken relay is not skipped for ten minutes")
	}
	if h.Skipped(g1, start) || h.Skipped(g2, start) || h.Skipped(good, start) {
		t.Error("a relay that works is skipped")
	}
}

func TestSetMatchesTheDocumentedFigures(t *testing.T) {
	// Three SSNs, every home attached to two: n = 2/3 of the homes, l = homes / slot / 3.
	for _, tc := range []struct {
		homes, slot int
		want        int
	}{{30, 30, 9}, {25, 30, 8}, {20, 10, 9}} {
		frames := float64(tc.homes) / float64(tc.slot) / 3
		set := Set(frames, tc.homes*2/3, 30*time.Second)
		if int(set+1e-9) != tc.want {
			t.Errorf("%d homes at %d-s slots: Set %.2f, documented %d", tc.homes, tc.slot, set, tc.want)
		}
	}
	if Set(0, 100, 30*time.Second) != 1 || Set(10, 0, 30*time.Second) != 1 || Set(1, 1, 30*time.Second) != 1 {
		t.Error("without traffic or company a home hides among one")
	}
}

// policy is that of a town with n homes.
func policy(n int) member.Policy {
	return member.Policy{HomesEnrolled: n, MinHomes: 20, MinSet: 8, SlotMS: 30_000, HopMS: 30_000}
}

func TestPrivateClassesRefuseBelowTheFloorAndSayWhy(t *testing.T) {
	w := newTown()
	relays := w.ssns(t, 3, "a")
	quiet := w.node(t, 50, member.RoleSSN, "a", FlagRelay, 20, 10)
	s := w.dir.Snapshot(start)
	busy := []Guard{{Node: relays[0]}, {Node: relays[1]}}
	lonely := []Guard{{Node: relays[0]}, {Node: quiet}}
	empty := NewDirectory(epoch).Snapshot(start)
	lab := policy(6)
	lab.Lab = true
	for _, tc := range []struct {
		fact   string
		floor  Floor
		class  mix.Class
		snap   *Snapshot
		guards []Guard
		after  time.Duration
		want   error
		words  string
	}{
		{"30 homes may send", Floor{Policy: policy(30)}, mix.ClassMeter, s, busy, 0, nil, ""},
		{"session too", Floor{Policy: policy(30)}, mix.ClassSession, s, busy, 0, nil, ""},
		{"20 homes are enough", Floor{Policy: policy(20)}, mix.ClassSession, s, busy, 0, nil, ""},
		{"19 homes are not", Floor{Policy: policy(19)}, mix.ClassSession, s, busy, 0, ErrSmallSet, "19 of at least 20"},
		{"a quiet guard is not enough for meter", Floor{Policy: policy(30)}, mix.ClassMeter, s, lonely, 0, ErrSmallSet, "from 1.0 homes, at least 8"},
		{"but for session", Floor{Policy: policy(30)}, mix.ClassSession, s, lonely, 0, nil, ""},
		{"the owner may demand more", Floor{Policy: policy(30), MinHomes: 40}, mix.ClassSession, s, busy, 0, ErrSmallSet, "30 of at least 40"},
		{"and not less", Floor{Policy: policy(19), MinHomes: 1, MinSet: 1}, mix.ClassMeter, s, busy, 0, ErrSmallSet, "19 of at least 20"},
		{"no relays", Floor{Policy: policy(30)}, mix.ClassMeter, empty, nil, 0, ErrStaleDirectory, "none was received yet"},
		{"an hour-old directory is enough", Floor{Policy: policy(30)}, mix.ClassMeter, s, busy, time.Hour, nil, ""},
		{"two hours are the limit", Floor{Policy: policy(30)}, mix.ClassMeter, s, busy, MaxStale + 1, ErrStaleDirectory, "last heard 2023-11-14T22:13:20Z"},
		{"lab needs permission", Floor{Policy: policy(30)}, mix.ClassLab, s, busy, 0, ErrLabClass, "does not allow class lab"},
		{"lab ignores the crowd", Floor{Policy: lab}, mix.ClassLab, s, lonely, 0, nil, ""},
	} {
		st := tc.floor.Check(tc.class, tc.snap, tc.guards, start.Add(tc.after))
		if !errors.Is(st.Err, tc.want) || st.Err != nil && !strings.Contains(st.Err.Error(), tc.words) {
			t.Errorf("%s: %v", tc.fact, st.Err)
		}
	}
}

func TestTwoRelaysAreTooFew(t *testing.T) {
	w := newTown()
	relays := w.ssns(t, 2, "a")
	st := Floor{Policy: policy(30)}.Check(mix.ClassMeter, w.dir.Snapshot(start), []Guard{{Node: relays[0]}}, start)
	if !errors.Is(st.Err, ErrFewRelays) || !strings.Contains(st.Err.Error(), "2 usable") {
		t.Errorf("got %v", st.Err)
	}
}

func TestLeavesSpeedUpBelowTheFloorAndDoNotSwing(t *testing.T) {
	for _, tc := range []struct {
		fact    string
		frames  int // per 1000 s at the guard
		current time.Duration
		want    time.Duration
	}{
		{"enough cover stays slow", 1000, 30 * time.Second, 30 * time.Second},
		{"too little cover goes fast", 200, 30 * time.Second, FastSlot},
		{"fast cover that slow slots could not hold stays fast", 600, FastSlot, FastSlot},
		{"cover that slow slots hold goes back", 3000, FastSlot, 30 * time.Second},
	} {
		w := newTown()
		key := w.node(t, 1, member.RoleSSN, "a", FlagRelay, 20, tc.frames)
		got := Floor{Policy: policy(30)}.SlotMean(tc.current, w.dir.Snapshot(start), []Guard{{Node: key}})
		if got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.fact, got, tc.want)
		}
	}
	w := newTown()
	key := w.node(t, 1, member.RoleSSN, "a", FlagRelay, 20, 200)
	if got := (Floor{Policy: policy(12)}).SlotMean(30*time.Second, w.dir.Snapshot(start), []Guard{{Node: key}}); got != 30*time.Second {
		t.Errorf("too few homes: got %s, want slow slots", got)
	}
}

func TestKeysRegistersAreChecked(t *testing.T) {
	good := Keys{Flags: FlagRelay, Epoch: 7, Keys: []mix.PublicKey{{ID: 1}, {ID: 2}}, Leaves: 15, LeafFrames: 300, Addresses: []string{"/ip4/192.0.2.1/tcp/4100"}}
	body, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKeys(body)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(good) {
		t.Fatalf("ParseKeys: %v, %v", again, err)
	}
	six := good
	six.Keys = nil
	for i := range MaxKeys {
		six.Keys = append(six.Keys, mix.PublicKey{ID: uint16(i)})
	}
	if body, err := six.Encode(); err != nil || len(body) > 294 {
		t.Errorf("a full register has %d bytes (%v); with its envelope it should be about 470", len(body), err)
	}
	for fact, change := range map[string]func(k *Keys){
		"no keys":               func(k *Keys) { k.Keys = nil },
		"seven keys":            func(k *Keys) { k.Keys = make([]mix.PublicKey, MaxKeys+1) },
		"one key id twice":      func(k *Keys) { k.Keys = []mix.PublicKey{{ID: 1}, {ID: 1}} },
		"an unknown flag":       func(k *Keys) { k.Flags = 8 },
		"an exact leaf number":  func(k *Keys) { k.Leaves = 16 },
		"an address of nothing": func(k *Keys) { k.Addresses = []string{""} },
		"seven addresses":       func(k *Keys) { k.Addresses = make([]string, MaxAddresses+1) },
	} {
		bad := good
		change(&bad)
		if _, err := bad.Encode(); !errors.Is(err, ErrKeys) {
			t.Errorf("%s: %v", fact, err)
		}
	}
	if FloorLeaves(19) != 15 || FloorLeaves(4) != 0 || FloorLeaves(1<<20) != 65535 {
		t.Error("FloorLeaves")
	}
}

func TestTheDirectoryForgetsWhatExpired(t *testing.T) {
	w := newTown()
	w.ssns(t, 3, "a")
	if err := w.dir.PutKeys(member.Member{Role: member.RoleGateway}, nil, start, start); !errors.Is(err, ErrKeys) {
		t.Errorf("a gateway enters the directory: %v", err)
	}
	later := start.Add(3 * time.Hour)
	s := w.dir.Snapshot(later)
	if len(s.Relays()) != 0 || !s.Fresh.IsZero() {
		t.Errorf("%d expired relays are offered", len(s.Relays()))
	}
	if n, known := s.Node(packet.NodeKey{1}); !known || n.SealKey == nil || n.Recipient() {
		t.Error("the seal key of a member goes with its onion keys")
	}
	w.dir.Sweep(start.Add(25 * time.Hour))
	if len(w.dir.nodes) != 0 {
		t.Errorf("%d members stay for ever", len(w.dir.nodes))
	}
}

func TestTheDirectoryForgetsWhoseCertificateEnded(t *testing.T) {
	w := newTown()
	w.node(t, 1, member.RoleSSN, "a", FlagRelay|FlagRecipient, 20, 1000)
	old, next := member.Member{Key: member.Key{2}, Role: member.RoleSSN, CertHash: [32]byte{1}, NotAfter: start.Add(time.Hour)},
		member.Member{Key: member.Key{2}, Role: member.RoleSSN, CertHash: [32]byte{2}, NotAfter: start.Add(2 * time.Hour)}
	k := Keys{Flags: FlagRelay, Epoch: mix.EpochAt(start, epoch), Keys: []mix.PublicKey{{ID: 1}}}
	body, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	put := func(signer member.Member) {
		t.Helper()
		if err := w.dir.PutKeys(signer, body, start, start.Add(2*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	end := map[[32]byte]error{}
	prune := func() []packet.NodeKey { return w.dir.Prune(func(cert [32]byte) error { return end[cert] }) }
	put(old)
	if gone := prune(); len(gone) != 0 || len(w.dir.Snapshot(start).Relays()) != 2 {
		t.Errorf("%d members are gone without reason", len(gone))
	}
	put(next)
	if err := w.dir.PutSeal(old, make([]byte, packet.SealKeySize), start.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	end[old.CertHash] = member.ErrExpired
	prune()
	if n, known := w.dir.Snapshot(start).Node(packet.NodeKey{2}); !known || !n.Relay() || n.SealKey != nil || n.Member.CertHash != next.CertHash {
		t.Error("a renewed member lost what its new certificate signed, or kept what the old one did")
	}
	end[next.CertHash] = member.ErrRevoked
	if gone := prune(); len(gone) != 1 || gone[0] != (packet.NodeKey{2}) {
		t.Errorf("revoked: %x", gone)
	}
	if _, known := w.dir.Snapshot(start).Node(packet.NodeKey{2}); known {
		t.Error("a revoked member is still there")
	}
	if len(w.dir.Snapshot(start).Relays()) != 1 {
		t.Error("another member went with it")
	}
}

func FuzzKeysAreBijective(f *testing.F) {
	k := Keys{Flags: 3, Epoch: 7, Keys: []mix.PublicKey{{ID: 1}}, Leaves: 15, Addresses: []string{"/dns4/x/tcp/1"}}
	body, err := k.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, err := ParseKeys(raw)
		if err != nil {
			return
		}
		if again, err := k.Encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("encodes to other bytes (%v)", err)
		}
	})
}

func FuzzGuardsAreBijective(f *testing.F) {
	f.Add(make([]byte, 80))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if g, err := ParseGuards(raw); err == nil && !bytes.Equal(g.Encode(), raw) {
			t.Error("encodes to other bytes")
		}
	})
}

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
