package onion_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/meshtest"
)

// pass lets protocol time go by.
func pass(t *testing.T, n *meshtest.Network, d time.Duration) {
	t.Helper()
	until := n.Clock.Now().Add(d)
	meshtest.EventuallyWithin(t, time.Minute, "time goes by", func() bool { return n.Clock.Now().After(until) })
}

// up is the onion bytes that a node has written to its links.
func up(d *meshtest.Node) int64 {
	for _, p := range d.Host.Usage().Parts {
		if p.Name == "onion" {
			return p.Total.Up
		}
	}
	return -1
}

func TestALeafThatIsSwitchedOffSendsNothingAndStaysSoOverARestart(t *testing.T) {
	n, agg := lab(t, 1, meshtest.Options{})
	home := n.Homes[0]
	meshtest.Eventually(t, "loops leave", func() bool { return home.Onion.Stats().LoopsSent > 1 && up(home) > 0 })
	if err := home.Onion.Switch(false); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		pass(t, n, 2*time.Minute) // what was being written at that moment is through
		before, sent := home.Onion.Stats(), up(home)
		if _, err := home.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, nil); !errors.Is(err, mesh.ErrOff) || errors.Is(err, mesh.ErrUnacked) {
			t.Errorf("round %d: a call ends with %v, want ErrOff and nothing sent", round, err)
		}
		if err := home.Onion.Status(mesh.Lab).Err; !errors.Is(err, mesh.ErrOff) {
			t.Errorf("round %d: status %v, want ErrOff", round, err)
		}
		pass(t, n, 5*time.Minute) // ten slots
		if after := home.Onion.Stats(); after.LoopsSent != before.LoopsSent || after.Sent != before.Sent || up(home) != sent {
			t.Errorf("round %d: %d loops and %d bytes left while off", round, after.LoopsSent-before.LoopsSent, up(home)-sent)
		}
		if _, off := home.Onion.Off(); !off || !warned(home, mesh.WarnOff) {
			t.Errorf("round %d: not off, or nobody is told", round)
		}
		if _, err := home.Host.Call(t.Context(), n.SSNs[0].Member.Peer, mesh.Probe, []byte("here")); err != nil {
			t.Errorf("round %d: lanes must go on: %v", round, err)
		}
		if round == 0 {
			home.Restart()
			n.AwaitConnected()
			n.AwaitDirectory()
		}
	}
	if err := home.Onion.Switch(true); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "loops leave again", func() bool { return home.Onion.Stats().LoopsSent > 1 })
	if got, err := home.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, []byte("late")); err != nil || string(got) != "seen: late" {
		t.Errorf("after on: %q, %v", got, err)
	}
	if warned(home, mesh.WarnOff) {
		t.Error("the warning stands although it is on")
	}
	home.Restart()
	if _, off := home.Onion.Off(); off {
		t.Error("off again after a restart")
	}
}

func warned(d *meshtest.Node, code string) bool {
	return slices.ContainsFunc(d.Host.Warnings(), func(w mesh.Warning) bool { return w.Code == code })
}

func TestARelayThatIsSwitchedOffIsLeftOutOfRoutes(t *testing.T) {
	n, agg := lab(t, 1, meshtest.Options{})
	home, off := n.Homes[0], n.SSNs[2]
	if err := off.Onion.Switch(false); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "the directory tells", func() bool { return home.Onion.Health().Relays == 2 })
	meshtest.Eventually(t, "the page says why nothing leaves", func() bool { return warned(home, mesh.WarnFewRelays) })
	before := off.Onion.Stats().Relayed
	if _, err := home.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, nil); !errors.Is(err, mesh.ErrFewRelays) {
		t.Errorf("got %v, want ErrFewRelays", err)
	}
	pass(t, n, 2*time.Minute)
	if got := off.Onion.Stats().Relayed; got != before {
		t.Errorf("relayed %d packets while off", got-before)
	}
	if err := off.Onion.Switch(true); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "it is back", func() bool { return home.Onion.Status(mesh.Lab).Err == nil })
	if _, err := home.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.Notes, nil); err != nil {
		t.Error(err)
	}
}

func TestACallUnderWayEndsWithUnknownOutcome(t *testing.T) {
	held := make(chan struct{})
	n, agg := lab(t, 1, meshtest.Options{Ready: func(d *meshtest.Node) error {
		if d.Member.Role.Backbone() && mesh.Dispute.AllowedRecipient(d.Member.Role) {
			d.Onion.Handle(mesh.Dispute, func(ctx context.Context, _ []byte) ([]byte, error) {
				select {
				case held <- struct{}{}:
				case <-ctx.Done():
				}
				<-ctx.Done()
				return nil, ctx.Err()
			})
		}
		return nil
	}})
	home := n.Homes[0].Onion
	ended := make(chan error, 1)
	go func() { // ends with the switch
		_, err := home.Call(context.Background(), agg.Member.Key, mesh.Lab, mesh.Dispute, nil)
		ended <- err
	}()
	<-held
	if h := home.Health(); h.Calls != 1 {
		t.Errorf("%d calls under way, want 1", h.Calls)
	}
	if err := home.Switch(false); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, mesh.ErrUnacked) {
		t.Errorf("got %v, want ErrUnacked", err)
	}
}

func TestASwitchThatIsNotStoredChangesNothing(t *testing.T) {
	n, _ := lab(t, 1, meshtest.Options{})
	home := n.Homes[0]
	home.Store.Fail(errors.New("disk full"))
	defer home.Store.Fail(nil)
	if err := home.Onion.Switch(false); err == nil {
		t.Fatal("no error although the store failed")
	}
	if _, off := home.Onion.Off(); off {
		t.Error("off, but not durably")
	}
}

func TestHealthCountsGuardsAndDirectory(t *testing.T) {
	n, _ := lab(t, 1, meshtest.Options{})
	home := n.Homes[0].Onion
	meshtest.Eventually(t, "two guards stand", func() bool { h := home.Health(); return h.Guards == 2 && h.GuardsUp == 2 })
	h := home.Health()
	if h.Relays != 3 || h.Operators != 3 || h.Skipped != 0 || h.Slot <= 0 || h.Fresh.IsZero() {
		t.Errorf("%+v", h)
	}
	if h := n.SSNs[0].Onion.Health(); h.Guards != 0 || h.Relays != 3 {
		t.Errorf("a relay: %+v", h)
	}
}
