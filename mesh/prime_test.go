package mesh_test

import (
	"testing"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

func FuzzPrime(f *testing.F) {
	n := meshtest.Found(f, meshtest.Options{SSNs: 1})
	key, chain := n.Issue(member.RoleGateway, "z1")
	h, err := mesh.New(mesh.Config{Bundle: n.Bundle, Chain: chain, Clock: n.Clock}, key, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { h.Close() })
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 9})
	f.Fuzz(func(t *testing.T, snapshot []byte) {
		if taken, err := h.Prime(snapshot); taken > 0 {
			t.Errorf("%d registers that nobody signed were taken, %v", taken, err)
		}
	})
}
