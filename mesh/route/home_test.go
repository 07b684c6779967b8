package route

import (
	"errors"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

// home adds a gateway that relays for others.
func (w *town) home(t testing.TB, key byte, operator string) packet.NodeKey {
	t.Helper()
	return w.node(t, key, member.RoleGateway, operator, FlagRelay, 0, 0)
}

func TestAHomeIsInTheDirectoryOnlyAsARelay(t *testing.T) {
	const address = "/ip4/192.0.2.1/tcp/4100"
	for _, tc := range []struct {
		fact string
		keys Keys
		want error
	}{
		{"a relay with an address", Keys{Flags: FlagRelay, Addresses: []string{address}}, nil},
		{"a home that has stopped", Keys{}, nil},
		{"a relay without an address", Keys{Flags: FlagRelay}, ErrKeys},
		{"an address without the relay flag", Keys{Addresses: []string{address}}, ErrKeys},
		{"a recipient", Keys{Flags: FlagRecipient, Addresses: []string{address}}, ErrKeys},
		{"a relay that is a recipient", Keys{Flags: FlagRelay | FlagRecipient, Addresses: []string{address}}, ErrKeys},
		{"a relay with mailboxes", Keys{Flags: FlagRelay | FlagMailbox, Addresses: []string{address}}, ErrKeys},
		{"leaves, as if it were a guard", Keys{Flags: FlagRelay, Addresses: []string{address}, Leaves: 20}, ErrKeys},
		{"frames of leaves, as if it were a guard", Keys{Flags: FlagRelay, Addresses: []string{address}, LeafFrames: 1}, ErrKeys},
	} {
		w := newTown()
		if err := tc.keys.CheckHome(); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.fact, err, tc.want)
		}
		tc.keys.Epoch, tc.keys.Keys = ringOf(t, w)
		body, err := tc.keys.Encode()
		if err != nil {
			t.Fatal(err)
		}
		m := member.Member{Key: member.Key{9}, Role: member.RoleGateway}
		if err := w.dir.PutKeys(m, body, start, start.Add(time.Hour)); !errors.Is(err, tc.want) {
			t.Errorf("%s into the directory: got %v, want %v", tc.fact, err, tc.want)
		}
		if got, want := len(w.dir.Snapshot(start).Relays()), int(tc.keys.Flags&FlagRelay); tc.want == nil && got != want {
			t.Errorf("%s: %d relays, want %d", tc.fact, got, want)
		}
		m.Role = member.RoleWallet
		if err := w.dir.PutKeys(m, body, start, start.Add(time.Hour)); !errors.Is(err, ErrKeys) {
			t.Errorf("%s, of a wallet: got %v, want ErrKeys", tc.fact, err)
		}
	}
	w := newTown()
	if err := w.dir.PutSeal(member.Member{Role: member.RoleGateway}, make([]byte, packet.SealKeySize), start.Add(time.Hour)); !errors.Is(err, ErrKeys) {
		t.Errorf("a home takes requests: %v", err)
	}
}

func TestHomesRelayInTheMiddleOrLastAndNeverGuard(t *testing.T) {
	for _, operators := range [][]string{{"a"}, {"a", "b"}, {"a", "b", "c"}} {
		seen := map[int]int{}
		for seed := range byte(250) {
			w := newTown()
			ssns := w.ssns(t, 4, operators...)
			target := w.node(t, 20, member.RoleAggregator, "market", FlagRecipient, 0, 0)
			homes := map[packet.NodeKey]bool{}
			for i := range byte(4) {
				homes[w.home(t, 30+i, operators[int(i)%len(operators)])] = true
			}
			g := &Guards{}
			up := func(packet.NodeKey) bool { return true }
			if _, err := g.Refresh(w.dir.Snapshot(start), Floor{}, up, start, seeded(seed)); err != nil {
				t.Fatal(err)
			}
			for _, x := range g.All() {
				if homes[x.Node] {
					t.Fatalf("seed %d: a home is a guard", seed)
				}
			}
			c, rnd := w.chooser(), seeded(seed)
			guards, err := g.Usable(up, rnd)
			if err != nil {
				t.Fatal(err)
			}
			ring := w.rings[ssns[0]]
			self := Self{Node: packet.NodeKey{99}, Key: ring.At}
			out, err := c.To(target, guards, start, rnd)
			if err != nil {
				t.Fatal(err)
			}
			back, err := c.Back(self, target, guards, start, rnd)
			if err != nil {
				t.Fatal(err)
			}
			loop, err := c.Loop(self, guards, ssns, start, rnd)
			if err != nil {
				t.Fatal(err)
			}
			for kind, r := range map[string]*Route{"call": out, "answer": back, "loop": loop} {
				path := r.Relays()
				guard, last := path[0], path[2]
				if kind == "answer" {
					guard, last = last, guard
				}
				if homes[guard] || kind == "loop" && homes[last] {
					t.Fatalf("seed %d: a home stands where only substations may, in a %s", seed, kind)
				}
				count := map[string]int{}
				for i, n := range path {
					count[operatorOf(c.Snapshot, n)]++
					if homes[n] {
						seen[i]++
					}
				}
				switch {
				case len(operators) == 3 && len(count) != 3, len(operators) == 2 && operatorOf(c.Snapshot, guard) == operatorOf(c.Snapshot, last):
					t.Fatalf("seed %d: a %s breaks the operator rules with homes in it: %v", seed, kind, count)
				}
			}
		}
		if seen[1] < 100 || seen[2] < 20 || seen[0] < 20 { // the first one of an answer is the one that the recipient hands it to
			t.Errorf("%d operators: homes stood %v times first, in the middle and last", len(operators), seen)
		}
	}
}

func TestAHomeIsNoRelayOfItsOwnRoutes(t *testing.T) {
	w := newTown()
	w.dir.Self = packet.NodeKey{30}
	ssns := w.ssns(t, 3, "a", "b", "c")
	target := w.node(t, 20, member.RoleAggregator, "market", FlagRecipient, 0, 0)
	w.home(t, 30, "a")
	w.home(t, 31, "a")
	s := w.dir.Snapshot(start)
	if _, known := s.Node(w.dir.Self); known || len(s.Relays()) != 4 {
		t.Fatalf("%d relays, want the three substations and the other home", len(s.Relays()))
	}
	c, rnd := w.chooser(), seeded(7)
	for range 500 {
		r, err := c.To(target, ssns[:1], start, rnd)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range r.Relays() {
			if n == w.dir.Self {
				t.Fatal("a home relays its own packet")
			}
		}
	}
}

func TestAWalletsGuardsAreNotItsIssuersWhereOthersExist(t *testing.T) {
	up := func(packet.NodeKey) bool { return true }
	floor := Floor{Policy: member.Policy{HomesEnrolled: 60, MinSet: 8, HopMS: 30_000}}
	for seed := range byte(40) {
		w := newTown()
		w.ssns(t, 4, "issuer", "other", "issuer", "third")
		g := &Guards{Avoid: "issuer"}
		if _, err := g.Refresh(w.dir.Snapshot(start), floor, up, start, seeded(seed)); err != nil {
			t.Fatal(err)
		}
		for _, x := range g.List() {
			if op := operatorOf(w.dir.Snapshot(start), x.Node); op == "issuer" {
				t.Errorf("seed %d: a guard is of the issuer", seed)
			}
		}
	}
	// Only the issuer has substations: they are guards, until another operator's come.
	w := newTown()
	w.ssns(t, 3, "issuer")
	g := &Guards{Avoid: "issuer"}
	refresh := func(after time.Duration) (changed bool) {
		t.Helper()
		changed, err := g.Refresh(w.dir.Snapshot(start), floor, up, start.Add(after), w.rnd)
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	if refresh(0); len(g.List()) != GuardCount {
		t.Fatalf("%d guards where only the issuer has relays", len(g.List()))
	}
	one := w.node(t, 10, member.RoleSSN, "other", FlagRelay, 5, 200) // without a crowd
	if refresh(time.Minute); !g.has(one) || len(g.List()) != GuardCount {
		t.Error("the only other relay did not become a guard")
	}
	if refresh(2*time.Minute) || refresh(3*time.Hour) || refresh(6*time.Hour) || !g.has(one) {
		t.Error("the guard of the other operator gave way to one of the issuer")
	}
	two := w.node(t, 11, member.RoleSSN, "other", FlagRelay, 20, 1000)
	if refresh(6*time.Hour + time.Minute); !g.has(one) || !g.has(two) {
		t.Error("a guard is of the issuer although two others exist")
	}
}

// ringOf gives fresh onion keys.
func ringOf(t testing.TB, w *town) (uint32, []mix.PublicKey) {
	t.Helper()
	ring := mix.NewKeyring(epoch, mix.LeafTags)
	if _, err := ring.Advance(start, w.rnd); err != nil {
		t.Fatal(err)
	}
	return ring.Public(start)
}
