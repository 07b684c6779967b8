package demo

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/headend"
	"gridveil/node/ssn"
	"gridveil/node/utility"
)

// TestReadingBecomesABill is the thinnest thread of metering: simulated meters,
// gateways, substations, head-end, utility, all over the mesh.
func TestReadingBecomesABill(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("GRIDVEIL_DEBUG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := Build(Options{Homes: 6, Speed: 1500, Seed: 7, Dir: t.TempDir() + "/scene", Log: log})
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
	deadline := time.Now().Add(20 * time.Second)
	billed := 0
	for billed < 6 && time.Now().Before(deadline) {
		time.Sleep(200 * time.Millisecond)
		billed = 0
		for _, c := range u.Contracts() {
			from, to, err := u.Covered(c.UsagePoint)
			if err != nil || to.Sub(from) < 6*time.Hour {
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
		for _, m := range members {
			t.Logf("%s: %+v", m.Name, m.Node().Status().Warnings)
			switch r := m.Node().Role.(type) {
			case *ssn.SSN:
				t.Logf("%+v", r.Counters())
			case *headend.Headend:
				t.Logf("%+v", r.Counters())
			case *utility.Utility:
				for _, c := range r.Contracts()[:2] {
					f, to, err := r.Covered(c.UsagePoint)
					b, berr := r.Blocks(c.UsagePoint)
					t.Logf("%v %v %v blocks %d %v", f, to, err, len(b), berr)
				}
				for _, d := range r.Alarms() {
					t.Logf("%v %v %v %q", d.At, d.Event.Priority, d.Event.Kind, d.Detail)
				}
			}
		}
	}
	for i := len(members) - 1; i >= 0; i-- {
		if err := members[i].Stop(); err != nil {
			t.Errorf("%s: %v", members[i].Name, err)
		}
	}
	cancel()
	<-clockDone
}
