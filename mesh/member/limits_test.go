package member

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestABundleHoldsSoMuchAndNoMore tries each list of a bundle at its limit and one above.
func TestABundleHoldsSoMuchAndNoMore(t *testing.T) {
	f := found(t)
	ca := func(b *Bundle, n int) []DER {
		var out []DER
		for len(out) < n {
			c, err := NewCA(fmt.Sprint("ca ", len(out)), start, f.rnd)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, c.Certificate)
		}
		return out
	}
	for _, tc := range []struct {
		what  string
		limit int
		fill  func(b *Bundle, n int)
	}{
		{"root keys", maxRootKeys, func(b *Bundle, n int) {
			for len(b.RootKeys) < n {
				b.RootKeys = append(b.RootKeys, RootKey{byte(len(b.RootKeys)), 1})
			}
		}},
		{"operators", maxOperators, func(b *Bundle, n int) {
			for len(b.Operators) < n {
				b.Operators = append(b.Operators, Operator{Name: fmt.Sprint("op", len(b.Operators)), CA: ca(b, 1), Roles: []Role{RoleVerifier}})
			}
		}},
		{"CAs of an operator", maxCAs, func(b *Bundle, n int) { b.Operators[1].CA = ca(b, n) }},
		{"zones", maxZones, func(b *Bundle, n int) {
			for len(b.Zones) < n {
				b.Zones = append(b.Zones, Zone{Name: fmt.Sprint("zone", len(b.Zones))})
			}
		}},
		{"seeds", maxSeeds, func(b *Bundle, n int) {
			for len(b.Operators[0].Seeds) < n {
				b.Operators[0].Seeds = append(b.Operators[0].Seeds, "/ip4/192.0.2.1/tcp/4100")
			}
		}},
		{"letters of a name", maxName, func(b *Bundle, n int) { b.Operators[1].Name = strings.Repeat("x", n) }},
		{"letters of an address", maxAddress, func(b *Bundle, n int) { b.Operators[0].Seeds = []string{"/" + strings.Repeat("x", n-1)} }},
	} {
		for over := range 2 {
			b := f.draft(1)
			tc.fill(b, tc.limit+over)
			_, err := b.Encode()
			if over == 0 && err != nil || over == 1 && !errors.Is(err, ErrBundle) {
				t.Errorf("%d %s: %v", tc.limit+over, tc.what, err)
			}
		}
	}
}

// TestTheRollHoldsSoManyCertificates fills the roll with certificates that are valid now, then with expired ones.
func TestTheRollHoldsSoManyCertificates(t *testing.T) {
	f := found(t)
	roll := NewRoll(f.bundle, &Revocations{})
	fill := func(n int, ends time.Time) {
		clear(roll.entries)
		for i := range n {
			roll.entries[[32]byte{1, byte(i), byte(i >> 8)}] = rollEntry{member: Member{NotAfter: ends}}
		}
	}
	chain := f.issue(t, f.uta, newKey(f.rnd), RoleSSN, "north")
	for _, tc := range []struct {
		what string
		held int
		ends time.Time
		full bool
	}{
		{"the last place", MaxRoll - 1, start.Add(time.Hour), false},
		{"one above", MaxRoll, start.Add(time.Hour), true},
		{"one above, among expired ones", MaxRoll, start.Add(-time.Hour), false},
	} {
		fill(tc.held, tc.ends)
		if _, err := roll.Add(chain, start); errors.Is(err, ErrRollFull) != tc.full || !tc.full && err != nil {
			t.Errorf("%s: %v", tc.what, err)
		}
		if len(roll.entries) > MaxRoll {
			t.Errorf("%s: %d certificates are held", tc.what, len(roll.entries))
		}
	}
}
