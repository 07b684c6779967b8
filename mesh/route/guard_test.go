package route

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/packet"
)

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

func FuzzGuardsAreBijective(f *testing.F) {
	f.Add(make([]byte, 80))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if g, err := ParseGuards(raw); err == nil && !bytes.Equal(g.Encode(), raw) {
			t.Error("encodes to other bytes")
		}
	})
}
