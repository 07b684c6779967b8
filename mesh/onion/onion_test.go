package onion_test

import (
	"context"
	"testing"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// market handles the services of an aggregator.
func market(d *meshtest.Node) error {
	if d.Member.Role == member.RoleAggregator {
		echo := func(_ context.Context, body []byte) ([]byte, error) { return append([]byte("seen: "), body...), nil }
		d.Onion.Handle(mesh.EVAuth, echo)
		d.Onion.Handle(mesh.EVRecord, echo)
	}
	return nil
}

func TestALeafAsksAnAggregatorOverThreeRelays(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 3, Homes: 1, Others: []member.Role{member.RoleAggregator}, Onion: true,
		Policy: member.Policy{Lab: true}, Ready: market})
	n.AwaitDirectory()
	home, agg := n.Homes[0], n.Others[0]
	got, err := home.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.EVAuth, []byte("open"))
	if err != nil || string(got) != "seen: open" {
		t.Fatalf("got %q, %v; home %+v, aggregator %+v", got, err, home.Onion.Stats(), agg.Onion.Stats())
	}
	for _, s := range n.SSNs {
		t.Logf("substation: %+v", s.Onion.Stats())
	}
}
