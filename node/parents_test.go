package node

import (
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

// who names candidates like "b1" of operator b.
func who(names string) (out []candidate) {
	for _, name := range strings.Fields(names) {
		out = append(out, candidate{name[:1], peer.AddrInfo{ID: peer.ID(name)}})
	}
	return out
}

func infosOf(names string) (out []peer.AddrInfo) {
	for _, c := range who(names) {
		out = append(out, c.info)
	}
	return out
}

func TestALeafHasThreeParentsWithItsGuardsAmongThem(t *testing.T) {
	for _, tc := range []struct{ fact, all, now, guards, up, want string }{
		{"fresh, only the contact is known", "", "x1", "", "", "x1"},
		{"the contact answers, the directory is on its way", "", "x1", "", "x1", "x1"},
		{"substations are known, none answers yet", "a1 a2 b1", "x1", "", "x1", "a1 b1 x1"},
		{"one answers: the contact goes", "a1 a2 b1", "a1 b1 x1", "", "b1 x1", "a1 a2 b1"},
		{"guards count, the zone's own comes first", "a1 a2 b1 b2 c1", "", "b2 c1", "a1", "a1 b2 c1"},
		{"the own one is a guard: a third operator joins", "a1 a2 b1 c1", "", "a1 b1", "a1", "a1 b1 c1"},
		{"a third guard while the others are down", "a1 b1 b2 c1", "", "b1 b2 c1", "c1", "b1 b2 c1"},
		{"nobody answers any more: the contact is asked again", "a1 b1 c1", "a1 b1 c1", "b1 c1", "", "b1 c1 x1"},
		{"after a restart the stored ones are dialled", "", "a1 b1 c1", "", "b1", "a1 b1 c1"},
		{"after a restart with the stored ones down", "", "a1 b1 c1", "", "", "a1 b1 x1"},
		{"the contact is a substation and stays one", "a1 x1", "x1", "", "x1", "a1 x1"},
		{"two substations are all", "a1 b1", "a1", "a1 b1", "a1", "a1 b1"},
	} {
		t.Run(tc.fact, func(t *testing.T) {
			var guards []peer.ID
			for _, g := range infosOf(tc.guards) {
				guards = append(guards, g.ID)
			}
			up := func(id peer.ID) bool { return slices.Contains(strings.Fields(tc.up), string(id)) }
			var got []string
			for _, p := range chooseParents(who(tc.all), infosOf(tc.now), guards, infosOf("x1"), up) {
				got = append(got, string(p.ID))
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("parents are %s, want %s", s, tc.want)
			}
		})
	}
}

func TestAWalletDialsOthersThanItsIssuer(t *testing.T) {
	for _, tc := range []struct{ fact, all, want string }{
		{"two others suffice", "a1 a2 b1 c1", "b1 c1"},
		{"one other does not", "a1 a2 b1", "a1 a2 b1"},
		{"only the issuer's are known", "a1 a2", "a1 a2"},
	} {
		if got := withoutIssuer(who(tc.all), "a"); !slices.EqualFunc(got, who(tc.want), func(x, y candidate) bool { return x.info.ID == y.info.ID }) {
			t.Errorf("%s: %v, want %s", tc.fact, got, tc.want)
		}
	}
}
