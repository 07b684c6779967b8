package mesh_test

import (
	"context"
	"errors"
	"testing"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

func TestTwoMembersMeetAndCall(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Ready: func(d *meshtest.Node) error {
		if d.Member.Role == member.RoleSSN {
			d.Host.Handle(mesh.Alarm, func(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
				return append([]byte(from.Role.String()+" in "+from.Zone+": "), req...), nil
			})
		}
		return nil
	}})
	home, ssn := n.Homes[0], n.SSNs[0]
	got, err := home.Host.Call(t.Context(), ssn.Member.Peer, mesh.Alarm, []byte("voltage lost"))
	if err != nil || string(got) != "gateway in z1: voltage lost" {
		t.Fatalf("alarm: got %q, %v", got, err)
	}
	if got, err := ssn.Host.Call(t.Context(), home.Member.Peer, mesh.Probe, []byte("hi")); err != nil || string(got) != "hi" {
		t.Fatalf("probe towards the home: got %q, %v", got, err)
	}
	if _, err := home.Host.Call(t.Context(), ssn.Member.Peer, mesh.Cosign, nil); !errors.Is(err, mesh.ErrNotAllowed) {
		t.Errorf("a home asks for a cosignature: got %v, want ErrNotAllowed", err)
	}
}
