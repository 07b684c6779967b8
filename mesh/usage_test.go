package mesh_test

import (
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/meshtest"
)

// onionOf is the onion's part of a usage.
func onionOf(u mesh.Usage) mesh.PartUsage {
	for _, p := range u.Parts {
		if p.Name == "onion" {
			return p
		}
	}
	return mesh.PartUsage{}
}

func TestUsageCountsByPartAndBeginsANewDay(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Speed: 1, Config: func(d *meshtest.Node, c *mesh.Config) {
		if d.Member.Role.Leaf() {
			c.DailyMB = 9
		}
	}})
	home := n.Homes[0].Host
	home.Carried(1000, 2000)
	u := home.Usage()
	if got := onionOf(u); got.Today != (mesh.Traffic{Up: 1000, Down: 2000}) || got.Total != got.Today || u.Cap != 9<<20 || u.Today.Up < 1000 {
		t.Errorf("%+v", u)
	}
	if _, err := home.Call(t.Context(), n.SSNs[0].Member.Peer, mesh.Probe, make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "the lane is counted", func() bool {
		for _, p := range home.Usage().Parts {
			if p.Name == "normal" {
				return p.Today.Up >= 500 && p.Today.Down >= 500
			}
		}
		return false
	})
	n.Clock.Jump(24 * time.Hour)
	if got := onionOf(home.Usage()); got.Today != (mesh.Traffic{}) || got.Total.Up != 1000 {
		t.Errorf("the next day: %+v", got)
	}
	if u := n.SSNs[0].Host.Usage(); u.Cap != 0 {
		t.Errorf("a substation has a cap of %d bytes", u.Cap)
	}
}

func TestLinksSayWhoDialledAndHowFarTheyAre(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 2, Homes: 1})
	links := n.Homes[0].Host.Links()
	if len(links) != 2 {
		t.Fatalf("%d links, want 2", len(links))
	}
	for _, l := range links {
		if !l.Outbound || l.RoundTrip <= 0 || l.Since.Before(meshtest.Epoch) || l.Since.After(n.Clock.Now()) {
			t.Errorf("%+v", l)
		}
	}
	for _, l := range n.SSNs[0].Host.Links() {
		if l.Member.Role.Leaf() && (l.Outbound || l.RoundTrip <= 0) {
			t.Errorf("a home dials out only: %+v", l)
		}
	}
}
