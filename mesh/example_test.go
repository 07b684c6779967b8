package mesh_test

import (
	"context"
	"fmt"
	"testing"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// A home reports a voltage loss to its substation, which acknowledges it.
func ExampleHost_Call() {
	t := &testing.T{}
	n := meshtest.Found(t, meshtest.Options{SSNs: 1})
	ssn := n.Add(member.RoleSSN, "z1")
	n.SSNs = append(n.SSNs, ssn)
	ssn.Host.Handle(mesh.Alarm, func(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
		return fmt.Appendf(nil, "noted from a %s in %s: %s", from.Role, from.Zone, req), nil
	})
	home := n.Add(member.RoleGateway, "z1")
	meshtest.Eventually(t, "connected", func() bool { _, up := home.Host.Connected(ssn.Host.ID()); return up })

	answer, err := home.Host.Call(context.Background(), ssn.Host.ID(), mesh.Alarm, []byte("voltage lost on L2"))
	fmt.Println(string(answer), err)
	home.Stop()
	ssn.Stop()
	// Output: noted from a gateway in z1: voltage lost on L2 <nil>
}
