//go:build unix

package onion_test

import (
	"syscall"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// TestIdleHostsCostNextToNothing runs 33 nodes on the wall clock, with real slots and heartbeats.
func TestIdleHostsCostNextToNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("five seconds of real time: left out with -short")
	}
	n := meshtest.Start(t, meshtest.Options{SSNs: 3, Homes: 25, Speed: 1, Onion: true,
		Others: []member.Role{member.RoleHeadend, member.RoleUtility, member.RoleUtility, member.RoleVerifier, member.RoleAggregator}})
	n.AwaitDirectory()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	const watch = 2 * time.Second
	before := used()
	time.Sleep(watch)
	share := float64(used()-before) / float64(watch)
	t.Logf("33 idle nodes use %.1f %% of a core", 100*share)
	if share > 0.33 {
		t.Errorf("33 idle nodes use %.0f %% of a core, want at most 1 %% each", 100*share)
	}
}
