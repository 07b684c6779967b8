package demo

import (
	"context"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/clock"
	"gridveil/node/utility"
)

// TestReadingBecomesABill is the thinnest thread of metering: simulated meters,
// gateways, substations, head-end, utility, all over the mesh.
func TestReadingBecomesABill(t *testing.T) {
	s, err := Build(Options{Homes: 6, Speed: 1000, Seed: 7, Dir: t.TempDir() + "/scene"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	clockDone := make(chan struct{})
	go func() { defer close(clockDone); _ = s.Clock.Run(ctx) }()
	s.Clock.SetSpeed(1) // nothing is missed while the nodes open
	var members []*Member
	for _, m := range s.Members {
		if m.Role == member.RoleWallet || m.Role == member.RoleAggregator || m.Role == member.RoleVerifier || m.Name == "utility-b" {
			continue
		}
		if err := s.Run(ctx, m); err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
	}
	u := s.Get("utility-a").Node().Role.(*utility.Utility)
	for _, m := range s.Of(member.RoleGateway) {
		if _, err := u.Open(utility.NewContract{Gateway: m.Node().Host.Self().Key}); err != nil {
			t.Fatal(err)
		}
	}
	s.Clock.SetSpeed(s.Speed)
	// Bounded in wall time for a busy machine; on an idle one it takes seconds.
	deadline := time.Now().Add(3 * time.Minute)
	billed := 0
	for billed < 6 && time.Now().Before(deadline) {
		clock.Sleep(ctx, clock.Wall{}, 100*time.Millisecond)
		billed = 0
		for _, c := range u.Contracts() {
			from, to, err := u.Covered(c.UsagePoint)
			if err != nil || to.Sub(from) < 90*time.Minute {
				continue
			}
			b, err := u.Bill(c.UsagePoint, from, to)
			if err != nil {
				t.Fatalf("bill: %v", err)
			}
			if b.Total != 0 && len(b.Lines) > 0 {
				billed++
			}
		}
	}
	if billed < 6 {
		t.Errorf("%d of 6 homes have a bill at %v", billed, s.Clock.Now())
	}
	for i := len(members) - 1; i >= 0; i-- {
		if err := members[i].Stop(); err != nil {
			t.Errorf("%s: %v", members[i].Name, err)
		}
	}
	cancel()
	<-clockDone
}
